"""What a config may say: durations, typos, contradictions, and what may change on resume."""

import copy
import math

import fake_recipe
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mgdn_jax.errors import InputError
from mgdn_jax.systems.contract import Phase
from mgdn_jax.training import config as run_config
from mgdn_jax.training import plan as run_plan


@pytest.mark.parametrize(
    ("steps", "epochs", "examples", "batch", "dataset", "expected"),
    [
        (100, 0, 0, 8, 80, 100),
        (0, 3, 0, 8, 80, 30),
        (0, 3, 0, 8, 81, 31),  # rounded up: all of it is seen
        (0, 0.5, 0, 8, 80, 5),
        (0, 0.1, 0, 8, 80, 1),
        (0, 0.01, 0, 8, 80, 1),
        (0, 0, 80_000, 8, 80, 10_000),
        (0, 0, 80_001, 8, 80, 10_001),
        (0, 0, 1, 8, 80, 1),
    ],
)
def test_durations(steps, epochs, examples, batch, dataset, expected):
    assert run_config.duration(steps, epochs, examples, batch=batch, dataset=dataset) == expected


@pytest.mark.parametrize(
    ("told", "found"),
    [((0, 0, 0), "none"), ((5, 1.0, 0), "train.steps=5 and train.epochs=1.0")],
)
def test_a_duration_is_told_in_exactly_one_way(told, found):
    with pytest.raises(InputError, match=f"exactly one of .*found {found}"):
        run_config.duration(*told, batch=8, dataset=80)


def changed(path, value):
    config = copy.deepcopy(fake_recipe.config())
    *blocks, field = path.split(".")
    place = config
    for block in blocks:
        place = place[block]
    if value is None:
        del place[field]
    else:
        place[field] = value
    return config


def test_a_good_config_becomes_dataclasses():
    run = run_config.check(changed("train.ema", 0))
    assert run.name == "fake"
    assert run.train.batch == 8
    assert run.train.ema == 0.0
    assert run.train.accumulate == 1
    assert run.optimiser == run_config.Optimiser("adam", 0.01)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("trian", {}, "no field 'trian'; did you mean 'train'"),
        ("train.stepz", 1, "no field 'train.stepz'; did you mean 'steps'"),
        ("optimiser.xyzzy", 1, "no field 'optimiser.xyzzy'; choose one of name, learning_rate,"),
        ("train", None, "field 'train' is missing"),
        ("train", 3, "'train' is 3 and must be a block"),
        ("train.batch", None, "'train.batch' is missing"),
        ("train.batch", 0, "'train.batch' is 0 and must be 1 or more"),
        ("train.batch", 2.5, "'train.batch' is 2.5 and must be a whole number"),
        ("train.batch", "8", "'train.batch' is '8' and must be a whole number"),
        ("train.batch", True, "'train.batch' is True and must be a whole number"),
        ("train.steps", -1, "'train.steps' is -1 and must be 0 or more"),
        ("train.epochs", 2, "exactly one of"),
        ("train.ema", 1.0, r"'train.ema' is 1.0 and must be in \[0, 1\)"),
        ("optimiser.learning_rate", math.nan, "must be a finite number"),
        ("optimiser.learning_rate", 0, "must be above 0"),
        ("optimiser.name", "adma", "'optimiser.name' is 'adma': did you mean 'adam'"),
        ("optimiser.schedule", "poly", "choose one of constant, cosine, multistep"),
        ("optimiser.milestones", (100, 200), "must be fractions 0 to 1"),
        ("optimiser.weight_decay", 0.1, "needs 'optimiser.name' to be 'adamw'"),
        ("name", "a/b", "'name' is 'a/b' and must be a file name"),
        ("recipe.name", None, "'recipe.name' is missing"),
        ("data.loader", None, "'data.loader' is missing"),
        ("data.train", None, "'data.train' must be a block"),
    ],
)
def test_mistakes_name_the_field_and_the_cure(path, value, words):
    with pytest.raises(InputError, match=words) as caught:
        run_config.check(changed(path, value))
    assert "\n" not in str(caught.value)


def test_a_batch_that_does_not_divide_says_what_would():
    train = run_config.Train(batch=12, steps=1, accumulate=2)
    assert run_plan.share(train, 3, 2) == (6, 2)
    with pytest.raises(InputError, match=r"'train.batch' is 12 and does not divide by 8 .* use 8"):
        run_plan.share(train, 2, 2)


