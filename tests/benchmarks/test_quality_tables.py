"""benchmarks/tables.py on small pictures: rows of ours beside rows measured elsewhere."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mgdn_jax.evaluation import baselines, summaries
from mgdn_jax.evaluation.summaries import Summary
from mgdn_jax.fusing.options import USUAL, FuseOptions
from mgdn_jax.io import files

SOURCE = Path(__file__).parents[2] / "benchmarks" / "tables.py"
COLUMNS = ("EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM_dr255")


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("tables", SOURCE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["tables"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["tables"]


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("mff/lytro20/near", "mff/lytro20/far", "ivf/tno25/ir", "ivf/tno25/vi"):
        for name in ("p0", "p1"):
            picture = rng.integers(0, 256, (161, 162, 3)).astype(np.uint8)
            files.write_image(tmp_path / folder / f"{name}.png", picture)
    (tmp_path / "anchors").mkdir()
    return tmp_path


def anchors(tables, root, rows):
    """The given rows as one file of anchors; the others empty but for their heads."""
    for test in tables.SETS.values():
        for name in test.anchors:
            summaries.write_summaries(root / "anchors" / name, [], ("EN",))
    columns = [summaries.ANCHOR_NAMES.get(c, c) for c in tables.MEASURED]
    name = tables.SETS[rows[0].dataset].anchors[0]
    summaries.write_summaries(root / "anchors" / name, rows, columns)


def run(tables, root, *options, models=None):
    args = tables._arguments([*options, "--jobs", "0", "--anchors", str(root / "anchors")])
    return tables.run(args, Console(width=150), models)


def test_a_set_with_jpeg_rows(tables, root, capsys):
    data = ["--data", str(root), "--set", "Lytro20"]
    args = tables._arguments([*data, "--jobs", "0", "--csv", str(root / "first.csv")])
    assert tables.run(args, Console(width=150), {}) == 0
    rows = summaries.read_summaries(root / "first.csv")
    assert [row.method for row in rows[:2]] == ["base_mean", "base_mean+jpeg75"]
    assert len(rows) == 10
    # Our own figures as anchors, one of them spoilt, and one method of somebody else's.
    rows[0].values["VIF"] += 0.5
    rows.append(Summary("Lytro20", "theirs", 2, dict(rows[0].values)))
    anchors(tables, root, rows)
    capsys.readouterr()
    outputs = [*("--markdown", str(root / "page.md")), *("--per-image", str(root / "scores"))]
    outputs += ["--pictures", str(root / "out"), "--csv", str(root / "ours.csv")]
    assert run(tables, root, *data, *outputs, models={"ours": baselines.maximum}) == 0
    text = capsys.readouterr().out
    assert "theirs †" in text
    assert "base_mean: 18 of 19 columns equal" in text
    assert "largest difference 0.50000 (VIF" in text
    assert "base_max: 19 of 19 columns equal" in text
    assert "of 13" in text  # 10 rules, theirs, ours twice
    page = (root / "page.md").read_text()
    assert page.count("| **ours") == 2
    assert "- ours: lowest Qabf" in page
    assert str(root) not in page
    fused = files.read_image(root / "out" / "ours" / "p1.png")
    pair = [files.read_image(root / f"mff/lytro20/{side}/p1.png") for side in ("near", "far")]
    assert np.array_equal(fused, np.maximum(*pair))
    last = (root / "scores" / "Lytro20" / "ours.csv").read_text().splitlines()[-1]
    assert last.startswith("mean,")
    # The page can be made again from the figures alone.
    again = ["--figures", str(root / "ours.csv"), "--set", "Lytro20"]
    assert run(tables, root, *again, "--markdown", str(root / "again.md")) == 0
    weakest = next(line for line in page.splitlines() if "lowest Qabf" in line)
    assert (root / "again.md").read_text() == page.replace(weakest + "\n", "")


def test_printed_rows_stand_in_a_table_of_their_own(tables, root, capsys):
    row = Summary("TNO25", "theirs", 2, dict.fromkeys(tables.MEASURED, 1.0))
    row.values["PSNR"] = row.values.pop("PSNR_peakF")
    anchors(tables, root, [row])
    printed = "table,dataset,method,metric,value\n"
    for metric in ("EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM"):
        for table in ("paper_IVF", "readme_IVF"):
            printed += f"{table},TNO,CDDFuse,{metric},0.77\n"
        printed += f"paper_IVF,RoadScene,Else,{metric},0.5\n"
    (root / "anchors" / "published_cddfuse_tables.csv").write_text(printed)
    page = root / "page.md"
    options = ["--data", str(root), "--set", "TNO25", "--markdown", str(page)]
    assert run(tables, root, *options, models={}) == 0
    text = page.read_text()
    first, second = text.split("### TNO25 beside")
    assert "CDDFuse (" not in first
    assert "base_focus_guided" not in text
    assert "base_hybrid_multiscale" in text
    assert "| CDDFuse (paper, README) ‡ | 0.77 | 0.77 |" in second
    assert "Else" not in text
    assert "SSIM_dr2 ↑" in second
    assert "theirs †" in first
    assert "theirs †" in second


def test_failures_are_reported(tables, root, capsys):
    (root / "mff/lytro20/far/p0.png").write_bytes(b"torn")
    command = ["--data", str(root), "--set", "Lytro20", "--model", "--jobs", "0"]
    command.remove("--model")
    assert tables.main([*command, "--model", "mgdn-mfx"]) == 2
    assert "there is no model" in capsys.readouterr().err
    args = tables._arguments(command)
    assert tables.run(args, Console(width=150), {}) == 1
    assert "p0.png" in capsys.readouterr().err
    (root / "mff/lytro20/far/p0.png").unlink()
    args = tables._arguments(command)
    assert tables.main([*command[:-2], "--jobs", "0"]) == 2
    assert "p0 has no partner" in capsys.readouterr().err
    assert tables.main(["--set", "Lytro20"]) == 2
    assert "either --data to measure or --figures" in capsys.readouterr().err


def test_an_ensemble_that_is_not_the_cards_names_its_row(tables, monkeypatch):
    asked = []

    class Network:
        card, options = {}, FuseOptions(ensemble="flips").otherwise(USUAL)

        def __call__(self, *pictures, **options):
            asked.append(options["ensemble"])

    monkeypatch.setattr("mgdn_jax.load", lambda name: Network())
    for ensemble, name in ((None, "net"), ("flips", "net"), ("none", "net+none")):
        found = tables.models_of(tables.SETS["TNO25"], ["net"], ensemble)
        assert list(found) == [name]
        found[name]()
    assert asked == [None, "flips", "none"]


def test_the_rows_that_come_with_the_package_stand_on_the_page():
    """None is invented: set, name and shown figures are those of the page, each has a source."""
    page = (SOURCE.parents[1] / "docs" / "benchmarks" / "quality.md").read_text(encoding="utf-8")
    shown = {}  # (set, method) to its first cells, as printed
    section = ""
    for line in page.splitlines():
        if line.startswith("## "):
            section = line[3:].removesuffix("'s stored pictures")
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        if line.startswith("|") and section == "LKC-FUNet" and cells[0].endswith("†"):
            shown[f"{section}/{cells[0][:-2]}", section] = (cells[2:], int(cells[1]))
        elif line.startswith("|") and cells[1].endswith(("†", "‡")):
            shown[section, cells[1][:-2]] = (cells[2:-1], None)
    counts = {name: int(n) for name, n in re.findall(r"^## (\S+)\n\n(\d+) pairs", page, re.M)}
    rows = [row for row in summaries.published() if not row.dataset.startswith("EMMA/")]
    assert len({(row.dataset, row.method) for row in rows}) == len(rows) == 89
    for row in rows:
        cells, count = shown[row.dataset, row.method]
        assert row.n == (counts[row.dataset] if count is None else count)
        assert row.source.startswith(("printed in the CDDFuse ", "measured on the pictures stored"))
        printed = row.source.startswith("printed")
        columns = [*COLUMNS[:-1], "SSIM_dr2" if printed else COLUMNS[-1]]
        values = [f"{row.values[name]:.{2 if printed else 4}f}" for name in columns]
        assert values == cells, row
    assert {row.dataset for row in rows} <= {name for name, _ in shown}


def test_rows_of_a_paper_whose_pairs_are_unknown():
    rows = [row for row in summaries.published() if row.dataset.startswith("EMMA/")]
    assert len({(row.dataset, row.method) for row in rows}) == len(rows) == 4 * 10
    assert all(row.n == 0 and len(row.values) == 6 for row in rows)  # without a number, no rank
    found = {row.dataset: row for row in rows if row.method == "CDDF (EMMA's paper)"}
    assert found["EMMA/RoadScene"].values["SF"] == 14.97  # CDDFuse's own paper: 16.36
    assert "do not mix the two tables" in found["EMMA/RoadScene"].source
    assert "do not mix" not in found["EMMA/MSRS"].source
