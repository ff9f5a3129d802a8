"""Structural fusion indices: Q_Y (Yang), Q_C (Cvejic) and Q_W (Piella)."""

from __future__ import annotations

import functools
import math

import numpy as np

from mgdn_jax.metrics.gray import Gray, GrayLike, Plane, checked
from mgdn_jax.metrics.metric import SOURCES, Metric
from mgdn_jax.metrics.windows import gaussian_covariance, gaussian_moments, sobel

_SIZE, _SIGMA = 7, 1.5
_C = 2e-16
_EDGE_SIZE = 11
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
# Below this a variance is rounding noise: the smallest genuine one of integers is 0.0013.
_FLAT = 1e-6


def _variance(image: Gray) -> Plane:
    variance = gaussian_moments(image, _SIZE, _SIGMA)[1]
    return np.where(variance < _FLAT, 0.0, variance)


def _covariance(x: Gray, y: Gray) -> Plane:
    """Local covariance, 0 where either image is flat."""
    flat = (_variance(x) == 0) | (_variance(y) == 0)
    return np.where(flat, 0.0, gaussian_covariance(x, y, _SIZE, _SIGMA))


def _similarity(x: Gray, y: Gray, covariance: Plane) -> Plane:
    """SSIM map with vanishing constants."""
    mean_x, mean_y = (gaussian_moments(i, _SIZE, _SIGMA)[0] for i in (x, y))
    top = (2 * mean_x * mean_y + _C) * (2 * covariance + _C)
    return top / ((mean_x**2 + mean_y**2 + _C) * (_variance(x) + _variance(y) + _C))


def _mean_of_defined(values: Plane) -> float:
    defined = values[~np.isnan(values)]
    return float(np.mean(defined)) if defined.size else math.nan


def yang_quality(f: GrayLike, a: GrayLike, b: GrayLike) -> float:
    """Q_Y: structural similarity to the sources, by the sources' own agreement.

    With SSIM maps S (7x7 Gaussian of deviation 1.5, constants 2e-16) and local variances v,
    `l = vA/(vA+vB)`: where `S_AB >= 0.75` the value is `l S_AF + (1-l) S_BF`, elsewhere
    `max(S_AF, S_BF)`; the mean over all windows. Variances below 1e-6 count as 0, and windows
    where the value is undefined (both sources flat) are left out.

    Range -1..1; higher is better. Symmetric in the sources. Source: Yang et al. 2008. Needs
    7x7 pixels. Degenerate: NaN if every window is left out.
    """
    fused, first, second = checked("Q_Y", f, a, b, min_side=_SIZE)
    s_ab = _similarity(first, second, _covariance(first, second))
    s_af = _similarity(first, fused, _covariance(first, fused))
    s_bf = _similarity(second, fused, _covariance(second, fused))
    v_a, v_b = _variance(first), _variance(second)
    with np.errstate(invalid="ignore"):
        share = v_a / (v_a + v_b)
    agree = (s_ab >= 0.75) | np.isnan(share)  # undefined windows drop out on either side
    return _mean_of_defined(
        np.where(agree, share * s_af + (1 - share) * s_bf, np.maximum(s_af, s_bf))
    )


def cvejic_quality(f: GrayLike, a: GrayLike, b: GrayLike) -> float:
    """Q_C: structural similarity to the sources, by the sources' covariance with F.

    Windows and maps as for Q_Y; `t = cov(A,F)/(cov(A,F)+cov(B,F))` and the value of a window
    is `t S_AF + (1-t) S_BF`, but 0 where t < 0 and 1 where t > 1. Undefined windows are left
    out of the mean.

    Range -1..1; higher is better. Nearly symmetric only: exchanging the sources exchanges the
    0 and 1 of the outer cases. Source: Cvejic et al. 2005. Needs 7x7 pixels. Degenerate: NaN
    if every window is left out.
    """
    fused, first, second = checked("Q_C", f, a, b, min_side=_SIZE)
    c_af, c_bf = _covariance(first, fused), _covariance(second, fused)
    s_af = _similarity(first, fused, c_af)
    s_bf = _similarity(second, fused, c_bf)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = c_af / (c_af + c_bf)
        value = t * s_af + (1 - t) * s_bf
        value = np.where(t < 0, 0.0, np.where(t > 1, 1.0, value))
    return _mean_of_defined(value)


def _edge_map(image: Gray) -> Gray:
    """Prewitt magnitude, zeros outside the image; kept."""

    def compute() -> Gray:
        gx, gy = sobel(np.pad(image.pixels, 1), middle=1.0)
        return Gray(np.sqrt(gx**2 + gy**2))

    return image.keep("prewitt", compute)


def _edge_similarity(x: Gray, y: Gray) -> Plane:
    """SSIM map of two edge maps, 11x11 Gaussian window, L = 255."""
    mean_x, var_x = gaussian_moments(x, _EDGE_SIZE, _SIGMA)
    mean_y, var_y = gaussian_moments(y, _EDGE_SIZE, _SIGMA)
    covariance = gaussian_covariance(x, y, _EDGE_SIZE, _SIGMA)
    top = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    return top / ((mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2))


def piella_quality(f: GrayLike, a: GrayLike, b: GrayLike) -> float:
    """Q_W: structural similarity of edge maps, weighted by the sources' local activity.

    On the Prewitt magnitudes of all three images, with SSIM maps S (11x11 Gaussian of
    deviation 1.5, L = 255) and local variances v, both set to 0.5 where both are 0:
    `l = vA/(vA+vB)` and the mean of `l S_AF + (1-l) S_BF`, weighted by `max(vA, vB)`.

    Range -1..1; higher is better. Symmetric in the sources. Source: Piella and Heijmans 2003
    in the edge-dependent form of the MEFB benchmark. Needs 11x11 pixels. Degenerate:
    always finite.
    """
    images = checked("Q_W", f, a, b, min_side=_EDGE_SIZE)
    fused, first, second = (_edge_map(image) for image in images)
    v_a, v_b = (gaussian_moments(x, _EDGE_SIZE, _SIGMA)[1] for x in (first, second))
    # As published: windows without any edge count a little, each source half.
    flat = v_a + v_b == 0
    v_a, v_b = np.where(flat, 0.5, v_a), np.where(flat, 0.5, v_b)
    share = v_a / (v_a + v_b)
    weight = np.maximum(v_a, v_b)
    s_a, s_b = _edge_similarity(first, fused), _edge_similarity(second, fused)
    return float(np.sum(weight * (share * s_a + (1 - share) * s_b)) / np.sum(weight))


_metric = functools.partial(Metric, needs=SOURCES, group="structure")
ENTRIES: tuple[Metric, ...] = (
    _metric(
        name="Q_Y",
        title="Yang's quality",
        meaning="local similarity to the sources, or the better one where they disagree",
        fn=yang_quality,
        higher_is_better=True,
        bounds=(-1.0, 1.0),
        min_side=7,
    ),
    _metric(
        name="Q_C",
        title="Cvejic's quality",
        meaning="local similarity to the sources, shared out by covariance",
        fn=cvejic_quality,
        higher_is_better=True,
        bounds=(-1.0, 1.0),
        min_side=7,
        symmetric=False,
    ),
    _metric(
        name="Q_W",
        title="Piella's quality",
        meaning="similarity of edge maps, weighted by activity",
        fn=piella_quality,
        higher_is_better=True,
        bounds=(-1.0, 1.0),
        min_side=11,
    ),
)
