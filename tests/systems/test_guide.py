"""The guide "a system step by step" in docs/extend/systems.md, taken by its word."""

import importlib
import pathlib
import re
import sys

import numpy as np
import pytest

import mgdn_jax
from mgdn_jax import training
from mgdn_jax.systems import registry

GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "extend" / "systems.md"


@pytest.fixture
def gate(pairs, monkeypatch):
    """The files of the guide, as a package beside mgdn_jax instead of inside it."""
    blocks = re.findall(r'```python title="(\S+)"\n(.*?)```', GUIDE.read_text(), re.DOTALL)
    site = pairs / "site"
    for name, code in blocks:
        path = site / name.replace("mgdn_jax/systems/gate/", "gate/").replace("configs/", "gate_")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    monkeypatch.syspath_prepend(site)
    yield dict(blocks)
    for name in [name for name in sys.modules if name.split(".")[0] in ("gate", "gate_gate")]:
        del sys.modules[name]


def test_the_system_of_the_guide_trains_and_fuses(gate, pairs):
    assert {name.rpartition("/")[2] for name in gate} == {
        *("__init__.py", "network.py", "recipe.py", "conversion.py", "gate.py", "test_gate.py")
    }
    config = importlib.import_module("gate_gate").get_config("small")
    config.data.train.update({"crop": 16, "threads": 1, "split": "train"})
    config.data.validation.update({"crop": 16, "limit": 2, "split": "train"})
    config.train.steps = 3
    run = training.fit(config, pairs / "run", quiet=True)
    assert run.status == "complete"
    fuse = mgdn_jax.load(run.weights, trust="gate")
    a, b = np.random.default_rng(0).integers(0, 256, (2, 19, 23), np.uint8)
    fused = fuse(a, b)
    assert np.all(fused <= np.maximum(a, b))
    assert np.all(fused >= np.minimum(a, b))
    # The tables are those of the network that the guide builds.
    rules = registry.conversion("gate").RULES["Network"]
    assert {row[1] for row in rules.modules} == {p.rpartition("/")[0] for p in fuse.params}


def test_the_test_of_the_guide_passes(gate):
    namespace = {}
    exec(gate["tests/systems/gate/test_gate.py"], namespace)
    namespace["test_the_result_lies_between_the_sources"]()
