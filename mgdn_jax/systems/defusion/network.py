"""DeFusion: fusion from decomposition, for all tasks at once (Liang et al., ECCV 2022).

One encoder sees both pictures. From the codes of both, one decoder makes what the pictures have in
common, another what each shows alone; the fused picture is made of the sum of the three:

    x0, x1, x2, x3 = encoder(picture), at 1, 1/2, 1/4, 1/8 of its size
    code           = ensembler(x3 of a, x3 of b)
    C = common(code, ...), U = unique(code, x of a), V = unique(code, x of b)
    fused = relu(rule(U + V + C)), and the parts likewise, each from its own

The published files hold four common decoders under one name, A to D (`Config.code_skip`, `skips`,
`own_projection`, `common_depths`); docs/systems/defusion.md says which is which.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgdn_jax.layers import functional
from mgdn_jax.systems.config import DTYPES, SystemConfig
from mgdn_jax.systems.defusion.blocks import (
    EXPANSION,
    Maps,
    Row,
    bordered,
    brightest,
    convolution,
    doubled,
)

_LEVELS = 4
Picture = Float[Array, "b h w 3"]


@dataclasses.dataclass(frozen=True)
class Config(SystemConfig):
    """What determines the network.

    Rows of bottlenecks are told by their planes, a quarter of the channels of their result, and
    their depths. Those of the encoder begin with the finest, those of decoders with the coarsest.

    Attributes:
        stem: channels of the first convolution.
        encoder: planes of the encoder's rows at 1, 1/2, 1/4, 1/8.
        encoder_depths: their depths.
        code: planes of the ensembler's row.
        code_depth: its depth.
        unique: planes of the decoder of what one picture shows alone, at 1/8, 1/4, 1/2, 1.
        unique_depths: their depths.
        common: planes of the decoder of what both show; the last are those of `unique`.
        common_depths: their depths.
        code_skip: the common decoder sees the encoder's coarsest maps beside the code.
        skips: it sees the encoder's finer maps.
        own_projection: what both show becomes a picture by a convolution of its own, not by that of
            what one shows.
        border: pixels of reflection around the pictures, which are cut off the results.
        remat: what is kept for the gradient, one of `mgdn_jax.layers.functional.REMATS`.
        dtype: compute dtype; parameters stay float32.
        in_channels: channels of the two pictures, fixed: colour.
        out_channels: channels of the result, fixed: colour.
    """

    stem: int = 16
    encoder: tuple[int, ...] = (8, 16, 32, 64)
    encoder_depths: tuple[int, ...] = (6, 6, 4, 4)
    code: int = 256
    code_depth: int = 4
    unique: tuple[int, ...] = (96, 32, 16, 4)
    unique_depths: tuple[int, ...] = (4, 4, 6, 6)
    common: tuple[int, ...] = (64, 16, 4, 4)
    common_depths: tuple[int, ...] = (2, 2, 2, 2)
    code_skip: bool = True
    skips: bool = True
    own_projection: bool = False
    border: int = 16
    remat: str = "none"
    dtype: str = "float32"
    in_channels: tuple[int, ...] = (3, 3)
    out_channels: int = 3

    system: ClassVar[str] = "defusion"

    def __post_init__(self):
        super().__post_init__()
        self.demand_whole("stem", "code", "code_depth")
        rows = ("encoder", "unique", "common")
        for name in (*rows, *(f"{row}_depths" for row in rows)):
            values = getattr(self, name)
            good = len(values) == _LEVELS and all(type(n) is int and n > 0 for n in values)
            self.demand(good, f"{name} is {_LEVELS} positive whole numbers")
        planes = (self.code, *self.encoder, *self.unique, *self.common)
        self.demand(not any(n % 2 for n in planes), "planes are even: they are halved in groups")
        self.demand(self.common[-1] == self.unique[-1], "the last of common is that of unique")
        self.demand_blocks(sum((self.code_depth, *self.encoder_depths, *self.unique_depths,
                                *self.common_depths)))  # fmt: skip
        self.demand(0 <= self.border <= 256, "border is a whole number from 0 to 256")
        self.demand_choice(dtype=DTYPES, remat=functional.REMATS)
        self.demand(self.in_channels == (3, 3), "in_channels is (3, 3): it fuses colour")
        self.demand(self.out_channels == 3, "out_channels is 3: it fuses colour")

    @property
    def sees_whole(self) -> bool:
        """The split attention does."""
        return True

    @property
    def splits_chroma(self) -> bool:
        """Infrared beside colour is fused in luminance, as the published figures are."""
        return True


_DEEP: dict[str, Any] = {"common_depths": (4, 4, 6, 6)}

# The last one is this project's, for a CPU.
PRESETS: dict[str, Config] = {
    "b": Config(),
    "a": Config(code_skip=False, skips=False),
    "c": Config(**_DEEP),
    "d": Config(**_DEEP, code_skip=False, own_projection=True),
    "small": Config(
        encoder=(8, 12, 16, 32),
        encoder_depths=(1, 2, 2, 2),
        code=64,
        code_depth=2,
        unique=(32, 16, 8, 4),
        unique_depths=(2, 2, 2, 2),
        common=(32, 12, 4, 4),
        common_depths=(2, 2, 2, 1),
    ),
}


class Encoder(nnx.Module):
    """Maps of one picture at four scales."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        planes, depths = config.encoder, config.encoder_depths
        self.stem = convolution(3, config.stem, 3, use_bias=True, rngs=rngs)
        widths = [config.stem, *(EXPANSION * n for n in planes)]
        self.rows = nnx.List(
            [
                Row(
                    planes[i],
                    depths[i],
                    widths[i],
                    stride=stride,
                    smooths=i == 0,
                    remat=config.remat,
                    rngs=rngs,
                )
                for i, stride in enumerate((1, 1, 2, 2))
            ]
        )

    def __call__(self, x: Picture) -> list[Maps]:
        """Maps at 1, 1/2, 1/4 and 1/8 of the picture's size, each side rounded up."""
        maps = [self.rows[0](jax.nn.relu(self.stem(x)))]
        x = brightest(maps[0])
        for row in list(self.rows)[1:]:
            x = row(x)
            maps.append(x)
        return maps


