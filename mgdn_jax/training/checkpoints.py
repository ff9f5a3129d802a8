"""Training checkpoints (Orbax): the last few and the best one, each whole or not at all.

Orbax is imported on first use only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import pathlib
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.io.disk import WriteError, make_folder
from mgdn_jax.training.places import is_remote, open_address, path_of

_HEADER = {"checksum", "checksums", "data", "meta", "step"}
_HEADER_BEFORE = {"checksums", "data", "meta"}
"""What headers of release 0.1 hold: no checksum over themselves."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """One checkpoint as read back.

    Attributes:
        step: updates done when it was taken.
        trees: {item: pytree of NumPy arrays}, shaped as the target was.
        data: state of the data iterator.
        meta: what `save` was given.
    """

    step: int
    trees: dict[str, Any]
    data: dict[str, Any]
    meta: dict[str, Any]


def flatten_tree(tree: Any) -> dict[str, Any]:
    """Any pytree -> {slash path: leaf}; Optax's named tuples give their field names."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _checksum(flat: Mapping[str, np.ndarray]) -> int:
    total = 0
    for name in sorted(flat):
        value = flat[name]
        total = zlib.crc32(f"{name}{value.dtype}{value.shape}".encode(), total)
        total = zlib.crc32(np.ascontiguousarray(value).tobytes(), total)
    return total


def _seal(header: Mapping[str, Any]) -> int:
    """Checksum over a header, its own place left out; the same after a way through JSON."""
    content = {name: value for name, value in header.items() if name != "checksum"}
    # Twice, for keys that are no text become text the first time, and then sort otherwise.
    text = json.dumps(json.loads(json.dumps(content)), sort_keys=True)
    return zlib.crc32(text.encode())


def newest_whole(folder: str | os.PathLike[str]) -> Any:
    """The path of the newest complete checkpoint in a folder; None if there is none.

    Orbax renames a checkpoint's folder to its step when all of it is written. Where it cannot, a
    file in it says so.
    """
    paths = _whole(path_of(folder))
    return paths[-1] if paths else None


def _whole(folder: Any) -> list[Any]:
    """The complete checkpoints in a folder, oldest first."""
    try:
        paths = [path for path in folder.iterdir() if path.name.isascii() and path.name.isdigit()]
        if is_remote(folder):
            paths = [path for path in paths if (path / "commit_success.txt").exists()]
    except Exception as error:  # readers of addresses raise whatever they like
        if is_remote(folder) or isinstance(error, OSError):
            return []
        raise
    return sorted(paths, key=lambda path: int(path.name))


def _is_listed(path: Any) -> bool:
    """Whether what Orbax reads of each checkpoint when it lists them can be read."""
    for name in ("_CHECKPOINT_METADATA", "metrics/metrics"):
        try:
            values = json.loads((path / name).read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError):
            return False
        if not isinstance(values, dict):
            return False
        figures = values.values() if name == "metrics/metrics" else ()
        if not all(type(value) in (int, float) for value in figures):
            return False
    return True


def _damage(path: pathlib.Path, why: str) -> str:
    return f"checkpoint {path} is damaged ({why}); trying the one before"


def score(figures: Mapping[str, float], best: str = "") -> float | None:
    """How good a checkpoint is by the figures of its validation; higher is better.

    Args:
        figures: by name; {} where there was no validation.
        best: the one that counts; "" for "psnr" where there is one, else "loss". Names that end in
            "loss" or "rmse" count downwards.

    Returns:
        The score, None where the figures do not say.
    """
    name = best or ("psnr" if "psnr" in figures else "loss")
    value = figures.get(name, math.nan)
    # Runs of the first release wrote -1e30 where there was no validation.
    if not math.isfinite(value) or value == -1e30:
        return None
    return -value if name.endswith(("loss", "rmse")) else value


@dataclasses.dataclass(frozen=True)
class _Best:
    """Preserves the checkpoint of the highest score, a policy of Orbax's; the newest of several."""

    best: str

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        scores = [score(checkpoint.metrics or {}, self.best) for checkpoint in checkpoints]
        judged = [(value, place) for place, value in enumerate(scores) if value is not None]
        chosen = max(judged)[1] if judged else None
        return [place == chosen for place in range(len(checkpoints))]


