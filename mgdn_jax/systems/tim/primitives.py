"""Operations that TIM's architectures are made of, by the names that its genotypes use.

A name is ``Kind_kernel_number``: the number is a dilation, or the stride of ``SepConv``, of which
only 1 works. All keep the size by zero padding and have no bias; every `PReLU` has one slope.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgdn_jax.errors import InputError
from mgdn_jax.layers import functional
from mgdn_jax.layers.conv import (
    Conv2d,
    DepthwiseConv2d,
    channel_conv,
    depthwise,
    fan_in_uniform,
)
from mgdn_jax.layers.mode import EVAL, Mode
from mgdn_jax.layers.norm import BatchNorm
from mgdn_jax.layers.padding import match_rank

Maps = Float[Array, "b h w c"]


@dataclasses.dataclass
class Run(Mode):
    """A `Mode` that may take statistics from each image.

    Attributes:
        by_image: outside training, norms take mean and variance from the image that they are given
            and not the running ones. TIM's released script runs its second network so.
    """

    by_image: bool = False


class Norm(BatchNorm):
    """Batch norm, or outside training the norm by image that a `Run` may ask for."""

    def __call__(self, x: Maps, mode: Mode = EVAL) -> Maps:
        """Normalise in float32 or wider and return the dtype of ``x``."""
        if mode.training or not (isinstance(mode, Run) and mode.by_image):
            return super().__call__(x, mode)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = mode.mean(wide)
        variance = mode.mean(jnp.square(wide - mean))
        return self._normal(wide, mean, variance).astype(x.dtype)


class PReLU(nnx.Module):
    """``max(x, 0) + slope min(x, 0)`` with one slope, 0.25 at first."""

    def __init__(self) -> None:
        self.slope = nnx.Param(jnp.full((1,), 0.25, jnp.float32))

    def __call__(self, x: Maps) -> Maps:
        """Apply, in the dtype of ``x``."""
        return jnp.where(x > 0, x, match_rank(self.slope[...].astype(x.dtype), x) * x)


class MergedConv(nnx.Module):
    """The grouped convolution of C groups over ``count`` C channels; weights ``(k, k, count, C)``.

    Group g reads channels count g to count g + count - 1 of the concatenation that it is given, so
    it does *not* mix the g-th channels of the parts.
    """

    def __init__(self, features: int, kernel_size: int, count: int, *, rngs: nnx.Rngs):
        shape = (kernel_size, kernel_size, count, features)
        self.kernel = nnx.Param(fan_in_uniform(rngs, shape, count * kernel_size**2))

    def __call__(self, parts: Sequence[Maps]) -> Maps:
        """Convolve the concatenation of the parts."""
        x, kernel = jnp.concatenate(parts, -1), self.kernel[...].astype(parts[0].dtype)
        count = kernel.shape[2]
        taps = [depthwise(x[..., i::count], kernel[:, :, i : i + 1]) for i in range(count)]
        return functools.reduce(jnp.add, taps)


class Dense(nnx.Module):
    """``Denseblocks``: three convolutions of C groups, each of all before it."""

    def __init__(self, features: int, kernel_size: int, *, rngs: nnx.Rngs):
        self.convs = nnx.List(
            [MergedConv(features, kernel_size, count, rngs=rngs) for count in (1, 2, 3)]
        )
        self.act = PReLU()

    def __call__(self, x: Maps, mode: Mode) -> Maps:
        """Map (B, H, W, C) to the same shape."""
        del mode
        first = self.act(self.convs[0]([x]))
        second = self.act(self.convs[1]([x, first]))
        third = self.act(self.convs[2]([x, first, second]))
        return 0.333 * third + x


class Residual(nnx.Module):
    """``Residualblocks``: two depthwise convolutions, the second at dilation 2, and a 1x1."""

    def __init__(self, features: int, kernel_size: int, dilation: int, *, rngs: nnx.Rngs):
        depthwise_conv = functools.partial(DepthwiseConv2d, features, use_bias=False, rngs=rngs)
        self.local = depthwise_conv(kernel_size, dilation=dilation)
        self.wide = depthwise_conv(3, dilation=2)
        self.project = Conv2d(features, features, 1, use_bias=False, rngs=rngs)
        self.norm = Norm(features)
        self.act = PReLU()

    def __call__(self, x: Maps, mode: Mode) -> Maps:
        """Map (B, H, W, C) to the same shape."""
        return x + self.act(self.norm(self.project(self.wide(self.local(x))), mode))


class Dilated(nnx.Module):
    """``DilConv``: depthwise at a dilation and 1x1, with a residual (which DARTS has not)."""

    def __init__(self, features: int, kernel_size: int, dilation: int, *, rngs: nnx.Rngs):
        self.local = DepthwiseConv2d(
            features, kernel_size, dilation=dilation, use_bias=False, rngs=rngs
        )
        self.project = Conv2d(features, features, 1, use_bias=False, rngs=rngs)
        self.norm = Norm(features)

    def __call__(self, x: Maps, mode: Mode) -> Maps:
        """Map (B, H, W, C) to the same shape."""
        return x + self.norm(self.project(self.local(jax.nn.relu(x))), mode)


class Separable(nnx.Module):
    """``SepConv``: depthwise and 1x1, twice, without a residual."""

    def __init__(self, features: int, kernel_size: int, *, rngs: nnx.Rngs):
        self.locals = nnx.List(
            [DepthwiseConv2d(features, kernel_size, use_bias=False, rngs=rngs) for _ in "12"]
        )
        self.projects = nnx.List(
            [Conv2d(features, features, 1, use_bias=False, rngs=rngs) for _ in "12"]
        )
        self.norms = nnx.List([Norm(features) for _ in "12"])

    def __call__(self, x: Maps, mode: Mode) -> Maps:
        """Map (B, H, W, C) to the same shape."""
        for local, project, norm in zip(self.locals, self.projects, self.norms, strict=True):
            x = norm(project(local(jax.nn.relu(x))), mode)
        return x


class ChannelAttention(nnx.Module):
    """``ECAattention``: gates from a convolution of three taps over the channels' means."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.taps = nnx.Param(fan_in_uniform(rngs, (3,), 3))
        self.conv = Conv2d(features, features, 3, use_bias=False, rngs=rngs)
        self.act = PReLU()

    def __call__(self, x: Maps, mode: Mode) -> Maps:
        """Map (B, H, W, C) to the same shape."""
        gate = channel_conv(mode.mean(x), self.taps[...].astype(x.dtype))
        return self.act(self.conv(x * jax.nn.sigmoid(gate)))


