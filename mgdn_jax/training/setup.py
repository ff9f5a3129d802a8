"""What a run needs before its first step, opened and checked: `prepare` gives a frozen `Setup`."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import math
import pathlib
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from mgdn_jax.errors import InputError, nearest
from mgdn_jax.io.disk import make_folder
from mgdn_jax.systems import registry
from mgdn_jax.systems.checks import check_network
from mgdn_jax.systems.contract import Loader, MixedLoader, Recipe
from mgdn_jax.training import config as run_config
from mgdn_jax.training import plan as run_plan
from mgdn_jax.training import processes
from mgdn_jax.training.config import PARTS
from mgdn_jax.training.kinds import KINDS, check_kind
from mgdn_jax.training.lock import Lock
from mgdn_jax.training.optimisers import Schedule
from mgdn_jax.training.parallel import WAYS, Parallel
from mgdn_jax.training.places import home, is_remote
from mgdn_jax.training.step import make_eval_step

_MAKERS = {"train": "make_loader", "validation": "make_eval_loader"}


@dataclasses.dataclass(frozen=True)
class Setup:
    """All that is settled before the first step; every process has its own.

    Attributes:
        run: the checked config.
        plain: the config as nested plain dictionaries.
        workdir: the run's folder, which the first process alone reads and writes.
        lock: keeps the folder for this run; None in the other processes.
        devices: devices of this process.
        parallel: how steps are spread over the devices of all processes.
        processes: number of processes.
        chief: whether this is the first process.
        recipe: how the system is trained.
        loader: training batches of this process.
        eval_loader: validation batches of this process; None where nothing is held out.
        total: updates in the whole run.
        plan: phases laid over the updates.
        optimisers: by network.
        schedules: learning rates by network, as functions of a network's own updates.
        standard: what fields stand for that a config leaves out.
    """

    run: run_config.Run
    plain: Mapping[str, Any]
    workdir: pathlib.Path
    lock: Lock | None
    devices: Sequence[jax.Device]
    parallel: Parallel
    processes: int
    chief: bool
    recipe: Recipe
    loader: Loader
    eval_loader: Iterable[Mapping[str, np.ndarray]] | None
    total: int
    plan: Sequence[run_plan.Stretch]
    optimisers: Mapping[str, optax.GradientTransformation]
    schedules: Mapping[str, Schedule]
    standard: run_config.Defaults

    @property
    def checkpoints(self) -> str:
        """Folder or address of the checkpoints."""
        return home(self.workdir, self.run.train.checkpoints)


def prepare(
    run: run_config.Run,
    plain: Mapping[str, Any],
    workdir: pathlib.Path,
    stack: contextlib.ExitStack,
    say: Callable[[str], None],
) -> Setup:
    """Makes the run's folder, locks it, reads the recipe and opens the data.

    Args:
        run: the checked config.
        plain: the same as nested plain dictionaries.
        workdir: the run's folder.
        stack: closes the training loader, and gives the folder free.
        say: is told what happens to the lock.

    Raises:
        InputError: config, data or workdir cannot be used.
    """
    count, process = jax.process_count(), jax.process_index()
    lock = None
    if process == 0:
        make_folder(workdir)
        lock = stack.enter_context(Lock(workdir, say))
        _keep_checkpoints(run.train.checkpoints, workdir, stack, say)
    devices = processes.local_devices(run.train.devices)
    recipe = read_recipe(run)
    halves = any(phase.kind != "plain" for phase in recipe.phases)
    tasks = 1 if recipe.tasks is None else len(recipe.tasks.names)
    run_plan.share(run.train, len(devices), count, halves=halves, tasks=tasks)

    makers = {part: _maker(run.data["loader"], part) for part in PARTS if part in run.data}
    loader = _open(run, makers, "train", run.train.batch)
    _check_loader(run.data["loader"], loader)
    stack.callback(loader.close)
    _check_data(loader)
    _check_tasks(recipe, loader, run.data.get("mix") or {})
    eval_loader = None
    if "validation" in run.data:
        # Rounded up to what divides: the mask makes the size a matter of speed only.
        parts = len(devices) * count
        size = math.ceil((run.train.eval_batch or run.train.batch) / parts) * parts
        eval_loader = _open(run, makers, "validation", size)

    train = run.train
    total = run_config.duration(
        train.steps, train.epochs, train.examples, batch=train.batch, dataset=len(loader.dataset)
    )
    plan = run_plan.stretches(recipe.phases, total)
    rare: dict[str, Any] = {}
    if recipe.meta is not None:
        rare[recipe.meta.learns] = recipe.meta
    if recipe.search is not None:
        rare[recipe.search.architecture] = recipe.search
    optimisers, schedules = run_plan.optimisers(
        run.optimiser,
        plan,
        every={name: settings.every for name, settings in rare.items()},
        waits={name: math.ceil(settings.after * total) for name, settings in rare.items()},
        optional=recipe.optional_networks,
        proximal=recipe.proximal,
    )
    best = train.best or (recipe.best if eval_loader is not None else "")
    check_best(best, recipe, eval_loader, plan[-1].phase)
    return Setup(
        run=run,
        plain=plain,
        workdir=workdir,
        lock=lock,
        devices=devices,
        parallel=WAYS[train.parallel](devices, is_part=train.devices > 0),
        processes=count,
        chief=process == 0,
        recipe=recipe,
        loader=loader,
        eval_loader=eval_loader,
        total=total,
        plan=plan,
        optimisers=optimisers,
        schedules=schedules,
        standard=run_config.defaults(recipe.settings_type, makers),
    )


def _keep_checkpoints(
    place: str, workdir: pathlib.Path, stack: contextlib.ExitStack, say: Callable[[str], None]
) -> None:
    """Locks a folder of checkpoints that is not in the workdir; an address has no lock."""
    folder = pathlib.Path(place)
    if place and not is_remote(place) and folder.absolute() != workdir.absolute():
        make_folder(folder)
        stack.enter_context(Lock(folder, say))


# ---- the recipe ------------------------------------------------------------------------------


def read_recipe(run: run_config.Run) -> Recipe:
    """The recipe that the config names, with its settings.

    Raises:
        InputError: there is none, a setting makes no sense, or the recipe breaks its contract:
            something is left unwritten, a phase is of an unknown kind or learns a loss without
            being able to, or what is trained could not be loaded again.
    """
    name = run.recipe["name"]
    kind: Any = registry.recipe(name)
    unwritten = sorted(kind.__abstractmethods__)
    if unwritten:
        raise InputError(f"the recipe {name!r} does not define {', '.join(unwritten)}; write it.")
    settings = {key: value for key, value in run.recipe.items() if key != "name"}
    recipe: Recipe = kind(run.model, **settings)
    for phase in recipe.phases:
        if phase.kind not in KINDS:
            raise InputError(
                f"the recipe {name!r} has a phase of kind {phase.kind!r}; "
                f"{nearest(phase.kind, KINDS)}"
            )
        check_kind(recipe, phase.kind)
    _check_system(name, recipe)
    return recipe


def _check_tasks(recipe: Recipe, loader: Loader, mix: Mapping[str, float]) -> None:
    """Raises InputError if a recipe's tasks are not the sets of its loader, in equal shares."""
    if recipe.tasks is None or not any(phase.kind == "tasks" for phase in recipe.phases):
        return
    processes, count = jax.process_count(), len(recipe.tasks.names)
    if math.gcd(processes, count) > 1:
        raise InputError(
            f"the data of {processes} processes would hold some of {count} tasks each; take a"
            " number of processes or of tasks so that the two have no common factor."
        )
    sets = tuple(loader.sets) if isinstance(loader, MixedLoader) else ()
    if sets != recipe.tasks.names:
        raise InputError(
            f"the tasks of the recipe are {', '.join(recipe.tasks.names)}, and the sets of the"
            f" data {', '.join(sets) or 'one'}; name the same ones, in data.mix and in the recipe."
        )
    weights = dict(mix).values()
    if len(set(weights)) > 1:
        raise InputError(
            f"the sets of a run over tasks have one share each, and data.mix is {dict(mix)}; give"
            " all of them 1."
        )


