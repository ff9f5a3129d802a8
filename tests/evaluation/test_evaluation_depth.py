"""Protocols of depth sets, and rules that enlarge maps without learning."""

from types import SimpleNamespace

import numpy as np
import pytest
from golden import Golden
from PIL import Image

from mgdn_jax.errors import FusionWarning, InputError
from mgdn_jax.evaluation import depth as d
from mgdn_jax.evaluation import upsampling
from mgdn_jax.io import files
from mgdn_jax.quantities import depth as quantity

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (48, 40, 3), np.uint8)
MAP = RNG.random((48, 40)).astype(np.float32) + 1


def write(folder, rgb, depth):
    for kind in ("rgb", "depth"):
        (folder / kind).mkdir()
    files.write_image(folder / "rgb" / "1.png", rgb)
    np.save(folder / "depth" / "1.npy", depth)
    return d.find_depth_pairs(folder)


@pytest.fixture
def pairs(tmp_path):
    return write(tmp_path, RGB, MAP)


def measured(pairs, protocol, scale=4, **methods):
    tables = d.evaluate_depth(methods, pairs, protocol, scale)
    return {name: list(table.rows["1"].values()) for name, table in tables.items()}


@pytest.mark.parametrize("scale", [4, 8, 16])
def test_the_published_figure_of_a_picture(tmp_path, scale):
    golden = Golden("mgdn_gdsr_preproc")
    pairs = write(tmp_path, golden["in:rgb_uint8"], golden["in:depth_m"])
    scores = measured(pairs, d.PROTOCOLS["nyu"], scale, mgdn=upsampling.bicubic_mgdn)
    wanted = float(golden[f"scalar:rmse_cm_bicubic_{scale}x"])
    assert scores["mgdn"][0] == pytest.approx(wanted, abs=1e-4)


def constant(value):
    return lambda low, rgb, limits: np.full(rgb.shape[:2], value, np.float32)


def test_unit_border_and_clipping(pairs):
    wanted = np.abs(1.5 - MAP.astype(np.float64))
    inner = wanted[6:-6, 6:-6]
    for name, part, factor in (("nyu", inner, 100), ("rgbdd", wanted, 0.1), ("lu6", wanted, 1)):
        (scores,) = measured(pairs, d.PROTOCOLS[name], x=constant(1.5)).values()
        rmse, mad = factor * np.sqrt((part**2).mean()), factor * part.mean()
        np.testing.assert_allclose(scores, (rmse, mad), rtol=1e-9)
    high, same = measured(
        pairs, d.PROTOCOLS["rgbdd"], x=constant(9), y=constant(MAP.max())
    ).values()
    assert high == same
    high, same = measured(pairs, d.PROTOCOLS["lu6"], x=constant(900), y=constant(255)).values()
    assert high == same
    free, clipped = measured(
        pairs, d.PROTOCOLS["lu6"], bicubic=constant(900), y=constant(900)
    ).values()
    assert free[1] > clipped[1] + 600


def test_titles_say_the_unit():
    assert d.PROTOCOLS["nyu"].columns == ("RMSE_cm", "MAD_cm")
    assert d.PROTOCOLS["middlebury2005"].columns == ("RMSE_255", "MAD_255")


def test_methods_get_the_small_map_and_the_true_limits(tmp_path):
    pairs = write(tmp_path, np.pad(RGB, ((0, 3), (0, 5), (0, 0))), np.pad(MAP, ((0, 3), (0, 5))))
    seen = []

    def method(low, rgb, limits):
        seen.append((low, rgb, limits))
        return MAP[: rgb.shape[0], : rgb.shape[1]]

    scores = measured(pairs, d.PROTOCOLS["nyu"], 8, x=method)
    assert scores["x"] == [0, 0]
    ((low, rgb, limits),) = seen
    np.testing.assert_array_equal(rgb, RGB)
    np.testing.assert_array_equal(low, quantity.reduce(MAP, 8))
    assert limits == quantity.limits_of(MAP)


def test_holes_of_maps_of_ones_own_do_not_count(tmp_path):
    holed = MAP.copy()
    holed[5:9, 7:12], holed[20, 20] = 0, np.nan
    pairs = write(tmp_path, RGB, holed)
    scores = measured(pairs, d.PROTOCOLS["metres"], x=constant(1.5))["x"]
    valid = np.isfinite(holed) & (holed != 0)
    error = np.abs(1.5 - holed[valid].astype(np.float64))
    np.testing.assert_allclose(scores, (100 * np.sqrt((error**2).mean()), 100 * error.mean()))
    with pytest.raises(InputError, match="choose --set metres or millimetres"):
        measured(pairs, d.PROTOCOLS["nyu"], x=constant(1.5))


