"""MMA-UNet's three phases through the loop: what is frozen stays, and stops leave no trace."""

import os
import signal
import zlib

import fake_mma_unet
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import noise
from helpers_runs import finish, log, losses, newest, start, wait_for_step

import mgdn_jax
from mgdn_jax import training
from mgdn_jax.errors import InputError
from mgdn_jax.systems.mma_unet.recipe import CLASSES, SHIPPED, Recipe
from mgdn_jax.training.checkpoints import Checkpoints

BOUNDARIES = (2, 4)
PHASES = [{"visible", "visible_decoder"}, {"infrared", "infrared_decoder"}, {"fusion"}]


def fit(workdir, optimiser=None, **train):
    made = fake_mma_unet.config(**{"devices": 1} | train)
    made["optimiser"] |= optimiser or {}
    if train.get("eval_every"):
        made["data"]["validation"] = {}
    return training.fit(made, workdir, quiet=True)


def same(one, other):
    """Checkpoints and losses of two runs are equal bit for bit."""
    (step, whole, header), (other_step, parts, other_header) = newest(one), newest(other)
    assert step == other_step == 6
    assert header["data"] == other_header["data"]
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert value.tobytes() == parts[name].tobytes(), name
    assert losses(one) == losses(other)
    assert len(losses(one)) == 6


def stopped(workdir, steps, monkeypatch, **train):
    """Runs until the end, stopped by a signal after each of the steps."""

    class Interrupting(fake_mma_unet.Gray):
        def __next__(self):
            if self.position + 1 in steps:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__next__()

    monkeypatch.setattr(fake_mma_unet, "Gray", Interrupting)
    ends = []
    while not ends or ends[-1] < 6:
        ends.append(fit(workdir, **train).step)
    assert ends == [*steps, 6]


@pytest.mark.parametrize("phase", [pytest.param("visible", marks=pytest.mark.long), "infrared"])
def test_frozen_networks_keep_their_statistics(phase):
    kind, rng = recipe(), np.random.default_rng(0)
    shapes = jax.eval_shape(kind.init, jax.random.key(0))
    params, stats = jax.tree.map(lambda x: rng.uniform(0.1, 0.5, x.shape).astype(x.dtype), shapes)
    batch = {name: rng.random((2, 16, 16, 1), np.float32) for name in "ab"}
    keys = jax.random.split(jax.random.key(1), 2)
    total, (new, terms) = jax.jit(lambda *of: kind.loss(*of, keys, phase))(params, stats, batch)
    assert float(total) > float(terms["mse"]) > 0
    moved = {
        name
        for name, tree in stats.items()
        if all(not np.array_equal(x, new[name][key]) for key, x in tree.items())
    }
    still = {
        name
        for name, tree in stats.items()
        if all(np.array_equal(x, new[name][key]) for key, x in tree.items())
    }
    trained = next(set(p.trains) for p in kind.phases if p.name == phase)
    assert (moved, still) == (trained, set(CLASSES) - trained)


@pytest.mark.long
def test_phases_train_their_networks_and_a_stop_leaves_no_trace(tmp_path, monkeypatch):
    """The stop is in the second phase, where the first one's networks are frozen."""
    result = fit(tmp_path / "whole", save_every=2, keep=3)
    stopped(tmp_path / "parts", (3,), monkeypatch, save_every=2, keep=3)
    same(tmp_path / "whole", tmp_path / "parts")
    checkpoints = Checkpoints(tmp_path / "whole" / "checkpoints")
    assert checkpoints.steps() == [2, 4, 6]
    states = [checkpoints._read(step)[0] for step in checkpoints.steps()]
    checkpoints.close()
    key = jax.random.fold_in(jax.random.key(0), zlib.crc32(b"init"))
    fresh = dict(zip(("params", "stats"), recipe().init(key), strict=True))
    before = {
        kind: {f"{net}/{name}": x for net, tree in trees.items() for name, x in tree.items()}
        for kind, trees in fresh.items()
    }
    for after, networks in zip(states, PHASES, strict=True):
        for kind in ("params", "stats", "opt"):
            moved = {
                name.split("/")[0]
                for name, value in after[kind].items()
                if kind in before and not np.array_equal(value, before[kind][name])
            }
            assert moved == (networks if kind in before else set()), kind
        before = after
    rows = log(tmp_path / "whole")
    assert rows[0].keys() >= {"mse"}
    assert rows[-1].keys() >= {"gradient", "dissimilarity", "intensity"}
    fuse = mgdn_jax.load(result.weights)
    assert fuse.system == "mma_unet"
    assert fuse.card["loss"]["intensity_rule"] == "mean"
    assert {name.split("/")[0] for name in fuse.params} == set(SHIPPED)
    pictures = [np.asarray(255 * noise(9, 7, seed=i)).astype(np.uint8) for i in range(2)]
    fused = fuse(*pictures)
    assert (fused.shape, fused.dtype) == ((9, 7), np.uint8)


