"""Convolutions with large kernels (5 to 31 pixels), dense and depthwise, quick on CPUs.

A dense 15x15 convolution of 128 channels costs 3.7 million multiply-adds per pixel, its spectral
form a hundred times fewer. The transform here is made of real matrix products only, all of them
with channels innermost, so that nothing is transposed and the processor runs at its best:

- Overlap-save: the image is cut into tiles of T x T pixels that overlap by k - 1; each tile gives
  T - k + 1 outputs a side that no wrap-around reaches.
- Along the width, odd frequencies pi (2 m + 1) / T, m < T / 2: T real values become T / 2 complex
  ones, none of them redundant. (Wrap-around changes its sign; it is thrown away all the same.)
  Along the height a usual complex transform. Both are small constant matrices.
- Per frequency, the channels meet in a product of matrices over all tiles. Complex products take
  three real ones (Gauss): x and kernel are kept as (re + im, re, im) and (re, im - re, re + im).

Tiles are worked off in groups by a scan, which bounds the memory; see `docs/benchmarks/speed.md`.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from mgdn_jax.layers.conv import _tap_products, _uniform
from mgdn_jax.layers.functional import keep

METHODS = ("direct", "fft", "shift")
_DIMS = ("NHWC", "HWIO", "NHWC")
_TAPS = 60  # in one fused loop of the depthwise shifts
_SHIFTED = 11  # largest depthwise kernel that is summed over taps
_LARGE = 11  # kernels from here on make tiles that the transforms are quick for
_FEW = 16  # output channels
_WIDEST = 160  # input channels whose spectrum is held at once
_GROUP = 32  # tiles in one step of the scan
_LARGEST = 128  # pixels a side of a tile


class Tiling(NamedTuple):
    """How an image is cut: tiles of ``size`` pixels, ``number`` of them, (height, width) each."""

    size: tuple[int, int]
    number: tuple[int, int]


def _axis(extent: int, k: int) -> list[tuple[int, int]]:
    """Possible (tile size, number of tiles) along an axis: even sizes that share it evenly."""
    options = {}
    for count in range(1, max(1, extent // max(k - 1, 1)) + 1):
        size = -(-extent // count) + k - 1
        size += size % 2
        if count == 1 or (size >= 2 * (k - 1) and size <= _LARGEST):
            options[size] = -(-extent // (size - k + 1))
    small = {size: count for size, count in options.items() if size <= _LARGEST}
    return list((small or options).items())


def _transform_cost(th: int, tw: int, rh: int, rw: int, c: int, o: int, parts: int) -> int:
    """Multiply-adds of a tile's four transforms."""
    return tw * th * c * (tw + parts * th) + tw * rh * o * (parts * th + rw)


def _fft_cost(tiling: Tiling, shape: tuple[int, ...], kernel: tuple[int, ...], groups: int) -> int:
    (th, tw), (ny, nx) = tiling
    kh, kw, i, o = kernel
    c = i * groups
    parts = 3 if groups == 1 else 2
    tile = _transform_cost(th, tw, th - kh + 1, tw - kw + 1, c, o, parts)
    tile += (3 * i * o if groups == 1 else 4 * o) * th * tw // 2
    return shape[0] * ny * nx * tile + i * o * tw * kh * (kw + parts * th)


@functools.lru_cache(maxsize=256)
def _tiling(shape: tuple[int, ...], kernel: tuple[int, ...], groups: int) -> Tiling:
    """The cut with the fewest multiply-adds."""
    options = [
        Tiling((th, tw), (ny, nx))
        for th, ny in _axis(shape[1], kernel[0])
        for tw, nx in _axis(shape[2], kernel[1])
    ]
    return min(options, key=lambda tiling: _fft_cost(tiling, shape, kernel, groups))


class _Matrices(NamedTuple):
    """Constant matrices of the four transforms of a tile and the two of a kernel."""

    width: np.ndarray  # (tw/2 * 2, tw)
    height: np.ndarray  # (parts * th, 2 * th)
    height_back: np.ndarray  # (2 * rh, parts * th)
    width_back: np.ndarray  # (rw, tw/2 * 2)
    kernel_width: np.ndarray  # (tw/2 * 2, kw)
    kernel_height: np.ndarray  # (parts * th, 2 * kh)


