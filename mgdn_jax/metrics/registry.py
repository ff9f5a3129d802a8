"""The table of metrics: names, directions, groups and evaluator variants."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from numpy.typing import ArrayLike

from mgdn_jax.errors import InputError
from mgdn_jax.metrics import edges, information, similarity, statistics, structure, vif
from mgdn_jax.metrics.gray import Gray, luminance


@dataclass(frozen=True)
class Metric:
    """One number that judges a fused image.

    Attributes:
        name: Column title.
        fn: Pure function of `(H, W)` images in 0..255, one argument per entry of `needs`.
        higher_is_better: Direction.
        needs: Arguments of `fn`: `("fused",)` or `("fused", "a", "b")`.
        group: Room of the definition: statistics, information, similarity, edges, fidelity
            or structure.
        bounds: Smallest and largest value for integer images in 0..255, up to rounding.
        min_side: Smallest height and width.
        symmetric: Whether exchanging the sources leaves the value unchanged.
        selects: False for metrics that reward noise and must not choose between models.
    """

    name: str
    fn: Callable[..., float]
    higher_is_better: bool
    needs: tuple[str, ...]
    group: str
    bounds: tuple[float, float]
    min_side: int = 1
    symmetric: bool = True
    selects: bool = True

    @property
    def arrow(self) -> str:
        """Direction as a sign for table heads."""
        return "↑" if self.higher_is_better else "↓"


def _table() -> dict[str, Metric]:
    f, fab = ("fused",), ("fused", "a", "b")
    inf = math.inf
    ssim, psnr = similarity.structural_similarity, similarity.peak_signal_to_noise
    rows: list[tuple[Any, ...]] = [
        ("EN", statistics.entropy, True, f, "statistics", (0, 8)),
        ("SD", statistics.standard_deviation, True, f, "statistics", (0, 127.5)),
        ("SF", statistics.spatial_frequency, True, f, "statistics", (0, 360.7), 2, True, False),
        ("AG", statistics.average_gradient, True, f, "statistics", (0, 255), 2, True, False),
        ("MI", information.mutual_information, True, fab, "information", (0, 16 * math.log(2))),
        ("NMI", information.normalised_mutual_information, True, fab, "information", (0, 2)),
        ("MSE", similarity.mean_squared_error, False, fab, "similarity", (0, 65025)),
        ("PSNR_peak255", psnr, True, fab, "similarity", (0, inf)),
        (
            "PSNR_peakF",
            functools.partial(psnr, peak=None),
            True,
            fab,
            "similarity",
            (-inf, inf),
        ),
        ("CC", similarity.correlation_coefficient, True, fab, "similarity", (-1, 1)),
        ("SCD", similarity.sum_of_correlations_of_differences, True, fab, "similarity", (-2, 2)),
        ("SSIM_dr255", ssim, True, fab, "similarity", (-2, 2), 7),
        (
            "SSIM_dr2",
            functools.partial(ssim, data_range=2.0),
            True,
            fab,
            "similarity",
            (-2, 2),
            7,
        ),
        (
            "MS_SSIM",
            similarity.multi_scale_structural_similarity,
            True,
            fab,
            "similarity",
            (0, 2),
            161,
        ),
        ("VIF", vif.visual_information_fidelity, True, fab, "fidelity", (0, inf), vif.MIN_SIDE),
        ("Qabf", edges.edge_preservation, True, fab, "edges", (0, 0.9754)),
        ("Nabf", edges.added_artefacts, False, fab, "edges", (0, 1), 2),
        ("Q_Y", structure.yang_quality, True, fab, "structure", (-1, 1), 7),
        ("Q_C", structure.cvejic_quality, True, fab, "structure", (-1, 1), 7, False),
    ]
    table = {row[0]: Metric(*row) for row in rows}
    # The bare names are the standard variant; `evaluate` resolves them by its own argument.
    for name, exact in _RESOLVED["standard"].items():
        table[name] = replace(table[exact], name=name)
    return table


_RESOLVED = {
    "standard": {"SSIM": "SSIM_dr255", "PSNR": "PSNR_peak255"},
    "cddfuse": {"SSIM": "SSIM_dr2", "PSNR": "PSNR_peakF"},
}
VARIANTS: tuple[str, ...] = tuple(_RESOLVED)

METRICS: Mapping[str, Metric] = MappingProxyType(_table())

STANDARD: tuple[str, ...] = ("EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM")
"""The eight columns of the tables in the CDDFuse family."""


def resolve(name: str, variant: str = "standard") -> Metric:
    """Finds the exact metric behind a name.

    Args:
        name: A key of `METRICS`; `SSIM` and `PSNR` stand for what `variant` makes of them,
            `SSIM_dr255`, `SSIM_dr2`, `PSNR_peak255` and `PSNR_peakF` for themselves.
        variant: `standard` (data range and peak 255) or `cddfuse` (data range 2, peak the
            maximum of the fused image), as the evaluator of that name.

    Returns:
        The metric; its `name` says which definition it is, so that columns of two variants
        never carry one title.

    Raises:
        InputError: on an unknown name or variant.
    """
    if variant not in _RESOLVED:
        raise InputError(
            f"unknown metric variant {variant!r}: choose one of {', '.join(VARIANTS)}."
        )
    exact = _RESOLVED[variant].get(name, name)
    if exact not in METRICS:
        raise InputError(f"unknown metric {name!r}: choose among {', '.join(METRICS)}.")
    return METRICS[exact]


def prepare(image: ArrayLike | Gray) -> Gray:
    """Luminance of a picture as a `Gray`, to be judged or compared with more than once."""
    return image if isinstance(image, Gray) else Gray(luminance(image))


def evaluate(
    fused: ArrayLike | Gray,
    a: ArrayLike | Gray,
    b: ArrayLike | Gray,
    names: Sequence[str] = STANDARD,
    variant: str = "standard",
) -> dict[str, float]:
    """Scores one fused image on luminance.

    Args:
        fused: Fused image, `(H, W)` or `(H, W, 3)`, uint8 or floating point in 0..255 (see
            `luminance`); or a `Gray`, measured as it is.
        a: First source, likewise. Pass `prepare(a)` to share its part of the work between
            several fused images.
        b: Second source.
        names: Metrics to compute, keys of `METRICS`.
        variant: See `resolve`.

    Returns:
        `{name: value}` in the order of `names`, under the names as given; NaN and infinity
        are legal values of degenerate images.

    Raises:
        InputError: (a ValueError) if shapes differ, an image is too small for a metric (the
            message names it), or a name is unknown.
    """
    wanted = {name: resolve(name, variant) for name in names}
    images = {"fused": prepare(fused), "a": prepare(a), "b": prepare(b)}
    shapes = {name: image.shape for name, image in images.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {h}x{w}" for name, (h, w) in shapes.items())
        raise InputError(
            f"fused image and sources differ in size ({listed}, height x width): "
            "give images of one size."
        )
    return {
        name: float(metric.fn(*(images[role] for role in metric.needs)))
        for name, metric in wanted.items()
    }
