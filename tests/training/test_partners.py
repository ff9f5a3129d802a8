"""Processes of one run that watch each other, played by threads: JAX itself is left out."""

import contextlib
import os
import socket
import threading
import time
from typing import ClassVar

import jax
import pytest

from mgdn_jax.errors import InputError
from mgdn_jax.training import partners as partners_module
from mgdn_jax.training.doors import GREETING
from mgdn_jax.training.partners import EXIT_LOST, PartnerLostError, Partners

# A thread that ends the process ends itself here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


RELEASE = threading.Event()


class Exited(BaseException):
    """In place of the end of the process."""


class Process:
    """One process of a run; `work` is what it does once all are there."""

    crowd: ClassVar = []

    def __init__(self, port, count, index, work=lambda partners: None):
        self.crowd.append(self)
        self.said, self.ended, self.code = [], None, None
        self.partners = Partners(
            f"localhost:{port}", count, index, complain=self.said.append, advice=lambda: "again."
        )
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            with self.partners as partners:
                self._work(partners)
        except BaseException as error:
            self.ended = error

    def wait(self):
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self

    def cut(self):
        """As the kernel does for a process that was killed: all its connections close."""
        self.partners._ends = self.partners._is_done = True
        if self.partners._thread.ident is not None:
            self.partners._thread.join(60)
        self.partners._doors.close()


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.fixture
def codes(monkeypatch):
    """Exit codes, in order; the threads that would have ended the process end alone."""
    seen = []

    def leave(code):
        seen.append(code)
        raise Exited

    monkeypatch.setattr(os, "_exit", leave)
    return seen


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """JAX is told nothing, and everything is quicker."""
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: None)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: None)
    monkeypatch.setattr(jax.config, "update", lambda *a: None)
    monkeypatch.setattr(partners_module, "PULSE", 0.05)
    monkeypatch.setattr(partners_module, "GRACE", 0.3)
    monkeypatch.setattr(partners_module, "ARRIVAL", 20.0)
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail("nobody ends here"))
    RELEASE.clear()
    yield
    RELEASE.set()
    for process in Process.crowd:
        process.cut()
        process.wait()
    Process.crowd.clear()


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_all_come_and_leave_together(port, codes):
    meeting = threading.Barrier(3)
    crowd = [Process(port, 3, i, lambda _: meeting.wait(60)) for i in (2, 0, 1)]
    for process in crowd:
        assert process.wait().ended is None
    assert not codes
    assert not [t for t in threading.enumerate() if t.name == "mgdn_jax: partners"]


def stuck(partners):
    """As in a collective that never returns; at the end of the test it does."""
    RELEASE.wait(3600)
    raise Exited


@pytest.mark.parametrize("victim", [0, 2])
def test_who_is_killed_is_missed_by_all(port, codes, victim):
    crowd = [Process(port, 3, i, stuck) for i in range(3)]
    wait_for(lambda: all(p.partners._may_start and p.partners._thread.is_alive() for p in crowd))
    crowd[victim].cut()
    others = [p for p in crowd if p is not crowd[victim]]
    wait_for(lambda: len(codes) == 2)
    assert codes == [EXIT_LOST] * 2
    for process in others:
        (sentence,) = process.said
        assert sentence.startswith(f"process {victim} of 3")
        assert sentence.endswith("has ended without a word; again.")
    if victim:
        assert f"(pid {os.getpid()} on {socket.gethostname()})" in others[1].said[0]


@pytest.mark.parametrize("victim", [0, 1])
def test_who_does_not_answer_is_lost(port, codes, monkeypatch, victim):
    monkeypatch.setattr(partners_module, "SILENCE", 2.0)
    crowd = [Process(port, 2, i, stuck) for i in range(2)]
    wait_for(lambda: all(p.partners._may_start and p.partners._thread.is_alive() for p in crowd))
    crowd[victim].partners._partners[1 - victim].line.send = lambda words: None
    wait_for(lambda: crowd[1 - victim].said)
    assert "has not answered for 2 s; again." in crowd[1 - victim].said[0]
    wait_for(lambda: EXIT_LOST in codes)


def test_what_a_broken_collective_raises_is_put_into_words(port, codes):
    def breaks(partners):
        wait_for(partners._is_lost)
        raise jax.errors.JaxRuntimeError("Gloo all-reduce failed")

    one, two = Process(port, 2, 0, breaks), Process(port, 2, 1, stuck)
    wait_for(lambda: one.partners._may_start and two.partners._may_start)
    two.cut()
    assert isinstance(one.wait().ended, PartnerLostError)
    assert str(one.ended).startswith("process 1 of 2 (pid ")
    assert not one.said  # whoever catches it says it
    assert not codes


