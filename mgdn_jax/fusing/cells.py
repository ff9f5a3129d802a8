"""Pictures on a coarse grid of cells: what the cheap checks before a fusion look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mgdn_jax import image
from mgdn_jax.io.pixels import without_alpha

Plane: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]

_BAND_CELLS = 32
_DARK = 0.012  # of the type: below it values are cut off or mostly noise
_NEAR_TOP = 0.98  # of the brightest value: above it highlights may be cut off


@dataclasses.dataclass(frozen=True)
class Cells:
    """A picture as means over square cells.

    Attributes:
        values: (h, w, C) float32 in [0, 1], means over the pixels of each cell.
        share: (h, w, C) float32, share of the cell's pixels that are there and not cut off in
            shadows or highlights.
        there: (h, w) bool; all pixels of the cell are there.
        size: side of a cell in pixels.
    """

    values: Plane
    share: Plane
    there: Mask
    size: int

    @property
    def luminance(self) -> Plane:
        """(h, w)."""
        return np.asarray(image.luminance(self.values)[..., 0], np.float32)

    @property
    def clear(self) -> Mask:
        """(h, w, C): no pixel of the cell is missing or cut off."""
        return self.share > 0.999

    @property
    def mostly_clear(self) -> Mask:
        """(h, w): hardly a pixel of the cell is missing or cut off in any channel."""
        return np.all(self.share > 0.9, axis=-1)


def cells(picture: np.ndarray, side: int, mask: np.ndarray | None = None) -> Cells:
    """Reduces a picture to cells, band by band.

    Args:
        picture: (H, W) or (H, W, C), C 1 to 4; uint8, uint16 or float in [0, 1]. Alpha is
            left out.
        side: the longer side of the result is at most this.
        mask: (H, W) bool, true where the picture is there; None is everywhere.
    """
    pixels = without_alpha(picture)
    height, width, channels = pixels.shape
    size = max(1, -(-max(height, width) // side))
    rows, columns = max(1, height // size), max(1, width // size)
    # A side shorter than a cell makes one cell.
    tall, wide = min(size, height), min(size, width)
    scale = 1.0 if np.issubdtype(pixels.dtype, np.floating) else np.iinfo(pixels.dtype).max
    top = float(pixels.max()) / scale
    values = np.empty((rows, columns, channels), np.float32)
    share = np.empty((rows, columns, channels), np.float32)
    there = np.ones((rows, columns), bool)
    for first in range(0, rows, _BAND_CELLS):
        last = min(first + _BAND_CELLS, rows)
        lines = slice(first * size, (last - 1) * size + tall)
        band = pixels[lines, : (columns - 1) * size + wide]
        band = band.reshape(last - first, tall, columns, wide, channels)
        # Down first and then across: reductions over whole rows are quick.
        total = band.sum(1, dtype=np.float32).sum(2) / (scale * tall * wide)
        values[first:last] = total
        inside = (band > _DARK * top * scale) & (band < _NEAR_TOP * top * scale)
        share[first:last] = inside.sum(1, dtype=np.float32).sum(2) / (tall * wide)
        if mask is not None:
            part = mask[lines, : (columns - 1) * size + wide]
            part = part.reshape(last - first, tall, columns, wide)
            there[first:last] = part.all((1, 3))
    share *= there[..., None]
    return Cells(values, share, there, size)


def ranks(plane: Plane) -> Plane:
    """Places of values in their order, 0 to 1; equal values share one: a monotone curve is undone.

    Args:
        plane: (h, w); steps below a thousandth count as equal.
    """
    _, place, count = np.unique(np.round(plane, 3), return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - count / 2
    return (middle[place.reshape(plane.shape)] / plane.size).astype(np.float32)


def detail(plane: Plane, weight: Plane | None = None, sigma: float = 6.0) -> Plane:
    """What a plane has beyond its surroundings, 0 where the weight is.

    Args:
        plane: (h, w).
        weight: (h, w), 0 to 1; None counts all alike.
        sigma: deviation of the Gaussian that makes the surroundings, in cells.
    """
    if weight is None:
        return plane - ndimage.gaussian_filter(plane, sigma)
    return (plane - smooth(plane, weight, sigma)) * weight


def smooth(plane: Plane, weight: Plane, sigma: float) -> Plane:
    """A Gaussian mean of those values that have weight; 0 far from all of them."""
    total = ndimage.gaussian_filter(weight, sigma)
    return ndimage.gaussian_filter(plane * weight, sigma) / np.maximum(total, 1e-6)


def correlation(first: Plane, second: Plane) -> float:
    """Correlation of two planes whose mean counts as 0; 0 where one is empty."""
    power = float((first**2).sum()) * float((second**2).sum())
    return float((first * second).sum()) / power**0.5 if power > 1e-12 else 0.0


def shift(first: Plane, second: Plane) -> tuple[int, int]:
    """The shift in cells, rows then columns, at which two planes of detail agree best.

    Args:
        first: (h, w).
        second: (h, w); ``second[y - dy, x - dx]`` lies on ``first[y, x]``.
    """
    shape = [2 * side for side in first.shape]
    one = np.ones_like(first)

    def across(x: Plane, y: Plane) -> np.ndarray:
        product = np.fft.rfft2(x, shape) * np.conj(np.fft.rfft2(y, shape))
        return np.fft.irfft2(product, shape)

    common = across(one, one)
    power = np.maximum(across(first**2, one) * across(one, second**2), 1e-9)
    score = np.where(common > first.size / 2, across(first, second) / np.sqrt(power), -1.0)
    place = np.unravel_index(int(score.argmax()), score.shape)
    dy, dx = (
        int(p) if p < side else int(p) - 2 * side
        for p, side in zip(place, first.shape, strict=True)
    )
    return dy, dx


def common(planes: Sequence[np.ndarray], dy: int, dx: int) -> list[np.ndarray]:
    """Two planes cut to what they have in common after a shift, as `shift` gives it."""

    def span(side: int, step: int) -> tuple[slice, slice]:
        return (
            slice(max(step, 0), side + min(step, 0)),
            slice(max(-step, 0), side + min(-step, 0)),
        )

    first, second = planes
    (y1, y2), (x1, x2) = span(first.shape[0], dy), span(first.shape[1], dx)
    return [first[y1, x1], second[y2, x2]]
