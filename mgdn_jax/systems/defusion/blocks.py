"""Layers of DeFusion: split attention, bottlenecks around it, and changes of scale.

After ResNeSt (Zhang et al., 2020) without its norms. Convolutions have no bias but for the first
and the last ones of the network and those of the attention.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgdn_jax.layers import functional
from mgdn_jax.layers.conv import Conv2d, conv2d

Maps = Float[Array, "b h w c"]

EXPANSION = 4
"""Channels of a bottleneck's result over its planes."""
LEAST_HIDDEN = 32
"""Hidden channels of the attention, at least."""
_DENSE = 16
"""Channels up to which two groups are quickest as one dense convolution, half of it zeros."""


def normal(rngs: nnx.Rngs, shape: tuple[int, ...]) -> Array:
    """HWIO weights: normal, of variance 2 over the taps times the outputs, in groups too."""
    kh, kw, _, out = shape
    draw = jax.random.normal(rngs.params(), shape, jnp.float32)
    return math.sqrt(2 / (kh * kw * out)) * draw


def convolution(
    in_features: int, out_features: int, size: int, *, use_bias: bool = False, rngs: nnx.Rngs
) -> Conv2d:
    """A convolution as this network draws it."""
    conv = Conv2d(in_features, out_features, size, use_bias=use_bias, rngs=rngs)
    conv.kernel.set_value(normal(rngs, conv.kernel.shape))
    return conv


