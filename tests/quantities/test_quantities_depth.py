"""The preparation of depth maps against golden arrays, Pillow and PyTorch's rule."""

import numpy as np
import pytest
from golden import Golden
from PIL import Image

from mgdn_jax.errors import InputError
from mgdn_jax.quantities import depth as q


@pytest.fixture(scope="module")
def golden():
    return Golden("mgdn_gdsr_preproc")


@pytest.mark.parametrize("scale", [4, 8, 16])
def test_the_published_preparation(golden, scale):
    depth, rgb = golden["in:depth_m"], golden["in:rgb_uint8"]
    limits = q.limits_of(depth)
    assert limits.low == pytest.approx(float(golden["scalar:depth_min"]), abs=1e-7)
    assert limits.high == pytest.approx(float(golden["scalar:depth_max"]), abs=1e-7)
    low = q.reduce(depth, scale)
    image, enlarged = q.network_inputs(rgb, low, limits)
    wanted = golden[f"out:depth_lr_{scale}x"][0, 0]
    np.testing.assert_allclose(q.normalised(low, limits), wanted, atol=1e-6, rtol=0)
    wanted = golden[f"out:depth_up_{scale}x"][0, 0]
    np.testing.assert_allclose(enlarged[..., 0], wanted, atol=1e-6, rtol=0)
    wanted = np.moveaxis(golden["out:rgb_norm"][0], 0, -1)
    np.testing.assert_allclose(image, wanted, atol=1e-6, rtol=0)
    target = q.normalised(depth, limits)
    np.testing.assert_allclose(target, golden["out:depth_hr_norm"][0, 0], atol=1e-6, rtol=0)
    error = q.restored(enlarged[..., 0].clip(0, 1), limits).astype(np.float64) - depth
    rmse = 100 * np.sqrt((error[6:-6, 6:-6] ** 2).mean())
    assert rmse == pytest.approx(float(golden[f"scalar:rmse_cm_bicubic_{scale}x"]), abs=1e-4)


@pytest.mark.parametrize("size", [(23, 31), (46, 60), (7, 100), (11, 9)])
def test_pillows_bicubic(size):
    array = np.random.default_rng(0).random((23, 31), np.float32) * 3000
    wanted = Image.fromarray(array).resize(size[::-1], Image.Resampling.BICUBIC)
    np.testing.assert_allclose(q.enlarge_pillow(array, size), np.asarray(wanted), atol=2e-3)


def test_reduction_cuts_what_the_scale_does_not_divide():
    array = np.random.default_rng(1).random((23, 31), np.float32)
    wanted = Image.fromarray(array[:20, :28]).resize((7, 5), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(q.reduce(array, 4), np.asarray(wanted), atol=1e-6)
    assert q.cropped(np.zeros((23, 31, 3)), 8).shape == (16, 24, 3)
    with pytest.raises(InputError, match="cannot be reduced by 32"):
        q.reduce(array, 32)


def test_enlargement_is_pytorchs(torch):
    array = np.random.default_rng(2).random((5, 7), np.float32)
    for size in ((20, 28), (13, 30), (5, 7)):
        wanted = torch.nn.functional.interpolate(
            torch.from_numpy(array)[None, None], size, mode="bicubic", align_corners=False
        )
        np.testing.assert_allclose(q.enlarge(array, size), wanted[0, 0].numpy(), atol=1e-6)


def test_limits_and_back():
    depth = np.array([[1.0, 3.0], [np.nan, 2.0]], np.float32)
    assert q.limits_of(depth) == q.Limits(1.0, 3.0)
    assert q.limits_of(depth, 0.25) == q.Limits(0.5, 3.5)
    limits = q.limits_of(depth)
    np.testing.assert_array_equal(q.restored(q.normalised(depth, limits), limits), depth)
    flat = np.full((2, 2), 7, np.float32)
    zeros = q.normalised(flat, q.limits_of(flat))
    assert not zeros.any()
    np.testing.assert_array_equal(q.restored(zeros, q.limits_of(flat)), flat)
    with pytest.raises(InputError, match="no finite value"):
        q.limits_of(np.full((2, 2), np.nan))
    with pytest.raises(InputError, match="lower one first"):
        q.Limits(2.0, 1.0)


def test_photographs_of_every_kind_are_one():
    eight = np.random.default_rng(3).integers(0, 256, (4, 5, 3), np.uint8)
    first = q.rgb_input(eight)
    assert first.dtype == np.float32
    np.testing.assert_allclose(q.rgb_input(eight.astype(np.uint16) * 257), first, atol=1e-6)
    np.testing.assert_allclose(q.rgb_input(eight / 255), first, atol=1e-6)
    with pytest.raises(InputError, match=r"no \(H, W, 3\)"):
        q.rgb_input(eight[..., 0])
    with pytest.raises(InputError, match="int32"):
        q.rgb_input(eight.astype(np.int32))


def test_holes_take_the_nearest_value():
    depth = np.array([[1, 0, 5], [1, np.nan, 5], [np.inf, 2, 5]], np.float32)
    filled, valid = q.fill_holes(depth)
    assert valid.tolist() == [[True, False, True], [True, False, True], [False, True, True]]
    np.testing.assert_array_equal(filled[valid], depth[valid])
    assert filled[0, 1] in (1, 5)
    assert filled[1, 1] in (1, 2, 5)
    assert filled[2, 0] in (1, 2)
    whole, every = q.fill_holes(filled)
    assert every.all()
    np.testing.assert_array_equal(whole, filled)
    with pytest.raises(InputError, match="empty"):
        q.fill_holes(np.zeros((2, 2)))


def test_the_card_holds_the_preparation():
    preparation = q.DepthPreparation(8, 0.05)
    assert preparation.to_dict() == {"quantity": "depth", "scale": 8, "margin": 0.05}
    assert q.DepthPreparation.from_dict(preparation.to_dict()) == preparation
    for mapping, reason in (
        ({"quantity": "radiance"}, "not of depth"),
        ({"quantity": "depth", "factor": 4}, "no field factor"),
        ({"quantity": "depth", "scale": 2.5}, "whole number"),
        ({"quantity": "depth", "scale": 4, "margin": -1}, "share of the span"),
    ):
        with pytest.raises(InputError, match=reason):
            q.DepthPreparation.from_dict(mapping)
