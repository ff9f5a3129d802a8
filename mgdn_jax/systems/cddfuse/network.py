"""CDDFuse: correlation-driven fusion of what modalities share and what they do not (CVPR 2023).

Four networks (Zhao et al., arXiv 2211.14461). One `Encoder` E, the same for both sources, splits an
image into base features (low frequencies, which sources share) and detail features; `BaseFusion`
and `DetailFusion` fuse the sums of each kind, and `Decoder` D paints the image:

    fused = D(skip, FB(base_a + base_b), FD(detail_a + detail_b))

`Network` is all four. Training has two phases: first E and D rebuild each source by itself, then
all four fuse. Everything works at full resolution, on luminance, at any H and W.

The detail branch is invertible (`DetailExtractor.inverse`). Attention gathers sums over the whole
image, so tiles of a large picture can use common ones (``aux["context"]``); as every block's sums
rest on features that earlier blocks of the tile made with its own, tiling stays an approximation.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from mgdn_jax.layers.conv import Conv2d, DepthwiseConv2d
from mgdn_jax.layers.functional import (
    REMATS,
    above,
    below,
    chain,
    per_example_policy,
    rematerialised,
)
from mgdn_jax.layers.padding import Extent, reflected, zeroed
from mgdn_jax.layers.restormer import (
    Inside,
    RestormerBlock,
    bare_conv,
    in_strips,
    is_large,
    local,
    run_rows,
    without_frame,
)
from mgdn_jax.systems.config import SystemConfig

SKIPS = ("second", "sum", "none")

Sums = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Config(SystemConfig):
    """What determines the four networks.

    Attributes:
        features: channels C everywhere, even; divisible by ``heads``.
        blocks: Restormer blocks of the encoder and of the decoder.
        heads: attention heads.
        expansion: hidden over outer width of the Restormer blocks' feed-forward parts.
        detail_nodes: coupling nodes of the encoder's detail branch.
        fusion_nodes: coupling nodes of the detail fusion.
        skip: what is added to the decoder's result before its sigmoid when it fuses: the
            ``"second"`` source (visible), the ``"sum"`` of both (0 to 2; how the published IVF
            weights fuse medical images) or ``"none"`` (the published MIF weights).
        norm_floor: smallest norm a query or key is divided by, 1e-12 as published; about 1e-3
            keeps gradients bounded where a source is black.
        dtype: compute dtype; parameters stay float32.
        remat: memory of training against speed, one of `functional.REMATS`: what is kept for the
            gradient is everything (``"none"``), the results of matrix products (``"dots"``), what
            each block or coupling node was given (``"block"``), or only what each row of blocks
            was given (``"row"``); the rest is computed again. ``"example"`` is ``"block"`` with
            one example after the other, which needs least memory and suits CPUs; ``"block"`` suits
            GPUs. Results are the same.
        in_channels: channels of the two images, fixed: luminance.
        out_channels: channels of the result, fixed: luminance.
    """

    features: int = 64
    blocks: int = 4
    heads: int = 8
    expansion: float = 2.0
    detail_nodes: int = 3
    fusion_nodes: int = 1
    skip: str = "second"
    norm_floor: float = 1e-12
    dtype: str = "float32"
    remat: str = "example"
    in_channels: tuple[int, ...] = (1, 1)
    out_channels: int = 1

    system: ClassVar[str] = "cddfuse"

    def __post_init__(self):
        super().__post_init__()
        demand = self.demand
        self.demand_whole("features", "blocks", "heads", "detail_nodes", "fusion_nodes")
        self.demand_blocks(2 * self.blocks + self.detail_nodes + self.fusion_nodes)
        self.demand_positive("expansion", "norm_floor")
        demand(self.features % self.heads == 0, "features must be divisible by heads")
        demand(self.features % 2 == 0, "features must be even: the detail branch halves them")
        demand(self.features * self.expansion >= 1, "expansion leaves no hidden channel")
        demand(self.norm_floor >= 1e-18, "norm_floor must be at least 1e-18 (its square is taken)")
        demand(self.skip in SKIPS, f"skip is one of {', '.join(SKIPS)}")
        demand(self.remat in REMATS, f"remat is one of {', '.join(REMATS)}")
        self.demand_luminance()

    def for_use(self) -> SystemConfig:
        """The same network; what is kept for gradients does not matter, for there are none."""
        return dataclasses.replace(self, remat="none")

    def for_training(self, norm_floor: float) -> SystemConfig:
        """The same network whose attention divides by no norm below the floor."""
        return dataclasses.replace(self, norm_floor=max(norm_floor, self.norm_floor))


_NARROW = {"features": 16, "blocks": 2, "heads": 2}

# mif_sum: medical pairs with the weights of ivf. The small ones are this project's, for a laptop.
PRESETS: dict[str, Config] = {
    "ivf": Config(),
    "mif": Config(skip="none"),
    "mif_sum": Config(skip="sum"),
    "ivf_small": Config(**_NARROW),  # type: ignore[arg-type]
    "mif_small": Config(**_NARROW, skip="none"),  # type: ignore[arg-type]
}


class BaseExtractor(RestormerBlock):
    """Base features (CDDFuse's Lite Transformer): a Restormer block of its own kind.

    Queries, keys and values go through a dense 3x3 convolution; the feed-forward part does not
    widen, and its 3x3 convolution mixes channels by pairs.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        super().__init__(
            config.features,
            heads=config.heads,
            expansion=1.0,
            local="dense",
            group=2,
            floor=config.norm_floor,
            rngs=rngs,
        )
        self.remat = config.remat

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        *,
        context: Sums | None = None,
        pixel_weights: Float[Array, "b h w 1"] | None = None,
        extent: Extent = None,
    ) -> tuple[Float[Array, "b h w c"], Sums]:
        """Transform; arguments and results as of `RestormerBlock`."""
        graphdef, state = nnx.split(self)

        def whole(state: Any, given: tuple[Array, Sums | None]) -> tuple[Array, Sums]:
            block, (x, context) = nnx.merge(graphdef, state), given
            return RestormerBlock.__call__(
                block, x, context=context, pixel_weights=pixel_weights, extent=extent
            )

        remat = per_example_policy(self.remat, pixel_weights is not None or extent is not None)
        return rematerialised(whole, remat)(state, (x, context))


