"""One run at a time in a workdir: a file that names its owner, and outlives no owner for long.

`kill -9` leaves the file behind. An owner on this machine is looked up by process id and start
time, so that another process that has got the same id since is not taken for it. An owner on
another machine renews the file every few seconds; one that does not is gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import secrets
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from mgdn_jax.errors import InputError
from mgdn_jax.io.disk import WriteError

NAME = "run.lock"
PULSE = 5.0
"""Seconds between two renewals of the file."""
PATIENCE = 25.0
"""Seconds without a renewal after which an owner on another machine counts as gone."""
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_LONGEST = 65536


class TakenOverError(RuntimeError):
    """Another run has taken the workdir over, for this one stood still for long."""


@dataclasses.dataclass(frozen=True)
class Owner:
    """Who trains in a workdir.

    Attributes:
        host: name of the machine.
        pid: process id.
        started: when the process began, in the words of its system.
        machine: what tells this start of the machine, and its table of processes, from others.
        since: when the run began there, for people.
        token: of this run alone.
    """

    host: str
    pid: int
    started: str
    machine: str
    since: str
    token: str

    @property
    def name(self) -> str:
        """The owner in words."""
        return f"process {self.pid} on {self.host}"

    def is_here(self) -> bool:
        """Whether the owner is, or was, a process that this one could see."""
        return self.machine == _machine()

    def is_alive(self) -> bool:
        """Whether it still runs; asked of owners on this machine only."""
        started = _started(self.pid)
        return started is not None and started in ("", self.started)


def _machine() -> str:
    """This start of this machine, and this table of processes (containers have their own)."""
    parts = []
    with contextlib.suppress(OSError):
        parts.append(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts) or socket.gethostname()


def _started(pid: int) -> str | None:
    """When a process began; "" where the system does not say, None where there is no process."""
    try:
        content = pathlib.Path(f"/proc/{pid}/stat").read_bytes()
        # The name, in brackets, may hold anything; after it come the state and, 20th, the start.
        fields = content.rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X", b"x") else fields[19].decode()
    except (OSError, IndexError, ValueError):
        pass
    try:
        os.kill(pid, 0)
    except PermissionError:
        return ""
    except (OSError, OverflowError):
        return None
    if os.path.exists("/proc/self/stat"):
        return ""  # hidden from us
    try:
        words = ["ps", "-o", "lstart=", "-p", str(pid)]
        return subprocess.run(words, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def _myself() -> Owner:
    pid = os.getpid()
    return Owner(
        host=socket.gethostname(),
        pid=pid,
        started=_started(pid) or "",
        machine=_machine(),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
        token=secrets.token_hex(8),
    )


# ---- the file ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[int]:
    """The lock's file, made when missing, for this process alone.

    Raises:
        InputError: it is a link, no regular file, or another program keeps it.
        WriteError: the folder does not take it.
    """
    deadline = time.monotonic() + 10
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o644)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise _stranger(path) from error
            raise WriteError(path, error) from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _stranger(path)
            if _is_mine_alone(descriptor) and _is_still_there(path, descriptor):
                yield descriptor
                return
        finally:
            os.close(descriptor)
        if time.monotonic() > deadline:
            raise InputError(
                f"{path}: is kept by another program; end that, or choose another workdir."
            )
        time.sleep(0.01)


def _stranger(path: pathlib.Path) -> InputError:
    return InputError(
        f"{path}: is a link or no ordinary file; remove it, for runs keep a lock there."
    )


def _is_mine_alone(descriptor: int) -> bool:
    """Keeps other starts away while the file is read and written; closing it lets them in."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # A file system without such locks: two starts within a millisecond are not told apart.
        return error.errno not in _BUSY
    return True


