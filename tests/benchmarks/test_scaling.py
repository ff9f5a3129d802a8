"""benchmarks/scaling.py: what is predicted from counts, by hand; nothing is timed."""

import dataclasses

import jax
import pytest

from benchmarks import scaling

SIZE = 8e6


def test_an_all_reduce_by_hand():
    chip = scaling.Chip("c", peak=1e12, near=1e9, reach=4, far=1e8, host=4)
    assert scaling.reduce_seconds(SIZE, 1, chip) == 0
    inside = 2 * 3 * (SIZE / 4 / 1e9 + scaling.NEAR_HOP)
    assert scaling.reduce_seconds(SIZE, 4, chip) == pytest.approx(inside)
    # Each chip of a group sends its quarter to the other group, in halves.
    between = 2 * (SIZE / 4 / 2 / 1e8 + scaling.FAR_HOP)
    assert scaling.reduce_seconds(SIZE, 8, chip) == pytest.approx(inside + between)


def test_a_prediction_by_hand(monkeypatch):
    chip = scaling.Chip("c", peak=1e12, near=1e9, reach=4, far=1e8, host=4)
    monkeypatch.setattr(scaling, "CHIPS", (chip,))
    monkeypatch.setattr(scaling, "COUNTS", (4,))
    monkeypatch.setattr(scaling, "SHARES", (0.1,))
    figures = {"operations": 1e10, "collective": 0.0, "share": 2, "input": 1e6, "batch": 8}
    monkeypatch.setattr(scaling, "NEAR_HOP", 0.0)
    (row,) = scaling.predict("x:y", figures)
    # 0.1 s a step of 8 examples on a host that reads all of them.
    assert row == "| x:y | c | 4 | 0 | 100.00 | 80 | 0.1 |"


def test_the_collective_is_what_is_trained_and_the_statistics(capsys):
    config = scaling.read("pyramid:smoke")
    step, start, recipe = scaling.build(config, None)
    state = jax.eval_shape(start)
    batch = scaling.examples(config, recipe, 3)
    assert {batch[name].shape[:2] for name in ("a", "b", "target")} == {(3, 48)}
    _, metrics = jax.eval_shape(step, state, batch)
    assert "loss" in metrics
    figures = scaling.cost("pyramid:smoke", 2)
    assert figures["collective"] == 4 * sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert figures["operations"] > 1e6
    assert figures["input"] == 3 * 48 * 48 * 4
    assert all(dataclasses.is_dataclass(chip) and chip.peak > 1e14 for chip in scaling.CHIPS)
