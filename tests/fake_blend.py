"""Networks that weigh their inputs by rules; for tests of fusing coarse to fine, and of sets."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from mgdn_jax.systems.config import SystemConfig


@dataclasses.dataclass(frozen=True)
class Config(SystemConfig):
    in_channels: tuple[int, ...] = (3, 3)
    out_channels: int = 3
    kind: str = "pair"  # or "set", which prefers middle gray; or "pyramid", a set scale by scale

    system: ClassVar[str] = "fake blend"

    @property
    def blends(self):
        return True

    @property
    def sets(self):
        return self.kind != "pair"

    @property
    def scales(self):
        return self.kind == "pyramid"


PRESETS = {"plain": Config()}
RULES = {}
PUBLISHED = {}


class Network(nnx.Module):
    takes = frozenset()

    def __init__(self, config, *, rngs):
        self.config = config
        self.gain = nnx.Param(jnp.ones(()))

    def __call__(self, *images):
        means = jnp.stack([x.mean(-1) for x in images], -1)
        if self.config.sets:
            means = -25 * (means - 0.5) ** 2
        weights = jax.nn.softmax(self.gain[...] * means, -1)
        fused = sum(weights[..., i : i + 1] * x for i, x in enumerate(images))
        return fused, {"weights": weights}
