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

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import cells, looks, masks, shutter, tasks
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.fusing.geometry import Placing, place
from mgdn_jax.fusing.jobs import Progress, Ticks
from mgdn_jax.fusing.loading import load
from mgdn_jax.fusing.options import USUAL, FuseOptions
from mgdn_jax.fusing.radiance import MergedExposures
from mgdn_jax.fusing.report import Report
from mgdn_jax.fusing.sources import Sources
from mgdn_jax.io import metadata
from mgdn_jax.io.pictures import Picture
from mgdn_jax.io.pixels import to_float, without_alpha
from mgdn_jax.quantities import radiance as light
from mgdn_jax.quantities.radiance import RadiancePreparation
from mgdn_jax.weights import zoo

DEFAULT = "mgdn-hdr"
"""The bundled network."""
CURVES = ("power", "srgb")
"""How cameras turn light into pixels: a power, or the curve of sRGB."""
PUBLISHED_TILE = 500
"""Side of the tiles of the published recipe, which know nothing of each other."""

_CUT_OFF = 0.97  # of full scale
_TOO_MUCH = 0.02  # share of the shortest exposure that may be cut off without a warning
_OTHERWISE = 1.0  # stops; camera curves are no exact powers
_CELLS_NEEDED = 50
_FRAME = FuseOptions(area="full").otherwise(USUAL)

Tone = Callable[[np.ndarray], np.ndarray]


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
        if len({np.shape(x) for x in exposures}) > 1 or np.shape(exposures[0])[2:] != (3,):
            said = ", ".join(str(np.shape(x)) for x in exposures)
            raise InputError(f"exposures must have one shape (height, width, 3), not {said}.")
        if len(times) != len(exposures):
            raise InputError(f"{len(times)} times were given for {len(exposures)} exposures.")
        # Only what is in a tile is prepared, so the least time is checked here.
        light.inputs([x[:1, :1] for x in exposures], times, self.preparation.gamma)
        inputs = [
            _Input(x, float(time), self.preparation)
            for x, time in zip(exposures, times, strict=True)
        ]
        return self._run(inputs, published_tiles, progress, options)

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
        align: bool = False,
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
            curve: of `CURVES`; ``"srgb"`` for pictures of that curve, in place of a power.
            scale: what the radiance is multiplied by.
            align: whether the movement of the camera is undone: the others are laid onto the
                reference (extra `align`).
            align_model: what alignment may do, of `fusing.options.MODELS`.
            checks: whether shifts and other doubtful things are looked for.
            published_tiles: as of `predict`.
            progress: as of `predict`.
            **options: as of `predict`.

        Returns:
            The radiance, in the frame of the reference.

        Raises:
            InputError: pictures that cannot be read or do not go together, unknown times, or
                options that do not fit.
        """
        if not isinstance(sources, Sources):
            sources = Sources(sources, profile="sRGB")
        if len(sources) < 2:
            raise InputError("give two or more exposures of one scene.")
        if not 0 < scale < np.inf:
            raise InputError(f"scale is {scale}, but must be above zero.")
        tone = _tone(curve, gamma, self.preparation.gamma)
        self.fuser.plan(1, 1, options=self._options(options))  # wrong options, before work
        report = Report()
        names = [sources.name(index) for index in range(len(sources))]
        shots = [_shot(sources[index], report) for index in range(len(sources))]
        _check_sizes([sources[index] for index in range(len(sources))])
        taken = shutter.light(names, shots, report, times=times, ev=ev)
        choice = shutter.choose(names, taken, report)
        self._check_count(len(choice.inputs))
        frame = dataclasses.replace(_FRAME, align=align, align_model=align_model)
        scene = _Scene(sources, choice, frame, report)
        if checks:
            scene.check(report)
        exposures = scene.exposures()
        if checks:
            _check_values(exposures, scene.names, scene.times, tone, report)
        inputs = self._inputs(exposures, choice, tone)
        values = self._run(inputs, published_tiles, progress, options)
        np.maximum(values, 0, out=values)
        if scale != 1:
            values *= np.float32(scale)
        shortest = names[choice.inputs[0]]
        report.note(
            "scale", f"radiance {scale:g} is what just saturates {shortest}.", radiance=scale,
            source=shortest,
        )  # fmt: skip
        return MergedExposures(values, choice.reference, choice.inputs, choice.times, scale, report)

    def _inputs(
        self, exposures: dict[int, _Exposure], choice: shutter.Choice, tone: Tone | None
    ) -> list[_Input]:
        """What the network gets; an exposure may come twice."""
        reference = exposures[choice.reference], choice.times[choice.reference]
        return [
            _Input(
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
        inputs: Sequence[_Input],
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


# ------------------------------------------------------------------------------------- inputs


@dataclasses.dataclass(frozen=True)
class _Input:
    """One exposure as the network takes it, made of those pixels alone that are asked for.

    It stands in for an array of (H, W, 6) wherever tiles are cut from one.

    Attributes:
        pixels: (H, W, 1 or 3), uint8, uint16 or floats in [0, 1].
        time: relative to the shortest exposure.
        preparation: of the network.
        tone: brings floats to the network's camera curve; None where they have it.
        mask: (H, W) bool, true where the exposure is there; None is everywhere.
        reference: pixels and time of the exposure that stands in where this one is not.
    """

    pixels: np.ndarray
    time: float
    preparation: RadiancePreparation
    tone: Tone | None = None
    mask: np.ndarray | None = None
    reference: tuple[np.ndarray, float] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the array."""
        return self.pixels.shape[0], self.pixels.shape[1], 6

    def __getitem__(self, key: Any) -> Any:
        """The values at indices; of slices, which turn or mirror a picture, another such view."""
        if not isinstance(key[0], slice):
            return self.values(key)
        reference = self.reference and (self.reference[0][key], self.reference[1])
        mask = None if self.mask is None else self.mask[key]
        return dataclasses.replace(self, pixels=self.pixels[key], mask=mask, reference=reference)

    def values(self, key: Any) -> np.ndarray:
        """(h, w, 6) float32."""
        ldr = self._toned(self.pixels[key])
        if self.mask is not None and self.reference is not None:
            gap = ~self.mask[key]
            if gap.any():
                gamma = self.preparation.gamma
                pixels, time = self.reference
                shown = light.linear(self._toned(pixels[key][gap]), time, gamma)
                ldr[gap] = light.developed(shown, self.time, gamma)
        ldr = np.clip(ldr, 0, 1)
        shone = light.linear(ldr, self.time, self.preparation.gamma)
        return np.concatenate([ldr, shone], -1, dtype=np.float32)

    def _toned(self, pixels: np.ndarray) -> np.ndarray:
        """Float32 of the network's curve, a copy, three channels."""
        values = to_float(pixels)
        values = values.copy() if self.tone is None else self.tone(values)
        return values if values.shape[-1] == 3 else np.repeat(values, 3, -1)


