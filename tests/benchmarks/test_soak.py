"""benchmarks/soak.py judges samples, and makes the folders that it says."""

import os
import sys

import pytest
from helpers import script


@pytest.fixture(scope="module")
def soak():
    return script("benchmarks/soak.py")


def samples(soak, **last):
    """Memory, threads and files that stay as they are, but for the last sample."""
    steady = {"memory": 400.0, "threads": 20, "files": 9, "programs": 3}
    rows = [soak.Sample(results, **steady) for results in range(0, 700, 100)]
    return [*rows, soak.Sample(700, **{**steady, **last})]


def test_growth_is_found(soak):
    for last, holds in (
        ({}, True),
        ({"memory": 419.0}, True),
        ({"memory": 421.0}, False),
        ({"threads": 21}, False),
        ({"files": 10}, False),
        ({"programs": 4}, False),
    ):
        figures = soak.verdict(samples(soak, **last))
        assert figures["holds"] is holds, last
    assert (figures["programs_early"], figures["programs_late"]) == (3, 4)
    with pytest.raises(SystemExit, match="fewer than 200"):
        soak.verdict(samples(soak)[:2])


def test_bad_pairs_are_spread_over_the_folder(soak, tmp_path):
    bad = soak.make_pairs(tmp_path, 50, 40, 5)
    assert bad == ["5", "15", "25", "35", "45"]
    second = tmp_path / "vi"
    assert len(list(second.iterdir())) == len(list((tmp_path / "ir").iterdir())) == 50
    assert (second / "15.png").stat().st_size == 0
    assert (second / "45.png").is_fifo()
    sizes = {(tmp_path / "ir" / f"{i}.png").read_bytes()[16:24] for i in range(50)}
    assert len(sizes) == 40


@pytest.mark.skipif(sys.platform != "linux", reason="samples are read off /proc")
def test_a_process_is_looked_at(soak, tmp_path):
    sample = soak.look(os.getpid(), tmp_path, tmp_path)
    assert sample.memory > 20
    assert sample.threads >= 1
    assert sample.files >= 3
    assert soak.look(2**22 + 1, tmp_path, tmp_path) is None
