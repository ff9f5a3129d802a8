"""The synthesis keeps to optics: what may blur, what may spread, what must stay."""

import numpy as np
import pytest

from mgdn_jax.data import Synthesis, synthesise_multifocus
from mgdn_jax.errors import InputError

CLEAN = {"noise_share": 0.0, "jpeg_share": 0.0, "soften_share": 0.0}
CUT = {**CLEAN, "region_share": 1.0, "ramp_share": 0.0}
RADIUS = 4.0


def scene():
    """Left half red texture, right half green texture, exactly nothing of the other colour."""
    texture = np.random.default_rng(1).integers(40, 256, (64, 96), np.uint8)
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, :48, 0] = texture[:, :48]
    image[:, 48:, 1] = texture[:, 48:]
    labels = np.zeros((64, 96), np.uint8)
    labels[:, 48:] = 1
    return image, labels


@pytest.mark.parametrize("gaussian", [0.0, 1.0])
@pytest.mark.parametrize("light", [0.0, 1.0])
@pytest.mark.parametrize("gradient", [0.0, 1.0])
def test_near_and_far_obey_the_lens(gaussian, light, gradient):
    spec = Synthesis(
        **CUT,
        min_radius=RADIUS,
        max_radius=RADIUS,
        gaussian_share=gaussian,
        light_share=light,
        gradient_share=gradient,
    )
    image, labels = scene()
    sides = set()
    for seed in range(4):
        near, far, target = synthesise_multifocus(image, labels, np.random.default_rng(seed), spec)
        np.testing.assert_array_equal(target, image)
        left_sharp = np.array_equal(near[:, :44], target[:, :44])
        if not left_sharp:  # turn the picture so that the foreground is red and on the left
            near, far, target = (x[:, ::-1, [1, 0, 2]] for x in (near, far, target))
        sides.add(left_sharp)
        # Near: the foreground is exact up to its soft edge, and the background blurred without
        # a trace of the foreground's colour, nor darkened beside it.
        np.testing.assert_array_equal(near[:, :45], target[:, :45])
        assert near[:, 51:, 0].max() == 0
        assert near[:, 51:, 1].std() < 0.5 * target[:, 51:, 1].std()
        beside, away = near[:, 51:54, 1].mean(), near[:, 70:, 1].mean()
        assert abs(beside - away) < 0.1 * away
        # Far: the foreground spreads over the background, and the background shows through.
        assert far[:, 48:50, 0].mean() > 15
        assert far[:, 46:48, 1].mean() > 15
        np.testing.assert_allclose(far[:, 60:].astype(int), target[:, 60:], atol=1)
        assert far[:, :36, 0].std() < 0.5 * target[:, :36, 0].std()
    assert sides == {True, False}  # either side can be in front


def test_a_ramp_moves_the_focus():
    image, labels = scene()
    spec = Synthesis(**{**CLEAN, "ramp_share": 1.0}, min_radius=3.0, max_radius=5.0)
    near, far, target = synthesise_multifocus(image, labels, np.random.default_rng(3), spec)
    exact = [(x == target).all(-1) for x in (near, far)]
    for sharp in exact:
        assert 0.15 < sharp.mean() < 0.75
    assert (exact[0] ^ exact[1]).mean() > 0.5


def test_every_kind_of_mask_gives_images_of_the_scene():
    image, labels = scene()
    spec = Synthesis(**{**CUT, "region_share": 0.0})
    for seed in range(12):
        results = synthesise_multifocus(image, labels, np.random.default_rng(seed), spec)
        for x in results:
            assert x.shape == image.shape
            assert x.dtype == np.uint8
        near, far, target = results
        assert (near != far).any(-1).mean() > 0.5
        shown = (near == target).all(-1) | (far == target).all(-1)
        assert shown.mean() > 0.6  # but for a seam, one of the two shows the scene


@pytest.mark.parametrize(("shape", "channels"), [((37, 51), 3), ((5, 9), 3), ((33, 20), 1)])
def test_any_size_and_gray(shape, channels):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, channels), np.uint8)
    labels = rng.integers(0, 3, shape, np.uint8)
    for x in synthesise_multifocus(image, labels, rng):
        assert x.shape == image.shape


def test_the_generator_decides_everything():
    image, labels = scene()

    def first(seed, marks):
        return synthesise_multifocus(image, marks, np.random.default_rng(seed))[0]

    np.testing.assert_array_equal(first(0, labels), first(0, labels))
    assert (first(0, labels) != first(1, labels)).any()
    # Only the partition counts, not the values of the labels.
    np.testing.assert_array_equal(first(0, labels), first(0, labels.astype(np.int64) * 70_000))


def test_noise_and_jpeg_touch_the_sources_only():
    image, labels = scene()
    clean, dirty = (
        synthesise_multifocus(
            image,
            labels,
            np.random.default_rng(7),
            Synthesis(noise_share=share, jpeg_share=share, soften_share=1.0),
        )
        for share in (0.0, 1.0)
    )
    np.testing.assert_array_equal(clean[2], dirty[2])
    for a, b in zip(clean[:2], dirty[:2], strict=True):
        assert 0.2 < np.abs(a.astype(float) - b).mean() < 20


def test_surroundings_are_cut_off():
    image, labels = scene()
    spec = Synthesis(**CUT, min_radius=2.0, max_radius=2.0)
    for margin in (0, 5, spec.reach):
        results = synthesise_multifocus(
            image, labels, np.random.default_rng(0), spec, margin=margin
        )
        for x in results:
            assert x.shape == (64 - 2 * margin, 96 - 2 * margin, 3)
        inner = image[margin : 64 - margin, margin : 96 - margin]
        np.testing.assert_array_equal(results[2], inner)


def test_bad_arguments():
    image, labels = scene()
    with pytest.raises(InputError, match="do not fit"):
        synthesise_multifocus(image, labels[1:], np.random.default_rng(0))
    with pytest.raises(InputError, match="do not fit"):
        synthesise_multifocus(image, labels, np.random.default_rng(0), margin=32)
    with pytest.raises(InputError, match="min_radius"):
        Synthesis(min_radius=0)
    with pytest.raises(InputError, match="jpeg_share is a probability"):
        Synthesis(jpeg_share=1.5)
    with pytest.raises(InputError, match="quality"):
        Synthesis(quality=(90, 80))
