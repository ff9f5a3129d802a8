"""The base: low frequencies of a result are those of its sources, whatever the network says."""

import numpy as np
import pytest
from fake_fusion import Config
from scipy import ndimage

from mgdn_jax import image
from mgdn_jax.errors import InputError
from mgdn_jax.evaluation import baselines
from mgdn_jax.fusing import base, strips
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.metrics import luminance

GRAY = {"in_channels": (1, 1), "out_channels": 1}


def make(card=None, bias=0.1, **fields):
    """A network whose every picture is too bright."""
    return Fuser("fake_fusion", Config(**fields), {"bias": np.float32(bias)}, {}, card)


def focus_pair(shape=(96, 128, 3), seed=0):
    """The left half of the first picture is sharp, the right half of the second."""
    random = np.random.default_rng(seed)
    sharp = ndimage.gaussian_filter(random.normal(size=shape), (1, 1, 0))
    sharp += 8 * ndimage.gaussian_filter(random.normal(size=shape), (12, 12, 0))
    sharp = 0.2 + 0.4 * (sharp - sharp.min()) / np.ptp(sharp)
    soft = ndimage.gaussian_filter(sharp, (3, 3, 0))
    first, second = sharp.copy(), sharp.copy()
    middle = shape[1] // 2
    first[:, middle:], second[:, :middle] = soft[:, middle:], soft[:, :middle]
    return [np.rint(255 * x).astype(np.uint8) for x in (first, second)]


def low(plane):
    return ndimage.gaussian_filter(plane, 16.0)


@pytest.mark.parametrize("kind", ["focus", "exposure"])
@pytest.mark.parametrize("fields", [{}, GRAY], ids=["colour network", "gray network"])
def test_low_frequencies_are_those_of_the_blend(kind, fields):
    a, b = focus_pair()
    if kind == "focus":
        weight = baselines.evidence_weight(a, b)
        blend = weight * luminance(a) + (1 - weight) * luminance(b)
    else:
        blend = luminance(baselines.mertens(a, b))
    fuser = make(**fields)
    plain, fused = (luminance(fuser(a, b, base=k)) for k in ("network", kind))
    assert np.abs(low(plain - blend)).min() > 20  # 0.1 of 255, less what the sources differ in
    assert np.abs(low(fused - blend)).max() < 1
    # What is added is smooth: details stay the network's.
    added = fused - plain
    assert np.std(added - ndimage.gaussian_filter(added, 4.0)) < 0.5


@pytest.mark.parametrize("kind", ["focus", "exposure"])
@pytest.mark.parametrize("value", [0, 100, 255])
def test_equal_flat_pictures_are_their_own_fusion(kind, value):
    picture = np.full((33, 50, 3), value, np.uint8)
    np.testing.assert_array_equal(make(**GRAY)(picture, picture, base=kind), picture)
    np.testing.assert_array_equal(make()(picture, picture, picture, base=kind), picture)


def test_all_channels_move_alike():
    a, b = focus_pair()
    fuser = make()
    floats = [x.astype(np.float32) / 255 for x in (a, b)]
    gap = fuser(*floats, base="focus") - fuser(*floats)
    np.testing.assert_allclose(gap, np.repeat(image.luminance(gap), 3, -1), atol=1e-6)


@pytest.mark.parametrize("kind", ["focus", "exposure"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (97, 130)])
def test_pieces_change_nothing(monkeypatch, kind, shape):
    random = np.random.default_rng(1)
    pictures = [random.integers(0, 256, (*shape, c), dtype=np.uint8) for c in (1, 3)]
    fused = random.random((*shape, 1), np.float32)
    whole = base.replaced(fused.copy(), pictures, kind)
    assert np.isfinite(whole).all()
    monkeypatch.setattr(strips, "ROWS", 16)
    monkeypatch.setattr(strips, "COLUMNS", 24)
    np.testing.assert_array_equal(base.replaced(fused.copy(), pictures, kind), whole)


@pytest.mark.parametrize("fields", [{}, GRAY], ids=["colour network", "gray network"])
def test_tiles_and_batches_change_nothing(fields):
    scenes = [focus_pair((40, 48, 3), seed) for seed in range(3)]
    fuser = make({"inference": {"base": "focus"}}, uses_mean=True, **fields)
    alone = [fuser(*scene) for scene in scenes]
    for together, one in zip(fuser.batch(scenes), alone, strict=True):
        np.testing.assert_array_equal(together, one)
    # The network sees the whole picture's mean in tiles, too: only sums are rounded otherwise.
    tiled = fuser(*scenes[0], tile=16, overlap=8)
    assert np.abs(tiled.astype(int) - alone[0]).max() <= 1
    assert np.any(fuser(*scenes[0], base="network") != alone[0])
    np.testing.assert_array_equal(
        fuser(*scenes[0], base="network"), make(uses_mean=True, **fields)(*scenes[0])
    )


def test_a_stack_keeps_its_tone():
    a, b = focus_pair()
    fused = luminance(make()(a, b, a, base="focus"))
    assert np.abs(low(fused) - low(luminance(a))).max() < 8
    assert np.abs(low(luminance(make()(a, b, a))) - low(luminance(a))).min() > 20


def test_networks_that_weigh_their_inputs_have_no_tone_of_their_own():
    import fake_blend

    fuser = Fuser("fake_blend", fake_blend.Config(), {"gain": np.float32(1)}, {})
    a, b = focus_pair()
    np.testing.assert_array_equal(fuser(a, b, base="exposure"), fuser(a, b))


def test_a_base_that_does_not_exist_is_named():
    with pytest.raises(InputError, match="base is 'mean'; choose one of network, focus, exposure"):
        make()(*focus_pair(), base="mean")
    with pytest.raises(InputError, match="on the weights' card, base is 'x'"):
        make({"inference": {"base": "x"}})