def _tone(curve: str, gamma: float | None, wanted: float) -> Tone | None:
    """What brings pixels of a camera's curve to the power that a network was trained with.

    Args:
        curve: of `CURVES`.
        gamma: of the camera; None is the network's.
        wanted: the network's power.

    Raises:
        InputError: no such curve, or a gamma that does not go with it.
    """
    if curve not in CURVES:
        raise InputError(f"curve is {curve!r}; choose one of {', '.join(CURVES)}.")
    if curve == "srgb":
        if gamma is not None:
            raise InputError("--gamma and --curve srgb say different things; give one of them.")

        def from_srgb(values: np.ndarray) -> np.ndarray:
            linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
            return np.asarray(linear ** (1 / wanted), np.float32)

        return from_srgb
    power = RadiancePreparation(gamma=wanted if gamma is None else gamma).gamma
    if power == wanted:
        return None
    return lambda values: np.asarray(values ** np.float32(power / wanted), np.float32)


# -------------------------------------------------------------------------------------- scene


@dataclasses.dataclass(frozen=True)
class _Exposure:
    """One exposure in the frame of the reference: (H, W, 1 or 3), and where it is there."""

    pixels: np.ndarray
    mask: np.ndarray | None


class _Scene:
    """The exposures that are used, from the shortest to the longest, laid on the reference."""

    def __init__(
        self, sources: Sources, choice: shutter.Choice, options: FuseOptions, report: Report
    ):
        self._sources, self._choice = sources, choice
        self._is_aligned = bool(options.align)
        self.names = [sources.name(index) for index in choice.sources]
        self.times = [choice.times[index] for index in choice.sources]
        sizes = [sources[index].pixels.shape[:2] for index in choice.sources]
        self._placing: Placing = place(
            lambda number: without_alpha(sources[choice.sources[number]].pixels),
            self.names,
            sizes,
            options,
            report,
            anchor=choice.sources.index(choice.reference),
        )

    def check(self, report: Report) -> None:
        """Warns of a camera that moved, and of pictures that are no exposures of one scene."""
        looks.check(
            lambda number: self._placed(number).pixels,
            lambda number: self._placed(number).mask,
            self.names,
            tasks.TASKS["exposure"],
            report,
            is_placed=self._is_aligned,
            is_matched=True,
        )

    def exposures(self) -> dict[int, _Exposure]:
        """All of them, by the index of the source."""
        return {index: self._placed(k) for k, index in enumerate(self._choice.sources)}

    def _placed(self, number: int) -> _Exposure:
        pixels = self._sources[self._choice.sources[number]].pixels
        alpha = masks.of_alpha(pixels)
        placed, mask = self._placing.place(number, without_alpha(pixels))
        if alpha is not None:
            there, _ = self._placing.place(number, alpha[..., None].astype(np.uint8) * 255)
            seen = there[..., 0] == 255
            mask = seen if mask is None else mask & seen
        return _Exposure(placed, mask)


