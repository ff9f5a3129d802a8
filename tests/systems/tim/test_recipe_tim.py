"""Searches and meta-initialisations through the loop: stops and devices leave no trace."""

import os
import signal

import fake_tim
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers_runs import log, newest

import mgdn_jax
from mgdn_jax import training
from mgdn_jax.errors import InputError
from mgdn_jax.systems.contract import Phase, Tasks, warm_start
from mgdn_jax.systems.tim import latency
from mgdn_jax.systems.tim.recipe import Recipe
from mgdn_jax.training.setup import _check_tasks
from mgdn_jax.training.task_step import check_tasks, make_task_step, split_by_task

SMALL = {"preset": "small", "features": 4, "chains": 1}
SEARCH = {"form": "search", "choices": ("SPAattention_3", "Denseblocks_3_1")}


def fit(form, workdir, recipe=None, **train):
    made = fake_tim.config(form, **{"devices": 1} | train)
    made["recipe"] |= recipe or {}
    return training.fit(made, workdir, quiet=True)


def same(one, other):
    (step, whole, _), (other_step, parts, _) = newest(one), newest(other)
    assert step == other_step == 6
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert value.tobytes() == parts[name].tobytes(), name


@pytest.mark.parametrize("form", ["search", "tasks"])
def test_stopped_is_as_uninterrupted_and_ships(form, tmp_path, monkeypatch):
    fit(form, tmp_path / "whole")

    def interrupting(loader):
        class Interrupting(loader):
            def __next__(self):
                if self.position == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
                return super().__next__()

        return Interrupting

    for name in ("Gray", "Mixed"):
        monkeypatch.setattr(fake_tim, name, interrupting(getattr(fake_tim, name)))
    assert fit(form, tmp_path / "parts").step == 4
    monkeypatch.undo()
    result = fit(form, tmp_path / "parts")
    assert result.step == 6
    same(tmp_path / "whole", tmp_path / "parts")
    rows = log(tmp_path / "whole")
    fuser = mgdn_jax.load(result.weights)
    if form == "search":
        # The logits wait for their part of the run, and then move.
        shares = [row["share.0.SPAattention_3"] for row in rows]
        assert shares[:3] == [0.5, 0.5, 0.5]
        assert len(set(shares[3:])) == 3
        assert [row["search"] for row in rows] == [0, 0, 0, 1, 1, 1]
        assert set(fuser.config.chain) <= set(SEARCH["choices"])
        assert len(fuser.config.chain) == 2
    else:
        assert {"loss.ct", "loss.ivf", "before"} <= rows[0].keys()
        assert rows[-1]["loss"] < rows[-1]["before"]
    picture = np.random.default_rng(0).integers(0, 256, (20, 24)).astype(np.uint8)
    assert fuser(picture, picture).shape == picture.shape


@pytest.mark.parametrize("form", ["search", pytest.param("tasks", marks=pytest.mark.long)])
def test_one_device_and_two_give_the_same_trajectory(form, tmp_path):
    for devices in (1, 2):
        fit(form, tmp_path / str(devices), devices=devices)
    one, two = (log(tmp_path / name) for name in "12")
    for name in one[-1].keys() & {"loss", "search_loss", "before", "share.0.SPAattention_3"}:
        wanted, found = ([row[name] for row in rows] for rows in (one, two))
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6, err_msg=name)


def test_what_ships_is_what_the_search_chose():
    recipe = Recipe(SMALL, **SEARCH)
    params, stats = recipe.init(jax.random.key(0))
    params["architecture"] = {"logits": jnp.asarray([[0.0, 1.0], [50.0, 0.0]])}
    assert recipe.genotype(params) == ("Denseblocks_3_1", "SPAattention_3")
    # In use, and so in validation, it is the chosen network, however undecided the shares are.
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.random((1, 12, 13, 1)), jnp.float32) for _ in "ab")
    wanted = recipe.fuse(params, stats, a, b)
    chosen = Recipe(recipe.shipped(params).to_dict())
    joined = recipe.join(jax.device_get(params), jax.device_get(stats))
    weights, statistics = jax.tree.map(jnp.asarray, joined)
    shipped = {"fusion": weights}, {"fusion": statistics}
    np.testing.assert_allclose(chosen.fuse(*shipped, a, b), wanted, atol=1e-6)
    losses = [
        float(r.loss(*networks, {"a": a, "b": b}, None)[0])
        for r, networks in ((recipe, (params, stats)), (chosen, shipped))
    ]
    assert abs(losses[0] - losses[1]) <= 1e-6 * losses[1]


def test_a_search_in_half_precision_is_one():
    half = Recipe(SMALL | {"dtype": "bfloat16"}, **SEARCH)
    params, stats = half.init(jax.random.key(0))
    a = jnp.zeros((1, 8, 8, 1))
    assert "bf16" in str(jax.make_jaxpr(half.fuse)(params, stats, a, a))
    assert half.fuse(params, stats, a, a).dtype == jnp.float32


def test_training_begins_with_what_a_search_shipped():
    searching = Recipe(SMALL, **SEARCH)
    networks, statistics = searching.init(jax.random.key(0))
    shipped = searching.join(jax.device_get(networks), jax.device_get(statistics))
    training = Recipe(searching.shipped(networks).to_dict())
    fresh = training.init(jax.random.key(1))
    params, stats = warm_start(training, *shipped, *fresh)
    assert params["fusion"] is shipped[0]
    assert stats["fusion"] is shipped[1]
    with pytest.raises(InputError, match="a search begins with all primitives"):
        warm_start(searching, *shipped, networks, statistics)


