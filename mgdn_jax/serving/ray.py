"""Data sets of any size through the machines of a cluster, by Ray (extra ``cluster``).

As `mgdn_jax.fuse_folders`: the same pairs, the same options, the same files. Ray hands the pairs
out to workers with one loaded network each, starts again what is lost, and brings back a row for
every pair; pictures are read and written where the workers are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mgdn_jax
from mgdn_jax import arguments
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import folders as rooms
from mgdn_jax.fusing import loading, stream, tasks
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.io import disk, files, pairing
from mgdn_jax.serving import ray_cluster, ray_rows, ray_workers
from mgdn_jax.weights import zoo
from mgdn_jax.weights.store import Weights

MARK = ".mgdn-cluster.json"
"""A file in the folder of results that says what they were made with."""
MOST_TASK = 32
"""Pairs that a worker takes at once, at most; more where so many are fused together."""
MOST_TASKS = 20_000
"""Parts that a data set is divided into, at most: the memory of who hands them out is bounded."""
_DESK = ".mgdn-run-"
_TASKS_EACH = 8  # parts for each worker, at least: all end at about the same time
_LEFTOVER = 600 * 10**9  # nanoseconds after which nobody is writing a hidden file any more


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a data set.

    Attributes:
        output: folder of the results.
        written: names of the results that were made.
        skipped: names of those that were there, whole, from an earlier run.
        failed: name to a sentence, of those that could not be made; partners that are missing, too.
        found: those of `written` that a worker had written before it was lost.
        lost: workers that were lost while they fused, and started again.
        workers: processes that gave rows.
        rule: the sentence about how names were matched; empty where they are equal.
        steps: what holds for all pictures, as in the report of `mgdn_jax.fuse_folders`.
        warnings: sentences about what is probably not meant.
        seconds: from the call to its end.
    """

    output: Path
    written: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: Mapping[str, str]
    found: tuple[str, ...]
    lost: int
    workers: int
    rule: str
    steps: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        parts = [f"{len(self.written)} written"]
        parts += [f"{len(self.skipped)} there already"] if self.skipped else []
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        if self.lost:
            parts.append(f"{self.lost} lost worker{'s' * (self.lost > 1)} started again")
        return f"{', '.join(parts)}, {self.seconds:.1f} s"


