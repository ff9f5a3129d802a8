"""Values of configs' fields: of the kind that the dataclass declares, and in range."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from mgdn_jax.arguments import shown
from mgdn_jax.errors import InputError, nearest

T = TypeVar("T")

MOST_WHOLE = 2**31 - 1
"""Whole numbers lie within plus and minus this, where a field says nothing else."""
MOST_REAL = 1e12
"""Other numbers lie within plus and minus this."""

_KINDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "a text",
    dict: "a block",
    tuple: "a tuple or list",
}
_MOST_ENTRIES, _MOST_LETTERS = 4096, 4096


def fault(value: Any, hint: Any, *, most: int = MOST_WHOLE) -> str | None:
    """What a value must be and is not, "a whole number" for instance; None where it is that.

    Args:
        value: of a field.
        hint: what its type is declared to be: int, float, bool, str, dict, tuple with the kind of
            its entries, one of several. A whole number is a finite number, a list is a tuple, and a
            truth value is neither. Whatever else is declared, nothing is known about.
        most: whole numbers lie within plus and minus this.
    """
    kind = typing.get_origin(hint) or hint
    if kind in (typing.Union, types.UnionType):
        faults = [fault(value, choice, most=most) for choice in typing.get_args(hint)]
        return None if None in faults else " or ".join(filter(None, faults))
    if kind in (None, types.NoneType):
        return None if value is None else "null"
    if kind not in _KINDS or kind is bool:
        return None if kind is not bool or isinstance(value, bool) else _KINDS[bool]
    if kind is tuple and isinstance(value, list | tuple):
        return _fault_of_entries(value, typing.get_args(hint), most)
    if kind is dict and isinstance(value, Mapping):
        return None
    if kind is str and isinstance(value, str):
        return None if len(value) <= _MOST_LETTERS else f"at most {_MOST_LETTERS} letters"
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and (whole or isinstance(value, float)):
        if not whole and not math.isfinite(value):
            return _KINDS[float]
        return None if abs(value) <= MOST_REAL else f"within {MOST_REAL:g} of 0"
    if kind is int and whole:
        return None if abs(value) <= most else f"within {most:,} of 0"
    return _KINDS[kind]


def _fault_of_entries(value: Any, hints: tuple[Any, ...], most: int) -> str | None:
    if len(value) > _MOST_ENTRIES:
        return f"a tuple or list of at most {_MOST_ENTRIES}"
    if not hints:
        return None
    alike = len(hints) == 2 and hints[1] is Ellipsis
    if not alike and len(hints) != len(value):
        return f"a tuple or list of {len(hints)}"
    kinds = hints[:1] * len(value) if alike else hints
    faults = (fault(v, kind, most=most) for v, kind in zip(value, kinds, strict=True))
    first = next((entry for entry in faults if entry), None)
    return None if first is None else f"a tuple or list whose entries are {first}"


def faults(
    kind: type, values: Mapping[str, Any], *, most: int = MOST_WHOLE
) -> Iterator[tuple[str, str]]:
    """What is wrong with values of a dataclass's fields.

    Args:
        kind: the dataclass.
        values: by field; a field may be missing.
        most: as of `fault`.

    Yields:
        A field, and a clause about it: ``("l1", "is nan and must be a finite number")``.
    """
    hints = _hints(kind)
    for name, value in values.items():
        wanted = fault(value, hints[name], most=most) if name in hints else None
        if wanted is not None:
            yield name, f"is {shown(value)} and must be {wanted}"


def read(kind: type[T], values: Mapping[str, Any] | None, block: str) -> T:
    """A settings dataclass from a block of a config; its own ranges are its own to check.

    Args:
        kind: the dataclass.
        values: by field; None stands for the default, a list for a tuple.
        block: what the block is called in a config.

    Raises:
        InputError: an unknown field, or a value of another kind than the field.
    """
    values = {key: value for key, value in dict(values or {}).items() if value is not None}
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            raise InputError(f"{block} has no field {name!r}; {nearest(str(name), names)}.")
    for name, clause in faults(kind, values):
        raise InputError(f"{block}.{name} {clause}.")
    return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """Type hints of a dataclass; none where a module of the user's has some that mean nothing."""
    try:
        return typing.get_type_hints(kind)
    except (AttributeError, NameError, SyntaxError, TypeError):
        return {}
