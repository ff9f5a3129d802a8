"""Brackets: the synthesis keeps to light and to a camera; the loaders give what is prepared."""

import numpy as np
import pytest

from mgdn_jax import data
from mgdn_jax.data import Brackets, brackets, hdr, scenes, synthesise_bracket
from mgdn_jax.data.brackets import MARGIN
from mgdn_jax.errors import InputError
from mgdn_jax.io import radiance as files
from mgdn_jax.io.codec import encode
from mgdn_jax.quantities.radiance import linear

STILL = {"shift": 0.0, "roll": 0.0, "still_share": 1.0}
TIMES = (1.0, 4.0, 16.0)


def light(seed=0, height=40, width=52):
    """Smooth radiance from dark to beyond white, with its margin."""
    shape = (height + 2 * MARGIN, width + 2 * MARGIN)
    y, x = np.mgrid[: shape[0], : shape[1]]
    wave = np.sin(x / 7 + seed) * np.cos(y / 9)
    return np.stack([np.exp(2.5 * wave - 2 + c) for c in (0, 0.2, -0.3)], -1).astype(np.float32)


def disc(size=21, value=1.0):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return brackets.cut_out(np.full((size, size, 3), value, np.float32), y**2 + x**2 < size**2 / 5)


# ------------------------------------------------------------------------------------ synthesis


def test_a_still_bracket_shows_one_light_up_to_noise_and_clipping():
    scene = light()
    exposures, truth = synthesise_bracket(
        scene, [], TIMES, np.random.default_rng(0), Brackets(**STILL, deep_share=1.0)
    )
    inner = scene[MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert np.array_equal(truth, np.minimum(inner, 1))
    for picture, time in zip(exposures, TIMES, strict=True):
        clipped = inner * time > 1.1
        assert clipped.any()
        assert (picture[clipped] > 0.98).mean() > 0.95  # the noise of what saturates stays
        free = (inner * time < 0.9) & (inner * time > 0.05)
        shown = linear(picture, time)
        # The camera's pose still has a scale of up to 0.3 %, which moves the others a little.
        assert np.median(np.abs(shown / inner - 1)[free]) < (0.02 if time == 4 else 0.06)


def test_the_truth_is_where_the_middle_exposure_is():
    spec = Brackets(shift=8.0, roll=1.0, deep_share=1.0)
    for seed in range(4):
        exposures, truth = synthesise_bracket(
            light(), [disc()], TIMES, np.random.default_rng(seed), spec
        )
        free = (truth * 4 < 0.9) & (truth * 4 > 0.05)
        errors = [
            np.median(np.abs(linear(x, t) - np.minimum(truth, 1 / t))[free])
            for x, t in zip(exposures, TIMES, strict=True)
        ]
        assert errors[1] < 0.003
        assert errors[1] < min(errors[0], errors[2])


def test_objects_cover_light_before_it_is_exposed():
    # A scene that saturates all over, and something whose lower part is dark: were pixels laid over
    # pixels, the long exposure would hide or fake it.
    scene = np.full_like(light(), 3.0)
    spec = Brackets(**STILL | {"motion": 0.0, "turn": 0.0}, shutter=0.0, deep_share=1.0)
    whole = disc(31)
    whole.light[20:] *= np.float32(0.01)
    exposures, truth = synthesise_bracket(scene, [whole], TIMES, np.random.default_rng(2), spec)
    dark = truth < 0.06
    assert 20 < dark.sum() < 0.2 * truth.size
    for picture, time in zip(exposures, TIMES, strict=True):
        shown = linear(picture, time)
        assert np.median(np.abs(shown - truth)[dark]) < (0.002 if time == 4 else 0.015)
        assert (picture[truth == 1] > 0.95).mean() > 0.98


def test_moving_objects_are_elsewhere_and_blurred_in_the_long_exposure():
    scene = np.full_like(light(), 0.02)
    fixed = {"shift": 0.0, "roll": 0.0, "turn": 0.0, "deep_share": 1.0}
    spec = Brackets(**fixed, motion=100.0, shutter=1.0)
    rng = np.random.default_rng(5)
    exposures, _ = synthesise_bracket(scene, [disc()], TIMES, rng, spec)
    light_of = [linear(x, t)[..., 1] for x, t in zip(exposures, TIMES, strict=True)]
    changed = [np.abs(x - 0.02) > 0.004 for x in light_of]
    assert (changed[0] != changed[1]).mean() > 0.02


def test_bits_of_the_exposures():
    for share, levels in ((0.0, 255), (1.0, 65535)):
        spec = Brackets(deep_share=share)
        exposures, _ = synthesise_bracket(light(), [], TIMES, np.random.default_rng(1), spec)
        steps = exposures[1] * np.float32(levels)
        assert np.abs(steps - np.rint(steps)).max() < 0.01
    assert len(np.unique(exposures[1])) > 300


def test_a_warp_does_not_ring_beside_a_lamp():
    scene = np.full_like(light(), 0.01)
    scene[40:50, 40:60] = 60.0
    for seed in range(3):
        exposures, _ = synthesise_bracket(
            scene, [], TIMES, np.random.default_rng(seed), Brackets(deep_share=1.0)
        )
        assert linear(exposures[2], 16.0).min() > 0.007


def test_reduction_keeps_the_light():
    x = np.random.default_rng(0).random((50, 37, 3), np.float32)
    small = brackets.area_reduced(x, 20, 11)
    assert small.shape == (20, 11, 3)
    assert small.mean() == pytest.approx(x.mean(), abs=1e-5)
    assert np.allclose(brackets.area_reduced(x, 25, 37), x.reshape(25, 2, 37, 3).mean(1))
    assert np.allclose(brackets.area_reduced(np.ones_like(x), 7, 31), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "times", "words"), [((48, 60, 3), TIMES, "bracket"), ((90, 90, 3), (1,), "bracket")]
)
def test_scenes_without_room_are_refused(shape, times, words):
    with pytest.raises(InputError, match=words):
        synthesise_bracket(np.zeros(shape, np.float32), [], times, np.random.default_rng(0))


