"""Weights that travel and checkpoints that survive: nothing half-written is ever read."""

import copy
import json
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

from mgdn_jax.errors import InputError
from mgdn_jax.training.checkpoints import Checkpoints, _check_header, _is_news, newest_whole
from mgdn_jax.weights.store import load_weights, save_weights

PARAMS = {
    "layers/0/kernel": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not C-contiguous
    "scale": np.float32(-0.0),
}


def write(path, **changes):
    fields = {"system": "mgdn", "config": {"heads": [1, 2]}, "params": PARAMS}
    save_weights(path, **fields | changes)
    return path


# ---- weights -------------------------------------------------------------------------------


def test_weights_come_back_bit_for_bit(tmp_path):
    stats = {"mean": jnp.ones((2,)), "count": np.int32(3)}
    path = write(tmp_path / "new" / "w.safetensors", stats=stats, card={"title": "läuft"})
    weights = load_weights(path)
    assert (weights.system, weights.config) == ("mgdn", {"heads": [1, 2]})
    assert weights.card == {"title": "läuft"}
    assert set(weights.params) == set(PARAMS)
    for name, value in PARAMS.items():
        assert weights.params[name].tobytes() == value.tobytes()
        assert weights.params[name].shape == value.shape
    assert set(weights.stats) == {"mean", "count"}
    assert weights.stats["count"].dtype == np.int32
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]


def test_half_stored_weights_come_back_as_float32(tmp_path):
    values = np.random.default_rng(0).uniform(1e-4, 2.0, (64, 64)).astype(np.float32)
    params = {"kernel": values, "tiny": np.float32([6e-8, 0.0]), "count": np.int32([3])}
    stats = {"mean": values[0]}
    whole = write(tmp_path / "whole.safetensors", params=params, stats=stats)
    half = write(tmp_path / "half.safetensors", params=params, stats=stats, half=True)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    weights = load_weights(half)
    assert {v.dtype for v in weights.params.values()} == {np.dtype("f4"), np.dtype("i4")}
    assert weights.params["count"] == [3]
    assert weights.stats["mean"].tobytes() == values[0].tobytes()
    assert np.abs(weights.params["tiny"] - params["tiny"]).max() < 3e-8
    worst = np.abs(weights.params["kernel"] / values - 1).max()
    print(f"relative error of a parameter: {worst:.1e}")
    assert 0 < worst <= 2**-11
    # Once rounded they stay as they are.
    again = write(tmp_path / "again.safetensors", params=weights.params, stats=stats, half=True)
    for name, value in load_weights(again).params.items():
        assert value.tobytes() == weights.params[name].tobytes(), name
    before = half.read_bytes()
    with pytest.raises(ValueError, match="kernel has values too large for float16"):
        write(half, params={"kernel": np.float32([1e5])}, half=True)
    assert half.read_bytes() == before


def test_weights_refuse_names_that_would_not_come_back(tmp_path):
    for params in ({}, {"stats:x": np.ones(1)}):
        with pytest.raises(ValueError, match="non-empty flat dict"):
            write(tmp_path / "w.safetensors", params=params)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_truncated_weights_are_one_clear_error(tmp_path, keep):
    path = write(tmp_path / "w.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"w\.safetensors: is damaged or not a safetensors"):
        load_weights(path)


def test_foreign_weights_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(InputError, match="no such weights file"):
        load_weights(path)
    with pytest.raises(InputError, match="no such weights file"):
        load_weights(tmp_path)
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(InputError, match="mgdn convert"):
        load_weights(path)
    save_file({"x": np.ones(2, np.float32)}, path)
    with pytest.raises(InputError, match="not written by mgdn_jax"):
        load_weights(path)
    ours = {"format": "mgdn_jax", "version": "1", "system": "mgdn", "config": "{}", "card": "{}"}
    for change, words in [
        ({"version": "2"}, "format version '2'"),
        ({"config": "{"}, "lacks a readable"),
    ]:
        save_file({"x": np.ones(2, np.float32)}, path, metadata=ours | change)
        with pytest.raises(InputError, match=words):
            load_weights(path)


def test_weights_are_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write(tmp_path / "w.safetensors")
    before = path.read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match="no space left on device"):
        write(path, system="other")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "file" / "w.safetensors")


# ---- checkpoints ---------------------------------------------------------------------------


def trees(value):
    params = {"net": {"a/0/k": jnp.full((2, 3), value, jnp.float32), "s": jnp.float32(-0.0)}}
    opt = {"net": optax.adam(1e-3).init(params["net"])}
    return {"params": params, "stats": {"net": {}}, "opt": opt, "ema": {}}


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def opened(folder):
    made = []

    def open_(**options):
        made.append(Checkpoints(folder, **options))
        return made[-1]

    yield open_
    for checkpoints in made:
        checkpoints.close()


