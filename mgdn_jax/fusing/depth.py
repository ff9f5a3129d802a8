"""`DepthUpsampler`: a small depth map and a photograph in, a depth map of full size out."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from mgdn_jax import arguments
from mgdn_jax.errors import InputError, nearest
from mgdn_jax.fusing import depth_inputs, jobs, tasks
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.fusing.jobs import Progress
from mgdn_jax.fusing.loading import load
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.fusing.report import Report
from mgdn_jax.fusing.sources import Sources
from mgdn_jax.io import codec, files, previews
from mgdn_jax.io import depth as depth_files
from mgdn_jax.io.depth import Depth
from mgdn_jax.quantities import depth as quantity
from mgdn_jax.quantities.depth import DepthPreparation, Limits
from mgdn_jax.weights import zoo

_FAMILY = "mgdn-gdsr"
DEFAULT = f"{_FAMILY}4"
OPTIONS = ("tile", "overlap", "tile_context", "ensemble")
"""The fields of `FuseOptions` that depth maps have a use for."""
_NEAR = 1.25  # a map that lacks no more than this in scale is enlarged to it at once

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Upsampled:
    """A depth map with all that is known about it.

    Attributes:
        depth: (H, W) float32 in `unit`; NaN where the map had holes.
        missing: (H, W) bool, where it had them.
        report: what was done and noticed.
        unit: of `depth`, of `io.depth.UNITS`; None where nobody knows.
        tiles: into how many tiles the photograph was cut, at most; 0 where no network was needed.
    """

    depth: np.ndarray
    missing: np.ndarray
    report: Report
    unit: str | None = None
    tiles: int = 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about what is probably not meant."""
        return tuple(self.report.warnings)

    def save(self, path: str | os.PathLike[str]) -> depth_files.Written:
        """Writes the map, whole or not at all; what the format cannot hold goes into the report.

        Args:
            path: its suffix is its format, of `io.depth.WRITABLE`.

        Raises:
            InputError: as `io.depth.write_depth`.
        """
        written = depth_files.write_depth(path, self.depth, self.unit)
        for note in written.notes:
            self.report.note("file", note, unit=written.unit)
        self.report.warn(*written.warnings)
        return written

    def preview(self) -> np.ndarray:
        """The map in colours with a scale bar, (H', W', 3) uint8, to look at."""
        return previews.preview(self.depth, self.unit or "")

    def save_preview(self, path: str | os.PathLike[str]) -> None:
        """Writes `preview` as a picture.

        Raises:
            InputError: as `io.files.write_image`.
        """
        files.write_image(path, self.preview())


@dataclasses.dataclass(frozen=True)
class Route:
    """The sizes that a map passes through on its way to the photograph's.

    Attributes:
        given: of the map.
        passes: for each run of the network, the size that the map is brought to first, and that of
            the result.
    """

    given: Size
    passes: tuple[tuple[Size, Size], ...]

    @property
    def is_full(self) -> bool:
        """Whether the map has the photograph's size."""
        return self.given == self.passes[-1][1]

    @property
    def is_reduced(self) -> bool:
        """Whether the map itself loses rows and columns on the way."""
        start = self.passes[0][0]
        return start != self.given and start[0] * start[1] < self.given[0] * self.given[1]


def route(given: Size, full: Size, scale: int) -> Route:
    """How a map gets to the photograph's size through a network for one scale.

    Args:
        given: rows and columns of the map, neither above the photograph's.
        full: rows and columns of the photograph.
        scale: of the network.
    """
    if given == full:
        return Route(given, ((full, full),))
    passes: list[tuple[Size, Size]] = []
    current = given
    while (
        scale > 1 and not _matches(current, full, scale) and _factor(current, full) > scale * _NEAR
    ):
        larger = (min(current[0] * scale, full[0]), min(current[1] * scale, full[1]))
        passes.append((current, larger))
        current = larger
    if not _matches(current, full, scale):
        current = (max(1, round(full[0] / scale)), max(1, round(full[1] / scale)))
    return Route(given, (*passes, (current, full)))


