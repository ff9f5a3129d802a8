"""Checks of single arguments: one sentence in place of whatever a wrong type does later."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

from mgdn_jax.errors import InputError

LARGEST = 2**31 - 1
"""Sizes and counts beyond this are no sizes and counts."""


def whole(name: str, value: Any, *, least: int = 0, most: int = LARGEST) -> int:
    """A whole number; NumPy's are taken too, truth values and texts are not.

    Args:
        name: what messages call the argument.
        value: what came.
        least: the smallest that is taken.
        most: the largest that is taken.

    Raises:
        InputError: it is something else, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InputError(f"{name} is {shown(value)}, but must be a whole number.")
    number = operator.index(value)
    if not least <= number <= most:
        limits = f"at least {least}" if number < least else f"at most {most}"
        raise InputError(f"{name} is {shown(value)}, but must be {limits}.")
    return number


def real(name: str, value: Any, *, above: float = -math.inf, most: float = math.inf) -> float:
    """A finite number; NumPy's are taken too, truth values and texts are not.

    Args:
        name: what messages call the argument.
        value: what came.
        above: it must be larger than this.
        most: the largest that is taken.

    Raises:
        InputError: it is something else, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputError(f"{name} is {shown(value)}, but must be a number.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{name} is {shown(value)}, but must be a finite number.")
    if not number > above:
        raise InputError(f"{name} is {shown(value)}, but must be above {above:g}.")
    if number > most:
        raise InputError(f"{name} is {shown(value)}, but must be at most {most:g}.")
    return number


def flag(name: str, value: Any) -> bool:
    """True or False, NumPy's too; 1, "no" and the like have no meaning.

    Args:
        name: what messages call the argument.
        value: what came.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise InputError(f"{name} is {shown(value)}, but must be True or False.")
    return bool(value)


def reals(name: str, values: Any, count: int | None = None) -> tuple[float, ...]:
    """Several finite numbers, of a list, a tuple or an array.

    Args:
        name: what messages call the argument.
        values: what came.
        count: how many there must be; None for any number.

    Raises:
        InputError: it is something else, or holds anything else.
    """
    try:
        entries = [] if isinstance(values, str | bytes) else list(values)
    except TypeError:
        entries = []
    if not entries or len(entries) != (count or len(entries)):
        wanted = f"{count} finite numbers" if count else "finite numbers in a list"
        raise InputError(f"{name} is {shown(values)}, but must be {wanted}.")
    return tuple(real(f"a number of {name}", entry) for entry in entries)


def array(name: str, value: Any) -> Any:
    """An array of numbers in the machine's order of bytes, of anything that NumPy takes for one.

    Args:
        name: what messages call the argument.
        value: what came.

    Raises:
        InputError: rows of several lengths, or what is no array.
    """
    import numpy as np  # options are checked before anything heavy is imported

    try:
        numbers = np.asarray(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:80].rstrip(".")
        raise InputError(f"{name} is no array ({reason}); give rows of one length.") from None
    if np.ma.is_masked(value):
        raise InputError(f"{name} has masked values, which no picture has; fill them first.")
    return numbers.astype(numbers.dtype.newbyteorder("="), copy=False)


def shown(value: Any) -> str:
    """A value for a message, shortened."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # a whole number of more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."