def _is_still_there(path: pathlib.Path, descriptor: int) -> bool:
    """Whether the name still belongs to this file: its owner may have removed it just now."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except OSError:
        return False


def _read(descriptor: int) -> tuple[Owner | None, bool]:
    """(owner, whether there is something that is no owner)."""
    content = os.pread(descriptor, _LONGEST, 0).strip(b"\0 \n")
    try:
        values = json.loads(content)
        owner = Owner(**{field.name: values[field.name] for field in dataclasses.fields(Owner)})
        texts = (owner.host, owner.started, owner.machine, owner.since, owner.token)
        if type(owner.pid) is int and owner.pid > 0 and all(isinstance(t, str) for t in texts):
            return owner, False
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return None, bool(content)


def _write(path: pathlib.Path, descriptor: int, owner: Owner) -> None:
    content = json.dumps(dataclasses.asdict(owner)).encode() + b"\n"
    try:
        os.ftruncate(descriptor, 0)
        if os.pwrite(descriptor, content, 0) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise WriteError(path, error) from error


# ---- the lock ----------------------------------------------------------------------------------


class Lock:
    """Keeps a workdir for this run while the `with` block lasts.

    Args:
        workdir: the run's folder, which exists.
        say: is told, in one line, of an owner that has gone, and of waiting for one.

    Raises:
        InputError: another run has the folder, or its lock's file is not one.
        WriteError: the folder cannot be written.
    """

    def __init__(self, workdir: pathlib.Path, say: Callable[[str], None] = lambda line: None):
        self._path = workdir / NAME
        self._workdir, self._say = workdir, say
        self._owner = _myself()
        self._ends = threading.Event()
        self._thief: Owner | None = None
        self._thread = threading.Thread(target=self._renew, name="mgdn_jax: lock", daemon=True)

    def __enter__(self) -> Lock:
        gone: tuple[Owner, int] | None = None  # an owner elsewhere that was waited for, its time
        while True:
            with _opened(self._path) as descriptor:
                owner, is_rubbish = _read(descriptor)
                stamp = os.fstat(descriptor).st_mtime_ns
                if owner is None or gone == (owner, stamp) or not self._may_live(owner):
                    if owner is not None:
                        self._say(f"{self._workdir}: {owner.name}, which trained here, has gone")
                    elif is_rubbish:
                        self._say(f"warning: {self._path} was damaged, and is written anew")
                    _write(self._path, descriptor, self._owner)
                    self._thread.start()
                    return self
            self._wait(owner, stamp)
            gone = (owner, stamp)

    def _may_live(self, owner: Owner) -> bool:
        """Whether an owner may be alive; raises InputError where it certainly is."""
        if not owner.is_here():
            return True
        if owner.is_alive():
            raise self._refusal(owner)
        return False

    def _refusal(self, owner: Owner) -> InputError:
        return InputError(
            f"{self._workdir}: {owner.name} trains here since {owner.since}; wait for it, stop it,"
            " or choose another workdir."
        )

    def _wait(self, owner: Owner, stamp: int) -> None:
        """Returns once an owner elsewhere has not renewed its file for long, or has removed it.

        Raises:
            InputError: it has renewed it.
        """
        self._say(
            f"{self._workdir}: {owner.name} trained here; waiting {PATIENCE:.0f} s for a sign of it"
        )
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            time.sleep(0.5)
            try:
                # Opened anew each time: network file systems ask their server then only.
                with _opened(self._path) as descriptor:
                    now, renewed = _read(descriptor)[0], os.fstat(descriptor).st_mtime_ns
            except WriteError:
                continue
            if now is None:
                return
            if (now, renewed) != (owner, stamp):
                raise self._refusal(now)

    def _renew(self) -> None:
        """Shows other machines that this process lives."""
        while not self._ends.wait(PULSE):
            # A disk that fails for a while is for those to tell who write to it.
            with contextlib.suppress(InputError, OSError), _opened(self._path) as descriptor:
                owner, _ = _read(descriptor)
                if owner is not None and owner.token != self._owner.token:
                    self._thief = owner
                    return
                if owner is None:  # somebody removed the file
                    _write(self._path, descriptor, self._owner)
                os.utime(descriptor)

    def check(self) -> None:
        """Raises TakenOverError if the workdir is another run's by now."""
        if self._thief is not None:
            raise TakenOverError(
                f"{self._workdir}: {self._thief.name} has taken this run over, for this process"
                " stood still; this one ends"
            )

    def __exit__(self, *exc: Any) -> None:
        self._ends.set()
        self._thread.join()
        with contextlib.suppress(InputError, OSError), _opened(self._path) as descriptor:
            owner, _ = _read(descriptor)
            if owner is None or owner.token == self._owner.token:
                os.unlink(self._path)
