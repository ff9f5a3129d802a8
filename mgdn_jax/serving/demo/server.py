"""The server behind the page: Python's own, with what a page for oneself must refuse.

It answers pages of its own origin alone. A name that somebody else's domain server points here (DNS
rebinding) is no name of this machine, and a request that another page sends carries that page's
origin. It keeps nothing: a request lives in memory until it is answered, and no log tells of it.
"""

from __future__ import annotations

import errno
import http.server
import ipaddress
import socket
import socketserver
import sys
import threading
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import mgdn_jax
from mgdn_jax.errors import InputError
from mgdn_jax.serving.demo import samples, wire
from mgdn_jax.serving.demo.page import Page
from mgdn_jax.serving.demo.studio import Studio
from mgdn_jax.serving.demo.turns import Turns

PORT = 7860
MOST_REQUESTS = 6
"""Requests that are held in memory at once; further ones are asked to come again."""
_MOST_CONNECTIONS = 64
_PATIENCE = 60.0  # seconds that a connection may be silent
_PACKAGE = Path(mgdn_jax.__file__).parent
_TEXT = "text/plain; charset=utf-8"
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """The server, bound to its port; `serve_forever` and `stop` are for two threads."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 32

    def __init__(self, studio: Studio, page: Page, host: str, port: int):
        """Takes the port.

        Args:
            studio: what fuses.
            page: what it serves.
            host: name or address to listen on.
            port: its number; 0 for any that is free.

        Raises:
            InputError: the port is in use or may not be taken, or there is no such host.
        """
        self.studio, self.page = studio, page
        self.turns = Turns()
        self.requests = threading.BoundedSemaphore(MOST_REQUESTS)
        self.is_stopping = threading.Event()
        self.host = host
        self._connections = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        if not 0 <= port < 2**16:
            raise InputError(f"port {port} does not exist; choose one from 0 to 65535.")
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self.address_family = family
            super().__init__((str(address[0]), int(address[1])), _Handler)
        except (OSError, UnicodeError) as error:
            raise _unusable(host, port, error) from None

    @property
    def url(self) -> str:
        """The page's address for a browser on this machine."""
        host, port = self.server_address[:2]
        name = str(host)
        if ipaddress.ip_address(name).is_unspecified:
            name = "localhost"
        return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"

    def names(self, host: str) -> bool:
        """Whether a request's host is this server.

        Addresses always are: only names can be pointed here by somebody else.

        Args:
            host: the header, with or without a port.
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if is_loopback(name):
            return True
        if is_loopback(self.host):
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            here = {self.host.lower(), socket.gethostname().lower()}
            return name in here | {f"{word}.local" for word in here}
        return True

    def stop(self, seconds: float = 2.0) -> bool:
        """Ends what is going on.

        Args:
            seconds: to wait for the picture that is being fused.

        Returns:
            Whether all has ended; else a program is being compiled or run, which nothing can stop.
        """
        self.is_stopping.set()
        self.server_close()
        done = threading.Event()

        def wait() -> None:
            with self.turns.turn(lambda ahead: None, 0.1):
                done.set()

        threading.Thread(target=wait, daemon=True).start()
        return done.wait(seconds)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts a thread for a connection, where there are not too many."""
        if self._connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says where a flaw is, but nothing of what was sent."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError | wire.Gone):
            print(f"mgdn: error: {flaw(error)}", file=sys.stderr)


def _unusable(host: str, port: int, error: Exception) -> InputError:
    """The sentence about a place that cannot be listened on."""
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return InputError(
            f"port {port} is in use; choose another one with --port, or any free one with --port 0."
        )
    if code in (errno.EACCES, errno.EPERM):
        return InputError(f"port {port} may not be used; choose one above 1023 with --port.")
    return InputError(
        f"{host!r} is no name or address of this machine; leave --host out, or write 0.0.0.0 for "
        "all."
    )


