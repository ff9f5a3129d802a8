"""What trains, as one pytree, and the random keys derived from it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Flat = dict[str, jax.Array]
Networks = dict[str, Flat]
Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
RecipeLoss = Callable[..., tuple[jax.Array, tuple[Networks, Metrics]]]
Step = Callable[["TrainState", Batch], tuple["TrainState", Metrics]]


class TrainState(NamedTuple):
    """All that trains; nothing else needs saving, for random keys are derived from `step`.

    Attributes:
        step: int32 scalar, number of updates done.
        params: {network: flat dict of parameters}.
        stats: {network: flat dict of running statistics}.
        opt: {network: Optax state}.
        ema: {network: flat dict}, exponential moving average of `params`; {} when off.
    """

    step: jax.Array
    params: Networks
    stats: Networks
    opt: dict[str, Any]
    ema: Networks


def init_state(
    params: Networks,
    stats: Networks,
    optimisers: Mapping[str, optax.GradientTransformation],
    *,
    ema: bool,
) -> TrainState:
    """The state before the first step.

    Args:
        params: {network: flat dict}.
        stats: {network: flat dict}; networks without statistics may be left out.
        optimisers: {network: Optax transformation} for every network that ever trains.
        ema: whether to keep a moving average; it starts as a copy of `params`.

    Returns:
        A TrainState whose leaves share no buffer, so that all of it can be donated.
    """
    stats = {name: stats.get(name, {}) for name in params}
    opt = {name: optimiser.init(params[name]) for name, optimiser in optimisers.items()}
    average = jax.tree.map(jnp.copy, params) if ema else {}
    return TrainState(jnp.zeros((), jnp.int32), params, stats, opt, average)


def example_keys(seed: int, step: Any, index: jax.Array, *, stream: str = "train") -> jax.Array:
    """One PRNG key per example, a function of seed, stream, step and the example's position.

    Trajectories thus do not depend on how a batch is laid out over devices or processes.

    Args:
        seed: the run's seed.
        step: integer scalar.
        index: (B,) unsigned position of each example in the global shuffled stream.
        stream: name of the use the keys are put to.

    Returns:
        (B,) typed keys.
    """
    named = jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(named, step), index)


def apply_gradients(
    optimiser: optax.GradientTransformation, grads: Any, opt: Any, params: Any
) -> tuple[Any, Any]:
    """``(parameters, state of the optimiser)`` after one update of a network."""
    updates, opt = optimiser.update(grads, opt, params)
    return optax.apply_updates(params, updates), opt


def next_state(
    state: TrainState,
    params: Networks,
    stats: Networks,
    opt: dict[str, Any],
    metrics: Metrics,
    ema_decay: float,
) -> tuple[TrainState, Metrics]:
    """The next state with its average, and the metrics as float32."""
    ema = state.ema
    if ema_decay and ema:
        ema = jax.tree.map(lambda e, p: ema_decay * e + (1 - ema_decay) * p, ema, params)
    metrics = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
    return TrainState(state.step + 1, params, stats, opt, ema), metrics
