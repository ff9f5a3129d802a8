"""ReFusion: fusion trained through a learned loss (Bai et al., IJCV 2024).

Three networks. `Network` (F) fuses two luminance images; it alone is used on pictures.
`ProposalNetwork` (P) proposes how the fusion loss weighs the sources at each pixel, and
`ReconstructionNetwork` (R) rebuilds both sources from the fused image, by which P is judged. All
work at full resolution, have no bias outside their layer norms, and take any H and W.

Attention gathers statistics of the whole image. They are plain sums over pixels, so tiles of a
large picture can use common ones (``aux["context"]``); as every block's sums rest on features that
earlier blocks of the tile made with its own, tiling stays an approximation.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgdn_jax import image
from mgdn_jax.layers import restormer
from mgdn_jax.layers.conv import Conv2d, DepthwiseConv2d
from mgdn_jax.layers.functional import (
    REMATS,
    above,
    below,
    chain,
    per_example_policy,
    rematerialised,
)
from mgdn_jax.layers.padding import Extent, zeroed
from mgdn_jax.layers.restormer import (
    Inside,
    RestormerBlock,
    TransposedAttention,
    bare_conv,
    in_strips,
    local_halves,
    mixed,
    run_rows,
    without_frame,
)
from mgdn_jax.systems.config import SystemConfig


@dataclasses.dataclass(frozen=True)
class Config(SystemConfig):
    """What determines the three networks.

    Attributes:
        features: channels C of a branch; divisible by ``heads``. Joint features have 2C.
        blocks: Restormer blocks of every encoder and of the decoder.
        heads: attention heads.
        expansion: hidden over outer width of the feed-forward parts.
        proposal: ``"two_branch"`` (P weighs intensities and gradients by a network each) or
            ``"single"`` (intensities only).
        norm_floor: smallest norm a query or key is divided by, 1e-12 as published. At the start
            of training a black source has queries of exactly zero and a gradient of 1 / norm_floor;
            about 1e-3 keeps it bounded, and changes nothing where norms are larger.
        remat: memory of training against speed, one of `functional.REMATS`: ``"row"`` keeps for
            the gradient what a row of blocks was given; ``"example"`` is what each block was given,
            one example after the other, the quickest of them on a CPU where it was measured
            (docs/benchmarks/speed.md). Results are the same.
        dtype: compute dtype; parameters stay float32.
        in_channels: channels of the two images, fixed: luminance.
        out_channels: channels of the result, fixed: luminance.
    """

    features: int = 16
    blocks: int = 2
    heads: int = 8
    expansion: float = 2.0
    proposal: str = "two_branch"
    norm_floor: float = 1e-12
    remat: str = "row"
    dtype: str = "float32"
    in_channels: tuple[int, ...] = (1, 1)
    out_channels: int = 1

    system: ClassVar[str] = "refusion"

    def __post_init__(self):
        super().__post_init__()
        demand = self.demand
        self.demand_whole("features", "blocks", "heads")
        self.demand_blocks(3 * self.blocks)
        self.demand_positive("expansion", "norm_floor")
        demand(self.features % self.heads == 0, "features must be divisible by heads")
        demand(self.features * self.expansion >= 1, "expansion leaves no hidden channel")
        demand(self.norm_floor >= 1e-18, "norm_floor must be at least 1e-18 (its square is taken)")
        demand(self.proposal in ("two_branch", "single"), "proposal is 'two_branch' or 'single'")
        demand(self.remat in REMATS, f"remat is one of {', '.join(REMATS)}")
        self.demand_luminance()

    def for_use(self) -> SystemConfig:
        """The same network; what is kept for gradients does not matter, for there are none."""
        return dataclasses.replace(self, remat="none")

    def for_training(self, norm_floor: float) -> SystemConfig:
        """The same network whose attention divides by no norm below the floor."""
        return dataclasses.replace(self, norm_floor=max(norm_floor, self.norm_floor))


# One architecture for all tasks; the names keep weights, inputs and data apart.
PRESETS: dict[str, Config] = {name: Config() for name in ("ivf", "mif", "mff", "mef")}


def _blocks(config: Config, features: int, rngs: nnx.Rngs) -> nnx.List:
    return nnx.List(
        [
            RestormerBlock(
                features,
                heads=config.heads,
                expansion=config.expansion,
                floor=config.norm_floor,
                rngs=rngs,
            )
            for _ in range(config.blocks)
        ]
    )


class CrossModalFusion(nnx.Module):
    """Cross-modal fusion of two branches (AFM): cross attention, then gates from both.

    Each branch attends with the queries of the other one to its own keys and values. Then the
    joint features gate what the single branches offer:
    ``z + sum_i project_i(GELU(gate_i(z)) * value_i(x_i))`` with ``z = concat(x_1, x_2)``.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c, hidden = config.features, 4 * config.features
        self.attentions = nnx.List(
            [
                TransposedAttention(c, heads=config.heads, floor=config.norm_floor, rngs=rngs)
                for _ in range(2)
            ]
        )
        self.gates = bare_conv(2 * c, 2 * hidden, 1, rngs)
        self.gates_local = DepthwiseConv2d(2 * hidden, 3, use_bias=False, rngs=rngs)
        self.values = nnx.List([bare_conv(c, hidden, 1, rngs) for _ in range(2)])
        self.values_local = nnx.List(
            [DepthwiseConv2d(hidden, 3, use_bias=False, rngs=rngs) for _ in range(2)]
        )
        self.outs = nnx.List([bare_conv(hidden, 2 * c, 1, rngs) for _ in range(2)])

    def __call__(
        self,
        x1: Float[Array, "b h w c"],
        x2: Float[Array, "b h w c"],
        *,
        context: dict[str, Array] | None = None,
        pixel_weights: Float[Array, "b h w 1"] | None = None,
        extent: Extent = None,
    ) -> tuple[Float[Array, "b h w 2*c"], dict[str, Array]]:
        """Fuse; returns joint features and the sums of both attentions (``"0/qk"``, ...)."""

        def attend(maps: Any, _: Any, inside: Inside) -> tuple[Any, Any]:
            (q1, k1, v1), (q2, k2, v2) = (
                attention.qkv(x, inside)
                for attention, x in zip(self.attentions, maps[:2], strict=True)
            )
            values: list[Array] = []
            sums: dict[str, Array] = {}
            for i, qkv in enumerate(((q2, k1, v1), (q1, k2, v2))):
                value, own = restormer.gather(qkv, maps[2:], inside)
                values.append(value)
                sums |= above(str(i), own)
            return values, sums

        extra = [] if pixel_weights is None else [pixel_weights]
        values, own = in_strips(attend, [x1, x2, *extra], extent=extent)
        sums = own if context is None else context
        mixes = [
            attention.mixing(below(sums, str(i)) or {}).astype(x1.dtype)
            for i, attention in enumerate(self.attentions)
        ]

        def gate(maps: Any, mixes: Any, inside: Inside) -> tuple[Any, Any]:
            branches = [x + mixed(v, m) for x, v, m in zip(maps[:2], maps[2:], mixes, strict=True)]
            z = jnp.concatenate(branches, -1)
            gates = local_halves(self.gates, self.gates_local, z, inside)
            fused = without_frame(z, inside)
            for i in range(2):
                offered = restormer.local(
                    self.values[i](branches[i]), self.values_local[i].kernel[...], inside
                )
                fused = fused + self.outs[i](restormer.gelu(gates[i]) * offered)
            return fused, {}

        return in_strips(gate, [x1, x2, *values], mixes, extent=extent)[0], own


