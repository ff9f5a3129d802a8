"""A recipe whose loss is learned, small enough to compile in a second; data of `fake_recipe`."""

import dataclasses
from typing import Any

import fake_recipe
import jax
import jax.numpy as jnp
import optax
from fake_recipe import make_eval_loader, make_loader

from mgdn_jax.recipes import Meta, Phase

__all__ = ["Recipe", "config", "get_config", "make_eval_loader", "make_loader"]


def net(params, x):
    return jnp.tanh(x @ params["first"]) @ params["last"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Pixelwise networks: F from 6 channels to 3, P to two weights, R from 3 to 6."""

    model: dict
    every: int = 1
    after: float = 0.0
    steps: int = 1
    mode: str = "unrolled"
    rate: float = 0.0
    meta: Any = dataclasses.field(init=False)

    system = "fake"
    ships = "fusion"
    networks = ("fusion", "proposal", "reconstruction")
    phases = (Phase("meta", networks, kind="meta"),)
    model_config = fake_recipe.Model()

    def __post_init__(self):
        meta = Meta(
            inner="fusion", learns="proposal", auxiliary="reconstruction",
            optimiser=optax.sgd(1.0), rate=self.rate, steps=self.steps, mode=self.mode,
            every=self.every, after=self.after,
        )  # fmt: skip
        object.__setattr__(self, "meta", meta)

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

    def sources(self, batch):
        return [batch["a"], batch["b"]]

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

    def loss(self, params, stats, batch, keys, phase):
        del keys, phase
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
