"""Sets in shards as one stream, of which each process reads its own shards alone.

Position i of the stream is of lane i mod N: the i-th part of every set. Within its lane it is what
a set, or a mixture, has at position i // N. The order thus depends on N and not on who reads it. A
process p of P reads the positions p, p + P, ... and these are of the lanes p, p + P, ... where P
divides N. A whole set is one lane, which every process reads.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mgdn_jax.data.builders import split_size
from mgdn_jax.data.examples import Draw
from mgdn_jax.data.folders import data_root, is_prepared, shard_count, shard_name
from mgdn_jax.data.mixture import Chained, Part, Slots, open_parts, set_names
from mgdn_jax.errors import InputError
from mgdn_jax.io import objects


class Absent:
    """Stored examples that another process reads: their number alone is known.

    Args:
      size: how many.
    """

    def __init__(self, size: int):
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Any:
        raise IndexError(f"example {index} is in a shard of another process")


class Lanes:
    """The sets of a loader by lane.

    Args:
      parts: the sets of each lane; None of a lane that other processes read.
      sizes: examples of each set, by lane.
      seed: of the run.

    Attributes:
      count: number of lanes; 1 where the sets are whole.
      parts: as given.
      sizes: as given.
      sets: the sets of the first lane that this process reads: names, weights, tasks.
      totals: examples of each set in all lanes.
      dataset: all stored examples, those of other processes by their number alone.
    """

    def __init__(
        self, parts: Sequence[Sequence[Part] | None], sizes: Sequence[Sequence[int]], seed: int
    ):
        self.count, self.parts, self.sizes = len(parts), tuple(parts), tuple(sizes)
        self.sets = next(some for some in parts if some is not None)
        self.totals = [sum(lane) for lane in zip(*sizes, strict=True)]
        self._seed = seed
        sources: list[Any] = []
        for some, lengths in zip(parts, sizes, strict=True):
            sources += map(Absent, lengths) if some is None else [part.source for part in some]
        self.dataset = sources[0] if len(sources) == 1 else Chained(sources)

    def seed(self, lane: int) -> int:
        """Of what is shuffled in a lane."""
        if self.count == 1:
            return self._seed
        return int(np.random.SeedSequence((self._seed, lane)).generate_state(1)[0])

    def counts(self, slots: Slots, stop: int) -> list[int]:
        """Examples of each set among the first `stop` of the stream."""
        lanes = [slots.counts(len(range(lane, stop, self.count))) for lane in range(self.count)]
        return [sum(lane) for lane in zip(*lanes, strict=True)]

    def held_out(self, number: int, views: int, limit: int | None) -> list[tuple[int, int, float]]:
        """Places of a set's examples in the order of validation: lane, position there, mask.

        Lanes take turns. Those that end early repeat their last example with a mask of 0.

        Args:
          number: of the set.
          views: examples of each record.
          limit: takes the first so many only; None for all.
        """
        lengths = [lane[number] * views for lane in self.sizes]
        if limit is not None:
            most = [len(range(lane, limit, self.count)) for lane in range(self.count)]
            lengths = [min(pair) for pair in zip(lengths, most, strict=True)]
        return [
            (lane, min(row, max(length - 1, 0)), float(row < length))
            for row in range(max(lengths))
            for lane, length in enumerate(lengths)
        ]


class Merged:
    """Endless streams of lanes as one sequence.

    Args:
      streams: a sequence each, longer than anybody reads; None of lanes that are not read here.
    """

    def __init__(self, streams: Sequence[Sequence[Any] | None]):
        self._streams = streams

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> Any:
        row, lane = divmod(index, len(self._streams))
        stream = self._streams[lane]
        assert stream is not None, f"lane {lane} is another process's"
        return stream[row]


def open_lanes(
    dataset: str | os.PathLike[str],
    mix: Mapping[str, float] | None,
    split: str,
    make: Callable[[Mapping[str, Any]], Draw],
    *,
    seed: int,
    process: int,
    processes: int,
) -> Lanes:
    """Opens what this process reads of the set, or the sets, of a loader.

    Args:
      dataset: folder or name of the only set; "" for a mixture.
      mix: weights by folder or name; None or {} for one set.
      split: TFDS split, of each set or of each shard.
      make: the task as a function of a record, for a manifest.
      seed: of the run.
      process: index of this process.
      processes: number of processes.

    Raises:
      InputError: as `mixture.open_parts`; or the sets are in different numbers of shards, the
        processes cannot share these, or a shard of this process is not here or is empty.
    """
    name, weights = set_names(dataset, mix)
    names = [name] if name else sorted(weights)
    counts = {name: shard_count(name) for name in names}
    count = counts[names[0]]
    other = next((name for name in names if counts[name] != count), None)
    if other is not None:
        raise InputError(
            f"the data set {names[0]!r} is in {count} shards and {other!r} in {counts[other]} (0 is"
            " whole); prepare all sets of a mixture with one number of shards."
        )
    if count == 0:
        parts = open_parts(dataset, mix, split, make)
        return Lanes([parts], [[len(part.source) for part in parts]], seed)
    if count % processes:
        raise InputError(
            f"the data set {names[0]!r} is in {count} shards, which {processes} processes cannot"
            f" share evenly; use a number of processes that divides {count}, or prepare it with"
            f" --shards {processes}."
        )
    numbers = range(process, count, processes)
    for name in names:
        _check_here(name, numbers, count, processes)
    lanes = [
        open_parts(dataset, mix, split, make, (lane, count)) if lane in numbers else None
        for lane in range(count)
    ]
    sizes = _sizes([lane for lane in lanes if lane is not None], names, numbers, count, split)
    return Lanes(lanes, sizes, seed)


def _check_here(name: str, numbers: Sequence[int], count: int, processes: int) -> None:
    """Raises InputError if a shard of this process is not on this machine."""
    for lane in numbers:
        folder = shard_name(name, lane, count)
        if not (is_prepared(Path(folder).expanduser()) or is_prepared(data_root() / folder)):
            raise InputError(
                f"process {numbers[0]} of {processes} reads {folder}, which is not in"
                f" {data_root()}; copy it there."
            )


def _sizes(
    lanes: Sequence[Sequence[Part]],
    names: Sequence[str],
    numbers: Sequence[int],
    count: int,
    split: str,
) -> list[list[int]]:
    """Examples of each set's split, by lane, from what the shards of this process say of all."""
    sizes: list[list[int]] = [[] for _ in range(count)]
    for number, name in enumerate(names):
        whole: list[int] = []
        for lane, parts in zip(numbers, lanes, strict=True):
            manifest, place = dict(parts[number].manifest), shard_name(name, lane, count)
            cure = "write all shards anew with mgdn data prepare --shards"
            of = objects.field(manifest, "of", list, place, cure)
            alike = whole in ([], of) and len(of) == count and all(type(n) is int for n in of)
            if not alike or manifest.get("shard") != lane:
                raise InputError(f"{place} is no shard of the set that the others are of; {cure}.")
            whole = of
        for lane, size in enumerate(whole):
            examples = split_size(split, size)
            if not examples:
                place = shard_name(name, lane, count)
                raise InputError(
                    f"split {split!r} of {place} is empty ({size} examples); choose a larger share,"
                    " or fewer shards."
                )
            sizes[lane].append(examples)
    return sizes
