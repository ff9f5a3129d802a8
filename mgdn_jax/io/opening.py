"""The one way to open a file that somebody names: a regular one, not empty, of bounded size."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from mgdn_jax.errors import InputError
from mgdn_jax.io import guard

MOST_TEXT = 64 * 2**20
"""Text files (tables, notes, transforms) above this many bytes are refused."""


def opened(
    path: str | os.PathLike[str], noun: str = "an image file", most: int | None = None
) -> BinaryIO:
    """Opens a file for reading.

    Args:
        path: the file, or a link to it.
        noun: what messages say is expected.
        most: bytes that it may have; None for `guard.MAX_BYTES`.

    Returns:
        The file, which the caller closes.

    Raises:
        InputError: it is missing, a folder, a pipe, a socket or a device, unreadable, empty, or
            larger.
    """
    name = os.fspath(path)
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError):  # opening it says why; ValueError: a path with a zero byte
        mode = stat.S_IFREG
    if stat.S_ISDIR(mode):
        raise InputError(f"{name} is a folder where {noun} is expected; name a file.")
    if not stat.S_ISREG(mode):  # a pipe would have no end, a device no size
        raise InputError(f"{name} is not a regular file; save it to one first.")
    try:
        file = open(name, "rb")  # noqa: SIM115 (the caller closes it)
    except FileNotFoundError:
        raise InputError(f"{name} does not exist; check the path.") from None
    except PermissionError:
        raise InputError(f"{name} may not be read; check its permissions.") from None
    except (OSError, ValueError) as error:
        shown = repr(name if len(name) <= 100 else f"{name[:100]}...")
        raise InputError(f"{shown} cannot be read ({_reason(error)}); check the path.") from None
    size, most = os.fstat(file.fileno()).st_size, guard.MAX_BYTES if most is None else most
    if 0 < size <= most:
        return file
    file.close()
    if size == 0:
        raise InputError(f"{name} is empty; export or download it again.")
    raise InputError(f"{name} has more than {_amount(most)}; {_smaller(noun)}.")


def read_bytes(
    path: str | os.PathLike[str], noun: str = "an image file", most: int | None = None
) -> bytes:
    """All bytes of a regular file that is not empty.

    Args:
        path: as of `opened`.
        noun: as of `opened`.
        most: as of `opened`; None is what pixels may take (`guard.most_bytes`).

    Raises:
        InputError: as `opened`, or it cannot be read to its end.
    """
    if most is None:
        with opened(path, noun) as file:
            guard.check_bytes(os.fstat(file.fileno()).st_size, os.fspath(path))
            return _whole(file, path)
    with opened(path, noun, most) as file:
        return _whole(file, path)


def read_text(
    path: str | os.PathLike[str], noun: str = "a text file", most: int = MOST_TEXT
) -> str:
    """The text of a file in UTF-8, with or without a mark at its start.

    Args:
        path: as of `opened`.
        noun: as of `opened`.
        most: as of `opened`.

    Raises:
        InputError: as `read_bytes`, or it is no text in UTF-8.
    """
    return decoded(read_bytes(path, noun, most), os.fspath(path), noun)


def decoded(data: bytes, name: str, noun: str = "a text file") -> str:
    """Text in UTF-8, with or without a mark at its start.

    Args:
        data: the bytes.
        name: what messages call them.
        noun: what messages say is expected.

    Raises:
        InputError: they are something else.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InputError(
            f"{name} is no text in UTF-8 where {noun} is expected; save it as text in UTF-8."
        )
    return text


def _whole(file: BinaryIO, path: str | os.PathLike[str]) -> bytes:
    try:
        return file.read()
    except OSError as error:
        reason = _reason(error)
        raise InputError(f"{os.fspath(path)} cannot be read ({reason}); copy it again.") from None


def _amount(count: int) -> str:
    return f"{count / 2**30:g} GiB" if count >= 2**30 else f"{count / 2**20:g} MiB"


def _smaller(noun: str) -> str:
    return "cut it into several files" if noun == "an image file" else f"give {noun}"


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:1].lower() + text[1:]
