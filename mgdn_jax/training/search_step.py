"""The step that searches an architecture: logits learn, then the network of all choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from mgdn_jax import bilevel
from mgdn_jax.systems.contract import SearchRecipe
from mgdn_jax.training.meta_step import at_rate, halves
from mgdn_jax.training.optimisers import Schedule
from mgdn_jax.training.state import (
    Batch,
    Flat,
    Metrics,
    Step,
    TrainState,
    apply_gradients,
    next_state,
)

NO_SEARCH = dict.fromkeys(("search_loss", "max_g", "search"), 0.0)
"""Metrics of the first part of a step, as they are in steps without it."""


def make_search_step(
    recipe: SearchRecipe,
    optimisers: Mapping[str, optax.GradientTransformation],
    *,
    trains: Sequence[str],
    rate: Schedule,
    total: int,
    ema_decay: float = 0.0,
    axis_name: str | None = None,
) -> Step:
    """Builds one step of a search.

    With theta the weights of the network that holds all choices, and phi the architecture's logits,
    a step

    1. splits its batch into D_train and D_valid of equal size, and updates phi by the gradient of
       the search loss on D_valid (`bilevel.meta_gradient` in the mode that the recipe names);
    2. with phi fixed, updates theta by the gradient of the training loss on D_train.

    Args:
        recipe: see `mgdn_jax.systems.contract.SearchRecipe`.
        optimisers: {network: Optax transformation}.
        trains: names of the networks updated: both, or the weights alone.
        rate: step -> inner learning rate where `search.rate` is 0.
        total: steps of the run.
        ema_decay: as in `make_train_step`.
        axis_name: mapped axis to average gradients, statistics and metrics over, if any.

    Returns:
        A pure `step(state, batch) -> (state, metrics)`. `metrics` are float32 scalars: "loss" and
        the recipe's on D_train, "grad_norm" of theta; from the first part "search_loss", "max_g"
        (largest entry of phi's gradient) and "search" (1), all 0 in steps without it.

    Raises:
        ValueError: a network in `trains` has no optimiser; or, when traced, a batch of odd size.
    """
    search = recipe.search
    lacking = sorted(set(trains) - set(optimisers))
    if lacking or search.weights not in trains:
        raise ValueError(f"{search.weights!r} does not train, or there is no optimiser: {lacking}")

    def learn(
        state: TrainState, train: Batch, valid: Batch
    ) -> tuple[Flat, optax.OptState, Metrics]:
        theta, phi = state.params[search.weights], state.params[search.architecture]
        stats = state.stats[search.weights]

        def training_loss(theta: Flat, phi: Flat, batch: Batch) -> jax.Array:
            return recipe.training_loss(theta, stats, phi, batch, axis_name=axis_name)[0]

        def search_loss(theta: Flat, phi: Flat, batch: Batch) -> jax.Array:
            return recipe.search_loss(theta, stats, phi, batch, axis_name=axis_name)

        pace = jnp.asarray(search.rate or rate(state.step), jnp.float32)
        descent = at_rate(optax.sgd(1.0))
        gradient = bilevel.meta_gradient(
            training_loss,
            search_loss,
            optimiser=descent,
            steps=search.steps,
            mode=search.mode,
            difference=search.difference,
            rank_one=search.rank_one,
            axis_name=axis_name,
        )
        opt_state = (descent.init(theta)[0], pace)
        value, grads, _ = gradient(phi, theta, train, valid, opt_state=opt_state)
        name = search.architecture
        phi, opt = apply_gradients(optimisers[name], grads, state.opt[name], phi)
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in jax.tree.leaves(grads)]))
        metrics = {"search_loss": value, "max_g": largest, "search": 1.0}
        return phi, opt, {k: jnp.asarray(metrics[k], jnp.float32) for k in NO_SEARCH}

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        train, valid = halves(batch)
        params, opt, stats = dict(state.params), dict(state.opt), dict(state.stats)
        metrics: Metrics = {}
        if search.architecture in trains:
            name = search.architecture

            def wait() -> tuple[Flat, optax.OptState, Metrics]:
                return jax.tree.map(jnp.asarray, (params[name], opt[name], NO_SEARCH))

            if search.every == 1 and not search.after:
                phi, phi_opt, metrics = learn(state, train, valid)
            else:
                due = (state.step % search.every == 0) & (state.step >= search.after * total)
                phi, phi_opt, metrics = jax.lax.cond(due, lambda: learn(state, train, valid), wait)
            params[name], opt[name] = phi, phi_opt

        def objective(theta: Flat) -> tuple[jax.Array, tuple[Flat, Metrics]]:
            return recipe.training_loss(
                theta, stats[search.weights], params[search.architecture], train,
                axis_name=axis_name,
            )  # fmt: skip

        (loss, (new, terms)), grads = jax.value_and_grad(objective, has_aux=True)(
            params[search.weights]
        )
        figures = {**terms, "loss": loss}
        if axis_name is not None:
            grads, new, figures = jax.lax.pmean((grads, new, figures), axis_name)
        name = search.weights
        params[name], opt[name] = apply_gradients(optimisers[name], grads, opt[name], params[name])
        stats[name] = new
        figures["grad_norm"] = optax.tree.norm(grads)
        return next_state(state, params, stats, opt, metrics | figures, ema_decay)

    return step
