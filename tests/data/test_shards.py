"""Sets in shards: what is written, what stands where, and who reads what."""

import itertools
import json
import shutil

import numpy as np
import pytest

from mgdn_jax import data
from mgdn_jax.cli import main as cli
from mgdn_jax.data.builders import read_manifest, split_size
from mgdn_jax.errors import InputError
from mgdn_jax.io.codec import encode_png

SETS = {"day": 22, "night": 9}
COUNT = 4
COMMON = {"task": "pairs", "crop": 6, "channels": 1, "batch_size": 8}
QUIET = {"threads": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """`day` and `night` in four shards each; the grey level of a picture is its number.

    `whole` is as `day`, and `two` in two shards.
    """
    folder = tmp_path_factory.mktemp("shards")
    for name, count in SETS.items():
        for role, k in itertools.product(("a", "b"), range(count)):
            path = folder / "source" / name / role / f"{k:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(np.full((9, 12), 100 * (name == "night") + k, np.uint8)))
        data.prepare("pairs", folder / "source" / name, folder / "sets", name=name, shards=COUNT)
    for name, shards in (("whole", 0), ("two", 2)):
        source = folder / "source" / "day"
        data.prepare("pairs", source, folder / "sets", name=name, shards=shards)
    return folder


@pytest.fixture(autouse=True)
def here(root, monkeypatch):
    monkeypatch.setenv("MGDN_DATA_DIR", str(root / "sets"))


def levels(batches):
    """Grey levels in the order of the stream."""
    return np.concatenate([np.rint(b["a"][:, 0, 0, 0] * 255) for b in batches]).astype(int)


def take(count, dataset="day", **arguments):
    arguments = {**COMMON, **QUIET, "split": "train", "prefetch": 1, **arguments}
    with data.make_loader(dataset, **arguments) as loader:
        return list(itertools.islice(loader, count))


def assert_same(one, two):
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key, strict=True)


def test_what_is_written(root, capsys):
    sizes = [6, 6, 5, 5]
    for k, size in enumerate(sizes):
        folder = root / "sets" / f"day-0000{k}-of-00004"
        manifest = read_manifest(folder)
        assert (manifest["shard"], manifest["of"], manifest["examples"]) == (k, sizes, size)
        source, _ = data.open_set(folder, "train")  # a set by itself
        names = sorted(example["name"].decode() for example in source)
        assert names == [f"{i:02d}" for i in range(k, 22, 4)]
    stamps = {p: p.stat().st_mtime_ns for p in (root / "sets").glob("day-*/*")}
    words = ["data", "prepare", "pairs", "--source", str(root / "source" / "day")]
    words += ["--out", str(root / "sets"), "--name", "day", "--shards", "4"]
    assert cli.main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["examples"] == 22
    assert said["shards"] == [str(root / "sets" / f"day-0000{k}-of-00004") for k in range(4)]
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps  # nothing was written again
    assert cli.main(words) == 0
    assert "day-00000-of-00004 to day-00003-of-00004" in capsys.readouterr().out


def test_a_shard_that_is_lost_is_written_again(root, tmp_path):
    source = root / "source" / "night"
    data.prepare("pairs", source, tmp_path, name="night", shards=2)
    shutil.rmtree(tmp_path / "night-00001-of-00002")
    kept = (tmp_path / "night-00000-of-00002" / "prepared.json").stat().st_mtime_ns
    data.prepare("pairs", source, tmp_path, name="night", shards=2)
    assert read_manifest(tmp_path / "night-00001-of-00002")["shard"] == 1
    assert (tmp_path / "night-00000-of-00002" / "prepared.json").stat().st_mtime_ns == kept


def test_position_i_is_of_shard_i_mod_n_and_shuffled_there():
    batches = take(11)
    seen = levels(batches)
    np.testing.assert_array_equal(seen % COUNT, np.arange(88) % COUNT)
    for k in range(COUNT):
        size = len(range(k, 22, COUNT))
        rounds = seen[k::COUNT][: 3 * size].reshape(3, size)
        for row in rounds:  # each example once a round
            assert sorted(row) == list(range(k, 22, COUNT))
        assert len({tuple(row) for row in rounds}) == 3
    np.testing.assert_array_equal(np.concatenate([b["_index"] for b in batches]), np.arange(88))


@pytest.mark.parametrize("mix", [None, {"day": 3, "night": 1}])
def test_the_order_depends_on_the_number_of_shards_alone(mix):
    dataset = "" if mix else "day"
    whole = take(6, dataset, mix=mix)
    for count in (2, 4):
        for p in range(count):
            part = take(6, dataset, mix=mix, process_index=p, process_count=count)
            for mine, batch in zip(part, whole, strict=True):
                assert_same(mine, {key: value[p::count] for key, value in batch.items()})
    if mix:
        numbers = np.concatenate([batch["_set"] for batch in whole])
        assert np.bincount(numbers).tolist() == [36, 12]


def test_a_process_opens_its_own_shards_alone(root, tmp_path, monkeypatch):
    for p in range(2):
        sets = tmp_path / str(p)
        for k in (p, p + 2):
            name = f"day-0000{k}-of-00004"
            shutil.copytree(root / "sets" / name, sets / name)
    whole, held_out = take(3), list(evaluation())
    for p in range(2):
        monkeypatch.setenv("MGDN_DATA_DIR", str(tmp_path / str(p)))
        membership = {"process_index": p, "process_count": 2}
        for mine, batch in zip(take(3, **membership), whole, strict=True):
            assert_same(mine, {key: value[p::2] for key, value in batch.items()})
        for mine, batch in zip(evaluation(**membership), held_out, strict=True):
            assert_same(mine, {key: value[p::2] for key, value in batch.items()})
        with data.make_loader("day", **COMMON, **QUIET, **membership, split="train") as loader:
            assert len(loader.dataset) == 22
            names = {loader.dataset[i]["name"] for i in range(6)} if p == 0 else set()
            assert len(names) == 6 * (p == 0)
            with pytest.raises(IndexError, match="is in a shard of another process"):
                loader.dataset[8 - 8 * p]
        with pytest.raises(InputError, match=f"reads day-0000{1 - p}-of-00004, which is not in"):
            take(1)


