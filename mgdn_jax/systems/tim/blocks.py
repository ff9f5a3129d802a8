"""What TIM's networks have besides their primitives: stems, heads, scales and cells."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from mgdn_jax.layers.conv import (
    Conv2d,
    depthwise_inner,
    fan_in_uniform,
    reflected_conv,
)
from mgdn_jax.layers.mode import Mode
from mgdn_jax.layers.padding import reflected
from mgdn_jax.systems.tim.primitives import Norm, PReLU, primitive

Maps = Float[Array, "b h w c"]
_BINOMIAL = (1.0, 2.0, 1.0)


class Stem(nnx.Module):
    """Two 3x3 convolutions of a pair of maps, 2 -> 2 C -> C, each followed by a PReLU.

    Args:
        features: C.
        norm: whether the second one is normalised before its PReLU.
        rngs: of the weights.
    """

    def __init__(self, features: int, *, norm: bool, rngs: nnx.Rngs):
        self.wide = Conv2d(2, 2 * features, 3, rngs=rngs)
        self.wide_act = PReLU()
        self.narrow = Conv2d(2 * features, features, 3, rngs=rngs)
        self.norm = Norm(features) if norm else None
        self.act = PReLU()

    def __call__(self, first: Maps, second: Maps, mode: Mode) -> Maps:
        """(B, H, W, C) of two luminance maps."""
        x = self.wide_act(reflected_conv(self.wide, jnp.concatenate([first, second], -1)))
        x = reflected_conv(self.narrow, x)
        return self.act(x if self.norm is None else self.norm(x, mode))


class Head(nnx.Module):
    """Three convolutions to luminance, ``in -> C -> C / 2 -> 1``, without an output activation.

    Args:
        in_features: channels of the maps.
        features: C.
        act: whether a PReLU follows the first one; else all three are linear.
        rngs: of the weights.
    """

    def __init__(self, in_features: int, features: int, *, act: bool, rngs: nnx.Rngs):
        self.first = Conv2d(in_features, features, 3, rngs=rngs)
        self.act = PReLU() if act else None
        self.second = Conv2d(features, features // 2, 3, rngs=rngs)
        self.last = Conv2d(features // 2, 1, 1, rngs=rngs)

    def __call__(self, x: Maps) -> Maps:
        """(B, H, W, 1), not bounded."""
        x = reflected_conv(self.first, x)
        x = x if self.act is None else self.act(x)
        return self.last(reflected_conv(self.second, x))


def blurred_half(x: Maps) -> Maps:
    """Every second pixel after a binomial blur; odd sides are rounded up."""
    taps = jnp.asarray(_BINOMIAL, x.dtype) / 4
    kernel = jnp.broadcast_to(jnp.outer(taps, taps)[..., None, None], (3, 3, 1, x.shape[-1]))
    return depthwise_inner(reflected(x), kernel)[:, ::2, ::2]


class Down(nnx.Module):
    """Half the size and twice the channels: a convolved path and a plain one."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.enter = Conv2d(features, features, 1, use_bias=False, rngs=rngs)
        self.enter_act = PReLU()
        self.conv = Conv2d(features, features, 3, use_bias=False, rngs=rngs)
        self.act = PReLU()
        self.leave = Conv2d(features, 2 * features, 1, use_bias=False, rngs=rngs)
        self.plain = Conv2d(features, 2 * features, 1, use_bias=False, rngs=rngs)

    def __call__(self, x: Maps) -> Maps:
        """(B, H, W, C) to (B, ceil H / 2, ceil W / 2, 2 C)."""
        path = self.act(self.conv(self.enter_act(self.enter(x))))
        return self.leave(blurred_half(path)) + self.plain(blurred_half(x))


