"""Module paths of the release before go on working, with a warning that names the new place."""

import importlib
import sys

import pytest

import mgdn_jax
from mgdn_jax import moved

# One name of each, as documents and scripts used it.
NAMES = {
    "album": "Album",
    "api": "load",
    "baselines": "BASELINES",
    "checkpoint": "load_weights",
    "codec": "encode_png",
    "comparison": "compare_all",
    "conversion": "read_torch",
    "disk": "write_atomically",
    "files": "to_float",
    "fuser": "Fuser",
    "logs": "card_text",
    "models": "create",
    "models.cddfuse": "PRESETS",
    "models.lkc_funet": "Network",
    "models.mgdn": "Config",
    "models.refusion": "ReconstructionNetwork",
    "optimisers": "matrices",
    "processes": "split_cpu",
    "recipes": "Phase",
    "recipes.cddfuse": "Recipe",
    "recipes.lkc_funet": "Recipe",
    "recipes.mgdn": "Recipe",
    "recipes.refusion": "Reconstruction",
    "rendering": "STRETCHES",
    "report": "write_report",
    "runs": "stretches",
    "scores": "read_summaries",
    "steps": "make_meta_step",
    "stream": "BUCKET",
    "subsets": "partition",
    "tiling": "cut",
    "zoo": "resolve",
}


@pytest.fixture(autouse=True)
def forgotten():
    """A module warns when it is first imported; what a test imported is forgotten again."""
    yield
    for old in moved.HOMES:
        if sys.modules.pop(f"mgdn_jax.{old}", None) is not None and "." not in old:
            delattr(mgdn_jax, old)


def test_every_path_has_a_name_to_try():
    assert NAMES.keys() == moved.HOMES.keys()


@pytest.mark.parametrize("old", NAMES)
def test_old_paths_work_and_warn(old):
    with pytest.warns(DeprecationWarning, match=r"^mgdn_jax\.\w+.* is now mgdn_jax\.") as said:
        module = importlib.import_module(f"mgdn_jax.{old}")
    messages = [str(entry.message) for entry in said]
    assert messages[-1].startswith(f"mgdn_jax.{old} is now mgdn_jax.")
    assert messages[-1].endswith("the old name goes with the next release")
    homes = [importlib.import_module(f"mgdn_jax.{home}") for home in moved.HOMES[old]]
    assert getattr(module, NAMES[old]) in [vars(home).get(NAMES[old]) for home in homes]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


def test_the_usual_way_of_importing():
    with pytest.warns(DeprecationWarning, match="mgdn_jax.files is now"):
        from mgdn_jax import files
    assert files.read_image.__module__ == "mgdn_jax.io.files"
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("mgdn_jax.pixie")
