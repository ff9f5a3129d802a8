"""Pictures reduced for a network: few shapes, no aliasing."""

from __future__ import annotations

import math

import numpy as np

from mgdn_jax.fusing import strips

PIXELS = 375_000
"""Of a reduced picture, at most, before its sides are rounded down; an eighth of 24 megapixels."""
MOST = 8.0
"""A side is divided by no more than this, before it is rounded down."""
STEP = 64
"""Sides of reduced pictures are multiples of it, so that pictures of many sizes share programs."""


def size(height: int, width: int, factor: float = 0.0) -> tuple[int, int]:
    """Height and width of a reduced picture.

    Rounding to multiples of `STEP` may change the ratio of the sides by a few per cent.

    Args:
        height: rows of the picture.
        width: columns of the picture.
        factor: what the sides are divided by; 0 leaves about `PIXELS`, within `MOST`.

    Returns:
        Multiples of `STEP`, or the picture's own size where that is less.
    """
    if not factor:
        factor = min(max(math.sqrt(height * width / PIXELS), 1.0), MOST)
    sides = (max(STEP, int(n / factor) // STEP * STEP) for n in (height, width))
    rows, columns = (min(side, n) for side, n in zip(sides, (height, width), strict=True))
    return rows, columns


def reduced(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture of a smaller size, every pixel the mean of what it covers.

    Args:
        picture: (H, W, C), uint8, uint16 or floats in [0, 1].
        height: wanted rows, at most H.
        width: wanted columns, at most W.

    Returns:
        (height, width, C) float32 in [0, 1].
    """
    scale = np.iinfo(picture.dtype).max if picture.dtype.kind == "u" else 1
    rows, columns = (_spans(n, m) for n, m in zip(picture.shape, (height, width), strict=False))
    out = np.empty((height, width, picture.shape[-1]), np.float32)

    def work(piece: slice) -> None:
        first, last = rows[0][piece.start], rows[1][piece.stop - 1]
        band = picture[first:last].astype(np.float32)
        band = _means(band, rows, piece, first, height, picture.shape[0], 0)
        every = slice(0, width)
        band = _means(band, columns, every, 0, width, picture.shape[1], 1)
        np.multiply(band, np.float32(1 / scale), out=out[piece])

    step = max(1, strips.ROWS * height // picture.shape[0])
    strips.run(work, ((slice(k, min(k + step, height)),) for k in range(0, height, step)))
    return out


def _spans(length: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last (exclusive) positions that each new position covers, wholly or in part."""
    edges = np.arange(wanted + 1) * length
    return edges[:-1] // wanted, -(-edges[1:] // wanted)


def _means(
    x: np.ndarray,
    spans: tuple[np.ndarray, np.ndarray],
    piece: slice,
    offset: int,
    wanted: int,
    length: int,
    axis: int,
) -> np.ndarray:
    """Means along one axis over the spans of a piece, both ends counted by their covered part."""
    firsts, lasts = spans[0][piece], spans[1][piece]
    total: np.ndarray | None = None
    new = np.arange(piece.start, piece.stop)
    for by in range(int((lasts - firsts).max())):
        places = firsts + by
        # In units of 1 / wanted of an old position.
        part = np.minimum((places + 1) * wanted, (new + 1) * length)
        part = np.maximum(part - np.maximum(places * wanted, new * length), 0)
        share = (part / length).astype(np.float32)
        share = share.reshape([-1 if k == axis else 1 for k in range(x.ndim)])
        line = x.take(np.minimum(places, length - 1) - offset, axis, mode="clip")
        line *= share
        total = line if total is None else np.add(total, line, out=total)
    assert total is not None
    return total
