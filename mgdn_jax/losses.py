"""Differentiable losses, one value per example; the caller reduces.

Images are (B, H, W, C) in [0, 1]. Shapes must agree exactly: nothing broadcasts.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mgdn_jax.image import gaussian_window, sobel

Image = Float[Array, "b h w c"]
PerExample = Float[Array, " b"]


def same_shape(*arrays: Array) -> None:
    """Raises ValueError unless all shapes are equal."""
    if any(a.shape != arrays[0].shape for a in arrays):
        raise ValueError(f"shapes differ: {', '.join(str(a.shape) for a in arrays)}")


@jax.custom_jvp
def absolute(x: Array | float) -> Array:
    """``|x|`` with derivative 0 at 0 (as PyTorch), where JAX takes 1: it shows on flat regions."""
    return jnp.abs(x)


@absolute.defjvp
def _absolute_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Array, Array]:
    return absolute(primals[0]), jnp.sign(primals[0]) * tangents[0]


def l1(fused: Image, target: Image) -> PerExample:
    """Mean absolute difference."""
    same_shape(fused, target)
    return jnp.mean(absolute(fused - target), (1, 2, 3))


def edges(fused: Image, target: Image) -> PerExample:
    """Mean absolute difference between the steps from each pixel to the next, down and across."""
    same_shape(fused, target)
    error = fused - target
    down, across = jnp.diff(error, axis=1), jnp.diff(error, axis=2)
    return jnp.mean(absolute(down), (1, 2, 3)) + jnp.mean(absolute(across), (1, 2, 3))


def mse(fused: Image, target: Image) -> PerExample:
    """Mean squared difference; ``-10 log10`` of it is the PSNR in dB."""
    same_shape(fused, target)
    return jnp.mean(jnp.square(fused - target), (1, 2, 3))


INTENSITY_RULES = ("max", "mean", "sum", "screen")


def intensity_target(a: Image, b: Image, rule: str = "max", share: float = 1.0) -> Image:
    """What a result's intensities are compared with, in [0, 1] as the sources are.

    Args:
        a: first source.
        b: second source.
        rule: ``"max"``, the pixel-wise maximum; ``"mean"``; ``"sum"``, a + b less the mean of both
            images, cut off at black and white, so that each source keeps its full contrast;
            ``"screen"``, a + b - a b, where black changes nothing and nothing passes white.
        share: how far from the maximum to what `rule` says, in [0, 1].

    Raises:
        ValueError: unknown rule.
    """
    same_shape(a, b)
    if rule not in INTENSITY_RULES:
        raise ValueError(f"rule is one of {', '.join(INTENSITY_RULES)}, got {rule!r}")
    brighter = jnp.maximum(a, b)
    if rule == "max":
        return brighter
    if rule == "mean":
        target = 0.5 * (a + b)
    elif rule == "sum":
        target = jnp.clip(a + b - 0.5 * jnp.mean(a + b, (1, 2, 3), keepdims=True), 0.0, 1.0)
    else:
        target = a + b - a * b
    return share * target + (1.0 - share) * brighter


def intensity(fused: Image, a: Image, b: Image, *, rule: str = "max") -> PerExample:
    """L1 distance to the `intensity_target` of the sources.

    Args:
        fused: result.
        a: first source.
        b: second source.
        rule: of `INTENSITY_RULES`; ``"max"`` and ``"mean"`` hold for any range of values.
    """
    return l1(fused, intensity_target(a, b, rule))


def gradient_max(fused: Image, a: Image, b: Image) -> PerExample:
    """L1 distance of |Sobel_x| + |Sobel_y| of the result to the larger one of the sources."""
    same_shape(fused, a, b)

    def strength(image: Array) -> Array:
        gx, gy = sobel(image)
        return absolute(gx) + absolute(gy)

    return l1(strength(fused), jnp.maximum(strength(a), strength(b)))


def ssim(x: Image, y: Image, *, size: int = 11, sigma: float = 1.5) -> PerExample:
    """Mean structural similarity, Gaussian window, valid positions, data range 1; in [-1, 1].

    Wang et al., IEEE TIP 2004. As a loss use ``1 - ssim``.

    Raises:
        ValueError: shapes differ, or a side is shorter than the window.
    """
    same_shape(x, y)
    if min(x.shape[1:3]) < size:
        raise ValueError(f"ssim needs sides of at least {size} pixels, got {x.shape[1:3]}")
    taps = [float(t) for t in gaussian_window(size, sigma)]
    return jnp.mean(ssim_map(x, y, taps), (1, 2, 3))


def ssim_map(x: Image, y: Image, taps: Sequence[float]) -> Array:
    """Structural similarity where the window of these taps fits inside the images."""
    size = len(taps)

    def smooth(image: Array) -> Array:
        for axis in (1, 2):
            n = image.shape[axis] - size + 1
            # Shifted products; XLA is slow at grouped convolutions on CPUs.
            shifts = [lax.slice_in_dim(image, i, i + n, axis=axis) for i in range(size)]
            image = sum((t * s for t, s in zip(taps, shifts, strict=True)), jnp.float32(0.0))
        return image

    # One after the other compiles five times as long.
    together = smooth(jnp.stack([x, y, x * x, y * y, x * y]).reshape(-1, *x.shape[1:]))
    mx, my, xx, yy, xy = together.reshape(5, -1, *together.shape[1:])
    vx, vy, vxy = xx - mx * mx, yy - my * my, xy - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))


def ssim_loss(fused: Image, target: Image) -> PerExample:
    """``1 - ssim``, zero for equal images."""
    return 1.0 - ssim(fused, target)


def _responses(x: Image) -> tuple[Image, Image]:
    gx, gy = sobel(x, border="zero")
    return 8.0 * gx, 8.0 * gy


def sobel_strength(x: Image) -> Image:
    """|Sobel_x| + |Sobel_y|, not divided by 8: 0 to 8 for images in [0, 1]; black surroundings."""
    gx, gy = _responses(x)
    return absolute(gx) + absolute(gy)


def gradient_signed_max(fused: Image, a: Image, b: Image) -> PerExample:
    """L1 distance of both Sobel responses to those of the source where they are larger, signed.

    Ties take the first source. The choice carries no gradient.
    """
    same_shape(fused, a, b)
    total = jnp.zeros(fused.shape[0], fused.dtype)
    for f, ra, rb in zip(*map(_responses, (fused, a, b)), strict=True):
        target = jnp.where(absolute(ra) >= absolute(rb), ra, rb)
        total = total + l1(f, target)
    return total


def sobel_max(fused: Image, a: Image, b: Image) -> PerExample:
    """L1 distance of the result's `sobel_strength` to the larger one of the sources."""
    same_shape(fused, a, b)
    return l1(sobel_strength(fused), jnp.maximum(sobel_strength(a), sobel_strength(b)))
