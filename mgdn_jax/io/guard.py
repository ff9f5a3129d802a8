"""Limits on what is read, and one sentence for whatever a decoder raises."""

from __future__ import annotations

import contextlib
import contextvars
import math
import os
from collections.abc import Iterator

from mgdn_jax.errors import InputError

MAX_PIXELS = 1_000_000_000
"""Pictures above this many pixels are refused (Pillow's own limit stops at 179 megapixels)."""
MAX_BYTES = 16 * 2**30
"""Files above this many bytes are refused."""
MAX_DECODED = 2 * 2**30
"""Pictures whose pixels take more bytes are refused, unless the variable below says otherwise."""
VARIABLE = "MGDN_MAX_GIB"
"""Name of the environment's variable with another limit in place of `MAX_DECODED`, in GiB."""

_lower: contextvars.ContextVar[int | None] = contextvars.ContextVar("lower", default=None)


def most_pixels() -> int:
    """Pixels that one picture may have here and now: `MAX_PIXELS`, or what `at_most` says."""
    lower = _lower.get()
    return MAX_PIXELS if lower is None else min(lower, MAX_PIXELS)


@contextlib.contextmanager
def at_most(pixels: int) -> Iterator[None]:
    """Lowers the limit of pixels for what is read inside, in this thread alone.

    Args:
        pixels: the limit; `MAX_PIXELS` still holds where it is less.
    """
    token = _lower.set(pixels)
    try:
        yield
    finally:
        _lower.reset(token)


def check_size(height: int, width: int, name: str) -> None:
    """Refuses what a file declares before anything of that size is made.

    Args:
        height: rows of one page.
        width: columns of one page.
        name: what messages call the file.

    Raises:
        InputError: no pixels, or more than `most_pixels`.
    """
    if height < 1 or width < 1:
        raise InputError(f"{name} has no pixels; export it again.")
    if height * width > most_pixels():
        raise too_large(name)


def most_bytes() -> int:
    """Bytes that the pixels of one picture, page or volume may take.

    Raises:
        InputError: the environment's variable is no number above zero.
    """
    text = os.environ.get(VARIABLE)
    if text is None:
        return MAX_DECODED
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not 0 < limit < 2**20:
        raise InputError(f"{VARIABLE} is {text!r}; write a number of GiB above zero, such as 8.")
    return int(limit * 2**30)


def check_bytes(count: int, name: str) -> None:
    """Refuses what would take too much memory before anything of that size is made.

    Args:
        count: bytes that the file declares, once they are unpacked.
        name: what messages call the file.

    Raises:
        InputError: more than `most_bytes`.
    """
    most = most_bytes()
    if count > most:
        raise InputError(
            f"{name} takes {_gib(count)} GiB when it is unpacked, more than the limit of "
            f"{_gib(most)}; scale or cut it first, or set {VARIABLE} higher."
        )


def _gib(count: int) -> str:
    return f"{count / 2**30:.3g}"


class TooLargeError(InputError):
    """A picture has more pixels than `most_pixels`."""


def too_large(name: str) -> TooLargeError:
    """The sentence about a picture above `most_pixels`."""
    return TooLargeError(
        f"{name} has more than {most_pixels() / 10**6:g} megapixels; scale or cut it first."
    )


def check_page(page: int, pages: int, name: str) -> None:
    """Refuses a page that a file does not have.

    Args:
        page: the page, from 0.
        pages: how many the file has.
        name: what messages call the file.

    Raises:
        InputError: there is no such page.
    """
    if not 0 <= page < pages:
        raise InputError(f"{name} has no page {page}; choose one from 0 to {pages - 1}.")


def further_pages(pages: int, name: str, noun: str = "page") -> tuple[str, ...]:
    """The remark about pages that are left out when the first one is read.

    Args:
        pages: how many pages the file has.
        name: what messages call the file.
        noun: what a page is called in such files.

    Returns:
        One sentence, or none where there is one page.
    """
    if pages < 2:
        return ()
    others = f"the other {pages - 1} were" if pages > 2 else "the other one was"
    return (
        f"{name} has {pages} {noun}s of which the first was read and {others} left out; "
        f"give the file alone to fuse its {noun}s as a stack.",
    )


@contextlib.contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turns whatever a decoder raises for a broken file into one sentence.

    Args:
        name: what messages call the file.

    Raises:
        InputError: in place of any exception inside.
    """
    try:
        yield
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{name} does not fit into memory; scale or cut it first.") from None
    except Exception as error:  # decoders raise a dozen types for broken files
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise InputError(
            f"{name} is damaged or truncated ({reason}); export or download it again."
        ) from None


def extra(name: str, kind: str, group: str, error: ImportError) -> InputError:
    """The sentence about a kind of file that needs an extra.

    Args:
        name: what messages call the file.
        kind: what it is, "a camera RAW file".
        group: the extra in pyproject.toml.
        error: what the import raised.

    Returns:
        The error to raise.
    """
    missing = f" ({error.name} is missing)" if error.name else ""
    return InputError(
        f'{name} is {kind}, which needs an extra{missing}: pip install "mgdn-jax[{group}]".'
    )
