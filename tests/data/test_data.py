"""Prepared sets: what goes in comes out, bad folders are refused, TensorFlow stays away."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mgdn_jax import data
from mgdn_jax.data.augmentation import crop_around, mirror_index
from mgdn_jax.data.builders import label_ids
from mgdn_jax.errors import InputError
from mgdn_jax.io.codec import encode_jpeg, encode_png

GOLDENS = Path(__file__).parents[1] / "goldens"


def put(path: Path, array: np.ndarray) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = encode_jpeg(array) if path.suffix == ".jpg" else encode_png(array)
    path.write_bytes(content)
    return content


@pytest.fixture
def pairs(tmp_path):
    rng = np.random.default_rng(0)
    source = tmp_path / "source"
    for k in range(3):
        put(source / "ir" / f"p{k}.png", rng.integers(0, 256, (6, 8 + k), np.uint8))
        put(source / "vi" / f"p{k}.jpg", rng.integers(0, 256, (6, 8 + k, 3), np.uint8))
    return source


def test_bytes_names_and_sizes_come_back(pairs, tmp_path):
    seen = []
    path = data.prepare(
        "pairs", pairs, tmp_path / "out", progress=lambda done, total: seen.append((done, total))
    )
    assert path == tmp_path / "out" / "pairs"
    assert seen == [(1, 3), (2, 3), (3, 3)]
    source, manifest = data.open_set(path, "train")
    assert manifest["roles"] == ["a", "b"]
    assert manifest["examples"] == len(source) == 3
    found = {}
    for example in source:
        name = example["name"] if isinstance(example["name"], str) else example["name"].decode()
        found[name] = (int(example["height"]), int(example["width"]))
        assert example["a"] == (pairs / "ir" / f"{name}.png").read_bytes()
        assert example["b"] == (pairs / "vi" / f"{name}.jpg").read_bytes()
    assert found == {f"p{k}": (6, 8 + k) for k in range(3)}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["pairs"]


def test_preparing_again_does_nothing_until_the_source_changes(pairs, tmp_path):
    path = data.prepare("pairs", pairs, tmp_path / "out")
    before = (path / "prepared.json").stat().st_ino
    data.prepare("pairs", pairs, tmp_path / "out")
    assert (path / "prepared.json").stat().st_ino == before
    put(pairs / "ir" / "p0.png", np.zeros((6, 8), np.uint8))
    data.prepare("pairs", pairs, tmp_path / "out")
    source, _ = data.open_set(path, "train")
    assert (pairs / "ir" / "p0.png").read_bytes() in [example["a"] for example in source]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["pairs"]


def test_targets_names_and_the_default_place(pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("MGDN_DATA_DIR", str(tmp_path / "store"))
    for k in range(3):
        put(pairs / "target" / f"p{k}.png", np.zeros((6, 8 + k), np.uint8))
    path = data.prepare("pairs", pairs, name="mine")
    assert path == tmp_path / "store" / "mine"
    _, manifest = data.open_set("mine", "train")
    assert manifest["roles"] == ["a", "b", "target"]
    monkeypatch.delenv("MGDN_DATA_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert data.data_root() == tmp_path / "xdg" / "mgdn_jax" / "data"
    with pytest.raises(InputError, match="mgdn data prepare natural --source"):
        data.open_set("natural", "train")


def test_slot_order_follows_the_usual_names_or_the_caller(tmp_path):
    for folder in ("PET", "MRI"):
        put(tmp_path / "s" / folder / "x.png", np.full((4, 4), len(folder + folder[0]), np.uint8))
    put(tmp_path / "s" / "PET" / "x.png", np.full((4, 4), 9, np.uint8))
    pet = (tmp_path / "s" / "PET" / "x.png").read_bytes()
    first, _ = data.open_set(data.prepare("pairs", tmp_path / "s", tmp_path / "1"), "train")
    assert first[0]["a"] == pet
    second, _ = data.open_set(
        data.prepare("pairs", tmp_path / "s", tmp_path / "2", folders=("MRI", "PET")), "train"
    )
    assert second[0]["b"] == pet


def break_partner(source):
    (source / "vi" / "p1.jpg").unlink()
    return "p1.png has no partner in .*vi"


def break_size(source):
    put(source / "vi" / "p2.jpg", np.zeros((6, 9, 3), np.uint8))
    return "p2.jpg is 9x6, but .*p2.png is 10x6"


def break_bytes(source):
    content = (source / "vi" / "p0.jpg").read_bytes()
    (source / "vi" / "p0.jpg").write_bytes(content[: len(content) // 2])
    return "p0.jpg is damaged"


def break_alpha(source):
    put(source / "ir" / "p0.png", np.zeros((6, 8, 4), np.uint8))
    return "p0.png has an alpha channel"


def break_stem(source):
    put(source / "ir" / "p0.jpg", np.zeros((6, 8), np.uint8))
    return "ir holds both p0.jpg and p0.png"


def break_folders(source):
    put(source / "more" / "p0.png", np.zeros((6, 8), np.uint8))
    (source / "ir").rename(source / "thermal")
    return "it holds more, thermal, vi"


def break_empty(source):
    for path in (source / "vi").iterdir():
        path.unlink()
    return "vi holds no image"


@pytest.mark.parametrize(
    "damage",
    [
        break_partner,
        break_size,
        break_bytes,
        break_alpha,
        break_stem,
        break_folders,
        break_empty,
    ],
)
def test_bad_folders_are_refused_by_name_and_leave_nothing(pairs, tmp_path, damage):
    message = damage(pairs)
    with pytest.raises(InputError, match=message) as caught:
        data.prepare("pairs", pairs, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_bad_arguments_of_prepare(pairs, tmp_path):
    with pytest.raises(InputError, match="no set 'mff'"):
        data.prepare("mff", pairs, tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        data.prepare("pairs", tmp_path / "nowhere", tmp_path)
    with pytest.raises(InputError, match="train/ and train_seg/"):
        data.prepare("natural", pairs, tmp_path)
    with pytest.raises(InputError, match="must not be a path"):
        data.prepare("pairs", pairs, tmp_path, name="../x")
    with pytest.raises(InputError, match="must name two folders"):
        data.prepare("pairs", pairs, tmp_path, folders=("ir",))
    with pytest.raises(InputError, match="uv is not a folder"):
        data.prepare("pairs", pairs, tmp_path, folders=("ir", "uv"))
    put(tmp_path / "out" / "pairs" / "keep.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(InputError, match="is not a prepared set"):
        data.prepare("pairs", pairs, tmp_path / "out")
    assert (tmp_path / "out" / "pairs" / "keep.png").exists()


def test_splits_are_disjoint_and_complete(pairs, tmp_path):
    path = data.prepare("pairs", pairs, tmp_path / "out")
    head, tail = (data.open_set(path, s)[0] for s in ("train[:67%]", "train[67%:]"))
    assert (len(head), len(tail)) == (2, 1)
    assert len({e["name"] for e in [*head, *tail]}) == 3
    for split, message in (("test", "cannot be read"), ("train[100%:]", "empty|cannot be read")):
        with pytest.raises(InputError, match=message):
            data.open_set(path, split)


def test_tensorflow_is_never_imported(pairs, tmp_path):
    program = (
        "import sys\n"
        "from mgdn_jax import data\n"
        "path = data.prepare('pairs', sys.argv[1], sys.argv[2])\n"
        "loader = data.make_loader(path, task='pairs', crop=4, batch_size=2, split='train')\n"
        "assert next(loader)['a'].shape == (2, 4, 4, 3)\n"
        "loader.close()\n"
        "print('tensorflow' in sys.modules, 'torch' in sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(pairs), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env={**os.environ, "MGDN_DATA_DIR": str(tmp_path)},
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "False False\n"


def test_label_images_in_colour_become_numbers():
    palette = np.array([[0, 0, 0], [128, 0, 0], [0, 0, 128]], np.uint8)
    labels = np.array([[0, 1], [2, 1]])
    ids = label_ids(palette[labels])
    assert ids.shape == (2, 2)
    assert ids[0, 1] == ids[1, 1]
    assert len(np.unique(ids)) == 3


def test_augmentation_matches_the_published_modes():
    golden = np.load(GOLDENS / "augment.npz")
    for mode in range(8):
        np.testing.assert_array_equal(
            data.augment(golden["in:img"], mode), golden[f"out:mode{mode}"], strict=True
        )
    with pytest.raises(InputError, match="mode 8"):
        data.augment(golden["in:img"], 8)


@pytest.mark.parametrize(
    ("start", "count", "size"), [(-9, 30, 4), (0, 4, 4), (2, 9, 1), (-1, 3, 2)]
)
def test_windows_outside_mirror_like_numpy(start, count, size):
    before, after = max(-start, 0), max(start + count - size, 0)
    expected = np.pad(np.arange(size), (before, after), mode="reflect")
    expected = expected[start + before : start + before + count]
    np.testing.assert_array_equal(mirror_index(start, count, size), expected)
    image = np.arange(size * 5).reshape(size, 5)
    np.testing.assert_array_equal(crop_around(image, start, 1, count, 3), image[expected, 1:4])


def names_of(path):
    return sorted(example["name"].decode() for example in data.open_set(path, "train")[0])


def test_patterns_choose_the_examples(pairs, tmp_path):
    put(pairs / "ir" / "Q.png", np.zeros((4, 4), np.uint8))
    put(pairs / "vi" / "Q.png", np.zeros((4, 4), np.uint8))
    for only, names in (
        (["p*"], ["p0", "p1", "p2"]),
        (("p1", "Q"), ["Q", "p1"]),
        (["!p[12]"], ["Q", "p0"]),
        (["p*", "!*1"], ["p0", "p2"]),
        (["P*", "q", "Q"], ["Q"]),
        ([], ["Q", "p0", "p1", "p2"]),
        (None, ["Q", "p0", "p1", "p2"]),
    ):
        path = data.prepare("pairs", pairs, tmp_path / "out", only=only)
        assert names_of(path) == names
        # Other patterns that choose the same make the same set, which is there already.
        before = (path / "prepared.json").stat().st_ino
        data.prepare("pairs", pairs, tmp_path / "out", only=names)
        assert (path / "prepared.json").stat().st_ino == before
    for only, words in (
        (["msrs_*", "!p1"], "4 names, Q to p2, and none fits 'msrs_*' '!p1'; write patterns like"),
        (["!*"], "and none fits '!*'; write"),
        ("p*", "only is 'p*'; give a list of patterns"),
        ([1], "only is [1]; give a list of patterns"),
        (3, "only is 3; give a list of patterns"),
    ):
        with pytest.raises(InputError) as caught:
            data.prepare("pairs", pairs, tmp_path / "out", only=only)
        assert words in str(caught.value)
    assert names_of(path) == ["Q", "p0", "p1", "p2"]
