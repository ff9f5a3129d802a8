"""Metrics against the true picture: RMSE, PSNR and SSIM in gray levels, metres or radiance.

There are three domains, which are never mixed: `gray` (levels in 0..255), `metres` (depth maps)
and `linear` (radiance in 0..1, high dynamic range). The image `x` and its `truth` have one shape,
`(H, W)` or `(H, W, C)`, and one unit. A data set's figure is the mean of its images' figures, not
the figure of all pixels together.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from mgdn_jax.errors import InputError
from mgdn_jax.metrics.gray import Gray, Plane
from mgdn_jax.metrics.metric import TRUTH, Metric
from mgdn_jax.metrics.similarity import BOX, GAUSSIAN_SIZE, box_ssim, gaussian_ssim

MU = 5000.0
_WINDOWS: dict[str, tuple[int, Callable[[Gray, Gray, float], float]]] = {
    "uniform": (BOX, box_ssim),
    "gaussian": (GAUSSIAN_SIZE, gaussian_ssim),
}


def _pair(
    metric: str, x: ArrayLike | Gray, truth: ArrayLike | Gray, crop: int = 0, min_side: int = 1
) -> tuple[Plane, Plane]:
    """Both arrays in float64, checked and cropped by `crop` on every side."""
    arrays = [
        image.pixels if isinstance(image, Gray) else np.asarray(image, dtype=np.float64)
        for image in (x, truth)
    ]
    shape = arrays[0].shape
    if shape != arrays[1].shape:
        raise InputError(
            f"{metric} compares arrays of one shape, got {shape} and {arrays[1].shape}: "
            "resize or crop the picture to its truth."
        )
    if len(shape) not in (2, 3) or 0 in shape:
        raise InputError(f"{metric} needs arrays (H, W) or (H, W, C), got {shape}: reshape them.")
    if not all(np.isfinite(array).all() for array in arrays):
        raise InputError(f"{metric} was given NaN or infinite values: repair the arrays first.")
    if crop < 0:
        raise InputError(f"{metric} cannot crop {crop} pixels: give 0 or more.")
    if min(shape[:2]) - 2 * crop < min_side:
        after = f" after cropping {crop} on every side" if crop else ""
        raise InputError(
            f"{metric} needs at least {min_side}x{min_side} pixels{after}, "
            f"got {shape[0]}x{shape[1]}: leave this metric out or use larger images."
        )
    inner = slice(crop, -crop or None)
    return arrays[0][inner, inner], arrays[1][inner, inner]


def rmse(x: ArrayLike | Gray, truth: ArrayLike | Gray, *, crop: int = 0) -> float:
    """RMSE `= sqrt(mean((x - truth)^2))` over all pixels and channels.

    Range 0 upwards, in the unit of the arrays; lower is better. Degenerate: always finite.

    Args:
        x: The image, in any unit.
        truth: The true picture.
        crop: Pixels to leave out on every side.
    """
    first, second = _pair("RMSE", x, truth, crop)
    return math.sqrt(float(np.mean((first - second) ** 2)))


def _depths(
    metric: str,
    prediction: ArrayLike,
    truth: ArrayLike,
    span: tuple[float, float] | None,
    crop: int,
    min_side: int = 1,
) -> tuple[Plane, Plane]:
    x, y = _pair(metric, prediction, truth, crop, min_side)
    if span is None:
        return x, y
    low, high = float(span[0]), float(span[1])
    return np.clip(x, 0, 1) * (high - low) + low, y * (high - low) + low


def depth_rmse(
    prediction: ArrayLike,
    truth: ArrayLike,
    *,
    span: tuple[float, float] | None = None,
    crop: int = 0,
    scale: float = 100.0,
) -> float:
    """RMSE_cm, the root mean square error of a depth map, `scale * sqrt(mean((p - t)^2))`.

    MGDN's protocol for NYU has normalised maps and `crop=6`; `span` is the minimum and maximum of
    the true map, by which they were normalised. A prediction is clamped to 0..1 before that is
    undone. Other data sets of that literature keep 0..255 (`scale=1`): state the unit.

    Range 0 upwards, in centimetres (metres times `scale`); lower is better. Degenerate: always
    finite.

    Args:
        prediction: `(H, W)` in metres, or normalised to 0..1 where `span` undoes that.
        truth: The true map, likewise.
        span: Depth of 0 and of 1 in metres, or None for maps in metres.
        crop: Pixels to leave out on every side.
        scale: 100 for centimetres.
    """
    x, y = _depths("RMSE_cm", prediction, truth, span, crop)
    return scale * rmse(x, y)


def depth_ssim(
    prediction: ArrayLike,
    truth: ArrayLike,
    *,
    span: tuple[float, float] | None = None,
    crop: int = 0,
) -> float:
    """SSIM of a depth map: 11x11 Gaussian window, L = range of the (cropped) true map.

    Range -1..1; higher is better. Needs 11x11 pixels after cropping. Degenerate: NaN if the
    true map is constant (its range, and with it L, is 0).

    Args:
        prediction: `(H, W)` in metres, or normalised to 0..1 where `span` undoes that.
        truth: The true map, likewise.
        span: Depth of 0 and of 1 in metres, or None for maps in metres.
        crop: Pixels to leave out on every side.
    """
    x, y = _depths("SSIM of depth", prediction, truth, span, crop, GAUSSIAN_SIZE)
    data_range = float(y.max() - y.min())
    if data_range == 0:
        return math.nan
    return ssim(x, y, peak=data_range, window="gaussian")


def psnr(x: ArrayLike | Gray, truth: ArrayLike | Gray, *, peak: float = 255.0) -> float:
    """PSNR `= 10 log10(peak^2 / mean((x - truth)^2))` over all pixels and channels.

    Unbounded, in decibels; higher is better. Degenerate: inf for equal arrays.

    Args:
        x: The image.
        truth: The true picture.
        peak: Largest possible value: 255 for 8-bit levels, 1 for 0..1.
    """
    first, second = _pair("PSNR", x, truth)
    error = float(np.mean((first - second) ** 2))
    return 10 * math.log10(peak**2 / error) if error else math.inf


def ssim(
    x: ArrayLike | Gray,
    truth: ArrayLike | Gray,
    *,
    peak: float = 255.0,
    window: str = "uniform",
) -> float:
    """SSIM against the truth, channel by channel, then the mean over channels.

    Windows as in the two-source metrics: `uniform` 7x7 with sample moments, or `gaussian`
    11x11 of deviation 1.5 with population moments.

    Range -1..1; higher is better; 1 for equal arrays. Needs 7x7 or 11x11 pixels. Degenerate:
    always finite.

    Args:
        x: The image.
        truth: The true picture.
        peak: L, the range of the data: 255 for 8-bit levels, 1 for 0..1.
        window: `uniform` or `gaussian`.
    """
    if window not in _WINDOWS:
        raise InputError(f"unknown window {window!r} of SSIM: choose uniform or gaussian.")
    size, similarity = _WINDOWS[window]
    first, second = _pair("SSIM", x, truth, min_side=size)
    channels = zip(
        *(np.moveaxis(array.reshape(*array.shape[:2], -1), -1, 0) for array in (first, second)),
        strict=True,
    )
    return float(np.mean([similarity(Gray(one), Gray(other), peak) for one, other in channels]))


def mu_law(x: ArrayLike) -> Plane:
    """Compresses linear radiance: `log(1 + 5000 x) / log(5001)`, 0..1 to 0..1.

    Negative values are not clipped; at or below -1/5000 the logarithm, and every metric of it,
    is NaN: a network must not give such output.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        compressed = np.log(1 + MU * np.asarray(x, dtype=np.float64)) / math.log(1 + MU)
    return np.where(np.isfinite(compressed), compressed, np.nan)