class Decoder(nnx.Module):
    """From the code to maps of the full size, with the encoder's maps beside its own.

    Args:
        planes: of its rows.
        depths: of its rows.
        code: channels of the code.
        skips: channels of the maps that join at 1/8, 1/4 and 1/2; 0 for none.
        projects: whether it makes pictures of its maps.
        remat: as in `Row`.
        rngs: of the weights.
    """

    def __init__(
        self,
        planes: tuple[int, ...],
        depths: tuple[int, ...],
        code: int,
        skips: tuple[int, ...],
        *,
        projects: bool,
        remat: str,
        rngs: nnx.Rngs,
    ):
        widths = [code, *(EXPANSION * n for n in planes[:-1])]
        more = (*skips, 0)
        self.rows = nnx.List(
            [
                Row(planes[i], depths[i], widths[i] + more[i], remat=remat, rngs=rngs)
                for i in range(_LEVELS)
            ]
        )
        last = EXPANSION * planes[-1]
        self.project: Any = convolution(last, 3, 3, use_bias=True, rngs=rngs) if projects else None

    def __call__(self, code: Maps, skips: list[list[Maps]], sizes: list[Maps]) -> Maps:
        """Maps of the full size.

        Args:
            code: at 1/8.
            skips: maps that join at 1/8, 1/4 and 1/2.
            sizes: maps of the sizes at 1/4, 1/2 and 1.
        """
        x = code
        for i, row in enumerate(self.rows):
            if i:
                x = doubled(x, sizes[i - 1])
            joined = skips[i] if i < len(skips) else []
            x = row(jnp.concatenate([x, *joined], -1) if joined else x)
        return x


