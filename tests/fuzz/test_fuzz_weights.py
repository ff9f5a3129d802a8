"""Damaged weight files, cards, configs and PyTorch files.

`MGDN_FUZZ=2000` tries more of each kind than the 200 of the suite.
"""

import io
import json

import numpy as np
import pytest
from mutations import count, mutations, survey
from safetensors.numpy import save

from mgdn_jax.cli import tools
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import tasks
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.io import objects
from mgdn_jax.quantities.depth import DepthPreparation
from mgdn_jax.quantities.radiance import RadiancePreparation
from mgdn_jax.systems import finding, registry
from mgdn_jax.training import config as run_config
from mgdn_jax.weights import conversion, zoo
from mgdn_jax.weights.card import card_text
from mgdn_jax.weights.store import load_weights


def header_of(name):
    """Notes of a bundled network, as its file holds them."""
    about = zoo.describe(zoo.bundled()[name])
    return {
        "format": "mgdn_jax",
        "version": "1",
        "system": about["system"],
        "config": json.dumps(about["config"]),
        "card": json.dumps(about["card"]),
    }


def weight_file(**notes):
    random = np.random.default_rng(0)
    kinds = ("float32", "float16", "float64", "int32")
    arrays = {
        f"layers/{i}/{leaf}": random.normal(size=(3, 2 + i)).astype(kind)
        for i, kind in enumerate(kinds)
        for leaf in ("kernel", "stats:mean")
    }
    return save(arrays, metadata=header_of("mgdn-mff") | notes)


def use(content):
    """Whatever is read off a weight file before its network is built."""
    card = content.card
    FuseOptions.on_card(card)
    tasks.of_card(card)
    card_text("name", card)
    tools._facts(
        {"system": content.system, "parameters": 1, "card": card, "config": content.config}
    )
    stated = card.get("preparation")
    if stated:
        kind = RadiancePreparation if "gamma" in stated else DepthPreparation
        kind.from_dict(stated)


def at(folder, read, name="file"):
    """A reader of paths as a reader of bytes."""
    path = folder / name

    def reader(content):
        path.write_bytes(content)
        return read(path)

    return reader


def test_weight_files(tmp_path):
    def read(path):
        use(load_weights(path))

    found = survey(at(tmp_path, read), mutations(weight_file(), count(), seed=1))
    assert found["refused"] > found["read"]


def test_descriptions(tmp_path):
    survey(at(tmp_path, zoo.describe), mutations(weight_file(), count(), seed=2))


CARD = {
    "name": "a",
    "task": "multi-focus",
    "figures": {"psnr": 40.0, "held out": [1, 2.5]},
    "inference": {"tile": 64, "overlap": 8, "stretch": "minmax"},
}
CARDS = {
    "depth": CARD | {"preparation": {"quantity": "depth", "scale": 4, "margin": 0.02}},
    "radiance": CARD | {"preparation": {"quantity": "radiance", "gamma": 2.2, "mu": 5000}},
}


@pytest.mark.parametrize("kind", CARDS)
def test_cards(tmp_path, kind):
    """The card alone is damaged: the rest of the file is whole."""
    reader = at(tmp_path, lambda path: use(load_weights(path)))

    def read(text):
        reader(weight_file(card=text.decode("latin-1")))

    text = json.dumps(CARDS[kind]).encode()
    read(text)
    survey(read, mutations(text, count(), seed=7))


def read_config(system, text):
    fields = objects.object_of(text, "config")
    registry.network(system).Config.from_dict(fields)


@pytest.mark.parametrize("system", finding.builtin())
def test_configs_of_systems(system):
    module = registry.network(system)
    text = json.dumps(next(iter(module.PRESETS.values())).to_dict()).encode()
    read_config(system, text)
    found = survey(lambda text: read_config(system, text), mutations(text, count(), seed=3))
    assert found["refused"] > found["read"]


@pytest.mark.parametrize("system", finding.builtin())
def test_configs_of_runs(system):
    """What is read of a config before the network is outlined and the data are opened."""
    model = {"preset": registry.list_presets(system)[0], "dtype": "float32"}
    config = {
        "name": "a",
        "recipe": {"name": system},
        "model": model,
        "data": {"loader": "mgdn_jax.data", "dataset": "ivf", "train": {"crop": 16}},
        "optimiser": {"name": "adam", "learning_rate": 1e-3, "milestones": [0.5, 0.75]},
        "train": {"batch": 4, "steps": 6, "seed": 1, "ema": 0.9, "accumulate": 1},
    }

    def read(text):
        run = run_config.check(objects.object_of(text, "config"))
        kind = registry.recipe(system)  # a damaged name is another test's
        kind(run.model, **{k: v for k, v in run.recipe.items() if k != "name"})

    read(json.dumps(config))
    survey(read, mutations(json.dumps(config).encode(), count(), seed=4))


@pytest.mark.parametrize("old", [False, True])
def test_pytorch_files(torch, tmp_path, old):
    random = np.random.default_rng(0)
    tensors = {
        f"layers.{i}.weight": torch.from_numpy(random.normal(size=(3, 2 + i))).to(kind)
        for i, kind in enumerate((torch.float32, torch.float16, torch.bfloat16, torch.int64))
    }
    tensors["shared"] = tensors["layers.0.weight"][1:]
    content = io.BytesIO()
    torch.save({"params": tensors}, content, _use_new_zipfile_serialization=not old)
    reader = at(tmp_path, conversion.read_torch, "net.pth")
    reader(content.getvalue())
    survey(reader, mutations(content.getvalue(), count(), seed=5))


def test_a_survey_finds_what_is_wrong():
    def fails(data):
        raise TypeError("a list")

    with pytest.raises(AssertionError, match="damaged file 0 raised TypeError"):
        survey(fails, mutations(b"content", 1, seed=0))

    def refuses(data):
        raise InputError("no")

    assert survey(refuses, mutations(b"content", 5, seed=0)) == {"read": 0, "refused": 5}
