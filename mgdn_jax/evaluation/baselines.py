"""Fusion rules without learning: what a trained network has to beat.

Each rule takes two uint8 pictures of one shape, `(H, W)` gray or `(H, W, 3)` colour, and
returns a uint8 picture of that shape. On gray images they reproduce the `base_*` rows of the
quality anchors: the means over the 20 Lytro pairs agree to the printed digits (1e-5). The rule of
four scales, `focus_evidence`, that for exposures, `mertens`, and that for infrared and medical
pairs, `hybrid_multiscale`, have no row there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from mgdn_jax import image
from mgdn_jax.errors import InputError
from mgdn_jax.metrics import luminance

Picture: TypeAlias = NDArray[np.uint8]

_TAPS = np.array([1, 4, 6, 4, 1]) / 16
_LEVELS = 4
_FOCUS_SIGMA = 5.0
_MAJORITY = 31
_GUIDE_RADIUS = 8
_GUIDE_EPS = 0.01
_SCALES = 4
_NOISE = 0.012
_COARSE = 0.3
_HYBRID_SCALES = 4
_HYBRID_SIGMA = 2.0  # of the finest scale
_HYBRID_EPS = 0.09
_SATURATION = 30.0
_BASE_RADIUS = 128
_NOTHING = 1e-9  # no excess of edges: differences of rounding
_BORDER = "reflect"  # of SciPy: d c b a | a b c d; the other rules miss the anchors' digits


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(a), np.asarray(b)
    if first.shape != second.shape:
        raise InputError(
            f"the sources have shapes {first.shape} and {second.shape}: give two of one shape."
        )
    ranks = first.ndim == 2 or (first.ndim == 3 and first.shape[2] in (1, 3))
    if not ranks or first.size == 0:
        raise InputError(f"a source has shape {first.shape}: give (H, W) or (H, W, 3).")
    if first.dtype != np.uint8 or second.dtype != np.uint8:
        raise InputError(
            f"the sources have dtypes {first.dtype} and {second.dtype}: give uint8 pictures."
        )
    return first.astype(np.float64), second.astype(np.float64)


def _picture(x: NDArray[np.float64]) -> Picture:
    return np.rint(np.clip(x, 0, 255)).astype(np.uint8)


def mean(a: ArrayLike, b: ArrayLike) -> Picture:
    """The average of the sources, halves rounded up: `floor((a + b + 1) / 2)`.

    Args:
        a: First source, uint8, `(H, W)` or `(H, W, 3)`.
        b: Second source of the same shape.

    Returns:
        uint8, the shape of the sources.

    Raises:
        InputError: if shapes differ or the pictures are not uint8.
    """
    first, second = _pair(a, b)
    return np.floor((first + second + 1) / 2).astype(np.uint8)


def maximum(a: ArrayLike, b: ArrayLike) -> Picture:
    """The larger value of the sources, pixel by pixel and channel by channel.

    Args:
        a: First source, uint8, `(H, W)` or `(H, W, 3)`.
        b: Second source of the same shape.

    Returns:
        uint8, the shape of the sources.

    Raises:
        InputError: if shapes differ or the pictures are not uint8.
    """
    first, second = _pair(a, b)
    return np.maximum(first, second).astype(np.uint8)


def pyramid_down(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Low-pass filters with 1 4 6 4 1 and keeps every second row and column from the first.

    Args:
        x: `(H, W)` or `(H, W, C)`; mirrored at its border pixels (`reflect_101`).

    Returns:
        `(ceil(H/2), ceil(W/2))` or with C.
    """
    for axis in (0, 1):
        x = ndimage.correlate1d(x, _TAPS, axis=axis, mode="mirror")
    return x[::2, ::2]


