"""Exposures of a scene in which things move, merged into its linear radiance (HDR deghosting).

Files or arrays are read, ordered and laid on each other; the network gets the prepared forms of
`quantities.radiance`, in tiles where the picture is large; what comes out is light.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import numpy as np

from mgdn_jax import arguments, image
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import shutter, tasks
from mgdn_jax.fusing.exposures import (
    Exposure,
    Input,
    Tone,
    check_places,
    check_sizes,
    check_values,
    laid,
    shot_of,
    tone_of,
)
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.fusing.jobs import Progress, Ticks
from mgdn_jax.fusing.loading import load
from mgdn_jax.fusing.options import USUAL, FuseOptions
from mgdn_jax.fusing.radiance import MergedExposures
from mgdn_jax.fusing.report import Report
from mgdn_jax.fusing.sources import Sources
from mgdn_jax.quantities import radiance as light
from mgdn_jax.quantities.radiance import RadiancePreparation
from mgdn_jax.weights import zoo

DEFAULT = "mgdn-hdr"
"""The bundled network."""
PUBLISHED_TILE = 500
"""Side of the tiles of the published recipe, which know nothing of each other."""

_FRAME = FuseOptions(area="full").otherwise(USUAL)


class Deghoster:
    """A network that merges exposures into radiance, ready for pictures of any size.

    Attributes:
        fuser: the network with its weights.
        preparation: how exposures become its inputs, as its card says.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | Fuser = DEFAULT,
        *,
        system: str | None = None,
        trust: bool | str | Collection[str] = False,
    ):
        """Loads the network.

        Args:
            weights: a bundled name, a weight file, or what `load` made of one.
            system: as of `load`.
            trust: as of `load`.

        Raises:
            InputError: as `load`, or the network does not merge exposures.
        """
        if isinstance(weights, Fuser):
            self.fuser = weights
        else:
            if os.fspath(weights) == DEFAULT and DEFAULT not in zoo.bundled():
                raise InputError(
                    f"the network {DEFAULT} did not come with this installation; train it with "
                    "`mgdn train --config configs/mgdn.py:hdr_cpu` and name its weight file "
                    "(--model)."
                )
            self.fuser = load(weights, system=system, trust=trust)
        config = self.fuser.config
        tasks.check_radiance(self.fuser.card, config.in_channels)
        if config.out_channels != 3:
            raise InputError(
                f"this network makes {config.out_channels} channels, not the radiance of 3; choose "
                "other weights."
            )
        fields = self.fuser.card.get("preparation")
        self.preparation = (
            RadiancePreparation.from_dict(fields) if fields else RadiancePreparation()
        )

    def __repr__(self) -> str:
        return f"Deghoster({self.fuser!r})"

    def predict(
        self,
        exposures: Sequence[np.ndarray],
        times: Sequence[float],
        *,
        published_tiles: bool = False,
        progress: Progress | None = None,
        **options: Any,
    ) -> np.ndarray:
        """What the network makes of exposures that lie on each other.

        Args:
            exposures: as many as the network takes, (H, W, 3) float32 in [0, 1], from the shortest
                to the longest; the middle one is the reference.
            times: of each, relative to the shortest, whose time is 1.
            published_tiles: whether the picture is cut into tiles of 500 x 500 pixels that know
                nothing of each other, as the published recipe does; seams may show.
            progress: called as (tiles done, tiles in all).
            **options: those of `FuseOptions` about tiles and padding, and ``ensemble``.

        Returns:
            (H, W, 3) float32, linear radiance; 1 is what just saturates the shortest exposure.

        Raises:
            InputError: another number of exposures or times, shapes that differ, or an option
                that does not fit.
        """
        self._check_count(len(exposures))
        exposures = [arguments.array("an exposure", x) for x in exposures]
        if len({np.shape(x) for x in exposures}) > 1 or np.shape(exposures[0])[2:] != (3,):
            said = ", ".join(str(np.shape(x)) for x in exposures)
            raise InputError(f"exposures must have one shape (height, width, 3), not {said}.")
        if len(times) != len(exposures):
            raise InputError(f"{len(times)} times were given for {len(exposures)} exposures.")
        # Only what is in a tile is prepared, so the least time is checked here.
        light.inputs([x[:1, :1] for x in exposures], times, self.preparation.gamma)
        inputs = [
            Input(x, float(time), self.preparation)
            for x, time in zip(exposures, times, strict=True)
        ]
        return self._run(inputs, published_tiles, progress, options)

    def in_use(
        self, align: bool | str = "shift"
    ) -> Callable[[Sequence[np.ndarray], Sequence[float]], np.ndarray]:
        """What tables measure: `merge` as a callable of exposures and times.

        Args:
            align: as of `merge`.

        Returns:
            A callable that takes what `predict` takes, and returns what it returns, in the frame of
            the middle exposure.
        """

        def merged(exposures: Sequence[np.ndarray], times: Sequence[float]) -> np.ndarray:
            result = self.merge(exposures, times=times, align=align)
            result.report.raise_warnings()
            return result.radiance

        return merged

    def __call__(self, sources: Sequence[Any], **choices: Any) -> MergedExposures:
        """Merges the exposures of one scene.

        Args:
            sources: two or more paths or arrays, (H, W) or (H, W, C), of one size, in any order;
                uint8, uint16 or floats in [0, 1].
            **choices: as of `merge`.

        Returns:
            The radiance with all that was done and noticed; warnings are Python's as well.

        Raises:
            InputError: as `merge`.
        """
        merged = self.merge(sources, **choices)
        merged.report.raise_warnings()
        return merged

    def merge(
        self,
        sources: Sequence[Any] | Sources,
        *,
        times: Sequence[float] | None = None,
        ev: Sequence[float] | None = None,
        gamma: float | None = None,
        curve: str = "power",
        scale: float = 1.0,
        align: bool | str = "shift",
        align_model: str = "auto",
        checks: bool = True,
        published_tiles: bool = False,
        progress: Progress | None = None,
        **options: Any,
    ) -> MergedExposures:
        """As a call, but without Python's warnings.

        Args:
            sources: as of a call.
            times: exposure times in seconds, in the order of the sources; None takes them from the
                files' EXIF, with ISO and aperture.
            ev: in place of times, steps of factors of two: ``(-2, 0, 2)``.
            gamma: the power that turns the pixels into light; None is the network's.
            curve: of `exposures.CURVES`; ``"srgb"`` for that curve in place of a power.
            scale: what the radiance is multiplied by.
            align: how the movement of the camera is undone: ``"shift"`` lays the others onto the
                reference by shifts, where most of the picture agrees on them; True by turn and
                growth as well (extra `align`); False not at all.
            align_model: what True may do, of `fusing.options.MODELS`.
            checks: whether shifts and other doubtful things are looked for; without them
                ``"shift"`` does nothing.
            published_tiles: as of `predict`.
            progress: as of `predict`.
            **options: as of `predict`.

        Returns:
            The radiance, in the frame of the reference.

        Raises:
            InputError: pictures that cannot be read or do not go together, unknown times, or
                options that do not fit.
        """
        sources = sources if isinstance(sources, Sources) else opened(sources)
        if not (isinstance(align, bool) or align == "shift"):
            raise InputError(
                f"align is {arguments.shown(align)}; choose one of 'shift', True, False."
            )
        scale = arguments.real("scale", scale, above=0, most=1e30)
        checks = arguments.flag("checks", checks)
        published_tiles = arguments.flag("published_tiles", published_tiles)
        tone = tone_of(curve, gamma, self.preparation.gamma)
        self.fuser.plan(1, 1, options=self._options(options))  # wrong options, before work
        report = Report()
        names = [sources.name(index) for index in range(len(sources))]
        choice = look(sources, report, times=times, ev=ev)
        self._check_count(len(choice.inputs))
        frame = dataclasses.replace(_FRAME, align=align is True, align_model=align_model)
        is_shifted = checks and align == "shift"
        exposures = laid(sources, choice, frame, report, is_shifted=is_shifted)
        if checks:
            check_places(exposures, names, align is True, report)
            check_values(exposures, names, choice.times, tone, self.preparation.gamma, report)
        inputs = self._inputs(exposures, choice, tone)
        values = self._run(inputs, published_tiles, progress, options)
        np.maximum(values, 0, out=values)
        if all(exposures[index].pixels.shape[-1] == 1 for index in choice.inputs):
            values[...] = np.asarray(
                image.luminance(values)
            )  # the network has its own idea of gray
            report.note("gray", "the exposures are gray, and so is the radiance.")
        if scale != 1:
            values *= np.float32(scale)
        shortest = names[choice.inputs[0]]
        report.note(
            "scale", f"radiance {scale:g} is what just saturates {shortest}.", radiance=scale,
            source=shortest,
        )  # fmt: skip
        return MergedExposures(values, choice.reference, choice.inputs, choice.times, scale, report)

    def _inputs(
        self, exposures: dict[int, Exposure], choice: shutter.Choice, tone: Tone | None
    ) -> list[Input]:
        """What the network gets; an exposure may come twice."""
        reference = exposures[choice.reference], choice.times[choice.reference]
        return [
            Input(
                exposures[index].pixels,
                choice.times[index],
                self.preparation,
                tone,
                mask=exposures[index].mask,
                reference=(reference[0].pixels, reference[1]),
            )
            for index in choice.inputs
        ]

    def _options(self, options: dict[str, Any]) -> FuseOptions:
        return self.fuser.resolve(**options)

    def _run(
        self,
        inputs: Sequence[Input],
        published_tiles: bool,
        progress: Progress | None,
        options: dict[str, Any],
    ) -> np.ndarray:
        if not published_tiles:
            arrays = cast("list[np.ndarray]", inputs)
            return self.fuser.network_in_tiles(*arrays, progress=progress, **options)
        height, width = inputs[0].shape[:2]
        corners = [
            (top, left)
            for top in range(0, height, PUBLISHED_TILE)
            for left in range(0, width, PUBLISHED_TILE)
        ]
        ticks = Ticks(progress, len(corners))
        out = np.empty((height, width, 3), np.float32)
        for top, left in corners:
            part = np.s_[top : top + PUBLISHED_TILE, left : left + PUBLISHED_TILE]
            out[part] = self.fuser.network(*(x.values(part)[None] for x in inputs))[0]
            ticks.tick()
        return out

    def _check_count(self, count: int) -> None:
        wanted = len(self.fuser.config.in_channels)
        if count != wanted:
            raise InputError(f"the network takes {wanted} exposures, but there are {count}.")


