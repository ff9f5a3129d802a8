"""TIM: cells of searched primitives fuse, and a second network of two branches enhances.

Liu et al., "A Task-guided, Implicitly-searched and Meta-initialized Deep Model for Image Fusion"
(arXiv 2305.15862). `InitialFusion` fuses the two sources. `Enhancement`, where there is one, sees
each source beside that result in a branch of its own; its result is the network's:

    f = N1(a, b)        fused = N2(p, q, f),    p, q: the sources

Training of the published networks was never released; what is exact here is their inference, and
the gradient of their search (`mgdn_jax.bilevel.RankOne`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgdn_jax.layers import functional
from mgdn_jax.layers.conv import Conv2d
from mgdn_jax.layers.mode import EVAL, Mode
from mgdn_jax.layers.padding import pad_to_multiple
from mgdn_jax.systems.config import SystemConfig
from mgdn_jax.systems.tim import primitives
from mgdn_jax.systems.tim.blocks import ChainCell, FusionCell, Head, Stem
from mgdn_jax.systems.tim.genotypes import GENOTYPES
from mgdn_jax.systems.tim.primitives import Run

Maps = Float[Array, "b h w c"]
Image = Float[Array, "b h w 1"]

ENHANCEMENTS = ("none", "mask", "joint")
STATISTICS = ("running", "image")
ORDERS = ("ab", "ba")


@dataclasses.dataclass(frozen=True)
class Config(SystemConfig):
    """What determines the networks.

    Attributes:
        features: channels C of all cells at full size, even.
        pyramid: primitives of a cell of three scales, which comes first; () for none.
        chain: primitives of each chain cell that follows.
        chains: chain cells; all have the same primitives.
        initial_order: sources of the initial fusion, ``"ab"`` or ``"ba"``.
        enhancement: what joins the branches of the second network: ``"mask"`` weighs one against
            the other (infrared and visible), ``"joint"`` concatenates them (medical); ``"none"``
            leaves that network out.
        enhancement_order: which source goes to the first branch and which to the second.
        first: primitives of the two cells of the first branch.
        second: those of the second branch.
        statistics: of the second network in use, ``"running"``, or ``"image"``: of the image that
            is fused, as the released script of infrared and visible has it. Then its result
            depends on the whole image.
        dtype: compute dtype; parameters stay float32.
        in_channels: channels of the two images, fixed: luminance.
        out_channels: channels of the result, fixed: luminance.
    """

    features: int = 48
    pyramid: tuple[str, ...] = ()
    chain: tuple[str, ...] = GENOTYPES["fusion_light"]
    chains: int = 2
    initial_order: str = "ab"
    enhancement: str = "none"
    enhancement_order: str = "ab"
    first: tuple[str, ...] = ()
    second: tuple[str, ...] = ()
    statistics: str = "running"
    dtype: str = "float32"
    in_channels: tuple[int, ...] = (1, 1)
    out_channels: int = 1

    system: ClassVar[str] = "tim"

    def __post_init__(self):
        super().__post_init__()
        self.demand_whole("features")
        self.demand(self.features % 2 == 0, "features is even")
        self.demand(type(self.chains) is int and self.chains >= 0, "chains is 0 or more")
        self.demand(bool(self.pyramid) or self.chains > 0, "there is a cell: pyramid, or chains")
        self.demand(bool(self.chain) or not self.chains, "chain names primitives")
        self.demand_choice(
            initial_order=ORDERS,
            enhancement=ENHANCEMENTS,
            enhancement_order=ORDERS,
            statistics=STATISTICS,
        )
        branches = bool(self.first) and bool(self.second)
        self.demand(
            branches == (self.enhancement != "none") and bool(self.first) == bool(self.second),
            "first and second name primitives where there is an enhancement, and only there",
        )
        names = (*self.pyramid, *self.chain, *self.first, *self.second)
        for name in names:
            primitives.check(name)
        cells = 3 * len(self.pyramid) + self.chains * len(self.chain)
        self.demand_blocks(cells + 2 * (len(self.first) + len(self.second)))
        self.demand_luminance()

    @property
    def grid(self) -> int:
        """The cell of three scales halves twice."""
        return 4 if self.pyramid else 1

    @property
    def sees_whole(self) -> bool:
        """So do channel attention, the fusion of scales, and statistics of the image."""
        names = (*(self.chain if self.chains else ()), *self.pyramid, *self.first, *self.second)
        by_image = self.enhancement != "none" and self.statistics == "image"
        return bool(self.pyramid) or by_image or any(n.startswith("ECA") for n in names)


def _published(task: str, first: str, second: str, order: str) -> Config:
    """The configuration of a released pair of networks."""
    return Config(
        pyramid=GENOTYPES["fusion_M_scales"],
        chain=GENOTYPES["fusion_M"],
        chains=1,
        initial_order="ab" if task in ("ivf", "pet") else "ba",
        enhancement="mask" if task == "ivf" else "joint",
        enhancement_order=order,
        first=GENOTYPES[first],
        second=GENOTYPES[second],
        statistics="image" if task == "ivf" else "running",
    )


PRESETS: dict[str, Config] = {
    "ivf": _published("ivf", "fusion_vis_proposed", "fusion_ir_proposed", "ba"),
    "light": Config(initial_order="ba"),
    # The released scripts run the primitives found for CT and for SPECT on MRI: crossed, as here.
    "ct": _published("ct", "fusion_ct", "fusion_mri", "ba"),
    "pet": _published("pet", "fusion_pet", "fusion_mri_pet", "ab"),
    "spect": _published("spect", "fusion_spect", "fusion_mri_spect", "ba"),
    "small": Config(features=16),
}


class InitialFusion(nnx.Module):
    """N1: a stem of both sources, a cell of three scales if there is one, chain cells, a head."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c = config.features
        self.stem = Stem(c, norm=False, rngs=rngs)
        first = [FusionCell(config.pyramid, c, rngs=rngs)] if config.pyramid else []
        chains = [ChainCell(config.chain, c, rngs=rngs) for _ in range(config.chains)]
        self.cells = nnx.List([*first, *chains])
        self.head = Head(c, c, act=True, rngs=rngs)

    def __call__(self, first: Image, second: Image, mode: Mode = EVAL) -> Image:
        """(B, H, W, 1), not bounded; H and W are multiples of the configuration's grid."""
        x = self.stem(first, second, mode)
        for cell in self.cells:
            x = cell(x, mode)
        return self.head(x)


