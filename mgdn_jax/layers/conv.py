"""Convolutions and linear maps with PyTorch's initialisation and fast forms on every backend.

XLA for CPU is quick at dense convolutions but slow at grouped ones and at the gradient to a
kernel; each function below takes the form that measured best (see `benchmarks/layers.py`).
All of them cross-correlate, keep H and W by zero padding, and take channels last.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from mgdn_jax.layers import forms
from mgdn_jax.layers.functional import keep
from mgdn_jax.layers.padding import ceil_div, match_rank, reflected

_DIMS = ("NHWC", "HWIO", "NHWC")
_BANDS = 8
_EPSILON = 1e-5  # of layer norms
_EXACT = lax.Precision.HIGHEST


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv2d(
    x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"], dilation: int = 1
) -> Float[Array, "b h w o"]:
    """Dense 2-D convolution, stride 1, odd kernel, zero padding that keeps the size.

    Reverse mode only (to any order): on a CPU the gradient to the kernel is one matrix product per
    example over its unfolded patches, which doubles the speed of a training batch's gradient
    against the convolution XLA would transpose to.

    Args:
        x: features.
        kernel: HWIO weights with odd ``kh`` and ``kw``.
        dilation: spacing of the taps in pixels.

    Returns:
        Features with ``o`` channels.
    """
    return _conv(x, kernel, dilation)


def _conv(x: Array, kernel: Array, dilation: int) -> Array:
    kh, kw = kernel.shape[:2]
    pads = [(dilation * (k // 2), dilation * (k // 2)) for k in (kh, kw)]
    return lax.conv_general_dilated(
        x, kernel, (1, 1), pads, rhs_dilation=(dilation, dilation), dimension_numbers=_DIMS
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _kernel_gradient(x: Array, g: Array, kernel: tuple[int, int, int]) -> Array:
    """Sum over pixels of outer products of patches of x with g: (kh, kw, i, o), float32 at least.

    ``kernel`` is (kh, kw, dilation). Linear in x and in g, hence its own short derivative.
    """
    kh, kw, dilation = kernel
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def by_patches(x: Array, g: Array) -> Array:
        h, w, i = x.shape[1:]
        o = g.shape[-1]
        # What has fewer channels is unfolded: the narrow factor on the left, transposed, is what
        # matrix products of a CPU are quick at.
        mirrored = o < i

        def add_example(total: Array, example: tuple[Array, Array]) -> tuple[Array, None]:
            whole, unfolded = example if mirrored else example[::-1]
            patches = _patches(unfolded, kh, kw, dilation, mirrored)
            left = whole.reshape(h * w, -1).T
            return total + jnp.matmul(left, patches, preferred_element_type=wide), None

        start = jnp.zeros((i, kh * kw * o) if mirrored else (o, kh * kw * i), wide)
        total, _ = lax.scan(add_example, start, (x, g))
        if mirrored:
            return total.reshape(i, kh, kw, o).transpose(1, 2, 0, 3)
        return total.reshape(o, kh, kw, i).transpose(1, 2, 3, 0)

    def by_xla(x: Array, g: Array) -> Array:
        shape = jax.ShapeDtypeStruct((kh, kw, x.shape[-1], g.shape[-1]), x.dtype)
        transpose = jax.linear_transpose(lambda k: _conv(x, k, dilation), shape)
        return transpose(g)[0].astype(wide)

    return forms.by_platform(x, g, cpu=by_patches, default=by_xla)


def _patches(x: Array, kh: int, kw: int, dilation: int, mirrored: bool) -> Array:
    """What each tap reads around a pixel (h, w, c): (h w, kh kw c).

    Mirrored, it is the pixels whose taps read that pixel.
    """
    h, w, c = x.shape
    ph, pw = dilation * (kh // 2), dilation * (kw // 2)
    padded = jnp.pad(x, ((ph, ph), (pw, pw), (0, 0)))
    shifts = [(dilation * dy, dilation * dx) for dy in range(kh) for dx in range(kw)]
    if mirrored:
        shifts = [(2 * ph - dy, 2 * pw - dx) for dy, dx in shifts]
    seen = [padded[dy : dy + h, dx : dx + w] for dy, dx in shifts]
    return jnp.concatenate(seen, axis=-1).reshape(h * w, kh * kw * c)


def _kernel_gradient_bwd(
    kernel: tuple[int, int, int], residuals: tuple[Array, ...], v: Array
) -> tuple[Array, Array]:
    x, g = (x[0] for x in residuals)
    v = v.astype(x.dtype)
    return conv2d(g, _mirrored(v), kernel[2]), conv2d(x, v, kernel[2])


_kernel_gradient.defvjp(
    lambda x, g, kernel: (_kernel_gradient(x, g, kernel), keep(x, g)), _kernel_gradient_bwd
)


def _mirrored(kernel: Array) -> Array:
    """With an odd kernel and "same" zero padding, a convolution with it is the transpose."""
    return jnp.flip(kernel, (0, 1)).swapaxes(2, 3)


def _conv2d_fwd(x: Array, kernel: Array, dilation: int) -> tuple[Array, tuple[Array, ...]]:
    return conv2d(x, kernel, dilation), keep(x, kernel)


def _conv2d_bwd(dilation: int, residuals: tuple[Array, ...], g: Array) -> tuple[Array, Array]:
    x, kernel = (x[0] for x in residuals)
    dk = _kernel_gradient(x, g, (*kernel.shape[:2], dilation))
    return conv2d(g, _mirrored(kernel), dilation), dk.astype(kernel.dtype)


conv2d.defvjp(_conv2d_fwd, _conv2d_bwd)


def pointwise(
    x: Float[Array, "*b i"], kernel: Float[Array | np.ndarray, "i o"]
) -> Float[Array, "*b o"]:
    """1x1 convolution or linear map: one flat matrix product (its gradients are flat too)."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def channel_conv(
    x: Float[Array, "*b c"], taps: Float[Array | np.ndarray, " k"]
) -> Float[Array, "*b c"]:
    """1-D convolution along the channels, an odd number of taps, zeros beyond both ends."""
    count, reach = x.shape[-1], taps.shape[0] // 2
    framed = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(reach, reach)])
    seen = [taps[i] * framed[..., i : i + count] for i in range(taps.shape[0])]
    return functools.reduce(jnp.add, seen)


