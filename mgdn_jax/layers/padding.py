"""Shapes of maps: how maps grow beyond the images in them, and what of them is image."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from mgdn_jax.layers import forms

Extent = Int[Array, "b 2"] | None
"""Height and width of the image in the upper left corner of each example's map. The pixels beyond
are padding that must not matter, so that one compiled program serves many sizes. None says that the
images fill their maps."""


def ceil_div(a: int, b: int) -> int:
    """``a / b`` rounded up, for a positive ``b``."""
    return -(-a // b)


def match_rank(x: Array | np.ndarray, like: Array | np.ndarray) -> Array:
    """``x`` with leading axes of length 1, so that it has as many axes as ``like``.

    It makes broadcasting explicit, which JAX may be told to insist on: ``y + match_rank(bias, y)``.
    """
    return jnp.expand_dims(x, tuple(range(like.ndim - x.ndim)))


def within(x: Array, extent: Int[Array, "b 2"]) -> Bool[Array, "b h w 1"]:
    """Whether a pixel of a map (N, H, W, C) lies in its image."""
    row, column = jnp.arange(x.shape[1])[None, :, None], jnp.arange(x.shape[2])[None, None]
    return ((row < extent[:, 0, None, None]) & (column < extent[:, 1, None, None]))[..., None]


def zeroed(x: Array | np.ndarray, extent: Extent) -> Array:
    """The map with zeros outside its images, whatever stood there (infinities, too)."""
    x = jnp.asarray(x)
    return x if extent is None else jnp.where(within(x, extent), x, 0)


def replicated(x: Array, extent: Extent) -> Array:
    """The map whose pixels outside its images repeat the nearest pixel of the image."""
    if extent is None:
        return x

    def repeat_last(x: Array, size: Array) -> Array:
        for axis in (0, 1):
            n, place = size[axis], jnp.arange(x.shape[axis])
            last = jax.lax.dynamic_slice_in_dim(x, n - 1, 1, axis)
            x = jnp.where(jnp.expand_dims(place < n, (1 - axis, 2)), x, last)
        return x

    return jax.vmap(repeat_last)(x, extent)


def pad_to_multiple(x: Array, multiple: int) -> Array:
    """An NHWC map grown at the bottom and right, by reflection, to the next multiple.

    The edge pixel is not repeated, unless a side is too short to reflect: then its edge fills what
    is missing, so that any size passes.
    """
    for axis in (1, 2):
        n = x.shape[axis]
        if forms.are_whole() and multiple > 1:
            places = jnp.arange(ceil_div(n, multiple) * multiple)
            x = jnp.take(x, _sources(places, jnp.asarray(n), multiple), axis=axis, mode="clip")
            continue
        grow = -n % multiple
        if grow:
            widths = [(0, 0)] * x.ndim
            widths[axis] = (0, grow)
            x = jnp.pad(x, widths, mode="reflect" if grow < n else "edge")
    return x


def reflected(x: Array) -> Array:
    """An NHWC map with a frame of one reflected pixel; a side of one pixel sees itself beyond."""
    if not forms.are_whole():
        return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    for axis in (1, 2):
        last = jnp.asarray(x.shape[axis]) - 1
        places = jnp.abs(jnp.arange(-1, x.shape[axis] + 1))
        places = jnp.where(places > last, 2 * last - places, places)
        x = jnp.take(x, jnp.clip(places, 0, last), axis=axis, mode="clip")
    return x


def fill_to_multiple(x: Array, extent: Array, multiple: int) -> Array:
    """`pad_to_multiple` of the images in the upper left corners of larger maps.

    Args:
        x: NHWC maps with H and W multiples of ``multiple``.
        extent: (N, 2) height and width of each image.
        multiple: of what the images become multiples, in height and width.

    Returns:
        The maps, the images in them grown; beyond those, copies of their pixels.
    """

    def fill(x: Array, size: Array) -> Array:
        for axis in (0, 1):
            places = jnp.arange(x.shape[axis])
            x = jnp.take(x, _sources(places, size[axis], multiple), axis=axis)
        return x

    return jax.vmap(fill)(x, extent)


def _sources(places: Array, n: Array, multiple: int) -> Array:
    """Where `pad_to_multiple` takes each place along an axis of n pixels from."""
    mirrored = jnp.where(-n % multiple < n, 2 * (n - 1) - places, n - 1)
    return jnp.clip(jnp.where(places < n, places, mirrored), 0, n - 1)