def fuse_folders(
    *folders: str | os.PathLike[str],
    output: str | os.PathLike[str],
    model: str | os.PathLike[str] | Fuser | Weights | None = None,
    task: str | None = None,
    address: str | None = None,
    workers: int | None = None,
    cpus: int = 1,
    gpus: float = 0.0,
    trust: bool | str | Collection[str] = False,
    batch: int | None = None,
    again: bool = False,
    rows: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Outcome:
    """Fuses folders of pictures on a cluster, as `mgdn_jax.fuse_folders` does on one machine.

    Results that an earlier run with the same network, weights and options left whole, and that are
    newer than their sources, are skipped. A worker that is lost is started again, and what it had
    not written goes to another. A pair that ends three workers has failed.

    Args:
        *folders: one for each input of the network, in its order; all machines see them under one
            name.
        output: folder to write to; made if it is missing, and seen by all machines likewise.
        model: as `mgdn_jax.fuse_folders` takes it, or what `fusing.loading.read` gives; None is
            the network of `task`.
        task: of `fusing.tasks.TASKS`, which sets what `options` leave open; None sets nothing.
        address: of a cluster (``"auto"``, ``"HOST:PORT"``, ``"ray://HOST:PORT"``). None is the one
            that this process is connected to, else ``$RAY_ADDRESS``, else one on this machine for
            the time of the call.
        workers: processes that fuse, at most; None is as many as the cluster has room for.
        cpus: cores of a worker, which keeps to them.
        gpus: graphics processors of a worker, or parts of one.
        trust: as `load` takes it.
        batch: as in `mgdn_jax.fuse_folders`.
        again: whether results of earlier runs are made again.
        rows: file for a row for each pair: ``.jsonl``, or ``.csv``.
        progress: called as (pairs done or failed, pairs in all), from time to time.
        **options: as in `mgdn_jax.fuse_folders`.

    Raises:
        InputError: the extra is missing, a cluster that does not answer or has no room, folders
            without a common name, an unknown model, wrong options, or an output that cannot be
            written.
    """
    begun = time.perf_counter()
    batch = rooms.check(folders, batch)
    request = _Request(workers, cpus, gpus, arguments.flag("again", again)).checked()
    words = _words(task, options)
    table = ray_rows.Table(rows)
    ray_cluster.check_extra()
    files.check_folder(output)
    paired = pairing.pair_folders(folders)
    weights = _weights(model, task, trust)
    place = Path(os.path.abspath(output))
    targets = paired.targets(place)
    scenes = [
        rooms.Scene(tuple(Path(os.path.abspath(path)) for path in sources), targets[name])
        for name, sources in paired.groups.items()
    ]
    names = list(targets)
    for name, gap in paired.gaps.items():
        table.gap(name, pairing.no_partner(name, gap))
    try:
        with (
            _desk(place, list(targets.values())) as desk,
            ray_cluster.connected(address) as cluster,
        ):
            room = cluster.room(request.cpus, request.gpus, request.workers)
            ref = cluster.put(weights)
            groups = [[os.fspath(path) for path in scene.sources] for scene in scenes]
            settled = cluster.call(
                ray_workers.settle, ref, groups, words, cpus, mgdn_jax.__version__, room=room
            )
            since, started = _marked(place, settled.made_with, again), desk.stat().st_mtime_ns
            run = ray_workers.Run(settled, desk, since, started, batch, request.cpus)
            order = sorted(range(len(scenes)), key=settled.programs.__getitem__)
            for row in _rows(cluster, room, ref, run, order, scenes):
                table.add(names[row["number"]], scenes[row["number"]].target, row)
                if progress is not None:
                    progress(table.done, len(scenes))
        table.write()
    finally:
        table.close()
    settled.report.warn(*table.warnings)
    outcome = Outcome(
        output=Path(output),
        written=tuple(table.written),
        skipped=tuple(table.skipped),
        failed=table.failed,
        found=tuple(table.found),
        lost=table.lost,
        workers=table.workers,
        rule=paired.rule,
        steps=tuple(settled.report.steps),
        warnings=tuple(settled.report.warnings),
        seconds=time.perf_counter() - begun,
    )
    settled.report.raise_warnings()
    return outcome


@dataclasses.dataclass(frozen=True)
class _Request:
    workers: int | None
    cpus: int
    gpus: float
    again: bool

    def checked(self) -> _Request:
        workers = self.workers
        if workers is not None:
            workers = arguments.whole("workers", workers, least=1)
        cpus = arguments.whole("cpus", self.cpus, least=1)
        gpus = arguments.real("gpus", self.gpus)
        if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            raise InputError(f"gpus is {gpus:g}, but must be a part of one, or a whole number.")
        return _Request(workers, cpus, gpus, self.again)


def _words(task: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name, what the call leaves open by the task, ready to travel.

    Raises:
        InputError: no such task, or options that are wrong by themselves.
    """
    choice = FuseOptions.read(options)
    if task is not None:
        if task not in tasks.TASKS:
            raise InputError(
                f"task is {arguments.shown(task)}; choose one of {', '.join(tasks.TASKS)}."
            )
        choice = choice.otherwise(tasks.TASKS[task].options)
    words = {name: v for name, v in dataclasses.asdict(choice).items() if v is not None}
    if "homography" in words:
        words["homography"] = os.path.abspath(words["homography"])
    return words


def _weights(
    model: str | os.PathLike[str] | Fuser | Weights | None,
    task: str | None,
    trust: bool | str | Collection[str],
) -> Weights:
    """What workers make their network of; this process touches no device."""
    if isinstance(model, Weights):
        return model
    if isinstance(model, Fuser):
        return Weights(
            model.system,
            model.config.to_dict(),
            {name: np.asarray(value) for name, value in model.params.items()},
            {name: np.asarray(value) for name, value in model.stats.items()},
            model.card,
        )
    if model is None:
        model = tasks.TASKS[task].model if task else zoo.DEFAULT
    return loading.read(model, trust=trust)


def _marked(place: Path, made_with: str, again: bool) -> int:
    """Marks the folder of results, unless the same network and options marked it before.

    What is older than the mark, by the clock of the files, is of another network or other options,
    or from elsewhere.

    Returns:
        When it was marked, in nanoseconds.
    """
    mark = place / MARK
    content = json.dumps({"made_with": made_with, "version": mgdn_jax.__version__})
    try:
        is_known = mark.read_text(encoding="utf-8") == content
    except (OSError, ValueError):
        is_known = False
    if again or not is_known:
        disk.write_atomically(mark, content.encode())
    return mark.stat().st_mtime_ns


@contextlib.contextmanager
def _desk(place: Path, targets: Sequence[Path]) -> Iterator[Path]:
    """A folder for notes; clears away what killed workers leave, of earlier runs and of this one.

    It ends after the workers, or these would find no place for what they write.
    """
    is_new = not place.exists()
    disk.make_folder(place)
    begun = time.time_ns()
    disk.sweep(targets, until=begun - _LEFTOVER)
    for old in place.glob(f"{_DESK}*"):
        with contextlib.suppress(OSError):
            if old.stat().st_mtime_ns < begun - _LEFTOVER:
                shutil.rmtree(old, ignore_errors=True)
    try:
        desk = Path(tempfile.mkdtemp(prefix=_DESK, dir=place))
        os.chmod(desk, 0o777 & place.stat().st_mode)  # workers may be of another user
    except OSError as error:
        raise disk.WriteError(place, error) from error
    try:
        yield desk
    finally:
        shutil.rmtree(desk, ignore_errors=True)
        disk.sweep(targets, since=begun - _LEFTOVER)
        if is_new:
            with contextlib.suppress(OSError):
                place.rmdir()  # where nothing came of it


def _rows(
    cluster: ray_cluster.Cluster,
    room: ray_cluster.Room,
    weights: Any,
    run: ray_workers.Run,
    order: Sequence[int],
    scenes: Sequence[rooms.Scene],
) -> Iterator[dict[str, Any]]:
    """A row for each pair, in the order in which they are done."""
    left = set(order)
    at_once = run.batch or stream.MOST
    size = max(1, math.ceil(len(order) / (_TASKS_EACH * room.workers)))
    size = max(min(size, max(MOST_TASK, 4 * at_once)), math.ceil(len(order) / MOST_TASKS))
    for row in cluster.fuse(room, weights, run, order, scenes, size):
        if row["number"] in left:  # a task that was done twice tells it twice
            left.remove(row["number"])
            yield row
