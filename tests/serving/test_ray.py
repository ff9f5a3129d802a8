"""Data sets through Ray: one small cluster for all, and the parts that need none."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import helpers
import numpy as np
import pytest
from helpers_ray import fuse, make, weights

import mgdn_jax
from mgdn_jax.cli.main import main
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import folders
from mgdn_jax.io import disk, files, whole
from mgdn_jax.serving import ray as cluster
from mgdn_jax.serving import ray_rows, ray_workers
from mgdn_jax.weights.store import load_weights


def worker(root, scenes, since=0, started=0, system="fake_fusion"):
    """A worker without Ray."""
    stored = load_weights(root / "w.safetensors")
    groups = [[str(path) for path in scene.sources] for scene in scenes.values()]
    settled = ray_workers.settle(stored, groups, {}, 1, mgdn_jax.__version__)
    (root / "desk").mkdir(exist_ok=True)
    run = ray_workers.Run(settled, root / "desk", since, started, None, 1)
    return ray_workers.Worker(stored, run), settled


def scenes_of(root, count):
    return {
        k: folders.Scene((root / f"a/{k}.png", root / f"b/{k}.png"), root / f"out/{k}.png")
        for k in range(count)
    }


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """Workers of Ray find the fakes; threads of the tests' own process stay as they are."""
    for name, value in helpers.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ray_workers, "limit_threads", lambda cpus: None)


def test_what_is_there_already(tmp_path):
    make(tmp_path, 5)
    scenes = scenes_of(tmp_path, 5)
    one, settled = worker(tmp_path, scenes)
    assert [row["status"] for row in one.rows(scenes)] == ["written"] * 5
    assert not list((tmp_path / "desk").iterdir())
    now = time.time_ns()
    later, _ = worker(tmp_path, scenes, started=now + 10**9)
    (tmp_path / "out/1.png").write_bytes((tmp_path / "out/1.png").read_bytes()[:-1])
    damaged = bytearray((tmp_path / "out/2.png").read_bytes())
    damaged[60] ^= 1
    (tmp_path / "out/2.png").write_bytes(damaged)
    os.utime(tmp_path / "b/3.png", ns=(now + 5 * 10**9, now + 5 * 10**9))
    states = ["skipped", "written", "written", "written", "skipped"]
    assert [row["status"] for row in later.rows(scenes)] == states
    # What is older than the mark is of another network; what is younger than the run is found.
    marked, _ = worker(tmp_path, scenes, since=now + 10**12)
    assert ray_workers.standing(scenes[0], marked._run) is None
    assert ray_workers.standing(scenes[0], one._run) == "found"
    own = folders.Scene((tmp_path / "a/0.png", tmp_path / "b/0.png"), tmp_path / "a/0.png")
    assert ray_workers.standing(own, one._run) is None
    assert len(set(settled.programs)) == 1


def test_the_mark_is_of_network_weights_and_options(tmp_path):
    make(tmp_path, 2)
    scenes = scenes_of(tmp_path, 2)
    _, settled = worker(tmp_path, scenes)
    stored = load_weights(tmp_path / "w.safetensors")
    common, options = settled.common, settled.options
    assert ray_workers.fingerprint(stored, options, common) == settled.made_with
    moved = load_weights(weights(tmp_path / "v.safetensors", "fake_fusion", 0.25))
    assert ray_workers.fingerprint(moved, options, common) != settled.made_with
    steady = folders.Common({}, ((16, 24), {"sum": np.ones(1, np.float32)}))
    assert ray_workers.fingerprint(stored, options, steady) != settled.made_with
    place = tmp_path / "out"
    place.mkdir()
    since = cluster._marked(place, "one", False)
    assert cluster._marked(place, "one", False) == since
    assert cluster._marked(place, "other", False) >= since
    assert json.loads((place / cluster.MARK).read_text())["made_with"] == "other"


