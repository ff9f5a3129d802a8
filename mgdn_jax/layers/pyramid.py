"""Laplacian pyramids as pure functions: sources blended detail by detail, under their weights.

Burt and Adelson (1983): a map is shrunk by the taps 1 4 6 4 1 and expanded by the same ones. What
stands beyond the edge is reflected at the middle of the border pixels. Both are products with a
matrix along each axis, at any size: most of it is nought, but the gradient of sums of shifted maps
takes a compiler minutes. The rule is that of `fusing.blending`, which works in NumPy and in pieces.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Map = Float[Array, "_ _ _ _"]


def depth(height: int, width: int) -> int:
    """Levels of detail that a picture has: its shorter side can be halved so often."""
    return min(height, width).bit_length() - 1


def along(matrix: np.ndarray, x: Map, axis: int) -> Map:
    """A matrix (new lines, lines) applied along axis 1 or 2 of a map."""
    sums = {1: "ij,bjwc->biwc", 2: "ij,bhjc->bhic"}
    values = jnp.asarray(matrix, x.dtype)
    return jnp.einsum(sums[axis], values, x, precision=lax.Precision.HIGHEST)


def shrunk(x: Map, *, replicated: bool = False) -> Map:
    """Low-pass and every second line: (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), C).

    Args:
        x: map.
        replicated: beyond the edge, the border pixels are repeated; else reflected.
    """
    for axis in (1, 2):
        x = along(_shrinking(x.shape[axis], replicated), x, axis)
    return x


def expanded(x: Map, height: int, width: int, *, replicated: bool = False) -> Map:
    """The partner of `shrunk`: (B, ceil(H/2), ceil(W/2), C) -> (B, H, W, C).

    Args:
        x: the smaller map.
        height: rows of the result, twice those of `x` or one less.
        width: columns of the result, likewise.
        replicated: as in `shrunk`.

    Raises:
        ValueError: `x` is no map of half that size.
    """
    if x.shape[1:3] != ((height + 1) // 2, (width + 1) // 2):
        raise ValueError(f"a map of {x.shape[1:3]} is not half of {(height, width)}")
    x = along(_expanding(height, replicated), x, 1)
    return along(_expanding(width, replicated), x, 2)


def blend(
    images: Sequence[Map], weights: Float[Array, "b h w n"], levels: int | None = None
) -> Map:
    """Images blended: the details of every scale under the weights of that scale.

    Args:
        images: n maps of one shape.
        weights: of each image at every pixel, summing to one.
        levels: of detail; what is coarser is blended as one. None takes all there are (`depth`);
            0 is the plain weighted sum. More than there are count as all.

    Returns:
        The blend, neither clipped nor otherwise bound to the range of the images.

    Raises:
        ValueError: shapes differ, or `levels` is negative.
    """
    shape, count = images[0].shape, len(images)
    if any(image.shape != shape for image in images) or weights.shape != (*shape[:3], count):
        sizes = ", ".join(str(image.shape) for image in images)
        raise ValueError(f"images of {sizes} and weights of {weights.shape} do not fit")
    most = depth(*shape[1:3])
    levels = most if levels is None else min(levels, most)
    if levels < 0:
        raise ValueError(f"levels must not be negative, got {levels}")
    # All maps side by side: one sum a scale, however many images there are.
    channels = shape[-1]
    stack = jnp.concatenate([*images, weights], -1)
    details = []
    for _ in range(levels):
        small = shrunk(stack)
        large = expanded(small[..., : count * channels], *stack.shape[1:3])
        details.append(_mixed(stack, count, large))
        stack = small
    fused = _mixed(stack, count)
    for detail in reversed(details):
        fused = detail + expanded(fused, *detail.shape[1:3])
    return fused


def _mixed(stack: Map, count: int, coarse: Map | None = None) -> Map:
    """The weighted sum of the images in a stack, less their coarser part."""
    channels = stack.shape[-1] // count - 1
    sources, weights = stack[..., : count * channels], stack[..., count * channels :]
    if coarse is not None:
        sources = sources - coarse
    parts = sources.reshape(*sources.shape[:3], count, channels)
    return jnp.sum(parts * weights[..., None], 3)


@functools.cache
def _shrinking(length: int, replicated: bool) -> np.ndarray:
    """(ceil(length/2), length): 1 4 6 4 1 over 16."""
    matrix = np.zeros(((length + 1) // 2, length), np.float32)
    for line, row in enumerate(matrix):
        for offset, tap in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
            place = 2 * line + offset
            place = min(max(place, 0), length - 1) if replicated else _reflected(place, length)
            row[place] += tap / 16
    return matrix


@functools.cache
def _expanding(length: int, replicated: bool) -> np.ndarray:
    """(length, ceil(length/2)): the last line stands for two, the first one for itself or two."""
    half = (length + 1) // 2
    matrix = np.zeros((length, half), np.float32)
    for line, row in enumerate(matrix):
        near = line // 2
        taps = {0: 0.5, 1: 0.5} if line % 2 else {-1: 0.125, 0: 0.75, 1: 0.125}
        for offset, tap in taps.items():
            place = max(near + offset, 0) if replicated else abs(near + offset)
            row[min(place, half - 1)] += tap
    return matrix


def _reflected(position: int, length: int) -> int:
    """A position on an axis that is reflected at the middle of its last positions."""
    if length == 1:
        return 0
    position %= 2 * length - 2
    return min(position, 2 * length - 2 - position)
