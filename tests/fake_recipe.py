"""A recipe and its data that train in milliseconds; also what a user's own module looks like.

Named in configs by its module path (`recipe.name`, `data.loader`), so subprocesses find it too.
"""

import dataclasses
import time
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mgdn_jax.systems.base import BaseRecipe
from mgdn_jax.systems.config import SystemConfig
from mgdn_jax.systems.contract import Phase

TRACES = []  # one entry each time the loss is traced


@dataclasses.dataclass(frozen=True)
class Config(SystemConfig):
    width: int = 4
    in_channels: tuple[int, ...] = (3, 3)
    out_channels: int = 3

    system: ClassVar[str] = "fake"


PRESETS = {"plain": Config()}
RULES = {}
PUBLISHED = {}


class Network(nnx.Module):
    """Two 3x3 convolutions beside the mean of the pictures; a statistic that nothing reads."""

    takes = frozenset()

    def __init__(self, config, *, rngs):
        def conv(fan_in, fan_out):
            kernel = 0.1 * jax.random.normal(rngs.params(), (3, 3, fan_in, fan_out))
            return nnx.Dict(kernel=nnx.Param(kernel))

        self.layers = nnx.List([conv(6, config.width), conv(config.width, 3)])
        self.mean = nnx.BatchStat(jnp.zeros((3,)))

    def __call__(self, *images):
        x = jnp.concatenate(images, -1)
        dims = ("NHWC", "HWIO", "NHWC")

        def conv(x, layer):
            kernel = layer.kernel[...]
            return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims)

        hidden = jnp.tanh(conv(x, self.layers[0]))
        return sum(images) / len(images) + conv(hidden, self.layers[1]), {}


@dataclasses.dataclass(frozen=True)
class Settings:
    noise: float = 0.01
    poison: int = -1
    two_phases: bool = False


class Recipe(BaseRecipe):
    """Noise per example from its key; a running mean as statistic."""

    system = "fake_recipe"
    settings_type = Settings

    def __init__(self, model=None, **settings):
        super().__init__(model, **settings)
        if self.settings.two_phases:
            self.networks = ("fusion", "critic")
            first = Phase("first", ("fusion", "critic"), 0.5)
            self.phases = (first, Phase("second", ("critic",), 0.5))
        else:
            self.phases = (Phase("only", ("fusion",)),)

    def init(self, key):
        params, stats = super().init(key)
        nets = {name: jax.tree.map(jnp.copy, params["fusion"]) for name in self.networks}
        return nets, {name: jax.tree.map(jnp.copy, stats["fusion"]) for name in self.networks}

    def loss(self, params, stats, batch, keys, phase, *, axis_name=None):
        del axis_name
        TRACES.append(phase)
        fused = self.fuse(params, stats, *self.sources(batch))
        if keys is not None:
            draw = jax.vmap(lambda key: jax.random.normal(key, fused.shape[1:]))
            fused = fused + self.settings.noise * draw(keys)
        errors = jnp.mean(jnp.square(fused - batch["target"]), (1, 2, 3))
        errors = jnp.where(batch["_index"] == self.settings.poison, jnp.nan, errors)
        total = jnp.mean(errors)
        if self.settings.two_phases:
            critic = params["critic"]["layers/0/kernel"]
            total = total + jnp.mean(jnp.square(critic - (0.0 if phase == "first" else 1.0)))
        mean = 0.9 * stats["fusion"]["mean"] + 0.1 * jnp.mean(fused, (0, 1, 2))
        return total, ({**stats, "fusion": {"mean": mean}}, {"mse": jnp.mean(errors)})


def example(seed, index, size):
    """a, b: two noisy halves of one picture; target: the picture."""
    rng = np.random.default_rng((seed, index))
    target = rng.random((size, size, 3), np.float32)
    veil = np.linspace(0, 1, size, dtype=np.float32)[None, :, None]
    a, b = target * veil + 0.5 * (1 - veil), target * (1 - veil) + 0.5 * veil
    return {"a": a, "b": b, "target": target, "_index": np.uint32(index)}


def stack(examples):
    return {key: np.stack([e[key] for e in examples]) for key in examples[0]}


class Loader:
    def __init__(self, seed, local, batch, process, size, delay, examples):
        self.seed, self.local, self.batch, self.process = seed, local, batch, process
        self.size, self.delay, self.position = size, delay, 0
        self.dataset = range(examples)

    def __iter__(self):
        return self

    def __next__(self):
        time.sleep(self.delay)
        stride = self.batch // self.local
        first = self.position * self.batch + self.process
        self.position += 1
        indices = range(first, first + self.batch, stride)
        return stack([example(self.seed, i, self.size) for i in indices])

    def state(self):
        return {"position": self.position}

    def restore(self, state):
        self.position = state["position"]

    def close(self):
        pass


def make_loader(*, batch_size, seed, process_index, process_count, size=8, delay=0.0, examples=80):
    local = batch_size // process_count
    return Loader(seed, local, batch_size, process_index, size, delay, examples)


def make_eval_loader(*, batch_size, seed, process_index, process_count, size=8, examples=5):
    batches = []
    for start in range(0, examples, batch_size):
        rows = []
        for i in range(start + process_index, start + batch_size, process_count):
            rows.append(example(seed + 1, min(i, examples - 1), size))
            rows[-1]["_mask"] = np.float32(i < examples)
        batches.append(stack(rows))
    return batches


def config(**train):
    """A whole config; keyword arguments go to the `train` block."""
    return {
        "name": "fake",
        "recipe": {"name": "fake_recipe", "poison": -1},
        "model": {},
        "data": {"loader": "fake_recipe", "train": {"delay": 0.0}, "validation": {}},
        "optimiser": {"name": "adam", "learning_rate": 1e-2},
        "train": {
            "batch": 8,
            "steps": 10,
            "epochs": 0.0,
            "devices": 0,
            "parallel": "pmap",
            "ema": 0.9,
            "log_every": 1,
            "eval_every": 0,
            "save_every": 0,
        }
        | train,
    }


def get_config():
    """What `train.py --config=tests/fake_recipe.py` reads."""
    import ml_collections

    return ml_collections.ConfigDict(config())