def test_networks_see_no_zero_that_is_no_hole():
    calls = []

    def upsampler(low, rgb, *, limits):
        calls.append((low, limits))
        return SimpleNamespace(depth=quantity.enlarge(low, rgb.shape[:2]), warnings=("dark.",))

    method = d.method_of(upsampler)
    low = np.array([[0, 3], [4, 8]], np.float32)
    limits = quantity.Limits(-1.0, 9.0)
    with pytest.warns(FusionWarning, match="dark"):
        result = method(low, np.zeros((8, 8, 3), np.uint8), limits)
    moved, around = calls[0]
    assert (moved > 0).all()
    np.testing.assert_allclose(
        quantity.normalised(moved, around), quantity.normalised(low, limits), atol=1e-6
    )
    np.testing.assert_allclose(result, quantity.enlarge(low, (8, 8)), atol=1e-5)
    with pytest.warns(FusionWarning, match="dark"):
        method(low + 1, np.zeros((8, 8, 3), np.uint8), limits)
    np.testing.assert_array_equal(calls[1][0], low + 1)
    assert calls[1][1] == limits


@pytest.mark.parametrize("name", upsampling.BASELINES)
def test_rules_keep_a_constant_and_a_unit(name):
    rule = upsampling.BASELINES[name]
    low = RNG.random((12, 10)).astype(np.float32)
    limits = quantity.limits_of(low)
    result = rule(low, RGB, limits)
    assert result.shape == (48, 40)
    assert result.dtype == np.float32
    np.testing.assert_allclose(rule(low * 1000 + 500, RGB, limits), result * 1000 + 500, rtol=1e-4)
    np.testing.assert_allclose(rule(np.full_like(low, 7), RGB, limits), 7, rtol=1e-5)
    deep = RGB.astype(np.uint16) * 257
    np.testing.assert_allclose(rule(low, deep, limits), result, atol=1e-5)


def test_rules_without_a_guide_are_pillows():
    low = RNG.random((12, 10)).astype(np.float32)
    for name, kind in (("nearest", "NEAREST"), ("bilinear", "BILINEAR"), ("bicubic", "BICUBIC")):
        wanted = Image.fromarray(low).resize((40, 48), Image.Resampling[kind])
        ours = upsampling.BASELINES[name](low, RGB, quantity.limits_of(low))
        np.testing.assert_allclose(ours, np.asarray(wanted), atol=1e-5, err_msg=name)


def test_guided_rules_keep_an_edge_of_the_photograph():
    truth = np.where(np.arange(48)[:, None] < 22, 1.0, 5.0) * np.ones((1, 40))
    rgb = np.repeat(np.where(truth == 1, 40, 220).astype(np.uint8)[..., None], 3, axis=-1)
    low, limits = quantity.reduce(truth, 4), quantity.Limits(1.0, 5.0)
    errors = {
        name: np.abs(rule(low, rgb, limits) - truth).mean()
        for name, rule in upsampling.BASELINES.items()
    }
    plain = errors["bicubic"]
    assert errors["joint_bilateral"] < 0.5 * plain
    assert errors["guided_filter"] < 0.8 * plain


def test_what_does_not_fit_is_refused(tmp_path, pairs):
    with pytest.raises(InputError, match="no whole multiple"):
        upsampling.nearest(np.zeros((5, 7)), RGB, quantity.Limits(0.0, 1.0))
    with pytest.raises(InputError, match="nothing left inside a border of 30"):
        measured(pairs, d.Protocol("", "cm", 1.0, 30), x=constant(1))
    with pytest.raises(InputError, match="cannot be reduced by 64"):
        measured(pairs, d.PROTOCOLS["nyu"], 64, x=constant(1))
    files.write_image(tmp_path / "rgb" / "1.png", RGB[:-1])
    with pytest.raises(InputError, match="must have the photograph's size"):
        measured(pairs, d.PROTOCOLS["nyu"], x=constant(1))
    files.write_image(tmp_path / "rgb" / "2.png", RGB)
    with pytest.raises(InputError, match=r"2 has no partner in .*depth"):
        d.find_depth_pairs(tmp_path)
