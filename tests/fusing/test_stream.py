"""Folders of pictures: what is fused together, and what one bad file does to the rest."""

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers_cli import mgdn, save_model, save_pictures

import mgdn_jax
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import stream
from mgdn_jax.io import files


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("MGDN_CACHE_DIR", "off")
    monkeypatch.chdir(tmp_path)
    save_model("m.safetensors", uses_mean=True)


def pictures_by_number(shapes):
    return [[np.full(shape, i, np.uint8)] * 2 for i, shape in enumerate(shapes)]


def test_neighbours_of_one_size_go_together_and_order_is_kept():
    shapes = [(4, 4)] * 5 + [(4, 6)] * 2 + [(4, 4)] + [(2000, 900)] * 2
    scenes, together = pictures_by_number(shapes), []

    def fuse(given):
        together.append([int(pictures[0][0, 0]) for pictures in given])
        return [pictures[0] for pictures in given]

    done = list(
        stream.run(
            len(shapes), scenes.__getitem__, fuse, lambda i, _, fused: (i, fused[0, 0]), batch=3
        )
    )
    assert together == [[0, 1, 2], [3, 4], [5, 6], [7], [8], [9]]
    assert done == [(i, (i, i)) for i in range(len(shapes))]


def test_what_goes_wrong_with_one_leaves_the_others_alone():
    scenes = pictures_by_number([(4, 4)] * 6)

    def load(i):
        if i == 1:
            raise InputError("bad file")
        return scenes[i]

    def fuse(given):
        if any(pictures[0][0, 0] == 3 for pictures in given):
            raise InputError("too large")
        return [pictures[0] for pictures in given]

    def store(i, _, fused):
        if i == 5:
            raise InputError("disk full")
        return fused[0, 0]

    done = dict(stream.run(6, load, fuse, store, batch=4))
    assert [str(done[i]) for i in range(6)] == ["0", "bad file", "2", "too large", "4", "disk full"]


def test_files_are_read_and_written_beside_the_network():
    """Each scene is loaded while the one before is fused, and stored while the next one is."""
    loaded, fused = threading.Event(), threading.Event()
    scenes = pictures_by_number([(4, 4), (4, 6)])

    def load(i):
        if i == 1:
            loaded.set()
        return scenes[i]

    def fuse(given):
        if given[0][0].shape == (4, 4):
            assert loaded.wait(60)
        else:
            fused.set()
        return [given[0][0]]

    def store(i, *_):
        assert i == 1 or fused.wait(60)
        return i

    assert list(stream.run(2, load, fuse, store, batch=1)) == [(0, 0), (1, 1)]


def test_a_program_error_ends_it():
    with pytest.raises(ZeroDivisionError):
        list(stream.run(3, lambda i: 1 // 0, list, lambda *_: None, batch=1))
    with pytest.raises(ValueError, match="must be at least 1"):
        list(stream.run(3, lambda i: [], list, lambda *_: None, batch=0))


@pytest.mark.parametrize("channels", [(3, 3), (1, 1)])
@pytest.mark.parametrize(
    ("stretch", "ensemble"),
    [("none", "none"), ("minmax", "none"), ("fill", "none"), ("none", "flips"), ("fill", "flips")],
)
def test_batches_equal_single_calls(channels, stretch, ensemble):
    fields = {"in_channels": channels, "out_channels": channels[0]}
    save_model("n.safetensors", uses_mean=True, uses_slopes=True, **fields)
    fuser = mgdn_jax.load("n.safetensors", trust=True)
    rng = np.random.default_rng(0)
    scenes = [
        [rng.integers(0, 256, (7, 9, *c), dtype=np.uint8) for c in layout]
        for layout in [((), ()), ((3,), ()), ((3,), (3,)), ((4,), (4,)), ((1,), (3,))]
    ]
    for some in (scenes, scenes[:1], scenes[:2]):
        rules = {"stretch": stretch, "ensemble": ensemble}
        for together, pictures in zip(fuser.batch(some, **rules), some, strict=True):
            alone = fuser(*pictures, **rules)
            assert together.dtype == alone.dtype
            np.testing.assert_array_equal(together, alone)
    assert fuser._fuse._cache_size() == 3  # 1, 2 and 8 pictures
    larger = [rng.integers(0, 256, (8, 40), dtype=np.uint8) for _ in "ab"]
    ticks = []
    tiled = fuser.batch([larger, larger, scenes[0]], tile=8, progress=lambda *x: ticks.append(x))
    np.testing.assert_array_equal(tiled[0], fuser(*larger, tile=8))
    assert tiled[2].shape == (7, 9)
    assert ticks


def make_folders(count=7):
    for i in range(count):
        save_pictures(f"ir/{i}.png", f"vi/{i}.png", shape=(12, 16 if i < 4 else 20, 3))
    Path("vi/3.png").write_bytes(Path("vi/3.png").read_bytes()[:200])


@pytest.mark.parametrize("batch", [None, 3])
def test_one_corrupt_file_is_reported_and_the_rest_written(capsys, batch):
    make_folders()
    option = "" if batch is None else f" --batch {batch}"
    assert mgdn(f"fuse ir vi -o out --model m.safetensors --json{option}") == 1
    report = json.loads(capsys.readouterr().out)
    assert [result["output"] for result in report["results"]] == [
        os.path.join("out", f"{i}.png") for i in (0, 1, 2, 4, 5, 6)
    ]
    (problem,) = report["failed"]
    assert problem.startswith("vi/3.png")
    assert sorted(os.listdir("out")) == [f"{i}.png" for i in (0, 1, 2, 4, 5, 6)]
    fuser = mgdn_jax.load("m.safetensors", trust="fake_fusion")
    for i in (0, 1, 2, 4, 5, 6):
        wanted = fuser(f"ir/{i}.png", f"vi/{i}.png")
        np.testing.assert_array_equal(files.read_image(f"out/{i}.png"), wanted)


def test_folders_from_python():
    make_folders()
    strange = "1 has no partner in it"  # a name that looks like the sentence about it
    save_pictures("ir/alone.png", f"ir/{strange}.png")
    found = mgdn_jax.fuse_folders(
        "ir", "vi", output="new/out", model="m.safetensors", trust=True, batch=2
    )
    failed = {name: str(e) for name, e in found.items() if isinstance(e, InputError)}
    assert failed.keys() == {"3", "alone", strange}
    assert failed["alone"] == "alone has no partner in vi."
    assert failed[strange] == f"{strange} has no partner in vi."
    assert found["0"] == Path("new/out/0.png")
    assert len(os.listdir("new/out")) == 6
    fuser = mgdn_jax.load("m.safetensors", trust="fake_fusion")
    again = mgdn_jax.fuse_folders("ir", "vi", output="vi", model=fuser)
    assert all("is one of the inputs" in str(again[str(i)]) for i in (0, 6))
    for wrong, words in (
        ({"batch": 0}, "batch is 0"),
        ({"tile": 5}, "tile is 5"),
        ({"model": "nope"}, "nope"),
    ):
        with pytest.raises(InputError, match=words):
            mgdn_jax.fuse_folders("ir", "vi", **{"output": "o", "model": fuser} | wrong)
    with pytest.raises(InputError, match="two folders or more"):
        mgdn_jax.fuse_folders("ir", output="o")


def test_a_batch_of_none_is_refused(capsys):
    make_folders(4)
    assert mgdn("fuse ir vi -o out --model m.safetensors --batch 0") == 2
    assert "--batch is 0" in capsys.readouterr().err