class Branch(nnx.Module):
    """One source beside the initial fusion: a normalised stem, two chain cells, a head."""

    def __init__(self, names: Sequence[str], features: int, *, rngs: nnx.Rngs):
        self.stem = Stem(features, norm=True, rngs=rngs)
        self.cells = nnx.List([ChainCell(names, features, rngs=rngs) for _ in "12"])
        self.head = Head(features, features, act=True, rngs=rngs)

    def __call__(self, source: Image, fused: Image, mode: Mode) -> tuple[Maps, Image]:
        """Features (B, H, W, C), and the source enhanced, in [-1, 1]."""
        x = self.stem(source, fused, mode)
        for cell in self.cells:
            x = cell(x, mode)
        return x, jnp.tanh(self.head(x))


class Enhancement(nnx.Module):
    """N2: a branch for each source; a mask, or a concatenation, joins them."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c = config.features
        masked = config.enhancement == "mask"
        self.first = Branch(config.first, c, rngs=rngs)
        self.second = Branch(config.second, c, rngs=rngs)
        # Its first two weights are both of the maximum.
        self.mask = Conv2d(3, 1, 1, use_bias=False, rngs=rngs) if masked else None
        self.tail = Head(c if masked else 2 * c, c, act=False, rngs=rngs)

    def __call__(
        self, first: Image, second: Image, fused: Image, mode: Mode = EVAL
    ) -> tuple[Image, Image, Image]:
        """The result (in [-1, 1], unbounded with a mask), then both sources, enhanced."""
        a, first_image = self.first(first, fused, mode)
        b, second_image = self.second(second, fused, mode)
        if self.mask is None:
            joined = jnp.tanh(self.tail(jnp.concatenate([a, b], -1)))
        else:
            top, mean = functional.largest_channel(a), jnp.mean(a, -1, keepdims=True)
            share = jax.nn.sigmoid(self.mask(jnp.concatenate([top, top, mean], -1)))
            joined = self.tail(share * a + (1 - share) * b)
        return joined, first_image, second_image


class Network(nnx.Module):
    """Both networks; see the module's text."""

    takes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        self.initial = InitialFusion(config, rngs=rngs)
        enhanced = config.enhancement != "none"
        self.enhancement = Enhancement(config, rngs=rngs) if enhanced else None

    def __call__(self, a: Image, b: Image, *, mode: Mode = EVAL) -> tuple[Image, dict[str, Any]]:
        """Fuse.

        Args:
            a: first image (infrared, or CT, PET, SPECT), (B, H, W, 1) in [0, 1], any H and W.
            b: second image (visible, or MRI), likewise.
            mode: in training, batch statistics.

        Returns:
            ``(fused, aux)``: fused (B, H, W, 1) float32, not clipped; aux has ``initial``, the
            result of the first network, and ``enhanced``, the sources as the branches see them.

        Raises:
            ValueError: channels or shapes differ.
        """
        if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 1:
            raise ValueError(f"expected two (b, h, w, 1) of one shape, got {a.shape}, {b.shape}")
        config = self.config
        h, w = a.shape[1:3]
        wide = jnp.promote_types(a.dtype, jnp.float32)
        grown = (pad_to_multiple(x, config.grid).astype(jnp.dtype(config.dtype)) for x in (a, b))
        images = dict(zip("ab", grown, strict=True))
        first, second = (images[name] for name in config.initial_order)
        initial = self.initial(first, second, mode)
        fused = initial
        enhanced: list[Image] = []
        if self.enhancement is not None:
            by_image = config.statistics == "image" and not mode.training
            second_mode = Run(by_image=True, extent=mode.extent) if by_image else mode
            first, second = (images[name] for name in config.enhancement_order)
            fused, *enhanced = self.enhancement(first, second, initial, second_mode)
        aux = {
            "initial": initial[:, :h, :w].astype(wide),
            "enhanced": tuple(x[:, :h, :w].astype(wide) for x in enhanced),
        }
        return fused[:, :h, :w].astype(wide), aux
