"""Means of methods over data sets: the format of the anchors' files."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mgdn_jax.errors import InputError
from mgdn_jax.evaluation.scores import Table, _text
from mgdn_jax.io.disk import write_atomically

ANCHOR_NAMES: Mapping[str, str] = {"PSNR_peakF": "PSNR"}
"""Titles in the anchors' files of metrics that carry an exact name here."""


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
