"""Restormer blocks: attention across channels over the whole image, and gated feed-forward.

Both are pointwise maps and 3x3 convolutions around one global statistic (a small Gram matrix per
example), so large maps on a CPU go through in strips of rows that stay in cache: one pass gathers
the statistics, a second one uses them. `in_strips` does the cutting for anything built alike.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from mgdn_jax.layers.attention import channel_map, channel_sums
from mgdn_jax.layers.conv import (
    Conv2d,
    DepthwiseConv2d,
    LayerNorm,
    depthwise,
    depthwise_inner,
    pointwise,
)
from mgdn_jax.layers.functional import below, chain

STRIP_PIXELS = 8_192
"""Pixels of a strip, about; maps of more than four of them are cut on a CPU."""

Inside = Float[Array, "1 h w 1"] | None
"""1 or 0 by pixel of a strip: whether it lies in the image. None is a whole map."""


def in_strips(
    whole: Callable[[Sequence[Array], Sequence[Array], Inside], tuple[Any, Any]],
    maps: Sequence[Float[Array, "b h w _"]],
    examples: Sequence[Float[Array, "b *_"]] = (),
) -> tuple[Any, Any]:
    """Evaluates a row-local function on maps, strip by strip where that is quicker (a CPU).

    Args:
        whole: takes maps, what belongs to their examples, and ``inside``; returns a tree of maps
            of the same size and a tree of sums, each with a leading example axis. Given ``inside``
            the maps have a frame of one pixel, neighbours or zeros, that it does not answer for;
            pixels that are not inside must look like zero padding to its convolutions.
        maps: (B, H, W, C) each, of any channels.
        examples: arrays with one entry per example.

    Returns:
        What ``whole(maps, examples, None)`` returns, up to rounding.
    """
    b, h, w, _ = maps[0].shape
    if h * w <= 4 * STRIP_PIXELS:
        return whole(maps, examples, None)
    count = -(-h // max(1, STRIP_PIXELS // w))
    rows = -(-h // count)
    count = -(-h // rows)

    def stripwise(maps: Sequence[Array], examples: Sequence[Array]) -> tuple[Any, Any]:
        below = count * rows - h + 1
        framed = [jnp.pad(x, ((0, 0), (1, below), (1, 1), (0, 0))) for x in maps]
        column = jnp.arange(w + 2)[None, :]

        def one(sums: Any, place: Array) -> tuple[Any, Any]:
            example, top = place // count, place % count * rows
            strips = [
                lax.dynamic_slice(x, (example, top, 0, 0), (1, rows + 2, w + 2, x.shape[-1]))
                for x in framed
            ]
            row = top + jnp.arange(rows + 2)[:, None]
            inside = (row >= 1) & (row <= h) & (column >= 1) & (column <= w)
            inside = inside.astype(maps[0].dtype)[None, :, :, None]
            mine = [lax.dynamic_slice_in_dim(x, example, 1) for x in examples]
            # Without the barrier the strip is fused into its storing, which runs on one core.
            out, own = lax.optimization_barrier(whole(strips, mine, inside))
            sums = jax.tree.map(lambda total, s: total.at[example].add(s[0]), sums, own)
            return sums, jax.tree.map(lambda y: y[0], out)

        shapes = jax.eval_shape(lambda: whole(maps, examples, None)[1])
        start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        sums, outs = lax.scan(one, start, jnp.arange(b * count))

        def joined(y: Array) -> Array:
            return y.reshape(b, count * rows, *y.shape[2:])[:, :h]

        return jax.tree.map(joined, outs), sums

    def at_once(maps: Sequence[Array], examples: Sequence[Array]) -> tuple[Any, Any]:
        return whole(maps, examples, None)

    return lax.platform_dependent(list(maps), list(examples), cpu=stripwise, default=at_once)


def masked(x: Array, inside: Inside) -> Array:
    """The map with pixels outside the image set to zero, as zero padding would have them."""
    return x if inside is None else x * inside


def answered(x: Array, inside: Inside) -> Array:
    """The pixels a strip answers for: all of a whole map, without its frame otherwise."""
    return x if inside is None else x[:, 1:-1, 1:-1]


def local(x: Array, kernel: Float[Array, "3 3 1 c"], inside: Inside) -> Array:
    """Depthwise convolution of the pixels answered for."""
    kernel = kernel.astype(x.dtype)
    return depthwise(x, kernel) if inside is None else depthwise_inner(x, kernel)


def gelu(x: Array) -> Array:
    """GELU, x Phi(x), by erf: thrice as fast on a CPU as by erfc, for a far tail nobody sees."""
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
    ) -> list[Float[Array, "b h w c"]]:
        """The three maps ``[q, k, v]`` of features that are zero where not inside."""
        if inside is None or isinstance(self.local, Conv2d):
            return jnp.split(answered(self.local(self.project(x)), inside), 3, -1)  # type: ignore[operator]
        c = x.shape[-1]
        # By thirds of the weights in large pictures: slicing maps would copy them.
        project = self.project.kernel[...][0, 0].astype(x.dtype)
        kernel = self.local.kernel[...]  # type: ignore[attr-defined]
        thirds = [slice(i * c, i * c + c) for i in range(3)]
        return [local(pointwise(x, project[:, t]), kernel[..., t], inside) for t in thirds]


class TransposedAttention(nnx.Module):
    """Self-attention across channels (MDTA, Restormer Sec. 3.1): one c/heads square map per head.

    Queries and keys are L2-normalised over the pixels of the whole image; what the attention
    gathers are plain sums over pixels (`channel_sums`), which tiles of a picture can add up.
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
    ) -> Float[Array, "b h w c"]:
        """Transform features that are zero where not inside."""
        halves = local_halves(self.expand, self.local, x, inside)
        return self.contract(gelu(halves[0]) * halves[1])


