"""`mgdn fuse` on videos, and `mgdn join`."""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Sequence
from typing import Any

from mgdn_jax.cli.output import print_json, tell
from mgdn_jax.cli.settings import Settings
from mgdn_jax.cli.voice import Voice
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import tasks
from mgdn_jax.fusing.compile_cache import enable_compilation_cache
from mgdn_jax.fusing.fused import Fused
from mgdn_jax.fusing.preparation import Prepared
from mgdn_jax.fusing.videos import Film, Footage, Production
from mgdn_jax.io import guard, kinds
from mgdn_jax.weights import zoo


def fuse(settings: Settings, started: float) -> int:
    """Fuses videos into a video.

    Args:
        settings: of the command.
        started: when it began, by `time.perf_counter`.

    Returns:
        0.

    Raises:
        InputError: nothing could be done, and nothing was written.
    """
    _check(settings)
    weights = zoo.resolve(settings.model)
    with Footage(settings.inputs, settings.offset) as footage:
        production = Production(
            footage, settings.output, frames=settings.frames, quality=settings.quality
        )
        logging.getLogger("jax").setLevel(logging.ERROR)
        import mgdn_jax

        enable_compilation_cache()
        fuser = mgdn_jax.load(weights, system=settings.system, trust=settings.trust)
        tasks.check_pictures(fuser.card, fuser.config.in_channels)
        options = fuser.resolve(settings.options.otherwise(settings.usual(True)))
        fuser.plan(1, 1, options=options)  # wrong options, before work
        voice = Voice(
            fuser,
            settings.model,
            len(production.wanted),
            "",
            is_json=settings.is_json,
            is_quiet=settings.is_quiet,
            things="frames",
        )
        with voice.lines():
            with voice.stage("looking at the frames"):
                production.settle(fuser, options)
            voice.footage(production.report)
            film = production.run(voice.count, fuse=_fuse(production, voice), batch=settings.batch)
        result = _result(settings, production, film)
    voice.film(result)
    voice.end([result], [], time.perf_counter() - started)
    return 0


def _check(settings: Settings) -> None:
    """Refuses what makes no sense for videos.

    Raises:
        InputError: pictures among the videos, or an option for pictures.
    """
    for name in settings.inputs:
        if not kinds.is_video(name):
            raise InputError(
                f"{name} is no video, but others are; give videos alone, or pictures alone."
            )
    for option, is_there in (
        ("--score", settings.has_scores),
        ("--depth-map", settings.depth_map is not None),
        ("--save-transforms", settings.transforms is not None),
    ):
        if is_there:
            raise InputError(f"{option} is for pictures; leave it out with videos.")


def _fuse(production: Production, voice: Voice) -> Any:
    """The network, with a word where it is compiled."""
    fuser = production.fuser

    def run(scenes: Sequence[Prepared]) -> Sequence[Fused]:
        plan = fuser.plan(*scenes[0].shape, count=len(scenes[0]), options=scenes[0].options)
        with voice.fusing(len(scenes), {(plan.rows.size, plan.columns.size)}) as tick:
            return fuser.fuse_prepared(scenes, progress=tick)

    return run


def _result(settings: Settings, production: Production, film: Film) -> dict[str, Any]:
    """What happened, ready for JSON."""
    height, width = film.size
    options = production.template.options
    plan = production.fuser.plan(height, width, count=len(settings.inputs), options=options)
    return {
        "inputs": [os.fspath(name) for name in settings.inputs],
        "output": settings.output,
        "width": width,
        "height": height,
        "dtype": film.dtype,
        "coder": film.coder,
        "first": film.first,
        "frames": film.frames,
        "total": film.total,
        "tiles": plan.tiles,
        "stretch": film.stretch,
        "ensemble": options.ensemble,
        "seconds": round(film.seconds, 3),
        "frames_per_second": round(film.rate, 4),
        **film.report.content(),
    }


def join(arguments: argparse.Namespace) -> int:
    """Runs `mgdn join`.

    Args:
        arguments: as `cli.main.build_parser` parses them.

    Returns:
        0.

    Raises:
        InputError: parts that do not go together, or a place that cannot be written.
    """
    try:
        from mgdn_jax.io import video_joining
    except ImportError as error:
        raise guard.extra(arguments.parts[0], "a video", "video", error) from None
    video_joining.join(arguments.parts, arguments.output)
    if arguments.json:
        print_json({"inputs": arguments.parts, "output": arguments.output})
    else:
        tell(f"joined  {' + '.join(arguments.parts)}")
        tell(f"result  {arguments.output}")
    return 0
