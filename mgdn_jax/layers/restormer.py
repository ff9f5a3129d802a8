"""Restormer blocks: attention across channels over the whole image, and gated feed-forward.

Both consist of pointwise maps and 3x3 convolutions around one global statistic (a small Gram matrix
per example). So a CPU takes large maps in strips of rows that stay in cache: one pass gathers the
statistics, a second one uses them. `in_strips` does the cutting for anything of that structure.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from mgdn_jax.layers import forms
from mgdn_jax.layers.attention import channel_map, channel_sums
from mgdn_jax.layers.conv import (
    Conv2d,
    DepthwiseConv2d,
    LayerNorm,
    conv2d,
    depthwise,
    depthwise_inner,
    pointwise,
)
from mgdn_jax.layers.functional import below, chain, per_example_policy
from mgdn_jax.layers.padding import Extent, ceil_div, zeroed

STRIP_PIXELS = 8_192
"""Pixels of a strip, about; a CPU cuts maps that are larger than four strips."""

Inside = Float[Array, "_ framed_h framed_w 1"] | None
"""1 for every pixel of a strip and its frame that lies in the image, else 0. None stands for a map
that is whole and has no frame."""


def in_strips(
    function: Callable[[Sequence[Array], Sequence[Array], Inside], tuple[Any, Any]],
    maps: Sequence[Float[Array, "b h w _"]],
    examples: Sequence[Float[Array, "b ..."]] = (),
    *,
    reflect: bool = False,
    extent: Extent = None,
) -> tuple[Any, Any]:
    """Evaluates a row-local function on maps, strip by strip where that is quicker (a CPU).

    Args:
        function: ``(maps, examples, inside) -> (maps, sums)``. It returns a tree of maps as large
            as those it takes, and a tree of sums over pixels, each with a leading example axis.
            Where ``inside`` is not None, the maps it takes have a frame of one pixel around them,
            with neighbours or zeros, and the maps it returns have none. Pixels that are not inside
            must look like zero padding to its convolutions.
        maps: (B, H, W, C) each, of any channels.
        examples: arrays with one entry per example.
        reflect: whether the frame has reflected pixels instead of zeros beyond the image.
        extent: of the images in the maps. With it ``inside`` is always there, for one example or
            for all of them, and what is returned outside the images has no meaning.

    Returns:
        What ``function(maps, examples, None)`` returns, up to rounding.
    """
    _, h, w, _ = maps[0].shape
    large = is_large(maps[0])
    if not large and extent is None:
        return function(maps, examples, None)
    if extent is not None:
        maps = [zeroed(x, extent) for x in maps]

    def strip_by_strip(maps: Sequence[Array], examples: Sequence[Array]) -> tuple[Any, Any]:
        return _strip_by_strip(function, maps, examples, reflect, extent)

    def at_once(maps: Sequence[Array], examples: Sequence[Array]) -> tuple[Any, Any]:
        if extent is None:
            return function(maps, examples, None)
        framed = [_framed(x, reflect, extent, 0) for x in maps]
        return function(framed, examples, _inside(extent, h, w, 0, maps[0].dtype))

    if not large:
        return at_once(maps, examples)
    return forms.by_platform(list(maps), list(examples), cpu=strip_by_strip, default=at_once)


def _strip_by_strip(
    function: Callable[..., tuple[Any, Any]],
    maps: Sequence[Array],
    examples: Sequence[Array],
    reflect: bool,
    extent: Extent,
) -> tuple[Any, Any]:
    """`in_strips` by a scan over the strips of all examples."""
    b, h, w, _ = maps[0].shape
    rows = ceil_div(h, ceil_div(h, max(1, STRIP_PIXELS // w)))
    count = ceil_div(h, rows)
    framed = [_framed(x, reflect, extent, count * rows - h) for x in maps]
    sizes = jnp.full((b, 2), jnp.asarray([h, w])) if extent is None else extent

    def strip(number: Any) -> tuple[Any, Any]:
        example, top = number // count, number % count * rows
        strips = [
            lax.dynamic_slice(x, (example, top, 0, 0), (1, rows + 2, w + 2, x.shape[-1]))
            for x in framed
        ]
        inside = _inside(sizes[example][None], rows, w, top, maps[0].dtype)
        entries = [lax.dynamic_slice_in_dim(x, example, 1) for x in examples]
        # Without the barrier the strip is fused into its storing, which runs on one core.
        return lax.optimization_barrier(function(strips, entries, inside))

    def store(carry: tuple[Any, Any], number: Array) -> tuple[Any, None]:
        outs, sums = carry
        out, strip_sums = strip(number)
        sums = jax.tree.map(lambda total, s: total.at[number // count].add(s[0]), sums, strip_sums)
        outs = jax.tree.map(
            lambda all_, y: lax.dynamic_update_index_in_dim(all_, y[0], number, 0), outs, out
        )
        return (outs, sums), None

    # Results fill buffers that depend on the maps: constant ones (a scan's own) are all made
    # as early as possible and held until their loop's turn, several times the memory.
    value = maps[0][0, 0, 0, 0]
    out_shapes, sum_shapes = jax.eval_shape(strip, jax.ShapeDtypeStruct((), jnp.int32))
    outs = jax.tree.map(
        lambda y: jnp.full((b * count, *y.shape[1:]), value.astype(y.dtype)), out_shapes
    )
    sums = jax.tree.map(lambda s: jnp.zeros((b, *s.shape[1:]), s.dtype), sum_shapes)
    (outs, sums), _ = lax.scan(store, (outs, sums), jnp.arange(b * count))

    def joined(y: Array) -> Array:
        return y.reshape(b, count * rows, *y.shape[2:])[:, :h]

    return jax.tree.map(joined, outs), sums


def is_large(x: Float[Array, "b h w _"]) -> bool:
    """Whether a map is worth cutting into strips."""
    return not forms.are_whole() and x.shape[1] * x.shape[2] > 4 * STRIP_PIXELS


def _inside(sizes: Array, h: int, w: int, top: Any, dtype: Any) -> Float[Array, "b {h+2} {w+2} 1"]:
    """`Inside` of the rows from ``top`` on, h of them, in images of ``sizes`` (height, width)."""
    row, column = top + jnp.arange(h + 2)[None, :, None], jnp.arange(w + 2)[None, None]
    height, width = sizes[:, 0, None, None], sizes[:, 1, None, None]
    inside = (row >= 1) & (row <= height) & (column >= 1) & (column <= width)
    return inside.astype(dtype)[..., None]


def _framed(x: Array, reflect: bool, extent: Extent, more: int) -> Array:
    """The map with a frame of one pixel, and ``more`` rows of zeros below."""
    if not reflect:
        return jnp.pad(x, ((0, 0), (1, 1 + more), (1, 1), (0, 0)))
    if extent is None:
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        return jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0)))
    x = jnp.pad(x, ((0, 0), (1, 1 + more), (1, 1), (0, 0)))

    def reflected(x: Array, size: Array) -> Array:
        for axis in (0, 1):
            n = size[axis]
            for place, source in ((0, jnp.minimum(2, n)), (n + 1, jnp.maximum(n - 1, 1))):
                line = lax.dynamic_slice_in_dim(x, source, 1, axis)
                x = lax.dynamic_update_slice_in_dim(x, line, place, axis)
        return x

    return jax.vmap(reflected)(x, extent)


def masked(x: Array, inside: Inside) -> Array:
    """The map with pixels outside the image set to zero, as zero padding would have them."""
    return x if inside is None else x * inside


def without_frame(x: Array, inside: Inside) -> Array:
    """The strip without its frame of one pixel; a whole map (``inside`` is None) has none."""
    return x if inside is None else x[:, 1:-1, 1:-1]


def local(x: Array, kernel: Float[Array, "3 3 1 c"], inside: Inside) -> Array:
    """Depthwise 3x3 convolution; that of a strip uses up its frame."""
    kernel = kernel.astype(x.dtype)
    return depthwise(x, kernel) if inside is None else depthwise_inner(x, kernel)


def gelu(x: Array) -> Array:
    """GELU, x Phi(x), by erf: on a CPU three times as fast as by erfc, and coarser in the tail."""
    return 0.5 * x * (1.0 + lax.erf(x * math.sqrt(0.5)))


def bare_conv(in_features: int, out_features: int, size: int, rngs: nnx.Rngs) -> Conv2d:
    """Dense convolution without bias, the only kind of these networks."""
    return Conv2d(in_features, out_features, size, use_bias=False, rngs=rngs)


class QueryKeyValue(nnx.Module):
    """Queries, keys and values: a pointwise projection followed by a 3x3 convolution."""

    def __init__(self, features: int, *, local: str = "depthwise", rngs: nnx.Rngs):
        self.project = bare_conv(features, 3 * features, 1, rngs)
        if local == "depthwise":
            self.local: nnx.Module = DepthwiseConv2d(3 * features, 3, use_bias=False, rngs=rngs)
        elif local == "dense":
            self.local = bare_conv(3 * features, 3 * features, 3, rngs)
        else:
            raise ValueError(f"local is 'depthwise' or 'dense', not {local!r}")

    def __call__(
        self, x: Float[Array, "b h w c"], inside: Inside = None
    ) -> list[Float[Array, "b out_h out_w c"]]:
        """The maps ``[q, k, v]`` without the frame of a strip; ``x`` must be 0 where not inside."""
        if isinstance(self.local, Conv2d):
            # Nothing lies between the two: they are one convolution, of a third of the work.
            project, dense = self.project.kernel[...][0, 0], self.local.kernel[...]
            both = jnp.einsum("ij,yxjo->yxio", project, dense).astype(x.dtype)
            return jnp.split(without_frame(conv2d(x, both), inside), 3, -1)
        if inside is None:
            return jnp.split(self.local(self.project(x)), 3, -1)  # type: ignore[operator]
        c = x.shape[-1]
        # By thirds of the weights in large pictures: slicing maps would copy them.
        project = self.project.kernel[...][0, 0].astype(x.dtype)
        kernel = self.local.kernel[...]  # type: ignore[attr-defined]
        thirds = [slice(i * c, i * c + c) for i in range(3)]
        return [local(pointwise(x, project[:, t]), kernel[..., t], inside) for t in thirds]


class TransposedAttention(nnx.Module):
    """Self-attention across channels (MDTA, Restormer Sec. 3.1): one c/heads square map per head.

    Queries and keys are L2-normalised over the pixels of the whole image. What the attention needs
    of it are plain sums over pixels (`channel_sums`), which tiles of a picture can add up.
    """

    def __init__(
        self,
        features: int,
        *,
        heads: int,
        local: str = "depthwise",
        floor: float = 1e-12,
        rngs: nnx.Rngs,
    ):
        if features % heads:
            raise ValueError(f"features ({features}) must be divisible by heads ({heads})")
        self.floor = floor
        self.qkv = QueryKeyValue(features, local=local, rngs=rngs)
        self.project = bare_conv(features, features, 1, rngs)
        self.temperature = nnx.Param(jnp.ones((heads,), jnp.float32))

    def mixing(self, sums: dict[str, Array]) -> Float[Array, "b c c"]:
        """Attention and output projection, both linear in the values, as one matrix an example."""
        attention = channel_map(sums, self.temperature[...], self.floor)
        return attention.swapaxes(1, 2) @ self.project.kernel[...][0, 0]


class GatedFeedForward(nnx.Module):
    """Gated feed-forward (GDFN, Restormer Sec. 3.2): GELU(u1) * u2 between two projections.

    ``u1, u2`` are the halves of a 3x3 convolution of the expanded features: depthwise, or (with
    ``group`` 2) of channel groups of two.
    """

    def __init__(self, features: int, *, hidden: int, group: int = 1, rngs: nnx.Rngs):
        self.expand = bare_conv(features, 2 * hidden, 1, rngs)
        self.local = DepthwiseConv2d(2 * hidden, 3, group=group, use_bias=False, rngs=rngs)
        self.contract = bare_conv(hidden, features, 1, rngs)

    def __call__(
        self, x: Float[Array, "b h w c"], inside: Inside = None
    ) -> Float[Array, "b out_h out_w c"]:
        """Transforms features and drops the frame of a strip; ``x`` must be 0 where not inside."""
        halves = local_halves(self.expand, self.local, x, inside)
        return self.contract(gelu(halves[0]) * halves[1])


def local_halves(
    expand: Conv2d, layer: DepthwiseConv2d, x: Float[Array, "b h w _"], inside: Inside
) -> list[Float[Array, "b out_h out_w hidden"]]:
    """Both halves of the channels of ``layer(expand(x))``, without the frame of a strip."""
    if inside is None:
        return jnp.split(layer(expand(x)), 2, -1)
    wide, kernel = expand.kernel[...][0, 0].astype(x.dtype), layer.kernel[...]
    group, hidden = kernel.shape[2], wide.shape[-1] // 2
    # The i-th input of every group of channels, beside each output of its group.
    seen = [jnp.repeat(wide[:, i::group], group, -1) for i in range(group)]
    return [
        functools.reduce(
            jnp.add,
            [
                local(pointwise(x, part[:, half]), kernel[:, :, i : i + 1, half], inside)
                for i, part in enumerate(seen)
            ],
        )
        for half in (slice(0, hidden), slice(hidden, 2 * hidden))
    ]


class RestormerBlock(nnx.Module):
    """``x + MDTA(norm(x))``, then ``x + GDFN(norm(x))``; layer norms with bias (Restormer Fig. 2).

    Nothing but the norms has a bias. The published Restormer, ReFusion and CDDFuse use
    ``local="depthwise"`` and ``group=1``; CDDFuse's base extractor ``local="dense"``,
    ``expansion=1`` and ``group=2``.

    Args:
        features: channels C.
        heads: attention heads; divide C.
        expansion: hidden over outer width of the feed-forward.
        local: 3x3 convolution of queries, keys and values, ``"depthwise"`` or ``"dense"``.
        group: channels each group of the feed-forward's 3x3 convolution mixes.
        floor: smallest norm a query or key is divided by. 1e-12 as published; where one input may
            be constantly black while training from scratch, 1e-3 or so keeps gradients bounded.
        rngs: initialisation.
    """

    def __init__(
        self,
        features: int,
        *,
        heads: int,
        expansion: float = 2.0,
        local: str = "depthwise",
        group: int = 1,
        floor: float = 1e-12,
        rngs: nnx.Rngs,
    ):
        self.norm1 = LayerNorm(features)
        self.attention = TransposedAttention(
            features, heads=heads, local=local, floor=floor, rngs=rngs
        )
        self.norm2 = LayerNorm(features)
        hidden = math.floor(features * expansion)
        self.feed_forward = GatedFeedForward(features, hidden=hidden, group=group, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        *,
        context: dict[str, Array] | None = None,
        pixel_weights: Float[Array, "b h w 1"] | None = None,
        extent: Extent = None,
    ) -> tuple[Float[Array, "b h w c"], dict[str, Array]]:
        """Transforms features.

        Args:
            x: features.
            context: sums over pixels to use instead of those of this call.
            pixel_weights: weight of every pixel in the returned sums (default 1).
            extent: of the images in the maps, see `Extent`.

        Returns:
            Features, and the sums of the attention (see `channel_sums`).
        """
        v, sums = in_strips(
            lambda maps, _, inside: gather(
                self.attention.qkv(masked(self.norm1(maps[0]), inside), inside), maps[1:], inside
            ),
            [x] if pixel_weights is None else [x, pixel_weights],
            extent=extent,
        )
        mix = self.attention.mixing(sums if context is None else context).astype(x.dtype)

        def finish(maps: Sequence[Array], mix: Sequence[Array], inside: Inside) -> tuple[Any, Any]:
            y = maps[0] + mixed(maps[1], mix[0])
            normal = masked(self.norm2(y), inside)
            return without_frame(y, inside) + self.feed_forward(normal, inside), {}

        return in_strips(finish, [x, v], [mix], extent=extent)[0], sums


def run_rows(
    rows: Sequence[Sequence[nnx.Module]],
    xs: Array,
    context: Sequence[dict[str, Array] | None] | None = None,
    pixel_weights: Array | None = None,
    *,
    remat: str = "row",
    extent: Extent = None,
) -> tuple[Array, list[dict[str, Array]]]:
    """Runs a row of blocks on each of the maps ``xs``.

    All blocks of all rows are alike, so one body is compiled (`functional.chain`), which is several
    times faster than to compile each.

    Args:
        rows: lists of `RestormerBlock`, all of one length.
        xs: (rows, B, H, W, C), the map that each row starts from.
        context: for each row the sums to use instead of those of this call, or None.
        pixel_weights: (B, H, W, 1) weight of every pixel in the sums returned.
        remat: what is kept for the gradient, one of `functional.REMATS`.
        extent: of the images in the maps, see `Extent`.

    Returns:
        The results (rows, B, H, W, C), and the sums of each row, named ``"0/qk"``, ... by block.
    """
    depth = len(rows[0])
    remat = per_example_policy(remat, pixel_weights is not None or extent is not None)

    def run_row(
        blocks: Sequence[nnx.Module], _: None, x_and_sums: tuple[Array, Any]
    ) -> tuple[None, Any]:
        def run_block(block: nnx.Module, x: Array, sums: Any) -> tuple[Array, Any]:
            return block(x, context=sums, pixel_weights=pixel_weights, extent=extent)

        return None, chain(blocks, run_block, *x_and_sums, remat=remat)

    def stack(trees: Sequence[Any]) -> Any:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    stacked = None
    if context is not None and context[0] is not None:
        stacked = stack([stack([below(sums, str(i)) for i in range(depth)]) for sums in context])
    row_remat = "row" if remat == "row" else "none"
    ys, sums = chain(rows, run_row, None, (xs, stacked), remat=row_remat)[1]
    named = [
        {f"{i}/{name}": x[r, i] for i in range(depth) for name, x in sums.items()}
        for r in range(len(rows))
    ]
    return ys, named


def gather(
    qkv: Sequence[Float[Array, "b h w c"]], weights: Sequence[Array], inside: Inside
) -> tuple[Float[Array, "b h w c"], dict[str, Array]]:
    """`channel_sums` of queries and keys, in the form that `in_strips` wants of its function.

    Args:
        qkv: queries, keys and values, without the frame of a strip.
        weights: nothing, or the map of pixel weights, with the frame.
        inside: as in `in_strips`; pixels that only fill the last strip do not count.

    Returns:
        The values, and the sums.
    """
    q, k, v = qkv
    factors = [without_frame(x, inside) for x in (*weights, inside) if x is not None]
    return v, channel_sums(q, k, math.prod(factors[1:], start=factors[0]) if factors else None)


def mixed(v: Float[Array, "b h w c"], mix: Float[Array, "b c d"]) -> Float[Array, "b h w d"]:
    """Values of every example times the mixing matrix of that example."""
    b, h, w, c = v.shape
    return (v.reshape(b, h * w, c) @ mix).reshape(b, h, w, mix.shape[-1])
