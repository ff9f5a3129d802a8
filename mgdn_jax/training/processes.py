"""Where a run takes place: devices, processes, signals. Rooms above only ever see values."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from mgdn_jax.errors import InputError

Tree = TypeVar("Tree")


def split_cpu(count: int) -> None:
    """Makes JAX see the CPU as several devices; to be called before anything touches a device.

    A step is mapped over them as over any devices. XLA's own threads gain little on what training
    of small crops is made of, many short loops, where each device works through examples of its
    own (docs/benchmarks/speed.md).

    Args:
        count: how many devices; the number of cores, for instance.

    Raises:
        InputError: not a positive number, or too late.
    """
    if count < 1:
        raise InputError(f"cpu_devices is {count} and must be 1 or more.")
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        raise InputError("the CPU cannot be split: JAX has used its devices already.") from error


def local_devices(wanted: int) -> list[jax.Device]:
    """Devices of this process that the run uses.

    Args:
        wanted: how many; 0 for all. Must be 0 with several processes.

    Raises:
        InputError: there are not so many.
    """
    processes = jax.process_count()
    devices = jax.local_devices()
    if wanted > len(devices) or (wanted and processes > 1):
        raise InputError(
            f"config field 'train.devices' is {wanted}, with {len(devices)} local devices and"
            f" {processes} processes; use at most {len(devices)}, and 0 with several processes."
        )
    return devices[: wanted or None]


def agreed(value: bool) -> bool:
    """What the first process says."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value, np.int32)))


def from_first(tree: Tree, notes: dict[str, Any]) -> tuple[Tree, dict[str, Any]]:
    """Arrays and notes of the first process, which alone reads and writes the run's folder.

    Args:
        tree: pytree of arrays, of the same structure and shapes everywhere.
        notes: json-safe; counts in the first process only.

    Returns:
        Both as they are in the first process, bit for bit; NumPy leaves where there are several.
    """
    if jax.process_count() == 1:
        return tree, notes

    def agree(value: Any) -> np.ndarray:
        # As bytes: the broadcast adds zeros, which would turn -0.0 into 0.0.
        value = np.asarray(value, order="C")
        raw = multihost_utils.broadcast_one_to_all(value.reshape(-1).view(np.uint8))
        return np.asarray(raw, np.uint8).view(value.dtype).reshape(value.shape)

    text = np.frombuffer(json.dumps(notes).encode(), np.uint8)
    size = int(agree(np.asarray(len(text), np.int64)))
    text = agree(text if len(text) == size else np.zeros(size, np.uint8))
    return jax.tree.map(agree, tree), json.loads(text.tobytes())


def meet(name: str) -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def stop_signals(say: Callable[[str], None] = print) -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; a second signal acts as it did before.

    Args:
        say: gets one line at the first signal. Python's handlers wait while the main thread is in
            the compiler, for minutes perhaps; so the line comes from a thread of its own.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}

    def heed(number: int, frame: Any) -> None:
        del frame
        event.set()
        signal.signal(number, before[signal.Signals(number)])

    with _announced(before, say):
        for number in before:
            signal.signal(number, heed)
        try:
            yield event
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _announced(numbers: Collection[int], say: Callable[[str], None]) -> Iterator[None]:
    """Says at once that the first of these signals has come."""
    receiver, sender = socket.socketpair()
    sender.setblocking(False)

    def watch() -> None:
        while number := receiver.recv(1):  # empty once the other end is closed
            if number[0] in numbers:
                # Whoever reads our output may be gone.
                with contextlib.suppress(OSError, ValueError):
                    say(f"{signal.Signals(number[0]).name}: stopping after this step")
                return

    watcher = threading.Thread(target=watch, name="mgdn_jax: signals", daemon=True)
    watcher.start()
    descriptor = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        sender.close()
        watcher.join()
        receiver.close()
