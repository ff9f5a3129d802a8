"""Which frames of several videos belong together."""

import numpy as np
import pytest

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import timing
from mgdn_jax.fusing.report import Report


def pair(first, second, offset=None):
    times = [np.asarray(first, float), np.asarray(second, float)]
    intervals = [float(np.median(np.diff(t))) if len(t) > 1 else 0.04 for t in times]
    return timing.pair(times, intervals, timing.offsets(offset, 2))


def test_equal_rates_pair_one_to_one():
    found = pair(np.arange(120) / 30, np.arange(120) / 30)
    np.testing.assert_array_equal(found.numbers, np.stack([np.arange(120)] * 2, -1))
    assert found.left == (0, 0)
    assert found.apart.max() == 0


def test_a_slow_thermal_camera_is_held():
    """9 frames a second beside 30: each frame of the clock has the nearest in time."""
    slow, fast = np.arange(36) / 9, np.arange(120) / 30
    found = pair(slow, fast)
    apart = abs(fast - slow[found.numbers[:, 0]])
    assert (apart <= abs(fast[:, None] - slow).min(1) + 1e-9).all()
    np.testing.assert_array_equal(found.numbers[:, 1], np.arange(120))
    assert apart[:-4].max() <= 1 / 18 + 1e-9  # the last thermal frame is shown for a ninth
    assert found.apart[0] == apart.max() < 1 / 9
    assert found.used.tolist() == [36, 120]


def test_a_fast_first_video_loses_frames():
    found = pair(np.arange(240) / 60, np.arange(100) / 25)
    assert len(found) == 100
    assert found.used.tolist() == [100, 100]
    assert found.apart[0] <= 1 / 120 + 1e-9


def test_irregular_times_and_ties():
    first, second = [0.0, 0.1, 0.2, 0.6, 0.7], [0.0, 0.15, 0.3, 0.65, 0.7]
    found = pair(first, second)
    # 0.15 is as far from 0.1 as from 0.2, 0.65 from 0.6 as from 0.7: the earlier one is taken.
    np.testing.assert_array_equal(found.numbers[:, 0], [0, 1, 2, 3, 4])
    assert found.apart[0] == pytest.approx(0.1)


@pytest.mark.parametrize(("offset", "left"), [("0.5", (4, 0)), ("-0.5", (0, 4)), ("A:0.5", (4, 0))])
def test_offsets_move_the_stretch(offset, left):
    found = pair(np.arange(10) / 10, np.arange(10) / 10, offset)
    assert found.left == left  # one interval of the other video counts on either side
    assert len(found) == 6
    assert found.apart[0] <= 0.1 + 1e-9


def test_one_is_longer_than_the_other():
    report = Report()
    long, short = np.arange(300) / 30, np.arange(90) / 30
    found = pair(short, long)
    assert found.left == (0, 209)
    timing.describe(found, ["ir.mp4", "vi.mp4"], [90, 300], [1 / 30, 1 / 30], report)
    assert "209 of 300 frames of vi.mp4 have no partner" in report.warnings[0]
    assert [step["step"] for step in report.steps] == ["pairs", "stretch"]
    other = Report()
    timing.describe(pair(long, short), ["ir.mp4", "vi.mp4"], [300, 90], [1 / 30, 1 / 30], other)
    assert other.warnings == []
    assert "0 frames at the start and 210 at the end of ir.mp4" in other.steps[1]["says"]


def test_gaps_are_said():
    report = Report()
    times = np.concatenate([np.arange(10) / 10, 2 + np.arange(10) / 10])
    found = pair(times, np.arange(30) / 10)
    timing.describe(found, ["ir.mp4", "vi.mp4"], [20, 30], [0.1, 0.1], report)
    assert found.apart[0] == pytest.approx(0.5)
    assert "up to 0.50 s from those of vi.mp4" in report.warnings[0]
    assert "several times" in report.steps[0]["says"]


def test_single_frames_pair():
    assert pair([0.0], [0.0]).numbers.tolist() == [[0, 0]]
    assert pair([0.0], np.arange(5) / 10).numbers.tolist() == [[0, 0]]


def test_nothing_in_common():
    with pytest.raises(InputError, match=r"no time that all videos show .*--offset"):
        pair(np.arange(10) / 10, np.arange(10) / 10, 60)


@pytest.mark.parametrize("text", ["soon", "C:1", "A:", "nan", "1e300", "A:B:1"])
def test_offsets_that_are_none(text):
    with pytest.raises(InputError, match="offset"):
        timing.offsets(text, 2)


def test_offsets_of_several():
    assert timing.offsets("A:1;C:-2.5", 3) == [1.0, 0.0, -2.5]
    assert timing.offsets(0.25, 2) == [0.25, 0.0]
    assert timing.offsets(None, 2) == [0.0, 0.0]


def test_stretches():
    assert timing.stretch(None, 5) == range(5)
    assert timing.stretch("2:4", 5) == range(2, 4)
    assert timing.stretch(":4", 5) == range(4)
    assert timing.stretch("3:", 5) == range(3, 5)
    assert timing.stretch("3:900", 5) == range(3, 5)
    for text in ("5:", "3:3", "4:2", "100:200"):
        with pytest.raises(InputError, match="holds none of the 5 frames; choose from 0:5"):
            timing.stretch(text, 5)
    for text in ("3", "a:b", "-1:3", "1:2:3", "", "1.5:3", "9" * 30 + ":"):
        with pytest.raises(InputError, match="write FIRST:END"):
            timing.stretch(text, 5)
