"""What the commands print and write besides pictures: JSON, tables, remarks."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console, RenderableType

from mgdn_jax.disk import write_atomically


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
    """Stdout; where it is no terminal, wide enough that nothing is cut or folded."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(width=250, highlight=False)


def say(out: Console, thing: RenderableType) -> None:
    """A table as it is, or a line of text that is no markup and is never folded."""
    if isinstance(thing, str):
        out.print(thing, markup=False, soft_wrap=True)
    else:
        out.print(thing)
