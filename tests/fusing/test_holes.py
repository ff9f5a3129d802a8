"""Holes of exposures: filled in the tone of the holed one, from whichever shows most there."""

import helpers_scenes as scenes
import numpy as np
import pytest

from mgdn_jax.fusing.holes import Filler, relation

SHAPE = (60, 80)
GAP = np.s_[:, :24]


def holed(pictures, index, hidden=0):
    """The pictures of which one has a hole, and covers."""
    covers = [None] * len(pictures)
    covers[index] = np.ones(SHAPE, bool)
    covers[index][GAP] = False
    result = list(pictures)
    result[index] = np.where(covers[index][..., None], pictures[index], hidden)
    result[index] = result[index].astype(pictures[index].dtype)
    return result, covers


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_fill_has_the_tone_of_the_exposure(dtype):
    pictures = [scenes.to(dtype, x / 255) for x in scenes.bracket((-2, 0, 2), 0, *SHAPE)[1]]
    full = 1 if dtype == np.float32 else np.iinfo(dtype).max
    for index in range(3):
        missing, covers = holed(pictures, index)
        filler = Filler(missing.__getitem__, covers, range(3))
        result = filler.load(index)
        assert result.dtype == dtype
        np.testing.assert_array_equal(result[:, 24:], pictures[index][:, 24:])
        error = np.abs(result[GAP].astype(float) - pictures[index][GAP]) / full
        assert error.mean() < 0.015
        assert filler.covers == [None] * 3
        again = Filler(holed(pictures, index, full)[0].__getitem__, covers, range(3)).load(index)
        np.testing.assert_array_equal(again, result)


def test_what_one_cuts_off_comes_from_the_other():
    ramp = np.linspace(0, 1, 80, dtype=np.float32)
    light = np.tile(np.concatenate([ramp[::3], ramp[:53]]), (60, 1))[..., None]
    dark, middle, bright = (np.clip(light * g, 0, 1) for g in (0.5, 1.0, 4.0))
    crushed = np.maximum(dark - 0.2, 0)  # black where the bright one is not cut off
    pictures, covers = holed([crushed, middle, bright], 1)
    result = Filler(pictures.__getitem__, covers, range(3)).load(1)
    error = np.abs(result - middle)[GAP]
    assert error.max() < 0.2  # between 0.25 and 0.4 nobody knows
    assert error[(light[GAP] < 0.24) | (light[GAP] > 0.41)].max() < 0.03


def test_what_nobody_can_fill_is_said():
    pictures = scenes.bracket((-2, 2), 0, *SHAPE)[1]
    missing, covers = holed(pictures, 0)
    covers[1] = ~covers[0]  # they have nothing in common
    filler = Filler(missing.__getitem__, covers, range(2))
    smooth = filler.load(0)
    np.testing.assert_array_equal(filler.covers[0], covers[0])
    assert np.abs(np.diff(smooth[GAP].astype(int), axis=0)).max() < 40
    plain = Filler(missing.__getitem__, covers, range(2), has_tone=False).load(0)
    np.testing.assert_array_equal(plain, smooth)


def test_gray_and_colour_fill_each_other():
    colours = scenes.bracket((-2, 2), 0, *SHAPE)[1]
    for index, channels in ((0, 1), (1, 3)):
        pictures = [colours[0][..., 1:2], colours[1]]
        missing, covers = holed(pictures, index)
        filler = Filler(missing.__getitem__, covers, range(2))
        result = filler.load(index)
        assert result.shape == (*SHAPE, channels)
        assert filler.covers[index] is None
        assert np.abs(result.astype(int) - pictures[index])[GAP].mean() < 20  # colours are lost


def test_a_relation_goes_on_in_proportion():
    x = np.linspace(0.1, 0.5, 1000)
    known = relation(x, 1.5 * x)
    mean, spread = known(np.array([0.05, 0.3, 0.6, 0.9]))
    np.testing.assert_allclose(mean, [0.075, 0.45, 0.9, 1], atol=2e-3)
    assert spread[1] < spread[2] < spread[3]
    assert relation(x[:5], x[:5]) is None
