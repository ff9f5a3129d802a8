"""The one training loop: devices and processes, validation, logs, checkpoints, resume.

`fit(config, workdir)` is called again with the same arguments to go on after any interruption.
How steps are spread over devices is in `parallel`; what is needed of `jax.distributed` is in
`processes`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from mgdn_jax.errors import printable
from mgdn_jax.io.disk import WriteError, reason
from mgdn_jax.systems.contract import MixedLoader
from mgdn_jax.training import config as run_config
from mgdn_jax.training import plan as run_plan
from mgdn_jax.training import processes
from mgdn_jax.training.checkpoints import Checkpoints, newest_whole
from mgdn_jax.training.kinds import make_step
from mgdn_jax.training.lock import TakenOverError
from mgdn_jax.training.logs import Clock, Figures, Log, Window, drop_output, grid_rows
from mgdn_jax.training.parallel import AXIS
from mgdn_jax.training.places import home
from mgdn_jax.training.setup import Setup, prepare
from mgdn_jax.training.shipping import is_shipped, ship, weights_path
from mgdn_jax.training.start import Start, begin, closing, open_checkpoints
from mgdn_jax.training.state import Metrics, Step, TrainState
from mgdn_jax.training.step import make_eval_step
from mgdn_jax.training.task_step import check_tasks
from mgdn_jax.weights.card import versions

_FLAT = 1 / 255
"""Range of a picture in which nothing is to be seen: one level of 8 bits."""
_GRID_ROWS = 4


class TrainingFailedError(RuntimeError):
    """Training cannot go on; the message says why and names the last good checkpoint."""


class TrainingDivergedError(TrainingFailedError):
    """Loss or gradient stopped being finite."""


@dataclasses.dataclass(frozen=True)
class Result:
    """How a call of `fit` ended.

    Attributes:
        status: "complete", "already complete" or "stopped" (by a signal; run it again to go on).
        step: updates done.
        weights: the file written at the end, if it came to that.
        metrics: of the last validation.
    """

    status: str
    step: int
    weights: pathlib.Path | None = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)


def fit(
    config: ml_collections.ConfigDict | Mapping[str, Any],
    workdir: str | pathlib.Path,
    *,
    command: str = "mgdn_jax.training.fit(config, workdir)",
    quiet: bool = False,
) -> Result:
    """Trains what `config` describes, from the newest checkpoint in `workdir` if there is one.

    Args:
        config: see `config.Run` and docs/train/config.md.
        workdir: the run's folder; receives config.json, log.jsonl, tensorboard/, grids/,
            checkpoints/ (or `train.checkpoints` does) and, at the end, NAME.safetensors and its
            card NAME.md.
        command: how this was started, for the card.
        quiet: nothing on the screen.

    Returns:
        How it ended. SIGTERM and SIGINT (in the main thread) end it early, with a checkpoint.

    Raises:
        InputError: config, data or workdir cannot be used; raised before training starts.
        TrainingDivergedError: loss or gradient became NaN or infinite.
        TrainingFailedError: a file cannot be written (no space, a broken disk), or another run has
            taken the workdir over.
    """
    plain = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    run, workdir = run_config.check(plain), pathlib.Path(workdir)
    loops: list[_Loop] = []
    try:
        return _fit(run, plain, workdir, command, quiet, loops)
    except TakenOverError as error:
        raise TrainingFailedError(f"{error}.") from error
    except OSError as error:
        if not loops:
            raise
        name = "data or workdir" if error.filename is None else error.filename
        raise _failure(f"{name}: {reason(error)}", loops[0], "look after it") from error
    except WriteError as error:
        if not loops:
            raise
        cause = f"{error.place} cannot be written ({error.reason})"
        raise _failure(cause, loops[0], "free some space") from error


def _fit(
    run: run_config.Run,
    plain: Mapping[str, Any],
    workdir: pathlib.Path,
    command: str,
    quiet: bool,
    loops: list[_Loop],
) -> Result:
    """`fit`; puts the loop into `loops` when training begins."""
    say: Callable[[str], None] = _mute if quiet else _print
    with contextlib.ExitStack() as stack:
        stopping = stack.enter_context(processes.stop_signals(say))
        setup = prepare(run, plain, workdir, stack, say)
        checkpoints = open_checkpoints(setup, stack)
        start = begin(setup, checkpoints)
        weights = weights_path(setup)
        if start.step >= setup.total and processes.agreed(is_shipped(weights, start.step)):
            if setup.chief:
                say(f"{workdir}: complete at step {start.step}; the weights are in {weights}")
            return Result("already complete", start.step, weights, start.metrics)

        log = _open_log(setup, start, quiet, stack)
        loop = _Loop(setup, start, checkpoints, log, stopping)
        loops.append(loop)
        state, step = loop.run(start.state, start.step)
        if step < setup.total:
            log.say(f"stopped and saved at step {step}; run it again to go on")
            return Result("stopped", step, None, loop.metrics)
        if setup.chief:
            ship(setup, state, command=command, hours=loop.clock.hours(), metrics=loop.metrics)
        log.say(f"complete at step {step}; the weights are in {weights}")
        processes.meet("mgdn_jax: shipped")
        return Result("complete", step, weights, loop.metrics)


def _failure(cause: str, loop: _Loop, cure: str) -> TrainingFailedError:
    """What ends a run that has begun, in one sentence."""
    setup = loop.setup
    good = last_good(setup.workdir, setup.run.train.checkpoints)
    return TrainingFailedError(
        f"{cause}; training ends at step {loop.step}; {good}; {cure} and run it again to go on."
    )


def last_good(workdir: str | pathlib.Path, elsewhere: str = "") -> str:
    """Names the newest complete checkpoint of a run, as part of a sentence.

    Args:
        workdir: the run's folder.
        elsewhere: the config's `train.checkpoints`.
    """
    path = newest_whole(home(workdir, elsewhere))
    if path is None:
        return "there is no checkpoint yet"
    return f"the last good checkpoint is {path}"


def _print(line: str) -> None:
    try:
        print(printable(line), flush=True)
    except OSError:  # nobody reads it any more, or its disk is full
        drop_output()


def _mute(line: str) -> None:
    del line


def _open_log(setup: Setup, start: Start, quiet: bool, stack: contextlib.ExitStack) -> Log:
    """The log, with a first line about what runs where."""
    log = Log(
        setup.workdir, total=setup.total, start=start.step, owes=bool(start.owed),
        active=setup.chief, quiet=quiet,
    )  # fmt: skip
    stack.push(closing(log.close))
    log.say(
        f"{setup.run.name}: from step {start.step} to {setup.total}, batch"
        f" {setup.run.train.batch} on {setup.processes} x {len(setup.devices)}"
        f" {setup.devices[0].device_kind}, in {setup.workdir}"
    )
    return log


class _Agreement:
    """When to stop: a signal at step t is obeyed by all at t + 1.

    A signal may reach one process only. So each tells the others with the batch of step t; the
    step adds up what they tell, and all read the same sum while step t + 1 is under way. A process
    that trains alone asks nobody, and obeys at t.

    Args:
        stopping: set by a signal to this process.
        devices: devices of this process.
        processes: number of processes.
    """

    def __init__(self, stopping: threading.Event, devices: int, processes: int):
        self._stopping = stopping
        self._devices = devices
        self._alone = processes == 1
        self._signalled = False

    def tell(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """This process's share of a batch, with word of a signal for the other processes."""
        self._signalled = self._stopping.is_set()
        if self._alone:
            return dict(batch)
        return {**batch, "_stop": np.full(self._devices, self._signalled, np.float32)}

    def heard(self, previous: Mapping[str, jax.Array]) -> bool:
        """Whether to stop after this step, from the metrics of the one before."""
        if self._alone:
            return self._signalled
        return "_stop" in previous and float(previous["_stop"]) > 0

    def passing_on(self, step: Step) -> Step:
        """A step that adds up what the processes tell."""
        if self._alone:
            return step

        def adding(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
            batch = dict(batch)
            stop = batch.pop("_stop")
            state, metrics = step(state, batch)
            return state, {**metrics, "_stop": jax.lax.psum(stop.sum(), AXIS)}

        return adding


class _Loop:
    """The steps of one call of `fit`; every method runs in every process unless it says otherwise.

    Args:
        setup: of the run.
        start: where it goes on.
        checkpoints: in the first process; None in the others.
        log: silent in all but the first process.
        stopping: set by a signal to this process.

    Attributes:
        metrics: of the last validation.
        step: updates done.
        clock: hours spent, and throughput.
    """

    def __init__(
        self,
        setup: Setup,
        start: Start,
        checkpoints: Checkpoints | None,
        log: Log,
        stopping: threading.Event,
    ):
        self.setup, self.log = setup, log
        self.metrics = dict(start.metrics)
        self.step = start.step
        self.clock = Clock(start.hours)
        self._checkpoints = checkpoints
        self._agreement = _Agreement(stopping, len(setup.devices), setup.processes)
        self._previous: Mapping[str, jax.Array] = {}
        self._evaluators: dict[str, Callable[..., Any]] = {}
        self._owed = start.owed

    def run(self, state: TrainState, step: int) -> tuple[TrainState, int]:
        """From a step to the end, or to a signal; returns the state and the step it is of."""
        if self._owed:
            with self.clock.pause():
                self._validate(state, step, self._owed)
        for stretch in self.setup.plan:
            stops = False
            if step < stretch.stop:
                state, step, stops = self._train(state, step, stretch)
            # Also between two phases: compiling the next one may outlast a signal's patience.
            if stops:
                break
        return state, step

    def _train(
        self, state: TrainState, step: int, stretch: run_plan.Stretch
    ) -> tuple[TrainState, int, bool]:
        """Works through one stretch; ends early, after a save, when it is to stop (returned)."""
        setup, train = self.setup, self.setup.run.train
        update = self._compile(stretch)
        window = Window()
        first, stops = True, False
        while step < stretch.stop and not stops:
            batch = self._agreement.tell(next(setup.loader))
            if stretch.kind == "tasks" and setup.recipe.tasks is not None:
                check_tasks(batch, setup.recipe.tasks, len(setup.devices))
            batch = setup.parallel.split(batch)
            if first:
                self._announce(f"the step of phase {stretch.phase!r}")
            state, metrics = update(state, batch)
            step += 1
            self.step = step
            window.add(step, metrics)
            # The host stays at most two steps ahead of the devices, so queued batches are few.
            jax.block_until_ready(self._previous)
            self._look_after()
            stops = self._agreement.heard(self._previous)
            finished, self._previous = self._previous, metrics
            if first:
                jax.block_until_ready(metrics)
                self.clock.lap()  # compiling says nothing about throughput
                window.timed, first = 0, False

            last = step == stretch.stop
            logs = last or step % train.log_every == 0
            saves = last or stops or _due(step, train.save_every)
            validates = step == setup.total or (_due(step, train.eval_every) and not stops)
            if logs or saves or validates:
                self._check(window)
            if logs:
                self._report(step, stretch, window)
            elif finished and self.log.is_overdue():
                self._progress(step - 1, finished, window)
            with self.clock.pause():
                if validates:
                    self._validate(state, step, stretch.phase)
                if saves:
                    self._save(state, step, stretch, validated=validates)
        if self._checkpoints is not None:
            self._checkpoints.wait()
        return state, step, stops

    def _look_after(self) -> None:
        """Ends a run that saves in vain, or in a folder that another run has taken over."""
        if self._checkpoints is not None:
            self._checkpoints.check()
        if self.setup.lock is not None:
            self.setup.lock.check()

    def _compile(self, stretch: run_plan.Stretch) -> Callable[..., Any]:
        """The step of a stretch, mapped over the devices; compiled when it is first called."""
        return self.setup.parallel.train(self._agreement.passing_on(self._step(stretch)))

    def _step(self, stretch: run_plan.Stretch) -> Step:
        setup = self.setup
        return make_step(
            setup.recipe,
            stretch,
            setup.optimisers,
            setup.schedules,
            setup.run.train,
            total=setup.total,
            axis_name=AXIS,
        )

    def _announce(self, what: str) -> None:
        """Says what the next call compiles, for that may take longer than anybody waits."""
        self.log.say(f"compiling {what} (first time for this size)")

    # ---- figures --------------------------------------------------------------------------

    def _check(self, window: Window) -> None:
        """Stops the run if a step since the last look went wrong."""
        bad = window.fetch()
        if bad is None:
            return
        step, name, value = bad
        good = "the first process names the last good checkpoint"
        if self._checkpoints is not None:
            self._checkpoints.wait()
            good = last_good(self.setup.workdir, self.setup.run.train.checkpoints)
        if name == "curvature":
            raise TrainingFailedError(
                f"the inner Hessian has curvature {value:.3g} with its damping at step {step},"
                f" where mode 'implicit' has no answer; {good}; raise the damping, or take another"
                " mode."
            )
        if name == "stationarity":
            raise TrainingFailedError(
                f"the inner steps of mode 'implicit' diverged at step {step}: the norm of their"
                f" gradient grew to {value:.3g}; {good}; lower the inner rate, or take another"
                " mode."
            )
        raise TrainingDivergedError(
            f"{name} became {value} at step {step}; {good}; lower optimiser.learning_rate or set"
            " optimiser.clip_norm."
        )

    def _report(self, step: int, stretch: run_plan.Stretch, window: Window) -> None:
        """Logs the means since the last time."""
        means, steps = window.means()
        network = stretch.trains[0]
        updates = run_plan.updates(self.setup.plan, network, step)
        means["learning_rate"] = float(self.setup.schedules[network](updates - 1))
        if isinstance(self.setup.loader, MixedLoader):
            passes = self.setup.loader.passes(step)
            means |= {f"passes.{name}": value for name, value in passes.items()}
        pace = self._pace(step, steps, self.clock.lap() if steps else math.nan)
        self.log.train(step, means, **pace)

    def _progress(self, step: int, metrics: Mapping[str, jax.Array], window: Window) -> None:
        """Shows a finished step, for those who have heard nothing for long."""
        done = window.timed - 1  # the newest one still runs
        seconds = self.clock.elapsed() if done > 0 else math.nan
        self.log.progress(step, float(metrics["loss"]), **self._pace(step, done, seconds))

    def _pace(self, step: int, steps: int, seconds: float) -> dict[str, float]:
        """Throughput over some steps and the time to the end; NaN where no step was timed."""
        batch = self.setup.run.train.batch
        speed = steps * batch / seconds
        return {"images_per_s": speed, "remaining_s": (self.setup.total - step) * batch / speed}

    def _validate(self, state: TrainState, step: int, phase: str) -> None:
        """Mean loss and PSNR over the held-out split; the moving average is what is judged."""
        setup = self.setup
        if setup.eval_loader is None:
            return
        if phase not in self._evaluators:
            evaluate = make_eval_step(setup.recipe, phase=phase, axis_name=AXIS)
            self._evaluators[phase] = setup.parallel.evaluate(evaluate)
            self._announce(f"the validation of phase {phase!r}")
        params = state.ema or state.params
        figures = Figures(setup.eval_loader)
        rows: dict[str, list[list[np.ndarray]]] = {}
        spreads: list[float] = []
        most = math.ceil(_GRID_ROWS / figures.sets)  # of each
        of_tasks = any(s.phase == phase and s.kind == "tasks" for s in setup.plan)
        for batch in setup.eval_loader:
            told = {"_task": batch["_set"]} if of_tasks and "_set" in batch else {}
            share = setup.parallel.split({**batch, **told})
            sums, pictures = self._evaluators[phase](params, state.stats, share)
            figures.add(batch, jax.device_get(sums))
            shown = rows.setdefault(figures.name(batch), [])
            if setup.chief and len(shown) < most:
                flat = [setup.parallel.rows(p) for p in pictures]
                spreads += [float(np.ptp(fused)) for fused in flat[0]]
                shown += grid_rows(setup.recipe.display(batch, flat), batch)
        self.metrics = {}
        for name, means in figures.means().items():
            ending = f".{name}" if name else ""
            self.metrics |= {f"{figure}{ending}": value for figure, value in means.items()}
            line = "  ".join(f"{figure} {value:.5g}" for figure, value in means.items())
            self.log.say(f"step {step}/{setup.total}  validation{ending}  {line}")
        self.log.record(step, "validation", self.metrics)
        trained = {name for s in setup.plan if s.start < step for name in s.trains}
        if spreads and max(spreads) < _FLAT and setup.recipe.ships in trained:
            self.log.say(
                f"warning: step {step}: every fused picture that was looked at is flat; the network"
                " makes nothing of its inputs. Lower optimiser.learning_rate, or start anew."
            )
        first = [row for several in rows.values() for row in several[:most]]
        same = [row for row in first if row[0].shape == first[0][0].shape]
        self.log.grid(setup.workdir / "grids", step, same)

    def _save(
        self, state: TrainState, step: int, stretch: run_plan.Stretch, *, validated: bool
    ) -> None:
        if self._checkpoints is None:
            return
        trees = state._asdict()
        del trees["step"]
        owes = _due(step, self.setup.run.train.eval_every) and not validated
        meta = {
            "config": self.setup.plain,
            "versions": versions(),
            "phase": stretch.phase,
            "hours": self.clock.hours(),
            "metrics": self.metrics,
            # A signal does not wait for a validation, so the next call makes up for it.
            "owed": stretch.phase if owes else "",
        }
        # Losses of two phases do not compare: the best checkpoint is one of the last phase.
        last = [s.phase for s in self.setup.plan if s.stop > s.start][-1]
        judged = validated and stretch.phase == last
        self._checkpoints.save(
            step,
            trees,
            data=self.setup.loader.state(),
            meta=meta,
            metrics=self.metrics if judged else None,
        )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
