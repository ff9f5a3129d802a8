"""Ray itself: connecting, room for workers, and pairs handed out by Ray Data."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import folders
from mgdn_jax.serving import ray_workers

PATIENCE = 5.0
"""Seconds that a cluster has to answer."""


def check_extra() -> None:
    """Finds out whether Ray and what Ray Data needs are there.

    Raises:
        InputError: they are not; the extra is named.
    """
    try:
        import pandas  # noqa: F401
        import pyarrow  # noqa: F401
        import ray  # noqa: F401
    except ImportError as error:
        raise InputError(
            f'a cluster needs Ray with Ray Data ({error}): pip install "mgdn_jax[cluster]".'
        ) from None


@dataclasses.dataclass(frozen=True)
class Room:
    """The workers that a cluster has room for.

    Attributes:
        workers: how many, at most.
        now: how many there is room for now.
        cpus: cores of each.
        gpus: graphics processors of each.
    """

    workers: int
    now: int
    cpus: int
    gpus: float


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Cluster]:
    """A connection to a cluster, for the time of the block; one that is there already stays.

    Args:
        address: as `serving.ray.fuse_folders` takes it.

    Raises:
        InputError: the cluster does not answer, or another version of Ray does.
    """
    import ray

    if ray.is_initialized() and address is None:
        yield Cluster()
        return
    if ray.is_initialized():
        raise InputError(
            f"this process is connected to a cluster of Ray already, so {address} is not looked "
            "for; leave the address out, or call ray.shutdown() first."
        )
    place = address or os.environ.get("RAY_ADDRESS") or "local"
    _look_for(place)
    alone: dict[str, Any] = {}
    if place == "local":
        alone = {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of this process: the rows tell
    try:
        with _quiet(), _hushed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(address=place, logging_level=logging.ERROR, log_to_driver=False, **alone)
    except (ConnectionError, RuntimeError, ValueError, OSError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(
            f"there is no cluster at {place} ({reason}); start one with `ray start --head`, or "
            "leave the address out to use this machine."
        ) from None
    try:
        yield Cluster()
    finally:
        with _quiet():
            ray.shutdown()


def _look_for(place: str) -> None:
    """Knocks at an address, which Ray would wait for for minutes.

    Raises:
        InputError: nobody answers.
    """
    if place in ("local", "auto"):
        return
    host, _, port = place.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(
            f"{place!r} is no address of a cluster; write HOST:PORT, ray://HOST:PORT or auto."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"there is no cluster at {place} ({reason}); start one with `ray start --head`, or "
            "leave the address out to use this machine."
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray's own words about its progress are left out; what goes wrong is raised."""
    import ray.data  # noqa: F401 - it sets levels of its own

    loggers = [logging.getLogger(name) for name in ("ray", "ray.data")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """The process's stderr itself is shut: the part of Ray that is no Python greets there."""
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class Cluster:
    """A cluster that this process is connected to."""

    def room(self, cpus: int, gpus: float, workers: int | None) -> Room:
        """How many workers it has room for.

        Args:
            cpus: cores of each.
            gpus: graphics processors of each.
            workers: how many are wanted, at most; None is as many as there is room for.

        Raises:
            InputError: it has no room for any.
        """
        import ray

        count, most = 0, (0.0, 0.0)
        for node in ray.nodes():
            if not node["Alive"]:
                continue
            there = (node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
            most = max(most[0], there[0]), max(most[1], there[1])
            fits = there[0] // cpus
            count += int(min(fits, there[1] / gpus) if gpus else fits)
        if not count:
            raise InputError(
                f"no machine of the cluster has room for a worker of {cpus} cores and {gpus:g} "
                f"GPUs (the largest have {most[0]:g} and {most[1]:g}); ask for less."
            )
        wanted = count if workers is None else workers
        return Room(wanted, min(wanted, count), cpus, gpus)

    def put(self, value: Any) -> Any:
        """Something for all workers, as a reference."""
        import ray

        return ray.put(value)

    def call(self, function: Callable[..., Any], *values: Any, room: Room) -> Any:
        """Runs a function on a worker, references in place of values.

        Args:
            function: of the package.
            *values: its arguments.
            room: what a worker has.

        Raises:
            InputError: as the function; or the worker does not find the package.
        """
        import ray

        task = ray.remote(function).options(num_cpus=room.cpus, num_gpus=room.gpus)
        try:
            return ray.get(task.remote(*values))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise InputError(str(error.cause)) from None
            if isinstance(error.cause, ImportError) or "No module named" in str(error):
                raise _no_package(error) from None
            raise
        except ray.exceptions.RayError as error:
            if "No module named" in str(error):
                raise _no_package(error) from None
            raise

    def fuse(
        self,
        room: Room,
        weights: Any,
        run: ray_workers.Run,
        numbers: Sequence[int],
        scenes: Sequence[folders.Scene],
        size: int,
    ) -> Iterator[dict[str, Any]]:
        """Hands pairs out to a pool of workers.

        Args:
            room: the workers.
            weights: reference to the network's.
            run: what holds for all pairs.
            numbers: of the pairs, in the order in which they are handed out.
            scenes: all pairs.
            size: pairs of a task.

        Yields:
            Rows in the order in which they are done.
        """
        items = [
            [number, *map(os.fspath, scenes[number].sources), os.fspath(scenes[number].target)]
            for number in numbers
        ]
        with _quiet():
            for row in _dataset(room, weights, run, items, size).iter_rows():
                yield json.loads(row["row"])


def _dataset(
    room: Room,
    weights: Any,
    run: ray_workers.Run,
    items: Sequence[Sequence[Any]],
    size: int,
) -> Any:
    """The rows, as a data set of Ray that nobody has looked at yet."""
    import ray.data

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # copying the settings warns of old ones among them
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        tasks = -(-len(items) // size)
        pool = ray.data.ActorPoolStrategy(
            min_size=min(room.now, tasks), max_size=min(room.workers, tasks)
        )
        with ray.data.DataContext.current(context):
            pairs = ray.data.from_items(
                [{"pair": json.dumps(item)} for item in items], override_num_blocks=tasks
            )
            return pairs.map_batches(
                FusingActor,
                fn_constructor_args=(weights, run),
                batch_size=None,
                batch_format="numpy",
                compute=pool,
                num_cpus=room.cpus,
                num_gpus=room.gpus,
            )


def _no_package(error: Exception) -> InputError:
    lines = [line for line in str(error).splitlines() if "No module named" in line]
    reason = lines[-1].strip() if lines else "it cannot be imported"
    return InputError(
        f"a worker of the cluster does not find the package ({reason}); install mgdn_jax with the "
        "extra cluster, in this version, on all machines."
    )


class FusingActor:
    """A worker as Ray Data keeps it.

    Args:
        weights: reference to the network's.
        run: what holds for all pairs.
    """

    def __init__(self, weights: Any, run: ray_workers.Run):
        import ray

        self._worker = ray_workers.Worker(ray.get(weights), run)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Rows of a task."""
        scenes = {}
        for text in batch["pair"]:
            number, *paths = json.loads(str(text))
            *sources, target = map(Path, paths)
            scenes[number] = folders.Scene(tuple(sources), target)
        return {"row": [json.dumps(row) for row in self._worker.rows(scenes)]}
