import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import resampling, shifts
from mgdn_jax.fusing.transforms import Transform

SIZE = (200, 260)


def scene(seed=0):
    random = np.random.default_rng(seed)
    x = sum(ndimage.gaussian_filter(random.normal(size=SIZE), s) * s for s in (1, 2, 7))
    x = (x - x.min()) / np.ptp(x)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    for _ in range(12):
        y, c, radius = random.integers(SIZE[0]), random.integers(SIZE[1]), random.integers(5, 20)
        x[(rows - y) ** 2 + (columns - c) ** 2 < radius**2] = random.random()
    return x.astype(np.float32)


def moved(picture, x=0.0, y=0.0, angle=0.0, scale=1.0):
    """A picture whose content is moved, turned clockwise in degrees, and enlarged."""
    c, s = scale * np.cos(np.deg2rad(angle)), scale * np.sin(np.deg2rad(angle))
    middle = (np.array(SIZE[::-1]) - 1) / 2
    about = middle - np.array([[c, -s], [s, c]]) @ middle + (x, y)
    matrix = np.array([[c, -s, about[0]], [s, c, about[1]], [0, 0, 1]])
    return resampling.warp(picture, Transform(matrix), SIZE)[0]


def focus_pair(sigma):
    sharp = scene(1)
    soft = ndimage.gaussian_filter(sharp, sigma)
    first, second = sharp.copy(), sharp.copy()
    first[:, 130:], second[:, :130] = soft[:, 130:], soft[:, :130]
    return first, second


@pytest.mark.parametrize("move", [(0.5, 0), (1.2, -0.9), (-3, 2.6), (17, 11)])
def test_moves_are_measured(move):
    found = shifts.shift(scene(), moved(scene(), *move))
    assert found.is_sure
    np.testing.assert_allclose((found.x, found.y), move, atol=0.1)
    assert found.is_noticeable == (np.hypot(*move) > 1)


def test_pictures_in_place_are_left_in_peace():
    assert not shifts.shift(scene(), scene()).is_noticeable
    first, second = focus_pair(2.5)
    assert not shifts.shift(first, second).is_noticeable
    assert shifts.shift(first, second).is_sure


def test_a_strong_blur_is_no_shift():
    first, second = focus_pair(15)
    assert not shifts.shift(first, second).is_noticeable


def test_turning_and_growing_without_a_shift_are_noticed():
    turned = shifts.shift(scene(), moved(scene(), angle=1.2))
    assert turned.is_noticeable
    assert turned.angle == pytest.approx(1.2, abs=0.1)
    assert turned.largest == pytest.approx(3.4, abs=0.5)
    grown = shifts.shift(scene(), moved(scene(), scale=1.03))
    assert grown.is_noticeable
    assert grown.scale == pytest.approx(1.03, abs=0.003)


def test_exposure_and_type_count_little():
    dark = np.round(255 * moved(scene(), 5, -2) ** 2.2 * 0.5).astype(np.uint8)
    found = shifts.shift(np.round(65535 * scene()).astype(np.uint16)[..., None], dark)
    assert found.is_noticeable
    np.testing.assert_allclose((found.x, found.y), (5, -2), atol=0.15)


def test_inverted_contrast_needs_the_other_kind():
    negative = 1 - moved(scene(), 6, 4)
    found = shifts.shift(scene(), negative, kind="cross")
    assert found.is_sure
    np.testing.assert_allclose((found.x, found.y), (6, 4), atol=0.2)
    near = shifts.shift(scene(), negative)
    assert not near.is_sure


@pytest.mark.parametrize("kind", shifts.KINDS)
def test_other_scenes_flat_ones_and_specks_say_nothing(kind):
    flat = np.full(SIZE, 0.3, np.float32)
    pairs = [(scene(), scene(5)), (flat, flat), (scene(), flat), (scene()[:9, :9],) * 2]
    for first, second in pairs:
        assert not shifts.shift(first, second, kind=kind).is_sure


def test_a_figure_that_may_be_wrong_needs_a_longer_shift():
    found = shifts.Shift(1.5, 0, 0.8, error=0.05, largest=1.5, is_sure=True)
    assert found.is_noticeable
    assert not dataclasses.replace(found, error=0.3).is_noticeable


def test_pictures_of_two_sizes_are_refused():
    with pytest.raises(InputError, match="not 260x200 and 130x200"):
        shifts.shift(scene(), scene()[:, ::2])