class DepthUpsampler:
    """A network for guided depth super-resolution with its weights, ready for maps of any size.

    Attributes:
        fuser: the network.
        preparation: scale and margin that its card states.
    """

    def __init__(self, network: Fuser | str | os.PathLike[str] = DEFAULT):
        """Takes a network.

        Args:
            network: a `Fuser`, or what `load` takes.

        Raises:
            InputError: it is no network for depth maps, or as `load`.
        """
        if not isinstance(network, Fuser):
            network = _loaded(network)
        tasks.check_depth(network.card, network.config.in_channels)
        self.fuser = network
        stated = network.card.get("preparation")
        self.preparation = DepthPreparation.from_dict(stated) if stated else DepthPreparation()
        self._has_card = bool(stated)

    @classmethod
    def load(
        cls,
        name_or_path: str | os.PathLike[str] = DEFAULT,
        *,
        system: str | None = None,
        trust: bool | str | Collection[str] = False,
    ) -> DepthUpsampler:
        """A bundled network by name, or the one in a weight file; arguments as `mgdn_jax.load`.

        Raises:
            InputError: as `mgdn_jax.load`, or the network is not for depth maps.
        """
        return cls(_loaded(name_or_path, system=system, trust=trust))

    def __repr__(self) -> str:
        return f"DepthUpsampler({self.fuser!r}, scale={self.preparation.scale})"

    def __call__(
        self,
        low: Any,
        rgb: Any,
        *,
        unit: str | None = None,
        limits: Limits | Sequence[float] | None = None,
        progress: Progress | None = None,
        **changes: Any,
    ) -> Upsampled:
        """Enlarges a depth map to the size of the photograph beside it.

        Args:
            low: (h, w) numbers of any unit, a `Depth`, or a file; 0 and what is not finite are
                missing. A map of the photograph's size is refined as it is.
            rgb: (H, W, 3) uint8, uint16 or float in [0, 1], or a file; gray is taken as colour,
                alpha is left out. Of the same view as the map, and not smaller.
            unit: of the map's numbers, one of `io.depth.UNITS`, in place of what its file says.
            limits: the least and the largest depth that the result may have, in the map's unit;
                None takes those of the map, widened by the margin on the card.
            progress: called as (tiles done, tiles in all) after every tile.
            **changes: single `OPTIONS` by name, ``tile=512`` for instance.

        Raises:
            InputError: a file that cannot be read, sizes that do not fit, a map without values,
                limits or an option that do not exist.
        """
        options = self.options(**changes)
        report = Report()
        depth = depth_inputs.depth_of(low, unit, report)
        photograph = depth_inputs.photograph_of(rgb, report)
        full: Size = photograph.shape[:2]
        given: Size = depth.values.shape
        check(depth, full)
        filled, valid = quantity.fill_holes(depth.values)
        missing = ~valid[_nearest(given[0], full[0])][:, _nearest(given[1], full[1])]
        depth_inputs.say_holes(valid, depth.name, report)
        found = quantity.limits_of(filled)
        depth_inputs.say_unit(depth, found, report)
        if found.span == 0:
            report.note("depth", f"{depth.name} has one value everywhere, which stays as it is.")
            result, tiles = np.full(full, filled.flat[0], np.float32), 0
        else:
            chosen = self._limits(filled, found, limits, depth, report)
            way = route(given, full, self.preparation.scale)
            self._say_route(way, depth.name, report)
            result = self._along(way, filled, photograph, chosen, options, progress)
            tiles = self.fuser.plan(*full, options=options).tiles
        result[missing] = np.nan
        return Upsampled(result, missing, report, depth.unit, tiles)

    def options(self, **changes: Any) -> FuseOptions:
        """The options of a call, what it leaves open taken from the card.

        Raises:
            InputError: one that does not exist, or has no meaning for depth maps, or does not fit.
        """
        for name in changes:
            if name not in OPTIONS:
                raise InputError(
                    f"there is no option {name!r} for depth maps; {nearest(name, OPTIONS)}"
                )
        options = self.fuser.resolve(**changes)
        self.fuser.plan(1, 1, options=options)
        return options

    def _limits(
        self, filled: np.ndarray, found: Limits, wanted: Any, depth: Depth, report: Report
    ) -> Limits:
        """The values that are 0 and 1 in the network."""
        if wanted is None:
            return quantity.limits_of(filled, self.preparation.margin)
        chosen = (
            wanted if isinstance(wanted, Limits) else Limits(*arguments.reals("limits", wanted, 2))
        )
        if chosen.span == 0:
            raise InputError(f"the limits are both {chosen.low:g}; give a lower and a higher one.")
        beyond = int(((filled < chosen.low) | (filled > chosen.high)).sum())
        if found.high <= chosen.low or found.low >= chosen.high:
            raise InputError(
                f"the limits {chosen.low:g} and {chosen.high:g} leave out all of {depth.name}, "
                f"which goes from {found.low:g} to {found.high:g}; give limits in the same unit."
            )
        if beyond:
            report.warn(
                f"{beyond} values of {depth.name}, which go from {found.low:g} to {found.high:g}, "
                f"lie beyond the limits {chosen.low:g} and {chosen.high:g} and are cut off; widen "
                "the limits to keep them."
            )
        return chosen

    def _along(
        self,
        way: Route,
        filled: np.ndarray,
        photograph: np.ndarray,
        limits: Limits,
        options: FuseOptions,
        progress: Progress | None,
    ) -> np.ndarray:
        """The map after all runs of the network, (H, W) float32 in its unit."""
        plans = [self.fuser.plan(*size, options=options) for _, size in way.passes]
        ticks = jobs.Ticks(progress, sum(jobs.calls(2, 2, plan, options) for plan in plans))
        current = filled
        for start, size in way.passes:
            guide = photograph
            if size != photograph.shape[:2]:
                guide = codec.downscale(photograph, *size)
            small = _resized(current, start)
            inputs = quantity.network_inputs(guide, small, limits)
            values = self.fuser.network_in_tiles(
                *inputs, options=options, progress=lambda done, total: ticks.tick()
            )
            current = quantity.restored(values[..., 0].clip(0, 1), limits)
        if way.is_reduced:
            # What the reduction took from the map is known, and comes back.
            lost = filled - _resized(current, way.given)
            current = current + quantity.enlarge(lost, photograph.shape[:2])
            current = current.clip(limits.low, limits.high)
        return current

    def _say_route(self, way: Route, name: str, report: Report) -> None:
        scale, full = self.preparation.scale, way.passes[-1][1]
        figures = {"given": list(way.given), "result": list(full), "scale": scale}
        if not self._has_card:
            report.warn(
                f"the weights do not say which enlargement they are for; {scale}x was assumed, so "
                "train them again with their preparation on the card."
            )
        if way.is_full:
            report.note(
                "size",
                f"{name} has the size of the photograph already: it was refined as it is, and "
                "nothing was enlarged.",
                **figures,
            )
            report.warn(
                f"{name} is redrawn as if it had been enlarged, which costs fine detail that was "
                "measured at this size; if another program enlarged the map, give the small one."
            )
            return
        factor = _factor(way.given, full)
        says = f"{name} was enlarged {factor:.3g} times from {_shown(way.given)} to {_shown(full)}"
        if len(way.passes) > 1:
            says += f", in {len(way.passes)} runs of the network, which is for {scale}x: by way of "
            says += " and ".join(_shown(size) for _, size in way.passes[:-1])
        start, before = way.passes[-1][0], (way.given, *(size for _, size in way.passes))
        if start != before[len(way.passes) - 1]:
            last = (
                "before the last"
                if len(way.passes) > 1
                else f"first, for the network is for {scale}x"
            )
            says += f"; it was resampled to {_shown(start)} {last}"
        if way.is_reduced:
            says += ", and what that took from it was added again"
        report.note("size", f"{says}.", **figures, runs=len(way.passes))


