"""The loop on a recipe that trains in milliseconds, on the four virtual devices of conftest."""

import json
import os
import re
import signal

import fake_meta
import fake_recipe
import jax
import numpy as np
import pytest
from helpers_runs import log, losses, newest

from mgdn_jax import training
from mgdn_jax.errors import InputError
from mgdn_jax.io.codec import decode_image
from mgdn_jax.training import config as run_config
from mgdn_jax.training import loop
from mgdn_jax.training.logs import Log
from mgdn_jax.training.setup import read_recipe
from mgdn_jax.training.start import initial_weights
from mgdn_jax.weights import zoo
from mgdn_jax.weights.store import load_weights


def fit(workdir, recipe=None, data=None, optimiser=None, **train):
    # One device unless said otherwise: four threads that wait for each other are slow.
    config = fake_recipe.config(**{"devices": 1} | train)
    config["recipe"] |= recipe or {}
    config["data"]["train"] |= data or {}
    config["optimiser"] |= optimiser or {}
    return training.fit(config, workdir, quiet=True)


@pytest.fixture
def states(monkeypatch):
    """Collects the state at every save: leaves are lists of one array a device."""
    seen = []
    save = loop._Loop._save

    def spy(self, state, *args, **kwargs):
        assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(state))
        seen.append(jax.tree.map(lambda x: [np.array(s.data) for s in x.addressable_shards], state))
        save(self, state, *args, **kwargs)

    monkeypatch.setattr(loop._Loop, "_save", spy)
    return seen


def test_one_device_and_four_give_the_same_trajectory(tmp_path, states):
    for devices in (1, 4):
        result = fit(tmp_path / str(devices), steps=10, devices=devices)
        assert (result.status, result.step) == ("complete", 10)
    one, four = (losses(tmp_path / name) for name in "14")
    assert len(one) == 10
    assert one[-1] < 0.8 * one[0]
    np.testing.assert_allclose(four, one, rtol=1e-5)
    # Nothing checks that what claims to be replicated is (out_axes=None): so this does.
    single, shared = (jax.tree.leaves(s, is_leaf=lambda x: isinstance(x, list)) for s in states)
    assert len(shared) > 10
    for (alone,), shards in zip(single, shared, strict=True):
        assert len(shards) == 4
        assert all(shard.tobytes() == shards[0].tobytes() for shard in shards)
        np.testing.assert_allclose(shards[0], alone, rtol=1e-4, atol=1e-6)


def test_accumulation_gives_the_same_trajectory(tmp_path):
    fit(tmp_path / "whole", steps=6, devices=1)
    fit(tmp_path / "parts", steps=6, devices=1, accumulate=4)
    np.testing.assert_allclose(losses(tmp_path / "parts"), losses(tmp_path / "whole"), rtol=1e-5)


def test_a_step_is_traced_once_and_stays_so_after_resuming(tmp_path):
    fake_recipe.TRACES.clear()
    fit(tmp_path, steps=8, save_every=3, data={"examples": 16})
    trained = len(fake_recipe.TRACES)
    fake_recipe.TRACES.clear()
    fit(tmp_path, steps=30, save_every=3, data={"examples": 16})
    # One trace by the step (grad traces the loss once) and one by validation, however long.
    assert (trained, len(fake_recipe.TRACES)) == (2, 2)


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, name):
    options = {"devices": 4, "optimiser": {"name": name}}
    fit(tmp_path / "whole", steps=12, **options)
    for steps in (5, 8, 12):
        assert fit(tmp_path / "parts", steps=steps, **options).step == steps
    whole, parts = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert whole[0] == parts[0] == 12
    assert set(whole[1]) == set(parts[1])
    assert any(name.startswith("opt/fusion") for name in whole[1])
    for name, value in whole[1].items():
        assert value.tobytes() == parts[1][name].tobytes(), name
    # Validation ran at 5 and 8 as well; the training lines are the same, each step once.
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


class Interrupting(fake_recipe.Loader):
    def __next__(self):
        if self.position == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__next__()