class Checkpoints:
    """A folder of training checkpoints: the last few and the best one.

    Saves run in the background. A checkpoint counts only once it is complete (Orbax renames its
    temporary folder last), and carries checksums, so one that was cut short or damaged is never
    mistaken for a good one. Holds host copies only: what was saved from eight devices restores
    to one. With several processes only one of them should own this object.

    Args:
        folder: where checkpoints live; made when missing. Or an address, gs://BUCKET/...
        keep: how many of the newest to keep.
        best: the figure of validation whose best checkpoint is kept as well, see `score`.
        process: index of the calling process among several (it synchronises with nobody).

    Raises:
        InputError: the folder cannot be made, or the address cannot be opened.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, keep: int = 2, best: str = "", process: int = 0
    ):
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as policies

        self.folder = path_of(folder)
        if is_remote(folder):
            open_address(self.folder)
        else:
            make_folder(self.folder)
        self._ocp = ocp
        for name in ("absl", "asyncio"):
            logging.getLogger(name).addFilter(_is_news)
        if sys.unraisablehook is not _hook:
            _hooks.append(sys.unraisablehook)
            sys.unraisablehook = _hook
        self._failed = self._saves = False
        self._aside: list[str] = []
        for path in _whole(self.folder):
            if not _is_listed(path):  # Orbax would fail over it, whichever it is
                self._aside.append(_damage(path, "its list of figures cannot be read"))
                self._set_aside(path)
        self._manager = _manager_kind(ocp)(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                create=False,
                cleanup_tmp_directories=True,
                # Without it Orbax neither writes the metrics down nor reads them back.
                best_fn=lambda figures: score(figures, best),
                preservation_policy=policies.AnyPreservationPolicy(
                    [policies.LatestN(keep), _Best(best)]
                ),
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    primary_host=process,
                    active_processes={process},
                    barrier_sync_key_prefix=f"mgdn_{process}",
                ),
            ),
        )

    def config(self) -> dict[str, Any] | None:
        """The config that the newest checkpoint was saved under; None if it cannot be read."""
        args = self._ocp.args
        for step in reversed(self.steps()):
            try:
                read = self._manager.restore(step, args=args.Composite(header=args.JsonRestore()))
                _check_header(read["header"], step)
                return dict(read["header"]["meta"]["config"])
            except Exception:  # whatever a broken file makes Orbax raise
                continue
        return None

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, oldest first; waits for a save under way."""
        self._manager.wait_until_finished()
        return sorted(self._manager.all_steps())

    def save(
        self,
        step: int,
        trees: Mapping[str, Any],
        *,
        data: Mapping[str, Any],
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Copies everything to the host, then writes in the background.

        Args:
            step: updates done.
            trees: {item: pytree of arrays}; items without leaves are allowed.
            data: json-safe state of the data iterator.
            meta: json-safe notes (config, versions, phase).
            metrics: figures of the validation at this step, if there was one.

        Raises:
            WriteError: this checkpoint, or the one before, cannot be written.
        """
        args: dict[str, Any] = {}
        checksums = {}
        for item, tree in trees.items():
            # A NumPy view of a CPU array is no copy, and the buffer is about to be donated.
            flat = {k: np.array(v) for k, v in flatten_tree(jax.device_get(tree)).items()}
            if flat:
                args[item] = self._ocp.args.StandardSave(flat)
                checksums[item] = _checksum(flat)
        header = {"step": step, "checksums": checksums, "data": dict(data), "meta": dict(meta)}
        header["checksum"] = _seal(header)
        args["header"] = self._ocp.args.JsonSave(header)
        with self._writing():
            self._saves = True
            self._manager.save(
                step,
                args=self._ocp.args.Composite(**args),
                metrics=dict(metrics or {}),  # Orbax warns where there are none
                force=True,
            )

    def restore(
        self, target: Mapping[str, Any], *, warn: Callable[[str], None] = lambda line: None
    ) -> Restored | None:
        """Reads the newest checkpoint that is whole.

        A damaged one is renamed to `damaged-<step>` and the one before is tried.

        Args:
            target: {item: pytree of arrays or `jax.ShapeDtypeStruct`}, the structure wanted.
            warn: is told, in one line, of every damaged checkpoint passed over.

        Returns:
            The checkpoint, or None when the folder holds none.

        Raises:
            InputError: the checkpoint is whole but does not fit the target (missing, extra or
                misshapen arrays), or every checkpoint is damaged.
        """
        for line in self._aside:
            warn(line)
        steps = self.steps()
        for step in reversed(steps):
            path = self.folder / str(step)
            try:
                flats, header = self._read(step)
            except Exception as error:  # whatever a broken file makes Orbax raise
                words = str(error).strip().splitlines()
                warn(_damage(path, words[0][:120] if words else type(error).__name__))
                self._set_aside(path)
                self._manager.reload()
                continue
            if "checksum" not in header:
                warn(
                    f"checkpoint {path} was written by an older version and has"
                    " no checksum of its data position, which is taken as it is"
                )
            trees = {item: self._fit(step, item, flats, tree) for item, tree in target.items()}
            return Restored(step, trees, header["data"], header["meta"])
        if steps or self._aside:
            raise InputError(
                f"{self.folder}: all of its checkpoints are damaged; remove the folder to start"
                " from scratch."
            )
        return None

    def _read(self, step: int) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
        args = self._ocp.args
        header = self._manager.restore(step, args=args.Composite(header=args.JsonRestore()))
        header = header["header"]
        _check_header(header, step)
        items = {item: args.StandardRestore() for item in header["checksums"]}
        read = self._manager.restore(step, args=args.Composite(**items))
        flats = {item: dict(read[item]) for item in items}
        for item, flat in flats.items():
            if _checksum(flat) != header["checksums"][item]:
                raise ValueError(f"checksum of {item!r} differs")
        return flats, header

    def _set_aside(self, path: Any) -> None:
        place = self.folder / f"damaged-{path.name}"
        count = 1
        while place.exists():
            count += 1
            place = self.folder / f"damaged-{path.name}-{count}"
        path.replace(place)

    def _fit(
        self, step: int, item: str, flats: Mapping[str, Mapping[str, np.ndarray]], tree: Any
    ) -> Any:
        flat, wanted = flats.get(item, {}), flatten_tree(tree)
        faults = [f"-{name} (missing)" for name in wanted if name not in flat]
        faults += [f"+{name} (not wanted)" for name in flat if name not in wanted]
        faults += [
            f"{name}: {flat[name].dtype}{flat[name].shape}, not {want.dtype}{tuple(want.shape)}"
            for name, want in wanted.items()
            if name in flat
            and (flat[name].shape, flat[name].dtype) != (tuple(want.shape), want.dtype)
        ]
        if faults:
            more = f" and {len(faults) - 4} more" if len(faults) > 4 else ""
            raise InputError(
                f"{self.folder / str(step)}: {item!r} does not fit this network or optimiser"
                f" ({', '.join(faults[:4])}{more}); use the config it was trained with, or"
                " another workdir."
            )
        treedef = jax.tree_util.tree_structure(tree)
        return jax.tree_util.tree_unflatten(treedef, [flat[name] for name in wanted])

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What Orbax raises when it cannot write becomes a WriteError."""
        try:
            yield
        except Exception as error:  # of Orbax, TensorStore or the system
            self._failed = True
            raise WriteError(self.folder, error) from error

    def check(self) -> None:
        """Raises a WriteError if a save in the background has failed; does not wait for one."""
        if self._saves and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Returns once nothing is being written any more.

        Raises:
            WriteError: a save failed.
        """
        with self._writing():
            self._manager.wait_until_finished()
        self._saves = False

    def close(self) -> None:
        """Waits for the save under way, then releases Orbax's threads.

        Raises:
            WriteError: a save failed, and nobody has heard of it yet.
        """
        if self._failed:
            # It is said already, and Orbax says it again whenever it is asked.
            with contextlib.suppress(Exception):
                self._manager.close()
            if not is_remote(self.folder):  # the next start removes what is left at an address
                for half in self.folder.glob("*.orbax-checkpoint-tmp*"):
                    shutil.rmtree(half, ignore_errors=True)
            return
        with self._writing():
            self._manager.close()


def _manager_kind(ocp: Any) -> type:
    """Orbax's manager, which asks JAX's service for preemptions no more.

    That service is off, for signals are `processes.stop_signals`'s affair; and Orbax before 0.12
    fails over it where there are several processes.
    """

    class Manager(ocp.CheckpointManager):
        def reached_preemption(self, step: int) -> bool:
            del step
            return False

    return Manager


def _is_news(record: logging.LogRecord) -> bool:
    """Orbax logs errors with their traces, each several times, before it raises them.

    It also warns of a checkpoint that a kill left half-written, which `newest_whole` passes over.
    """
    message = record.getMessage()
    is_noise = record.levelno >= logging.ERROR or "Metadata file does not exist" in message
    # Its own path, or that of what it was writing.
    return not (is_noise and ("orbax" in record.pathname or "orbax" in message))


_hooks: list[Callable[..., Any]] = []


def _hook(unraisable: Any) -> None:
    """Leaves out what TensorStore's threads cannot tell any more: Orbax stops at the first error.

    There is one of these for each array that was being written when the first one failed.
    """
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        _hooks[-1](unraisable)


def _check_header(header: Any, step: int) -> None:
    """Raises ValueError if a checkpoint's header is not as it was written."""
    if not isinstance(header, dict) or header.keys() not in (_HEADER, _HEADER_BEFORE):
        raise ValueError("its header lacks entries or has others")
    if "checksum" in header and (header["checksum"], header["step"]) != (_seal(header), step):
        raise ValueError("checksum of its header differs")
    if not all(isinstance(header[name], dict) for name in ("checksums", "data", "meta")):
        raise ValueError("its header is no header")
