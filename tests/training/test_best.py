"""Which checkpoint is the best: by PSNR, by the loss where there is no target, or as one likes."""

import json
import math
import shutil

import fake_recipe
import jax.numpy as jnp
import pytest

from mgdn_jax import training
from mgdn_jax.systems.contract import Phase
from mgdn_jax.training import loop
from mgdn_jax.training.checkpoints import Checkpoints, score


def test_scores():
    both = {"loss": 0.25, "psnr": 30.0, "outer_loss": 0.5, "contrast": 2.0}
    assert score(both) == 30.0
    assert score({"loss": 0.25}) == -0.25
    assert score(both, "loss") == -0.25
    assert score(both, "outer_loss") == -0.5
    assert score(both, "contrast") == 2.0
    assert score({}) is None
    assert score({"loss": 0.25}, "psnr") is None
    assert score({"psnr": math.nan}) is None
    assert score({"psnr": -1e30}) is None  # what runs of the first release wrote


class Judging(fake_recipe.Recipe):
    """Has a figure of its own."""

    def judge(self, params, stats, batch):
        return {"contrast": jnp.ones(())}, []


FIGURES = {
    2: {"loss": 0.3, "psnr": 31.0, "contrast": 3.0},
    4: {"loss": 0.1, "psnr": 30.0, "contrast": 1.0},
    6: {"loss": 0.2, "psnr": 32.0, "contrast": 2.0},
    8: {"loss": 0.4, "psnr": 29.0, "contrast": 0.5},
    10: {"loss": 0.5, "psnr": 28.0, "contrast": 0.4},
}


@pytest.fixture
def figures(monkeypatch):
    """Validation finds what a test wants at each step."""
    table = {step: dict(values) for step, values in FIGURES.items()}

    def validate(self, state, step, phase):
        self.metrics = table[step]

    monkeypatch.setattr(fake_recipe, "Recipe", Judging)
    monkeypatch.setattr(loop._Loop, "_validate", validate)
    return table


def fit(workdir, **train):
    usual = {"devices": 1, "steps": 10, "eval_every": 2, "save_every": 1, "keep": 1}
    return training.fit(fake_recipe.config(**usual | train), workdir, quiet=True)


def kept(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.mark.parametrize(("best", "step"), [("", 6), ("psnr", 6), ("loss", 4), ("contrast", 2)])
def test_the_best_of_a_run_is_kept(tmp_path, figures, best, step):
    fit(tmp_path, best=best)
    assert kept(tmp_path) == [step, 10]


def test_the_best_is_one_of_the_last_phase(tmp_path, figures):
    """Losses of two phases do not compare: that of the first is the smallest here."""
    made = fake_recipe.config(devices=1, steps=10, eval_every=2, save_every=1, keep=1, best="loss")
    made["recipe"]["two_phases"] = True
    training.fit(made, tmp_path, quiet=True)
    assert kept(tmp_path) == [6, 10]


def test_a_last_phase_without_steps_is_not_the_last(tmp_path, figures, monkeypatch):
    class Long(Judging):
        def __init__(self, model=None, **settings):
            super().__init__(model, **settings)
            self.networks = ("fusion",)
            self.phases = (Phase("first", ("fusion",), steps=100), Phase("second", ("fusion",)))

    monkeypatch.setattr(fake_recipe, "Recipe", Long)
    fit(tmp_path, best="loss")
    assert kept(tmp_path) == [4, 10]


def test_without_targets_the_best_has_the_smallest_loss(tmp_path, figures):
    for values in figures.values():
        del values["psnr"]
    fit(tmp_path)
    assert kept(tmp_path) == [4, 10]


def test_what_is_best_may_change_on_resume(tmp_path, figures):
    fit(tmp_path, steps=4, keep=4)
    fit(tmp_path, steps=6, keep=4, best="loss")
    assert kept(tmp_path) == [3, 4, 5, 6]
    fit(tmp_path, best="contrast")
    assert kept(tmp_path) == [6, 10]  # of those that were there
    assert json.loads((tmp_path / "config.json").read_text())["train"]["best"] == "contrast"


def test_runs_of_the_first_release_go_on(tmp_path):
    """They wrote PSNR alone, -1e30 without a validation, and nothing where nothing is held out."""

    def save(checkpoints, step, metrics):
        trees = {"params": {"net": {"w": jnp.full(2, float(step))}}}
        checkpoints.save(step, trees, data={}, meta={}, metrics=metrics)

    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder, keep=9)
    for step, value in [(1, -1e30), (2, 31.0), (3, -1e30), (4, 30.0)]:
        save(checkpoints, step, {"psnr": value})
    save(checkpoints, 5, None)
    checkpoints.close()
    shutil.rmtree(folder / "5" / "metrics")
    checkpoints = Checkpoints(folder, keep=1)
    assert checkpoints.steps() == [1, 2, 3, 4, 5]
    save(checkpoints, 6, {"psnr": 29.0, "loss": 0.1})
    checkpoints.close()
    assert Checkpoints(folder, keep=1).steps() == [2, 6]
