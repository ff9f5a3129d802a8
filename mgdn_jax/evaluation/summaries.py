"""Means of methods over data sets: the format of the anchors' files."""

from __future__ import annotations

import csv
import importlib.resources
import io
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mgdn_jax.errors import InputError
from mgdn_jax.evaluation.scores import Table, csv_rows
from mgdn_jax.io import opening
from mgdn_jax.io.disk import encoded, write_atomically

ANCHOR_NAMES: Mapping[str, str] = {"PSNR_peakF": "PSNR"}
"""Titles in the anchors' files of metrics that carry an exact name here."""
PUBLISHED = "published"
"""What the rows that come with the package are called on the command line."""
_TEXTS = ("invalid", "source")


@dataclass
class Summary:
    """Means of one method over a data set: a row of the anchors' files.

    Attributes:
        dataset: Name of the test set.
        method: Name of the method.
        n: Number of pairs averaged.
        values: Column title to mean.
        invalid: Column title to the number of pairs left out of its mean.
        source: Where the row was printed or measured, if that is known.
    """

    dataset: str
    method: str
    n: int
    values: dict[str, float]
    invalid: dict[str, int] = field(default_factory=dict)
    source: str = ""

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

    def exact(self, columns: Collection[str]) -> Summary:
        """The row under the exact metric names, reduced to some of them."""
        names = {theirs: ours for ours, theirs in ANCHOR_NAMES.items()}
        values = {names.get(title, title): value for title, value in self.values.items()}
        return replace(
            self,
            values={name: value for name, value in values.items() if name in columns},
            invalid={names.get(title, title): count for title, count in self.invalid.items()},
        )


def read_summaries(path: str | os.PathLike[str]) -> list[Summary]:
    """Reads a file of the anchors' format: `dataset,method,n,<metrics...>,invalid,source`.

    Args:
        path: A CSV file; the columns `invalid` and `source` may be absent, empty cells are left
            out.

    Returns:
        Its rows in order.

    Raises:
        InputError: if the file is missing or not of this format.
    """
    return list(_parse(opening.read_text(path, "a CSV file of means"), os.fspath(path)))


def published() -> list[Summary]:
    """Rows that come with the package, each with its source.

    They are figures printed in papers, and figures of pictures that authors published, measured
    with an equal evaluator.
    """
    place = importlib.resources.files("mgdn_jax.evaluation") / "published.csv"
    return list(_parse(place.read_text(encoding="utf-8"), "published.csv"))


def _parse(text: str, path: str) -> Iterator[Summary]:
    titles, lines = csv_rows(text, path)
    if titles[:3] != ["dataset", "method", "n"]:
        raise InputError(
            f"{path} is no table of mean scores: its first columns must be dataset,method,n."
        )
    columns = [title for title in titles[3:] if title not in _TEXTS]
    for number, cells in lines:
        row = dict(zip(titles, cells, strict=False))
        try:
            counts = (item.split("=") for item in (row.get("invalid") or "").split())
            yield Summary(
                row["dataset"],
                row["method"],
                _count(row["n"]),
                {title: float(row[title]) for title in columns if row.get(title)},
                {name: _count(count) for name, count in counts},
                row.get("source") or "",
            )
        except (KeyError, ValueError):
            raise InputError(f"{path}, line {number}, is not a row of numbers: mend it.") from None


def _count(cell: str) -> int:
    if not 0 <= int(cell) < 2**31:
        raise ValueError
    return int(cell)


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
    write_atomically(path, encoded(text.getvalue()))
