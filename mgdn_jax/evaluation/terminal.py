"""Tables of means for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table as RichTable
from rich.text import Text

from mgdn_jax.errors import printable
from mgdn_jax.evaluation.standing import RANK_DIGITS, Row, Standing, head, shown

_STYLES = {1: "bold", 2: "underline", None: ""}


def rich_table(standing: Standing, *, title: str = "", metrics_down: bool = False) -> RichTable:
    """A terminal table with direction arrows; the best value is bold, the second underlined.

    Args:
        standing: The rows with their ranks and marks. A missing value shows as a dash. The number
            of images has a column of its own where rows differ in it.
        title: Line above the table.
        metrics_down: One row a metric and one column a method, for more metrics than fit across.

    Returns:
        A table for `rich.console.Console.print`, rows in the given order.
    """
    heads = [head(name) for name in standing.columns]
    columns = [_means(standing.rows, name, standing.places(name)) for name in standing.columns]
    if standing.counts_differ:
        heads.insert(0, "images")
        columns.insert(0, [Text(str(row.images)) for row in standing.rows])
    if standing.is_ranked:
        heads.append("mean rank ↓")
        columns.append(_ranks(standing.rows, standing.rank_places()))
    # Text, not markup: a name may hold brackets, and control characters are not for a terminal.
    methods = [Text(printable(row.title)) for row in standing.rows]
    table = RichTable(title=title or None)
    if metrics_down:
        table.add_column("metric", no_wrap=True)
        for method in methods:
            table.add_column(method, justify="right")
        for name, column in zip(heads, columns, strict=True):
            table.add_row(name, *column)
    else:
        table.add_column("method", no_wrap=True)
        for name in heads:
            table.add_column(name, justify="right")
        for method, *cells in zip(methods, *columns, strict=True):
            table.add_row(method, *cells)
    return table


def _means(rows: Sequence[Row], metric: str, places: Sequence[int | None]) -> list[Text]:
    return [
        Text(shown(row.means[metric]) if metric in row.means else "-", style=_STYLES[place])
        for row, place in zip(rows, places, strict=True)
    ]


def _ranks(rows: Sequence[Row], places: Sequence[int | None]) -> list[Text]:
    return [
        Text("-" if row.rank is None else shown(row.rank, RANK_DIGITS), style=_STYLES[place])
        for row, place in zip(rows, places, strict=True)
    ]
