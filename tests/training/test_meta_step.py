"""The step that learns a loss: against the same by hand, over devices, and through the one loop."""

import os
import signal

import fake_meta
import fake_recipe
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers_runs import log, newest

from mgdn_jax import training
from mgdn_jax.errors import InputError
from mgdn_jax.training import config as run_config
from mgdn_jax.training import plan as run_plan
from mgdn_jax.training.meta_step import SOLUTION, halves, make_meta_step
from mgdn_jax.training.optimisers import make_optimiser
from mgdn_jax.training.state import init_state
from mgdn_jax.weights.store import load_weights

NAMES = ("fusion", "proposal", "reconstruction")


def data(size=8, side=4):
    return fake_recipe.stack([fake_recipe.example(0, i, side) for i in range(size)])


def built(recipe, **options):
    """(step, first state); every network by plain SGD but the proposal."""
    optimisers = {name: make_optimiser("sgd", 0.1, momentum=0.0) for name in NAMES}
    optimisers["proposal"] = make_optimiser("max_abs", 0.01)
    step = make_meta_step(
        recipe, optimisers, trains=NAMES, rate=lambda _: jnp.float32(0.1), total=10, **options
    )
    params, stats = recipe.init(jax.random.key(1))
    return step, init_state(params, stats, optimisers, ema=True)


def by_hand(recipe, state, batch, steps=1):
    """One step with nothing but jax.grad: new parameters, meta-gradient, outer loss."""
    halves = np.array([0, 3, 5, 6]), np.array([1, 2, 4, 7])
    train, test = ({k: v[rows] for k, v in batch.items()} for rows in halves)
    theta, phi, psi = (state.params[name] for name in NAMES)
    progress = (state.step + 1) / 10

    def descend(loss, p, *rest):
        return jax.tree.map(lambda x, g: x - 0.1 * g, p, jax.grad(loss)(p, *rest))

    def inner(theta, phi, batch):
        return recipe.inner_loss(theta, {}, recipe.propose(phi, batch), batch, progress)[0]

    fitted = descend(recipe.auxiliary_loss, psi, recipe.adapted(theta, {}, train), train)

    def outer(phi):
        now = theta
        for _ in range(steps):
            now = descend(inner, now, phi, train)
        return recipe.outer_loss(fitted, recipe.adapted(now, {}, test), test)

    value, g = jax.value_and_grad(outer)(phi)
    largest = jnp.stack([jnp.abs(x).max() for x in g.values()]).max()
    phi = jax.tree.map(lambda x, d: x - 0.01 * d / largest, phi, g)
    fused = recipe.adapted(theta, {}, batch)
    new = {
        "fusion": descend(inner, theta, phi, batch),
        "proposal": phi,
        "reconstruction": descend(recipe.auxiliary_loss, psi, fused, batch),
    }
    return new, largest, value


