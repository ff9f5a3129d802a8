"""MGDN: mutual-guided dynamic network for image fusion (Guan et al., ACM MM 2023).

Every stage filters each input's features with one 7x7 kernel per pixel that was predicted from
both inputs (MGDF), fuses the results through context-aware transformer blocks, and hands the fused
features back to each branch (PFF). Multi-focus (``mff``), multi-exposure (``mef``), guided depth
super-resolution (``gdsr*``) and HDR deghosting (``hdr``) are the same blocks in another order.

Beyond the published network: heads that start from the inputs instead of from gray (`HEADS`);
``patch``, which lets a network work at a fraction of the resolution; and ``guidance="set"``, whose
branches share everything, so that it takes brackets of any length in any order.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from mgdn_jax.layers import pyramid
from mgdn_jax.layers.conv import Conv2d
from mgdn_jax.layers.exposures import rule_logits
from mgdn_jax.layers.functional import below
from mgdn_jax.layers.padding import Extent, fill_to_multiple, pad_to_multiple, zeroed
from mgdn_jax.layers.scales import blocks_to_channels, channels_to_blocks
from mgdn_jax.quantities.radiance import inverse_mu_law, mu_law
from mgdn_jax.systems.config import DTYPES, SystemConfig
from mgdn_jax.systems.mgdn.blocks import Stage, leaky

HEADS = {
    "direct": "the picture itself, by a sigmoid, as published",
    "blend": "weights of the inputs per pixel",
    "pyramid": "weights of the inputs per pixel, under which details of every scale are blended;"
    " starts as a rule (`layers.exposures`)",
    "residual": "what is added to the input that the skip names; starts as that input",
    "merge": "weights of the exposures' linear forms, and what is added to their sum in the mu-law"
    " domain; starts as the reference, where it is saturated as the shortest exposure",
}
"""What the last convolution predicts."""
GUIDANCES = {"mutual": 2, "reference": 3, "set": 2}
"""How branches guide each other, and how many there are (at least, in a set)."""
_CLIPPING = 0.88, 0.97  # of full scale: the reference is good below, and lost above
_LEAST = 0.005  # of a weight that the merge starts with


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
        guidance: ``"mutual"`` (two inputs filter each other's features), ``"reference"`` (the
            middle one of three guides the outer two and is not filtered dynamically) or ``"set"``
            (the mean of two or more guides each; any number, in any order; heads with weights).
        skip: index of the stem that is added before the last convolution; a set adds each its own.
        head: one of `HEADS`. ``"blend"`` and ``"pyramid"`` need inputs and output with the same
            channels, ``"residual"`` an output with those of the input that `skip` names,
            ``"merge"`` three inputs of `quantities.radiance` and an output of three channels.
        patch: side of the blocks of pixels that the network treats as one; 1 as published.
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
    patch: int = 1
    drop_path: float = 0.1
    stem_gain: float = 0.0
    dtype: str = "float32"

    system: ClassVar[str] = "mgdn"

    def __post_init__(self):
        super().__post_init__()
        demand = self.demand
        self.demand_whole("inputs", "out_channels", "features", "window", "patch")
        for name in ("in_channels", "depths", "heads"):
            value = getattr(self, name)
            whole = isinstance(value, tuple) and all(type(v) is int and v > 0 for v in value)
            demand(whole and len(value) > 0, f"{name} must be a tuple of positive whole numbers")
        for name in ("mlp_ratio", "drop_path", "stem_gain"):
            value = getattr(self, name)
            demand(isinstance(value, float | int), f"{name} must be a number")
        self.demand_blocks(sum(self.depths))
        demand(self.mlp_ratio > 0, "mlp_ratio must be positive")
        demand(len(self.in_channels) == self.inputs, "in_channels needs one entry per input")
        demand(len(self.depths) == len(self.heads), "depths and heads must have the same length")
        demand(
            self.features % 6 == 0 and self.features >= 12,
            "features must be a multiple of 6 (the channel heads) and at least 12",
        )
        for heads in self.heads:
            demand(self.features % heads == 0, "features must be divisible by every entry of heads")
        demand(self.guidance in GUIDANCES, f"guidance is one of {', '.join(map(repr, GUIDANCES))}")
        wanted = GUIDANCES[self.guidance]
        demand(self.inputs == wanted, f"guidance {self.guidance!r} takes {wanted} inputs")
        demand(0 <= self.skip < self.inputs, "skip must name an input")
        self._check_head()
        demand(0.0 <= self.drop_path < 1.0, "drop_path must lie in [0, 1)")
        demand(self.stem_gain >= 0.0, "stem_gain must not be negative")
        demand(self.dtype in DTYPES, f"dtype is one of {', '.join(DTYPES)}")

    def _check_head(self) -> None:
        demand = self.demand
        demand(self.head in HEADS, f"head is one of {', '.join(map(repr, HEADS))}")
        if self.blends:
            same = {*self.in_channels, self.out_channels}
            demand(
                len(same) == 1,
                f"head {self.head!r} needs equal channels in all inputs and the output",
            )
        if self.head == "residual":
            same = {self.in_channels[self.skip], self.out_channels}
            demand(len(same) == 1, "head 'residual' needs an output like the input of the skip")
        if self.head == "merge":
            demand(
                (self.in_channels, self.out_channels) == ((6, 6, 6), 3),
                "head 'merge' needs in_channels (6, 6, 6) and out_channels 3",
            )
        demand(self.guidance != "set" or self.blends, "a set needs head 'blend' or 'pyramid'")

    @property
    def grid(self) -> int:
        """Sides are padded to whole attention windows."""
        return self.window * self.patch

    @property
    def scales(self) -> bool:
        """The pyramid head weighs details of every scale."""
        return self.head == "pyramid"

    @property
    def sets(self) -> bool:
        """Whether any number of inputs, two or more, is taken in any order."""
        return self.guidance == "set"

    @property
    def blends(self) -> bool:
        """Two heads weigh the inputs, per pixel or level by level."""
        return self.head in ("blend", "pyramid")

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


class Network(nnx.Module):
    """The whole network; see `Config` for its forms (MGDN Fig. 2)."""

    takes: ClassVar[frozenset[str]] = frozenset({"context", "extent"})

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        c, m, area = config.features, config.inputs, config.patch**2
        # Around a reference, and in a set, one stem serves all exposures.
        stems = config.in_channels if config.guidance == "mutual" else config.in_channels[:1]
        self.stems = nnx.List([Conv2d(n * area, c, 3, rngs=rngs) for n in stems])
        if config.stem_gain:
            alike = len({*config.in_channels}) == 1
            for i, stem in enumerate(self.stems):
                stem.kernel.set_value(_detail(stem.kernel[...], config.stem_gain, area))
                if alike and i:
                    stem.kernel.set_value(self.stems[0].kernel[...])
                    stem.bias.set_value(self.stems[0].bias[...])
        total = sum(config.depths)
        rates = [float(r) for r in np.linspace(0.0, config.drop_path, total)]
        self.layers: nnx.List[Stage] = nnx.List()
        for depth, heads in zip(config.depths, config.heads, strict=True):
            mine, rates = tuple(rates[:depth]), rates[depth:]
            self.layers.append(
                Stage(
                    c,
                    inputs=m,
                    guidance=config.guidance,
                    heads=heads,
                    window=config.window,
                    mlp_ratio=config.mlp_ratio,
                    drop_paths=mine,
                    rngs=rngs,
                )
            )
        self.body = Conv2d(c if config.sets else m * c, c, 3, rngs=rngs)
        outs = config.out_channels
        if config.blends:
            outs = 1 if config.sets else m - 1
        elif config.head == "merge":
            outs = m + config.out_channels
        self.last = Conv2d(c, outs * area, 3, rngs=rngs)
        if config.head != "direct":  # start from the inputs; of a blend, from their mean
            self.last.kernel.set_value(jnp.zeros_like(self.last.kernel[...]))
            self.last.bias.set_value(jnp.zeros_like(self.last.bias[...]))

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
            *images: ``config.inputs`` images, or in a set two or more, in [0, 1] (unless they have
                a preparation of `quantities`), all (B, H, W, in_channels[i]), any H, W.
            keys: one PRNG key per example switches stochastic depth on (training).
            context: sums over pixels of a whole picture (``aux["context"]``, added over its
                tiles), used in place of this call's own: how tiles agree with each other.
            pixel_weights: (B, H, W, 1) weight of every pixel in the sums returned.
            extent: (B, 2) height and width of the images in the upper left corners, the rest being
                padding that changes nothing in them; None where they fill everything.

        Returns:
            ``(fused, aux)``: fused (B, H, W, out_channels), float32, in (0, 1) but for the heads
            that add something; aux has ``stages`` (one dictionary each: ``filtered`` branch
            features after MGDF, predicted ``kernels``, ``fused`` features; all at the padded size
            over the patch), ``context``, and where inputs are weighted ``weights`` (B, H, W,
            inputs).

        Raises:
            ValueError: wrong number of images, channels, or sizes that differ.
        """
        config, size = self.config, images[0].shape[1:3] if images else (0, 0)
        whole = extent
        self._check(images)
        dtype = jnp.dtype(config.dtype)
        padded = [pad_to_multiple(image.astype(dtype), config.grid) for image in images]
        if pixel_weights is not None:
            grow = [(0, p - n) for p, n in zip(padded[0].shape[1:3], size, strict=True)]
            pixel_weights = zeroed(jnp.pad(pixel_weights, ((0, 0), *grow, (0, 0))), extent)
            pixel_weights = jnp.mean(
                blocks_to_channels(pixel_weights, config.patch), -1, keepdims=True
            )
        if extent is not None:
            # The images are grown to whole windows, which count as image from here on.
            padded = [fill_to_multiple(image, extent, config.grid) for image in padded]
            extent = (extent + -extent % config.grid) // config.patch
        padded = [blocks_to_channels(image, config.patch) for image in padded]
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
        if config.sets:
            last = [
                self._last([x], stem, extent, size) for x, stem in zip(features, stems, strict=True)
            ]
        else:
            last = [self._last(features, stems[config.skip], extent, size)]
        fused, weights = self._fused(images, jnp.concatenate(last, -1), whole)
        aux: dict[str, Any] = {"stages": stages, "context": sums}
        return fused, aux if weights is None else {**aux, "weights": weights}

    def _check(self, images: tuple[Array, ...]) -> None:
        config = self.config
        count, channels = config.inputs, config.in_channels
        if config.sets and len(images) > count:
            count, channels = len(images), channels[:1] * len(images)
        if len(images) != count:
            raise ValueError(f"the network takes {count} images, got {len(images)}")
        for image, number in zip(images, channels, strict=True):
            if image.ndim != 4 or image.shape[-1] != number:
                raise ValueError(f"expected (b, h, w, {number}), got {image.shape}")
            if image.shape[:3] != images[0].shape[:3]:
                raise ValueError(f"sizes differ: {image.shape[:3]} and {images[0].shape[:3]}")

    def _last(
        self, features: list[Array], skip: Array, extent: Extent, size: tuple[int, ...]
    ) -> Array:
        """What the head makes the result of, (B, H, W, n) at the size of the images."""
        body = leaky(self.body(zeroed(jnp.concatenate(features, -1), extent)), 0.2) + skip
        last = channels_to_blocks(self.last(zeroed(body, extent)), self.config.patch)
        dtype = jnp.promote_types(last.dtype, jnp.float32)
        return last[:, : size[0], : size[1]].astype(dtype)

    def _fused(
        self, images: tuple[Array, ...], last: Array, extent: Extent
    ) -> tuple[Array, Array | None]:
        """The result, and the weights of the inputs where the head has some."""
        config = self.config
        images = tuple(image.astype(last.dtype) for image in images)
        if config.head == "direct":
            return jax.nn.sigmoid(last), None
        if config.head == "residual":
            return images[config.skip] + last, None
        if config.head == "merge":
            weights = jax.nn.softmax(last[..., :3] + _merge_start(images), -1)
            merged = _mixed([image[..., 3:] for image in images], weights)
            return inverse_mu_law(mu_law(merged) + last[..., 3:]), weights
        if not config.sets:
            last = jnp.pad(last, ((0, 0), (0, 0), (0, 0), (0, 1)))
        if config.head == "pyramid":
            last = last + rule_logits(images, extent)
        weights = jax.nn.softmax(last, -1)
        mixed = _mixed if config.head == "blend" else pyramid.blend
        return mixed(images, weights), weights


def _detail(kernel: Array, gain: float, area: int) -> Array:
    """Filters (3, 3, area channels, features) that see no constant, scaled by a gain."""
    taps = kernel.reshape(3, 3, area, -1, kernel.shape[-1])
    return (gain * (taps - jnp.mean(taps, (0, 1, 2), keepdims=True))).reshape(kernel.shape)


def _mixed(images: Sequence[Array], weights: Array) -> Array:
    """Sum of images with a weight per pixel each."""
    mixed = jnp.zeros(images[0].shape, weights.dtype)
    for i, image in enumerate(images):
        mixed = mixed + weights[..., i : i + 1] * image
    return mixed


def _merge_start(images: tuple[Array, ...]) -> Array:
    """Logarithms of weights that merge by a rule: the reference, the shortest where it clips."""
    good, lost = _CLIPPING
    brightest = jnp.max(images[1][..., :3], -1)
    reference = jnp.clip((lost - brightest) / (lost - good), 0, 1)
    shares = jnp.stack([1 - reference, reference, jnp.zeros_like(reference)], -1)
    return jnp.log((shares + _LEAST) / (1 + 3 * _LEAST))
