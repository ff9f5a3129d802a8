import math

import numpy as np
import pytest

from mgdn_jax.errors import InputError
from mgdn_jax.evaluation import comparison
from mgdn_jax.evaluation.scores import Table


def table(metric="EN", **rows):
    return Table((metric,), {name: {metric: value} for name, value in rows.items()})


def test_signed_rank_by_hand():
    # Differences 1, 2, 3, -4: W- = 4. Of the 16 sign patterns, 7 have W- <= 4, both tails 14.
    assert comparison.signed_rank_p(np.array([1.0, 2.0, 3.0, -4.0])) == pytest.approx(14 / 16)
    # Six of one sign: only 2 of 64 patterns are as extreme; zeros are dropped.
    six = np.array([0.0, 1, 2, 3, 4, 5, 6])
    assert comparison.signed_rank_p(six) == pytest.approx(2 / 64)
    assert comparison.signed_rank_p(np.zeros(4)) == 1.0
    assert comparison.rank_effect(np.array([1.0, 2.0, 3.0, -4.0])) == pytest.approx(2 / 10)
    assert comparison.rank_effect(-six) == -1
    assert comparison.rank_effect(np.zeros(3)) == 0


def test_holm_by_hand():
    assert comparison.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert comparison.holm([0.9, 0.8]) == [1.0, 1.0]
    assert comparison.holm([0.02]) == [0.02]


def test_wins_are_counted_in_the_metrics_own_direction():
    a = table("MSE", x=1.0, y=2.0, z=3.0, only_a=0.0)
    b = table("MSE", z=3.0, x=5.0, y=1.0, only_b=0.0)
    result = comparison.compare({"a": a, "b": b}, "a", "b")
    (contest,) = result.contests
    assert result.images == ("x", "y", "z")
    assert (result.only_first, result.only_second) == (("only_a",), ("only_b",))
    assert (contest.wins, contest.ties, contest.losses) == (1, 1, 1)
    assert (contest.mean_a, contest.mean_b) == (2.0, 3.0)
    assert contest.effect == pytest.approx((2 - 1) / 3)
    assert contest.verdict == "too few images"  # three images can never reach 0.05


@pytest.mark.parametrize(("metric", "better"), [("EN", "second"), ("MSE", "first")])
def test_a_clear_difference_is_shown_and_its_direction_named(metric, better):
    values = np.linspace(1, 2, 12)
    a = table(metric, **{f"i{k}": v for k, v in enumerate(values)})
    b = table(metric, **{f"i{k}": v + 0.1 + 0.01 * k for k, v in enumerate(values)})
    (contest,) = comparison.compare({"a": a, "b": b}, "a", "b").contests
    assert contest.p == pytest.approx(2 / 2**12)
    assert contest.verdict == better
    (mirrored,) = comparison.compare({"a": a, "b": b}, "b", "a").contests
    assert mirrored.verdict == {"first": "second", "second": "first"}[better]
    assert mirrored.p == contest.p


def test_a_difference_of_means_alone_is_not_shown():
    # The mean is far apart because of one image; the others go either way.
    a = table(**{f"i{k}": float(k % 2) for k in range(12)} | {"outlier": 1000.0})
    b = table(**{f"i{k}": float((k + 1) % 2) for k in range(12)} | {"outlier": 0.0})
    (contest,) = comparison.compare({"a": a, "b": b}, "a", "b").contests
    assert contest.mean_a > contest.mean_b + 70
    assert contest.verdict == "not shown"


def test_the_correction_counts_all_metrics():
    rng = np.random.default_rng(0)
    names = ("EN", "SD", "MI", "VIF")
    rows = {f"i{k}": dict.fromkeys(names, 0.0) for k in range(9)}
    better = {k: {n: abs(rng.normal()) for n in names} for k in rows}
    result = comparison.compare({"a": Table(names, better), "b": Table(names, rows)}, "a", "b")
    assert [c.p for c in result.contests] == pytest.approx([2 / 512] * 4)
    assert [c.p_holm for c in result.contests] == pytest.approx([8 / 512] * 4)


