"""One port for several kinds of traffic: lines between processes, and what passes through to JAX.

A connection that begins with `GREETING` is a line of messages, each a JSON object on one row of
text. Any other goes to JAX's service, byte by byte. All of it is served by whoever calls `serve`.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from mgdn_jax.errors import InputError

GREETING = b"mgdn_jax partner 1\n"
_LONGEST = 65536
_HELD = 2.0
"""Seconds after which a connection that the other side closed is closed to JAX as well."""


class _End:
    """One end of a connection: bytes wait here until the other side takes them."""

    def __init__(self, doors: Doors, sock: socket.socket):
        self.is_closed = False
        self._doors, self._socket = doors, sock
        self._waiting = bytearray()
        self._lock = threading.Lock()
        sock.setblocking(False)
        # Small messages, each of them awaited.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        doors.selector.register(sock, selectors.EVENT_READ, self)

    def write(self, content: bytes) -> None:
        """Sends what goes at once; the rest follows when the other side is ready."""
        with self._lock:
            if self.is_closed:
                return
            self._waiting += content
            self._push()

    def _push(self) -> None:
        try:
            while self._waiting:
                del self._waiting[: self._socket.send(self._waiting)]
        except BlockingIOError:
            pass
        except OSError:
            self._waiting.clear()  # reading tells that it is closed
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._waiting else 0)
        with contextlib.suppress(KeyError, ValueError):
            self._doors.selector.modify(self._socket, events, self)

    def serve(self, events: int) -> None:
        """Reads and writes what can be read and written."""
        if self.is_closed:  # by another that was served a moment ago
            return
        if events & selectors.EVENT_WRITE:
            with self._lock:
                self._push()
        if events & selectors.EVENT_READ:
            try:
                content = self._socket.recv(_LONGEST)
            except BlockingIOError:
                return
            except OSError:
                content = b""
            if content:
                self.take(content)
            else:
                self.close()
                self.ended()

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            if not self.is_closed:
                self.is_closed = True
                self._doors.selector.unregister(self._socket)
                self._socket.close()

    def take(self, content: bytes) -> None:
        """What to do with bytes that came."""

    def ended(self) -> None:
        """What to do when the other side has closed."""


class Line(_End):
    """A line of messages between two processes."""

    def __init__(self, doors: Doors, sock: socket.socket, begun: bytes = b""):
        super().__init__(doors, sock)
        self._text = bytearray()
        self.take(begun)

    def send(self, words: dict[str, Any]) -> None:
        """Sends a message; does not wait."""
        self.write(json.dumps(words).encode() + b"\n")

    def take(self, content: bytes) -> None:
        """Hands on each message that is complete."""
        self._text += content
        while b"\n" in self._text:
            row, _, rest = bytes(self._text).partition(b"\n")
            self._text = bytearray(rest)
            # Whatever else calls at the port is no partner.
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                self._doors.hear(self, json.loads(row))
        if len(self._text) > _LONGEST:
            self.close()


class _Pipe(_End):
    """One end of what passes through: bytes go to the other end."""

    other: _Pipe | None = None

    def take(self, content: bytes) -> None:
        if self.other is not None:
            self.other.write(content)

    def ended(self) -> None:
        if self.other is not None:
            self._doors.release(self.other)


class _Guest(_End):
    """A connection that has not said yet what it is."""

    def __init__(self, doors: Doors, sock: socket.socket):
        super().__init__(doors, sock)
        self._begun = bytearray()

    def take(self, content: bytes) -> None:
        self._begun += content
        if GREETING.startswith(self._begun[: len(GREETING)]):
            if len(self._begun) < len(GREETING):
                return
            self._leave_to(
                lambda sock: Line(self._doors, sock, bytes(self._begun[len(GREETING) :]))
            )
            return
        self._leave_to(lambda sock: self._doors.pass_through(sock, bytes(self._begun)))

    def _leave_to(self, heir: Callable[[socket.socket], Any]) -> None:
        self._doors.selector.unregister(self._socket)
        self.is_closed = True
        heir(self._socket)


class _Door:
    """A socket that others call at."""

    def __init__(self, doors: Doors, sock: socket.socket, welcome: Callable[[socket.socket], Any]):
        self._socket, self._welcome = sock, welcome
        sock.setblocking(False)
        doors.selector.register(sock, selectors.EVENT_READ, self)

    def serve(self, events: int) -> None:
        """Lets in who calls."""
        del events
        with contextlib.suppress(OSError):
            self._welcome(self._socket.accept()[0])


class Doors:
    """The connections of this process.

    Args:
        hear: is called with a line and each message that comes over it.
    """

    def __init__(self, hear: Callable[[Line, dict[str, Any]], None]):
        self.hear = hear
        self.selector = selectors.DefaultSelector()
        self._beyond: tuple[str, int] = ("127.0.0.1", 0)
        self._holds: Callable[[], bool] = lambda: False
        self._leaving: list[tuple[float, _End]] = []

    def keep(self, port: int) -> int:
        """Opens the port where the others call.

        Returns:
            The port of this machine alone where JAX's service is to listen.

        Raises:
            InputError: the port is taken.
        """
        try:
            sock = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except (OSError, ValueError):  # a machine without IPv6
            try:
                sock = socket.create_server(("", port))
            except OSError as error:
                raise InputError(
                    f"port {port} cannot be opened ({error.strerror}); choose another one in"
                    " --coordinator, or in JAX_COORDINATOR_PORT with --distributed=auto."
                ) from error
        _Door(self, sock, lambda guest: _Guest(self, guest))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._beyond = probe.getsockname()
        return self._beyond[1]

    def call(self, place: tuple[str, int], seconds: float) -> Line:
        """A line to the first process, which may have to be waited for.

        Args:
            place: host and port.
            seconds: how long at most.

        Raises:
            InputError: nobody answers there.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                sock = socket.create_connection(place, timeout=10)
                sock.sendall(GREETING)
                return Line(self, sock)
            except OSError as error:
                if time.monotonic() > deadline:
                    raise InputError(
                        f"nobody answers at {place[0]}:{place[1]} ({error.strerror or error});"
                        " start process 0, or correct --coordinator."
                    ) from error
                time.sleep(0.25)

    def open(self, place: tuple[str, int], holds: Callable[[], bool]) -> int:
        """A port of this machine alone that leads to JAX's service in the first process.

        Args:
            place: host and port of the first process.
            holds: whether connections stay open to JAX though the other side has closed them.
        """
        self._beyond, self._holds = place, holds
        sock = socket.create_server(("127.0.0.1", 0))
        _Door(self, sock, lambda guest: self.pass_through(guest, b""))
        return int(sock.getsockname()[1])

    def pass_through(self, sock: socket.socket, begun: bytes) -> None:
        """Connects a caller with what lies beyond."""
        try:
            further = socket.create_connection(self._beyond, timeout=10)
        except OSError:
            sock.close()  # JAX calls again
            return
        one, other = _Pipe(self, sock), _Pipe(self, further)
        one.other, other.other = other, one
        other.write(begun)

    def release(self, end: _End) -> None:
        """Closes the other end of a pipe, but not at once."""
        self._leaving.append((time.monotonic() + _HELD, end))

    def serve(self, seconds: float) -> None:
        """Serves whatever is ready; waits for it at most so long."""
        for key, events in self.selector.select(seconds):
            key.data.serve(events)
        now = time.monotonic()
        if self._leaving and not self._holds():
            for moment, end in self._leaving:
                if moment < now:
                    end.close()
            self._leaving = [(moment, end) for moment, end in self._leaving if moment >= now]

    def close(self) -> None:
        """Closes everything; may be called again."""
        if self.selector.get_map() is None:
            return
        for key in list(self.selector.get_map().values()):
            self.selector.unregister(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]
        self.selector.close()
