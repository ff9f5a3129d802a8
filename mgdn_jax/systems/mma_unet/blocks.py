"""What MMA-UNet is made of: gates, attention, maps joined across levels, ways up."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgdn_jax.layers.conv import (
    Conv2d,
    channel_conv,
    conv2d,
    fan_in_uniform,
    pointwise,
)
from mgdn_jax.layers.mode import EVAL, Mode
from mgdn_jax.layers.padding import match_rank
from mgdn_jax.layers.scales import DoubleConv, average_pool, channels_to_blocks

Maps = Float[Array, "b h w c"]
PerChannel = Float[Array, "b 1 1 c"]


def _mean(x: Maps) -> PerChannel:
    return jnp.mean(x, (1, 2), keepdims=True)


class Projection(nnx.Module):
    """Linear map of the channels, initialised as PyTorch does; weights ``(in, out)``."""

    def __init__(self, in_features: int, out_features: int, *, use_bias: bool, rngs: nnx.Rngs):
        shape = (in_features, out_features)
        self.kernel = nnx.Param(fan_in_uniform(rngs, shape, in_features))
        bias = nnx.Param(fan_in_uniform(rngs, (out_features,), in_features)) if use_bias else None
        self.bias: Any = bias

    def __call__(self, x: Maps) -> Float[Array, "b h w o"]:
        """Map; computes in the dtype of ``x``."""
        y = pointwise(x, self.kernel[...].astype(x.dtype))
        return y if self.bias is None else y + match_rank(self.bias[...].astype(x.dtype), y)


class Bottleneck(nnx.Module):
    """``sigmoid(W2 relu(W1 mean(x)))``: one number in (0, 1) for each channel of maps.

    Args:
        features: channels.
        reduction: how many times fewer channels there are between both projections; one at least.
        use_bias: whether both have a bias.
        rngs: of the weights.
    """

    def __init__(self, features: int, reduction: int, *, use_bias: bool, rngs: nnx.Rngs):
        narrow = max(features // reduction, 1)
        self.squeeze = Projection(features, narrow, use_bias=use_bias, rngs=rngs)
        self.expand = Projection(narrow, features, use_bias=use_bias, rngs=rngs)

    def __call__(self, x: Maps) -> PerChannel:
        """What the channels are to be multiplied by."""
        return jax.nn.sigmoid(self.expand(jax.nn.relu(self.squeeze(_mean(x)))))


class Gate(Bottleneck):
    """The gate by which the visible maps of a level guide the infrared ones."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        super().__init__(features, 16, use_bias=False, rngs=rngs)


def channel_taps(features: int) -> int:
    """Taps along the channels: ``(log2 C + 1) / 2`` cut off to a whole number, odd upwards."""
    taps = int((math.log2(features) + 1) / 2)
    return taps + 1 - taps % 2


class ChannelAttention(nnx.Module):
    """``x sigmoid(k(mean) + k(max))``, k one convolution along the channels."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        count = channel_taps(features)
        self.taps = nnx.Param(fan_in_uniform(rngs, (count,), count))

    def __call__(self, x: Maps) -> Maps:
        """Transform."""
        taps = self.taps[...].astype(x.dtype)
        largest = jnp.max(x, (1, 2), keepdims=True)
        return x * jax.nn.sigmoid(channel_conv(_mean(x), taps) + channel_conv(largest, taps))


class SpatialChannelAttention(nnx.Module):
    """The larger of the maps gated channel by channel and the maps gated pixel by pixel.

    Where a value is negative, that is the one with the smaller gate.
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.channels = Bottleneck(features, 2, use_bias=True, rngs=rngs)
        self.pixels = Conv2d(features, 1, 1, rngs=rngs)

    def __call__(self, x: Maps) -> Maps:
        """Transform."""
        return jnp.maximum(x * self.channels(x), x * jax.nn.sigmoid(self.pixels(x)))


