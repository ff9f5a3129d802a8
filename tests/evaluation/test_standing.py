"""Ranks and marks: one place makes them, every table of means shows them."""

import math

import pytest

from mgdn_jax.errors import InputError
from mgdn_jax.evaluation.scores import Table
from mgdn_jax.evaluation.standing import Row, places, rank_methods, rank_rows, shown
from mgdn_jax.evaluation.summaries import Summary


def test_places_go_by_what_is_seen():
    assert places([1.00004, 1.00001, 0.5, 0.4, None], 4, higher=True) == [1, 1, 2, None, None]
    assert places([1.00004, 1.00001, 0.5, 0.4, None], 5, higher=False) == [None, None, 2, 1, None]
    assert places([math.inf, 3.0], 4, higher=True) == [1, 2]
    assert places([-0.00001, 0.00001, -1.0], 4, higher=True) == [1, 1, 2]
    assert places([3.0], 4, higher=True) == [None]
    assert places([], 4, higher=True) == []


def test_rows_of_every_kind():
    tables = {
        "ours": Table(("EN", "MSE"), {"x": {"EN": 7.0, "MSE": 2.0}, "y": {"EN": 5.0, "MSE": 4.0}}),
        "rule": Table(("EN", "MSE"), {"x": {"EN": 6.0, "MSE": math.nan}}, {"y": "torn"}),
        "lost": Table(("EN", "MSE"), {}, {"x": "torn", "y": "torn"}),
    }
    foreign = [
        Summary("S", "theirs", 1, {"EN": 6.5, "MSE": 1.0, "Qabf": 1.0}, source="a paper"),
        Summary("S", "far", 25, {"EN": 9.0, "MSE": 0.0}),
        Summary("S", "half", 1, {"EN": 8.0}, {"EN": 3}),
    ]
    table = rank_methods(tables, baselines=["rule"], elsewhere=foreign)
    assert table.images == ("x",)
    assert [(row.title, row.kind, row.images) for row in table.rows] == [
        ("ours", "measured", 1),
        ("rule", "baseline", 1),
        ("lost", "measured", 0),
        ("theirs †", "elsewhere", 1),
        ("far †", "elsewhere", 25),
        ("half †", "elsewhere", 1),
    ]
    assert table.rows[3].means == {"EN": 6.5, "MSE": 1.0}
    assert table.rows[3].source == "a paper"
    assert table.ranked_by == ("EN", "MSE")
    # Of MSE no image is left on which all have a number, so it ranks all of ours alike.
    assert [row.rank for row in table.rows] == [1.75, 2.75, None, 1.5, None, None]
    assert table.places("EN") == [1, None, None, 2, None, None]
    assert table.places("MSE") == [2, None, None, 1, None, None]
    assert table.rank_places() == [2, None, None, 1, None, None]
    assert [row.name for row in table.by_rank().rows] == ["theirs", "ours", "rule", "lost", "half"]
    assert table.counts_differ


def test_rows_without_a_common_image_have_neither_ranks_nor_marks():
    tables = {n: Table(("EN",), {n: {"EN": 1.0}}) for n in ("a", "b")}
    table = rank_methods(tables)
    assert not table.is_ranked
    assert table.places("EN") == [None, None]
    assert [row.images for row in table.rows] == [1, 1]


def test_a_ranking_may_go_over_other_metrics():
    rows = [Row(n, v, 3, comparable=v) for n, v in (("a", {"SF": 1.0}), ("b", {"SF": 2.0}))]
    assert not rank_rows(rows, ("SF",)).is_ranked  # it rewards noise
    assert [row.rank for row in rank_rows(rows, ("SF",), ("SF",)).rows] == [2.0, 1.0]


def test_a_rule_that_is_not_there():
    with pytest.raises(InputError, match="the baseline n has no table of scores"):
        rank_methods({"m": Table(("EN",))}, baselines=["n"])


def test_numbers_as_text():
    values = (1.23456, math.inf, -math.inf, math.nan)
    assert [shown(value) for value in values] == ["1.2346", "∞", "-∞", "NaN"]
    assert shown(1.5, 1) == "1.5"