class Network(nnx.Module):
    """Fusion module F: two encoders, cross-modal fusion, a decoder (ReFusion Fig. 2)."""

    takes: ClassVar[frozenset[str]] = frozenset({"context", "extent"})

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        c = config.features
        self.stems = nnx.List([bare_conv(1, c, 3, rngs) for _ in range(2)])
        self.encoders = nnx.List([_blocks(config, c, rngs) for _ in range(2)])
        self.fusion = CrossModalFusion(config, rngs=rngs)
        self.decoder = _blocks(config, 2 * c, rngs)
        self.reduce = bare_conv(2 * c, c, 3, rngs)
        self.last = bare_conv(c, 1, 3, rngs)

    def __call__(
        self,
        a: Float[Array, "b h w 1"],
        b: Float[Array, "b h w 1"],
        *,
        context: dict[str, Array] | None = None,
        pixel_weights: Float[Array, "b h w 1"] | None = None,
        extent: Extent = None,
    ) -> tuple[Float[Array, "b h w 1"], dict[str, Any]]:
        """Fuse.

        Args:
            a: first source, luminance in [0, 1], any H and W. The network is not symmetric; which
                source comes first is a matter of the task (infrared, near, under-exposed, ...).
            b: second source, of the same shape.
            context: sums over pixels of a whole picture (``aux["context"]``, added over its
                tiles), used in place of this call's own: how tiles agree with each other.
            pixel_weights: (B, H, W, 1) weight of every pixel in the sums returned.
            extent: (B, 2) height and width of the images in the upper left corners, the rest being
                padding of any content: results there have no meaning, and elsewhere are as without
                it, so that one compiled program serves many sizes.

        Returns:
            ``(fused, aux)``: fused (B, H, W, 1) in (0, 1), float32; aux has ``encoded`` (features
            of both branches), ``joint`` (after the cross-modal fusion), ``decoded`` and
            ``context``.

        Raises:
            ValueError: shapes that differ or do not have one channel.
        """
        _check(a, b)
        dtype = jnp.dtype(self.config.dtype)
        sums: dict[str, Array] = {}
        a, b = zeroed(a, extent), zeroed(b, extent)
        stemmed = [stem(x.astype(dtype)) for stem, x in zip(self.stems, (a, b), strict=True)]
        branches = [f"encoders/{i}" for i in range(2)]
        encoded, owns = run_rows(
            self.encoders,
            jnp.stack(stemmed),
            [below(context, branch) for branch in branches],
            pixel_weights,
            remat=self.config.remat,
            extent=extent,
        )
        for branch, own in zip(branches, owns, strict=True):
            sums |= above(branch, own)
        graph, state = nnx.split(self.fusion)

        def fuse(state: Any, maps: tuple[Array, Array]) -> tuple[Array, dict[str, Array]]:
            return nnx.merge(graph, state)(
                *maps,
                context=below(context, "fusion"),
                pixel_weights=pixel_weights,
                extent=extent,
            )

        # It is no row of blocks: only where these take turns by examples does it do so, too.
        has_example_arrays = any(x is not None for x in (context, pixel_weights, extent))
        remat = per_example_policy(self.config.remat, has_example_arrays)
        one = rematerialised(fuse, remat if remat == "example" else "none")
        joint, own = one(state, (encoded[0], encoded[1]))
        sums |= above("fusion", own)
        (decoded,), (own,) = run_rows(
            [self.decoder],
            joint[None],
            [below(context, "decoder")],
            pixel_weights,
            remat=self.config.remat,
            extent=extent,
        )
        sums |= above("decoder", own)
        fused = _image(self.reduce, self.last, decoded, extent)
        return fused, {"encoded": encoded, "joint": joint, "decoded": decoded, "context": sums}


