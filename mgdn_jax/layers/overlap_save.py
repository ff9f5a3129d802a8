"""Convolution by overlap-save: the spectral form of `large_kernel`, quick on CPUs.

A dense 15x15 convolution of 128 channels costs 3.7 million multiply-adds per pixel, its spectral
form a hundred times fewer. The transform here is made of real matrix products only. All of them
have channels innermost, so that nothing is transposed and the processor runs at its best:

- Overlap-save: the image is cut into tiles of T x T pixels that overlap by k - 1; each tile gives
  T - k + 1 outputs a side that no wrap-around reaches.
- Along the width, odd frequencies pi (2 m + 1) / T, m < T / 2: T real values become T / 2 complex
  ones, none of them redundant. (Wrap-around changes its sign; it is thrown away all the same.)
  Along the height, a usual complex transform. Both are small constant matrices.
- Per frequency, the channels meet in a product of matrices over all tiles. With a dense kernel a
  complex product takes three real ones (Gauss): (a + ib)(c + id) has the real part p0 - p2 and the
  imaginary part p0 + p1, where p0 = (a + b) c, p1 = a (d - c), p2 = b (c + d).

A scan takes some tiles at a time, which bounds the memory; see `docs/benchmarks/speed.md`.

In the shapes below (th, tw) is a tile, (rh, rw) its outputs and (kh, kw) the kernel, each (height,
width); n counts tiles, f = tw / 2 frequencies along the width, and ``parts`` real numbers for each
complex one: 3 with a dense kernel (Gauss), 2 with a depthwise one.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from mgdn_jax.layers.padding import ceil_div

_MAX_TILE_SIDE = 128  # pixels
_MAX_CHANNELS = 160  # input channels whose spectrum is held at once
_TILES_PER_STEP = 32  # about; of the scan


def dot(a: Array, b: Array) -> Array:
    """Matrix product in full precision."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def widened(x: Array) -> Array:
    """``x`` in float32, or in its own dtype where that is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


# ---- how an image is cut ------------------------------------------------------------------------


class Tiling(NamedTuple):
    """How an image is cut: tiles of ``size`` pixels, ``number`` of them, (height, width) each."""

    size: tuple[int, int]
    number: tuple[int, int]


def _axis_options(extent: int, k: int) -> list[tuple[int, int]]:
    """Possible (tile size, number of tiles) along an axis: even sizes that share it evenly."""
    options = {}
    for count in range(1, max(1, extent // max(k - 1, 1)) + 1):
        size = ceil_div(extent, count) + k - 1
        size += size % 2
        if count == 1 or 2 * (k - 1) <= size <= _MAX_TILE_SIDE:
            options[size] = ceil_div(extent, size - k + 1)
    small = {size: count for size, count in options.items() if size <= _MAX_TILE_SIDE}
    return list((small or options).items())


def _transform_cost(th: int, tw: int, rh: int, rw: int, c: int, o: int, parts: int) -> int:
    """Multiply-adds of a tile's four transforms, from ``c`` and to ``o`` channels."""
    return tw * th * c * (tw + parts * th) + tw * rh * o * (parts * th + rw)


def _cost(tiling: Tiling, shape: tuple[int, ...], kernel: tuple[int, ...], groups: int) -> int:
    """Multiply-adds of a convolution that is cut like this."""
    (th, tw), (ny, nx) = tiling
    kh, kw, i, o = kernel
    dense = groups == 1
    parts = 3 if dense else 2
    tile = _transform_cost(th, tw, th - kh + 1, tw - kw + 1, i * groups, o, parts)
    tile += (3 * i * o if dense else 4 * o) * th * tw // 2
    return shape[0] * ny * nx * tile + i * o * tw * kh * (kw + parts * th)


@functools.lru_cache(maxsize=256)
def _tiling(shape: tuple[int, ...], kernel: tuple[int, ...], groups: int) -> Tiling:
    """The cut with the fewest multiply-adds."""
    options = [
        Tiling((th, tw), (ny, nx))
        for th, ny in _axis_options(shape[1], kernel[0])
        for tw, nx in _axis_options(shape[2], kernel[1])
    ]
    return min(options, key=lambda tiling: _cost(tiling, shape, kernel, groups))


def multiply_adds(shape: tuple[int, ...], kernel: tuple[int, ...], groups: int) -> int:
    """What `convolve` costs.

    Args:
        shape: of the input, NHWC.
        kernel: shape of the kernel, HWIO.
        groups: 1 (dense) or the number of channels (depthwise).

    Returns:
        Real multiply-adds of all transforms and products.
    """
    return _cost(_tiling(shape, kernel, groups), shape, kernel, groups)


