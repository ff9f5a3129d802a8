"""From pictures to tables: scoring fusion methods over image pairs, mean ranks, CSV.

A method is any callable `fuse(a, b) -> picture`; this room knows no network. The metrics are
those of `mgdn_jax.metrics`; column titles are the exact names (`SSIM_dr255`, not `SSIM`), so
that figures of two evaluator variants never share one.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.table import Table as RichTable
from rich.text import Text

from mgdn_jax import files
from mgdn_jax import metrics as ruler
from mgdn_jax.disk import write_atomically
from mgdn_jax.errors import InputError

Source: TypeAlias = np.ndarray | str | os.PathLike[str]
Fuse: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
Scores: TypeAlias = Mapping[str, float]

ANCHOR_NAMES: Mapping[str, str] = {"PSNR_peakF": "PSNR"}
"""Titles in the anchors' files of metrics that carry an exact name here."""


@dataclass(frozen=True)
class Pair:
    """Two pictures of one scene.

    Attributes:
        name: Title of the row, unique among the pairs.
        a: First source: `(H, W)` or `(H, W, 3)` array, or the path of an image file.
        b: Second source, likewise.
    """

    name: str
    a: Source
    b: Source


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

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes one row an image and a last row `mean`, values in full precision.

        Args:
            path: The file to be; replaced as a whole.

        Raises:
            InputError: if the place cannot be written.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["image", *self.columns])
        for name, row in [*self.rows.items(), ("mean", self.mean())]:
            writer.writerow([name, *(repr(float(row[column])) for column in self.columns)])
        write_atomically(path, text.getvalue().encode())


def _read(source: Source) -> np.ndarray:
    return source if isinstance(source, np.ndarray) else files.read_image(source)


def evaluate_methods(
    methods: Mapping[str, Fuse],
    pairs: Iterable[Pair | tuple[str, Source, Source]],
    *,
    metrics: Sequence[str] = ruler.STANDARD,
    variant: str = "standard",
    on_result: Callable[[str, str, np.ndarray, Scores], None] | None = None,
) -> dict[str, Table]:
    """Fuses every pair with every method and scores the results on luminance.

    Pairs are read one at a time, and the sources' part of the metrics is computed once for all
    methods.

    Args:
        methods: Name to `fuse(a, b)`, which gets the pictures as they were read and returns
            one of their height and width, gray or colour, uint8 (or floating point in 0..255).
        pairs: `Pair`s or `(name, a, b)`.
        metrics: Names, see `mgdn_jax.metrics.METRICS`.
        variant: `standard` or `cddfuse`, see `mgdn_jax.metrics.resolve`.
        on_result: Called after each success as `on_result(method, pair name, fused, scores)`,
            to save pictures or show progress.

    Returns:
        Name to table. An image that cannot be read, fused or measured is listed in the
        `failures` of the tables concerned; the others are not lost.

    Raises:
        InputError: on unknown metrics, on two pairs of one name, and if there are no pairs.
        Exception: the first failure itself, if not one picture could be scored.
    """
    wanted = [ruler.resolve(name, variant).name for name in metrics]
    tables = {method: Table(tuple(wanted)) for method in methods}
    first_failure: Exception | None = None
    scored = False
    seen: set[str] = set()
    for given in pairs:
        pair = given if isinstance(given, Pair) else Pair(*given)
        if pair.name in seen:
            raise InputError(f"two image pairs are called {pair.name}: give each its own name.")
        seen.add(pair.name)
        try:
            a, b = _read(pair.a), _read(pair.b)
            gray_a, gray_b = ruler.prepare(a), ruler.prepare(b)
        except Exception as failure:
            first_failure = first_failure or failure
            for table in tables.values():
                table.failures[pair.name] = _sentence(failure)
            continue
        for method, fuse in methods.items():
            # A batch must survive whatever one picture does to a method, hence every Exception.
            try:
                fused = fuse(a, b)
                scores = ruler.evaluate(fused, gray_a, gray_b, wanted)
            except Exception as failure:
                first_failure = first_failure or failure
                tables[method].failures[pair.name] = _sentence(failure)
                continue
            scored = True
            tables[method].rows[pair.name] = scores
            if on_result:
                on_result(method, pair.name, fused, scores)
    if not seen:
        raise InputError("there are no image pairs to evaluate: give at least one.")
    if first_failure and not scored:
        raise first_failure
    return tables


def _sentence(failure: Exception) -> str:
    text = str(failure) or "no message."
    return text if isinstance(failure, InputError) else f"{type(failure).__name__}: {text}"


def evaluate_pairs(
    fuse: Fuse,
    pairs: Iterable[Pair | tuple[str, Source, Source]],
    *,
    metrics: Sequence[str] = ruler.STANDARD,
    variant: str = "standard",
    on_result: Callable[[str, np.ndarray, Scores], None] | None = None,
) -> Table:
    """Fuses every pair with one method and scores the results on luminance.

    Args:
        fuse: See `evaluate_methods`.
        pairs: `Pair`s or `(name, a, b)`.
        metrics: Names.
        variant: `standard` or `cddfuse`.
        on_result: Called after each success as `on_result(pair name, fused, scores)`.

    Returns:
        The table, with failed pairs listed in it.

    Raises:
        InputError: as `evaluate_methods`.
        Exception: the first failure itself, if not one picture could be scored.
    """
    forward = None if on_result is None else (lambda _, *rest: on_result(*rest))
    return evaluate_methods({"": fuse}, pairs, metrics=metrics, variant=variant, on_result=forward)[
        ""
    ]


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
        total += _ranks(np.where(np.isnan(worse), np.inf, worse))
    return dict(zip(rows, (total / len(metrics)).tolist(), strict=True))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
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
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{path} cannot be read: give a CSV file of mean scores.") from None
    return list(_parse(text, os.fspath(path)))


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
) -> RichTable:
    """A terminal table with direction arrows; the best value is bold, the second underlined.

    Args:
        rows: Row name to values; a missing value shows as a dash.
        names: Columns in order.
        title: Line above the table.
        ranks: Mean ranks for a last column, if wanted.

    Returns:
        A table for `rich.console.Console.print`, rows in the given order.
    """
    table = RichTable(title=title or None)
    table.add_column("method", no_wrap=True)
    marks: dict[str, dict[float, str]] = {}
    for name in names:
        metric = ruler.resolve(name)
        table.add_column(f"{name} {metric.arrow}", justify="right")
        present = {row[name] for row in rows.values() if math.isfinite(row.get(name, math.nan))}
        best = sorted(present, reverse=metric.higher_is_better)
        marks[name] = dict(zip(best, ("bold", "underline"), strict=False))
    if ranks is not None:
        table.add_column("mean rank ↓", justify="right")
    for method, row in rows.items():
        cells = [_cell(row.get(name), marks[name]) for name in names]
        if ranks is not None:
            cells.append(Text(f"{ranks[method]:.2f}"))
        table.add_row(Text(method), *cells)
    return table


def _cell(value: float | None, marks: Mapping[float, str]) -> Text:
    # Text, not markup: a method's name may hold brackets.
    return Text("-") if value is None else Text(f"{value:.4f}", style=marks.get(value, ""))
