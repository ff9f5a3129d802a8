"""What a fused picture has of both sources, as losses: the field's figures with a gradient.

Each is the figure of `mgdn_jax.metrics` on pictures in [0, 1]; its test says how closely.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mgdn_jax.image import gaussian_window
from mgdn_jax.losses import (
    Image,
    PerExample,
    correlation,
    filtered,
    same_shape,
    sobel_responses,
)

_STILL = 1e-4
"""Slopes below it, of full scale, have no direction."""


def _edge(image: Image) -> tuple[Array, Array]:
    """Strength of Sobel slopes (of full scale a pixel, not divided by 8), and their direction."""
    gx, gy = sobel_responses(image)
    square = gx * gx + gy * gy
    still = square < _STILL**2
    strength = jnp.sqrt(jnp.where(still, _STILL**2, square))
    # A direction in -pi/2 .. pi/2: slopes that are turned round have one.
    turned = jnp.where(gx < 0, -1.0, 1.0)
    angle = jnp.arctan2(jnp.where(still, 0.0, turned * gy), jnp.where(still, 1.0, turned * gx))
    return jnp.where(still, 0.0, strength), angle


def edge_transfer(fused: Image, a: Image, b: Image) -> PerExample:
    """Qabf, how much of the sources' edges the result has; 0 to 0.9753.

    Xydeas and Petrovic 2000, as `metrics.edge_preservation`, but that equal strengths count as
    equal whatever they are.
    """
    same_shape(fused, a, b)
    strength, angle = _edge(fused)
    kept = weights = jnp.zeros(fused.shape[0], fused.dtype)
    for source in (a, b):
        wanted, direction = _edge(source)
        ratio = jnp.minimum(wanted, strength) / (jnp.maximum(wanted, strength) + 1e-6)
        alike = 1 - jnp.abs(direction - angle) / (jnp.pi / 2)
        quality = 0.9994 * jax.nn.sigmoid(15 * (ratio - 0.5))
        quality = quality * 0.9879 * jax.nn.sigmoid(22 * (alike - 0.8))
        kept = kept + jnp.sum(quality * wanted, (1, 2, 3))
        weights = weights + jnp.sum(wanted, (1, 2, 3))
    return kept / (weights + 1e-6)


_SIZES = (17, 9, 5, 3)
_NOISE = 2.0 / 255**2
_LEAST = 1e-10


def fidelity(fused: Image, a: Image, b: Image) -> PerExample:
    """VIF, visual information of both sources that the result carries; 2 where all are equal.

    Sheikh and Bovik 2006 in pixels, as `metrics.visual_information_fidelity`. Sides of 41 or more.
    """
    same_shape(fused, a, b)
    count = fused.shape[0]
    planes = jnp.concatenate([fused, a, b])
    carried = available = jnp.zeros((2, count), fused.dtype)
    for k, size in enumerate(_SIZES):
        taps = [float(t) for t in gaussian_window(size, size / 5)]
        if k:
            planes = filtered(planes, taps)[:, ::2, ::2]
        f, x, y = planes[:count], planes[count : 2 * count], planes[2 * count :]
        moments = filtered(jnp.concatenate([planes, planes**2, f * x, f * y]), taps)
        means, squares = moments[: 3 * count], moments[3 * count : 6 * count]
        variances = jnp.maximum(squares - means**2, 0)
        seen = variances[:count]
        for i in (0, 1):
            mean = means[(i + 1) * count : (i + 2) * count]
            variance = variances[(i + 1) * count : (i + 2) * count]
            product = moments[(6 + i) * count : (7 + i) * count]
            gain = jnp.maximum((product - means[:count] * mean) / (variance + _LEAST), 0)
            residual = jnp.maximum(seen - gain**2 * variance, _LEAST)
            part = jnp.sum(jnp.log1p(gain**2 * variance / (residual + _NOISE)), (1, 2, 3))
            carried = carried.at[i].add(part)
            available = available.at[i].add(jnp.sum(jnp.log1p(variance / _NOISE), (1, 2, 3)))
    return jnp.sum(carried / (available + 1e-6), 0)


def differences(fused: Image, a: Image, b: Image) -> PerExample:
    """SCD, how far what the result adds to a source is the other one; -2 to 2.

    Aslantas and Bendes 2015, as `metrics.sum_of_correlations_of_differences`.
    """
    same_shape(fused, a, b)
    return correlation(a, fused - b) + correlation(b, fused - a)


_BINS = 32


def information(fused: Image, a: Image, b: Image) -> PerExample:
    """Mutual information of the result with each source, in bits, as a sum.

    Joint histograms of 32 x 32 bins, to the two nearest of which each pixel counts by its distance,
    from every second pixel along both axes. `metrics`' MI has 256 x 256 bins and hence more bits.
    """
    same_shape(fused, a, b)
    first, second, result = (_binned(x[:, ::2, ::2]) for x in (a, b, fused))
    return _mutual(result, first) + _mutual(result, second)


def _binned(image: Image) -> Float[Array, "b n k"]:
    """Shares of each pixel in each bin."""
    values = jnp.clip(image, 0, 1).reshape(len(image), -1, 1) * (_BINS - 1)
    return jnp.maximum(1 - jnp.abs(values - jnp.arange(_BINS)[None, None]), 0)


def _mutual(x: Float[Array, "b n k"], y: Float[Array, "b n k"]) -> PerExample:
    joint = jnp.einsum("bni,bnj->bij", x, y) / x.shape[1]
    apart = jnp.sum(joint, 2, keepdims=True) * jnp.sum(joint, 1, keepdims=True)
    parts = joint * (jnp.log2(joint + 1e-9) - jnp.log2(apart + 1e-9))
    return jnp.sum(parts, (1, 2))


def deviation(image: Image) -> PerExample:
    """Standard deviation of an image."""
    return jnp.sqrt(jnp.var(image, (1, 2, 3)) + 1e-8)
