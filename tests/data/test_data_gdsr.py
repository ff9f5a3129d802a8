"""Sets of photographs with depth maps, and the examples that are made of them."""

import io

import numpy as np
import pytest

from mgdn_jax import data
from mgdn_jax.data import gdsr
from mgdn_jax.errors import InputError
from mgdn_jax.io.codec import encode, encode_jpeg, encode_png
from mgdn_jax.io.depth import decode_depth
from mgdn_jax.quantities import depth as quantity

RNG = np.random.default_rng(0)
SCENE = RNG.integers(800, 3000, (40, 52), np.uint16)
PHOTO = RNG.integers(0, 256, (40, 52, 3), np.uint8)


def packed(save, *args, **kwargs):
    buffer = io.BytesIO()
    save(buffer, *args, **kwargs)
    return buffer.getvalue()


METRES = (SCENE / 1000).astype(np.float32)
FILES = {
    "millimetres.png": (encode_png(SCENE), SCENE),
    "disparity.png": (encode_png(SCENE.astype(np.uint8)), SCENE.astype(np.uint8)),
    "metres.tif": (encode(METRES, ".tif"), METRES),
    "metres.npy": (packed(np.save, METRES), METRES),
    "metres.npz": (packed(np.savez_compressed, METRES), METRES),
    "several.npz": (packed(np.savez, depth=METRES, mask=METRES > 1), METRES),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A set of one pair for each kind of file; beside it its source."""
    folder = tmp_path_factory.mktemp("rgbd")
    for kind in ("rgb", "depth"):
        (folder / "source" / kind).mkdir(parents=True)
    for name, (content, _) in FILES.items():
        stem = name.replace(".", "-")
        path = folder / "source" / "depth" / stem
        path.with_suffix("." + name.split(".")[1]).write_bytes(content)
        path = folder / "source" / "rgb" / f"{stem}.jpg"
        path.write_bytes(encode_jpeg(PHOTO) if "png" in name else encode_png(PHOTO))
    data.prepare("rgbd", folder / "source", folder)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_values_are_those_that_are_stored(name):
    content, wanted = FILES[name]
    depth = decode_depth(content, name)
    assert depth.dtype == np.float32
    np.testing.assert_array_equal(depth, wanted.astype(np.float32))


def test_gray_that_was_saved_as_colour_is_read():
    gray = np.repeat(SCENE.astype(np.uint8)[..., None], 3, axis=-1)
    np.testing.assert_array_equal(decode_depth(encode_png(gray), "x"), gray[..., 0])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encode_png(PHOTO), "no depth map"),
        (packed(np.save, np.array(["far"])), "holds <U3 values and no numbers"),
        (packed(np.savez, a=METRES, b=METRES), "holds the arrays a, b; call the depth map 'depth'"),
        (packed(np.save, np.array([{}]), allow_pickle=True), "holds object values and no numbers"),
        (FILES["metres.npz"][0][:500], "damaged"),
        (packed(np.save, np.zeros((0, 4))), "no pixels"),
    ],
)
def test_what_is_no_depth_map_is_refused(content, reason):
    with pytest.raises(InputError, match=reason):
        decode_depth(content, "file")


def test_a_set_keeps_bytes_and_sizes(prepared):
    source, manifest = data.open_set(prepared / "rgbd", "train")
    assert manifest["roles"] == ["rgb", "depth"]
    assert len(source) == len(FILES)
    stored = {str(example["name"], "utf-8"): example for example in source}
    for name, (content, _) in FILES.items():
        example = stored[name.replace(".", "-")]
        assert example["depth"] == content
        assert (example["height"], example["width"]) == SCENE.shape


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encode_png(SCENE[:-1]), "must have one size"),
        (encode_png(np.full_like(SCENE, 7)), "no two depths"),
        (encode_png(PHOTO), "no depth map"),
    ],
)
def test_a_bad_pair_is_refused(tmp_path, content, reason):
    for kind, file in (("images", encode_png(PHOTO)), ("depth", content)):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "1.png").write_bytes(file)
    with pytest.raises(InputError, match=reason):
        data.prepare("rgbd", tmp_path, tmp_path / "out")


def record(depth=SCENE, rgb=PHOTO):
    return {"name": b"x", "rgb": encode_png(rgb), "depth": encode_png(depth)}


def draw(rec, crop, turned, seed=0, **synthesis):
    drawn = gdsr.make_draw({"set": "rgbd", "roles": ["rgb", "depth"]}, synthesis)
    return drawn(rec, np.random.default_rng(seed), crop, turned)


def prepared_as(rgb, depth, scale):
    depth = depth.astype(np.float32)
    limits = quantity.limits_of(depth)
    a, b = quantity.network_inputs(rgb, quantity.reduce(depth, scale), limits)
    return {"a": a, "b": b, "target": quantity.normalised(depth, limits)[..., None]}


@pytest.mark.parametrize(("crop", "scale"), [(None, 8), (32, 4)])
def test_validation_takes_the_picture_or_its_centre(crop, scale):
    example = draw(record(), crop, None, scale=scale)
    part = (slice(0, 40), slice(0, 48)) if crop is None else (slice(4, 36), slice(10, 42))
    wanted = prepared_as(PHOTO[part], SCENE[part], scale)
    for key, value in wanted.items():
        assert example[key].dtype == np.float32
        np.testing.assert_array_equal(example[key], value, err_msg=key)
    assert example["span"] == np.ptp(SCENE[part])
    assert example["span"].dtype == np.float32
    assert example["target"].min() == 0
    assert example["target"].max() == 1


def test_training_crops_turn_together():
    seen = set()
    for seed in range(40):
        example = draw(record(), 32, True, seed)
        assert example["a"].shape == (32, 32, 3)
        places = [
            (top, left, mode)
            for top in range(9)
            for left in range(21)
            for mode in range(8)
            if (turned(SCENE[top : top + 32, left : left + 32], mode)[0, 0]) == first(example)
        ]
        for top, left, mode in places:
            part = (slice(top, top + 32), slice(left, left + 32))
            wanted = prepared_as(turned(PHOTO[part], mode), turned(SCENE[part], mode), 4)
            if np.array_equal(wanted["target"], example["target"]):
                np.testing.assert_array_equal(wanted["a"], example["a"])
                np.testing.assert_array_equal(wanted["b"], example["b"])
                seen.add(mode)
    assert len(seen) == 8


def turned(array, mode):
    return data.augment(array, mode)


def first(example):
    """The depth in the corner, put back from the target: the picture's span is that of a crop."""
    return round(float(example["target"][0, 0, 0] * example["span"]) + LOWEST)


LOWEST = int(SCENE.min())


def test_the_same_seed_gives_the_same_example():
    one, two, other = (draw(record(), 16, True, seed, shrink=2.0) for seed in (3, 3, 4))
    assert all(np.array_equal(one[key], two[key]) for key in one)
    assert not np.array_equal(one["target"], other["target"])


def test_flat_crops_are_drawn_again_and_a_constant_one_is_zero():
    step = np.full((40, 52), 1000, np.uint16)
    step[:, 26:] = 2000
    spans = [draw(record(step), 16, True, seed)["span"] for seed in range(10)]
    assert all(span > 0 for span in spans)  # a single draw sees the step in 2 of 5
    ramp = np.full((40, 52), 1000, np.uint16)
    ramp[:, 48:] = 2000
    noisy = ramp.copy()
    noisy[:, :40] += (np.arange(40) % 2).astype(np.uint16)
    for depth in (ramp, noisy):
        example = draw(record(depth), 32, None)
        assert example["span"] == 0
        assert not example["target"].any()
        assert not example["b"].any()
        assert np.isfinite(example["a"]).all()


def test_shrinking_means_areas():
    array = RNG.random((24, 24, 3)).astype(np.float32)
    halved = gdsr._area(array, 12)
    np.testing.assert_allclose(halved, array.reshape(12, 2, 12, 2, 3).mean((1, 3)), atol=1e-6)
    odd = gdsr._area(array, 16)
    assert odd.shape == (16, 16, 3)
    np.testing.assert_allclose(odd.mean((0, 1)), array.mean((0, 1)), atol=1e-6)
    first = (array[0, 0] + 0.5 * array[0, 1] + 0.5 * array[1, 0] + 0.25 * array[1, 1]) / 2.25
    np.testing.assert_allclose(odd[0, 0], first, atol=1e-6)
    spans = {float(draw(record(), 16, True, seed, shrink=2.0)["span"]) for seed in range(6)}
    assert len(spans) > 3
    example = draw(record(), 16, True, 1, shrink=2.0)
    assert example["a"].shape == (16, 16, 3)
    assert (example["target"].min(), example["target"].max()) == (0, 1)


def test_holes_are_filled():
    holed = SCENE.copy()
    holed[10:14, 10:20] = 0
    example = draw(record(holed), None, None)
    assert example["span"] == np.ptp(SCENE)


def test_settings_are_checked():
    assert gdsr.preparation({"scale": 8}) == quantity.DepthPreparation(8).to_dict()
    assert gdsr.preparation(None) == quantity.DepthPreparation().to_dict()
    for synthesis, reason in (
        ({"factor": 4}, "no field 'factor'; choose one of scale"),
        ({"scale": 0}, "whole number"),
        ({"shrink": 0.5}, "1 .off. to 4"),
    ):
        with pytest.raises(InputError, match=reason):
            gdsr.preparation(synthesis)
    with pytest.raises(InputError, match="multiple of 16 for depth maps at 4x"):
        draw(record(), 24, True)
    with pytest.raises(InputError, match="does not fit the set 'ivf'"):
        gdsr.make_draw({"set": "ivf", "roles": ["a", "b"]}, None)


def test_the_loader_gives_batches_of_the_task(prepared):
    settings = {"task": "gdsr", "split": "train", "synthesis": {"scale": 4}}
    batches = []
    for _ in range(2):
        with data.make_loader(prepared / "rgbd", batch_size=4, crop=32, **settings) as loader:
            assert loader.preparation == quantity.DepthPreparation(4).to_dict()
            batches.append(next(loader))
    shapes = {key: value.shape for key, value in batches[0].items()}
    assert shapes["a"] == (4, 32, 32, 3)
    assert shapes["b"] == shapes["target"] == (4, 32, 32, 1)
    assert shapes["span"] == (4,)
    for key, value in batches[0].items():
        np.testing.assert_array_equal(value, batches[1][key], err_msg=key)
    (batch,) = data.make_eval_loader(prepared / "rgbd", batch_size=6, **settings)
    levels = SCENE.astype(np.uint8)
    spans = [np.ptp(SCENE), np.ptp(levels[levels > 0]), *[np.ptp(METRES)] * 4]
    np.testing.assert_allclose(np.sort(batch["span"]), np.sort(spans), rtol=1e-6)
    with pytest.raises(InputError, match="jitter belongs to task 'pairs'"):
        data.make_loader(prepared / "rgbd", batch_size=4, jitter={"gamma": 2}, **settings)
