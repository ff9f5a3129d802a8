"""Batches for training and evaluation: Grain over prepared sets, seeded by position.

Example i of the endless shuffled stream depends on (seed, i) alone. Global batch t holds the
examples t B .. (t + 1) B - 1, of which process p of P loads every P-th one from the p-th on: so
the batch is the same set however many processes share it, and the state of the stream is one
number. Several sets in one stream (`mixture`) and sets in shards (`lanes`) are counted likewise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from mgdn_jax.arguments import shown
from mgdn_jax.data.augmentation import Jitter
from mgdn_jax.data.examples import finish, make_draw, preparation, views
from mgdn_jax.data.lanes import Lanes, Merged, open_lanes
from mgdn_jax.data.mixture import Interleaved, Part, Slots
from mgdn_jax.errors import InputError

Batch = dict[str, np.ndarray]
_MOST_PIXELS, _MOST_THREADS = 2**30, 1024
_TRAIN, _EVAL = 0, 1  # keeps the random streams of training and evaluation apart
# What a saved position belongs to; of a single set there are neither sets nor weights, and of whole
# sets no shards.
_IDENTITY = ("version", "seed", "shards", "sets", "weights", "dataset_size")


class _Place(NamedTuple):
    """An example of validation: of which set, lane and place there; its number; its mask."""

    set: int
    lane: int
    stored: int
    position: int
    mask: float


class Loader:
    """Endless or finite stream of training batches of this process.

    A batch is a dict of "a", "b" and, where known, "target": (B / P, crop, crop, C) float32 in
    [0, 1], and "_index": (B / P,) uint32, each example's position in the global stream (modulo
    2**32). `dataset` is the sequence of stored examples, `len(loader.dataset)` of them an epoch;
    `preparation` is what was done to the files (`examples.preparation`). Of several sets, `sets`
    holds the names, and batches have "_set": (B / P,) uint32, which counts in this order.
    Not for use by several threads at once. Close it, or use it in a `with` statement.
    """

    def __init__(
        self,
        stream: grain.MapDataset,
        lanes: Lanes,
        *,
        batch_size: int,
        seed: int,
        threads: int,
        prefetch: int,
        preparation: Mapping[str, Any] | None = None,
        slots: Slots | None = None,
    ):
        self.dataset = lanes.dataset
        self.preparation = dict(preparation or {})
        self.batch_size = batch_size
        self.sets = tuple(part.name for part in lanes.sets if part.name)
        self._lanes, self._slots = lanes, slots
        self._identity: dict[str, Any] = {
            "version": 1,
            "seed": seed,
            "dataset_size": len(self.dataset),
        }
        if lanes.count > 1:
            self._identity["shards"] = lanes.count
        if self.sets:
            self._identity["sets"] = dict(zip(self.sets, lanes.totals, strict=True))
            self._identity["weights"] = {part.name: part.weight for part in lanes.sets}
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

    def passes(self, batches: int) -> dict[str, float]:
        """How often each of several sets is gone through in so many batches; {} of one set."""
        if self._slots is None:
            return {}
        counts = self._lanes.counts(self._slots, batches * self.batch_size)
        shares = zip(self.sets, counts, self._lanes.totals, strict=True)
        return {name: count / total for name, count, total in shares}

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> Batch:
        return next(self._iterator)

    def state(self) -> dict[str, Any]:
        """Position of the next batch, as plain JSON; the same on every process."""
        done = self._iterator.get_state()["next_index"] * self.batch_size
        return {**self._identity, "examples": done}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues where `state()` was taken, with any number of processes.

        Raises:
          InputError: the state belongs to another seed, data set, mixture or batch size.
        """
        for key in _IDENTITY:
            saved, current = state.get(key), self._identity.get(key)
            if saved == current:
                continue
            if isinstance(saved, Mapping) and isinstance(current, Mapping):
                names = sorted({*saved, *current})
                name = next(name for name in names if saved.get(name) != current.get(name))
                key, saved, current = f"{key}.{name}", saved.get(name), current.get(name)
            raise InputError(
                f"the saved data position has {key} {shown(saved)}, this run has {shown(current)}; "
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
    split. Of several sets, `shares` holds their weights by name, each batch is of one set, and
    "_set" counts in this order.
    """

    def __init__(
        self, plan: grain.MapDataset, dataset: Any, *, threads: int, parts: Sequence[Part] = ()
    ):
        self.dataset = dataset
        self.shares = {part.name: part.weight for part in parts if part.name}
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
    dataset: str | os.PathLike[str] = "",
    *,
    batch_size: int,
    mix: Mapping[str, float] | None = None,
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
    """Training batches from a prepared set, or a mixture of several.

    Args:
      dataset: folder of a set made by `prepare`, or its name under `data_root()`.
      batch_size: examples in the global batch, over all processes.
      mix: in place of `dataset`, weights by set: ``{"ivf": 1, "train2": 2}`` takes two examples of
        train2 for each of ivf, however many either has. Their order does not matter. Task, split
        and all else are common.
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
        is dropped. A pass over a mixture is as many examples as its sets have together.
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
    lanes = open_lanes(
        *(dataset, mix, split),
        lambda manifest: make_draw(task, manifest, channels, synthesis, jitter),
        seed=seed,
        process=process_index,
        processes=process_count,
    )
    stream, slots = _stream(lanes, seed, crop, augment)
    if epochs is not None:
        examples = len(lanes.dataset) * epochs
        whole = examples // batch_size
        if not whole:
            raise InputError(
                f"batch_size {batch_size} exceeds the {examples} examples of "
                f"{epochs} epochs; lower it or raise epochs."
            )
        stream = stream[: whole * batch_size]
    if process_count > 1:
        stream = stream[process_index::process_count]
    stream = stream.batch(batch_size // process_count, drop_remainder=True)
    return Loader(
        stream,
        lanes,
        batch_size=batch_size,
        seed=seed,
        threads=threads,
        prefetch=prefetch,
        preparation=preparation(task, synthesis),
        slots=slots,
    )


def _stream(
    lanes: Lanes, seed: int, crop: int, augment: bool | str
) -> tuple[grain.MapDataset, Slots | None]:
    """The endless stream of examples, and of a mixture what stands where in a lane."""
    slots = Slots([part.weight for part in lanes.sets]) if lanes.sets[0].name else None
    records = [
        None if parts is None else _records(parts, slots, lanes.seed(number))
        for number, parts in enumerate(lanes.parts)
    ]
    stream = records[0] if lanes.count == 1 else grain.MapDataset.source(Merged(records))
    draws = [part.draw for part in lanes.sets]

    def example(index: int, record: Mapping[str, Any]) -> Batch:
        return finish(draws[0](record, _rng(seed, _TRAIN, index), crop, augment), index)

    def of_set(index: int, item: tuple[int, Mapping[str, Any]]) -> Batch:
        number, record = item
        drawn = draws[number](record, _rng(seed, _TRAIN, index), crop, augment)
        return {**finish(drawn, index), "_set": np.asarray(number, np.uint32)}

    assert stream is not None
    return stream.map_with_index(of_set if slots else example), slots


def _records(parts: Sequence[Part], slots: Slots | None, seed: int) -> grain.MapDataset:
    """The endless stream of a lane's records, of a mixture with the number of their set."""
    shuffled = [
        grain.MapDataset.source(part.source).shuffle(seed=seed).repeat(None) for part in parts
    ]
    return grain.MapDataset.source(Interleaved(shuffled, slots)) if slots else shuffled[0]


def make_eval_loader(
    dataset: str | os.PathLike[str] = "",
    *,
    batch_size: int,
    mix: Mapping[str, float] | None = None,
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
      mix: in place of `dataset`, weights by set, as in `make_loader`; every example of every set
        comes once, whatever the weights. They say how the sets' figures make one.
      task: as in `make_loader`.
      crop: side of the centre crop; None: whole images, batched with others of their size
        (order within a size is kept).
      channels: 3 or 1.
      split: TFDS split.
      seed: of the synthesis; example i depends on (seed, i) alone.
      limit: use the first so many examples only; of a mixture, of each set.
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
    lanes = open_lanes(
        *(dataset, mix, split),
        lambda manifest: make_draw(task, manifest, channels, synthesis, None),
        seed=seed,
        process=process_index,
        processes=process_count,
    )
    if crop is None and lanes.count > 1:
        raise InputError(
            "crop is None, and whole pictures are batched by size, which no process knows of "
            "another's shards; set data.validation.crop, or hold out a set that is whole."
        )
    plan, count = _eval_plan(lanes, task, crop, limit, batch_size)

    def load(entries: list[_Place]) -> Batch:
        examples = []
        for number, lane, stored, index, mask in entries[process_index::process_count]:
            parts = lanes.parts[lane]
            assert parts is not None, f"lane {lane} is another process's"
            part = parts[number]
            drawn = part.draw(part.source[stored], _rng(seed, _EVAL, index), crop, None)
            example = {**finish(drawn, index), "_mask": np.asarray(mask, np.float32)}
            if part.name:
                example["_set"] = np.asarray(number, np.uint32)
            examples.append(example)
        return {key: np.stack([e[key] for e in examples]) for key in examples[0]}

    stream = grain.MapDataset.source(plan).map(load)
    return EvalLoader(stream, range(count), threads=threads, parts=lanes.sets)


def _eval_plan(
    lanes: Lanes, task: str, crop: int | None, limit: int | None, size: int
) -> tuple[list[list[_Place]], int]:
    """What stands where in the batches of validation, and how many examples there are."""
    groups: dict[tuple[int, ...], list[_Place]] = {}
    count = 0
    for number, part in enumerate(lanes.sets):
        # Whole pictures have one view each.
        repeats = 1 if crop is None else views(task, part.manifest)
        for lane, row, mask in lanes.held_out(number, repeats, limit):
            stored = row % lanes.sizes[lane][number]
            shape = (crop or 0, crop or 0)
            if crop is None:
                shape = (int(part.source[stored]["height"]), int(part.source[stored]["width"]))
            place = _Place(number, lane, stored, count, mask)
            groups.setdefault((number, *shape), []).append(place)
            count += int(mask)
    plan = []
    for members in groups.values():
        # Filled up with what each lane ends with, so that every process has its own part of it.
        end = len(members)
        fill = members[-lanes.count :]
        members += [fill[k % lanes.count]._replace(mask=0.0) for k in range(-end % size)]
        plan += [members[k : k + size] for k in range(0, len(members), size)]
    return plan, count


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
