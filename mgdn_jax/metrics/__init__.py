"""The ruler: quality metrics of fused images, in float64 on the host.

`evaluate(fused, a, b)` scores a picture against its two sources; `METRICS` says what each
name means. The functions are pure, take `(H, W)` arrays in 0..255, never raise on degenerate
content (they return NaN or infinity where the definition does) and reproduce the published
evaluators to rounding. Where published evaluators differ there are two variants, `standard`
and `cddfuse`, under different column names.
"""

from mgdn_jax.metrics.edges import added_artefacts, edge_preservation
from mgdn_jax.metrics.gray import Gray, luminance
from mgdn_jax.metrics.information import mutual_information, normalised_mutual_information
from mgdn_jax.metrics.registry import (
    METRICS,
    STANDARD,
    VARIANTS,
    Metric,
    evaluate,
    prepare,
    resolve,
)
from mgdn_jax.metrics.similarity import (
    correlation_coefficient,
    mean_squared_error,
    multi_scale_structural_similarity,
    peak_signal_to_noise,
    structural_similarity,
    sum_of_correlations_of_differences,
)
from mgdn_jax.metrics.statistics import (
    average_gradient,
    entropy,
    spatial_frequency,
    standard_deviation,
)
from mgdn_jax.metrics.structure import cvejic_quality, yang_quality
from mgdn_jax.metrics.vif import visual_information_fidelity

__all__ = [
    "METRICS",
    "STANDARD",
    "VARIANTS",
    "Gray",
    "Metric",
    "added_artefacts",
    "average_gradient",
    "correlation_coefficient",
    "cvejic_quality",
    "edge_preservation",
    "entropy",
    "evaluate",
    "luminance",
    "mean_squared_error",
    "multi_scale_structural_similarity",
    "mutual_information",
    "normalised_mutual_information",
    "peak_signal_to_noise",
    "prepare",
    "resolve",
    "spatial_frequency",
    "standard_deviation",
    "structural_similarity",
    "sum_of_correlations_of_differences",
    "visual_information_fidelity",
    "yang_quality",
]
