"""The registry: metrics by name, groups, evaluator variants, and scoring by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from mgdn_jax import arguments
from mgdn_jax.errors import InputError, nearest
from mgdn_jax.metrics.catalogue import ENTRIES
from mgdn_jax.metrics.exposure import exposure_similarity
from mgdn_jax.metrics.gray import Gray, luminance
from mgdn_jax.metrics.metric import Metric

_RESOLVED = {
    "standard": {"SSIM": "SSIM_dr255", "PSNR": "PSNR_peak255"},
    "cddfuse": {"SSIM": "SSIM_dr2", "PSNR": "PSNR_peakF"},
}
VARIANTS: tuple[str, ...] = tuple(_RESOLVED)


def _table() -> dict[str, Metric]:
    table = {metric.name: metric for metric in ENTRIES}
    # The bare names are the standard variant; `evaluate` resolves them by its own argument.
    for name, exact in _RESOLVED["standard"].items():
        table[name] = replace(table[exact], name=name)
    return table


METRICS: Mapping[str, Metric] = MappingProxyType(_table())

STANDARD: tuple[str, ...] = ("EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM")
"""The eight columns of the tables in the CDDFuse family."""

ALL: tuple[str, ...] = tuple(m.name for m in ENTRIES if "truth" not in m.needs)
"""Every exact name that needs no more than the fused image and its sources."""


def _groups() -> dict[str, tuple[str, ...]]:
    groups: dict[str, tuple[str, ...]] = {}
    for metric in ENTRIES:
        groups[metric.group] = (*groups.get(metric.group, ()), metric.name)
    # LKC-FUNet's evaluator: data range 255 as `standard`, peak max(F) as `cddfuse`, hence the
    # exact names, which no variant changes.
    groups["lkc"] = (
        *("EN", "MI", "VIF", "Qabf", "SSIM_dr255", "PSNR_peakF", "CC", "SCD", "SD", "SF", "AG"),
    )
    return groups


GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(_groups())
"""Group name to exact metric names; `truth`, `depth` and `hdr` need the true picture, `lkc` is
the set of LKC-FUNet's evaluator."""

TRUTH_STANDARD: tuple[str, ...] = GROUPS["truth"]
"""The metrics against a true picture of 8 bits."""


def names(text: str) -> tuple[str, ...]:
    """Reads a list of metrics as a user types it.

    Args:
        text: Comma-separated metric names (`METRICS`), group names (`GROUPS`), `standard`
            (`STANDARD`) or `all` (`ALL`); capitals matter only where two names differ in
            nothing else.

    Returns:
        Metric names in the order of the text, each once.

    Raises:
        InputError: on an unknown name (with the nearest known ones) or an empty list.
    """
    sets = {"standard": STANDARD, "all": ALL, **GROUPS}
    members = {**{name: (name,) for name in METRICS}, **sets}
    folded: dict[str, list[str]] = {}
    for name in members:
        folded.setdefault(name.casefold(), []).append(name)
    chosen: dict[str, None] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        matches = [word] if word in members else folded.get(word.casefold(), [])
        if len(matches) > 1:
            raise InputError(f"metric {word!r} is ambiguous: write {' or '.join(matches)}.")
        if not matches:
            raise InputError(unknown_metric(word, members))
        chosen.update(dict.fromkeys(members[matches[0]]))
    if not chosen:
        raise InputError(f"no metric is named in {text!r}: give names, {', '.join(sets)}.")
    return tuple(chosen)


_ONE_QUANTITY = (
    {"MI", "MI_bits"},
    {"NMI", "NMI_minmax"},
    {"Q_TE", "Q_TE_published"},
    {"FMI_pixel", "FMI_pixel_symmetric"},
    {"MSE", "PSNR_peak255", "PSNR_peakF"},
    {"SSIM_dr255", "SSIM_dr2", "SSIM_gauss"},
    {"RMSE_gt", "PSNR_gt"},
)


def ranked(names: Iterable[str]) -> tuple[str, ...]:
    """The metrics among `names` that a mean rank is taken over.

    Metrics that must not choose between models (`Metric.selects`) are left out. Of several that
    measure one quantity on different scales only the first counts.

    Args:
        names: Exact names in order.

    Returns:
        Names in the same order.
    """
    ranking: list[str] = []
    for name in names:
        twins = next((group for group in _ONE_QUANTITY if name in group), set())
        if METRICS[name].selects and not twins & set(ranking):
            ranking.append(name)
    return tuple(ranking)


def unknown_metric(word: str, known: Iterable[str]) -> str:
    """The sentence that says a name is unknown, with the nearest name or all of them."""
    advice = nearest(word, known)
    return f"unknown metric {word!r}: {advice}" + ("" if advice.endswith("?") else ".")