class Join(nnx.Module):
    """Visible maps of a level with the infrared maps of the next one, and attention to the sum.

    Args:
        features: channels C of the visible maps; the infrared ones have 2 C.
        attention: the kind of attention.
        rngs: of the weights.
    """

    def __init__(self, features: int, attention: type, *, rngs: nnx.Rngs):
        self.project = Conv2d(features, 2 * features, 1, rngs=rngs)
        self.attention = attention(2 * features, rngs=rngs)

    def __call__(self, visible: Maps, infrared: Float[Array, "b h2 w2 2*c"]) -> Array:
        """Maps of the shape of the infrared ones, which have half the (rounded) sides."""
        return self.attention(infrared + self.project(average_pool(visible)))


class TransposedDoubling(nnx.Module):
    """Transposed 2x2 convolution of stride 2: twice the size, half the channels.

    Weights are (2, 2, in, out): ``y[2 r + i, 2 s + j] = x[r, s] W[i, j] + bias``.
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        half = features // 2
        self.kernel = nnx.Param(fan_in_uniform(rngs, (2, 2, features, half), 4 * half))
        self.bias = nnx.Param(fan_in_uniform(rngs, (half,), 4 * half))

    def __call__(self, x: Maps) -> Float[Array, "b h2 w2 o"]:
        """Transform."""
        c = x.shape[-1]
        kernel = self.kernel[...].astype(x.dtype).transpose(2, 0, 1, 3).reshape(c, 2 * c)
        y = channels_to_blocks(pointwise(x, kernel), 2)
        return y + match_rank(self.bias[...].astype(x.dtype), y)


class ShuffledDoubling(nnx.Module):
    """3x3 convolution without bias to twice the channels, which become 2x2 pixels (sub-pixels).

    Channel ``4 c + 2 i + j`` of the convolution is channel c of the pixel (i, j).
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.conv = Conv2d(features, 2 * features, 3, use_bias=False, rngs=rngs)

    def __call__(self, x: Maps) -> Float[Array, "b h2 w2 o"]:
        """Transform: twice the size, half the channels."""
        kernel = self.conv.kernel[...].astype(x.dtype)
        # The channels of a pixel lie together then, and maps move in larger pieces.
        sorted_kernel = kernel.reshape(*kernel.shape[:3], -1, 4).swapaxes(3, 4)
        return channels_to_blocks(conv2d(x, sorted_kernel.reshape(kernel.shape)), 2)


class Up(nnx.Module):
    """One level up: maps at twice their size beside those that were there on the way down.

    Args:
        features: channels C of the maps; the others, and the result, have C / 2.
        doubling: how maps grow, `TransposedDoubling` or `ShuffledDoubling`.
        momentum: of the running statistics.
        rngs: of the weights.
    """

    def __init__(self, features: int, doubling: type, *, momentum: float, rngs: nnx.Rngs):
        self.grow = doubling(features, rngs=rngs)
        self.double = DoubleConv(
            features, features // 2, momentum=momentum, use_bias=False, rngs=rngs
        )

    def __call__(
        self, x: Maps, skip: Float[Array, "b h2 w2 o"], mode: Mode = EVAL
    ) -> Float[Array, "b h2 w2 o"]:
        """Maps of the size of ``skip``; where doubled ones are smaller, zeros surround them."""
        grown = framed(self.grow(x), skip)
        return self.double(jnp.concatenate([skip, grown], -1), mode)


def framed(x: Maps, like: Float[Array, "b h2 w2 c"]) -> Float[Array, "b h2 w2 c"]:
    """Maps in the middle of zeros, as large as others; an odd line of zeros comes after."""
    lacks = [n - m for n, m in zip(like.shape[1:3], x.shape[1:3], strict=True)]
    sides = [(lack // 2, lack - lack // 2) for lack in lacks]
    return jnp.pad(x, ((0, 0), *sides, (0, 0))) if any(lacks) else x
