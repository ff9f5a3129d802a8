"""What a training run shows and writes down: progress, JSON lines, TensorBoard, grids."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import pathlib
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mgdn_jax.bilevel.implicit import has_grown
from mgdn_jax.errors import InputError, printable
from mgdn_jax.io import codec, objects
from mgdn_jax.io.disk import WriteError, make_folder, write_atomically
from mgdn_jax.systems.contract import MixedEvaluation

SILENCE = 10.0
"""Seconds without a word after which a step is shown, though no log line is due."""
_FLUSH = 10.0
"""Seconds after which numbers are on their way to TensorBoard's file at the latest."""


class Window:
    """Metrics of the steps since the last look, left on the devices until somebody asks."""

    def __init__(self):
        self._waiting: list[tuple[int, Mapping[str, jax.Array]]] = []
        self._rows: list[dict[str, float]] = []
        self.timed = 0

    def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Takes a step's metrics without waiting for them."""
        self._waiting.append((step, metrics))
        self.timed += 1

    def fetch(self) -> tuple[int, str, float] | None:
        """Brings all waiting metrics to the host.

        Returns:
            The first step whose "loss" or "grad_norm" is not finite, or whose meta-gradient met a
            "curvature" that is not positive or a "stationarity" that grew, with name and value.
        """
        waiting, self._waiting = self._waiting, []
        fetched = jax.device_get([metrics for _, metrics in waiting])
        bad = None
        for (step, _), row in zip(waiting, fetched, strict=True):
            self._rows.append({k: float(v) for k, v in row.items() if not k.startswith("_")})
            name = _fault(self._rows[-1])
            if bad is None and name:
                bad = (step, name, self._rows[-1][name])
        return bad

    def means(self) -> tuple[dict[str, float], int]:
        """Means over all fetched steps and the number of steps timed; empties the window."""
        names = self._rows[-1]
        means = {name: sum(row[name] for row in self._rows) / len(self._rows) for name in names}
        timed, self.timed, self._rows = self.timed, 0, []
        return means, timed


def _fault(row: Mapping[str, float]) -> str:
    """Name of the figure with which a step went wrong; "" if it did not."""
    for name in ("loss", "grad_norm"):
        if not math.isfinite(row[name]):
            return name
    # Only bilevel's mode "implicit" has these, and 0 where a step took no meta-gradient.
    if row.get("meta") and not row.get("curvature", 1) > 0:
        return "curvature"
    if row.get("meta") and has_grown(row.get("before", 0.0), row.get("stationarity", 0.0)):
        return "stationarity"
    return ""


class Figures:
    """Means over the validation batches; of several data sets each one's too.

    Args:
        loader: what gives the batches.
    """

    def __init__(self, loader: Any):
        self._shares = dict(loader.shares) if isinstance(loader, MixedEvaluation) else {}
        self._names = list(self._shares)
        self._totals: dict[str, dict[str, float]] = {}

    @property
    def sets(self) -> int:
        """How many data sets there are."""
        return max(1, len(self._names))

    def name(self, batch: Mapping[str, np.ndarray]) -> str:
        """The data set of a batch; "" for the only one."""
        return self._names[int(batch["_set"][0])] if self._names else ""

    def add(self, batch: Mapping[str, np.ndarray], sums: Mapping[str, Any]) -> None:
        """Takes the sums over a batch, "count" among them."""
        totals = self._totals.setdefault(self.name(batch), {})
        for figure, value in sums.items():
            totals[figure] = totals.get(figure, 0.0) + float(value)

    def means(self) -> dict[str, dict[str, float]]:
        """Means by figure, by data set; those of all come first, under "".

        Of several sets they are the means of the sets' means, each weighted by its share.
        """
        means = {name: _means(totals) for name, totals in self._totals.items()}
        if not self._shares:
            return means
        whole = sum(self._shares[name] for name in means)
        mixed: dict[str, float] = {}
        for name, figures in means.items():
            for figure, value in figures.items():
                mixed[figure] = mixed.get(figure, 0.0) + self._shares[name] / whole * value
        return {"": mixed, **means}


def _means(totals: Mapping[str, float]) -> dict[str, float]:
    """Sums over examples -> means."""
    count = max(totals["count"], 1.0)
    return {figure: value / count for figure, value in totals.items() if figure != "count"}


