"""Flat sources stay flat, whatever a card asks for: a stretch makes no contrast of none."""

import numpy as np
import pytest
from fake_fusion import FIRST, Config

from mgdn_jax.fusing import rendering, sequences
from mgdn_jax.fusing.folders import fuse_folders
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.fusing.report import Report
from mgdn_jax.io import files

STRETCHES = ("minmax", "fill", "robust")


def make(stretch, **fields):
    """A network that answers to black, as some do."""
    card = {"inference": {"stretch": stretch}}
    return Fuser("fake_fusion", Config(**fields), {"bias": np.float32(0.25)}, {}, card)


def flat(value, shape=(12, 16), dtype=np.uint8):
    return np.full(shape, value, dtype)


GRAY = {"in_channels": (1, 1), "out_channels": 1}
KINDS = {
    "gray": (128, (12, 16), np.uint8),
    "black": (0, (12, 16), np.uint8),
    "white": (255, (12, 16), np.uint8),
    "deep": (300, (12, 16), np.uint16),
    "floats": (0.3, (12, 16), np.float32),
    "colour": ((200, 30, 90), (12, 16, 3), np.uint8),
    "colour with alpha": ((200, 30, 90, 255), (12, 16, 4), np.uint8),
    "one pixel": (7, (1, 1), np.uint8),
}


@pytest.mark.parametrize("stretch", STRETCHES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fields", [{}, GRAY], ids=["colour network", "gray network"])
def test_equal_flat_pictures_are_their_own_fusion(kind, stretch, fields):
    picture = flat(*KINDS[kind])
    np.testing.assert_array_equal(make(stretch, **fields)(picture, picture), picture)


def test_in_every_way_of_running(tmp_path):
    picture = flat(90, (24, 20))
    fuser = make("minmax")
    for options in (
        {"tile": 8, "overlap": 4},
        {"tile": 8, "tile_context": "local"},
        {"ensemble": "flips"},
        {"padding": "script"},
        {"range": "auto"},
    ):
        np.testing.assert_array_equal(fuser(picture, picture, **options), picture)
    np.testing.assert_array_equal(fuser(picture, picture, picture, picture), picture)
    for result in fuser.batch([(picture, picture)] * 3):
        np.testing.assert_array_equal(result, picture)
    for side in ("a", "b"):
        for number in range(3):
            files.write_image(tmp_path / side / f"{number}.png", picture)
    for options in ({}, {"tone": "folder"}, {"tone": "picture"}, {"batch": 3}):
        written = fuse_folders(
            tmp_path / "a", tmp_path / "b", output=tmp_path / "out", model=fuser, **options
        )
        for path in written.values():
            np.testing.assert_array_equal(files.read_image(path), picture)


def test_flat_frames_have_no_tone():
    frames = [(flat(40), flat(40))] * 3
    fuser = make("minmax", **GRAY)
    _, options = sequences.settle(fuser, frames, fuser.resolve(sequences.USUAL), Report())
    assert options.tone == "0.0,1.0"


def test_flat_pictures_that_differ_stay_flat():
    fused = make("minmax", **GRAY)(flat(200), flat(60))
    assert np.ptp(fused) == 0
    assert fused[0, 0] == round(255 * (0.25 + FIRST * 200 / 255 + (1 - FIRST) * 60 / 255))


@pytest.mark.parametrize("stretch", STRETCHES)
def test_nearly_flat_pictures_are_not_blown_up(stretch):
    rng = np.random.default_rng(0)
    fuser = Fuser(
        "fake_fusion", Config(**GRAY), {"bias": np.float32(0)}, {},
        {"inference": {"stretch": stretch}},
    )  # fmt: skip
    spans = []
    for levels in (1, 3, 8, 16, 64):
        pictures = [100 + rng.integers(0, levels + 1, (32, 32), np.uint8) for _ in range(2)]
        fused = fuser.fuse(*pictures).pixels
        spans.append(int(np.ptp(fused)))
        assert levels >= 16 or abs(np.median(fused) - 100 - levels / 2) <= levels + 2
    assert spans[0] <= 4
    assert spans == sorted(spans)
    # From 16 levels on the stretch is what it was.
    assert spans[3:] == [255, 255]


def test_one_flat_picture_takes_nothing_from_the_other():
    noise = np.random.default_rng(0).integers(0, 256, (12, 16), np.uint8)
    fused = make("minmax", **GRAY)(flat(128), noise)
    assert (fused.min(), fused.max()) == (0, 255)
    assert fused.ravel()[noise.argmax()] == 255


def test_limits_move_without_a_jump():
    assert rendering.tempered(0.2, 0.3, 1.0) == (0.2, 0.3)
    assert rendering.tempered(0.2, 0.3, 1 / 16) == (0.2, 0.3)
    assert rendering.tempered(0.2, 0.3, 0.0) == (0.0, 1.0)
    low, high = rendering.tempered(0.2, 0.3, 0.999 / 16)
    np.testing.assert_allclose((low, high), (0.2, 0.3), atol=1e-3)
