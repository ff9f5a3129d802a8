"""What the commands print and write besides pictures: JSON, tables, remarks."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.measure import Measurement

from mgdn_jax.errors import printable
from mgdn_jax.io.disk import write_atomically

MOST_WARNINGS = 10
"""Warnings that are said one by one; all are in `--json`."""


def plain(value: Any) -> Any:
    """For JSON, which lacks NaN and infinity: they become null."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Notices:
    """What is warned of in Python while a command runs: on stderr, each once, and in `--json`."""

    def __init__(self) -> None:
        self._sentences: dict[str, None] = {}
        self._is_quiet = False

    def begin(self, *, is_quiet: bool) -> None:
        """A command starts.

        Args:
          is_quiet: whether warnings are for `--json` alone.
        """
        self._sentences, self._is_quiet = {}, is_quiet

    def take(self, message: Warning | str, *_: Any, **__: Any) -> None:
        """Takes the place of `warnings.showwarning`."""
        sentence = str(message)
        if sentence in self._sentences:
            return
        self._sentences[sentence] = None
        if not self._is_quiet and len(self._sentences) <= MOST_WARNINGS:
            warn(sentence)

    def end(self) -> None:
        """A command is done."""
        left = len(self._sentences) - MOST_WARNINGS
        if left > 0 and not self._is_quiet:
            warn(f"{left} more warnings are in the output of --json.")

    def joined(self, content: Any) -> Any:
        """An object for JSON with the warnings of the command among its own."""
        if not self._sentences or not isinstance(content, Mapping):
            return content
        return {**content, "warnings": [*content.get("warnings", ()), *self._sentences]}


notices = Notices()


def print_json(content: Any) -> None:
    """One JSON object on stdout; NaN and infinity become null."""
    print(json.dumps(plain(notices.joined(content))))


def emit_json(content: Any, place: str | os.PathLike[str] | None) -> None:
    """One JSON object where `--json` wants it.

    Args:
      content: dictionaries, lists, numbers, text.
      place: a file, replaced as a whole; "-" for stdout; None for nowhere.

    Raises:
      InputError: the place cannot be written.
    """
    if place == "-":
        print_json(content)
    elif place is not None:
        text = json.dumps(plain(notices.joined(content)), indent=1, allow_nan=False)
        write_atomically(place, (text + "\n").encode())


def console() -> Console:
    """Stdout, for `say`; a pipe or a file has no width of its own and gets a wide one."""
    has_width = "COLUMNS" in os.environ or (sys.stdout is not None and sys.stdout.isatty())
    return Console(highlight=False) if has_width else Console(width=250, highlight=False)


def width(thing: RenderableType, out: Console) -> int:
    """Columns that a table takes when nothing in it is cut or folded."""
    unbounded = out.options.update(width=10_000, max_width=10_000)
    return Measurement.get(out, unbounded, thing).maximum


def say(out: Console, thing: RenderableType) -> None:
    """A table or a line of text on stdout.

    Numbers are never cut: a table that is wider than the terminal is printed as wide as it is. A
    line of text is no markup, is not folded, and holds no control characters.
    """
    if isinstance(thing, str):
        out.print(printable(thing), markup=False, soft_wrap=True)
        return
    needed = width(thing, out)
    if needed > out.width:
        out = Console(width=needed, highlight=False)
    out.print(thing)


def tell(text: str) -> None:
    """One line on stdout, without the control characters that names may hold."""
    print(printable(text), flush=True)


def complain(sentence: str) -> None:
    """One sentence about something that failed, on stderr."""
    print(f"mgdn: error: {printable(sentence)}", file=sys.stderr)


def warn(sentence: str) -> None:
    """One sentence about something that is probably not meant, on stderr."""
    print(f"mgdn: warning: {printable(sentence)}", file=sys.stderr)
