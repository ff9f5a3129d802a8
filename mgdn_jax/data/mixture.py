"""Several prepared sets in one stream: which set, and which of its examples, stands where.

Weights become whole slots, and the slots of one period are spread evenly (smooth weighted round
robin), so that any stretch of the stream has nearly the share of each set that its weight asks
for. Position i alone says what stands there: a mixture is as resumable as a single set.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mgdn_jax.arguments import shown
from mgdn_jax.data.builders import open_set
from mgdn_jax.data.examples import Draw
from mgdn_jax.errors import InputError
from mgdn_jax.systems.fields import fault

_SLOTS = 1000
"""Slots of a period, about: weights are rounded to so many parts."""
_MOST_SETS = 256


class Slots:
    """Places of sets in an endless stream.

    Args:
      weights: one a set, above 0.
    """

    def __init__(self, weights: Sequence[float]):
        total = sum(weights)
        self._counts = [max(1, round(_SLOTS * weight / total)) for weight in weights]
        if len({*weights}) == 1:
            self._counts = [1] * len(weights)
        self._period = sum(self._counts)
        credit = [0] * len(weights)
        order = []
        for _ in range(self._period):
            credit = [have + count for have, count in zip(credit, self._counts, strict=True)]
            number = max(range(len(credit)), key=credit.__getitem__)
            credit[number] -= self._period
            order.append(number)
        self._order = np.array(order)
        before = np.zeros((self._period + 1, len(weights)), np.int64)
        before[1:] = np.cumsum(self._order[:, None] == np.arange(len(weights)), axis=0)
        self._before = before

    def place(self, index: int) -> tuple[int, int]:
        """Number of the set at a position, and how many of that set stand before it."""
        rounds, slot = divmod(index, self._period)
        number = int(self._order[slot])
        return number, rounds * self._counts[number] + int(self._before[slot, number])

    def counts(self, stop: int) -> list[int]:
        """Examples of each set among the first `stop`."""
        rounds, slot = divmod(stop, self._period)
        shares = zip(self._counts, self._before[slot], strict=True)
        return [rounds * count + int(more) for count, more in shares]


class Interleaved:
    """Shuffled, endless streams of several sets as one sequence of (set, record).

    Args:
      streams: a sequence each, longer than anybody reads.
      slots: where their items stand.
    """

    def __init__(self, streams: Sequence[Sequence[Any]], slots: Slots):
        self._streams, self._slots = streams, slots

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> tuple[int, Any]:
        number, position = self._slots.place(index)
        return number, self._streams[number][position]


class Chained:
    """Stored examples of several sets, one after another."""

    def __init__(self, sources: Sequence[Any]):
        self._sources = sources
        self._starts = np.cumsum([0, *(len(source) for source in sources)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._sources[number][index - int(self._starts[number])]


@dataclasses.dataclass(frozen=True)
class Part:
    """A set of a mixture.

    Attributes:
      name: as the mixture calls it; "" for the only set of a loader.
      weight: its share, relative to the others'.
      source: its stored examples.
      manifest: what `prepare` noted about it.
      draw: a record as an example.
    """

    name: str
    weight: float
    source: Any
    manifest: Mapping[str, Any]
    draw: Draw


def open_parts(
    dataset: str | os.PathLike[str],
    mix: Mapping[str, float] | None,
    split: str,
    make: Callable[[Mapping[str, Any]], Draw],
) -> list[Part]:
    """Opens the set, or the sets, that a loader reads.

    Args:
      dataset: folder or name of the only set; "" for a mixture.
      mix: weights by folder or name; None or {} for one set.
      split: TFDS split, of each set.
      make: the task as a function of a record, for a manifest.

    Raises:
      InputError: neither or both are given, a weight is no number above 0, or a set cannot be used.
    """
    if mix is not None and not hasattr(mix, "items"):
        raise InputError(f"mix is {shown(mix)}; give weights by set, as {{'ivf': 1, 'train2': 2}}.")
    weights = dict(mix or {})
    if bool(weights) == bool(os.fspath(dataset)):
        found = f"dataset {os.fspath(dataset)!r} and mix {shown(weights)}"
        raise InputError(
            f"give one of dataset and mix, and leave the other empty (found {found})."
            if weights
            else "there is no data set; give its name as dataset, or several with weights as mix."
        )
    if len(weights) > _MOST_SETS:
        raise InputError(f"mix has {len(weights)} sets; give {_MOST_SETS} at most.")
    for name, weight in weights.items():
        if fault(weight, float) is not None or not 0 < weight <= 1e6:
            raise InputError(f"mix.{name} is {shown(weight)}; give a weight above 0, to 1e6.")
    parts = []
    for name, weight in list(weights.items()) or [(os.fspath(dataset), 1.0)]:
        source, manifest = open_set(name, split)
        parts.append(Part(name if weights else "", float(weight), source, manifest, make(manifest)))
    return parts
