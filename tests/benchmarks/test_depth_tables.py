"""benchmarks/depth.py on small maps: rules beside printed rows, in a page and in a file."""

import csv
import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ROOT

from mgdn_jax.errors import InputError
from mgdn_jax.io import files


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("depth", ROOT / "benchmarks" / "depth.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        patch.setitem(sys.modules, "depth", module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("rgb", "depth"):
        (tmp_path / "lu6" / kind).mkdir(parents=True)
        shape = (32, 48, 3) if kind == "rgb" else (32, 48)
        files.write_image(tmp_path / "lu6" / kind / "1.png", rng.integers(1, 256, shape, np.uint8))
    return tmp_path


def test_measured_rows_stand_above_printed_ones(tables, root):
    page = root / "page.md"
    page.write_text(f"before\n{tables.START}\nold\n{tables.END}\nafter\n")
    words = ["--data", str(root), "--set", "lu6", "--scales", "4", "8"]
    assert tables.main([*words, "--csv", str(root / "o.csv"), "--markdown", str(page)]) == 0
    with (root / "o.csv").open() as text:
        rows = list(csv.DictReader(text))
    assert [row["method"] for row in rows] == list(tables.BASELINES)
    assert {(row["dataset"], row["n"], row["metric"]) for row in rows} == {
        ("Lu-6", "1", "RMSE_255")
    }
    best = min(float(row["x4"]) for row in rows)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert f"| **{best:.2f}** |" in text
    assert "| DCTNet † | 0.88 | 1.85 | DCTNet README, 6 pictures |" in text
    assert text.index("`joint_bilateral`") < text.index("| Bicubic †")


def test_networks_of_one_name_share_a_row(tables, root, monkeypatch):
    class Fake:
        def __init__(self, scale):
            self.preparation = SimpleNamespace(scale=scale)

        def __call__(self, low, rgb, *, limits):
            return SimpleNamespace(warnings=(), depth=tables.BASELINES["bicubic"](low, rgb, limits))

    monkeypatch.setattr(tables.DepthUpsampler, "load", lambda file: Fake(int(file[1:])))
    words = ["--data", str(root), "--set", "lu6", "--scales", "4", "8", "--network", "net=f4,f8"]
    rows = {row.method: row for row in tables.measure(tables.parse(words))}
    assert next(iter(rows)) == "net"
    assert set(rows["net"].values) == {4, 8}
    assert rows["net"].values[4] <= rows["bicubic"].values[4]
    for entry, reason in (("net", "NAME=FILE"), ("net=f4,f4", "two files for one scale")):
        with pytest.raises(InputError, match=reason):
            tables.read_networks([entry])


def test_a_page_without_a_place_is_kept(tables, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("text\n")
    with pytest.raises(InputError, match="has no lines"):
        tables.write_markdown(page, "table\n")
    assert page.read_text() == "text\n"
    tables.write_markdown(tmp_path / "new.md", "table\n")
    assert (tmp_path / "new.md").read_text() == "table\n"


def test_printed_rows_are_those_of_the_sets_that_are_measured(tables):
    rows = tables.read_published(tables.PUBLISHED)
    titles = {protocol.title for protocol in tables.PROTOCOLS.values()}
    assert {row.dataset for row in rows} <= titles
    assert all(row.source and set(row.values) == set(tables.SCALES) for row in rows)
