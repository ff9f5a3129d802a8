"""The one way to read JSON: objects of bounded size and depth, and numbers that computers hold."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import Any

from mgdn_jax.errors import InputError
from mgdn_jax.io import opening

MOST_BYTES = 16 * 2**20
"""Files of JSON above this many bytes are refused."""
MOST_LEVELS = 64
"""Values that are nested deeper are refused; what walks through them later may recurse."""


def read_object(path: str | os.PathLike[str], cure: str = "write it again") -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: the file.
        cure: what helps, for messages.

    Raises:
        InputError: it cannot be opened (`opening.opened`), or as `object_of`.
    """
    name = os.fspath(path)
    return object_of(opening.read_text(path, "a JSON file", MOST_BYTES), name, cure)


def object_of(
    text: str | bytes, name: str, cure: str = "write it again", *, has_nan: bool = False
) -> dict[str, Any]:
    """The JSON object in a text.

    Args:
        text: the whole text; bytes are UTF-8.
        name: what messages call it.
        cure: what helps, for messages.
        has_nan: as of `value_of`.

    Raises:
        InputError: as `value_of`, or it is a value of another kind.
    """
    value = value_of(text, name, cure, has_nan=has_nan)
    if not isinstance(value, dict):
        raise _refusal(name, f"it is {_kind(value)}", cure)
    return value


def value_of(
    text: str | bytes, name: str, cure: str = "write it again", *, has_nan: bool = False
) -> Any:
    """The JSON value in a text.

    Args:
        text: the whole text; bytes are UTF-8.
        name: what messages call it.
        cure: what helps, for messages.
        has_nan: whether NaN and infinities are read, which some programs write for lack of a
            number; JSON has none.

    Returns:
        Objects as dictionaries, whose keys come once each; whole numbers of up to 64 bits; other
        numbers finite, but as `has_nan` says.

    Raises:
        InputError: anything else.
    """
    if isinstance(text, bytes):
        text = opening.decoded(text, name, "JSON")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_whole,
            parse_float=_real,
            parse_constant=float if has_nan else _constant,
        )
    except RecursionError:
        raise _refusal(name, "it is nested too deeply", cure) from None
    except ValueError as error:
        raise _refusal(name, str(error), cure) from None
    if _levels(value) > MOST_LEVELS:
        raise _refusal(name, "it is nested too deeply", cure)
    return value


def field(content: dict[str, Any], key: str, kind: type, name: str, cure: str = "") -> Any:
    """A value of an object that must be there and of one kind.

    Args:
        content: the object.
        key: of the value.
        kind: `str`, `int`, `list`, `dict`, ...; a truth value is no number.
        name: what messages call the object.
        cure: what helps, for messages.

    Raises:
        InputError: it is absent, or of another kind.
    """
    value = content.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        state = "lacks" if key not in content else f"has {_kind(value)} for"
        raise InputError(f"{name} {state} {key!r}; {cure or 'write it again'}.")
    return value


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:40]!r} comes twice")
    return content


def _whole(text: str) -> int:
    if len(text) > 20 or abs(int(text)) >= 2**64:
        raise ValueError(f"the number {_short(text)} is too large")
    return int(text)


def _real(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {_short(text)} is too large")
    return value


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:12]}... of {len(text)} digits"


def _constant(text: str) -> float:
    raise ValueError(f"it holds {text}, which is no number")


def _levels(value: Any) -> int:
    """How deep values are nested, without recursion."""
    depth, level = 0, [value]
    while level := [
        entry
        for item in level
        if isinstance(item, dict | list)
        for entry in (item.values() if isinstance(item, dict) else item)
    ]:
        depth += 1
        if depth > MOST_LEVELS:
            break
    return depth


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    if value is None:
        return "null"
    return kinds.get(type(value), "a number")


def _refusal(name: str, reason: str, cure: str) -> InputError:
    return InputError(f"{name} holds no JSON that can be used ({reason}); {cure}.")
