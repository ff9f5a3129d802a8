"""Where pictures are not there."""

import numpy as np
import pytest

from mgdn_jax.fusing import masks


def test_alpha_says_what_is_there():
    picture = np.full((8, 9, 4), 255, np.uint8)
    assert masks.of_alpha(picture) is None
    assert masks.of_alpha(picture[..., :3]) is None
    assert masks.of_alpha(picture[..., 0]) is None
    picture[:, :3, 3] = 0
    picture[:, 3, 3] = 90  # a rim that a scaler mixed
    mask = masks.of_alpha(picture)
    assert not mask[:, :4].any()
    assert mask[:, 4:].all()
    glass = np.full((8, 9, 2), 100, np.uint8)  # half transparent all over: it is there
    assert masks.of_alpha(glass) is None
    glass[0, :, 1] = 0
    assert masks.of_alpha(glass)[1:].all()
    assert not masks.of_alpha(np.zeros((4, 4, 4), np.uint16)).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_gaps_are_filled_from_who_is_there(dtype):
    a, b = (np.full((20, 30, 3), value, dtype) for value in (0, 1))
    gap = np.ones((20, 30), bool)
    gap[:, :7] = False
    first, second = masks.filled([a, b], [gap, None])
    assert (first[:, :7] == 1).all()
    assert (first[:, 7:] == 0).all()
    assert second is b
    assert first.dtype == dtype


def test_where_nobody_is_there_the_nearest_pixel_stands_in():
    a = np.arange(30, dtype=np.uint8)[None, :, None].repeat(4, 0)
    mask = np.ones((4, 30), bool)
    mask[:, :5] = False
    first, second = masks.filled([a, a], [mask, mask])
    assert (first[:, :5] == 5).all()
    assert (second[:, :5] == 5).all()
    nothing = np.zeros((4, 30), bool)
    assert masks.filled([a, a], [nothing, nothing])[0].shape == a.shape


def test_gray_and_colour_fill_each_other():
    gray, colour = np.zeros((6, 6, 1), np.uint8), np.full((6, 6, 3), (30, 60, 90), np.uint8)
    mask = np.ones((6, 6), bool)
    mask[:2] = False
    first, second = masks.filled([gray, colour], [mask, mask[::-1]])
    assert (first[:2] == 60).all()
    assert (second[-2:] == 0).all()


def test_rims_are_trimmed_but_leave_no_hole():
    left, right = np.ones((12, 20), bool), np.ones((12, 20), bool)
    left[:, 10:], right[:, :10] = False, False
    first, second = masks.trimmed([left, right])
    assert masks.union([first, second]) is None  # touching rims: both stay
    np.testing.assert_array_equal(first, left)
    whole, part = masks.trimmed([None, right])
    assert whole is None
    assert not part[:, :12].any()
    assert part[:, 12:].all()  # the border of the picture is no rim


def test_a_result_is_the_picture_that_is_alone():
    a, b = np.full((30, 40, 3), 200, np.uint8), np.zeros((30, 40, 1), np.uint8)
    there = np.ones((30, 40), bool)
    there[:, :15] = False
    fused = np.full((30, 40, 3), 0.5, np.float32)
    hard = masks.pasted(fused.copy(), [a, b], [None, there], 0)
    np.testing.assert_allclose(hard[:, :15], 200 / 255, rtol=1e-6)
    np.testing.assert_allclose(hard[:, 15:], 0.5)
    soft = masks.pasted(fused.copy(), [a, b], [None, there], 8)
    np.testing.assert_allclose(soft[:, :15], 200 / 255, rtol=1e-6)
    step = np.abs(np.diff(soft[5, :, 0])).max()
    assert step < 0.3 * abs(200 / 255 - 0.5)
    np.testing.assert_allclose(soft[:, 24:], 0.5)
    assert masks.alone([None, None]) == [None, None]


def test_gray_results_take_the_luminance_of_colour():
    a = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    there = np.ones((8, 8), bool)
    there[0] = False
    fused = masks.pasted(np.zeros((8, 8, 1), np.float32), [a, a], [None, there], 0)
    np.testing.assert_allclose(fused[0], 0.299, rtol=1e-6)