class WeightProposal(nnx.Module):
    """Weights of two maps at every pixel from both of them: one branch of P."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c = config.features
        self.remat = config.remat
        self.stems = nnx.List([bare_conv(1, c, 3, rngs) for _ in range(2)])
        self.encoders = nnx.List([_blocks(config, c, rngs) for _ in range(2)])
        self.joint = _blocks(config, 2 * c, rngs)
        self.reduce = bare_conv(2 * c, c, 3, rngs)
        self.slope = nnx.Param(jnp.full((1,), 0.25, jnp.float32))
        self.last = bare_conv(c, 2, 3, rngs)

    def __call__(
        self, a: Float[Array, "b h w 1"], b: Float[Array, "b h w 1"]
    ) -> Float[Array, "b h w 2"]:
        """Weights of ``a`` and ``b``, float32, positive, of sum 1 at every pixel."""
        stemmed = jnp.stack([stem(x) for stem, x in zip(self.stems, (a, b), strict=True)])
        encoded = run_rows(self.encoders, stemmed, remat=self.remat)[0]
        (joint,) = run_rows([self.joint], jnp.concatenate([*encoded], -1)[None], remat=self.remat)[
            0
        ]
        x = self.reduce(joint)
        slope = self.slope[...].astype(x.dtype).reshape(1, 1, 1, 1)
        x = jnp.where(x >= 0, x, slope * x)
        logits = self.last(x)
        return jax.nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), -1)


class ProposalNetwork(nnx.Module):
    """Loss proposal module P: per-pixel weights of the sources in the fusion loss."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        self.intensity = WeightProposal(config, rngs=rngs)
        if config.proposal == "two_branch":
            self.gradient = WeightProposal(config, rngs=rngs)

    def __call__(
        self, a: Float[Array, "b h w 1"], b: Float[Array, "b h w 1"]
    ) -> dict[str, Float[Array, "b h w 2"]]:
        """Propose weights for a pair of luminance images in [0, 1].

        Returns:
            ``{"w": weights of the intensities}``, and for two branches ``"v"``, those of the
            gradient magnitudes; each (B, H, W, 2), first source first, summing to 1.
        """
        _check(a, b)
        dtype = jnp.dtype(self.config.dtype)
        a, b = a.astype(dtype), b.astype(dtype)
        if self.config.proposal == "single":
            return {"w": self.intensity(a, b)}
        seen = [jnp.stack([x, gradient_magnitude(x)]) for x in (a, b)]
        _, (w, v) = chain(
            [self.intensity, self.gradient],
            lambda branch, _, x: (None, branch(*x)),
            xs=seen,
            remat="none",  # the branches' rows of blocks have their own
        )
        return {"w": w, "v": v}


