"""How a picture is cut into tiles of one shape and put together again; plain NumPy arithmetic.

Everything is separable: an axis is cut on its own, and a tile is a product of two axis pieces. So
the weights of a position sum to one in 2-D because they do on each axis.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import buckets, reduction
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.io import guard
from mgdn_jax.systems.contract import Config

AUTO_TILE_PIXELS = 1_500_000
"""Pictures above this many pixels are tiled unless `tile` says otherwise."""
AUTO_TILE = 512
AUTO_OVERLAP = 64


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis cut into pieces of equal length.

    Attributes:
      starts: first position of each piece, ascending multiples of the grid given to `cut`.
      size: length of every piece.
      weights: (pieces, size) float32 blending weights; at every position those of all pieces that
        cover it sum to one.
      owned: (pieces, size) float32, 1 where the piece has the largest weight of all, else 0: a
        partition of the positions.
    """

    starts: tuple[int, ...]
    size: int
    weights: np.ndarray
    owned: np.ndarray


def cut(length: int, size: int, overlap: int, grid: int) -> Axis:
    """Cuts an axis into pieces that overlap; the last one is shifted inward to end at the end.

    Args:
      length: positions on the axis, a multiple of `grid`.
      size: length of a piece, a multiple of `grid`; one piece of the whole length if that is less.
      overlap: the least number of positions that neighbours share, below `size`.
      grid: pieces start at multiples of it (attention windows then lie as in the whole picture).

    Returns:
      The pieces with raised-cosine ramps over `overlap` positions at inner borders.
    """
    if length % grid or size % grid or not 0 <= overlap <= size - grid:
        raise ValueError(f"cannot cut {length} into {size} with overlap {overlap} on {grid}")
    size = min(size, length)
    stride = max((size - overlap) // grid * grid, grid)
    count = -(-(length - size) // stride) + 1
    starts = tuple(min(i * stride, length - size) for i in range(count))
    ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(overlap) + 0.5) / max(overlap, 1))
    raw = np.ones((count, size))
    total = np.zeros(length)
    best = np.zeros(length)
    for i, start in enumerate(starts):
        if i > 0:
            raw[i, :overlap] = np.minimum(raw[i, :overlap], ramp)
        if i < count - 1:
            raw[i, size - overlap :] = np.minimum(raw[i, size - overlap :], ramp[::-1])
        total[start : start + size] += raw[i]
    owner = np.zeros(length, int)
    for i, start in enumerate(starts):
        here = slice(start, start + size)
        wins = raw[i] > best[here]
        owner[here][wins] = i
        best[here][wins] = raw[i][wins]
    weights = np.stack([raw[i] / total[s : s + size] for i, s in enumerate(starts)])
    owned = np.stack([owner[s : s + size] == i for i, s in enumerate(starts)])
    return Axis(starts, size, weights.astype(np.float32), owned.astype(np.float32))


