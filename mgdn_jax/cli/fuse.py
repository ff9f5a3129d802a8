"""`mgdn fuse`: from file names to fused files and a report."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mgdn_jax.cli import progress
from mgdn_jax.cli.output import print_json
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import stream
from mgdn_jax.fusing.compile_cache import enable_compilation_cache
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.io import codec, files
from mgdn_jax.io.pixels import like_inputs, load_pictures, without_alpha
from mgdn_jax.weights import zoo

COMPILING = "compiling (first time for this size)"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The arguments of `mgdn fuse`.

    Attributes:
      inputs: files, or folders.
      output: file, or folder.
      model: a bundled name or a weight file.
      options: how pictures are fused, None where the command line says nothing.
      system: whose network a weight file holds, in place of the name in it.
      trust: whether a weight file's own module may run.
      batch: pictures of a folder that are fused at once; None for what is usual.
      quality: of JPEG and WebP, 1 to 100.
      has_scores: whether quality figures of the result are said.
      is_json: whether stdout is for one JSON object alone.
      is_quiet: whether errors alone are said.
    """

    inputs: tuple[str, ...]
    output: str
    model: str
    options: FuseOptions
    system: str | None
    trust: bool
    batch: int | None
    quality: int
    has_scores: bool
    is_json: bool
    is_quiet: bool

    @classmethod
    def read(cls, arguments: argparse.Namespace) -> Settings:
        """The plain values of what `cli.main.build_parser` parsed.

        Raises:
          InputError: a number out of range.
        """
        values = vars(arguments)
        if not 1 <= arguments.quality <= 100:
            raise InputError(f"--quality is {arguments.quality}, but must lie between 1 and 100.")
        if arguments.batch is not None and arguments.batch < 1:
            raise InputError(f"--batch is {arguments.batch}, but must be at least 1.")
        return cls(
            inputs=tuple(arguments.inputs),
            output=arguments.output,
            model=arguments.model or zoo.DEFAULT,
            options=FuseOptions(**{name: values[name] for name in FuseOptions.names()}),
            system=arguments.system,
            trust=arguments.trust_system,
            batch=arguments.batch,
            quality=arguments.quality,
            has_scores=arguments.score,
            is_json=arguments.json,
            is_quiet=arguments.quiet,
        )


def fuse(arguments: argparse.Namespace) -> int:
    """Runs `mgdn fuse`.

    Args:
      arguments: as `cli.main.build_parser` parses them.

    Returns:
      0, or 1 if a pair of a folder failed or lacked its partner.

    Raises:
      InputError: nothing could be done, and nothing was written.
    """
    started = time.perf_counter()
    settings = Settings.read(arguments)
    jobs, problems, has_many = _jobs(settings.inputs, settings.output)
    if settings.has_scores and len(jobs[0].sources) != 2:
        raise InputError("--score compares a result with exactly two sources; leave it out.")
    # A single picture is read before the model is: bad input is said at once.
    pictures = None if has_many else jobs[0].load()
    weights = zoo.resolve(settings.model)

    logging.getLogger("jax").setLevel(logging.ERROR)
    import mgdn_jax

    enable_compilation_cache()
    fuser = mgdn_jax.load(weights, system=settings.system, trust=settings.trust)
    options = fuser.resolve(settings.options)
    fuser.plan(1, 1, options=options)  # wrong options, before work
    if has_many and settings.options.bucket is None:
        sizes = codec.read_sizes(job.sources[0] for job in jobs)
        fuser = fuser.for_sizes(sizes, options=options)
    voice = _Voice(settings, fuser, len(jobs))
    work = _Work(jobs, fuser, options, settings, voice)
    done: list[dict[str, Any]] = []
    with voice.lines():
        for result in _results(work, pictures, settings.batch):
            voice.count()
            if isinstance(result, InputError):
                problems.append(str(result))
            else:
                done.append(result)
                voice.result(result)
    voice.end(done, problems, time.perf_counter() - started)
    return 1 if problems else 0


def _results(
    work: _Work, pictures: list[np.ndarray] | None, batch: int | None
) -> Iterator[dict[str, Any] | InputError]:
    """What `_Work.store` returns for each job; pictures of a single one were read already."""
    if pictures is not None:
        yield work.store(0, pictures, *work.fuse([pictures]))
        return
    results = stream.run(
        len(work.jobs),
        work.load,
        work.fuse,
        work.store,
        batch=batch or stream.default_batch(),
        same_program=work.same_program,
    )
    for _, result in results:
        yield result