def _compressed(metric: str, x: ArrayLike, truth: ArrayLike) -> tuple[Plane, Plane] | None:
    """Both images after `mu_law`, or None if it is undefined somewhere."""
    first, second = (mu_law(array) for array in _pair(metric, x, truth))
    return None if np.isnan(first).any() or np.isnan(second).any() else (first, second)


def psnr_linear(x: ArrayLike, truth: ArrayLike) -> float:
    """PSNR_L, PSNR of linear radiance with peak 1.

    Unbounded, in decibels; higher is better. Degenerate: inf for equal arrays.
    """
    return psnr(x, truth, peak=1.0)


def psnr_mu(x: ArrayLike, truth: ArrayLike) -> float:
    """PSNR_mu, PSNR after the mu-law (`mu_law`) with peak 1.

    Unbounded, in decibels; higher is better. Source: Kalantari and Ramamoorthi 2017. Degenerate:
    inf for equal arrays, NaN where the mu-law is not defined (a value at or below -1/5000).
    """
    pair = _compressed("PSNR_mu", x, truth)
    return math.nan if pair is None else psnr(*pair, peak=1.0)


def ssim_linear(x: ArrayLike, truth: ArrayLike) -> float:
    """SSIM_L, SSIM of linear radiance: 7x7 uniform window, L = 1, mean over channels.

    Range -1..1; higher is better. Needs 7x7 pixels. Degenerate: always finite.
    """
    return ssim(x, truth, peak=1.0)