def usual(given: Size, full: Size) -> str:
    """The bundled network whose scale is nearest to what a map needs.

    Args:
        given: rows and columns of the map.
        full: rows and columns of the photograph.
    """
    factor = max(_factor(given, full), 1.0)
    names = [name for name in zoo.bundled() if name.startswith(_FAMILY)] or [DEFAULT]
    return min(names, key=lambda name: abs(np.log(factor / int(name.removeprefix(_FAMILY)))))


def upsample_depth(
    low: Any,
    rgb: Any,
    *,
    model: Fuser | str | os.PathLike[str] | None = None,
    **options: Any,
) -> Upsampled:
    """Enlarges one depth map to the size of the photograph beside it.

    For several, make a `DepthUpsampler` once and call it: the network is loaded once.

    Args:
        low: as `DepthUpsampler` takes it.
        rgb: as `DepthUpsampler` takes it.
        model: a bundled name, a weight file, or a `Fuser`; None for the bundled network whose scale
            is nearest.
        **options: as in a call of a `DepthUpsampler`.

    Raises:
        InputError: as there.
    """
    if model is None:
        low = depth_inputs.depth_of(low, options.get("unit"), Report())  # read once, said later
        rgb = Sources([rgb], ["the photograph"])[0]
        size: Size = rgb.pixels.shape[:2]
        check(low, size)
        model = usual(low.values.shape, size)
    return DepthUpsampler(model)(low, rgb, **options)


