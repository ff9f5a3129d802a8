"""What the metrics' docstrings promise: symmetry, bounds, invariances, refusals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mgdn_jax import metrics
from mgdn_jax.errors import InputError

SIDE = 45  # above MEF-SSIM's 44; MS-SSIM needs 161 and has its own test
FIT = tuple(name for name in metrics.ALL if metrics.METRICS[name].min_side <= SIDE)


@st.composite
def images(draw):
    """A 45x45 image: noise, blocks, ramps or a constant, of any contrast."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    kind = draw(st.sampled_from(["noise", "blocks", "ramp", "constant", "binary"]))
    low = draw(st.integers(0, 255))
    high = draw(st.integers(low, 255))
    if kind == "noise":
        return rng.integers(low, high + 1, (SIDE, SIDE)).astype(np.uint8)
    if kind == "blocks":
        coarse = rng.integers(low, high + 1, (6, 6)).astype(np.uint8)
        return np.kron(coarse, np.ones((8, 8), np.uint8))[:SIDE, :SIDE]
    if kind == "ramp":
        return np.broadcast_to(np.linspace(low, high, SIDE).astype(np.uint8), (SIDE, SIDE))
    if kind == "binary":
        return (rng.integers(0, 2, (SIDE, SIDE)) * 255).astype(np.uint8)
    return np.full((SIDE, SIDE), low, np.uint8)


def same(x, y, tolerance=1e-9):
    return x == pytest.approx(y, rel=tolerance, abs=tolerance, nan_ok=True)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(images(), images(), images())
def test_symmetric_in_the_sources_and_within_bounds(f, a, b):
    one = metrics.evaluate(f, a, b, FIT)
    other = metrics.evaluate(f, b, a, FIT)
    for name in FIT:
        metric = metrics.METRICS[name]
        if metric.symmetric:
            assert same(one[name], other[name]), name
        low, high = metric.bounds
        assert math.isnan(one[name]) or low - 1e-6 <= one[name] <= high + 1e-6, name


