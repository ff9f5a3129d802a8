"""The one exception and the one warning a user is meant to read, and how they are put."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A file, field or argument is not usable; the message is one sentence with the cure.

    The command line prints the message alone and exits with code 2. Raised at the edges only
    (files, checkpoints, configs, arguments); inside the package ordinary exceptions propagate.
    """


class FusionWarning(UserWarning):
    """What is not wrong but probably not meant; one sentence that says what and the cure.

    The command line prints it on stderr and puts it into `--json`; in Python it is a warning and
    stands in the report of the result.
    """


def printable(text: str) -> str:
    """The text without control characters, which would act on a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def closest(name: str, known: Iterable[str]) -> str | None:
    """The name that exists and was probably meant; capitals count for nothing.

    Args:
        name: what was written.
        known: the names that exist.

    Returns:
        One of `known`, or None if none is near.
    """
    folded = {word.casefold(): word for word in known}
    close = difflib.get_close_matches(name.casefold(), [*folded], n=1)
    return folded[close[0]] if close else None


def nearest(name: str, known: Iterable[str]) -> str:
    """Advice on a name that does not exist: the nearest one that does, or all of them.

    Args:
        name: what was written.
        known: the names that exist.

    Returns:
        ``"did you mean 'refusion'?"`` or ``"choose one of cddfuse, mgdn"``, without a full stop.
    """
    known = list(known)
    close = closest(name, known)
    if close is not None:
        return f"did you mean {close!r}?"
    return f"choose one of {', '.join(known)}" if known else "there are none"
