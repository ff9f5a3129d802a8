import helpers_scenes as scenes
import numpy as np
import pytest

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import exposure, tone_curve

TINT = np.array([1.05, 1.0, 0.93])
TONES = {
    "brighter and warmer": lambda x: x * 2**0.4 * TINT,
    "darker": lambda x: x * 2**-0.5 / TINT,
    "slightly": lambda x: x * 2**0.12,
    "a stop of light": lambda x: (x**2.2 * 2) ** (1 / 2.2),
    "a stop of light in sRGB": lambda x: tone_curve.from_light(2 * tone_curve.to_light(x)),
    "gamma": lambda x: x**0.8,
    "fog": lambda x: 0.06 + 0.9 * x,
    "same": lambda x: x,
}


def pair(tone, seed=51, dtype=np.uint8, gray=False, noise=0.0):
    sharp, near, far = scenes.focus_pair(seed, height=200, width=280)
    if gray:
        sharp, near, far = (x.mean(-1) for x in (sharp, near, far))
    rng = np.random.default_rng(0)
    near, far = (scenes.to(dtype, x + noise * rng.normal(size=x.shape)) for x in (near, tone(far)))
    return sharp, near, far


def step(matched, sharp, tone):
    """Errors in 8-bit levels where the second picture is sharp and not cut off."""
    scale = 1 if matched.dtype.kind == "f" else np.iinfo(matched.dtype).max
    error = 255 * (matched / scale - sharp)
    right = (np.arange(sharp.shape[1]) >= sharp.shape[1] // 2)[None, :]
    right = right if sharp.ndim == 2 else right[..., None]
    return error[np.broadcast_to(right, sharp.shape) & (tone(sharp) < 0.99)]


@pytest.mark.parametrize("seed", [1, 51])
@pytest.mark.parametrize("name", TONES)
def test_a_matched_picture_has_the_tone_of_the_reference(name, seed):
    tone = TONES[name]
    sharp, near, far = pair(tone, seed)
    matched = exposure.match(near, far).apply(far, near)
    assert matched.dtype == far.dtype
    error = step(matched, sharp, tone)
    assert abs(np.median(error)) < 0.6
    assert np.percentile(np.abs(error), 99) < 2


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("gray", [False, True])
def test_types_and_gray(dtype, gray):
    def tone(x):
        return x * 1.3

    sharp, near, far = pair(tone, dtype=dtype, gray=gray)
    curve = exposure.match(near, far)
    assert curve.kind == "gain"
    assert curve.stops == pytest.approx([-np.log2(1.3)] * (1 if gray else 3), abs=0.01)
    matched = curve.apply(far, near)
    assert matched.dtype == dtype
    assert matched.shape == far.shape
    assert np.percentile(np.abs(step(matched, sharp, tone)), 99.5) < 1


def test_noise_and_a_shift_of_some_pixels():
    _, near, far = pair(lambda x: x * 2**0.4, noise=0.03)
    for moving in (far, np.roll(far, 2, 1)):
        assert exposure.match(near, moving).stops == pytest.approx([-0.4] * 3, abs=0.02)


def test_a_tone_curve_beyond_gain_offset_and_power():
    x = scenes.scene(3, discs=30)

    def tone(v):
        return v + 0.06 * np.sin(2 * np.pi * v)

    toned = scenes.to(np.uint8, tone(x))
    curve = exposure.match(scenes.to(np.uint8, x), toned)
    assert curve.kind == "smooth"
    error = np.abs(curve.apply(toned) / 255 - x)
    assert error.mean() < 0.2 * np.abs(toned / 255 - x).mean()
    assert np.all(np.diff(curve.table, axis=1) >= 0)


def test_highlights_that_are_cut_off_take_the_colour_of_the_reference():
    _, near, far = pair(TONES["brighter and warmer"])
    near[30:60, 30:60], far[30:60, 30:60] = (250, 200, 120), (255, 255, 147)
    curve = exposure.match(near, far)
    assert curve.apply(far, near)[45, 45] == pytest.approx((250, 200, 120), abs=3)
    alone = curve.apply(far)[45, 45]
    assert alone == pytest.approx((255 / 1.386, 255 / 1.32, 120), abs=3)


def test_masks_leave_out_what_is_not_there():
    _, near, far = pair(TONES["darker"])
    mask = np.ones(near.shape[:2], bool)
    near[:, :70], mask[:, :70] = 120, False
    masked = exposure.match(near, far, [mask, None])
    assert masked.stops == pytest.approx(0.5 + np.log2(TINT), abs=0.02)


def test_nothing_to_measure_changes_nothing():
    black, white = np.zeros((30, 40), np.uint8), np.full((30, 40), 255, np.uint8)
    curve = exposure.match(black, white)
    assert curve.kind == "none"
    levels = np.arange(256, dtype=np.uint8)[None]
    assert np.array_equal(curve.apply(levels), levels)


@pytest.mark.parametrize("reference", [0, 2])
def test_a_stack_that_drifts(reference):
    sharp = scenes.scene(7)
    rng = np.random.default_rng(0)
    gains = 2.0 ** (0.1 * np.arange(-4, 1))[:, None] * (1 + 0.02 * rng.normal(size=(5, 3)))
    edges = np.linspace(0, sharp.shape[1], 6).astype(int)
    soft = scenes.ndimage.gaussian_filter(sharp, (2, 2, 0))
    stack = []
    for gain, left, right in zip(gains, edges, edges[1:], strict=False):
        x = soft.copy()
        x[:, left:right] = sharp[:, left:right]
        stack.append(scenes.to(np.uint8, x * gain))
    curves = exposure.match_stack(stack, reference=reference)
    assert curves[reference].apply(stack[reference]) is not stack[reference]
    assert np.array_equal(curves[reference].apply(stack[reference]), stack[reference])
    for curve, gain in zip(curves, gains, strict=True):
        assert curve.stops == pytest.approx(np.log2(gains[reference] / gain), abs=0.02)


def test_difference():
    _, near, far = pair(TONES["brighter and warmer"])
    measured = exposure.difference(near, far)
    assert measured.stops == pytest.approx(0.4, abs=0.03)
    assert measured.stops + np.array(measured.tint) == pytest.approx(0.4 + np.log2(TINT), abs=0.03)
    assert measured.reliability == 1
    assert measured.largest == pytest.approx(0.47, abs=0.03)
    _, near, far = pair(TONES["same"])
    assert exposure.difference(near, far).largest < 0.03


def test_difference_says_that_other_structure_is_no_exposure():
    a, b = scenes.to(np.uint8, scenes.scene(1)), scenes.to(np.uint8, 0.5 * scenes.scene(2))
    assert exposure.difference(a, b).reliability == 0
    assert exposure.difference(255 - a, a).reliability == 0


def test_order():
    _, pictures = scenes.bracket((-2.5, -1, 0, 2.5))
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]):
        shuffled = [pictures[i] for i in order]
        found = exposure.brightness_order(shuffled)
        assert [order[i] for i in found] == [0, 1, 2, 3]
    assert exposure.brightness_order([pictures[1]] * 3) == [0, 1, 2]


def test_order_is_that_of_the_exposures_not_of_the_means():
    x = scenes.scene(4)
    dark, bright = scenes.to(np.uint8, 0.5 * x), scenes.to(np.uint8, 0.7 * x)
    dark[:70] = 255  # something white entered
    assert dark.mean() > bright.mean()
    assert exposure.brightness_order([bright, dark]) == [1, 0]


def test_order_where_nothing_is_seen_in_both():
    _, (under, _, over) = scenes.bracket((-12, 0, 12))
    assert exposure.brightness_order([over, under]) == [1, 0]
    assert exposure.brightness_order([np.zeros((8, 8), np.uint8)] * 2) == [0, 1]


def test_refusals():
    a, b = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)
    for call in (exposure.difference, exposure.match):
        with pytest.raises(InputError, match="one size"):
            call(a, b)
    with pytest.raises(InputError, match="channels"):
        exposure.match(a, a[..., 0])
    with pytest.raises(InputError, match="channels"):
        exposure.match(a, a).apply(a[..., 0])
