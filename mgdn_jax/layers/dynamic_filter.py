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
read from where they lie, since on a CPU to touch fresh memory costs more than the arithmetic.
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

from mgdn_jax.layers import forms
from mgdn_jax.layers.functional import keep
from mgdn_jax.layers.padding import ceil_div

__all__ = ["BORDERS", "IMPLEMENTATIONS", "dynamic_filter", "dynamic_filter_reference"]

BORDERS = ("replicate", "reflect", "zero")

Maps = Float[Array, "n h w c"]
Kernels = Float[Array, "n h w taps"]
"""A kernel of ``size**2`` taps for each pixel and group of channels, group-major."""

# Scalars (image and kernels together) in one block of rows. On a CPU it is about 1.5 MB in float32,
# of which the second-level cache can hold two. Accelerators want fewer and larger launches.
_BLOCK_SCALARS_CPU = 3 << 17
_BLOCK_SCALARS_ELSEWHERE = 1 << 26
# Channels summed in one unrolled expression of `correlate`; more only lengthen compilation.
_UNROLLED_CHANNELS = 32


@dataclass(frozen=True)
class _Spec:
    """Options of the three maps; hashable, so that it can be a static argument under jit."""

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
    """Where a border takes positions along an axis from, and which of them are inside the image."""
    inside = (index >= 0) & (index < length)
    if border == "reflect":
        index = length - 1 - jnp.abs(length - 1 - jnp.abs(index))
    return jnp.clip(index, 0, length - 1), inside


def _window(
    image: Array, start: Any, rows: int, margins: tuple[int, int], border: str, dtype: Any
) -> Array:
    """The image's rows from `start` on, `rows` of them, with (rows, columns) of margin around."""
    height, width = image.shape[1:3]
    above, left = margins
    ys, y_inside = _source(start - above + jnp.arange(rows + 2 * above), height, border)
    xs, x_inside = _source(jnp.arange(-left, width + left), width, border)
    block = image[:, ys][:, :, xs].astype(dtype)
    if border == "zero":
        block = jnp.where((y_inside[:, None] & x_inside[None])[None, :, :, None], block, 0)
    return block


def _fold(inner: Array, low: Array, high: Array, axis: int, border: str) -> Array:
    """Adjoint of a border: adds what fell on the two margins to the pixels that these repeat."""
    margin, length = low.shape[axis], inner.shape[axis]
    if border == "zero" or margin == 0:
        return inner
    outside = jnp.concatenate([jnp.arange(-margin, 0), length + jnp.arange(margin)])
    shown, _ = _source(outside, length, border)
    edges = lax.optimization_barrier(jnp.concatenate([low, high], axis))
    return inner.at[(slice(None),) * axis + (shown,)].add(edges)


