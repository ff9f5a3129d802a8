"""A stack by halves, depth first: of n pictures at most log2 n and the pair at work are held."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mgdn_jax.io.pixels import from_float, to_float

Load = Callable[[int], np.ndarray]
"""Number of a picture -> (H, W, C)."""
Coverage = Callable[[int], np.ndarray | None]
"""Number of a picture -> (H, W) bool where it is there; None is everywhere."""
Network = Callable[[list[np.ndarray], np.dtype | None], np.ndarray]
"""Pictures and the type of the result, None for float32 as computed -> (H, W, C)."""

_Part = tuple[np.ndarray, np.ndarray | None]


def everywhere(number: int) -> None:
    """The coverage of pictures that have no holes."""
    del number


def fuse(
    load: Load,
    count: int,
    inputs: int,
    network: Network,
    dtype: np.dtype | None,
    coverage: Coverage = everywhere,
) -> np.ndarray:
    """Fuses pictures of one scene: all at once, or by halves where the network takes fewer.

    By halves, neighbours come first, then neighbouring results: a balanced tree over the order
    given. Where one picture is not there, the others count: the network sees one of them in its
    place, and the result has its pixels.

    Args:
        load: called once for each picture, in order.
        count: of pictures; `inputs`, or more where that is two.
        inputs: pictures that the network takes.
        network: on as many pictures.
        dtype: of the last result; those between stay float32.
        coverage: where pictures are there.
    """
    if count > inputs:
        return _branch(load, coverage, network, 0, count, dtype)[0]
    parts = [(load(number), coverage(number)) for number in range(count)]
    return covered(parts, network, dtype)[0]


def _branch(
    load: Load,
    coverage: Coverage,
    network: Network,
    first: int,
    last: int,
    dtype: np.dtype | None,
) -> _Part:
    """The pictures from `first` to `last` as one, and where any of them is there."""
    if last - first == 1:
        return load(first), coverage(first)
    middle = first + (last - first + 1) // 2
    one = _branch(load, coverage, network, first, middle, None)
    two = _branch(load, coverage, network, middle, last, None)
    return covered([one, two], network, dtype)


def covered(parts: list[_Part], network: Network, dtype: np.dtype | None) -> _Part:
    """Fuses pictures of which some are not everywhere.

    Args:
        parts: two pictures or more, each with its coverage.
        network: on all of them.
        dtype: of the result, or None.

    Returns:
        The result, and where any picture is there; None for everywhere.
    """
    covers = [np.ones(x.shape[:2], bool) if c is None else c for x, c in parts]
    if all(cover.all() for cover in covers):
        return network([x for x, _ in parts], dtype), None
    kinds = {x.dtype for x, _ in parts}
    pictures = [x if len(kinds) == 1 else to_float(x) for x, _ in parts]
    channels = max(x.shape[-1] for x in pictures)
    pictures = [np.repeat(x, channels, -1) if x.shape[-1] < channels else x for x in pictures]
    count = np.sum(covers, 0)
    # The first picture that is there stands in for those that are not.
    stand_in = pictures[0].copy()
    for picture, cover in zip(reversed(pictures), reversed(covers), strict=True):
        stand_in[cover] = picture[cover]
    whole = [
        np.where(cover[..., None], picture, stand_in)
        for picture, cover in zip(pictures, covers, strict=True)
    ]
    fused = network(whole, dtype)
    single = count == 1
    values = to_float(stand_in[single])
    if fused.shape[-1] < channels:
        values = values.mean(-1, keepdims=True)
    fused[single] = from_float(values, dtype)
    return fused, count > 0
