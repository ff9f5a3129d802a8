"""Enlarging depth maps without learning: what a guided network has to beat.

A rule takes a small map `(h, w)`, the photograph `(H, W, 3)` whose sides are an integer multiple
of the map's, and the limits of the true map, which these rules do not use. It returns `(H, W)` in
the unit of the map, float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mgdn_jax.errors import InputError
from mgdn_jax.image import luminance
from mgdn_jax.quantities import depth as quantity
from mgdn_jax.quantities.depth import Limits

Upsample: TypeAlias = Callable[[np.ndarray, np.ndarray, Limits], np.ndarray]

_GUIDE_EPS = 1e-4
_TAPS = 2  # of the small grid, on either side of a pixel
_SPATIAL = 0.5  # deviation in pixels of the small grid
_RANGE = 0.2  # deviation of RGB in [0, 1]


def nearest(low: np.ndarray, rgb: np.ndarray, limits: Limits) -> np.ndarray:
    """Every small pixel becomes a square."""
    del limits
    scale = _scale(low, rgb)
    return low.repeat(scale, 0).repeat(scale, 1)


def bilinear(low: np.ndarray, rgb: np.ndarray, limits: Limits) -> np.ndarray:
    """Straight lines between the centres of small pixels, clamped at the borders."""
    del limits
    result = np.asarray(low, np.float64)
    for axis in (0, 1):
        count, wanted = low.shape[axis], rgb.shape[axis]
        centre = ((np.arange(wanted) + 0.5) * count / wanted - 0.5).clip(0, count - 1)
        first = np.minimum(centre.astype(np.int64), max(count - 2, 0))
        share = (centre - first).reshape((-1, 1) if axis == 0 else (1, -1))
        following = result.take(np.minimum(first + 1, count - 1), axis)
        result = result.take(first, axis) * (1 - share) + following * share
    return result.astype(np.float32)


def bicubic(low: np.ndarray, rgb: np.ndarray, limits: Limits) -> np.ndarray:
    """The literature's row of that name: a = -0.5, as Pillow enlarges."""
    del limits
    return quantity.enlarge_pillow(low, rgb.shape[:2])


def bicubic_mgdn(low: np.ndarray, rgb: np.ndarray, limits: Limits) -> np.ndarray:
    """What MGDN's network is given: a = -0.75."""
    del limits
    return quantity.enlarge(low, rgb.shape[:2])


def guided_filter(low: np.ndarray, rgb: np.ndarray, limits: Limits) -> np.ndarray:
    """He, Sun, Tang 2010: the local linear function of luma that fits the bicubic map best.

    The radius is half the scale, epsilon 1e-4 of luma in [0, 1].
    """
    enlarged = bicubic(low, rgb, limits).astype(np.float64)
    guide = luminance(_unit(rgb).astype(np.float64))[..., 0]
    side = 2 * max(_scale(low, rgb) // 2, 1) + 1

    def box(plane: NDArray[np.float64]) -> NDArray[np.float64]:
        return ndimage.uniform_filter(plane, side, mode="reflect")

    mean_guide, mean = box(guide), box(enlarged)
    variance = box(guide * guide) - mean_guide**2
    slope = (box(guide * enlarged) - mean_guide * mean) / (variance + _GUIDE_EPS)
    return (box(slope) * guide + box(mean - slope * mean_guide)).astype(np.float32)


def joint_bilateral(low: np.ndarray, rgb: np.ndarray, limits: Limits) -> np.ndarray:
    """Kopf et al. 2007: means of 5x5 small pixels, those of similar colour counting most.

    A small pixel's colour is that of the photograph reduced by the kernel that reduces maps.
    """
    del limits
    scale = _scale(low, rgb)
    height, width = low.shape
    guide = _unit(rgb)
    small = np.stack([quantity.reduce(guide[..., k], scale) for k in range(3)], axis=-1)
    border = ((_TAPS, _TAPS), (_TAPS, _TAPS))
    colours = np.pad(small, (*border, (0, 0)), mode="edge")
    depths = np.pad(np.asarray(low, np.float32), border, mode="edge")
    blocks = guide.reshape(height, scale, width, scale, 3)
    offset = (np.arange(scale, dtype=np.float32) + 0.5) / scale - 0.5
    total = np.zeros(blocks.shape[:-1], np.float32)
    weights = np.zeros_like(total)
    for row in range(2 * _TAPS + 1):
        for column in range(2 * _TAPS + 1):
            part = (slice(row, row + height), slice(column, column + width))
            colour = colours[part][:, None, :, None]
            distance = ((blocks - colour) ** 2).sum(-1) / (2 * _RANGE**2)
            y, x = offset - (row - _TAPS), offset - (column - _TAPS)
            distance += (y**2 / (2 * _SPATIAL**2))[None, :, None, None]
            distance += (x**2 / (2 * _SPATIAL**2))[None, None, None, :]
            weight = np.exp(-distance)
            total += weight * depths[part][:, None, :, None]
            weights += weight
    return (total / weights).reshape(rgb.shape[:2])


BASELINES: Mapping[str, Upsample] = MappingProxyType(
    {
        "nearest": nearest,
        "bilinear": bilinear,
        "bicubic": bicubic,
        "bicubic_mgdn": bicubic_mgdn,
        "guided_filter": guided_filter,
        "joint_bilateral": joint_bilateral,
    }
)
"""Name to rule."""


def _scale(low: np.ndarray, rgb: np.ndarray) -> int:
    height, width = low.shape
    scale = rgb.shape[0] // height
    if rgb.shape[:2] != (height * scale, width * scale):
        raise InputError(
            f"a photograph of {rgb.shape[1]}x{rgb.shape[0]} is no whole multiple of a depth map of "
            f"{width}x{height}; crop them to one."
        )
    return scale


def _unit(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1]."""
    if rgb.dtype in (np.uint8, np.uint16):
        return rgb.astype(np.float32) / np.float32(np.iinfo(rgb.dtype).max)
    return np.asarray(rgb, np.float32)