def test_after_a_loss_each_pair_is_made_for_itself(tmp_path):
    make(tmp_path, 3)
    scenes = scenes_of(tmp_path, 3)
    one, _ = worker(tmp_path, scenes)
    place = tmp_path / "desk/0.json"
    ray_workers.Note(place)  # a worker began, and was lost
    one.rows({0: scenes[0]})
    ray_workers.Note(place)
    rows = one.rows(scenes)
    assert [row["status"] for row in rows] == ["found", "written", "written"]
    assert [row["losses"] for row in rows] == [1, 0, 0]
    for _ in range(2):  # two more were lost with the second pair alone
        ray_workers.Note(place).write(1)
    os.remove(tmp_path / "out/1.png")
    rows = one.rows(scenes)
    assert rows[0]["losses"] == 2
    assert [row["status"] for row in rows] == ["found", "failed", "found"]
    assert "ended 2 workers" in rows[1]["error"]
    place.write_text("{")
    assert one.rows(scenes)[0]["losses"] == 1


def test_what_nobody_foresaw_is_a_row(tmp_path, monkeypatch):
    make(tmp_path, 2)
    scenes = scenes_of(tmp_path, 2)
    one, _ = worker(tmp_path, scenes)
    original = one._fuser.prepare

    def prepare(sources, **words):
        if sources[0].name == "1.png":
            raise MemoryError("too\nlarge")
        return original(sources, **words)

    monkeypatch.setattr(one._fuser, "prepare", prepare)
    rows = one.rows(scenes)
    assert [row["status"] for row in rows] == ["written", "failed"]
    assert rows[1]["error"].endswith("cannot be fused (MemoryError: too large).")
    (tmp_path / "desk").rmdir()
    assert "keep the output where all machines" in one.rows(scenes)[0]["error"]


def test_settling_says_what_a_machine_lacks(tmp_path):
    make(tmp_path, 1)
    stored = load_weights(tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"is not there on .*; keep the pictures where"):
        ray_workers.settle(stored, [["/nowhere/1.png"]], {}, 1, mgdn_jax.__version__)
    with pytest.raises(InputError, match="install one version on all machines"):
        ray_workers.settle(stored, [["/nowhere/1.png"]], {}, 1, "0")


def test_pairs_of_one_program_come_together(tmp_path):
    make(tmp_path, 6, sizes=((16, 24), (20, 24), (16, 24)))
    _, settled = worker(tmp_path, scenes_of(tmp_path, 6))
    a, b = settled.programs[:2]
    assert a != b
    assert settled.programs == [a, b, a, a, b, a]


