"""The step that learns a loss and trains under it (ReFusion's meta pair, interleaved)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mgdn_jax import bilevel
from mgdn_jax.systems.contract import MetaRecipe
from mgdn_jax.training.optimisers import Schedule
from mgdn_jax.training.state import (
    Batch,
    Flat,
    Metrics,
    Networks,
    Step,
    TrainState,
    apply_gradients,
    next_state,
)

NO_META = dict.fromkeys(("outer_loss", "inner_loss", "max_g", "meta"), 0.0)
"""Metrics of the first part of a step, as they are in steps without it."""
SOLUTION = ("curvature", "residual", "stationarity", "before")
"""Metrics that mode "implicit" adds: see `bilevel.Solution`."""


def make_meta_step(
    recipe: MetaRecipe,
    optimisers: Mapping[str, optax.GradientTransformation],
    *,
    trains: Sequence[str],
    rate: Schedule,
    total: int,
    ema_decay: float = 0.0,
    axis_name: str | None = None,
) -> Step:
    """Builds one step that learns a loss and trains under it (ReFusion's meta pair, interleaved).

    With phi the network that makes the loss, theta the one trained under it, and psi one that the
    outer loss needs fitted, a step

    1. splits its batch into D_train and D_test of equal size, takes K inner steps from theta on
       D_train under the loss of phi, fits psi' on D_train likewise, and updates phi by the exact
       gradient of the outer loss on D_test (`bilevel.meta_gradient`); theta and psi stay;
    2. with phi fixed, updates theta by the gradient of the learned loss on the whole batch, and psi
       by that of its own loss on the images fused in doing so.

    Nothing of the first part's own gradients can leak into phi, for there are no buffers.

    Args:
        recipe: see `mgdn_jax.systems.contract.MetaRecipe`.
        optimisers: {network: Optax transformation}.
        trains: names of the networks updated.
        rate: step -> inner learning rate where `meta.rate` is 0.
        total: steps of the run; `progress` is the part of them done.
        ema_decay: as in `make_train_step`.
        axis_name: mapped axis to average gradients (the inner ones before each inner step),
            statistics and metrics over, if any.

    Returns:
        A pure `step(state, batch) -> (state, metrics)`. `metrics` are float32 scalars: "loss" and
        the terms of the learned loss on the whole batch, "grad_norm" of theta, "recon" (psi's
        loss), the mean of every weight map by source ("w_a", "w_b", ...); from the first part,
        "inner_loss", "outer_loss", "max_g" (largest entry of phi's gradient) and "meta" (1), all
        0 in steps without it; in mode "implicit" also `SOLUTION`.

    Raises:
        ValueError: a network in `trains` has no optimiser; or, when traced, a batch of odd size.
    """
    meta = recipe.meta
    lacking = sorted(set(trains) - set(optimisers))
    if lacking or meta.inner not in trains:
        raise ValueError(f"{meta.inner!r} does not train, or there is no optimiser for {lacking}")

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        batch = dict(batch)
        if batch["_index"].shape[0] % 2:
            raise ValueError(f"a batch of {batch['_index'].shape[0]} has no two halves")
        progress = jnp.minimum((state.step + 1) / total, 1).astype(jnp.float32)
        alpha = jnp.asarray(meta.rate or rate(state.step), jnp.float32)
        params, opt = dict(state.params), dict(state.opt)
        metrics: Metrics = {}
        if meta.learns in trains:

            def learn() -> tuple[Flat, Any, Metrics]:
                optimiser = optimisers[meta.learns]
                return _outer_update(recipe, optimiser, state, batch, progress, alpha, axis_name)

            def wait() -> tuple[Flat, Any, Metrics]:
                solution = dict.fromkeys(SOLUTION, 0.0) if meta.solver is not None else {}
                unchanged = params[meta.learns], opt[meta.learns], NO_META | solution
                return jax.tree.map(jnp.asarray, unchanged)

            if meta.every == 1 and not meta.after:
                phi, phi_opt, metrics = learn()
            else:
                due = (state.step % meta.every == 0) & (state.step >= meta.after * total)
                phi, phi_opt, metrics = jax.lax.cond(due, learn, wait)
            params[meta.learns], opt[meta.learns] = phi, phi_opt

        grads, stats, inner_metrics = _inner_gradients(
            recipe, trains, params, state.stats, batch, progress, axis_name
        )
        for name, g in grads.items():
            params[name], opt[name] = apply_gradients(optimisers[name], g, opt[name], params[name])
        return next_state(
            state, params, {**state.stats, **stats}, opt, metrics | inner_metrics, ema_decay
        )

    return step


def _outer_update(
    recipe: MetaRecipe,
    optimiser: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    progress: jax.Array,
    alpha: jax.Array,
    axis_name: str | None,
) -> tuple[Flat, Any, Metrics]:
    """The first part of a step: the loss learns from what training under it leads to.

    Args:
        recipe: whose loss is learned.
        optimiser: of phi.
        state: before the step.
        batch: whole, of even size.
        progress: part of the run done, in (0, 1].
        alpha: inner learning rate.
        axis_name: mapped axis to average over, if any.

    Returns:
        ``(phi, state of its optimiser, metrics named as in `NO_META` and `SOLUTION`)``.
    """
    meta = recipe.meta
    theta, phi = state.params[meta.inner], state.params[meta.learns]
    stats = state.stats[meta.inner]
    train, test = halves(batch)

    def inner_loss(theta: Flat, maps: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        value, (fused, *_) = recipe.inner_loss(theta, stats, maps, batch, progress)
        return value, fused

    def outer_loss(theta: Flat, phi: Flat, batch: Batch, psi: Any = None) -> jax.Array:
        del phi
        return recipe.outer_loss(psi, recipe.adapted(theta, stats, batch), batch)

    auxiliary = None
    if meta.auxiliary:
        scale = optax.stateless_with_tree_map(lambda g, _: alpha * g)
        auxiliary = bilevel.Auxiliary(
            recipe.auxiliary_loss,
            optax.chain(meta.auxiliary_optimiser, scale),
            meta.auxiliary_steps,
            from_aux=True,
        )
    gradient = bilevel.meta_gradient(
        inner_loss,
        outer_loss,
        optimiser=at_rate(meta.optimiser),
        propose=recipe.propose,
        steps=meta.steps,
        mode=meta.mode,
        trainable=meta.trainable,
        difference=meta.difference,
        solver=meta.solver,
        axis_name=axis_name,
        inner_has_aux=True,
        auxiliary=auxiliary,
    )
    adapted = bilevel.partition(theta, meta.trainable)[0]
    value, grads, aux = gradient(
        phi,
        theta,
        train,
        test,
        opt_state=(meta.optimiser.init(adapted), alpha),
        psi=state.params[meta.auxiliary] if meta.auxiliary else None,
    )
    phi, opt = apply_gradients(optimiser, grads, state.opt[meta.learns], phi)
    metrics = {
        "outer_loss": value,
        "inner_loss": aux.inner_losses[0],
        "max_g": jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in jax.tree.leaves(grads)])),
        "meta": jnp.ones(()),
    }
    if aux.solution is not None:
        metrics |= {
            name: value for name, value in aux.solution._asdict().items() if name in SOLUTION
        }
    return phi, opt, {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}


def _inner_gradients(
    recipe: MetaRecipe,
    trains: Sequence[str],
    params: Networks,
    stats: Networks,
    batch: Batch,
    progress: jax.Array,
    axis_name: str | None,
) -> tuple[Networks, Networks, Metrics]:
    """The second part of a step: the loss is fixed, theta and psi learn from the whole batch.

    Args:
        recipe: whose loss is learned.
        trains: names of the networks updated.
        params: by network, phi as it is after the first part.
        stats: running statistics by network.
        batch: whole.
        progress: part of the run done, in (0, 1].
        axis_name: mapped axis to average over, if any.

    Returns:
        ``(gradients, new statistics, metrics)``, the first two of theta and, if it trains, psi.
    """
    meta = recipe.meta
    maps = jax.lax.stop_gradient(recipe.propose(params.get(meta.learns, {}), batch))
    (loss, (fused, new_stats, terms)), grads = jax.value_and_grad(recipe.inner_loss, has_aux=True)(
        params[meta.inner], stats[meta.inner], maps, batch, progress
    )
    gradients = {meta.inner: grads}
    metrics = {**terms, "loss": loss}
    for name, weights in maps.items():
        for i, source in enumerate("ab"):
            metrics[f"{name}_{source}"] = jnp.mean(weights[..., i])
    if meta.auxiliary in trains:
        metrics["recon"], gradients[meta.auxiliary] = jax.value_and_grad(recipe.auxiliary_loss)(
            params[meta.auxiliary], jax.lax.stop_gradient(fused), batch
        )
    if axis_name is not None:
        gradients, new_stats, metrics = jax.lax.pmean((gradients, new_stats, metrics), axis_name)
    metrics["grad_norm"] = optax.tree.norm(gradients[meta.inner])
    return gradients, {meta.inner: new_stats}, metrics


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """Two halves of a batch that do not depend on its layout over devices.

    Example i goes by the parity of the ones among the binary digits of i. Of two neighbours 2k and
    2k + 1 one goes each way, and likewise of 2k P + p and (2k + 1) P + p if P is a power of two: so
    every device of every process, whose share is made of such couples, halves its share by itself.
    """
    ones = jax.lax.population_count(batch["_index"]) % 2
    order = jnp.argsort(ones, stable=True)  # halves of equal size whatever the numbers are
    half = order.shape[0] // 2
    first, second = (
        {name: value[chosen] for name, value in batch.items()}
        for chosen in (order[:half], order[half:])
    )
    return first, second


def at_rate(optimiser: optax.GradientTransformation) -> optax.GradientTransformation:
    """Multiplies updates by a rate that is part of the state, ``(state, rate)``.

    So the rate may be a traced value while the transformation itself stays a constant.
    """

    def init(params: Any) -> Any:
        return optimiser.init(params), jnp.ones(())

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        inner, rate = state
        updates, inner = optimiser.update(grads, inner, params)
        return jax.tree.map(lambda u: (rate * u).astype(u.dtype), updates), (inner, rate)

    return optax.GradientTransformation(init, update)