def _check_system(name: str, recipe: Recipe) -> None:
    """Whatever is trained must be loadable: weight files hold the system's name and configuration.

    Raises:
        InputError: the system is not found, its `Config` is of another class than the recipe's, or
            its network does not keep the contract.
    """
    try:
        wanted = registry.network(recipe.system).Config
    except InputError as error:
        raise InputError(
            f"weights of the recipe {name!r} could not be loaded again, for {error}"
        ) from None
    if not isinstance(recipe.model_config, wanted):
        actual = type(recipe.model_config)
        raise InputError(
            f"weights of the recipe {name!r} could not be loaded again, for its `model_config` is a"
            f" {actual.__module__}.{actual.__name__} and the system {recipe.system!r} has"
            f" {wanted.__module__}.{wanted.__name__}; name the system whose network it trains."
        )
    check_network(recipe.system, recipe.model_config)


# ---- the data --------------------------------------------------------------------------------


def _maker(path: str, part: str) -> Callable[..., Any]:
    """What makes the loader of one part of the `data` block."""
    try:
        return getattr(importlib.import_module(path), _MAKERS[part])
    except (ModuleNotFoundError, AttributeError) as error:
        raise InputError(
            f"config field 'data.loader' is {path!r} ({error}); name a module with {_MAKERS[part]}."
        ) from error


