"""Exposures by a camera that moved, of scenes in which things move more."""

import itertools

import numpy as np
import pytest
from helpers_scenes import scene, to
from scipy import ndimage

from mgdn_jax.fusing import geometry, handheld, resampling, shifts
from mgdn_jax.fusing.exposures import Exposure, check_places
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.fusing.report import Report
from mgdn_jax.fusing.transforms import Transform

SIZE = (180, 240)
CORNERS = np.array([[0, 0], [239, 0], [0, 179], [239, 179]], float)
STOPS = (-2, 0, 2)
RIM = 20


def pose(x, y, degrees):
    """From a moving exposure to the reference."""
    turn = np.deg2rad(degrees)
    c, s = np.cos(turn), np.sin(turn)
    middle = (np.array(SIZE[::-1]) - 1) / 2
    about = middle - np.array([[c, -s], [s, c]]) @ middle + (x, y)
    return Transform(np.array([[c, -s, about[0]], [s, c, about[1]], [0, 0, 1]]))


POSES = (pose(2.4, -1.7, 0.3), Transform.identity(), pose(-1.3, 2.6, -0.35))
STILL = (Transform.identity(),) * 3


def shots(poses=POSES, contrast=0.06, move=20, gain=2.0):
    """Exposures of 8 bits; a textured thing moves over a background of little contrast."""
    height, width = (n + 2 * RIM for n in SIZE)
    weak = ndimage.gaussian_filter(scene(5, height, width, discs=0), (1, 1, 0))
    weak = 0.1 * (1 + contrast * (weak - weak.mean()) / weak.std())
    thing = 0.25 * scene(8, 90, 100) ** 2
    exposures = []
    rng = np.random.default_rng(1)
    for number, (motion, ev) in enumerate(zip(poses, STOPS, strict=True)):
        light = weak.copy()
        left = 70 + move * (number - 1)
        light[60:150, left : left + 100] = thing
        to_frame = Transform([[1, 0, -RIM], [0, 1, -RIM]])
        seen, _ = resampling.warp(light, motion.inverse().compose(to_frame), SIZE)
        seen = np.maximum(seen, 0) * 2.0**ev * gain
        noisy = np.clip(seen + rng.normal(0, 3e-4, seen.shape), 0, 1)
        exposures.append(to(np.uint8, noisy ** (1 / 2.2)))
    return exposures


def off(found, true):
    return np.linalg.norm(found.apply(CORNERS) - true.apply(CORNERS), axis=1).max()


def test_a_thing_that_moves_does_not_take_the_camera_along():
    pytest.importorskip("cv2")
    exposures = shots()
    found = handheld.align_exposures(exposures.__getitem__, 3, anchor=1)
    for alignment, true in zip(found, POSES, strict=True):
        assert off(alignment.transform, true) < 0.3
        assert alignment.remark == ""
    # The order of the files says nothing of their brightness.
    order = (2, 0, 1)
    turned = handheld.align_exposures(lambda n: exposures[order[n]], 3, anchor=2)
    for number, alignment in zip(order, turned, strict=True):
        assert off(alignment.transform, found[number].transform) < 1e-6


def test_a_thing_that_moves_is_no_shift_that_is_left():
    still, moved = shots(STILL), shots((pose(6, 0, 0), *STILL[1:]))
    assert any(shifts.shift(*pair).is_noticeable for pair in itertools.pairwise(still))
    assert handheld.lie_on_each_other(still.__getitem__, 3)
    assert not handheld.lie_on_each_other(moved.__getitem__, 3)
    assert not handheld.lie_on_each_other(shots().__getitem__, 3)
    parts = {k: Exposure(x, None) for k, x in enumerate(still)}
    report = Report()
    check_places(parts, ["1", "2", "3"], False, report)
    assert report.warnings == []


@pytest.mark.parametrize("model", ["translation", "euclidean"])
def test_a_model_is_kept(model):
    pytest.importorskip("cv2")
    exposures = shots()
    for alignment in handheld.align_exposures(exposures.__getitem__, 3, anchor=1, model=model)[::2]:
        matrix = alignment.transform.matrix
        assert alignment.model == model
        assert np.linalg.det(matrix) == pytest.approx(1, abs=1e-6)
        assert (matrix[0, 1] == 0) == (model == "translation")


def test_shifts_alone():
    exposures = shots()
    for shift, true in zip(handheld.shifts_of(exposures.__getitem__, 3, anchor=1), POSES,
                           strict=True):  # fmt: skip
        assert np.array_equal(shift.matrix[:2, :2], np.eye(2))
        assert off(shift, true) < 1.2  # the turn is left, 0.9 px at the corners


def test_saturation_says_nothing():
    pytest.importorskip("cv2")
    exposures = shots(contrast=0.3, gain=3.5)
    assert 0.3 < (exposures[2].min(-1) == 255).mean() < 0.9
    found = handheld.align_exposures(exposures.__getitem__, 3, anchor=1)
    for alignment, true in zip(found, POSES, strict=True):
        assert off(alignment.transform, true) < 0.4


def placed(exposures, **options):
    report = Report()
    placing = geometry.place(
        exposures.__getitem__, list("abc"), [SIZE] * 3, FuseOptions(align=True, **options), report,
        anchor=1, is_bracket=True,
    )  # fmt: skip
    return placing, report


def test_nothing_moves_where_the_camera_stood():
    pytest.importorskip("cv2")
    exposures = shots(STILL)
    placing, report = placed(exposures)
    assert placing.transforms == (None, None, None)
    assert "were left as they are" in report.steps[0]["says"]
    assert report.warnings == []
    report = Report()
    placing = geometry.place_shifted(exposures.__getitem__, list("abc"), [SIZE] * 3, report, 1)
    assert placing.transforms == (None, None, None)
    assert report.steps == []


def test_what_most_of_the_picture_does_not_follow_is_refused():
    pytest.importorskip("cv2")
    exposures = shots()
    exposures[2] = to(np.uint8, 0.5 + 0.5 * scene(30, *SIZE))
    placing, report = placed(exposures, area="full")
    assert placing.transforms[2] is None
    assert off(placing.transforms[0], POSES[0]) < 0.3
    assert len(report.warnings) == 1
    assert report.warnings[0].startswith("c: no movement of the camera brings most of it")
    assert handheld.shifts_of(exposures.__getitem__, 3, anchor=1)[2] is None


def test_far_shifts_are_found():
    large = scene(4, 240, 420)
    pictures = [to(np.uint8, large[20:200, x : x + 300] * k) for x, k in ((80, 0.3), (30, 0.9))]
    shift = handheld.shifts_of(pictures.__getitem__, 2, anchor=1)[0]
    np.testing.assert_allclose(shift.matrix[:2, 2], (50, 0), atol=0.1)
