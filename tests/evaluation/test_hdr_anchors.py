"""Rows of brackets that were measured elsewhere, scene by scene to 0.01 dB.

Collected only where the brackets and the anchors lie (see conftest.py).
"""

import csv

import pytest
from conftest import SHARED

from mgdn_jax.evaluation.hdr import METRICS, evaluate_hdr, find_scenes
from mgdn_jax.evaluation.merges import MERGES

LOOSE = {"triangle_deghosted": 0.5, "reference_or_short_shifted": 0.5}
"""dB: rules whose anchors do not state all they do."""


def anchors():
    with (SHARED / "anchors" / "hdr_test9_scenes.csv").open(encoding="utf-8") as text:
        return {(row["scene"], row["method"]): row for row in csv.DictReader(text)}


def test_every_rule_comes_out_again():
    rows = anchors()
    tables = evaluate_hdr(MERGES, find_scenes(SHARED / "data" / "hdr" / "test"))
    assert {(s, m) for m, table in tables.items() for s in table.rows} == rows.keys()
    for (scene, method), row in rows.items():
        for metric in METRICS:
            near = LOOSE.get(method, 0.01)
            near = near if metric.startswith("PSNR") else near / 100
            value = tables[method].rows[scene][metric]
            assert value == pytest.approx(float(row[metric]), abs=near), (scene, method, metric)
