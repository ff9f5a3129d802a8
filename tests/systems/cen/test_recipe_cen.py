"""Training CEN: the penalty's step, what is logged, stops and devices that leave no trace."""

import os
import signal

import fake_cen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import noise
from helpers_runs import log, newest

import mgdn_jax
from mgdn_jax import training
from mgdn_jax.errors import InputError
from mgdn_jax.layers.channel_exchange import layers_of_scales, sparsity
from mgdn_jax.systems.cen.network import EXCHANGING
from mgdn_jax.systems.cen.proximal import soft_threshold
from mgdn_jax.systems.cen.recipe import SCALES, WEIGHTS, Recipe
from mgdn_jax.training.setup import read_recipe

SMALL = {"encoder": (4, 4), "decoder": (4,)}


def fit(workdir, model=None, recipe=None, **train):
    made = fake_cen.config(**{"devices": 1} | train)
    made["model"] |= model or {}
    made["recipe"] |= recipe or {}
    return training.fit(made, workdir, quiet=True)


def batch(size=12):
    return {name: noise(2, size, size, 1, seed=i) for i, name in enumerate("ab")}


def keys():
    return jax.random.split(jax.random.key(0), 2)


# ---- the step of the penalty ---------------------------------------------------------------------


def test_a_soft_threshold_by_hand():
    weights = {"x": np.asarray([1.0, 1.0, 0.0, 2.0], np.float32)}
    rule = optax.chain(optax.sgd(0.1), soft_threshold(lambda count: 0.1 / (count + 1), weights))
    params = {"x": jnp.asarray([1.0, -0.05, 1.0, -1.0])}
    grads = {"x": jnp.asarray([-1.0, 0.0, 1.0, 1.0])}
    state = rule.init(params)
    updates, state = rule.update(grads, state, params)
    # x - 0.1 g, then 0.1 w towards 0, which is not passed.
    found = optax.apply_updates(params, updates)["x"]
    np.testing.assert_allclose(found, [1.0, 0.0, 0.9, -0.9], atol=1e-7)
    assert float(found[1]) == 0.0
    updates, _ = rule.update({"x": jnp.zeros(4)}, state, {"x": found})
    again = optax.apply_updates({"x": found}, updates)["x"]
    np.testing.assert_allclose(again, [0.95, 0.0, 0.9, -0.8], atol=1e-7)
    with pytest.raises(ValueError, match=r"weights are for \['x'\], parameters \['y'\]"):
        rule.init({"y": params["x"]})
    with pytest.raises(ValueError, match="needs the parameters"):
        soft_threshold(lambda count: 0.1, weights).update(grads, state[-1])


def test_a_scale_settles_where_the_task_holds_it():
    """Of 0.5 h (s - 1)^2 + lambda |s| the minimum is at 1 - lambda / h, or 0."""
    curvature = jnp.asarray([1.0, 0.5, 0.1])
    weights = {"s": np.full(3, 0.3, np.float32)}
    rule = optax.chain(optax.sgd(0.5), soft_threshold(lambda count: jnp.asarray(0.5), weights))
    params = {"s": jnp.ones(3)}
    state = rule.init(params)
    for _ in range(60):
        grads = {"s": curvature * (params["s"] - 1)}
        updates, state = rule.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["s"], [0.7, 0.4, 0.0], atol=1e-5)


@pytest.mark.parametrize("weight", [1e-5, 1e-2])
def test_adam_shrinks_by_its_rate_whatever_the_weight_is(weight):
    """Why there is a proximal step, whose shrinking is the rate times the weight."""
    params, rule = {"s": jnp.ones(1)}, optax.adam(0.01)
    state = rule.init(params)
    for _ in range(10):
        updates, state = rule.update({"s": weight * jnp.sign(params["s"])}, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["s"], 0.9, atol=2e-4)


