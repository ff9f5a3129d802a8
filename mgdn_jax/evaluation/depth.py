"""Guided depth super-resolution: the literature's sets, each by its own protocol.

A true map is reduced by the published degradation, enlarged by a method and compared with itself.
The figure of a set is the mean of its pictures' figures, in float64.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from mgdn_jax.data.folders import find_folders
from mgdn_jax.errors import FusionWarning, InputError
from mgdn_jax.evaluation.scores import Table
from mgdn_jax.evaluation.upsampling import Upsample
from mgdn_jax.io import files, opening
from mgdn_jax.io.depth import ARRAYS, decode_depth
from mgdn_jax.io.pairing import pair_folders
from mgdn_jax.io.pixels import without_alpha
from mgdn_jax.metrics.reference import rmse
from mgdn_jax.quantities import depth as quantity

UNCLIPPED = ("bicubic", "bicubic_mgdn")
"""Rules that papers print as they come, beyond the range of the map too."""


@dataclass(frozen=True)
class Protocol:
    """How a set is measured.

    Attributes:
        title: What papers call the set.
        unit: Of the figures: "cm", or "255" for stored levels.
        factor: From the stored unit to that of the figures.
        border: Pixels that are left out on every side.
        bounds: What results are clipped to, in the stored unit; None for the least and the
            largest true depth.
        has_holes: Whether 0 and NaN are missing: they are filled before the reduction and do not
            count. In the literature's sets 0 is a depth.
        about: One line.
    """

    title: str
    unit: str
    factor: float
    border: int = 0
    bounds: tuple[float, float] | None = None
    has_holes: bool = False
    about: str = ""

    @property
    def columns(self) -> tuple[str, str]:
        """Titles of the root mean square error and the mean absolute deviation."""
        return f"RMSE_{self.unit}", f"MAD_{self.unit}"


_LEVELS = (0.0, 255.0)
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "middlebury30": Protocol(
            "Middlebury-30", "255", 1.0, 0, _LEVELS, about="stored disparities, 8 bits"
        ),
        "middlebury2005": Protocol(
            "Middlebury 2005", "255", 1.0, 0, _LEVELS, about="the same; papers print MAD"
        ),
        "lu6": Protocol("Lu-6", "255", 1.0, 0, _LEVELS, about="stored depths, 8 bits"),
        "nyu": Protocol("NYU v2", "cm", 100.0, 6, about="metres, 6 pixels of border left out"),
        "rgbdd": Protocol("RGB-D-D", "cm", 0.1, about="millimetres"),
        "metres": Protocol(
            "maps in metres", "cm", 100.0, has_holes=True, about="yours; holes do not count"
        ),
        "millimetres": Protocol(
            "maps in millimetres", "cm", 0.1, has_holes=True, about="yours; holes do not count"
        ),
    }
)
"""Name on the command line to protocol."""


@dataclass(frozen=True)
class DepthPair:
    """A photograph and its true depth map, as files.

    Attributes:
        name: Title of the row.
        rgb: Path of the photograph.
        depth: Path of the map.
    """

    name: str
    rgb: Path
    depth: Path

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """The pixels.

        Returns:
            `(H, W, 3)` as stored, and `(H, W)` float32 in the stored unit.

        Raises:
            InputError: if a file cannot be read or the two differ in size.
        """
        rgb = without_alpha(files.read_image(self.rgb))
        if rgb.ndim == 2 or rgb.shape[-1] == 1:
            rgb = np.repeat(rgb.reshape(*rgb.shape[:2], 1), 3, axis=-1)
        depth = decode_depth(opening.read_bytes(self.depth, "a depth map"), os.fspath(self.depth))
        if rgb.shape[:2] != depth.shape:
            raise InputError(
                f"{self.depth} is {depth.shape[1]}x{depth.shape[0]}, but {self.rgb} is "
                f"{rgb.shape[1]}x{rgb.shape[0]}; the true map must have the photograph's size."
            )
        return rgb, depth


def find_depth_pairs(
    folder: str | os.PathLike[str], folders: Sequence[str] | None = None
) -> list[DepthPair]:
    """The photographs of a folder and their maps.

    Args:
        folder: With `rgb/` and `depth/`, or other usual names.
        folders: Names of the two subfolders, where they are others.

    Returns:
        The pairs, sorted naturally.

    Raises:
        InputError: if there are no such folders, or a file has no partner.
    """
    _, places = find_folders("rgbd", Path(folder), folders)
    pairing = pair_folders(places, ARRAYS)
    if pairing.problems:
        raise InputError(pairing.problems[0])
    return [DepthPair(name, *paths) for name, paths in pairing.groups.items()]


def method_of(upsampler: Callable[..., Any]) -> Upsample:
    """A network as a method.

    Args:
        upsampler: A `fusing.depth.DepthUpsampler`: `upsampler(low, rgb, limits=)` has `depth` and
            `warnings`, which become Python's.

    Returns:
        What `evaluate_depth` takes.
    """

    def upsample(low: np.ndarray, rgb: np.ndarray, limits: quantity.Limits) -> np.ndarray:
        # A network sees the map between its limits: moving both changes nothing but that 0, which
        # is a depth here, is not taken for a hole.
        shift = np.float32(0.0)
        if (low == 0).any():
            shift = np.float32(2 * limits.span - limits.low)
        moved = quantity.Limits(limits.low + float(shift), limits.high + float(shift))
        upsampled = upsampler(low + shift, rgb, limits=moved)
        for sentence in upsampled.warnings:
            warnings.warn(sentence, FusionWarning, stacklevel=2)
        return upsampled.depth - shift

    return upsample


def evaluate_depth(
    methods: Mapping[str, Upsample],
    pairs: Sequence[DepthPair],
    protocol: Protocol,
    scale: int,
    on_pair: Callable[[str], None] | None = None,
) -> dict[str, Table]:
    """Scores methods on a set at one scale.

    Args:
        methods: Name to a callable `(low, rgb, limits) -> (H, W)`, as those of
            `evaluation.upsampling`; `limits` are those of the true map, as published networks
            are tested.
        pairs: The set.
        protocol: How it is measured.
        scale: 2 or more; maps are cut until it divides their sides.
        on_pair: Called with the name of each pair that was measured.

    Returns:
        Method to its table, with the two columns of the protocol.

    Raises:
        InputError: if a file cannot be read, or a map is too small.
    """
    tables = {name: Table(protocol.columns) for name in methods}
    for pair in pairs:
        for name, scores in _scores(methods, pair, protocol, scale):
            tables[name].rows[pair.name] = scores
        if on_pair is not None:
            on_pair(pair.name)
    return tables


def _scores(
    methods: Mapping[str, Upsample], pair: DepthPair, protocol: Protocol, scale: int
) -> Iterator[tuple[str, dict[str, float]]]:
    rgb, depth = (quantity.cropped(array, scale) for array in pair.read())
    valid = np.ones(depth.shape, bool)
    if protocol.has_holes:
        depth, valid = quantity.fill_holes(depth)
    elif not np.isfinite(depth).all():
        raise InputError(
            f"{pair.depth} has depths that are no numbers; choose --set metres or millimetres, "
            "where holes do not count."
        )
    limits = quantity.limits_of(depth)
    low = quantity.reduce(depth, scale)
    lowest, highest = protocol.bounds or (limits.low, limits.high)
    border = protocol.border
    if min(depth.shape) <= 2 * border:
        raise InputError(f"{pair.depth} has nothing left inside a border of {border} pixels.")
    inner = (slice(border, depth.shape[0] - border), slice(border, depth.shape[1] - border))
    truth = depth[inner][valid[inner]].astype(np.float64) * protocol.factor
    for name, upsample in methods.items():
        result = np.asarray(upsample(low, rgb, limits), np.float64)
        if result.shape != depth.shape:
            raise InputError(f"{name} gave {result.shape} for a map of {depth.shape}.")
        if name not in UNCLIPPED:
            result = result.clip(lowest, highest)
        values = result[inner][valid[inner]] * protocol.factor
        figures = (rmse(values[None], truth[None]), float(np.abs(values - truth).mean()))
        yield name, dict(zip(protocol.columns, figures, strict=True))
