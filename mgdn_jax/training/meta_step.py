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
from mgdn_jax.training.state import Batch, Flat, Metrics, Step, TrainState, _advanced, _updated


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
        0 in steps without it.

    Raises:
        ValueError: a network in `trains` has no optimiser; or, when traced, a batch of odd size.
    """
    meta = recipe.meta
    lacking = sorted(set(trains) - set(optimisers))
    if lacking or meta.inner not in trains:
        raise ValueError(f"{meta.inner!r} does not train, or there is no optimiser for {lacking}")
    inner_optimiser = _at_rate(meta.optimiser)

    def mean(tree: Any) -> Any:
        return tree if axis_name is None else jax.lax.pmean(tree, axis_name)

    def learn(state: TrainState, batch: Batch, progress: jax.Array, alpha: jax.Array) -> Any:
        """Part 1: new phi, its optimiser's state, metrics."""
        stats = state.stats[meta.inner]
        train, test = _halves(batch)

        def inner_loss(theta: Flat, maps: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
            value, (fused, *_) = recipe.inner_loss(theta, stats, maps, batch, progress)
            return value, fused

        def outer_loss(theta: Flat, phi: Flat, batch: Batch, psi: Any = None) -> jax.Array:
            del phi
            return recipe.outer_loss(psi, recipe.adapted(theta, stats, batch), batch)

        theta, phi = state.params[meta.inner], state.params[meta.learns]
        fitted: dict[str, Any] = {}
        if meta.auxiliary:
            optimiser = optax.chain(meta.auxiliary_optimiser, optax.scale(alpha))  # type: ignore[arg-type]
            fitted["auxiliary"] = bilevel.Auxiliary(
                recipe.auxiliary_loss, optimiser, meta.auxiliary_steps, from_aux=True
            )
        gradient = bilevel.meta_gradient(
            inner_loss, outer_loss, optimiser=inner_optimiser, propose=recipe.propose,
            steps=meta.steps, mode=meta.mode, trainable=meta.trainable,
            difference=meta.difference, solver=meta.solver, axis_name=axis_name,
            inner_has_aux=True, **fitted,
        )  # fmt: skip
        moved = bilevel.partition(theta, meta.trainable)[0]
        value, g, aux = gradient(
            phi, theta, train, test,
            opt_state=(meta.optimiser.init(moved), alpha),
            psi=state.params[meta.auxiliary] if meta.auxiliary else None,
        )  # fmt: skip
        phi, opt = _updated(optimisers[meta.learns], g, state.opt[meta.learns], phi)
        metrics = {
            "outer_loss": value,
            "inner_loss": aux.inner_losses[0],
            "max_g": jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in jax.tree.leaves(g)])),
            "meta": jnp.ones(()),
        }
        return phi, opt, {name: jnp.asarray(v, jnp.float32) for name, v in metrics.items()}

    def rest(state: TrainState) -> Any:
        names = ("outer_loss", "inner_loss", "max_g", "meta")
        return state.params[meta.learns], state.opt[meta.learns], dict.fromkeys(names, 0.0)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        batch = dict(batch)
        if batch["_index"].shape[0] % 2:
            raise ValueError(f"a batch of {batch['_index'].shape[0]} has no two halves")
        progress = jnp.minimum((state.step + 1) / total, 1).astype(jnp.float32)
        alpha = jnp.asarray(meta.rate or rate(state.step), jnp.float32)
        params, opt = dict(state.params), dict(state.opt)
        metrics: Metrics = {}
        if meta.learns in trains:
            told = state, batch, progress, alpha
            if meta.every == 1 and not meta.after:
                found = learn(*told)
            else:
                found = jax.lax.cond(
                    (state.step % meta.every == 0) & (state.step >= meta.after * total),
                    lambda: learn(*told),
                    lambda: jax.tree.map(jnp.asarray, rest(state)),
                )
            params[meta.learns], opt[meta.learns], metrics = found

        maps = jax.lax.stop_gradient(recipe.propose(params.get(meta.learns, {}), batch))
        (loss, (fused, stats, terms)), grads = jax.value_and_grad(recipe.inner_loss, has_aux=True)(
            params[meta.inner], state.stats[meta.inner], maps, batch, progress
        )
        own = {**terms, "loss": loss}
        for name, weights in maps.items():
            for i, source in enumerate("ab"):
                own[f"{name}_{source}"] = jnp.mean(weights[..., i])
        psi_grads = None
        if meta.auxiliary in trains:
            own["recon"], psi_grads = jax.value_and_grad(recipe.auxiliary_loss)(
                params[meta.auxiliary], jax.lax.stop_gradient(fused), batch
            )
        grads, psi_grads, stats, own = mean((grads, psi_grads, stats, own))
        metrics = {**metrics, **own, "grad_norm": optax.tree.norm(grads)}
        for name, g in ((meta.inner, grads), (meta.auxiliary, psi_grads)):
            if g is not None:
                params[name], opt[name] = _updated(optimisers[name], g, opt[name], params[name])
        return _advanced(state, params, {**state.stats, meta.inner: stats}, opt, metrics, ema_decay)

    return step


def _halves(batch: Batch) -> tuple[Batch, Batch]:
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


def _at_rate(optimiser: optax.GradientTransformation) -> optax.GradientTransformation:
    """Multiplies updates by a rate that is part of the state, ``(state, rate)``.

    So the rate may be a traced value while the transformation itself stays a constant.
    """

    def init(params: Any) -> Any:
        return optimiser.init(params), jnp.ones(())

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        own, rate = state
        updates, own = optimiser.update(grads, own, params)
        return jax.tree.map(lambda u: (rate * u).astype(u.dtype), updates), (own, rate)

    return optax.GradientTransformation(init, update)
