"""Tables of scores for the terminal."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from rich.table import Table as RichTable
from rich.text import Text

from mgdn_jax import metrics as ruler
from mgdn_jax.evaluation.scores import Scores


def rich_table(
    rows: Mapping[str, Scores],
    names: Sequence[str],
    *,
    title: str = "",
    ranks: Mapping[str, float] | None = None,
    marked: Mapping[str, Collection[str]] | None = None,
    images: Mapping[str, int] | None = None,
    metrics_down: bool = False,
) -> RichTable:
    """A terminal table with direction arrows; the best value is bold, the second underlined.

    Values that look alike at the digits shown share a mark.

    Args:
        rows: Row name to values; a missing value shows as a dash.
        names: Metrics in order.
        title: Line above the table.
        ranks: Mean ranks for a last column, if wanted; a row without one shows a dash.
        marked: Metric to the rows among which its best are marked; all rows if None.
        images: Row name to number of images, for a column of its own, if wanted.
        metrics_down: One row a metric and one column a method, for more metrics than fit across.

    Returns:
        A table for `rich.console.Console.print`, methods in the given order.
    """
    heads = [f"{name} {ruler.resolve(name).arrow}" for name in names]
    columns = [
        _marked(
            [row.get(name) for row in rows.values()],
            [marked is None or method in marked[name] for method in rows],
            name,
        )
        for name in names
    ]
    if images is not None:
        heads.insert(0, "images")
        columns.insert(0, [Text(str(images[m]) if m in images else "-") for m in rows])
    if ranks is not None:
        heads.append("mean rank ↓")
        columns.append([Text(f"{ranks[m]:.2f}" if m in ranks else "-") for m in rows])
    # Text, not markup: a name may hold brackets, and control characters are not for a terminal.
    methods = [Text(printable(method)) for method in rows]
    table = RichTable(title=title or None)
    if metrics_down:
        table.add_column("metric", no_wrap=True)
        for method in methods:
            table.add_column(method, justify="right")
        for head, column in zip(heads, columns, strict=True):
            table.add_row(head, *column)
    else:
        table.add_column("method", no_wrap=True)
        for head in heads:
            table.add_column(head, justify="right")
        for method, *cells in zip(methods, *columns, strict=True):
            table.add_row(method, *cells)
    return table


def printable(text: str) -> str:
    """The text without control characters, which would act on a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _marked(values: Sequence[float | None], fair: Sequence[bool], name: str) -> list[Text]:
    """One metric's values as text, the best and the second best marked."""
    texts = ["-" if v is None else f"{v:.4f}".replace("inf", "∞") for v in values]
    shown: dict[str, float] = {
        text: value
        for text, value, counts in zip(texts, values, fair, strict=True)
        if value is not None and counts and not math.isnan(value)
    }
    best = sorted(
        shown, key=lambda t: shown[t] or 0.0, reverse=ruler.resolve(name).higher_is_better
    )
    marks = dict(zip(best, ("bold", "underline"), strict=False))
    return [
        Text(text, style=marks.get(text, "") if counts else "")
        for text, counts in zip(texts, fair, strict=True)
    ]