TURNING = (
    # Scales keep every second row from the first, so the edge matters; so do blocks of 16.
    *("VIF", "VIFF_han", "MEF_SSIM", "Q_CV"),
    *("Qabf", "Nabf"),  # do not wrap angles around
    *("Q_Y", "Q_C", "Q_CB"),  # jump at thresholds, or at 0/0, that rounding may cross
    *("FMI_pixel", "FMI_pixel_symmetric", "FMI_gradient", "FMI_dct"),  # positions in order
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(images(), images(), images(), st.sampled_from([(0, 1), (1, 0)]))
def test_mirroring_or_transposing_all_three_changes_nothing(f, a, b, axes):
    turned = metrics.evaluate(*(np.transpose(x, axes)[::-1] for x in (f, a, b)), FIT)
    plain = metrics.evaluate(f, a, b, FIT)
    for name in FIT:
        if name not in TURNING:
            assert same(turned[name], plain[name], 1e-7), name


@settings(max_examples=25, deadline=None, derandomize=True)
@given(arrays(np.uint8, (9, 11)), st.integers(1, 4), st.integers(0, 3))
def test_correlation_ignores_gain_and_offset(x, gain, offset):
    small = x // 5
    f, a = small.astype(float), small[::-1].astype(float)
    assert same(
        metrics.correlation_coefficient(f, a, a),
        metrics.correlation_coefficient(gain * f + offset, a, a),
    )


@settings(max_examples=20, deadline=None, derandomize=True)
@given(images(), images(), st.permutations(range(256)))
def test_mutual_information_ignores_the_names_of_the_levels(a, b, permutation):
    table = np.array(permutation, np.uint8)
    assert same(metrics.mutual_information(a, b, b), metrics.mutual_information(table[a], b, b))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(images())
def test_a_perfect_copy_reaches_the_top(x):
    values = metrics.evaluate(x, x, x, ("SSIM_dr255", "SSIM_dr2", "VIF", "MSE", "Nabf", "Qabf"))
    assert same(values["SSIM_dr255"], 2)
    assert same(values["SSIM_dr2"], 2)
    assert same(values["VIF"], 2, 1e-6)  # its eps shows where the variance is tiny
    assert values["MSE"] == 0
    assert values["Nabf"] == 0
    # Equal strengths count as the strength itself: full marks where it is 1 or more.
    assert same(values["Qabf"], 0.9753333, 1e-6) or math.isnan(values["Qabf"])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(images(), images())
def test_the_mean_of_the_sources_minimises_mse(a, b):
    best = metrics.mean_squared_error((a.astype(float) + b) / 2, a, b)
    for f in (a, b, np.maximum(a, b), np.minimum(a, b)):
        assert metrics.mean_squared_error(f, a, b) >= best - 1e-9


def test_multi_scale_ssim_is_symmetric_and_bounded():
    rng = np.random.default_rng(0)
    a, b, f = (rng.integers(0, 256, (161, 163)).astype(np.uint8) for _ in range(3))
    value = metrics.multi_scale_structural_similarity(f, a, b)
    assert 0 <= value <= 2
    assert same(value, metrics.multi_scale_structural_similarity(f, b, a))
    assert same(metrics.multi_scale_structural_similarity(a, a, a), 2)
    # An inverted structure has negative means, which count as 0.
    assert metrics.multi_scale_structural_similarity(255 - a, a, a) == 0


def test_directions():
    down = {name for name, m in metrics.METRICS.items() if not m.higher_is_better}
    assert down == {"MSE", "Nabf", "CE", "Q_CV", "RMSE_gt", "RMSE_cm"}
    needs = (("fused",), ("fused", "a", "b"), ("fused", "truth"))
    assert all(m.needs in needs for m in metrics.METRICS.values())
    assert all(m.title and m.meaning for m in metrics.METRICS.values())
    assert {m.name for m in metrics.METRICS.values()} == set(metrics.METRICS)


@pytest.mark.parametrize("name", [n for n in metrics.ALL if metrics.METRICS[n].min_side > 1])
def test_too_small_an_image_is_refused_by_name(name):
    least = metrics.METRICS[name].min_side
    fits = np.zeros((least, least + 1), np.uint8)
    metrics.evaluate(fits, fits, fits, (name,))
    small = np.zeros((least - 1, least + 1), np.uint8)
    with pytest.raises(
        ValueError,
        match=f"^{name.split('_dr')[0].removesuffix('_symmetric')} needs .* {least}x{least} ",
    ):
        metrics.evaluate(small, small, small, (name,))


def test_one_pixel_is_measured_where_it_can_be():
    one = np.full((1, 1), 9, np.uint8)
    names = tuple(n for n in metrics.ALL if metrics.METRICS[n].min_side == 1)
    values = metrics.evaluate(one, one, one, names)
    assert values["SD"] == 0
    assert math.isnan(values["CC"])


def test_unequal_sizes_are_refused():
    x, y = np.zeros((50, 50), np.uint8), np.zeros((50, 51), np.uint8)
    with pytest.raises(ValueError, match=r"differ in size .*b 50x51"):
        metrics.evaluate(x, x, y)
    with pytest.raises(ValueError, match=r"^VIF needs images of one size, got 50x50, 50x51"):
        metrics.visual_information_fidelity(x, y, x)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (np.zeros((0, 4), np.uint8), "shape"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.full((4, 4), 0.5), r"0\.\.1"),
        (np.zeros((4, 4), complex), "dtype"),
    ],
)
def test_pictures_that_cannot_be_read_as_luminance(image, message):
    with pytest.raises(InputError, match=message):
        metrics.luminance(image)


def test_unknown_names():
    x = np.zeros((8, 8), np.uint8)
    with pytest.raises(InputError, match=r"unknown metric 'SIM': did you mean 'SSIM'\?$"):
        metrics.evaluate(x, x, x, ("SIM",))
    with pytest.raises(InputError, match="unknown metric '~': choose one of EN, SD"):
        metrics.evaluate(x, x, x, ("~",))
    with pytest.raises(InputError, match="variant 'cdd'"):
        metrics.evaluate(x, x, x, ("EN",), variant="cdd")


def test_luminance():
    assert metrics.luminance(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)) == (
        pytest.approx(np.array([[76.0, 150.0, 29.0]]))
    )
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    # Three equal channels give the value itself back: the weights sum to 1.
    assert np.array_equal(metrics.luminance(np.stack([gray] * 3, axis=-1)), gray)
    assert np.array_equal(metrics.luminance(gray[..., None]), gray)
    assert np.array_equal(metrics.luminance(gray.astype(np.uint16) * 257), gray)
    assert np.array_equal(metrics.luminance(gray > 99), (gray > 99) * 255.0)
    assert np.array_equal(
        metrics.luminance(np.array([[-3.0, 1.5, 2.5, 254.6, 300.0]])), [[0, 2, 2, 255, 255]]
    )


def test_a_gray_image_is_not_the_callers_array():
    pixels = np.zeros((3, 3))
    gray = metrics.Gray(pixels)
    pixels[0, 0] = 9
    assert gray.pixels.max() == 0
    with pytest.raises(ValueError, match="read-only"):
        gray.pixels[0, 0] = 1