def _open(run: run_config.Run, makers: Mapping[str, Any], part: str, size: int) -> Any:
    """The loader of one part of the `data` block, for this process and batches of a size."""
    shared = {name: v for name, v in run.data.items() if name not in ("loader", *PARTS)}
    return run_config.call(
        makers[part],
        f"data.{part}",
        shared | dict(run.data[part]),
        batch_size=size,
        seed=run.train.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def _check_loader(path: str, loader: Any) -> None:
    """Raises InputError, naming what is missing, if a loader breaks its contract."""
    if isinstance(loader, Loader):
        return
    methods = [
        name
        for name, value in vars(Loader).items()
        if isinstance(value, types.FunctionType) and value.__module__ == Loader.__module__
    ]
    missing = [name for name in (*Loader.__annotations__, *methods) if name not in dir(loader)]
    raise InputError(
        f"{path}.make_loader returns a {type(loader).__name__} without {', '.join(missing)}; see"
        " mgdn_jax.systems.contract.Loader for what a loader has."
    )


def _check_data(loader: Loader) -> None:
    """Raises InputError in a process whose data are not those of the first."""
    state = dict(loader.state())
    _, first = processes.from_first({}, state)
    for name in sorted(first.keys() | state.keys()):
        if first.get(name) != state.get(name):
            raise InputError(
                f"the data of process {jax.process_index()} have {name} {state.get(name)!r}, those"
                f" of process 0 have {first.get(name)!r}; copy the same data sets to all machines."
            )


def check_best(best: str, recipe: Recipe, eval_loader: Any, phase: str) -> None:
    """Raises InputError if validation never gives the figure that `train.best` names.

    Args:
        best: the figure, or "" for the usual one.
        recipe: whose `judge` may give it.
        eval_loader: validation batches, or None.
        phase: name of a phase.
    """
    if best and eval_loader is None:
        raise InputError(
            f"config field 'train.best' is {best!r} and nothing is held out; add the block"
            " data.validation, or set it to ''."
        )
    if best in ("", "loss"):
        return
    params, stats = jax.eval_shape(recipe.init, jax.random.key(0))
    step = make_eval_step(recipe, phase=phase)
    sums, _ = jax.eval_shape(step, params, stats, dict(next(iter(eval_loader))))
    figures = sorted(sums.keys() - {"count"})
    if best not in figures:
        raise InputError(
            f"config field 'train.best' is {best!r}, which validation does not give;"
            f" {nearest(best, figures)}"
        )
