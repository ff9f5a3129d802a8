"""Convolutions with large kernels (5 to 31 pixels), dense and depthwise, quick on CPUs.

There are three forms, `METHODS`: XLA's own convolution, the transforms of `overlap_save`, and sums
over taps. `choose` takes one by the shapes; all of them give the same up to rounding.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from mgdn_jax.layers import forms, overlap_save
from mgdn_jax.layers.conv import fan_in_uniform, tap_products
from mgdn_jax.layers.functional import keep
from mgdn_jax.layers.overlap_save import dot, widened
from mgdn_jax.layers.padding import match_rank

METHODS = ("direct", "fft", "shift")
_DIMS = ("NHWC", "HWIO", "NHWC")
_TAPS_PER_LOOP = 60  # of the depthwise shifts; XLA fuses a loop's sum into one pass
_SHIFT_UP_TO = 11  # pixels a side; depthwise kernels up to here are summed over taps
_SHIFT_GRADIENT_UP_TO = 5  # pixels a side; the same for their gradients
_FFT_IS_QUICK_FROM = 11  # pixels a side; such kernels make large tiles
_FEW_OUTPUTS = 16  # channels


# ---- the forms: convolution and gradient to the kernel ------------------------------------------


def _direct(x: Array, kernel: Array, groups: int) -> Array:
    pads = [(k // 2, k // 2) for k in kernel.shape[:2]]
    return lax.conv_general_dilated(
        x, kernel, (1, 1), pads, dimension_numbers=_DIMS, feature_group_count=groups
    )


def _gradient_direct(x: Array, g: Array, shape: tuple[int, ...], groups: int) -> Array:
    kernel = jax.ShapeDtypeStruct(shape, x.dtype)
    return widened(jax.linear_transpose(lambda k: _direct(x, k, groups), kernel)(g)[0])


def _framed(x: Array, shape: tuple[int, ...]) -> Array:
    """The map in zeros, as many as a kernel of this shape reaches beyond it."""
    kh, kw = shape[:2]
    return jnp.pad(x, ((0, 0), (kh // 2,) * 2, (kw // 2,) * 2, (0, 0)))


def _by_shifts(x: Array, kernel: Array, groups: int) -> Array:
    framed = _framed(x, kernel.shape)
    if groups > 1:
        return _depthwise_by_shifts(framed, kernel, x.shape)
    return _dense_by_shifts(framed, kernel, x.shape)


def _depthwise_by_shifts(framed: Array, kernel: Array, shape: tuple[int, ...]) -> Array:
    b, h, w, _ = shape
    kh, kw, _, o = kernel.shape

    def sums(seen: Array, weights: Array) -> Array:
        """Over the rows of taps in ``weights``: one fused loop."""
        taps = [
            seen[:, dy : dy + h, dx : dx + w] * match_rank(weights[dy, dx, 0], seen)
            for dy in range(weights.shape[0])
            for dx in range(kw)
        ]
        return functools.reduce(jnp.add, taps)

    if kh * kw <= _TAPS_PER_LOOP:
        return sums(framed, kernel)
    # The loop is there for what comes after: XLA would fuse the last sum into that, barrier or
    # not, and work it out anew for every tap of a second convolution.
    rows = max(1, min(kh // 2, _TAPS_PER_LOOP // kw))
    first = kh % rows

    def add_rows(n: Array, total: Array) -> Array:
        top = first + n * rows
        seen = lax.dynamic_slice_in_dim(framed, top, rows - 1 + h, 1)
        return total + sums(seen, lax.dynamic_slice_in_dim(kernel, top, rows, 0))

    total = sums(framed, kernel[:first]) if first else jnp.zeros((b, h, w, o), framed.dtype)
    return lax.fori_loop(0, kh // rows, add_rows, total)


def _dense_by_shifts(framed: Array, kernel: Array, shape: tuple[int, ...]) -> Array:
    b, h, w, c = shape
    kh, kw, i, o = kernel.shape

    def add(total: Array, tap: tuple[Array, Array]) -> tuple[Array, None]:
        index, weights = tap
        seen = lax.dynamic_slice(framed, (0, index // kw, index % kw, 0), (b, h, w, c))
        return total + dot(seen, weights), None

    start = jnp.zeros((b, h, w, o), framed.dtype)
    return lax.scan(add, start, (jnp.arange(kh * kw), kernel.reshape(-1, i, o)))[0]


def _gradient_by_shifts(x: Array, g: Array, shape: tuple[int, ...], groups: int) -> Array:
    kh, kw, _, o = shape
    b, h, w, c = x.shape
    if groups > 1 and max(kh, kw) <= _SHIFT_GRADIENT_UP_TO:
        return tap_products(x, g, (kh, kw))
    framed, g = widened(_framed(x, shape)), widened(g)

    def tap(index: Array) -> Array:
        seen = lax.dynamic_slice(framed, (0, index // kw, index % kw, 0), (b, h, w, c))
        if groups > 1:
            return (seen * g).sum((0, 1, 2))
        return dot(seen.reshape(-1, c).T, g.reshape(-1, o))

    return lax.map(tap, jnp.arange(kh * kw)).reshape(shape)


_FORMS = {"direct": _direct, "fft": overlap_save.convolve, "shift": _by_shifts}
_GRADIENTS = {
    "direct": _gradient_direct,
    "fft": overlap_save.kernel_gradient,
    "shift": _gradient_by_shifts,
}


def _price(kernel: tuple[int, ...], gradient: bool) -> float:
    """How long a multiply-add of the transforms takes, as a multiple of one of XLA's convolution.

    By measurement on two cores. Small kernels make small tiles, whose products are slow; XLA's
    gradient of a kernel with few output channels is slower than its convolution.
    """
    if max(kernel[:2]) >= _FFT_IS_QUICK_FROM:
        return 1.5
    if gradient:
        return 0.9 if kernel[3] <= _FEW_OUTPUTS else 2.9
    return 3.5


def choose(
    shape: tuple[int, ...], kernel: tuple[int, ...], groups: int = 1, *, gradient: bool = False
) -> str:
    """The form that a CPU takes for an input and a kernel of these shapes: the rule of `None`.

    Depthwise kernels up to 11 go as shifts, larger ones by transforms, and so do their gradients
    from 7 on; dense ones by transforms where these, at their `_price`, are cheaper than XLA's
    convolution. How near that comes to the best form: docs/benchmarks/speed.md.

    Args:
        shape: of the input, NHWC.
        kernel: shape of the kernel, HWIO.
        groups: as in `large_kernel_conv`.
        gradient: whether it is about the gradient to the kernel. The gradient to the input is a
            convolution again.

    Returns:
        One of `METHODS`.
    """
    kh, kw, i, o = kernel
    if groups > 1:
        if not i == 1 == o // groups:
            return "direct"
        # Sums over taps are fused into one loop, reductions over pixels are not.
        limit = _SHIFT_GRADIENT_UP_TO if gradient else _SHIFT_UP_TO
        return "shift" if max(kh, kw) <= limit else "fft"
    cost = overlap_save.multiply_adds(shape, kernel, groups)
    direct = math.prod(shape[:3]) * math.prod(kernel)
    return "fft" if _price(kernel, gradient) * cost < direct else "direct"


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: Array, kernel: Array, groups: int, method: str | None) -> Array:
    def by_xla(x: Array, kernel: Array) -> Array:
        return _direct(x, kernel, groups)

    def on_cpu(x: Array, kernel: Array) -> Array:
        return _FORMS[choose(x.shape, kernel.shape, groups)](x, kernel, groups)

    if method is not None:
        return _FORMS[method](x, kernel, groups)
    if forms.are_whole():  # the forms of a CPU are chosen by size
        return by_xla(x, kernel)
    return forms.by_platform(x, kernel, cpu=on_cpu, default=by_xla)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _kernel_gradient(
    x: Array, g: Array, shape: tuple[int, ...], groups: int, method: str | None
) -> Array:
    """Sum over pixels of what each tap sees times ``g``: of ``shape``, in float32 at least.

    Linear in ``x`` and in ``g``, hence its own short derivative.
    """

    def by_xla(x: Array, g: Array) -> Array:
        return _gradient_direct(x, g, shape, groups)

    def on_cpu(x: Array, g: Array) -> Array:
        return _GRADIENTS[choose(x.shape, shape, groups, gradient=True)](x, g, shape, groups)

    if method is not None:
        return _GRADIENTS[method](x, g, shape, groups)
    return forms.by_platform(x, g, cpu=on_cpu, default=by_xla)


def _mirrored(kernel: Array, groups: int) -> Array:
    """With an odd kernel and zero padding, a convolution with it is the transpose."""
    flipped = jnp.flip(kernel, (0, 1))
    if groups == 1:
        return flipped.swapaxes(2, 3)
    kh, kw, i, o = kernel.shape
    apart = flipped.reshape(kh, kw, i, groups, o // groups).swapaxes(2, 4)
    return apart.reshape(kh, kw, o // groups, groups * i)


def _conv_fwd(
    x: Array, kernel: Array, groups: int, method: str | None
) -> tuple[Array, tuple[Array, ...]]:
    return _conv(x, kernel, groups, method), keep(x, kernel)


def _conv_bwd(
    groups: int, method: str | None, residuals: tuple[Array, ...], g: Array
) -> tuple[Array, Array]:
    x, kernel = (x[0] for x in residuals)
    dk = _kernel_gradient(x, g, kernel.shape, groups, method)
    return _conv(g, _mirrored(kernel, groups), groups, method), dk.astype(kernel.dtype)


def _gradient_fwd(
    x: Array, g: Array, shape: tuple[int, ...], groups: int, method: str | None
) -> tuple[Array, tuple[Array, ...]]:
    return _kernel_gradient(x, g, shape, groups, method), keep(x, g)


def _gradient_bwd(
    shape: tuple[int, ...], groups: int, method: str | None, residuals: tuple[Array, ...], v: Array
) -> tuple[Array, Array]:
    del shape
    x, g = (x[0] for x in residuals)
    v = v.astype(x.dtype)
    return _conv(g, _mirrored(v, groups), groups, method), _conv(x, v, groups, method)


_conv.defvjp(_conv_fwd, _conv_bwd)
_kernel_gradient.defvjp(_gradient_fwd, _gradient_bwd)


def large_kernel_conv(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "kh kw j o"],
    *,
    groups: int = 1,
    bias: Float[Array, " o"] | None = None,
    method: str | None = None,
) -> Float[Array, "b h w o"]:
    """2-D cross-correlation with a large kernel, stride 1, zero padding that keeps the size.

    Reverse mode only, to any order; both gradients take the same form as the value.

    Args:
        x: features; any height and width, also smaller than the kernel.
        kernel: HWIO weights, kh and kw odd, ``j = i / groups``.
        groups: 1 (dense), the number of channels (depthwise), or any other divisor of it.
        bias: added to the result.
        method: "direct" (XLA's convolution), "fft" (overlap-save) or "shift" (a sum over taps);
            None takes what `choose` says on a CPU and "direct" elsewhere. Groups other than 1 and
            the number of channels take "direct".

    Returns:
        Features with ``o`` channels in the dtype of ``x``.

    Raises:
        ValueError: shapes, groups or the method do not fit; the message says which.
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    if x.ndim != 4 or kernel.ndim != 4:
        raise ValueError(f"x must be (b, h, w, c) and kernel HWIO, got {x.shape}, {kernel.shape}")
    if not (jnp.issubdtype(x.dtype, jnp.floating) and jnp.issubdtype(kernel.dtype, jnp.floating)):
        raise ValueError(f"x and kernel must be real floats, got {x.dtype} and {kernel.dtype}")
    kh, kw, i, o = kernel.shape
    if kh % 2 == 0 or kw % 2 == 0:
        raise ValueError(f"kernel must have an odd height and width, got {kh}x{kw}")
    if groups < 1 or i * groups != x.shape[3] or o % groups:
        raise ValueError(
            f"kernel {kernel.shape} in {groups} groups does not fit {x.shape[3]} input channels"
        )
    if method is not None and method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)} or None, got {method!r}")
    if bias is not None and bias.shape != (o,):
        raise ValueError(f"bias must be ({o},), got {bias.shape}")
    if groups > 1 and not i == 1 == o // groups:
        method = "direct"
    y = _conv(x, kernel.astype(x.dtype), groups, method)
    return y if bias is None else y + match_rank(bias.astype(x.dtype), y)


class LargeKernelConv(nnx.Module):
    """`large_kernel_conv` as a layer, initialised as PyTorch does: uniform in +-1/sqrt(fan_in).

    Parameters ``kernel`` (HWIO) and ``bias`` have the names and shapes of `Conv2d` (dense) and
    `DepthwiseConv2d` (``groups`` = channels).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        groups: int = 1,
        use_bias: bool = True,
        method: str | None = None,
        rngs: nnx.Rngs,
    ):
        if in_features % groups or out_features % groups:
            both = f"{in_features} and {out_features}"
            raise ValueError(f"features ({both}) must be divisible by groups ({groups})")
        self.groups = groups
        self.method = method
        i = in_features // groups
        fan_in = i * kernel_size**2
        shape = (kernel_size, kernel_size, i, out_features)
        self.kernel = nnx.Param(fan_in_uniform(rngs, shape, fan_in))
        self.bias: Any = (
            nnx.Param(fan_in_uniform(rngs, (out_features,), fan_in)) if use_bias else None
        )

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """Convolve; computes in the dtype of ``x`` (transforms in at least float32)."""
        bias = None if self.bias is None else self.bias[...]
        return large_kernel_conv(
            x, self.kernel[...], groups=self.groups, bias=bias, method=self.method
        )
