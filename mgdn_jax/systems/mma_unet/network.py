"""MMA-UNet: features of two U-Nets, fused across their levels (arXiv 2404.17747).

Huang et al., *MMA-UNet: A Multi-Modal Asymmetric UNet Architecture for Infrared and Visible Image
Fusion*. Two U-Nets learn to rebuild their own source: one the visible picture, the other the
infrared one, whose maps are gated by the visible maps of the same level. Then a third network
fuses what their encoders see; the visible maps of a level meet the infrared maps of the next one:

    b -> visible:  v1 .. v5                              v_i, u_i at 1 / 2^(i-1) of the size
    a -> infrared: u1 .. u5, u_i gated by v_i
    fusion:        join_i(v_i, u_(i+1)), i = 1 .. 4  ->  decoder  ->  picture

The U-Nets' own decoders serve their training (`recipe`) alone and are no part of `Network`. All
parts see luminance as three equal channels, and make three; the first one is the result.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgdn_jax.layers.conv import Conv2d
from mgdn_jax.layers.mode import EVAL, Mode
from mgdn_jax.layers.norm import BatchNorm
from mgdn_jax.layers.padding import pad_to_multiple
from mgdn_jax.layers.scales import DoubleConv, max_pool
from mgdn_jax.systems.config import SystemConfig
from mgdn_jax.systems.mma_unet.blocks import (
    ChannelAttention,
    Gate,
    Join,
    ShuffledDoubling,
    SpatialChannelAttention,
    TransposedDoubling,
    Up,
)

Maps = Float[Array, "b h w c"]
Image = Float[Array, "b h w 1"]

LEVELS = 5
GRID = 2 ** (LEVELS - 1)


@dataclasses.dataclass(frozen=True)
class Config(SystemConfig):
    """What determines the networks.

    Attributes:
        features: channels at full size, a multiple of 4; each of the four levels below has twice
            the channels of the one above it.
        momentum: of the running statistics in training.
        dtype: compute dtype; parameters stay float32.
        in_channels: channels of the two images, fixed: luminance.
        out_channels: channels of the result, fixed: luminance.
    """

    features: int = 64
    momentum: float = 0.9
    dtype: str = "float32"
    in_channels: tuple[int, ...] = (1, 1)
    out_channels: int = 1

    system: ClassVar[str] = "mma_unet"

    def __post_init__(self):
        super().__post_init__()
        self.demand_whole("features")
        self.demand(self.features % 4 == 0, "features must be a multiple of 4")
        self.demand(0 <= self.momentum < 1, "momentum must be in [0, 1)")
        self.demand_luminance()

    @property
    def sees_whole(self) -> bool:
        """The gates and the attention do."""
        return True

    @property
    def grid(self) -> int:
        """Sides are padded to multiples of 16, for four halvings."""
        return GRID

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.features * 2**level for level in range(LEVELS))


PRESETS: dict[str, Config] = {
    "published": Config(),
    "small": Config(features=16),  # this project's, for a laptop
}


def as_three(x: Image) -> Float[Array, "b h w 3"]:
    """Luminance as three equal channels, which all parts see."""
    return jnp.repeat(x, 3, -1)


def _levels(config: Config, rngs: nnx.Rngs) -> nnx.List:
    """The pairs of convolutions on the way down."""
    momentum, sizes = config.momentum, itertools.pairwise((3, *config.widths))
    return nnx.List(
        [DoubleConv(i, o, momentum=momentum, use_bias=False, rngs=rngs) for i, o in sizes]
    )


class Encoder(nnx.Module):
    """Maps of the visible picture at five levels, finest first."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.dtype = config.dtype
        self.levels = _levels(config, rngs)

    def __call__(self, x: Maps, mode: Mode = EVAL) -> list[Array]:
        """Maps of a picture (B, H, W, 3) in [0, 1], H and W at least 16."""
        maps = [x.astype(jnp.dtype(self.dtype))]
        for level, double in enumerate(self.levels):
            maps.append(double(max_pool(maps[-1]) if level else maps[-1], mode))
        return maps[1:]


class GuidedEncoder(nnx.Module):
    """Maps of the infrared picture; those of the visible one gate the channels of every level."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.dtype = config.dtype
        self.levels = _levels(config, rngs)
        self.gates = nnx.List([Gate(n, rngs=rngs) for n in config.widths])

    def __call__(self, x: Maps, guides: Sequence[Array], mode: Mode = EVAL) -> list[Array]:
        """Gated maps of a picture (B, H, W, 3) in [0, 1], of the shapes of the guides."""
        maps = [x.astype(jnp.dtype(self.dtype))]
        for level, (double, gate, guide) in enumerate(
            zip(self.levels, self.gates, guides, strict=True)
        ):
            y = double(max_pool(maps[-1]) if level else maps[-1], mode)
            maps.append(y * gate(guide))
        return maps[1:]


class Decoder(nnx.Module):
    """The picture that an encoder's maps are of: the other half of a U-Net, for training alone."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.up = nnx.List(
            [
                Up(n, TransposedDoubling, momentum=config.momentum, rngs=rngs)
                for n in config.widths[:0:-1]
            ]
        )
        self.last = Conv2d(config.features, 3, 1, rngs=rngs)

    def __call__(self, maps: Sequence[Array], mode: Mode = EVAL) -> Float[Array, "b h w 3"]:
        """The picture, float32 in (-1, 1), of maps at five levels, finest first."""
        *skips, x = maps
        for up, skip in zip(self.up, reversed(skips), strict=True):
            x = up(x, skip, mode)
        y = self.last(x)
        return jnp.tanh(y.astype(jnp.promote_types(y.dtype, jnp.float32)))