def fill(checkpoints, steps=(10, 20)):
    for step in steps:
        checkpoints.save(step, trees(step), data={"next": step}, meta={"at": step})
    assert checkpoints.steps() == list(steps)


def test_checkpoint_comes_back_bit_for_bit(opened):
    fill(opened())
    shapes = jax.eval_shape(lambda: trees(0))
    restored = opened().restore(shapes)
    same(restored.trees, trees(20))
    assert (restored.step, restored.data, restored.meta) == (20, {"next": 20}, {"at": 20})


def test_an_empty_folder_restores_nothing(opened):
    assert opened().restore(trees(0)) is None


def test_a_save_is_a_copy(opened):
    checkpoints = opened()
    donated = jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)
    state = trees(1.0)
    checkpoints.save(1, state, data={}, meta={})
    state = donated(state)
    restored = checkpoints.restore(trees(0)).trees
    assert jax.tree.all(jax.tree.map(np.array_equal, restored, trees(1.0)))


def test_last_and_best_are_kept_even_over_restarts(opened):
    for part in ((10, 20, 30), (40, 50)):
        checkpoints = opened(keep=2, best="psnr")
        for step in part:
            metrics = {"psnr": 40.0 - abs(step - 20)} if step != 30 else None
            checkpoints.save(step, trees(step), data={}, meta={}, metrics=metrics)
        checkpoints.close()
    assert opened(keep=2, best="psnr").steps() == [20, 40, 50]


def test_a_target_that_does_not_fit_is_one_clear_error(opened):
    checkpoints = opened()
    fill(checkpoints)
    target = trees(0)
    target["params"]["net"] = {"a/0/k": jnp.zeros((3, 2)), "new": jnp.zeros(1)}
    with pytest.raises(InputError) as caught:
        checkpoints.restore(target)
    message = str(caught.value)
    assert "-net/new (missing)" in message
    assert "+net/s (not wanted)" in message
    assert "net/a/0/k: float32(2, 3), not float32(3, 2)" in message
    target = trees(0)
    target["ema"] = {"net": {"w": jnp.zeros(1)}}
    with pytest.raises(InputError, match="'ema' does not fit"):
        checkpoints.restore(target)
    assert checkpoints.steps() == [10, 20]


