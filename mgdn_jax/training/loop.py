"""The one training loop: devices and processes, validation, logs, checkpoints, resume.

`fit(config, workdir)` is called again with the same arguments to go on after any interruption.
This is the only room that knows of `jax.pmap`; what it needs of `jax.distributed` is in
`processes`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import math
import pathlib
import threading
import zlib
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mgdn_jax.errors import InputError
from mgdn_jax.io.disk import make_folder, write_atomically
from mgdn_jax.systems import registry
from mgdn_jax.systems.contract import MetaRecipe, Recipe, warm_start
from mgdn_jax.training import config as run_config
from mgdn_jax.training import plan as run_plan
from mgdn_jax.training import processes
from mgdn_jax.training.checkpoints import Checkpoints
from mgdn_jax.training.logs import Clock, Log, Window, grid_rows
from mgdn_jax.training.meta_step import make_meta_step
from mgdn_jax.training.state import Step, TrainState, init_state
from mgdn_jax.training.step import make_eval_step, make_train_step
from mgdn_jax.weights import zoo
from mgdn_jax.weights.card import card_text, versions
from mgdn_jax.weights.store import load_weights, save_weights

AXIS = "data"
_GRID_ROWS = 4
_DATA_FIELDS = ("loader", "train", "validation")


class TrainingDivergedError(RuntimeError):
    """Loss or gradient stopped being finite; the message names the last good checkpoint."""


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
            checkpoints/ and, at the end, NAME.safetensors and its card NAME.md.
        command: how this was started, for the card.
        quiet: nothing on the screen.

    Returns:
        How it ended. SIGTERM and SIGINT (in the main thread) end it early, with a checkpoint.

    Raises:
        InputError: config, data or workdir cannot be used; raised before training starts.
        TrainingDivergedError: loss or gradient became NaN or infinite.
    """
    plain = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    with contextlib.ExitStack() as stack:
        stopping = stack.enter_context(processes.stop_signals())
        trainer = _Trainer(
            run_config.check(plain), plain, pathlib.Path(workdir), command, quiet, stack
        )
        return trainer.run(stopping)


