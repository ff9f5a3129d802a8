"""Metrics of pixel and structural similarity: MSE, PSNR, CC, SCD, SSIM, SSIM_gauss, MS-SSIM."""

from __future__ import annotations

import functools
import math

import numpy as np

from mgdn_jax.metrics.gray import Gray, GrayLike, Plane, checked, is_constant
from mgdn_jax.metrics.metric import SOURCES, Metric
from mgdn_jax.metrics.windows import (
    box_sum,
    gaussian_covariance,
    gaussian_moments,
)

BOX = 7
GAUSSIAN_SIZE = 11
_MS_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_MS_MIN_SIDE = 161


def mean_squared_error(f: GrayLike, a: GrayLike, b: GrayLike) -> float:
    """MSE `= (mean((A-F)^2) + mean((B-F)^2)) / 2`.

    Range 0..65025 squared grey levels; lower is better (the mean of the sources minimises it).
    Symmetric in the sources. Degenerate: 0 if F = A = B.
    """
    fused, first, second = checked("MSE", f, a, b)
    error_a = np.mean((first.pixels - fused.pixels) ** 2)
    return float((error_a + np.mean((second.pixels - fused.pixels) ** 2)) / 2)


def peak_signal_to_noise(
    f: GrayLike, a: GrayLike, b: GrayLike, *, peak: float | None = 255.0
) -> float:
    """PSNR `= 10 log10(peak^2 / MSE)` with the two-source MSE of `mean_squared_error`.

    The standard variant has a peak of 255; the CDDFuse evaluator takes the maximum of the fused
    image (`peak=None`).

    Unbounded, in decibels; higher is better. Symmetric in the sources.
    Degenerate: inf if F = A = B; with `peak=None` also -inf for F = 0 and NaN if all are 0.
    """
    fused, first, second = checked("PSNR", f, a, b)
    top = float(fused.pixels.max()) if peak is None else peak
    error = mean_squared_error(fused, first, second)
    if error == 0:
        return math.inf if top > 0 else math.nan
    if top == 0:
        return -math.inf
    return 10 * math.log10(top**2 / error)


def correlation(x: Plane, y: Plane) -> float:
    """Pearson correlation of two arrays of one shape; NaN if either is constant."""
    if is_constant(x) or is_constant(y):
        return math.nan
    x = x - x.mean()
    y = y - y.mean()
    return float(np.sum(x * y) / math.sqrt(float(np.sum(x * x)) * float(np.sum(y * y))))


def correlation_coefficient(f: GrayLike, a: GrayLike, b: GrayLike) -> float:
    """CC `= (corr(A,F) + corr(B,F)) / 2`, corr being Pearson's over all pixels.

    Range -1..1; higher is better. Symmetric in the sources; invariant to gain and offset of
    any image. Degenerate: NaN if an image is constant.
    """
    fused, first, second = checked("CC", f, a, b)
    return (correlation(first.pixels, fused.pixels) + correlation(second.pixels, fused.pixels)) / 2


def sum_of_correlations_of_differences(f: GrayLike, a: GrayLike, b: GrayLike) -> float:
    """SCD `= corr(A, F-B) + corr(B, F-A)`.

    Range -2..2; higher is better. Symmetric in the sources. Source: Aslantas and Bendes 2015.
    Degenerate: NaN if a source is constant or F differs from a source by a constant.
    """
    fused, first, second = checked("SCD", f, a, b)
    f_, a_, b_ = fused.pixels, first.pixels, second.pixels
    return correlation(a_, f_ - b_) + correlation(b_, f_ - a_)


def _box_moments(image: Gray) -> tuple[Plane, Plane]:
    """Mean and sample variance over 7x7 windows; kept."""
    n = BOX**2

    def compute() -> tuple[Plane, Plane]:
        total = box_sum(image.pixels, BOX)
        squares = box_sum(image.pixels**2, BOX)
        return total / n, (squares - total * (total / n)) / (n - 1)

    return image.keep("box_moments", compute)