@pytest.mark.long
def test_stopped_around_both_boundaries_equals_uninterrupted(tmp_path, monkeypatch):
    fit(tmp_path / "whole", eval_every=2)
    stopped(tmp_path / "parts", (1, 2, 3, 4, 5), monkeypatch, eval_every=2)
    same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.long
@pytest.mark.parametrize("moment", BOUNDARIES)
def test_killed_at_a_boundary(tmp_path, moment):
    fit(tmp_path / "whole", save_every=1)
    workdir, config = tmp_path / "killed", "--config=tests/fake_mma_unet.py"
    command = ["--config.train.save_every=1", "--config.train.devices=1",
               "--config.data.train.delay=0.5"]  # fmt: skip
    process = start(workdir, *command, config=config)
    wait_for_step(workdir, moment, process)
    process.kill()
    code, out = finish(process)
    assert code == -signal.SIGKILL, out
    code, out = finish(start(workdir, *command, config=config))
    assert code == 0, out
    same(tmp_path / "whole", workdir)


@pytest.mark.long
def test_one_device_and_four_give_the_same_trajectory(tmp_path):
    """Statistics of batch norm cross devices, and so does the mean that is squared.

    By SGD: Adam makes whole steps of slopes that are nought but for rounding.
    """
    for devices in (1, 4):
        fit(tmp_path / str(devices), {"name": "sgd", "learning_rate": 1e-2}, devices=devices)
    one, four = (log(tmp_path / name) for name in "14")
    for row, other in zip(one, four, strict=True):
        names = row.keys() & {"loss", "grad_norm", "mse", "gradient", "dissimilarity", "intensity"}
        assert len(names) >= 3
        for name in sorted(names):
            off = abs(other[name] / row[name] - 1)
            print(f"step {row['step']} {name}: 4 devices off by {off:.1e}")
            assert off <= 1e-4, name


def recipe(**settings):
    made = fake_mma_unet.config()
    fields = {k: v for k, v in made["recipe"].items() if k != "name"}
    return Recipe(made["model"], **(fields | settings))


def traced(kind, phase, **changes):
    """Shapes of the loss of a phase, in use, and of what else it gives."""
    shapes = jax.eval_shape(kind.init, jax.random.key(0))
    shape = changes.pop("shape", (2, 16, 16, 1))
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name in "ab"}
    return shapes, jax.eval_shape(lambda p, s, b: kind.loss(p, s, b, None, phase), *shapes, batch)


@pytest.mark.parametrize("phase", ["visible", "infrared", "fusion"])
def test_crops_of_any_size_from_sixteen(phase):
    (_, stats), (total, (new, terms)) = traced(recipe(), phase, shape=(1, 17, 31, 1))
    assert total.shape == ()
    assert {k: set(v) for k, v in new.items()} == {k: set(v) for k, v in stats.items()}
    assert all(term.shape == () for term in terms.values())


def test_what_a_batch_must_have():
    with pytest.raises(InputError, match=r"of 15 x 16 are too small for four halvings; make data"):
        traced(recipe(), "visible", shape=(2, 15, 16, 1))
    with pytest.raises(InputError, match="luminance"):
        traced(recipe(), "fusion", shape=(2, 16, 16, 3))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"visible_phase": 0.0}, "visible_phase is 0.0"),
        ({"infrared_phase": 1.0}, "infrared_phase is 1.0"),
        ({"visible_phase": 0.5, "infrared_phase": 0.5}, "leaves nothing for the fusion"),
        ({"gradient": -1.0}, "gradient is -1.0"),
        ({"intensity_rule": "brighter"}, "intensity_rule is 'brighter'; choose one of max, mean"),
    ],
)
def test_settings_that_make_no_sense(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        recipe(**settings)


def test_weights_go_back_to_their_networks():
    """Shipped weights start a run again; the U-Nets' own decoders, which do not ship, are fresh."""
    kind = recipe()
    params, stats = jax.eval_shape(kind.init, jax.random.key(0))
    parts, moments = kind.part(*kind.join(params, stats))
    assert set(parts) == set(moments) == set(SHIPPED) < set(CLASSES)
    for name in SHIPPED:
        assert parts[name] == params[name]
        assert moments[name] == stats[name]
