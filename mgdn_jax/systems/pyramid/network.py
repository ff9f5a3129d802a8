"""Pyramid: a small network decides, scale by scale, what a fusion rule would decide by magnitude.

Both pictures become Laplacian pyramids (Burt and Adelson 1983). From the coarsest scale to the
finest, one convolutional cell, shared by all scales, sees the details and the intensities of both
pictures and what it thought of the scale below, and says for each pixel how much of the detail is
the first picture's (choice) and how strongly it shall stand in the result (strength). At the
coarsest scale it chooses between the intensities, and says how far they are lifted where the mean
of both is brighter than its surroundings, and lowered where it is darker. It starts as the rule:
the larger detail, a little stronger; the brighter intensity, lifted by half of what it may be.

A result is made of what the pictures have. Nothing looks at the whole picture: what happens farther
away than the surroundings reach moves nothing.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgdn_jax.layers import pyramid
from mgdn_jax.layers.conv import Conv2d
from mgdn_jax.layers.padding import Extent, match_rank, replicated, zeroed
from mgdn_jax.systems.config import SystemConfig

Maps = Float[Array, "b h w c"]

_FLOOR = 2e-3
"""Of full scale: details below it are noise, between which nothing is chosen at the start."""
_LOUDNESS = 4.0
"""Of details before the cell: most are below a tenth of full scale."""
_SHARPNESS = 8.0
"""How sharply the larger detail is chosen at the start."""
_BRIGHTNESS = 20.0
"""How sharply the brighter intensity is, by full scale."""


@dataclasses.dataclass(frozen=True)
class Config(SystemConfig):
    """What determines the network.

    Attributes:
        levels: scales of detail; the coarsest ones of small pictures are single pixels.
        features: channels of the cell.
        convolutions: 3x3 convolutions of the cell before its last one.
        gain: details stand in the result with 1 / gain to gain times their strength.
        strength: that of details at the start.
        lift: how far the intensities may be lifted, of the way from surroundings to the mean.
        surroundings: halvings of the coarsest scale that the surroundings are taken from.
        dtype: compute dtype; parameters stay float32.
        in_channels: channels of the two pictures, fixed: luminance.
        out_channels: channels of the result, fixed: luminance.
    """

    levels: int = 4
    features: int = 24
    convolutions: int = 2
    gain: float = 1.5
    strength: float = 1.1
    lift: float = 0.6
    surroundings: int = 4
    dtype: str = "float32"
    in_channels: tuple[int, ...] = (1, 1)
    out_channels: int = 1

    system: ClassVar[str] = "pyramid"

    def __post_init__(self):
        super().__post_init__()
        self.demand_whole("levels", "features", "convolutions", "surroundings")
        self.demand_blocks(self.convolutions)
        self.demand(self.levels + self.surroundings <= 12, "levels + surroundings is at most 12")
        self.demand_positive("gain", "strength")
        self.demand(self.gain >= 1, "gain is 1 (none) or more")
        self.demand(0 <= self.lift <= 1, "lift is in [0, 1]")
        self.demand_luminance()


PRESETS: dict[str, Config] = {
    "ivf": Config(),
    "mif": Config(strength=1.0, lift=0.3),  # half of a slice is black, and stays so
}

_SEEN = 6  # maps of a scale that the cell sees beside its features of the scale below
_SAID = 2  # maps that it says


class Cell(nnx.Module):
    """Convolutions shared by all scales, each of which has a bias and a scale of its own."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c = config.features
        widths = [_SEEN + c, *[c] * config.convolutions]
        self.convs = nnx.List([Conv2d(n, c, 3, rngs=rngs) for n in widths[:-1]])
        self.last = Conv2d(c, _SAID, 3, rngs=rngs)
        self.last.kernel.set_value(jnp.zeros_like(self.last.kernel[...]))
        self.last.bias.set_value(jnp.zeros_like(self.last.bias[...]))
        # One row a scale, the coarsest intensities last.
        self.scale_bias = nnx.Param(jnp.zeros((config.levels + 1, c), jnp.float32))
        self.scale_gain = nnx.Param(jnp.ones((config.levels + 1, c), jnp.float32))

    def __call__(self, seen: Maps, below: Maps, scale: int, extent: Extent) -> tuple[Maps, Maps]:
        """Features of this scale, and what is said of it: ``(features, (B, h, w, 2))``."""
        x = jnp.concatenate([seen, below], -1)
        gain, bias = (p[...][scale].astype(x.dtype) for p in (self.scale_gain, self.scale_bias))
        for i, conv in enumerate(self.convs):
            x = conv(zeroed(x, extent))
            if i == 0:
                x = match_rank(gain, x) * x + match_rank(bias, x)
            x = jax.nn.leaky_relu(x, 0.2)
        return x, self.last(zeroed(x, extent))


