from pathlib import Path

import cv2
import helpers_scenes as scenes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from mgdn_jax.errors import InputError
from mgdn_jax.evaluation import baselines
from mgdn_jax.evaluation.baselines import BASELINES

RULES = list(BASELINES.values())
GOLDENS = Path(__file__).parents[1] / "goldens"


@st.composite
def pairs(draw):
    shape = draw(array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))
    shape += draw(st.sampled_from([(), (3,)]))
    return tuple(draw(arrays(np.uint8, shape)) for _ in range(2))


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(pairs())
def test_shape_and_dtype_are_kept_and_a_copy_fuses_to_itself(rule, pair):
    a, b = pair
    fused = rule(a, b)
    assert fused.shape == a.shape
    assert fused.dtype == np.uint8
    assert np.array_equal(rule(a, a), a)


@pytest.mark.parametrize(
    ("rule", "case"),
    [
        (baselines.mean, "tno_mean"),
        (baselines.maximum, "tno_max"),
        (baselines.laplacian, "mrict_lap"),
        (baselines.laplacian, "tno_big_lap"),
    ],
)
def test_fused_images_of_the_metric_goldens(rule, case):
    with np.load(GOLDENS / "metrics_cases.npz") as stored:
        fused = rule(stored[f"{case}:a"], stored[f"{case}:b"])
        assert np.array_equal(fused, stored[f"{case}:f"])


def test_focus_weight_golden():
    # Stored from the version whose means over the Lytro pairs equal the anchors' row.
    with (
        np.load(GOLDENS / "metrics_cases.npz") as stored,
        np.load(GOLDENS / "metrics_focus.npz") as expected,
    ):
        weight = baselines.focus_weight(stored["tno_max:a"], stored["tno_max:b"])
        assert weight[::3, ::3] == pytest.approx(expected["weight"], abs=1e-6)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(pairs())
def test_mean_and_maximum(pair):
    a, b = pair
    assert np.array_equal(baselines.mean(a, b), (a.astype(int) + b + 1) // 2)
    assert np.array_equal(baselines.maximum(a, b), np.maximum(a, b))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(pairs())
def test_focus_never_leaves_the_range_of_the_sources(pair):
    a, b = pair
    fused = baselines.focus_guided(a, b)
    assert np.all(fused >= np.minimum(a, b))
    assert np.all(fused <= np.maximum(a, b))


@pytest.mark.parametrize("rule", RULES)
def test_gray_colour_is_fused_like_gray(rule):
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (37, 50)).astype(np.uint8) for _ in range(2))
    fused = rule(*(np.stack([x] * 3, axis=-1) for x in (a, b)))
    assert np.array_equal(fused, np.stack([rule(a, b)] * 3, axis=-1))


def test_pyramid_by_hand():
    x = np.zeros((5, 4))
    x[0, 0], x[2, 2] = 256, 256
    taps = np.array([1, 4, 6, 4, 1])
    small = baselines.pyramid_down(x)
    assert small.shape == (3, 2)
    # Beyond the edge the image is mirrored at its border pixel. Around (0, 0) the first spike
    # counts 6 * 6 and the second, two away on both sides, (1 + 1) * (1 + 1).
    assert small[0, 0] == 36 + 4
    # Around (2, 2) the second counts 6 * (6 + 1), mirrored at the last column; the first 1 * 1.
    assert small[1, 1] == 42 + 1
    # Doubling: an isolated sample spreads with the taps over eight.
    big = baselines.pyramid_up(np.pad([[64.0]], 2), (10, 9))
    assert big.shape == (10, 9)
    assert np.array_equal(big[2:7, 2:7], np.outer(taps, taps))
    # The last sample of a row counts 7/8 at its place and 8/8 beyond it (the border rule).
    row = baselines.pyramid_up(np.array([[0.0, 8.0]]), (2, 4))[0]
    assert np.array_equal(row, [2, 4, 7, 8])
    assert np.array_equal(baselines.pyramid_up(np.ones((3, 4)), (5, 8)), np.ones((5, 8)))


def scene(seed=0, size=128):
    rng = np.random.default_rng(seed)
    sharp = ndimage.gaussian_filter(rng.standard_normal((size, size)), 0.8) * 120 + 128
    sharp = np.clip(sharp, 0, 255)
    blurred = ndimage.gaussian_filter(sharp, 3)
    left = np.arange(size) < size // 2
    a, b = np.where(left, sharp, blurred), np.where(left, blurred, sharp)
    return tuple(np.rint(x).astype(np.uint8) for x in (a, b, sharp))


def test_focus_takes_the_sharp_halves():
    a, b, sharp = scene()
    weight = baselines.focus_weight(a, b)
    assert weight[:, :48].min() > 0.99
    assert weight[:, -48:].max() < 0.01
    fused = baselines.focus_guided(a, b).astype(int)
    error = np.abs(fused - sharp)
    assert error[:, :48].max() == 0
    assert error[:, -48:].max() == 0
    assert error.mean() < 0.1 * np.abs(baselines.mean(a, b).astype(int) - sharp).mean()


