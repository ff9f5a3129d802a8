"""Rows of depth sets that were measured elsewhere, to the printed digits.

Collected only where the maps and the anchors lie (see conftest.py). Joint bilateral upsampling has
settings that its row does not state; it agrees to 0.2 %.
"""

import csv

import pytest
from conftest import SHARED

from mgdn_jax.evaluation.depth import PROTOCOLS, evaluate_depth, find_depth_pairs
from mgdn_jax.evaluation.upsampling import BASELINES

SETS = {
    "lu6": ("Lu6", "lu6"),
    "nyu": ("NYU5", "."),
    "middlebury30": ("Middlebury30", "middlebury30"),
    "rgbdd": ("RGBDD-test40", "rgbdd_test"),
}
EXACT = ("bicubic", "bicubic_mgdn")
EVERY = (("lu6", 4), ("nyu", 4), ("nyu", 8))  # where every rule is tested; the others take long
PRINTED = {"bicubic": "bicubic_pillow"}


def anchors(dataset):
    rows = {}
    for name in ("gdsr_baselines.csv", "gdsr_baselines_jbu.csv"):
        with (SHARED / "anchors" / name).open(encoding="utf-8") as text:
            rows |= {r["method"]: r for r in csv.DictReader(text) if r["dataset"] == dataset}
    return rows


@pytest.mark.parametrize("scale", [4, 8, 16])
@pytest.mark.parametrize("name", SETS)
def test_rows_come_out_again(name, scale):
    dataset, folder = SETS[name]
    pairs = find_depth_pairs(SHARED / "data" / "gdsr" / folder)
    methods = {k: v for k, v in BASELINES.items() if (name, scale) in EVERY or k in EXACT}
    tables = evaluate_depth(methods, pairs, PROTOCOLS[name], scale)
    wanted = anchors(dataset)
    for method, table in tables.items():
        row = wanted[PRINTED.get(method, method)]
        value = table.mean()[row["metric"]]
        assert len(table.rows) == int(row["n"])
        if method == "joint_bilateral":
            assert value == pytest.approx(float(row[f"x{scale}"]), rel=2e-3)
        else:
            assert f"{value:.4f}" == row[f"x{scale}"], method