class Network(nnx.Module):
    """The whole network; see the module's text."""

    takes: ClassVar[frozenset[str]] = frozenset({"extent"})

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        self.cell = Cell(config, rngs=rngs)

    def __call__(
        self, a: Float[Array, "b h w 1"], b: Float[Array, "b h w 1"], *, extent: Extent = None
    ) -> tuple[Float[Array, "b h w 1"], dict[str, Any]]:
        """Fuse.

        Args:
            a: first picture (infrared, or CT, PET, SPECT), (B, H, W, 1) in [0, 1], any H and W.
            b: second picture (visible, or MRI), likewise.
            extent: (B, 2) height and width of the pictures in the upper left corners, the rest
                being padding that changes nothing in them; None where they fill everything.

        Returns:
            ``(fused, aux)``: fused (B, H, W, 1) float32, neither clipped nor otherwise bound to
            [0, 1]; aux has ``choice`` and ``strength``, a map a scale, the finest first, of how
            much of the detail is the first picture's and how strongly it stands, and ``base``,
            the coarsest intensities of the result.

        Raises:
            ValueError: channels or shapes differ.
        """
        if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 1:
            raise ValueError(f"expected two (b, h, w, 1) of one shape, got {a.shape}, {b.shape}")
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        stack = jnp.concatenate([a, b], -1).astype(jnp.promote_types(a.dtype, jnp.float32))
        whole, details, extents = [replicated(stack, extent)], [], [extent]
        for _ in range(config.levels):
            small = pyramid.shrunk(whole[-1], replicated=True)
            extents.append(None if extents[-1] is None else (extents[-1] + 1) // 2)
            small = replicated(small, extents[-1])
            details.append(whole[-1] - _expanded(small, whole[-1]))
            whole.append(small)
        coarsest = whole[-1]
        # There is no detail left: the cell sees how far the intensities lie from mid-grey.
        features, said = self.cell(
            _seen(coarsest - 0.5, coarsest).astype(dtype),
            jnp.zeros((*coarsest.shape[:3], config.features), dtype),
            config.levels,
            extents[-1],
        )
        fused = self._base(coarsest, said.astype(stack.dtype), extents[-1])
        aux: dict[str, Any] = {"base": fused, "choice": [], "strength": []}
        for scale in range(config.levels - 1, -1, -1):
            detail, within = details[scale], extents[scale]
            below = _expanded(replicated(features, extents[scale + 1]), detail)
            features, said = self.cell(
                _seen(_LOUDNESS * detail, whole[scale]).astype(dtype), below, scale, within
            )
            choice, strength = self._chosen(detail, said.astype(stack.dtype))
            mixed = choice * detail[..., :1] + (1 - choice) * detail[..., 1:]
            fused = replicated(_expanded(fused, detail) + strength * mixed, within)
            aux["choice"].insert(0, choice)
            aux["strength"].insert(0, strength)
        return fused, aux

    def _base(self, coarsest: Maps, said: Maps, whole: Extent) -> Maps:
        """The coarsest intensities: the brighter ones at the start, set off from what is around."""
        a, b = coarsest[..., :1], coarsest[..., 1:]
        choice = jax.nn.sigmoid(said[..., :1] + _BRIGHTNESS * (a - b))
        mean = (a + b) / 2
        around, extent, sizes = mean, whole, []
        for _ in range(self.config.surroundings):
            sizes.append((around, extent))
            around = pyramid.shrunk(around, replicated=True)
            extent = None if extent is None else (extent + 1) // 2
            around = replicated(around, extent)
        for like, within in reversed(sizes):
            around = replicated(_expanded(around, like), within)
        lift = self.config.lift * jax.nn.sigmoid(said[..., 1:])
        return replicated(choice * a + (1 - choice) * b + lift * (mean - around), whole)

    def _chosen(self, detail: Maps, said: Maps) -> tuple[Maps, Maps]:
        """How much of a detail is the first picture's, and how strongly it stands."""
        a, b = (jnp.abs(detail[..., i : i + 1]) for i in (0, 1))
        larger = _SHARPNESS * (a - b) / (a + b + _FLOOR)
        choice = jax.nn.sigmoid(larger + said[..., :1])
        strength = jnp.exp(jnp.log(self.config.gain) * jnp.tanh(said[..., 1:]))
        return choice, self.config.strength * strength


def _expanded(x: Maps, like: Maps) -> Maps:
    """A map at the size of the next finer scale."""
    return pyramid.expanded(x, *like.shape[1:3], replicated=True)


def _seen(detail: Maps, whole: Maps) -> Maps:
    """What the cell sees of a scale: details, their magnitudes, intensities about mid-grey."""
    return jnp.concatenate([detail, jnp.abs(detail), whole - 0.5], -1)
