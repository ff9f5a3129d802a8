"""Batches for training and evaluation: Grain over prepared sets, seeded by position.

Example i of the endless shuffled stream depends on (seed, i) alone. Global batch t holds the
examples t B .. (t + 1) B - 1, of which process p of P loads every P-th one from the p-th on: so
the batch is the same set however many processes share it, and the state of the stream is one
number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grain
import numpy as np

from mgdn_jax.codec import decode_image
from mgdn_jax.data.augmentation import MODES, augment, crop_around, draw_corner
from mgdn_jax.data.builders import label_ids, open_set
from mgdn_jax.data.multifocus import Synthesis, synthesise_multifocus
from mgdn_jax.errors import InputError
from mgdn_jax.image import LUMA

TASKS = ("mff", "pairs")
Batch = dict[str, np.ndarray]
_TRAIN, _EVAL = 0, 1  # keeps the random streams of training and evaluation apart


class Loader:
    """Endless or finite stream of training batches of this process.

    A batch is a dict of "a", "b" and, where known, "target": (B / P, crop, crop, C) float32 in
    [0, 1], and "_index": (B / P,) uint32, each example's position in the global stream (modulo
    2**32). `dataset` is the sequence of stored examples, `len(loader.dataset)` of them an epoch.
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
    ):
        self.dataset = dataset
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
        done = state["examples"]
        if done % self.batch_size:
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
) -> Loader:
    """Training batches from a prepared set.

    Args:
      dataset: folder of a set made by `prepare`, or its name under `data_root()`.
      batch_size: examples in the global batch, over all processes.
      task: "mff": multi-focus pairs synthesised from pictures with segmentations; "pairs": the
        stored pairs.
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
      synthesis: fields of `Synthesis` that differ from its defaults, for "mff".

    Returns:
      A `Loader`.

    Raises:
      InputError: the set is missing or of another kind, or an argument is out of range.
    """
    _check_arguments(batch_size, channels, seed, process_index, process_count, threads)
    if crop < 1:
        raise InputError(f"crop is {crop}; give the side of the crops in pixels, 1 or more.")
    if augment not in (True, False, "flips"):
        raise InputError(f"augment is {augment!r}; use True, False or 'flips'.")
    if epochs is not None and epochs < 1:
        raise InputError(f"epochs is {epochs}; give 1 or more, or None for an endless stream.")
    source, manifest = open_set(dataset, split)
    draw = _task(task, manifest, channels, synthesis)

    def example(index: int, record: Mapping[str, Any]) -> Batch:
        return _finish(draw(record, _rng(seed, _TRAIN, index), crop, augment), index)

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
        stream, source, batch_size=batch_size, seed=seed, threads=threads, prefetch=prefetch
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
      synthesis: fields of `Synthesis`, for "mff".

    Returns:
      An `EvalLoader`.

    Raises:
      InputError: as `make_loader`.
    """
    _check_arguments(batch_size, channels, seed, process_index, process_count, threads)
    if (crop is not None and crop < 1) or (limit is not None and limit < 1):
        raise InputError(f"crop {crop} and limit {limit} must be 1 or more, or None.")
    source, manifest = open_set(dataset, split)
    draw = _task(task, manifest, channels, synthesis)
    count = min(len(source), limit or len(source))
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
            drawn = draw(source[index], _rng(seed, _EVAL, index), crop, None)
            examples.append({**_finish(drawn, index), "_mask": np.asarray(mask, np.float32)})
        return {key: np.stack([e[key] for e in examples]) for key in examples[0]}

    return EvalLoader(grain.MapDataset.source(plan).map(load), range(count), threads=threads)


# A task turns (record, rng, crop, augment) into uint8 or uint16 images; augment True: random crop
# and turn; False: random crop; None: centre crop, or the whole image where crop is None.
_Draw = Callable[[Mapping[str, Any], np.random.Generator, int | None, bool | str | None], Batch]


def _task(
    task: str, manifest: Mapping[str, Any], channels: int, synthesis: Mapping[str, Any] | None
) -> _Draw:
    if task not in TASKS:
        raise InputError(f"there is no task {task!r} for data; choose one of {', '.join(TASKS)}.")
    segmented = "labels" in manifest["roles"]
    if segmented != (task == "mff"):
        holds = "pictures with segmentations" if segmented else "pairs"
        raise InputError(
            f"task {task!r} does not fit the set {manifest['set']!r}, which holds {holds}; "
            f"use task {'mff' if segmented else 'pairs'!r} or another set."
        )
    if task == "pairs":
        if synthesis:
            raise InputError("synthesis belongs to task 'mff'; leave it out for stored pairs.")
        return lambda *args: _draw_pair(manifest["roles"], channels, *args)
    given = dict(synthesis or {})
    if unknown := given.keys() - Synthesis.__dataclass_fields__.keys():
        raise InputError(
            f"synthesis has no field {', '.join(sorted(unknown))}; "
            f"choose from {', '.join(Synthesis.__dataclass_fields__)}."
        )
    if "quality" in given:
        given["quality"] = tuple(given["quality"])
    spec = Synthesis(**given)
    return lambda *args: _draw_multifocus(spec, channels, *args)


def _draw_multifocus(
    spec: Synthesis,
    channels: int,
    record: Mapping[str, Any],
    rng: np.random.Generator,
    crop: int | None,
    turned: bool | str | None,
) -> Batch:
    """A synthetic pair; only the crop and its surroundings are ever blurred."""
    image = _decode(record, "image", channels)
    if image.dtype == np.uint16:
        image = image * np.float32(1 / 257)
    labels = label_ids(decode_image(record["labels"], f"labels of {_name(record)}"))
    margin = 0
    if crop is not None:
        margin = spec.reach
        if turned is None:
            top, left = ((n - crop) // 2 for n in labels.shape)
            halve = False
        else:
            halve, top, left = _choose_window(image, rng, crop, margin)
        scale = 2 if halve else 1
        side = scale * (crop + 2 * margin)
        image, labels = (
            crop_around(x, top - scale * margin, left - scale * margin, side, side)
            for x in (image, labels)
        )
        if halve:
            image = image.reshape(side // 2, 2, side // 2, 2, -1).mean((1, 3), dtype=np.float32)
            labels = labels[::2, ::2]
    if turned:
        mode = _draw_mode(rng, turned)
        image, labels = augment(image, mode), augment(labels, mode)
    near, far, target = synthesise_multifocus(image, labels, rng, spec, margin=margin)
    if rng.random() < 0.5:
        near, far = far, near
    return {"a": near, "b": far, "target": target}


def _choose_window(
    image: np.ndarray, rng: np.random.Generator, crop: int, margin: int
) -> tuple[bool, int, int]:
    """Whether to halve the scale, and the corner; flat windows are drawn again, twice at most."""
    halve = bool(rng.random() < 0.25) and min(image.shape[:2]) >= 2 * (crop + margin)
    side = 2 * crop if halve else crop
    for _ in range(3):
        top, left = draw_corner(rng, image.shape, side)
        part = image[max(top, 0) : top + side : 2, max(left, 0) : left + side, -1]
        detail = np.abs(np.diff(part.astype(np.float32), axis=1)).mean()
        if detail > 2.5:  # of 255: below is sky and the like, which teaches nothing about focus
            break
    return halve, top, left


def _draw_pair(
    roles: list[str],
    channels: int,
    record: Mapping[str, Any],
    rng: np.random.Generator,
    crop: int | None,
    turned: bool | str | None,
) -> Batch:
    """A stored pair: one window and one turn for all its images."""
    images = {role: _decode(record, role, channels) for role in roles}
    if crop is not None:
        shape = images["a"].shape
        corner = ((n - crop) // 2 for n in shape[:2])
        top, left = corner if turned is None else draw_corner(rng, shape, crop)
        images = {r: crop_around(x, top, left, crop, crop) for r, x in images.items()}
    if turned:
        mode = _draw_mode(rng, turned)
        images = {r: augment(x, mode) for r, x in images.items()}
    return images


def _draw_mode(rng: np.random.Generator, turned: bool | str) -> int:
    """A mode of `augment`; the even ones are the flips, which leave rows rows."""
    return 2 * int(rng.integers(MODES // 2)) if turned == "flips" else int(rng.integers(MODES))


def _name(record: Mapping[str, Any]) -> str:
    name = record["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def _decode(record: Mapping[str, Any], role: str, channels: int) -> np.ndarray:
    """(H, W, channels) in the integers it is stored with; luma is float32 of the same range."""
    image = decode_image(record[role], f"{role} of {_name(record)}")
    if image.ndim == 2:
        image = image[..., None]
        return np.repeat(image, 3, axis=-1) if channels == 3 else image
    if channels == 3:
        return image
    luma = image.astype(np.float32) @ np.array(LUMA, np.float32)[:, None]
    return np.rint(luma).astype(image.dtype)


def _finish(images: Mapping[str, np.ndarray], index: int) -> Batch:
    """Integers to float32 in [0, 1], and the index."""
    example: Batch = {
        key: x.astype(np.float32) * np.float32(1 / np.iinfo(x.dtype).max)
        for key, x in images.items()
    }
    example["_index"] = np.asarray(index % 2**32, np.uint32)
    return example


def _rng(seed: int, purpose: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, purpose, index))))


def _check_arguments(
    batch_size: int, channels: int, seed: int, index: int, count: int, threads: int
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
    if threads < 0:
        raise InputError(f"threads is {threads}; use 0 (none) or more.")
