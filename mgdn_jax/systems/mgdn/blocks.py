"""What MGDN's stages are made of: dynamic filters, context-aware transformer blocks, fusion."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from mgdn_jax.layers import forms
from mgdn_jax.layers.attention import (
    ChannelCrossAttention,
    WindowAttention,
    shift_masks,
    weighted,
)
from mgdn_jax.layers.conv import Conv2d, LayerNorm, Linear
from mgdn_jax.layers.dynamic_filter import dynamic_filter
from mgdn_jax.layers.functional import below
from mgdn_jax.layers.padding import Extent, replicated, zeroed

# Inference on maps above this many pixels runs the transformer blocks strip by strip. A strip is
# a row of windows, or as many as do not pass these pixels and these numbers in its widest array
# (2 MB, to stay near the cores).
_STRIP_PIXELS = 16_384
_STRIP_NUMBERS = 30 * _STRIP_PIXELS


def leaky(x: Array, slope: float) -> Array:
    """Leaky ReLU."""
    return jax.nn.leaky_relu(x, slope)


class KernelPredictor(nnx.Module):
    """Raw 7x7 kernel of every pixel from attended features: conv3, conv3, conv1."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.convs = nnx.List([Conv2d(features, features, 3, rngs=rngs) for _ in range(2)])
        self.out = Conv2d(features, 49, 1, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h w c"], extent: Extent = None
    ) -> Float[Array, "b h w 49"]:
        """Predict; neither normalised nor centred."""
        for conv in self.convs:
            x = leaky(conv(zeroed(x, extent)), 0.1)
        return self.out(x)


class MutualGuidedFilter(nnx.Module):
    """Mutual-guided dynamic filter (MGDF, MGDN Sec. 3.2), of two inputs, a reference or a set.

    With two inputs each branch is filtered by a kernel whose query is the branch itself and whose
    key and value are the other one. Around a reference (HDR) the query is the reference, key and
    value are the filtered branch, and the reference gets two static convolutions. Both directions
    share one attention; predictors and output convolutions are separate. In a set the query is the
    mean of all branches, key and value are the filtered branch, and everything is shared, so that
    neither the number nor the order of the branches matters.
    """

    def __init__(self, features: int, guidance: str, *, rngs: nnx.Rngs):
        self.attention = ChannelCrossAttention(features, heads=6, rngs=rngs)
        ways = 1 if guidance == "set" else 2
        self.guidance = guidance
        self.predictors = nnx.List([KernelPredictor(features, rngs=rngs) for _ in range(ways)])
        self.outs = nnx.List([Conv2d(features, features, 1, rngs=rngs) for _ in range(ways)])
        static = 2 if guidance == "reference" else 0
        self.reference = nnx.List([Conv2d(features, features, 3, rngs=rngs) for _ in range(static)])

    def __call__(
        self,
        features: list[Float[Array, "b h w c"]],
        *,
        context: dict[str, Array] | None = None,
        pixel_weights: Float[Array, "b h w 1"] | None = None,
        extent: Extent = None,
    ) -> tuple[list[Float[Array, "b h w c"]], dict[str, Any]]:
        """Filter the branches.

        Returns:
            Filtered branches in the order of the inputs, and ``{"kernels": [...], "context": {}}``.
        """
        if self.guidance == "mutual":
            first, second = features
            directions = [(first, second, first), (second, first, second)]
        elif self.guidance == "set":
            mean = mean_of(features)
            directions = [(mean, branch, branch) for branch in features]
        else:
            under, middle, over = features
            directions = [(middle, under, under), (middle, over, over)]
        filtered: list[Array] = []
        kernels: list[Array] = []
        sums: dict[str, Array] = {}
        for i, (guide, operand, branch) in enumerate(directions):
            attended, own = self.attention(
                guide,
                operand,
                context=below(context, str(i)),
                pixel_weights=pixel_weights,
                extent=extent,
            )
            way = i % len(self.predictors)  # a set shares its only one
            kernel = self.predictors[way](attended, extent)
            mixed = dynamic_filter(replicated(branch, extent), kernel)  # its border replicates
            filtered.append(leaky(self.outs[way](mixed), 0.1))
            kernels.append(kernel)
            sums |= {f"{i}/{k}": v for k, v in own.items()}
        if self.reference:
            static = features[1]
            for conv in self.reference:
                static = leaky(conv(zeroed(static, extent)), 0.1)
            filtered.insert(1, static)
        return filtered, {"kernels": kernels, "context": sums}


