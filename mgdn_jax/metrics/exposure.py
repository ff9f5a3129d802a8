"""MEF-SSIM: structural similarity of a fused image with two or more exposures."""

from __future__ import annotations

import functools
import math

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.metrics.gray import Gray, GrayLike, Plane, checked
from mgdn_jax.metrics.metric import SOURCES, Metric
from mgdn_jax.metrics.windows import box_sum, gaussian_covariance, gaussian_moments

_SIZE, _SIGMA = 11, 1.5
_PIXELS = _SIZE**2
_C = (0.03 * 255) ** 2
_EPS = float(np.finfo(np.float64).eps)
EXPONENTS = (0.0448, 0.2856, 0.3001)
MIN_SIDE = 44  # the window fits once at the third scale


def _halved(image: Gray) -> Gray:
    """2x2 average pooling, the last line of an odd side repeated; kept."""

    def compute() -> Gray:
        height, width = image.shape
        x = np.pad(image.pixels, ((0, height % 2), (0, width % 2)), mode="edge")
        x = x[::2] + x[1::2]
        return Gray((x[:, ::2] + x[:, 1::2]) / 4)

    return image.keep("mef_halved", compute)


def _patch_sum(image: Gray) -> Plane:
    return image.keep("mef_sum", lambda: box_sum(image.pixels, _SIZE))


def _scatter(x: Gray, y: Gray) -> Plane:
    """Centred product sum of each patch of two images, the energy if they are one; kept.

    Products are summed before the one division, so flat patches of integers give exactly 0.
    """

    def compute() -> Plane:
        both = box_sum(x.pixels * y.pixels, _SIZE)
        return (_PIXELS * both - _patch_sum(x) * _patch_sum(y)) / _PIXELS

    return x.keep(("mef_scatter", y if y is not x else None), compute)


def _covariance(x: Gray, y: Gray) -> Plane:
    """Gaussian-weighted covariance of two sources, the variance if they are one; kept."""
    if x is y:
        return gaussian_moments(x, _SIZE, _SIGMA)[1]
    return x.keep(("mef_covariance", y), lambda: gaussian_covariance(x, y, _SIZE, _SIGMA))


def _structure(sources: tuple[Gray, ...]) -> tuple[list[Plane], Plane]:
    """The reference structure `r = sum_k c_k (x_k - mean x_k)` of every patch.

    Args:
        sources: Exposures at one scale.

    Returns:
        The coefficients c_k, one `(H-10, W-10)` array a source, and the Gaussian-weighted
        variance of r.
    """
    pairs = [(i, j) for i in range(len(sources)) for j in range(i + 1)]
    scatter = {(i, j): _scatter(sources[j], sources[i]) for i, j in pairs}
    lengths = [np.sqrt(np.maximum(scatter[k, k], 0)) for k in range(len(sources))]
    energies = [length + 0.001 for length in lengths]

    def quadratic(weights: list[Plane] | None, form: dict[tuple[int, int], Plane]) -> Plane:
        total = np.zeros_like(lengths[0])
        for i, j in pairs:
            term = form[i, j] if i == j else 2 * form[i, j]
            total += term if weights is None else weights[i] * weights[j] * term
        return total

    # R says how far the exposures agree: 1 if all patches point one way.
    together = np.sqrt(np.maximum(quadratic(None, scatter), 0))
    agreement = np.minimum((together + _EPS) / (sum(lengths) + _EPS), 1 - _EPS)
    power = np.minimum(np.tan(math.pi / 2 * agreement), 10)
    weights = [(energy / _SIZE) ** power + _EPS for energy in energies]
    total = sum(weights)
    mixed = [weight / total / energy for weight, energy in zip(weights, energies, strict=True)]
    length = np.sqrt(np.maximum(quadratic(mixed, scatter), 0))
    strongest = np.max(energies, axis=0)
    scale = np.where(length > 0, strongest / np.where(length > 0, length, 1.0), 1.0)
    coefficients = [scale * weight for weight in mixed]
    covariance = {(i, j): _covariance(sources[j], sources[i]) for i, j in pairs}
    return coefficients, quadratic(coefficients, covariance)


