"""Scores as tables: means, ranks, CSV files, terminal tables.

A `Table` holds the scores of one method, one row an image. Column titles are the exact metric
names of `mgdn_jax.metrics` (`SSIM_dr255`, not `SSIM`), so that figures of two evaluator variants
never share one.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.table import Table as RichTable
from rich.text import Text

from mgdn_jax import metrics as ruler
from mgdn_jax.disk import write_atomically
from mgdn_jax.errors import InputError

Scores: TypeAlias = Mapping[str, float]

ANCHOR_NAMES: Mapping[str, str] = {"PSNR_peakF": "PSNR"}
"""Titles in the anchors' files of metrics that carry an exact name here."""

MEAN = "mean"
"""Title of the last row of a CSV file of scores."""


@dataclass
class Table:
    """Scores of one method.

    Attributes:
        columns: Exact metric names.
        rows: Image name to `{column: value}`; NaN and infinity are kept as they came.
        failures: Image name to the sentence that says why it has no row.
    """

    columns: tuple[str, ...]
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def mean(self) -> dict[str, float]:
        """Arithmetic mean of the finite values of each column; NaN where there is none."""
        means = {}
        for column in self.columns:
            finite = [r[column] for r in self.rows.values() if math.isfinite(r[column])]
            means[column] = float(np.mean(finite)) if finite else math.nan
        return means

    def invalid(self) -> dict[str, int]:
        """For each column that has any, how many values are NaN or infinite."""
        counts = {
            column: sum(not math.isfinite(row[column]) for row in self.rows.values())
            for column in self.columns
        }
        return {column: count for column, count in counts.items() if count}


def write_tables(path: str | os.PathLike[str], tables: Mapping[str, Table]) -> None:
    """Writes scores as CSV in full precision, a row an image and a last row `mean` a method.

    One table gives the columns `image,<metrics...>`, several `method,image,<metrics...>`.

    Args:
        path: The file to be; replaced as a whole.
        tables: Method to its table, all with the same columns.

    Raises:
        InputError: if the place cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    several = len(tables) > 1
    columns = next(iter(tables.values())).columns
    writer.writerow([*(["method"] if several else []), "image", *columns])
    for method, table in tables.items():
        for name, row in [*table.rows.items(), (MEAN, table.mean())]:
            cells = (repr(float(row[column])) for column in columns)
            writer.writerow([*([method] if several else []), name, *cells])
    write_atomically(path, text.getvalue().encode())


def read_tables(path: str | os.PathLike[str]) -> dict[str, Table]:
    """Reads a file of `write_tables` (or of another program in that format).

    Args:
        path: A CSV file with the columns `image,...` or `method,image,...`. A method's last row
            `mean` and columns that are no metric of ours are left out; an empty cell is NaN.

    Returns:
        Method to table; a file of one method is called by its stem.

    Raises:
        InputError: if the file is missing or not of this format, or names an image twice.
    """
    reader = csv.DictReader(io.StringIO(_text(path)))
    titles = list(reader.fieldnames or [])
    lead = ["method", "image"] if titles[:1] == ["method"] else ["image"]
    columns = tuple(name for name in titles[len(lead) :] if name in ruler.METRICS)
    if titles[: len(lead)] != lead or not columns:
        raise InputError(
            f"{path} is no table of scores an image: its columns must be image (or method,image) "
            "and metrics, as mgdn eval --csv writes them."
        )
    rows: dict[str, list[tuple[str, dict[str, float]]]] = {}
    for number, cells in enumerate(reader, start=2):
        method = cells.get("method", Path(path).stem) or ""
        try:
            row = {name: _number(cells[name]) for name in columns}
        except (AttributeError, ValueError):
            raise InputError(f"{path}, line {number}, is not a row of numbers: mend it.") from None
        rows.setdefault(method, []).append((cells["image"], row))
    tables = {}
    for method, listed in rows.items():
        if listed[-1][0] == MEAN:  # only the last one: a picture may be called so
            listed.pop()
        tables[method] = Table(columns, dict(listed))
        if len(tables[method].rows) < len(listed):
            raise InputError(f"{path} names an image of {method} twice: keep one row an image.")
    if not any(table.rows for table in tables.values()):
        raise InputError(f"{path} holds no image's scores: give a file with at least one row.")
    return tables


def _number(cell: str) -> float:
    return float(cell) if cell.strip() else math.nan


def _text(path: str | os.PathLike[str]) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{path} cannot be read: give a CSV file of scores.") from None


def mean_ranks(rows: Mapping[str, Scores], metrics: Sequence[str]) -> dict[str, float]:
    """Mean over metrics of each row's rank among all rows.

    Rank 1 is the best value in the metric's own direction, ties share the mean of their ranks,
    NaN ranks last.

    Args:
        rows: Row name to values.
        metrics: Names to rank by, all present in every row.

    Returns:
        Row name to mean rank, 1..len(rows), in the order of `rows`.

    Raises:
        InputError: if a row lacks a metric, or no metric is given.
    """
    if not metrics:
        raise InputError("mean ranks need at least one metric: name one.")
    total: NDArray[np.float64] = np.zeros(len(rows))
    for name in metrics:
        lacking = [row for row, values in rows.items() if name not in values]
        if lacking:
            raise InputError(f"{lacking[0]} has no value of {name}: leave that metric or row out.")
        values = np.array([values[name] for values in rows.values()], dtype=np.float64)
        worse = -values if ruler.resolve(name).higher_is_better else values
        total += average_ranks(np.where(np.isnan(worse), np.inf, worse))
    return dict(zip(rows, (total / len(metrics)).tolist(), strict=True))


def average_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1 for the smallest value, ties sharing the mean of theirs."""
    smaller = (values[:, None] > values).sum(axis=1)
    equal = (values[:, None] == values).sum(axis=1)  # itself included
    return smaller + (equal + 1) / 2


