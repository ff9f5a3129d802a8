"""The cache of compiled programs that all tests share: what a killed process leaves is harmless."""

import os
import subprocess
import sys
import zlib

import helpers_compiling
import pytest
from helpers import environment


def entry(folder, name, content, moment=0.0):
    path = folder / f"{name}-cache"
    path.write_bytes(content)
    os.utime(path, (moment, moment))
    return path


def test_entries_cut_short_go_and_whole_ones_stay(tmp_path):
    data = zlib.compress(os.urandom(1000))
    whole, cut, empty = (
        entry(tmp_path, name, content)
        for name, content in (("whole", data), ("cut", data[:500]), ("empty", b""))
    )
    helpers_compiling.tidy(tmp_path)
    assert whole.exists()
    assert not cut.exists()
    assert not empty.exists()
    # What was there before is not read again.
    old = entry(tmp_path, "old", data[:500])
    helpers_compiling.tidy(tmp_path)
    assert old.exists()


def test_of_a_large_cache_the_oldest_half_goes(tmp_path):
    data = zlib.compress(os.urandom(1000))
    paths = [entry(tmp_path, str(i), data, moment=i) for i in range(8)]
    helpers_compiling.tidy(tmp_path, limit=9 * len(data))
    assert all(path.exists() for path in paths)
    helpers_compiling.tidy(tmp_path, limit=6 * len(data))
    assert [path.exists() for path in paths] == [False] * 5 + [True] * 3


@pytest.mark.process
def test_a_damaged_entry_costs_a_compilation_and_no_more(tmp_path):
    command = [sys.executable, "-c", "import jax; print(jax.jit(lambda x: x + 1)(1))"]
    surroundings = environment(JAX_COMPILATION_CACHE_DIR=str(tmp_path))

    def run():
        return subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True)

    assert run().stderr == ""
    damaged = [path for path in tmp_path.iterdir() if path.name.endswith("-cache")]
    assert damaged
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-9])
    ran = run()
    assert ran.stdout == "2\n"
    assert "Error reading persistent compilation cache entry" in ran.stderr
    helpers_compiling.tidy(tmp_path)
    assert not any(path.exists() for path in damaged)
    assert run().stderr == ""
    assert run().stderr == ""


def test_flags_of_the_surroundings_are_set_once():
    flags = {"xla_a": "1", "xla_b": "false"}
    joined = helpers_compiling._join("--xla_c=2 --xla_a=3", flags)
    assert joined == "--xla_c=2 --xla_a=1 --xla_b=false"
    assert helpers_compiling._join(joined, flags) == joined
