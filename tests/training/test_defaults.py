"""A config that lacks a field means the field's default: runs from before a field came go on."""

import copy
import dataclasses
import importlib
import json
import pathlib

import fake_recipe
import pytest

from mgdn_jax import data
from mgdn_jax.errors import InputError
from mgdn_jax.systems import registry
from mgdn_jax.training import config as run_config
from mgdn_jax.training.setup import read_recipe
from mgdn_jax.weights import zoo
from mgdn_jax.weights.store import load_weights

JITTER = {
    **{"scale": 1.0, "gamma": 1.0, "noise": 0.0, "clip": 0.0},
    **{"exposure": 1.0, "contrast": 0.0, "polarity": 0.0},
}
MAKERS = {"train": data.make_loader, "validation": data.make_eval_loader}


def standard(system="lkc_funet"):
    return run_config.defaults(registry.recipe(system).settings_type, MAKERS)


def compare(before, now, system="lkc_funet"):
    run_config.compare(before, now, "runs/x", standard(system))
    run_config.compare(now, before, "runs/x", standard(system))


def test_a_run_from_before_a_field_goes_on_while_that_is_off():
    before = {"data": {"dataset": "ivf", "train": {"crop": 8}}}
    off = {
        "data": {"dataset": "ivf", "mix": {}, "train": {"crop": 8, "jitter": JITTER}},
        "recipe": {"gradient_rule": "strength", "intensity_rule": "max", "intensity_share": 1.0},
        "optimiser": {"b1": 0.9, "milestones": (), "networks": {}},
        "train": {"init": "", "best": "", "accumulate": 1},
    }
    compare(before, off)
    on = copy.deepcopy(off)
    on["data"]["train"]["jitter"] = {**JITTER, "noise": 0.1}
    with pytest.raises(InputError, match=r"started with data.train.jitter.noise=0.0 .* says 0.1"):
        compare(before, on)
    on = copy.deepcopy(off)
    on["data"] |= {"dataset": "", "mix": {"ivf": 1}}
    with pytest.raises(InputError, match=r"started with data.dataset='ivf' .* says ''"):
        compare(before, on)
    on = {**off, "recipe": {"gradient_rule": "signed"}}
    with pytest.raises(InputError, match=r"recipe.gradient_rule='strength' .* says 'signed'"):
        compare(before, on)
    with pytest.raises(InputError, match=r"recipe.gradient_rule='signed' .* says 'strength'"):
        run_config.compare(on, before, "runs/x", standard())


def test_jitter_may_be_left_out_be_none_or_be_partly_given():
    variants = [{}, {"jitter": None}, {"jitter": {}}, {"jitter": {"gamma": 1.0}}]
    for one in variants:
        for other in variants:
            compare({"data": {"train": one}}, {"data": {"train": other}})


def test_what_all_loaders_get_counts_for_each():
    shared = {"data": {"channels": 1, "train": {}, "validation": {}}}
    parts = {"data": {"train": {"channels": 1}, "validation": {"channels": 1}}}
    compare(shared, parts)
    # The training part has its own value, which happens to be the default.
    with pytest.raises(InputError, match=r"data.train.channels=1 and the config now says 3"):
        compare(shared, {"data": {"channels": 1, "train": {"channels": 3}, "validation": {}}})
    with pytest.raises(InputError, match=r"started with data.channels=1 .* says 3"):
        compare(shared, {"data": {"channels": 3, "train": {}, "validation": {}}})
    with pytest.raises(InputError, match=r"data.train.channels=1 and the config now says 3"):
        compare(shared, {"data": {"train": {}, "validation": {}}})
    with pytest.raises(InputError, match=r"data.validation.* and the config now says None"):
        compare(shared, {"data": {"channels": 1, "train": {}}})


def test_a_loader_of_ones_own_may_have_blocks_and_strange_hints():
    @dataclasses.dataclass(frozen=True)
    class Blur:
        radius: float = 2.0
        kind: str = "box"

    def make_loader(*, batch_size, blur=None, size=8): ...

    make_loader.__annotations__ = {"blur": Blur}
    known = run_config.defaults(fake_recipe.Settings, {"train": make_loader})
    assert known.data == {"train": {"blur.radius": 2.0, "blur.kind": "box", "size": 8}}
    make_loader.__annotations__ = {"blur": "NoSuchName"}
    known = run_config.defaults(fake_recipe.Settings, {"train": make_loader})
    assert known.data == {"train": {"blur": None, "size": 8}}
    assert known.fields["recipe.noise"] == 0.01
    assert "recipe.name" not in known.fields
    assert "train.batch" not in known.fields


@pytest.mark.parametrize("system", ["mgdn", "cddfuse", "lkc_funet", "pyramid", "refusion"])
def test_none_stands_for_the_default(system):
    compare({"train": {"init": None, "keep": None}}, {"train": {}}, system)
    compare({"optimiser": {"gamma": None}}, {"optimiser": {"gamma": 0.5}}, system)


@pytest.mark.parametrize("name", sorted(zoo.bundled()))
def test_the_runs_of_the_bundled_networks_could_go_on(name):
    """Their cards hold the configs of their days, which lack what came since."""
    stored = json.loads(json.dumps(load_weights(zoo.resolve(name)).card["config"]))
    run = run_config.check(stored)
    kind = registry.recipe(run.recipe["name"]).settings_type
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    now = copy.deepcopy(stored)
    for field, value in fields.items():
        if value is not dataclasses.MISSING:
            now["recipe"].setdefault(field, value)
    now["data"].setdefault("mix", {})
    now["data"]["train"]["jitter"] = JITTER | (now["data"]["train"].get("jitter") or {})
    now["train"].setdefault("init", "")
    compare(stored, now, run.recipe["name"])


CAMERAS = {
    "fusion-ivf": ("pyramid", "ivf_further"),
    "fusion-mif": ("pyramid", "mif"),
    "refusion-ivf": ("refusion", "ivf_cameras"),
    "lkc-funet-small-ivf": ("lkc_funet", "ivf_cameras"),
    "tim-ivf": ("tim", "ivf_cameras"),
    "cen-ivf": ("cen", "ivf_cameras"),
}


@pytest.mark.parametrize("name", CAMERAS)
def test_the_command_of_a_card_gives_the_config_of_its_run(name):
    module, preset = CAMERAS[name]
    card = load_weights(zoo.resolve(name)).card
    assert f"configs/{module}.py:{preset}" in card["training"]["command"]
    config = importlib.import_module(f"configs.{module}").get_config(preset).to_dict()
    stored = json.loads(json.dumps(card["config"]))
    start = pathlib.PurePath(config["train"].pop("init")).name  # runs lie where people like
    assert pathlib.PurePath(stored["train"].pop("init")).name == start
    networks = [read_recipe(run_config.check(c)).model_config for c in (config, stored)]
    assert networks[0] == networks[1]
    stored["model"] = config["model"]  # a preset, or its fields one by one
    compare(stored, json.loads(json.dumps(config)), module)
