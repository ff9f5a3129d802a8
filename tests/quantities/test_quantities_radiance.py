"""Radiance: the one preparation of exposures, against golden arrays and by its properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden, max_error

from mgdn_jax import metrics
from mgdn_jax.errors import InputError
from mgdn_jax.quantities import radiance
from mgdn_jax.quantities.radiance import RadiancePreparation

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def golden():
    return Golden("mgdn_hdr_metrics")


def pictures(golden):
    return [np.moveaxis(golden[f"in:{name}"][0], 0, -1) for name in ("output", "target")]


@pytest.mark.parametrize("name", ["output", "target"])
def test_the_curve_of_losses_and_previews(golden, name):
    light, wanted = golden[f"in:{name}"], golden[f"out:{name}_mu"]
    assert max_error(radiance.mu_law(light), wanted) <= 1e-6
    assert max_error(jax.jit(radiance.mu_law)(jnp.asarray(light)), wanted) <= 1e-6
    assert max_error(metrics.mu_law(light), wanted) <= 1e-6  # the ruler's own curve agrees
    assert np.allclose(radiance.inverse_mu_law(radiance.mu_law(light)), light, atol=2e-6)
    assert radiance.mu_law(light).dtype == np.float32


def test_the_published_figures(golden):
    output, target = pictures(golden)
    figures = {
        "psnr_mu": metrics.psnr_mu(output, target),
        "psnr_linear": metrics.psnr_linear(output, target),
        "ssim_mu": metrics.ssim_mu(output, target),
        "ssim_linear": metrics.ssim_linear(output, target),
    }
    for name, value in figures.items():
        assert value == pytest.approx(float(golden[f"scalar:{name}"]), abs=1e-6), name
    mapped = np.abs(radiance.mu_law(output) - radiance.mu_law(target)).mean(dtype=np.float64)
    assert mapped == pytest.approx(float(golden["scalar:mapped_l1"]), abs=1e-6)


def test_the_slope_of_the_mapped_difference(golden):
    output, target = (jnp.asarray(golden[f"in:{name}"]) for name in ("output", "target"))

    def loss(x):
        return jnp.mean(jnp.abs(radiance.mu_law(x) - radiance.mu_law(target)))

    wanted = golden["grad:output"]
    # Where the two are equal in half the digits, the sign of their difference is rounding.
    parted = np.abs(np.asarray(output - target)) > 1e-7
    assert parted.mean() > 0.95
    slope = np.where(parted, jax.grad(loss)(output), wanted)
    assert np.allclose(slope, wanted, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_inputs_are_the_picture_then_its_light(array):
    ldr = np.linspace(-0.5, 1.5, 24, dtype=np.float32).reshape(2, 4, 3)
    short, long = radiance.inputs([array(ldr), array(ldr)], (1.0, 4.0))
    kept = ldr.clip(0, 1)
    assert type(short) is type(array(ldr))
    assert short.shape == (2, 4, 6)
    assert np.array_equal(short[..., :3], kept)
    assert np.allclose(short[..., 3:], kept**2.2, atol=1e-7)
    assert np.allclose(long[..., 3:], kept**2.2 / 4, atol=1e-7)
    assert short.dtype == np.float32


def test_an_exposure_shows_the_light_it_was_made_of():
    light = np.linspace(0, 0.5, 30, dtype=np.float32).reshape(5, 2, 3)
    ldr = radiance.developed(light, 4.0)
    shown = radiance.linear(ldr, 4.0)
    assert np.allclose(shown, np.minimum(light, 0.25), atol=1e-6)


def test_times_are_relative_to_the_shortest():
    assert radiance.relative_times(seconds=(0.5, 0.125, 2)) == (4.0, 1.0, 16.0)
    assert radiance.relative_times(ev=(-3, -1, 1)) == (1.0, 4.0, 16.0)
    assert radiance.relative_times(ev=(0, 2, 4)) == (1.0, 4.0, 16.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "either"),
        ({"seconds": (1,), "ev": (1,)}, "either"),
        ({"seconds": (0, 1)}, "above zero"),
        ({"ev": (0, float("nan"))}, "finite"),
        ({"ev": (0, 99)}, "30 stops"),
        ({"seconds": ()}, "finite"),
    ],
)
def test_impossible_times_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        radiance.relative_times(**arguments)


def test_the_preparation_travels_in_a_card():
    stored = RadiancePreparation(mu=500.0).to_dict()
    assert stored == {"quantity": "radiance", "gamma": 2.2, "mu": 500.0}
    assert RadiancePreparation.from_dict(stored) == RadiancePreparation(mu=500.0)
    grey = np.full((1, 1, 3), 0.5, np.float32)
    (pair,) = RadiancePreparation(gamma=2.0).inputs([grey], [1.0])
    assert pair[0, 0].tolist() == [0.5] * 3 + [0.25] * 3


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"quantity": "depth", "scale": 4}, "not one of radiance"),
        ({}, "not one of radiance"),
        ({"quantity": "radiance", "gamma": 2.2}, "not one of radiance"),
        ({"quantity": "radiance", "gamma": 99, "mu": 5000.0}, "gamma is 99"),
        ({"quantity": "radiance", "gamma": 2.2, "mu": 0}, "mu is 0"),
    ],
)
def test_another_preparation_is_refused(stored, words):
    with pytest.raises(InputError, match=words):
        RadiancePreparation.from_dict(stored)


@pytest.mark.parametrize(
    ("shapes", "times", "words"),
    [
        ([(2, 2, 3)], (1.0, 2.0), "one time each"),
        ([(2, 2, 3)], (2.0,), "relative to the shortest"),
        ([(2, 2)], (1.0,), "height, width, 3"),
    ],
)
def test_exposures_that_do_not_fit_are_refused(shapes, times, words):
    with pytest.raises(InputError, match=words):
        radiance.inputs([np.zeros(s, np.float32) for s in shapes], times)
