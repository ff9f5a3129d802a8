"""ReFusion: a learned fusion loss and the reconstruction it is judged by."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mgdn_jax.losses import Image, PerExample, absolute, mse, same_shape, sobel_strength

# ---- ReFusion: a learned fusion loss and the reconstruction it is judged by ----------------------
# |.| has slope 0 at 0, ties of a maximum share their gradient, Sobel responses see black around
# the image and are not divided by 8: as in the published training code.

Weights = Float[Array, "b h w 2"]


def _weighted(value: Image, a: Image, b: Image, weights: Weights) -> PerExample:
    if weights.shape != (*value.shape[:3], 2):
        raise ValueError(f"weights {weights.shape} do not fit images {value.shape}")
    squares = [
        jnp.square(weights[..., i : i + 1] * (source - value)) for i, source in enumerate((a, b))
    ]
    return jnp.mean(squares[0], (1, 2, 3)) + jnp.mean(squares[1], (1, 2, 3))


def weighted_intensity(fused: Image, a: Image, b: Image, weights: Weights) -> PerExample:
    """``mean (w_a (a - f))^2 + mean (w_b (b - f))^2``; the weights are inside the squares.

    Args:
        fused: result f.
        a: first source.
        b: second source.
        weights: of the sources at each pixel, (B, H, W, 2).
    """
    same_shape(fused, a, b)
    return _weighted(fused, a, b, weights)


def weighted_gradient(fused: Image, a: Image, b: Image, weights: Weights) -> PerExample:
    """`weighted_intensity` of the three images' `sobel_strength`."""
    same_shape(fused, a, b)
    return _weighted(sobel_strength(fused), sobel_strength(a), sobel_strength(b), weights)


def reconstruction_max(first: Image, second: Image, a: Image, b: Image) -> PerExample:
    """``mean max(|a - first|, |b - second|)^2``: the worse of both reconstructions per pixel.

    Args:
        first: reconstruction of `a`.
        second: reconstruction of `b`.
        a: first source.
        b: second source.
    """
    same_shape(first, second, a, b)
    worse = jnp.maximum(absolute(a - first), absolute(b - second))
    return jnp.mean(jnp.square(worse), (1, 2, 3))


def reconstruction_max_gradient(first: Image, second: Image, a: Image, b: Image) -> PerExample:
    """`reconstruction_max` of the four images' `sobel_strength`."""
    return reconstruction_max(*map(sobel_strength, (first, second, a, b)))


def reconstruction_mse(first: Image, second: Image, a: Image, b: Image) -> PerExample:
    """``mean (first - a)^2 + mean (second - b)^2``."""
    return mse(first, a) + mse(second, b)
