"""Exposures on their way to a network: checked, laid on the reference, prepared where a tile is.

`quantities.radiance` says what a network takes of an exposure. Here that is made of the pixels of
one tile after the other, so that a large picture never is in floats as a whole.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mgdn_jax import arguments
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import cells, handheld, looks, masks, shutter, tasks
from mgdn_jax.fusing.geometry import place, place_shifted
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.fusing.report import Report
from mgdn_jax.fusing.sources import Sources
from mgdn_jax.io import metadata
from mgdn_jax.io.pictures import Picture
from mgdn_jax.io.pixels import to_float, without_alpha
from mgdn_jax.quantities import radiance as light
from mgdn_jax.quantities.radiance import RadiancePreparation

CURVES = ("power", "srgb")
"""How cameras turn light into pixels: a power, or the curve of sRGB."""

_CUT_OFF = 0.97  # of full scale
_TOO_MUCH = 0.02  # share of the shortest exposure that may be cut off without a warning
_OTHERWISE = 1.0  # stops; camera curves are no exact powers
_CELLS_NEEDED = 50

Tone = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Input:
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


def tone_of(curve: str, gamma: float | None, wanted: float) -> Tone | None:
    """What brings pixels of a camera's curve to the power that a network was trained with.

    Args:
        curve: of `CURVES`.
        gamma: of the camera; None is the network's.
        wanted: the network's power.

    Raises:
        InputError: no such curve, or a gamma that does not go with it.
    """
    if curve not in CURVES:
        raise InputError(f"curve is {arguments.shown(curve)}; choose one of {', '.join(CURVES)}.")
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


@dataclasses.dataclass(frozen=True)
class Exposure:
    """One exposure in the frame of the reference: (H, W, 1 or 3), and where it is there."""

    pixels: np.ndarray
    mask: np.ndarray | None


def laid(
    sources: Sources,
    choice: shutter.Choice,
    options: FuseOptions,
    report: Report,
    *,
    is_shifted: bool = False,
) -> dict[int, Exposure]:
    """The exposures that are used, in the frame of the reference.

    Args:
        sources: all exposures.
        choice: which of them are used.
        options: those about geometry count.
        report: takes what was done.
        is_shifted: whether shifts are undone.

    Returns:
        By the index of the source, from the shortest to the longest.

    Raises:
        InputError: they cannot be aligned.
    """
    used = choice.sources
    anchor = used.index(choice.reference)
    names = [sources.name(index) for index in used]
    sizes = [sources[index].pixels.shape[:2] for index in used]

    def load(number: int) -> np.ndarray:
        return without_alpha(sources[used[number]].pixels)

    if is_shifted:
        placing = place_shifted(load, names, sizes, report, anchor)
    else:
        placing = place(load, names, sizes, options, report, anchor=anchor, is_bracket=True)
    exposures = {}
    for number, index in enumerate(used):
        pixels = sources[index].pixels
        alpha = masks.of_alpha(pixels)
        placed, mask = placing.place(number, without_alpha(pixels))
        if alpha is not None:
            there, _ = placing.place(number, alpha[..., None].astype(np.uint8) * 255)
            seen = there[..., 0] == 255
            mask = seen if mask is None else mask & seen
        exposures[index] = Exposure(placed, mask)
    return exposures


def shot_of(picture: Picture, report: Report) -> metadata.Shot:
    """How a picture was taken, once it is clear that it can be an exposure.

    Args:
        picture: as its file has it.
        report: takes what its reader remarked.

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


def check_sizes(names: Sequence[str], sizes: Sequence[tuple[int, ...]]) -> None:
    """Finds out whether exposures have one size.

    Args:
        names: what messages call them.
        sizes: heights and widths.

    Raises:
        InputError: they have several.
    """
    for name, size in zip(names, sizes, strict=True):
        if size != sizes[0]:
            said = [f"{width}x{height}" for height, width in (size, sizes[0])]
            raise InputError(
                f"{name} is {said[0]} but {names[0]} is {said[1]}; exposures must have one size: "
                "give them as the camera wrote them."
            )


def check_places(
    exposures: dict[int, Exposure], names: Sequence[str], is_aligned: bool, report: Report
) -> None:
    """Warns of a camera that moved, and of pictures that are no exposures of one scene.

    Args:
        exposures: by the index of the source, from the shortest to the longest.
        names: of all sources.
        is_aligned: whether the movement of the camera was undone.
        report: takes the warnings.
    """
    parts = list(exposures.values())
    # What moves in the scene may look like a shift to a glance, but has not most of the votes.
    is_still = is_aligned or handheld.lie_on_each_other(lambda k: parts[k].pixels, len(parts))
    looks.check(
        lambda number: parts[number].pixels,
        lambda number: parts[number].mask,
        [names[index] for index in exposures],
        tasks.TASKS["exposure"],
        report,
        is_placed=is_still,
        is_matched=True,
    )


def check_values(
    exposures: dict[int, Exposure],
    names: Sequence[str],
    times: Sequence[float],
    tone: Tone | None,
    gamma: float,
    report: Report,
) -> None:
    """Warns of exposures that contradict their times, and of light that none of them holds.

    Args:
        exposures: by the index of the source, from the shortest to the longest.
        names: of all sources.
        times: of all sources.
        tone: brings pixels to the network's curve; None where they have it.
        gamma: the power of that curve.
        report: takes the warnings.
    """
    reduced = {k: cells.cells(x.pixels, looks.CELLS, x.mask) for k, x in exposures.items()}
    for dark, bright in itertools.pairwise(reduced):
        first, second = reduced[dark], reduced[bright]
        clear = first.mostly_clear & second.mostly_clear
        if clear.sum() < _CELLS_NEEDED:
            continue
        shown = [
            (x.luminance if tone is None else tone(x.luminance))[clear] for x in (first, second)
        ]
        measured = gamma * float(np.median(np.log2(shown[1] / shown[0])))
        said = float(np.log2(times[bright] / times[dark]))
        if abs(measured - said) > _OTHERWISE + said / 3:
            report.warn(
                f"{names[bright]} shows {measured:+.1f} EV more light than {names[dark]}, but "
                f"their times say {said:+.1f}; check --times or --ev, and the order of the files."
            )
    least = next(iter(exposures))
    shortest = exposures[least].pixels
    most = 1.0 if shortest.dtype.kind == "f" else float(np.iinfo(shortest.dtype).max)
    lost = float((shortest.max(-1) >= _CUT_OFF * most).mean())
    if lost > _TOO_MUCH:
        report.warn(
            f"{100 * lost:.0f} % of {names[least]} is saturated, although it is the shortest "
            "exposure that is used; what is brighter than that stays unknown there."
        )