def _pixel_sums(x: Float[Array, "*p c"]) -> Float[Array, " c"]:
    """Sums over all but the last axis, as a product with ones."""
    x = x.reshape(-1, x.shape[-1])
    return jnp.matmul(jnp.ones((1, x.shape[0]), x.dtype), x, precision=_EXACT)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw 1 c"], dilation: int = 1
) -> Float[Array, "b h w c"]:
    """Depthwise 2-D convolution, stride 1, odd kernel, zero padding that keeps the size.

    A sum of shifted products where XLA's grouped convolution is slow (CPU: 20 times at 30
    channels), the grouped convolution elsewhere. Reverse mode only (to any order).

    Args:
        x: features.
        kernel: weights of every channel, odd ``kh`` and ``kw``.
        dilation: spacing of the taps in pixels.
    """
    kh, kw = kernel.shape[:2]

    def by_shifts(x: Array, kernel: Array) -> Array:
        ph, pw = dilation * (kh // 2), dilation * (kw // 2)
        framed = jnp.pad(x, ((0, 0), (ph, ph), (pw, pw), (0, 0)))
        return depthwise_inner(framed, kernel, dilation)

    def by_xla(x: Array, kernel: Array) -> Array:
        pads = [(dilation * (kh // 2),) * 2, (dilation * (kw // 2),) * 2]
        return lax.conv_general_dilated(
            x, kernel, (1, 1), pads, rhs_dilation=(dilation, dilation), dimension_numbers=_DIMS,
            feature_group_count=x.shape[-1],
        )  # fmt: skip

    return forms.by_platform(x, kernel, cpu=by_shifts, default=by_xla)


def depthwise_inner(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw 1 c"], dilation: int = 1
) -> Float[Array, "b p q c"]:
    """`depthwise` where the kernel fits inside the map: a sum of shifted products, no padding."""
    kh, kw = kernel.shape[:2]
    h, w = x.shape[1] - dilation * (kh - 1), x.shape[2] - dilation * (kw - 1)
    taps = [
        x[:, dilation * dy : dilation * dy + h, dilation * dx : dilation * dx + w]
        * match_rank(kernel[dy, dx], x)
        for dy in range(kh)
        for dx in range(kw)
    ]
    return functools.reduce(jnp.add, taps)


def _depthwise_fwd(x: Array, kernel: Array, dilation: int) -> tuple[Array, tuple[Array, ...]]:
    return depthwise(x, kernel, dilation), keep(x, kernel)


def _depthwise_bwd(dilation: int, residuals: tuple[Array, ...], g: Array) -> tuple[Array, Array]:
    x, kernel = (x[0] for x in residuals)
    dk = tap_products(x, g, kernel.shape[:2], dilation)
    return depthwise(g, jnp.flip(kernel, (0, 1)), dilation), dk.astype(kernel.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def tap_products(x: Array, g: Array, size: tuple[int, int], dilation: int = 1) -> Array:
    """Sum over pixels of what each tap of a depthwise kernel reads, times g.

    Linear in x and in g, hence its own short derivative.

    Args:
        x: (b, h, w, c) features.
        g: (b, h, w, c) gradient to the result.
        size: (kh, kw) of the kernel.
        dilation: spacing of the taps in pixels.

    Returns:
        (kh, kw, 1, c), in float32 at least.
    """
    kh, kw = size
    h, w, c = x.shape[1:]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    # Fused loops add up bands of rows in registers, one for each tap, and products with ones add up
    # the rest; reductions by XLA would write all products to memory first.
    bands = min(_BANDS, h)
    rows = ceil_div(h, bands)
    more = bands * rows - h
    ph, pw = dilation * (kh // 2), dilation * (kw // 2)
    framed = jnp.pad(x, ((0, 0), (ph, ph + more), (pw, pw), (0, 0))).astype(wide)
    g = jnp.pad(g, ((0, 0), (0, more), (0, 0), (0, 0))).astype(wide)

    def tap(dy: int, dx: int) -> Array:
        dy, dx = dilation * dy, dilation * dx
        products = [
            framed[:, dy + top : dy + top + rows, dx : dx + w] * g[:, top : top + rows]
            for top in range(0, h + more, rows)
        ]
        return functools.reduce(jnp.add, products)

    taps = lax.optimization_barrier([tap(dy, dx) for dy in range(kh) for dx in range(kw)])
    return jnp.stack([_pixel_sums(products) for products in taps]).reshape(kh, kw, 1, c)


def _tap_products_bwd(
    size: tuple[int, int], dilation: int, residuals: tuple[Array, ...], v: Array
) -> tuple[Array, Array]:
    del size
    x, g = (x[0] for x in residuals)
    v = v.astype(x.dtype)
    return depthwise(g, jnp.flip(v, (0, 1)), dilation), depthwise(x, v, dilation)


tap_products.defvjp(
    lambda x, g, size, dilation: (tap_products(x, g, size, dilation), keep(x, g)),
    _tap_products_bwd,
)
depthwise.defvjp(_depthwise_fwd, _depthwise_bwd)


def fan_in_uniform(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> Array:
    """Float32 weights as PyTorch draws them: uniform in +-1/sqrt(fan_in)."""
    bound = 1.0 / math.sqrt(fan_in)
    return jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound)


class Conv2d(nnx.Module):
    """Dense convolution, initialised as PyTorch does: uniform in +-1/sqrt(fan_in).

    Weights are HWIO. A kernel of size 1 runs as a matrix product.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        dilation: int = 1,
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        self.dilation = dilation
        fan_in = in_features * kernel_size**2
        shape = (kernel_size, kernel_size, in_features, out_features)
        self.kernel = nnx.Param(fan_in_uniform(rngs, shape, fan_in))
        self.bias: Any = (
            nnx.Param(fan_in_uniform(rngs, (out_features,), fan_in)) if use_bias else None
        )

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """Convolve; computes in the dtype of ``x``."""
        kernel = self.kernel[...].astype(x.dtype)
        if kernel.shape[:2] == (1, 1):
            y = pointwise(x, kernel[0, 0])
        else:
            y = conv2d(x, kernel, self.dilation)
        return y if self.bias is None else y + match_rank(self.bias[...].astype(x.dtype), y)


def reflected_conv2d(
    x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]
) -> Float[Array, "b h w o"]:
    """`conv2d` of a map that goes on in its mirror image beyond the border (edge not repeated)."""
    return conv2d(reflected(x), kernel.astype(x.dtype))[:, 1:-1, 1:-1]


def reflected_conv(conv: Conv2d, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
    """A layer of 3x3 with reflected in place of zero padding; one of 1x1 as it is.

    Args:
        conv: the layer, without dilation.
        x: features.
    """
    if conv.kernel.shape[0] == 1:
        return conv(x)
    y = reflected_conv2d(x, conv.kernel[...])
    return y if conv.bias is None else y + match_rank(conv.bias[...].astype(x.dtype), y)


class DepthwiseConv2d(nnx.Module):
    """Depthwise convolution with PyTorch's initialisation; weights ``(k, k, group, c)``.

    ``dilation`` is the spacing of its taps in pixels.

    With ``group`` g above 1 it is the grouped convolution whose groups mix g consecutive input
    channels into the g output channels of the same places (c a multiple of g).
    """

    def __init__(
        self,
        features: int,
        kernel_size: int,
        *,
        group: int = 1,
        dilation: int = 1,
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        self.dilation = dilation
        if features % group:
            raise ValueError(f"features ({features}) must be divisible by group ({group})")
        fan_in = group * kernel_size**2
        shape = (kernel_size, kernel_size, group, features)
        self.kernel = nnx.Param(fan_in_uniform(rngs, shape, fan_in))
        self.bias: Any = nnx.Param(fan_in_uniform(rngs, (features,), fan_in)) if use_bias else None

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Convolve every channel (or group) with its own kernel; computes in the dtype of ``x``."""
        kernel = self.kernel[...].astype(x.dtype)
        group = kernel.shape[2]
        if group == 1:
            y = depthwise(x, kernel, self.dilation)
        else:  # the i-th input of every group, beside each output of its group
            parts = [
                depthwise(
                    jnp.repeat(x[..., i::group], group, -1), kernel[:, :, i : i + 1], self.dilation
                )
                for i in range(group)
            ]
            y = functools.reduce(jnp.add, parts)
        return y if self.bias is None else y + match_rank(self.bias[...].astype(x.dtype), y)


class Linear(nnx.Module):
    """Linear map over the last axis; weights ``(in, out)``, truncated normal of std 0.02."""

    def __init__(
        self, in_features: int, out_features: int, *, use_bias: bool = True, rngs: nnx.Rngs
    ):
        shape = (in_features, out_features)
        # Cut at +-2 absolute, as the reference does: in effect a plain normal.
        draw = jax.random.truncated_normal(rngs.params(), -100.0, 100.0, shape, jnp.float32)
        self.kernel = nnx.Param(0.02 * draw)
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32)) if use_bias else None

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        """Map the last axis; computes in the dtype of ``x``."""
        y = pointwise(x, self.kernel[...].astype(x.dtype))
        return y if self.bias is None else y + match_rank(self.bias[...].astype(x.dtype), y)


@jax.custom_vjp
def layer_norm(
    x: Float[Array, "*b c"], scale: Float[Array, " c"], bias: Float[Array, " c"]
) -> Float[Array, "*b c"]:
    """Layer normalisation over the last axis, epsilon 1e-5, biased variance, affine.

    Computes in float32 at least and returns the dtype of ``x``. Reverse mode only (to any order):
    what differentiation would write out takes a CPU several times as long.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = jnp.mean(wide, -1, keepdims=True)
    variance = jnp.mean(jnp.square(wide - mean), -1, keepdims=True)
    normal = (wide - mean) * lax.rsqrt(variance + _EPSILON)
    return (normal * match_rank(scale, x) + match_rank(bias, x)).astype(x.dtype)


def _layer_norm_bwd(residuals: tuple[Array, ...], g: Array) -> tuple[Array, Array, Array]:
    x, scale = (x[0] for x in residuals)
    c = x.shape[-1]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    rows, slope = x.reshape(-1, c).astype(wide), g.reshape(-1, c).astype(wide)
    # Means over few channels are matrix-vector products: XLA's reductions along the last axis are
    # slow on a CPU, and spread their results over memory.
    mean = jnp.full((c, 1), 1 / c, wide)
    product = functools.partial(jnp.matmul, precision=_EXACT)
    centred = rows - product(rows, mean)
    inverse = lax.rsqrt(product(jnp.square(centred), mean) + _EPSILON)
    normal = centred * inverse
    by_scale = mean * scale.astype(wide)[:, None]
    along = product(slope * normal, by_scale)
    dx = (slope * match_rank(scale, slope) - product(slope, by_scale) - normal * along) * inverse
    d_scale, d_bias = _pixel_sums(slope * normal), _pixel_sums(slope)
    return (
        dx.reshape(x.shape).astype(x.dtype),
        d_scale.astype(scale.dtype),
        d_bias.astype(scale.dtype),
    )


layer_norm.defvjp(
    lambda x, scale, bias: (layer_norm(x, scale, bias), keep(x, scale)), _layer_norm_bwd
)


class LayerNorm(nnx.Module):
    """Layer normalisation over channels, epsilon 1e-5, biased variance, affine."""

    def __init__(self, features: int):
        self.scale = nnx.Param(jnp.ones((features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features,), jnp.float32))

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """Normalise in float32 and return the dtype of ``x``."""
        return layer_norm(x, self.scale[...], self.bias[...])
