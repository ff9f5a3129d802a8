"""Which of several methods is better, and whether the images support saying so.

Two methods are compared on the images that both were scored on: wins, ties and losses a metric,
and Wilcoxon's signed rank test on the paired differences, its p values corrected for the number
of metrics looked at (Holm). A difference of means alone claims nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mgdn_jax import metrics as ruler
from mgdn_jax.errors import InputError
from mgdn_jax.evaluation.scores import Table, average_ranks

ALPHA = 0.05
"""Level of the corrected p value below which a difference counts as shown."""


@dataclass(frozen=True)
class Contest:
    """Two methods under one metric.

    Attributes:
        metric: Exact name.
        n: Images on which both values are finite.
        wins: Images on which the first method is better, in the metric's own direction.
        ties: Images on which both are equal.
        losses: Images on which the second method is better.
        mean_a: Mean of the first method over the `n` images.
        mean_b: Mean of the second method over the same images.
        median_difference: Median of first minus second.
        effect: Rank-biserial correlation of the pairs, -1..1: the share of the ranks of the
            absolute differences that favours the first method minus the share that favours the
            second.
        p: Two-sided p value of Wilcoxon's signed rank test, ties dropped; 1 if all are ties.
        p_holm: The same, corrected for all metrics of the comparison.
        smallest_p: The p value that the images without a tie could reach at best, all
            differences of one sign; 1 if there is none.
    """

    metric: str
    n: int
    wins: int
    ties: int
    losses: int
    mean_a: float
    mean_b: float
    median_difference: float
    effect: float
    p: float
    p_holm: float
    smallest_p: float

    @property
    def verdict(self) -> str:
        """`first`, `second`, `too few images` or `not shown`."""
        if self.ties < self.n and self.smallest_p >= ALPHA:
            return "too few images"
        if self.p_holm >= ALPHA:
            return "not shown"
        return "first" if self.effect > 0 else "second"


@dataclass(frozen=True)
class Comparison:
    """Two methods, metric by metric.

    Attributes:
        first: Name of the first method.
        second: Name of the second.
        images: Names that both tables have, in the order of the first.
        only_first: Images that only the first table has, left out.
        only_second: Images that only the second table has, left out.
        contests: One entry a metric that both tables have.
    """

    first: str
    second: str
    images: tuple[str, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    contests: tuple[Contest, ...]


def compare_all(
    tables: Mapping[str, Table], first: str, metrics: Sequence[str] | None = None
) -> list[Comparison]:
    """Compares one method with each other one.

    Args:
        tables: Method to its scores.
        first: Key of the one.
        metrics: Metrics to look at; all that two tables share if None.

    Returns:
        One comparison an other method; p values are corrected for all tests of the list.

    Raises:
        InputError: as `compare`.
    """
    results = [compare(tables, first, other, metrics) for other in tables if other != first]
    corrected = iter(holm([contest.p for r in results for contest in r.contests]))
    return [
        replace(r, contests=tuple(replace(c, p_holm=next(corrected)) for c in r.contests))
        for r in results
    ]


def compare(
    tables: Mapping[str, Table], first: str, second: str, metrics: Sequence[str] | None = None
) -> Comparison:
    """Compares two methods on the images that both were scored on.

    Args:
        tables: Method to its scores.
        first: Key of the one.
        second: Key of the other.
        metrics: Metrics to look at; all that both tables have if None.

    Returns:
        The comparison, metrics in the order of the first table.

    Raises:
        InputError: if the tables share no image or no metric.
    """
    a, b = tables[first], tables[second]
    images = tuple(name for name in a.rows if name in b.rows)
    shared = [name for name in a.columns if name in b.columns]
    shared = [name for name in shared if metrics is None or name in metrics]
    if not images:
        raise InputError(f"{first} and {second} share no image: score both on the same pictures.")
    if not shared:
        raise InputError(
            f"{first} and {second} share no such metric ({', '.join(a.columns)} against "
            f"{', '.join(b.columns)}): score both with the same --metrics and --variant."
        )
    drafts = [_contest(name, *_paired(name, a, b, images)) for name in shared]
    corrected = holm([draft.p for draft in drafts])
    return Comparison(
        first,
        second,
        images,
        tuple(name for name in a.rows if name not in b.rows),
        tuple(name for name in b.rows if name not in a.rows),
        tuple(replace(draft, p_holm=p) for draft, p in zip(drafts, corrected, strict=True)),
    )


def _paired(
    metric: str, a: Table, b: Table, images: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x = np.array([a.rows[name][metric] for name in images])
    y = np.array([b.rows[name][metric] for name in images])
    both = np.isfinite(x) & np.isfinite(y)
    return x[both], y[both]


def _contest(metric: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> Contest:
    difference = x - y
    # Equal to rounding is a tie: two runs of one method differ in the last bits.
    scale = np.maximum(np.maximum(np.abs(x), np.abs(y)), 1e-300)
    difference = np.where(np.abs(difference) <= 1e-12 * scale, 0.0, difference)
    gain = difference if higher(metric) else -difference
    n, moved = len(x), int(np.count_nonzero(difference))
    empty = n == 0
    p = signed_rank_p(difference)
    return Contest(
        metric,
        n,
        wins=int(np.sum(gain > 0)),
        ties=n - moved,
        losses=int(np.sum(gain < 0)),
        mean_a=math.nan if empty else float(np.mean(x)),
        mean_b=math.nan if empty else float(np.mean(y)),
        median_difference=math.nan if empty else float(np.median(difference)),
        effect=rank_effect(gain),
        p=p,
        p_holm=p,
        smallest_p=min(1.0, 2.0 ** (1 - moved)),
    )


def signed_rank_p(difference: NDArray[np.float64]) -> float:
    """Two-sided p value of Wilcoxon's signed rank test of paired differences.

    Zero differences are dropped, as Wilcoxon 1945 does. Exact for up to 50 differences without
    equal magnitudes, by the normal approximation else (SciPy's rule).

    Args:
        difference: `(n,)`.

    Returns:
        A value in 0..1; 1 if nothing is left.
    """
    moved = difference[difference != 0]
    if moved.size == 0:
        return 1.0
    from scipy import stats  # half a second of import that only a comparison needs

    return float(stats.wilcoxon(moved).pvalue)


def rank_effect(gain: NDArray[np.float64]) -> float:
    """Rank-biserial correlation of paired gains (Kerby 2014): how one-sided the ranks are.

    Args:
        gain: `(n,)`, positive where the first of the two is better; zeros are dropped.

    Returns:
        A value in -1..1; 0 if nothing is left.
    """
    moved = gain[gain != 0]
    if moved.size == 0:
        return 0.0
    ranks = average_ranks(np.abs(moved))
    return float(np.sum(np.sign(moved) * ranks) / np.sum(ranks))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction: p values that stay valid however many were looked at.

    Args:
        p: p values of `m` tests.

    Returns:
        Corrected values in the same order: the k-th smallest times `m - k + 1`, at most 1, and
        none smaller than that of a smaller p.
    """
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    highest = 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - place) * p[index]))
        corrected[index] = highest
    return corrected.tolist()


