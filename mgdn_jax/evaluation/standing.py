"""Where methods stand: rows of means on equal terms, their mean ranks and their marks.

Ranks and marks are made here alone. The terminal, the page, Markdown, LaTeX and JSON show them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from mgdn_jax import metrics as ruler
from mgdn_jax.errors import InputError
from mgdn_jax.evaluation.scores import Table, common, mean_ranks
from mgdn_jax.evaluation.summaries import Summary

Kind: TypeAlias = Literal["measured", "baseline", "elsewhere"]

DIGITS = 4
"""Decimals of means in tables of text."""
RANK_DIGITS = 2
"""Decimals of mean ranks."""


@dataclass(frozen=True)
class Row:
    """One line of a table of means.

    Attributes:
        name: Name of the method.
        means: Exact metric name to the mean that is shown; a metric may be absent.
        images: Number of images averaged.
        kind: Measured here, a rule without learning beside what was asked for, or a row of means
            that was measured elsewhere.
        invalid: Metric to the number of values that its mean leaves out.
        comparable: Means that take part in ranks and marks; none if the row averages other images
            than the others.
        source: Where a row from elsewhere comes from, if that is known.
        rank: Mean rank, 1 the best; None if the row is not ranked.
    """

    name: str
    means: Mapping[str, float]
    images: int
    kind: Kind = "measured"
    invalid: Mapping[str, int] = field(default_factory=dict)
    comparable: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    rank: float | None = None

    @property
    def title(self) -> str:
        """The name, with a dagger if the row was measured elsewhere."""
        return f"{self.name} †" if self.kind == "elsewhere" else self.name

    def eligible(self, metric: str) -> float | None:
        """The mean that may be marked as the best: one without gaps, over the common images."""
        value = self.means.get(metric, math.nan)
        if not self.comparable or metric in self.invalid or math.isnan(value):
            return None
        return value


@dataclass(frozen=True)
class Standing:
    """A table of means with its ranks.

    Attributes:
        columns: Exact metric names in order.
        rows: The lines in order.
        ranked_by: Metrics that mean ranks go over.
        images: Images that every method measured here has.
        tables: Method to all its scores, those of other images included.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    ranked_by: tuple[str, ...]
    images: tuple[str, ...] = ()
    tables: Mapping[str, Table] = field(default_factory=dict)

    @property
    def is_ranked(self) -> bool:
        """Whether any row has a mean rank."""
        return any(row.rank is not None for row in self.rows)

    @property
    def counts_differ(self) -> bool:
        """Whether rows average different numbers of images."""
        return len({row.images for row in self.rows}) > 1

    def places(self, metric: str, digits: int = DIGITS) -> list[int | None]:
        """For each row 1 if its mean of a metric is the best, 2 if the second best, else None."""
        higher = ruler.resolve(metric).higher_is_better
        return places([row.eligible(metric) for row in self.rows], digits, higher=higher)

    def rank_places(self) -> list[int | None]:
        """For each row 1 if its mean rank is the best, 2 if the second best, else None."""
        return places([row.rank for row in self.rows], RANK_DIGITS, higher=False)

    def by_rank(self) -> Standing:
        """The same, best rank first, without rows from elsewhere that cannot be compared."""
        rows = [row for row in self.rows if row.kind != "elsewhere" or row.comparable]
        if self.is_ranked:
            rows.sort(key=lambda row: math.inf if row.rank is None else row.rank)
        return dataclasses.replace(self, rows=tuple(rows))


def rank_methods(
    tables: Mapping[str, Table],
    *,
    baselines: Iterable[str] = (),
    elsewhere: Iterable[Summary] = (),
) -> Standing:
    """The table of means over the images that all methods have.

    Args:
        tables: Method to its scores.
        baselines: Methods among `tables` that are rules beside what was asked for.
        elsewhere: Rows of means from elsewhere, under the exact metric names. Those that average
            another number of images are shown without rank and mark.

    Returns:
        Rows in the order of `tables`, then those from elsewhere.

    Raises:
        InputError: a baseline is not among the tables.
    """
    rules = set(baselines)
    if lacking := sorted(rules - tables.keys()):
        raise InputError(f"the baseline {lacking[0]} has no table of scores: leave it out.")
    shared = common(tables)
    columns = tuple(dict.fromkeys(name for table in tables.values() for name in table.columns))
    rows = []
    for method in tables:
        table = shared.tables.get(method)
        rows.append(
            Row(
                method,
                {} if table is None else table.mean(),
                0 if table is None else len(table.rows),
                "baseline" if method in rules else "measured",
                {} if table is None else table.invalid(),
                shared.means.get(method, {}),
            )
        )
    for summary in elsewhere:
        means = {name: summary.values[name] for name in columns if name in summary.values}
        fair = means if summary.n == len(shared.images) else {}
        rows.append(
            Row(
                summary.method,
                means,
                summary.n,
                "elsewhere",
                summary.invalid,
                fair,
                summary.source,
            )
        )
    return rank_rows(rows, columns, images=shared.images, tables=tables)


def rank_rows(
    rows: Sequence[Row],
    columns: Sequence[str],
    ranked_by: Sequence[str] | None = None,
    *,
    images: tuple[str, ...] = (),
    tables: Mapping[str, Table] | None = None,
) -> Standing:
    """Fills in the mean ranks of rows.

    Args:
        rows: The lines of the table. Those whose comparable means have all the metrics that are
            ranked by take part; fewer than two have no rank.
        columns: Metrics shown.
        ranked_by: Metrics ranked by; those of `columns` that may choose (`metrics.ranked`) if
            None.
        images: See `Standing`.
        tables: See `Standing`.
    """
    ranked_by = tuple(ruler.ranked(columns) if ranked_by is None else ranked_by)
    whole = {
        str(number): row.comparable
        for number, row in enumerate(rows)
        if all(name in row.comparable for name in ranked_by)
    }
    ranks = mean_ranks(whole, ranked_by) if ranked_by and len(whole) > 1 else {}
    ranked = (
        dataclasses.replace(row, rank=ranks.get(str(number))) for number, row in enumerate(rows)
    )
    return Standing(tuple(columns), tuple(ranked), ranked_by, images, tables or {})


def places(values: Sequence[float | None], digits: int, *, higher: bool) -> list[int | None]:
    """Which values are the best (1) and the second best (2) as a reader sees them.

    Args:
        values: What is compared; None takes no part.
        digits: Decimals shown. Values that look alike share a place.
        higher: Whether more is better.

    Returns:
        A place or None for each value; none at all where there is one row to look at.
    """
    if len(values) < 2:
        return [None] * len(values)
    rounded = [None if value is None else round(value, digits) for value in values]
    best = sorted({value for value in rounded if value is not None}, reverse=higher)[:2]
    return [best.index(value) + 1 if value in best else None for value in rounded]


def head(metric: str) -> str:
    """The title of a metric's column, with the direction in which it is better."""
    return f"{metric} {ruler.resolve(metric).arrow}"


def shown(value: float, digits: int = DIGITS) -> str:
    """A mean as text."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return "NaN" if math.isnan(value) else f"{value:.{digits}f}"
