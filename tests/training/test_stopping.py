"""A signal at step t is obeyed by all at t + 1, and answered at once."""

import hashlib
import os
import signal
import threading
import time

import fake_recipe
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgdn_jax import training
from mgdn_jax.training import loop, parallel, processes


def test_a_signal_at_step_t_is_obeyed_by_all_at_t_plus_1():
    """Two processes, played by two agreements whose sums meet by hand; the second is signalled."""
    signals = [threading.Event(), threading.Event()]
    agreements = [loop._Agreement(signal, devices=2, processes=2) for signal in signals]
    previous, decisions = {}, []
    for step in range(1, 6):
        if step == 3:
            signals[1].set()
        batches = [a.tell({"a": np.zeros((4, 3))}) for a in agreements]
        assert {batch["_stop"].shape for batch in batches} == {(2,)}
        decisions.append([a.heard(previous) for a in agreements])
        previous = {"_stop": jnp.asarray(sum(batch["_stop"].sum() for batch in batches))}
    assert decisions == [[False] * 2] * 3 + [[True] * 2] * 2


def test_who_trains_alone_obeys_at_once():
    event = threading.Event()
    agreement = loop._Agreement(event, devices=2, processes=1)
    assert agreement.tell({"a": 1}) == {"a": 1}
    assert not agreement.heard({})
    event.set()
    assert not agreement.heard({})  # came after the batch was sent off
    agreement.tell({})
    assert agreement.heard({})
    step = object()
    assert agreement.passing_on(step) is step


def test_the_step_adds_up_what_is_told():
    agreement = loop._Agreement(threading.Event(), devices=4, processes=2)
    step = agreement.passing_on(lambda state, batch: (state + 1, {"loss": batch["a"].sum()}))
    told = np.array([[1], [0], [1], [1]], np.float32)
    batch = {"a": np.ones((4, 3)), "_stop": told}
    state, metrics = jax.pmap(step, parallel.AXIS, in_axes=(None, 0))(jnp.zeros(()), batch)
    assert metrics.keys() == {"loss", "_stop"}
    assert metrics["_stop"].tolist() == [3, 3, 3, 3]
    assert state.tolist() == [1, 1, 1, 1]


def busy():
    """As the compiler: the main thread is in C, which no handler of Python's can interrupt."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 4_000_000)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_answered_while_the_compiler_runs(number):
    before = signal.getsignal(number), signal.set_wakeup_fd(-1)
    order = []
    threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
    with processes.stop_signals(order.append) as stopping:
        busy()
        order.append("compiled")
        time.sleep(0.01)
        assert stopping.is_set()
    assert order == [f"{number.name}: stopping after this step", "compiled"]
    assert (signal.getsignal(number), signal.set_wakeup_fd(-1)) == before
    assert not [t for t in threading.enumerate() if t.name == "mgdn_jax: signals"]


def test_it_is_said_once_and_other_signals_are_left_alone():
    lines = []
    ignored = signal.signal(signal.SIGUSR1, lambda *_: None)
    interrupted = signal.signal(signal.SIGINT, lambda *_: lines.append("as before"))
    try:
        with processes.stop_signals(lines.append):
            for number in (signal.SIGUSR1, signal.SIGINT):
                os.kill(os.getpid(), number)
            deadline = time.monotonic() + 60
            while not lines and time.monotonic() < deadline:
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, interrupted)
        signal.signal(signal.SIGUSR1, ignored)
    assert lines == ["SIGINT: stopping after this step", "as before"]


def test_a_run_answers(tmp_path, monkeypatch, capsys):
    class Interrupting(fake_recipe.Loader):
        def __next__(self):
            if self.position == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__next__()

    monkeypatch.setattr(fake_recipe, "Loader", Interrupting)
    config = fake_recipe.config(devices=1, steps=100, log_every=100)
    result = training.fit(config, tmp_path)
    assert (result.status, result.step) == ("stopped", 4)
    lines = capsys.readouterr().out.splitlines()
    assert "SIGTERM: stopping after this step" in lines
    assert lines[-1] == "stopped and saved at step 4; run it again to go on"
    # Quietly, nothing is said.
    assert training.fit(config, tmp_path / "quiet", quiet=True).status == "stopped"
    assert not capsys.readouterr().out


def test_in_another_thread_nobody_listens():
    events = []

    def listen():
        with processes.stop_signals(pytest.fail) as stopping:
            events.append(stopping.is_set())

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert events == [False]
