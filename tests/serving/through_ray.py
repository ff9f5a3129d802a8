"""What starts Ray. tests/serving/test_ray.py runs it, each test in a process of its own.

Ray forks, and a process with the threads of JAX may never come back from that.
"""

import json
import os
import threading

import helpers
import numpy as np
import pytest
from helpers_ray import fuse, make, weights

import mgdn_jax
from mgdn_jax.errors import InputError
from mgdn_jax.io import files, whole
from mgdn_jax.serving import ray as cluster
from mgdn_jax.serving import ray_rows, ray_workers


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """Workers of Ray find the fakes; threads of the tests' own process stay as they are."""
    for name, value in helpers.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ray_workers, "limit_threads", lambda cpus: None)


@pytest.mark.filterwarnings("ignore:::ray")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # children of Ray do not use JAX
def test_a_data_set_through_ray(tmp_path, capfd):
    """The one test that starts it: the files of `fuse_folders`, and a row for what fails."""
    one, other = make(tmp_path, 6)
    (one / "text.png").write_text("no picture")
    (other / "text.png").write_text("no picture")
    files.write_image(one / "alone.png", np.zeros((4, 4), np.uint8))
    import ray

    seen = []
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    capfd.readouterr()
    try:
        outcome = fuse(
            tmp_path, rows=tmp_path / "rows.jsonl", progress=lambda *counts: seen.append(counts)
        )
        assert ray.is_initialized()  # it was there before
        with pytest.raises(InputError, match="connected to a cluster of Ray already"):
            fuse(tmp_path, address="auto")
        with pytest.raises(InputError, match=r"no machine .* room for a worker of 3 cores"):
            fuse(tmp_path, cpus=3)
    finally:
        ray.shutdown()
    assert seen == [(number, 7) for number in range(1, 8)]
    names = {str(k) for k in range(6)}
    assert (set(outcome.written), outcome.skipped, outcome.lost) == (names, (), 0)
    assert outcome.failed.keys() == {"text", "alone"}
    assert outcome.failed["alone"] == f"alone has no partner in {other}."
    assert "is not an image" in outcome.failed["text"]
    assert str(outcome).startswith("6 written, 2 failed, ")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert sorted(row["name"] for row in rows) == sorted([*names, "text", "alone"])
    assert {row["status"] for row in rows} == {"written", "failed"}
    assert set(rows[-1]) == set(ray_rows.COLUMNS)
    # Byte for byte what one machine writes, and nothing beside it but the mark.
    plain = mgdn_jax.fuse_folders(
        one, other, output=tmp_path / "plain", model=tmp_path / "w.safetensors", trust="fake_fusion"
    )
    assert sum(not isinstance(x, InputError) for x in plain.values()) == 6
    for name in names:
        assert (tmp_path / f"out/{name}.png").read_bytes() == (
            tmp_path / f"plain/{name}.png"
        ).read_bytes()
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"{n}.png" for n in names} | {
        cluster.MARK
    }


@pytest.mark.filterwarnings("ignore:::ray")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # children of Ray do not use JAX
@pytest.mark.parametrize("deadly", [False, True])
def test_a_worker_is_killed(tmp_path, deadly):
    """Two machines of one worker each, 400 pairs: one worker dies, or one pair is deadly."""
    import ray
    from ray.cluster_utils import Cluster

    one, other = make(tmp_path, 400, sizes=((60, 80), (64, 64)))
    if deadly:
        weights(tmp_path / "w.safetensors", "fake_deadly", 0.0)
        for side in (one, other):
            files.write_image(side / "deadly.png", np.zeros((13, 20, 3), np.uint8))
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    machines.add_node(num_cpus=1)
    seen, again, ends = {}, [], threading.Event()

    def watch():
        while not ends.wait(0.01):
            for entry in os.scandir(tmp_path / "out") if (tmp_path / "out").exists() else ():
                if entry.name.endswith(".png"):
                    number = entry.inode()
                    if seen.setdefault(entry.name, number) != number:
                        again.append(entry.name)

    def progress(done, total):
        del total
        if done >= 100 and not deadly and not killed:
            killed.append(victims()[0])
            os.kill(killed[0], 9)

    killed = []
    threading.Thread(target=watch, daemon=True).start()
    try:
        ray.init(address=machines.address, log_to_driver=False)
        outcome = fuse(
            tmp_path, trust=True, rows=tmp_path / "rows.jsonl", progress=progress, bucket=0
        )
        later = tmp_path / "out/7.png"
        ends.set()
        later.write_bytes(later.read_bytes()[:-20])
        rerun = fuse(tmp_path, trust=True, bucket=0)
    finally:
        ends.set()
        ray.shutdown()
        machines.shutdown()
    names = {str(number) for number in range(400)}
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert sorted(row["name"] for row in rows) == sorted(names | {"deadly"} if deadly else names)
    assert sorted(outcome.written) == sorted(names)
    assert outcome.failed.keys() == ({"deadly"} if deadly else set())
    assert outcome.lost == (3 if deadly else 1)
    assert not again
    # The second run makes what is damaged, and leaves the others alone.
    assert (rerun.written, set(rerun.skipped)) == (("7",), names - {"7"})
    assert all(whole.is_png(tmp_path / f"out/{name}.png") for name in names)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        *(f"{name}.png" for name in names),
        cluster.MARK,
    }
    print(outcome, "found:", len(outcome.found), "killed:", killed, "processes:", outcome.workers)


def victims():
    """Process ids of the workers that fuse."""
    found = []
    for place in os.listdir("/proc"):
        try:
            with open(f"/proc/{place}/cmdline", "rb") as file:
                title = file.read()
            with open(f"/proc/{place}/stat") as file:
                state = file.read().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if title.startswith(b"ray::MapWorker") and state != "Z":
            found.append(int(place))
    return found