def _box_covariance(x: Gray, y: Gray) -> Plane:
    """Sample covariance over 7x7 windows; kept on `x` (both SSIM variants want it)."""
    n = BOX**2

    def compute() -> Plane:
        product = box_sum(x.pixels * y.pixels, BOX)
        return (product - _box_moments(x)[0] * _box_moments(y)[0] * n) / (n - 1)

    # The partner itself is part of the key: it stays alive, so its identity stays unique.
    return x.keep(("box_covariance", y), compute)


def box_ssim(x: Gray, y: Gray, data_range: float) -> float:
    """Mean SSIM under a uniform 7x7 window, sample moments."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, var_x = _box_moments(x)
    mean_y, var_y = _box_moments(y)
    top = (2 * mean_x * mean_y + c1) * (2 * _box_covariance(x, y) + c2)
    bottom = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return float(np.mean(top / bottom))


def structural_similarity(
    f: GrayLike, a: GrayLike, b: GrayLike, *, data_range: float = 255.0
) -> float:
    """SSIM `= S(F,A) + S(F,B)`, a sum over the sources.

    `S` is the mean over all 7x7 windows of
    `(2 ux uy + C1)(2 vxy + C2) / ((ux^2 + uy^2 + C1)(vx + vy + C2))` with sample (n-1)
    variances, `C1 = (0.01 L)^2`, `C2 = (0.03 L)^2`. L is the `data_range`. The standard variant
    has L = 255. The CDDFuse evaluator in effect uses L = 2 on 0..255 images, which counts noise in
    flat areas as structure and ranks methods differently: its values belong to that family's
    tables only.

    Range -2..2; higher is better; 2 for F = A = B. Symmetric in the sources.
    Source: Wang, Bovik, Sheikh, Simoncelli 2004. Needs 7x7 pixels. Degenerate: always finite.
    """
    fused, first, second = checked("SSIM", f, a, b, min_side=BOX)
    return box_ssim(fused, first, data_range) + box_ssim(fused, second, data_range)


def gaussian_ssim(x: Gray, y: Gray, data_range: float) -> float:
    """Mean SSIM under an 11x11 Gaussian window of deviation 1.5, population moments."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, var_x = gaussian_moments(x, GAUSSIAN_SIZE, 1.5)
    mean_y, var_y = gaussian_moments(y, GAUSSIAN_SIZE, 1.5)
    top = (2 * mean_x * mean_y + c1) * (2 * gaussian_covariance(x, y, GAUSSIAN_SIZE, 1.5) + c2)
    return float(np.mean(top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))))


def gaussian_structural_similarity(
    f: GrayLike, a: GrayLike, b: GrayLike, *, data_range: float = 255.0
) -> float:
    """SSIM_gauss `= S(F,A) + S(F,B)` with the Gaussian window of the original SSIM.

    As `structural_similarity`, but local moments are weighted by an 11x11 Gaussian of deviation
    1.5 and are those of the population. The VIFB and MEFB benchmarks print this one.

    Range -2..2; higher is better; 2 for F = A = B. Symmetric in the sources.
    Source: Wang, Bovik, Sheikh, Simoncelli 2004. Needs 11x11 pixels. Degenerate: always finite.
    """
    fused, first, second = checked("SSIM_gauss", f, a, b, min_side=GAUSSIAN_SIZE)
    return gaussian_ssim(fused, first, data_range) + gaussian_ssim(fused, second, data_range)


def _halved(image: Gray) -> Gray:
    """2x2 average pooling; an odd side first gets a line of zeros at both ends; kept."""

    def compute() -> Gray:
        height, width = image.shape
        x = np.pad(image.pixels, ((height % 2,) * 2, (width % 2,) * 2))
        height, width = x.shape[0] // 2, x.shape[1] // 2
        x = x[: 2 * height, : 2 * width].reshape(height, 2, width, 2)
        return Gray(x.mean(axis=(1, 3)))

    return image.keep("halved", compute)