def test_sigterm_saves_and_returns(tmp_path, monkeypatch):
    monkeypatch.setattr(fake_recipe, "Loader", Interrupting)
    before = signal.getsignal(signal.SIGTERM)
    result = fit(tmp_path, steps=1000)
    assert (result.status, result.step, result.weights) == ("stopped", 4, None)
    assert signal.getsignal(signal.SIGTERM) is before
    assert newest(tmp_path)[0] == 4
    assert not (tmp_path / "fake.safetensors").exists()
    monkeypatch.undo()
    assert fit(tmp_path, steps=6).status == "complete"
    assert [line["step"] for line in log(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_validation_that_a_signal_prevented_is_made_up_for(tmp_path, monkeypatch):
    monkeypatch.setattr(fake_recipe, "Loader", Interrupting)
    assert fit(tmp_path / "parts", steps=6, eval_every=4).step == 4
    monkeypatch.undo()
    fit(tmp_path / "parts", steps=6, eval_every=4)
    fit(tmp_path / "whole", steps=6, eval_every=4)
    whole, parts = (log(tmp_path / name, "validation") for name in ("whole", "parts"))
    assert [line["step"] for line in whole] == [4, 6]
    assert whole == parts
    # The next start may fail before it saves: then the line comes again, in place of itself.
    Log(tmp_path / "parts", total=6, start=4, owes=True, quiet=True).close()
    assert not log(tmp_path / "parts", "validation")
    Log(tmp_path / "whole", total=6, start=4, quiet=True).close()
    assert log(tmp_path / "whole", "validation") == whole[:1]


def test_a_signal_in_the_last_step_of_a_phase_stops_before_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(fake_recipe, "Loader", Interrupting)
    fake_recipe.TRACES.clear()
    result = fit(tmp_path, {"two_phases": True}, steps=8)
    assert (result.status, result.step) == ("stopped", 4)
    assert set(fake_recipe.TRACES) == {"first"}
    monkeypatch.undo()
    assert fit(tmp_path, {"two_phases": True}, steps=8).status == "complete"
    assert [line["step"] for line in log(tmp_path)] == [*range(1, 9)]


@pytest.mark.parametrize("is_flat", [True, False])
def test_a_network_that_makes_nothing_of_its_inputs_is_told(tmp_path, monkeypatch, capsys, is_flat):
    """Every loss may be finite, and some are even content with black."""
    before = fake_recipe.Recipe.fuse

    def fuse(*arguments):
        return before(*arguments) * (0 if is_flat else 1)

    monkeypatch.setattr(fake_recipe.Recipe, "fuse", fuse)
    config = fake_recipe.config(devices=1, steps=2, eval_every=2)
    training.fit(config, tmp_path)
    assert ("every fused picture that was looked at is flat" in capsys.readouterr().out) == is_flat


def test_inner_steps_that_diverge_stop_an_implicit_run(tmp_path):
    config = fake_meta.config(steps=3, devices=1, log_every=1)
    config["recipe"] |= {"mode": "implicit", "rate": 1e3, "every": 1, "steps": 4}
    with pytest.raises(training.TrainingFailedError) as caught:
        training.fit(config, tmp_path, quiet=True)
    assert "the inner steps of mode 'implicit' diverged at step 1: the norm" in str(caught.value)


@pytest.mark.parametrize("intervals", [{"log_every": 1}, {"log_every": 1000}])
def test_nan_stops_and_names_the_last_good_checkpoint(tmp_path, intervals):
    # Example 43 comes in step 6; step 8 would be saved, and the check comes first.
    with pytest.raises(training.TrainingDivergedError) as caught:
        fit(tmp_path, {"poison": 43}, steps=20, save_every=4, **intervals)
    message = str(caught.value)
    assert "loss became nan at step 6" in message
    assert f"the last good checkpoint is {tmp_path / 'checkpoints' / '4'}" in message
    step, arrays, _ = newest(tmp_path)
    assert step == 4
    assert all(np.isfinite(value).all() for value in arrays.values())
    assert not (tmp_path / "fake.safetensors").exists()


def test_nan_before_any_checkpoint(tmp_path):
    with pytest.raises(training.TrainingDivergedError, match="step 1; there is no checkpoint yet"):
        fit(tmp_path, {"poison": 0})


def test_an_inner_loss_without_a_minimum_stops_an_implicit_run(tmp_path, monkeypatch):
    def saddle(recipe, theta, stats, maps, batch, progress, before=fake_meta.Recipe.inner_loss):
        value, aux = before(recipe, theta, stats, maps, batch, progress)
        return value - 5 * sum((x**2).sum() for x in theta.values()), aux

    monkeypatch.setattr(fake_meta.Recipe, "inner_loss", saddle)
    config = fake_meta.config(steps=3, devices=1, log_every=1)
    config["recipe"] |= {"mode": "implicit", "rate": 1e-3, "every": 1}
    with pytest.raises(training.TrainingFailedError) as caught:
        training.fit(config, tmp_path, quiet=True)
    message = str(caught.value)
    assert re.match(r"the inner Hessian has curvature -\d.* with its damping at step 1, ", message)
    assert "there is no checkpoint yet; raise the damping, or take another mode." in message


def test_phases_train_what_they_name(tmp_path, states):
    fit(tmp_path, {"two_phases": True, "noise": 0.0}, steps=8)
    first, second = states
    assert (first.step[0], second.step[0]) == (4, 8)

    def kernel(state, net):
        return state.params[net]["layers/0/kernel"][0]

    np.testing.assert_array_equal(kernel(first, "fusion"), kernel(second, "fusion"))
    assert np.abs(kernel(first, "critic") - kernel(second, "critic")).max() > 1e-3
    # The average goes on towards parameters that stand still.
    gap = [
        np.abs(s.ema["fusion"]["layers/0/kernel"][0] - kernel(s, "fusion")).max() for s in states
    ]
    np.testing.assert_allclose(gap[1], gap[0] * 0.9**4, rtol=1e-3)
    # Resumed in the middle of the second phase.
    again = tmp_path / "again"
    for steps in (6, 8):
        fit(again, {"two_phases": True, "noise": 0.0}, steps=steps)
    assert newest(again)[0] == 8


def test_the_run_ends_with_weights_and_card(tmp_path):
    result = fit(tmp_path, steps=4, eval_every=2)
    assert result.weights == tmp_path / "fake.safetensors"
    weights = load_weights(result.weights)
    assert (weights.system, weights.config) == (
        "fake_recipe",
        {"width": 4, "in_channels": [3, 3], "out_channels": 3},
    )
    _, arrays, _ = newest(tmp_path)
    for name, value in weights.params.items():
        assert value.tobytes() == arrays[f"ema/fusion/{name}"].tobytes()
        assert value.tobytes() != arrays[f"params/fusion/{name}"].tobytes()
    assert set(weights.stats) == {"mean"}
    card = weights.card
    assert card["training"]["steps"] == 4
    assert card["training"]["examples"] == 32
    assert card["held_out"]["psnr"] == pytest.approx(result.metrics["psnr"], abs=1e-5)
    assert card["versions"]["jax"] == jax.__version__
    text = (tmp_path / "fake.md").read_text()
    assert text.startswith("# fake\n")
    assert f"- psnr: {result.metrics['psnr']:.5g}" in text
    assert json.loads((tmp_path / "config.json").read_text()) == fake_recipe.config(
        steps=4, eval_every=2, devices=1
    )


def test_a_complete_run_says_so_and_does_nothing(tmp_path, capsys):
    first = fit(tmp_path, steps=3)
    before = first.weights.stat().st_mtime_ns
    config = fake_recipe.config(steps=3, devices=1)
    again = training.fit(config, tmp_path)
    assert (again.status, again.step, again.metrics) == ("already complete", 3, first.metrics)
    assert "complete at step 3; the weights are in" in capsys.readouterr().out
    assert first.weights.stat().st_mtime_ns == before
    # Killed between the last checkpoint and the weights: the next start finishes the job.
    content = first.weights.read_bytes()
    first.weights.unlink()
    last = fit(tmp_path, steps=3)
    assert (last.status, last.metrics) == ("complete", first.metrics)
    assert load_weights(last.weights).params.keys()
    assert len(last.weights.read_bytes()) == pytest.approx(len(content), abs=16)


def test_validation_is_exact_whatever_the_layout(tmp_path):
    # 5 held-out examples in batches of 8, 4 or 1: padding must not count.
    results = [
        fit(tmp_path / str(devices) / str(size), steps=1, devices=devices, eval_batch=size).metrics
        for devices, size in [(4, 8), (4, 4), (1, 1)]
    ]
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-5)


def test_what_is_written_down(tmp_path, capsys):
    config = fake_recipe.config(steps=4, log_every=2, eval_every=2, devices=1)
    training.fit(config, tmp_path)
    train, held_out = log(tmp_path), log(tmp_path, "validation")
    assert [line["step"] for line in train] == [2, 4]
    assert [line["step"] for line in held_out] == [2, 4]
    assert train[0].keys() >= {"loss", "mse", "grad_norm", "learning_rate", "images_per_s"}
    assert train[0]["learning_rate"] == pytest.approx(0.01)
    assert held_out[0].keys() >= {"loss", "psnr"}
    out = capsys.readouterr().out
    assert "step 4/4  loss " in out
    assert "images/s  ETA 0:00:00" in out
    assert list((tmp_path / "tensorboard").glob("events*"))
    grid = decode_image((tmp_path / "grids" / "step_00000004.png").read_bytes(), "grid")
    assert grid.shape == (4 * 8 + 3 * 2, 4 * 8 + 3 * 2, 3)  # 4 examples x (a, b, fused, target)
    target = fake_recipe.example(1, 0, 8)["target"]
    np.testing.assert_allclose(grid[:8, -8:] / 255, target, atol=0.5 / 255 + 1e-6)


def test_log_lines_mean_over_their_interval(tmp_path):
    fit(tmp_path / "each", steps=6)
    fit(tmp_path / "three", steps=6, log_every=3)
    each = losses(tmp_path / "each")
    expected = [np.mean(each[:3]), np.mean(each[3:])]
    np.testing.assert_allclose(losses(tmp_path / "three"), expected, rtol=1e-6)


def test_a_log_cut_short_by_a_kill_is_mended(tmp_path):
    fit(tmp_path, steps=4)
    path = tmp_path / "log.jsonl"
    late = json.dumps({"step": 9, "kind": "train", "loss": 0.0})
    path.write_text(path.read_text() + late + '\n{"step": 10, "ki')
    fit(tmp_path, steps=6)
    assert [line["step"] for line in log(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_epochs_and_examples(tmp_path):
    assert fit(tmp_path / "a", steps=0, epochs=0.3).step == 3  # of 80 examples in batches of 8
    assert fit(tmp_path / "b", steps=0, examples=17).step == 3


def test_no_validation_and_no_average(tmp_path):
    config = fake_recipe.config(steps=2, ema=0.0, devices=1)
    del config["data"]["validation"]
    result = training.fit(config, tmp_path, quiet=True)
    assert result.metrics == {}
    _, arrays, _ = newest(tmp_path)
    assert not any(name.startswith("ema") for name in arrays)
    weights = load_weights(result.weights)
    for name, value in weights.params.items():
        assert value.tobytes() == arrays[f"params/fusion/{name}"].tobytes()


def test_resuming_under_another_config_is_refused(tmp_path):
    fit(tmp_path, steps=2)
    with pytest.raises(InputError, match=r"was started with recipe.noise=0.01 .* says 0.5"):
        fit(tmp_path, {"noise": 0.5}, steps=4)
    assert newest(tmp_path)[0] == 2
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"config.json: is missing or damaged"):
        fit(tmp_path, steps=4)


def test_a_header_without_a_checksum_is_looked_at(tmp_path, capsys):
    fit(tmp_path, steps=2)
    path = tmp_path / "checkpoints" / "2" / "header" / "metadata"
    header = json.loads(path.read_text())
    del header["checksum"], header["step"]
    path.write_text(json.dumps(header))  # as release 0.1 wrote it
    assert fit(tmp_path, steps=2).status == "already complete"
    assert "has no checksum of its data position" in capsys.readouterr().out
    header["meta"]["metrics"] = 3
    path.write_text(json.dumps(header))
    with pytest.raises(InputError, match="checkpoints/2: its header is damaged; remove the"):
        fit(tmp_path, steps=4)


def test_a_config_may_change_while_nothing_is_trained(tmp_path):
    tmp_path.joinpath("config.json").write_text("{}")
    assert fit(tmp_path, steps=1).status == "complete"


def test_a_run_may_start_from_weights(tmp_path):
    weights = fit(tmp_path / "first", steps=3).weights
    given = load_weights(weights)
    for folder in ("whole", "parts"):
        weights = weights.rename(tmp_path / "given.safetensors")
        tiny = {"learning_rate": 1e-9}
        stop = 4 if folder == "whole" else 2
        fit(tmp_path / folder, optimiser=tiny, steps=stop, init=str(weights), save_every=2)
    weights.unlink()  # it is part of how the run began, not of going on
    fit(tmp_path / "parts", optimiser=tiny, steps=4, init=str(weights), save_every=2)
    whole, parts = (newest(tmp_path / folder)[1] for folder in ("whole", "parts"))
    for name, value in given.params.items():
        np.testing.assert_allclose(whole[f"params/fusion/{name}"], value, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(whole[f"ema/fusion/{name}"], value, rtol=1e-4, atol=1e-7)
    assert {k: v.tobytes() for k, v in whole.items()} == {k: v.tobytes() for k, v in parts.items()}


# Orbax leaves its other reads behind when the first of them fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_passed_over_on_resume(tmp_path, capsys):
    fit(tmp_path / "whole", steps=8, save_every=3)
    fit(tmp_path / "hurt", steps=6, save_every=3)
    for path in (tmp_path / "hurt" / "checkpoints" / "6" / "params").rglob("d/*"):
        path.write_bytes(b"")
    fit(tmp_path / "hurt", steps=8, save_every=3)
    assert "warning: checkpoint" in capsys.readouterr().out
    whole, hurt = (newest(tmp_path / name)[1] for name in ("whole", "hurt"))
    for name, value in whole.items():
        assert value.tobytes() == hurt[name].tobytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": {"batch": 6}}, "'train.batch' is 6 and does not divide by 4"),
        ({"train": {"devices": 5}}, "'train.devices' is 5, with 4 local devices"),
        ({"recipe": {"nose": 1}}, "no field 'recipe.nose'; did you mean 'noise'"),
        ({"recipe": {"name": "no.such.recipe"}}, "there is no recipe 'no.such.recipe'"),
        ({"data": {"loader": "no.such.loader"}}, "'data.loader' is 'no.such.loader'"),
        ({"data": {"loader": "json"}}, "name a module with make_loader"),
        ({"data": {"sizes": 3}}, "no field 'data.train.sizes'; did you mean 'size'"),
        ({"optimiser": {"warmup": 99}}, "trains for 10 steps; lower it"),
        ({"train": {"init": "no-such"}}, "there is no model 'no-such'"),
        ({"train": {"init": "mgdn-mff"}}, "holds weights of mgdn and the run trains fake"),
        ({"train": {"init": 3}}, "'train.init' is 3 and must be a text"),
    ],
)
def test_bad_configs_write_nothing(tmp_path, change, words):
    config = fake_recipe.config()
    for block, values in change.items():
        config[block] |= values
    with pytest.raises(InputError, match=words):
        training.fit(config, tmp_path)
    assert not list(tmp_path.rglob("*.json*"))


@pytest.mark.parametrize("name", ["mgdn-mff", "refusion-ivf", "cddfuse-ivf", "lkc-funet-small-ivf"])
def test_bundled_networks_can_be_trained_further(name):
    weights = load_weights(zoo.resolve(name))
    recipe = read_recipe(run_config.check(weights.card["config"]))
    params, stats = jax.eval_shape(recipe.init, jax.random.key(0))
    params, stats = initial_weights(recipe, name, params, stats)
    for networks, values in ((params, weights.params), (stats, weights.stats)):
        given = sum(isinstance(x, np.ndarray) for x in jax.tree.leaves(networks))
        assert given == len(values)
    assert set(params) == set(recipe.networks)


def test_a_recipe_that_joins_must_be_able_to_part(tmp_path, monkeypatch):
    weights = fit(tmp_path / "first", steps=1).weights

    def join(self, params, stats):
        return params["fusion"], stats["fusion"]

    monkeypatch.setattr(fake_recipe.Recipe, "join", join)
    with pytest.raises(InputError, match="has no `part` to undo that"):
        fit(tmp_path / "second", steps=1, init=str(weights))


def test_running_statistics_come_with_the_weights(tmp_path):
    weights = fit(tmp_path, steps=3).weights
    recipe = fake_recipe.Recipe(model={})
    networks = recipe.init(jax.random.key(0))
    stats = initial_weights(recipe, str(weights), *networks)[1]["fusion"]
    assert np.array_equal(stats["mean"], load_weights(weights).stats["mean"])
    assert not np.array_equal(stats["mean"], networks[1]["fusion"]["mean"])


def test_weights_of_another_shape_are_refused(tmp_path):
    weights = fit(tmp_path / "first", steps=1).weights
    config = fake_recipe.config(init=str(weights))
    config["model"]["width"] = 5
    with pytest.raises(InputError, match=r"fusion: 2 arrays differ, layers/0/kernel first"):
        training.fit(config, tmp_path / "second")
    assert not list((tmp_path / "second").rglob("*.json*"))


def test_a_workdir_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: cannot be made"):
        fit(tmp_path / "file")
