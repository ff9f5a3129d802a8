"""Metrics with a model of contrast sensitivity: Q_CB (Chen and Blum), Q_CV (Chen, Varshney)."""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy import fft, ndimage

from mgdn_jax.metrics.gray import Gray, GrayLike, Plane, checked, min_max, stretched
from mgdn_jax.metrics.metric import SOURCES, Metric
from mgdn_jax.metrics.windows import sobel

_BLOCK = 16


def _radius(shape: tuple[int, int], divisor: float) -> Plane:
    """Frequency in units of `divisor` pixels per cycle and side, as `rfft2` orders it."""
    height, width = shape
    y = np.fft.fftfreq(height) * 2 * height / divisor
    x = np.fft.rfftfreq(width) * 2 * width / divisor
    return np.hypot(y[:, None], x[None])


def _filtered(x: Plane, response: Plane) -> Plane:
    """Multiplies the spectrum by a response that is even in both frequencies."""
    return fft.irfft2(fft.rfft2(x) * response, s=x.shape)


@functools.lru_cache(maxsize=4)
def _band_pass(shape: tuple[int, int]) -> Plane:
    """Contrast sensitivity as a difference of Gaussians, for Q_CB."""
    r = _radius(shape, 30.0)
    return np.exp(-((r / 15.3870) ** 2)) - 0.7622 * np.exp(-((r / 1.3456) ** 2))


@functools.lru_cache(maxsize=4)
def _mannos(shape: tuple[int, int]) -> Plane:
    """Contrast sensitivity of Mannos and Sakrison, for Q_CV."""
    r = _radius(shape, 8.0)
    return 2.6 * (0.0192 + 0.144 * r) * np.exp(-((0.144 * r) ** 1.1))


def _blurred(x: Plane, sigma: float) -> Plane:
    """31x31 Gaussian with factor `1/(2 pi sigma^2)`, zeros outside the image."""
    taps = np.exp(-(np.arange(-15, 16) ** 2) / (2 * sigma**2)) / (math.sqrt(2 * math.pi) * sigma)
    for axis in (0, 1):
        x = ndimage.correlate1d(x, taps, axis=axis, mode="constant")
    return x


def _masked_contrast(image: Gray) -> Plane:
    """`P = C^3/(C^2 + 0.0001)` of the local contrast C; NaN where undefined; kept."""

    def compute() -> Plane:
        # The division by 255 looks idle but moves an exact half to either side of it.
        x = _filtered(min_max(image.pixels / 255), _band_pass(image.shape))
        with np.errstate(divide="ignore", invalid="ignore"):
            contrast = np.abs(_blurred(x, 2.0) / _blurred(x, 4.0) - 1)
            return contrast**3 / (contrast**2 + 0.0001)

    return image.keep("masked_contrast", compute)


def chen_blum_quality(f: GrayLike, a: GrayLike, b: GrayLike) -> float:
    """Q_CB: how much of the sources' visible local contrast F preserves.

    Each image is stretched to 0..255 and filtered by contrast sensitivity
    `exp(-(r/15.3870)^2) - 0.7622 exp(-(r/1.3456)^2)`, where r is the frequency in cycles per
    30 pixels of the side. Local contrast `C = |(G2*X)/(G4*X) - 1|` with Gaussians of deviation
    2 and 4, masked contrast `P = C^3/(C^2+0.0001)`; `Q_XF = min(P_X,P_F)/max(P_X,P_F)`;
    `Q_CB` is the mean of `Q_AF` and `Q_BF`, weighted per pixel by `P_A^2` and `P_B^2`.

    Range 0..1; higher is better. Symmetric in the sources; blind to gain and offset of F (the
    stretch). Source: Chen and Blum 2009. Degenerate: NaN if an image is constant or wherever
    else a contrast is 0/0, for example with a source of zeros.
    """
    fused, first, second = checked("Q_CB", f, a, b)
    p_f, p_a, p_b = (_masked_contrast(image) for image in (fused, first, second))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = p_a**2 / (p_a**2 + p_b**2)
        q_a = np.minimum(p_a, p_f) / np.maximum(p_a, p_f)
        q_b = np.minimum(p_b, p_f) / np.maximum(p_b, p_f)
        return float(np.mean(share * q_a + (1 - share) * q_b))


def _block_sums(x: Plane) -> Plane:
    """Sums over 16x16 blocks, the last ones filled up with zeros."""
    height, width = x.shape
    x = np.pad(x, ((0, -height % _BLOCK), (0, -width % _BLOCK)))
    blocks = x.reshape(x.shape[0] // _BLOCK, _BLOCK, x.shape[1] // _BLOCK, _BLOCK)
    return blocks.sum(axis=(1, 3))


def _saliency(image: Gray) -> Plane:
    """Sum of the fifth power of the Sobel magnitude per block; kept."""

    def compute() -> Plane:
        gx, gy = sobel(np.pad(image.pixels, 1))
        square = gx**2 + gy**2
        return _block_sums(square**2 * np.sqrt(square))

    return image.keep("saliency", compute)


def chen_varshney_quality(f: GrayLike, a: GrayLike, b: GrayLike) -> float:
    """Q_CV: visible squared difference of F from the sources where these are salient.

    Each image is stretched to 0..255. `D_X` is the mean square per 16x16 block of `X - F`
    after the contrast sensitivity filter `2.6 (0.0192 + 0.144 r) exp(-(0.144 r)^1.1)`, r in
    cycles per 8 pixels of the side; `l_X` the block's sum of the fifth power of the Sobel
    magnitude. `Q_CV = sum(l_A D_A + l_B D_B) / sum(l_A + l_B)`; blocks at the lower and right
    border are filled up with zeros.

    Range 0 upwards, in squared grey levels; lower is better. Symmetric in the sources; blind to
    gain and offset of F (the stretch). Source: Chen and Varshney 2007. Degenerate: NaN if an image
    is constant and not zero (the stretch is 0/0), or if both sources are zero (0/0).
    """
    images = checked("Q_CV", f, a, b)
    fused = stretched(images[0])
    if fused is None:
        return math.nan
    response = _mannos(fused.shape)
    weighted = weights = 0.0
    for image in images[1:]:
        source = stretched(image)
        if source is None:
            return math.nan
        error = _filtered(source.pixels - fused.pixels, response)
        saliency = _saliency(source)
        weighted += float(np.sum(saliency * _block_sums(error**2))) / _BLOCK**2
        weights += float(np.sum(saliency))
    return weighted / weights if weights else math.nan


_metric = functools.partial(Metric, needs=SOURCES, group="perception")
ENTRIES: tuple[Metric, ...] = (
    _metric(
        name="Q_CB",
        title="Chen-Blum quality",
        meaning="visible local contrast preserved",
        fn=chen_blum_quality,
        higher_is_better=True,
        bounds=(0.0, 1.0),
    ),
    _metric(
        name="Q_CV",
        title="Chen-Varshney quality",
        meaning="visible error where the sources are salient",
        fn=chen_varshney_quality,
        higher_is_better=False,
        bounds=(0.0, math.inf),
        unit="squared grey levels",
    ),
)
