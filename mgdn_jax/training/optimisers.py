"""Optax transformations and learning-rate schedules from plain arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from mgdn_jax import bilevel

Schedule = Callable[[Any], jax.Array]

SCHEDULES = ("constant", "cosine", "multistep")
OPTIMISERS = ("adam", "adamw", "sgd", "muon", "max_abs")


def make_schedule(
    name: str,
    *,
    learning_rate: float,
    total_steps: int,
    warmup_steps: int = 0,
    end_factor: float = 0.0,
    milestones: Sequence[float] = (),
    gamma: float = 0.5,
) -> Schedule:
    """Learning rate as a function of the number of updates done.

    The rate climbs linearly over the first `warmup_steps` updates (the first one already moves:
    its rate is `learning_rate / warmup_steps`), then follows the named shape.

    Args:
        name: "constant"; "cosine" (half a cosine from the peak to `end_factor` of it at
            `total_steps`); or "multistep" (times `gamma` at every milestone).
        learning_rate: the peak.
        total_steps: updates in the whole run, warm-up included.
        warmup_steps: length of the linear warm-up; 0 for none.
        end_factor: last rate over the peak, for "cosine".
        milestones: fractions of `total_steps` in [0, 1], for "multistep".
        gamma: factor applied at each milestone.

    Returns:
        A function count -> rate that works on host integers and on traced arrays.

    Raises:
        ValueError: an unknown name, or a warm-up that does not fit into the run.
    """
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; choose one of {', '.join(SCHEDULES)}")
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"{warmup_steps} warm-up steps do not fit into {total_steps} steps")

    def schedule(count: Any) -> jax.Array:
        count = jnp.asarray(count, jnp.float32)
        rate = jnp.float32(learning_rate)
        if name == "cosine":
            progress = (count - warmup_steps) / max(1, total_steps - warmup_steps)
            wave = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1)))
            rate = rate * (end_factor + (1 - end_factor) * wave)
        elif name == "multistep":
            bounds = jnp.asarray([round(m * total_steps) for m in milestones], jnp.float32)
            rate = rate * gamma ** jnp.sum(count >= bounds)
        if warmup_steps:
            rate = rate * jnp.minimum(1.0, (count + 1) / warmup_steps)
        return rate

    return schedule


def make_optimiser(
    name: str,
    schedule: Schedule | float,
    *,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    clip_offset: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    momentum: float = 0.9,
) -> optax.GradientTransformation:
    """An Optax optimiser from plain arguments.

    Args:
        name: "adam", "adamw" (decoupled decay), "sgd" (with momentum), "muon" (Jordan et al.,
            2024: weights that are matrices move along the orthogonalised momentum, the others by
            Adam with Nesterov momentum; see `matrices`) or "max_abs" (the gradient over its largest
            entry, so that the largest coordinate moves by the learning rate: how ReFusion learns
            its loss).
        schedule: a learning rate or a function count -> rate, as from `make_schedule`.
        weight_decay: decay of "adamw"; must be 0 for the others.
        clip_norm: gradients are scaled down to this global norm when above it; 0 turns it off.
        clip_offset: added to the norm that gradients are divided by when clipped (PyTorch: 1e-6).
        b1: first-moment decay of Adam, also where it is part of "muon".
        b2: second-moment decay of Adam, likewise.
        eps: Adam's denominator offset.
        momentum: of "sgd"; 0 for none. That of "muon" is 0.95.

    Returns:
        The gradient transformation, clipping first.

    Raises:
        ValueError: an unknown name, or a weight decay that would be ignored.
    """
    if name not in OPTIMISERS:
        raise ValueError(f"unknown optimiser {name!r}; choose one of {', '.join(OPTIMISERS)}")
    if weight_decay and name != "adamw":
        raise ValueError(f"weight_decay={weight_decay} needs the optimiser 'adamw', not {name!r}")
    if name == "adam":
        core = optax.adam(schedule, b1=b1, b2=b2, eps=eps)
    elif name == "adamw":
        core = optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
    elif name == "muon":
        core = muon(
            schedule,
            eps=eps,
            adam_b1=b1,
            adam_b2=b2,
            muon_weight_dimension_numbers=matrices,
        )
    elif name == "max_abs":
        core = optax.chain(bilevel.scale_by_max_abs(), optax.scale_by_learning_rate(schedule))
    else:
        core = optax.sgd(schedule, momentum=momentum or None)
    return optax.chain(_clip(clip_norm, clip_offset), core) if clip_norm else core


def matrices(params: Any) -> Any:
    """Which parameters Muon orthogonalises, and as which matrices.

    Convolutions (HWIO) as (H W I, O) and linear layers as they are, where both sides are above 1;
    depthwise kernels, biases and scales are left to Adam.

    Args:
        params: pytree of arrays.

    Returns:
        The same tree of `optax.contrib.MuonDimensionNumbers`, None for what is left to Adam.
    """

    def spec(value: Any) -> Any:
        if value.ndim == 4 and min(value.shape[2:]) > 1:
            return MuonDimensionNumbers((0, 1, 2), 3)
        if value.ndim == 2 and min(value.shape) > 1:
            return MuonDimensionNumbers(0, 1)
        return None

    return jax.tree.map(spec, params)


def _clip(norm: float, offset: float) -> optax.GradientTransformation:
    """Gradients times ``min(1, norm / (|g| + offset))``, |g| over all of them."""
    if not offset:
        return optax.clip_by_global_norm(norm)

    def update(grads: Any, params: Any) -> Any:
        del params
        factor = jnp.minimum(1.0, norm / (optax.tree.norm(grads) + offset))
        return jax.tree.map(lambda g: (factor * g).astype(g.dtype), grads)

    return optax.stateless(update)