def test_only_the_scales_that_exchange_have_a_proximal_step():
    recipe = Recipe(SMALL, sparsity=0.5)
    params, _ = recipe.init(jax.random.key(0))
    assert set(params[SCALES]) == {
        f"encoder/{i}/norm/norms/{m}/scale" for i in (0, 1) for m in (0, 1)
    }
    assert all(float(jnp.min(value)) == 1.0 for value in params[SCALES].values())
    rate = lambda count: jnp.asarray(0.1)  # noqa: E731
    assert recipe.proximal(WEIGHTS, rate) is None
    step = recipe.proximal(SCALES, rate)
    zeros = jax.tree.map(jnp.zeros_like, params[SCALES])
    updates, _ = step.update(zeros, step.init(params[SCALES]), params[SCALES])
    for path, value in updates.items():
        halves = np.split(np.asarray(value), 2)
        own, other = halves if "norms/0" in path else halves[::-1]
        np.testing.assert_allclose(own, -0.05, atol=1e-7)
        assert np.array_equal(other, [0, 0])
    for model, fields in (
        ({**SMALL, "exchange": False}, {}),
        (SMALL, {"sparsity": 0.0}),
        (SMALL, {"sparsity_step": "subgradient"}),
    ):
        assert Recipe(model, **fields).proximal(SCALES, rate) is None


def test_the_penalty_is_in_the_loss_as_published_or_not_at_all():
    losses, gradients = {}, {}
    for step in ("proximal", "subgradient"):
        recipe = Recipe(SMALL, sparsity=0.5, sparsity_step=step)
        params, stats = recipe.init(jax.random.key(0))
        run = jax.jit(jax.value_and_grad(recipe.loss, has_aux=True))
        (losses[step], (_, metrics)), gradients[step] = run(params, stats, batch(), keys())
    penalty = sparsity(list(layers_of_scales(params[SCALES], EXCHANGING).values()))
    assert float(penalty) == float(metrics["sparsity"]) == 8.0
    assert float(losses["subgradient"] - losses["proximal"]) == pytest.approx(4.0, rel=1e-6)
    for path in params[SCALES]:
        extra = gradients["subgradient"][SCALES][path] - gradients["proximal"][SCALES][path]
        assert sorted(np.round(np.asarray(extra), 6).tolist()) == [0.0, 0.0, 0.5, 0.5]


# ---- the loss and the log ------------------------------------------------------------------------


def test_the_ensemble_trains_its_shares_alone():
    recipe = Recipe(SMALL)
    params, stats = recipe.init(jax.random.key(0))
    params[WEIGHTS]["last/kernel"] = 0.1 * noise(3, 3, 4, 1) - 0.05
    run = jax.jit(recipe.loss)
    total, (new, metrics) = run(params, stats, batch(), keys())
    parts = [metrics["fused_loss"], metrics["branch.0"], metrics["branch.1"]]
    assert float(total) == pytest.approx(float(sum(parts)), rel=1e-6)
    weighted = sum(w * float(metrics[n]) for n, w in
                   (("intensity", 4.0), ("gradient", 2.0), ("ssim", 1.0)))  # fmt: skip
    assert float(metrics["fused_loss"]) == pytest.approx(weighted, rel=1e-6)
    assert new[SCALES] == {}
    assert any(not np.array_equal(new[WEIGHTS][k], stats[WEIGHTS][k]) for k in stats[WEIGHTS])
    # In validation the statistics stay, and the loss is that of the fused picture.
    held_out, (same, metrics) = run(params, stats, batch(), None)
    assert float(held_out) == float(metrics["fused_loss"])
    assert all(np.array_equal(same[WEIGHTS][k], stats[WEIGHTS][k]) for k in stats[WEIGHTS])
    only_fused = jax.grad(lambda p: run(p, stats, batch(), None)[0])(params)
    moved = {path for flat in only_fused.values() for path, g in flat.items() if np.any(g != 0)}
    assert moved == {"alpha"}


