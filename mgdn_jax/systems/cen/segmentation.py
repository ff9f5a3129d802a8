"""The published network: RGB and depth to classes, two ResNets that exchange, one RefineNet each.

It fuses no picture and is not trained by the loop here; it is what the layer is held to. Its
encoder and its decoder (light-weight RefineNet) are shared by both branches, its norms are not.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mgdn_jax.layers.channel_exchange import PARTS, ChannelExchange
from mgdn_jax.layers.conv import Conv2d
from mgdn_jax.layers.mode import EVAL, Mode, dropout
from mgdn_jax.systems.cen.blocks import (
    Bottleneck,
    ChainedPool,
    Maps,
    Normed,
    ResidualUnits,
    apart,
    ensemble,
    largest,
    together,
)
from mgdn_jax.systems.config import SystemConfig

Logits = Float[Array, "b h w n"]

EXCHANGING = r"stages/\d+/\d+/middle/norm"
"""Layers that exchange, and whose scales are penalised, by path."""

_DROP = 0.5


@dataclasses.dataclass(frozen=True)
class SegmentationConfig(SystemConfig):
    """What determines the network; ResNet 50, 101 and 152 are `RESNETS`.

    Attributes:
        blocks: bottlenecks of each of the four stages.
        features: channels of the stem and of the first stage's 3x3 convolutions.
        decoder: channels of the decoder, for the deepest stage and for the others.
        classes: how many there are.
        threshold: scales below it are low.
        parts: of `PARTS`.
        branches: how many modalities.
    """

    system: ClassVar[str] = "cen"

    blocks: tuple[int, ...] = (3, 4, 23, 3)
    features: int = 64
    decoder: tuple[int, int] = (512, 256)
    classes: int = 40
    threshold: float = 0.02
    parts: str = "all"
    branches: int = 2

    def __post_init__(self):
        super().__post_init__()
        self.demand_whole("features", "classes", "branches")
        good = len(self.blocks) == 4 and min(*self.blocks, *self.decoder) >= 1
        self.demand(good, "blocks are four positive whole numbers, decoder two")
        self.demand_blocks(sum(self.blocks))
        self.demand(self.branches >= 2, "branches are two or more")
        self.demand(self.threshold >= 0, "threshold must be 0 or more")
        self.demand_choice(parts=PARTS)


RESNETS = {
    50: SegmentationConfig(blocks=(3, 4, 6, 3)),
    101: SegmentationConfig(),
    152: SegmentationConfig(blocks=(3, 8, 36, 3)),
}


class Level(nnx.Module):
    """The decoder at one scale; shared by all branches."""

    def __init__(self, i: int, c: int, o: int, *, first: bool, last: bool, rngs: nnx.Rngs):
        self.reduce = Conv2d(i, c, 3, use_bias=False, rngs=rngs)
        self.adapt = ResidualUnits(c, 2, rngs=rngs)
        self.join = None if first else Conv2d(c, c, 3, use_bias=False, rngs=rngs)
        self.pool = ChainedPool(c, 4, rngs=rngs)
        self.flow = ResidualUnits(c, 3, rngs=rngs)
        self.leave = None if last else Conv2d(c, o, 3, use_bias=False, rngs=rngs)

    def __call__(self, x: Maps, deeper: Maps | None) -> Maps:
        """Maps of this scale from the encoder's, and what the deeper scale made."""
        x = self.adapt(self.reduce(x))
        if self.join is not None and deeper is not None:
            x = self.join(x) + resize_corners(deeper, (x.shape[1], x.shape[2]))
        x = self.flow(self.pool(jax.nn.relu(x)))
        return x if self.leave is None else self.leave(x)