def pyramid_up(x: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Doubles an image: zeros between the samples, then 1 4 6 4 1 with gain 4.

    The border rule is that of the doubled image; an odd target side drops the last line.

    Args:
        x: `(H, W)` or `(H, W, C)`.
        shape: Target shape, sides 2H or 2H-1 and 2W or 2W-1.

    Returns:
        Array of `shape`.
    """
    doubled = np.zeros((2 * x.shape[0], 2 * x.shape[1], *x.shape[2:]))
    doubled[::2, ::2] = x
    for axis in (0, 1):
        doubled = ndimage.correlate1d(doubled, 2 * _TAPS, axis=axis, mode="mirror")
    return doubled[: shape[0], : shape[1]]


def laplacian(a: ArrayLike, b: ArrayLike) -> Picture:
    """Laplacian pyramid: of each detail the stronger, of the coarse remainders the mean.

    Four levels of detail; the coefficient of larger magnitude is taken, the first source's on
    ties. Source: Burt and Adelson 1983.

    Args:
        a: First source, uint8, `(H, W)` or `(H, W, 3)` (channels are fused one by one).
        b: Second source of the same shape.

    Returns:
        uint8, the shape of the sources.

    Raises:
        InputError: if shapes differ or the pictures are not uint8.
    """
    first, second = _pair(a, b)
    details = []
    for _ in range(_LEVELS):
        coarse_1, coarse_2 = pyramid_down(first), pyramid_down(second)
        detail_1 = first - pyramid_up(coarse_1, first.shape)
        detail_2 = second - pyramid_up(coarse_2, second.shape)
        details.append(np.where(np.abs(detail_1) >= np.abs(detail_2), detail_1, detail_2))
        first, second = coarse_1, coarse_2
    fused = (first + second) / 2
    for detail in reversed(details):
        fused = pyramid_up(fused, detail.shape) + detail
    return _picture(fused)


def focus_weight(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """How much of each pixel the focus rule takes from the first source.

    Sharpness is the sum of the absolute horizontal and vertical second differences, squared
    and smoothed by a Gaussian of deviation 5; the sharper source wins, a majority over 31x31
    pixels removes specks, and a guided filter (guide = mean of the sources / 255, radius 8,
    eps 0.01) fits the mask to the edges of the picture. All filters mirror the image about its
    edge, the border pixel included.

    Args:
        a: First source, uint8, `(H, W)` or `(H, W, 3)`; colour is judged by its luminance.
        b: Second source of the same shape.

    Returns:
        `(H, W)` float64 in 0..1.

    Raises:
        InputError: if shapes differ or the pictures are not uint8.
    """
    _pair(a, b)
    first, second = luminance(a), luminance(b)
    sharper = (_sharpness(first) > _sharpness(second)).astype(np.float64)
    votes = ndimage.uniform_filter(sharper, _MAJORITY, mode=_BORDER)
    mask = (votes > 0.5).astype(np.float64)
    return np.clip(_guided_filter((first + second) / 510, mask), 0, 1)


def _sharpness(x: NDArray[np.float64]) -> NDArray[np.float64]:
    second = np.array([1.0, -2.0, 1.0])
    activity = sum(
        np.abs(ndimage.correlate1d(x, second, axis=axis, mode=_BORDER)) for axis in (0, 1)
    )
    return ndimage.gaussian_filter(activity**2, _FOCUS_SIGMA, mode=_BORDER, truncate=4.0)


def _guided_filter(guide: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """He, Sun, Tang 2010: the local linear function of the guide that fits `x` best."""

    def box(y: NDArray[np.float64]) -> NDArray[np.float64]:
        return ndimage.uniform_filter(y, 2 * _GUIDE_RADIUS + 1, mode=_BORDER)

    mean_guide, mean_x = box(guide), box(x)
    variance = box(guide * guide) - mean_guide**2
    slope = (box(guide * x) - mean_guide * mean_x) / (variance + _GUIDE_EPS)
    return box(slope) * guide + box(mean_x - slope * mean_guide)


def focus_guided(a: ArrayLike, b: ArrayLike) -> Picture:
    """Multi-focus rule: the sharper source, blended by a guided filter (see `focus_weight`).

    Args:
        a: First source, uint8, `(H, W)` or `(H, W, 3)` (all channels share one weight).
        b: Second source of the same shape.

    Returns:
        uint8, the shape of the sources.

    Raises:
        InputError: if shapes differ or the pictures are not uint8.
    """
    first, second = _pair(a, b)
    weight = focus_weight(a, b).reshape(first.shape[:2] + (1,) * (first.ndim - 2))
    return _picture(weight * first + (1 - weight) * second)


def evidence_weight(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """How much of each pixel the rule of four scales takes from the first source.

    The energy is the sum of the squared horizontal and vertical second differences of luminance
    in 0..1, smoothed by a Gaussian of deviation 1.5; the evidence is the logarithm of the ratio of
    both energies, each with 0.012^2 added, plus 0.3 times that at 1/2, 1/4 and 1/8 of the size
    (means of 2x2 pixels, enlarged linearly). The weight is the sigmoid of four times the evidence,
    smoothed by a Gaussian of deviation 1. It is what `fusing.evidence` computes without a prior.

    Args:
        a: First source, uint8, `(H, W)` or `(H, W, 3)`; colour is judged by its luminance.
        b: Second source of the same shape.

    Returns:
        `(H, W)` float64 in 0..1.

    Raises:
        InputError: if shapes differ or the pictures are not uint8.
    """
    _pair(a, b)
    planes = [luminance(x) / 255 for x in (a, b)]
    ratios = []
    for _ in range(_SCALES):
        first, second = (np.log(_energy(plane) + _NOISE**2) for plane in planes)
        ratios.append(first - second)
        planes = [_halved(plane) for plane in planes]
    total = ratios.pop()
    while ratios:
        finer = ratios.pop()
        share = 1.0 if ratios else _COARSE
        total = finer + share * _doubled(total)[: finer.shape[0], : finer.shape[1]]
    weight = 1 / (1 + np.exp(-np.clip(4 * total, -500, 500)))
    return ndimage.gaussian_filter(weight, 1.0, mode=_BORDER, truncate=4.0)


def _energy(x: NDArray[np.float64]) -> NDArray[np.float64]:
    second = np.array([1.0, -2.0, 1.0])
    squares = sum(ndimage.correlate1d(x, second, axis=axis, mode=_BORDER) ** 2 for axis in (0, 1))
    return ndimage.gaussian_filter(squares, 1.5, mode=_BORDER, truncate=4.0)


def _halved(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.pad(x, [(0, n % 2) for n in x.shape], mode="edge")
    return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4


def _doubled(x: NDArray[np.float64]) -> NDArray[np.float64]:
    for axis in (0, 1):
        before, after = ([0.25, 0.75, 0.0], [0.0, 0.75, 0.25])
        lines = [ndimage.correlate1d(x, taps, axis=axis, mode=_BORDER) for taps in (before, after)]
        x = np.stack(lines, axis + 1).reshape([2 * n if k == axis else n
                                               for k, n in enumerate(x.shape)])  # fmt: skip
    return x


def focus_evidence(a: ArrayLike, b: ArrayLike) -> Picture:
    """Multi-focus rule: the source sharper at four scales, softly (see `evidence_weight`).

    Args:
        a: First source, uint8, `(H, W)` or `(H, W, 3)` (all channels share one weight).
        b: Second source of the same shape.

    Returns:
        uint8, the shape of the sources.

    Raises:
        InputError: if shapes differ or the pictures are not uint8.
    """
    first, second = _pair(a, b)
    weight = evidence_weight(a, b).reshape(first.shape[:2] + (1,) * (first.ndim - 2))
    return _picture(weight * first + (1 - weight) * second)


def mertens(a: ArrayLike, b: ArrayLike) -> Picture:
    """Mertens' exposure fusion: weighted means of the details at every scale.

    The weight is contrast times saturation times exposedness (`image.mertens_weight`), all
    exponents one. It agrees with OpenCV's `createMergeMertens(1, 1, 1)` on RGB pictures to a level
    nearly everywhere. Colour pictures without any colour are fused as gray ones, without the
    saturation that would make all their weights nought. Source: Mertens, Kautz, Van Reeth 2007.

    Args:
        a: First source, uint8, `(H, W)` or `(H, W, 3)`.
        b: Second source of the same shape.

    Returns:
        uint8, the shape of the sources.

    Raises:
        InputError: if shapes differ or the pictures are not uint8.
    """
    first, second = _pair(a, b)
    shape = first.shape
    pictures = [x.reshape(*shape[:2], -1) / 255 for x in (first, second)]
    if all((x == x[..., :1]).all() for x in pictures):
        pictures = [x[..., :1] for x in pictures]
    weights = [image.mertens_weight(x) for x in pictures]
    total = weights[0] + weights[1]
    parts = [[x, (w / total)[..., None]] for x, w in zip(pictures, weights, strict=True)]
    details = []
    for _ in range(int(np.log2(min(shape[:2])))):
        coarse = [[pyramid_down(x) for x in part] for part in parts]
        details.append(
            sum(
                w * (x - pyramid_up(c, x.shape))
                for (x, w), (c, _) in zip(parts, coarse, strict=True)
            )
        )
        parts = coarse
    fused = sum(w * x for x, w in parts)
    for detail in reversed(details):
        fused = pyramid_up(fused, detail.shape) + detail
    channels = 1 if len(shape) == 2 else shape[2]
    return _picture(255 * np.broadcast_to(fused, (*shape[:2], channels)).reshape(shape))


def hybrid_multiscale(a: ArrayLike, b: ArrayLike) -> Picture:
    """Infrared rule: texture, edges and base of both sources, told apart by two filters.

    At each of four scales a guided filter (guide = the picture, radius the deviation, eps 0.09)
    takes the texture out of a picture, and a Gaussian (deviation 2, doubled from scale to scale)
    takes the edges as well. The next scale goes on with what the Gaussian leaves; the last of them
    is the base. Of texture and of edges the larger magnitude is taken, by a mask that a Gaussian of
    deviation 1 smooths. The base is a weighted mean: `r` is by how much the edges of the infrared
    picture exceed those of the visible one at the coarsest scale, over the largest such excess, and
    `arctan(30 r) / arctan(30)`, smoothed by three means over 257x257 pixels, is the infrared share.

    The order matters. Colour is judged by its luminance, and its channels share the weights.

    The method is that of Zhou, Wang, Li, Dong 2016 (with a bilateral filter) and of Zhou, Dong,
    Xie, Gao 2016 (with a guided filter), but for three things. The visible picture is not enhanced.
    The infrared share is that of the base alone. It is smooth: a narrow one leaves blobs in skies.
    The numbers above were chosen on pairs of RoadScene, FLIR, MSRS, M3FD and others for training,
    never on a test set.

    Args:
        a: Infrared source, or CT, PET or SPECT: uint8, `(H, W)` or `(H, W, 3)`.
        b: Visible source, or MRI, of the same shape.

    Returns:
        uint8, the shape of the sources.

    Raises:
        InputError: if shapes differ or the pictures are not uint8.
    """
    pair = _pair(a, b)
    shape = pair[0].shape
    planes = [np.moveaxis(x.reshape(*shape[:2], -1), 2, 0) / 255 for x in pair]
    if len(planes[0]) > 1:  # the first plane decides
        planes = [np.stack([luminance(x) / 255, *p]) for x, p in zip(pair, planes, strict=True)]
    channels = slice(-1 if len(shape) == 2 else -shape[2], None)
    fused = np.zeros_like(planes[0][channels])
    for scale in range(_HYBRID_SCALES):
        sigma = _HYBRID_SIGMA * 2**scale
        flat = [np.stack([_flattened(x, round(sigma)) for x in source]) for source in planes]
        coarse = [_blurred(x, sigma) for x in planes]
        texture = [x - f for x, f in zip(planes, flat, strict=True)]
        edges = [f - c for f, c in zip(flat, coarse, strict=True)]
        for first, second in (texture, edges):
            larger = (np.abs(first[0]) > np.abs(second[0])).astype(np.float64)
            weight = _blurred(larger, 1.0)
            fused += weight * first[channels] + (1 - weight) * second[channels]
        planes = coarse
    share = _infrared_share(edges[0][0], edges[1][0])
    fused += share * planes[0][channels] + (1 - share) * planes[1][channels]
    return _picture(255 * np.moveaxis(fused, 0, 2).reshape(shape))


def _flattened(x: NDArray[np.float64], radius: int) -> NDArray[np.float64]:
    """The guided filter of a picture by itself."""

    def box(y: NDArray[np.float64]) -> NDArray[np.float64]:
        return ndimage.uniform_filter(y, 2 * radius + 1, mode=_BORDER)

    mean_x = box(x)
    variance = np.maximum(box(x * x) - mean_x**2, 0)
    slope = variance / (variance + _HYBRID_EPS)
    return box(slope) * x + box((1 - slope) * mean_x)


def _blurred(x: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    return ndimage.gaussian_filter(x, sigma, axes=(-2, -1), mode=_BORDER, truncate=3.0)


def _infrared_share(
    infrared: NDArray[np.float64], visible: NDArray[np.float64]
) -> NDArray[np.float64]:
    """In 0..1: how far the first's edges exceed the second's, saturated and smoothed."""
    excess = np.maximum(np.abs(infrared) - np.abs(visible), 0)
    largest = excess.max()
    if largest <= _NOTHING:
        return np.zeros_like(excess)
    share = np.arctan(_SATURATION * excess / largest) / np.arctan(_SATURATION)
    for _ in range(3):
        share = ndimage.uniform_filter(share, 2 * _BASE_RADIUS + 1, mode=_BORDER)
    return share


BASELINES: Mapping[str, Callable[[ArrayLike, ArrayLike], Picture]] = MappingProxyType(
    {
        "base_mean": mean,
        "base_max": maximum,
        "base_laplacian": laplacian,
        "base_focus_guided": focus_guided,
        "base_focus_evidence": focus_evidence,
        "base_mertens": mertens,
        "base_hybrid_multiscale": hybrid_multiscale,
    }
)
"""The rules by name; all but the last three are rows of the anchors' tables."""

FOCUS_RULES = ("base_focus_guided", "base_focus_evidence")
"""Those that are about focus alone."""

EXPOSURE_RULES = ("base_mertens",)
"""Those that are about exposures alone."""

INFRARED_RULES = ("base_hybrid_multiscale",)
"""Those that are about infrared and medical pairs alone."""