def test_only_durations_and_machinery_may_change_on_resume():
    before = fake_recipe.config()
    for path, value in [
        ("train.steps", 99),
        ("train.log_every", 7),
        ("train.save_every", 7),
        ("train.keep", 3),
        ("data.train.threads", 3),
    ]:
        run_config.compare(before, changed(path, value), "runs/x")
    for path, value in [
        ("train.batch", 16),
        ("train.seed", 1),
        ("optimiser.learning_rate", 0.1),
        ("recipe.noise", 0.5),
        ("model.width", 8),
        ("data.train.size", 16),
        ("name", "other"),
    ]:
        with pytest.raises(InputError, match=f"runs/x: was started with {path}=.*another workdir"):
            run_config.compare(before, changed(path, value), "runs/x")


def test_tuples_survive_the_way_through_json():
    assert (
        run_config.compare({"a": {"x": [1, 2]}}, {"a": {"x": (1, 2)}}, "runs/x") is None
    )  # no error


def test_calls_turn_misnamed_arguments_into_errors():
    def make(dataset, *, batch_size, crop=8):
        return dataset, batch_size, crop

    assert run_config.call(make, "data", {"dataset": "d"}, batch_size=2) == ("d", 2, 8)
    for values, words in [
        ({"dataset": "d", "crpo": 3}, "no field 'data.crpo'; did you mean 'crop'"),
        ({}, "'data.dataset' is missing"),
        ({"dataset": "d", "batch_size": 3}, "no field 'data.batch_size'"),
    ]:
        with pytest.raises(InputError, match=words):
            run_config.call(make, "data", values, batch_size=2)


def test_phases_cover_the_run_and_schedules_tick_only_where_their_network_trains():
    phases = (
        Phase("one", ("a", "b"), 0.25),
        Phase("two", ("b",), 0.5),
        Phase("three", ("a",), 0.25),
    )
    plan = run_plan.stretches(phases, 10)
    assert [(s.start, s.stop) for s in plan] == [(0, 2), (2, 8), (8, 10)]
    settings = run_config.Optimiser("adam", 1.0, schedule="cosine")
    made, schedules = run_plan.optimisers(settings, plan)
    assert set(made) == {"a", "b"}
    assert float(schedules["a"](4)) == pytest.approx(0, abs=1e-6)
    assert float(schedules["b"](4)) == pytest.approx(0.5)
    assert [run_plan.updates(plan, "a", step) for step in (0, 1, 2, 5, 9, 10)] == [0, 1, 2, 2, 3, 4]
    # One that waits, and is then updated in every second step, comes to its end all the same.
    waiting, _ = run_plan.optimisers(
        run_config.Optimiser("sgd", 1.0, schedule="cosine", momentum=0.0), plan,
        every={"b": 2}, waits={"b": 4},
    )  # fmt: skip
    state, steps = waiting["b"].init(jnp.zeros(())), []
    for _ in range(3):  # at steps 4 and 6, and once more
        update, state = waiting["b"].update(jnp.ones(()), state, jnp.zeros(()))
        steps.append(-float(update))
    np.testing.assert_allclose(steps, [1.0, 0.5, 0.0], atol=1e-6)
    with pytest.raises(InputError, match="'a' trains for 4 steps"):
        run_plan.optimisers(run_config.Optimiser("adam", 1.0, warmup=5), plan)


def test_what_follows_an_optimiser():
    plan = run_plan.stretches((Phase("one", ("a", "b")),), 10)
    settings = run_config.Optimiser("sgd", 0.5, momentum=0.0)
    rates = {}

    def proximal(network, rate):
        rates[network] = float(rate(0))
        return optax.scale(0.0) if network == "b" else None

    made, _ = run_plan.optimisers(settings, plan, proximal=proximal)
    plain, _ = run_plan.optimisers(settings, plan)
    params = {"x": jnp.ones(2)}
    updates = {name: rule.update(params, rule.init(params), params)[0]["x"].tolist()
               for name, rule in made.items()}  # fmt: skip
    assert updates == {"a": [-0.5, -0.5], "b": [0.0, 0.0]}
    assert rates == {"a": 0.5, "b": 0.5}
    # The state of what nothing follows is as it was: older checkpoints fit.
    states = [jax.tree.structure(rules["a"].init(params)) for rules in (made, plain)]
    assert states[0] == states[1]
