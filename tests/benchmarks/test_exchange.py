"""benchmarks/exchange.py: what it runs, its table and its picture."""

import csv
import json
import sys
from xml.etree import ElementTree

import jax
import pytest

from benchmarks import exchange
from mgdn_jax.training.loop import Result

SMALL = (
    *("model.encoder=(4,4)", "model.decoder=(4,)", "train.batch=2", "train.devices=1"),
    *("data.train.crop=16", "data.validation.crop=16", "data.validation.limit=2"),
)


def start(monkeypatch, folder, *words):
    command = ["exchange.py", f"--workdir={folder}", *words]
    monkeypatch.setattr(sys, "argv", command)
    exchange.main()


def read(folder):
    with (folder / "exchange.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_table_the_picture_and_what_is_run(tmp_path, monkeypatch, capsys):
    configs = []

    def fit(config, folder, **_):
        configs.append(config)
        folder.mkdir(parents=True)
        rows = [
            {"kind": kind, "step": step, "loss": 1.0 / step + (not config.model.exchange)}
            | {"exchanging.0": 0.1 * config.model.exchange, "exchanging.1": 0.0}
            for step in (5, 10)
            for kind in ("train", "validation")
        ]
        (folder / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return Result("complete", 10)

    monkeypatch.setattr(exchange, "fit", fit)
    monkeypatch.setattr(exchange.jax.config, "update", lambda *_: None)
    start(monkeypatch, tmp_path, "--seeds", "3", "4", "--steps", "10", "--change", *SMALL)
    rows = read(tmp_path)
    assert len(rows) == 2 * 2 * 2
    assert rows[0] == {
        **{"seed": "3", "exchange": "True", "step": "5", "held_out_loss": "0.200000"},
        **{"share_infrared": "0.1000", "share_visible": "0.0000"},
    }
    assert {(row["seed"], row["exchange"]) for row in rows} == {
        (seed, kind) for seed in "34" for kind in ("True", "False")
    }
    drawing = ElementTree.parse(tmp_path / "exchange.svg").getroot()
    assert len(drawing.findall("{*}polyline")) == 2 * 2
    assert "without less with: 1.00000 (mean of 2 seeds)" in capsys.readouterr().out
    # Only the switch differs, and the scales get as far as in the whole preset.
    with_, without = (config.to_dict() for config in configs[:2])
    assert with_["model"].pop("exchange") is not without["model"].pop("exchange")
    assert with_["model"] == without["model"]
    assert {**with_, "name": ""} == {**without, "name": ""}
    scales = configs[0].optimiser.networks.scales
    whole = exchange.get_config("ivf")
    budget = whole.optimiser.networks.scales.learning_rate * whole.train.steps
    assert scales.learning_rate * 10 == pytest.approx(budget)
    assert scales.warmup == 1
    with pytest.raises(SystemExit):
        start(monkeypatch, tmp_path, "--steps", "0")


@pytest.fixture
def cache():
    """Puts the folder of compiled programs back."""
    place = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", place)


@pytest.mark.long
@pytest.mark.usefixtures("pairs", "cache")
def test_a_short_run(tmp_path, monkeypatch):
    start(monkeypatch, tmp_path / "run", "--seeds", "0", "--steps", "8", "--change", *SMALL)
    rows = read(tmp_path / "run")
    assert len(rows) == 2 * 8
    assert all(0 < float(row["held_out_loss"]) < 10 for row in rows)
    assert float(rows[0]["share_infrared"]) == 0
