"""The ruler that chooses between weights: what it cuts out, and whom it ranks among whom."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mgdn_jax.errors import InputError

SOURCE = Path(__file__).parents[2] / "benchmarks" / "held_out.py"


@pytest.fixture(scope="module")
def held_out():
    spec = importlib.util.spec_from_file_location("held_out", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_centres_keep_pixels_or_enlarge(held_out):
    values = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)
    picture = Image.fromarray(values)
    np.testing.assert_array_equal(held_out.centre(picture, (8, 10), 1), values[2:10, 5:15])
    twice = held_out.centre(picture, (8, 10), 2)
    want = Image.fromarray(values[4:8, 7:12]).resize((10, 8), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(twice, np.asarray(want))
    with pytest.raises(InputError, match="is 12x20, smaller than the 13x10"):
        held_out.centre(picture, (13, 10), 1)


def test_candidates_do_not_push_each_other_about(held_out):
    def row(value):
        return dict.fromkeys(held_out.COLUMNS, value)

    fixed = {"low": row(1.0), "high": row(3.0)}
    own = held_out.ranked(fixed, {"first": row(2.0), "second": row(2.5), "third": row(4.0)})
    assert own == {"first": 2.0, "second": 2.0, "third": 1.0}


def test_prints_and_writes_all_rows(held_out, pairs, tmp_path, capsys, monkeypatch):
    def darker(told):
        return lambda a, b: np.minimum(a, b)

    monkeypatch.setattr(held_out, "fuser", darker)
    monkeypatch.setattr(held_out, "COLUMNS", ("EN", "SD", "SF"))
    where = ["--data", "ivf", "--size", "16", "20", "--enlarged", "1", "1.25"]
    held_out.main(["net", *where, "--beside", "other", "--csv", str(tmp_path / "rows.csv")])
    told = capsys.readouterr().out
    assert "2 pairs, enlarged 1.25" in told
    rows = (tmp_path / "rows.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 6
    ranks = [float(line.split(",")[-1]) for line in rows if ",net," in line]
    mean, name = told.splitlines()[-1].split()
    assert name == "net"
    assert float(mean) == pytest.approx(np.mean(ranks), abs=1e-3)
