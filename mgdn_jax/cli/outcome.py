"""What came out of `mgdn eval`: tables, files, a page and the exit code."""

from __future__ import annotations

import argparse
import contextlib
import math
import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from mgdn_jax import metrics as ruler
from mgdn_jax.cli.output import complain, console, emit_json, say, width
from mgdn_jax.cli.pairs import Job, SetPairs
from mgdn_jax.errors import InputError
from mgdn_jax.evaluation import scores, terminal
from mgdn_jax.evaluation.scores import Table
from mgdn_jax.evaluation.summaries import Summary
from mgdn_jax.io import files

ELSEWHERE = " †"
"""Marks rows of means that were measured elsewhere (`--beside`)."""
# ----------------------------------------------------------------------------- what came out


class _Pictures:
    """Collects the pictures of a report while they are scored."""

    def __init__(self, folder: str, job: Job):
        from mgdn_jax.evaluation.report import Album

        self._folder, self._job = folder, job
        self._pairs = {} if isinstance(job.pairs, SetPairs) else {p.name: p for p in job.pairs}
        self._position = 0
        self._album = Album(len(job.pairs) * (2 + len(job.methods)))

    def fused(self, method: str, name: str, picture: np.ndarray, _: Any) -> None:
        """A method's picture was scored."""
        self._album.add(name, method, picture)

    def sources(self, name: str) -> None:
        """A pair is done."""
        position, self._position = self._position, self._position + 1
        if not self._album.shows(name):
            return
        pair = self._pairs[name] if self._pairs else self._job.pairs[position]
        # Without sources the truth takes the place that the page opens with.
        shown = {"a": pair.a, "b": pair.truth if pair.b is None else pair.b}
        for label, source in shown.items():
            with contextlib.suppress(InputError):  # told already: the pair has no scores
                if source is not None and not isinstance(source, Exception):
                    picture = source if isinstance(source, np.ndarray) else files.read_image(source)
                    self._album.add(name, label, picture)

    def write(self, result: _Result) -> Path:
        """The page, once all is scored."""
        from mgdn_jax.evaluation.report import write_report

        return write_report(
            self._folder,
            title="Image fusion: " + ", ".join(m for m in result.tables if m not in result.rules),
            tables=result.tables,
            album=self._album,
            command=result.command,
            versions=result.versions,
            variant=result.variant,
            source_titles=(self._job.titles[0], self._job.titles[1]),
            baselines=result.rules,
            elsewhere={row.method: row.values for row in result.fair()},
            remarks=[*self._job.problems, *result.about_beside()],
        )


