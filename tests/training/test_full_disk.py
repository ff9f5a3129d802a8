"""A disk that takes no more: one sentence, the last good checkpoint named, and the run goes on."""

import contextlib
import errno
import os
import pathlib
import resource
import time

import fake_recipe
import pytest
from helpers_runs import losses, newest

from mgdn_jax import training
from mgdn_jax.errors import InputError
from mgdn_jax.io import disk
from mgdn_jax.io.disk import WriteError
from mgdn_jax.training import logs
from mgdn_jax.training.checkpoints import newest_whole


def fit(workdir, **train):
    return training.fit(fake_recipe.config(**{"devices": 1} | train), workdir, quiet=True)


def failure(workdir, **train):
    """The sentence that a run ends with."""
    with pytest.raises(training.TrainingFailedError) as caught:
        fit(workdir, **train)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert not (workdir / "run.lock").exists()
    return sentence


def same_run(one, other):
    (step, arrays, header), (other_step, others, other_header) = newest(one), newest(other)
    assert (step, header["data"]) == (other_step, other_header["data"])
    assert {k: v.tobytes() for k, v in arrays.items()} == {
        k: v.tobytes() for k, v in others.items()
    }
    assert losses(one) == losses(other)


@contextlib.contextmanager
def full_from(step, workdir, monkeypatch):
    """From this step on this process can write nothing."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Filling(fake_recipe.Loader):
        def __next__(self):
            if self.position == step:
                while newest_whole(workdir / "checkpoints") is None:
                    time.sleep(0.01)  # it is written in the background
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
            return super().__next__()

    with monkeypatch.context() as patch:
        patch.setattr(fake_recipe, "Loader", Filling)
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Orbax leaves its other writes behind when the first of them fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_ends_a_run_in_one_sentence_and_it_goes_on(tmp_path, monkeypatch):
    fit(tmp_path / "whole", steps=12, save_every=4)
    workdir = tmp_path / "full"
    run = {"steps": 12, "save_every": 4}
    # The log is what is written next.
    with full_from(5, workdir, monkeypatch):
        sentence = failure(workdir, **run)
    assert sentence == (
        f"{workdir / 'log.jsonl'} cannot be written (file too large); training ends at step 6;"
        f" the last good checkpoint is {workdir / 'checkpoints' / '4'}; free some space and run"
        " it again to go on."
    )
    # A checkpoint is: the loop hears of it before it saves the next.
    with full_from(5, workdir, monkeypatch):
        sentence = failure(workdir, **run, log_every=1000)
    assert sentence.startswith(f"{workdir / 'checkpoints'} cannot be written (file too large)")
    assert f"the last good checkpoint is {workdir / 'checkpoints' / '4'};" in sentence
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["4"]
    assert fit(workdir, **run).status == "complete"
    same_run(tmp_path / "whole", workdir)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *(("step_", errno.EDQUOT), ("step_", errno.EIO), ("fake.md", errno.EFBIG)),
        *(("fake.safetensors", errno.ENOSPC), ("fake.safetensors", errno.EROFS)),
    ],
)
def test_pictures_weights_and_card(tmp_path, monkeypatch, name, number):
    """Everything that is written as a whole is flushed to the disk, which may refuse it then."""
    fsync = os.fsync

    def refuse(descriptor):
        if f".{name}" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    # One run for all: what was trained is not trained again.
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        sentence = failure(tmp_path, steps=2, save_every=1)
    reason = os.strerror(number)[1:]
    assert f"{name}" in sentence
    assert f"{reason}); training ends at step 2; the last good checkpoint is" in sentence
    assert not list(tmp_path.glob("fake.safetensors"))
    assert not list(tmp_path.rglob(".*"))
    assert fit(tmp_path, steps=2, save_every=1).status == "complete"


def test_tensorboard(tmp_path, monkeypatch):
    write = logs._Board._write

    def refuse(board, **fields):
        if fields.get("step") == 2:
            with logs._writing(board._path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(board, **fields)

    monkeypatch.setattr(logs._Board, "_write", refuse)
    sentence = failure(tmp_path, steps=3)
    assert "tensorboard/events.out.tfevents." in sentence
    assert "training ends at step 2; there is no checkpoint yet; free some space" in sentence


def test_what_cannot_be_written_before_training_is_bad_input(tmp_path):
    (tmp_path / "tensorboard").touch()
    with pytest.raises(InputError, match="tensorboard: cannot be made"):
        fit(tmp_path)
    (tmp_path / "tensorboard").unlink()
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(WriteError, match=r"log.jsonl cannot be written \(is a directory\)"):
        fit(tmp_path)


def test_data_that_cannot_be_read_is_one_sentence(tmp_path, monkeypatch):
    class Broken(fake_recipe.Loader):
        def __next__(self):
            if self.position == 3:
                raise OSError(errno.EIO, os.strerror(errno.EIO), "records-0")
            return super().__next__()

    monkeypatch.setattr(fake_recipe, "Loader", Broken)
    sentence = failure(tmp_path, save_every=2)
    assert sentence == (
        "records-0: input/output error; training ends at step 3; the last good checkpoint is"
        f" {tmp_path / 'checkpoints' / '2'}; look after it and run it again to go on."
    )


def test_a_screen_that_takes_nothing_stops_nobody(tmp_path, monkeypatch):
    full = pathlib.Path("/dev/full").open("w")  # noqa: SIM115
    monkeypatch.setattr("sys.stdout", full)
    result = training.fit(fake_recipe.config(devices=1, steps=2), tmp_path)
    assert result.status == "complete"
    full.close()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on device"),
        (RuntimeError("RESOURCE_EXHAUSTED: x\nNo space left on device [y]"),
         "no space left on device"),
        (ValueError("first\nsecond"), "first"),
        (KeyError(), "KeyError"),
        (OSError("odd"), "odd"),
    ],
)  # fmt: skip
def test_reasons_are_a_few_words(error, words):
    assert disk.reason(error) == words
    outer = RuntimeError("wrapped")
    outer.__cause__ = error
    assert disk.reason(outer) == (words if "space" in words else "wrapped")
