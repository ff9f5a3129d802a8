"""`mgdn hdr`: from exposures to a file of radiance, a picture for the screen, and a report."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import re
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from mgdn_jax.arguments import shown
from mgdn_jax.cli.output import tell
from mgdn_jax.cli.voice import Voice
from mgdn_jax.errors import InputError
from mgdn_jax.fusing.compile_cache import enable_compilation_cache
from mgdn_jax.fusing.report import Report
from mgdn_jax.io import files

_NUMBER = re.compile(r"[-+]?[0-9.]{1,40}(/[0-9]{1,40}|[eE][-+]?[0-9]{1,3})?")
OPTIONS = ("tile", "overlap", "tile_context", "ensemble")
"""Options of `FuseOptions` that the command takes."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The arguments of `mgdn hdr`.

    Attributes:
        inputs: files, in any order.
        output: the file of radiance.
        preview: the picture for the screen; None writes none.
        model: a bundled name or a weight file; None is the bundled network.
        times: exposure times in seconds, in the order of the files; None is not said.
        ev: steps of factors of two, likewise.
        choices: further arguments of `Deghoster.merge`.
        options: how the network goes over the picture, of `OPTIONS`.
        half: whether ".exr" holds 16 bits a value.
        system: whose network a weight file holds, in place of the name in it.
        trust: whether code from outside may run that a weight file names.
        is_json: whether stdout is for one JSON object alone.
        is_quiet: whether errors alone are said.
    """

    inputs: tuple[str, ...]
    output: str
    preview: str | None
    model: str | None
    times: tuple[float, ...] | None
    ev: tuple[float, ...] | None
    choices: dict[str, Any]
    options: dict[str, Any]
    half: bool
    system: str | None
    trust: bool
    is_json: bool
    is_quiet: bool

    @classmethod
    def read(cls, arguments: argparse.Namespace) -> Settings:
        """The plain values of what `cli.main.build_parser` parsed.

        Raises:
            InputError: options that do not go together, or a word that is no number.
        """
        if arguments.times is not None and arguments.ev is not None:
            raise InputError("--times and --ev say the same in two ways; give one of them.")
        if arguments.published_tiles and arguments.tile is not None:
            raise InputError("--tile and --published-tiles are two ways; choose one of them.")
        choices = {
            "gamma": arguments.gamma,
            "curve": arguments.curve,
            "scale": arguments.scale,
            "align": arguments.align,
            "checks": not arguments.no_checks,
            "published_tiles": arguments.published_tiles,
        }
        options = {name: vars(arguments)[name] for name in OPTIONS}
        return cls(
            inputs=tuple(arguments.inputs),
            output=arguments.output,
            preview=arguments.preview,
            model=arguments.model,
            times=_numbers(arguments.times, "--times"),
            ev=_numbers(arguments.ev, "--ev"),
            choices=choices,
            options=options,
            half=arguments.half,
            system=arguments.system,
            trust=arguments.trust_system,
            is_json=arguments.json,
            is_quiet=arguments.quiet,
        )

    def check(self) -> None:
        """Finds out before the work whether the results can be written.

        Raises:
            InputError: they cannot.
        """
        from mgdn_jax.fusing.radiance import check_place

        check_place(self.output, half=self.half)
        places = [self.output]
        if self.preview is not None:
            files.check_output(self.preview)
            if self.preview.lower().endswith(tuple(files.LIGHT)):
                raise InputError(
                    f"{self.preview} holds radiance, but a preview is for the screen; choose .png."
                )
            places.append(self.preview)
        for place in places:
            others = [*self.inputs, *(other for other in places if other is not place)]
            if any(_is_same(place, other) for other in others):
                raise InputError(f"{place} is named twice; name another output.")


def hdr(arguments: argparse.Namespace) -> int:
    """Runs `mgdn hdr`; bad input is said before a network is loaded.

    Args:
        arguments: as `cli.main.build_parser` parses them.

    Returns:
        0.

    Raises:
        InputError: nothing could be done, and nothing was written.
    """
    started = time.perf_counter()
    settings = Settings.read(arguments)
    settings.check()
    logging.getLogger("jax").setLevel(logging.ERROR)
    from mgdn_jax.fusing import deghosting

    sources = deghosting.opened(settings.inputs)
    deghosting.look(sources, Report(), times=settings.times, ev=settings.ev)  # before a network
    model = settings.model or deghosting.DEFAULT
    enable_compilation_cache()
    deghoster = deghosting.Deghoster(model, system=settings.system, trust=settings.trust)
    voice = Voice(
        deghoster.fuser, model, 1, "", is_json=settings.is_json, is_quiet=settings.is_quiet
    )
    with voice.lines():
        sizes = {files.read_size(settings.inputs[0]) or (0, 0)}
        with voice.fusing(1, sizes) as tick:
            merged = deghoster.merge(
                sources,
                times=settings.times,
                ev=settings.ev,
                progress=tick,
                **settings.choices,
                **settings.options,
            )
        preview = merged.preview(deghoster.preparation.mu) if settings.preview else None
        merged.save(settings.output, half=settings.half)
        if preview is not None:
            files.write_image(str(settings.preview), preview)
        seconds = time.perf_counter() - started
        done = _content(settings, merged, deghoster, seconds)
        voice.result(done)
    if settings.preview and not (settings.is_json or settings.is_quiet):
        tell(f"preview {settings.preview}")
    voice.end([done], [], seconds)
    return 0


def _content(settings: Settings, merged: Any, deghoster: Any, seconds: float) -> dict[str, Any]:
    """What happened, ready for JSON."""
    from mgdn_jax.fusing import deghosting

    height, width, _ = merged.radiance.shape
    tiles = deghoster.fuser.plan(height, width, **settings.options).tiles
    if settings.choices["published_tiles"]:
        tiles = math.prod(-(-n // deghosting.PUBLISHED_TILE) for n in (height, width))
    return {
        "inputs": [settings.inputs[i] for i in dict.fromkeys(merged.inputs)],
        "output": settings.output,
        "preview": settings.preview,
        "width": width,
        "height": height,
        "dtype": "float16" if settings.half else "float32",
        "tiles": tiles,
        "stretch": "none",
        "ensemble": settings.options["ensemble"] or "none",
        "reference": settings.inputs[merged.reference],
        "times": dict(zip(settings.inputs, merged.times, strict=True)),
        "scale": merged.scale,
        "seconds": round(seconds, 3),
    } | merged.report.content()


def _numbers(words: Sequence[str] | None, option: str) -> tuple[float, ...] | None:
    """Numbers with commas or spaces between; 1/60 is one as well.

    Raises:
        InputError: a word that is none.
    """
    if words is None:
        return None
    numbers = []
    for word in " ".join(words).replace(",", " ").split():
        try:
            # A fraction is exact: an exponent of nine digits would be worked out for hours.
            number = float(Fraction(word)) if _NUMBER.fullmatch(word) else math.nan
        except (ValueError, ZeroDivisionError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise InputError(
                f"{option} has {shown(word)}, which is no number; write 1/60 or 0.0167."
            )
        numbers.append(number)
    return tuple(numbers)


def _is_same(place: str, other: str) -> bool:
    """Whether two names are those of one file."""
    first, second = Path(place), Path(other)
    if first.exists() and second.exists():
        return first.samefile(second)
    return first.absolute() == second.absolute()