def local_halves(
    expand: Conv2d, layer: DepthwiseConv2d, x: Array, inside: Inside
) -> list[Float[Array, "b h w h"]]:
    """Halves of the channels of ``layer(expand(x))``."""
    if inside is None or layer.kernel.shape[2] > 1:
        return jnp.split(answered(layer(expand(x)), inside), 2, -1)
    hidden = expand.kernel.shape[-1] // 2
    wide, kernel = expand.kernel[...][0, 0].astype(x.dtype), layer.kernel[...]
    return [
        local(pointwise(x, wide[:, half]), kernel[..., half], inside)
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
    ) -> tuple[Float[Array, "b h w c"], dict[str, Array]]:
        """Transform.

        Args:
            x: features.
            context: sums over pixels to use instead of this call's own.
            pixel_weights: weight of every pixel in the returned sums (default 1).

        Returns:
            Features, and the sums of the attention (see `channel_sums`).
        """
        v, own = in_strips(
            lambda maps, _, inside: gather(
                self.attention.qkv(masked(self.norm1(maps[0]), inside), inside), maps[1:], inside
            ),
            [x] if pixel_weights is None else [x, pixel_weights],
        )
        mix = self.attention.mixing(own if context is None else context).astype(x.dtype)

        def finish(maps: Sequence[Array], mix: Sequence[Array], inside: Inside) -> tuple[Any, Any]:
            y = maps[0] + mixed(maps[1], mix[0])
            normal = masked(self.norm2(y), inside)
            return answered(y, inside) + self.feed_forward(normal, inside), {}

        return in_strips(finish, [x, v], [mix])[0], own


def run_rows(
    rows: Sequence[nnx.List],
    xs: Array,
    context: Sequence[dict[str, Array] | None] | None = None,
    pixel_weights: Array | None = None,
) -> tuple[Array, list[dict[str, Array]]]:
    """A row of blocks for each of the maps ``xs`` (rows, B, H, W, C).

    All blocks of all rows are alike, hence one compiled body (`functional.chain`), which compiles
    several times faster.

    Args:
        rows: lists of `RestormerBlock`, all of one length.
        xs: the map each row starts from.
        context: for each row the sums to use instead of its own, or None.
        pixel_weights: (B, H, W, 1) weight of every pixel in the sums returned.

    Returns:
        The results (rows, B, H, W, C), and the sums of each row, named ``"0/qk"``, ... by block.
    """
    depth = len(rows[0])

    def row(blocks: nnx.List, _: None, here: tuple[Array, Any]) -> tuple[None, Any]:
        def one(block: nnx.Module, x: Array, sums: Any) -> tuple[Array, Any]:
            return block(x, context=sums, pixel_weights=pixel_weights)

        return None, chain(blocks, one, *here)

    def stack(trees: Sequence[Any]) -> Any:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    given = None
    if context is not None and context[0] is not None:
        given = stack([stack([below(sums, str(i)) for i in range(depth)]) for sums in context])
    ys, sums = chain(rows, row, None, (xs, given))[1]
    own = [
        {f"{i}/{name}": x[r, i] for i in range(depth) for name, x in sums.items()}
        for r in range(len(rows))
    ]
    return ys, own


def gather(
    qkv: Sequence[Float[Array, "b h w c"]], weights: Sequence[Array], inside: Inside
) -> tuple[Float[Array, "b h w c"], dict[str, Array]]:
    """Values, and `channel_sums` of queries and keys; pixels that fill the last strip do not count.

    Args:
        qkv: queries, keys and values, of the pixels answered for.
        weights: nothing, or the map of pixel weights, with the frame.
        inside: as `in_strips` has it.
    """
    q, k, v = qkv
    factors = [answered(x, inside) for x in (*weights, inside) if x is not None]
    return v, channel_sums(q, k, math.prod(factors[1:], start=factors[0]) if factors else None)


def mixed(v: Float[Array, "b h w c"], mix: Float[Array, "b c d"]) -> Float[Array, "b h w d"]:
    """Values of every example times the mixing matrix of that example."""
    b, h, w, c = v.shape
    return (v.reshape(b, h * w, c) @ mix).reshape(b, h, w, mix.shape[-1])