def _odd_angles(t: int) -> np.ndarray:
    return np.pi / t * np.outer(2 * np.arange(t // 2) + 1, np.arange(t))


def _angles(t: int) -> np.ndarray:
    return 2 * np.pi / t * (np.outer(np.arange(t), np.arange(t)) % t)


def _real(rows: np.ndarray) -> np.ndarray:
    """Complex (f, t) as real (f * 2, t): re and im of every row."""
    return np.stack([rows.real, rows.imag], 1).reshape(-1, rows.shape[1])


def _block(matrix: np.ndarray) -> np.ndarray:
    """Complex (p, q) as the real (2p, 2q) that maps (re, im) to (re, im)."""
    return np.block([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])


@functools.lru_cache(maxsize=64)
def _matrices(size: tuple[int, int], kernel: tuple[int, int], gauss: bool) -> _Matrices:
    (th, tw), (kh, kw) = size, kernel
    rh, rw = th - kh + 1, tw - kw + 1
    wide, high = np.exp(-1j * _odd_angles(tw)), np.exp(-1j * _angles(th))
    forward, back = _block(high), _block(high.conj()[:rh] / th)
    weights = _block(high.conj()[:, :kh])
    if gauss:
        re, im = np.split(forward, 2)
        forward = np.concatenate([re + im, re, im])
        kr, ki = np.split(weights, 2)
        weights = np.concatenate([kr, ki - kr, kr + ki])
        br, bi = np.split(back, 2, axis=1)  # y.re = p0 - p2, y.im = p0 + p1
        back = np.concatenate([br + bi, bi, -br], axis=1)
    return _Matrices(
        _real(wide),
        forward,
        back,
        np.ascontiguousarray(_real(wide)[:, :rw].T) * (2 / tw),
        _real(wide.conj()[:, :kw]),
        weights,
    )


def _dot(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _left(matrix: np.ndarray, x: Array) -> Array:
    """Constant (p, q) times (q, *rest) or, batched, (f, q, *rest): contracts the axis of q."""
    constant = jnp.asarray(matrix, x.dtype)
    return _dot(constant, x.reshape(x.shape[0], -1)).reshape(-1, *x.shape[1:])


def _left_batched(matrix: np.ndarray, x: Array) -> Array:
    constant = jnp.broadcast_to(jnp.asarray(matrix, x.dtype), (x.shape[0], *matrix.shape))
    flat = _dot(constant, x.reshape(*x.shape[:2], -1))
    return flat.reshape(x.shape[0], -1, *x.shape[2:])


def _analyse(tiles: Array, wide: np.ndarray, high: np.ndarray) -> Array:
    """(w, h, *rest) pixels -> (frequencies along w, parts * frequencies along h, *rest)."""
    y = _left(wide, tiles)
    f = wide.shape[0] // 2
    return _left_batched(high, y.reshape(f, -1, *tiles.shape[2:]))


def _synthesise(y: Array, high: np.ndarray, wide: np.ndarray) -> Array:
    """Inverse of `_analyse`, to the pixels that ``high`` and ``wide`` have rows for."""
    z = _left_batched(high, y)
    return _left(wide, z.reshape(z.shape[0] * 2, -1, *z.shape[2:]))


def _overlapping(x: Array, axis: int, size: int, count: int, step: int) -> Array:
    """Axis of (count - 1) * step + size -> two axes (count, size), neighbours overlapping."""
    if count == 1:
        return jnp.expand_dims(lax.slice_in_dim(x, 0, size, axis=axis), axis)

    def blocks(start: int, length: int) -> Array:
        part = lax.slice_in_dim(x, start, start + count * step, axis=axis)
        part = part.reshape(*x.shape[:axis], count, step, *x.shape[axis + 1 :])
        return lax.slice_in_dim(part, 0, length, axis=axis + 1)

    return jnp.concatenate([blocks(0, step), blocks(step, size - step)], axis + 1)


class _Groups(NamedTuple):
    """What one step of the scan takes of (examples, tile rows), and the number of steps of each."""

    taken: tuple[int, int]
    steps: tuple[int, int]


def _groups(batch: int, count: tuple[int, int]) -> _Groups:
    ny, nx = count
    rows = -(-ny // -(-ny // min(ny, max(1, round(_GROUP / nx)))))
    examples = min(batch, max(1, _GROUP // (ny * nx))) if rows == ny else 1
    return _Groups((examples, rows), (-(-batch // examples), -(-ny // rows)))


def _span(count: int, size: int, step: int) -> int:
    """Pixels that `_overlapping` wants of an axis."""
    return size if count == 1 else (count + 1) * step


def _grouped(
    x: Array, size: tuple[int, int], step: tuple[int, int], nx: int, groups: _Groups, margin: Any
) -> Any:
    """Frames x in zeros; returns a function from the number of a step to its tiles (w, h, n, c)."""
    (examples, rows), steps = groups
    height = _span(rows * steps[1], size[0], step[0])
    width = _span(nx, size[1], step[1])
    b, h, w, c = x.shape
    more = steps[0] * examples - b
    pads = [
        (m, total - extent - m)
        for m, total, extent in zip(margin, (height, width), (h, w), strict=True)
    ]
    framed = jnp.pad(x, ((0, more), *pads, (0, 0)))

    def tiles(index: Array) -> Array:
        first = index // steps[1] * examples, index % steps[1] * (rows * step[0])
        sizes = (examples, min(height, _span(rows, size[0], step[0])), width, c)
        part = lax.dynamic_slice(framed, (*first, 0, 0), sizes)
        part = _overlapping(part, 2, size[1], nx, step[1])
        part = _overlapping(part, 1, size[0], rows, step[0])  # (b, ny, h, nx, w, c)
        return part.transpose(4, 2, 0, 1, 3, 5).reshape(size[1], size[0], -1, c)

    return tiles


def _times(a: Array, b: Array) -> Array:
    """Complex product of (f, 2 * h, ...) arrays, re before im on the second axis."""
    (ar, ai), (br, bi) = (jnp.split(z, 2, axis=1) for z in (a, b))
    return jnp.concatenate([ar * br - ai * bi, ar * bi + ai * br], 1)


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _spectrum(kernel: Array, size: tuple[int, int], dense: bool) -> Array:
    """(kh, kw, i, o) -> (f, parts * th, i, o)."""
    m = _matrices(size, kernel.shape[:2], dense)
    return _analyse(_wide(kernel).swapaxes(0, 1), m.kernel_width, m.kernel_height)


def _once(there: Array, kernel: Array) -> Array:
    """The kernel, but not before an array is there.

    Spectra depend on weights only, and XLA for CPU would make those of all layers first and hold
    them all. Barriers are gone when it orders its work; a factor it cannot know to be 1 is not.
    """
    infinite = jnp.isinf(there[(0,) * there.ndim])
    return kernel * jnp.where(infinite, 1 + jnp.finfo(kernel.dtype).eps, 1).astype(kernel.dtype)


def _by_fft(x: Array, kernel: Array, groups: int) -> Array:
    if groups == 1 and kernel.shape[2] > _WIDEST:  # one part after the other, for the memory
        rest_x, rest_kernel = x[..., _WIDEST:], kernel[:, :, _WIDEST:]
        y = _by_fft(x[..., :_WIDEST], kernel[:, :, :_WIDEST], groups)
        return y + _by_fft(rest_x, _once(y, rest_kernel), groups)
    kernel = _once(x, kernel)
    tiling = _tiling(x.shape, kernel.shape, groups)
    return _filter(x, _spectrum(kernel, tiling.size, groups == 1), kernel.shape, tiling)


def _filter(x: Array, spectrum: Array, shape: tuple[int, ...], tiling: Tiling) -> Array:
    """Overlap-save with a kernel of ``shape`` given by its spectrum."""
    (th, tw), (ny, nx) = tiling
    kh, kw = shape[:2]
    rh, rw = th - kh + 1, tw - kw + 1
    b, h, w, _ = x.shape
    o = shape[3]
    dense = spectrum.shape[1] == 3 * th
    m = _matrices(tiling.size, (kh, kw), dense)
    groups = _groups(b, (ny, nx))
    tiles = _grouped(x, (th, tw), (rh, rw), nx, groups, (kh // 2, kw // 2))
    (examples, rows), steps = groups

    def step(index: Array) -> Array:
        y = _analyse(_wide(tiles(index)), m.width, m.height)
        y = _dot(y, spectrum) if dense else _times(y, spectrum)
        z = _synthesise(y, m.height_back, m.width_back).astype(x.dtype)
        z = z.reshape(rw, rh, examples, rows, nx, o).transpose(2, 3, 1, 4, 0, 5)
        return z.reshape(examples, rows * rh, nx * rw, o)[:, :, :w]

    def put(out: Array, index: Array) -> tuple[Array, None]:
        return lax.dynamic_update_index_in_dim(out, step(index), index, 0), None

    # For the same reason the buffer of the results is made of the input, not of zeros.
    count = steps[0] * steps[1]
    start = jnp.full((count, examples, rows * rh, w, o), x[0, 0, 0, 0])
    y, _ = lax.scan(put, start, jnp.arange(count))
    y = y.reshape(*steps, examples, rows * rh, w, o).swapaxes(1, 2)
    return y.reshape(steps[0] * examples, -1, w, o)[:b, :h]


def _gradient_by_fft(x: Array, g: Array, shape: tuple[int, ...], groups: int) -> Array:
    """The same with tiles of g as kernels, the kernel as output, and sums over tiles."""
    (th, tw), (ny, nx) = tiling = _tiling(x.shape, shape, groups)
    kh, kw = shape[:2]
    rh, rw = th - kh + 1, tw - kw + 1
    dense = groups == 1
    m = _matrices(tiling.size, (rh, rw), dense)
    taken = _groups(x.shape[0], (ny, nx))
    tiles = _grouped(x, (th, tw), (rh, rw), nx, taken, (kh // 2, kw // 2))
    slopes = _grouped(g, (rh, rw), (rh, rw), nx, taken, (0, 0))

    def add(total: Array, index: Array) -> tuple[Array, None]:
        y = _analyse(_wide(tiles(index)), m.width, m.height)
        s = _analyse(_wide(slopes(index)), m.kernel_width, m.kernel_height)
        if dense:
            return total + _dot(y.swapaxes(2, 3), s), None
        return total + _times(y, s).sum(2, keepdims=True), None

    start = jnp.zeros((tw // 2, (3 if dense else 2) * th, *shape[2:]), _wide(x).dtype)
    total, _ = lax.scan(add, start, jnp.arange(math.prod(taken.steps)))
    return _synthesise(total, m.height_back, m.width_back).swapaxes(0, 1)


def _direct(x: Array, kernel: Array, groups: int) -> Array:
    pads = [(k // 2, k // 2) for k in kernel.shape[:2]]
    return lax.conv_general_dilated(
        x, kernel, (1, 1), pads, dimension_numbers=_DIMS, feature_group_count=groups
    )


def _gradient_direct(x: Array, g: Array, shape: tuple[int, ...], groups: int) -> Array:
    kernel = jax.ShapeDtypeStruct(shape, x.dtype)
    return _wide(jax.linear_transpose(lambda k: _direct(x, k, groups), kernel)(g)[0])


def _padded(x: Array, shape: tuple[int, ...]) -> Array:
    kh, kw = shape[:2]
    return jnp.pad(x, ((0, 0), (kh // 2,) * 2, (kw // 2,) * 2, (0, 0)))


def _by_shifts(x: Array, kernel: Array, groups: int) -> Array:
    kh, kw, i, o = kernel.shape
    b, h, w, c = x.shape
    framed = _padded(x, kernel.shape)
    if groups > 1:

        def sums(seen: Array, weights: Array) -> Array:
            """Over the rows of taps in `weights`: one fused loop."""
            taps = [
                seen[:, dy : dy + h, dx : dx + w] * weights[dy, dx, 0]
                for dy in range(weights.shape[0])
                for dx in range(kw)
            ]
            return functools.reduce(jnp.add, taps)

        if kh * kw <= _TAPS:
            return sums(framed, kernel)
        # The loop is there for what comes after: XLA would fuse the last sum into that, barrier or
        # not, and work it out anew for every tap of a second convolution.
        rows = max(1, min(kh // 2, _TAPS // kw))
        first = kh % rows

        def add_rows(n: Array, total: Array) -> Array:
            top = first + n * rows
            seen = lax.dynamic_slice_in_dim(framed, top, rows - 1 + h, 1)
            return total + sums(seen, lax.dynamic_slice_in_dim(kernel, top, rows, 0))

        total = sums(framed, kernel[:first]) if first else jnp.zeros((b, h, w, o), x.dtype)
        return lax.fori_loop(0, kh // rows, add_rows, total)

    def add(total: Array, tap: tuple[Array, Array]) -> tuple[Array, None]:
        at, weights = tap
        seen = lax.dynamic_slice(framed, (0, at // kw, at % kw, 0), (b, h, w, c))
        return total + _dot(seen, weights), None

    start = jnp.zeros((b, h, w, o), x.dtype)
    return lax.scan(add, start, (jnp.arange(kh * kw), kernel.reshape(-1, i, o)))[0]


def _gradient_by_shifts(x: Array, g: Array, shape: tuple[int, ...], groups: int) -> Array:
    kh, kw, _, o = shape
    b, h, w, c = x.shape
    if groups > 1 and max(kh, kw) <= 5:
        return _tap_products(x, g, (kh, kw))
    framed, g = _wide(_padded(x, shape)), _wide(g)

    def tap(at: Array) -> Array:
        seen = lax.dynamic_slice(framed, (0, at // kw, at % kw, 0), (b, h, w, c))
        if groups > 1:
            return (seen * g).sum((0, 1, 2))
        return _dot(seen.reshape(-1, c).T, g.reshape(-1, o))

    return lax.map(tap, jnp.arange(kh * kw)).reshape(shape)


_FORMS = {"direct": _direct, "fft": _by_fft, "shift": _by_shifts}
_GRADIENTS = {
    "direct": _gradient_direct,
    "fft": _gradient_by_fft,
    "shift": _gradient_by_shifts,
}


def _price(kernel: tuple[int, ...], gradient: bool) -> float:
    """What a multiply-add of the transforms costs in those of XLA's convolution.

    By measurement on two cores. Small kernels make small tiles, whose products are slow; XLA's
    gradient of a kernel with few output channels is slower than its convolution.
    """
    if max(kernel[:2]) >= _LARGE:
        return 1.5
    if gradient:
        return 0.9 if kernel[3] <= _FEW else 2.9
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
        gradient: of the kernel's gradient instead of a convolution; the input's gradient is one.
    """
    kh, kw, i, o = kernel
    if groups > 1:
        if not i == 1 == o // groups:
            return "direct"
        # Sums over taps are fused into one loop, reductions over pixels are not.
        return "shift" if max(kh, kw) <= (5 if gradient else _SHIFTED) else "fft"
    cost = _fft_cost(_tiling(shape, kernel, groups), shape, kernel, groups)
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
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=by_xla)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _kernel_gradient(
    x: Array, g: Array, shape: tuple[int, ...], groups: int, method: str | None
) -> Array:
    """Sum over pixels of what each tap sees times g: ``shape``, >= float32; bilinear."""

    def by_xla(x: Array, g: Array) -> Array:
        return _gradient_direct(x, g, shape, groups)

    def on_cpu(x: Array, g: Array) -> Array:
        return _GRADIENTS[choose(x.shape, shape, groups, gradient=True)](x, g, shape, groups)

    if method is not None:
        return _GRADIENTS[method](x, g, shape, groups)
    return lax.platform_dependent(x, g, cpu=on_cpu, default=by_xla)


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
    return y if bias is None else y + bias.astype(x.dtype)


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
        self.kernel = nnx.Param(_uniform(rngs, shape, fan_in))
        self.bias: Any = nnx.Param(_uniform(rngs, (out_features,), fan_in)) if use_bias else None

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """Convolve; computes in the dtype of ``x`` (transforms in at least float32)."""
        bias = None if self.bias is None else self.bias[...]
        return large_kernel_conv(
            x, self.kernel[...], groups=self.groups, bias=bias, method=self.method
        )
