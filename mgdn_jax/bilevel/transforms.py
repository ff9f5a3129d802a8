"""Optax transformations that rescale a whole gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from mgdn_jax.bilevel.subsets import PyTree


def scale_by_max_abs() -> optax.GradientTransformation:
    """Divides updates by the largest absolute entry of all leaves; zeros stay zeros.

    ReFusion's outer step is ``phi <- phi - eta g / max_i |g_i|``:
    ``optax.chain(scale_by_max_abs(), optax.scale_by_learning_rate(eta))``. To average the
    gradients of several pairs first, wrap that chain in `optax.MultiSteps`.
    """

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        del params
        largest = optax.tree.norm(updates, ord=jnp.inf)
        divisor = jnp.where(largest == 0, 1, largest)
        return jax.tree.map(lambda x: (x / divisor).astype(x.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def scale_by_length(floor: float = 1e-12) -> optax.GradientTransformation:
    """Divides updates by their Euclidean length, all leaves together; zeros stay zeros.

    Where a loss is learned by how well one step on it does, its scale is a step size in disguise
    and would be learned first. After this division the scale has no effect.

    Args:
        floor: its square is added to the squared length, so that a gradient of zero stays zero and
            has finite derivatives; above 0.
    """

    def update(updates: PyTree, params: PyTree) -> PyTree:
        del params
        length = jnp.sqrt(optax.tree.norm(updates, squared=True) + floor**2)
        return jax.tree.map(lambda x: x / length, updates)

    return optax.stateless(update)
