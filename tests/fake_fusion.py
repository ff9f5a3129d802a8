"""A fusion system of one parameter, for tests of everything around the network.

fused = FIRST a + (1 - FIRST) b (channels averaged where the layout asks it), plus `bias`, plus,
if the config says so, a tenth of what the mean of `a` over the whole picture exceeds one half, and
as much of the slopes to the right and, twice, downwards.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx

from mgdn_jax.systems.config import SystemConfig

FIRST = 0.7391  # no simple fraction, so that no result of 8-bit pixels lies half-way between two


@dataclasses.dataclass(frozen=True)
class Config(SystemConfig):
    in_channels: tuple[int, ...] = (3, 3)
    out_channels: int = 3
    window: int = 4
    uses_mean: bool = False
    uses_slopes: bool = False

    system: ClassVar[str] = "fake"

    @property
    def grid(self):
        return self.window

    @property
    def inputs(self):
        return len(self.in_channels)


PRESETS = {"plain": Config()}
RULES = {}
PUBLISHED = {}


class Network(nnx.Module):
    takes = frozenset({"context"})

    def __init__(self, config, *, rngs):
        self.config = config
        self.bias = nnx.Param(jnp.zeros(()))

    def __call__(self, *images, keys=None, context=None, pixel_weights=None):
        config = self.config
        same = [x.mean(-1, keepdims=True) if config.out_channels == 1 else x for x in images]
        fused = FIRST * same[0] + (1 - FIRST) * sum(same[1:]) / (len(same) - 1) + self.bias[...]
        if config.uses_slopes:
            across, down = (jnp.diff(fused, axis=k, append=0) for k in (2, 1))
            fused = fused + 0.1 * across.at[:, :, -1].set(0) + 0.2 * down.at[:, -1].set(0)
        weights = jnp.ones_like(images[0][..., :1]) if pixel_weights is None else pixel_weights
        own = {
            "sum": (weights * images[0].mean(-1, keepdims=True)).sum((1, 2, 3)),
            "count": weights.sum((1, 2, 3)),
        }
        if config.uses_mean:
            sums = context or own
            fused = fused + 0.1 * ((sums["sum"] / sums["count"])[:, None, None, None] - 0.5)
        return fused, {"context": own if config.uses_mean else {}}