class LocalContext(nnx.Module):
    """Local context extractor (LCE): a bottleneck of convolutions under a global channel gate."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        e = features // 8
        self.convs = nnx.List(
            [
                Conv2d(features, e, 1, rngs=rngs),
                Conv2d(e, e, 3, rngs=rngs),
                Conv2d(e, features, 1, rngs=rngs),
            ]
        )
        self.squeeze = Linear(features, e, use_bias=False, rngs=rngs)
        self.excite = Linear(e, features, use_bias=False, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        *,
        context: dict[str, Array] | None = None,
        pixel_weights: Float[Array, "b h w 1"] | None = None,
        extent: Extent = None,
    ) -> tuple[Float[Array, "b h w c"], dict[str, Array]]:
        """Extract; returns features and the gate's sums ``{"sum": (b, c), "count": (b,)}``."""
        wide = jnp.promote_types(x.dtype, jnp.float32)
        for conv in self.convs:
            x = conv(zeroed(x, extent))
        x = leaky(x, 0.2)
        b, h, w, _ = x.shape
        own: dict[str, Array] = {}
        if context is None or pixel_weights is not None:
            own["sum"] = jnp.sum(weighted(zeroed(x, extent), pixel_weights).astype(wide), (1, 2))
            if pixel_weights is not None:
                own["count"] = jnp.sum(pixel_weights.astype(wide), (1, 2, 3))
            elif extent is not None:
                own["count"] = jnp.prod(extent, 1).astype(wide)
            else:
                own["count"] = jnp.full((b,), h * w, wide)
        sums = own if context is None else context
        mean = sums["sum"] / sums["count"][:, None]
        gate = jax.nn.sigmoid(self.excite(jax.nn.relu(self.squeeze(mean))))
        return x * gate[:, None, None].astype(x.dtype), own


