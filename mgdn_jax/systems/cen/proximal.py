"""The proximal step of an L1 penalty, as an Optax transformation.

A penalty in the loss goes through the optimiser with everything else. One that rescales gradients,
as Adam does, then moves a scale by its rate whatever the penalty's weight is, once nothing else
moves it. A soft threshold after a plain gradient step shrinks it by rate times weight, stops at 0
exactly, and leaves alone what the task holds with more than the weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class SoftThresholdState(NamedTuple):
    """Number of updates so far, () int32."""

    done: jax.Array


def soft_threshold(
    rate: Callable[[Any], jax.Array], weights: Mapping[str, np.ndarray | float]
) -> optax.GradientTransformation:
    """Shrinks what the parameters would become: ``sign(p) max(|p| - rate weight, 0)``.

    It is the last of a chain, since it takes the updates for steps: after
    `optax.scale_by_learning_rate`, with the same rate.

    Args:
        rate: learning rate as a function of the updates so far.
        weights: of the penalty, by name of the parameter; an array has one for each entry.

    Returns:
        The transformation, for parameters by name.
    """

    def init(params: Any) -> SoftThresholdState:
        if params.keys() != weights.keys():
            raise ValueError(f"weights are for {sorted(weights)}, parameters {sorted(params)}")
        return SoftThresholdState(jnp.zeros((), jnp.int32))

    def update(updates: Any, state: SoftThresholdState, params: Any = None) -> Any:
        if params is None:
            raise ValueError("soft_threshold needs the parameters; call update with them")
        step = rate(state.done)

        def shrunk(name: str) -> jax.Array:
            aim = params[name] + updates[name]
            amount = jnp.asarray(step * weights[name], aim.dtype)
            return jnp.sign(aim) * jnp.maximum(jnp.abs(aim) - amount, 0) - params[name]

        moved = {name: shrunk(name) for name in updates}
        return moved, SoftThresholdState(optax.safe_increment(state.done))

    return optax.GradientTransformation(init, update)
