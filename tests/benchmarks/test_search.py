"""benchmarks/search.py and starts.py in small: what is compared, and that every row comes to be."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import script

from mgdn_jax import bilevel, data

TABLE = {"SPAattention_3": 2.0, "ECAattention_3": 1.9, "DilConv_3_2": 1.0}


@pytest.fixture
def search(monkeypatch):
    return loaded("search", monkeypatch)


@pytest.fixture
def starts(monkeypatch):
    return loaded("starts", monkeypatch)


def loaded(name, monkeypatch):
    """A script that leaves the place of this process's compiled programs alone."""
    module = script(f"benchmarks/{name}.py")
    monkeypatch.setattr(module.jax.config, "update", lambda *_: None)
    return module


def rows(page):
    with page.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rivals_are_of_equal_latency_and_never_the_cell_itself(search):
    found = ("SPAattention_3", "ECAattention_3")
    others, band = search.rivals(found, TABLE, 3, 0)
    assert band == 0.15
    wanted = {("SPAattention_3",) * 2, ("ECAattention_3",) * 2, found[::-1]}
    assert set(others) == wanted
    assert search.rivals(found, TABLE, 3, 0) == (others, band)
    wider, band = search.rivals(found, TABLE, 5, 0)
    assert band == 0.25  # of 3.9 ms: 3.0 ms is within it, 2.9 ms is not
    assert found not in wider
    assert len(set(wider)) == 5
    assert wider.count(("DilConv_3_2", "SPAattention_3")) == 1
    assert ("DilConv_3_2", "ECAattention_3") not in wider
    assert len(search.rivals(found, TABLE, 99, 0)[0]) == 8


def test_a_search_and_its_rivals(search, pairs, monkeypatch, capsys):
    monkeypatch.setattr(search, "CHOICES", tuple(TABLE))
    monkeypatch.setattr(search, "MODEL", {"features": 2, "chains": 1})
    monkeypatch.setattr(search.latency, "measure", lambda names, features: TABLE)
    for name, value in {"CROP": 12, "HELD_OUT_CROP": 12, "HELD_OUT": 1, "BATCH": 4}.items():
        monkeypatch.setattr(search, name, value)
    work, out = pairs / "work", pairs / "out"
    places = ["--workdir", str(work), "--out", str(out), "--seeds", "0"]
    options = [*places, "--search-steps", "2", "--steps", "1", "--random", "2"]
    options += ["--change", "train.devices=1"]
    search.main(options)
    first = rows(out / "search.csv")
    assert [row["kind"] for row in first] == ["found", "random", "random"]
    assert len({row["chain"] for row in first}) == 3
    assert all(np.isfinite(float(row["held_out_loss"])) for row in first)
    assert "random within" in capsys.readouterr().out
    assert (out / "search.svg").read_text().count("<polyline") == 2 * len(TABLE)
    monkeypatch.setattr(search.latency, "measure", None)  # not again
    monkeypatch.setattr(search.Trainings, "held_out", None)
    search.main(options)
    assert rows(out / "search.csv") == first


def test_a_cell_of_numbers_is_the_cell_of_those_primitives(search, monkeypatch):
    monkeypatch.setattr(search, "CHOICES", tuple(TABLE))
    monkeypatch.setattr(search, "MODEL", {"features": 2, "chains": 1})
    cells = search.Cells()
    params, stats = cells.init(jax.random.key(0))
    numbers = np.array([2, 0])
    params["architecture"] = {"numbers": jnp.asarray(numbers)}
    model = {"preset": "small", **search.MODEL, "chain": ("DilConv_3_2", "SPAattention_3")}
    single = search.Recipe(model)
    weights, statistics = (cells._chosen(flat["supernet"], numbers) for flat in (params, stats))
    rng = np.random.default_rng(0)
    batch = {name: jnp.asarray(rng.random((2, 12, 13, 1)), jnp.float32) for name in "ab"}
    keys = jax.random.split(jax.random.key(0), 2)
    wanted, (after, _) = jax.jit(single.loss)(
        {"fusion": weights}, {"fusion": statistics}, batch, keys
    )
    found, (all_after, _) = jax.jit(cells.loss)(params, stats, batch, keys)
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    for name, value in cells._chosen(all_after["supernet"], numbers).items():
        np.testing.assert_allclose(value, after["fusion"][name], rtol=1e-5, err_msg=name)
    untouched = "cells/0/mixed/1/operations/2/norm/mean"
    assert np.array_equal(all_after["supernet"][untouched], stats["supernet"][untouched])


