"""A system of another package: trained, resumed, fused with, measured, listed, converted.

Nothing of mgdn_jax is patched or edited. The package is two files, made here.
"""

import json
import textwrap

import numpy as np
import pytest

import mgdn_jax
from mgdn_jax import training
from mgdn_jax.cli import main as cli
from mgdn_jax.errors import InputError
from mgdn_jax.io import files
from mgdn_jax.systems import finding, registry
from mgdn_jax.weights import conversion
from mgdn_jax.weights.store import load_weights

SYSTEM = '''
"""Two convolutions and a gate: a whole fusion system in one file."""

import dataclasses
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
from mgdn_jax.systems.rules import Rules


@dataclasses.dataclass(frozen=True)
class Config(SystemConfig):
    system: ClassVar[str] = "strange"
    features: int = 4
    in_channels: tuple[int, ...] = (1, 1)
    out_channels: int = 1

    def __post_init__(self):
        self.demand_whole("features")


PRESETS = {"small": Config(), "large": Config(features=8)}


class Network(nnx.Module):
    takes = frozenset()

    def __init__(self, config, *, rngs):
        self.first = Conv2d(2, config.features, 3, rngs=rngs)
        self.last = Conv2d(config.features, 1, 3, rngs=rngs)

    def __call__(self, a, b):
        gate = jax.nn.sigmoid(self.last(jax.nn.relu(self.first(jnp.concatenate([a, b], -1)))))
        return gate * a + (1 - gate) * b, {}


@dataclasses.dataclass(frozen=True)
class Settings:
    intensity: float = 1.0


class Recipe(BaseRecipe):
    system = "strange_fusion"
    settings_type = Settings

    def loss(self, params, stats, batch, keys, phase, *, axis_name=None):
        a, b = self.sources(batch)
        graphdef = registry.graphdef(self.system, self.model_config)
        (fused, _), new = functional.apply(graphdef, params["fusion"], stats["fusion"], a, b)
        value = jnp.mean(losses.intensity(fused, a, b))
        return self.settings.intensity * value, ({"fusion": new}, {"intensity": value})


RULES = {"Network": Rules(((r"net\\.0", "first", "conv"), (r"net\\.2", "last", "conv")))}
PUBLISHED = {}
'''
CONFIG = """
import ml_collections


def get_config(preset="small"):
    return ml_collections.ConfigDict(
        {
            "name": "strange",
            "recipe": {"name": "strange_fusion", "intensity": 1.0},
            "model": {"preset": preset},
            "data": {
                "loader": "mgdn_jax.data", "dataset": "ivf", "task": "pairs", "channels": 1,
                "train": {"crop": 12, "threads": 1, "split": "train"},
                "validation": {"crop": 12, "limit": 2, "split": "train"},
            },
            "optimiser": {"name": "adam", "learning_rate": 1e-2},
            "train": {"batch": 4, "steps": 5, "ema": 0.0, "log_every": 1},
        }
    )
"""


@pytest.fixture
def outside(pairs, monkeypatch):
    """The package on the path, with the entry point that its installation would make."""
    package = pairs / "site"
    package.mkdir()
    (package / "strange_fusion.py").write_text(SYSTEM)
    (package / "strange_config.py").write_text(CONFIG)
    info = package / "strange_fusion-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-fusion\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{finding.GROUP}]\nstrange = strange_fusion\n")
    monkeypatch.syspath_prepend(package)
    monkeypatch.setenv("MGDN_CACHE_DIR", "off")
    monkeypatch.chdir(pairs)
    yield pairs
    import sys

    for name in ("strange_fusion", "strange_config"):
        sys.modules.pop(name, None)


def config(steps):
    import strange_config

    made = strange_config.get_config()
    made.train.steps = steps
    return made


