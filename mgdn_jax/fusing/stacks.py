"""A stack by halves, depth first: of n pictures at most log2 n and the pair at work are held."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mgdn_jax.fusing import masks

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
    feather: int = 0,
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
        feather: as in `masks.pasted`.
    """
    if count > inputs:
        return _branch(load, coverage, network, 0, count, dtype, feather)[0]
    pictures = [load(number) for number in range(count)]
    return masks.fused(pictures, [coverage(i) for i in range(count)], network, dtype, feather)


def _branch(
    load: Load,
    coverage: Coverage,
    network: Network,
    first: int,
    last: int,
    dtype: np.dtype | None,
    feather: int,
) -> _Part:
    """The pictures from `first` to `last` as one, and where any of them is there."""
    if last - first == 1:
        return load(first), coverage(first)
    middle = first + (last - first + 1) // 2
    one, here = _branch(load, coverage, network, first, middle, None, feather)
    two, there = _branch(load, coverage, network, middle, last, None, feather)
    fused = masks.fused([one, two], [here, there], network, dtype, feather)
    return fused, masks.union([here, there])