class Segmentation(nnx.Module):
    """The whole network; see the module's text."""

    def __init__(self, config: SegmentationConfig, *, rngs: nnx.Rngs):
        self.config = config
        c, branches = config.features, config.branches
        exchange = ChannelExchange(config.threshold, config.parts)
        self.stem = Normed(3, c, 7, 2, branches=branches, rngs=rngs)
        stages, widths = [], [c]
        for stage, count in enumerate(config.blocks):
            row = []
            for block in range(count):
                i = widths[-1] if block == 0 else Bottleneck.expansion * c * 2**stage
                stride = 2 if stage and block == 0 else 1
                row.append(
                    Bottleneck(
                        *(i, c * 2**stage, stride),
                        branches=branches,
                        exchange=exchange,
                        rngs=rngs,
                    )
                )
            stages.append(nnx.List(row))
            widths.append(Bottleneck.expansion * c * 2**stage)
        self.stages = nnx.List(stages)
        deep, shallow = config.decoder
        self.decoder = nnx.List(
            [
                Level(
                    *(widths[4 - n], shallow if n else deep, shallow),
                    first=n == 0,
                    last=n == 3,
                    rngs=rngs,
                )
                for n in range(4)
            ]
        )
        self.classifier = Conv2d(shallow, config.classes, 3, rngs=rngs)
        self.alpha = nnx.Param(jnp.ones((branches,), jnp.float32))

    def __call__(
        self, *images: Float[Array, "b h w 3"], mode: Mode = EVAL
    ) -> tuple[list[Logits], Float[Array, " m"]]:
        """Logits of every pixel at a quarter of the size.

        Args:
            *images: one a branch, (B, H, W, 3), any H and W of 2 or more. Published are RGB in
                [0, 1], normalised by ImageNet's mean and deviation, and depth in three equal
                channels, millimetres over 5000.
            mode: in training, values are dropped where there are keys. Norms take their running
                statistics in training too, as in the published one, which starts from ImageNet's.

        Returns:
            Logits (B, ceil(H / 4), ceil(W / 4), classes) of each branch and of the ensemble, and
            the ensemble's weights. The ensemble is a mean with these weights; its gradient reaches
            the weights alone.

        Raises:
            ValueError: another number of images, or shapes that differ.
        """
        if len(images) != self.config.branches or any(x.shape != images[0].shape for x in images):
            shapes = ", ".join(str(x.shape) for x in images)
            raise ValueError(f"expected {self.config.branches} images of one shape, got {shapes}")
        frozen = dataclasses.replace(mode, training=False)
        x = largest(jax.nn.relu(self.stem(together(images), frozen)), 3, 2)
        features = []
        for stage in self.stages:
            for block in stage:
                x = block(x, frozen)
            features.append(x)
        y: Maps | None = None
        for n, level in enumerate(self.decoder):
            x = features[3 - n]
            y = level(self._dropped(x, mode) if n < 2 else x, y)
        assert y is not None
        logits = apart(self.classifier(self._dropped(y, mode)), self.config.branches)
        shares = jax.nn.softmax(self.alpha[...])
        return [*logits, ensemble(logits, shares)], shares

    def _dropped(self, x: Maps, mode: Mode) -> Maps:
        """Half of the values zeroed, in each branch others."""
        maps = apart(x, self.config.branches)
        return together([dropout(y, _DROP, mode) for y in maps])


def resize_corners(x: Maps, size: tuple[int, int]) -> Maps:
    """Bilinear resize in which the corner pixels of both sizes lie on each other."""
    rows, columns = (
        jnp.asarray(_taps(n, m), x.dtype) for n, m in zip(x.shape[1:3], size, strict=True)
    )
    x = jnp.einsum("yh,bhwc->bywc", rows, x, precision="highest")
    return jnp.einsum("xw,bywc->byxc", columns, x, precision="highest")


def _taps(n: int, m: int) -> np.ndarray:
    """What each of m samples takes of n, (m, n)."""
    place = np.linspace(0, n - 1, m)
    low = np.minimum(place.astype(int), max(n - 2, 0))
    taps = np.zeros((m, n))
    taps[np.arange(m), low] = 1 - (place - low)
    taps[np.arange(m), np.minimum(low + 1, n - 1)] += place - low
    return taps