def _scale_map(fused: Gray, sources: tuple[Gray, ...]) -> Plane:
    # The reference structure is the sources' own: kept for the next fused image.
    coefficients, variance = sources[0].keep(
        ("mef_structure", *sources[1:]), lambda: _structure(sources)
    )
    covariance = sum(
        c * gaussian_covariance(source, fused, _SIZE, _SIGMA)
        for c, source in zip(coefficients, sources, strict=True)
    )
    v_f = gaussian_moments(fused, _SIZE, _SIGMA)[1]
    return (2 * covariance + _C) / (variance + v_f + _C)


def exposure_similarity_maps(f: GrayLike, *sources: GrayLike) -> tuple[Plane, ...]:
    """Where `exposure_similarity` comes from: the scores of all patches at the three scales.

    Returns:
        Three arrays, the finest first, each `(h - 10, w - 10)` of an image that is halved from
        scale to scale (an odd side rounded up).
    """
    if len(sources) < 2:
        raise InputError(f"MEF_SSIM needs two or more sources, got {len(sources)}: give them all.")
    fused, *exposures = checked("MEF_SSIM", f, *sources, min_side=MIN_SIDE)
    maps = []
    for scale in range(len(EXPONENTS)):
        if scale:
            fused, exposures = _halved(fused), [_halved(x) for x in exposures]
        maps.append(_scale_map(fused, tuple(exposures)))
    return tuple(maps)


def exposure_similarity_by_scale(f: GrayLike, *sources: GrayLike) -> tuple[float, ...]:
    """The three scale scores behind `exposure_similarity`, each in -1..1, the finest first."""
    return tuple(float(np.mean(plane)) for plane in exposure_similarity_maps(f, *sources))


def exposure_similarity(f: GrayLike, *sources: GrayLike) -> float:
    """MEF-SSIM: similarity of F's patches with the best structure that the exposures offer.

    The sources are two or more exposures. In each 11x11 patch, `x_k` is source k and `m_k` its
    mean; its strength is `e_k = ||x_k - m_k|| + 0.001` and its weight `w_k` is `(e_k/11)^p`,
    normalised. There `p = min(tan(pi R/2), 10)`, where
    `R = ||sum_k (x_k - m_k)|| / sum_k ||x_k - m_k||` says how far the sources agree. The reference
    structure is `r = sum_k w_k (x_k - m_k)/e_k`, scaled to the largest strength. The score of a
    patch is `(2 cov(r,f) + C)/(var r + var f + C)` with C = 58.5225 and moments weighted by a
    Gaussian of deviation 1.5, without a term for luminance. The score of a scale is the mean over
    all patches. Three scales, each half the last, are multiplied with the exponents 0.0448,
    0.2856, 0.3001 divided by their sum. A negative score of a scale counts as 0 (its power is not
    defined).

    Range 0..1; higher is better; 1 for identical images. Symmetric in the sources.
    Source: Ma, Zeng, Wang 2015. Needs 44x44 pixels. Degenerate: always finite.
    """
    scores = exposure_similarity_by_scale(f, *sources)
    total = sum(EXPONENTS)
    return math.prod(
        max(score, 0.0) ** (e / total) for score, e in zip(scores, EXPONENTS, strict=True)
    )


_metric = functools.partial(Metric, needs=SOURCES, group="structure")
ENTRIES: tuple[Metric, ...] = (
    _metric(
        name="MEF_SSIM",
        title="structural similarity for multi-exposure fusion",
        meaning="similarity to the best structure that any of the sources has",
        fn=exposure_similarity,
        higher_is_better=True,
        bounds=(0.0, 1.0),
        min_side=MIN_SIDE,
        takes_many=True,
    ),
)
