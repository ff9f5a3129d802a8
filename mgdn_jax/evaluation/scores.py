"""Scores as tables: means, ranks over rows, CSV files.

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

from mgdn_jax import metrics as ruler
from mgdn_jax.errors import InputError
from mgdn_jax.io import opening
from mgdn_jax.io.disk import encoded, write_atomically

Scores: TypeAlias = Mapping[str, float]
MEAN = "mean"
"""Title of the last row of a CSV file of scores."""


@dataclass(frozen=True)
class Area:
    """The part of a scene that was measured, from its upper left corner.

    Attributes:
        size: Height and width of the part.
        whole: Height and width of the sources.
    """

    size: tuple[int, int]
    whole: tuple[int, int]

    def __str__(self) -> str:
        (height, width), (rows, columns) = self.size, self.whole
        return f"{width}x{height} of {columns}x{rows}"


@dataclass
class Table:
    """Scores of one method.

    Attributes:
        columns: Exact metric names.
        rows: Image name to `{column: value}`; NaN and infinity are kept as they came.
        failures: Image name to the sentence that says why it has no row.
        areas: Image name to what was measured of it, where that is a part.
    """

    columns: tuple[str, ...]
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    areas: dict[str, Area] = field(default_factory=dict)

    def mean(self) -> dict[str, float]:
        """Arithmetic mean of the finite values of each column.

        Where there is none: infinity if all values are that infinity (the PSNR of perfect
        pictures), else NaN.
        """
        means = {}
        for column in self.columns:
            values = [row[column] for row in self.rows.values()]
            finite = [value for value in values if math.isfinite(value)]
            same = values[0] if values and len(set(values)) == 1 else math.nan
            means[column] = float(np.mean(finite)) if finite else same
        return means

    def invalid(self) -> dict[str, int]:
        """For each column that has any, how many values are NaN or infinite."""
        counts = {
            column: sum(not math.isfinite(row[column]) for row in self.rows.values())
            for column in self.columns
        }
        return {column: count for column, count in counts.items() if count}


@dataclass(frozen=True)
class Common:
    """Several methods on equal terms.

    Attributes:
        images: Images that every method was scored on.
        tables: Method to its scores on those images alone; those it was scored on, where no image
            is common to all.
        means: Method to the means that may be ranked; none where no image is common. Of each
            metric, images on which any method has no number (NaN) are left out for all, and
            infinities count as such.
    """

    images: tuple[str, ...]
    tables: dict[str, Table]
    means: dict[str, dict[str, float]]


def common(tables: Mapping[str, Table]) -> Common:
    """What a comparison of means may rest on: the same images for every method.

    Args:
        tables: Method to its scores; methods without any scored image are left out.

    Returns:
        What they share.
    """
    scored = {method: table for method, table in tables.items() if table.rows}
    first = next(iter(scored.values()), Table(()))
    images = tuple(name for name in first.rows if all(name in t.rows for t in scored.values()))
    if not images:
        return Common((), scored, {})
    cut = {
        method: Table(t.columns, {name: t.rows[name] for name in images}, t.failures)
        for method, t in scored.items()
    }
    means: dict[str, dict[str, float]] = {method: {} for method in cut}
    for column in dict.fromkeys(c for table in cut.values() for c in table.columns):
        holders = {method: t for method, t in cut.items() if column in t.columns}
        usable = [
            i for i in images if not any(math.isnan(t.rows[i][column]) for t in holders.values())
        ]
        for method, table in holders.items():
            values = [table.rows[i][column] for i in usable]
            # inf and -inf together, or nothing at all, have no mean.
            opposed = {math.inf, -math.inf} <= set(values)
            means[method][column] = math.nan if opposed or not values else float(np.mean(values))
    return Common(images, cut, means)


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
    write_atomically(path, encoded(text.getvalue()))


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
    text = opening.read_text(path, "a CSV file of scores")
    titles, lines = csv_rows(text, os.fspath(path))
    if ";" in text.split("\n", 1)[0] and len(titles) == 1:
        raise InputError(f"{path} has semicolons between its columns: save it with commas.")
    if titles[:3] == ["dataset", "method", "n"]:
        raise InputError(
            f"{path} holds means and is no table of scores an image, which a comparison of pairs "
            "needs: make that with mgdn eval FUSED A B --csv FILE."
        )
    if len(set(titles)) < len(titles):
        raise InputError(f"{path} has two columns of one title: keep one of them.")
    if loose := [title for title in titles if title in ("SSIM", "PSNR")]:
        raise InputError(
            f"{path} has a column {loose[0]}, which does not say which variant it is: call it "
            f"{' or '.join(ruler.resolve(loose[0], v).name for v in ruler.VARIANTS)}."
        )
    lead = ["method", "image"] if titles[:1] == ["method"] else ["image"]
    columns = tuple(name for name in titles[len(lead) :] if name in ruler.METRICS)
    if titles[: len(lead)] != lead or not columns:
        raise InputError(
            f"{path} is no table of scores an image: its columns must be image (or method,image) "
            "and metrics, as mgdn eval --csv writes them."
        )
    rows: dict[str, list[tuple[str, dict[str, float]]]] = {}
    for number, line in lines:
        if len(line) > len(titles):
            raise InputError(
                f"{path}, line {number}, has more cells than the first line has titles: decimals "
                "need points, not commas."
            )
        cells = dict(zip(titles, line, strict=False))
        try:
            row = {name: _number(cells[name]) for name in columns}
        except (KeyError, ValueError):
            raise InputError(f"{path}, line {number}, is not a row of numbers: mend it.") from None
        method = cells.get("method", Path(path).stem)
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


def csv_rows(text: str, name: str) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The titles of a CSV file, and its rows.

    Args:
        text: The whole file.
        name: What messages call it.

    Returns:
        The titles, trimmed; and an iterator over the number of a row's last line and its cells.
        Empty lines are left out.

    Raises:
        InputError: it is no CSV, or a cell has more than 128 KiB; of a row, once it is its turn.
    """
    reader = csv.reader(io.StringIO(text, newline=None))

    def rows() -> Iterator[tuple[int, list[str]]]:
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise InputError(
                    f"{name}, line {reader.line_num}, cannot be read as CSV ({error}): mend it."
                ) from None
            if row:
                yield reader.line_num, row

    lines = rows()
    _, titles = next(lines, (0, []))
    return [title.strip() for title in titles], lines


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
