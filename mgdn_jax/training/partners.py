"""The processes of one run, and what happens when one of them is lost.

Each process keeps a line to the first one, over which it tells twice a second that it lives. A
line that breaks, or stays silent for `SILENCE`, ends all others: with one sentence, and with the
exit code `EXIT_LOST`, also where the main thread waits for ever in a collective.

JAX has a watch of its own. It ends the process with C++'s stack and SIGABRT: after 100 s, or at
once in all others where the first process is lost, before anybody could say a word. So the lines
and JAX's own traffic share the first process's port, where a thread of ours keeps the door
(`doors`); the traffic passes through such a thread in each process, and JAX does not see its
connection close before we have spoken.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax

from mgdn_jax.errors import InputError
from mgdn_jax.training.doors import Doors, Line

EXIT_LOST = 3
PULSE = 0.5
"""Seconds between two signs of life."""
SILENCE = 35.0
"""Seconds without one after which a process is lost."""
GRACE = 10.0
"""Seconds that the main thread has to end by itself after that, a save under way with it."""
ARRIVAL = 300.0
"""Seconds within which all processes must have come."""


class PartnerLostError(RuntimeError):
    """Another process of the run has ended, or does not answer."""


@dataclasses.dataclass
class _Partner:
    """Another process, as this one sees it.

    Attributes:
        line: to it.
        name: in words.
        heard: when it last told that it lives.
        is_done: it has nothing more to do in this run.
    """

    line: Line
    name: str
    heard: float
    is_done: bool = False


class Partners:
    """This process's part in a run of several, for a `with` statement around all of it.

    Args:
        coordinator: "host:port" of the first process.
        processes: how many there are.
        process: index of this one.
        devices: numbers of the machine's accelerators that are this process's; None for all.
        complain: prints the sentence about a lost process.
        advice: what a sentence about a lost process ends with.

    Raises:
        InputError: the three do not make sense together, or some processes have not come.
        PartnerLostError: at the end of the `with` block, in place of what a collective raises when
            another process is lost.
    """

    def __init__(
        self,
        coordinator: str,
        processes: int,
        process: int,
        devices: Sequence[int] | None = None,
        *,
        complain: Callable[[str], None],
        advice: Callable[[], str],
    ):
        host, _, port = coordinator.rpartition(":")
        good = host and port.isdecimal() and port.isascii() and 0 < int(port) < 65536
        if not good or processes < 1 or not 0 <= process < processes:
            raise InputError(
                f"coordinator={coordinator!r}, processes={processes}, process={process}: give"
                " host:port, the number of processes and this one's index below it."
            )
        self._place, self._count, self._index = (host.strip("[]"), int(port)), processes, process
        self._complain, self._advice, self._devices = complain, advice, devices
        self._partners: dict[int, _Partner] = {}
        self._doors = Doors(self._hear)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._lost: str | None = None
        self._lost_at = 0.0
        self._refusal = ""
        self._may_start = self._ends = self._is_done = False
        self._thread = threading.Thread(target=self._watch, name="mgdn_jax: partners", daemon=True)

    # ---- the main thread ------------------------------------------------------------------------

    def __enter__(self) -> Partners:
        if self._index == 0:
            inner = self._doors.keep(self._place[1])
        else:
            self._join(self._doors.call(self._place, ARRIVAL))
            inner = self._doors.open(self._place, self._is_lost)
        self._thread.start()
        self._gather()
        # Read by the CPU back end only, which otherwise has no collectives between processes.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        # It would take SIGTERM away from `stop_signals`.
        jax.config.update("jax_enable_preemption_service", False)
        # JAX calls at our own door only, past whatever stands between this machine and the web,
        # and need not warn of that.
        os.environ.setdefault("no_grpc_proxy", "127.0.0.1")
        jax.config.update("jax_check_proxy_envs", False)
        jax.distributed.initialize(
            f"127.0.0.1:{inner}",
            self._count,
            self._index,
            self._devices,
            coordinator_bind_address=f"127.0.0.1:{inner}",
            initialization_timeout=int(ARRIVAL),
        )
        return self

    def _join(self, line: Line) -> None:
        """Tells the first process who we are."""
        self._partners[0] = _Partner(line, f"process 0 of {self._count}", time.monotonic())
        me = {"process": self._index, "processes": self._count, "host": socket.gethostname()}
        line.send({"hello": me | {"pid": os.getpid()}})

    def _gather(self) -> None:
        """Waits until all processes have come."""
        deadline = time.monotonic() + ARRIVAL
        with self._changed:
            while not self._may_start:
                if self._index == 0 and len(self._partners) == self._count - 1:
                    self._may_start = True
                    for partner in self._partners.values():
                        partner.line.send({"start": True})
                if self._refusal:
                    raise InputError(self._refusal)
                if self._lost is not None:
                    raise PartnerLostError(self._lost)
                if time.monotonic() > deadline:
                    missing = sorted(set(range(1, self._count)) - self._partners.keys())
                    raise InputError(
                        f"after {ARRIVAL:.0f} s process {', '.join(map(str, missing))} of"
                        f" {self._count} has not come; start all of them."
                    )
                self._changed.wait(0.1)

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        if kind is None:
            self._part()
            return
        if isinstance(error, jax.errors.JaxRuntimeError):
            # A broken collective, perhaps: the line to the process that broke it tells at once.
            lost = self._verdict(GRACE)
            if lost is not None:
                raise PartnerLostError(lost) from error
        with self._lock:
            for partner in self._partners.values():
                partner.line.send({"end": str(error) or kind.__name__})

    def _verdict(self, seconds: float) -> str | None:
        """The sentence about a lost process, if one is lost within a time."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._lost is None and time.monotonic() < deadline:
                self._changed.wait(0.1)
            self._ends = self._lost is not None  # the main thread says it
            return self._lost

    def _part(self) -> None:
        """Leaves together with the others; whoever is lost now has done its work."""
        with self._changed:
            self._is_done = True
            for partner in self._partners.values():
                partner.line.send({"done": True})
            while self._lost is None and not all(p.is_done for p in self._partners.values()):
                self._changed.wait(0.1)
            is_lost = self._lost is not None
        if is_lost:
            self.leave(0)
        jax.distributed.shutdown()
        with self._lock:
            self._ends = True
        self._thread.join()
        self._doors.close()

    def leave(self, code: int) -> None:
        """Ends this process without JAX's farewell, which waits for processes that are lost."""
        self._ends = True
        # What is still to be sent reaches the others, who say it.
        deadline = time.monotonic() + 2 * PULSE
        while time.monotonic() < deadline:
            if threading.current_thread() is self._thread:
                self._doors.serve(PULSE / 4)
            else:
                time.sleep(PULSE / 4)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)

    # ---- the thread -----------------------------------------------------------------------------

    def _watch(self) -> None:
        try:
            self._keep_watch()
        except Exception:
            traceback.print_exc()
            os._exit(1)

    def _keep_watch(self) -> None:
        told = before = time.monotonic()
        while not (self._ends and self._is_done):
            self._doors.serve(PULSE / 2)
            now = time.monotonic()
            with self._changed:
                if now - before > SILENCE / 4:
                    # This process stood still itself, and has listened to nobody.
                    for partner in self._partners.values():
                        partner.heard = now
                before = now
                if now - told >= PULSE:
                    told = now
                    for partner in self._partners.values():
                        partner.line.send({"alive": True})
                for index, partner in self._partners.items():
                    self._judge(index, partner, now)
                self._changed.notify_all()
                is_over = self._lost is not None and now - self._lost_at > GRACE
                if is_over and not self._ends:
                    break
        else:
            return
        if self._is_done:  # it waits for JAX's farewell only
            self.leave(0)
        self._complain(f"{self._lost}; {self._advice()}")
        self.leave(EXIT_LOST)

    def _judge(self, index: int, partner: _Partner, now: float) -> None:
        """Whether a process is lost."""
        if partner.line.is_closed:
            self._lose(index, f"{partner.name} has ended without a word")
        elif now - partner.heard > SILENCE:
            self._lose(index, f"{partner.name} has not answered for {SILENCE:.0f} s")

    def _lose(self, index: int, sentence: str) -> None:
        if self._lost is not None:
            return
        self._lost, self._lost_at = sentence, time.monotonic()
        for other, partner in self._partners.items():
            if other != index:
                partner.line.send({"lost": sentence})

    def _is_lost(self) -> bool:
        return self._lost is not None

    def _hear(self, line: Line, words: dict[str, Any]) -> None:
        """Whatever comes over a line."""
        with self._changed:
            if "hello" in words:
                self._welcome(line, words["hello"])
            for index, partner in self._partners.items():
                if partner.line is not line:
                    continue
                partner.heard = time.monotonic()
                partner.is_done |= "done" in words
                if "end" in words:
                    self._lose(index, f"{partner.name} has ended: {str(words['end']).rstrip('.')}")
                if "lost" in words:
                    self._lose(index, str(words["lost"]))
            self._may_start |= "start" in words
            if "refused" in words:
                self._refusal = str(words["refused"])
            self._changed.notify_all()

    def _welcome(self, line: Line, hello: dict[str, Any]) -> None:
        """Takes a process in, or sends it away."""
        index, count = hello["process"], hello["processes"]
        fault = ""
        if count != self._count:
            fault = f"process 0 was started with processes={self._count}, this one with {count}"
        elif index in self._partners:
            fault = f"process {index} of {count} is there already ({self._partners[index].name})"
        elif type(index) is not int or not 0 < index < count:
            fault = f"there is no process {index} of {count} to be"
        if fault:
            line.send({"refused": f"{fault}; give all the same number, and each its own index."})
            return
        name = f"process {index} of {count} (pid {hello['pid']} on {hello['host']})"
        self._partners[index] = _Partner(line, name, time.monotonic())
