"""How far a command is, on stderr: a bar at a terminal, else a line every ten seconds."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mgdn_jax.errors import printable

SECONDS = 10.0
"""How often a line is said where there is no terminal."""


@contextlib.contextmanager
def lines(status: Callable[[], str | None]) -> Iterator[None]:
    """Says every `SECONDS` on stderr how far the command is, from a thread.

    Args:
      status: asked for each line; None says nothing.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SECONDS):
            text = status()
            if text is not None:
                print(printable(f"mgdn: {text}"), file=sys.stderr, flush=True)

    thread = threading.Thread(target=watch, name="mgdn-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def waiting(stage: str | Callable[[], str], *, is_silent: bool) -> Iterator[None]:
    """Says every `SECONDS` what the command is at, where there is no terminal.

    Args:
      stage: the words, or asked for them for each line; the seconds so far are added.
      is_silent: says nothing.
    """
    started = time.perf_counter()
    if is_silent or sys.stderr.isatty():
        yield
        return

    def status() -> str:
        words = stage if isinstance(stage, str) else stage()
        return f"{words}, {time.perf_counter() - started:.0f} s so far"

    with lines(status):
        yield


class Count:
    """Things done out of a number of things, with the time that is left."""

    def __init__(self, verb: str, total: int, things: str):
        """Starts the clock.

        Args:
          verb: what is done with the things, "measured" for instance.
          total: their number.
          things: what they are, "pairs" for instance.
        """
        self._words = verb, things
        self._total, self._done = total, 0
        self._started = time.perf_counter()

    def advance(self) -> None:
        """One more is done."""
        self._done += 1

    def __str__(self) -> str:
        verb, things = self._words
        text = f"{verb} {self._done} of {self._total} {things}"
        if not 0 < self._done < self._total:
            return text
        seconds = time.perf_counter() - self._started
        left = seconds / self._done * (self._total - self._done)
        return f"{text}, about {_duration(left)} left"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


@contextlib.contextmanager
def measuring(total: int, *, is_quiet: bool, has_lines: bool) -> Iterator[Callable[[], None]]:
    """Shows how many pairs are measured.

    Args:
      total: number of pairs.
      is_quiet: shows nothing.
      has_lines: whether lines are said where there is no terminal.

    Yields:
      What to call after each pair.
    """
    console = Console(stderr=True)
    if is_quiet or not (console.is_terminal or has_lines) or (console.is_terminal and total < 2):
        yield lambda: None
    elif console.is_terminal:
        columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda: bar.advance(task)
    else:
        count = Count("measured", total, "pairs")
        with lines(lambda: str(count)):
            yield count.advance
