"""Kinds of phases: what a recipe must be for one, and the step of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import optax

from mgdn_jax.errors import InputError
from mgdn_jax.systems.contract import MetaRecipe, Recipe, SearchRecipe, TaskRecipe
from mgdn_jax.training.config import Train
from mgdn_jax.training.meta_step import make_meta_step
from mgdn_jax.training.optimisers import Schedule
from mgdn_jax.training.plan import Stretch
from mgdn_jax.training.search_step import make_search_step
from mgdn_jax.training.state import Step
from mgdn_jax.training.step import make_train_step
from mgdn_jax.training.task_step import make_task_step

KINDS = ("plain", "meta", "search", "tasks")


def check_kind(recipe: Recipe, kind: str) -> None:
    """Checks that a recipe can do what a phase of a kind asks for.

    Raises:
        InputError: its class does not say so, or it lacks the settings.
    """
    wanted, member, value = _demand(recipe, kind)
    own = type(recipe)
    if wanted not in own.__mro__ or value is None:
        raise InputError(
            f"the recipe {own.__module__}.{own.__name__} has a phase of kind {kind!r}, which asks"
            f" for a class that derives from mgdn_jax.systems.contract.{wanted.__name__} and sets"
            f" `{member}`."
        )


def _demand(recipe: Recipe, kind: str) -> tuple[type, str, Any]:
    """The contract of a kind, the member it is about, and what the recipe has there."""
    kinds: Mapping[str, tuple[type, str, Any]] = {
        "plain": (Recipe, "phases", recipe.phases),
        "meta": (MetaRecipe, "meta", recipe.meta),
        "search": (SearchRecipe, "search", recipe.search),
        "tasks": (TaskRecipe, "tasks", recipe.tasks),
    }
    return kinds[kind]


def make_step(
    recipe: Recipe,
    stretch: Stretch,
    optimisers: Mapping[str, optax.GradientTransformation],
    schedules: Mapping[str, Schedule],
    train: Train,
    *,
    total: int,
    axis_name: str | None,
) -> Step:
    """The step of a phase, of whatever kind.

    Args:
        recipe: how the system is trained.
        stretch: the phase.
        optimisers: by network.
        schedules: learning rates by network.
        train: the `train` block.
        total: updates in the whole run.
        axis_name: mapped axis of the devices.
    """
    shared: dict[str, Any] = {
        "trains": stretch.trains,
        "ema_decay": train.ema,
        "axis_name": axis_name,
    }
    return _MAKERS[stretch.kind](recipe, stretch, optimisers, schedules, train, total, shared)


def _plain(
    recipe: Recipe, stretch: Stretch, optimisers: Any, schedules: Any, train: Train, total: int,
    shared: Mapping[str, Any],
) -> Step:  # fmt: skip
    del schedules, total
    return make_train_step(
        recipe.loss,
        optimisers,
        seed=train.seed,
        phase=stretch.phase,
        accumulate=train.accumulate,
        **shared,
    )


def _meta(
    recipe: Recipe, stretch: Stretch, optimisers: Any, schedules: Any, train: Train, total: int,
    shared: Mapping[str, Any],
) -> Step:  # fmt: skip
    del stretch, train
    able = cast(MetaRecipe, recipe)
    return make_meta_step(able, optimisers, rate=schedules[able.meta.inner], total=total, **shared)


def _search(
    recipe: Recipe, stretch: Stretch, optimisers: Any, schedules: Any, train: Train, total: int,
    shared: Mapping[str, Any],
) -> Step:  # fmt: skip
    del stretch, train
    able = cast(SearchRecipe, recipe)
    return make_search_step(
        able, optimisers, rate=schedules[able.search.weights], total=total, **shared
    )


def _tasks(
    recipe: Recipe, stretch: Stretch, optimisers: Any, schedules: Any, train: Train, total: int,
    shared: Mapping[str, Any],
) -> Step:  # fmt: skip
    del stretch, train, total
    able = cast(TaskRecipe, recipe)
    return make_task_step(able, optimisers, rate=schedules[able.tasks.network], **shared)


_MAKERS: Mapping[str, Callable[..., Step]] = {
    "plain": _plain,
    "meta": _meta,
    "search": _search,
    "tasks": _tasks,
}
