"""Colour, gradients and windows, in NumPy and in JAX."""

import jax.numpy as jnp
import numpy as np
import pytest

from mgdn_jax import image

RGB = np.random.default_rng(0).random((2, 5, 7, 3))


@pytest.mark.parametrize("xp", [np, jnp])
def test_colour_round_trip(xp):
    rgb = xp.asarray(RGB, xp.float32)
    ycc = image.rgb_to_ycbcr(rgb)
    assert type(ycc) is type(rgb)
    assert np.allclose(image.ycbcr_to_rgb(ycc), RGB, atol=1e-6)
    assert np.allclose(ycc[..., :1], image.luminance(rgb))


def test_colours_by_hand():
    red = np.array([[[1.0, 0.0, 0.0]]])
    assert np.allclose(image.rgb_to_ycbcr(red), [[[0.299, 0.5 - 0.299 / 1.772, 1.0]]])
    gray = np.full((1, 1, 3), 0.3)
    assert np.allclose(image.rgb_to_ycbcr(gray), [[[0.3, 0.5, 0.5]]])
    assert image.luminance(gray[..., :1]).shape == (1, 1, 1)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        image.luminance(np.zeros((2, 2, 4)))


def test_chroma_is_weighted_by_its_distance_from_neutral():
    first, second = np.array([0.5, 0.9, 0.7, 0.5]), np.array([0.2, 0.5, 0.3, 0.5])
    assert np.allclose(image.fuse_chroma(first, second), [0.2, 0.9, 0.5, 0.5])


def test_sobel_of_a_ramp_is_its_slope():
    y, x = np.mgrid[:6, :8].astype(float)
    gx, gy = image.sobel((2 * x + 3 * y)[..., None])
    assert np.allclose(gx[1:-1, 1:-1], 2)
    assert np.allclose(gy[1:-1, 1:-1], 3)
    assert np.allclose(gx[0, 1:-1], 2)  # the border repeats itself
    assert np.allclose(gx[:, 0], 1)


def test_gaussian_window():
    window = image.gaussian_window(5, 1.0)
    assert window.sum() == pytest.approx(1)
    assert window[2] / window[1] == pytest.approx(np.exp(0.5))
    with pytest.raises(ValueError, match="odd"):
        image.gaussian_window(4, 1.0)


def test_mertens_weight_by_hand():
    x = np.full((3, 3, 3), 0.5)
    x[1, 1] = 0.5, 0.7, 0.3
    weight = image.mertens_weight(x)
    luma = 0.2 * (image.LUMA[1] - image.LUMA[2])
    middle = 4 * luma * np.std([0.5, 0.7, 0.3]) * np.exp(-0.08 / 0.08)
    assert weight[1, 1] == pytest.approx(middle + 1e-12)
    # Gray places have no saturation; in one channel it is left out.
    assert weight[0] == pytest.approx(1e-12)
    gray = image.mertens_weight(x[..., 1:2])
    # The border pixel is not repeated: (1, 1) counts twice for (0, 1).
    assert gray[0, 1] == pytest.approx(2 * 0.2)
    assert gray[1, 1] == pytest.approx(4 * 0.2 * np.exp(-0.04 / 0.08))
    assert image.mertens_weight(np.ones((1, 1, 3))).shape == (1, 1)