def image_ranks(
    tables: Mapping[str, Table], metrics: Sequence[str]
) -> tuple[dict[str, float], int]:
    """Mean over images and metrics of each method's rank on that image.

    Values equal to rounding share a rank; a metric is passed over on images where a method has no
    number.

    Args:
        tables: Method to its scores.
        metrics: Metrics that all tables have.

    Returns:
        Method to mean rank, 1 the best, and the number of images, those that all tables have. No
        ranks if there is no such image, or no number on any.
    """
    names = [set(table.rows) for table in tables.values()]
    common = [name for name in next(iter(tables.values())).rows if all(name in s for s in names)]
    ranks: list[NDArray[np.float64]] = []
    for image in common:
        for metric in metrics:
            values = np.array([table.rows[image][metric] for table in tables.values()])
            if np.isnan(values).any():
                continue
            scale = np.abs(values[np.isfinite(values)]).max(initial=0.0)
            if scale:
                values = np.round(values / scale, 11)
            ranks.append(average_ranks(-values if higher(metric) else values))
    if not ranks:
        return {}, len(common)
    return dict(zip(tables, np.mean(ranks, axis=0).tolist(), strict=True)), len(common)


def higher(metric: str) -> bool:
    """Whether more is better."""
    return ruler.METRICS[metric].higher_is_better