def test_values_that_are_not_finite_are_left_out():
    a = table("CC", x=0.5, y=math.nan, z=math.inf)
    b = table("CC", x=0.25, y=0.5, z=0.5)
    (contest,) = comparison.compare({"a": a, "b": b}, "a", "b").contests
    assert (contest.n, contest.wins, contest.mean_a) == (1, 1, 0.5)
    nothing = table("CC", x=math.nan)
    (contest,) = comparison.compare({"a": nothing, "b": b}, "a", "b").contests
    assert (contest.n, contest.p, contest.verdict) == (0, 1.0, "not shown")
    assert math.isnan(contest.mean_a)


def test_equal_to_rounding_is_a_tie():
    value = 0.1 + 0.2
    (contest,) = comparison.compare({"a": table(x=value), "b": table(x=0.3)}, "a", "b").contests
    assert (contest.ties, contest.wins) == (1, 0)


def test_image_ranks_by_hand():
    names = ("EN", "MSE")
    tables = {
        "a": Table(names, {"x": {"EN": 2.0, "MSE": 1.0}, "y": {"EN": 1.0, "MSE": 1.0}}),
        "b": Table(names, {"x": {"EN": 1.0, "MSE": 2.0}, "y": {"EN": 1.0, "MSE": 0.0}}),
        "c": Table(names, {"y": {"EN": 0.0, "MSE": 3.0}, "x": {"EN": 0.0, "MSE": 3.0}}),
    }
    ranks, images = comparison.image_ranks(tables, names)
    assert images == 2
    # x: a 1 1, b 2 2, c 3 3; y: a 1.5 2, b 1.5 1, c 3 3.
    assert ranks == pytest.approx({"a": (1 + 1.75) / 2, "b": (2 + 1.25) / 2, "c": 3.0})


def test_nothing_in_common():
    with pytest.raises(InputError, match="share no image"):
        comparison.compare({"a": table(x=1.0), "b": table(y=1.0)}, "a", "b")
    with pytest.raises(InputError, match="share no such metric"):
        comparison.compare({"a": table(x=1.0), "b": table("MSE", x=1.0)}, "a", "b")
    assert comparison.image_ranks({"a": table(x=1.0), "b": table(y=1.0)}, ("EN",)) == ({}, 0)


def test_ranks_of_images_forgive_the_last_bits_and_pass_over_gaps():
    tables = {"a": table("CC", x=0.3, y=math.nan, z=1.0), "b": table("CC", x=0.1 + 0.2, y=1, z=0.5)}
    assert comparison.image_ranks(tables, ("CC",)) == ({"a": 1.25, "b": 1.75}, 3)
    empty = {"a": table("CC", x=math.nan), "b": table("CC", x=1.0)}
    assert comparison.image_ranks(empty, ("CC",)) == ({}, 1)


def test_several_methods_are_corrected_together():
    a = table(**{f"i{k}": 1.0 + k for k in range(9)})
    others = {n: table(**{f"i{k}": 0.0 for k in range(9)}) for n in ("b", "c", "d")}
    results = comparison.compare_all({"a": a, **others}, "a")
    assert [r.second for r in results] == ["b", "c", "d"]
    assert [r.contests[0].p_holm for r in results] == pytest.approx([6 / 512] * 3)
    with pytest.raises(InputError, match="share no such metric"):
        comparison.compare_all({"a": a, **others}, "a", ["MI"])


def test_ties_leave_too_few_images():
    a = table(**{f"i{k}": 1.0 for k in range(15)} | {f"j{k}": 1.0 for k in range(5)})
    b = table(**{f"i{k}": 1.0 for k in range(15)} | {f"j{k}": 0.5 for k in range(5)})
    (contest,) = comparison.compare({"a": a, "b": b}, "a", "b").contests
    assert contest.verdict == "too few images"