class Clock:
    """Wall time and throughput of a run, validation and saving not counted as training.

    Args:
        hours: already spent by earlier starts of the same run.
    """

    def __init__(self, hours: float = 0.0):
        self._before = hours
        self._start = self._mark = time.monotonic()
        self._paused = 0.0

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """What happens inside does not count against images per second."""
        begin = time.monotonic()
        yield
        self._paused += time.monotonic() - begin

    def elapsed(self) -> float:
        """Training seconds since the last lap (or since the start)."""
        return max(time.monotonic() - self._mark - self._paused, 1e-9)

    def lap(self) -> float:
        """As `elapsed`; a new lap begins."""
        seconds = self.elapsed()
        self._mark, self._paused = time.monotonic(), 0.0
        return seconds

    def hours(self) -> float:
        """Hours in all, earlier starts and pauses included."""
        return self._before + (time.monotonic() - self._start) / 3600


def clock_face(seconds: float) -> str:
    """3661.5 -> "1:01:01"; "unknown" for NaN."""
    if math.isnan(seconds):
        return "unknown"
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


class _Board:
    """An event file for TensorBoard, written where it is called.

    `tensorboardX.SummaryWriter` writes in a thread of its own: a full disk ends the thread, and
    the run waits for ever once the thread's queue is full.

    Args:
        folder: of the event files; made when missing.
        purge: later steps of earlier files do not count; 0 for none.

    Raises:
        WriteError: the file cannot be made.
    """

    def __init__(self, folder: pathlib.Path, purge: int):
        from tensorboardX.proto import event_pb2
        from tensorboardX.record_writer import RecordWriter

        self._event, self._flushed = event_pb2.Event, time.monotonic()
        make_folder(folder)
        # The names that TensorBoard looks for; two starts within a second have files of their own.
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        taken = len(list(folder.glob(f"{name}*")))
        self._path = folder / f"{name}.{taken}"
        with _writing(self._path):
            self._file = RecordWriter(str(self._path))
        self._write(file_version="brain.Event:2")
        if purge:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=purge, session_log=start)

    def _write(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields)
        with _writing(self._path):
            self._file.write(event.SerializeToString())
            if time.monotonic() - self._flushed > _FLUSH:
                self._flushed = time.monotonic()
                self._file.flush()

    def scalar(self, tag: str, value: float, step: int) -> None:
        """One number."""
        from tensorboardX import summary

        self._write(step=step, summary=summary.scalar(tag, value))

    def image(self, tag: str, picture: np.ndarray, step: int) -> None:
        """One picture, (h, w, 3) uint8."""
        from tensorboardX import summary

        self._write(step=step, summary=summary.image(tag, picture, dataformats="HWC"))

    def close(self) -> None:
        """Writes what waits, and closes the file."""
        with _writing(self._path):
            try:
                self._file.flush()
            finally:
                self._file.close()


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
    """What the system raises when a file cannot be written becomes a WriteError."""
    try:
        yield
    except OSError as error:
        raise WriteError(path, error) from error


