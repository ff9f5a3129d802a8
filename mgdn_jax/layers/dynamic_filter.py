"""Spatially variant filtering (MGDN section 3.2, "FAC"): every pixel has a kernel of its own.

The definition is `dynamic_filter_reference`; networks call `dynamic_filter`, which computes the
same without ever holding the `kernel_size**2`-fold tensor of image patches, in the forward pass,
the backward pass and the second derivative.

How. The operator is linear in the image and linear in the kernels, so three maps suffice:

- filter     `F(x, K)`: the result,
- spread     `G(g, K)`: the adjoint of `F` in `x`, the gradient to the image,
- correlate  `H(g, x)`: the adjoint of `F` in `K`, the gradient to the kernels.

The derivatives of `F`, `G` and `H` are again `F`, `G` and `H`, so the family is closed and stays
cheap at any order of reverse mode. Each map walks down the image in blocks of rows small enough
for the cache; within a block a Python loop over taps unrolls into one fused kernel. Kernels are
read where they lie: on a CPU, touching fresh memory costs more than the arithmetic.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

from mgdn_jax.layers.functional import keep

__all__ = ["BORDERS", "IMPLEMENTATIONS", "dynamic_filter", "dynamic_filter_reference"]

BORDERS = ("replicate", "reflect", "zero")

# Scalars (image and kernels together) in one block of rows: about 1.5 MB in float32, which two
# blocks of the second-level cache can hold. Accelerators want fewer and larger launches.
_BLOCK_SCALARS = {"cpu": 3 << 17}
_BLOCK_SCALARS_ELSEWHERE = 1 << 26
# Channels summed in one unrolled expression of `correlate`; more only lengthen compilation.
_UNROLLED_CHANNELS = 32


@dataclass(frozen=True)
class _Spec:
    """What the three maps must know beyond their operands; hashable, hence static under jit."""

    size: int
    dilation: int
    border: str
    groups: int
    kernels_dtype: Any

    @property
    def reach(self) -> int:
        """Pixels from the centre of the kernel to its outermost tap."""
        return self.size // 2 * self.dilation

    @property
    def offsets(self) -> range:
        """Where the taps of one kernel row (or column) lie, in pixels from the first."""
        return range(0, self.size * self.dilation, self.dilation)


# ---- rows, columns and borders ----------------------------------------------------------------


def _source(index: Array, length: int, border: str) -> tuple[Array, Array]:
    """For positions beyond the image: where the border takes them from, and whether inside."""
    inside = (index >= 0) & (index < length)
    if border == "reflect":
        index = length - 1 - jnp.abs(length - 1 - jnp.abs(index))
    return jnp.clip(index, 0, length - 1), inside


def _window(
    image: Array, start: Any, rows: int, margins: tuple[int, int], border: str, dtype: Any
) -> Array:
    """`rows` rows from `start` on, with margins (rows, columns) on both sides of each axis."""
    height, width = image.shape[1:3]
    above, left = margins
    ys, y_inside = _source(start - above + jnp.arange(rows + 2 * above), height, border)
    xs, x_inside = _source(jnp.arange(-left, width + left), width, border)
    block = image[:, ys][:, :, xs].astype(dtype)
    if border == "zero":
        block = jnp.where((y_inside[:, None] & x_inside)[None, :, :, None], block, 0)
    return block


def _fold(inner: Array, low: Array, high: Array, axis: int, border: str) -> Array:
    """Adjoint of a border: adds what fell on the two margins to the pixels they show."""
    margin, length = low.shape[axis], inner.shape[axis]
    if border == "zero" or margin == 0:
        return inner
    outside = jnp.concatenate([jnp.arange(-margin, 0), length + jnp.arange(margin)])
    shown, _ = _source(outside, length, border)
    edges = lax.optimization_barrier(jnp.concatenate([low, high], axis))
    return inner.at[(slice(None),) * axis + (shown,)].add(edges)


def _rows_per_block(images: int, height: int, width: int, depth: int, spec: _Spec) -> int:
    """Rows that fit the cache, at least the halo they need, all blocks about alike."""
    budget = _BLOCK_SCALARS.get(jax.default_backend(), _BLOCK_SCALARS_ELSEWHERE)
    rows = max(budget // max(images * width * depth, 1), 2 * spec.reach, 1)
    return -(-height // -(-height // rows))


def _by_rows(
    block: Callable, shape: tuple[int, ...], depth: int, dtype: Any, spec: _Spec, after: Array
):
    """Array of `shape` assembled from `block(start, rows)`; the last block may overlap.

    The empty result is filled from an entry of `after`, an operand of the block, because XLA
    allocates what depends on nothing when the program starts, and keeps it until it is used.
    """
    images, height, width = shape[:3]
    rows = _rows_per_block(images, height, width, depth, spec)
    count = -(-height // rows)
    if count == 1:
        return block(0, rows).astype(dtype)

    def step(out, start):
        # Without the barrier the whole block is fused into the update, which runs on one core.
        part = lax.optimization_barrier(block(start, rows).astype(dtype))
        return lax.dynamic_update_slice_in_dim(out, part, start, axis=1), None

    starts = jnp.minimum(jnp.arange(count) * rows, height - rows)
    empty = jnp.broadcast_to(after[:1, :1, :1, :1].astype(dtype), shape)
    return lax.scan(step, empty, starts)[0]


# ---- the closed family: x, g (n, h, w, c) and K (n, h, w, groups * taps) ------------------------


def _settle(array: Array) -> Array:
    """Has the array written out once, last axis contiguous.

    Left to itself the compiler reads a transposed array with strides, once for every tap.
    """
    array = with_layout_constraint(array, Layout(tuple(range(array.ndim))))
    return lax.optimization_barrier(array)


def _split(block: Array, groups: int) -> Array:
    return block.reshape(*block.shape[:-1], groups, -1)


def _sum(term: Callable[[int, int, int], Array], spec: _Spec) -> Array:
    """Sum of `term(tap, y, x)` over taps, kernel row by kernel row: less rounding than in one go.

    A Python loop on purpose: unrolled, it compiles to one pass that keeps the sum in a register.
    """
    total: Any = 0
    for row, y in enumerate(spec.offsets):
        part: Any = 0
        for column, x in enumerate(spec.offsets):
            part += term(row * spec.size + column, y, x)
        total += part
    return total


@partial(jax.jit, static_argnums=2)
def _filter_rows(x: Array, kernels: Array, spec: _Spec) -> Array:
    *_, width, channels = x.shape
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, kernels.dtype), jnp.float32)

    def block(start, rows):
        image = _window(x, start, rows, (spec.reach,) * 2, spec.border, dtype)
        # A barrier keeps the compiler from redoing the gather for each of the taps.
        image = _split(lax.optimization_barrier(image), spec.groups)
        weights = lax.dynamic_slice_in_dim(kernels, start, rows, axis=1).astype(dtype)
        weights = _split(weights, spec.groups)

        def term(tap, y, x0):
            return weights[..., tap, None] * image[:, y : y + rows, x0 : x0 + width]

        total = _sum(term, spec)
        return total.reshape(*total.shape[:3], channels)

    return _by_rows(block, x.shape, channels + kernels.shape[-1], x.dtype, spec, kernels)


@partial(jax.jit, static_argnums=2)
def _spread_rows(g: Array, kernels: Array, spec: _Spec) -> Array:
    _, height, width, channels = g.shape
    dtype = jnp.promote_types(jnp.promote_types(g.dtype, kernels.dtype), jnp.float32)
    reach = spec.reach
    full = width + 2 * reach

    def padded_block(start, rows):
        # Zeros beyond the image silence whatever kernel stands beside them.
        margins = (reach, 2 * reach)
        source = _window(g, start, rows, margins, "zero", dtype)
        weights = _window(kernels, start, rows, margins, "replicate", dtype)
        source, weights = lax.optimization_barrier((source, weights))
        source, weights = _split(source, spec.groups), _split(weights, spec.groups)

        def term(tap, y, x):
            down, right = 2 * reach - y, 2 * reach - x
            here = (slice(None), slice(down, down + rows), slice(right, right + full))
            return weights[*here, ..., tap, None] * source[here]

        total = _sum(term, spec)
        return lax.optimization_barrier(total.reshape(*total.shape[:3], channels))

    def block(start, rows):
        total = padded_block(start, rows)
        low, inner, high = jnp.split(total, (reach, reach + width), axis=2)
        return _fold(inner, low, high, 2, spec.border)

    inner = _by_rows(block, g.shape, channels + kernels.shape[-1], dtype, spec, g)
    if reach and spec.border != "zero":
        inner = _fold(inner, block(-reach, reach), block(height, reach), 1, spec.border)
    return inner.astype(g.dtype)


@partial(jax.jit, static_argnums=2)
def _correlate_rows(g: Array, x: Array, spec: _Spec) -> Array:
    images, height, width, channels = x.shape
    dtype = jnp.promote_types(jnp.promote_types(g.dtype, x.dtype), jnp.float32)
    # Channels are summed in an unrolled expression, at most so many at a time.
    share = channels // spec.groups
    passes = -(-share // _UNROLLED_CHANNELS)
    unrolled = -(-share // passes)

    def channels_first(rows_of_pixels):
        """(n, h, w, c) to (passes, n, h, groups, c / groups / passes, w): pixels side by side."""
        array = jnp.swapaxes(rows_of_pixels, 2, 3)
        array = array.reshape(*array.shape[:2], spec.groups, share, array.shape[-1])
        array = jnp.pad(array, ((0, 0),) * 3 + ((0, passes * unrolled - share), (0, 0)))
        array = array.reshape(*array.shape[:3], passes, unrolled, array.shape[-1])
        return _settle(jnp.moveaxis(array, 3, 0))

    def block(start, rows):
        image = channels_first(_window(x, start, rows, (spec.reach,) * 2, spec.border, dtype))
        source = channels_first(lax.dynamic_slice_in_dim(g, start, rows, axis=1).astype(dtype))
        lifted = _settle(jnp.stack([image[:, :, y : y + rows] for y in spec.offsets], axis=3))
        # (passes, n, rows, size, groups, c, w)

        def add(totals, operands):
            lifted, source = operands
            sums = []
            for total, x0 in zip(totals, spec.offsets, strict=True):
                for i in range(unrolled):
                    shifted = lifted[..., i, x0 : x0 + width]
                    total = total + source[:, :, None, :, i] * shifted
                sums.append(total)
            return tuple(sums), None

        totals: Any = (jnp.zeros((images, rows, spec.size, spec.groups, width), dtype),)
        totals *= spec.size
        if passes == 1:
            totals, _ = add(totals, (lifted[0], source[0]))
        else:
            totals, _ = lax.scan(add, totals, (lifted, source))
        totals = [_settle(total) for total in totals]
        columns = [total.transpose(0, 1, 4, 3, 2) for total in totals]
        return jnp.stack(columns, axis=-1).reshape(images, rows, width, -1)

    shape = (images, height, width, spec.groups * spec.size**2)
    return _by_rows(block, shape, channels + shape[-1], spec.kernels_dtype, spec, g)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _filter(x: Array, kernels: Array, spec: _Spec) -> Array:
    """F: out[y, x] = sum over taps of K[y, x, tap] * x[y + dy, x + dx]."""
    return _filter_rows(x, kernels, spec)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _spread(g: Array, kernels: Array, spec: _Spec) -> Array:
    """G: every g[y, x] is handed back to the pixels that F read, times K[y, x, tap]."""
    return _spread_rows(g, kernels, spec)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _correlate(g: Array, x: Array, spec: _Spec) -> Array:
    """H: out[y, x, tap] = sum over the channels of a group of g[y, x] * x[y + dy, x + dx]."""
    return _correlate_rows(g, x, spec)


def _filter_backward(spec, operands, g):
    x, kernels = (x[0] for x in operands)
    return _spread(g, kernels, spec), _correlate(g, x, spec)


def _spread_backward(spec, operands, t):
    g, kernels = (x[0] for x in operands)
    return _filter(t, kernels, spec), _correlate(g, t, spec)


def _correlate_backward(spec, operands, t):
    g, x = (x[0] for x in operands)
    return _filter(x, t, spec), _spread(g, t, spec)


_filter.defvjp(lambda x, k, spec: (_filter(x, k, spec), keep(x, k)), _filter_backward)
_spread.defvjp(lambda g, k, spec: (_spread(g, k, spec), keep(g, k)), _spread_backward)
_correlate.defvjp(lambda g, x, spec: (_correlate(g, x, spec), keep(g, x)), _correlate_backward)


# ---- the public face -----------------------------------------------------------------------------


def _check(x: Array, kernels: Array, kernel_size: int, dilation: int, border: str) -> _Spec:
    """Refuses operands that do not fit together; the messages say what would."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}.")
    if dilation < 1:
        raise ValueError(f"dilation must be at least 1, got {dilation}.")
    if border not in BORDERS:
        raise ValueError(f"border must be one of {', '.join(BORDERS)}, got {border!r}.")
    if x.ndim < 3 or kernels.ndim != x.ndim or kernels.shape[:-1] != x.shape[:-1]:
        raise ValueError(
            "x (*b, h, w, c) and kernels (*b, h, w, taps) must agree in all axes but the last, "
            f"got {x.shape} and {kernels.shape}."
        )
    for name, array in (("x", x), ("kernels", kernels)):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} must hold floating-point numbers, got {array.dtype}.")
    taps = kernel_size**2
    groups, rest = divmod(kernels.shape[-1], taps)
    if rest or groups == 0 or x.shape[-1] % groups:
        raise ValueError(
            f"kernels must have groups * {taps} channels with groups dividing the "
            f"{x.shape[-1]} channels of x, got {kernels.shape[-1]}."
        )
    spec = _Spec(kernel_size, dilation, border, groups, kernels.dtype)
    if border == "reflect" and spec.reach >= min(x.shape[-3:-1]):
        raise ValueError(
            f"a reflect border of {spec.reach} pixels needs sides longer than that, "
            f"got {x.shape[-3]} x {x.shape[-2]}; use border='replicate'."
        )
    return spec


