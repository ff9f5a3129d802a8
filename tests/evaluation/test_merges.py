"""Rules that merge exposures: what each does to light that is known."""

import numpy as np
import pytest

from mgdn_jax.evaluation import merges
from mgdn_jax.quantities.radiance import developed

pytestmark = pytest.mark.quick
TIMES = (1.0, 4.0, 16.0)


def light():
    y, x = np.mgrid[:24, :30]
    wave = np.sin(x / 5) * np.cos(y / 6)
    return np.stack([np.exp(2.5 * wave - 3 + c) for c in (0, 0.3, -0.3)], -1).astype(np.float32)


def bracket(*moments):
    return [developed(h, t) for h, t in zip(moments, TIMES, strict=True)]


def test_names_are_those_of_the_tables():
    assert [rule.__name__ for rule in merges.MERGES.values()] == list(merges.MERGES)
    assert len(merges.MERGES) == 8


@pytest.mark.parametrize(
    "name", sorted(set(merges.MERGES) - {"reference_exposure", "linear_mean_weighted"})
)
def test_a_still_scene_is_merged_to_its_light(name):
    scene = light()
    merged = merges.MERGES[name](bracket(scene, scene, scene), TIMES)
    assert merged.shape == scene.shape
    assert merged.dtype == np.float32
    assert np.allclose(merged, scene.clip(0, 1), rtol=0.02, atol=2e-3)


def test_a_clipped_reference_stays_clipped():
    scene = light()
    merged = merges.reference_exposure(bracket(scene, scene, scene), TIMES)
    assert np.allclose(merged, np.minimum(scene, 0.25), atol=1e-6)


def test_the_mean_of_all_light_is_that_of_what_is_not_clipped():
    dark = np.full((4, 5, 3), 0.02, np.float32)
    assert np.allclose(merges.linear_mean_weighted(bracket(dark, dark, dark), TIMES), dark)
    bright = np.full_like(dark, 0.5)
    merged = merges.linear_mean_weighted(bracket(bright, bright, bright), TIMES)
    assert np.allclose(merged, (0.5 + 1 + 1) / 21)


def test_ghosts_are_left_out_where_the_reference_can_tell():
    scene = np.full((24, 30, 3), 0.005, np.float32)
    other = scene.copy()
    other[8:16, 8:16] = 0.05  # an object that is there in the long exposure alone
    exposures = bracket(scene, scene, other)
    ghost = merges.triangle_by_reference(exposures, TIMES)
    clean = merges.triangle_deghosted(exposures, TIMES)
    assert np.abs(ghost - scene).max() > 0.02
    assert np.abs(clean - scene)[10:14, 10:14].max() < 1e-5


def test_the_short_exposure_does_not_darken_what_the_reference_clips():
    bright = np.full((12, 12, 3), 0.5, np.float32)
    black = np.full_like(bright, 0.01)
    merged = merges.reference_or_short(bracket(black, bright, bright), TIMES)
    assert np.allclose(merged, 0.25)
    merged = merges.reference_or_short(bracket(bright, bright, bright), TIMES)
    assert np.allclose(merged, 0.5, atol=1e-5)


def test_a_shift_of_the_short_exposure_is_undone():
    rng = np.random.default_rng(0)
    scene = np.exp(rng.normal(-3, 1, (40, 48, 1))).astype(np.float32).repeat(3, -1)
    scene[10:20, 10:24] *= 30
    scene = scene.clip(0, 1)
    moved = np.roll(scene, (2, -3), (0, 1))
    exposures = bracket(moved, scene, scene)
    wrong = merges.reference_or_short(exposures, TIMES)
    merged = merges.reference_or_short_shifted(exposures, TIMES)
    inner = (slice(6, -6),) * 2
    assert np.abs(merged - scene)[inner].mean() < 0.3 * np.abs(wrong - scene)[inner].mean()
