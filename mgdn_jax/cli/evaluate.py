"""`mgdn eval`: scores fused pictures, and networks on pairs of pictures."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mgdn_jax import metrics as ruler
from mgdn_jax.cli import compare as cli_compare
from mgdn_jax.cli import pairs as cli_pairs
from mgdn_jax.cli.outcome import _Pictures, _Result
from mgdn_jax.cli.pairs import Job, truth_alone
from mgdn_jax.errors import InputError
from mgdn_jax.evaluation import evaluate_methods, summaries
from mgdn_jax.evaluation.summaries import ANCHOR_NAMES, Summary
from mgdn_jax.io import files

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
    rows = summaries.read_summaries(arguments.beside)
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
