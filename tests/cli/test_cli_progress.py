"""How far a command is: lines on stderr, a bar or a counter at a terminal."""

import contextlib
import os
import re
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers_cli import mgdn, save_model, save_pictures

from mgdn_jax.cli import progress
from mgdn_jax.cli.voice import COMPILING
from mgdn_jax.data import builders
from mgdn_jax.evaluation import methods
from mgdn_jax.fusing.fuser import Fuser


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """Three pairs of one size, one of another, and a model."""
    monkeypatch.setenv("MGDN_CACHE_DIR", "off")
    monkeypatch.chdir(tmp_path)
    save_model("m.safetensors")
    save_pictures(*(f"{folder}/{n}.png" for folder in "xyz" for n in range(3)))
    save_pictures("x/9.png", "y/9.png", "z/9.png", shape=(40, 44, 3))


@pytest.fixture
def slow(monkeypatch):
    """Lines come all the time; scoring a pair and a call of a network take two of them."""
    monkeypatch.setattr(progress, "SECONDS", 0.001)
    said, lines = threading.Semaphore(0), progress.lines
    watched = []

    @contextlib.contextmanager
    def counted(status):
        def count():
            text = status()
            said.release()
            return text

        watched.append(True)
        with lines(count):
            yield
        watched.clear()

    def delayed(function):
        def call(*arguments):
            while said.acquire(blocking=False):
                pass
            for _ in range(2 * len(watched)):
                assert said.acquire(timeout=60)
            return function(*arguments)

        return call

    monkeypatch.setattr(progress, "lines", counted)
    monkeypatch.setattr(methods, "_measure", delayed(methods._measure))
    monkeypatch.setattr(Fuser, "_call", delayed(Fuser._call))


def test_a_line_is_said_again_and_again(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS", 0.001)
    texts = iter(["one", None, "two"])
    over = threading.Event()

    def status():
        text = next(texts, None)
        if text == "two":
            over.set()
        return text

    with progress.lines(status):
        assert over.wait(60)
    said = capsys.readouterr()
    assert said.err.splitlines() == ["mgdn: one", "mgdn: two"]
    assert said.out == ""
    assert not [thread for thread in threading.enumerate() if thread.name == "mgdn-progress"]


def test_the_time_that_is_left(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    count = progress.Count("measured", 4, "pairs")
    assert str(count) == "measured 0 of 4 pairs"
    count.advance()
    for seconds, left in ((10, "30 s"), (60, "3 min"), (3000, "2.5 h")):
        clock[0] = seconds
        assert str(count) == f"measured 1 of 4 pairs, about {left} left"
    for _ in range(3):
        count.advance()
    assert str(count) == "measured 4 of 4 pairs"


def test_scoring_without_a_terminal(slow, capsys):
    command = "eval x y z --metrics EN --no-baselines --jobs 0"
    assert mgdn(command) == 0
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert lines
    assert all(re.match(r"mgdn: measured [0-4] of 4 pairs(, about \S+ s left)?$", x) for x in lines)
    assert "mgdn: measured" not in said.out
    for option in ("--quiet", "--json"):
        assert mgdn(f"{command} {option}") == 0
        assert capsys.readouterr().err == ""


def test_folders_without_a_terminal(slow, capsys):
    command = "fuse x y -o out --model m.safetensors --batch 1"
    assert mgdn(command) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines.count(f"mgdn: {COMPILING}") == 2  # two sizes
    counts = [line for line in lines if line != f"mgdn: {COMPILING}"]
    assert counts
    assert all(re.match(r"mgdn: fused [0-4] of 4 pictures", line) for line in counts)
    for option in ("--quiet", "--json"):
        assert mgdn(f"{command} {option}") == 0
        assert capsys.readouterr().err == ""


def test_a_single_picture_says_that_it_is_compiled_and_then_its_tiles(slow, capsys):
    save_pictures("a.png", "b.png", shape=(40, 40, 3))
    assert mgdn("fuse a.png b.png -o c.png --model m.safetensors") == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines.count(f"mgdn: {COMPILING}") == 1
    others = [line for line in lines if line != f"mgdn: {COMPILING}"]
    assert all(re.match(r"mgdn: fusing, \d+ s so far$", line) for line in others)
    assert mgdn("fuse a.png b.png -o c.png --model m.safetensors --tile 16 --overlap 0") == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines.count(f"mgdn: {COMPILING}") == 1
    others = [line for line in lines if line != f"mgdn: {COMPILING}"]
    assert all(re.match(r"mgdn: (tile \d+ of \d+|fusing, \d+ s so far)$", line) for line in others)
    assert any("tile" in line for line in others)


def test_a_single_pair_and_other_commands_say_that_they_are_at_work(slow, monkeypatch, capsys):
    assert mgdn("eval x/0.png y/0.png z/0.png --metrics EN --no-baselines --jobs 0") == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert set(lines) <= {f"mgdn: measured {k} of 1 pairs" for k in (0, 1)}
    check = builders._size

    def slowly(*arguments):
        time.sleep(0.02)
        return check(*arguments)

    monkeypatch.setattr(builders, "_size", slowly)
    command = "data prepare pairs --source . --folders x y --out sets"
    assert mgdn(command) == 0
    said = capsys.readouterr()
    assert re.match(r"mgdn: (listing|checked \d of 4 examples, \d+ s so far)", said.err)
    assert "holds   4 pairs\n" in said.out
    assert mgdn(f"{command} --json") == 0
    assert capsys.readouterr().err == ""


def test_folders_at_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert mgdn("fuse x y -o out --model m.safetensors --batch 1") == 0
    said = capsys.readouterr().err
    assert said.count(COMPILING) == 2
    assert said.count("tile 1 of 1") == 4
    assert "\n" not in said
    assert said.endswith(" \r")
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "0.png",
        "1.png",
        "2.png",
        "9.png",
    ]


def test_xla_raises_no_alarm(monkeypatch):
    """Its C++ log is silent below fatal errors unless the user says otherwise."""
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    assert mgdn("models m.safetensors") == 0
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    assert mgdn("models m.safetensors") == 0
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"
