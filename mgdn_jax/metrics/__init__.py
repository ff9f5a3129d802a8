"""The ruler: quality metrics of fused images, in float64 on the host.

`evaluate(fused, a, b)` scores a picture against its two sources, `evaluate_truth(fused, truth)`
against the true picture where there is one. `METRICS` says what each name means, and `names` reads
a list of them. All functions are pure and reproduce the published evaluators to rounding. Where
published evaluators differ there are two variants, `standard` and `cddfuse`, under different
column names.

What follows holds for every metric, and their docstrings do not repeat it:

- Roles: `f` is the fused image, F in formulas. `a` and `b` are its sources, A and B, and X or S
  stands for either of them. Each is `(H, W)` with values in 0..255, an array or a `Gray`. Metrics
  against the true picture take the image, `x` or `prediction`, and `truth`.
- Result: a float in the unit that follows the range; a range without a unit is that of a pure
  number. Content never raises: where a definition is degenerate the result is what stands under
  "Degenerate", NaN or infinity included.
- Errors: `InputError` where the images differ in shape, are no gray images, hold NaN or infinity,
  or are smaller than the docstring says they need to be, and for an unknown option.

To add a metric, write its function and describe it in the `ENTRIES` of the same module.
"""

from mgdn_jax.metrics.edges import added_artefacts, edge_preservation
from mgdn_jax.metrics.exposure import exposure_similarity, exposure_similarity_by_scale
from mgdn_jax.metrics.features import feature_mutual_information
from mgdn_jax.metrics.gray import Gray, luminance
from mgdn_jax.metrics.information import (
    cross_entropy,
    mutual_information,
    nonlinear_correlation_information,
    normalised_mutual_information,
    tsallis_information,
)
from mgdn_jax.metrics.metric import Metric
from mgdn_jax.metrics.perception import chen_blum_quality, chen_varshney_quality
from mgdn_jax.metrics.reference import (
    depth_rmse,
    depth_ssim,
    mu_law,
    psnr,
    psnr_linear,
    psnr_mu,
    rmse,
    ssim,
    ssim_linear,
    ssim_mu,
)
from mgdn_jax.metrics.registry import (
    ALL,
    GROUPS,
    METRICS,
    STANDARD,
    TRUTH_STANDARD,
    VARIANTS,
    evaluate,
    evaluate_truth,
    markdown_table,
    mef_ssim,
    names,
    prepare,
    ranked,
    resolve,
)
from mgdn_jax.metrics.similarity import (
    correlation_coefficient,
    gaussian_structural_similarity,
    mean_squared_error,
    multi_scale_structural_similarity,
    peak_signal_to_noise,
    structural_similarity,
    sum_of_correlations_of_differences,
)
from mgdn_jax.metrics.statistics import (
    average_gradient,
    edge_intensity,
    entropy,
    spatial_frequency,
    standard_deviation,
)
from mgdn_jax.metrics.structure import cvejic_quality, piella_quality, yang_quality
from mgdn_jax.metrics.vif import fusion_visual_information_fidelity, visual_information_fidelity

__all__ = [
    "ALL",
    "GROUPS",
    "METRICS",
    "STANDARD",
    "TRUTH_STANDARD",
    "VARIANTS",
    "Gray",
    "Metric",
    "added_artefacts",
    "average_gradient",
    "chen_blum_quality",
    "chen_varshney_quality",
    "correlation_coefficient",
    "cross_entropy",
    "cvejic_quality",
    "depth_rmse",
    "depth_ssim",
    "edge_intensity",
    "edge_preservation",
    "entropy",
    "evaluate",
    "evaluate_truth",
    "exposure_similarity",
    "exposure_similarity_by_scale",
    "feature_mutual_information",
    "fusion_visual_information_fidelity",
    "gaussian_structural_similarity",
    "luminance",
    "markdown_table",
    "mean_squared_error",
    "mef_ssim",
    "mu_law",
    "multi_scale_structural_similarity",
    "mutual_information",
    "names",
    "nonlinear_correlation_information",
    "normalised_mutual_information",
    "peak_signal_to_noise",
    "piella_quality",
    "prepare",
    "psnr",
    "psnr_linear",
    "psnr_mu",
    "ranked",
    "resolve",
    "rmse",
    "spatial_frequency",
    "ssim",
    "ssim_linear",
    "ssim_mu",
    "standard_deviation",
    "structural_similarity",
    "sum_of_correlations_of_differences",
    "tsallis_information",
    "visual_information_fidelity",
    "yang_quality",
]
