"""Where a run begins: fresh networks, networks of a weight file, or the newest checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mgdn_jax.errors import InputError, printable
from mgdn_jax.io import objects
from mgdn_jax.io.disk import WriteError, write_atomically
from mgdn_jax.systems.contract import Networks, Recipe, warm_start
from mgdn_jax.training import config as run_config
from mgdn_jax.training import processes
from mgdn_jax.training.checkpoints import Checkpoints
from mgdn_jax.training.setup import Setup
from mgdn_jax.training.state import TrainState, init_state
from mgdn_jax.weights import zoo
from mgdn_jax.weights.store import load_weights


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a call of `fit` goes on; the same in every process.

    Attributes:
        state: replicated over the devices.
        step: updates done.
        hours: spent on them.
        metrics: of the last validation.
        owed: the phase whose validation at this step a signal prevented; "" for none.
    """

    state: TrainState
    step: int
    hours: float
    metrics: dict[str, float]
    owed: str = ""


def open_checkpoints(setup: Setup, stack: contextlib.ExitStack) -> Checkpoints | None:
    """The run's checkpoints in the first process, None in the others.

    Args:
        setup: of the run.
        stack: closes the checkpoints.

    Raises:
        InputError: the folder holds another run.
    """
    if not setup.chief:
        return None
    train = setup.run.train
    best = train.best or setup.recipe.best
    checkpoints = Checkpoints(setup.checkpoints, keep=train.keep, best=best)
    stack.push(closing(checkpoints.close))
    if checkpoints.steps():
        before = _config_before(setup, checkpoints)
        run_config.compare(before, setup.plain, str(setup.workdir), setup.standard)
    return checkpoints


def _config_before(setup: Setup, checkpoints: Checkpoints) -> dict[str, Any]:
    """The config of a run that has checkpoints.

    A workdir that was lost is begun anew where they are elsewhere, and these hold the config too.
    """
    stored = setup.workdir / "config.json"
    if setup.run.train.checkpoints and not stored.exists():
        before = checkpoints.config()
        if before is not None:
            return before
    try:
        return objects.read_object(stored)
    except InputError as error:
        raise InputError(
            f"{stored}: is missing or damaged beside existing checkpoints; use another workdir."
        ) from error


def begin(setup: Setup, checkpoints: Checkpoints | None) -> Start:
    """Reads or makes the state, writes config.json, and sets the loader to its position.

    Args:
        setup: of the run.
        checkpoints: as from `open_checkpoints`.

    Raises:
        InputError: checkpoint or weights do not fit the networks or optimisers.
    """
    train = setup.run.train
    key = jax.random.fold_in(jax.random.key(train.seed), zlib.crc32(b"init"))

    def fresh(key: jax.Array, init: str = "") -> TrainState:
        params, stats = setup.recipe.init(key)
        if init:
            params, stats = initial_weights(setup.recipe, init, params, stats)
        return init_state(params, stats, setup.optimisers, ema=train.ema > 0)

    shapes = jax.eval_shape(fresh, key)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    notes: dict[str, Any] = {}
    if checkpoints is not None:
        trees = shapes._asdict()
        del trees["step"]
        restored = checkpoints.restore(
            trees, warn=lambda line: print(printable(f"warning: {line}"))
        )
        if restored is None:
            state = fresh(key, train.init)
        else:
            state = shapes._replace(step=np.int32(restored.step), **restored.trees)
            notes = {"data": restored.data, **restored.meta}
        _write_config(setup)
    state, notes = processes.from_first(state, notes)
    step = int(state.step)
    if step:
        hours, metrics = notes.get("hours", 0.0), notes.get("metrics")
        if type(hours) not in (int, float) or not isinstance(metrics, dict):
            raise InputError(  # of a checkpoint without a checksum over its header
                f"{setup.checkpoints}/{step}: its header is damaged; remove the"
                " folder to go on from the checkpoint before."
            )
        setup.loader.restore(notes["data"])
    return Start(
        state=setup.parallel.replicate(state),
        step=step,
        hours=notes.get("hours", 0.0),
        metrics=notes["metrics"] if step else {},
        owed=str(notes.get("owed", "")),
    )


def _write_config(setup: Setup) -> None:
    """Writes config.json, unless it is there already: a full disk need not hinder going on."""
    path, text = setup.workdir / "config.json", json.dumps(setup.plain, indent=1) + "\n"
    with contextlib.suppress(OSError):
        if path.read_bytes() == text.encode():
            return
    write_atomically(path, text.encode())


def closing(close: Callable[[], None]) -> Callable[..., None]:
    """For `ExitStack.push`: an error while closing does not hide the error that led there."""

    def leave(kind: type[BaseException] | None, *rest: Any) -> None:
        del rest
        try:
            close()
        except WriteError:
            if kind is None:
                raise

    return leave


def initial_weights(
    recipe: Recipe, init: str, params: Networks, stats: Networks
) -> tuple[Networks, Networks]:
    """Fresh networks, those that ship replaced by the ones of a weight file.

    Args:
        recipe: of the run.
        init: a bundled name or a file, as in `train.init`.
        params: fresh parameters by network.
        stats: fresh running statistics by network.

    Raises:
        InputError: there is no such file, or it holds weights of another system or shape.
    """
    path = zoo.resolve(init)
    weights = load_weights(path)
    if weights.system != recipe.system:
        raise InputError(
            f"{path}: holds weights of {weights.system} and the run trains"
            f" {recipe.system}; name other weights in train.init."
        )
    try:
        return warm_start(recipe, weights.params, weights.stats, params, stats)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
