"""What travels between the page and the server.

A request is one line of JSON, then the files, one after the other. The answer is lines of JSON,
one for each step; behind the last one follow its files. All of it stays in memory.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from mgdn_jax.errors import InputError, printable

MEDIA_TYPE = "application/octet-stream"
"""Of requests: no form of another page can send it, and no script of one without permission."""
_MOST_HEAD = 64 * 1024
_MOST_NAME = 100  # letters
_BLOCK = 1 << 20

Say = Callable[[Mapping[str, Any]], None]
"""Takes a step: what the page shows while it waits."""


class Stream(Protocol):
    """What a request is read from."""

    def read(self, size: int = ..., /) -> bytes:
        """At most so many bytes; none at the end."""

    def readline(self, size: int = ..., /) -> bytes:
        """At most so many bytes, up to the end of the line."""


class Gone(Exception):  # noqa: N818 (nothing is wrong)
    """Nobody waits for the answer any more."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may hold.

    Attributes:
        bytes: of all files together.
        pixels: of all pictures together.
        files: how many.
    """

    bytes: int = 256 * 2**20
    pixels: int = 100 * 10**6
    files: int = 32


@dataclasses.dataclass(frozen=True)
class Upload:
    """A file.

    Attributes:
        name: what messages call it.
        content: all of it.
    """

    name: str
    content: bytes


@dataclasses.dataclass(frozen=True)
class Request:
    """What shall be fused, and how.

    Attributes:
        uploads: the pictures.
        task: of `fusing.tasks.TASKS`, or empty: as the pictures look.
        model: name of a network, or empty: the task's.
        placing: of `studio.PLACINGS`, or empty: as the task needs.
    """

    uploads: tuple[Upload, ...]
    task: str = ""
    model: str = ""
    placing: str = ""


@dataclasses.dataclass(frozen=True)
class Answer:
    """A result.

    Attributes:
        head: plain values for the page.
        files: media type and content, in the order in which the page expects them.
    """

    head: Mapping[str, Any]
    files: tuple[tuple[str, bytes], ...]

    def encoded(self) -> list[bytes]:
        """The last line and what follows it."""
        sizes = [{"type": kind, "bytes": len(content)} for kind, content in self.files]
        return [line({**self.head, "files": sizes}), *(content for _, content in self.files)]


def line(values: Mapping[str, Any]) -> bytes:
    """Plain values as a line of JSON; NaN and infinity become null."""
    return json.dumps(_plain(values)).encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_length(text: str | None, limits: Limits) -> int:
    """The length that a request declares.

    Args:
        text: the header.
        limits: of requests.

    Raises:
        InputError: no number, or more than the limit.
    """
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise InputError("the request does not say how long it is; reload the page.")
    if int(text) > limits.bytes + _MOST_HEAD:
        raise InputError(
            f"the files have more than {limits.bytes / 2**20:g} MB together; choose fewer or "
            "smaller ones."
        )
    return int(text)


def read(stream: Stream, length: int, limits: Limits) -> Request:
    """Reads a request.

    Args:
        stream: where it comes from.
        length: of all of it, in bytes.
        limits: what it may hold.

    Raises:
        InputError: it is none, or holds too much.
        Gone: it ends early.
    """
    first = stream.readline(min(length, _MOST_HEAD))
    try:
        head = json.loads(first)
        words = {name: head.get(name, "") for name in ("task", "model", "placing")}
        names = [str(entry["name"]) for entry in head["files"]]
        sizes = [int(entry["bytes"]) for entry in head["files"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _foreign() from None
    is_whole = first.endswith(b"\n") and all(size >= 0 for size in sizes)
    if not is_whole or sum(sizes) != length - len(first):
        raise _foreign()
    if not all(isinstance(word, str) for word in words.values()):
        raise _foreign()
    if len(names) > limits.files:
        raise InputError(f"there are more than {limits.files} pictures; choose fewer.")
    contents = [_exactly(stream, size) for size in sizes]
    uploads = map(Upload, titles(names), contents)
    return Request(tuple(uploads), **words)


def _foreign() -> InputError:
    return InputError("the request is not one of this page; reload the page.")


def _exactly(stream: Stream, size: int) -> bytes:
    """So many bytes; room is made as they come."""
    content = bytearray()
    while len(content) < size:
        block = stream.read(min(_BLOCK, size - len(content)))
        if not block:
            raise Gone
        content += block
    return bytes(content)


def titles(names: Sequence[str]) -> list[str]:
    """What messages call files: no folders, no control characters, not too long, each once.

    Args:
        names: as the browser says them.
    """
    taken: list[str] = []
    for name in names:
        path = pathlib.PurePosixPath(printable(name).replace("\\", "/"))
        suffix = path.suffix[:10]
        stem = path.name.removesuffix(path.suffix)[: _MOST_NAME - len(suffix)].strip(". ")
        stem = stem or "picture"
        title, number = f"{stem}{suffix}", 1
        while title in taken:
            number += 1
            title = f"{stem} ({number}){suffix}"
        taken.append(title)
    return taken