class ContextAwareBlock(nnx.Module):
    """Transformer block with a parallel local-context branch (MGDN Sec. 3.3)."""

    def __init__(
        self,
        features: int,
        *,
        heads: int,
        window: int,
        shift: int,
        mlp_ratio: float,
        drop_path: float,
        rngs: nnx.Rngs,
    ):
        hidden = int(features * mlp_ratio)
        self.drop_path, self.window, self.shift = drop_path, window, shift
        self.widest = max(hidden, heads * window**2)  # numbers for each pixel, logits or hidden
        self.norm1 = LayerNorm(features)
        self.attention = WindowAttention(features, heads=heads, window=window, rngs=rngs)
        self.norm2 = LayerNorm(features)
        self.expand = Linear(features, hidden, rngs=rngs)
        self.contract = Linear(hidden, features, rngs=rngs)
        self.local = LocalContext(features, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        *,
        keys: Key[Array, " b"] | None = None,
        context: dict[str, Array] | None = None,
        pixel_weights: Float[Array, "b h w 1"] | None = None,
        extent: Extent = None,
    ) -> tuple[Float[Array, "b h w c"], dict[str, Array]]:
        """Transform; ``keys`` (one per example) switch stochastic depth on."""
        local, own = self.local(
            self.norm1(x), context=context, pixel_weights=pixel_weights, extent=extent
        )
        s = self.shift
        rolled = jnp.roll(x, (-s, -s), (1, 2)) if s else x
        y = self._transform(rolled, keys, extent)
        y = jnp.roll(y, (s, s), (1, 2)) if s else y
        return y + local, own

    def _transform(self, x: Array, keys: Array | None, extent: Extent) -> Array:
        """Attention and MLP of the (rolled) map; large maps strip by strip, to stay in cache."""
        h, w = x.shape[1:3]
        apart = None
        if self.shift:
            size = h, w, self.window, self.shift
            masks = shift_masks(*size) if extent is None else shift_masks(*size, extent)
            apart = jnp.asarray(masks[0]), jnp.asarray(masks[1])
        if keys is not None or forms.are_whole() or h * w <= _STRIP_PIXELS:
            return self._tokens(x, apart, keys)
        # Everything here is local to a window, so strips of whole window rows are independent and
        # each result may take the place of its input: no second map is needed.
        rows = h // self.window
        pixels = min(_STRIP_PIXELS, _STRIP_NUMBERS // self.widest)
        most = max(1, pixels // (w * self.window))
        per_strip = max(d for d in range(1, rows + 1) if rows % d == 0 and d <= most)
        height = per_strip * self.window

        def replace(i: Array, x: Array) -> Array:
            strip = jax.lax.dynamic_slice_in_dim(x, i * height, height, 1)
            mine = apart
            if apart is not None:
                here = jax.lax.dynamic_slice_in_dim(apart[0], i * per_strip, per_strip, -3)
                mine = here, apart[1]
            # Without the barrier the strip is fused into the update, which runs on one core.
            strip = jax.lax.optimization_barrier(self._tokens(strip, mine, None))
            return jax.lax.dynamic_update_slice_in_dim(x, strip, i * height, 1)

        return jax.lax.fori_loop(0, rows // per_strip, replace, x)

    def _tokens(self, x: Array, apart: tuple[Array, Array] | None, keys: Array | None) -> Array:
        y = x + self._drop(self.attention(self.norm1(x), apart), keys, 0)
        hidden = jax.nn.gelu(self.expand(self.norm2(y)), approximate=False)
        return y + self._drop(self.contract(hidden), keys, 1)

    def _drop(self, branch: Array, keys: Array | None, which: int) -> Array:
        """Stochastic depth: per example keep (scaled) or drop the branch."""
        if keys is None or self.drop_path == 0.0:
            return branch
        keep = 1.0 - self.drop_path
        kept = jax.vmap(lambda k: jax.random.bernoulli(jax.random.fold_in(k, which), keep))(keys)
        return branch * (kept / keep)[:, None, None, None].astype(branch.dtype)


def mean_of(maps: list[Array]) -> Array:
    """Mean of feature maps of one shape."""
    total = maps[0]
    for x in maps[1:]:
        total = total + x
    return total / len(maps)


class Stage(nnx.Module):
    """One layer: MGDF, then parallel fusion (PFF) and the way back to each branch."""

    def __init__(
        self,
        features: int,
        *,
        inputs: int,
        guidance: str,
        heads: int,
        window: int,
        mlp_ratio: float,
        drop_paths: tuple[float, ...],
        rngs: nnx.Rngs,
    ):
        c = features
        # A set is merged by its mean and its maximum, and one convolution leads back to all.
        self.guidance = guidance
        parts, ways = (2, 1) if guidance == "set" else (inputs, inputs)
        self.mgdf = MutualGuidedFilter(c, guidance, rngs=rngs)
        self.merge = Conv2d(parts * c, c, 1, rngs=rngs)
        self.blocks = nnx.List(
            [
                ContextAwareBlock(
                    c,
                    heads=heads,
                    window=window,
                    shift=0 if i % 2 == 0 else window // 2,
                    mlp_ratio=mlp_ratio,
                    drop_path=rate,
                    rngs=rngs,
                )
                for i, rate in enumerate(drop_paths)
            ]
        )
        self.dilated = Conv2d(c, c, 3, dilation=2, rngs=rngs)
        self.branches = nnx.List([Conv2d(2 * c, c, 1, rngs=rngs) for _ in range(ways)])

    def __call__(
        self,
        features: list[Float[Array, "b h w c"]],
        *,
        keys: Key[Array, " b"] | None = None,
        context: dict[str, Array] | None = None,
        pixel_weights: Float[Array, "b h w 1"] | None = None,
        extent: Extent = None,
    ) -> tuple[list[Float[Array, "b h w c"]], dict[str, Any]]:
        """Next features of every branch, and what happened on the way (``filtered``, ...)."""
        filtered, aux = self.mgdf(
            features, context=below(context, "mgdf"), pixel_weights=pixel_weights, extent=extent
        )
        sums = {f"mgdf/{k}": v for k, v in aux["context"].items()}
        x = self.merge(jnp.concatenate(self._parts(filtered), -1))
        for j, block in enumerate(self.blocks):
            block_keys = None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, j)
            x, own = block(
                x,
                keys=block_keys,
                context=below(context, f"blocks/{j}"),
                pixel_weights=pixel_weights,
                extent=extent,
            )
            sums |= {f"blocks/{j}/{k}": v for k, v in own.items()}
        x = self.dilated(zeroed(x, extent))
        out = [
            self.branches[i % len(self.branches)](jnp.concatenate([x, branch], -1))
            for i, branch in enumerate(filtered)
        ]
        return out, {
            "filtered": filtered,
            "kernels": aux["kernels"],
            "fused": x,
            "context": sums,
        }

    def _parts(self, filtered: list[Array]) -> list[Array]:
        """What is merged: all branches, or what does not depend on the order of a set."""
        if self.guidance != "set":
            return filtered
        largest = filtered[0]
        for branch in filtered[1:]:
            largest = jnp.maximum(largest, branch)
        return [mean_of(filtered), largest]
