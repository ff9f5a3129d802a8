"""Many scenes through one network: files go in and out beside it, equal sizes together."""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np

from mgdn_jax.errors import InputError

MOST = 8
"""Scenes that go through an accelerator at once, at most."""
MOST_BATCH = 1024
"""Scenes that anybody may ask for at once: so many are read ahead."""
MOST_PIXELS = 1_500_000
"""Pixels that go through at once: as many as an untiled picture may have."""
BUCKET = 64
"""Pixels whose multiples the pictures of a folder are padded to, by networks that can."""

Scene = Any
"""Pictures of one scene: a sequence of arrays, or whatever the functions given take."""


def default_batch() -> int:
    """How many scenes at once are quick here: 1 on a CPU, which one keeps busy, else `MOST`."""
    import jax

    return 1 if jax.default_backend() == "cpu" else MOST


def run(
    count: int,
    load: Callable[[int], Scene],
    fuse: Callable[[list[Scene]], Sequence[Any]],
    store: Callable[[int, Scene, Any], Any],
    *,
    batch: int,
    same_program: Callable[[Scene], Any] | None = None,
    size: Callable[[Scene], int] | None = None,
    workers: int = 2,
) -> Generator[tuple[int, Any], None, None]:
    """Loads, fuses and stores `count` scenes; what goes wrong with one leaves the others alone.

    `load` and `store` run in threads, ahead of and behind `fuse`, which runs here. Neighbours that
    share a program are fused together. At most about 2 `batch` + 2 `workers` scenes are held.

    Args:
        count: scenes.
        load: number of a scene -> its pictures.
        fuse: pictures of up to `batch` scenes -> a result for each.
        store: number, pictures, result -> anything.
        batch: scenes fused together, at most; fewer where they are large.
        same_program: pictures -> what must be equal for neighbours to be fused together; None is
            the shapes and types of the pictures.
        size: pixels of a scene; None counts those of its first picture.
        workers: threads.

    Yields:
        For each scene, in order, its number and what `store` returned, or the `InputError` that
        one of the three raised.

    Raises:
        ValueError: `batch` or `workers` is below 1.
    """
    if batch < 1 or workers < 1:
        raise ValueError(f"batch ({batch}) and workers ({workers}) must be at least 1")
    key, pixels = same_program or _sizes_and_types, size or _pixels
    pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="mgdn-files")
    loading: collections.deque[concurrent.futures.Future] = collections.deque()
    ending: collections.deque[tuple[int, Any]] = collections.deque()
    waiting: list[tuple[int, Scene]] = []

    def flush() -> None:
        scenes = [pictures for _, pictures in waiting]
        try:
            results: Sequence[Any] = fuse(scenes)
        except InputError as error:
            results = [error] if len(scenes) == 1 else [_alone(fuse, scene) for scene in scenes]
        for (number, pictures), result in zip(waiting, results, strict=True):
            failed = isinstance(result, InputError)
            ending.append(
                (number, result if failed else pool.submit(store, number, pictures, result))
            )
        waiting.clear()

    try:
        started = 0
        for number in range(count):
            while started < count and len(loading) < batch + workers:
                loading.append(pool.submit(load, started))
                started += 1
            pictures = _outcome(loading.popleft())
            if waiting and (
                isinstance(pictures, InputError) or key(pictures) != key(waiting[0][1])
            ):
                flush()
            if isinstance(pictures, InputError):
                ending.append((number, pictures))
            else:
                waiting.append((number, pictures))
                if len(waiting) == batch or len(waiting) >= MOST_PIXELS // pixels(pictures):
                    flush()
            while ending and (_is_done(ending[0][1]) or len(ending) > batch + workers):
                done, result = ending.popleft()
                yield done, _outcome(result)
        if waiting:
            flush()
        while ending:
            done, result = ending.popleft()
            yield done, _outcome(result)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _alone(fuse: Callable[[list[Scene]], Sequence[Any]], scene: Scene) -> Any:
    try:
        return fuse([scene])[0]
    except InputError as error:
        return error


def _outcome(result: Any) -> Any:
    """What a future will hold, an `InputError` as a value; anything else as it is."""
    if not isinstance(result, concurrent.futures.Future):
        return result
    try:
        return result.result()
    except InputError as error:
        return error


def _is_done(result: Any) -> bool:
    return not isinstance(result, concurrent.futures.Future) or result.done()


def _sizes_and_types(pictures: Sequence[np.ndarray]) -> list[tuple[Any, ...]]:
    return [(x.shape[:2], x.dtype) for x in pictures]


def _pixels(pictures: Sequence[np.ndarray]) -> int:
    return max(1, pictures[0].shape[0] * pictures[0].shape[1])
