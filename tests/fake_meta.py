"""A recipe whose loss is learned, small enough to compile in a second; data of `fake_recipe`."""

import dataclasses
from typing import ClassVar

import fake_recipe
import jax
import jax.numpy as jnp
import optax
from fake_recipe import make_eval_loader, make_loader
from flax import nnx

from mgdn_jax import bilevel
from mgdn_jax.systems.base import BaseRecipe
from mgdn_jax.systems.config import SystemConfig
from mgdn_jax.systems.contract import Meta, MetaRecipe, Phase

__all__ = ["Recipe", "config", "get_config", "make_eval_loader", "make_loader"]


def net(params, x):
    return jnp.tanh(x @ params["first"]) @ params["last"]


@dataclasses.dataclass(frozen=True)
class Config(SystemConfig):
    in_channels: tuple[int, ...] = (3, 3)
    out_channels: int = 3

    system: ClassVar[str] = "fake"


PRESETS = {"plain": Config()}
RULES = {}
PUBLISHED = {}


class Network(nnx.Module):
    """F: a pixelwise network from 6 channels to 3."""

    takes = frozenset()

    def __init__(self, config, *, rngs):
        del config
        self.first = nnx.Param(0.5 * jax.random.normal(rngs.params(), (6, 5)))
        self.last = nnx.Param(0.5 * jax.random.normal(rngs.params(), (5, 3)))

    def __call__(self, *images):
        params = {"first": self.first[...], "last": self.last[...]}
        return net(params, jnp.concatenate(images, -1)), {}


@dataclasses.dataclass(frozen=True)
class Settings:
    every: int = 1
    after: float = 0.0
    steps: int = 1
    mode: str = "unrolled"
    rate: float = 0.0
    damping: float = 1.0


class Recipe(BaseRecipe, MetaRecipe):
    """Pixelwise networks: F from 6 channels to 3, P to two weights, R from 3 to 6."""

    system = "fake_meta"
    settings_type = Settings
    networks = ("fusion", "proposal", "reconstruction")
    phases = (Phase("meta", networks, kind="meta"),)

    def __init__(self, model=None, **settings):
        super().__init__(model, **settings)
        s = self.settings
        self.meta = Meta(
            inner="fusion", learns="proposal", auxiliary="reconstruction",
            optimiser=optax.sgd(1.0), rate=s.rate, steps=s.steps, mode=s.mode,
            every=s.every, after=s.after,
            solver=bilevel.Solver(damping=s.damping) if s.mode == "implicit" else None,
        )  # fmt: skip

    def init(self, key):
        sizes = {"fusion": (6, 3), "proposal": (6, 2), "reconstruction": (3, 6)}
        params = {}
        for name, (fan_in, fan_out) in sizes.items():
            key, first, last = jax.random.split(key, 3)
            params[name] = {
                "first": 0.5 * jax.random.normal(first, (fan_in, 5)),
                "last": 0.5 * jax.random.normal(last, (5, fan_out)),
            }
        return params, {name: {} for name in params}

    def fuse(self, params, stats, *images):
        del stats
        return net(params["fusion"], jnp.concatenate(images, -1))

    def adapted(self, theta, stats, batch):
        return self.fuse({"fusion": theta}, stats, batch["a"], batch["b"])

    def propose(self, phi, batch):
        both = jnp.concatenate([batch["a"], batch["b"]], -1)
        return {"w": jax.nn.softmax(net(phi, both))}

    def inner_loss(self, theta, stats, maps, batch, progress):
        fused, w = self.adapted(theta, stats, batch), maps["w"]
        gaps = w[..., :1] * (batch["a"] - fused), w[..., 1:] * (batch["b"] - fused)
        int_ = sum(jnp.mean(jnp.square(gap)) for gap in gaps)
        return int_ * (1 + progress), (fused, stats, {"int": int_})

    def outer_loss(self, psi, fused, batch):
        both = jnp.concatenate([batch["a"], batch["b"]], -1)
        return jnp.mean(jnp.square(net(psi, fused) - both))

    auxiliary_loss = outer_loss

    def loss(self, params, stats, batch, keys, phase, *, axis_name=None):
        del keys, phase, axis_name
        maps = self.propose(params["proposal"], batch)
        loss, (_, _, terms) = self.inner_loss(params["fusion"], {}, maps, batch, 1.0)
        return loss, (stats, terms)


def config(**train):
    """As `fake_recipe.config`."""
    made = fake_recipe.config(**train)
    made["recipe"] = {"name": "fake_meta", "every": 1}
    made["optimiser"] |= {"networks": {"proposal": {"name": "max_abs"}}}
    return made


def get_config():
    """What `train.py --config=tests/fake_meta.py` reads."""
    import ml_collections

    return ml_collections.ConfigDict(config())