class ReconstructionNetwork(nnx.Module):
    """Source reconstruction module R: both sources from the fused image, a separate branch each."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        c = config.features
        self.stems = nnx.List([bare_conv(1, 2 * c, 3, rngs) for _ in range(2)])
        self.encoders = nnx.List([_blocks(config, 2 * c, rngs) for _ in range(2)])
        self.reduce = nnx.List([bare_conv(2 * c, c, 3, rngs) for _ in range(2)])
        self.last = nnx.List([bare_conv(c, 1, 3, rngs) for _ in range(2)])

    def __call__(
        self, fused: Float[Array, "b h w 1"]
    ) -> tuple[Float[Array, "b h w 1"], Float[Array, "b h w 1"]]:
        """Rebuild ``(first source, second source)``, float32 in (0, 1), from the fused image."""
        _check(fused, fused)
        x = fused.astype(jnp.dtype(self.config.dtype))
        stemmed = jnp.stack([stem(x) for stem in self.stems])
        encoded = run_rows(self.encoders, stemmed, remat=self.config.remat)[0]
        first, second = (_image(self.reduce[i], self.last[i], encoded[i]) for i in range(2))
        return first, second


def gradient_magnitude(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """|Sobel along x| + |Sobel along y|, not normalised, zero border: 0..8 for x in [0, 1]."""
    gx, gy = image.sobel(x, border="zero")
    return 8.0 * (jnp.abs(gx) + jnp.abs(gy))


def _image(
    reduce: Conv2d, last: Conv2d, x: Array, extent: Extent = None
) -> Float[Array, "b h w 1"]:
    y = last(zeroed(jax.nn.leaky_relu(reduce(zeroed(x, extent)), 0.01), extent))
    return jax.nn.sigmoid(y.astype(jnp.promote_types(y.dtype, jnp.float32)))


def _check(a: Array, b: Array) -> None:
    for x in (a, b):
        if x.ndim != 4 or x.shape[-1] != 1:
            raise ValueError(f"expected luminance (b, h, w, 1), got {x.shape}")
    if a.shape != b.shape:
        raise ValueError(f"sizes differ: {a.shape[:3]} and {b.shape[:3]}")
