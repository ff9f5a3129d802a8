"""Differentiable losses, one value per example; the caller reduces.

Images are (B, H, W, C) in [0, 1]. Shapes must agree exactly: nothing broadcasts.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from mgdn_jax.image import gaussian_window, luminance, sobel

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


def intensity(fused: Image, *sources: Image, rule: str = "max") -> PerExample:
    """L1 distance to the `intensity_target` of the sources.

    Args:
        fused: result.
        *sources: two or more; of more than two, ``"max"`` and ``"mean"`` are defined.
        rule: of `INTENSITY_RULES`; ``"max"`` and ``"mean"`` hold for any range of values.

    Raises:
        ValueError: fewer than two sources, an unknown rule, or one for two sources alone.
    """
    if len(sources) == 2:
        return l1(fused, intensity_target(*sources, rule))
    _several(sources)
    if rule == "max":
        return l1(fused, functools.reduce(jnp.maximum, sources))
    if rule == "mean":
        return l1(fused, sum(sources[1:], sources[0]) / len(sources))
    raise ValueError(f"rule is 'max' or 'mean' for {len(sources)} sources, got {rule!r}")


def gradient_l1(x: Image, y: Image) -> PerExample:
    """L1 distance of the Sobel responses along both axes, divided by 8, borders replicated."""
    same_shape(x, y)
    (along_x, along_y), (their_x, their_y) = sobel(x), sobel(y)
    return 0.5 * (l1(along_x, their_x) + l1(along_y, their_y))


def gradient_max(fused: Image, *sources: Image) -> PerExample:
    """L1 distance of |Sobel_x| + |Sobel_y| of the result to the largest one of the sources.

    Raises:
        ValueError: fewer than two sources, or shapes that differ.
    """
    _several(sources)
    same_shape(fused, *sources)

    def strength(image: Array) -> Array:
        gx, gy = sobel(image)
        return absolute(gx) + absolute(gy)

    return l1(strength(fused), functools.reduce(jnp.maximum, map(strength, sources)))


def _several(sources: Sequence[Image]) -> None:
    """Raises ValueError unless there are two or more."""
    if len(sources) < 2:
        raise ValueError(f"two or more sources are needed, got {len(sources)}")
    same_shape(*sources)


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
    # One after the other compiles five times as long.
    together = filtered(jnp.stack([x, y, x * x, y * y, x * y]).reshape(-1, *x.shape[1:]), taps)
    mx, my, xx, yy, xy = together.reshape(5, -1, *together.shape[1:])
    vx, vy, vxy = xx - mx * mx, yy - my * my, xy - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))


def filtered(images: Array, taps: Sequence[float]) -> Array:
    """Images filtered by the same taps down and across, where the window fits inside them.

    (B, H, W, C) -> (B, H - n + 1, W - n + 1, C) for n taps.
    """
    size = len(taps)
    for axis in (1, 2):
        n = images.shape[axis] - size + 1
        # Shifted products; XLA is slow at grouped convolutions on CPUs.
        shifts = [lax.slice_in_dim(images, i, i + n, axis=axis) for i in range(size)]
        images = sum((t * s for t, s in zip(taps, shifts, strict=True)), jnp.float32(0.0))
    return images


def ssim_loss(fused: Image, target: Image) -> PerExample:
    """``1 - ssim``, zero for equal images."""
    return 1.0 - ssim(fused, target)


def structural_dissimilarity(x: Image, y: Image, *, form: str = "released") -> PerExample:
    """Mean of ``clamp(1 - ssim, 0, 1) / 2`` over all pixels, images reflected at their border.

    The SSIM loss of the released code of CDDFuse and of MMA-UNet, which is that of kornia up to
    0.4. The clamp comes before the halving: the loss ends at 0.5, and pixels of negative SSIM have
    no gradient.

    Args:
        x: image.
        y: image to resemble.
        form: ``"released"``; ``"later"`` is ``clamp((1 - ssim) / 2, 0, 1)``, what kornia made of it
            from 0.5 on; ``"paper"`` is `ssim_loss`, ``1 - ssim`` where the window fits.

    Raises:
        ValueError: shapes differ, the form is unknown, or a side is too short (6 pixels; 11 for
            ``"paper"``).
    """
    if form == "paper":
        return ssim_loss(x, y)
    same_shape(x, y)
    if form not in ("released", "later"):
        raise ValueError(f"form is 'released', 'later' or 'paper', got {form!r}")
    if min(x.shape[1:3]) < 6:
        raise ValueError(f"this ssim needs sides of at least 6 pixels, got {x.shape[1:3]}")
    # In single precision, as there: flat regions cancel, and enlarge what the taps' sum is off by.
    window = np.exp(np.arange(-5, 6) ** 2 / -4.5).astype(np.float32)
    taps = [float(t) for t in window / np.float32(window.sum(dtype=np.float64))]
    x, y = (jnp.pad(z, ((0, 0), (5, 5), (5, 5), (0, 0)), mode="reflect") for z in (x, y))
    distance = 1.0 - ssim_map(x, y, taps)
    if form == "later":
        distance = 0.5 * distance
    # Slope 1 at both ends of the clamp, as PyTorch has it.
    distance = jnp.where(
        (distance >= 0) & (distance <= 1), distance, lax.stop_gradient(jnp.clip(distance, 0, 1))
    )
    return jnp.mean(distance if form == "later" else 0.5 * distance, (1, 2, 3))


def sobel_responses(x: Image) -> tuple[Image, Image]:
    """Sobel responses along both axes, not divided by 8; black surroundings."""
    gx, gy = sobel(x, border="zero")
    return 8.0 * gx, 8.0 * gy


def sobel_strength(x: Image) -> Image:
    """|Sobel_x| + |Sobel_y|, not divided by 8: 0 to 8 for images in [0, 1]; black surroundings."""
    gx, gy = sobel_responses(x)
    return absolute(gx) + absolute(gy)


def gradient_signed_max(fused: Image, a: Image, b: Image) -> PerExample:
    """L1 distance of both Sobel responses to those of the source where they are larger, signed.

    Ties take the first source. The choice carries no gradient.
    """
    same_shape(fused, a, b)
    total = jnp.zeros(fused.shape[0], fused.dtype)
    for f, ra, rb in zip(*map(sobel_responses, (fused, a, b)), strict=True):
        target = jnp.where(absolute(ra) >= absolute(rb), ra, rb)
        total = total + l1(f, target)
    return total


def sobel_max(fused: Image, a: Image, b: Image) -> PerExample:
    """L1 distance of the result's `sobel_strength` to the larger one of the sources."""
    same_shape(fused, a, b)
    return l1(sobel_strength(fused), jnp.maximum(sobel_strength(a), sobel_strength(b)))