def _loaded(name_or_path: str | os.PathLike[str], **trust: Any) -> Fuser:
    """The network of a name or a file; a name that is not bundled yet says how to get it."""
    name = os.fspath(name_or_path)
    if name.startswith(_FAMILY) and name not in zoo.bundled() and not os.path.exists(name):
        preset = name.removeprefix("mgdn-")
        raise InputError(
            f"the weights {name} do not come with this version; train them with `mgdn train "
            f"--config=mgdn:{preset} --workdir=runs/{preset}` and give the .safetensors file of "
            "the run as the model."
        )
    return load(name_or_path, **trust)


def check(depth: Depth, full: Size) -> None:
    """Refuses a map that no network could do anything with.

    Args:
        depth: the map; 0 and what is not finite are missing.
        full: rows and columns of the photograph.

    Raises:
        InputError: every value is missing, or the map cannot show the photograph's view.
    """
    given = depth.values.shape
    is_larger = given[0] > full[0] or given[1] > full[1]
    if not _fits(given, full) or is_larger:
        if given[0] <= full[1] and given[1] <= full[0] and _fits(given[::-1], full):
            cure = "turn one of them by 90 degrees"
        elif is_larger:
            cure = "give the map first, and a photograph that is at least as large"
        else:
            cure = "cut them to the same view, which has one shape"
        raise InputError(
            f"{depth.name} has {_shown(given)} values and the photograph {_shown(full)} pixels; "
            f"{cure}."
        )
    if not (np.isfinite(depth.values) & (depth.values != 0)).any():
        raise InputError(f"{depth.name} is empty: every value is 0 or no number; measure again.")


# ------------------------------------------------------------------------------------ sizes


def _fits(given: Size, full: Size) -> bool:
    """Whether one factor makes the photograph's size of the map's, but for rounding.

    Either side of the map may be off by less than one of its own pixels.
    """
    ranges = [
        (n / (k + 1), n / (k - 1) if k > 1 else math.inf) for k, n in zip(given, full, strict=True)
    ]
    return max(low for low, _ in ranges) < min(high for _, high in ranges)


def _matches(size: Size, full: Size, scale: int) -> bool:
    """Whether a map is the photograph's size over the scale, rounded in whatever way."""
    return all(abs(n / scale - k) < 1 for k, n in zip(size, full, strict=True))


def _factor(size: Size, full: Size) -> float:
    """How many times larger the sides are, in the geometric mean."""
    return math.sqrt(full[0] / size[0] * full[1] / size[1])


def _resized(values: np.ndarray, size: Size) -> np.ndarray:
    """A map of another size: enlarged as networks see it, or reduced without aliasing."""
    if values.shape == size:
        return values
    if size[0] >= values.shape[0] and size[1] >= values.shape[1]:
        return quantity.enlarge(values, size)
    return quantity.enlarge_pillow(values, size)  # its kernel widens where it reduces


def _nearest(count: int, wanted: int) -> np.ndarray:
    """For each of `wanted` positions the nearest of `count`."""
    return ((np.arange(wanted) + 0.5) * (count / wanted)).astype(np.int64).clip(max=count - 1)


def _shown(size: Size) -> str:
    return f"{size[1]}x{size[0]}"
