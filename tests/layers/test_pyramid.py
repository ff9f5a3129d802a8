"""Laplacian pyramids: as the NumPy ones of fusing, at any size, and with a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgdn_jax.fusing import blending
from mgdn_jax.layers import pyramid

shrunk = jax.jit(pyramid.shrunk)
blend = jax.jit(pyramid.blend, static_argnames="levels")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 2), (6, 5), (17, 32)])
def test_a_blend_is_that_of_fusing(size):
    images = [noise(*size, 3, seed=seed) for seed in range(3)]
    weights = np.random.default_rng(9).dirichlet([1, 1, 1], size).astype(np.float32)
    none = np.zeros(size, np.float32)
    wanted = blending.blend(images, 3, blending.Mixture([*np.moveaxis(weights, -1, 0)], none), 0)
    fused = blend([jnp.asarray(x[None]) for x in images], jnp.asarray(weights[None]))
    np.testing.assert_allclose(fused[0], wanted, atol=1e-6)
    assert pyramid.depth(*size) == blending.depth(*size)


@pytest.mark.parametrize("size", [(4, 7), (9, 6)])
def test_shrinking_is_the_known_filter(size):
    x = noise(1, *size, 1)
    taps = np.array([1, 4, 6, 4, 1]) / 16
    wanted = np.pad(x[0, ..., 0], 2, mode="reflect")
    for axis in (0, 1):
        wanted = np.apply_along_axis(np.convolve, axis, wanted, taps, mode="valid")
    small = shrunk(jnp.asarray(x))
    np.testing.assert_allclose(small[0, ..., 0], wanted[::2, ::2], atol=1e-6)
    with pytest.raises(ValueError, match="is not half of"):
        pyramid.expanded(small, size[0] + 2, size[1])


def test_levels():
    images = [jnp.asarray(noise(1, 12, 9, 1, seed=seed)) for seed in range(2)]
    share = noise(1, 12, 9, 1, seed=2)
    weights = jnp.asarray(np.concatenate([share, 1 - share], -1))
    plain = share * images[0] + (1 - share) * images[1]
    np.testing.assert_allclose(blend(images, weights, 0), plain, atol=1e-6)
    whole = np.asarray(blend(images, weights))
    np.testing.assert_array_equal(blend(images, weights, 99), whole)
    one = np.asarray(blend(images, weights, 1))
    assert np.abs(one - plain).max() > 1e-3
    assert np.abs(one - whole).max() > 1e-3
    np.testing.assert_allclose(blend(images[:1] * 2, weights), images[0], atol=1e-6)
    with pytest.raises(ValueError, match="do not fit"):
        pyramid.blend(images, weights[..., :1])
    with pytest.raises(ValueError, match="not be negative"):
        pyramid.blend(images, weights, -1)


def test_the_gradient_is_that_of_a_linear_map():
    images = [jnp.asarray(noise(1, 9, 6, 1, seed=seed)) for seed in range(2)]
    weights, way = (jnp.asarray(noise(1, 9, 6, 2, seed=seed)) for seed in (3, 4))
    pull = jnp.asarray(noise(1, 9, 6, 1, seed=5))

    @jax.jit
    def loss(weights):
        return jnp.sum(pull * pyramid.blend(images, weights))

    slope = np.sum(np.asarray(jax.jit(jax.grad(loss))(weights)) * way)
    assert float(slope) == pytest.approx(float(loss(way)), rel=1e-4)