def test_a_start_takes_the_rate_that_is_best_on_the_trials(starts, capsys):
    def row(name, group, rate, loss):
        fields = {"set": group, "seed": "0", "start": name, "rate": rate, "step": "20"}
        return fields | {"held_out_loss": str(loss)}

    table = []
    for number, name in enumerate(starts.STARTS):
        table += [
            row(name, "pet", "0.001", 0.5),
            row(name, "pet", "0.01", 0.4 + 0.2 * (number % 2)),
        ]
        table += [row(name, "mef", "0.001", number), row(name, "mef", "0.01", 9 - number)]
    rates = starts.chosen(table, 20)
    assert list(rates.values()) == [("0.01", "0.001")[n % 2] for n in range(len(starts.STARTS))]
    starts.report(table, [20])
    lines = capsys.readouterr().out.splitlines()
    assert "9.0000 +- 0.0000 (below plain 0, below scratch 0 of 1)" in lines[0]
    assert "1.0000 +- 0.0000 (below plain 1, below scratch 1 of 1)" in lines[1]
    assert starts.picture(table, 20).count("<polyline") == len(starts.STARTS)


def test_a_step_of_plain_moves_nothing(starts):
    def loss(theta, batch):
        return jnp.sum(jnp.sin(3 * theta) * batch)

    theta, batch = jnp.asarray([0.1, -0.02, 1e-3]), jnp.asarray([50.0, 1.0, -20.0])
    plain = starts.KINDS["plain"]
    gradient = bilevel.initialisation_gradient(
        loss,
        optimiser=optax.sgd(plain["task_rate"]),
        steps=plain["task_steps"],
        mode=plain["task_mode"],
    )
    found = gradient(theta, batch, 2 * batch)[1]
    assert np.array_equal(found, jax.grad(loss)(theta, 2 * batch))


def test_starts_and_what_becomes_of_them(starts, prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MGDN_DATA_DIR", str(tmp_path / "sets"))
    for name in ("ct", "ivf", "mef", "pet"):
        data.prepare("pairs", prepared / "source", name=name)
    monkeypatch.setattr(starts, "focus_pairs", lambda workdir, count: None)
    monkeypatch.setattr(starts, "TASKS", {"ct": "max", "ivf": "sum"})
    monkeypatch.setattr(starts, "MODEL", {"preset": "small", "features": 2, "chains": 1})
    monkeypatch.setattr(starts, "KINDS", {"plain": starts.KINDS["plain"]})
    monkeypatch.setattr(starts, "STARTS", ("plain", "scratch"))
    monkeypatch.setattr(starts, "RATES", (1e-2,))
    monkeypatch.setattr(starts, "CROP", 12)
    monkeypatch.setattr(starts, "HELD_OUT_CROP", 12)
    get_config = starts.get_config

    def on_one_device(preset):
        config = get_config(preset)
        config.train.devices = 1
        return config

    monkeypatch.setattr(starts, "get_config", on_one_device)
    out, work = tmp_path / "out", tmp_path / "work"
    out.mkdir()
    places = ["--workdir", str(work), "--out", str(out), "--seeds", "0"]
    options = [*places, "--steps", "1", "--after", "0", "20"]
    starts.main(options)
    table = rows(out / "starts.csv")
    assert len(table) == 8  # two sets, two starts, two steps
    losses = {(row["set"], row["start"], row["step"]): row["held_out_loss"] for row in table}
    assert losses["mef", "plain", "0"] != losses["mef", "scratch", "0"]
    assert float(losses["mef", "scratch", "20"]) < float(losses["mef", "scratch", "0"])
    assert "below scratch" in capsys.readouterr().out
    monkeypatch.setattr(starts.Adaptation, "run", None)  # not again
    starts.main(options)
    assert rows(out / "starts.csv") == table