def _ms_ssim(x: Gray, y: Gray) -> float:
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    product = 1.0
    for scale, exponent in enumerate(_MS_EXPONENTS):
        if scale:
            x, y = _halved(x), _halved(y)
        mean_x, var_x = gaussian_moments(x, 11, 1.5)
        mean_y, var_y = gaussian_moments(y, 11, 1.5)
        term = (2 * gaussian_covariance(x, y, 11, 1.5) + c2) / (var_x + var_y + c2)
        if scale == len(_MS_EXPONENTS) - 1:
            term = term * (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        product *= max(float(np.mean(term)), 0.0) ** exponent
    return product


def multi_scale_structural_similarity(f: GrayLike, a: GrayLike, b: GrayLike) -> float:
    """MS-SSIM `= M(A,F) + M(B,F)`, a sum over the sources.

    Five scales, each half the last (2x2 average), 11x11 Gaussian window of deviation 1.5,
    population moments, L = 255. `M` is the product of the mean contrast-structure terms of
    scales 1..4 and the mean SSIM of scale 5 to the powers 0.0448, 0.2856, 0.3001, 0.2363,
    0.1333; negative means count as 0.

    Range 0..2; higher is better; 2 for F = A = B. Symmetric in the sources.
    Source: Wang, Simoncelli, Bovik 2003. Needs 161x161 pixels. Degenerate: always finite.
    """
    fused, first, second = checked("MS_SSIM", f, a, b, min_side=_MS_MIN_SIDE)
    return _ms_ssim(first, fused) + _ms_ssim(second, fused)


_metric = functools.partial(Metric, needs=SOURCES, group="similarity")
ENTRIES: tuple[Metric, ...] = (
    _metric(
        name="MSE",
        title="mean squared error",
        meaning="squared distance from the sources, averaged",
        fn=mean_squared_error,
        higher_is_better=False,
        bounds=(0.0, 65025.0),
        unit="squared grey levels",
    ),
    _metric(
        name="PSNR_peak255",
        title="peak signal-to-noise ratio, peak 255",
        meaning="MSE in decibels",
        fn=peak_signal_to_noise,
        higher_is_better=True,
        bounds=(0.0, math.inf),
        unit="dB",
    ),
    _metric(
        name="PSNR_peakF",
        title="peak signal-to-noise ratio, peak of the fused image",
        meaning="MSE in decibels as the CDDFuse evaluator has it",
        fn=functools.partial(peak_signal_to_noise, peak=None),
        higher_is_better=True,
        bounds=(-math.inf, math.inf),
        unit="dB",
    ),
    _metric(
        name="CC",
        title="correlation coefficient",
        meaning="linear correlation with the sources, averaged",
        fn=correlation_coefficient,
        higher_is_better=True,
        bounds=(-1.0, 1.0),
    ),
    _metric(
        name="SCD",
        title="sum of the correlations of differences",
        meaning="correlation of what F adds to one source with the other",
        fn=sum_of_correlations_of_differences,
        higher_is_better=True,
        bounds=(-2.0, 2.0),
    ),
    _metric(
        name="SSIM_dr255",
        title="structural similarity, data range 255",
        meaning="local structure, contrast and luminance against each source, summed",
        fn=structural_similarity,
        higher_is_better=True,
        bounds=(-2.0, 2.0),
        min_side=7,
    ),
    _metric(
        name="SSIM_dr2",
        title="structural similarity, data range 2",
        meaning="SSIM as the CDDFuse evaluator has it: for its tables only",
        fn=functools.partial(structural_similarity, data_range=2.0),
        higher_is_better=True,
        bounds=(-2.0, 2.0),
        min_side=7,
    ),
    _metric(
        name="SSIM_gauss",
        title="structural similarity, Gaussian window",
        meaning="SSIM with the 11x11 window of the original paper",
        fn=gaussian_structural_similarity,
        higher_is_better=True,
        bounds=(-2.0, 2.0),
        min_side=GAUSSIAN_SIZE,
    ),
    _metric(
        name="MS_SSIM",
        title="multi-scale structural similarity",
        meaning="SSIM over five scales, summed over the sources",
        fn=multi_scale_structural_similarity,
        higher_is_better=True,
        bounds=(0.0, 2.0),
        min_side=161,
    ),
)