class _Trainer:
    """One call of `fit`; every method runs in every process unless it says otherwise."""

    def __init__(
        self,
        run: run_config.Run,
        plain: Mapping[str, Any],
        workdir: pathlib.Path,
        command: str,
        quiet: bool,
        stack: contextlib.ExitStack,
    ):
        self.settings, self.plain, self.workdir = run, plain, workdir
        self.command, self.quiet, self.stack = command, quiet, stack
        self.count, self.process = jax.process_count(), jax.process_index()
        self.chief = self.process == 0
        if self.chief:
            make_folder(workdir)
        self.devices = processes.local_devices(run.train.devices)
        self.mesh = NamedSharding(Mesh(np.array(self.devices), (AXIS,)), PartitionSpec())
        values = {key: value for key, value in run.recipe.items() if key != "name"}
        self.recipe = registry.recipe(run.recipe["name"])(run.model, **values)
        halves = any(phase.kind == "meta" for phase in self.recipe.phases)
        run_plan.share(run.train, len(self.devices), self.count, halves=halves)
        self.loader = self._loader("make_loader", "train", run.train.batch)
        self.eval_loader = None
        if "validation" in run.data:
            # Rounded up to what divides: the mask makes the size a matter of speed only.
            parts = len(self.devices) * self.count
            size = math.ceil((run.train.eval_batch or run.train.batch) / parts) * parts
            self.eval_loader = self._loader("make_eval_loader", "validation", size)

        train, examples = run.train, len(self.loader.dataset)
        self.total = run_config.duration(
            train.steps, train.epochs, train.examples, batch=train.batch, dataset=examples
        )
        self.plan = run_plan.stretches(self.recipe.phases, self.total)
        meta = self.recipe.meta
        self.optimisers, self.schedules = run_plan.optimisers(
            run.optimiser,
            self.plan,
            every={} if meta is None else {meta.learns: meta.every},
            optional=self.recipe.optional_networks,
        )
        self.checkpoints: Checkpoints | None = None
        self.evaluators: dict[str, Callable[..., Any]] = {}
        self.metrics: dict[str, float] = {}
        self.saved: int | None = None
        self.clock = Clock()
        self.log = Log(workdir, total=self.total, active=False)

    # ---- setting up -----------------------------------------------------------------------

    def _loader(self, maker: str, part: str, size: int) -> Any:
        path = self.settings.data["loader"]
        try:
            make = getattr(importlib.import_module(path), maker)
        except (ModuleNotFoundError, AttributeError) as error:
            raise InputError(
                f"config field 'data.loader' is {path!r} ({error}); name a module with {maker}."
            ) from error
        data = self.settings.data
        values = {key: value for key, value in data.items() if key not in _DATA_FIELDS}
        loader = run_config.call(
            make,
            f"data.{part}",
            values | dict(data[part]),
            batch_size=size,
            seed=self.settings.train.seed,
            process_index=self.process,
            process_count=self.count,
        )
        if maker == "make_loader":
            self.stack.callback(loader.close)
        return loader

    def _open_checkpoints(self) -> Checkpoints:
        """First process only: refuses a folder that holds another run."""
        best = "psnr" if self.eval_loader is not None else ""
        keep = self.settings.train.keep
        checkpoints = Checkpoints(
            self.workdir / "checkpoints", keep=keep, best=best, process=self.process
        )
        self.stack.callback(checkpoints.close)
        stored = self.workdir / "config.json"
        if checkpoints.steps():
            try:
                before = json.loads(stored.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise InputError(
                    f"{stored}: is missing or damaged beside existing checkpoints; use another"
                    " workdir."
                ) from error
            run_config.compare(before, self.plain, str(self.workdir))
        return checkpoints

    def _start(self) -> tuple[TrainState, int]:
        """The state to go on from, the same in every process, and its step."""
        train = self.settings.train
        key = jax.random.fold_in(jax.random.key(train.seed), zlib.crc32(b"init"))

        def fresh(key: jax.Array, init: str = "") -> TrainState:
            params, stats = self.recipe.init(key)
            if init:
                params, stats = _warm_start(self.recipe, init, params, stats)
            return init_state(params, stats, self.optimisers, ema=train.ema > 0)

        shapes = jax.eval_shape(fresh, key)
        state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        found: dict[str, Any] = {}
        if self.chief:
            self.checkpoints = self._open_checkpoints()
            trees = shapes._asdict()
            del trees["step"]
            restored = self.checkpoints.restore(trees, warn=lambda line: print("warning:", line))
            if restored is None:
                state = fresh(key, train.init)
            else:
                state = shapes._replace(step=np.int32(restored.step), **restored.trees)
                found = {"data": restored.data, **restored.meta}
            text = json.dumps(self.plain, indent=1) + "\n"
            write_atomically(self.workdir / "config.json", text.encode())
        state, found = processes.from_first(state, found)
        step = int(state.step)
        if step:
            self.loader.restore(found["data"])
            self.metrics, self.saved = found["metrics"], step
        self.clock = Clock(found.get("hours", 0.0))
        return jax.device_put(state, self.mesh), step

    # ---- the loop -------------------------------------------------------------------------

    def run(self, stopping: threading.Event) -> Result:
        """From whatever is in the workdir to the end, or to a signal."""
        state, step = self._start()
        weights = self.workdir / f"{self.settings.name}.safetensors"
        if step >= self.total and processes.agreed(_shipped(weights, step)):
            if self.chief and not self.quiet:
                print(f"{self.workdir}: complete at step {step}; the weights are in {weights}")
            return Result("already complete", step, weights, self.metrics)
        self.log = Log(
            self.workdir, total=self.total, start=step, active=self.chief, quiet=self.quiet
        )
        self.stack.callback(self.log.close)
        self.log.say(
            f"{self.settings.name}: from step {step} to {self.total}, batch"
            f" {self.settings.train.batch} on {self.count} x {len(self.devices)}"
            f" {self.devices[0].device_kind}, in {self.workdir}"
        )
        for stretch in self.plan:
            stopped = False
            if step < stretch.stop:
                state, step, stopped = self._train(state, step, stretch, stopping)
            # Also between two phases: compiling the next one may outlast a signal's patience.
            if stopped and step < self.total:
                self.log.say(f"stopped and saved at step {step}; run it again to go on")
                return Result("stopped", step, None, self.metrics)
        if self.chief:
            self._ship(state, step, weights)
        processes.meet("mgdn_jax: shipped")
        return Result("complete", step, weights, self.metrics)

    def _train(
        self, state: TrainState, step: int, stretch: run_plan.Stretch, stopping: threading.Event
    ) -> tuple[TrainState, int, bool]:
        """Works through one stretch; ends early, after a save, when asked to stop (returned)."""
        train, several = self.settings.train, self.count > 1
        update = self._compile(stretch)
        window = Window()
        first, previous, asked = True, None, False
        while step < stretch.stop:
            batch = self._feed(next(self.loader))
            asked = stopping.is_set()
            if several:
                batch["_stop"] = np.full((len(self.devices), 1), asked, np.float32)
            state, metrics = update(state, batch)
            step += 1
            window.add(step, metrics)
            # The host stays at most two steps ahead of the devices, so queued batches are few.
            if previous is not None:
                jax.block_until_ready(previous)
                if several:
                    # A signal may reach one process only; all of them read the same sum.
                    asked = float(previous["_stop"]) > 0
            elif several:
                asked = False
            previous = metrics
            if first:
                jax.block_until_ready(metrics)
                self.clock.lap()  # compiling says nothing about throughput
                window.timed, first = 0, False

            last = step == stretch.stop
            logs = last or step % train.log_every == 0
            saves = last or asked or _due(step, train.save_every)
            validates = step == self.total or (_due(step, train.eval_every) and not asked)
            if logs or saves or validates:
                self._check(window)
            if logs:
                self._report(step, stretch, window)
            with self.clock.pause():
                if validates:
                    self._validate(state, step, stretch.phase)
                if saves:
                    self._save(state, step, stretch, validated=validates)
            if asked:
                break
        if self.checkpoints is not None:
            self.checkpoints.wait()
        return state, step, asked

    def _pmap(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        some = self.devices if self.settings.train.devices else None
        return jax.pmap(function, axis_name=AXIS, devices=some, **options)

    def _step(self, stretch: run_plan.Stretch) -> Step:
        train = self.settings.train
        if stretch.kind == "meta":
            recipe = cast(MetaRecipe, self.recipe)
            return make_meta_step(
                recipe,
                self.optimisers,
                trains=stretch.trains,
                rate=self.schedules[recipe.meta.inner],
                total=self.total,
                ema_decay=train.ema,
                axis_name=AXIS,
            )
        return make_train_step(
            self.recipe.loss,
            self.optimisers,
            seed=train.seed,
            phase=stretch.phase,
            trains=stretch.trains,
            accumulate=train.accumulate,
            ema_decay=train.ema,
            axis_name=AXIS,
        )

    def _compile(self, stretch: run_plan.Stretch) -> Callable[..., Any]:
        step = self._step(stretch)

        def heeding(state: TrainState, batch: Mapping[str, jax.Array]) -> Any:
            rest = dict(batch)
            stop = rest.pop("_stop")
            state, metrics = step(state, rest)
            return state, {**metrics, "_stop": jax.lax.psum(stop.sum(), AXIS)}

        function = heeding if self.count > 1 else step
        return self._pmap(function, in_axes=(None, 0), out_axes=None, donate_argnums=0)

    def _feed(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """(B, ...) -> (devices, B / devices, ...); raises where pmap would silently use fewer."""
        count = len(self.devices)
        return {k: v.reshape(count, len(v) // count, *v.shape[1:]) for k, v in batch.items()}

    def _check(self, window: Window) -> None:
        """Stops the run if any step since the last look was not finite."""
        bad = window.fetch()
        if bad is None:
            return
        step, name, value = bad
        good = "there is no checkpoint yet"
        if self.saved is not None:
            good = f"the last good checkpoint is {self.workdir / 'checkpoints' / str(self.saved)}"
        raise TrainingDivergedError(
            f"{name} became {value} at step {step}; {good}; lower optimiser.learning_rate or set"
            " optimiser.clip_norm."
        )

    def _report(self, step: int, stretch: run_plan.Stretch, window: Window) -> None:
        means, steps = window.means()
        network = stretch.trains[0]
        rate = self.schedules[network](run_plan.updates(self.plan, network, step) - 1)
        means["learning_rate"] = float(rate)
        batch = self.settings.train.batch
        speed = steps * batch / self.clock.lap() if steps else math.nan
        left = (self.total - step) * batch / speed
        self.log.train(step, means, images_per_s=speed, remaining_s=left)

    # ---- validation, saving, shipping -----------------------------------------------------

    def _validate(self, state: TrainState, step: int, phase: str) -> None:
        """Mean loss and PSNR over the held-out split; the moving average is what is judged."""
        if self.eval_loader is None:
            return
        if phase not in self.evaluators:
            self.evaluators[phase] = self._pmap(
                make_eval_step(self.recipe, phase=phase, axis_name=AXIS),
                in_axes=(None, None, 0),
                out_axes=(None, 0),
            )
        params = state.ema or state.params
        totals: dict[str, float] = {}
        rows: list[list[np.ndarray]] = []
        for batch in self.eval_loader:
            sums, pictures = self.evaluators[phase](params, state.stats, self._feed(batch))
            for name, value in jax.device_get(sums).items():
                totals[name] = totals.get(name, 0.0) + float(value)
            if self.chief and len(rows) < _GRID_ROWS:
                flat = [np.asarray(p).reshape(-1, *p.shape[2:]) for p in pictures]
                rows += grid_rows([*self.recipe.sources(batch), *flat], batch)
        count = max(totals.pop("count"), 1.0)
        self.metrics = {name: value / count for name, value in totals.items()}
        shown = "  ".join(f"{name} {value:.5g}" for name, value in self.metrics.items())
        self.log.say(f"step {step}/{self.total}  validation  {shown}")
        self.log.record(step, "validation", self.metrics)
        same = [row for row in rows if row[0].shape == rows[0][0].shape]
        self.log.grid(self.workdir / "grids", step, same[:_GRID_ROWS])

    def _save(
        self, state: TrainState, step: int, stretch: run_plan.Stretch, *, validated: bool
    ) -> None:
        self.saved = step
        if self.checkpoints is None:
            return
        trees = state._asdict()
        del trees["step"]
        meta = {
            "config": self.plain,
            "versions": versions(),
            "phase": stretch.phase,
            "hours": self.clock.hours(),
            "metrics": self.metrics,
        }
        judged = self.metrics if validated and "psnr" in self.metrics else None
        self.checkpoints.save(step, trees, data=self.loader.state(), meta=meta, metrics=judged)

    def _ship(self, state: TrainState, step: int, path: pathlib.Path) -> None:
        """First process only: the weights that travel and their card."""
        train = self.settings.train
        card = {
            "name": self.settings.name,
            "system": self.recipe.system,
            "training": {
                "command": self.command,
                "steps": step,
                "examples": step * train.batch,
                "hours": round(self.clock.hours(), 3),
                "device": f"{jax.device_count()} x {self.devices[0].device_kind}",
                "weights": f"moving average, decay {train.ema}" if train.ema else "last step",
                "dataset_size": len(self.loader.dataset),
            },
            "held_out": {key: round(value, 6) for key, value in self.metrics.items()},
            **self.recipe.card(),
            "config": self.plain,
            "versions": versions(),
        }
        networks = jax.device_get((state.ema or state.params, state.stats))
        params, stats = self.recipe.join(*networks)
        write_atomically(path.with_suffix(".md"), card_text(self.settings.name, card).encode())
        save_weights(
            path,
            system=self.recipe.system,
            config=self.recipe.model_config.to_dict(),
            params=params,
            stats=stats,
            card=card,
        )
        self.log.say(f"complete at step {step}; the weights are in {path}")


def _warm_start(recipe: Recipe, init: str, params: Any, stats: Any) -> tuple[Any, Any]:
    """Fresh networks, those that ship replaced by the ones of a weight file."""
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


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _shipped(path: pathlib.Path, step: int) -> bool:
    """Whether the run's last words are written already."""
    try:
        training = load_weights(path).card.get("training", {})
    except InputError:
        return False
    return training.get("steps") == step and path.with_suffix(".md").exists()
