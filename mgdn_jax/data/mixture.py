"""Several prepared sets in one stream: which set, and which of its examples, stands where.

Weights become whole slots of a period, and these are spread evenly (smooth weighted round robin),
so that any stretch of the stream has nearly the share of each set that its weight asks for.
Position i alone says what stands there: a mixture is as resumable as a single set.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mgdn_jax.arguments import real, shown
from mgdn_jax.data.builders import open_set
from mgdn_jax.data.examples import Draw
from mgdn_jax.data.folders import shard_name
from mgdn_jax.errors import InputError

_SLOTS = 1000
"""Slots of a period, about: weights are rounded to so many parts."""
_MOST_SETS, _MOST_WEIGHT = 256, 1e6


class Slots:
    """Places of sets in an endless stream.

    Equal weights are kept exactly, others to about a thousandth of the whole: no set has less.

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
    shard: tuple[int, int] | None = None,
) -> list[Part]:
    """Opens the set, or the sets, that a loader reads.

    Args:
      dataset: folder or name of the only set; "" for a mixture.
      mix: weights by folder or name; None or {} for one set. Their order does not matter.
      split: TFDS split, of each set.
      make: the task as a function of a record, for a manifest.
      shard: number of a shard, and how many there are; None of whole sets.

    Returns:
      The only set, or those of the mixture in the order of their names.

    Raises:
      InputError: neither or both are given, a weight is no number above 0, a set cannot be used, or
        sets with and without targets are to be mixed.
    """
    name, weights = set_names(dataset, mix)
    if name:
        return [_part("", 1.0, name, split, make, shard)]
    parts = [_part(f"mix.{n}", weights[n], n, split, make, shard) for n in sorted(weights)]
    having = [part.name for part in parts if "target" in part.manifest["roles"]]
    lacking = [part.name for part in parts if part.name not in having]
    if having and lacking:
        raise InputError(
            f"mix.{having[0]} has targets and mix.{lacking[0]} has none; mix sets of one kind."
        )
    return parts


def set_names(
    dataset: str | os.PathLike[str], mix: Mapping[str, float] | None
) -> tuple[str, dict[str, float]]:
    """The only set of a loader, or weights by set; the other one is empty.

    Raises:
      InputError: neither or both are given, or a weight is no number above 0.
    """
    name, weights = _text("dataset", dataset or ""), _weights(mix)
    if name and weights:
        raise InputError(
            f"there are both dataset {name!r} and mix {shown(weights)}; set one of them, and leave "
            "the other empty."
        )
    if not name and not weights:
        raise InputError(
            "there is no data set; give its name as dataset, or several with weights as mix."
        )
    return name, weights


def _part(
    title: str,
    weight: float,
    name: str,
    split: str,
    make: Callable[..., Draw],
    shard: tuple[int, int] | None,
) -> Part:
    """A set, or a shard of it; messages name it by its title where it is one of several."""
    place = name if shard is None else shard_name(name, *shard)
    try:
        source, manifest = open_set(place, split)
        return Part(name if title else "", weight, source, manifest, make(manifest))
    except InputError as error:
        raise InputError(f"{title}: {error}" if title else str(error)) from None


def _weights(mix: Any) -> dict[str, float]:
    """A mixture as plain weights by name."""
    if mix is None:
        return {}
    try:
        entries = dict(mix.items())  # an ml_collections.ConfigDict is no Mapping
    except AttributeError:
        raise InputError(
            f"mix is {shown(mix)}; give weights by set, as {{'ivf': 1, 'train2': 2}}."
        ) from None
    if len(entries) > _MOST_SETS:
        raise InputError(f"mix has {len(entries)} sets; give {_MOST_SETS} at most.")
    named = {_text("a name of mix", name): weight for name, weight in entries.items()}
    return {
        name: real(f"mix.{name}", weight, above=0, most=_MOST_WEIGHT)
        for name, weight in named.items()
    }


def _text(title: str, name: Any) -> str:
    """A folder or name of a set as a text; the only one may be "", for none."""
    if not isinstance(name, str | os.PathLike) or (title != "dataset" and not os.fspath(name)):
        raise InputError(f"{title} is {shown(name)}; give the folder or the name of a set.")
    return os.fsdecode(name)