def _accumulate(x: Array, kernels: Array, spec: _Spec) -> Array:
    """The closed family on one batch axis."""
    flat = (-1, *x.shape[-3:-1])
    out = _filter(x.reshape(*flat, x.shape[-1]), kernels.reshape(*flat, kernels.shape[-1]), spec)
    return out.reshape(x.shape)


def _define(x: Array, kernels: Array, spec: _Spec) -> Array:
    """The definition: one pixel, mapped over columns, rows and images."""
    height, width, channels = x.shape[-3:]
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, kernels.dtype), jnp.float32)
    mode = {"replicate": "edge", "reflect": "reflect", "zero": "constant"}[spec.border]
    pad = [(0, 0)] * (x.ndim - 3) + [(spec.reach, spec.reach)] * 2 + [(0, 0)]
    padded = jnp.pad(x.astype(dtype), pad, mode=mode)
    extent = (2 * spec.reach + 1, 2 * spec.reach + 1, channels)

    def pixel(image, kernel, row, column):
        patch = lax.dynamic_slice(image, (row, column, 0), extent)
        patch = patch[:: spec.dilation, :: spec.dilation].reshape(spec.size**2, spec.groups, -1)
        kernel = kernel.reshape(spec.groups, spec.size**2)
        return jnp.einsum("gt,tgc->gc", kernel, patch, precision="highest").reshape(channels)

    of_row = jax.vmap(pixel, in_axes=(None, 0, None, 0))
    of_image = jax.vmap(of_row, in_axes=(None, 0, 0, None))
    of_images = jax.vmap(of_image, in_axes=(0, 0, None, None))
    out = of_images(
        padded.reshape(-1, *padded.shape[-3:]),
        kernels.astype(dtype).reshape(-1, height, width, kernels.shape[-1]),
        jnp.arange(height),
        jnp.arange(width),
    )
    return out.reshape(x.shape).astype(x.dtype)


