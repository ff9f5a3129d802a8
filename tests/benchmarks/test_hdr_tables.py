"""benchmarks/hdr.py on small scenes: rules, a network and printed rows, in a page and a file."""

import csv
import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ROOT

from mgdn_jax.errors import InputError
from mgdn_jax.io import files, radiance
from mgdn_jax.quantities.radiance import developed


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("hdr_tables", ROOT / "benchmarks" / "hdr.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        folder = tmp_path / "set" / name
        folder.mkdir(parents=True)
        truth = rng.random((12, 16, 3), np.float32) ** 3
        for k in range(3):
            stored = np.rint(255 * developed(truth, 4.0**k)).astype(np.uint8)
            files.write_image(folder / f"{k}.png", stored)
        (folder / "exposure.txt").write_text("0\n2\n4\n")
        (folder / "HDRImg.hdr").write_bytes(radiance.encode(truth))
    return tmp_path


def test_measured_rows_and_printed_ones(tables, root, monkeypatch):
    def merged(x, times, align="no"):
        taken.append(align)
        return SimpleNamespace(radiance=tables.MERGES["reference_or_short"](x, times) * 0.99)

    taken = []
    made = SimpleNamespace(
        predict=lambda x, t: merged(x, t).radiance,
        in_use=lambda align: lambda x, t: merged(x, t, align).radiance,
    )
    monkeypatch.setattr(tables, "Deghoster", lambda file: made)
    page = root / "page.md"
    page.write_text(f"before\n{tables.START}\nold\n{tables.END}\nafter\n")
    words = ["--data", str(root / "set"), "--network", "mine=x.safetensors"]
    assert tables.main([*words, "--csv", str(root / "o.csv"), "--markdown", str(page)]) == 0
    with (root / "o.csv").open() as text:
        rows = list(csv.DictReader(text))
    assert list(dict.fromkeys(row["method"] for row in rows)) == [
        *("mine", "mine --align", "mine --no-align"),
        *tables.MERGES,
    ]
    assert taken == 2 * ["shift", True, "no"]
    assert len(rows) == 3 * 11
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "Means over 2 scenes:" in text
    assert "| one |" in text
    assert "`mine` is above the best rule in" in text
    assert "| MGDN 2023 | 44.434 |  |" in text


def test_networks_need_names_of_their_own(tables):
    for entry in ("x.safetensors", "short_exposure=x.safetensors"):
        with pytest.raises(InputError, match="NAME=FILE"):
            tables.read_networks([entry])
