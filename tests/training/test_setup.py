"""What is checked before a run starts: the recipe, its system, its loaders, train.best."""

import fake_meta
import fake_recipe
import pytest

from mgdn_jax import training
from mgdn_jax.errors import InputError
from mgdn_jax.systems.contract import Loader, Phase
from mgdn_jax.training import config as run_config
from mgdn_jax.training import processes, setup
from mgdn_jax.training.kinds import KINDS, check_kind
from mgdn_jax.training.setup import _check_loader, read_recipe


def read(module=fake_recipe):
    return read_recipe(run_config.check(module.config()))


def refused(words, module=fake_recipe):
    with pytest.raises(InputError, match=words) as caught:
        read(module)
    assert "\n" not in str(caught.value)


def test_a_good_recipe_is_read():
    assert type(read()) is fake_recipe.Recipe
    recipe = read(fake_meta)
    check_kind(recipe, "meta")
    for kind in set(KINDS) - {"plain", "meta"}:
        with pytest.raises(InputError, match=f"has a phase of kind '{kind}', which asks for"):
            check_kind(recipe, kind)


def test_a_phase_that_learns_its_loss_needs_a_recipe_that_can(monkeypatch):
    class Recipe(fake_recipe.Recipe):
        def __init__(self, model=None, **settings):
            super().__init__(model, **settings)
            self.phases = (Phase("only", ("fusion",), kind="meta"),)

    monkeypatch.setattr(fake_recipe, "Recipe", Recipe)
    refused(r"Recipe has a phase of kind 'meta', .* derives from .*\.MetaRecipe and sets `meta`")

    class Forgetful(fake_meta.Recipe):
        def __init__(self, model=None, **settings):
            super().__init__(model, **settings)
            self.meta = None

    monkeypatch.setattr(fake_meta, "Recipe", Forgetful)
    refused(r"Forgetful has a phase of kind 'meta', .* and sets `meta`", fake_meta)


def test_phases_are_of_a_kind_that_there_is(monkeypatch):
    class Recipe(fake_meta.Recipe):
        phases = (Phase("meta", fake_meta.Recipe.networks, kind="mata"),)

    monkeypatch.setattr(fake_meta, "Recipe", Recipe)
    refused("'fake_meta' has a phase of kind 'mata'; did you mean 'meta'", fake_meta)


def test_what_a_recipe_leaves_unwritten_is_named(monkeypatch):
    from mgdn_jax.systems.base import BaseRecipe

    class Recipe(BaseRecipe):
        system = "fake_recipe"

    monkeypatch.setattr(fake_recipe, "Recipe", Recipe)
    refused("'fake_recipe' does not define loss; write it")


def test_whatever_is_trained_must_be_loadable(monkeypatch):
    system = "no_such_system"

    class Recipe(fake_recipe.Recipe):
        def __init__(self, model=None, **settings):
            super().__init__(model, **settings)
            self.system = system

    monkeypatch.setattr(fake_recipe, "Recipe", Recipe)
    refused(r"'fake_recipe' could not be loaded again, for there is no system 'no_such_system'")
    # Found, but whose network is another: the stored configuration would not be understood.
    system = "mgdn"
    refused(
        r"could not be loaded again, for its `model_config` is a fake_recipe\.Config and the system"
        r" 'mgdn' has mgdn_jax\.systems\.mgdn\.network\.Config; name the system"
    )
    system = "json"
    refused(r"could not be loaded again, for the system 'json' has no module 'network'")


def fit(tmp_path, **train):
    config = fake_recipe.config(**{"devices": 1, "steps": 2} | train)
    return training.fit(config, tmp_path, quiet=True)


def test_what_a_loader_lacks_is_named(tmp_path, monkeypatch):
    class Forgetful:
        dataset = range(80)

        def __next__(self):
            return {}

        def close(self):
            pass

    monkeypatch.setattr(fake_recipe, "make_loader", lambda **_: Forgetful())
    with pytest.raises(InputError, match=r"fake_recipe\.make_loader returns a Forgetful without"
                       r" state, restore; see mgdn_jax\.systems\.contract\.Loader"):  # fmt: skip
        fit(tmp_path)
    monkeypatch.setattr(fake_recipe, "make_loader", lambda **_: None)
    with pytest.raises(InputError, match="without dataset, __next__, state, restore, close"):
        fit(tmp_path)
    assert not list(tmp_path.rglob("*.json*"))


def test_a_loader_that_keeps_the_contract_is_one():
    loader = fake_recipe.make_loader(batch_size=8, seed=0, process_index=0, process_count=1)
    assert isinstance(loader, Loader)
    assert _check_loader("fake_recipe", loader) is None


@pytest.mark.parametrize(
    ("best", "validation", "words"),
    [
        ("pnsr", {}, "'train.best' is 'pnsr', which validation does not give; did you mean 'psnr'"),
        ("qqq", {}, "does not give; choose one of loss, psnr"),
        ("loss", None, "'train.best' is 'loss' and nothing is held out; add the block"),
    ],
)
def test_the_best_is_by_a_figure_that_validation_gives(tmp_path, best, validation, words):
    config = fake_recipe.config(devices=1, best=best)
    if validation is None:
        del config["data"]["validation"]
    with pytest.raises(InputError, match=words):
        training.fit(config, tmp_path, quiet=True)
    assert not list(tmp_path.rglob("*.json*"))


def test_data_that_differ_from_the_first_process_are_refused(monkeypatch):
    loader = fake_recipe.make_loader(batch_size=4, seed=0, process_index=0, process_count=1)
    setup._check_data(loader)
    monkeypatch.setattr(processes, "from_first", lambda tree, notes: (tree, {"position": 3}))
    with pytest.raises(InputError, match="process 0 have position 0, those of process 0 have 3; c"):
        setup._check_data(loader)