class _Result:
    """All scores of a run, and how they are told."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        job: Job,
        tables: Mapping[str, Table],
        beside: Sequence[Summary],
    ):
        self._arguments, self._job = arguments, job
        self.variant = arguments.variant
        self.tables = dict(tables)
        self.rules = job.baselines
        self.columns = next(iter(tables.values())).columns
        self.command = shlex.join(["mgdn", *arguments.argv])
        self.versions = _versions(bool(job.models))
        # What was measured here as well is not shown twice.
        self.beside = [row for row in beside if row.method not in self.rules]
        self.problems = _problems(job, tables)

        self.common = scores.common(tables)
        self.ranked = ruler.ranked(self.columns)
        self.ranks: dict[str, float] = {}
        # Means over other images than ours are no rank's business.
        fair = {**self.common.means, **{r.method + ELSEWHERE: r.values for r in self.fair()}}
        whole = {n: row for n, row in fair.items() if all(c in row for c in self.ranked)}
        if self.ranked and len(whole) > 1:
            self.ranks = scores.mean_ranks(whole, self.ranked)

    def fair(self) -> list[Summary]:
        """Rows measured elsewhere on as many images as ours."""
        return [row for row in self.beside if row.n == len(self.common.images)]

    def say(self) -> None:
        """The table and the remarks, or all of it as JSON, on stdout."""
        if self._arguments.json == "-":
            emit_json(self._content(), "-")
        if self._arguments.json == "-" or self._arguments.quiet:
            return
        shown = self.common.tables
        rows: dict[str, Mapping[str, float]] = {
            name: shown[name].mean() if name in shown else {} for name in self.tables
        }
        counts = {name: len(shown[name].rows) if name in shown else 0 for name in self.tables}
        fair = {c: self.common.marked(c) for c in self.columns}
        for row in self.beside:
            rows[row.method + ELSEWHERE] = row.values
            counts[row.method + ELSEWHERE] = row.n
        for row in self.fair():
            for name in row.values.keys() - row.invalid.keys():
                fair[name].add(row.method + ELSEWHERE)
        options: dict[str, Any] = {
            "ranks": self.ranks or None,
            "marked": fair,
            "images": counts if len(set(counts.values())) > 1 else None,
        }
        out = console()
        table = terminal.rich_table(rows, self.columns, **options)
        down = terminal.rich_table(rows, self.columns, **options, metrics_down=True)
        needed = width(table, out)
        across = needed <= out.width or needed <= width(down, out)
        say(out, table if across and len(self.columns) <= 16 else down)
        for remark in [*self._about(), *self.remarks()]:
            say(out, remark)

    def _about(self) -> Iterator[str]:
        """How the table was made."""
        images = len(self.common.images)
        over = f"means over {images} pairs" if images != 1 else "one pair"
        if not images:
            over = "means over the pairs of each method, which share none: no ranks, no marks"
        yield f"{over}, on luminance; best bold, second underlined; variant {self.variant}"
        if self.ranks:
            yield f"mean rank over {' '.join(self.ranked)}"
        if self.rules:
            yield f"rules without learning: {', '.join(self.rules)}"

    def remarks(self) -> list[str]:
        """What a reader of the means must know."""
        said = []
        images = len(self.common.images)
        for name, table in self.tables.items():
            if len(table.rows) > images > 0 or not table.rows:
                said.append(
                    f"{name} has scores of {len(table.rows)} pairs; means and ranks are over "
                    "those that all methods have"
                )
        said += self.about_beside()
        for name, table in self.common.tables.items():
            for column, count in table.invalid().items() if len(table.rows) > 1 else ():
                values = {table.rows[i][column] for i in table.rows}
                odd = sorted({str(v).replace("inf", "∞") for v in values if not math.isfinite(v)})
                said.append(
                    f"{name}: {column} is {' or '.join(odd)} on {count} of {len(table.rows)} "
                    "pairs, which its mean leaves out"
                )
        return said

    def about_beside(self) -> list[str]:
        """Where rows measured elsewhere come from, and whether they can be compared."""
        if not self.beside:
            return []
        name = Path(self._arguments.beside).name
        said = [f"†: measured elsewhere ({name}, {self.beside[0].dataset})"]
        other = sorted({row.n for row in self.beside} - {len(self.common.images)})
        if other:
            n = " and ".join(map(str, other))
            said.append(
                f"† over {n} pairs, not {len(self.common.images)}: not ranked, not marked, and "
                "not in the report"
            )
        return said

    def write(self, album: _Pictures | None) -> None:
        """The files asked for."""
        arguments = self._arguments
        asked = {name: table for name, table in self.tables.items() if name not in self.rules}
        written: list[Any] = []
        if arguments.csv:
            scores.write_tables(arguments.csv, asked)
            written.append(arguments.csv)
        if arguments.json not in (None, "-"):
            emit_json(self._content(), arguments.json)
            written.append(arguments.json)
        if album:
            written.append(album.write(self))
        if arguments.json != "-" and not arguments.quiet:
            for place in written:
                say(console(), f"written {place}")

    def end(self) -> int:
        """What failed, last, where it is seen; the exit code."""
        for problem in self.problems:
            complain(problem)
        return 1 if self.problems else 0

    def _content(self) -> dict[str, Any]:
        return {
            "command": self.command,
            "versions": self.versions,
            "variant": self.variant,
            "metrics": {
                name: {
                    "higher_is_better": ruler.METRICS[name].higher_is_better,
                    "group": ruler.METRICS[name].group,
                }
                for name in self.columns
            },
            "methods": {
                name: {
                    "baseline": name in self.rules,
                    "images": table.rows,
                    "mean": table.mean(),
                    "invalid": table.invalid(),
                    "failures": table.failures,
                    "mean_rank": self.ranks.get(name),
                }
                for name, table in self.tables.items()
            },
            "elsewhere": {
                row.method: {
                    "dataset": row.dataset,
                    "n": row.n,
                    "mean": row.values,
                    "mean_rank": self.ranks.get(row.method + ELSEWHERE),
                }
                for row in self.beside
            },
            "ranked_by": list(self.ranked),
            "ranked_over": list(self.common.images),
            "problems": self.problems,
        }


def _problems(job: Job, tables: Mapping[str, Table]) -> list[str]:
    """Everything that has no scores, each told once."""
    told = dict.fromkeys(job.problems)
    asked = {image for m, t in tables.items() if m not in job.baselines for image in t.failures}
    for method, table in tables.items():
        for image, sentence in table.failures.items():
            # A picture that cannot be read fails for every method; the rules need not repeat it.
            if method not in job.baselines or image not in asked:
                told[f"{image}: {sentence}"] = None
    return list(told)


def _versions(networks: bool) -> dict[str, str]:
    names = ["mgdn-jax", "numpy", "scipy", "pillow", *(["jax", "flax"] if networks else [])]
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
