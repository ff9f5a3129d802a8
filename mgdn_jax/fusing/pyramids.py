"""Pyramids of pictures in pieces: halved, doubled, blended level by level, filled where empty.

Two rules double a map. `doubled` is bilinear, for what is smooth. `expanded` is Burt and Adelson's
(1983), the partner of `shrunk` in a Laplacian pyramid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mgdn_jax.fusing import strips

_PIXELS = np.float32


def beyond(start: int, stop: int, length: int) -> np.ndarray:
    """Border of a map that is expanded: the last line stands for two, the first one for one."""
    positions = np.abs(np.arange(start, stop))
    return np.minimum(positions, length - 1)


Borders = tuple[strips.Border, strips.Border]
"""What stands beyond the edge of a map that is shrunk, and of one that is expanded."""
MIRRORED: Borders = (strips.mirrored, strips.mirrored)
REFLECTED: Borders = (strips.reflected, beyond)
"""As Mertens' method and `layers.pyramid` have it."""


def halved(array: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 positions, (H, W) -> (ceil(H/2), ceil(W/2)) float32; an odd end repeats."""
    height, width = ((n + 1) // 2 for n in array.shape)
    out = np.empty((height, width), _PIXELS)

    def work(rows: slice, columns: slice) -> None:
        x = strips.window(array, twice(rows), twice(columns))
        total = x[::2, ::2] + x[1::2, ::2]
        total += x[::2, 1::2]
        total += x[1::2, 1::2]
        np.multiply(total, _PIXELS(0.25), out=out[rows, columns])

    strips.spread(work, height, width)
    return out


def twice(positions: slice) -> slice:
    """The positions of a map of twice the size."""
    return slice(2 * positions.start, 2 * positions.stop)


def doubled(array: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """A piece of a map of twice the size, bilinear between the centres of 2 x 2 positions.

    Args:
        array: (h, w) float32.
        rows: of the large map; may lie outside.
        columns: of the large map; may lie outside.

    Returns:
        (rows, columns) float32.
    """
    near, far = _PIXELS(0.75), _PIXELS(0.25)

    def even(before, here, after):
        del after
        return near * here + far * before

    def odd(before, here, after):
        del before
        return near * here + far * after

    return _interleaved(array, rows, columns, even, odd)


def expanded(
    array: np.ndarray, rows: slice, columns: slice, border: strips.Border = strips.mirrored
) -> np.ndarray:
    """As `doubled`, by the taps 1 4 6 4 1 with gain 4; the partner of `shrunk`."""

    def even(before, here, after):
        return _PIXELS(0.125) * (before + after) + _PIXELS(0.75) * here

    def odd(before, here, after):
        del before
        return _PIXELS(0.5) * (here + after)

    return _interleaved(array, rows, columns, even, odd, border)


def _interleaved(
    array: np.ndarray,
    rows: slice,
    columns: slice,
    even: Callable,
    odd: Callable,
    border: strips.Border = strips.mirrored,
) -> np.ndarray:
    """Two lines of a large map for each line of a small one, along both axes."""
    x = strips.window(array, _half(rows), _half(columns), 1, border)
    for axis, wanted in enumerate((rows, columns)):
        x = x if axis == 0 else x.T
        lines = len(x) - 2
        large = np.empty((2 * lines, x.shape[1]), _PIXELS)
        before, here, after = x[:-2], x[1:-1], x[2:]
        large[::2], large[1::2] = even(before, here, after), odd(before, here, after)
        start = wanted.start % 2
        large = large[start : start + wanted.stop - wanted.start]
        x = large if axis == 0 else large.T
    return x


def _half(positions: slice) -> slice:
    return slice(positions.start // 2, (positions.stop + 1) // 2)


def shrunk(array: np.ndarray, border: strips.Border = strips.mirrored) -> np.ndarray:
    """Low-pass with 1 4 6 4 1 and every second line, (H, W) -> (ceil(H/2), ceil(W/2)) float32."""
    height, width = ((n + 1) // 2 for n in array.shape)
    out = np.empty((height, width), _PIXELS)

    def work(rows: slice, columns: slice) -> None:
        x = strips.window(array, _around(rows), _around(columns), border=border)
        for _ in range(2):
            lines = [x[k : len(x) - 4 + k : 2] for k in range(5)]
            middle = _PIXELS(6) * lines[2]
            middle += _PIXELS(4) * (lines[1].astype(_PIXELS) + lines[3])
            middle += lines[0].astype(_PIXELS) + lines[4]
            middle *= _PIXELS(1 / 16)
            x = middle.T
        out[rows, columns] = x

    strips.spread(work, height, width)
    return out


def _around(positions: slice) -> slice:
    return slice(2 * positions.start - 2, 2 * positions.stop + 1)


def added(
    total: np.ndarray,
    picture: np.ndarray,
    coarse: np.ndarray | None,
    weight: np.ndarray,
    border: strips.Border = strips.mirrored,
) -> None:
    """Adds one plane's detail, or the plane where there is nothing coarser, times a weight.

    Args:
        total: (H, W) float32, changed in place.
        picture: (H, W), of any type.
        coarse: the plane, shrunk; None adds the plane itself.
        weight: (H, W) float32.
        border: as `expanded` takes it.
    """

    def work(rows: slice, columns: slice) -> None:
        detail = picture[rows, columns].astype(_PIXELS)
        if coarse is not None:
            detail -= expanded(coarse, rows, columns, border)
        detail *= weight[rows, columns]
        total[rows, columns] += detail

    strips.spread(work, *total.shape)


def weight_pyramid(
    weight: np.ndarray, levels: int, borders: Borders = MIRRORED
) -> list[np.ndarray]:
    """A map of weights and what it shrinks to, `levels` + 1 in all."""
    maps = [weight]
    for _ in range(levels):
        maps.append(shrunk(maps[-1], borders[0]))
    return maps


class Blend:
    """A weighted sum of planes, each detail with the weights of its own scale (Burt, Adelson).

    Its size does not grow with the number of planes. Without levels it is the plain weighted sum.

    Attributes:
        levels: of detail; below them lies what is left of the plane.
    """

    def __init__(self, height: int, width: int, levels: int, borders: Borders = MIRRORED):
        """Makes the sums.

        Args:
            height: rows of the planes.
            width: columns of the planes.
            levels: of detail.
            borders: beyond the edges, of the maps of weights, too.
        """
        self.levels = levels
        self._borders = borders
        self._sums = weight_pyramid(np.zeros((height, width), _PIXELS), levels)

    def add(self, plane: np.ndarray, weights: Sequence[np.ndarray]) -> None:
        """Adds a plane.

        Args:
            plane: (H, W) of any type.
            weights: as `weight_pyramid` makes them.
        """
        for level, weight in enumerate(weights):
            coarse = shrunk(plane, self._borders[0]) if level < self.levels else None
            added(self._sums[level], plane, coarse, weight, self._borders[1])
            if coarse is not None:
                plane = coarse

    def collapse(self, totals: Sequence[np.ndarray] | None = None) -> np.ndarray:
        """The blended plane, (H, W) float32; ends the sums.

        Args:
            totals: sums of the weights by level; None where they are one everywhere.
        """
        fused: np.ndarray | None = None
        for level in reversed(range(self.levels + 1)):
            plane = self._sums.pop()
            if totals is not None:
                plane /= np.maximum(totals[level], _PIXELS(1e-20))
            if fused is not None:
                _add_expanded(plane, fused, self._borders[1])
            fused = plane
        assert fused is not None
        return fused


def _add_expanded(plane: np.ndarray, coarse: np.ndarray, border: strips.Border) -> None:
    def work(rows: slice, columns: slice) -> None:
        plane[rows, columns] += expanded(coarse, rows, columns, border)

    strips.spread(work, *plane.shape)


Write = Callable[[slice, slice, np.ndarray], None]
"""Rows, columns and values of a piece that is complete."""


def blended(
    base: np.ndarray,
    others: Sequence[np.ndarray],
    weights: Sequence[Sequence[np.ndarray]],
    write: Write,
) -> None:
    """Blends planes that are held together, whose weights sum to one.

    A pyramid is linear, so the base needs none: the others' differences from it are blended.

    Args:
        base: (H, W), uint8, uint16 or float32.
        others: (H, W) of the same type.
        weights: of each of `others`, as `weight_pyramid` makes them.
        write: takes the blended values, float32.
    """
    kinds = {"uint8": np.int16, "uint16": np.int32}
    kind = np.dtype(kinds.get(base.dtype.name, np.float32))
    height, width = base.shape
    gaps = [_difference(plane, base, kind) for plane in others]
    coarse = [shrunk(gap) for gap in gaps]
    rows_below, columns_below = coarse[0].shape
    sums = Blend(rows_below, columns_below, len(weights[0]) - 2)
    for plane, maps in zip(coarse, weights, strict=True):
        sums.add(plane, maps[1:])
    below = sums.collapse()

    def work(rows: slice, columns: slice) -> None:
        total = expanded(below, rows, columns)
        total += base[rows, columns]
        for gap, plane, maps in zip(gaps, coarse, weights, strict=True):
            detail = expanded(plane, rows, columns)
            np.subtract(gap[rows, columns], detail, out=detail)
            detail *= maps[0][rows, columns]
            total += detail
        write(rows, columns, total)

    strips.spread(work, height, width)


def _difference(plane: np.ndarray, base: np.ndarray, kind: np.dtype) -> np.ndarray:
    out = np.empty(base.shape, kind)

    def work(rows: slice, columns: slice) -> None:
        np.subtract(plane[rows, columns], base[rows, columns], out=out[rows, columns], dtype=kind)

    strips.spread(work, *base.shape)
    return out


def filled(picture: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """A picture whose empty places continue their surroundings smoothly (pull and push).

    Args:
        picture: (H, W, C) of any type.
        coverage: (H, W) bool, where the picture is there.

    Returns:
        (H, W, C) of the picture's type, unchanged where it is there; the picture itself where
        nothing is missing.
    """
    if coverage.all() or not coverage.any():
        return picture
    out = picture.copy()
    empty = ~coverage
    for channel in range(picture.shape[-1]):
        plane = _filled_plane(picture[..., channel], coverage)
        if np.issubdtype(picture.dtype, np.integer):
            plane = np.rint(plane)
        out[..., channel][empty] = plane[empty]
    return out


def _filled_plane(plane: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    covered = coverage.astype(_PIXELS)
    if min(plane.shape) == 1 or covered.all():
        mean = float((plane * covered).sum(dtype=np.float64) / max(covered.sum(), 1))
        return np.where(covered > 0, plane, _PIXELS(mean)).astype(_PIXELS)
    share = halved(covered)
    coarse = halved(plane.astype(_PIXELS) * covered)
    coarse /= np.maximum(share, _PIXELS(1e-6))
    coarse = _filled_plane(coarse, share > 0)
    height, width = plane.shape
    large = doubled(coarse, slice(0, height), slice(0, width))
    return np.where(covered > 0, plane, large).astype(_PIXELS)
