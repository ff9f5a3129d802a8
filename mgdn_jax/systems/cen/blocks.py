"""Blocks of the published segmentation network: bottlenecks that exchange, chains of pools.

All branches run the same convolutions, so these take their maps one after another along the batch:
(M B, H, W, C) for M branches of B examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from mgdn_jax.layers.channel_exchange import ChannelExchange, PrivateNorm
from mgdn_jax.layers.conv import Conv2d, fan_in_uniform
from mgdn_jax.layers.mode import Mode

Maps = Float[Array, "b h w c"]

_DIMS = ("NHWC", "HWIO", "NHWC")


def together(maps: Sequence[Maps]) -> Maps:
    """Maps of all branches as one batch."""
    return jnp.concatenate(maps)


def apart(maps: Maps, branches: int) -> list[Maps]:
    """Inverse of `together`."""
    return jnp.split(maps, branches)


def ensemble(outputs: Sequence[Array], shares: Float[Array, " m"]) -> Array:
    """Mean of the branches' outputs by their shares; the outputs get no gradient from it."""
    parts = [share * lax.stop_gradient(y) for share, y in zip(shares, outputs, strict=True)]
    return sum(parts[1:], parts[0])


class StridedConv2d(nnx.Module):
    """Dense convolution without bias, zero padding of half the kernel, stride in pixels."""

    def __init__(
        self, in_features: int, out_features: int, size: int, stride: int, *, rngs: nnx.Rngs
    ):
        self.stride = stride
        shape = (size, size, in_features, out_features)
        self.kernel = nnx.Param(fan_in_uniform(rngs, shape, in_features * size**2))

    def __call__(self, x: Maps) -> Maps:
        """(B, H, W, i) -> (B, ceil(H / stride), ceil(W / stride), o)."""
        kernel = self.kernel[...].astype(x.dtype)
        pad = kernel.shape[0] // 2
        strides, pads = (self.stride, self.stride), [(pad, pad), (pad, pad)]
        return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_DIMS)


def convolution(i: int, o: int, size: int, stride: int = 1, *, rngs: nnx.Rngs) -> nnx.Module:
    """A convolution without bias."""
    if stride == 1:
        return Conv2d(i, o, size, use_bias=False, rngs=rngs)
    return StridedConv2d(i, o, size, stride, rngs=rngs)


class Normed(nnx.Module):
    """A shared convolution, then a batch norm for each branch, which may exchange."""

    def __init__(
        self,
        i: int,
        o: int,
        size: int,
        stride: int = 1,
        *,
        branches: int,
        exchange: ChannelExchange | None = None,
        rngs: nnx.Rngs,
    ):
        self.branches, self.exchange = branches, exchange
        self.conv = convolution(i, o, size, stride, rngs=rngs)
        self.norm = PrivateNorm(o, branches)

    def __call__(self, x: Maps, mode: Mode) -> Maps:
        """Maps of all branches, along the batch, before the activation."""
        maps = apart(self.conv(x), self.branches)
        return together(self.norm(maps, mode, self.exchange))


class Bottleneck(nnx.Module):
    """1x1, 3x3 with the stride, 1x1 to four times the channels, beside a shortcut.

    Channels are exchanged after the norm of the 3x3 convolution.
    """

    expansion = 4

    def __init__(
        self,
        i: int,
        features: int,
        stride: int = 1,
        *,
        branches: int = 2,
        exchange: ChannelExchange | None,
        rngs: nnx.Rngs,
    ):
        o = self.expansion * features
        self.enter = Normed(i, features, 1, branches=branches, rngs=rngs)
        self.middle = Normed(
            features, features, 3, stride, branches=branches, exchange=exchange, rngs=rngs
        )
        self.leave = Normed(features, o, 1, branches=branches, rngs=rngs)
        plain = stride == 1 and i == o
        self.shortcut = None if plain else Normed(i, o, 1, stride, branches=branches, rngs=rngs)

    def __call__(self, x: Maps, mode: Mode) -> Maps:
        """(M B, H, W, i) -> (M B, ceil(H / stride), ceil(W / stride), 4 features)."""
        y = jax.nn.relu(self.enter(x, mode))
        y = jax.nn.relu(self.middle(y, mode))
        y = self.leave(y, mode)
        return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut(x, mode)))


class ResidualUnits(nnx.Module):
    """Residual convolution units (RCU): two 3x3 convolutions, each after a ReLU, beside relu(x).

    The published ReLU works in place, so that what is added is what it has left: relu(x), not x.
    """

    def __init__(self, features: int, count: int, *, rngs: nnx.Rngs):
        self.first = nnx.List([Conv2d(features, features, 3, rngs=rngs) for _ in range(count)])
        self.second = nnx.List(
            [Conv2d(features, features, 3, use_bias=False, rngs=rngs) for _ in range(count)]
        )

    def __call__(self, x: Maps) -> Maps:
        """Maps of the same shape."""
        for first, second in zip(self.first, self.second, strict=True):
            x = jax.nn.relu(x)
            x = second(jax.nn.relu(first(x))) + x
        return x


class ChainedPool(nnx.Module):
    """Chained residual pooling (CRP): 5x5 maxima and 3x3 convolutions in a row, all added to x."""

    def __init__(self, features: int, count: int, *, rngs: nnx.Rngs):
        self.convs = nnx.List(
            [Conv2d(features, features, 3, use_bias=False, rngs=rngs) for _ in range(count)]
        )

    def __call__(self, x: Maps) -> Maps:
        """Maps of the same shape."""
        top = x
        for conv in self.convs:
            top = conv(largest(top, 5))
            x = x + top
        return x


def largest(x: Maps, size: int, stride: int = 1) -> Maps:
    """Maximum over windows of an odd size, with nothing beyond the border."""
    pad = size // 2
    pads = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    sizes, strides = (1, size, size, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, sizes, strides, pads)
