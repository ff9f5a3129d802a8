"""The training step as a pure function: `step(state, batch) -> (state, metrics)`.

No word of devices here: with `axis_name=None` a step runs under plain `jax.jit`; with a name it
runs inside whatever maps that axis, and every gradient, statistic and metric meets in a `pmean`.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mgdn_jax import bilevel
from mgdn_jax.optimisers import Schedule, make_optimiser, make_schedule

__all__ = [
    "TrainState",
    "example_keys",
    "init_state",
    "make_eval_step",
    "make_meta_step",
    "make_optimiser",
    "make_schedule",
    "make_train_step",
]

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


def make_train_step(
    recipe_loss: RecipeLoss,
    optimisers: Mapping[str, optax.GradientTransformation],
    *,
    seed: int,
    phase: str,
    trains: Sequence[str],
    accumulate: int = 1,
    ema_decay: float = 0.0,
    axis_name: str | None = None,
) -> Step:
    """Builds one training step.

    Args:
        recipe_loss: `loss(params, stats, batch, keys, phase) -> (loss, (stats, metrics))`; the
            loss and the metrics are means over the batch it is given. One that is no mean of its
            examples', or that takes statistics of the whole batch, has a parameter `axis_name` and
            is told that name.
        optimisers: {network: Optax transformation}.
        seed: the run's seed, from which the per-example keys derive.
        phase: handed on to the loss.
        trains: names of the networks updated; the others stay as they are.
        accumulate: the batch is worked through in this many equal parts, one after the other,
            and the update uses the mean gradient. Statistics are carried from part to part.
        ema_decay: d in `ema <- d * ema + (1 - d) * params`, taken after every update
            (MGDN's released weights: 0.999); 0 leaves `ema` alone.
        axis_name: mapped axis to average gradients, statistics and metrics over, if any.

    Returns:
        A pure `step(state, batch) -> (state, metrics)`. `batch` holds "_index" (B,) beside the
        arrays the loss wants. `metrics` are float32 scalars: the recipe's, "loss", and
        "grad_norm" (global norm over the trained networks, before clipping).

    Raises:
        ValueError: a network in `trains` has no optimiser; or, when traced, the batch does not
            divide into `accumulate` parts.
    """
    lacking = sorted(set(trains) - set(optimisers))
    if lacking or not trains:
        raise ValueError(f"phase {phase!r}: nothing to train or no optimiser for {lacking}")

    told = {}
    if "axis_name" in inspect.signature(recipe_loss).parameters:
        told["axis_name"] = axis_name

    def micro(trained: Networks, rest: Networks, stats: Networks, batch: Batch, keys: jax.Array):
        def objective(trained: Networks):
            return recipe_loss({**rest, **trained}, stats, batch, keys, phase, **told)

        (loss, (stats, metrics)), grads = jax.value_and_grad(objective, has_aux=True)(trained)
        return grads, stats, {**metrics, "loss": loss}

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        batch = dict(batch)
        size = batch["_index"].shape[0]
        if size % accumulate:
            raise ValueError(f"a batch of {size} does not divide into {accumulate} parts")
        keys = example_keys(seed, state.step, batch["_index"])
        trained = {name: state.params[name] for name in trains}
        rest = {name: value for name, value in state.params.items() if name not in trained}

        if accumulate == 1:
            grads, stats, metrics = micro(trained, rest, state.stats, batch, keys)
        else:

            def body(carry, part):
                total, stats = carry
                grads, stats, metrics = micro(trained, rest, stats, *part)
                return (jax.tree.map(jnp.add, total, grads), stats), metrics

            def cut(x):
                return x.reshape(accumulate, size // accumulate, *x.shape[1:])

            parts = jax.tree.map(cut, (batch, keys))
            zeros = jax.tree.map(jnp.zeros_like, trained)
            (grads, stats), metrics = jax.lax.scan(body, (zeros, state.stats), parts)
            grads = jax.tree.map(lambda g: g / accumulate, grads)
            metrics = jax.tree.map(lambda m: m.mean(0), metrics)

        if axis_name is not None:
            grads, stats, metrics = jax.lax.pmean((grads, stats, metrics), axis_name)

        params, opt = dict(state.params), dict(state.opt)
        for name in trains:
            params[name], opt[name] = _updated(
                optimisers[name], grads[name], opt[name], params[name]
            )
        metrics = {**metrics, "grad_norm": optax.tree.norm(grads)}
        return _advanced(state, params, stats, opt, metrics, ema_decay)

    return step


def _updated(
    optimiser: optax.GradientTransformation, grads: Any, opt: Any, params: Any
) -> tuple[Any, Any]:
    updates, opt = optimiser.update(grads, opt, params)
    return optax.apply_updates(params, updates), opt


def _advanced(
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


def make_meta_step(
    recipe: Any,
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
        recipe: has `meta` (see `mgdn_jax.recipes.Meta`), `propose(phi, batch) -> maps`,
            `adapted(theta, stats, batch) -> fused`, `outer_loss(psi, fused, batch) -> scalar`,
            `auxiliary_loss`, alike, and `inner_loss(theta, stats, maps, batch, progress) ->
            (scalar, (fused, stats, metrics))`. All are means over the batch they are given.
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


def make_eval_step(
    recipe: Any, *, phase: str, axis_name: str | None = None
) -> Callable[[Networks, Networks, Batch], tuple[Metrics, list[jax.Array]]]:
    """Builds one validation step.

    Args:
        recipe: has `loss` (called with `keys=None`), `fuse(params, stats, *images)` and
            `sources(batch) -> images`; may have `judge(params, stats, batch) -> ({name: scalar},
            [pictures])`, further figures and what to show beside the fused images.
        phase: handed on to the loss.
        axis_name: mapped axis to sum over, if any.

    Returns:
        `step(params, stats, batch) -> (sums, pictures)`. The batch has "_mask" (B,), 1 for examples
        that count. `sums` are masked sums over the batch: "loss", "psnr" (dB against "target",
        where the batch has one; fused images clipped to [0, 1]), those of `judge`, and "count".
        Dividing once at the end makes any batch size give the same means. `pictures` are (B, H,
        W, 1 or 3): the fused images, then those of `judge`.
    """
    judge: Callable[..., tuple[Metrics, list[jax.Array]]]
    judge = getattr(recipe, "judge", lambda *_: ({}, []))

    def one(params: Networks, stats: Networks, example: Batch) -> tuple[Metrics, list[jax.Array]]:
        # A batch of one: the recipe's loss is a mean, and a mask needs it per example.
        single = {name: value[None] for name, value in example.items()}
        loss, _ = recipe.loss(params, stats, single, None, phase)
        fused = recipe.fuse(params, stats, *recipe.sources(single))[0].astype(jnp.float32)
        further, shown = judge(params, stats, single)
        values = {"loss": loss, **further}
        values = {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
        if "target" in example:
            error = jnp.mean(jnp.square(jnp.clip(fused, 0, 1) - example["target"]))
            values["psnr"] = -10 * jnp.log10(jnp.maximum(error, 1e-10))
        return values, [fused, *(picture[0] for picture in shown)]

    def step(params: Networks, stats: Networks, batch: Batch) -> tuple[Metrics, list[jax.Array]]:
        rest = dict(batch)
        mask = rest.pop("_mask")
        values, pictures = jax.vmap(one, (None, None, 0))(params, stats, rest)
        sums = {name: jnp.sum(jnp.where(mask > 0, v, 0)) for name, v in values.items()}
        sums["count"] = jnp.sum(mask)
        if axis_name is not None:
            sums = jax.lax.psum(sums, axis_name)
        return sums, pictures

    return step