# ---- the transform of a tile --------------------------------------------------------------------


class _Matrices(NamedTuple):
    """Constant matrices of the four transforms of a tile and the two of a kernel."""

    width: np.ndarray  # (f * 2, tw)
    height: np.ndarray  # (parts * th, 2 * th)
    height_back: np.ndarray  # (2 * rh, parts * th)
    width_back: np.ndarray  # (rw, f * 2)
    kernel_width: np.ndarray  # (f * 2, kw)
    kernel_height: np.ndarray  # (parts * th, 2 * kh)


def _odd_angles(t: int) -> np.ndarray:
    return np.pi / t * np.outer(2 * np.arange(t // 2) + 1, np.arange(t))


def _angles(t: int) -> np.ndarray:
    return 2 * np.pi / t * (np.outer(np.arange(t), np.arange(t)) % t)


def _interleaved(rows: np.ndarray) -> np.ndarray:
    """Complex (p, q) as real (p * 2, q): re and im of every row in turn."""
    return np.stack([rows.real, rows.imag], 1).reshape(-1, rows.shape[1])


def _stacked(matrix: np.ndarray) -> np.ndarray:
    """Complex (p, q) as the real (2 p, 2 q) that maps all re, then all im to the same."""
    return np.block([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])


def _image_factors(matrix: np.ndarray) -> np.ndarray:
    """Gauss' factors a + b, a, b instead of the rows a (re) and b (im)."""
    re, im = np.split(matrix, 2)
    return np.concatenate([re + im, re, im])


def _kernel_factors(matrix: np.ndarray) -> np.ndarray:
    """Gauss' factors c, d - c, c + d instead of the rows c (re) and d (im)."""
    re, im = np.split(matrix, 2)
    return np.concatenate([re, im - re, re + im])


def _from_products(matrix: np.ndarray) -> np.ndarray:
    """Takes Gauss' products p0, p1, p2 instead of columns for re = p0 - p2 and im = p0 + p1."""
    re, im = np.split(matrix, 2, axis=1)
    return np.concatenate([re + im, im, -re], axis=1)


@functools.lru_cache(maxsize=64)
def _matrices(size: tuple[int, int], kernel: tuple[int, int], gauss: bool) -> _Matrices:
    (th, tw), (kh, kw) = size, kernel
    rh, rw = th - kh + 1, tw - kw + 1
    width, height = np.exp(-1j * _odd_angles(tw)), np.exp(-1j * _angles(th))
    forward = _stacked(height)
    back = _stacked(height.conj()[:rh] / th)
    weights = _stacked(height.conj()[:, :kh])  # conjugate: the kernel is not mirrored
    if gauss:
        forward, back = _image_factors(forward), _from_products(back)
        weights = _kernel_factors(weights)
    return _Matrices(
        width=_interleaved(width),
        height=forward,
        height_back=back,
        width_back=np.ascontiguousarray(_interleaved(width)[:, :rw].T) * (2 / tw),
        kernel_width=_interleaved(width.conj()[:, :kw]),
        kernel_height=weights,
    )


def _times_first(matrix: np.ndarray, x: Float[Array, "q *more"]) -> Float[Array, "p *more"]:
    """Constant (p, q) times the first axis."""
    constant = jnp.asarray(matrix, x.dtype)
    return dot(constant, x.reshape(x.shape[0], -1)).reshape(-1, *x.shape[1:])


def _times_second(matrix: np.ndarray, x: Float[Array, "f q *more"]) -> Float[Array, "f p *more"]:
    """Constant (p, q) times the second axis."""
    constant = jnp.broadcast_to(jnp.asarray(matrix, x.dtype), (x.shape[0], *matrix.shape))
    flat = dot(constant, x.reshape(*x.shape[:2], -1))
    return flat.reshape(x.shape[0], -1, *x.shape[2:])


def _analyse(
    tiles: Float[Array, "w h *more"], width: np.ndarray, height: np.ndarray
) -> Float[Array, "f parts_h *more"]:
    """Pixels to frequencies, by the matrices for either axis."""
    y = _times_first(width, tiles)  # (f * 2, h, ...)
    f = width.shape[0] // 2
    return _times_second(height, y.reshape(f, -1, *tiles.shape[2:]))


def _synthesise(
    y: Float[Array, "f parts_h *more"], height: np.ndarray, width: np.ndarray
) -> Float[Array, "rw rh *more"]:
    """Inverse of `_analyse`, to the pixels that ``height`` and ``width`` have rows for."""
    z = _times_second(height, y)  # (f, 2 * rh, ...)
    return _times_first(width, z.reshape(z.shape[0] * 2, -1, *z.shape[2:]))


def _complex_product(a: Array, b: Array) -> Array:
    """Complex product of (f, 2 * h, ...) arrays, all re before all im on the second axis."""
    (ar, ai), (br, bi) = (jnp.split(z, 2, axis=1) for z in (a, b))
    return jnp.concatenate([ar * br - ai * bi, ar * bi + ai * br], 1)


# ---- tiles, some at a time ----------------------------------------------------------------------


class _Steps(NamedTuple):
    """How the scan goes through the tiles.

    Attributes:
        examples: of the batch in one step.
        rows: of tiles in one step.
        number: of steps through the batch and down the image.
    """

    examples: int
    rows: int
    number: tuple[int, int]


def _steps(batch: int, number: tuple[int, int]) -> _Steps:
    """Steps of about `_TILES_PER_STEP` tiles, of which each example has ``number``."""
    ny, nx = number
    most = min(ny, max(1, round(_TILES_PER_STEP / nx)))
    rows = ceil_div(ny, ceil_div(ny, most))  # the last step takes about as many as the others
    examples = min(batch, max(1, _TILES_PER_STEP // (ny * nx))) if rows == ny else 1
    return _Steps(examples, rows, (ceil_div(batch, examples), ceil_div(ny, rows)))


def _overlapping(x: Array, axis: int, size: int, count: int, step: int) -> Array:
    """Axis of `_span` pixels -> two axes (count, size), neighbours overlapping."""
    if count == 1:
        return jnp.expand_dims(lax.slice_in_dim(x, 0, size, axis=axis), axis)

    def blocks(start: int, length: int) -> Array:
        part = lax.slice_in_dim(x, start, start + count * step, axis=axis)
        part = part.reshape(*x.shape[:axis], count, step, *x.shape[axis + 1 :])
        return lax.slice_in_dim(part, 0, length, axis=axis + 1)

    return jnp.concatenate([blocks(0, step), blocks(step, size - step)], axis + 1)


def _span(count: int, size: int, step: int) -> int:
    """Pixels that `_overlapping` wants of an axis."""
    return size if count == 1 else (count + 1) * step


def _tile_reader(
    x: Float[Array, "b h w c"],
    size: tuple[int, int],
    step: tuple[int, int],
    columns: int,
    steps: _Steps,
    margin: tuple[int, int],
) -> Callable[[Array], Float[Array, "tw th n c"]]:
    """Frames ``x`` in zeros and cuts it as it is read.

    Args:
        x: the maps.
        size: (height, width) of a tile.
        step: pixels from one tile to the next, down and across.
        columns: tiles across.
        steps: how the scan goes through the tiles.
        margin: zeros above and to the left.

    Returns:
        A function from the number of a step to its tiles, width first.
    """
    b, h, w, c = x.shape
    examples, rows, number = steps
    height = _span(rows * number[1], size[0], step[0])
    width = _span(columns, size[1], step[1])
    more = number[0] * examples - b
    pads = [
        (m, total - extent - m)
        for m, total, extent in zip(margin, (height, width), (h, w), strict=True)
    ]
    framed = jnp.pad(x, ((0, more), *pads, (0, 0)))

    def tiles(index: Array) -> Array:
        first = index // number[1] * examples, index % number[1] * (rows * step[0])
        sizes = (examples, min(height, _span(rows, size[0], step[0])), width, c)
        part = lax.dynamic_slice(framed, (*first, 0, 0), sizes)
        part = _overlapping(part, 2, size[1], columns, step[1])
        part = _overlapping(part, 1, size[0], rows, step[0])  # (examples, rows, th, columns, tw, c)
        return part.transpose(4, 2, 0, 1, 3, 5).reshape(size[1], size[0], -1, c)

    return tiles


# ---- the convolution and the gradient to its kernel ---------------------------------------------


def _after(array: Array, kernel: Array) -> Array:
    """The kernel, but not before ``array`` has been computed.

    Spectra depend on weights only, and XLA for CPU would make those of all layers first and hold
    them all. It has removed barriers by the time it orders its work; a factor that it cannot know
    to be 1 stays.
    """
    infinite = jnp.isinf(array[(0,) * array.ndim])
    return kernel * jnp.where(infinite, 1 + jnp.finfo(kernel.dtype).eps, 1).astype(kernel.dtype)


def _spectrum(
    kernel: Float[Array, "kh kw j o"], size: tuple[int, int], dense: bool
) -> Float[Array, "f parts_h j o"]:
    m = _matrices(size, kernel.shape[:2], dense)
    return _analyse(widened(kernel).swapaxes(0, 1), m.kernel_width, m.kernel_height)


def convolve(
    x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw j o"], groups: int
) -> Float[Array, "b h w o"]:
    """Cross-correlation with zero padding that keeps the size.

    Args:
        x: features.
        kernel: HWIO weights, kh and kw odd.
        groups: 1 (dense, j = i) or the number of channels (depthwise, j = 1).

    Returns:
        Features in the dtype of ``x``; sums are taken in float32 at least.
    """
    if groups == 1 and kernel.shape[2] > _MAX_CHANNELS:  # one part after the other, for the memory
        second_x, second_kernel = x[..., _MAX_CHANNELS:], kernel[:, :, _MAX_CHANNELS:]
        y = convolve(x[..., :_MAX_CHANNELS], kernel[:, :, :_MAX_CHANNELS], groups)
        return y + convolve(second_x, _after(y, second_kernel), groups)
    kernel = _after(x, kernel)
    tiling = _tiling(x.shape, kernel.shape, groups)
    return _filter(x, _spectrum(kernel, tiling.size, groups == 1), kernel.shape, tiling)


def _filter(
    x: Float[Array, "b h w i"],
    spectrum: Float[Array, "f parts_h j o"],
    shape: tuple[int, ...],
    tiling: Tiling,
) -> Float[Array, "b h w o"]:
    """Overlap-save with the kernel of ``shape`` that has this spectrum."""
    (th, tw), (ny, nx) = tiling
    kh, kw, _, o = shape
    rh, rw = th - kh + 1, tw - kw + 1
    b, h, w, _ = x.shape
    dense = spectrum.shape[1] == 3 * th
    m = _matrices(tiling.size, (kh, kw), dense)
    steps = _steps(b, (ny, nx))
    examples, rows, number = steps
    tiles = _tile_reader(x, (th, tw), (rh, rw), nx, steps, (kh // 2, kw // 2))

    def filtered(index: Array) -> Array:
        y = _analyse(widened(tiles(index)), m.width, m.height)
        y = dot(y, spectrum) if dense else _complex_product(y, spectrum)
        z = _synthesise(y, m.height_back, m.width_back).astype(x.dtype)
        z = z.reshape(rw, rh, examples, rows, nx, o).transpose(2, 3, 1, 4, 0, 5)
        return z.reshape(examples, rows * rh, nx * rw, o)[:, :, :w]

    def put(out: Array, index: Array) -> tuple[Array, None]:
        return lax.dynamic_update_index_in_dim(out, filtered(index), index, 0), None

    # The buffer of the results is made of the input, not of zeros, for the reason in `_after`.
    count = number[0] * number[1]
    start = jnp.full((count, examples, rows * rh, w, o), x[0, 0, 0, 0])
    y, _ = lax.scan(put, start, jnp.arange(count))
    y = y.reshape(*number, examples, rows * rh, w, o).swapaxes(1, 2)
    return y.reshape(number[0] * examples, -1, w, o)[:b, :h]


def kernel_gradient(
    x: Float[Array, "b h w i"], g: Float[Array, "b h w o"], shape: tuple[int, ...], groups: int
) -> Float[Array, "kh kw j o"]:
    """Gradient of `convolve` to its kernel, by the same transform.

    Tiles of ``g`` take the place of the kernel, the kernel that of the output, and products are
    summed over the tiles.

    Args:
        x: the features that were convolved.
        g: gradient to the result.
        shape: of the kernel, HWIO.
        groups: as for `convolve`.

    Returns:
        The gradient, in float32 at least.
    """
    (th, tw), (ny, nx) = tiling = _tiling(x.shape, shape, groups)
    kh, kw = shape[:2]
    rh, rw = th - kh + 1, tw - kw + 1
    dense = groups == 1
    m = _matrices(tiling.size, (rh, rw), dense)
    steps = _steps(x.shape[0], (ny, nx))
    tiles = _tile_reader(x, (th, tw), (rh, rw), nx, steps, (kh // 2, kw // 2))
    slopes = _tile_reader(g, (rh, rw), (rh, rw), nx, steps, (0, 0))

    def add(total: Array, index: Array) -> tuple[Array, None]:
        y = _analyse(widened(tiles(index)), m.width, m.height)
        s = _analyse(widened(slopes(index)), m.kernel_width, m.kernel_height)
        if dense:
            return total + dot(y.swapaxes(2, 3), s), None
        return total + _complex_product(y, s).sum(2, keepdims=True), None

    start = jnp.zeros((tw // 2, (3 if dense else 2) * th, *shape[2:]), widened(x).dtype)
    total, _ = lax.scan(add, start, jnp.arange(math.prod(steps.number)))
    return _synthesise(total, m.height_back, m.width_back).swapaxes(0, 1)
