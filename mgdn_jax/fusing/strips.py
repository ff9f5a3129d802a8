"""Pictures in pieces that fit into a processor's cache, several at once; plain NumPy.

NumPy releases the interpreter while it computes, so threads share the work. What a piece computes
depends on its positions alone, never on how the picture was cut.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator

import numpy as np

ROWS, COLUMNS = 256, 512
"""Largest size of a piece: a few float maps of it fit into the second-level cache."""


def pieces(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of pieces that cover a picture without overlap.

    Args:
        height: rows of the picture.
        width: columns of the picture.
    """
    for top in range(0, height, ROWS):
        for left in range(0, width, COLUMNS):
            bottom, right = min(top + ROWS, height), min(left + COLUMNS, width)
            yield slice(top, bottom), slice(left, right)


def spread(work: Callable[[slice, slice], None], height: int, width: int) -> None:
    """Does a piece of work for every piece of a picture, in as many threads as there are cores.

    Args:
        work: takes rows and columns; pieces must not write to the same place.
        height: rows of the picture.
        width: columns of the picture.
    """
    run(work, pieces(height, width))


def run(work: Callable[..., None], jobs: Iterable[tuple]) -> None:
    """Calls `work` with each of `jobs`, in as many threads as there are cores."""
    jobs = list(jobs)
    if len(jobs) == 1:
        work(*jobs[0])
        return
    pool = _pool()
    for future in [pool.submit(work, *job) for job in jobs]:
        future.result()


@functools.cache
def _pool() -> concurrent.futures.ThreadPoolExecutor:
    """The threads, kept: what new ones leave behind in the allocator adds up to a gigabyte."""
    cores = os.cpu_count() or 1
    return concurrent.futures.ThreadPoolExecutor(cores, thread_name_prefix="mgdn-strips")


if sys.platform != "win32":  # a forked process has none of the threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def mirrored(start: int, stop: int, length: int) -> np.ndarray:
    """Positions from `start` to `stop` on an axis that is mirrored at its ends, ends included."""
    positions = np.arange(start, stop) % (2 * length)
    return np.minimum(positions, 2 * length - 1 - positions)


def reflected(start: int, stop: int, length: int) -> np.ndarray:
    """As `mirrored`, but at the middle of the last positions, which are not repeated."""
    if length == 1:
        return np.zeros(stop - start, int)
    positions = np.arange(start, stop) % (2 * length - 2)
    return np.minimum(positions, 2 * length - 2 - positions)


Border = Callable[[int, int, int], np.ndarray]


def window(
    array: np.ndarray, rows: slice, columns: slice, margin: int = 0, border: Border = mirrored
) -> np.ndarray:
    """A piece of a map with a margin; beyond the map's edge it is mirrored.

    Args:
        array: (H, W) or (H, W, C).
        rows: of the piece; may lie outside.
        columns: of the piece; may lie outside.
        margin: positions added on every side.
        border: what stands beyond the edge, `mirrored` or like it.

    Returns:
        (rows + 2 margin, columns + 2 margin[, C]); a view where nothing is mirrored.
    """
    height, width = array.shape[:2]
    top, bottom = rows.start - margin, rows.stop + margin
    left, right = columns.start - margin, columns.stop + margin
    if top >= 0 and bottom <= height:
        array = array[top:bottom]
    else:
        array = array[border(top, bottom, height)]
    if left >= 0 and right <= width:
        return array[:, left:right]
    return array[:, border(left, right, width)]


def filtered(array: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Separable symmetric filter of (h + 2r, w + 2r) with 2r + 1 taps, where it has all of them.

    Returns:
        (h, w) float32.
    """
    radius = len(taps) // 2
    for axis in (0, 1):
        length = array.shape[axis] - 2 * radius

        def shifted(by: int, x: np.ndarray = array, axis: int = axis, n: int = length):
            return x[by : by + n] if axis == 0 else x[:, by : by + n]

        total = shifted(radius) * np.float32(taps[radius])
        both = np.empty_like(total)
        for by in range(radius):
            np.add(shifted(by), shifted(2 * radius - by), out=both)
            both *= np.float32(taps[by])
            total += both
        array = total
    return array