def resolve(name: str, variant: str = "standard") -> Metric:
    """Finds the exact metric behind a name.

    Args:
        name: A key of `METRICS`. Only `SSIM` and `PSNR` depend on the variant.
        variant: `standard` (data range and peak 255) or `cddfuse` (data range 2, peak the
            maximum of the fused image), each as in the evaluator of that name.

    Returns:
        The metric. Its `name` says which definition it is, so that columns of two variants
        never have one title.

    Raises:
        InputError: on an unknown name or variant.
    """
    if not isinstance(name, str):
        raise InputError(f"a metric is {arguments.shown(name)}: give its name.")
    if not isinstance(variant, str) or variant not in _RESOLVED:
        raise InputError(
            f"unknown metric variant {arguments.shown(variant)}: choose one of "
            f"{', '.join(VARIANTS)}."
        )
    exact = _RESOLVED[variant].get(name, name)
    if exact not in METRICS:
        raise InputError(unknown_metric(name, METRICS))
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
        `{name: value}`, with the entries of `names` and in their order; NaN and infinity are
        legal values of degenerate images.

    Raises:
        InputError: (a ValueError) if shapes differ, an image is too small for a metric (the
            message names it), or a name is unknown or needs the true picture.
    """
    wanted = {name: resolve(name, variant) for name in names}
    for name, metric in wanted.items():
        if "truth" in metric.needs:
            raise InputError(
                f"{name} compares with the true picture: give that to "
                "mgdn_jax.metrics.evaluate_truth, or leave the metric out."
            )
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


def mef_ssim(fused: ArrayLike | Gray, sources: Sequence[ArrayLike | Gray]) -> float:
    """MEF-SSIM of one picture against all its exposures, on luminance.

    Args:
        fused: Fused picture, as in `evaluate`.
        sources: Two or more exposures in any order, likewise.

    Returns:
        0..1, higher is better; see `exposure_similarity`. Of two sources it is what `evaluate`
        gives as MEF_SSIM.

    Raises:
        InputError: if shapes differ, a side is below 44 pixels, or there are fewer than two
            sources.
    """
    return exposure_similarity(prepare(fused), *(prepare(source) for source in sources))


def evaluate_truth(
    fused: ArrayLike | Gray,
    truth: ArrayLike | Gray,
    names: Sequence[str] = TRUTH_STANDARD,
    *,
    crop: int = 0,
) -> dict[str, float]:
    """Scores one image against the true picture.

    Args:
        fused: The image. For metrics of domain `gray` as in `evaluate` (they are measured on
            luminance); for `metres` a raw float `(H, W)` depth map, for `linear` raw float
            `(H, W, C)` radiance in 0..1.
        truth: The true picture, likewise.
        names: Metrics to compute, all of one domain: the names of `GROUPS["truth"]`,
            `GROUPS["depth"]` or `GROUPS["hdr"]`.
        crop: Pixels to leave out on every side of both (6 in the protocol of NYU depth).

    Returns:
        `{name: value}` in the order of `names`.

    Raises:
        InputError: if shapes differ, an image is too small, a name is unknown or needs the
            sources instead, or the names are of several domains.
    """
    wanted = {name: resolve(name) for name in names}
    for name, metric in wanted.items():
        if "truth" not in metric.needs:
            raise InputError(
                f"{name} needs no true picture: compute it with mgdn_jax.metrics.evaluate."
            )
    domains = {metric.domain for metric in wanted.values()}
    if len(domains) > 1:
        raise InputError(
            f"{', '.join(wanted)} are of the domains {' and '.join(sorted(domains))}, which no "
            "picture is at once: ask for those of one domain."
        )
    pair: tuple[ArrayLike, ...]
    if domains == {"gray"}:
        pair = tuple(prepare(image).pixels for image in (fused, truth))
    else:
        pair = tuple(x.pixels if isinstance(x, Gray) else np.asarray(x) for x in (fused, truth))
    pair = tuple(_cropped(np.asarray(x), crop) for x in pair)
    return {name: float(metric.fn(*pair)) for name, metric in wanted.items()}


def _cropped(x: np.ndarray, crop: int) -> np.ndarray:
    if crop < 0 or (crop and min(x.shape[:2]) <= 2 * crop):
        raise InputError(
            f"{crop} pixels cannot be cropped on every side of an image of shape {x.shape}: "
            "crop fewer."
        )
    return x[crop : x.shape[0] - crop, crop : x.shape[1] - crop] if crop else x


def markdown_table(metrics: Iterable[Metric] = ENTRIES) -> str:
    """The metrics as a Markdown table, one row each; docs/measure/metrics.md holds it.

    Args:
        metrics: Rows in order.

    Returns:
        Lines ending in newlines.
    """
    lines = [
        "| name | long name | needs | range | better | min side | what it says |",
        "|---|---|---|---|---|---|---|",
    ]
    for metric in metrics:
        low, high = (_number(value) for value in metric.bounds)
        span = f"{low} .. {high} {metric.unit}".rstrip()
        better = ("higher" if metric.higher_is_better else "lower") + "*" * (not metric.selects)
        needs = ", ".join(metric.needs)
        if metric.domain != "gray":
            needs += f" ({metric.domain})"
        cells = (metric.name, metric.title, needs, span, better, metric.min_side, metric.meaning)
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.6g}"
