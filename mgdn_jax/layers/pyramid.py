"""Laplacian pyramids as pure functions: sources blended detail by detail, under their weights.

Burt and Adelson (1983): a map is shrunk by the taps 1 4 6 4 1 and expanded by the same ones. What
stands beyond the edge is reflected at the middle of the border pixels. Both are products with a
matrix along each axis, at any size: most of it is nought, but the gradient of sums of shifted maps
takes a compiler minutes. The rule is that of `fusing.blending`, which works in NumPy and in pieces.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from mgdn_jax.layers import forms

_MOST_LEVELS = 15
"""Of detail where sizes may be symbols: sides of 65535 pixels have no more."""
_WRITTEN_OUT = 3
"""Of these; all beyond share one loop, whose maps have an eighth of the sides."""

Map = Float[Array, "_ _ _ _"]


def depth(height: int, width: int) -> int:
    """Levels of detail that a picture has: its shorter side can be halved so often."""
    return min(height, width).bit_length() - 1


def along(matrix: np.ndarray | Array, x: Map, axis: int) -> Map:
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
    if forms.are_compact():
        return _shrunk_to(x, _halved(x.shape[1:3]), _lengths(x.shape[1:3]), replicated)
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
    if x.shape[1:3] != _halved((height, width)):
        raise ValueError(f"a map of {x.shape[1:3]} is not half of {(height, width)}")
    if forms.are_compact():
        return _expanded_to(x, (height, width), _lengths((height, width)), replicated)
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
    if levels is not None and levels < 0:
        raise ValueError(f"levels must not be negative, got {levels}")
    if forms.has_symbols(shape[1:3]):
        return _blended(images, weights, _MOST_LEVELS if levels is None else levels)
    most = depth(*shape[1:3])
    levels = most if levels is None else min(levels, most)
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


def _blended(images: Sequence[Map], weights: Array, levels: int) -> Map:
    """`blend` where sizes may be symbols: which levels there are is known when it runs.

    The first level that is not there blends what is left as one; those beyond it are not used.
    """
    count = len(images)
    channels = count * images[0].shape[-1]
    lengths = _lengths(images[0].shape[1:3])
    side = jnp.minimum(*lengths)

    def apart(stack: Map, lengths: Lengths, level: Any, size: tuple[int, ...]) -> Any:
        """What is left of the maps, and the details of this level, if there is such a level."""
        is_there = side >= jnp.left_shift(2, level)
        small = _shrunk_to(stack, size, lengths)
        large = _expanded_to(small[..., :channels], stack.shape[1:3], lengths)
        return small, (_mixed(stack, count, jnp.where(is_there, large, 0)), lengths, is_there)

    def together(fused: Map, part: tuple[Map, Lengths, Array]) -> tuple[Map, None]:
        detail, lengths, is_there = part
        coarse = _expanded_to(fused, detail.shape[1:3], lengths)
        return detail + jnp.where(is_there, coarse, 0), None

    def step(carry: tuple[Map, Lengths], level: Array) -> Any:
        stack, lengths = carry
        small, part = apart(stack, lengths, level, stack.shape[1:3])
        return (small, _halved(lengths)), part

    stack, parts, loop = jnp.concatenate([*images, weights], -1), [], None
    for level in range(min(levels, _WRITTEN_OUT)):
        stack, part = apart(stack, lengths, level, _halved(stack.shape[1:3]))
        lengths = _halved(lengths)
        parts.append(part)
    if levels > _WRITTEN_OUT:
        rest = jnp.arange(_WRITTEN_OUT, levels)
        (stack, _), loop = lax.scan(step, (stack, lengths), rest)
    fused = _mixed(stack, count)
    if loop is not None:
        fused, _ = lax.scan(together, fused, loop, reverse=True)
    for part in reversed(parts):
        fused, _ = together(fused, part)
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


Lengths = tuple[Any, Any]
"""Rows and columns that count, numbers or known when a program runs; what lies beyond has no
meaning."""


def _lengths(size: tuple[int, ...]) -> Lengths:
    if forms.are_plain() and not forms.has_symbols(size):
        return size[0], size[1]  # converters are no good at whole numbers
    return jnp.asarray(size[0]), jnp.asarray(size[1])


def _halved(size: Any) -> tuple[Any, Any]:
    return (size[0] + 1) // 2, (size[1] + 1) // 2


def _shrunk_to(
    x: Map, size: tuple[int, ...], lengths: Lengths, replicated: bool = False
) -> Float[Array, "_ _ _ _"]:
    """`shrunk`, in a map of at least the new size."""
    offsets, taps = np.arange(-2, 3)[None], np.array([[1, 4, 6, 4, 1]], np.float32) / 16
    for axis, lines, length in zip((1, 2), size, lengths, strict=True):
        xp: Any = np if isinstance(length, int) else jnp
        places, last = 2 * xp.arange(lines)[:, None] + offsets, length - 1
        if not replicated:  # `_reflected`
            places = places % xp.maximum(2 * last, 1)
            places = xp.minimum(places, 2 * last - places)
        x = along(_matrix(places, taps, x.shape[axis], last), x, axis)
    return x


def _expanded_to(
    x: Map, size: tuple[int, ...], lengths: Lengths, replicated: bool = False
) -> Float[Array, "_ _ _ _"]:
    """`expanded`, in a map of at least the new size."""
    offsets = np.array([[-1, 0, 1]])
    even, odd = np.array([[0.125, 0.75, 0.125]], np.float32), np.array([[0, 0.5, 0.5]], np.float32)
    for axis, lines, length in zip((1, 2), size, lengths, strict=True):
        xp: Any = np if isinstance(length, int) else jnp
        line = xp.arange(lines)[:, None]
        places, taps = line // 2 + offsets, xp.where(line % 2 == 1, odd, even)
        places = places if replicated else xp.abs(places)
        x = along(_matrix(places, taps, x.shape[axis], (length + 1) // 2 - 1), x, axis)
    return x


def _matrix(places: Any, taps: Any, columns: int, last: Any) -> Float[Array, "lines columns"]:
    """A matrix with taps at places along its lines, (lines, n) both; none beyond the last place.

    It is worked out in the program, where it would take much room as a constant.
    """
    xp: Any = np if isinstance(places, np.ndarray) else jnp
    column = jnp.arange(columns)[None, None]
    is_there = jnp.asarray(xp.clip(places, 0, last), jnp.int32)[..., None] == column
    return jnp.sum(jnp.where(is_there, jnp.asarray(taps)[..., None], 0.0), 1)


def _reflected(position: int, length: int) -> int:
    """A position on an axis that is reflected at the middle of its last positions."""
    if length == 1:
        return 0
    position %= 2 * length - 2
    return min(position, 2 * length - 2 - position)
