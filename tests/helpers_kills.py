"""Real runs of `configs/mgdn.py:smoke` that are killed: their data, their command, their end."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time

import helpers
import numpy as np
from helpers_runs import log, losses, newest

from mgdn_jax import data
from mgdn_jax.io.codec import encode_png
from mgdn_jax.weights.store import load_weights

SMOKE = "--config=configs/mgdn.py:smoke"


def prepare(folder):
    """40 small pictures with two regions each, as the set `natural` in a folder of sets."""
    rng = np.random.default_rng(0)
    for kind in ("image", "labels"):
        (folder / "source" / kind).mkdir(parents=True)
    for k in range(40):
        picture = rng.integers(0, 256, (24, 28, 3)).astype(np.uint8)
        labels = np.zeros((24, 28), np.uint8)
        labels[: rng.integers(8, 16)] = 1
        for kind, content in (("image", picture), ("labels", labels)):
            (folder / "source" / kind / f"n{k}.png").write_bytes(encode_png(content))
    data.prepare("natural", folder / "source", folder / "sets")
    return folder / "sets"


class Run:
    """A run of the smoke config in a workdir, as one process or several.

    Args:
        sets: folder of the prepared set.
        workdir: the run's folder.
        fields: of the config's block `train`.
        processes: how many.
        variables: of the environment.
    """

    def __init__(self, sets, workdir, *, processes=1, variables=None, **fields):
        self.workdir = pathlib.Path(workdir)
        self._fields = [f"--config.train.{name}={value}" for name, value in fields.items()]
        self._processes = processes
        self._environment = helpers.environment(
            MGDN_DATA_DIR=str(sets), XLA_FLAGS=helpers.xla_flags(1), **(variables or {})
        )

    def start(self):
        """The processes, started; their stderr is apart."""
        several = [[]]
        if self._processes > 1:
            with socket.socket() as probe:
                probe.bind(("localhost", 0))
                place = f"--coordinator=localhost:{probe.getsockname()[1]}"
            several = [
                [place, f"--processes={self._processes}", f"--process={index}"]
                for index in range(self._processes)
            ]
        command = [sys.executable, "train.py", SMOKE, f"--workdir={self.workdir}", *self._fields]
        return [
            subprocess.Popen(
                [*command, *membership],
                cwd=helpers.ROOT,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for membership in several
        ]

    def finish(self):
        """Runs to the end."""
        for process in self.start():
            code, out, err = ended(process, 600)
            assert code == 0, out + err

    def step(self):
        """The last step that is logged; 0 before the first."""
        lines = log(self.workdir)
        return lines[-1]["step"] if lines else 0

    def wait_for(self, step, process):
        """Returns once a step is logged, or the process has ended."""
        deadline = time.monotonic() + 600
        while self.step() < step and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)


def ended(process, seconds):
    """(exit code, stdout, stderr) of a process that ends within so many seconds."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"still there after {seconds} s: {out}{err}") from None
    return process.returncode, out, err


def same(one, other):
    """Asserts that two runs that are complete are equal, bit for bit."""
    (step, arrays, header), (other_step, others, other_header) = newest(one), newest(other)
    assert (step, header["data"]) == (other_step, other_header["data"])
    assert arrays.keys() == others.keys()
    for name, value in arrays.items():
        assert value.tobytes() == others[name].tobytes(), name
    weights = [load_weights(workdir / "mgdn-smoke.safetensors") for workdir in (one, other)]
    for name, value in weights[0].params.items():
        assert value.tobytes() == weights[1].params[name].tobytes(), name
    assert losses(one) == losses(other)
    for kind in ("train", "validation"):
        steps = [line["step"] for line in log(other, kind)]
        assert steps == sorted(set(steps)) == [line["step"] for line in log(one, kind)]


@contextlib.contextmanager
def small_disk(folder, megabytes):
    """A file system of a few megabytes, where this user may mount one; yields whether it is."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
