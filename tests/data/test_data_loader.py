"""The loaders: one stream whatever the threads, processes and restarts; every example counts."""

import itertools
import json
import threading
import time

import ml_collections
import numpy as np
import pytest

from mgdn_jax import data
from mgdn_jax.data import examples
from mgdn_jax.errors import InputError
from mgdn_jax.io.codec import encode_png

SMALL = {"min_radius": 1.0, "max_radius": 2.0}


def smooth(rng, shape):
    coarse = rng.uniform(0, 1, (shape[0] // 4 + 1, shape[1] // 4 + 1, 3))
    image = np.kron(coarse, np.ones((4, 4, 1)))[: shape[0], : shape[1]]
    return np.uint8(255 * (0.7 * image + 0.3 * rng.uniform(0, 1, image.shape)))


@pytest.fixture(scope="session")
def natural(tmp_path_factory):
    """Seven pictures of two sizes with three regions each."""
    folder = tmp_path_factory.mktemp("natural")
    rng = np.random.default_rng(0)
    for sub in ("image", "labels"):
        (folder / sub).mkdir()
    for k in range(7):
        shape = (40, 48) if k % 3 else (48, 40)
        labels = np.zeros(shape, np.uint8)
        labels[:20] = 1
        labels[30:, 10:] = 2
        (folder / "image" / f"n{k}.png").write_bytes(encode_png(smooth(rng, shape)))
        (folder / "labels" / f"n{k}.png").write_bytes(encode_png(labels))
    return data.prepare("natural", folder, folder / "out")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """Seven pairs with b = 255 - a, target = a // 2, and a's last channel the pair's number."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for sub in ("a", "b", "target"):
        (folder / sub).mkdir()
    for k in range(7):
        a = rng.integers(0, 256, (20 + k % 2, 24, 3), np.uint8)
        a[..., 2] = 10 * k
        for sub, image in (("a", a), ("b", 255 - a), ("target", a // 2)):
            (folder / sub / f"p{k}.png").write_bytes(encode_png(image))
    return data.prepare("pairs", folder, folder / "out")


def take(count, **arguments):
    with data.make_loader(**arguments) as loader:
        return list(itertools.islice(loader, count))


def assert_same(one, two):
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key, strict=True)


def numbers(batch):
    return np.rint(batch["a"][:, 0, 0, 2] * 25.5).astype(int)


def test_batches_are_float32_in_range_with_indices(natural):
    batches = take(3, dataset=natural, batch_size=4, crop=24, split="train", synthesis=SMALL)
    for step, batch in enumerate(batches):
        assert batch.keys() == {"a", "b", "target", "_index"}
        for key in ("a", "b", "target"):
            assert batch[key].shape == (4, 24, 24, 3)
            assert batch[key].dtype == np.float32
            assert 0 <= batch[key].min() < 0.3
            assert 0.7 < batch[key].max() <= 1
        assert batch["_index"].dtype == np.uint32
        np.testing.assert_array_equal(batch["_index"], 4 * step + np.arange(4))
        assert (batch["a"] != batch["b"]).mean() > 0.3


def test_an_epoch_shows_every_example_once_in_a_new_order(pairs):
    batches = take(14, dataset=pairs, task="pairs", batch_size=1, crop=8, split="train", threads=2)
    seen = np.concatenate([numbers(b) for b in batches])
    assert sorted(seen[:7]) == sorted(seen[7:]) == list(range(7))
    assert list(seen[:7]) != list(seen[7:])


def test_one_crop_and_turn_for_all_images_of_an_example(pairs):
    crops = set()
    for batch in take(20, dataset=pairs, task="pairs", batch_size=7, crop=8, split="train"):
        np.testing.assert_allclose(batch["a"] + batch["b"], 1, atol=1e-6)
        np.testing.assert_array_equal(
            np.rint(batch["target"] * 255), np.rint(batch["a"] * 255) // 2
        )
        crops |= {x.tobytes() for x in batch["a"]}
    assert len(crops) > 120  # 140 crops, nearly all different


def test_without_augmentation_crops_keep_their_orientation(pairs):
    source, _ = data.open_set(pairs, "train")
    images = {examples._name(r): examples._decode(r, "a", 3) for r in source}
    for batch in take(
        3, dataset=pairs, task="pairs", batch_size=4, crop=6, split="train", augment=False
    ):
        for crop in np.rint(batch["a"] * 255).astype(np.uint8):
            image = images[f"p{crop[0, 0, 2] // 10}"]
            windows = np.lib.stride_tricks.sliding_window_view(image[..., :2], (6, 6), (0, 1))
            wanted = np.moveaxis(crop[..., :2], -1, 0)
            assert (windows == wanted).all((2, 3, 4)).sum() == 1


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_same_global_batches(natural, count):
    arguments = {"dataset": natural, "batch_size": 4, "crop": 16, "seed": 3, "synthesis": SMALL}
    whole = take(5, **arguments)
    parts = [
        take(5, **arguments, process_index=p, process_count=count, threads=0) for p in range(count)
    ]
    for step in range(5):
        merged = {
            key: np.stack([parts[p][step][key] for p in range(count)], 1).reshape(
                whole[step][key].shape
            )
            for key in whole[step]
        }
        assert_same(merged, whole[step])


def test_threads_do_not_matter_and_seeds_do(natural):
    arguments = {"dataset": natural, "batch_size": 3, "crop": 16, "synthesis": SMALL}
    for one, two, other in zip(
        take(6, **arguments, threads=0),
        take(6, **arguments, threads=4, prefetch=3),
        take(6, **arguments, seed=1),
        strict=True,
    ):
        assert_same(one, two)
        assert (one["target"] != other["target"]).any()


def test_a_restored_stream_continues_with_the_same_batch(natural):
    arguments = {"dataset": natural, "batch_size": 4, "crop": 16, "synthesis": SMALL}
    straight = take(7, **arguments)
    with data.make_loader(**arguments) as loader:
        for _ in range(4):
            next(loader)
        state = json.loads(json.dumps(loader.state()))
        assert_same(next(loader), straight[4])
        loader.restore(state)
        assert_same(next(loader), straight[4])
        assert loader.state() != state
    with data.make_loader(**arguments) as fresh:
        fresh.restore(state)
        assert_same(next(fresh), straight[4])
        assert_same(next(fresh), straight[5])
    with data.make_loader(**arguments, process_index=1, process_count=2) as half:
        half.restore(state)
        batch = next(half)
        assert half.state()["examples"] == 20
    assert_same(batch, {key: value[1::2] for key, value in straight[4].items()})


def test_a_foreign_state_is_refused(natural):
    with data.make_loader(natural, batch_size=4, crop=16, epochs=3) as loader:
        state = loader.state()
        for change, message in (
            ({"seed": 9}, "seed 9"),
            ({"dataset_size": 5}, "dataset_size 5"),
            ({"examples": 6}, "multiple of batch_size 4"),
            ({"examples": "8"}, "data position 8 is no multiple"),
            ({"examples": [8]}, "is no multiple of batch_size 4"),
            ({"examples": 400}, "beyond this run's end"),
        ):
            with pytest.raises(InputError, match=message):
                loader.restore({**state, **change})


def test_finite_streams_end_and_sizes_are_known(pairs):
    with data.make_loader(
        pairs, task="pairs", batch_size=4, crop=8, split="train", epochs=2
    ) as loader:
        assert len(loader.dataset) == loader.examples_per_epoch == 7
        assert loader.steps_per_epoch == 1.75
        assert len(list(loader)) == 3  # 14 examples, the last two dropped
        with pytest.raises(StopIteration):
            next(loader)
    with pytest.raises(InputError, match="batch_size 8 exceeds the 7 examples"):
        data.make_loader(pairs, task="pairs", batch_size=8, crop=8, split="train", epochs=1)


@pytest.mark.parametrize("task", ["mff", "pairs"])
def test_images_below_the_crop_are_mirrored(natural, pairs, task):
    path = natural if task == "mff" else pairs
    (batch,) = take(1, dataset=path, task=task, batch_size=2, crop=64, split="train")
    assert batch["target"].shape == (2, 64, 64, 3)
    if task == "pairs":
        np.testing.assert_allclose(batch["a"] + batch["b"], 1, atol=1e-6)


def test_luma(pairs):
    arguments = {"dataset": pairs, "task": "pairs", "batch_size": 4, "crop": 8, "split": "train"}
    (colour,), (gray,) = take(1, **arguments), take(1, **arguments, channels=1)
    assert gray["a"].shape == (4, 8, 8, 1)
    luma = colour["a"] @ np.array([0.299, 0.587, 0.114], np.float32)
    np.testing.assert_allclose(gray["a"][..., 0], luma, atol=0.51 / 255)


def test_evaluation_counts_every_example_once(pairs):
    source, _ = data.open_set(pairs, "train")
    loader = data.make_eval_loader(pairs, task="pairs", batch_size=4, crop=8, split="train")
    batches = list(loader)
    assert len(batches) == len(loader) == 2
    assert loader.examples_per_epoch == 7
    mask = np.concatenate([b["_mask"] for b in batches])
    np.testing.assert_array_equal(mask, [1, 1, 1, 1, 1, 1, 1, 0])
    index = np.concatenate([b["_index"] for b in batches])
    np.testing.assert_array_equal(index, [0, 1, 2, 3, 4, 5, 6, 6])
    images = np.concatenate([b["a"] for b in batches])
    for record, image in zip(source, images, strict=False):
        full = examples._decode(record, "a", 3)
        top = (len(full) - 8) // 2
        np.testing.assert_array_equal(np.rint(image * 255), full[top : top + 8, 8:16])
    for one, two in zip(batches, loader, strict=True):
        assert_same(one, two)
    parts = [
        list(
            data.make_eval_loader(
                pairs,
                task="pairs",
                batch_size=4,
                crop=8,
                split="train",
                process_index=p,
                process_count=2,
            )
        )
        for p in range(2)
    ]
    assert sum(b["_mask"].sum() for part in parts for b in part) == 7
    assert_same(parts[1][1], {key: value[1::2] for key, value in batches[1].items()})


def test_whole_images_are_batched_by_size(natural):
    loader = data.make_eval_loader(natural, batch_size=3, split="train", synthesis=SMALL)
    seen = {}
    for batch in loader:
        for index, mask, image in zip(
            batch["_index"], batch["_mask"], batch["target"], strict=True
        ):
            if mask:
                seen[int(index)] = image.shape[:2]
    assert sorted(seen) == list(range(7))
    assert sorted(seen.values()) == [(40, 48)] * 4 + [(48, 40)] * 3
    short = data.make_eval_loader(natural, batch_size=3, split="train", limit=2, crop=8)
    assert sum(b["_mask"].sum() for b in short) == 2


def test_closing_ends_the_threads(natural):
    loader = data.make_loader(natural, batch_size=4, crop=16, threads=3)
    next(loader)
    reading = [t for t in threading.enumerate() if t.name.startswith("grain")]
    assert reading
    loader.close()
    loader.close()
    evaluation = iter(data.make_eval_loader(natural, batch_size=1, split="train", crop=16))
    next(evaluation)
    evaluation.close()
    deadline = time.monotonic() + 20
    while any(t.name.startswith("grain") for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "nowhere"}, "mgdn data prepare SET --source"),
        ({"task": "pairs"}, "use task 'mff'"),
        ({"task": "ivf"}, "no task 'ivf'"),
        ({"channels": 2}, "channels is 2"),
        ({"crop": 0}, "crop is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"process_index": 2, "process_count": 2}, "process_index 2"),
        ({"batch_size": 3, "process_count": 2}, "multiple of the 2 processes"),
        ({"threads": -1}, "threads is -1"),
        ({"synthesis": {"radius": 3}}, "no field radius"),
        ({"split": "validation"}, "cannot be read"),
    ],
)
def test_bad_arguments_end_in_one_sentence(natural, change, message):
    with pytest.raises(InputError, match=message) as caught:
        data.make_loader(**{"dataset": natural, "batch_size": 2, "crop": 16} | change)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """Five pairs without targets, 40x48 gray, each source one value."""
    folder = tmp_path_factory.mktemp("plain")
    for sub, value in (("a", 64), ("b", 191)):
        (folder / sub).mkdir()
        for k in range(5):
            (folder / sub / f"{k}.png").write_bytes(encode_png(np.full((40, 48), value, np.uint8)))
    return data.prepare("pairs", folder, folder / "out")


def test_jitter_that_is_off_changes_no_bit(plain):
    common = {"dataset": plain, "task": "pairs", "batch_size": 2, "crop": 16, "channels": 1}
    off = {"scale": 1.0, "gamma": 1.0, "noise": 0.0, "clip": 0.0}
    for one, two in zip(take(4, **common), take(4, **common, jitter=off), strict=True):
        assert_same(one, two)


def test_tone_and_noise_are_drawn_for_each_source_and_within_their_ranges(plain):
    common = {"dataset": plain, "task": "pairs", "batch_size": 5, "crop": 16, "channels": 1}
    powers = {"a": [], "b": []}
    for batch in take(20, **common, jitter={"gamma": 2.0}):
        for role, value in (("a", 64 / 255), ("b", 191 / 255)):
            assert (batch[role] == batch[role][:, :1, :1]).all()
            powers[role] += list(np.log2(np.log(batch[role][:, 0, 0, 0]) / np.log(value)))
    for drawn in powers.values():  # log-uniform in 1/2 .. 2
        assert -1.001 < min(drawn) < -0.9
        assert 0.9 < max(drawn) < 1.001
        assert abs(np.mean(drawn)) < 0.2
    assert abs(np.corrcoef(powers["a"], powers["b"])[0, 1]) < 0.3

    spreads = {"a": [], "b": []}
    for batch in take(20, **common, jitter={"noise": 0.05}):
        for role, value in (("a", 64 / 255), ("b", 191 / 255)):
            rest = batch[role] - value
            assert rest.dtype == np.float32
            assert abs(rest.mean()) < 2e-3
            spreads[role] += list(rest.std((1, 2, 3)))
    for drawn in spreads.values():
        assert min(drawn) < 0.005
        assert 0.045 < max(drawn) < 0.056
    assert abs(np.corrcoef(spreads["a"], spreads["b"])[0, 1]) < 0.3
    rest = {
        role: (batch[role] - value)[0].ravel()
        for role, value in (("a", 64 / 255), ("b", 191 / 255))
    }
    assert abs(np.corrcoef(rest["a"], rest["b"])[0, 1]) < 0.2
    colour = take(1, **{**common, "channels": 3}, jitter={"noise": 0.05})[0]["a"]
    np.testing.assert_array_equal(colour, np.repeat(colour[..., :1], 3, -1))  # gray stays gray
    bright = take(1, **common, jitter={"noise": 1.0})[0]
    assert bright["b"].max() == 1
    assert bright["a"].min() == 0


def test_clip_spreads_the_levels_of_every_other_source(plain):
    common = {"dataset": plain, "task": "pairs", "batch_size": 5, "crop": 16, "channels": 1}
    drawn = {"a": [], "b": []}
    for batch in take(40, **common, jitter={"clip": 0.4}):
        for role, values in drawn.items():
            assert (batch[role] == batch[role][:, :1, :1]).all()
            assert batch[role].dtype == np.float32
            values += list(batch[role][:, 0, 0, 0])
    for role, value in (("a", 64 / 255), ("b", 191 / 255)):
        values = np.asarray(drawn[role])
        kept = np.isclose(values, value, atol=1e-6)
        assert 0.4 < kept.mean() < 0.6
        # Black and white are uniform: the level is under black (over white) in 37 % of the rest.
        lost = values[~kept] == (0 if role == "a" else 1)
        assert 0.25 < lost.mean() < 0.5
        rest = values[~kept][~lost]
        assert rest.min() > 0
        assert rest.max() < 1
        # With nothing cut off at the other end, or all that may be.
        low, high = (0.0, value / 0.6) if role == "a" else (1 - (1 - value) / 0.6, 1.0)
        assert low <= rest.min()
        assert rest.max() <= high + 1e-6
        assert np.ptp(rest) > 0.7 * (high - low)
    changed = [~np.isclose(drawn[r], v, atol=1e-6) for r, v in (("a", 64 / 255), ("b", 191 / 255))]
    assert abs(np.corrcoef(*changed)[0, 1]) < 0.3


def test_scale_reduces_all_images_of_an_example_alike(pairs):
    """Reduced windows average away what is random and keep what all images share."""
    common = {"dataset": pairs, "task": "pairs", "batch_size": 7, "crop": 8, "split": "train"}
    reduced = 0
    for batch in take(10, **common, jitter={"scale": 2.0}):
        np.testing.assert_allclose(batch["a"] + batch["b"], 1, atol=1e-5)
        np.testing.assert_allclose(batch["target"], batch["a"] / 2, atol=4e-3)
        assert batch["a"].shape == (7, 8, 8, 3)
        number = batch["a"][..., 2] * 25.5  # is the same all over a picture
        np.testing.assert_allclose(np.ptp(number, (1, 2)), 0, atol=1e-4)
        reduced += (batch["a"][..., 0].std((1, 2)) < 0.24).sum()
    assert 20 < reduced < 70
    both = {**common, "jitter": {"noise": 0.05}}  # the target is a's half, and gets no noise
    for one, two in zip(take(3, **common), take(3, **both), strict=True):
        np.testing.assert_array_equal(one["target"], two["target"])
        assert (one["a"] != two["a"]).any()
    # A crop larger than the picture leaves no room: it is mirrored as before, and not reduced.
    whole = {**common, "crop": 30, "augment": False}
    for one, two in zip(take(2, **whole), take(2, **whole, jitter={"scale": 4.0}), strict=True):
        assert_same(one, two)


def test_jitter_depends_on_the_position_alone(plain):
    common = {"dataset": plain, "task": "pairs", "batch_size": 4, "crop": 16, "channels": 1}
    common["jitter"] = {"scale": 2.0, "gamma": 1.5, "noise": 0.02}
    whole = take(6, **common, threads=2)
    with data.make_loader(**common, threads=0) as loader:
        for _ in range(3):
            next(loader)
        state = loader.state()
    with data.make_loader(**common, threads=0) as loader:
        loader.restore(state)
        for batch in whole[3:]:
            assert_same(next(loader), batch)


def test_bad_jitter_is_named(pairs, plain, natural):
    common = {"batch_size": 2, "crop": 8}
    for dataset, task, jitter, message in (
        (plain, "pairs", {"blur": 1.0}, "jitter has no field blur; choose from scale, gamma"),
        (plain, "pairs", {"scale": 0.5}, r"jitter.scale is 0.5; use 1 \(off\) to 16"),
        (plain, "pairs", {"gamma": float("nan")}, "jitter.gamma is nan; give a finite number"),
        (plain, "pairs", {"noise": -0.1}, r"jitter.noise is -0.1; use 0 \(off\) to 1"),
        (plain, "pairs", {"clip": 0.5}, r"jitter.clip is 0.5; use 0 \(off\) to less than 0.5"),
        (pairs, "pairs", {"clip": 0.1}, "jitter.clip would part the sources from their target"),
        (pairs, "pairs", {"gamma": 1.5}, "would part the sources from their target"),
        (natural, "mff", {"noise": 0.1}, "jitter belongs to task 'pairs'; for 'mff' set its"),
        (plain, "pairs", {"scale": "2.5"}, "jitter.scale is '2.5'; give a finite number"),
        (plain, "pairs", {"gamma": [1, 2]}, r"jitter.gamma is \[1, 2\]; give a finite number"),
        (plain, "pairs", {1: 2.0}, "jitter has no field 1; choose from"),
        (plain, "pairs", [2.0, 1.5], r"jitter is \[2.0, 1.5\]; give a block of fields"),
    ):
        with pytest.raises(InputError, match=message):
            data.make_loader(dataset, task=task, jitter=jitter, **common)


def test_exposures_come_in_their_order_with_the_picture_as_target(natural):
    clean = {"noise_share": 0.0, "jpeg_share": 0.0, "gamma": [2.0, 2.0]}
    common = {"dataset": natural, "task": "mef", "batch_size": 7, "crop": 16}
    for batch in take(4, **common, synthesis=clean):
        assert batch["a"].shape == batch["b"].shape == batch["target"].shape == (7, 16, 16, 3)
        assert (batch["a"] <= batch["b"]).all()
        assert (batch["a"].mean((1, 2, 3)) < batch["b"].mean((1, 2, 3))).all()
    gray = take(1, **common, channels=1)[0]
    assert gray["target"].shape == (7, 16, 16, 1)
    for one, two in zip(take(3, **common, threads=0), take(3, **common, threads=2), strict=True):
        assert_same(one, two)
    # A whole picture's target is the stored picture.
    evaluated = list(data.make_eval_loader(natural, batch_size=4, split="train", task="mef"))
    source = data.open_set(natural, "train")[0]
    for batch in evaluated:
        for index, target in zip(batch["_index"], batch["target"], strict=True):
            stored = examples._decode(source[int(index)], "image", 3)
            np.testing.assert_array_equal(target, stored * np.float32(1 / 255))
    assert sum(float(b["_mask"].sum()) for b in evaluated) == len(
        data.open_set(natural, "train")[0]
    )


def test_synthesis_that_does_not_fit_is_named(natural, plain):
    common = {"batch_size": 2, "crop": 8}
    for dataset, task, synthesis, message in (
        (natural, "mef", {"max_radius": 3.0}, "synthesis has no field max_radius; choose from"),
        (natural, "mff", {"expansion": 1.0}, "synthesis has no field expansion; choose from"),
        (natural, "mef", {"lights": 1.0}, "synthesis.lights is 1.0; give two finite numbers"),
        (natural, "mef", {"lights": [1, 2, 3]}, "synthesis.lights is .*; give two finite"),
        (natural, "mff", {"noise_share": "x"}, "synthesis.noise_share is 'x'; give a finite"),
        (natural, "mef", {"lights": [2.0, 1.0]}, r"lights \(2.0, 1.0\) must be two numbers"),
        (plain, "mef", None, "holds pairs; use task 'pairs'"),
        (natural, "pairs", None, "segmentations; use task 'mff' or 'mef'"),
        (plain, "pairs", {"expansion": 1.0}, "synthesis belongs to tasks 'mff' and 'mef'"),
    ):
        with pytest.raises(InputError, match=message):
            data.make_loader(dataset, task=task, synthesis=synthesis, **common)


def test_jitter_that_is_off_may_stand_in_any_config(natural):
    """Configs of all tasks have the fields, so that a flag can set them."""
    off = {"scale": 1.0, "gamma": 1.0, "noise": 0.0, "clip": 0.0}
    common = {"dataset": natural, "task": "mff", "batch_size": 2, "crop": 16, "synthesis": SMALL}
    for one, two in zip(take(2, **common), take(2, **common, jitter=off), strict=True):
        assert_same(one, two)


def test_blocks_may_be_config_dicts_and_leave_defaults_open(natural, plain):
    block = ml_collections.ConfigDict({"max_radius": 3.0, "quality": (80, 90), "min_radius": None})
    common = {"dataset": natural, "task": "mff", "batch_size": 2, "crop": 16}
    same = {"max_radius": 3.0, "quality": [80, 90]}
    for one, two in zip(
        take(2, **common, synthesis=block), take(2, **common, synthesis=same), strict=True
    ):
        assert_same(one, two)
    common = {"dataset": plain, "task": "pairs", "batch_size": 2, "crop": 16}
    off = ml_collections.ConfigDict({"scale": None, "noise": 0.0})
    assert_same(take(1, **common)[0], take(1, **common, jitter=off)[0])