def correlation(x: Image, y: Image) -> PerExample:
    """Correlation coefficient over space of each channel with its partner, averaged; in [-1, 1].

    ``sum xy / (2^-23 + |x| |y|)`` of the centred channels. A channel that is constant
    (up to rounding) correlates with nothing, 0, and has no gradient where the formula has an
    infinite one.
    """
    same_shape(x, y)

    def centred(z: Array) -> tuple[Array, Array, Array]:
        """The channels without their mean, their norms, and where they vary beyond rounding."""
        mean = jnp.mean(z, (1, 2), keepdims=True)
        square = jnp.sum(jnp.square(z - mean), (1, 2))
        noise = 8.0 * jnp.finfo(z.dtype).eps * mean[:, 0, 0]
        varies = square > z.shape[1] * z.shape[2] * jnp.square(noise)
        return z - mean, jnp.sqrt(jnp.where(varies, square, 1.0)), varies

    (x, norm_x, varies_x), (y, norm_y, varies_y) = centred(x), centred(y)
    value = jnp.sum(x * y, (1, 2)) / (2.0**-23 + norm_x * norm_y)
    value = jnp.where(jnp.abs(value) <= 1, value, lax.stop_gradient(jnp.clip(value, -1, 1)))
    return jnp.mean(jnp.where(varies_x & varies_y, value, 0.0), -1)


