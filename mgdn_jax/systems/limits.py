"""How large a network may become that a config describes: found out before it is built."""

from __future__ import annotations

import os

from mgdn_jax.errors import InputError

MOST = {"parameters": 250_000_000, "blocks": 128}
"""Parameters (numbers) and blocks (of layers that repeat) of one network.

The largest network of the package has 41 million parameters. The environment variables
`MGDN_MAX_PARAMETERS` and `MGDN_MAX_BLOCKS` set other limits.
"""
DRAWS_PER_BLOCK = 48
"""Arrays that a block may draw; a network of unknown blocks draws no more than the most do."""


def variable(noun: str) -> str:
    """The environment variable that sets a limit of `MOST`."""
    return f"MGDN_MAX_{noun.upper()}"


def most(noun: str) -> int:
    """A limit, as the environment or `MOST` has it.

    Args:
        noun: "parameters" or "blocks".

    Raises:
        InputError: the environment variable holds no positive whole number.
    """
    text = os.environ.get(variable(noun), "")
    if not text:
        return MOST[noun]
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) == 0:
        raise InputError(
            f"the environment variable {variable(noun)} is {text[:40]!r}; set it to a positive"
            " whole number, or not at all."
        )
    return int(text)


def check(count: int, noun: str, what: str) -> None:
    """Refuses what is larger than a limit.

    Args:
        count: of what there would be.
        noun: "parameters" or "blocks".
        what: what would have them, for the message.

    Raises:
        InputError: it is too large; the message names the environment variable.
    """
    limit = most(noun)
    if count > limit:
        number = f"{count:,}" if count < 10**15 else "far too many"
        raise InputError(
            f"{what} has {number} {noun}, and at most {limit:,} are allowed; if that is meant, set"
            f" the environment variable {variable(noun)} to a larger number."
        )