def _rows_per_block(shape: tuple[int, ...], depth: int, budget: int, spec: _Spec) -> int:
    """Rows that fit the budget, but no fewer than the halo has; all blocks are about alike."""
    images, height, width = shape[:3]
    rows = max(budget // max(images * width * depth, 1), 2 * spec.reach, 1)
    return ceil_div(height, ceil_div(height, rows))


def _by_rows(
    block: Callable[[Any, int], Array],
    shape: tuple[int, ...],
    depth: int,
    dtype: Any,
    spec: _Spec,
    operand: Array,
) -> Array:
    """Puts an array together from blocks of rows; the last block may overlap the one before.

    How many rows a block has is for the platform that the program is lowered for.

    Args:
        block: `(start, rows)` to those rows of the result.
        shape: of the result, (n, h, w, c).
        depth: scalars that a block reads and writes for each pixel.
        dtype: of the result.
        spec: options of the map.
        operand: an operand of the block. An entry of it fills the empty result, because XLA
            allocates what depends on nothing when the program starts, and keeps it until it is
            used.

    Returns:
        The array.
    """
    if forms.are_whole():
        return block(0, shape[1]).astype(dtype)
    budgets = (_BLOCK_SCALARS_CPU, _BLOCK_SCALARS_ELSEWHERE)
    on_cpu, elsewhere = (_rows_per_block(shape, depth, budget, spec) for budget in budgets)

    def by_blocks(rows: int, operand: Array) -> Array:
        return _by_blocks(block, rows, shape, dtype, operand)

    if on_cpu == elsewhere:
        return by_blocks(on_cpu, operand)
    return forms.by_platform(
        operand, cpu=partial(by_blocks, on_cpu), default=partial(by_blocks, elsewhere)
    )


def _by_blocks(
    block: Callable[[Any, int], Array],
    rows: int,
    shape: tuple[int, ...],
    dtype: Any,
    operand: Array,
) -> Array:
    """`_by_rows` with a number of rows for each block."""
    height = shape[1]
    count = ceil_div(height, rows)
    if count == 1:
        return block(0, rows).astype(dtype)

    def step(out: Array, start: Array) -> tuple[Array, None]:
        # Without the barrier the whole block is fused into the update, which runs on one core.
        part = lax.optimization_barrier(block(start, rows).astype(dtype))
        return lax.dynamic_update_slice_in_dim(out, part, start, axis=1), None

    starts = jnp.minimum(jnp.arange(count) * rows, height - rows)
    empty = jnp.broadcast_to(operand[:1, :1, :1, :1].astype(dtype), shape)
    return lax.scan(step, empty, starts)[0]


# ---- the closed family: x, g (n, h, w, c) and K (n, h, w, groups * taps) ------------------------


def _contiguous(array: Array) -> Array:
    """Has the array written to memory, its last axis contiguous.

    Without this the compiler reads a transposed array with strides, once for every tap.
    """
    array = with_layout_constraint(array, Layout(tuple(range(array.ndim))))
    return lax.optimization_barrier(array)


def _by_group(block: Float[Array, "n h w k"], groups: int) -> Float[Array, "n h w groups share"]:
    return block.reshape(*block.shape[:-1], groups, -1)


def _sum_over_taps(term: Callable[[int, int, int], Array], spec: _Spec) -> Array:
    """Sum of `term(tap, y, x)` over the taps, of which (y, x) is the offset from the first.

    Each row of the kernel is summed first, which rounds less. The loops are Python's on purpose:
    unrolled, they compile to one pass that keeps the sum in a register.
    """
    total: Any = 0
    for row, y in enumerate(spec.offsets):
        part: Any = 0
        for column, x in enumerate(spec.offsets):
            part += term(row * spec.size + column, y, x)
        total += part
    return total


@partial(jax.jit, static_argnums=2)
def _filter_rows(x: Maps, kernels: Kernels, spec: _Spec) -> Maps:
    """`F`, block by block of rows."""
    *_, width, channels = x.shape
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, kernels.dtype), jnp.float32)

    def block(start: Any, rows: int) -> Array:
        image = _window(x, start, rows, (spec.reach,) * 2, spec.border, dtype)
        # A barrier keeps the compiler from redoing the gather for each of the taps.
        image = _by_group(lax.optimization_barrier(image), spec.groups)
        weights = lax.dynamic_slice_in_dim(kernels, start, rows, axis=1).astype(dtype)
        weights = _by_group(weights, spec.groups)

        def term(tap: int, y: int, x0: int) -> Array:
            return weights[..., tap, None] * image[:, y : y + rows, x0 : x0 + width]

        total = _sum_over_taps(term, spec)
        return total.reshape(*total.shape[:3], channels)

    return _by_rows(block, x.shape, channels + kernels.shape[-1], x.dtype, spec, kernels)


@partial(jax.jit, static_argnums=2)
def _spread_rows(g: Maps, kernels: Kernels, spec: _Spec) -> Maps:
    """`G`, block by block of rows; the rows beyond the image are two blocks of their own."""
    _, height, width, channels = g.shape
    dtype = jnp.promote_types(jnp.promote_types(g.dtype, kernels.dtype), jnp.float32)
    reach = spec.reach
    full = width + 2 * reach

    def padded_block(start: Any, rows: int) -> Array:
        # Zeros beyond the image silence whatever kernel stands beside them.
        margins = (reach, 2 * reach)
        source = _window(g, start, rows, margins, "zero", dtype)
        weights = _window(kernels, start, rows, margins, "replicate", dtype)
        source, weights = lax.optimization_barrier((source, weights))
        source, weights = _by_group(source, spec.groups), _by_group(weights, spec.groups)

        def term(tap: int, y: int, x: int) -> Array:
            down, right = 2 * reach - y, 2 * reach - x
            window = (slice(None), slice(down, down + rows), slice(right, right + full))
            return weights[*window, ..., tap, None] * source[window]

        total = _sum_over_taps(term, spec)
        return lax.optimization_barrier(total.reshape(*total.shape[:3], channels))

    def block(start: Any, rows: int) -> Array:
        total = padded_block(start, rows)
        low, inner, high = jnp.split(total, (reach, reach + width), axis=2)
        return _fold(inner, low, high, 2, spec.border)

    inner = _by_rows(block, g.shape, channels + kernels.shape[-1], dtype, spec, g)
    if reach and spec.border != "zero":
        inner = _fold(inner, block(-reach, reach), block(height, reach), 1, spec.border)
    return inner.astype(g.dtype)


