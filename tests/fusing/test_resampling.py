import numpy as np
import pytest
from scipy import ndimage

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import resampling
from mgdn_jax.fusing.transforms import Transform, covered

KINDS = [np.uint8, np.uint16, np.int32, np.float32]
TURNED = Transform([[0.99, -0.05, 4.3], [0.05, 0.99, -3.6]])


def scene(height=60, width=80, channels=3, dtype=np.uint8, seed=0):
    random = np.random.default_rng(seed)
    x = ndimage.gaussian_filter(random.normal(size=(height, width, channels)), (1.5, 1.5, 0))
    x = (x - x.min()) / np.ptp(x)
    return (x * (1 if dtype == np.float32 else min(np.iinfo(dtype).max, 65535))).astype(dtype)


@pytest.fixture(params=["OpenCV", "SciPy"])
def library(request, monkeypatch):
    """With the extra `align` and without it."""
    if request.param == "SciPy":
        monkeypatch.setattr(resampling, "opencv", lambda: None)
    return request.param


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("interpolation", resampling.INTERPOLATIONS)
def test_the_identity_is_bit_for_bit(library, dtype, interpolation):
    pixels = scene(dtype=dtype)
    same, mask = resampling.warp(
        pixels, Transform.identity(), pixels.shape[:2], interpolation=interpolation
    )
    np.testing.assert_array_equal(same, pixels)
    assert same.dtype == dtype
    assert mask.all()


def test_a_move_by_whole_pixels_copies(library):
    pixels = scene(channels=1)[..., 0]
    moved, mask = resampling.warp(pixels, Transform([[1, 0, 7], [0, 1, -4]]), (60, 80))
    np.testing.assert_array_equal(moved[:56, 7:], pixels[4:, :73])
    assert mask[:56, 7:].all()
    assert mask.sum() == 56 * 73


@pytest.mark.parametrize("interpolation", ["lanczos", "cubic"])
@pytest.mark.parametrize("dtype", KINDS)
def test_there_and_back_is_nearly_the_same(library, dtype, interpolation):
    pixels = scene(dtype=dtype)
    there, mask = resampling.warp(pixels, TURNED, (60, 80), interpolation=interpolation)
    again, back = resampling.warp(there, TURNED.inverse(), (60, 80), interpolation=interpolation)
    inner = np.zeros_like(mask)
    inner[16:-16, 16:-16] = True
    assert mask[inner].all()
    assert back[inner].all()
    error = (again.astype(float) - pixels)[inner] / float(pixels.max())
    assert np.sqrt((error**2).mean()) < 0.01
    assert there.dtype == dtype


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_filters_do_not_ring_beyond_the_range(library, dtype):
    pixels = np.zeros((40, 40), dtype)
    pixels[:, 20:] = 0.5 if dtype == np.float32 else 255
    out, _ = resampling.warp(pixels, Transform([[1, 0, 0.37], [0, 1, 0.21]]), (40, 40))
    assert out.min() >= 0
    assert out.max() <= pixels.max()


def test_the_mask_is_where_the_source_lies_and_nothing_is_mixed_in(library):
    pixels = np.full((40, 50), 200, np.uint8)
    out, mask = resampling.warp(pixels, TURNED, (44, 60))
    np.testing.assert_array_equal(mask, covered(TURNED, (40, 50), (44, 60)))
    assert (out[mask] == 200).all()


@pytest.mark.parametrize("interpolation", resampling.INTERPOLATIONS)
def test_what_is_transparent_is_neither_there_nor_mixed_in(library, interpolation):
    pixels = np.full((40, 50, 4), 180, np.uint8)
    pixels[..., 3] = 255
    pixels[:, :12] = 0
    out, mask = resampling.warp(
        pixels, Transform([[1, 0, 0.5], [0, 1, 0.25]]), (40, 50), interpolation=interpolation
    )
    assert not mask[:, :13].any()
    assert mask[1:, 13:].all()
    assert (out[mask][:, :3] == 180).all()
    assert (out[~mask][:, 3] == 0).all()
    assert (out[mask][:, 3] >= 250).all()


def test_large_reductions_do_not_alias(library):
    stripes = np.zeros((160, 160), np.float32)
    stripes[:, ::2] = 1
    out, mask = resampling.warp(
        stripes, Transform([[0.21, 0, 3], [0, 0.21, 3]]), (40, 40), interpolation="linear"
    )
    assert np.abs(out[mask] - 0.5).max() < 0.05


def test_transforms_of_other_sizes_and_unknown_interpolations_are_refused():
    made = Transform(np.eye(3), ((60, 80), (60, 80)))
    resampling.warp(scene(), made, (60, 80))
    with pytest.raises(InputError, match="made for"):
        resampling.warp(scene(50, 80), made, (60, 80))
    with pytest.raises(InputError, match="choose one of lanczos"):
        resampling.warp(scene(), made, (60, 80), interpolation="nearest")


def test_without_the_extra_the_message_names_it(monkeypatch):
    monkeypatch.setattr(resampling, "opencv", lambda: None)
    with pytest.raises(InputError, match=r"sewing needs OpenCV: pip install 'mgdn-jax\[align\]'"):
        resampling.needed_opencv("sewing")


# ----------------------------------------------------------------------------- resizing


@pytest.mark.parametrize("dtype", KINDS)
def test_resizing_keeps_type_range_and_mean(dtype):
    pixels = scene(dtype=dtype)
    for size in ((30, 40), (23, 91), (120, 160), (1, 1)):
        out = resampling.resize(pixels, size)
        assert out.shape == (*size, 3)
        assert out.dtype == dtype
        assert out.max() <= pixels.max()
        assert out.mean() == pytest.approx(pixels.mean(), rel=0.02)
    assert resampling.resize(pixels, (60, 80)) is pixels


def test_resizing_keeps_places():
    """A ramp stays the same ramp: pixel centres move as `scaling` says."""
    ramp = np.tile(np.arange(100, dtype=np.float32), (20, 1))
    half = resampling.resize(ramp, (10, 50))
    np.testing.assert_allclose(half[5, 5:-5], np.arange(5, 45) * 2 + 0.5, atol=0.01)


def test_alpha_weighs_the_colours():
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[:, 20:] = (200, 100, 50, 255)
    out = resampling.resize(pixels, (10, 10))
    assert (out[:, 5:, :3] == (200, 100, 50)).all()
    assert (out[:, :4, 3] <= 8).all()


def test_no_pixels_are_refused():
    with pytest.raises(InputError, match="no pixels"):
        resampling.resize(scene(), (0, 5))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_reduced_luminance_is_the_mean_of_blocks(dtype):
    pixels = scene(64, 96, dtype=dtype)
    reduced, factor = resampling.reduced_luminance(pixels, 32)
    assert reduced.shape == (21, 32)
    assert factor.tolist() == [3, 3]
    top = 1 if dtype == np.float32 else np.iinfo(dtype).max
    gray = pixels.astype(float) @ (0.299, 0.587, 0.114) / top
    expected = gray[:63].reshape(21, 3, 32, 3).mean((1, 3))
    np.testing.assert_allclose(reduced, expected, atol=1e-5)