def test_from_training_to_a_table(outside, capsys):
    files.write_image("a.png", files.read_image(outside / "source/ir/1.png"))
    files.write_image("b.png", files.read_image(outside / "source/vi/1.png"))

    first = training.fit(config(3), outside / "run", quiet=True)
    assert (first.status, first.step) == ("complete", 3)
    again = training.fit(config(5), outside / "run", quiet=True)
    assert (again.status, again.step) == ("complete", 5)
    whole = training.fit(config(5), outside / "whole", quiet=True)
    stored, unbroken = load_weights(again.weights), load_weights(whole.weights)
    assert stored.system == "strange_fusion"
    assert all(np.array_equal(stored.params[k], v) for k, v in unbroken.params.items())

    # Its code runs only where somebody says so.
    model = str(again.weights)
    with pytest.raises(InputError, match=r"the code of 'strange_fusion', which is no part.*trust"):
        mgdn_jax.load(model)
    with pytest.raises(InputError, match="strange_fusion"):
        mgdn_jax.load(model, trust="another_module")
    fuse = mgdn_jax.load(model, trust="strange_fusion")
    assert mgdn_jax.load(model, trust=["another", "strange"]).system == fuse.system
    fused = fuse("a.png", "b.png")
    assert fused.shape == (20, 24, 3)
    assert np.array_equal(fused, mgdn_jax.load(model, trust=True)("a.png", "b.png"))
    assert np.array_equal(fused, mgdn_jax.load(model, system="strange")("a.png", "b.png"))

    assert cli.main(["fuse", "a.png", "b.png", "-o", "c.png", "--model", model]) == 2
    assert "--trust-system or --system strange_fusion" in capsys.readouterr().err
    for option in (["--trust-system"], ["--system", "strange_fusion"]):
        assert cli.main(["fuse", "a.png", "b.png", "-o", "c.png", "--model", model, *option]) == 0
        assert np.array_equal(files.read_image("c.png"), fused)
    capsys.readouterr()
    command = ["eval", "--model", model, "--data", "a.png", "b.png", "--json", "--metrics", "SD,SF"]
    assert cli.main([*command, "--trust-system"]) == 0
    methods = json.loads(capsys.readouterr().out)["methods"]
    assert set(methods["strange"]["mean"]) == {"SD", "SF"}
    table = mgdn_jax.evaluate(fuse, [("x", "a.png", "b.png")], metrics=["SD"])
    assert list(table.rows) == ["x"]


def test_it_is_listed_without_being_imported(outside, capsys):
    import sys

    assert mgdn_jax.list_systems()["strange"] == "strange_fusion"
    assert cli.main(["models"]) == 0
    assert "strange" in capsys.readouterr().out
    assert "strange_fusion" not in sys.modules
    assert mgdn_jax.list_presets("strange") == ("small", "large")
    assert mgdn_jax.list_presets("strange_fusion") == ("small", "large")


def test_to_and_from_a_state_dict(outside):
    made, _, params, stats = mgdn_jax.create("strange", "small", seed=3)
    rng = np.random.default_rng(0)
    published = {
        "module.net.0.weight": rng.random((4, 2, 3, 3), np.float32),
        "module.net.0.bias": rng.random(4, np.float32),
        "module.net.2.weight": rng.random((1, 4, 3, 3), np.float32),
        "module.net.2.bias": rng.random(1, np.float32),
    }
    options = {"system": "strange_fusion"}
    converted, report = conversion.convert_state_dict(published, config=made, **options)
    assert report.complete
    assert converted.keys() == params.keys()
    back = conversion.to_state_dict(converted, {}, published, **options)
    assert all(np.array_equal(back[k], v) for k, v in published.items())
    state = conversion.to_state_dict(params, stats, published, **options)
    ours, _ = conversion.convert_state_dict(state, config=made, **options)
    assert all(np.array_equal(ours[k], v) for k, v in params.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "the system 'lacking' defines no Config; add it to lacking"),
        (
            textwrap.dedent(SYSTEM)
            .replace("PRESETS", "PRESET")
            .replace("strange_fusion", "lacking"),
            "the system 'lacking' defines no PRESETS",
        ),
    ],
)
def test_what_is_missing_is_named(outside, text, message):
    import sys

    (outside / "site" / "lacking.py").write_text(text)
    try:
        with pytest.raises(InputError, match=message):
            mgdn_jax.list_presets("lacking")
    finally:
        sys.modules.pop("lacking", None)
    with pytest.raises(InputError, match="there is no system 'strang'; did you mean 'strange'"):
        mgdn_jax.create("strang", "small")


def test_a_recipe_has_to_keep_the_contract(outside):
    (outside / "site" / "loose_recipe.py").write_text("class Recipe:\n    pass\n")
    with pytest.raises(
        InputError, match=r"does not derive from mgdn_jax\.systems\.base\.BaseRecipe"
    ):
        registry.recipe("loose_recipe")
