"""The summary of all tables: places, worst sets and worst pictures from figures in files."""

from pathlib import Path

import numpy as np

from benchmarks import summary, worst
from mgdn_jax.evaluation.scores import Table, write_tables
from mgdn_jax.evaluation.summaries import Summary

BEST = {"EN": 7.0, "SD": 50.0, "SF": 15.0, "MI": 3.0, "SCD": 1.9, "VIF": 0.9, "Qabf": 0.7}
BEST["SSIM_dr255"] = 1.4


def row(dataset, method, share):
    return Summary(dataset, method, 5, {name: share * value for name, value in BEST.items()})


ROWS = [
    row("TNO25", "lkc-funet-small-ivf", 1.0),
    row("TNO25", "base_max", 0.9),
    row("TNO25", "slow", 0.8),
    row("MSRS5", "lkc-funet-small-ivf", 0.7),
    row("MSRS5", "base_max", 0.9),
    row("MSRS5", "slow", 0.5),
    row("Lytro20", "sharp", 1.0),
    row("Lytro20", "sharp+jpeg75", 0.9),
]


def test_places_are_among_all_rows_of_a_set():
    table = summary.standings("infrared", ROWS, None)
    assert [str(s) for s in table["lkc-funet-small-ivf"]] == ["1/3", "2/3"]
    assert [str(s) for s in table["base_max"]] == ["2/3", "1/3"]
    assert [s.dataset for s in table["slow"]] == ["TNO25", "MSRS5"]
    assert list(summary.standings("multi-focus", ROWS, None)) == ["sharp"]
    assert summary.standings("medical", ROWS, None) == {}


def test_the_worst_picture_is_that_of_the_lowest_qabf(tmp_path: Path):
    for dataset, scores in (("TNO25", {"a": 0.5, "b": 0.3}), ("MSRS5", {"c": 0.4})):
        table = Table(("Qabf",), {name: {"Qabf": value} for name, value in scores.items()})
        write_tables(tmp_path / dataset / "slow.csv", {"slow": table})
    assert summary.worst_picture("slow", "infrared", tmp_path) == "TNO25 b (0.30)"
    assert summary.worst_picture("nobody", "infrared", tmp_path) == ""
    assert summary.worst_picture("slow", "infrared", None) == ""


def test_the_page_names_the_defaults_and_the_worst_set(tmp_path: Path):
    text = summary.page(ROWS, None, tmp_path)
    defaults = {task.model for task in summary.TASKS.values()}
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert "## Infrared and visible" in text
    assert "## Medical" not in text
    (line,) = [line for line in lines if "slow" in line]
    assert line == "| slow | 3/3, 3/3 | 3.00 | TNO25 (3/3) |  |"
    assert ("| **lkc-funet-small-ivf** |" in text) == ("lkc-funet-small-ivf" in defaults)


def test_a_sheet_shows_all_pictures_at_one_height():
    gray, colour = np.zeros((40, 80), np.uint8), np.full((20, 20, 3), 255, np.uint8)
    page = worst.sheet([gray, colour, gray], "words")
    assert page.size == (640 + 320 + 640 + 8, 336)
    assert page.getpixel((700, 100)) == (255, 255, 255)
    assert page.getpixel((300, 100)) == (0, 0, 0)