@dataclasses.dataclass(frozen=True)
class _Job:
    """One result: its sources in order, and the file to write."""

    sources: tuple[Path, ...]
    target: Path

    def load(self) -> list[np.ndarray]:
        """The pictures, after checking that what becomes of them can be written."""
        for source in self.sources:
            if self.target.exists() and source.exists() and self.target.samefile(source):
                raise InputError(f"{self.target} is one of the inputs; name another output.")
        files.check_output(self.target)
        pictures = load_pictures(self.sources)
        channels = max(without_alpha(x).shape[-1] for x in pictures)
        sample = like_inputs(
            np.zeros((1, 1, channels), pictures[0].dtype), [x[:1, :1] for x in pictures]
        )
        if sample.dtype != np.float32 or channels == 1:
            codec.encode(sample, self.target.suffix)
        return pictures


def _jobs(inputs: Sequence[str], output: str) -> tuple[list[_Job], list[str], bool]:
    """What to fuse into what; sentences about pictures without partners; whether many results."""
    folders = [os.path.isdir(name) for name in inputs]
    if not any(folders):
        if len(inputs) < 2:
            raise InputError(f"{inputs[0]} is alone; give at least two pictures or a folder.")
        return [_Job(tuple(map(Path, inputs)), Path(output))], [], False
    if not all(folders):
        raise InputError("the inputs are files and folders mixed; give only files or only folders.")
    if len(inputs) == 1:
        stack = tuple(files.list_images(inputs[0]).values())
        if len(stack) < 2:
            raise InputError(f"{inputs[0]} holds a single image; a stack needs at least two.")
        return [_Job(stack, Path(output))], [], False
    if os.path.exists(output) and not os.path.isdir(output):
        raise InputError(f"{output} is a file where a folder is to be written; name a folder.")
    files.check_folder(output)
    groups, gaps = files.pair_folders(inputs)
    # Results are PNG whatever the inputs were: saving a fused JPEG as JPEG would lose twice.
    jobs = [_Job(sources, Path(output) / f"{stem}.png") for stem, sources in groups.items()]
    return jobs, [files.no_partner(stem, lacking) for stem, lacking in gaps.items()], True


class _Work:
    """The three things done with each job; reading and writing may happen in threads."""

    def __init__(
        self,
        jobs: Sequence[_Job],
        fuser: Any,
        options: FuseOptions,
        settings: Settings,
        voice: _Voice,
    ):
        self.jobs = jobs
        self._fuser, self._options = fuser, options
        self._settings, self._voice = settings, voice

    def same_program(self, pictures: Sequence[np.ndarray]) -> Any:
        """What pictures that are fused together have in common."""
        return self._fuser.same_program(pictures, options=self._options)

    def load(self, number: int) -> list[np.ndarray]:
        """Pictures of a job."""
        return self.jobs[number].load()

    def fuse(self, scenes: Sequence[Sequence[np.ndarray]]) -> list[_Timed]:
        """Results, each with its share of the time."""
        started = time.perf_counter()
        plans = (self._fuser.plan(*p[0].shape[:2], options=self._options) for p in scenes)
        sizes = {(plan.rows.size, plan.columns.size) for plan in plans}
        with self._voice.fusing(len(scenes), sizes) as tick:
            fused = self._fuser.batch(scenes, options=self._options, progress=tick)
        seconds = (time.perf_counter() - started) / len(scenes)
        return [_Timed(pixels, seconds) for pixels in fused]

    def store(self, number: int, pictures: Sequence[np.ndarray], result: _Timed) -> dict[str, Any]:
        """Writes, scores; what happened, ready for JSON."""
        job, fused = self.jobs[number], result.pixels
        height, width = pictures[0].shape[:2]
        files.write_image(job.target, fused, quality=self._settings.quality)
        report = {
            "inputs": [str(source) for source in job.sources],
            "output": str(job.target),
            "width": width,
            "height": height,
            "dtype": str(fused.dtype),
            "tiles": self._fuser.plan(height, width, options=self._options).tiles,
            "stretch": self._options.stretch,
            "ensemble": self._options.ensemble,
            "seconds": round(result.seconds, 3),
        }
        if self._settings.has_scores:
            report["scores"] = score(fused, *pictures)
        return report


@dataclasses.dataclass(frozen=True)
class _Timed:
    pixels: np.ndarray
    seconds: float


