import cv2
import helpers_scenes as scenes
import numpy as np
import pytest

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import blending, brackets
from mgdn_jax.metrics import exposure_similarity, luminance


def floats(x):
    return x / np.float32(255)


def good(dark, bright):
    """Stands for a network: what is not cut off, more or less."""
    dark, bright = floats(dark), floats(bright)
    weight = np.clip((0.95 - bright) / 0.2, 0, 1)
    return weight * bright + (1 - weight) * np.minimum(1.2 * dark, 1)


def bad(dark, bright):
    """A network that shows nothing."""
    return np.full(dark.shape, 0.9, np.float32)


def score(fused, pictures):
    fused = np.rint(255 * np.clip(fused, 0, 1))
    return exposure_similarity(luminance(fused), *map(luminance, pictures))


def opencv(pictures):
    return cv2.createMergeMertens(1, 1, 1).process(pictures)


@pytest.mark.parametrize("network", [good, bad])
@pytest.mark.parametrize("stops", [(-2.5, 0, 2.5), (-3, -1, 1, 3), (-2, 2)])
def test_never_below_mertens(network, stops):
    _, pictures = scenes.bracket(stops, 61)
    fused = brackets.fuse_bracket(pictures, network)
    assert fused.dtype == np.float32
    assert fused.shape == pictures[0].shape
    assert fused.min() >= 0
    assert fused.max() <= 1
    assert score(fused, pictures) > score(opencv(pictures), pictures) - 1e-3


def test_dark_and_bright_places_keep_their_brightness():
    _, pictures = scenes.bracket(seed=61)
    fused = 255 * brackets.fuse_bracket(pictures, good)
    corner, window = np.s_[85:115, 5:40], np.s_[24:56, 95:136]
    assert abs(fused[corner].mean() - pictures[2][corner].mean()) < 30
    assert fused[window].mean() < 240
    assert opencv(pictures)[corner].mean() < 0.1 * pictures[2][corner].mean() / 255


def test_the_order_does_not_matter():
    _, pictures = scenes.bracket()
    wanted = brackets.fuse_bracket(pictures, good)
    assert np.array_equal(brackets.fuse_bracket([pictures[i] for i in (2, 0, 1)], good), wanted)


def test_the_network_gets_neighbours_dark_first():
    _, pictures = scenes.bracket((-3, -1, 1, 3))
    seen = []

    def network(dark, bright):
        seen.append([next(i for i, x in enumerate(pictures) if x is y) for y in (dark, bright)])
        return good(dark, bright)

    brackets.fuse_bracket(pictures[::-1], network)
    assert seen == [[0, 1], [1, 2], [2, 3]]


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_types(dtype):
    _, pictures = scenes.bracket()
    others = [scenes.to(dtype, x / 255) for x in pictures]
    scale = np.float32(1 if dtype == np.float32 else 65535 / 255)

    def network(dark, bright):
        return good(dark / scale * (255 if dtype == np.float32 else 1),
                    bright / scale * (255 if dtype == np.float32 else 1))  # fmt: skip

    wanted, fused = brackets.fuse_bracket(pictures, good), brackets.fuse_bracket(others, network)
    assert np.abs(fused - wanted).mean() < 1e-3


def test_gray():
    _, pictures = scenes.bracket()
    gray = [x[..., 1:2] for x in pictures]
    fused = brackets.fuse_bracket(gray, good)
    assert fused.shape == gray[0].shape
    assert score(fused, gray) > score(opencv([x[..., 0] for x in gray])[..., None], gray) - 1e-3


def test_what_is_missing_is_not_seen():
    _, pictures = scenes.bracket()
    wanted = brackets.fuse_bracket(pictures, good)
    masks = [np.ones(x.shape[:2], bool) for x in pictures]
    holed = [x.copy() for x in pictures]
    masks[1][:, :20], holed[1][:, :20] = False, 0
    masks[2][100:], holed[2][100:] = False, 0
    fused = brackets.fuse_bracket(holed, good, [None, *masks[1:]])
    assert np.abs(fused - wanted)[:, 30:].mean() < 0.02
    # Along the rim there is no line that the whole pictures do not have.
    difference = (fused - wanted).mean(-1)
    assert np.abs(np.diff(difference[:90], axis=1))[:, 17:23].max() < 0.15


@pytest.mark.parametrize("size", [(1, 1), (7, 30), (43, 60), (64, 65)])
def test_small_pictures(size):
    _, pictures = scenes.bracket(height=100, width=120)
    pictures = [x[: size[0], : size[1]] for x in pictures]
    fused = brackets.fuse_bracket(pictures, good)
    assert fused.shape == (*size, 3)
    assert np.isfinite(fused).all()


def test_large_pictures_are_decided_on_small_copies(monkeypatch):
    _, pictures = scenes.bracket(height=200, width=260)
    wanted = brackets.fuse_bracket(pictures, good)
    monkeypatch.setattr(brackets, "_MOST_PIXELS", 20_000)
    fused = brackets.fuse_bracket(pictures, good)
    assert np.abs(fused - wanted).mean() < 0.02
    assert score(fused, pictures) > score(opencv(pictures), pictures)


def test_a_blend_of_copies_is_the_picture():
    x = scenes.to(np.uint8, scenes.scene(2, 50, 70))
    weights = blending.normalised(blending.mertens([x, x]))
    none = np.zeros(x.shape[:2], np.float32)
    for levels in (0, 2):
        plain = blending.blend([x, x], 2, blending.Mixture(weights, none), levels)
        assert plain == pytest.approx(floats(x), abs=1e-5)
        structure = blending.Mixture([none, none], none + 1)
        assert blending.blend([x, x], 2, structure, levels) == pytest.approx(floats(x), abs=1e-5)


def test_pieces_do_not_show(monkeypatch):
    _, pictures = scenes.bracket(height=90, width=100)
    weights = blending.normalised(blending.mertens(pictures))
    mixture = blending.Mixture([0.5 * w for w in weights], np.full((90, 100), 0.5, np.float32))
    wanted = blending.blend(pictures, 3, mixture, 3)
    monkeypatch.setattr(blending.strips.pieces, "__defaults__", (32,))
    assert blending.blend(pictures, 3, mixture, 3) == pytest.approx(wanted, abs=1e-5)


def test_refusals():
    x = np.zeros((50, 50, 3), np.uint8)
    for pictures in ([x], [x, x[1:]], [x[..., 0], x[..., 0]]):
        with pytest.raises(InputError, match="two or more exposures of one shape"):
            brackets.fuse_bracket(pictures, good)