def blockwise_mean(image: Image, side: int) -> Float[Array, "b y x c"]:
    """Means of ``side x side`` blocks, the last ones being what remains; as a network's patches."""
    if side == 1:
        return image
    h, w = image.shape[1:3]
    image = jnp.pad(image, ((0, 0), (0, -h % side), (0, -w % side), (0, 0)), mode="edge")
    return jnp.mean(image.reshape(len(image), -(-h // side), side, -(-w // side), side, -1), (2, 4))


MEF_EXPONENTS = (0.0448, 0.2856, 0.3001)
"""How much each scale of MEF-SSIM counts, the finest first; they are divided by their sum."""


def mef_ssim(fused: Image, sources: Sequence[Image], *, scales: int = 1) -> PerExample:
    """Similarity of the result's structure with the best that any of the exposures has.

    Ma, Zeng, Wang, IEEE TIP 2015, on luminance: `metrics.exposure_similarity` with a gradient,
    which the sources do not get. It says nothing about brightness. As a loss use ``1 - mef_ssim``.

    Args:
        fused: result.
        sources: two or more exposures, in any order.
        scales: 1 compares patches of 11x11 pixels; 2 and 3 also those of the images at half and at
            a quarter of their size. The score of the ruler has three.

    Returns:
        The product of the scales' scores, each raised to its exponent; at most 1.

    Raises:
        ValueError: shapes differ, fewer than two sources, no such number of scales, or a side that
            is shorter than the window at the last scale.
    """
    same_shape(fused, *sources)
    if len(sources) < 2:
        raise ValueError(f"mef_ssim needs two or more sources, got {len(sources)}")
    if not 1 <= scales <= len(MEF_EXPONENTS):
        raise ValueError(f"mef_ssim has 1 to {len(MEF_EXPONENTS)} scales, got {scales}")
    least = (_MEF_SIZE - 1) * 2 ** (scales - 1) + 1
    if min(fused.shape[1:3]) < least:
        raise ValueError(
            f"mef_ssim of {scales} scales needs sides of at least {least} pixels, "
            f"got {fused.shape[1:3]}"
        )
    planes = [luminance(image) for image in (fused, *map(lax.stop_gradient, sources))]
    exponents = MEF_EXPONENTS[:scales]
    result = jnp.ones(fused.shape[0], fused.dtype)
    for scale, exponent in enumerate(exponents):
        if scale:
            planes = [_halved(plane) for plane in planes]
        score = jnp.mean(_mef_map(planes[0], jnp.stack(planes[1:])), (1, 2, 3))
        # The power of a score that is not positive is not defined.
        result = result * jnp.maximum(score, 1e-3) ** (exponent / sum(exponents))
    return result


_MEF_SIZE = 11
_MEF_C = 0.03**2


def _halved(image: Array) -> Array:
    """Means of 2x2 pixels; an odd side repeats its last line."""
    grow = [(0, n % 2) for n in image.shape[1:3]]
    image = jnp.pad(image, ((0, 0), *grow, (0, 0)), mode="edge")
    image = image[:, ::2] + image[:, 1::2]
    return (image[:, :, ::2] + image[:, :, 1::2]) / 4


def _mef_map(fused: Image, sources: Float[Array, "n b h w 1"]) -> Array:
    """The score of every patch at one scale."""
    count = len(sources)
    # Around middle gray, float32 loses less of the difference of two sums.
    fused, sources = fused - 0.5, sources - 0.5
    taps = [float(t) for t in gaussian_window(_MEF_SIZE, 1.5)]
    pairs = [(i, j) for i in range(count) for j in range(i + 1)]
    products = [sources[i] * sources[j] for i, j in pairs]
    moments = jnp.concatenate([*sources, *products])
    (means, seconds), (sums, squares) = (
        _split(filtered(moments, weights), count) for weights in (taps, [1.0] * _MEF_SIZE)
    )
    scatter, covariance = {}, {}
    for k, (i, j) in enumerate(pairs):
        scatter[i, j] = squares[k] - sums[i] * sums[j] / _MEF_SIZE**2
        covariance[i, j] = seconds[k] - means[i] * means[j]
    factors = _mef_factors(scatter, count)
    variance = _quadratic(factors, covariance)
    mixed = jnp.concatenate([fused, fused * fused, *(fused * source for source in sources)])
    mean, square, *crossed = jnp.split(filtered(mixed, taps), count + 2)
    together = sum(
        (f * (x - mean * m) for f, x, m in zip(factors, crossed, means, strict=True)),
        jnp.float32(0.0),
    )
    own = square - mean * mean
    return (2 * together + _MEF_C) / (variance + own + _MEF_C)


def _split(moments: Array, count: int) -> tuple[Array, Array]:
    """Filtered sources and filtered products of two, each with its own first axis."""
    images = count + count * (count + 1) // 2
    moments = moments.reshape(images, -1, *moments.shape[1:])
    return moments[:count], moments[count:]


def _quadratic(factors: Sequence[Array | float], form: Mapping[tuple[int, int], Array]) -> Array:
    """``sum_ij f_i f_j form_ij`` of a symmetric form that is held for i >= j."""
    total = jnp.zeros_like(form[0, 0])
    for (i, j), term in form.items():
        total = total + (1 if i == j else 2) * factors[i] * factors[j] * term
    return total


def _mef_factors(scatter: Mapping[tuple[int, int], Array], count: int) -> list[Array]:
    """What each source's patch is multiplied by in the structure that is wanted, less its mean."""
    # In levels of 255, as the definition has it.
    lengths = [255 * jnp.sqrt(jnp.maximum(scatter[k, k], 0)) for k in range(count)]
    energies = [length + 0.001 for length in lengths]
    eps = 1e-6  # of float32; keeps a quotient of two noughts at one
    together = 255 * jnp.sqrt(jnp.maximum(_quadratic([1.0] * count, scatter), 0))
    agreement = jnp.minimum((together + eps) / (sum(lengths[1:], lengths[0]) + eps), 1 - eps)
    power = jnp.minimum(jnp.tan(0.5 * math.pi * agreement), 10)
    strongest = jnp.max(jnp.stack(energies), 0)
    # Relative to the strongest, no power leaves the range of float32.
    weights = [(energy / strongest) ** power for energy in energies]
    total = sum(weights[1:], weights[0])
    shares = [weight / total / energy for weight, energy in zip(weights, energies, strict=True)]
    length = 255 * jnp.sqrt(jnp.maximum(_quadratic(shares, scatter), 0))
    scale = jnp.where(length > 0, strongest / jnp.where(length > 0, length, 1.0), 1.0)
    return [scale * share for share in shares]
