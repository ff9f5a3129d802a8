"""The synthesis of exposures keeps to a camera: order, clipping, light that changes by region."""

import numpy as np
import pytest

from mgdn_jax.data import Exposures, synthesise_multiexposure
from mgdn_jax.errors import InputError

CLEAN = {"noise_share": 0.0, "jpeg_share": 0.0}
LINEAR = {**CLEAN, "gamma": (1.0, 1.0)}  # stored values are light


def scene(seed=0, shape=(48, 64), channels=3):
    """A dark left half and a bright right half, each with its texture."""
    rng = np.random.default_rng(seed)
    image = rng.integers(20, 90, (*shape, channels), np.uint8)
    image[:, shape[1] // 2 :] += 140
    labels = np.zeros(shape, np.uint8)
    labels[:, shape[1] // 2 :] = 1
    return image, labels


def drawn(seed=0, spec=None, **kwargs):
    image, labels = scene(**kwargs)
    return synthesise_multiexposure(image, labels, np.random.default_rng(seed), spec)


@pytest.mark.parametrize("channels", [1, 3])
def test_under_is_nowhere_brighter_than_over_and_the_target_is_the_picture(channels):
    image = scene(channels=channels)[0]
    darker = []
    for seed in range(20):
        under, over, target = drawn(seed, Exposures(**CLEAN), channels=channels)
        np.testing.assert_array_equal(target, image, strict=True)
        for x in (under, over):
            assert x.shape == image.shape
            assert x.dtype == np.uint8
        assert (under <= over).all()
        darker.append(over.mean() - under.mean())
    assert min(darker) > 5
    assert np.ptp(darker) > 30  # pairs differ in how far apart they are


def test_without_expansion_the_two_are_the_picture_times_a_number_clipped():
    image = (scene()[0].astype(float) + 0.5) / 255.5
    clipped = []
    for seed in range(10):
        under, over, _ = drawn(seed, Exposures(expansion=0.0, **LINEAR))
        for source in (under, over):
            source = source / 255
            free = (source < 1) & (source > 0.05)
            gain = np.median((source / image)[free])
            np.testing.assert_allclose(source, np.minimum(gain * image, 1), atol=0.012)
        clipped.append((over == 255).mean())
    assert max(clipped) > 0.3


def test_gains_put_lights_and_shadows_where_they_are_asked_for():
    spec = Exposures(expansion=0.0, lights=(0.5, 0.5), shadows=(0.25, 0.25), **LINEAR)
    under, over, _ = drawn(0, spec)
    assert abs(np.quantile(under.max(-1), 0.98) / 255 - 0.5) < 0.02
    assert abs(np.quantile(over.max(-1), 0.15) / 255 - 0.25) < 0.02


def test_gamma_acts_on_light():
    """One picture of one value: its stored value is the gain to the power 1 / gamma."""
    image, labels = np.full((20, 20, 1), 128, np.uint8), np.zeros((20, 20), np.uint8)
    for gamma in (1.0, 2.2):
        spec = Exposures(lights=(0.2, 0.2), shadows=(0.6, 0.6), gamma=(gamma, gamma), **CLEAN)
        under, over, _ = synthesise_multiexposure(image, labels, np.random.default_rng(0), spec)
        assert (under == round(255 * 0.2 ** (1 / gamma))).all()
        assert (over == round(255 * 0.6 ** (1 / gamma))).all()


def test_expansion_puts_regions_apart_and_keeps_their_own_texture():
    """Far from the seam a region is multiplied by one number; the bright one by a larger one."""
    image = (scene()[0].astype(float) + 0.5) / 255.5
    sure = np.zeros(64, bool)
    sure[:12] = sure[-12:] = True
    spread = []
    for seed in range(12):
        under = drawn(seed, Exposures(lights=(1.0, 1.0), **LINEAR))[0] / 255
        ratio = under / image
        left, right = (
            np.median(ratio[:, half & sure]) for half in (np.arange(64) < 32, np.arange(64) >= 32)
        )
        assert right >= left * 0.99
        spread.append(right / left)
        rest = under[:, :12] - left * image[:, :12]
        assert np.abs(rest).max() < 0.01
    assert min(spread) < 1.3
    assert max(spread) > 2.0


def test_every_detail_is_in_one_of_the_two_when_the_range_is_moderate():
    """But for the lights above the high quantile: 2 % of the pixels, where u is near 1."""
    for seed in range(20):
        under, over, _ = drawn(seed, Exposures(expansion=0.3, **CLEAN))
        assert ((under.max(-1) < 3) & (over.max(-1) == 255)).mean() < 0.01
        assert (under.max(-1) == 255).mean() < 0.025


def test_the_seam_between_two_lights_is_soft():
    image = np.full((32, 64, 1), 60, np.uint8)
    image[:, 32:] = 200
    labels = (image[..., 0] > 100).astype(np.uint8)
    widths = []
    for seed in range(10):
        spec = Exposures(lights=(1.0, 1.0), **LINEAR)
        under = synthesise_multiexposure(image, labels, np.random.default_rng(seed), spec)[0]
        row = under[16, :, 0].astype(float)
        for half in (row[:32], row[32:]):
            between = (np.abs(half - half[0]) > 2) & (np.abs(half - half[-1]) > 2)
            widths.append(between.sum())
    assert max(widths) >= 3  # a hard seam has none
    assert max(widths) <= 17


def test_the_range_is_put_back_in_light():
    """Two flat regions: their contrast, as light, is its power of 1 + k, whatever the camera."""
    image = np.full((40, 80, 1), 60, np.uint8)
    image[:, 40:] = 200
    labels = (image[..., 0] > 100).astype(np.uint8)
    for gamma in (1.0, 2.2):
        powers = []
        for seed in range(40):
            spec = Exposures(lights=(1.0, 1.0), gamma=(gamma, gamma), **CLEAN)
            under = synthesise_multiexposure(image, labels, np.random.default_rng(seed), spec)[0]
            dark, bright = (under[20, x, 0] / 255 for x in (0, 79))
            powers.append(np.log(bright / dark) / np.log(200.5 / 60.5))
        assert 0.98 < min(powers) < 1.15
        assert 1.85 < max(powers) < 2.02
        assert 1.35 < np.mean(powers) < 1.65


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_tiny_and_flat_pictures_stay_finite_and_in_order(shape, value):
    image, labels = np.full((*shape, 3), value, np.uint8), np.zeros(shape, np.int64)
    for seed in range(5):
        under, over, target = synthesise_multiexposure(
            image, labels, np.random.default_rng(seed), Exposures(**CLEAN)
        )
        np.testing.assert_array_equal(target, image)
        assert (under <= over).all()
        assert np.ptp(under) == np.ptp(over) == 0


def test_a_black_surround_lifts_no_noise():
    """Most of it black: the low quantile is nothing, and a floor keeps the gain finite."""
    image = np.zeros((40, 40, 1), np.uint8)
    image[15:25, 15:25] = 200
    labels = (image[..., 0] > 0).astype(np.uint8)
    for seed in range(10):
        spec = Exposures(**CLEAN)
        _, over, _ = synthesise_multiexposure(image, labels, np.random.default_rng(seed), spec)
        assert over[0, 0, 0] < 128
        assert over[20, 20, 0] == 255


def test_the_generator_decides_everything():
    image, labels = scene()
    one, two, three = (
        synthesise_multiexposure(image, marks, np.random.default_rng(seed))[0]
        for seed, marks in ((0, labels), (0, labels.astype(np.int64) * 70_000), (1, labels))
    )
    np.testing.assert_array_equal(one, two)  # only the partition counts
    assert (one != three).any()


def test_the_margin_is_cut_off_and_noise_touches_the_sources_only():
    image, labels = scene()
    clean, dirty = (
        synthesise_multiexposure(
            image,
            labels,
            np.random.default_rng(3),
            Exposures(noise_share=share, jpeg_share=share),
            margin=7,
        )
        for share in (0.0, 1.0)
    )
    np.testing.assert_array_equal(clean[2], image[7:-7, 7:-7])
    np.testing.assert_array_equal(clean[2], dirty[2])
    for a, b in zip(clean[:2], dirty[:2], strict=True):
        assert a.shape == b.shape == (34, 50, 3)
        assert 0.1 < np.abs(a.astype(float) - b).mean() < 20


def test_a_bracket_of_three_comes_in_any_order():
    """The two ends, and a third between or somewhat beyond; what two are does not change."""
    spec = Exposures(count=3, twins_share=0.0, **CLEAN)
    firsts, places = [], []
    for seed in range(40):
        under, over, target = drawn(seed, Exposures(**CLEAN))
        *sources, same = drawn(seed, spec)
        assert len(sources) == 3
        np.testing.assert_array_equal(same, target)
        means = np.array([x.mean() for x in sources])
        ranks = list(np.argsort(means))
        ends = [any(np.array_equal(x, end) for x in sources) for end in (under, over)]
        assert all(ends)
        (other,) = [i for i, x in enumerate(sources)
                    if not (np.array_equal(x, under) or np.array_equal(x, over))]  # fmt: skip
        firsts.append(ranks[0])
        places.append(ranks.index(other))
        assert (sources[ranks[0]] <= sources[ranks[1]]).all()
        assert (sources[ranks[1]] <= sources[ranks[2]]).all()
    assert set(firsts) == {0, 1, 2}
    assert places.count(1) > 20
    assert set(places) == {0, 1, 2}


def test_twins_are_one_picture_to_the_bit():
    counts = []
    for seed in range(30):
        *sources, _ = drawn(seed, Exposures(count=3, twins_share=0.5))
        pairs = [np.array_equal(sources[i], sources[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
        assert sum(pairs) <= 1
        counts.append(pairs.index(True) if any(pairs) else 3)
    assert set(counts) == {0, 1, 2, 3}
    assert 8 < counts.count(3) < 22


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 4}, "count is 4; give 2 or 3 exposures"),
        ({"twins_share": 1.5}, "twins_share is a probability"),
        ({"expansion": -0.1}, "expansion is -0.1; give a number from 0 to 2"),
        ({"expansion": float("nan")}, "expansion is nan"),
        ({"lights": (0.0, 1.0)}, r"lights \(0.0, 1.0\) must be two numbers 0 < low <= high <= 4"),
        ({"shadows": (0.5, 0.1)}, r"shadows \(0.5, 0.1\) must be two numbers"),
        ({"gamma": (1.0, 9.0)}, r"gamma \(1.0, 9.0\) must be two numbers 0 < low <= high <= 4"),
        ({"noise_share": -0.5}, "noise_share is a probability"),
        ({"quality": (0, 50)}, r"quality \(0, 50\) must be two numbers 1 <= low"),
    ],
)
def test_bad_ranges_are_named(change, message):
    with pytest.raises(InputError, match=message):
        Exposures(**change)


def test_shapes_that_do_not_fit_are_named():
    image, labels = scene()
    rng = np.random.default_rng(0)
    for bad in ((image, labels[:-1], 0), (image[..., 0], labels, 0), (image, labels, 24)):
        with pytest.raises(InputError, match="do not fit; give"):
            synthesise_multiexposure(bad[0], bad[1], rng, margin=bad[2])