def even_size(length: int, largest: int, overlap: int, grid: int) -> int:
    """The piece length that needs no more pieces than `largest` does, but less overlap.

    Rounded up to a multiple of 32 (and of `grid`), so that pictures of many sizes share few
    compiled programs.

    Args:
      length: positions on the axis.
      largest: the longest piece allowed.
      overlap: positions that neighbours share at least.
      grid: pieces are multiples of it.

    Returns:
      A multiple of `grid`, at most `largest`.
    """
    count = -(-(length - overlap) // (largest - overlap))
    if count <= 1:
        return largest
    step = int(np.lcm(32, grid))
    even = -(-(length + (count - 1) * overlap) // count)
    return min(-(-even // step) * step, largest)


def extend(length: int, padded: int, mode: str) -> np.ndarray:
    """Positions to read so that an axis of `length` becomes one of `padded`.

    Args:
      length: positions that exist.
      padded: positions wanted, at least `length`.
      mode: "symmetric" (mirrored including the last position) or "reflect" (without it; where
        the axis is too short to reflect, the last position repeats), as networks pad.

    Returns:
      (padded,) integers in [0, length).
    """
    positions = np.arange(padded)
    grow = padded - length
    if mode == "symmetric":
        period = positions % (2 * length)
        return np.minimum(period, 2 * length - 1 - period)
    if mode == "reflect" and grow < length:
        return np.minimum(positions, 2 * length - 2 - positions) if length > 1 else positions
    if mode == "reflect":
        return np.minimum(positions, length - 1)
    raise ValueError(f"unknown padding {mode!r}")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a picture of one size goes through the network.

    Attributes:
      height: rows of the picture.
      width: columns of the picture.
      rows: the padded row axis, cut.
      columns: the padded column axis, cut.
      mode: how the picture is extended to the padded size, for `extend`.
      streamed: whether a first pass collects the global statistics of all tiles.
      seen: height and width that the network is to see, of a bucketed picture: its own, or with
        the border that the option `padding` asks for.
      bucketed: whether the network leaves out what the picture was padded with beyond that.
      reduced: whether the network judges a reduced picture, of the size of the only tile, and
        evidence at full size does the rest (`photographs`).
    """

    height: int
    width: int
    rows: Axis
    columns: Axis
    mode: str
    streamed: bool
    seen: tuple[int, int]
    bucketed: bool = False
    reduced: bool = False

    @property
    def tiles(self) -> int:
        """Number of tiles; 1 if the picture goes through as a whole."""
        return len(self.rows.starts) * len(self.columns.starts)

    def remarks(self, config: Config) -> list[str]:
        """What is probably not meant about tiles, for a network of this configuration."""
        if self.tiles == 1 or not config.sees_whole:
            return []
        return [
            f"the network looks at the whole picture, and each of the {self.tiles} tiles at itself:"
            " untiled, with tile 0, the result is another one."
        ]

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width after padding."""
        return self.rows.starts[-1] + self.rows.size, self.columns.starts[-1] + self.columns.size

    def positions(self, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
        """Index of the picture's pixels that make up padded tile (i, j)."""
        height, width = self.padded
        rows = extend(self.height, height, self.mode)[self.rows.starts[i] :][: self.rows.size]
        columns = extend(self.width, width, self.mode)[self.columns.starts[j] :]
        return rows[:, None], columns[None, : self.columns.size]


def plan(
    height: int,
    width: int,
    options: FuseOptions,
    *,
    grid: int,
    has_context: bool = False,
    has_buckets: bool = False,
    padded_sizes: Mapping[buckets.Size, buckets.Size | None] | None = None,
    blends: bool = False,
    is_stack: bool = False,
) -> Plan:
    """How a picture of one size is padded and tiled.

    Args:
        height: rows of the picture.
        width: columns of the picture.
        options: of the call, without None for `padding`, `tile_context`, `bucket` and `scale`.
        grid: sides that the network works on are multiples of it.
        has_context: whether the network can use sums over the whole picture for each tile.
        has_buckets: whether the network can leave out padding.
        padded_sizes: what pictures are padded to (`buckets.shared`) where the options name no
            bucket; without effect on networks that cannot leave out padding.
        blends: whether the network weighs its inputs, so that it can judge reduced pictures.
        is_stack: whether there are more pictures than the network takes.

    Raises:
        InputError: tiles or an overlap that do not fit the network.
    """
    if blends and _is_reduced(height * width, options, is_stack):
        sides = reduction.size(height, width, options.scale or 0)
        rows, columns = (cut(n, n, 0, 1) for n in sides)
        return Plan(height, width, rows, columns, "reflect", False, sides, reduced=True)
    padded = _padded((height, width), options.padding, grid)
    tile = tile_edge(height, width, options.tile, grid)
    seen = seen_size(height, width, options.padding, grid)
    bucketed = False
    if has_buckets and tile == 0:
        room = buckets.room(seen, padded_sizes or {})
        if options.bucket:
            padded = [-(-n // options.bucket) * options.bucket for n in padded]
            bucketed = True
            if math.prod(padded) > guard.MAX_PIXELS:
                raise InputError(
                    f"bucket is {options.bucket}, which pads a picture of {width}x{height} to "
                    f"{padded[1]}x{padded[0]}; choose a smaller one."
                )
        elif room is not None:
            padded = [max(-(-n // grid) * grid, p) for n, p in zip(room, padded, strict=True)]
            bucketed = True
    sizes, overlap = padded, 0
    if tile:
        overlap = _overlap(tile, options.overlap, grid)
        sizes = [even_size(n, tile, overlap, grid) for n in padded]
    rows, columns = (
        cut(n, max(size, grid), overlap, grid) for n, size in zip(padded, sizes, strict=True)
    )
    is_tiled = len(rows.starts) * len(columns.starts) > 1
    streamed = has_context and options.tile_context == "global" and is_tiled
    mode = "symmetric" if options.padding == "script" else "reflect"
    return Plan(height, width, rows, columns, mode, streamed, seen, bucketed)


def tile_edge(height: int, width: int, tile: int | None, grid: int) -> int:
    """The longest edge of a tile of a picture; 0 if it goes through as a whole.

    Args:
        height: rows of the picture.
        width: columns of the picture.
        tile: the option.
        grid: sides that the network works on are multiples of it.
    """
    if tile is not None:
        return tile
    return AUTO_TILE // grid * grid if height * width > AUTO_TILE_PIXELS else 0


def seen_size(height: int, width: int, padding: str | None, grid: int) -> tuple[int, int]:
    """Height and width that count as picture for the network's statistics.

    What the network pads by itself is left to it; a border that `padding` asks for is picture.
    """
    if padding != "script":
        return height, width
    rows, columns = _padded((height, width), padding, grid)
    return rows, columns


def _is_reduced(pixels: int, options: FuseOptions, is_stack: bool) -> bool:
    if options.scale:
        return options.scale > 1
    # In what no picture of a stack shows sharply, a tree of pairs leaves blotches.
    return options.tile is None and (is_stack or pixels > AUTO_TILE_PIXELS)


def _padded(size: tuple[int, int], padding: str | None, grid: int) -> list[int]:
    """Height and width that the network gets."""
    if padding == "script":
        step = int(np.lcm(8, grid))
        return [(n // step + 1) * step for n in size]
    return [-(-n // grid) * grid for n in size]


def _overlap(tile: int, overlap: int | None, grid: int) -> int:
    """The overlap of tiles, checked."""
    if tile < 2 * grid or tile % grid:
        raise InputError(
            f"tile is {tile}, but must be 0 or a multiple of {grid} "
            f"(the network's window) from {2 * grid} up."
        )
    if overlap is None:
        return min(AUTO_OVERLAP, tile // 4) // grid * grid
    if not 0 <= overlap <= tile - grid:
        raise InputError(
            f"overlap is {overlap}, but must lie between 0 and {tile - grid} for tiles of {tile}."
        )
    return overlap