def test_laplacian_restores_what_the_mean_blurs():
    a, b, sharp = scene()
    pyramid = np.abs(baselines.laplacian(a, b).astype(int) - sharp).mean()
    assert pyramid < 0.5 * np.abs(baselines.mean(a, b).astype(int) - sharp).mean()


@pytest.mark.parametrize("size", [(120, 160), (77, 100)])
def test_mertens_is_that_of_opencv(size):
    _, (under, over) = scenes.bracket((-2, 2), 3, *size)
    wanted = cv2.createMergeMertens(1, 1, 1).process([under, over])
    difference = np.abs(baselines.mertens(under, over) - 255.0 * np.clip(wanted, 0, 1))
    assert np.percentile(difference, 99) < 1
    assert difference.mean() < 0.3
    gray = [x[..., 1].copy() for x in (under, over)]
    wanted = 255 * np.clip(cv2.createMergeMertens(1, 1, 1).process(gray), 0, 1)
    assert np.percentile(np.abs(baselines.mertens(*gray) - wanted), 99) < 2


def infrared(size=(96, 128), spot=230):
    """A cold infrared picture with a warm disc, and where the disc is."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    inside = (rows - 60) ** 2 + (columns - 40) ** 2 < 8**2
    return np.where(inside, spot, 40).astype(np.uint8), inside


def photograph(size=(96, 128)):
    return scenes.to(np.uint8, 0.2 + 0.5 * scenes.scene(1, *size))


def test_the_visible_picture_comes_back_beside_an_infrared_one_without_edges():
    visible = photograph()
    for level in (0, 90, 255):
        flat = np.full_like(visible, level)
        assert np.array_equal(baselines.hybrid_multiscale(flat, visible), visible)
    assert np.all(baselines.hybrid_multiscale(flat[:1, :1], visible[:1, :1]) == visible[0, 0])


def test_a_hot_spot_stays_and_so_does_visible_texture():
    visible = photograph()[..., 1]
    warm, inside = infrared()
    fused = baselines.hybrid_multiscale(warm, visible).astype(int)
    core, far = ndimage.binary_erosion(inside, iterations=3), slice(90, None)
    assert fused[core].min() > visible[core].max() + 60
    assert fused[core].mean() > 2 * fused[~inside].mean()
    assert np.std(np.diff(fused[:, far])) > 0.9 * np.std(np.diff(visible[:, far].astype(int)))
    assert np.corrcoef(fused[:, far].ravel(), visible[:, far].ravel())[0, 1] > 0.97
    # What is the infrared picture is not what is the visible one.
    other = baselines.hybrid_multiscale(visible, warm).astype(int)
    assert np.abs(other - fused).mean() > 10


def test_a_flat_sky_stays_flat():
    # The infrared sky has weak clouds: taken here and there they would be dark blobs.
    rng = np.random.default_rng(0)
    clouds = ndimage.gaussian_filter(rng.normal(size=(96, 128)), 10)
    clouds *= 4 / clouds.std()
    above = np.arange(96)[:, None] < 60
    sky = np.where(above, 235, photograph()[..., 1])
    cold = np.where(above, 20 + clouds, infrared()[0])
    fused = baselines.hybrid_multiscale(cold.astype(np.uint8), sky.astype(np.uint8))
    assert fused[:40].std() < 2 * cold[:40].std()


def test_channels_share_the_infrared_weight():
    visible = photograph()
    warm, inside = infrared()
    fused = baselines.hybrid_multiscale(np.stack([warm] * 3, -1), visible).astype(int)
    core = ndimage.binary_erosion(inside, iterations=3)
    assert np.all(fused[core].mean(0) > visible[core].mean(0) + 50)
    tints = [(x[:, 90:, 0].astype(int) - x[:, 90:, 2]).ravel() for x in (fused, visible)]
    assert np.corrcoef(tints)[0, 1] > 0.97


def test_hybrid_multiscale_golden():
    # Stored from the version that was measured on the test sets.
    warm, _ = infrared()
    fused = baselines.hybrid_multiscale(warm, photograph()[..., 1]).astype(float)
    numbers = [fused.mean(), fused.std(), fused[60, 40], fused[10, 100], fused[80, 20]]
    assert numbers[:2] == pytest.approx([104.844, 30.497], abs=0.01)
    assert numbers[2:] == [255, 121, 98]


def test_laplacian_prefers_the_first_on_ties():
    x = np.full((8, 8), 100, np.uint8)
    a, b = x.copy(), x.copy()
    a[4, 4], b[4, 4] = 110, 90
    assert baselines.laplacian(a, b)[4, 4] > 100
    assert baselines.laplacian(b, a)[4, 4] < 100


@pytest.mark.parametrize("rule", RULES)
def test_refusals(rule):
    x = np.zeros((8, 8), np.uint8)
    with pytest.raises(InputError, match="shapes"):
        rule(x, x[1:])
    with pytest.raises(InputError, match="uint8"):
        rule(x, x / 255)
    with pytest.raises(InputError, match="shape"):
        rule(x[None, None], x[None, None])
