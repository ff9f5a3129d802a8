"""The network: starts as a rule, holds to its sources, and looks at no whole picture."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgdn_jax.errors import InputError
from mgdn_jax.layers import functional, pyramid
from mgdn_jax.systems import registry
from mgdn_jax.systems.pyramid.network import Config

SMALL = Config(levels=2, features=6, convolutions=1, surroundings=2)


def made(config=SMALL, spread=0.0, seed=0):
    """A function of two pictures: the network as it starts, or with parameters spread about."""
    graphdef, params, stats = registry.initialise("pyramid", config, jax.random.key(seed))
    keys = jax.random.split(jax.random.key(seed + 1), len(params))
    params = {
        name: value + spread * jax.random.normal(key, value.shape)
        for key, (name, value) in zip(keys, params.items(), strict=True)
    }
    return lambda *pair, **more: functional.apply(graphdef, params, stats, *pair, **more)[0]


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).random(shape), jnp.float32)


PLAIN = dataclasses.replace(SMALL, strength=1.0, lift=0.0)


@pytest.mark.parametrize("size", [(1, 9), (33, 64)])
def test_plain_it_gives_equal_pictures_back_at_any_size(size):
    picture = noise(2, *size, 1)
    fused, aux = made(PLAIN)(picture, picture)
    np.testing.assert_allclose(fused, picture, atol=1e-6)
    assert fused.dtype == jnp.float32
    assert len(aux["choice"]) == len(aux["strength"]) == SMALL.levels
    assert aux["base"].shape[1:3] == tuple(-(-n // 2**SMALL.levels) for n in size)
    flat = jnp.full_like(picture, 0.3)
    np.testing.assert_allclose(made()(flat, flat)[0], flat, atol=1e-6)


def test_it_starts_as_the_rule_of_the_larger_detail():
    deep = dataclasses.replace(PLAIN, levels=4)
    a = jnp.full((1, 32, 32, 1), 0.4).at[:, 8:16, 8:16].set(0.9)
    b = jnp.full((1, 32, 32, 1), 0.4).at[:, 20:28, 20:28].set(0.1)
    fused, aux = made(deep)(a, b)
    # Both things are there, at full strength, and the order does not matter.
    assert abs(float(fused[0, 12, 12, 0]) - 0.9) < 0.1
    assert abs(float(fused[0, 24, 24, 0]) - 0.1) < 0.1
    np.testing.assert_allclose(fused, made(deep)(b, a)[0], atol=1e-6)
    assert float(aux["choice"][0][0, 8, 8, 0]) > 0.95
    assert float(aux["choice"][0][0, 20, 20, 0]) < 0.05
    np.testing.assert_allclose(aux["strength"][0], 1.0)


def test_what_is_brighter_than_its_surroundings_is_lifted_at_the_start():
    a = jnp.full((1, 64, 64, 1), 0.3).at[:, 24:40, 24:40].set(0.6)
    lifted, plain = (made(dataclasses.replace(PLAIN, lift=lift))(a, a)[0] for lift in (0.6, 0.0))
    difference = (lifted - plain)[0, ..., 0]
    assert float(difference[32, 32]) > 0.02
    assert float(difference[16, 32]) < -0.002
    np.testing.assert_allclose(difference[0, 0], 0, atol=1e-3)


def test_strengths_and_lifts_are_bounded():
    config = dataclasses.replace(SMALL, gain=1.3, strength=1.0, lift=0.1)
    a, b = noise(1, 24, 24, 1), noise(1, 24, 24, 1, seed=1)
    _, aux = made(config, spread=3.0)(a, b)
    for strength, choice in zip(aux["strength"], aux["choice"], strict=True):
        assert 1 / 1.3 - 1e-6 <= float(strength.min()) <= float(strength.max()) <= 1.3 + 1e-6
        assert 0 <= float(choice.min()) <= float(choice.max()) <= 1
    assert float(strength.max()) > 1.1  # the parameters do matter
    low = [pyramid.shrunk(x, replicated=True) for x in (a, b)]
    for _ in range(SMALL.levels - 1):
        low = [pyramid.shrunk(x, replicated=True) for x in low]
    assert bool(jnp.all(aux["base"] <= jnp.maximum(*low) + 0.1))  # means differ by at most 1
    assert bool(jnp.all(aux["base"] >= jnp.minimum(*low) - 0.1))


def test_what_happens_far_away_moves_nothing():
    apply = made(SMALL, spread=0.3)
    a, b = noise(1, 32, 160, 1), noise(1, 32, 160, 1, seed=1)
    hot = a.at[:, :, 140:].set(1.0)
    before, after = apply(a, b)[0], apply(hot, b)[0]
    assert float(jnp.abs(before - after)[:, :, 140:].max()) > 0.05
    np.testing.assert_allclose(before[:, :, :90], after[:, :, :90], atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (5, 19)])
def test_padding_changes_nothing(size):
    apply = made(spread=0.2)
    height, width = size
    a, b = noise(1, *size, 1), noise(1, *size, 1, seed=1)
    grown = [
        jnp.pad(x, ((0, 0), (0, 32 - height), (0, 40 - width), (0, 0)), constant_values=jnp.inf)
        for x in (a, b)
    ]
    fused = apply(*grown, extent=jnp.array([size]))[0]
    np.testing.assert_allclose(fused[:, :height, :width], apply(a, b)[0], atol=2e-6)


def test_gradients_are_finite_where_nothing_is():
    graphdef, params, stats = registry.initialise("pyramid", SMALL, jax.random.key(0))
    flat = jnp.zeros((1, 16, 16, 1))

    def total(params):
        return jnp.sum(functional.apply(graphdef, params, stats, flat, flat)[0][0] ** 2)

    assert all(bool(jnp.isfinite(g).all()) for g in jax.grad(total)(params).values())


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="two \\(b, h, w, 1\\) of one shape"):
        made()(noise(1, 4, 4, 1), noise(1, 4, 5, 1))
    for fields, message in (
        ({"gain": 0.5}, "gain is 1"),
        ({"lift": 2.0}, "lift is in"),
        ({"strength": 0.0}, "strength must be a positive number"),
        ({"levels": 9}, "levels \\+ surroundings is at most 12"),
        ({"in_channels": (3, 3)}, "it fuses luminance"),
    ):
        with pytest.raises(InputError, match=message):
            Config(**fields)
