"""Laplacian pyramids as pure functions: sources blended detail by detail, under their weights.

Burt and Adelson (1983): a map is shrunk by the taps 1 4 6 4 1 and expanded by the same ones. What
stands beyond the edge is reflected at the middle of the border pixels. So nothing but sums and
products of shifted maps is needed, at any size, and everything is differentiable. The rule is that
of `fusing.blending`, which works in NumPy and in pieces.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Map = Float[Array, "_ _ _ _"]


def depth(height: int, width: int) -> int:
    """Levels of detail that a picture has: its shorter side can be halved so often."""
    return min(height, width).bit_length() - 1


def shrunk(x: Map) -> Map:
    """Low-pass and every second line: (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), C)."""
    return _shrunk(_shrunk(x, 1), 2)


def expanded(x: Map, height: int, width: int) -> Map:
    """The partner of `shrunk`: (B, ceil(H/2), ceil(W/2), C) -> (B, H, W, C).

    Args:
        x: the smaller map.
        height: rows of the result, twice those of `x` or one less.
        width: columns of the result, likewise.

    Raises:
        ValueError: `x` is no map of half that size.
    """
    if x.shape[1:3] != ((height + 1) // 2, (width + 1) // 2):
        raise ValueError(f"a map of {x.shape[1:3]} is not half of {(height, width)}")
    return _expanded(_expanded(x, 1, height), 2, width)


def blend(
    images: Sequence[Map], weights: Float[Array, "b h w n"], levels: int | None = None
) -> Map:
    """Images blended: the details of every scale under the weights of that scale.

    Args:
        images: n maps of one shape, one or two of them the same or more.
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


def _shrunk(x: Map, axis: int) -> Map:
    """Along one axis."""
    length = x.shape[axis]
    if length == 1:
        return x
    half = (length + 1) // 2
    # Even and odd lines apart: 1 4 6 4 1 takes three of the one and two of the other.
    even, odd = _lines(x, axis, 0), _lines(x, axis, 1)
    # Beyond the last odd line comes its mirror image where the last line is even.
    if length % 2:
        odd = _joined(axis, odd, _one(odd, axis, -1))
        after = _one(even, axis, -2)
    else:
        after = _one(even, axis, -1)
    before = _one(even, axis, 1 if half > 1 else 0)
    wide = _joined(axis, before, even, after)
    outer = lax.slice_in_dim(wide, 0, half, axis=axis) + lax.slice_in_dim(
        wide, 2, half + 2, axis=axis
    )
    earlier = _joined(axis, _one(odd, axis, 0), lax.slice_in_dim(odd, 0, half - 1, axis=axis))
    return (6 * even + 4 * (earlier + odd) + outer) / 16


def _expanded(x: Map, axis: int, length: int) -> Map:
    """Along one axis: the last line stands for two, the first one for itself."""
    half = x.shape[axis]
    before = _joined(
        axis, _one(x, axis, min(1, half - 1)), lax.slice_in_dim(x, 0, half - 1, axis=axis)
    )
    after = _joined(axis, lax.slice_in_dim(x, 1, half, axis=axis), _one(x, axis, -1))
    even, odd = (before + after) / 8 + 0.75 * x, (x + after) / 2
    large = jnp.stack([even, odd], axis + 1)
    large = large.reshape(*x.shape[:axis], 2 * half, *x.shape[axis + 1 :])
    return lax.slice_in_dim(large, 0, length, axis=axis)


def _lines(x: Map, axis: int, first: int) -> Map:
    return lax.slice_in_dim(x, first, x.shape[axis], 2, axis)


def _one(x: Map, axis: int, index: int) -> Map:
    index %= x.shape[axis]
    return lax.slice_in_dim(x, index, index + 1, axis=axis)


def _joined(axis: int, *parts: Map) -> Map:
    return jnp.concatenate(parts, axis)
