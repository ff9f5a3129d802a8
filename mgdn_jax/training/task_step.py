"""The step that learns a starting point from which several tasks are learned soon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mgdn_jax import bilevel
from mgdn_jax.errors import InputError
from mgdn_jax.systems.contract import TaskRecipe, Tasks
from mgdn_jax.training.meta_step import at_rate
from mgdn_jax.training.optimisers import Schedule
from mgdn_jax.training.state import (
    Batch,
    Metrics,
    Step,
    TrainState,
    apply_gradients,
    next_state,
)


def make_task_step(
    recipe: TaskRecipe,
    optimisers: Mapping[str, optax.GradientTransformation],
    *,
    trains: Sequence[str],
    rate: Schedule,
    ema_decay: float = 0.0,
    axis_name: str | None = None,
) -> Step:
    """Builds one step of a meta-initialisation.

    Example i of the stream belongs to task i modulo the number of tasks, as equal shares of a
    mixture stand (`data.mixture`). Of each task's examples one half is the support batch and the
    other the query batch; both are the same whatever device has them.

    Args:
        recipe: see `mgdn_jax.systems.contract.TaskRecipe`.
        optimisers: {network: Optax transformation}.
        trains: names of the networks updated; the network of the tasks is among them.
        rate: step -> learning rate of the adaptation where `tasks.rate` is 0.
        ema_decay: as in `make_train_step`.
        axis_name: mapped axis to average gradients, statistics and metrics over, if any.

    Returns:
        A pure `step(state, batch) -> (state, metrics)`. `metrics` are float32 scalars: "loss", the
        tasks' mean after their adaptation, "loss.TASK" of each, "before", their mean loss before
        it, the recipe's (of query batches), and "grad_norm".

    Raises:
        ValueError: there is no optimiser; or, when traced, a device's share of a batch does not
            divide into two halves of every task.
    """
    tasks = recipe.tasks
    if tasks.network not in trains or tasks.network not in optimisers:
        raise ValueError(f"{tasks.network!r} does not train, or there is no optimiser for it")
    count = len(tasks.names)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        start, stats = state.params[tasks.network], state.stats[tasks.network]
        descent = at_rate(optax.sgd(1.0))
        opt_state = (descent.init(start)[0], jnp.asarray(tasks.rate or rate(state.step)))
        gradient = bilevel.initialisation_gradient(
            lambda theta, batch: recipe.task_loss(
                theta, stats, batch["examples"], batch["task"], axis_name=axis_name
            ),
            optimiser=descent,
            steps=tasks.steps,
            mode=tasks.mode,
            axis_name=axis_name,
            has_aux=True,
        )

        def of_task(parts: tuple[Any, Any, jax.Array]) -> Any:
            support, query, task = parts
            value, grads, aux = gradient(
                start,
                {"examples": support, "task": task},
                {"examples": query, "task": task},
                opt_state=opt_state,
            )
            new = jax.tree.map(lambda x: x[0], aux.inner_aux[0])
            return grads, new, value, aux.inner_losses[0], aux.outer_aux[1]

        # One task after the other: what is compiled does not grow with their number.
        support, query = split_by_task(batch, count)
        grads, new, values, before, terms = jax.lax.map(
            of_task, (support, query, jnp.arange(count, dtype=jnp.int32))
        )
        grads, new, terms = jax.tree.map(lambda x: jnp.mean(x, 0), (grads, new, terms))
        metrics: Metrics = {
            **terms,
            **{f"loss.{name}": values[i] for i, name in enumerate(tasks.names)},
            "loss": jnp.mean(values),
            "before": jnp.mean(before),
        }
        if axis_name is not None:
            grads, new, metrics = jax.lax.pmean((grads, new, metrics), axis_name)
        params, opt, name = dict(state.params), dict(state.opt), tasks.network
        params[name], opt[name] = apply_gradients(optimisers[name], grads, opt[name], params[name])
        metrics["grad_norm"] = optax.tree.norm(grads)
        return next_state(state, params, {**state.stats, name: new}, opt, metrics, ema_decay)

    return step


def check_tasks(batch: Mapping[str, np.ndarray], tasks: Tasks, devices: int) -> None:
    """Checks that a process's share of a batch is of the tasks that `split_by_task` takes it for.

    Args:
        batch: arrays (B / processes, ...), with "_index" and "_set".
        tasks: of the recipe.
        devices: of this process.

    Raises:
        InputError: the sets do not take turns along the stream, as those of a set in shards do not.
    """
    count, sets = len(tasks.names), np.asarray(batch["_set"], np.int64)
    shares = [np.bincount(x, minlength=count) for x in sets.reshape(devices, -1)]
    takes_turns = (sets == np.asarray(batch["_index"]) % count).all()
    if not takes_turns or any(np.ptp(share) for share in shares):
        raise InputError(
            "the examples of the tasks do not take turns, as those of sets in shards do not; "
            "prepare the sets without --shards."
        )


def split_by_task(batch: Batch, count: int) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """(support, query) of every task, arrays (tasks, n, ...) without "_index".

    Args:
        batch: of one device; "_index" counts the examples of the stream.
        count: of tasks.

    Raises:
        ValueError: the batch does not divide.
    """
    index = batch["_index"]
    size = index.shape[0]
    if size % (2 * count):
        raise ValueError(f"a batch of {size} has no two halves of {count} tasks")
    task, number = index % count, index // count
    # As in `meta_step.halves`: of two neighbours of a task one goes each way, on every device.
    half = jax.lax.population_count(number) % 2
    order = jnp.argsort(2 * task + half, stable=True)

    def cut(x: jax.Array) -> jax.Array:
        return x[order].reshape(count, 2, size // (2 * count), *x.shape[1:])

    parts = {name: cut(x) for name, x in batch.items() if name != "_index"}
    support = {name: x[:, 0] for name, x in parts.items()}
    return support, {name: x[:, 1] for name, x in parts.items()}
