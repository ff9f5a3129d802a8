"""What workers of a cluster do with the pairs of a data set: plain functions, and one class.

Nothing here imports Ray. Workers get paths and weights, and give rows back: a row says of one
result what became of it. Pictures stay where they are.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mgdn_jax
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import compile_cache, folders, loading, sequences, tasks
from mgdn_jax.fusing.fused import Fused
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.fusing.preparation import Prepared
from mgdn_jax.fusing.report import Report
from mgdn_jax.io import files, whole
from mgdn_jax.weights.store import Weights

WRITTEN, FOUND, SKIPPED, FAILED = "written", "found", "skipped", "failed"
"""What becomes of a result: `FOUND` was written in this run by a worker that was lost."""
MOST_LOSSES = 2
"""Workers that may be lost with one pair alone."""
_READERS = 8  # threads that read headers: waiting for the disk of all machines takes longest


@dataclasses.dataclass(frozen=True)
class Settled:
    """What holds for all results of a data set.

    Attributes:
        options: as `folders.choose` and `sequences.settle` give them.
        common: what pictures share beside them.
        programs: for each pair the number of the program that fuses it; equal ones belong together.
        report: what holds for all pictures, and the warnings about it.
        made_with: a hash of the network, its weights, the options and what pictures share.
    """

    options: FuseOptions
    common: folders.Common
    programs: list[int]
    report: Report
    made_with: str


@dataclasses.dataclass(frozen=True)
class Run:
    """What the workers of a run have to know.

    Attributes:
        settled: what holds for all results.
        desk: a hidden folder in that of the results, for notes of this run.
        since: when the folder of results was marked, in nanoseconds of the clock of files; what is
            older counts for nothing.
        started: when the run began, likewise.
        batch: pictures of one size that are fused at once; None is what is usual.
        cpus: cores of a worker.
    """

    settled: Settled
    desk: Path
    since: int
    started: int
    batch: int | None
    cpus: int


def limit_threads(cpus: int) -> None:
    """Keeps this process to so many cores; before JAX looks for its devices.

    Args:
        cpus: cores.
    """
    for name in ("PJRT_NPROC", "NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(cpus)
    os.environ["OPENCV_FOR_THREADS_NUM"] = str(cpus)


def bound(weights: Weights) -> Fuser:
    """The network, in a process whose programs are kept on the disk."""
    logging.getLogger("jax").setLevel(logging.ERROR)
    compile_cache.enable_compilation_cache()
    fuser = loading.bind(weights)
    tasks.check_pictures(fuser.card, fuser.config.in_channels)
    return fuser


def settle(
    weights: Weights,
    groups: Sequence[Sequence[str]],
    options: Mapping[str, Any],
    cpus: int,
    version: str,
) -> Settled:
    """Looks at all pairs, and settles what holds for every one, as `fuse_folders` does.

    Args:
        weights: of the network.
        groups: paths of the sources of each result.
        options: of the call, by name.
        cpus: cores of this worker.
        version: of the package that asks.

    Raises:
        InputError: wrong options, another version, or pictures that this machine does not see.
    """
    limit_threads(cpus)
    if mgdn_jax.__version__ != version:
        raise InputError(
            f"{platform.node()} has mgdn_jax {mgdn_jax.__version__}, but here it is {version}; "
            "install one version on all machines."
        )
    if not os.path.exists(groups[0][0]):
        raise InputError(
            f"{groups[0][0]} is not there on {platform.node()}; keep the pictures where all "
            "machines of the cluster see them under one name."
        )
    fuser = bound(weights)
    choice = folders.choose(fuser, options)
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        sizes = list(pool.map(files.read_size, (sources[0] for sources in groups)))
    if options.get("bucket") is None:
        fuser = fuser.for_sizes([size for size in sizes if size is not None], options=choice)
    report = Report()
    fuser, choice = sequences.settle(fuser, groups, choice, report)
    common = folders.Common.of(fuser)
    plans = {
        size: fuser.plan(*size, count=len(groups[0]), options=choice)
        for size in set(sizes)
        if size is not None
    }
    numbers: dict[Any, int] = {None: 0}
    keys = {size: (plan.padded, plan.tiles > 1) for size, plan in plans.items()}
    programs = [
        numbers.setdefault(None if size is None else keys[size], len(numbers)) for size in sizes
    ]
    return Settled(choice, common, programs, report, fingerprint(weights, choice, common))


def fingerprint(weights: Weights, options: FuseOptions, common: folders.Common) -> str:
    """What tells results from those of another network, other weights or other options.

    Args:
        weights: of the network.
        options: that hold for all pictures.
        common: what pictures share; padding is left out, for results are the same.
    """
    about = [mgdn_jax.__version__, weights.system, weights.config, dataclasses.asdict(options)]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    size, sums = common.steady or ((0, 0), {})
    for name, value in sorted({**weights.params, **weights.stats}.items()):
        digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
    digest.update(repr(size).encode())
    for name, value in sorted(sums.items()):
        digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def standing(scene: folders.Scene, run: Run) -> str | None:
    """Whether a result is there already: whole, of this network, and newer than its sources.

    Args:
        scene: the result.
        run: the run.

    Returns:
        `SKIPPED` for one of an earlier run, `FOUND` for one of this run, None where it is to be
        made.
    """
    try:
        result = os.stat(scene.target)
        sources = [os.stat(source) for source in scene.sources]
    except OSError:
        return None
    written = result.st_mtime_ns
    if written < run.since or any(source.st_mtime_ns > written for source in sources):
        return None
    is_source = any(os.path.samestat(result, source) for source in sources)
    if is_source or not whole.is_png(scene.target):
        return None
    return FOUND if written >= run.started else SKIPPED


class Note:
    """What the workers of a task write down, for those that come after one that is lost.

    Args:
        path: a file of its own for each task.

    Attributes:
        losses: workers that were lost with this task.
        blame: pair to the workers that were lost with it alone.
    """

    def __init__(self, path: Path):
        self._path = path
        self.losses = 0
        self.blame: dict[int, int] = {}
        try:
            lines = json.loads(path.read_bytes())
            blame = {int(number): count for number, count in lines["blame"].items()}
            if lines["pair"] is not None:
                blame[lines["pair"]] = blame.get(lines["pair"], 0) + 1
            self.losses, self.blame = lines["losses"] + 1, blame
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError):
            self.losses = 1
        self.write(None)

    def write(self, pair: int | None) -> None:
        """Says what begins now: a pair alone, or all together."""
        lines = {"losses": self.losses, "blame": self.blame, "pair": pair}
        hidden = self._path.with_suffix(".new")  # the folder is not made again: the run may be over
        hidden.write_text(json.dumps(lines))
        os.replace(hidden, self._path)

    def remove(self) -> None:
        """The task is done."""
        self._path.unlink(missing_ok=True)


class Worker:
    """One loaded network, which takes pairs and gives rows.

    Args:
        weights: of the network.
        run: what holds for all pairs.
    """

    def __init__(self, weights: Weights, run: Run):
        limit_threads(run.cpus)
        self._run = run
        self._fuser = run.settled.common.on(bound(weights))
        self._programs: set[Any] = set()
        self._key = f"{weights.system} {weights.config}"

    def rows(self, scenes: Mapping[int, folders.Scene]) -> list[dict[str, Any]]:
        """Makes the results that are not there yet.

        After a worker was lost with these pairs, each is made for itself; one that two workers were
        lost with has failed.

        Args:
            scenes: number to result.

        Returns:
            A row for each, in order, with plain values.
        """
        if not self._run.desk.is_dir():
            return [_row(number, FAILED, error=_not_shared(self._run)) for number in scenes]
        note = Note(self._run.desk / f"{next(iter(scenes))}.json")
        rows, missing = [], {}
        for number, scene in scenes.items():
            state = standing(scene, self._run)
            if state is None:
                missing[number] = scene
            else:
                rows.append(_row(number, state))
        if note.losses:
            rows += [self._with_care(number, scene, note) for number, scene in missing.items()]
        else:
            try:
                rows += self._made(missing)
            except Exception:
                # Nobody foresaw it, so it is not known whose it is: each for itself.
                rows += [self._alone(number, scene) for number, scene in missing.items()]
        note.remove()
        rows.sort(key=lambda row: row["number"])
        rows[0]["losses"] = note.losses
        return rows

    def _made(self, scenes: Mapping[int, folders.Scene]) -> list[dict[str, Any]]:
        """Rows of scenes that are fused together where that is possible."""
        numbers, rows = list(scenes), []
        warnings: dict[int, str] = {}
        started = time.perf_counter()
        for place, result in folders.run(
            self._fuser,
            list(scenes.values()),
            self._run.settled.options,
            batch=self._run.batch,
            fuse=self._fuse,
            workers=min(2, self._run.cpus),
            warn=lambda place, sentences: warnings.update({place: "\n".join(sentences)}),
        ):
            now = time.perf_counter()
            row = _row(numbers[place], WRITTEN, seconds=now - started)
            started = now
            row["warnings"] = warnings.get(place, "")
            if isinstance(result, InputError):
                row |= {"status": FAILED, "error": str(result)}
            rows.append(row)
        return rows

    def _with_care(self, number: int, scene: folders.Scene, note: Note) -> dict[str, Any]:
        """The row of a pair that a worker may have been lost with."""
        if note.blame.get(number, 0) < MOST_LOSSES:
            note.write(number)
            return self._alone(number, scene)
        error = (
            f"{_sources(scene)} ended {MOST_LOSSES} workers that fused them alone; look at their "
            "size, and at the memory that a worker has."
        )
        return _row(number, FAILED, error=error)

    def _alone(self, number: int, scene: folders.Scene) -> dict[str, Any]:
        if standing(scene, self._run) == FOUND:
            return _row(number, WRITTEN)
        try:
            return self._made({number: scene})[0]
        except Exception as error:
            reason = " ".join(str(error).split())[:200].rstrip(".")
            about = f"{type(error).__name__}: {reason}"
            return _row(number, FAILED, error=f"{_sources(scene)} cannot be fused ({about}).")

    def _fuse(self, scenes: list[Prepared]) -> Sequence[Fused]:
        """Results; of a program that is new to this process, one process at a time compiles."""
        key = (self._fuser.same_program(scenes[0]), len(scenes[0]), len(scenes))
        if key in self._programs:
            return self._fuser.fuse_prepared(scenes)
        with compile_cache.taking_turns(f"{self._key} {key}"):
            results = self._fuser.fuse_prepared(scenes)
        self._programs.add(key)
        return results


def _row(number: int, status: str, *, error: str = "", seconds: float = 0.0) -> dict[str, Any]:
    return {
        "number": number,
        "status": status,
        "error": error,
        "warnings": "",
        "seconds": round(seconds, 4),
        "worker": f"{platform.node()}:{os.getpid()}",
        "losses": 0,
    }


def _sources(scene: folders.Scene) -> str:
    return " and ".join(map(str, scene.sources))


def _not_shared(run: Run) -> str:
    return (
        f"{run.desk.parent} is not there on {platform.node()}; keep the output where all machines "
        "of the cluster see it under one name."
    )