class SplitAttention(nnx.Module):
    """Two maps, each from one half of the channels, mixed channel by channel.

    The weights of the two come from the mean of their sum over the whole picture, so that tiles of
    a picture differ from the picture.
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        hidden = max(features // 2, LEAST_HIDDEN)
        self.kernel = nnx.Param(normal(rngs, (3, 3, features // 2, 2 * features)))
        self.squeeze = convolution(features, hidden, 1, use_bias=True, rngs=rngs)
        self.excite = convolution(hidden, 2 * features, 1, use_bias=True, rngs=rngs)

    def __call__(self, x: Maps) -> Maps:
        """Transform; the shape stays."""
        first, second = (jax.nn.relu(y) for y in _in_groups(x, self.kernel[...].astype(x.dtype)))
        wide = jnp.promote_types(x.dtype, jnp.float32)
        means = [jnp.mean(y, (1, 2), keepdims=True, dtype=wide) for y in (first, second)]
        mean = (means[0] + means[1]).astype(x.dtype)
        scores = self.excite(jax.nn.relu(self.squeeze(mean)))
        n = x.shape[-1]
        share = jax.nn.sigmoid(scores[..., :n] - scores[..., n:])  # a softmax over two
        return share * first + (1 - share) * second


def _in_groups(x: Maps, kernel: Float[Array, "3 3 half twice"]) -> tuple[Maps, Maps]:
    """What two groups make of the two halves of the channels, n channels each."""
    n = x.shape[-1]
    halves, kernels = (x[..., : n // 2], x[..., n // 2 :]), (kernel[..., :n], kernel[..., n:])
    if n > _DENSE:
        return conv2d(halves[0], kernels[0]), conv2d(halves[1], kernels[1])
    none = jnp.zeros_like(kernels[0])
    rows = [jnp.concatenate(row, -1) for row in ((kernels[0], none), (none, kernels[1]))]
    both = conv2d(x, jnp.concatenate(rows, 2))
    return both[..., :n], both[..., n:]


class Bottleneck(nnx.Module):
    """1x1, split attention, 1x1, and a shortcut around them.

    Args:
        planes: channels of the split attention; the result has `EXPANSION` times as many.
        in_features: channels of the input.
        stride: of the result, 1 or 2; the convolutions keep the size and means reduce it.
        smooths: means over 3x3 pixels follow the attention.
        rngs: of the weights.
    """

    def __init__(
        self, planes: int, in_features: int, *, stride: int, smooths: bool, rngs: nnx.Rngs
    ):
        self.stride, self.smooths = stride, smooths
        out = EXPANSION * planes
        self.narrow = convolution(in_features, planes, 1, rngs=rngs)
        self.attention = SplitAttention(planes, rngs=rngs)
        self.widen = convolution(planes, out, 1, rngs=rngs)
        same = stride == 1 and in_features == out
        self.shortcut: Any = None if same else convolution(in_features, out, 1, rngs=rngs)

    def __call__(self, x: Maps) -> Maps:
        """Transform; a stride of 2 halves H and W, rounded up."""
        y = self.attention(jax.nn.relu(self.narrow(x)))
        if self.smooths:
            y = smoothed(y, self.stride)
        if self.stride > 1:
            x = halved(x)
        x = x if self.shortcut is None else self.shortcut(x)
        return jax.nn.relu(self.widen(y) + x)


class Row(nnx.Module):
    """Bottlenecks one after the other, of which the first may change channels and size.

    Args:
        planes: of each.
        depth: how many.
        in_features: channels of the input.
        stride: of the first.
        smooths: whether the first has means (always with a stride of 2).
        remat: what the others keep for the gradient, one of `functional.REMATS`.
        rngs: of the weights.
    """

    def __init__(
        self,
        planes: int,
        depth: int,
        in_features: int,
        *,
        stride: int = 1,
        smooths: bool = False,
        remat: str = "none",
        rngs: nnx.Rngs,
    ):
        self.remat = remat
        smooths = smooths or stride > 1
        first = Bottleneck(planes, in_features, stride=stride, smooths=smooths, rngs=rngs)
        out = EXPANSION * planes
        more = [
            Bottleneck(planes, out, stride=1, smooths=False, rngs=rngs) for _ in range(depth - 1)
        ]
        self.blocks = nnx.List([first, *more])

    def __call__(self, x: Maps) -> Maps:
        """Transform."""
        first, *more = self.blocks
        x = first(x)
        if not more:
            return x
        return functional.chain(more, lambda block, x, _: (block(x), None), x, remat=self.remat)[0]


# ---- changes of scale ------------------------------------------------------------------------


def _neighbours(x: Maps, axis: int, stride: int) -> tuple[Maps, Maps, Maps]:
    """What three taps along an axis read, zeros beyond the border."""
    n = x.shape[axis]
    framed = jnp.pad(x, [(int(i == axis),) * 2 for i in range(x.ndim)])
    before, at, after = (jax.lax.slice_in_dim(framed, i, i + n, stride, axis) for i in range(3))
    return before, at, after


def smoothed(x: Maps, stride: int) -> Maps:
    """Means over 3x3 pixels, in which zeros beyond the border count."""
    for axis in (1, 2):
        before, at, after = _neighbours(x, axis, stride)
        x = before + at + after
    return x / 9


def brightest(x: Maps) -> Maps:
    """Maxima over 3x3 pixels at every second row and column, of maps of 0 or more."""
    for axis in (1, 2):  # one axis after the other: a tenth of the time of nine taps at once
        before, at, after = _neighbours(x, axis, 2)
        x = jnp.maximum(jnp.maximum(before, at), after)
    return x


def halved(x: Maps) -> Maps:
    """Means over 2x2 pixels; what is missing of the last row and column does not count."""
    for axis in (1, 2):
        n = x.shape[axis]
        counts = _pairs(jnp.ones([n if i == axis else 1 for i in range(4)], x.dtype), axis)
        x = _pairs(x, axis) / counts
    return x


def _pairs(x: Maps, axis: int) -> Maps:
    """Sums of two neighbours along an axis; the last of an odd number is alone."""
    n = x.shape[axis]
    framed = jnp.pad(x, [(0, int(i == axis)) for i in range(x.ndim)])
    at, after = (jax.lax.slice_in_dim(framed, i, i + n, 2, axis) for i in range(2))
    return at + after


def doubled(x: Maps, like: Maps) -> Maps:
    """Bilinear at twice the size, pixels being areas, cut off to the size of another map."""
    for axis in (1, 2):
        n = x.shape[axis]
        first, last = (jax.lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, n - 1))
        framed = jnp.concatenate([first, x, last], axis)
        before, after = (jax.lax.slice_in_dim(framed, i, i + n, axis=axis) for i in (0, 2))
        pair = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])
    return x[:, : like.shape[1], : like.shape[2]]


def bordered(x: Maps, border: int) -> Maps:
    """A frame of reflected pixels; a side that is too short is reflected again and again."""
    if border == 0:
        return x
    for axis in (1, 2):
        last = jnp.asarray(x.shape[axis]) - 1
        places = jnp.arange(-border, x.shape[axis] + border) % jnp.maximum(2 * last, 1)
        places = jnp.minimum(jnp.minimum(places, 2 * last - places), last)
        x = jnp.take(x, jnp.maximum(places, 0), axis=axis, mode="clip")
    return x
