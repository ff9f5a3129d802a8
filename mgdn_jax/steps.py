"""The training step as a pure function: `step(state, batch) -> (state, metrics)`.

No word of devices here: with `axis_name=None` a step runs under plain `jax.jit`; with a name it
runs inside whatever maps that axis, and every gradient, statistic and metric meets in a `pmean`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mgdn_jax.optimisers import make_optimiser, make_schedule

__all__ = [
    "TrainState",
    "example_keys",
    "init_state",
    "make_eval_step",
    "make_optimiser",
    "make_schedule",
    "make_train_step",
]

Flat = dict[str, jax.Array]
Networks = dict[str, Flat]
Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
RecipeLoss = Callable[
    [Networks, Networks, Batch, jax.Array, str], tuple[jax.Array, tuple[Networks, Metrics]]
]
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
            loss and the metrics are means over the batch it is given.
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

    def micro(trained: Networks, rest: Networks, stats: Networks, batch: Batch, keys: jax.Array):
        def objective(trained: Networks):
            return recipe_loss({**rest, **trained}, stats, batch, keys, phase)

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
            updates, opt[name] = optimisers[name].update(grads[name], opt[name], params[name])
            params[name] = optax.apply_updates(params[name], updates)
        ema = state.ema
        if ema_decay and ema:
            ema = jax.tree.map(lambda e, p: ema_decay * e + (1 - ema_decay) * p, ema, params)
        metrics = {**metrics, "grad_norm": optax.tree.norm(grads)}
        metrics = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
        return TrainState(state.step + 1, params, stats, opt, ema), metrics

    return step


def make_eval_step(
    recipe: Any, *, phase: str, axis_name: str | None = None
) -> Callable[[Networks, Networks, Batch], tuple[Metrics, jax.Array]]:
    """Builds one validation step.

    Args:
        recipe: has `loss` (called with `keys=None`), `fuse(params, stats, *images)` and
            `sources(batch) -> images`.
        phase: handed on to the loss.
        axis_name: mapped axis to sum over, if any.

    Returns:
        `step(params, stats, batch) -> (sums, fused)`. The batch has "_mask" (B,), 1 for examples
        that count. `sums` are masked sums over the batch: "loss", "psnr" (dB against "target",
        where the batch has one; fused images clipped to [0, 1]) and "count". Dividing once at
        the end makes any batch size give the same means.
    """

    def one(params: Networks, stats: Networks, example: Batch) -> tuple[Metrics, jax.Array]:
        # A batch of one: the recipe's loss is a mean, and a mask needs it per example.
        single = {name: value[None] for name, value in example.items()}
        loss, _ = recipe.loss(params, stats, single, None, phase)
        fused = recipe.fuse(params, stats, *recipe.sources(single))[0].astype(jnp.float32)
        values = {"loss": jnp.asarray(loss, jnp.float32)}
        if "target" in example:
            error = jnp.mean(jnp.square(jnp.clip(fused, 0, 1) - example["target"]))
            values["psnr"] = -10 * jnp.log10(jnp.maximum(error, 1e-10))
        return values, fused

    def step(params: Networks, stats: Networks, batch: Batch) -> tuple[Metrics, jax.Array]:
        rest = dict(batch)
        mask = rest.pop("_mask")
        values, fused = jax.vmap(one, (None, None, 0))(params, stats, rest)
        sums = {name: jnp.sum(jnp.where(mask > 0, v, 0)) for name, v in values.items()}
        sums["count"] = jnp.sum(mask)
        if axis_name is not None:
            sums = jax.lax.psum(sums, axis_name)
        return sums, fused

    return step
