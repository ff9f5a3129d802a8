"""`mgdn fuse`: from file names to fused files and a report."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mgdn_jax.cli import jobs
from mgdn_jax.cli.settings import Settings
from mgdn_jax.cli.voice import Voice
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import sequences, stream, tasks, timing
from mgdn_jax.fusing.compile_cache import enable_compilation_cache
from mgdn_jax.fusing.fused import Fused
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.fusing.preparation import Prepared, Survey
from mgdn_jax.fusing.report import Report
from mgdn_jax.fusing.sources import Sources
from mgdn_jax.io import disk, files, kinds, medical
from mgdn_jax.io.pixels import without_alpha
from mgdn_jax.weights import zoo


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
    if settings.cluster is not None:
        from mgdn_jax.cli import cluster

        return cluster.fuse(settings)
    if any(kinds.is_video(name) for name in settings.inputs):
        from mgdn_jax.cli import video

        return video.fuse(settings, started)
    work = jobs.plan(settings.inputs, settings.output)
    looked = _check(settings, work)
    weights = zoo.resolve(settings.model)

    logging.getLogger("jax").setLevel(logging.ERROR)
    import mgdn_jax

    enable_compilation_cache()
    fuser = mgdn_jax.load(weights, system=settings.system, trust=settings.trust)
    tasks.check_pictures(fuser.card, fuser.config.in_channels)
    options = fuser.resolve(settings.options.otherwise(settings.usual(work.has_many)))
    fuser.plan(1, 1, options=options)  # wrong options, before work
    if work.has_many and settings.options.bucket is None:
        sizes = files.read_sizes(job.sources[0] for job in work.jobs)
        fuser = fuser.for_sizes(sizes, options=options)
    voice = Voice(
        fuser,
        settings.model,
        len(_wanted(work, settings)),
        work.rule,
        is_json=settings.is_json,
        is_quiet=settings.is_quiet,
    )
    done: list[dict[str, Any]] = []
    problems = list(work.problems)
    with voice.lines():
        if work.has_many:
            fuser, options = _settled(work, fuser, options, voice)
            work = dataclasses.replace(work, jobs=_wanted(work, settings))
        volume = _Volume(work.volume) if work.volume else None
        steps = _Work(work.jobs, fuser, options, settings, voice, volume)
        for result in _results(steps, looked):
            voice.count()
            if isinstance(result, InputError):
                problems.append(str(result))
            else:
                done.append(result)
                voice.result(result)
    if volume is not None:
        if problems:
            raise InputError(f"{work.volume} was not written: {problems[0]}")
        volume.write()
    voice.end(done, problems, time.perf_counter() - started)
    return 1 if problems else 0


def _check(settings: Settings, work: jobs.Work) -> tuple[Sources, Survey] | None:
    """Finds out before a network is loaded whether the request can be met.

    Returns:
      The sources of a single job, read: bad input is said at once.

    Raises:
      InputError: it cannot.
    """
    if settings.offset is not None:
        raise InputError("--offset is for videos; leave it out.")
    if settings.frames is not None and not (work.has_many and work.volume is None):
        raise InputError("--frames is for videos and folders of frames; leave it out.")
    _wanted(work, settings)
    if settings.has_scores and len(work.jobs[0].sources) != 2:
        raise InputError("--score compares a result with exactly two sources; leave it out.")
    for option, place in (
        ("depth-map", settings.depth_map),
        ("save-transforms", settings.transforms),
    ):
        if place is not None and work.has_many:
            raise InputError(
                f"--{option} writes one file, but the output is a folder; leave it out."
            )
    if settings.depth_map is not None:
        files.check_output(settings.depth_map)
    if settings.transforms is not None:
        if not (settings.options.align or settings.options.register or settings.task):
            raise InputError("--save-transforms needs --align or --register, which find them.")
        disk.check_links(settings.transforms)
        files.check_folder(Path(settings.transforms).parent, settings.transforms)
    if work.has_many:
        return None
    return work.jobs[0].look(settings.options)


def _wanted(work: jobs.Work, settings: Settings) -> list[jobs.Job]:
    """The jobs of the part that is asked for."""
    part = timing.stretch(settings.frames, len(work.jobs))
    return [work.jobs[number] for number in part]


def _settled(
    work: jobs.Work, fuser: Any, options: FuseOptions, voice: Voice
) -> tuple[Any, FuseOptions]:
    """Network and options of a folder, once what holds for all of its pictures is known."""
    report = Report()
    groups = [job.open(options.profile or "keep") for job in work.jobs]
    settled = sequences.settle(fuser, groups, options, report)
    voice.prepared(report)
    return settled


def _results(
    work: _Work, looked: tuple[Sources, Survey] | None
) -> Iterator[dict[str, Any] | InputError]:
    """What `_Work.store` returns for each job; sources of a single one were read already."""
    if looked is not None:
        prepared = work.jobs[0].prepare(work.fuser, work.options, looked)
        yield work.store(0, prepared, *work.fuse([prepared]))
        return
    results = stream.run(
        len(work.jobs),
        work.load,
        work.fuse,
        work.store,
        batch=work.settings.batch or stream.default_batch(),
        same_program=work.fuser.same_program,
        size=lambda scene: scene.pixels,
    )
    for _, result in results:
        yield result


@dataclasses.dataclass(frozen=True)
class _Work:
    """The three things done with each job; reading and writing may happen in threads."""

    jobs: Sequence[jobs.Job]
    fuser: Any
    options: FuseOptions
    settings: Settings
    voice: Voice
    volume: _Volume | None = None

    def load(self, number: int) -> Prepared:
        """Pictures of a job."""
        return self.jobs[number].prepare(self.fuser, self.options)

    def fuse(self, scenes: Sequence[Prepared]) -> list[_Timed]:
        """Results, each with its share of the time."""
        started = time.perf_counter()
        plans = (
            self.fuser.plan(*scene.shape, count=len(scene), options=self.options)
            for scene in scenes
        )
        sizes = {(plan.rows.size, plan.columns.size) for plan in plans}
        with self.voice.fusing(len(scenes), sizes) as tick:
            results = self.fuser.fuse_prepared(
                scenes, progress=tick, has_depth=self.settings.depth_map is not None
            )
        seconds = (time.perf_counter() - started) / len(scenes)
        return [_Timed(result, seconds) for result in results]

    def store(self, number: int, prepared: Prepared, timed: _Timed) -> dict[str, Any]:
        """Writes, scores; what happened, ready for JSON."""
        job, fused = self.jobs[number], timed.fused
        height, width = prepared.shape
        if self.volume is not None:
            self.volume.add(number, fused)
        else:
            fused.save(job.target, quality=self.settings.quality)
        report = {
            "inputs": [prepared.survey.names[i] for i in prepared.order]
            if job.page is not None
            else [str(source) for source in job.sources],
            "output": str(job.target),
            "width": width,
            "height": height,
            "dtype": str(fused.pixels.dtype),
            "tiles": self.fuser.plan(
                height, width, count=len(prepared), options=self.options
            ).tiles,
            "stretch": fused.stretch,
            "ensemble": self.options.ensemble,
            "seconds": round(timed.seconds, 3),
        }
        if self.settings.depth_map is not None:
            report["depth_map"] = _write_depth(self.settings.depth_map, fused)
        if self.settings.transforms is not None:
            prepared.write_transforms(self.settings.transforms)
            report["transforms"] = self.settings.transforms
        if self.settings.has_scores:
            report["scores"] = score(fused.pixels, prepared)
        return report | fused.report.content()


class _Volume:
    """Slices on their way into one file or folder."""

    def __init__(self, target: Path):
        self._target = target
        self._slices: dict[int, Fused] = {}

    def add(self, number: int, fused: Fused) -> None:
        """A slice is done."""
        self._slices[number] = fused

    def write(self) -> None:
        """All slices are done."""
        slices = [self._slices[number] for number in sorted(self._slices)]
        pixels, marks = [s.pixels for s in slices], [s.labels for s in slices]
        if self._target.name.lower().endswith(medical.VOLUMES):
            medical.write_volume(self._target, pixels, marks)
        else:
            medical.write_series(self._target, pixels, marks)


@dataclasses.dataclass(frozen=True)
class _Timed:
    fused: Fused
    seconds: float


def _write_depth(place: str, fused: Fused) -> str:
    """Writes the number of the sharpest picture at each pixel, from 0, as gray levels."""
    depth = fused.depth
    assert depth is not None
    files.write_image(place, depth.astype(np.uint8 if depth.max() < 256 else np.uint16))
    return place


def score(fused: np.ndarray, prepared: Prepared) -> dict[str, float]:
    """The standard quality figures of a fused picture.

    Args:
      fused: the result, as a `Fuser` gives it.
      prepared: its two sources.

    Returns:
      Name to value; NaN for a metric that needs a larger picture.
    """
    from mgdn_jax.evaluation.figures import figures

    if prepared.scale is not None:
        fused = prepared.scale.apply(without_alpha(fused))
    return figures(fused, prepared.picture(0), prepared.picture(1))
