import helpers_scenes as scenes
import numpy as np
import pytest

from mgdn_jax.fusing.likeness import looks_like


def u8(x):
    return scenes.to(np.uint8, x)


def test_focus():
    _, near, far = scenes.focus_pair(1, discs=30)
    assert looks_like([u8(near), u8(far)]).kind == "focus"
    assert looks_like([u8(near), u8(far * 1.3)]).kind == "focus"
    assert looks_like([u8(x.mean(-1)) for x in (near, far)]).kind == "focus"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_exposure(order):
    _, pictures = scenes.bracket()
    likeness = looks_like([pictures[i] for i in order])
    assert likeness.kind == "exposure"
    assert likeness.confidence > 0.8


def test_cross_modal():
    visible = scenes.scene(2)
    thermal = scenes.scene(3)[..., 0]
    assert looks_like([u8(thermal), u8(visible)]).kind == "cross-modal"
    assert looks_like([u8(visible), u8(np.stack([thermal] * 3, -1))]).kind == "cross-modal"


def test_two_scans_of_one_head():
    rows, columns = np.mgrid[-60:60, -90:90]
    head = rows**2 / 50**2 + columns**2 / 40**2 < 1
    scans = [0.2 + 0.7 * scenes.scene(seed).mean(-1) for seed in (5, 6)]
    assert looks_like([u8(head * scan) for scan in scans]).kind == "cross-modal"


@pytest.mark.parametrize(
    "pictures",
    [
        [scenes.scene(1)] * 2,
        [scenes.scene(1), scenes.scene(2)],
        [scenes.scene(1), np.roll(scenes.scene(1), (30, 50), (0, 1))],
        [scenes.scene(1), scenes.scene(1, discs=2)],
        [scenes.scene(1), 0.9 * scenes.scene(1)],
        [np.zeros((40, 50)), np.ones((40, 50))],
        [np.zeros((3, 4, 3)), np.zeros((3, 4))],
        [scenes.scene(1), scenes.scene(1)[1:]],
        [scenes.scene(1)],
    ],
    ids=["copy", "others", "shift", "object", "darker", "flat", "tiny", "sizes", "one"],
)
def test_silence(pictures):
    assert looks_like([u8(x) for x in pictures]) == (None, 0.0)