@dataclass
class Summary:
    """Means of one method over a data set: a row of the anchors' files.

    Attributes:
        dataset: Name of the test set.
        method: Name of the method.
        n: Number of pairs averaged.
        values: Column title to mean.
        invalid: Column title to the number of pairs left out of its mean.
    """

    dataset: str
    method: str
    n: int
    values: dict[str, float]
    invalid: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: str, method: str, table: Table) -> Summary:
        """Averages a table, its columns renamed to the anchors' titles."""
        return cls(
            dataset,
            method,
            len(table.rows),
            {ANCHOR_NAMES.get(name, name): value for name, value in table.mean().items()},
            {ANCHOR_NAMES.get(name, name): count for name, count in table.invalid().items()},
        )


def read_summaries(path: str | os.PathLike[str]) -> list[Summary]:
    """Reads a file of the anchors' format: `dataset,method,n,<metrics...>,invalid`.

    Args:
        path: A CSV file; the column `invalid` may be absent, empty cells are left out.

    Returns:
        Its rows in order.

    Raises:
        InputError: if the file is missing or not of this format.
    """
    return list(_parse(_text(path), os.fspath(path)))


def _parse(text: str, path: str) -> Iterator[Summary]:
    reader = csv.DictReader(io.StringIO(text))
    titles = reader.fieldnames or []
    if list(titles[:3]) != ["dataset", "method", "n"]:
        raise InputError(
            f"{path} is no table of mean scores: its first columns must be dataset,method,n."
        )
    columns = [title for title in titles[3:] if title != "invalid"]
    for number, row in enumerate(reader, start=2):
        try:
            counts = (item.split("=") for item in (row.get("invalid") or "").split())
            yield Summary(
                row["dataset"],
                row["method"],
                int(row["n"]),
                {title: float(row[title]) for title in columns if row[title]},
                {name: int(count) for name, count in counts},
            )
        except (TypeError, ValueError):
            raise InputError(f"{path}, line {number}, is not a row of numbers: mend it.") from None


def write_summaries(
    path: str | os.PathLike[str], summaries: Sequence[Summary], columns: Sequence[str]
) -> None:
    """Writes the anchors' format, 5 decimals, empty cells where a row lacks a column.

    Args:
        path: The file to be; replaced as a whole.
        summaries: Rows in order.
        columns: Titles of the metrics in order.

    Raises:
        InputError: if the place cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["dataset", "method", "n", *columns, "invalid"])
    for row in summaries:
        cells = [f"{row.values[c]:.5f}" if c in row.values else "" for c in columns]
        invalid = " ".join(f"{name}={count}" for name, count in row.invalid.items())
        writer.writerow([row.dataset, row.method, row.n, *cells, invalid])
    write_atomically(path, text.getvalue().encode())


def rich_table(
    rows: Mapping[str, Scores],
    names: Sequence[str],
    *,
    title: str = "",
    ranks: Mapping[str, float] | None = None,
    metrics_down: bool = False,
) -> RichTable:
    """A terminal table with direction arrows; the best value is bold, the second underlined.

    Args:
        rows: Row name to values; a missing value shows as a dash.
        names: Metrics in order.
        title: Line above the table.
        ranks: Mean ranks for a last column, if wanted; a row without one shows a dash.
        metrics_down: One row a metric and one column a method, for more metrics than fit across.

    Returns:
        A table for `rich.console.Console.print`, methods in the given order.
    """
    heads = [f"{name} {ruler.resolve(name).arrow}" for name in names]
    columns = [_marked([row.get(name) for row in rows.values()], name) for name in names]
    if ranks is not None:
        heads.append("mean rank ↓")
        columns.append([Text(f"{ranks[m]:.2f}" if m in ranks else "-") for m in rows])
    methods = [Text(method) for method in rows]  # Text, not markup: a name may hold brackets
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


def _marked(values: Sequence[float | None], name: str) -> list[Text]:
    """One metric's values as text, the best and the second best marked."""
    present = {v for v in values if v is not None and math.isfinite(v)}
    best = sorted(present, reverse=ruler.resolve(name).higher_is_better)
    marks = dict(zip(best, ("bold", "underline"), strict=False))
    return [Text("-") if v is None else Text(f"{v:.4f}", style=marks.get(v, "")) for v in values]
