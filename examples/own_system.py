"""Tutorial 3: a fusion system of your own in one file, trained and fused with.

    python examples/own_system.py --workdir runs/own

The file holds all that a system is: `Config` and `PRESETS`, a `Network`, a `Recipe`, and the empty
tables of a system that nobody has published weights of. Nothing is registered: the weight file
stores the name of this module, and who loads it says that this code may run.

The network mixes two pictures by a gate per pixel. The loss asks the result for the brighter source
at each pixel and for the stronger gradients.
"""

import argparse
import dataclasses
import itertools
import os
import sys
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from mgdn_jax import losses
from mgdn_jax.layers import functional
from mgdn_jax.layers.conv import Conv2d
from mgdn_jax.systems import registry
from mgdn_jax.systems.base import BaseRecipe
from mgdn_jax.systems.config import SystemConfig


@dataclasses.dataclass(frozen=True)
class Config(SystemConfig):
    """What determines the network."""

    system: ClassVar[str] = "own_system"  # what messages call it

    features: int = 8
    in_channels: tuple[int, ...] = (1, 1)
    out_channels: int = 1

    def __post_init__(self):
        self.demand_whole("features")


PRESETS = {"small": Config(), "large": Config(features=32)}


class Network(nnx.Module):
    """Three convolutions predict a gate g; the result is g a + (1 - g) b."""

    takes: ClassVar[frozenset[str]] = frozenset()  # no more than the pictures

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        widths = (sum(config.in_channels), config.features, config.features, 1)
        self.convs = nnx.List([Conv2d(n, m, 3, rngs=rngs) for n, m in itertools.pairwise(widths)])

    def __call__(self, a: jax.Array, b: jax.Array) -> tuple[jax.Array, dict]:
        """``(fused, aux)`` from two pictures (B, H, W, 1) in [0, 1]."""
        x = jnp.concatenate([a, b], -1)
        for conv in self.convs[:-1]:
            x = jax.nn.relu(conv(x))
        gate = jax.nn.sigmoid(self.convs[-1](x))
        return gate * a + (1 - gate) * b, {"gate": gate}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The `recipe` block of a config."""

    intensity: float = 1.0
    gradient: float = 10.0


class Recipe(BaseRecipe):
    """How it is trained."""

    system = "own_system"  # the module that holds it
    settings_type = Settings
    settings: Settings

    def loss(self, params, stats, batch, keys, phase, *, axis_name=None):
        """Mean loss of a batch, new statistics, and the terms."""
        del keys, phase, axis_name
        a, b = self.sources(batch)
        graphdef = registry.graphdef(self.system, self.model_config)
        (fused, _), new = functional.apply(graphdef, params["fusion"], stats["fusion"], a, b)
        terms = {
            "intensity": jnp.mean(losses.intensity(fused, a, b)),
            "gradient": jnp.mean(losses.gradient_max(fused, a, b)),
        }
        total = sum(getattr(self.settings, name) * value for name, value in terms.items())
        return total, ({"fusion": new}, terms)


RULES: dict = {}  # no published checkpoints to convert
PUBLISHED: dict = {}


def main(arguments: list[str] | None = None) -> Path:
    """Trains on pairs made by the second tutorial, fuses one; returns the fused file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(Path(__file__).parent))  # where own_system.py lies
    import train_on_two_folders as tutorial

    import mgdn_jax
    from mgdn_jax import data, training
    from mgdn_jax.io.files import write_image
    from mgdn_jax.io.pairing import list_images

    workdir = Path(options.workdir)
    folders = tutorial.make_toy_pairs(workdir / "pictures")
    os.environ.setdefault("MGDN_DATA_DIR", str(workdir / "sets"))
    if not data.is_prepared(data.data_root() / "own"):
        data.prepare("pairs", workdir / "pictures", name="own")

    config = tutorial.config("own", options.steps, crop=48)
    config |= {"name": "own", "recipe": {"name": "own_system"}, "model": {"preset": "small"}}
    config["optimiser"] = {"name": "adam", "learning_rate": 3e-3, "schedule": "cosine"}
    run = training.fit(config, workdir / "run")
    if run.weights is None:
        raise SystemExit("stopped; run the same command again to go on")

    fuse = mgdn_jax.load(run.weights, trust="own_system")
    pair = (next(iter(list_images(folder).values())) for folder in folders)
    fused = write_image(workdir / "fused.png", fuse(*pair))
    print(f"fused with {run.weights} -> {fused}")
    here = Path(__file__).parent  # where Python finds own_system.py
    command = f"PYTHONPATH={here} mgdn fuse A B -o C.png"
    print(f"or: {command} --model {run.weights} --system own_system")
    return fused


if __name__ == "__main__":
    main()