IMPLEMENTATIONS: dict[str, Callable[[Array, Array, _Spec], Array]] = {
    "accumulate": _accumulate,
    "reference": _define,
}
"""Ways to compute `dynamic_filter`, by name; a hardware kernel registers here."""


def dynamic_filter(
    x: Float[Array, "*b h w c"],
    kernels: Float[Array, "*b h w taps"],
    *,
    kernel_size: int = 7,
    dilation: int = 1,
    border: str = "replicate",
    implementation: str = "auto",
) -> Float[Array, "*b h w c"]:
    """Filters every pixel with its own kernel (MGDN section 3.2; correlation, not normalised).

    `out[y, x, c] = sum_t K[y, x, group(c), t] * x[y + dy(t), x + dx(t), c]` with taps in
    row-major order, `t = size * (dy / dilation + size // 2) + dx / dilation + size // 2`, and
    positions outside the image supplied by the border.

    Reverse-mode derivatives of any order are available and as lean as the forward pass: no
    intermediate grows with the number of taps beyond the kernels themselves. Forward mode
    (`jax.jvp`, `jax.hessian`, which is forward over reverse) is not: take
    `implementation="reference"` for it. Sums are taken in float32 at least.

    Args:
        x: Images or features, any number of leading batch axes.
        kernels: One kernel per pixel and channel group, `groups * kernel_size**2` channels,
            group-major; group g serves channels `g * c / groups ... (g + 1) * c / groups - 1`.
            With `kernel_size**2` channels all channels share one kernel, as in MGDN.
        kernel_size: Side of the kernels, odd.
        dilation: Pixels between neighbouring taps.
        border: What lies outside: "replicate" (the nearest pixel), "reflect" (mirrored without
            repeating the edge pixel) or "zero".
        implementation: "accumulate" (row blocks, tap by tap), "reference" (the definition, for
            checks and forward mode) or "auto", the fastest for the device: "accumulate" for now.

    Returns:
        The filtered images, in the shape and dtype of `x`.

    Raises:
        ValueError: Shapes, dtypes or options that do not fit together.
    """
    spec = _check(x, kernels, kernel_size, dilation, border)
    name = "accumulate" if implementation == "auto" else implementation
    if name not in IMPLEMENTATIONS:
        known = ", ".join(["auto", *IMPLEMENTATIONS])
        raise ValueError(f"implementation must be one of {known}, got {implementation!r}.")
    return IMPLEMENTATIONS[name](x, kernels, spec)


def dynamic_filter_reference(
    x: Float[Array, "*b h w c"],
    kernels: Float[Array, "*b h w taps"],
    *,
    kernel_size: int = 7,
    dilation: int = 1,
    border: str = "replicate",
) -> Float[Array, "*b h w c"]:
    """The definition of `dynamic_filter`, written for reading: `jax.vmap` over pixels.

    Supports every transformation JAX has, and holds `kernel_size**2` copies of the image while it
    works. Arguments, result and errors are those of `dynamic_filter`.
    """
    return _define(x, kernels, _check(x, kernels, kernel_size, dilation, border))
