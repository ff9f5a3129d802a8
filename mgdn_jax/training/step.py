"""The training step as a pure function: `step(state, batch) -> (state, metrics)`.

No word of devices here: with `axis_name=None` a step runs under plain `jax.jit`; with a name it
runs inside whatever maps that axis, and every gradient, statistic and metric meets in a `pmean`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from mgdn_jax.systems.contract import Recipe
from mgdn_jax.training.meta_step import make_meta_step
from mgdn_jax.training.optimisers import make_optimiser, make_schedule
from mgdn_jax.training.state import (
    Batch,
    Metrics,
    Networks,
    RecipeLoss,
    Step,
    TrainState,
    apply_gradients,
    example_keys,
    init_state,
    next_state,
)

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
        recipe_loss: `loss(params, stats, batch, keys, phase, axis_name=...) -> (loss, (stats,
            metrics))`; the loss and the metrics are means over the batch it gets (see
            `systems.contract.Recipe.loss`).
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
            return recipe_loss({**rest, **trained}, stats, batch, keys, phase, axis_name=axis_name)

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
            params[name], opt[name] = apply_gradients(
                optimisers[name], grads[name], opt[name], params[name]
            )
        metrics = {**metrics, "grad_norm": optax.tree.norm(grads)}
        return next_state(state, params, stats, opt, metrics, ema_decay)

    return step


def make_eval_step(
    recipe: Recipe, *, phase: str, axis_name: str | None = None
) -> Callable[[Networks, Networks, Batch], tuple[Metrics, list[jax.Array]]]:
    """Builds one validation step.

    Args:
        recipe: its `loss` is called with ``keys=None``; `fuse`, `sources` and `judge` make the
            figures and the pictures.
        phase: handed on to the loss.
        axis_name: mapped axis to sum over, if any.

    Returns:
        `step(params, stats, batch) -> (sums, pictures)`. The batch has "_mask" (B,), 1 for examples
        that count. `sums` are masked sums over the batch: "loss", "psnr" (dB against "target",
        where the batch has one; fused images clipped to [0, 1]), those of `judge`, and "count".
        Dividing once at the end makes any batch size give the same means. `pictures` are (B, H,
        W, 1 or 3): the fused images, then those of `judge`.
    """

    def one(params: Networks, stats: Networks, example: Batch) -> tuple[Metrics, list[jax.Array]]:
        # A batch of one: the recipe's loss is a mean, and a mask needs it per example.
        single = {name: value[None] for name, value in example.items()}
        loss, _ = recipe.loss(params, stats, single, None, phase)
        fused = recipe.fuse(params, stats, *recipe.sources(single))[0].astype(jnp.float32)
        further, shown = recipe.judge(params, stats, single)
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