class Head(nnx.Module):
    """Three 3x3 convolutions, ``C -> C / 2 -> C / 4 -> 3``, norm and ReLU after the first two."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c = config.features
        widths = (c, c // 2, c // 4, 3)
        self.convs = nnx.List([Conv2d(i, o, 3, rngs=rngs) for i, o in itertools.pairwise(widths)])
        self.norms = nnx.List([BatchNorm(n, config.momentum) for n in widths[1:3]])

    def __call__(self, x: Maps, mode: Mode = EVAL) -> Float[Array, "b h w 3"]:
        """(B, H, W, 3), not bounded."""
        *convs, last = self.convs
        for conv, norm in zip(convs, self.norms, strict=True):
            x = jax.nn.relu(norm(conv(x), mode))
        return last(x)


class Fusion(nnx.Module):
    """Joins maps across levels, and paints the fused picture from the joined maps."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        widths = config.widths
        kinds = [ChannelAttention] * 2 + [SpatialChannelAttention] * 2
        self.joins = nnx.List(
            [Join(n, kind, rngs=rngs) for n, kind in zip(widths[:-1], kinds, strict=True)]
        )
        self.up = nnx.List(
            [Up(n, ShuffledDoubling, momentum=config.momentum, rngs=rngs) for n in widths[:1:-1]]
        )
        self.grow = ShuffledDoubling(widths[1], rngs=rngs)
        self.head = Head(config, rngs=rngs)

    def __call__(
        self, infrared: Sequence[Array], visible: Sequence[Array], mode: Mode = EVAL
    ) -> tuple[Float[Array, "b h2 w2 3"], list[Array]]:
        """Fuse.

        Args:
            infrared: maps of `GuidedEncoder`, of which the first are not used.
            visible: maps of `Encoder`, of which the last are not used.
            mode: how to run.

        Returns:
            The picture, float32, not bounded, of the maps' sides, odd ones a pixel shorter; and the
            joined maps, finest first.
        """
        joined = [
            join(v, u) for join, v, u in zip(self.joins, visible[:-1], infrared[1:], strict=True)
        ]
        *skips, x = joined
        for up, skip in zip(self.up, reversed(skips), strict=True):
            x = up(x, skip, mode)
        y = self.head(self.grow(x), mode)
        return y.astype(jnp.promote_types(y.dtype, jnp.float32)), joined


class Network(nnx.Module):
    """Both encoders and the fusion.

    Parameters below ``visible/``, ``infrared/`` and ``fusion/`` are those of `Encoder`,
    `GuidedEncoder` and `Fusion`. The gates and the attention of the joins rest on means over the
    whole picture.
    """

    takes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        self.visible = Encoder(config, rngs=rngs)
        self.infrared = GuidedEncoder(config, rngs=rngs)
        self.fusion = Fusion(config, rngs=rngs)

    def __call__(self, a: Image, b: Image, *, mode: Mode = EVAL) -> tuple[Image, dict[str, Any]]:
        """Fuse.

        Args:
            a: infrared luminance in [0, 1], any H and W.
            b: visible luminance of the same shape.
            mode: how the fusion runs; the encoders always run by their running statistics.

        Returns:
            ``(fused, aux)``: fused (B, H, W, 1) float32, not bounded: the first of the three
            channels of ``aux["channels"]``. aux also has ``visible``, ``infrared`` and ``joined``,
            maps of the picture padded to multiples of 16, finest level first.

        Raises:
            ValueError: shapes that differ or do not have one channel.
        """
        if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 1:
            raise ValueError(f"expected two (b, h, w, 1) of one shape, got {a.shape}, {b.shape}")
        h, w = a.shape[1:3]
        a, b = pad_to_multiple(a, GRID), pad_to_multiple(b, GRID)
        channels, aux = self.whole(a, b, mode)
        channels = channels[:, :h, :w]
        return channels[..., :1], {"channels": channels, **aux}

    def whole(
        self, a: Image, b: Image, mode: Mode = EVAL
    ) -> tuple[Float[Array, "b h2 w2 3"], dict[str, list[Array]]]:
        """The same for pictures as they are, of 16 pixels at least: an odd side loses a pixel."""
        visible = self.visible(as_three(b))
        infrared = self.infrared(as_three(a), visible)
        channels, joined = self.fusion(infrared, visible, mode)
        return channels, {"visible": visible, "infrared": infrared, "joined": joined}