def opened(sources: Sequence[Any]) -> Sources:
    """Exposures as they are merged: paths or arrays, whose colours become those of sRGB."""
    return Sources(sources, profile="sRGB")


def look(
    sources: Sources,
    report: Report,
    *,
    times: Sequence[float] | None = None,
    ev: Sequence[float] | None = None,
) -> shutter.Choice:
    """Looks at exposures, one after the other; no network is needed.

    Args:
        sources: as `opened`.
        report: takes what is said of them.
        times: as of `Deghoster.merge`.
        ev: as of `Deghoster.merge`.

    Returns:
        Which of them a network gets.

    Raises:
        InputError: they cannot be merged.
    """
    names = [sources.name(index) for index in range(len(sources))]
    shutter.check_counts(len(names), times, ev)
    shots, sizes = [], []
    for index in range(len(names)):  # one picture is held at a time
        picture = sources[index]
        shots.append(shot_of(picture, report))
        sizes.append(picture.pixels.shape[:2])
    if len(names) < 2:
        raise InputError("give two or more exposures of one scene.")
    check_sizes(names, sizes)
    taken = shutter.light(names, shots, report, times=times, ev=ev)
    return shutter.choose(names, taken, report)


def merge_exposures(
    sources: Sequence[Any],
    times: Sequence[float] | None = None,
    ev: Sequence[float] | None = None,
    *,
    model: str | os.PathLike[str] | Fuser = DEFAULT,
    **choices: Any,
) -> MergedExposures:
    """Merges exposures of a scene, in which things may move, into its linear radiance.

    Args:
        sources: two or more paths or arrays of one size, in any order; uint8, uint16 or floats in
            [0, 1].
        times: exposure times in seconds, in the order of the sources; None takes them from EXIF.
        ev: in place of times, steps of factors of two.
        model: a bundled name, a weight file, or what `load` made of one.
        **choices: as of `Deghoster.merge`.

    Returns:
        The radiance with all that was done and noticed; warnings are Python's as well.

    Raises:
        InputError: as `Deghoster`.
    """
    merged = Deghoster(model).merge(sources, times=times, ev=ev, **choices)
    merged.report.raise_warnings()
    return merged
