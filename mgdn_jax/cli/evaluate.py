"""`mgdn eval`: scores fused pictures, and networks on pairs of pictures."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mgdn_jax import metrics as ruler
from mgdn_jax.cli import pairs as cli_pairs
from mgdn_jax.cli import progress
from mgdn_jax.cli.compare import compare
from mgdn_jax.cli.outcome import content, outcome_of, show
from mgdn_jax.cli.output import complain, console, print_json, say, warn
from mgdn_jax.cli.pairs import Job
from mgdn_jax.cli.pictures import Pictures
from mgdn_jax.cli.request import Request
from mgdn_jax.errors import InputError, closest
from mgdn_jax.evaluation import evaluate_methods, summaries
from mgdn_jax.evaluation.scores import Table
from mgdn_jax.evaluation.summaries import PUBLISHED, Summary

_PARALLEL_FROM = 3  # below that, starting processes takes longer than they save


def evaluate(arguments: argparse.Namespace) -> int:
    """Runs `mgdn eval`.

    Args:
      arguments: as `cli.main.build_parser` parses them.

    Returns:
      0, or 1 if a picture could not be scored or lacked its partner.

    Raises:
      InputError: nothing could be scored.
    """
    request = Request.read(arguments)
    request.check()
    if request.compare:
        return compare(
            request.compare,
            metrics=request.metrics,
            variant=request.variant,
            json=request.targets.json,
            is_quiet=request.is_quiet,
        )
    foreign = _data_set(request.beside, request.dataset) if request.beside else []
    job = cli_pairs.plan(
        request.inputs,
        models=request.models,
        data=request.data,
        truth=request.truth,
        has_baselines=request.has_baselines,
        trust=request.trust,
    )
    columns = _columns(request, job)
    elsewhere = _reduced(foreign, columns, request.beside)
    is_silent = request.is_quiet or request.targets.is_stdout_json
    with progress.waiting("loading the networks", is_silent=is_silent or not job.models):
        job.load_models()
    pictures = Pictures(job) if request.targets.report else None
    tables = _measure(request, job, columns, pictures)
    outcome = outcome_of(
        job,
        tables,
        elsewhere,
        variant=request.variant,
        command=request.command,
        beside=Path(request.beside or "").name,
    )
    # Said before anything is written: a full disk must not cost the figures.
    if request.targets.is_stdout_json:
        print_json(content(outcome))
    elif not request.is_quiet:
        show(outcome)
    with progress.waiting("writing the report", is_silent=is_silent or pictures is None):
        written = request.targets.write(outcome, pictures)
    for place in written:
        if not is_silent:
            say(console(), f"written {place}")
    for sentence in outcome.warnings:
        if not request.is_quiet:
            warn(sentence)
    for problem in outcome.problems:  # last, where they are seen
        complain(problem)
    return 1 if outcome.problems else 0


def _measure(
    request: Request, job: Job, columns: Sequence[str], pictures: Pictures | None
) -> dict[str, Table]:
    """Scores all methods of a job; fails if none of those asked for has a score."""
    total = len(job.pairs)
    has_lines = not request.targets.is_stdout_json
    with progress.measuring(total, is_quiet=request.is_quiet, has_lines=has_lines) as advance:

        def done(name: str) -> None:
            if pictures:
                pictures.sources(name)
            advance()

        tables = evaluate_methods(
            job.methods,
            job.pairs,
            metrics=columns,
            variant=request.variant,
            on_result=pictures.fused if pictures else None,
            on_pair=done,
            workers=_workers(request.jobs, total),
            crop=request.is_cropped,
        )
    wanted = [table for name, table in tables.items() if name not in job.baselines]
    if not any(table.rows for table in wanted):
        raise InputError(next(s for table in wanted for s in table.failures.values()))
    return tables


def _columns(request: Request, job: Job) -> tuple[str, ...]:
    """Exact names of the metrics wanted, each once."""
    usual = ["standard" if job.sources == 2 else "MEF_SSIM"] if job.has_sources else []
    usual += [] if request.truth is None else ["truth"]
    names = ruler.names(",".join(usual) if request.metrics is None else request.metrics)
    columns = tuple(dict.fromkeys(ruler.resolve(name, request.variant).name for name in names))
    for column in columns:
        needs, takes_many = ruler.METRICS[column].needs, ruler.METRICS[column].takes_many
        if "truth" in needs and not job.has_truth:
            raise InputError(f"{column} compares with ground truth; give that with --truth.")
        if "a" in needs and not job.has_sources:
            raise InputError(f"{column} compares with the two sources; give those too.")
        if "a" in needs and job.sources > 2 and not takes_many:
            raise InputError(
                f"{column} compares with two sources, but --data names {job.sources} places; "
                "choose MEF_SSIM, or metrics that need no sources, with --metrics."
            )
    return columns


def _data_set(place: str, name: str | None) -> list[Summary]:
    """The rows of a data set of a file of means.

    Raises:
      InputError: no such file, no such data set, or two rows of one method.
    """
    rows = summaries.published() if place == PUBLISHED else summaries.read_summaries(place)
    sets = list(dict.fromkeys(row.dataset for row in rows))
    chosen = sets[0] if name is None and len(sets) == 1 else name
    if chosen not in sets:
        near = None if chosen is None else closest(chosen, sets)
        raise InputError(
            f"{place} holds the data sets {', '.join(sets) or '(none)'}; choose one with --dataset"
            + (f" (did you mean {near!r}?)." if near else ".")
        )
    kept: dict[str, Summary] = {}
    for row in rows:
        if row.dataset != chosen:
            continue
        if row.method in kept:
            raise InputError(f"{place} has two rows of {row.method} in {chosen}.")
        kept[row.method] = row
    return list(kept.values())


def _reduced(rows: Sequence[Summary], columns: Sequence[str], place: str | None) -> list[Summary]:
    """Rows under the exact names of the metrics that are measured."""
    exact = [row.exact(columns) for row in rows]
    if exact and not any(row.values for row in exact):
        raise InputError(f"{place} has no column of the metrics {', '.join(columns)}.")
    return exact


def _workers(jobs: int | None, pairs: int) -> int:
    if jobs is not None:
        return min(jobs, pairs) if pairs > 1 else 0
    # What may be used, not what is there, where the system tells them apart.
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return min(cores or 1, pairs) if pairs >= _PARALLEL_FROM else 0