def damage(folder, how):
    biggest = max((folder / "opt").rglob("*"), key=lambda p: p.is_file() and p.stat().st_size)
    if how == "gone":
        shutil.rmtree(folder / "params")
    elif how == "header":
        (folder / "header" / "metadata").write_text("{")
    elif how == "cut":
        for path in (folder / "opt").rglob("d/*"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "checksum":
        # What a flipped bit in the stored numbers would amount to.
        path = folder / "header" / "metadata"
        header = json.loads(path.read_text())
        header["checksums"]["params"] ^= 1
        path.write_text(json.dumps(header))
    assert biggest.is_file()


# Orbax leaves its other reads behind when the first of them fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", ["gone", "header", "cut", "checksum"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(folder, opened, how):
    fill(opened())
    damage(folder / "20", how)
    lines = []
    checkpoints = opened()
    restored = checkpoints.restore(trees(0), warn=lines.append)
    assert restored.step == 10
    same(restored.trees, trees(10))
    assert len(lines) == 1
    assert "checkpoints/20 is damaged" in lines[0]
    assert "\n" not in lines[0]
    assert sorted(p.name for p in folder.iterdir()) == ["10", "damaged-20"]
    fill_again = trees(20)
    checkpoints.save(20, fill_again, data={}, meta={})
    assert checkpoints.steps() == [10, 20]


def header_of(folder, step):
    path = folder / str(step) / "header" / "metadata"
    return path, json.loads(path.read_text())


CHANGES = [
    lambda header: header["data"].update(next=21),
    lambda header: header["data"].update(next="20"),
    lambda header: header["data"].clear(),
    lambda header: header["meta"].update(at=2),
    lambda header: header["checksums"].popitem(),
    lambda header: header.update(step=10),
    lambda header: header.update(checksum=header["checksum"] ^ 1),
    lambda header: header.update(checksum=None),
    lambda header: header.update(chexsum=header.pop("checksum")),
    lambda header: header.pop("data"),
    lambda header: header.update(more=1),
]


def test_a_header_that_was_changed_counts_as_damaged(folder, opened):
    fill(opened())
    path, whole = header_of(folder, 20)
    _check_header(whole, 20)
    for change in CHANGES:
        header = copy.deepcopy(whole)
        change(header)
        with pytest.raises(ValueError, match="header"):
            _check_header(header, 20)
    # One digit of the position in the data.
    path.write_text(path.read_text().replace('"next": 20', '"next": 21'))
    assert header_of(folder, 20)[1] != whole
    lines = []
    restored = opened().restore(trees(0), warn=lines.append)
    assert (restored.step, restored.data) == (10, {"next": 10})
    assert "checkpoints/20 is damaged (checksum of its header differs)" in lines[0]


@pytest.mark.parametrize("content", ["[]", "[" * 50_000, ""])
def test_a_header_that_is_none_counts_as_damaged(folder, opened, content):
    fill(opened())
    header_of(folder, 20)[0].write_text(content)
    assert opened().restore(trees(0)).step == 10


@pytest.mark.parametrize(
    ("name", "content"),
    [("metrics/metrics", b""), ("metrics/metrics", b"3"), ("_CHECKPOINT_METADATA", b"[" * 50_000)],
)
def test_what_is_read_of_all_checkpoints_may_be_damaged_in_one(folder, opened, name, content):
    fill(opened())
    (folder / "20" / name).write_bytes(content)
    lines = []
    assert opened().restore(trees(0), warn=lines.append).step == 10
    assert "checkpoints/20 is damaged (its list of figures cannot be read)" in lines[0]
    (folder / "10" / "metrics" / "metrics").write_text('{"psnr": "x"}')
    with pytest.raises(InputError, match="all of its checkpoints are damaged"):
        opened().restore(trees(0))


def test_a_checkpoint_under_another_number_is_not_taken(folder, opened):
    fill(opened())
    shutil.move(folder / "20", folder / "30")
    lines = []
    assert opened().restore(trees(0), warn=lines.append).step == 10
    assert "checkpoints/30 is damaged (checksum of its header differs)" in lines[0]


def test_checkpoints_without_a_checksum_are_taken_with_a_word(folder, opened):
    """As release 0.1 wrote them."""
    fill(opened())
    path, header = header_of(folder, 20)
    before = {name: header[name] for name in ("checksums", "data", "meta")}
    path.write_text(json.dumps(before))
    lines = []
    restored = opened().restore(trees(0), warn=lines.append)
    same(restored.trees, trees(20))
    assert (restored.step, restored.data, restored.meta) == (20, {"next": 20}, {"at": 20})
    assert len(lines) == 1
    assert "checkpoints/20 was written by an older version and has no checksum" in lines[0]


def test_the_newest_whole_checkpoint_is_found_by_name(folder):
    assert newest_whole(folder) is None
    names = ("9", "10", "damaged-30", "20.orbax-checkpoint-tmp", "²", "x")
    for name in names:
        (folder / name).mkdir(parents=True)
    assert newest_whole(folder) == folder / "10"


# Orbax leaves its other reads behind when the first of them fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_all_damaged_is_one_clear_error(folder, opened):
    fill(opened())
    for step in ("10", "20"):
        damage(folder / step, "gone")
    with pytest.raises(InputError, match="all of its checkpoints are damaged"):
        opened().restore(trees(0))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/x: cannot be made"):
        Checkpoints(tmp_path / "file" / "x")


KILLED = """
import os, pathlib, signal, sys, threading, time
import numpy as np
from mgdn_jax.checkpoint import Checkpoints

folder = pathlib.Path(sys.argv[1])
checkpoints = Checkpoints(folder)
checkpoints.save(1, {"params": {"w": np.ones(4, np.float32)}}, data={"n": 1}, meta={})
checkpoints.wait()

def kill():
    while not any(p.name.startswith("2.") for p in folder.iterdir()):
        time.sleep(1e-4)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=kill).start()
noise = np.random.default_rng(0).random(1 << 24, np.float32)
checkpoints.save(2, {"params": {"w": noise}}, data={"n": 2}, meta={})
checkpoints.wait()
"""


def test_killed_while_saving_leaves_the_checkpoint_before(folder, opened):
    root = pathlib.Path(__file__).parents[2]
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder)], cwd=root, capture_output=True, timeout=120
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert any(p.name.startswith("2.") for p in folder.iterdir())
    restored = opened().restore({"params": {"w": np.zeros(4, np.float32)}})
    assert (restored.step, restored.data) == (1, {"n": 1})
    np.testing.assert_array_equal(restored.trees["params"]["w"], np.ones(4))
    assert [p.name for p in folder.iterdir()] == ["1"]


@pytest.mark.parametrize(
    ("place", "level", "message", "is_news"),
    [
        ("orbax/manager.py", logging.ERROR, "Traceback", False),
        ("asyncio/tasks.py", logging.ERROR, "while writing x.orbax-checkpoint-tmp", False),
        ("orbax/manager.py", logging.WARNING, "Metadata file does not exist: checkpoints/4", False),
        ("orbax/manager.py", logging.WARNING, "the disk is slow", True),
        ("asyncio/tasks.py", logging.ERROR, "Traceback", True),
        ("mine/reader.py", logging.WARNING, "Metadata file does not exist: x.json", True),
    ],
)
def test_what_orbax_says_of_half_a_checkpoint_is_left_out(place, level, message, is_news):
    record = logging.LogRecord("x", level, place, 1, "%s", (message,), None)
    assert _is_news(record) == is_news
