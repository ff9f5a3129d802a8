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

from mgdn_jax.evaluation.terminal import printable
from mgdn_jax.io.disk import write_atomically


def plain(value: Any) -> Any:
    """For JSON, which lacks NaN and infinity: they become null."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_json(content: Any) -> None:
    """One JSON object on stdout; NaN and infinity become null."""
    print(json.dumps(plain(content)))


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
        text = json.dumps(plain(content), indent=1, allow_nan=False)
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


def complain(sentence: str) -> None:
    """One sentence about something that failed, on stderr."""
    print(f"mgdn: error: {printable(sentence)}", file=sys.stderr)


def warn(sentence: str) -> None:
    """One sentence about something that is probably not meant, on stderr."""
    print(f"mgdn: warning: {printable(sentence)}", file=sys.stderr)