BaseFusion = BaseExtractor
"""Base fusion: the same kind of block, with weights of its own, on the sum of base features."""


class InvertedResidual(nnx.Module):
    """Pointwise, depthwise 3x3 (reflected border), pointwise, with ReLU6 between.

    Without the residual addition its name tells of, as published.
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.expand = bare_conv(features, 2 * features, 1, rngs)
        self.local = DepthwiseConv2d(2 * features, 3, use_bias=False, rngs=rngs)
        self.contract = bare_conv(2 * features, features, 1, rngs)

    def __call__(
        self, x: Float[Array, "b h w c"], inside: Inside = None
    ) -> Float[Array, "b h2 w c"]:
        """Transform; a side of one pixel sees itself beyond its border.

        Given ``inside``, a strip with its (reflected) frame, as `in_strips` has it.
        """
        x = _relu6(self.expand(x))
        if inside is None:
            framed = reflected(x)
            return self.contract(_relu6(self.local(framed)[:, 1:-1, 1:-1]))
        return self.contract(_relu6(local(x, self.local.kernel[...], inside)))


def _relu6(x: Array) -> Array:
    """Clamp to [0, 6] with slope 0 at both ends (as PyTorch), where JAX shares it at ties."""
    return jnp.where(x > 0, jnp.where(x < 6, x, jnp.asarray(6, x.dtype)), jnp.zeros_like(x))


class CouplingNode(nnx.Module):
    """Invertible step of the detail branch (INN): shuffle, then affine coupling.

    With ``z1, z2`` the halves of the shuffled channels:

        z2 <- z2 + phi(z1)
        z1 <- z1 * exp(rho(z2)) + eta(z2)       rho and eta see the new z2

    The shuffle is a learned dense pointwise map with bias. The exponent is not clamped.
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.shuffle = Conv2d(features, features, 1, rngs=rngs)
        self.phi, self.rho, self.eta = (
            InvertedResidual(features // 2, rngs=rngs) for _ in range(3)
        )

    def __call__(
        self, z: Float[Array, "b h w c"], extent: Extent = None
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c/2"]]:
        """The result, and ``rho``: the logarithm of the scale of its first half."""

        def first(maps: Sequence[Array], _: Any, inside: Inside) -> tuple[Any, Any]:
            z1, z2 = jnp.split(self.shuffle(maps[0]), 2, -1)
            return [without_frame(z1, inside), without_frame(z2, inside) + self.phi(z1, inside)], {}

        def second(maps: Sequence[Array], _: Any, inside: Inside) -> tuple[Any, Any]:
            z1, z2 = maps
            rho = self.rho(z2, inside)
            z1 = without_frame(z1, inside) * jnp.exp(rho) + self.eta(z2, inside)
            return [jnp.concatenate([z1, without_frame(z2, inside)], -1), rho], {}

        halves = in_strips(first, [z], reflect=True, extent=extent)[0]
        z, rho = in_strips(second, halves, reflect=True, extent=extent)[0]
        return z, rho

    def inverse(self, z: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """What the node was given, from its result."""
        z1, z2 = jnp.split(z, 2, -1)
        z1 = (z1 - self.eta(z2)) * jnp.exp(-self.rho(z2))
        z2 = z2 - self.phi(z1)
        flat = jnp.concatenate([z1, z2], -1).reshape(-1, z.shape[-1])
        wide = jnp.promote_types(z.dtype, jnp.float32)
        kernel = self.shuffle.kernel[...][0, 0].astype(wide)
        right = flat.astype(wide) - self.shuffle.bias[...].astype(wide)[None]
        return jnp.linalg.solve(kernel.T, right.T).T.reshape(z.shape).astype(z.dtype)


class DetailExtractor(nnx.Module):
    """Detail features by coupling nodes in turn: an invertible network (INN).

    Its Jacobian has a closed determinant, for an example of H W pixels

        log |det dy/dx| = sum over nodes of ( H W log |det W| + sum of rho ),

    W the shuffle's matrix: adding phi or eta changes no volume, and the scale is exp(rho).
    """

    def __init__(self, config: Config, *, nodes: int | None = None, rngs: nnx.Rngs):
        self.remat = config.remat
        count = config.detail_nodes if nodes is None else nodes
        self.nodes = nnx.List([CouplingNode(config.features, rngs=rngs) for _ in range(count)])

    def __call__(
        self, x: Float[Array, "b h w c"], extent: Extent = None
    ) -> Float[Array, "b h w c"]:
        """Transform."""

        def one(node: CouplingNode, z: Array, _: None) -> tuple[Array, None]:
            return node(z, extent)[0], None

        remat = per_example_policy(self.remat, extent is not None)
        return chain(self.nodes, one, x, remat=remat)[0]

    def with_log_determinant(
        self, x: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b h w c"], Float[Array, " b"]]:
        """The result, and log |det dy/dx| of each example."""
        pixels = x.shape[1] * x.shape[2]
        wide = jnp.promote_types(x.dtype, jnp.float32)

        def one(node: CouplingNode, z: Array, _: None) -> tuple[Array, Array]:
            z, rho = node(z)
            volume = jnp.linalg.slogdet(node.shuffle.kernel[...][0, 0].astype(wide))[1]
            return z, pixels * volume + jnp.sum(rho.astype(wide), (1, 2, 3))

        y, volumes = chain(self.nodes, one, x)
        return y, volumes.sum(0)

    def inverse(self, y: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """``x`` with ``self(x) = y``, up to rounding, which badly conditioned shuffles enlarge.

        Freshly drawn ones do by a factor of 1e5 or so: use float64 where the inverse matters.
        """
        return chain([*self.nodes][::-1], lambda node, z, _: (node.inverse(z), None), y)[0]


class DetailFusion(DetailExtractor):
    """Detail fusion: coupling nodes on the sum of the sources' detail features."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        super().__init__(config, nodes=config.fusion_nodes, rngs=rngs)


def _blocks(config: Config, rngs: nnx.Rngs) -> nnx.List:
    return nnx.List(
        [
            RestormerBlock(
                config.features,
                heads=config.heads,
                expansion=config.expansion,
                floor=config.norm_floor,
                rngs=rngs,
            )
            for _ in range(config.blocks)
        ]
    )


class Encoder(nnx.Module):
    """Shared encoder E: a stem and Restormer blocks, from which both branches take their features.

    One set of weights for both modalities.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        self.stem = bare_conv(1, config.features, 3, rngs)
        self.blocks = _blocks(config, rngs)
        self.base = BaseExtractor(config, rngs=rngs)
        self.detail = DetailExtractor(config, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b h w 1"],
        *,
        context: Sums | None = None,
        pixel_weights: Float[Array, "b h w 1"] | None = None,
        extent: Extent = None,
    ) -> tuple[dict[str, Float[Array, "b h w c"]], Sums]:
        """Take an image apart.

        Args:
            x: luminance in [0, 1].
            context: sums over pixels to use instead of this call's own.
            pixel_weights: weight of every pixel in the returned sums (default 1).
            extent: of the images in the maps, see `Extent`.

        Returns:
            ``{"base", "detail", "shallow"}``, features in the compute dtype, the last what the
            other two are made of; and the sums of all attentions.
        """
        (shallow,), (own,) = run_rows(
            [self.blocks],
            self.stem(zeroed(x, extent).astype(jnp.dtype(self.config.dtype)))[None],
            [below(context, "blocks")],
            pixel_weights,
            remat=self.config.remat,
            extent=extent,
        )
        base, base_own = self.base(
            shallow, context=below(context, "base"), pixel_weights=pixel_weights, extent=extent
        )
        features = {"base": base, "detail": self.detail(shallow, extent), "shallow": shallow}
        return features, above("blocks", own) | above("base", base_own)


class Decoder(nnx.Module):
    """Decoder D: paints an image from base and detail features."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c = config.features
        self.remat = config.remat
        self.reduce = bare_conv(2 * c, c, 1, rngs)
        self.blocks = _blocks(config, rngs)
        self.narrow = bare_conv(c, c // 2, 3, rngs)
        self.last = bare_conv(c // 2, 1, 3, rngs)

    def __call__(
        self,
        skip: Float[Array, "b h w 1"] | None,
        base: Float[Array, "b h w c"],
        detail: Float[Array, "b h w c"],
        *,
        context: Sums | None = None,
        pixel_weights: Float[Array, "b h w 1"] | None = None,
        extent: Extent = None,
    ) -> tuple[Float[Array, "b h w 1"], dict[str, Any]]:
        """Paint.

        Args:
            skip: image added before the sigmoid (as it is, not as a logit), or None.
            base: base features.
            detail: detail features.
            context: sums over pixels to use instead of this call's own.
            pixel_weights: weight of every pixel in the returned sums (default 1).
            extent: of the images in the maps, see `Extent`.

        Returns:
            The image, float32 in (0, 1), and ``{"reduced": features after the first map,
            "context": sums of all attentions}``.
        """
        reduced = self.reduce(jnp.concatenate([base, detail], -1))
        (x,), (own,) = run_rows(
            [self.blocks],
            reduced[None],
            [below(context, "blocks")],
            pixel_weights,
            remat=self.remat,
            extent=extent,
        )
        y = zeroed(jax.nn.leaky_relu(self.narrow(zeroed(x, extent)), 0.01), extent)
        y = self.last(y)
        y = y.astype(jnp.promote_types(y.dtype, jnp.float32))
        y = y if skip is None else y + skip.astype(y.dtype)
        return jax.nn.sigmoid(y), {"reduced": reduced, "context": above("blocks", own)}


class Network(nnx.Module):
    """All of CDDFuse as it fuses: encoder, base and detail fusion, decoder.

    Parameters below ``encoder/``, ``base_fusion/``, ``detail_fusion/`` and ``decoder/`` are those
    of `Encoder`, `BaseFusion`, `DetailFusion` and `Decoder`.
    """

    takes: ClassVar[frozenset[str]] = frozenset({"context", "extent"})

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.base_fusion = BaseFusion(config, rngs=rngs)
        self.detail_fusion = DetailFusion(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def __call__(
        self,
        a: Float[Array, "b h w 1"],
        b: Float[Array, "b h w 1"],
        *,
        context: Sums | None = None,
        pixel_weights: Float[Array, "b h w 1"] | None = None,
        extent: Extent = None,
    ) -> tuple[Float[Array, "b h w 1"], dict[str, Any]]:
        """Fuse.

        Args:
            a: first source, luminance in [0, 1], any H and W: infrared, or CT, PET, SPECT.
            b: second source, of the same shape: visible, or MRI. But for a skip of ``"second"``
                the network is symmetric.
            context: sums over pixels of a whole picture (``aux["context"]``, added over its
                tiles), used in place of this call's own: how tiles agree with each other.
            pixel_weights: (B, H, W, 1) weight of every pixel in the sums returned.
            extent: (B, 2) height and width of the images in the upper left corners, the rest being
                padding of any content: results there have no meaning, and elsewhere are as without
                it, so that one compiled program serves many sizes.

        Returns:
            ``(fused, aux)``: fused (B, H, W, 1) in (0, 1), float32; aux has ``base``, ``detail``
            and ``shallow``, each (2, B, H, W, C) with the first source first, ``base_fused`` and
            ``detail_fused``, ``reduced`` (both after the decoder's first map), and ``context``.

        Raises:
            ValueError: shapes that differ or do not have one channel.
        """
        _check(a, b)
        pairs, own = self._encoded(a, b, below(context, "encoder"), pixel_weights, extent)
        sums = above("encoder", own)
        base, own = self.base_fusion(
            pairs["base"][0] + pairs["base"][1],
            context=below(context, "base_fusion"),
            pixel_weights=pixel_weights,
            extent=extent,
        )
        sums |= above("base_fusion", own)
        detail = self.detail_fusion(pairs["detail"][0] + pairs["detail"][1], extent)
        skip = {"second": b, "sum": a + b, "none": None}[self.config.skip]
        fused, aux = self.decoder(
            skip,
            base,
            detail,
            context=below(context, "decoder"),
            pixel_weights=pixel_weights,
            extent=extent,
        )
        sums |= above("decoder", aux["context"])
        fusion = {"base_fused": base, "detail_fused": detail, "reduced": aux["reduced"]}
        return fused, {**pairs, **fusion, "context": sums}

    def _encoded(
        self, a: Array, b: Array, context: Sums | None, pixel_weights: Any, extent: Extent
    ) -> tuple[dict[str, Float[Array, "2 b h w c"]], Sums]:
        """Features of both sources, by one and the same encoder, and its sums."""

        def pair(x: Array) -> Array:
            return x.reshape(2, -1, *x.shape[1:])

        if is_large(a):  # one source after the other: half the memory, and time enough
            given = None if context is None else {name: pair(x) for name, x in context.items()}

            def one(source: tuple[Array, Sums | None]) -> tuple[dict[str, Array], Sums]:
                return self.encoder(
                    source[0], context=source[1], pixel_weights=pixel_weights, extent=extent
                )

            pairs, own = lax.map(one, (jnp.stack([a, b]), given))
            return pairs, {name: x.reshape(-1, *x.shape[2:]) for name, x in own.items()}
        features, own = self.encoder(
            jnp.concatenate([a, b]),
            context=context,
            pixel_weights=None if pixel_weights is None else jnp.concatenate([pixel_weights] * 2),
            extent=None if extent is None else jnp.concatenate([extent] * 2),
        )
        return {name: pair(x) for name, x in features.items()}, own


def _check(a: Array, b: Array) -> None:
    for x in (a, b):
        if x.ndim != 4 or x.shape[-1] != 1:
            raise ValueError(f"expected luminance (b, h, w, 1), got {x.shape}")
    if a.shape != b.shape:
        raise ValueError(f"sizes differ: {a.shape[:3]} and {b.shape[:3]}")
