import numpy as np
import pytest
from scipy import ndimage

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import align, resampling
from mgdn_jax.fusing.transforms import Transform

SIZE = (160, 200)
CORNERS = np.array([[0, 0], [199, 0], [0, 159], [199, 159]], float)


def scene(seed=0, size=SIZE):
    random = np.random.default_rng(seed)
    x = sum(ndimage.gaussian_filter(random.normal(size=size), s) * s for s in (1, 2, 7))
    x = (x - x.min()) / np.ptp(x)
    rows, columns = np.mgrid[: size[0], : size[1]]
    for _ in range(12):
        y, c, radius = random.integers(size[0]), random.integers(size[1]), random.integers(5, 20)
        x[(rows - y) ** 2 + (columns - c) ** 2 < radius**2] = random.random()
    return x.astype(np.float32)


def similarity(x=0.0, y=0.0, angle=0.0, scale=1.0):
    c, s = scale * np.cos(np.deg2rad(angle)), scale * np.sin(np.deg2rad(angle))
    middle = (np.array(SIZE[::-1]) - 1) / 2
    about = middle - np.array([[c, -s], [s, c]]) @ middle + (x, y)
    return Transform(np.array([[c, -s, about[0]], [s, c, about[1]], [0, 0, 1]]))


MOTIONS = {
    "translation": similarity(6.4, -3.7),
    "euclidean": similarity(1.3, 2.2, angle=0.5),
    "similarity": similarity(-2, 1, angle=-0.4, scale=1.02),
    "affine": Transform([[1.01, 0.012, 1.5], [-0.004, 0.985, 0.4]]),
    "homography": Transform([[1.01, 0.006, -2], [-0.003, 0.99, 3], [5e-5, -4e-5, 1]]),
}


def off(found, true):
    """Largest error in pixels at the corners."""
    return np.linalg.norm(found.apply(CORNERS) - true.apply(CORNERS), axis=1).max()


def pair(true, seed=0):
    """A reference, and the picture that `true` lays on it; both come from one larger scene."""
    large = scene(seed, (240, 280))
    move = Transform([[1, 0, -40], [0, 1, -40]])
    reference, _ = resampling.warp(large, move, SIZE)
    moving, _ = resampling.warp(large, true.inverse().compose(move), SIZE)
    return reference, moving


@pytest.mark.parametrize("name", MOTIONS)
@pytest.mark.parametrize("model", ["own", "auto"])
def test_motions_are_found(name, model):
    reference, moving = pair(MOTIONS[name])
    found = align.align(reference, moving, model=name if model == "own" else "auto")
    assert off(found.transform, MOTIONS[name]) < 0.2
    assert found.score > 0.9
    assert found.remark == ""
    assert found.shift == pytest.approx(MOTIONS[name].corner_shift(SIZE), abs=0.2)
    if model == "own":
        assert found.model == name


def test_large_turns_are_found_by_features():
    true = similarity(15, -9, angle=14, scale=1.05)
    assert off(align.align(*pair(true)).transform, true) < 0.2


def test_exposure_and_focus_count_little():
    true = MOTIONS["similarity"]
    reference, moving = pair(true)
    soft = ndimage.gaussian_filter(moving, 1.5)
    moving = np.where(np.arange(200) < 100, moving, soft) ** 1.6 * 0.5
    found = align.align((255 * reference).astype(np.uint8), moving.astype(np.float32))
    assert off(found.transform, true) < 0.25


def test_other_scenes_are_refused():
    with pytest.raises(InputError, match="do not show the same scene"):
        align.align(scene(1), scene(2))
    with pytest.raises(InputError, match="do not show the same scene"):
        align.align(scene(1), np.full(SIZE, 0.5, np.float32))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_pictures_without_any_detail_are_refused(value):
    flat = np.full(SIZE, value, np.float32)
    for reference, moving in ((flat, scene()), (scene(), flat), (flat, flat)):
        with pytest.raises(InputError, match=r"cannot be aligned: .* correlate by 0\.\d\d"):
            align.align(reference, moving)


def test_nothing_is_better_than_no_motion_for_a_picture_itself():
    found = align.align(scene(), scene())
    assert found.shift < 1e-3
    assert found.score > 0.999


def test_what_is_transparent_does_not_hold_the_picture():
    true = similarity(5, 3)
    reference, moving = pair(true)
    opaque = np.ones_like(reference)
    opaque[:, :50] = 0
    opaque[-30:] = 0
    both = [np.stack([x * opaque, opaque], -1) for x in (reference, moving)]
    assert off(align.align(*both).transform, true) < 0.3
    found = align.align(both[0][..., 0], both[1], mask=opaque > 0)
    assert off(found.transform, true) < 0.3


def test_an_unknown_model_is_refused():
    with pytest.raises(InputError, match="choose one of auto, translation"):
        align.align(scene(), scene(), model="rigid")


# ------------------------------------------------------------------------------ stacks


def shaken(count=5):
    """A hand-held sweep of focus that grows by 0.6 % a picture, and the true motions."""
    random = np.random.default_rng(7)
    large = scene(4, (240, 280))
    move = Transform([[1, 0, -40], [0, 1, -40]])
    frames, true = [], []
    for number in range(count):
        x, y = random.normal(0, 3, 2)
        motion = similarity(x, y, random.normal(0, 0.2), 1 + 0.006 * number)
        columns = np.abs(np.arange(280) - 40 - 200 * (number + 0.5) / count) / 40
        levels = [ndimage.gaussian_filter(large, sigma) for sigma in (0.01, 1, 2, 3)]
        focus = sum(
            np.clip(1 - np.abs(np.clip(columns - 0.5, 0, 3) - k), 0, 1) * level
            for k, level in enumerate(levels)
        )
        frames.append(resampling.warp(focus.astype(np.float32), motion.compose(move), SIZE)[0])
        true.append(motion)
    return frames, true


@pytest.mark.parametrize("reference", [None, 0, 4])
def test_a_stack_is_aligned_neighbour_by_neighbour(reference):
    frames, true = shaken()
    loaded, done = [], []

    def load(number):
        loaded.append(number)
        return frames[number]

    found = align.align_stack(load, 5, reference=reference, progress=done.append)
    middle = 2 if reference is None else reference
    assert sorted(loaded) == sorted(done) == [0, 1, 2, 3, 4]
    assert loaded[0] == middle
    assert found[middle].transform == Transform.identity()
    for alignment, motion in zip(found, true, strict=True):
        assert off(alignment.transform, true[middle].compose(motion.inverse())) < 0.2
        assert alignment.shift == pytest.approx(alignment.transform.corner_shift(SIZE))


def test_a_stranger_in_a_stack_is_named():
    frames, _ = shaken(3)
    frames[2] = scene(9)
    with pytest.raises(InputError, match=r"picture 3 on picture 2: .*same scene"):
        align.align_stack(frames.__getitem__, 3)