def _shot(picture: Picture, report: Report) -> metadata.Shot:
    """How a picture was taken, once it is clear that it can be an exposure.

    Raises:
        InputError: it cannot.
    """
    report.warn(*picture.remarks)
    pixels = picture.pixels
    if pixels.dtype.kind == "f":
        low, high = float(pixels.min()), float(pixels.max())
        if low < 0 or high > 1:
            raise InputError(
                f"{picture.name} holds values from {low:g} to {high:g}, but exposures hold 0 "
                "(black) to 1 (saturated); divide them by what saturates the camera."
            )
    elif pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"{picture.name} holds {pixels.dtype}; give exposures of 8 or 16 bits, or floats from "
            "0 to 1."
        )
    return metadata.shot(picture.labels.exif)


def _check_sizes(pictures: Sequence[Picture]) -> None:
    first = pictures[0]
    for picture in pictures[1:]:
        if picture.pixels.shape[:2] != first.pixels.shape[:2]:
            sizes = [f"{x.pixels.shape[1]}x{x.pixels.shape[0]}" for x in (picture, first)]
            raise InputError(
                f"{picture.name} is {sizes[0]} but {first.name} is {sizes[1]}; exposures must have "
                "one size: give them as the camera wrote them."
            )


def _check_values(
    exposures: dict[int, _Exposure],
    names: Sequence[str],
    times: Sequence[float],
    tone: Tone | None,
    report: Report,
) -> None:
    """Warns of exposures that contradict their times, and of light that none of them holds."""
    reduced = [cells.cells(x.pixels, looks.CELLS, x.mask) for x in exposures.values()]
    for dark in range(len(reduced) - 1):
        first, second = reduced[dark], reduced[dark + 1]
        clear = first.mostly_clear & second.mostly_clear
        if clear.sum() < _CELLS_NEEDED:
            continue
        shown = [
            (x.luminance if tone is None else tone(x.luminance))[clear] for x in (first, second)
        ]
        measured = light.GAMMA * float(np.median(np.log2(shown[1] / shown[0])))
        said = float(np.log2(times[dark + 1] / times[dark]))
        if abs(measured - said) > max(_OTHERWISE, said / 3):
            report.warn(
                f"{names[dark + 1]} shows {measured:+.1f} EV more light than {names[dark]}, but "
                f"their times say {said:+.1f}; check --times or --ev, and the order of the files."
            )
    shortest = next(iter(exposures.values())).pixels
    most = 1.0 if shortest.dtype.kind == "f" else float(np.iinfo(shortest.dtype).max)
    lost = float((shortest.max(-1) >= _CUT_OFF * most).mean())
    if lost > _TOO_MUCH:
        report.warn(
            f"{100 * lost:.0f} % of {names[0]} is saturated, although it is the shortest exposure "
            "that is used; what is brighter than that stays unknown there."
        )