@pytest.mark.parametrize("field", ["shift", "photographs_share", "expansion", "roll"])
def test_fields_out_of_range_are_refused(field):
    with pytest.raises(InputError, match=field):
        Brackets(**{field: 50.0})


# ---------------------------------------------------------------------------------- sets, loader


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A set of radiance pictures, one of photographs, and one of stored brackets."""
    root = tmp_path_factory.mktemp("hdr")
    rng = np.random.default_rng(0)
    for k in range(3):
        (root / "scenes").mkdir(exist_ok=True)
        (root / "scenes" / f"s{k}.hdr").write_bytes(files.encode(light(k, 60, 80) * 10.0**k))
        for folder, shape in (("train", (130, 120, 3)), ("train_seg", (130, 120))):
            (root / "photos" / folder).mkdir(parents=True, exist_ok=True)
            picture = rng.integers(5, 250, shape, np.uint8)
            if folder == "train_seg":
                picture[:] = 1
                picture[:60], picture[90:, 40:80] = 7, 3
            (root / "photos" / folder / f"p{k}.png").write_bytes(encode(picture, ".png"))
        scene = root / "brackets" / f"00{k}"
        scene.mkdir(parents=True)
        truth = light(k, 4, 12)[..., :].clip(0, 1)
        for n, time in enumerate((0.25, 1.0, 4.0)):
            stored = np.minimum(truth * time * 4, 1) ** (1 / 2.2)
            stored = np.rint(65535 * stored).astype(np.uint16)
            (scene / f"262A{n}.tif").write_bytes(encode(stored, ".tif"))
        (scene / "exposure.txt").write_text("-2.0\n0\n2\n")
        (scene / "HDRImg.hdr").write_bytes(files.encode(truth * 4))
    data.prepare("hdr", root / "scenes", root)
    data.prepare("natural", root / "photos", root)
    data.prepare("brackets", root / "brackets", root, name="stored")
    return root


def options(sets):
    objects = {"objects": str(sets / "natural")}
    return {"synthesis": {**objects, "train_split": "train[:2]", "held_out_split": "train[2:]"}}


def test_batches_of_synthetic_brackets(sets):
    settings = {"task": "hdr", "batch_size": 4, "crop": 16, "split": "train[:2]"}
    with data.make_loader(sets / "hdr", **settings, **options(sets), threads=0) as loader:
        assert loader.preparation == {"quantity": "radiance", "gamma": 2.2, "mu": 5000.0}
        first = next(loader)
        state = loader.state()
        second = next(loader)
        loader.restore(state)
        again = next(loader)
    for name in ("a", "b", "c"):
        assert first[name].shape == (4, 16, 16, 6)
        assert first[name].dtype == np.float32
        assert np.array_equal(second[name], again[name])
        assert first[name].min() >= 0
        assert first[name].max() <= 1
    assert first["target"].shape == (4, 16, 16, 3)
    # The light of an exposure is bounded by what one over its time is.
    assert first["c"][..., 3:].max() <= 1 / 16 + 1e-6
    middle, truth = first["b"][..., 3:], first["target"]
    free = first["b"][..., :3].max(-1) < 0.95
    assert np.median(np.abs(middle - truth)[free]) < 0.004


def test_evaluation_has_several_views_of_each_scene(sets):
    settings = {"task": "hdr", "batch_size": 8, "crop": 16, "split": "train[2:]"}
    loader = data.make_eval_loader(sets / "hdr", **settings, **options(sets), threads=0)
    one, two = list(loader), list(loader)
    assert loader.examples_per_epoch == hdr.VIEWS
    assert sum(int(batch["_mask"].sum()) for batch in one) == hdr.VIEWS
    for batch, again in zip(one, two, strict=True):
        assert all(np.array_equal(batch[key], again[key]) for key in batch)
    views = np.concatenate([batch["target"] for batch in one])
    assert len({view.tobytes() for view in views}) == hdr.VIEWS
    whole = data.make_eval_loader(
        sets / "hdr", task="hdr", batch_size=1, split="train[2:]", **options(sets), threads=0
    )
    (batch,) = list(whole)
    assert batch["target"].shape == (1, 60 + 2 * MARGIN, 80 + 2 * MARGIN, 3)


def test_stored_brackets_start_at_time_one(sets):
    loader = data.make_eval_loader(
        sets / "stored", task="hdr", batch_size=1, split="train", threads=0
    )
    batches = list(loader)
    assert len(batches) == 3
    for batch in batches:
        truth = batch["target"]
        assert truth.max() <= 1
        for name, time in (("a", 1), ("b", 4), ("c", 16)):
            shown = batch[name][..., 3:]
            assert np.allclose(shown, np.minimum(truth, 1 / time), atol=0.01)
    with data.make_loader(
        sets / "stored", task="hdr", batch_size=2, crop=8, split="train", threads=0
    ) as loader:
        assert next(loader)["b"].shape == (2, 8, 8, 6)


@pytest.mark.parametrize(
    ("synthesis", "words"),
    [
        ({"objects": 3}, "objects is 3"),
        ({"speed": 3}, "no field speed"),
        ({"motion": float("nan")}, "finite"),
        ({"objects": "nowhere"}, "nowhere"),
    ],
)
def test_bad_fields_of_the_synthesis_are_refused(sets, synthesis, words):
    with pytest.raises(InputError, match=words):
        data.make_loader(sets / "hdr", task="hdr", batch_size=1, synthesis=synthesis)


def test_sets_that_do_not_fit_are_refused(sets):
    with pytest.raises(InputError, match="does not fit"):
        data.make_loader(sets / "natural", task="hdr", batch_size=1)
    with pytest.raises(InputError, match="stored brackets have none"):
        data.make_loader(sets / "stored", task="hdr", batch_size=1, synthesis={"motion": 1.0})
    wrong = {"objects": str(sets / "stored"), "train_split": "train"}
    with pytest.raises(InputError, match="no segmentations"):
        data.make_loader(sets / "hdr", task="hdr", batch_size=1, synthesis=wrong)


# --------------------------------------------------------------------------------------- folders


def test_folders_that_hold_no_brackets_are_refused(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        scenes.find_brackets(tmp_path / "none")
    with pytest.raises(InputError, match="holds no brackets"):
        scenes.find_brackets(tmp_path)
    with pytest.raises(InputError, match="holds no radiance"):
        scenes.find_scenes(tmp_path)
    (tmp_path / "001").mkdir()
    (tmp_path / "001" / "exposure.txt").write_text("0 2 4")
    with pytest.raises(InputError, match="0 exposures and 0 files"):
        scenes.find_brackets(tmp_path)
    for name in ("x.hdr", "x.exr"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match="two pictures called x"):
        scenes.find_scenes(tmp_path)


@pytest.mark.parametrize("text", ["0\n2\n", "0 2 four", "0 nan 2", "0 10 99", ""])
def test_steps_that_are_none_are_refused(text):
    with pytest.raises(InputError, match="three EV steps"):
        scenes.read_steps(text.encode(), "exposure.txt")
    assert scenes.read_steps(b"-2.0,\r\n0\n+2e0\n", "exposure.txt") == [-2, 0, 2]


def test_radiance_that_is_none_is_refused():
    with pytest.raises(InputError, match="uint8"):
        scenes.read_radiance(encode(np.zeros((4, 4, 3), np.uint8), ".png"), "x.png")
    with pytest.raises(InputError, match="black"):
        scenes.read_radiance(files.encode(np.zeros((4, 9, 3), np.float32)), "x.hdr")
