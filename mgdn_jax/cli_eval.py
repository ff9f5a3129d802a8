"""`mgdn eval`: scores fused pictures, and networks on pairs of pictures."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import platform
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mgdn_jax import cli_compare, cli_pairs, files, scores
from mgdn_jax import metrics as ruler
from mgdn_jax.cli_output import complain, console, emit_json, say, width
from mgdn_jax.cli_pairs import Job, SetPairs, truth_alone
from mgdn_jax.errors import InputError
from mgdn_jax.evaluation import evaluate_methods
from mgdn_jax.scores import ANCHOR_NAMES, Summary, Table

ELSEWHERE = " †"
"""Marks rows of means that were measured elsewhere (`--beside`)."""
_PARALLEL_FROM = 3  # below that, starting processes takes longer than they save


def evaluate(arguments: argparse.Namespace) -> int:
    """Runs `mgdn eval`.

    Args:
      arguments: as `cli.build_parser` makes them.

    Returns:
      0, or 1 if a picture could not be scored or lacked its partner.

    Raises:
      InputError: nothing could be scored.
    """
    _check_outputs(arguments)
    if arguments.compare:
        return cli_compare.compare(arguments)
    job = cli_pairs.plan(arguments)
    columns = _columns(arguments, job)
    beside = _beside(arguments, columns)
    job.load_models()
    album = None if arguments.report is None else _Pictures(arguments.report, job)
    with _progress(len(job.pairs), arguments.quiet) as advance:

        def done(name: str) -> None:
            if album:
                album.sources(name)
            advance()

        tables = evaluate_methods(
            job.methods,
            job.pairs,
            metrics=columns,
            variant=arguments.variant,
            on_result=album.fused if album else None,
            on_pair=done,
            workers=_workers(arguments.jobs, len(job.pairs)),
        )
    asked = [table for name, table in tables.items() if name not in job.baselines]
    if not any(table.rows for table in asked):
        raise InputError(next(s for table in asked for s in table.failures.values()))
    result = _Result(arguments, job, tables, beside)
    result.say()  # before anything is written: a full disk must not cost the figures
    result.write(album)
    return result.end()


# ----------------------------------------------------------------------------- what to do


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Finds out before the work whether its results can be written."""
    for option, suffix in (("csv", ".csv"), ("json", ".json")):
        given = getattr(arguments, option)
        if given == "":
            raise InputError(f"--{option} names no file; give one that ends in {suffix}.")
        if given is None or (option == "json" and given == "-"):
            continue
        if Path(given).suffix.lower() != suffix:
            raise InputError(
                f"--{option} would write {given}, which does not end in {suffix}; "
                f"name a {suffix} file (and give --{option} after the pictures)."
            )
        if os.path.isdir(given):
            raise InputError(f"{given} is a folder where a file is to be written; name a file.")
        files.check_folder(Path(given).parent, given)
    if arguments.report == "":
        raise InputError("--report names no folder; give one.")
    if arguments.report is not None:
        if os.path.exists(arguments.report) and not os.path.isdir(arguments.report):
            raise InputError(f"{arguments.report} is a file; --report needs a folder.")
        files.check_folder(arguments.report)
        page = Path(arguments.report) / "index.html"
        if page.is_file() and b'content="mgdn eval"' not in page.read_bytes()[:2000]:
            raise InputError(f"{page} is there and is no report of ours; name another folder.")
    if arguments.jobs is not None and arguments.jobs < 0:
        raise InputError(f"--jobs is {arguments.jobs}, but must be 0 or more.")


def _columns(arguments: argparse.Namespace, job: Job) -> tuple[str, ...]:
    """Exact names of the metrics wanted, each once."""
    default = "truth" if truth_alone(arguments) else "standard"
    if arguments.truth is not None and not truth_alone(arguments):
        default = "standard,truth"
    names = ruler.names(default if arguments.metrics is None else arguments.metrics)
    columns = tuple(dict.fromkeys(ruler.resolve(n, arguments.variant).name for n in names))
    lacking = [c for c in columns if "truth" in ruler.METRICS[c].needs and not job.has_truth]
    if lacking:
        raise InputError(f"{lacking[0]} compares with ground truth; give that with --truth.")
    alone = [c for c in columns if "a" in ruler.METRICS[c].needs and truth_alone(arguments)]
    if alone:
        raise InputError(f"{alone[0]} compares with the two sources; give those too.")
    return columns


def _beside(arguments: argparse.Namespace, columns: Sequence[str]) -> list[Summary]:
    """Rows of means measured elsewhere, under the exact metric names."""
    if arguments.beside is None:
        if arguments.dataset is not None:
            raise InputError("--dataset chooses rows of --beside; give that too.")
        return []
    rows = scores.read_summaries(arguments.beside)
    sets = list(dict.fromkeys(row.dataset for row in rows))
    chosen = arguments.dataset or (sets[0] if len(sets) == 1 else None)
    if chosen not in sets:
        raise InputError(
            f"{arguments.beside} holds the data sets {', '.join(sets) or '(none)'}; choose one "
            "with --dataset."
        )
    exact = {theirs: ours for ours, theirs in ANCHOR_NAMES.items()}
    kept: dict[str, Summary] = {}
    for row in rows:
        if row.dataset != chosen:
            continue
        if row.method in kept:
            raise InputError(f"{arguments.beside} has two rows of {row.method} in {chosen}.")
        values = {exact.get(k, k): v for k, v in row.values.items()}
        values = {k: v for k, v in values.items() if k in columns}
        kept[row.method] = Summary(chosen, row.method, row.n, values, row.invalid)
    if not any(row.values for row in kept.values()):
        raise InputError(f"{arguments.beside} has no column of the metrics {', '.join(columns)}.")
    return list(kept.values())


def _workers(asked: int | None, pairs: int) -> int:
    if asked is not None:
        return asked if pairs > 1 else 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, pairs) if pairs >= _PARALLEL_FROM else 0


@contextlib.contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Callable[[], None]]:
    """A bar on stderr for people at a terminal."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("measuring"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or total < 2 or not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


# ----------------------------------------------------------------------------- what came out


class _Pictures:
    """Collects the pictures of a report while they are scored."""

    def __init__(self, folder: str, job: Job):
        from mgdn_jax.report import Album

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
        from mgdn_jax.report import write_report

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
        table = scores.rich_table(rows, self.columns, **options)
        down = scores.rich_table(rows, self.columns, **options, metrics_down=True)
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
