"""CEN for fusion: each picture has a branch, and branches learn which channels to take over.

The mechanism is the published one (`layers.channel_exchange`); the network is this project's own,
as small as the mechanism allows. Both branches run the same convolutions. After each norm of the
encoder, which every branch has for itself, channels are exchanged. A decoder, shared as well, makes
of each branch a correction to a rule, the brighter of both pictures at every pixel. The result is
the mean of both branches' pictures by learned shares.

No other path leads from one branch to the other: what a correction knows of the other picture has
been exchanged.
"""

import dataclasses
import itertools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgdn_jax.layers.channel_exchange import KINDS, PARTS, ChannelExchange, PrivateNorm
from mgdn_jax.layers.conv import Conv2d
from mgdn_jax.layers.mode import EVAL, Mode
from mgdn_jax.layers.padding import Extent
from mgdn_jax.systems.cen.blocks import apart, ensemble, together
from mgdn_jax.systems.cen.segmentation import Segmentation, SegmentationConfig
from mgdn_jax.systems.config import SystemConfig

__all__ = ["PRESETS", "Config", "Network", "Segmentation", "SegmentationConfig"]

Image = Float[Array, "b h w 1"]

BRANCHES = 2
_LEAK = 0.2
BASES = ("max", "mean")
EXCHANGING = r"encoder/\d+/norm"
"""Layers that exchange, and whose scales are penalised, by path."""


@dataclasses.dataclass(frozen=True)
class Config(SystemConfig):
    """What determines the network.

    Attributes:
        encoder: channels of the encoder's 3x3 convolutions, each with norm, exchange and ReLU.
        decoder: channels of the decoder's, but the last one, each with ReLU.
        exchange: whether channels are exchanged; without, branches see their own picture alone.
        threshold: scales of a smaller magnitude are low.
        parts: of `PARTS`: which low channels are replaced.
        norm: of `KINDS`; ``"instance"`` takes statistics of the picture, in use too, and is for
            batches of one.
        base: the rule that is corrected: ``"max"``, the brighter picture, or ``"mean"``.
        dtype: compute dtype; parameters stay float32.
        in_channels: channels of the two pictures, fixed: luminance.
        out_channels: channels of the result, fixed: luminance.
    """

    encoder: tuple[int, ...] = (16, 32, 32, 32)
    decoder: tuple[int, ...] = (32, 32, 16)
    exchange: bool = True
    threshold: float = 0.02
    parts: str = "all"
    norm: str = "batch"
    base: str = "max"
    dtype: str = "float32"
    in_channels: tuple[int, ...] = (1, 1)
    out_channels: int = 1

    system: ClassVar[str] = "cen"

    def __post_init__(self):
        super().__post_init__()
        for name in ("encoder", "decoder"):
            widths = getattr(self, name)
            good = len(widths) > 0 and min(widths) > 0
            self.demand(good, f"{name} holds positive whole numbers, one or more")
        self.demand_blocks(len(self.encoder) + len(self.decoder))
        self.demand(self.threshold >= 0, "threshold must be 0 or more")
        self.demand(self.threshold < 1, "threshold must be below 1, which scales begin at")
        self.demand_choice(parts=PARTS, norm=KINDS, base=BASES)
        self.demand_luminance()

    @property
    def sees_whole(self) -> bool:
        """Norms by instance do."""
        return self.norm == "instance"


PRESETS: dict[str, Config] = {"ivf": Config(), "ivf_plain": Config(exchange=False)}


class EncoderBlock(nnx.Module):
    """A 3x3 convolution of all branches, a norm for each, the exchange, ReLU."""

    def __init__(self, i: int, o: int, config: Config, *, rngs: nnx.Rngs):
        self.conv = Conv2d(i, o, 3, use_bias=False, rngs=rngs)
        self.norm = PrivateNorm(o, BRANCHES, config.norm)
        self.exchange = ChannelExchange(config.threshold, config.parts) if config.exchange else None

    def __call__(self, x: Array, mode: Mode, both: Mode) -> Array:
        """(2 B, H, W, i) -> (2 B, H, W, o)."""
        maps = apart(self.conv(both.zeroed(x)), BRANCHES)
        return jax.nn.relu(together(self.norm(maps, mode, self.exchange)))


class Network(nnx.Module):
    """The whole network; see the module's text."""

    takes: ClassVar[frozenset[str]] = frozenset({"extent"})

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        pairs = itertools.pairwise((1, *config.encoder))
        self.encoder = nnx.List([EncoderBlock(i, o, config, rngs=rngs) for i, o in pairs])
        widths = (config.encoder[-1], *config.decoder)
        self.decoder = nnx.List([Conv2d(i, o, 3, rngs=rngs) for i, o in itertools.pairwise(widths)])
        self.last = Conv2d(widths[-1], 1, 3, rngs=rngs)
        # It starts as the rule.
        self.last.kernel.set_value(jnp.zeros_like(self.last.kernel[...]))
        self.last.bias.set_value(jnp.zeros_like(self.last.bias[...]))
        self.alpha = nnx.Param(jnp.ones((BRANCHES,), jnp.float32))

    def __call__(
        self, a: Image, b: Image, *, mode: Mode = EVAL, extent: Extent = None
    ) -> tuple[Image, dict[str, Any]]:
        """Fuse.

        Args:
            a: first picture (infrared), (B, H, W, 1) in [0, 1], any H and W.
            b: second picture (visible), likewise.
            mode: in training, batch statistics.
            extent: (B, 2) height and width of the pictures in the upper left corners, the rest
                being padding that changes nothing in them; None where they fill everything.

        Returns:
            ``(fused, aux)``: fused (B, H, W, 1) float32, not clipped; aux has ``outputs``, the
            picture of each branch, and ``shares``, (2,), their weights in the result, which sum to
            one. The result's gradient reaches the shares alone: branches learn from their outputs.

        Raises:
            ValueError: channels or shapes differ.
        """
        if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 1:
            raise ValueError(f"expected two (b, h, w, 1) of one shape, got {a.shape}, {b.shape}")
        both = mode
        if extent is not None:
            mode = dataclasses.replace(mode, extent=extent, height=a.shape[1])
            both = dataclasses.replace(mode, extent=jnp.concatenate([extent] * BRANCHES))
        wide = jnp.promote_types(a.dtype, jnp.float32)
        x = together([a, b]).astype(jnp.dtype(self.config.dtype))
        for block in self.encoder:
            x = block(x, mode, both)
        for conv in self.decoder:
            x = jax.nn.leaky_relu(conv(both.zeroed(x)), _LEAK)
        corrections = apart(self.last(both.zeroed(x)).astype(wide), BRANCHES)
        base = jnp.maximum(a, b) if self.config.base == "max" else 0.5 * (a + b)
        outputs = tuple(base + correction for correction in corrections)
        shares = jax.nn.softmax(self.alpha[...])
        return ensemble(outputs, shares), {"outputs": outputs, "shares": shares}
