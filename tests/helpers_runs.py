"""`python train.py` as a child process, and what a run leaves behind."""

import json
import subprocess
import sys
import time
import warnings

import helpers

from mgdn_jax.training.checkpoints import Checkpoints


def start(workdir, *arguments, config="--config=tests/fake_recipe.py", **variables):
    """A child that trains; stderr goes to stdout."""
    return subprocess.Popen(
        [sys.executable, "train.py", config, f"--workdir={workdir}", *arguments],
        cwd=helpers.ROOT,
        env=helpers.environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train_here(monkeypatch, workdir, *arguments, config="--config=tests/fake_recipe.py"):
    """Exit code of the same in this process, for what ends before anything is trained."""
    import train

    monkeypatch.chdir(helpers.ROOT)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the folder of the config is put on it
    with warnings.catch_warnings():  # ml_collections loads modules in an old way
        warnings.simplefilter("ignore", DeprecationWarning)
        return train.main(["train.py", config, f"--workdir={workdir}", *arguments])


def finish(process):
    """(exit code, what was said)."""
    out, _ = process.communicate(timeout=300)
    return process.returncode, out


def log(workdir, kind="train"):
    """Lines of one kind; a last line that is being written is left out."""
    path = workdir / "log.jsonl"
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return [line for line in lines if line["kind"] == kind]


def losses(workdir):
    return [line["loss"] for line in log(workdir)]


def wait_for_step(workdir, step, process):
    """Returns once the log of a running child has this step."""
    deadline = time.monotonic() + 300
    while not any(line["step"] >= step for line in log(workdir)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def newest(workdir):
    """(step, {item/name: array}, header) of the newest checkpoint."""
    checkpoints = Checkpoints(workdir / "checkpoints")
    step = checkpoints.steps()[-1]
    flats, header = checkpoints._read(step)
    checkpoints.close()
    return step, {f"{i}/{k}": v for i, flat in flats.items() for k, v in flat.items()}, header
