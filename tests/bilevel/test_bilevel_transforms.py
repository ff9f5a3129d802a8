"""Gradients rescaled as a whole."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mgdn_jax import bilevel


def test_scale_by_max_abs():
    scale = bilevel.scale_by_max_abs()
    updates = {"a": jnp.asarray([1.0, -4.0]), "b": jnp.asarray([[2.0]]), "none": jnp.zeros((0,))}
    scaled, _ = scale.update(updates, scale.init(updates))
    assert np.array_equal(scaled["a"], [0.25, -1.0])
    assert np.array_equal(scaled["b"], [[0.5]])
    zeros, _ = scale.update(jax.tree.map(jnp.zeros_like, updates), scale.init(updates))
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(zeros))
    tiny, _ = scale.update({"a": jnp.asarray([1e-36, -5e-37])}, scale.init(None))
    assert np.allclose(tiny["a"], [1.0, -0.5])
    broken, _ = scale.update({"a": jnp.asarray([jnp.nan, 1.0])}, scale.init(None))
    assert np.isnan(broken["a"][0])  # seen, not hidden


def test_accumulation_averages_before_it_normalises():
    eta = 0.1
    outer_step = optax.MultiSteps(
        optax.chain(bilevel.scale_by_max_abs(), optax.scale_by_learning_rate(eta)),
        every_k_schedule=2,
    )
    phi = jnp.asarray([1.0, 1.0])
    state = outer_step.init(phi)
    gradients = [jnp.asarray([4.0, 0.0]), jnp.asarray([-1.0, 1.0])]
    for gradient in gradients:
        updates, state = jax.jit(outer_step.update)(gradient, state, phi)
        phi = optax.apply_updates(phi, updates)
    assert np.allclose(phi, [1 - eta, 1 - eta / 3])  # (3, 1) / 2 over its maximum


def test_scale_by_length():
    scale = bilevel.scale_by_length()
    updates = {"a": jnp.asarray([3.0, 0.0]), "b": jnp.asarray([[-4.0]])}

    def scaled(updates):
        return scale.update(updates, scale.init(updates))[0]

    assert np.allclose(scaled(updates)["a"], [0.6, 0.0])
    assert np.allclose(scaled(updates)["b"], [[-0.8]])
    larger = scaled(jax.tree.map(lambda x: 1e3 * x, updates))
    assert np.allclose(larger["b"], scaled(updates)["b"])
    zeros = jax.tree.map(jnp.zeros_like, updates)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(scaled(zeros)))
    slopes = jax.jit(jax.jacrev(scaled))(zeros)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
