"""MGDN: mutual-guided dynamic network for image fusion (Guan et al., ACM MM 2023).

Every stage filters each input's features with one 7x7 kernel per pixel that was predicted from
both inputs (MGDF), fuses the results through context-aware transformer blocks, and hands the fused
features back to each branch (PFF). Multi-focus (``mff``), multi-exposure (``mef``), guided depth
super-resolution (``gdsr*``) and HDR deghosting (``hdr``) are the same blocks in another order.

Beyond the published network, ``head="blend"`` predicts how to mix the inputs per pixel instead of
the picture itself, for tasks whose inputs are sharp copies of the result (multi-focus).
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from mgdn_jax.layers.attention import (
    ChannelCrossAttention,
    WindowAttention,
    shift_masks,
    weighted,
)
from mgdn_jax.layers.conv import Conv2d, LayerNorm, Linear
from mgdn_jax.layers.dynamic_filter import dynamic_filter
from mgdn_jax.layers.functional import below
from mgdn_jax.layers.padding import (
    Extent,
    fill_to_multiple,
    pad_to_multiple,
    replicated,
    zeroed,
)
from mgdn_jax.systems.config import DTYPES, SystemConfig

# Inference on maps above this many pixels runs the transformer blocks strip by strip.
_STRIP_PIXELS = 16_384


@dataclasses.dataclass(frozen=True)
class Config(SystemConfig):
    """What determines the network.

    Attributes:
        inputs: number of images, 2 or 3.
        in_channels: channels of each image.
        out_channels: channels of the result.
        features: channels C of all inner maps; divisible by 6 and by every entry of ``heads``.
        depths: transformer blocks of each stage.
        heads: window-attention heads of each stage.
        window: side of the attention windows; the network pads to its multiples itself.
        mlp_ratio: hidden over outer width of the transformer MLPs.
        guidance: ``"mutual"`` (two inputs filter each other's features) or ``"reference"`` (the
            middle one of three guides the outer two and is not filtered dynamically).
        skip: index of the stem that is added before the last convolution.
        head: ``"direct"`` (sigmoid image, as published) or ``"blend"`` (per-pixel weights of the
            inputs; all inputs and the output have the same channels).
        drop_path: largest stochastic-depth rate, reached at the last block.
        stem_gain: how the stems start. 0: as published. Above 0: every filter has mean zero over
            its taps, is scaled by the gain, and all stems start equal; with the published start
            the constant part of an image drowns its detail, and choosing the sharper of two
            sources is not learned for hundreds of steps.
        dtype: compute dtype; parameters stay float32.
    """

    inputs: int = 2
    in_channels: tuple[int, ...] = (3, 3)
    out_channels: int = 3
    features: int = 30
    depths: tuple[int, ...] = (3, 3)
    heads: tuple[int, ...] = (3, 3)
    window: int = 4
    mlp_ratio: float = 2.0
    guidance: str = "mutual"
    skip: int = 0
    head: str = "direct"
    drop_path: float = 0.1
    stem_gain: float = 0.0
    dtype: str = "float32"

    system: ClassVar[str] = "mgdn"

    def __post_init__(self):
        demand = self.demand
        self.demand_whole("inputs", "out_channels", "features", "window")
        for name in ("in_channels", "depths", "heads"):
            value = getattr(self, name)
            whole = isinstance(value, tuple) and all(type(v) is int and v > 0 for v in value)
            demand(whole and len(value) > 0, f"{name} must be a tuple of positive whole numbers")
        for name in ("mlp_ratio", "drop_path", "stem_gain"):
            value = getattr(self, name)
            demand(isinstance(value, float | int), f"{name} must be a number")
        demand(self.mlp_ratio > 0, "mlp_ratio must be positive")
        demand(len(self.in_channels) == self.inputs, "in_channels needs one entry per input")
        demand(len(self.depths) == len(self.heads), "depths and heads must have the same length")
        demand(
            self.features % 6 == 0 and self.features >= 12,
            "features must be a multiple of 6 (the channel heads) and at least 12",
        )
        for heads in self.heads:
            demand(self.features % heads == 0, "features must be divisible by every entry of heads")
        demand(self.guidance in ("mutual", "reference"), "guidance is 'mutual' or 'reference'")
        wanted = 2 if self.guidance == "mutual" else 3
        demand(self.inputs == wanted, f"guidance {self.guidance!r} takes {wanted} inputs")
        demand(0 <= self.skip < self.inputs, "skip must name an input")
        demand(self.head in ("direct", "blend"), "head is 'direct' or 'blend'")
        same = {*self.in_channels, self.out_channels}
        demand(
            self.head == "direct" or len(same) == 1,
            "head 'blend' needs equal channels in all inputs and the output",
        )
        demand(0.0 <= self.drop_path < 1.0, "drop_path must lie in [0, 1)")
        demand(self.stem_gain >= 0.0, "stem_gain must not be negative")
        demand(
            self.stem_gain == 0.0 or len({*self.in_channels}) == 1,
            "stem_gain needs inputs with equal channels",
        )
        demand(self.dtype in DTYPES, f"dtype is one of {', '.join(DTYPES)}")

    @property
    def grid(self) -> int:
        """Sides are padded to whole attention windows."""
        return self.window

    @property
    def blends(self) -> bool:
        """The blend head weighs its inputs."""
        return self.head == "blend"

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Any:
        """Configuration of `PRESETS` with fields replaced."""
        return cls.from_dict({**PRESETS[name].to_dict(), **overrides})


_GDSR = Config(
    in_channels=(3, 1),
    out_channels=1,
    depths=(3, 3, 3),
    heads=(6, 6, 6),
    mlp_ratio=4.0,
    skip=1,
)
PRESETS: dict[str, Config] = {
    "mff": Config(),
    "mef": Config(features=60, depths=(6, 6), heads=(6, 6), window=8),
    "gdsr": _GDSR,
    "gdsr16": dataclasses.replace(_GDSR, features=60),
    "hdr": Config(
        inputs=3,
        in_channels=(6, 6, 6),
        features=60,
        depths=(6, 6, 6),
        heads=(6, 6, 6),
        window=8,
        mlp_ratio=4.0,
        guidance="reference",
        skip=1,
    ),
}


def _leaky(x: Array, slope: float) -> Array:
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
            x = _leaky(conv(zeroed(x, extent)), 0.1)
        return self.out(x)


class MutualGuidedFilter(nnx.Module):
    """Mutual-guided dynamic filter (MGDF, MGDN Sec. 3.2), for two inputs or around a reference.

    With two inputs each branch is filtered by a kernel whose query is the branch itself and whose
    key and value are the other one. Around a reference (HDR) the query is the reference, key and
    value are the filtered branch, and the reference gets two static convolutions. Both directions
    share one attention; predictors and output convolutions are separate.
    """

    def __init__(self, features: int, guidance: str, *, rngs: nnx.Rngs):
        self.attention = ChannelCrossAttention(features, heads=6, rngs=rngs)
        self.predictors = nnx.List([KernelPredictor(features, rngs=rngs) for _ in range(2)])
        self.outs = nnx.List([Conv2d(features, features, 1, rngs=rngs) for _ in range(2)])
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
        if not self.reference:
            first, second = features
            directions = [(first, second, first), (second, first, second)]
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
            kernel = self.predictors[i](attended, extent)
            mixed = dynamic_filter(replicated(branch, extent), kernel)  # its border replicates
            filtered.append(_leaky(self.outs[i](mixed), 0.1))
            kernels.append(kernel)
            sums |= {f"{i}/{k}": v for k, v in own.items()}
        if self.reference:
            static = features[1]
            for conv in self.reference:
                static = _leaky(conv(zeroed(static, extent)), 0.1)
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
        x = _leaky(x, 0.2)
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
        if keys is not None or h * w <= _STRIP_PIXELS:
            return self._tokens(x, apart, keys)
        # Everything here is local to a window, so strips of whole window rows are independent and
        # each result may take the place of its input: no second map is needed.
        rows = h // self.window
        most = max(1, _STRIP_PIXELS // (w * self.window))
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


class Stage(nnx.Module):
    """One layer: MGDF, then parallel fusion (PFF) and the way back to each branch."""

    def __init__(
        self, config: Config, heads: int, drop_paths: tuple[float, ...], *, rngs: nnx.Rngs
    ):
        c, m = config.features, config.inputs
        self.mgdf = MutualGuidedFilter(c, config.guidance, rngs=rngs)
        self.merge = Conv2d(m * c, c, 1, rngs=rngs)
        self.blocks = nnx.List(
            [
                ContextAwareBlock(
                    c,
                    heads=heads,
                    window=config.window,
                    shift=0 if i % 2 == 0 else config.window // 2,
                    mlp_ratio=config.mlp_ratio,
                    drop_path=rate,
                    rngs=rngs,
                )
                for i, rate in enumerate(drop_paths)
            ]
        )
        self.dilated = Conv2d(c, c, 3, dilation=2, rngs=rngs)
        self.branches = nnx.List([Conv2d(2 * c, c, 1, rngs=rngs) for _ in range(m)])

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
        x = self.merge(jnp.concatenate(filtered, -1))
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
            conv(jnp.concatenate([x, branch], -1))
            for conv, branch in zip(self.branches, filtered, strict=True)
        ]
        return out, {
            "filtered": filtered,
            "kernels": aux["kernels"],
            "fused": x,
            "context": sums,
        }


class Network(nnx.Module):
    """The whole network; see `Config` for its forms (MGDN Fig. 2)."""

    takes: ClassVar[frozenset[str]] = frozenset({"context", "extent"})

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        c, m = config.features, config.inputs
        # Around a reference one stem serves all exposures.
        stems = config.in_channels if config.guidance == "mutual" else config.in_channels[:1]
        self.stems = nnx.List([Conv2d(n, c, 3, rngs=rngs) for n in stems])
        if config.stem_gain:
            first = self.stems[0].kernel[...]
            first = config.stem_gain * (first - jnp.mean(first, (0, 1), keepdims=True))
            for stem in self.stems:
                stem.kernel[...] = first
                stem.bias[...] = self.stems[0].bias[...]
        total = sum(config.depths)
        rates = [float(r) for r in np.linspace(0.0, config.drop_path, total)]
        self.layers: nnx.List[Stage] = nnx.List()
        for depth, heads in zip(config.depths, config.heads, strict=True):
            mine, rates = tuple(rates[:depth]), rates[depth:]
            self.layers.append(Stage(config, heads, mine, rngs=rngs))
        self.body = Conv2d(m * c, c, 3, rngs=rngs)
        outs = config.out_channels if config.head == "direct" else m - 1
        self.last = Conv2d(c, outs, 3, rngs=rngs)
        if config.head == "blend":  # start from the mean of the inputs, where gradients are largest
            self.last.kernel[...] = jnp.zeros_like(self.last.kernel[...])
            self.last.bias[...] = jnp.zeros_like(self.last.bias[...])

    def __call__(
        self,
        *images: Float[Array, "b h w _"],
        keys: Key[Array, " b"] | None = None,
        context: dict[str, Array] | None = None,
        pixel_weights: Float[Array, "b h w 1"] | None = None,
        extent: Extent = None,
    ) -> tuple[Float[Array, "b h w o"], dict[str, Any]]:
        """Fuse.

        Args:
            *images: ``config.inputs`` images in [0, 1], all (B, H, W, in_channels[i]), any H, W.
            keys: one PRNG key per example switches stochastic depth on (training).
            context: sums over pixels of a whole picture (``aux["context"]``, added over its
                tiles), used in place of this call's own: how tiles agree with each other.
            pixel_weights: (B, H, W, 1) weight of every pixel in the sums returned.
            extent: (B, 2) height and width of the images in the upper left corners, the rest being
                padding that changes nothing in them; None where they fill everything.

        Returns:
            ``(fused, aux)``: fused (B, H, W, out_channels) in (0, 1), float32; aux has ``stages``
            (one dictionary each: ``filtered`` branch features after MGDF, predicted ``kernels``,
            ``fused`` features; all at the padded size), ``context``, and for the blend head
            ``weights`` (B, H, W, inputs).

        Raises:
            ValueError: wrong number of images, channels, or sizes that differ.
        """
        config = self.config
        if len(images) != config.inputs:
            raise ValueError(f"the network takes {config.inputs} images, got {len(images)}")
        for image, channels in zip(images, config.in_channels, strict=True):
            if image.ndim != 4 or image.shape[-1] != channels:
                raise ValueError(f"expected (b, h, w, {channels}), got {image.shape}")
            if image.shape[:3] != images[0].shape[:3]:
                raise ValueError(f"sizes differ: {image.shape[:3]} and {images[0].shape[:3]}")
        h, w = images[0].shape[1:3]
        dtype = jnp.dtype(config.dtype)
        padded = [pad_to_multiple(image.astype(dtype), config.window) for image in images]
        if pixel_weights is not None:
            grow = [(0, p - n) for p, n in zip(padded[0].shape[1:3], (h, w), strict=True)]
            pixel_weights = zeroed(jnp.pad(pixel_weights, ((0, 0), *grow, (0, 0))), extent)
        if extent is not None:
            # The images are grown to whole windows, which count as image from here on.
            padded = [fill_to_multiple(image, extent, config.window) for image in padded]
            extent = extent + -extent % config.window
        stem_of = range(len(images)) if len(self.stems) > 1 else [0] * len(images)
        stems = [
            self.stems[s](zeroed(image, extent)) for s, image in zip(stem_of, padded, strict=True)
        ]
        features, stages = stems, []
        sums: dict[str, Array] = {}
        for i, layer in enumerate(self.layers):
            layer_keys = None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, i)
            features, stage = layer(
                features,
                keys=layer_keys,
                context=below(context, f"layers/{i}"),
                pixel_weights=pixel_weights,
                extent=extent,
            )
            sums |= {f"layers/{i}/{k}": v for k, v in stage.pop("context").items()}
            stages.append(stage)
        body = self.body(zeroed(jnp.concatenate(features, -1), extent))
        body = _leaky(body, 0.2) + stems[config.skip]
        last = self.last(zeroed(body, extent))[:, :h, :w]
        last = last.astype(jnp.promote_types(dtype, jnp.float32))
        aux: dict[str, Any] = {"stages": stages, "context": sums}
        if config.head == "direct":
            return jax.nn.sigmoid(last), aux
        weights = jax.nn.softmax(jnp.pad(last, ((0, 0), (0, 0), (0, 0), (0, 1))), -1)
        aux["weights"] = weights
        mixed = jnp.zeros(images[0].shape, last.dtype)
        for i, image in enumerate(images):
            mixed = mixed + weights[..., i : i + 1] * image.astype(last.dtype)
        return mixed, aux
