"""One after the other, in the order in which they came."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable, Iterator


class Turns:
    """A queue in front of something that serves one at a time."""

    def __init__(self) -> None:
        self._line: collections.deque[object] = collections.deque()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def turn(self, wait: Callable[[int], None], seconds: float = 1.0) -> Iterator[None]:
        """Waits for its turn, which lasts as long as the block.

        Args:
            wait: called with the number of those in front, now and again; what it raises ends the
                wait.
            seconds: after which it is called again at the latest.
        """
        ticket = object()
        with self._changed:
            self._line.append(ticket)
        try:
            while ahead := self._ahead(ticket):
                wait(ahead)
                self._pause(ticket, ahead, seconds)
            yield
        finally:
            with self._changed:
                self._line.remove(ticket)
                self._changed.notify_all()

    def _ahead(self, ticket: object) -> int:
        """Those in front."""
        with self._changed:
            return self._line.index(ticket)

    def _pause(self, ticket: object, ahead: int, seconds: float) -> None:
        """Waits until there are fewer in front, or for some time."""
        with self._changed:
            self._changed.wait_for(lambda: self._line.index(ticket) < ahead, seconds)
