"""Padded sizes that pictures of many sizes share, so that few programs are compiled.

A program serves one padded size. Each further one costs a compilation; each shared one costs the
pixels that its pictures are padded with. `choose` weighs the two, in pixels: a compilation takes as
long as `compilation_pixels()` pixels in the network. On two cores the bundled networks compile in 5
to 20 s and take 4 to 30 s for a megapixel: a compilation is worth .3 to 1.3 megapixels.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Mapping

import numpy as np

Size = tuple[int, int]
"""Height and width."""

MOST = 3
"""Programs for a folder, at most, as long as it has fewer than 80 pictures."""
PER_PROGRAM = 20
"""A program for so many pictures, if that is more: of many, padding can outweigh compiling."""
STEP = 16
"""Shared sizes are multiples of it: of attention windows, and of what strips divide well."""
_LEVELS = 16  # different heights, and widths, that the search tells apart


def compilation_pixels() -> int:
    """Pixels through a network that take as long as to compile it, by the order of magnitude."""
    import jax

    return 500_000 if jax.default_backend() == "cpu" else 100_000_000


def choose(
    sizes: Iterable[Size],
    *,
    limit: int,
    most: int | None = None,
    compilation: int | None = None,
) -> dict[Size, Size]:
    """Groups sizes so that padding and compiling take least time together.

    The search is exact up to three groups, on at most 16 heights and 16 widths (of more, it takes
    quantiles). Height and width are never exchanged: networks are not equivariant bit for bit.

    Args:
        sizes: heights and widths, one for each picture.
        limit: pixels that a padded size may have, for the sake of memory; a group that has no
            smaller one is given up, each of its sizes for itself.
        most: groups, at most; None is 3, or one for 20 pictures if that is more.
        compilation: pixels that a compilation is worth; None is `compilation_pixels()`.

    Returns:
        For each size its padded size, which holds it. A size that shares with no other is not
        padded; all others are padded to multiples of 16.
    """
    counts = collections.Counter(sizes)
    if len(counts) < 2:
        return {size: size for size in counts}
    if most is None:
        most = max(MOST, counts.total() // PER_PROGRAM)
    if compilation is None:
        compilation = compilation_pixels()
    groups: dict[Size, list[Size]] = {}
    for size, corner in _corners(counts, limit, most, compilation).items():
        groups.setdefault(corner, []).append(size)
    return {
        size: shared
        for members in groups.values()
        for size, shared in _tightened(members, limit).items()
    }


def shared(padded: Mapping[Size, Size]) -> dict[Size, Size | None]:
    """What `choose` returns, but None for a size that shares with no other.

    A size can be padded to itself: then its pictures take the program of those that are smaller.
    """
    users = collections.Counter(padded.values())
    return {size: room if users[room] > 1 else None for size, room in padded.items()}


def room(size: Size, rooms: Mapping[Size, Size | None]) -> Size | None:
    """The padded size for a picture, which may have been cut since `choose`.

    Args:
        size: of the picture.
        rooms: as `shared` returns it.

    Returns:
        What it is padded to; for a size that was not there, the smallest one that holds it. None
        if it is not padded.
    """
    if size in rooms:
        return rooms[size]
    there = {padded or alone for alone, padded in rooms.items()}
    fits = [place for place in there if place[0] >= size[0] and place[1] >= size[1]]
    return min(fits, key=lambda place: place[0] * place[1], default=None)


def _tightened(members: list[Size], limit: int) -> dict[Size, Size]:
    """What the sizes of one group are padded to."""
    if len(members) == 1:
        return {members[0]: members[0]}
    height, width = (_rounded(max(side)) for side in zip(*members, strict=True))
    if height * width > limit:
        return {size: size for size in members}
    return dict.fromkeys(members, (height, width))


def _rounded(side: int) -> int:
    return -(-side // STEP) * STEP


def _corners(
    counts: Mapping[Size, int], limit: int, most: int, compilation: int
) -> dict[Size, Size]:
    """The padded size of least cost for each size, before groups are tightened."""
    heights, widths = (_levels(side) for side in zip(*counts, strict=True))
    corners = np.array(list(itertools.product(heights, widths)))
    areas = np.prod(corners, 1, dtype=float)
    sizes, numbers = np.array(list(counts)), np.array(list(counts.values()), float)
    # Sizes that are padded to the same level on both axes go the same way.
    levels = np.stack(
        [
            np.array(values)[np.searchsorted(values, side)]
            for values, side in zip((heights, widths), sizes.T, strict=True)
        ],
        1,
    )
    kinds, kind_of = np.unique(levels, axis=0, return_inverse=True)
    weights = np.bincount(kind_of.ravel(), numbers)
    fits = (corners[:, None] >= kinds[None]).all(-1)
    # Corners beyond the limit only where there is no other way, and then they are not used.
    price = np.where(areas > limit, 1000 * areas, areas)
    costs = np.where(fits, price[:, None], np.inf)
    tallest, widest = corners[:, 0] == heights[-1], corners[:, 1] == widths[-1]
    chosen = _search(costs, weights, tallest, widest, most, compilation)
    place = np.argmin(costs[chosen], 0)[kind_of.ravel()]
    picked = corners[np.array(chosen)[place]]
    return {
        (int(h), int(w)): (int(corner[0]), int(corner[1]))
        for (h, w), corner in zip(sizes, picked, strict=True)
    }


def _levels(sides: Iterable[int]) -> list[int]:
    """Ascending multiples of `STEP` that sides are rounded up to; the largest one is among them."""
    values = sorted({_rounded(side) for side in sides})
    count = min(len(values), _LEVELS)
    return [values[-(-(i + 1) * len(values) // count) - 1] for i in range(count)]


def _search(
    costs: np.ndarray,
    weights: np.ndarray,
    tallest: np.ndarray,
    widest: np.ndarray,
    most: int,
    compilation: int,
) -> list[int]:
    """Which corners cost least: all sets of up to three, then one by one as long as it pays.

    Args:
        costs: (corners, kinds) pixels of a picture of each kind, infinite where it does not fit.
        weights: (kinds,) pictures.
        tallest: (corners,) those as high as the highest picture.
        widest: (corners,) likewise; both together are the one that holds everything.
        most: corners, at most.
        compilation: pixels that each costs.
    """
    whole = int(np.flatnonzero(tallest & widest)[0])
    # One corner holds the highest picture and one the widest, which may be the same one.
    apart = itertools.product(np.flatnonzero(tallest), np.flatnonzero(widest))
    pairs = {(int(i), int(j)) for i, j in apart} | {(whole, j) for j in range(len(costs))}
    best, chosen = np.inf, [whole]
    for i, j in sorted(pairs):
        third = int(np.argmin(np.minimum(np.minimum(costs[i], costs[j]), costs) @ weights))
        for few in ({i, j}, {i, j, third}):
            cost = costs[list(few)].min(0) @ weights + compilation * len(few)
            if len(few) <= most and cost < best:
                best, chosen = cost, sorted(few)
    while len(chosen) < most:
        costs_now = costs[chosen].min(0)
        gains = costs_now @ weights - np.minimum(costs_now, costs) @ weights
        further = int(np.argmax(gains))
        if gains[further] <= compilation:
            break
        chosen.append(further)
    return chosen
