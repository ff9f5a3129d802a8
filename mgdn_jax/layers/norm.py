"""Normalisations with PyTorch's conventions: epsilon 1e-5, biased variance, an affine map after.

They differ in what shares a mean and a variance:

    instance    a channel of an example          group    some channels of an example
    layer       all channels of an example       batch    a channel of all examples
    mixed       a learned mixture of batch and layer, channel by channel

All are computed from the moments of single channels, which are gathered once, in two passes.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from mgdn_jax.layers.mode import EVAL, Mode

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
    """Moments of the union of equally large parts from their own, over one axis."""
    whole = jnp.mean(mean, axis, keepdims=True)
    return whole, jnp.mean(variance + jnp.square(mean - whole), axis, keepdims=True)


class _Affine(nnx.Module):
    def __init__(self, features: int):
        self.scale = nnx.Param(jnp.ones((features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features,), jnp.float32))

    def _normal(self, wide: Array, mean: Array, variance: Array) -> Array:
        slope = lax.rsqrt(variance + EPSILON) * self.scale[...]
        return (wide - mean) * slope + self.bias[...]


class GroupNorm(_Affine):
    """Group normalisation; ``groups`` is 1 for layer and ``features`` for instance norm.

    Statistics are of the whole image, so a tile has others.
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

    In training it normalises by the batch (across the devices of ``mode.axis_name``, so that a
    run does not depend on how a batch is laid out) and moves its running moments,
    ``running <- momentum * running + (1 - momentum) * batch``; else it normalises by those.
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
            return self._normal(wide, self.mean[...], self.variance[...]).astype(x.dtype)
        mean, variance = _pooled(*_channel_moments(wide, mode), 0)
        count = x.shape[0] * x.shape[1] * x.shape[2]
        if mode.axis_name is not None:
            own, mean = mean, lax.pmean(mean, mode.axis_name)
            variance = lax.pmean(variance + jnp.square(own - mean), mode.axis_name)
            count *= lax.axis_size(mode.axis_name)
        unbiased = variance * (count / max(count - 1, 1))
        for running, value in ((self.mean, mean), (self.variance, unbiased)):
            value = lax.stop_gradient(value.reshape(-1)).astype(running[...].dtype)
            running.set_value(self.momentum * running[...] + (1 - self.momentum) * value)
        return self._normal(wide, mean, variance).astype(x.dtype)


class MixedNorm(nnx.Module):
    """``scale * (w batch(x) + (1 - w) layer(x)) + bias`` with a learned w a channel, 1 at first."""

    def __init__(self, features: int):
        self.batch = BatchNorm(features)
        self.layer = GroupNorm(features, 1)
        self.weight = nnx.Param(jnp.ones((features,), jnp.float32))
        self.scale = nnx.Param(jnp.ones((features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features,), jnp.float32))

    def __call__(self, x: Maps, mode: Mode = EVAL) -> Maps:
        """Normalise in float32 or wider and return the dtype of ``x``."""
        wide, w = _wide(x), self.weight[...]
        mixed = w * self.batch(wide, mode) + (1 - w) * self.layer(wide, mode)
        return (self.scale[...] * mixed + self.bias[...]).astype(x.dtype)


def make_norm(kind: str, features: int, groups: int = 1) -> Any:
    """A norm by name.

    Args:
        kind: one of `NORMS`.
        features: channels.
        groups: of ``"group"``; lowered to 1 where there are fewer channels than groups.

    Raises:
        ValueError: an unknown name, or groups that do not divide the channels.
    """
    if kind == "batch":
        return BatchNorm(features)
    if kind == "mixed":
        return MixedNorm(features)
    known = {"instance": features, "layer": 1, "group": groups if features >= groups else 1}
    if kind not in known:
        raise ValueError(f"norm is one of {', '.join(NORMS)}, got {kind!r}")
    return GroupNorm(features, known[kind])


def fold_batch_norm(
    kernel: Float[Array, "kh kw i o"],
    scale: Float[Array, " o"],
    bias: Float[Array, " o"],
    mean: Float[Array, " o"],
    variance: Float[Array, " o"],
) -> tuple[Float[Array, "kh kw i o"], Float[Array, " o"]]:
    """``(kernel, bias)`` of the one convolution that equals a bias-free one and its batch norm.

    ``K' = K scale / sqrt(variance + eps)``, ``b' = bias - mean scale / sqrt(variance + eps)``.
    """
    factor = scale * lax.rsqrt(variance + EPSILON)
    return kernel * factor, bias - mean * factor
