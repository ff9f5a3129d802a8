"""`mgdn depth`: from a small depth map and a photograph to a depth map of full size."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import time
from pathlib import Path
from typing import Any

from mgdn_jax.cli.voice import Voice
from mgdn_jax.errors import InputError
from mgdn_jax.fusing.compile_cache import enable_compilation_cache
from mgdn_jax.io import depth as depth_files
from mgdn_jax.io import files


@dataclasses.dataclass(frozen=True)
class Settings:
    """The arguments of `mgdn depth`.

    Attributes:
      low: file of the small map.
      rgb: file of the photograph.
      output: file of the result.
      model: a bundled name or a weight file; None for the usual one.
      system: whose network a weight file holds, in place of the name in it.
      trust: whether a weight file's own module may run.
      unit: of the map's numbers; None as its file says.
      limits: of the result; None for those of the map.
      preview: picture to look at, or None.
      options: single fields of `FuseOptions` that were given.
      is_json: whether stdout is for one JSON object alone.
      is_quiet: whether errors alone are said.
    """

    low: str
    rgb: str
    output: str
    model: str | None
    system: str | None
    trust: bool
    unit: str | None
    limits: tuple[float, float] | None
    preview: str | None
    options: dict[str, Any]
    is_json: bool
    is_quiet: bool

    @classmethod
    def read(cls, arguments: argparse.Namespace) -> Settings:
        """The plain values of what `cli.main.build_parser` parsed.

        Raises:
          InputError: limits that are none.
        """
        values = vars(arguments)
        names = ("tile", "overlap", "tile_context", "ensemble")
        return cls(
            low=arguments.low,
            rgb=arguments.rgb,
            output=arguments.output,
            model=arguments.model,
            system=arguments.system,
            trust=arguments.trust_system,
            unit=arguments.unit,
            limits=_limits(arguments.limits),
            preview=arguments.preview,
            options={name: values[name] for name in names if values[name] is not None},
            is_json=arguments.json,
            is_quiet=arguments.quiet,
        )

    def check(self) -> None:
        """Finds out before the work whether the results can be written.

        Raises:
          InputError: they cannot, or would overwrite an input or each other.
        """
        depth_files.check_output(self.output)
        if self.preview is not None:
            if not self.preview.lower().endswith(".png"):
                raise InputError(f"--preview would write {self.preview}; name a .png file.")
            files.check_output(self.preview)
        places = [place for place in (self.output, self.preview) if place is not None]
        for place in places:
            for source in (self.low, self.rgb):
                if _is_same(place, source):
                    raise InputError(f"{place} is one of the inputs; name another output.")
        if len({os.path.realpath(place) for place in places}) < len(places):
            raise InputError(f"{self.output} is the result and the preview; name two files.")


def depth(arguments: argparse.Namespace) -> int:
    """Runs `mgdn depth`; bad input is said before a network is loaded.

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
    low = depth_files.read_depth(settings.low, settings.unit)
    photograph = files.read_picture(settings.rgb)
    size = photograph.pixels.shape[:2]

    logging.getLogger("jax").setLevel(logging.ERROR)
    from mgdn_jax.fusing import depth as upsampling

    upsampling.check(low, size)
    enable_compilation_cache()
    model = settings.model or upsampling.usual(low.values.shape, size)
    upsampler = upsampling.DepthUpsampler.load(model, system=settings.system, trust=settings.trust)
    upsampler.options(**settings.options)
    voice = Voice(
        upsampler.fuser, model, 1, "", is_json=settings.is_json, is_quiet=settings.is_quiet
    )
    with voice.lines(), voice.fusing(1, {size}) as tick:
        result = upsampler(
            low, photograph, limits=settings.limits, progress=tick, **settings.options
        )
    seconds = time.perf_counter() - started
    stored = result.save(settings.output)
    written = {"output": settings.output}
    if settings.preview is not None:
        result.save_preview(settings.preview)
        written["preview"] = settings.preview
    height, width = result.depth.shape
    content = {
        "inputs": [settings.low, settings.rgb],
        **written,
        "width": width,
        "height": height,
        "dtype": "float32",
        "unit": stored.unit,
        "missing": int(result.missing.sum()),
        "tiles": result.tiles,
        "stretch": "none",
        "ensemble": upsampler.options(**settings.options).ensemble,
        "seconds": round(seconds, 3),
    }
    content |= result.report.content()
    voice.result(content)
    voice.end([content], [], time.perf_counter() - started)
    return 0


def _limits(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(word) for word in text.split(","))
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise InputError(f"--limits is {text!r}; write LO,HI with LO < HI.")
    return low, high


def _is_same(place: str, source: str) -> bool:
    return Path(place).exists() and Path(source).exists() and os.path.samefile(place, source)
