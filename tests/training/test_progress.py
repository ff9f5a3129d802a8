"""What a run says: what it compiles, and a line every ten seconds where nothing else is said."""

import re

import fake_recipe
import pytest

from mgdn_jax import training
from mgdn_jax.training import logs


def lines(tmp_path, capsys, recipe=None, **train):
    usual = {"devices": 1, "steps": 6, "log_every": 100, "eval_every": 3}
    config = fake_recipe.config(**usual | train)
    config["recipe"] |= recipe or {}
    training.fit(config, tmp_path)
    return capsys.readouterr().out.splitlines()


def test_what_is_compiled_is_said_first(tmp_path, capsys):
    said = lines(tmp_path, capsys, {"two_phases": True})
    assert re.match(r"fake: from step 0 to 6, batch 8 on 1 x 1 cpu, in ", said[0])
    compiled = [line for line in said if line.startswith("compiling")]
    assert compiled == [
        f"compiling {what} of phase {phase!r} (first time for this size)"
        for phase in ("first", "second")
        for what in ("the step", "the validation")
    ]
    place = said.index(compiled[2])
    assert said[place - 1].startswith("step 3/6")
    assert said[place + 1].startswith("step 6/6  loss")


def test_a_rare_log_does_not_mean_silence(tmp_path, capsys, monkeypatch):
    steps = r"step (\d)/6  loss [\d.e+-]+(?:  [\d.]+ images/s  ETA (?:\d+:\d\d:\d\d|unknown))?"
    quick = lines(tmp_path / "quick", capsys)
    assert [int(m[1]) for m in map(re.compile(steps).fullmatch, quick) if m] == [6]
    monkeypatch.setattr(logs, "SILENCE", 0.0)
    said = lines(tmp_path / "slow", capsys)
    # The step that is done, not the one under way.
    assert [int(m[1]) for m in map(re.compile(steps).fullmatch, said) if m] == [1, 2, 3, 4, 6]
    one, other = ((tmp_path / name / "log.jsonl").read_text() for name in ("quick", "slow"))
    assert len(one.splitlines()) == len(other.splitlines())


def test_ten_seconds(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    log = logs.Log(tmp_path, total=9)
    for moment, overdue in [(105.0, False), (109.9, False), (110.0, True), (125.0, True)]:
        now = moment
        assert log.is_overdue() == overdue
    log.say("something")
    assert not log.is_overdue()
    log.close()
    for options in ({"active": False}, {"quiet": True}):
        log = logs.Log(tmp_path, total=9, **options)
        now += 100.0
        assert not log.is_overdue()
        log.close()


def test_a_lap_can_be_looked_at(monkeypatch):
    now = 0.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    clock = logs.Clock()
    now = 4.0
    assert clock.elapsed() == 4.0
    with clock.pause():
        now = 10.0
    now = 11.0
    assert clock.elapsed() == pytest.approx(5.0)
    assert clock.lap() == pytest.approx(5.0)
    now = 12.0
    assert clock.elapsed() == pytest.approx(1.0)