def test_shares_of_exchanging_channels():
    recipe = Recipe({**SMALL, "threshold": 0.5})
    params, stats = recipe.init(jax.random.key(0))
    params[SCALES]["encoder/0/norm/norms/0/scale"] = jnp.asarray([0.1, 0.5, 1.0, 0.2])
    figures, pictures = recipe.judge(params, stats, batch())
    assert {name: float(value) for name, value in figures.items()} == {
        "exchanging.0": 0.25,
        "exchanging.1": 0.0,
    }
    assert [picture.shape for picture in pictures] == [(2, 12, 12, 1)] * 2
    own = Recipe({**SMALL, "threshold": 0.5, "parts": "own_half"})
    assert float(own.judge(params, stats, batch())[0]["exchanging.0"]) == 0.125
    plain = Recipe({**SMALL, "threshold": 0.5, "exchange": False})
    assert float(plain.judge(params, stats, batch())[0]["exchanging.0"]) == 0.0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, result) of a run of six steps on one device."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, fit(folder, eval_every=3)


def test_a_run_exchanges_more_and_more_and_ships(whole):
    folder, result = whole
    rows, held_out = log(folder), log(folder, "validation")
    assert rows[0]["exchanging.0"] == 0
    assert rows[-1]["exchanging.0"] == rows[-1]["exchanging.1"] == 0.5  # both halves, whole
    assert rows[-1]["sparsity"] < rows[0]["sparsity"] == 8.0
    assert held_out[-1].keys() >= {"loss", "exchanging.0", "exchanging.1"}
    fuser = mgdn_jax.load(result.weights)
    assert fuser.config.exchange
    colour = np.random.default_rng(0).integers(0, 256, (13, 17, 3)).astype(np.uint8)
    assert fuser(colour[..., 0], colour).shape == colour.shape


# ---- stops and devices ---------------------------------------------------------------------------


def test_stopped_is_as_uninterrupted(whole, tmp_path, monkeypatch):
    class Interrupting(fake_cen.Gray):
        def __next__(self):
            if self.position == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__next__()

    monkeypatch.setattr(fake_cen, "Gray", Interrupting)
    assert fit(tmp_path, eval_every=3).step == 4
    monkeypatch.undo()
    assert fit(tmp_path, eval_every=3).step == 6
    (step, unbroken, _), (other_step, parts, _) = newest(whole[0]), newest(tmp_path)
    assert step == other_step == 6
    assert unbroken.keys() == parts.keys()
    assert any("done" in name for name in unbroken)  # of the proximal step
    for name, value in unbroken.items():
        assert value.tobytes() == parts[name].tobytes(), name
    ends = [log(folder, "validation")[-1]["loss"] for folder in (whole[0], tmp_path)]
    assert ends[0] == ends[1]


def test_one_device_and_two_give_the_same_trajectory(whole, tmp_path):
    fit(tmp_path, devices=2, eval_every=3)
    one, two = log(whole[0]), log(tmp_path)
    for name in ("loss", "fused_loss", "sparsity", "exchanging.0", "exchanging.1", "share.0"):
        wanted, found = ([row[name] for row in rows] for rows in (one, two))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6, err_msg=name)


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sparsity": -1.0}, "recipe.sparsity is -1.0 and must be 0 or more"),
        ({"intensity": 0.0, "gradient": 0.0, "ssim": 0.0}, "recipe has no loss"),
        ({"intensity_share": 2.0}, "recipe.intensity_share is 2.0"),
        ({"intensity_rule": "least"}, "recipe.intensity_rule is 'least'; it is one of max"),
        ({"sparsity_step": "adam"}, "is 'adam'; it is one of proximal, subgradient"),
    ],
)
def test_bad_settings(fields, words):
    with pytest.raises(InputError, match=words):
        Recipe(SMALL, **fields)


def test_bad_data_and_rates(tmp_path):
    recipe = Recipe(SMALL)
    params, stats = recipe.init(jax.random.key(0))
    colour = {name: jnp.zeros((1, 12, 12, 3)) for name in "ab"}
    with pytest.raises(InputError, match=r"set data\.channels=1"):
        recipe.loss(params, stats, colour, None)
    made = fake_cen.config()
    made["optimiser"]["networks"]["scales"]["momentum"] = 1.5
    with pytest.raises(InputError, match=r"scales.momentum' is 1.5 and must be in \[0, 1\)"):
        training.fit(made, tmp_path, quiet=True)
    assert read_recipe(training.config.check(fake_cen.config())).settings.sparsity == 0.02