def score(fused: np.ndarray, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """The standard quality figures of a fused picture.

    Args:
      fused: the result, as a `Fuser` gives it.
      a: first source, as `io.pixels.load_pictures` gives it.
      b: second source.

    Returns:
      Name to value; NaN for a metric that needs a larger picture.
    """
    from mgdn_jax import evaluation, metrics

    side = min(fused.shape[:2])
    fits = [name for name in metrics.STANDARD if metrics.METRICS[name].min_side <= side]
    first, second, third = (evaluation.pixels_of(x, "a picture") for x in (fused, a, b))
    values = metrics.evaluate(first, second, third, fits)
    return {name: values.get(name, math.nan) for name in metrics.STANDARD}


class _Voice:
    """What `mgdn fuse` says: results on stdout, progress and failures on stderr."""

    def __init__(self, settings: Settings, fuser: Any, total: int):
        self._json, self._quiet = settings.is_json, settings.is_quiet
        self._talks = not (settings.is_json or settings.is_quiet)
        self._count = progress.Count("fused", total, "pictures") if total > 1 else None
        self._sizes: set[Any] = set()  # those whose program is there
        self._compiles = False
        self._tiles = ""
        self._model = {
            "name": settings.model,
            "system": fuser.system,
            "parameters": sum(int(leaf.size) for leaf in fuser.params.values()),
        }
        if self._talks:
            print(
                f"model   {settings.model}: {fuser.system}, "
                f"{self._model['parameters']:,} parameters",
                flush=True,
            )

    @contextlib.contextmanager
    def lines(self) -> Iterator[None]:
        """A line every few seconds where there is no terminal."""
        if not self._talks or sys.stderr.isatty():
            yield
            return
        with progress.lines(self._status):
            yield

    def _status(self) -> str | None:
        """What such a line says; a compilation is said once."""
        if self._compiles:
            self._compiles = False
            return COMPILING
        if self._count is not None:
            return str(self._count)
        return self._tiles or None

    def count(self) -> None:
        """One more picture is done, or has failed."""
        if self._count is not None:
            self._count.advance()

    @contextlib.contextmanager
    def fusing(
        self, scenes: int, sizes: set[tuple[int, int]]
    ) -> Iterator[Callable[[int, int], None]]:
        """Says that a program is compiled, and shows the tiles to people at a terminal.

        Args:
          scenes: pictures that are fused at once.
          sizes: of their tiles, or of the whole pictures with padding.

        Yields:
          What to call as (tiles done, tiles in all); at the end the terminal's line is wiped.
        """
        programs = {(scenes, size) for size in sizes}
        is_new = not programs <= self._sizes
        is_shown = not self._quiet and sys.stderr.isatty()
        self._compiles = is_new

        def show(text: str) -> None:
            if is_shown:
                sys.stderr.write(f"\r{text:<42}")
                sys.stderr.flush()

        def tick(done: int, total: int) -> None:
            self._compiles = False
            self._tiles = f"tile {done} of {total}" if total > 1 else ""
            show(f"  tile {done} of {total} ")

        if is_new:
            show(f"  {COMPILING} ")
        try:
            yield tick
        finally:
            self._compiles, self._tiles = False, ""
            show("")
            if is_shown:
                sys.stderr.write("\r")
        self._sizes |= programs

    def result(self, result: dict[str, Any]) -> None:
        """One picture is done."""
        if not self._talks:
            return
        size = f"{result['width']}x{result['height']} {result['dtype']}"
        tiles = f", {result['tiles']} tiles" if result["tiles"] > 1 else ""
        tone = "" if result["stretch"] == "none" else f", stretched ({result['stretch']})"
        mean = "" if result["ensemble"] == "none" else f", averaged ({result['ensemble']})"
        done = f"{size}{tiles}{mean}{tone}, {result['seconds']:.1f} s"
        print(f"fused   {' + '.join(result['inputs'])} ({done})")
        print(f"result  {result['output']}")
        if "scores" in result:
            print("scores  " + "  ".join(f"{k} {v:.4g}" for k, v in result["scores"].items()))
        sys.stdout.flush()

    def end(self, done: list[dict[str, Any]], problems: list[str], seconds: float) -> None:
        """All pictures are done; failures are said last, where they are seen."""
        if self._json:
            content = {"model": self._model, "results": done, "failed": problems}
            print_json(content | {"seconds": round(seconds, 3)})
        elif self._talks and len(done) != 1:
            print(f"done    {len(done)} pictures in {seconds:.1f} s", flush=True)
        for problem in problems:
            print(f"mgdn: error: {problem}", file=sys.stderr)
