"""Visual information fidelity of the fused image for both sources."""

from __future__ import annotations

import functools
import math

import numpy as np

from mgdn_jax.metrics.gray import Gray, GrayLike, Plane, checked
from mgdn_jax.metrics.metric import SOURCES, Metric
from mgdn_jax.metrics.windows import (
    filter_valid,
    gaussian_covariance,
    gaussian_moments,
    gaussian_taps,
)

_SIZES = (17, 9, 5, 3)
_NOISE = 2.0  # variance of the visual noise
_EPS = 1e-10
_HAN_NOISE = 0.005 * 255**2
_HAN_EPS = 1e-7
_HAN_WEIGHTS = (1.0, 0.0, 0.15, 1.0)
MIN_SIDE = 41  # then the window of the last scale fits exactly once


def _scale(image: Gray, k: int) -> Gray:
    """The image at scale k (0 the finest): low-passed by that scale's window, halved; kept."""
    if k == 0:
        return image
    finer = _scale(image, k - 1)

    def compute() -> Gray:
        return Gray(filter_valid(finer.pixels, gaussian_taps(_SIZES[k], _SIZES[k] / 5), step=2))

    return finer.keep(("vif_halved", k), compute)


def _moments(image: Gray, size: int) -> tuple[Plane, Plane]:
    mean, variance = gaussian_moments(image, size, size / 5)
    return mean, np.maximum(variance, 0)


def _channel(source: Gray, fused: Gray, size: int) -> tuple[Plane, Plane, Plane]:
    """Gain and residual variance that turn the source into F, and the source's variance."""
    v_ref = _moments(source, size)[1]
    v_dist = _moments(fused, size)[1]
    covariance = gaussian_covariance(source, fused, size, size / 5)
    gain = covariance / (v_ref + _EPS)
    residual = v_dist - gain * covariance
    flat = v_ref < _EPS
    gain[flat] = 0
    residual[flat] = v_dist[flat]
    v_ref = np.where(flat, 0.0, v_ref)
    flat = v_dist < _EPS
    gain[flat] = 0
    residual[flat] = 0
    inverted = gain < 0
    residual[inverted] = v_dist[inverted]
    gain[inverted] = 0
    np.maximum(residual, _EPS, out=residual)
    return gain, residual, v_ref


def _fidelity(source: Gray, fused: Gray) -> float:
    """Pixel-domain VIF, the source being the reference; 1 if the source is constant."""
    carried = available = 0.0
    for k, size in enumerate(_SIZES):
        gain, residual, v_ref = _channel(_scale(source, k), _scale(fused, k), size)
        carried += float(np.sum(np.log(1 + gain**2 * v_ref / (residual + _NOISE))))
        available += float(np.sum(np.log(1 + v_ref / _NOISE)))
    return carried / available if available else 1.0


def visual_information_fidelity(f: GrayLike, a: GrayLike, b: GrayLike) -> float:
    """VIF `= v(A,F) + v(B,F)`, a sum over the sources (`VIFF` in the CDDFuse evaluator).

    `v(X,F)` is the pixel-domain VIF with the source as reference. On four scales with Gaussian
    windows of N = 17, 9, 5, 3 taps and deviation N/5: local variances `v1` (source) and `v2`,
    covariance `c`, gain `g = c/v1`, residual `s = v2 - g c`; then
    `v = sum log(1 + g^2 v1/(s+2)) / sum log(1 + v1/2)` over all positions and scales. It is
    not the VIFF of Han et al. 2013, which shares the name.

    Range 0 upwards, 2 if F = A = B, more if F has more contrast than the sources; higher is
    better. Symmetric in the sources. Source: Sheikh and Bovik 2006. Needs 41x41 pixels.
    Degenerate: a constant source counts as 1, a constant F gives 0 for the other one.
    """
    fused, first, second = checked("VIF", f, a, b, min_side=MIN_SIDE)
    return _fidelity(first, fused) + _fidelity(second, fused)


def fusion_visual_information_fidelity(f: GrayLike, a: GrayLike, b: GrayLike) -> float:
    """VIFF_han `= sum_k p_k F_k`, the visual information fidelity for fusion.

    Scales, windows, gain and residual as for VIF, with noise 325.125 (`0.005 * 255^2`). At
    each position the source with the smaller gain counts (B on ties):
    `F_k = sum(log10(1 + g^2 v1/(s + n)) + 1e-7) / sum(log10(1 + v1/n) + 1e-7)`,
    `p = (1, 0, 0.15, 1)/2.15`. MEFB calls this VIF.

    Range 0 upwards, 1 if F = A = B; higher is better. Symmetric in the sources but for ties of
    the gain (both 0). Source: Han, Cai, Cao, Xu 2013. Needs 41x41 pixels. Degenerate: 1 if
    both sources are constant, 0 if only F is.
    """
    fused, first, second = checked("VIFF_han", f, a, b, min_side=MIN_SIDE)
    total = 0.0
    for k, (size, weight) in enumerate(zip(_SIZES, _HAN_WEIGHTS, strict=True)):
        if not weight:
            continue
        channels = [_channel(_scale(x, k), _scale(fused, k), size) for x in (first, second)]
        from_first = channels[0][0] < channels[1][0]
        gain, residual, v_ref = (np.where(from_first, x, y) for x, y in zip(*channels, strict=True))
        carried = np.log10(1 + gain**2 * v_ref / (residual + _HAN_NOISE)) + _HAN_EPS
        available = np.log10(1 + v_ref / _HAN_NOISE) + _HAN_EPS
        total += weight * float(np.sum(carried)) / float(np.sum(available))
    return total / sum(_HAN_WEIGHTS)


_metric = functools.partial(Metric, needs=SOURCES, group="fidelity")
ENTRIES: tuple[Metric, ...] = (
    _metric(
        name="VIF",
        title="visual information fidelity",
        meaning="share of the sources' visible information, summed over the sources",
        fn=visual_information_fidelity,
        higher_is_better=True,
        bounds=(0.0, math.inf),
        min_side=MIN_SIDE,
    ),
    _metric(
        name="VIFF_han",
        title="visual information fidelity for fusion",
        meaning="VIF of the less preserved source at each position",
        fn=fusion_visual_information_fidelity,
        higher_is_better=True,
        bounds=(0.0, math.inf),
        min_side=MIN_SIDE,
        symmetric=False,
    ),
)