class Parts(nnx.Module):
    """All but the last convolution: what the pictures have in common, and what each shows alone."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        one = [EXPANSION * n for n in config.encoder]
        self.ensembler = Row(
            config.code, config.code_depth, 2 * one[3], remat=config.remat, rngs=rngs
        )
        code = EXPANSION * config.code
        self.unique = Decoder(
            config.unique,
            config.unique_depths,
            code,
            (one[3], one[2], one[1]),
            projects=True,
            remat=config.remat,
            rngs=rngs,
        )
        skips = (
            2 * one[3] * config.code_skip,
            2 * one[2] * config.skips,
            2 * one[1] * config.skips,
        )
        self.common = Decoder(
            config.common,
            config.common_depths,
            code,
            skips,
            projects=config.own_projection,
            remat=config.remat,
            rngs=rngs,
        )

    def __call__(self, a: Picture, b: Picture) -> tuple[Maps, Maps, Maps]:
        """Maps of what both pictures show, what the first and what the second shows alone."""
        config, n = self.config, a.shape[0]
        both = self.encoder(jnp.concatenate([a, b]))  # one after the other, along the batch
        apart = [(x[:n], x[n:]) for x in both]
        code = self.ensembler(jnp.concatenate(apart[3], -1))
        finer = both[2::-1]
        unique = self.unique(
            jnp.concatenate([code, code]), [[both[3]], [both[2]], [both[1]]], finer
        )
        skips = [
            list(apart[3]) if config.code_skip else [],
            *(list(apart[i]) if config.skips else [] for i in (2, 1)),
        ]
        common = self.common(code, skips, [x[:n] for x in finer])
        return common, unique[:n], unique[n:]

    def pictures(self, common: Maps, unique: Maps) -> tuple[Picture, Picture]:
        """Both kinds of maps as pictures."""
        project = self.common.project if self.config.own_projection else self.unique.project
        return jax.nn.relu(project(common)), jax.nn.relu(self.unique.project(unique))


class Rule(nnx.Module):
    """The convolution that makes the fused picture of the sum of all maps."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.project = convolution(EXPANSION * config.unique[-1], 3, 3, use_bias=True, rngs=rngs)

    def __call__(self, x: Maps) -> Picture:
        """A picture."""
        return jax.nn.relu(self.project(x))


class Network(nnx.Module):
    """The whole network; see the module's text."""

    takes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        self.parts = Parts(config, rngs=rngs)
        self.rule = Rule(config, rngs=rngs)

    def __call__(self, a: Picture, b: Picture) -> tuple[Picture, dict[str, Any]]:
        """Fuse.

        Args:
            a: first picture, (B, H, W, 3) in [0, 1], any H and W: infrared, or over-exposed.
            b: second picture, likewise: visible, or under-exposed.

        Returns:
            ``(fused, aux)``: fused (B, H, W, 3) float32, of 0 or more, nominally at most 1 but not
            clipped; aux has pictures of ``common``, what both show, ``upper`` and ``lower``, what
            the first and the second shows alone, and ``maps``, what the three were made of.

        Raises:
            ValueError: channels or shapes differ.
        """
        if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 3:
            raise ValueError(f"expected two (b, h, w, 3) of one shape, got {a.shape}, {b.shape}")
        n, border = a.shape[0], self.config.border
        dtype = jnp.dtype(self.config.dtype)
        inputs = (bordered(x.astype(dtype), border) for x in (a, b))
        common, upper, lower = self.parts(*inputs)
        fused = self.rule(upper + lower + common)
        shared, alone = self.parts.pictures(common, jnp.concatenate([upper, lower]))
        wide = jnp.promote_types(dtype, jnp.float32)

        def finished(x: Maps) -> Maps:
            inner = x[:, border : border + a.shape[1], border : border + a.shape[2]]
            return inner.astype(wide)

        aux = {
            "common": finished(shared),
            "upper": finished(alone[:n]),
            "lower": finished(alone[n:]),
            "maps": tuple(finished(x) for x in (common, upper, lower)),
        }
        return finished(fused), aux