class SpatialAttention(nnx.Module):
    """``SPAattention``: a gate from the maximum and the mean over the channels, nothing else."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.conv = Conv2d(2, 1, 3, use_bias=False, rngs=rngs)

    def __call__(self, x: Maps, mode: Mode) -> Maps:
        """Map (B, H, W, C) to the same shape."""
        del mode
        extrema = [functional.largest_channel(x), jnp.mean(x, -1, keepdims=True)]
        return x * jax.nn.sigmoid(self.conv(jnp.concatenate(extrema, -1)))


PRIMITIVES = (
    *("SepConv_3_1", "DilConv_3_2", "Residualblocks_3_1", "Residualblocks_3_2"),
    *("Residualblocks_5_1", "Denseblocks_3_1", "Denseblocks_5_1", "ECAattention_3"),
    "SPAattention_3",
)
"""What a search chooses from: the names that occur in published genotypes, and their kin."""

_KINDS: dict[str, Callable[..., nnx.Module]] = {
    "Denseblocks": lambda c, k, n, rngs: Dense(c, k, rngs=rngs),
    "Residualblocks": lambda c, k, n, rngs: Residual(c, k, n, rngs=rngs),
    "DilConv": lambda c, k, n, rngs: Dilated(c, k, n, rngs=rngs),
    "SepConv": lambda c, k, n, rngs: Separable(c, k, rngs=rngs),
    "ECAattention": lambda c, k, n, rngs: ChannelAttention(c, rngs=rngs),
    "SPAattention": lambda c, k, n, rngs: SpatialAttention(rngs=rngs),
}


def check(name: str) -> None:
    """Checks the name of a primitive.

    Raises:
        InputError: there is none of that name, or one that cannot be.
    """
    read = (
        re.fullmatch(r"([A-Za-z]+)_([357])(?:_([1-4]))?", name) if isinstance(name, str) else None
    )
    if read is None or read[1] not in _KINDS:
        raise InputError(
            f"there is no primitive {name!r}; it is Kind_kernel_number with a Kind of"
            f" {', '.join(_KINDS)}, e.g. one of {', '.join(PRIMITIVES)}"
        )
    kind, kernel, number = read[1], int(read[2]), int(read[3] or 1)
    if kind.endswith("attention") and (kernel, number) != (3, 1):
        raise InputError(f"the primitive {name!r} cannot be: attentions have a kernel of 3")
    if kind == "SepConv" and (kernel, number) != (3, 1):
        raise InputError(f"the primitive {name!r} cannot be: of SepConv there is SepConv_3_1 alone")
    if kind == "Denseblocks" and number != 1:
        raise InputError(f"the primitive {name!r} cannot be: dense blocks have no dilation")


def primitive(name: str, features: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """The operation of a name, (B, H, W, features) to the same shape, called with a `Mode`.

    Raises:
        InputError: there is none of that name.
    """
    check(name)
    kind, kernel, *number = name.split("_")
    return _KINDS[kind](features, int(kernel), int(number[0]) if number else 1, rngs)