class TransposedConv(nnx.Module):
    """Transposed 3x3 convolution to twice the size, no bias; weights ``(3, 3, in, out)``."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        shape = (3, 3, features, features)
        self.kernel = nnx.Param(fan_in_uniform(rngs, shape, 9 * features))

    def __call__(self, x: Maps) -> Maps:
        """(B, H, W, C) to (B, 2 H, 2 W, C)."""
        kernel = jnp.flip(self.kernel[...].astype(x.dtype), (0, 1))
        return lax.conv_general_dilated(
            x, kernel, (1, 1), [(1, 2), (1, 2)], lhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip


class Up(nnx.Module):
    """Twice the size and half the channels: a convolved path and a bilinear one."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.enter = Conv2d(features, features, 1, use_bias=False, rngs=rngs)
        self.enter_act = PReLU()
        self.conv = TransposedConv(features, rngs=rngs)
        self.act = PReLU()
        self.leave = Conv2d(features, features // 2, 1, use_bias=False, rngs=rngs)
        self.plain = Conv2d(features, features // 2, 1, use_bias=False, rngs=rngs)

    def __call__(self, x: Maps) -> Maps:
        """(B, H, W, C) to (B, 2 H, 2 W, C / 2)."""
        b, h, w, c = x.shape
        path = self.act(self.conv(self.enter_act(self.enter(x))))
        larger = jax.image.resize(x, (b, 2 * h, 2 * w, c), "bilinear")
        return self.leave(path) + self.plain(larger)


class SelectiveFusion(nnx.Module):
    """SKFF: a softmax over maps, channel by channel, from the means of their sum."""

    def __init__(self, features: int, count: int, *, rngs: nnx.Rngs):
        narrow = max(features // 8, 4)
        self.squeeze = Conv2d(features, narrow, 1, use_bias=False, rngs=rngs)
        self.act = PReLU()
        self.gates = nnx.List(
            [Conv2d(narrow, features, 1, use_bias=False, rngs=rngs) for _ in range(count)]
        )

    def __call__(self, maps: Sequence[Maps], mode: Mode) -> Maps:
        """A weighted sum of the maps, of their shape."""
        squeezed = self.act(self.squeeze(mode.mean(sum(maps[1:], maps[0]))))
        gates = jax.nn.softmax(jnp.stack([gate(squeezed) for gate in self.gates]), 0)
        return jnp.sum(gates * jnp.stack(list(maps)), 0)


class Entrance(nnx.Module):
    """ReLU, 1x1 convolution and batch norm, with which every cell begins."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.project = Conv2d(features, features, 1, use_bias=False, rngs=rngs)
        self.norm = Norm(features)

    def __call__(self, x: Maps, mode: Mode) -> Maps:
        """Map (B, H, W, C) to the same shape."""
        return self.norm(self.project(jax.nn.relu(x)), mode)


class ChainCell(nnx.Module):
    """Primitives one after the other, without a skip.

    Args:
        names: of the primitives.
        features: channels C.
        rngs: of the weights.
    """

    def __init__(self, names: Sequence[str], features: int, *, rngs: nnx.Rngs):
        self.entrance = Entrance(features, rngs=rngs)
        self.operations = nnx.List([primitive(name, features, rngs=rngs) for name in names])

    def __call__(self, x: Maps, mode: Mode) -> Maps:
        """Map (B, H, W, C) to the same shape."""
        x = self.entrance(x, mode)
        for operation in self.operations:
            x = operation(x, mode)
        return x


class FusionCell(nnx.Module):
    """The same primitives with own weights at three scales, selected from, with a skip.

    Args:
        names: of the primitives.
        features: channels C of the finest scale; each coarser one has twice as many.
        rngs: of the weights.
    """

    def __init__(self, names: Sequence[str], features: int, *, rngs: nnx.Rngs):
        self.entrance = Entrance(features, rngs=rngs)
        widths = [features, 2 * features, 4 * features]
        self.down2 = nnx.List([Down(features, rngs=rngs)])
        self.down4 = nnx.List([Down(n, rngs=rngs) for n in widths[:2]])
        self.up2 = nnx.List([Up(widths[1], rngs=rngs)])
        self.up4 = nnx.List([Up(n, rngs=rngs) for n in (widths[2], widths[1])])
        self.select = SelectiveFusion(features, 3, rngs=rngs)
        self.scales = nnx.List(
            [nnx.List([primitive(name, n, rngs=rngs) for name in names]) for n in widths]
        )

    def __call__(self, x: Maps, mode: Mode) -> Maps:
        """Map (B, H, W, C) to the same shape; H and W are multiples of 4."""
        x = self.entrance(x, mode)
        maps = []
        for path, operations, back in zip(
            ([], self.down2, self.down4), self.scales, ([], self.up2, self.up4), strict=True
        ):
            y = x
            for down in path:
                y = down(y)
            for operation in operations:
                y = operation(y, mode)
            for up in back:
                y = up(y)
            maps.append(y)
        return x + self.select(maps, mode)