def ssim_mu(x: ArrayLike, truth: ArrayLike) -> float:
    """SSIM_mu, SSIM after the mu-law: 7x7 uniform window, L = 1, mean over channels.

    Range -1..1; higher is better. Needs 7x7 pixels. Degenerate: NaN where the mu-law is not
    defined (a value at or below -1/5000).
    """
    pair = _compressed("SSIM_mu", x, truth)
    return math.nan if pair is None else ssim(*pair, peak=1.0)


_metric = functools.partial(Metric, needs=TRUTH)
ENTRIES: tuple[Metric, ...] = (
    _metric(
        name="PSNR_gt",
        title="peak signal-to-noise ratio to the truth",
        meaning="mean squared error of luminance in decibels, peak 255",
        fn=psnr,
        higher_is_better=True,
        group="truth",
        bounds=(0.0, math.inf),
        unit="dB",
    ),
    _metric(
        name="SSIM_gt",
        title="structural similarity to the truth",
        meaning="SSIM of luminance, 7x7 windows, L = 255",
        fn=ssim,
        higher_is_better=True,
        group="truth",
        bounds=(-1.0, 1.0),
        min_side=BOX,
    ),
    _metric(
        name="RMSE_gt",
        title="root mean square error to the truth",
        meaning="error of luminance",
        fn=rmse,
        higher_is_better=False,
        group="truth",
        bounds=(0.0, 255.0),
        unit="grey levels",
    ),
    _metric(
        name="RMSE_cm",
        title="root mean square error of depth",
        meaning="error of a depth map in metres",
        fn=depth_rmse,
        higher_is_better=False,
        group="depth",
        bounds=(0.0, math.inf),
        unit="cm",
        domain="metres",
    ),
    _metric(
        name="PSNR_mu",
        title="peak signal-to-noise ratio after the mu-law",
        meaning="error of compressed radiance in decibels, peak 1",
        fn=psnr_mu,
        higher_is_better=True,
        group="hdr",
        bounds=(-math.inf, math.inf),
        unit="dB",
        domain="linear",
    ),
    _metric(
        name="PSNR_L",
        title="peak signal-to-noise ratio of linear radiance",
        meaning="error of radiance in decibels, peak 1",
        fn=psnr_linear,
        higher_is_better=True,
        group="hdr",
        bounds=(-math.inf, math.inf),
        unit="dB",
        domain="linear",
    ),
    _metric(
        name="SSIM_mu",
        title="structural similarity after the mu-law",
        meaning="SSIM of compressed radiance, L = 1, mean over channels",
        fn=ssim_mu,
        higher_is_better=True,
        group="hdr",
        bounds=(-1.0, 1.0),
        min_side=BOX,
        domain="linear",
    ),
    _metric(
        name="SSIM_L",
        title="structural similarity of linear radiance",
        meaning="SSIM of radiance, L = 1, mean over channels",
        fn=ssim_linear,
        higher_is_better=True,
        group="hdr",
        bounds=(-1.0, 1.0),
        min_side=BOX,
        domain="linear",
    ),
)