def test_costs_are_measured_once(tmp_path, monkeypatch):
    monkeypatch.setenv("MGDN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(latency, "SIZE", 8)
    recipe = Recipe(SMALL, latency=0.5, **SEARCH)
    costs = recipe._costs
    assert costs.max() == 1
    assert costs.min() > 0
    monkeypatch.setattr(latency, "measure", None)  # not again
    assert np.array_equal(Recipe(SMALL, latency=0.5, **SEARCH)._costs, costs)
    table = {"SPAattention_3": 1.0, "Denseblocks_3_1": 4.0}
    given = Recipe(SMALL, latency=0.5, latencies=table, **SEARCH)
    assert np.array_equal(given._costs, [0.25, 1.0])


def test_examples_of_a_task_come_together_whatever_device_has_them():
    index = np.arange(24, dtype=np.uint32)
    support, query = split_by_task({"_index": jnp.asarray(index), "x": jnp.asarray(index)}, 3)
    assert support["x"].shape == query["x"].shape == (3, 4)
    for task in range(3):
        both = [*support["x"][task].tolist(), *query["x"][task].tolist()]
        assert sorted(both) == list(range(task, 24, 3))
    halves = [
        split_by_task({"_index": jnp.asarray(part), "x": jnp.asarray(part)}, 3)
        for part in np.split(index, 2)
    ]
    for which, whole in enumerate((support, query)):
        parts = np.concatenate([np.asarray(half[which]["x"]) for half in halves], 1)
        assert np.array_equal(np.sort(parts, 1), np.sort(whole["x"], 1))
    with pytest.raises(ValueError, match="a batch of 9 has no two halves of 3 tasks"):
        split_by_task({"_index": jnp.arange(9)}, 3)
    with pytest.raises(ValueError, match="does not train"):
        make_task_step(Recipe(SMALL, form="tasks", tasks={"a": "max"}),
                       {"fusion": optax.sgd(1.0)}, trains=(), rate=abs)  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"form": "seek"}, "recipe.form is 'seek'; it is one of train, search, tasks"),
        ({"form": "search", "choices": ("SepConv_3_1",)}, "a search needs two or more"),
        ({"form": "search", "search_mode": "implicit"}, "it is one of unrolled"),
        ({"form": "search", "choices": ("Nothing_3", "SepConv_3_1")}, "there is no primitive"),
        ({"form": "tasks"}, "recipe.tasks is empty"),
        ({"form": "tasks", "tasks": {"ivf": "least"}}, "recipe.tasks.ivf is 'least'"),
        ({"latencies": {"SepConv_3_1": 1.0}}, "recipe.latencies lacks 'DilConv_3_2'"),
        (
            {"choices": ("SepConv_3_1",), "latencies": {"SepConv_3_1": 0.0}},
            "recipe.latencies.SepConv_3_1 is 0.0 and must be above 0",
        ),
        ({"choices": ("SepConv_3_1",) * 2}, "recipe.choices names 'SepConv_3_1' twice"),
        ({"rank_one": "published"}, "recipe.search_rate is 0, and the published gradient has it"),
        ({"search_rate": -1.0}, "recipe.search_rate is -1.0 and must be 0 or more"),
        ({"task_rate": -1.0}, "recipe.task_rate is -1.0 and must be 0 or more"),
        ({"task_steps": 0}, "recipe.task_steps is 0 and must be 1 or more"),
    ],
)
def test_bad_settings(fields, words):
    with pytest.raises(InputError, match=words):
        Recipe(SMALL, **fields)


def test_tasks_are_the_sets_of_the_data(tmp_path):
    with pytest.raises(InputError, match="the tasks of the recipe are a, ct, and the sets of the"):
        fit("tasks", tmp_path, {"tasks": {"ct": "max", "a": "sum"}})
    made = fake_tim.config("tasks", devices=1)
    made["data"]["mix"] = {"ct": 1.0, "ivf": 2.0}
    with pytest.raises(InputError, match=r"have one share each, and data\.mix is"):
        training.fit(made, tmp_path, quiet=True)
    with pytest.raises(InputError, match="does not divide by 4"):
        fit("tasks", tmp_path, batch=6)


def test_tasks_take_turns_in_what_each_process_has(monkeypatch):
    """Sets in shards do not, and of several processes each may have one set alone."""
    tasks = Tasks("fusion", ("ct", "ivf"))
    index = np.arange(16, dtype=np.uint32)
    check_tasks({"_index": index, "_set": index % 2}, tasks, devices=2)
    third = index * 3 + 1  # every third example, as of the second process of three
    check_tasks({"_index": third, "_set": third % 2}, tasks, devices=2)
    for batch in (
        {"_index": index, "_set": index // 2 % 2},
        {"_index": index[::2], "_set": index[::2] % 2},
    ):
        with pytest.raises(InputError, match="the examples of the tasks do not take turns"):
            check_tasks(batch, tasks, devices=1)

    class Learning:
        phases = (Phase("tasks", ("fusion",), kind="tasks"),)

    Learning.tasks = tasks
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(InputError, match="the data of 4 processes would hold some of 2 tasks each"):
        _check_tasks(Learning, None, {})


def test_each_task_is_validated_by_its_own_rule():
    recipe = Recipe(SMALL, form="tasks", tasks={"ct": "max", "ivf": "sum"})
    params, stats = recipe.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    batch = {name: jnp.asarray(rng.random((1, 12, 13, 1)), jnp.float32) for name in "ab"}
    for number, rule in enumerate(("max", "sum")):
        alone = Recipe(SMALL, intensity_rule=rule).loss(params, stats, batch, None)[0]
        task = {**batch, "_task": jnp.asarray([number], jnp.uint32)}
        found = recipe.loss(params, stats, task, None)[0]
        assert abs(float(found) - float(alone)) <= 1e-6 * float(alone)
