"""Maps at half and at twice the size, and the pair of convolutions that U-Nets have at each."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgdn_jax.layers.conv import Conv2d
from mgdn_jax.layers.mode import EVAL, Mode
from mgdn_jax.layers.norm import BatchNorm

Maps = Float[Array, "b h w c"]


class DoubleConv(nnx.Module):
    """3x3 convolution, batch norm, ReLU, twice; zeros beyond the border.

    Args:
        in_features: channels of the maps.
        features: channels of the result.
        momentum: of the running statistics.
        use_bias: whether the convolutions have a bias, which the norms make needless.
        rngs: of the weights.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        momentum: float = 0.9,
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        sizes = itertools.pairwise((in_features, features, features))
        self.convs = nnx.List([Conv2d(i, o, 3, use_bias=use_bias, rngs=rngs) for i, o in sizes])
        self.norms = nnx.List([BatchNorm(features, momentum) for _ in range(2)])

    def __call__(self, x: Maps, mode: Mode = EVAL) -> Float[Array, "b h w o"]:
        """Transform."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.relu(norm(conv(x), mode))
        return x


def _quarters(x: Array) -> tuple[Array, Array, Array, Array]:
    """The four pixels of every 2x2 block; a last odd row or column is left out."""
    h, w = x.shape[1:3]
    x = x[:, : h - h % 2, : w - w % 2]
    return x[:, ::2, ::2], x[:, ::2, 1::2], x[:, 1::2, ::2], x[:, 1::2, 1::2]


def max_pool(x: Maps) -> Float[Array, "b h2 w2 c"]:
    """The largest value of every 2x2 pixels; a last odd row or column does not count."""
    a, b, c, d = _quarters(x)
    return jnp.maximum(jnp.maximum(a, c), jnp.maximum(b, d))


def average_pool(x: Maps) -> Float[Array, "b h2 w2 c"]:
    """The mean of every 2x2 pixels; a last odd row or column does not count."""
    a, b, c, d = _quarters(x)
    return (a + b + c + d) / 4


def blocks_to_channels(x: Array, side: int) -> Array:
    """(B, H, W, C) to (B, H / side, W / side, side side C); sides are multiples of `side`.

    Channel ``(i side + j) C + c`` is channel c of the pixel (i, j) of every block.
    """
    if side == 1:
        return x
    b, h, w, c = x.shape
    x = x.reshape(b, h // side, side, w // side, side, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // side, w // side, side * side * c)


def channels_to_blocks(x: Array, side: int) -> Array:
    """Inverse of `blocks_to_channels`."""
    if side == 1:
        return x
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, side, side, c // side**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * side, w * side, c // side**2)
