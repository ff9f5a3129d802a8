"""A rule for exposures as logits: where a network that weighs them may start from."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from mgdn_jax.image import luminance
from mgdn_jax.layers import forms
from mgdn_jax.layers.padding import Extent, zeroed
from mgdn_jax.layers.pyramid import along

_WINDOW = 2.5  # deviation of the window in which structure is measured, in pixels
_POWER = 2.0  # of structure; below, many exposures are averaged more than chosen from
_GRAY = 0.3  # deviation of luminance around middle gray
_LEAST = 0.01, 0.001  # added to structure and to exposedness, so that nothing is ruled out


def rule_logits(
    images: Sequence[Float[Array, "b h w c"]], extent: Extent = None
) -> Float[Array, "b h w n"]:
    """Logarithms of weights by rule: structure squared, times how near to middle gray it lies.

    Structure is the deviation of luminance under a Gaussian window. In a Laplacian pyramid of full
    depth (`pyramid.blend`) the rule alone keeps more gradients than Mertens', and as much
    structure. The images get no gradient.

    Args:
        images: n exposures of one shape, C 1 or 3.
        extent: as networks take it; what lies beyond has no effect on what lies inside.
    """
    planes = jnp.concatenate([luminance(lax.stop_gradient(image)) for image in images], -1)
    height, width = planes.shape[1:3]
    inside = zeroed(jnp.ones((planes.shape[0], height, width, 1), planes.dtype), extent)
    planes = zeroed(planes, extent)
    maps = _smoothed(jnp.concatenate([planes, planes**2], -1))
    mean, square = jnp.split(maps / jnp.maximum(_smoothed(inside), 1e-6), 2, -1)
    structure = jnp.sqrt(jnp.maximum(square - mean**2, 0)) + _LEAST[0]
    exposedness = jnp.exp(-((planes - 0.5) ** 2) / (2 * _GRAY**2)) + _LEAST[1]
    return _POWER * jnp.log(structure) + jnp.log(exposedness)


def _smoothed(x: Array) -> Array:
    """Gaussian sums; beyond the edge there is nothing."""
    for axis in (1, 2):
        x = along(_gaussian(x.shape[axis]), x, axis)
    return x


def _gaussian(length: int) -> np.ndarray | Array:
    """(length, length), cut off at four deviations."""
    if forms.are_compact():
        reach = int(4 * _WINDOW)
        taps = np.exp(-(np.arange(reach + 2) ** 2) / (2 * _WINDOW**2)).astype(np.float32)
        taps[-1] = 0
        lines = jnp.arange(length)
        apart = jnp.abs(lines[:, None] - lines[None])
        return jnp.asarray(taps)[jnp.minimum(apart, reach + 1)]
    distance = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    matrix = np.exp(-(distance**2) / (2 * _WINDOW**2)) * (distance <= 4 * _WINDOW)
    return matrix.astype(np.float32)