def test_bad_requests_are_one_sentence(tmp_path, monkeypatch):
    make(tmp_path, 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for words, sentence in (
        ({"address": "nonsense"}, "is no address of a cluster; write HOST:PORT"),
        ({"address": "localhost:1"}, "there is no cluster at localhost:1 .*; start one with"),
        ({"workers": 0}, "workers is 0, but must be at least 1"),
        ({"cpus": 0}, "cpus is 0"),
        ({"gpus": 1.5}, "gpus is 1.5, but must be a part of one, or a whole number"),
        ({"again": 1}, "again is 1, but must be True or False"),
        ({"task": "nothing"}, "task is 'nothing'; choose one of focus"),
        ({"rows": tmp_path / "rows.txt"}, "rows are written as .jsonl or .csv"),
        ({"rows": tmp_path / "file/rows.csv"}, "is not a folder"),
        ({"output": tmp_path / "file"}, "is not a folder"),
        ({"model": "nothing"}, "nothing"),
        ({"trust": False}, "fake_fusion"),
        ({"stretsh": "none"}, "there is no option 'stretsh'; did you mean 'stretch'"),
    ):
        with pytest.raises(InputError, match=sentence):
            fuse(tmp_path, **words)
    with pytest.raises(InputError, match="holds no image"):
        cluster.fuse_folders(tmp_path / "empty", tmp_path / "b", output=tmp_path / "out")
    with pytest.raises(InputError, match="two folders or more"):
        cluster.fuse_folders(tmp_path / "a", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'pip install "mgdn_jax\[cluster\]"'):
        fuse(tmp_path)


def test_rows_in_files(tmp_path):
    row = {"number": 0, "status": "found", "error": "", "warnings": "one\ntwo", "losses": 2}
    row |= {"seconds": 0.5, "worker": "here:1"}
    table = ray_rows.Table(tmp_path / "rows.csv")
    table.add("day/1", tmp_path / "1.png", row)
    table.gap("2", "2 has no partner in b.")
    assert not (tmp_path / "rows.csv").exists()
    table.write()
    table.close()
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert lines[0] == ",".join(ray_rows.COLUMNS)
    assert lines[1].startswith(f"day/1,written,{tmp_path}/1.png,")
    assert (table.written, table.found, table.failed.keys()) == (["day/1"], ["day/1"], {"2"})
    assert (table.lost, table.workers, [*table.warnings]) == (2, 1, ["one", "two"])
    broken = ray_rows.Table(tmp_path / "more.jsonl")
    broken.close()
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_whole_files(tmp_path):
    path = tmp_path / "1.png"
    for picture in (np.zeros((3, 4), np.uint8), np.ones((5, 2, 3), np.uint16)):
        files.write_image(path, picture)
        content = path.read_bytes()
        assert whole.is_png(path)
        for cut in range(0, len(content), 7):
            path.write_bytes(content[:cut])
            assert not whole.is_png(path)
            damaged = bytearray(content)
            damaged[cut] ^= 4
            path.write_bytes(damaged)
            assert not whole.is_png(path)
        path.write_bytes(content + b"\0")
        assert not whole.is_png(path)
    assert not whole.is_png(tmp_path / "2.png")
    assert not whole.is_png(tmp_path)


def test_sweeping_leaves_what_is_not_ours(tmp_path):
    target = tmp_path / ("1" * 40 + ".png")
    ours = disk.hidden_beside(target)
    old = disk.hidden_beside(target)
    os.utime(old, ns=(5, 5))
    others = [tmp_path / name for name in (".2.png.abcdefgh", ".mine", f"{target.name}.abcdefgh")]
    for other in others:
        other.write_text("")
    assert disk.sweep([target, tmp_path / "sub/2.png"], since=10) == 1
    assert not ours.exists()
    assert old.exists()
    assert disk.sweep([target], until=10) == 1
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_the_command_line(tmp_path, monkeypatch, capsys):
    make(tmp_path, 1)
    calls = []

    def answer(*places, **words):
        calls.append((places, words))
        words["progress"](1, 1)
        failed = {"2": "2 has no partner in b."}
        return cluster.Outcome(
            Path(words["output"]), ("1",), (), failed, (), 2, 3, "by rule.", (), (), 1.0
        )

    monkeypatch.setattr(cluster, "fuse_folders", answer)
    a, b, out = (str(tmp_path / name) for name in ("a", "b", "out"))
    command = ["fuse", a, b, "-o", out, "--model", str(tmp_path / "w.safetensors")]
    command += ["--trust-system", "--stretch", "fill"]
    assert main([*command, "--cluster"]) == 1
    places, words = calls.pop()
    assert (places, words["output"], words["address"]) == ((a, b), out, None)
    assert (words["stretch"], words["tone"], words["model"].system) == (
        "fill",
        "auto",
        "fake_fusion",
    )
    said = capsys.readouterr()
    assert "done    1 written, 1 failed, 2 lost workers started again, 1.0 s" in said.out
    assert said.err == "mgdn: error: 2 has no partner in b.\n"
    assert main([*command, "--cluster=here:1", "--json"]) == 1
    assert calls.pop()[1]["address"] == "here:1"
    content = json.loads(capsys.readouterr().out)
    assert (content["written"], content["lost"], content["output"]) == (["1"], 2, out)
    for more, sentence in (
        (["--score"], "--score does not go with --cluster; leave it out."),
        (["--frames", "1:"], "--frames does not go with --cluster; leave it out."),
    ):
        assert main([*command, "--cluster", *more]) == 2
        assert sentence in capsys.readouterr().err
    files.write_image(tmp_path / "c.png", np.zeros((4, 4), np.uint8))
    assert main(["fuse", a, str(tmp_path / "c.png"), "-o", out, "--cluster"]) == 2
    assert "is no folder; --cluster fuses folders" in capsys.readouterr().err
    assert not calls


@pytest.mark.parametrize(
    "name",
    [
        "test_a_data_set_through_ray",
        pytest.param("test_a_worker_is_killed[False]", marks=pytest.mark.long),
        pytest.param("test_a_worker_is_killed[True]", marks=pytest.mark.long),
    ],
)
def test_with_ray_in_a_process_of_its_own(name):
    file = Path(__file__).with_name("through_ray.py")
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-o", "addopts=", f"{file}::{name}"]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, stdin=subprocess.DEVNULL
    )
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    assert "1 passed" in ran.stdout
