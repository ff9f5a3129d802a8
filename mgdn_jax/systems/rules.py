"""Tables by which names and layouts of a published network become ours, and rows they share.

A system's `conversion.RULES` holds one table a network class. `mgdn_jax.weights.conversion` reads
the tables.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

Row = tuple[str, str, str]
KINDS = ("conv", "transposed", "linear", "norm", "array", "vector")
"""What a row is about: a convolution, a transposed one, a linear layer, a norm (with its running
statistics), or a lone parameter, as it is or flattened."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """Conversion of one network.

    Attributes:
        modules: (pattern of a module's published path, our path, kind); kind is one of `KINDS` and
            decides suffix and layout.
        dead: patterns of published entries that the network never reads.
        optional: patterns of entries that only some configurations of the network read.
        twin: (pattern, replacement) of second names under which entries are stored again; an
            entry may have either name or both, then with equal values.
        constants: (pattern, value) of entries that hold what the network has as a constant,
            repeated along their first axes. One that differs is an unknown entry.
        seen: fields of the system's `Config` that the published names give away.
    """

    modules: tuple[Row, ...]
    dead: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    twin: tuple[str, str] | None = None
    constants: tuple[tuple[str, np.ndarray], ...] = ()
    seen: Callable[[Iterable[str]], dict[str, Any]] = lambda names: {}

    def is_constant(self, key: str) -> bool:
        """Whether an entry is one of the constants."""
        return any(re.fullmatch(pattern, key) for pattern, _ in self.constants)

    def holds(self, key: str, value: np.ndarray) -> bool:
        """Whether an entry that is a constant has its value, to rounding."""
        return all(
            value.shape[-constant.ndim :] == constant.shape and np.allclose(value, constant)
            for pattern, constant in self.constants
            if re.fullmatch(pattern, key)
        )


def restormer(theirs: str, ours: str) -> tuple[Row, ...]:
    """Rules of Restormer blocks whose published and own paths begin so."""
    return (
        (theirs + r"norm([12])\.body", ours + r"/norm\3", "norm"),
        (theirs + r"attn\.temperature", ours + "/attention/temperature", "vector"),
        (theirs + r"attn\.qkv", ours + "/attention/qkv/project", "conv"),
        (theirs + r"attn\.qkv_dwconv", ours + "/attention/qkv/local", "conv"),
        (theirs + r"attn\.project_out", ours + "/attention/project", "conv"),
        (theirs + r"ffn\.project_in", ours + "/feed_forward/expand", "conv"),
        (theirs + r"ffn\.dwconv", ours + "/feed_forward/local", "conv"),
        (theirs + r"ffn\.project_out", ours + "/feed_forward/contract", "conv"),
    )


def numbered(*rules: Row) -> tuple[Row, ...]:
    """Rules with the published ``{n}`` (1, 2) and our ``{i}`` (0, 1) filled in."""
    return tuple(
        (theirs.replace("{n}", str(i + 1)), ours.replace("{i}", str(i)), kind)
        for theirs, ours, kind in rules
        for i in (0, 1)
    )