def test_an_error_of_our_own_stays_one(port, codes):
    def breaks(partners):
        raise jax.errors.JaxRuntimeError("out of memory")

    one, two = Process(port, 2, 0, breaks), Process(port, 2, 1, lambda p: wait_for(p._is_lost))
    assert "out of memory" in str(one.wait().ended)
    # The other one knows why.
    wait_for(two.partners._is_lost)
    assert two.partners._lost == "process 0 of 2 has ended: out of memory"
    with contextlib.suppress(PartnerLostError):
        two.wait()


def test_bad_input_is_told_to_the_others(port, codes):
    def refuses(partners):
        raise InputError("there is no set 'natural'; prepare it.")

    def fails(partners):
        wait_for(partners._is_lost)
        raise jax.errors.JaxRuntimeError("Connection reset")

    one, two = Process(port, 2, 0, fails), Process(port, 2, 1, refuses)
    assert isinstance(two.wait().ended, InputError)
    one.wait()
    assert str(one.ended).endswith("has ended: there is no set 'natural'; prepare it")


def test_who_is_lost_after_the_work_is_done_costs_nothing(port, codes):
    finished = threading.Event()
    one, two = Process(port, 2, 0, lambda _: finished.wait(60)), Process(port, 2, 1, stuck)
    wait_for(lambda: one.partners._may_start and two.partners._may_start)
    finished.set()
    wait_for(lambda: one.partners._is_done)
    two.cut()
    assert isinstance(one.wait().ended, Exited)
    assert codes == [0]
    assert not one.said


def test_who_does_not_come_is_named(port, monkeypatch):
    monkeypatch.setattr(partners_module, "ARRIVAL", 1.0)
    first, second = Process(port, 3, 0), Process(port, 3, 1)
    assert str(first.wait().ended) == "after 1 s process 2 of 3 has not come; start all of them."
    first.cut()
    second.wait()
    nobody = Process(port, 2, 1).wait()
    assert isinstance(nobody.ended, InputError)
    assert f"nobody answers at localhost:{port}" in str(nobody.ended)


def test_who_does_not_belong_is_sent_away(port, codes):
    meeting = threading.Event()
    first, second = Process(port, 2, 0), Process(port, 2, 1, lambda _: meeting.wait(60))
    wait_for(lambda: second.partners._may_start)
    again, wrong = Process(port, 2, 1).wait(), Process(port, 5, 3).wait()
    assert "process 1 of 2 is there already (process 1 of 2 (pid" in str(again.ended)
    assert "was started with processes=2, this one with 5; give all the" in str(wrong.ended)
    # A stranger, and one that says nothing a partner would.
    for words in (b"GET / HTTP/1.0\r\n\r\n", GREETING + b'[\n{"hello": 3}\n{]\n'):
        with socket.create_connection(("localhost", port)) as stranger:
            stranger.sendall(words)
    meeting.set()
    for process in (first, second):
        assert process.wait().ended is None


def test_a_taken_port_is_one_sentence(port):
    with socket.create_server(("", port)), pytest.raises(InputError, match="cannot be opened"):
        Partners(f"h:{port}", 2, 0, complain=print, advice=str).__enter__()


@pytest.mark.parametrize(
    ("coordinator", "count", "index"),
    [
        *(("host", 2, 0), (":1", 2, 0), ("host:", 2, 0), ("host:x", 2, 0), ("host:0", 2, 0)),
        *(("host:99999", 2, 0), ("host:1²", 2, 0), ("host:1", 0, 0), ("host:1", 2, 2)),
    ],
)
def test_membership_that_makes_no_sense_is_refused(coordinator, count, index):
    with pytest.raises(InputError, match="give host:port, the number of processes"):
        Partners(coordinator, count, index, complain=print, advice=str)


def test_traffic_passes_through(port):
    """What comes to the first port arrives at JAX's service, and back; through two doors."""
    from mgdn_jax.training.doors import Doors

    hub, member = Doors(lambda *a: None), Doors(lambda *a: None)
    inner = hub.keep(port)
    lost = []
    outer = member.open(("localhost", port), lambda: bool(lost))
    ends = threading.Event()

    def serve():
        while not ends.is_set():
            hub.serve(0.01)
            member.serve(0.01)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    service = socket.create_server(("127.0.0.1", inner))
    with socket.create_connection(("127.0.0.1", outer), timeout=60) as client:
        sent = os.urandom(1 << 20)
        threading.Thread(target=client.sendall, args=(sent,), daemon=True).start()
        server, _ = service.accept()
        came = bytearray()
        while len(came) < len(sent):
            came += server.recv(1 << 16)
        assert bytes(came) == sent
        server.sendall(b"answer")
        assert client.recv(6) == b"answer"
        # The service goes, and whoever is lost is known: JAX does not see its connection close.
        lost.append(True)
        server.close()
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.recv(1)
        lost.clear()
        client.settimeout(60)
        assert client.recv(1) == b""
    ends.set()
    thread.join()
    service.close()
    for doors in (hub, member):
        doors.close()