@pytest.mark.parametrize(("mode", "k"), [("mixed_product", 1), ("unrolled", 3)])
def test_a_step_equals_the_same_by_hand(mode, k):
    recipe, batch = fake_meta.Recipe({}, steps=k, mode=mode), data()
    step, state = built(recipe, ema_decay=0.9)
    step, reference = jax.jit(step), jax.jit(lambda *told: by_hand(recipe, *told, k))
    for _ in range(2):
        wanted, largest, value = reference(state, batch)
        before, (state, metrics) = state, step(state, batch)
        for name in NAMES:
            for path, x in wanted[name].items():
                np.testing.assert_allclose(state.params[name][path], x, rtol=1e-4, atol=1e-6)
                average = 0.9 * before.ema[name][path] + 0.1 * x
                np.testing.assert_allclose(state.ema[name][path], average, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(metrics["max_g"], largest, rtol=1e-4)
        np.testing.assert_allclose(metrics["outer_loss"], value, rtol=1e-5)
        # The outer loss drives the proposal: its largest coordinate moves by exactly its rate.
        moved = jax.tree.map(jnp.subtract, state.params["proposal"], before.params["proposal"])
        np.testing.assert_allclose(max(jnp.abs(x).max() for x in moved.values()), 0.01, rtol=1e-4)
        assert metrics["w_a"] + metrics["w_b"] == pytest.approx(1)
    assert state.step == 2


@pytest.mark.parametrize("devices", [2, 4])
def test_devices_see_the_same_halves_and_take_the_same_step(devices):
    recipe, batch = fake_meta.Recipe({}), data()
    single, state = built(recipe)
    mapped, _ = built(recipe, axis_name="d")
    split = {k: v.reshape(devices, 8 // devices, *v.shape[1:]) for k, v in batch.items()}
    wanted, wanted_metrics = jax.jit(single)(state, batch)
    step = jax.pmap(mapped, "d", in_axes=(None, 0), out_axes=None, devices=jax.devices()[:devices])
    found, metrics = step(state, split)
    worst = max(
        float(np.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(wanted.params), jax.tree.leaves(found.params), strict=True)
    )
    print(f"{devices} devices against plain jit: {worst:.1e}")
    assert worst <= 1e-6
    for name, value in wanted_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_every_share_of_every_layout_is_halved_alike(processes):
    batch = 16
    for first in (0, batch, 5 * batch, 2**32 - batch):
        index = np.arange(first, first + batch, dtype=np.uint64).astype(np.uint32)
        whole = set(halves({"_index": jnp.asarray(index)})[0]["_index"].tolist())
        for devices in (1, 2, 4):
            local = [index[p::processes] for p in range(processes)]
            shares = [s for rows in local for s in np.split(rows, devices)]
            if len(shares[0]) % 2:
                continue
            parts = [halves({"_index": jnp.asarray(s)})[0]["_index"] for s in shares]
            assert whole == {int(i) for part in parts for i in part}


def test_meta_every_leaves_the_proposal_alone_between():
    recipe = fake_meta.Recipe({}, every=2)
    step, state = built(recipe)
    step = jax.jit(step)
    for turn in range(4):
        before, (state, metrics) = state.params, step(state, data())
        still = all(bool(jnp.all(state.params["proposal"][k] == x))
                    for k, x in before["proposal"].items())  # fmt: skip
        assert still == (turn % 2 == 1)
        assert metrics["meta"] == (turn + 1) % 2
        assert (metrics["max_g"] == 0) == still
        assert not jnp.all(state.params["fusion"]["first"] == before["fusion"]["first"])


@pytest.mark.parametrize("mode", ["implicit", "rank_one"])
def test_approximations_learn_as_well_and_say_what_they_met(mode):
    step, state = built(fake_meta.Recipe({}, every=2, mode=mode, rate=0.1))
    step = jax.jit(step)
    for turn in range(2):
        before, (state, metrics) = state.params["proposal"], step(state, data())
        moved = max(jnp.abs(state.params["proposal"][k] - x).max() for k, x in before.items())
        np.testing.assert_allclose(moved, 0.01 * (turn == 0), rtol=1e-4)
        assert (set(SOLUTION) <= set(metrics)) == (mode == "implicit")
        if mode == "implicit":
            assert (metrics["curvature"] > 0) == (turn == 0)
            assert metrics["residual"] <= 1e-5


def test_meta_after_lets_the_others_train_first():
    step, state = built(fake_meta.Recipe({}, after=0.2))  # of ten steps
    step, turns = jax.jit(step), []
    for _ in range(4):
        before, (state, metrics) = state.params, step(state, data())
        moved = {
            name
            for name in NAMES
            if any(jnp.any(state.params[name][k] != x) for k, x in before[name].items())
        }
        turns.append(("proposal" in moved, float(metrics["meta"])))
        assert moved >= {"fusion", "reconstruction"}
    assert turns == [(False, 0), (False, 0), (True, 1), (True, 1)]


def test_its_schedule_counts_steps_though_updates_are_fewer():
    settings = run_config.Optimiser(
        "sgd", 1.0, schedule="multistep", milestones=(0.5,), gamma=0.1,
        networks={"proposal": {"name": "max_abs"}},
    )  # fmt: skip
    plan = run_plan.stretches(fake_meta.Recipe({}).phases, 8)
    made, _ = run_plan.optimisers(settings, plan, every={"proposal": 2})
    g, moved = {"x": jnp.array([2.0, -4.0])}, []
    opt = made["proposal"].init(g)
    for _ in range(4):
        update, opt = made["proposal"].update(g, opt)
        moved.append(float(update["x"][1]))
    np.testing.assert_allclose(moved, [1, 1, 0.1, 0.1], rtol=1e-6)


def test_mistakes_are_refused():
    optimisers = {"fusion": optax.sgd(0.1)}
    with pytest.raises(ValueError, match="no optimiser for \\['proposal'"):
        make_meta_step(fake_meta.Recipe({}), optimisers, trains=NAMES, rate=abs, total=1)
    step, state = built(fake_meta.Recipe({}))
    with pytest.raises(ValueError, match="batch of 7 has no two halves"):
        step(state, data(7))


# ---- through the loop ----------------------------------------------------------------------------


def fit(workdir, recipe=None, optimiser=None, **train):
    made = fake_meta.config(**{"devices": 1} | train)
    made["recipe"] |= recipe or {}
    made["optimiser"] |= optimiser or {}
    return training.fit(made, workdir, quiet=True)


def test_one_two_and_four_devices_give_the_same_trajectory(tmp_path):
    for devices in (1, 2, 4):
        fit(tmp_path / str(devices), steps=10, devices=devices)
    one, *others = (log(tmp_path / name) for name in "124")
    assert len(one) == 10
    assert one[0].keys() >= {"loss", "int", "recon", "outer_loss", "inner_loss", "max_g", "w_a"}
    for other in others:
        for name in ("loss", "outer_loss", "recon", "w_a"):
            found, wanted = ([row[name] for row in rows] for rows in (other, one))
            np.testing.assert_allclose(found, wanted, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("every", [1, 3])
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, monkeypatch, every):
    fit(tmp_path / "whole", {"every": every}, steps=7, devices=2)

    class Interrupting(fake_recipe.Loader):
        def __next__(self):
            if self.position in (1, 3):
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__next__()

    monkeypatch.setattr(fake_recipe, "Loader", Interrupting)
    ends = []
    while not ends or ends[-1] < 7:
        ends.append(fit(tmp_path / "parts", {"every": every}, steps=7, devices=2).step)
    assert len(ends) == 3
    whole, parts = (newest(tmp_path / name)[1] for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert {name.split("/")[1] for name in whole if name.startswith("params/")} == set(NAMES)
    for name, value in whole.items():
        assert value.tobytes() == parts[name].tobytes(), name
    assert [row["loss"] for row in log(tmp_path / "whole")] == [
        row["loss"] for row in log(tmp_path / "parts")
    ]


def test_the_fusion_network_ships_and_its_card_is_written(tmp_path):
    result = fit(tmp_path, steps=2)
    weights, arrays = load_weights(result.weights), newest(tmp_path)[1]
    assert set(weights.params) == {"first", "last"}
    for name, value in weights.params.items():
        assert value.tobytes() == arrays[f"ema/fusion/{name}"].tobytes()


@pytest.mark.parametrize(
    ("optimiser", "train", "words"),
    [
        ({}, {"batch": 6, "devices": 2}, "'train.batch' is 6 and does not divide by 4 .*2 halves"),
        ({}, {"accumulate": 2}, "'train.accumulate' is 2 and must be 1 where the loss is learned"),
        ({"networks": {"propsal": {}}}, {}, "names 'propsal'.*did you mean 'proposal'"),
        ({"networks": {"fusion": {"nam": "sgd"}}}, {}, "'optimiser.networks.fusion.nam'; did you"),
        (
            {"networks": {"fusion": {"name": "sdg"}}},
            {},
            "'optimiser.networks.fusion.name' is 'sdg'",
        ),
        ({"networks": {"fusion": 3}}, {}, "'optimiser.networks.fusion' is 3 and must be a block"),
        ({"networks": 3}, {}, "'optimiser.networks' is 3 and must be a block"),
    ],
)
def test_bad_configs_are_one_sentence(tmp_path, optimiser, train, words):
    with pytest.raises(InputError, match=words) as caught:
        fit(tmp_path, None, optimiser, **train)
    assert "\n" not in str(caught.value)