def flaw(error: BaseException) -> str:
    """A sentence about an error inside: where, and of which type, but not its words."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if Path(f.filename).is_relative_to(_PACKAGE)] or frames
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "somewhere"
    return f"a request failed inside ({type(error).__name__} at {place}); please report it."


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    server: Server  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "mgdn", ""
    error_content_type = _TEXT
    error_message_format = "%(code)d %(message)s\n"
    timeout = _PATIENCE

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""

    def do_GET(self) -> None:
        """The page, and the example pictures."""
        if not self._is_ours():
            return
        path = unquote(urlsplit(self.path).path)
        name = path.removeprefix("/samples/")
        if path == "/":
            policy = {"Content-Security-Policy": self.server.page.policy}
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page.content, policy)
        elif path != name and name in samples.SAMPLES:
            sample = samples.SAMPLES[name]
            self._send(HTTPStatus.OK, sample.media_type, sample.content())
        else:
            self._send(HTTPStatus.NOT_FOUND, _TEXT, b"not found\n")

    def do_POST(self) -> None:
        """Pictures to fuse."""
        self.close_connection = True
        if not self._is_ours():
            return
        if self.path != "/fuse" or self.headers.get_content_type() != wire.MEDIA_TYPE:
            self._send(HTTPStatus.NOT_FOUND, _TEXT, b"not found\n")
            return
        if not self.server.requests.acquire(blocking=False):
            sentence = f"{MOST_REQUESTS} others wait already; try again in a while."
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, sentence)
            return
        try:
            self._fuse()
        finally:
            self.server.requests.release()

    def _fuse(self) -> None:
        limits = self.server.studio.limits
        try:
            length = wire.check_length(self.headers.get("Content-Length"), limits)
            request = wire.read(self.rfile, length, limits)
        except InputError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
            return
        self._begin(HTTPStatus.OK, wire.MEDIA_TYPE, {})
        try:
            with self.server.turns.turn(lambda n: self._say({"step": "waiting", "ahead": n})):
                answer = self.server.studio.fuse(request, self._say)
            del request
            for part in answer.encoded():
                self.wfile.write(part)
        except InputError as error:
            self._say({"step": "error", "says": str(error)})
        except MemoryError:
            self._say({"step": "error", "says": "the pictures do not fit into memory."})
        except (OSError, wire.Gone):
            raise  # nobody is there to be told
        except Exception as error:
            self._say({"step": "error", "says": flaw(error)})
            raise

    def _say(self, step: Mapping[str, Any]) -> None:
        """Sends a step; raises where nobody listens any more."""
        if self.server.is_stopping.is_set():
            raise wire.Gone
        self.wfile.write(wire.line(step))

    def _is_ours(self) -> bool:
        """Refuses what other pages send, and names that are not this machine's."""
        host = self.headers.get("Host", "")
        origin = self.headers.get("Origin")
        site = self.headers.get("Sec-Fetch-Site", "same-origin")
        is_page = self.command == "GET" and self.path == "/"  # a link to it may stand anywhere
        is_same = origin is None or urlsplit(origin).netloc == host
        if self.server.names(host) and is_same and (site in ("same-origin", "none") or is_page):
            return True
        self.close_connection = True
        sentence = (
            "this page is for its own machine: open it under the address that mgdn demo prints.\n"
        )
        self._send(HTTPStatus.FORBIDDEN, _TEXT, sentence.encode())
        return False

    def _begin(self, status: HTTPStatus, kind: str, headers: Mapping[str, str]) -> None:
        """Sends status and headers."""
        self.send_response(status)
        for name, value in {"Content-Type": kind, **_HEADERS, **headers}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def _send(
        self,
        status: HTTPStatus,
        kind: str,
        content: bytes,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Sends a whole answer."""
        self._begin(status, kind, {"Content-Length": str(len(content)), **(headers or {})})
        self.wfile.write(content)

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        """An answer of one step, before the files were read."""
        self._send(status, wire.MEDIA_TYPE, wire.line({"step": "error", "says": sentence}))