class Log:
    """Everything one run tells its user; silent everywhere but in the first process.

    On a terminal a progress bar, otherwise plain lines; `log.jsonl` and TensorBoard event files
    in the run's folder either way.

    Args:
        folder: the run's folder.
        total: updates in the whole run.
        start: updates done already; later lines of an earlier start are cut from `log.jsonl`.
        owes: the validation at `start` is to come, so its line of an earlier start is cut as well.
        active: False makes every method do nothing.
        quiet: nothing on the screen; files only.

    Raises:
        WriteError: by any method: a file cannot be written. What the screen does not take (its
            reader has gone, its disk is full) is no reason to stop.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        total: int,
        start: int = 0,
        owes: bool = False,
        active: bool = True,
        quiet: bool = False,
    ):
        self._active = active
        self._bar: Any = None
        self._quiet = quiet
        self._total = total
        self._shown = time.monotonic()
        self._path = folder / "log.jsonl"
        if not active:
            return
        with _writing(self._path):
            self._rewind(start, owes)
            # Without a buffer: what a full disk did not take is not tried again when closing.
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 (lives as long as we)
        try:
            self._board = _Board(folder / "tensorboard", purge=start)
        except InputError:
            self._file.close()
            raise
        if sys.stdout.isatty() and not quiet:
            from rich import progress

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[tail]}"),
            )
            self._task = self._bar.add_task("training", total=total, completed=start, tail="")
            self._bar.start()

    def _rewind(self, start: int, owes: bool) -> None:
        """Drops what was logged after the checkpoint that the run now goes on from."""
        if not self._path.exists():
            return
        content = self._path.read_bytes()
        kept = []
        for line in content.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = objects.object_of(line, "a line", has_nan=True)
                comes_again = owes and (entry["step"], entry["kind"]) == (start, "validation")
                if entry["step"] <= start and not comes_again:
                    kept.append(line + b"\n")
        if b"".join(kept) != content:
            write_atomically(self._path, b"".join(kept))

    def say(self, line: str) -> None:
        """One line for the user's eyes."""
        if not self._active or self._quiet:
            return
        self._shown = time.monotonic()
        try:
            if self._bar is not None:
                self._bar.console.print(printable(line), markup=False, highlight=False)
            else:
                print(printable(line), flush=True)
        except OSError:
            self._quiet = True
            drop_output()

    def record(self, step: int, kind: str, values: Mapping[str, float], **more: Any) -> None:
        """One JSON line and the same numbers to TensorBoard.

        Args:
            step: updates done.
            kind: "train" or "validation".
            values: numbers by name.
            more: further json-safe entries of the line.
        """
        if not self._active:
            return
        # JSON knows no nan; null is what other readers expect.
        clean = {k: float(v) if math.isfinite(v) else None for k, v in values.items()}
        line = json.dumps({"step": step, "kind": kind, **clean, **more}) + "\n"
        with _writing(self._path):
            if self._file.write(line.encode()) != len(line.encode()):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for name, value in values.items():
            if math.isfinite(value):
                self._board.scalar(f"{kind}/{name}", value, step)

    def train(
        self, step: int, values: Mapping[str, float], *, images_per_s: float, remaining_s: float
    ) -> None:
        """The means over one log interval.

        Args:
            step: updates done.
            values: metrics, "loss" among them.
            images_per_s: training throughput; NaN before the first step that is timed.
            remaining_s: estimated time to the end; NaN likewise.
        """
        if not self._active:
            return
        self.record(step, "train", dict(values) | {"images_per_s": images_per_s})
        self.progress(step, values["loss"], images_per_s=images_per_s, remaining_s=remaining_s)

    def is_overdue(self) -> bool:
        """Whether nothing has been shown for `SILENCE`."""
        silent = not self._active or self._quiet
        return not silent and time.monotonic() - self._shown >= SILENCE

    def progress(self, step: int, loss: float, *, images_per_s: float, remaining_s: float) -> None:
        """Shows how far the run is; writes nothing down.

        Args:
            step: updates done.
            loss: of one or several steps.
            images_per_s: as in `train`.
            remaining_s: as in `train`.
        """
        if not self._active:
            return
        pace = f"  {images_per_s:.1f} images/s  ETA {clock_face(remaining_s)}"
        tail = f"loss {loss:.5g}{pace if math.isfinite(images_per_s) else ''}"
        if self._bar is not None:
            self._shown = time.monotonic()
            self._bar.update(self._task, completed=step, tail=tail)
        else:
            self.say(f"step {step}/{self._total}  {tail}")

    def grid(self, folder: pathlib.Path, step: int, rows: Sequence[Sequence[np.ndarray]]) -> None:
        """Pictures side by side, one example a row, as PNG and to TensorBoard.

        Args:
            folder: where `step_<n>.png` goes.
            step: updates done.
            rows: for each example its pictures, (h, w, 1 or 3) in [0, 1], all of one size.
        """
        if not self._active or not rows:
            return
        picture = tile(rows)
        write_atomically(folder / f"step_{step:08d}.png", codec.encode_png(picture))
        self._board.image("validation/sources_fused_target", picture, step)

    def close(self) -> None:
        """Flushes and closes files and the bar."""
        if not self._active:
            return
        self._active = False
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.stop()
        with _writing(self._path):
            self._file.close()
        self._board.close()


def drop_output() -> None:
    """Sends what is left on stdout nowhere, so that the flush at exit does not complain."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tile(rows: Sequence[Sequence[np.ndarray]], gap: int = 2) -> np.ndarray:
    """Pictures in rows -> one uint8 RGB picture with white gaps.

    Args:
        rows: (h, w, 1 or 3) float pictures in [0, 1] of one size, clipped where they leave it.
        gap: pixels between pictures.

    Returns:
        (H, W, 3) uint8.
    """
    lines = []
    for row in rows:
        cells: list[np.ndarray] = []
        for picture in row:
            pixels = np.round(np.clip(np.asarray(picture, np.float32), 0, 1) * 255)
            pixels = np.broadcast_to(pixels.astype(np.uint8), (*pixels.shape[:2], 3))
            cells += [pixels, np.full((pixels.shape[0], gap, 3), 255, np.uint8)]
        line = np.concatenate(cells[:-1], axis=1)
        lines += [line, np.full((gap, line.shape[1], 3), 255, np.uint8)]
    return np.concatenate(lines[:-1], axis=0)


def grid_rows(
    columns: Sequence[np.ndarray], batch: Mapping[str, np.ndarray]
) -> list[list[np.ndarray]]:
    """Columns of pictures side by side (`Recipe.display`), for the examples that count."""
    return [[column[i] for column in columns] for i in np.flatnonzero(batch["_mask"])]
