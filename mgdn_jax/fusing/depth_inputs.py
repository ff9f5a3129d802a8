"""What `DepthUpsampler` is given: the map and the photograph, and what is to be said of them."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from mgdn_jax import arguments
from mgdn_jax.errors import InputError
from mgdn_jax.fusing.report import Report
from mgdn_jax.fusing.sources import Sources
from mgdn_jax.io import depth as depth_files
from mgdn_jax.io import reading
from mgdn_jax.io.depth import Depth
from mgdn_jax.io.pixels import to_float, without_alpha
from mgdn_jax.quantities.depth import Limits

_MANY = 0.5  # a share of holes above this is a warning
_FAR = 655.0  # metres; more is beyond the sensors of rooms and roads, and beyond 16 bits of mm
_CLOSE = 100.0  # millimetres; sensors do not measure what is nearer


def depth_of(low: Any, unit: str | None, report: Report) -> Depth:
    """The map of any source, and what is to be said of it."""
    if isinstance(low, (str, os.PathLike)):
        depth = depth_files.read_depth(low, unit)
    else:
        values = low.values if isinstance(low, Depth) else low
        depth = low if isinstance(low, Depth) else Depth(np.empty(0))
        depth = dataclasses.replace(depth, values=arguments.array(depth.name, values))
        if unit is not None:
            depth_files.check_unit(unit)
            depth = dataclasses.replace(depth, unit=unit, basis="")
    report.warn(*depth.remarks)
    if depth.basis:
        report.note("unit", depth.basis, unit=depth.unit)
    values = depth.values
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "uif":
        raise InputError(
            f"{depth.name} has shape {values.shape} and type {values.dtype}; give (h, w) numbers."
        )
    negative = int((values < 0).sum())
    if negative:
        report.warn(
            f"{negative} values of {depth.name} are negative and were taken as they are; make them "
            "0 or NaN where they stand for missing ones."
        )
    return dataclasses.replace(depth, values=values.astype(np.float32))


def photograph_of(rgb: Any, report: Report) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1]."""
    source = Sources([rgb], ["the photograph"])[0]
    report.warn(*source.remarks)
    pixels = without_alpha(reading.common(_narrow(source)))
    if pixels.shape[-1] != source.pixels.shape[-1] and source.pixels.ndim == 3:
        report.note("guide", f"the transparency of {source.name} was left out.")
    if pixels.dtype.kind == "f" and not (pixels.min() >= 0 and pixels.max() <= 1):
        raise InputError(
            f"{source.name} has float pixels from {pixels.min():.4g} to {pixels.max():.4g}; bring "
            "them to [0, 1] first."
        )
    if pixels.shape[-1] == 1:
        report.note("guide", f"{source.name} is gray and was taken as colour.")
        pixels = pixels.repeat(3, -1)
    return to_float(pixels)


def _narrow(picture: Any) -> Any:
    """A picture of floats in 32 bits."""
    if picture.pixels.dtype.kind != "f":
        return picture
    return dataclasses.replace(picture, pixels=picture.pixels.astype(np.float32))


def say_holes(valid: np.ndarray, name: str, report: Report) -> None:
    """Says how much of the map is missing, and warns where that is most of it."""
    count = int((~valid).sum())
    if not count:
        return
    share = count / valid.size
    report.note(
        "holes",
        f"{count} values of {name} ({_percent(share)}) are missing (0 or no number); the network "
        "saw their nearest neighbours, and they are missing in the result again.",
        count=count,
        share=share,
    )
    if share > _MANY:
        report.warn(
            f"{_percent(share)} of {name} is missing, which leaves the network little to go by; "
            "fill the holes first, or give a denser map."
        )


def _percent(share: float) -> str:
    """A share that is neither none nor all, with as many digits as say so."""
    percent = 100 * share
    return f"{percent:.2g} %" if percent < 10 else f"{min(percent, 99.9):.3g} %"


def say_unit(depth: Depth, found: Limits, report: Report) -> None:
    """Warns of a unit in which the map would show what no sensor measures."""
    cure = "give the unit that its numbers have (--unit)"
    if depth.unit == "m" and found.high > _FAR:
        report.warn(
            f"{depth.name} reaches {found.high:.4g} metres; if these are millimetres or levels, "
            f"{cure}."
        )
    elif depth.unit == "mm" and found.high < _CLOSE:
        report.warn(
            f"{depth.name} ends at {found.high:.4g} millimetres; if these are metres or levels, "
            f"{cure}."
        )
