"""EMMA's two phases through the loop: what is frozen stays; stops and devices leave no trace."""

import os
import signal
import zlib

import fake_emma
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import noise
from helpers_runs import finish, log, losses, newest, start, wait_for_step

import mgdn_jax
from mgdn_jax import training
from mgdn_jax.errors import InputError
from mgdn_jax.systems.emma import views
from mgdn_jax.systems.emma.recipe import Recipe
from mgdn_jax.training.checkpoints import Checkpoints

SENSING = ("sensing_a", "sensing_b")
BOUNDARY = 3


def fit(workdir, recipe=None, **train):
    made = fake_emma.config(**{"devices": 1} | train)
    made["recipe"] |= recipe or {}
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


def test_a_phase_trains_its_networks_and_leaves_the_others(tmp_path):
    made = fake_emma.config(devices=1, save_every=BOUNDARY, keep=2, steps=4)
    made["recipe"]["first_phase"] = 0.75
    result = training.fit(made, tmp_path, quiet=True)
    assert result.step == 4
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.steps() == [BOUNDARY, 4]
    middle, end = (checkpoints._read(step)[0] for step in checkpoints.steps())
    checkpoints.close()
    key = jax.random.fold_in(jax.random.key(0), zlib.crc32(b"init"))
    fresh, moments = recipe().init(key)

    def moved(kind, before, after):
        return {
            name.split("/")[0]
            for name, value in after[kind].items()
            if not np.array_equal(value, before[name])
        }

    def flat(trees):
        return {f"{net}/{name}": x for net, tree in trees.items() for name, x in tree.items()}

    assert moved("params", flat(fresh), middle) == set(SENSING)
    assert moved("stats", flat(moments), middle) == set(SENSING)
    assert moved("params", middle["params"], end) == {"fusion"}
    assert moved("stats", middle["stats"], end) == set()
    assert moved("opt", middle["opt"], end) == {"fusion"}
    rows = log(tmp_path)
    assert rows[0].keys() >= {"error_a", "error_b"}
    assert rows[-1].keys() >= {"sense_a", "sense_b", "equivariance"}
    fuse = mgdn_jax.load(result.weights)
    assert fuse.system == "emma"
    assert fuse(np.asarray(noise(9, 7)), np.asarray(noise(9, 7, seed=1))).shape == (9, 7)


@pytest.mark.long
def test_stopped_before_at_and_after_the_boundary_equals_uninterrupted(tmp_path, monkeypatch):
    fit(tmp_path / "whole", eval_every=2)
    stops = (BOUNDARY - 1, BOUNDARY, BOUNDARY + 1)

    class Interrupting(fake_emma.Gray):
        def __next__(self):
            if self.position + 1 in stops:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__next__()

    monkeypatch.setattr(fake_emma, "Gray", Interrupting)
    ends = []
    while not ends or ends[-1] < 6:
        ends.append(fit(tmp_path / "parts", eval_every=2).step)
    assert ends == [*stops, 6]
    same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.long
@pytest.mark.parametrize("moment", [BOUNDARY - 1, BOUNDARY, BOUNDARY + 1])
def test_killed_in_either_phase_and_between_them(tmp_path, moment):
    fit(tmp_path / "whole", save_every=1)
    workdir, config = tmp_path / "killed", "--config=tests/fake_emma.py"
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
    """Statistics of batch norm cross devices, and shifts are drawn for each picture."""
    for devices in (1, 4):
        fit(tmp_path / str(devices), {"views": 4}, devices=devices)
    one, four = (log(tmp_path / name) for name in "14")
    for row, other in zip(one, four, strict=True):
        names = row.keys() & {"loss", "error_a", "error_b", "sense_a", "sense_b", "equivariance"}
        assert len(names) >= 3
        for name in sorted(names):
            off = abs(other[name] / row[name] - 1)
            print(f"step {row['step']} {name}: 4 devices off by {off:.1e}")
            # Noise of the steps before, which Adam makes whole steps of, in what the frozen see.
            assert off <= 3e-4, name
    (_, wanted, _), (_, found, _) = (newest(tmp_path / name) for name in "14")
    for name, value in wanted.items():
        # A bias before a batch norm has no gradient but noise, which Adam makes steps of.
        if "/convs/" in name and name.endswith("bias"):
            continue
        # So has here and there a single weight: one of 1296 was off by 2e-4, a part of a step. The
        # norms' running means follow those biases.
        off = np.abs(found[name] - value)
        is_mean = name.startswith("stats/") and name.endswith("/mean")
        assert is_mean or (off > 1e-3 * np.abs(value) + 1e-4).mean() <= 1e-3, name
        assert off.max() <= 1e-3, name


def recipe(**settings):
    made = fake_emma.config()
    fields = {k: v for k, v in made["recipe"].items() if k != "name"}
    return Recipe(made["model"], **(fields | settings))


def test_what_a_batch_must_have():
    kind = recipe()
    shapes = jax.eval_shape(kind.init, jax.random.key(0))
    batch = {name: jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32) for name in "ab"}

    def trace(batch, phase):
        return jax.eval_shape(lambda p, s, b: kind.loss(p, s, b, None, phase), *shapes, batch)

    with pytest.raises(InputError, match=r"fused pictures, and the set has none; .*--folders"):
        trace(batch, "sensing")
    odd = {name: jax.ShapeDtypeStruct((2, 9, 8, 1), jnp.float32) for name in "ab"}
    with pytest.raises(
        InputError, match=r"9 x 8 do not fit sensing networks of 2 levels; .* multiples of 2"
    ):
        trace(odd, "fusion")
    colour = {name: jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32) for name in "ab"}
    with pytest.raises(InputError, match="luminance"):
        trace(colour, "fusion")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"first_phase": 1.0}, "first_phase is 1.0"),
        ({"views": 11}, "views is 11 and must be in 1 to 10"),
        ({"equivariance": -1.0}, "equivariance is -1.0"),
        ({"norm_floor": 0.0}, "norm_floor"),
        ({"sensing": (4, 6)}, "features must double"),
        ({"momentum": 2.0}, "momentum must be"),
    ],
)
def test_settings_that_make_no_sense(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        recipe(**settings)


def test_all_views_are_the_default():
    assert Recipe({}).settings.views == views.COUNT == 10
    assert recipe(norm_floor=1e-3)._training_config.norm_floor == 1e-3
    assert recipe(norm_floor=1e-3).model_config.norm_floor == 1e-12
