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

from mgdn_jax.cli.output import print_json
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import stream
from mgdn_jax.fusing.compile_cache import enable_compilation_cache
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.io import codec, files
from mgdn_jax.io.pixels import like_inputs, load_pictures, without_alpha
from mgdn_jax.weights import zoo


def fuse(arguments: argparse.Namespace) -> int:
    """Runs `mgdn fuse`.

    Args:
      arguments: as `cli.build_parser` makes them.

    Returns:
      0, or 1 if a pair of a folder failed or lacked its partner.

    Raises:
      InputError: nothing could be done, and nothing was written.
    """
    started = time.perf_counter()
    if not 1 <= arguments.quality <= 100:
        raise InputError(f"--quality is {arguments.quality}, but must lie between 1 and 100.")
    if arguments.batch is not None and arguments.batch < 1:
        raise InputError(f"--batch is {arguments.batch}, but must be at least 1.")
    jobs, problems, batch = _jobs(arguments.inputs, arguments.output)
    if arguments.score and len(jobs[0].sources) != 2:
        raise InputError("--score compares a result with exactly two sources; leave it out.")
    # A single picture is read before the model is: bad input should be told at once.
    pictures = None if batch else jobs[0].load()
    name = arguments.model or zoo.DEFAULT
    weights = zoo.resolve(name)

    logging.getLogger("jax").setLevel(logging.ERROR)
    import mgdn_jax

    enable_compilation_cache()
    fuser = mgdn_jax.load(weights, system=arguments.system, trust=arguments.trust_system)
    # Of single files the exact size is as good.
    usual = FuseOptions(bucket=stream.BUCKET if batch else 0)
    wanted = {name: getattr(arguments, name) for name in FuseOptions.names()}
    options = fuser.resolve(usual, **wanted)
    fuser.plan(1, 1, options=options)  # wrong options, before work
    voice = _Voice(arguments, name, fuser)
    work = _Work(jobs, fuser, options, arguments, voice)
    done: list[dict[str, Any]] = []
    if batch:
        at_once = arguments.batch or stream.default_batch()
        outcomes = stream.run(
            len(jobs),
            work.load,
            work.fuse,
            work.store,
            batch=at_once,
            same_program=work.same_program,
        )
    else:
        assert pictures is not None
        outcomes = iter([(0, work.store(0, pictures, *work.fuse([pictures])))])
    for _, result in outcomes:
        if isinstance(result, InputError):
            problems.append(str(result))
        else:
            done.append(result)
            voice.result(result)
    voice.end(done, problems, time.perf_counter() - started)
    return 1 if problems else 0


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
    groups, missing = files.pair_folders(inputs)
    # Results are PNG whatever the inputs were: saving a fused JPEG as JPEG would lose twice.
    jobs = [_Job(sources, Path(output) / f"{stem}.png") for stem, sources in groups.items()]
    return jobs, missing, True


class _Work:
    """The three things done with each job; reading and writing may happen in threads."""

    def __init__(
        self,
        jobs: Sequence[_Job],
        fuser: Any,
        options: FuseOptions,
        arguments: argparse.Namespace,
        voice: _Voice,
    ):
        self._jobs, self._fuser, self._arguments, self._voice = jobs, fuser, arguments, voice
        self._options = options

    def same_program(self, pictures: Sequence[np.ndarray]) -> Any:
        """What pictures that are fused together have in common."""
        return self._fuser.same_program(pictures, options=self._options)

    def load(self, number: int) -> list[np.ndarray]:
        """Pictures of a job."""
        return self._jobs[number].load()

    def fuse(self, scenes: Sequence[Sequence[np.ndarray]]) -> list[_Timed]:
        """Results, each with its share of the time."""
        started = time.perf_counter()
        with self._voice.progress() as progress:
            fused = self._fuser.batch(scenes, options=self._options, progress=progress)
        seconds = (time.perf_counter() - started) / len(scenes)
        return [_Timed(pixels, seconds) for pixels in fused]

    def store(self, number: int, pictures: Sequence[np.ndarray], result: _Timed) -> dict[str, Any]:
        """Writes, scores; what happened, ready for JSON."""
        job, fused = self._jobs[number], result.pixels
        height, width = pictures[0].shape[:2]
        files.write_image(job.target, fused, quality=self._arguments.quality)
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
        if self._arguments.score:
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
      a: first source, as `files.load_pictures` gives it.
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

    def __init__(self, arguments: argparse.Namespace, model: str, fuser: Any):
        self._json, self._quiet = arguments.json, arguments.quiet
        self._talks = not (arguments.json or arguments.quiet)
        self._model = {
            "name": model,
            "system": fuser.system,
            "parameters": sum(int(leaf.size) for leaf in fuser.params.values()),
        }
        if self._talks:
            print(
                f"model   {model}: {fuser.system}, {self._model['parameters']:,} parameters",
                flush=True,
            )

    @contextlib.contextmanager
    def progress(self) -> Iterator[Callable[[int, int], None] | None]:
        """A progress function for people at a terminal; its line is wiped at the end."""
        if self._quiet or not sys.stderr.isatty():
            yield None
            return

        def show(done: int, total: int) -> None:
            sys.stderr.write(f"\r  tile {done} of {total} ")
            sys.stderr.flush()

        sys.stderr.write("\r  a new picture size takes a while longer ")
        sys.stderr.flush()
        try:
            yield show
        finally:
            sys.stderr.write("\r" + " " * 48 + "\r")

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
        """All pictures are done; failures are told last, where they are seen."""
        if self._json:
            content = {"model": self._model, "results": done, "failed": problems}
            print_json(content | {"seconds": round(seconds, 3)})
        elif self._talks and len(done) != 1:
            print(f"done    {len(done)} pictures in {seconds:.1f} s", flush=True)
        for problem in problems:
            print(f"mgdn: error: {problem}", file=sys.stderr)
