"""Normalisations with PyTorch's conventions: epsilon 1e-5, biased variance, an affine map after.

They differ in what shares a mean and a variance:

    instance    a channel of an example          group    some channels of an example
    layer       all channels of an example       batch    a channel of all examples
    mixed       a learned mixture of batch and layer, channel by channel

All are computed from the moments of single channels, which are taken once, in two passes.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from mgdn_jax.layers.mode import EVAL, Mode
from mgdn_jax.layers.padding import match_rank

EPSILON = 1e-5
NORMS = ("instance", "group", "layer", "batch", "mixed")

Maps = Float[Array, "b h w c"]


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _channel_moments(x: Array, mode: Mode) -> tuple[Array, Array]:
    """Mean and biased variance of every channel of every example, (b, 1, 1, c) each."""
    mean = mode.mean(x)
    return mean, mode.mean(jnp.square(x - mean))


def _pooled(mean: Array, variance: Array, axis: int) -> tuple[Array, Array]:
    """Mean and variance of a whole from those of its equal parts, which lie along an axis."""
    whole = jnp.mean(mean, axis, keepdims=True)
    return whole, jnp.mean(variance + jnp.square(mean - whole), axis, keepdims=True)


class _Affine(nnx.Module):
    def __init__(self, features: int):
        self.scale = nnx.Param(jnp.ones((features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features,), jnp.float32))

    def _normal(self, wide: Array, mean: Array, variance: Array) -> Array:
        inverse = lax.rsqrt(variance + EPSILON)
        slope = inverse * match_rank(self.scale[...], inverse)
        return (wide - mean) * slope + match_rank(self.bias[...], wide)


class GroupNorm(_Affine):
    """Group normalisation; with 1 group it is layer norm, with ``features`` groups instance norm.

    It takes its statistics from the whole image, so a tile has others.
    """

    def __init__(self, features: int, groups: int):
        if groups < 1 or features % groups:
            raise ValueError(f"features ({features}) must be divisible by groups ({groups})")
        super().__init__(features)
        self.groups = groups

    def __call__(self, x: Maps, mode: Mode = EVAL) -> Maps:
        """Normalise in float32 or wider and return the dtype of ``x``."""
        wide = _wide(x)
        b, c = x.shape[0], x.shape[-1]
        mean, variance = (m.reshape(b, self.groups, -1) for m in _channel_moments(wide, mode))
        moments = (
            jnp.broadcast_to(m, (b, self.groups, c // self.groups)).reshape(b, 1, 1, c)
            for m in _pooled(mean, variance, -1)
        )
        return self._normal(wide, *moments).astype(x.dtype)


class BatchNorm(_Affine):
    """Batch normalisation as PyTorch's: the running variance is the unbiased one.

    In training it normalises by the moments of the batch, across the devices of
    ``mode.axis_name``, so that a run does not depend on how a batch is laid out. It then moves its
    running moments, ``running <- momentum * running + (1 - momentum) * batch``. In use it
    normalises by the running moments.
    """

    def __init__(self, features: int, momentum: float = 0.9):
        super().__init__(features)
        self.momentum = momentum
        self.mean = nnx.BatchStat(jnp.zeros((features,), jnp.float32))
        self.variance = nnx.BatchStat(jnp.ones((features,), jnp.float32))

    def __call__(self, x: Maps, mode: Mode = EVAL) -> Maps:
        """Normalise in float32 or wider and return the dtype of ``x``."""
        wide = _wide(x)
        if not mode.training:
            mean, variance = (match_rank(v[...], wide) for v in (self.mean, self.variance))
            return self._normal(wide, mean, variance).astype(x.dtype)
        mean, variance = _pooled(*_channel_moments(wide, mode), 0)
        count = x.shape[0] * x.shape[1] * x.shape[2]
        if mode.axis_name is not None:
            local_mean, mean = mean, lax.pmean(mean, mode.axis_name)
            variance = lax.pmean(variance + jnp.square(local_mean - mean), mode.axis_name)
            count *= lax.axis_size(mode.axis_name)
        unbiased = variance * (count / max(count - 1, 1))
        for running, value in ((self.mean, mean), (self.variance, unbiased)):
            value = lax.stop_gradient(value.reshape(-1)).astype(running[...].dtype)
            running.set_value(self.momentum * running[...] + (1 - self.momentum) * value)
        return self._normal(wide, mean, variance).astype(x.dtype)


class MixedNorm(nnx.Module):
    """``scale * (w batch(x) + (1 - w) layer(x)) + bias``; each channel learns its w, at first 1."""

    def __init__(self, features: int):
        self.batch = BatchNorm(features)
        self.layer = GroupNorm(features, 1)
        self.weight = nnx.Param(jnp.ones((features,), jnp.float32))
        self.scale = nnx.Param(jnp.ones((features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features,), jnp.float32))

    def __call__(self, x: Maps, mode: Mode = EVAL) -> Maps:
        """Normalise in float32 or wider and return the dtype of ``x``."""
        wide = _wide(x)
        w, scale, bias = (match_rank(v[...], wide) for v in (self.weight, self.scale, self.bias))
        mixed = w * self.batch(wide, mode) + (1 - w) * self.layer(wide, mode)
        return (scale * mixed + bias).astype(x.dtype)


def make_norm(kind: str, features: int, groups: int = 1) -> Any:
    """A norm by name.

    Args:
        kind: one of `NORMS`.
        features: channels.
        groups: of ``"group"``; lowered to 1 where there are fewer channels than groups.

    Returns:
        A module ``(x, mode) -> x``.

    Raises:
        ValueError: an unknown name, or groups that do not divide the channels.
    """
    if kind == "batch":
        return BatchNorm(features)
    if kind == "mixed":
        return MixedNorm(features)
    group_counts = {"instance": features, "layer": 1, "group": groups if features >= groups else 1}
    if kind not in group_counts:
        raise ValueError(f"norm is one of {', '.join(NORMS)}, got {kind!r}")
    return GroupNorm(features, group_counts[kind])


def fold_batch_norm(
    kernel: Float[Array | np.ndarray, "kh kw i o"],
    scale: Float[Array | np.ndarray, " o"],
    bias: Float[Array | np.ndarray, " o"],
    mean: Float[Array | np.ndarray, " o"],
    variance: Float[Array | np.ndarray, " o"],
) -> tuple[Float[Array, "kh kw i o"], Float[Array, " o"]]:
    """A convolution without bias and the batch norm after it, as one convolution.

    ``K' = K scale / sqrt(variance + eps)``, ``b' = bias - mean scale / sqrt(variance + eps)``.

    Args:
        kernel: K, HWIO.
        scale: of the norm.
        bias: of the norm.
        mean: running mean of the norm.
        variance: running variance of the norm.

    Returns:
        ``(K', b')``.
    """
    factor = jnp.asarray(scale) * lax.rsqrt(variance + EPSILON)
    return jnp.asarray(kernel) * match_rank(factor, kernel), jnp.asarray(bias) - mean * factor