def evaluation(dataset="day", **arguments):
    return data.make_eval_loader(dataset, **{**COMMON, **QUIET, "split": "train", **arguments})


@pytest.mark.parametrize(("limit", "count"), [(None, 22), (7, 7), (2, 2), (100, 22)])
def test_validation_has_every_example_once(limit, count):
    loader = evaluation(limit=limit)
    assert loader.examples_per_epoch == count
    batches = list(loader)
    masks = np.concatenate([batch["_mask"] for batch in batches])
    assert masks.sum() == count
    seen = levels(batches)[masks > 0]
    assert len({*seen}) == count
    np.testing.assert_array_equal(seen % COUNT, np.arange(count) % COUNT)
    index = np.concatenate([batch["_index"] for batch in batches])
    np.testing.assert_array_equal(index[masks > 0], np.arange(count))


def test_the_split_is_of_each_shard():
    with data.make_loader("day", **COMMON, **QUIET, split="train[:80%]") as loader:
        assert len(loader.dataset) == sum(round(0.8 * n) for n in (6, 6, 5, 5))
    assert evaluation(split="train[80%:]").examples_per_epoch == 4
    for size, (split, part) in itertools.product(
        (1, 7, 19, 20, 21, 400), (("train", 1), ("train[:95%]", 0.95), ("train[:10%]", 0.1))
    ):
        assert abs(split_size(split, size) - part * size) <= 0.5
        if split == "train[:95%]":
            assert split_size(split, size) + split_size("train[95%:]", size) == size
    with pytest.raises(InputError, match='write it like "train'):
        split_size("test", 9)


def test_a_position_is_taken_up_by_another_number_of_processes():
    with data.make_loader("day", **COMMON, **QUIET, split="train") as loader:
        for _ in range(3):
            next(loader)
        state = loader.state()
        batch = next(loader)
    assert state["shards"] == COUNT
    state = json.loads(json.dumps(state))
    membership = {"process_index": 1, "process_count": 2}
    with data.make_loader("day", **COMMON, **QUIET, **membership, split="train") as loader:
        loader.restore(state)
        assert_same(next(loader), {key: value[1::2] for key, value in batch.items()})
    for other, has in (("whole", "None"), ("two", "2")):
        with (
            data.make_loader(other, **COMMON, **QUIET, split="train") as loader,
            pytest.raises(InputError, match=f"has shards 4, this run has {has};"),
        ):
            loader.restore(state)


def test_passes_through_the_sets_of_a_mixture():
    arguments = {**COMMON, **QUIET, "mix": {"day": 3, "night": 1}, "split": "train"}
    with data.make_loader(**arguments) as loader:
        assert len(loader.dataset) == 31
        assert loader.state()["sets"] == SETS
        assert loader.passes(4) == pytest.approx({"day": 24 / 22, "night": 8 / 9})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"process_index": 0, "process_count": 8},
            "in 4 shards, which 8 processes cannot share evenly; use a number of processes that",
        ),
        ({"split": "train[95%:]"}, "day-00000-of-00004 is empty; choose a larger share."),
        (
            {"split": "train[91%:]", "process_index": 0, "process_count": 4},
            "of day-00002-of-00004 is empty (5 examples); choose a larger share, or fewer shards",
        ),
        ({"dataset": "", "mix": {"day": 1, "whole": 1}}, "'day' is in 4 shards and 'whole' in 0"),
        ({"dataset": "day-00000-of-00005"}, "neither a prepared folder nor found in"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(arguments, words):
    with pytest.raises(InputError) as caught:
        take(1, **arguments)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_in_the_way_or_missing_is_one_sentence(root, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="'day' is in 4 shards, which training alone reads as on"):
        data.open_set("day", "train")
    with pytest.raises(InputError, match=r"whole pictures are batched by size.*validation.crop"):
        evaluation(crop=None)
    source = root / "source" / "night"
    for shards, words in ((10, "holds 9 examples; use 9 at most"), (-1, "shards is -1; give 1")):
        with pytest.raises(InputError, match=words):
            data.prepare("pairs", source, tmp_path, shards=shards)
    sets = tmp_path / "sets"
    monkeypatch.setenv("MGDN_DATA_DIR", str(sets))
    for name in ("two-00000-of-00002", "two-00001-of-00002", "whole"):
        shutil.copytree(root / "sets" / name, sets / name)
    shutil.copytree(sets / "whole", sets / "two")
    with pytest.raises(InputError, match="two is there as a whole and in 2 shards; move one of"):
        take(1, "two")
    shutil.rmtree(sets / "two")
    shutil.copytree(sets / "whole", sets / "two-00000-of-00003")
    with pytest.raises(InputError, match="two is there in 2 and in 3 shards; move those away"):
        take(1, "two")
    shutil.rmtree(sets / "two-00000-of-00003")
    shutil.rmtree(sets / "two-00001-of-00002")
    shutil.copytree(root / "sets" / "night-00001-of-00004", sets / "two-00001-of-00002")
    with pytest.raises(InputError, match="two-00001-of-00002 is no shard of the set that the oth"):
        take(1, "two")