@partial(jax.jit, static_argnums=2)
def _correlate_rows(g: Maps, x: Maps, spec: _Spec) -> Kernels:
    """`H`, block by block of rows: products of g with what each tap reads.

    With ``image`` for x and its border, and (dy, dx) for the offset of the tap (ky, kx),

        out[n, y, x, (group, ky, kx)] =
            sum over the channels c of the group of g[n, y, x, c] * image[n, y + dy, x + dx, c]

    Channels are summed in an unrolled expression, `_UNROLLED_CHANNELS` of them at most in each of
    some passes. The comments give shapes: (n, h, w) are images and their pixels, ``size`` a side of
    the kernels, ``wide`` is w and the border on both sides.
    """
    images, height, width, channels = x.shape
    dtype = jnp.promote_types(jnp.promote_types(g.dtype, x.dtype), jnp.float32)
    in_group = channels // spec.groups
    passes = ceil_div(in_group, _UNROLLED_CHANNELS)
    unrolled = ceil_div(in_group, passes)

    def channels_first(maps: Array) -> Array:
        """Pixels of a row side by side, channels by pass."""
        maps = jnp.swapaxes(maps, 2, 3)  # (n, h, channels, w)
        maps = maps.reshape(*maps.shape[:2], spec.groups, in_group, maps.shape[-1])
        filling = passes * unrolled - in_group
        maps = jnp.pad(maps, ((0, 0),) * 3 + ((0, filling), (0, 0)))
        maps = maps.reshape(*maps.shape[:3], passes, unrolled, maps.shape[-1])
        return _contiguous(jnp.moveaxis(maps, 3, 0))  # (passes, n, h, groups, unrolled, w)

    def block(start: Any, rows: int) -> Array:
        image = channels_first(_window(x, start, rows, (spec.reach,) * 2, spec.border, dtype))
        slopes = channels_first(lax.dynamic_slice_in_dim(g, start, rows, axis=1).astype(dtype))
        # image: (passes, n, rows + border, groups, unrolled, wide)
        # slopes: (passes, n, rows, groups, unrolled, w)
        # image_rows, what each row of the kernels reads:
        #     (passes, n, rows, size, groups, unrolled, wide)
        image_rows = jnp.stack([image[:, :, y : y + rows] for y in spec.offsets], axis=3)
        image_rows = _contiguous(image_rows)

        def add_pass(taps: tuple[Array, ...], operands: tuple[Array, Array]) -> Any:
            """One array for each column of the kernels: (n, rows, size, groups, w)."""
            read, slope = operands  # the shapes above, without passes
            sums = []
            for total, x0 in zip(taps, spec.offsets, strict=True):
                for i in range(unrolled):
                    seen = read[..., i, x0 : x0 + width]  # (n, rows, size, groups, w)
                    total = total + slope[:, :, None, :, i] * seen
                sums.append(total)
            return tuple(sums), None

        zeros = jnp.zeros((images, rows, spec.size, spec.groups, width), dtype)
        taps = (zeros,) * spec.size
        if passes == 1:
            taps, _ = add_pass(taps, (image_rows[0], slopes[0]))
        else:
            taps, _ = lax.scan(add_pass, taps, (image_rows, slopes))
        columns = [_contiguous(total) for total in taps]
        columns = [
            total.transpose(0, 1, 4, 3, 2) for total in columns
        ]  # (n, rows, w, groups, size)
        return jnp.stack(columns, axis=-1).reshape(images, rows, width, -1)

    shape = (images, height, width, spec.groups * spec.size**2)
    return _by_rows(block, shape, channels + shape[-1], spec.kernels_dtype, spec, g)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _filter(x: Maps, kernels: Kernels, spec: _Spec) -> Maps:
    """F: out[y, x] = sum over taps of K[y, x, tap] * x[y + dy, x + dx]."""
    return _filter_rows(x, kernels, spec)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _spread(g: Maps, kernels: Kernels, spec: _Spec) -> Maps:
    """G: every g[y, x] is handed back to the pixels that F read, times K[y, x, tap]."""
    return _spread_rows(g, kernels, spec)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _correlate(g: Maps, x: Maps, spec: _Spec) -> Kernels:
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
    """The options as a `_Spec`, or a ValueError that says which operands or options would fit."""
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
    groups, left_over = divmod(kernels.shape[-1], taps)
    if left_over or groups == 0 or x.shape[-1] % groups:
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
    """`F` of the closed family, all batch axes as one."""
    flat = (-1, *x.shape[-3:-1])
    out = _filter(x.reshape(*flat, x.shape[-1]), kernels.reshape(*flat, kernels.shape[-1]), spec)
    return out.reshape(x.shape)


def _by_definition(x: Array, kernels: Array, spec: _Spec) -> Array:
    """The definition: one pixel, mapped over columns, rows and images."""
    height, width, channels = x.shape[-3:]
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, kernels.dtype), jnp.float32)
    mode = {"replicate": "edge", "reflect": "reflect", "zero": "constant"}[spec.border]
    pad = [(0, 0)] * (x.ndim - 3) + [(spec.reach, spec.reach)] * 2 + [(0, 0)]
    padded = jnp.pad(x.astype(dtype), pad, mode=mode)
    extent = (2 * spec.reach + 1, 2 * spec.reach + 1, channels)

    def pixel(image: Array, kernel: Array, row: Array, column: Array) -> Array:
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
    "reference": _by_definition,
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
    intermediate array but the kernels grows with the number of taps. Forward-mode derivatives
    (`jax.jvp`, and `jax.hessian`, which is forward over reverse) need
    `implementation="reference"`. Sums are taken in float32 at least.

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
        choices = ", ".join(["auto", *IMPLEMENTATIONS])
        raise ValueError(f"implementation must be one of {choices}, got {implementation!r}.")
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
    return _by_definition(x, kernels, _check(x, kernels, kernel_size, dilation, border))
