"""Batches for training and evaluation: Grain over prepared sets, seeded by position.

Example i of the endless shuffled stream depends on (seed, i) alone. Global batch t holds the
examples t B .. (t + 1) B - 1, of which process p of P loads every P-th one from the p-th on: so
the batch is the same set however many processes share it, and the state of the stream is one
number.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import grain
import numpy as np

from mgdn_jax.data.augmentation import Jitter
from mgdn_jax.data.builders import open_set
from mgdn_jax.data.examples import finish, make_draw, preparation, views
from mgdn_jax.errors import InputError

Batch = dict[str, np.ndarray]
_MOST_PIXELS, _MOST_THREADS = 2**30, 1024
_TRAIN, _EVAL = 0, 1  # keeps the random streams of training and evaluation apart


class Loader:
    """Endless or finite stream of training batches of this process.

    A batch is a dict of "a", "b" and, where known, "target": (B / P, crop, crop, C) float32 in
    [0, 1], and "_index": (B / P,) uint32, each example's position in the global stream (modulo
    2**32). `dataset` is the sequence of stored examples, `len(loader.dataset)` of them an epoch;
    `preparation` is what was done to the files (`examples.preparation`).
    Not for use by several threads at once. Close it, or use it in a `with` statement.
    """

    def __init__(
        self,
        stream: grain.MapDataset,
        dataset: Any,
        *,
        batch_size: int,
        seed: int,
        threads: int,
        prefetch: int,
        preparation: Mapping[str, Any] | None = None,
    ):
        self.dataset = dataset
        self.preparation = dict(preparation or {})
        self.batch_size = batch_size
        self._identity = {"version": 1, "seed": seed, "dataset_size": len(dataset)}
        self._stream = stream
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
        self._iterator = iter(stream.to_iter_dataset(options))

    @property
    def examples_per_epoch(self) -> int:
        """Number of stored examples in the split."""
        return len(self.dataset)

    @property
    def steps_per_epoch(self) -> float:
        """Batches an epoch, a fraction where the batch does not divide it."""
        return len(self.dataset) / self.batch_size

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> Batch:
        return next(self._iterator)

    def state(self) -> dict[str, int]:
        """Position of the next batch, as plain JSON; the same on every process."""
        done = self._iterator.get_state()["next_index"] * self.batch_size
        return {**self._identity, "examples": done}

    def restore(self, state: Mapping[str, int]) -> None:
        """Continues where `state()` was taken, with any number of processes.

        Raises:
          InputError: the state belongs to another seed, data set or batch size.
        """
        for key, mine in self._identity.items():
            if state.get(key) != mine:
                raise InputError(
                    f"the saved data position has {key} {state.get(key)}, this run has {mine}; "
                    "resume with the settings of the saved run."
                )
        done = state.get("examples")
        if type(done) is not int or done % self.batch_size:
            raise InputError(
                f"the saved data position {done} is no multiple of batch_size {self.batch_size}; "
                "resume with the batch_size of the saved run."
            )
        batches = done // self.batch_size
        if not 0 <= batches <= len(self._stream):
            raise InputError(
                f"the saved data position {done} lies beyond this run's end; raise epochs."
            )
        self._iterator.set_state({"next_index": batches})

    def close(self) -> None:
        """Stops the reading threads; the loader cannot be used afterwards."""
        self._iterator.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class EvalLoader:
    """Finite, ordered batches; every iteration starts anew and gives the same.

    Batches are as those of `Loader` and have "_mask": (B / P,) float32, 1 for examples, 0 for the
    repeated ones that fill the last batch of a size. "_index" is the example's position in the
    split.
    """

    def __init__(self, plan: grain.MapDataset, dataset: Any, *, threads: int):
        self.dataset = dataset
        self._plan = plan
        self._options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2)

    @property
    def examples_per_epoch(self) -> int:
        """Number of examples that count."""
        return len(self.dataset)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        iterator = iter(self._plan.to_iter_dataset(self._options))
        try:
            yield from iterator
        finally:
            iterator.close()


def make_loader(
    dataset: str | os.PathLike[str],
    *,
    batch_size: int,
    task: str = "mff",
    crop: int = 96,
    augment: bool | str = True,
    channels: int = 3,
    split: str = "train[:95%]",
    seed: int = 0,
    epochs: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 4,
    prefetch: int = 8,
    synthesis: Mapping[str, Any] | None = None,
    jitter: Jitter | Mapping[str, float] | None = None,
) -> Loader:
    """Training batches from a prepared set.

    Args:
      dataset: folder of a set made by `prepare`, or its name under `data_root()`.
      batch_size: examples in the global batch, over all processes.
      task: "mff", "mef": multi-focus pairs in random order, or exposures (under before over; with
        ``synthesis={"count": 3}`` three, "c" as well, in random order), synthesised from pictures
        with segmentations; "pairs": the stored pairs.
      crop: side of the square crops in pixels; smaller images are completed by reflection.
      augment: one of 8 flips and quarter turns at random; ``"flips"``: one of the 4 without a
        quarter turn, left-right and upside down independently.
      channels: 3 (gray is repeated) or 1 (luma).
      split: TFDS split.
      seed: of shuffling, crops and synthesis; 0 <= seed < 2**31.
      epochs: passes over the split, then the stream ends; None: endless. The last partial batch
        is dropped.
      process_index: of this process.
      process_count: processes that share each batch.
      threads: reading threads; the result does not depend on it.
      prefetch: batches held ready.
      synthesis: fields of `Synthesis` ("mff") or `Exposures` ("mef") that differ from their
        defaults.
      jitter: a `Jitter`, or its fields that differ from their defaults (all off), for "pairs":
        random scale, tone and noise. A target is scaled with its sources; tone needs pairs without.

    Returns:
      A `Loader`.

    Raises:
      InputError: the set is missing or of another kind, or an argument is out of range.
    """
    _check_arguments(batch_size, channels, seed, process_index, process_count, threads, crop)
    if crop < 1:
        raise InputError(f"crop is {crop}; give the side of the crops in pixels, 1 or more.")
    if augment not in (True, False, "flips"):
        raise InputError(f"augment is {augment!r}; use True, False or 'flips'.")
    if epochs is not None and epochs < 1:
        raise InputError(f"epochs is {epochs}; give 1 or more, or None for an endless stream.")
    source, manifest = open_set(dataset, split)
    draw = make_draw(task, manifest, channels, synthesis, jitter)

    def example(index: int, record: Mapping[str, Any]) -> Batch:
        return finish(draw(record, _rng(seed, _TRAIN, index), crop, augment), index)

    stream = grain.MapDataset.source(source).shuffle(seed=seed).repeat(epochs)
    stream = stream.map_with_index(example)
    if epochs is not None:
        whole = len(source) * epochs // batch_size
        if not whole:
            raise InputError(
                f"batch_size {batch_size} exceeds the {len(source) * epochs} examples of "
                f"{epochs} epochs; lower it or raise epochs."
            )
        stream = stream[: whole * batch_size]
    if process_count > 1:
        stream = stream[process_index::process_count]
    stream = stream.batch(batch_size // process_count, drop_remainder=True)
    return Loader(
        stream,
        source,
        batch_size=batch_size,
        seed=seed,
        threads=threads,
        prefetch=prefetch,
        preparation=preparation(task, synthesis),
    )


def make_eval_loader(
    dataset: str | os.PathLike[str],
    *,
    batch_size: int,
    task: str = "mff",
    crop: int | None = None,
    channels: int = 3,
    split: str = "train[95%:]",
    seed: int = 0,
    limit: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
    synthesis: Mapping[str, Any] | None = None,
) -> EvalLoader:
    """Evaluation batches: each example once, in order, always the same pixels.

    Radiance pictures ("hdr") are looked at in several windows each, one round after another.

    Args:
      dataset: folder of a set made by `prepare`, or its name under `data_root()`.
      batch_size: examples in the global batch, over all processes.
      task: as in `make_loader`.
      crop: side of the centre crop; None: whole images, batched with others of their size
        (order within a size is kept).
      channels: 3 or 1.
      split: TFDS split.
      seed: of the synthesis; example i depends on (seed, i) alone.
      limit: use the first so many examples only.
      process_index: of this process.
      process_count: processes that share each batch.
      threads: reading threads.
      synthesis: as in `make_loader`.

    Returns:
      An `EvalLoader`.

    Raises:
      InputError: as `make_loader`.
    """
    _check_arguments(batch_size, channels, seed, process_index, process_count, threads, crop)
    if (crop is not None and crop < 1) or (limit is not None and limit < 1):
        raise InputError(f"crop {crop} and limit {limit} must be 1 or more, or None.")
    source, manifest = open_set(dataset, split)
    draw = make_draw(task, manifest, channels, synthesis, None)
    # Whole pictures have one view each.
    count = len(source) * (1 if crop is None else views(task, manifest))
    count = min(count, limit or count)
    groups: dict[tuple[int, int], list[int]] = {}
    for index in range(count):
        if crop is None:
            size = (int(source[index]["height"]), int(source[index]["width"]))
        else:
            size = (crop, crop)
        groups.setdefault(size, []).append(index)
    plan: list[list[tuple[int, float]]] = []
    for members in groups.values():
        entries = [(index, 1.0) for index in members]
        entries += [(members[-1], 0.0)] * (-len(members) % batch_size)
        plan += [entries[k : k + batch_size] for k in range(0, len(entries), batch_size)]

    def load(entries: list[tuple[int, float]]) -> Batch:
        examples = []
        for index, mask in entries[process_index::process_count]:
            drawn = draw(source[index % len(source)], _rng(seed, _EVAL, index), crop, None)
            examples.append({**finish(drawn, index), "_mask": np.asarray(mask, np.float32)})
        return {key: np.stack([e[key] for e in examples]) for key in examples[0]}

    return EvalLoader(grain.MapDataset.source(plan).map(load), range(count), threads=threads)


def _rng(seed: int, purpose: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, purpose, index))))


def _check_arguments(
    batch_size: int,
    channels: int,
    seed: int,
    index: int,
    count: int,
    threads: int,
    crop: int | None,
) -> None:
    if channels not in (1, 3):
        raise InputError(f"channels is {channels}; use 3 for colour or 1 for luma.")
    if not 0 <= seed < 2**31:
        raise InputError(f"seed is {seed}; use an integer from 0 to 2**31 - 1.")
    if not 0 <= index < count:
        raise InputError(f"process_index {index} is not below process_count {count}.")
    if batch_size < 1 or batch_size % count:
        raise InputError(
            f"batch_size {batch_size} must be a positive multiple of the {count} processes."
        )
    if not 0 <= threads <= _MOST_THREADS:
        raise InputError(f"threads is {threads}; use 0 (none) to {_MOST_THREADS}.")
    if batch_size * (crop or 1) ** 2 > _MOST_PIXELS:
        raise InputError(
            f"batch_size {batch_size} and crop {crop} make more than {_MOST_PIXELS:,} pixels a"
            " batch; use smaller ones."
        )
