"""Where each source lies on the result: alignment, registration, stored transforms, sizes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.fusing.report import Report
from mgdn_jax.fusing.resampling import resize, warp
from mgdn_jax.fusing.transforms import Transform, common_area, read_transforms

Size = tuple[int, int]
STILL = 0.5
"""Pixels below which pictures are left where they lie: to move them costs more than it mends."""


@dataclasses.dataclass(frozen=True)
class Placing:
    """How sources come onto the grid of the result.

    Attributes:
        size: height and width of the frame that all sources are brought into.
        transforms: of each source, from its own pixels to the frame; None where it lies there.
        resizes: whether sources of other sizes are only enlarged or reduced.
        area: top, bottom, left and right of what is kept of the frame; None for all.
    """

    size: Size
    transforms: tuple[Transform | None, ...]
    resizes: bool = False
    area: tuple[int, int, int, int] | None = None

    @property
    def shape(self) -> Size:
        """Height and width of the result."""
        if self.area is None:
            return self.size
        top, bottom, left, right = self.area
        return bottom - top, right - left

    def place(self, index: int, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """A source on the grid of the result.

        Args:
            index: which source.
            pixels: (H, W, C), alpha included.

        Returns:
            The pixels, and where the source lies, (h, w), None for everywhere.
        """
        transform, mask = self.transforms[index], None
        if transform is not None:
            pixels, mask = warp(pixels, transform, self.size)
            mask = None if mask.all() else mask
        elif pixels.shape[:2] != self.size:
            pixels = resize(pixels, self.size)
        if self.area is not None:
            top, bottom, left, right = self.area
            pixels = pixels[top:bottom, left:right]
            mask = None if mask is None else mask[top:bottom, left:right]
            mask = None if mask is None or mask.all() else mask
        return pixels, mask


def place(
    load: Callable[[int], np.ndarray],
    names: Sequence[str],
    sizes: Sequence[Size],
    options: FuseOptions,
    report: Report,
    anchor: int = 0,
    *,
    is_bracket: bool = False,
) -> Placing:
    """Decides where the sources lie.

    Args:
        load: (H, W, C) pixels of a source, without alpha.
        names: what messages call the sources.
        sizes: heights and widths.
        options: of the call.
        report: takes what was done.
        anchor: the source that `align` lays the others onto.
        is_bracket: whether they are exposures of one scene, in which things may move.

    Raises:
        InputError: sizes that differ and nothing asked for that brings them together, more than
            one way asked for, or pictures that do not fit together.
    """
    ways = {
        "--align": options.align,
        "--register": options.register,
        "--homography": options.homography is not None,
        "--resize": options.resize,
    }
    chosen = [name for name, value in ways.items() if value]
    if len(chosen) > 1:
        raise InputError(f"{' and '.join(chosen)} do not go together; choose one of them.")
    if options.homography is not None:
        placing = _stored(names, sizes, options.homography, report)
    elif options.register:
        placing = _registered(load, names, sizes, report)
    elif options.align:
        placing = _aligned(load, names, sizes, options, report, anchor, is_bracket)
    elif options.resize:
        placing = _resized(names, sizes, report)
    else:
        check_sizes(names, sizes)
        return Placing(sizes[0], (None,) * len(sizes))
    return _cut(placing, sizes, options, report)


def check_sizes(names: Sequence[str], sizes: Sequence[Size]) -> None:
    """Finds out whether pictures lie on one grid.

    Raises:
        InputError: they have several sizes; names what brings them together.
    """
    for name, size in zip(names[1:], sizes[1:], strict=True):
        if size != sizes[0]:
            raise InputError(
                f"{name} is {_said(size)} but {names[0]} is {_said(sizes[0])}; pictures to fuse "
                "must have the same size: bring them together with --register (infrared and "
                "visible), --homography FILE or --resize."
            )


def reference(sizes: Sequence[Size]) -> int:
    """The source whose frame the others are brought into: the largest, the last of equals."""
    areas = [height * width for height, width in sizes]
    return max(range(len(areas)), key=lambda i: (areas[i], i))


def _said(size: Size) -> str:
    return f"{size[1]}x{size[0]}"


def _stored(names: Sequence[str], sizes: Sequence[Size], path: str, report: Report) -> Placing:
    """Transforms of a file: one for the source that is not the reference, or one a source."""
    stored = read_transforms(path)
    frame = reference(sizes)
    transforms: list[Transform | None] = [None] * len(sizes)
    if len(stored) == 1 and len(sizes) == 2:
        transforms[1 - frame] = next(iter(stored.values()))
    else:
        for index, name in enumerate(names):
            keys = (name, name.rsplit("/", 1)[-1], str(index), index)
            transforms[index] = next((stored[key] for key in keys if key in stored), None)
        if not any(transforms) and len(stored) == len(names):
            transforms = [*stored.values()]  # of the same cameras, for other pictures
        missing = [names[i] for i, t in enumerate(transforms) if t is None]
        if len(missing) == len(names) or len(missing) > 1:
            raise InputError(
                f"{path} holds {len(stored)} transforms, but none for {missing[0]}; store one for "
                "each picture but the reference, under its file name."
            )
        still = [i for i, t in enumerate(transforms) if t is None or t.is_identity]
        if still and frame not in still:
            frame = still[0]
        if still:
            transforms[frame] = None
    for name, transform in zip(names, transforms, strict=True):
        if transform is not None:
            report.note(
                "homography", f"{name} was laid onto {names[frame]} by {path}.", source=name,
                matrix=transform.matrix.tolist(),
            )  # fmt: skip
    return Placing(sizes[frame], tuple(transforms))


def _registered(
    load: Callable[[int], np.ndarray], names: Sequence[str], sizes: Sequence[Size], report: Report
) -> Placing:
    from mgdn_jax.fusing.register import register

    frame = reference(sizes)
    fixed = load(frame)
    transforms: list[Transform | None] = [None] * len(sizes)
    for index, name in enumerate(names):
        if index == frame:
            continue
        try:
            result = register(load(index), fixed)
        except InputError as error:
            raise InputError(f"{name} and {names[frame]}: {error}") from None
        transforms[index] = result.transform
        report.note(
            "register",
            f"{name} was registered to {names[frame]} ({result.model}, score {result.score:.3g}).",
            source=name,
            matrix=result.transform.matrix.tolist(),
            score=float(result.score),
        )
        if result.remark:
            report.warn(f"{name}: {result.remark}")
    return Placing(sizes[frame], tuple(transforms))


def _aligned(
    load: Callable[[int], np.ndarray],
    names: Sequence[str],
    sizes: Sequence[Size],
    options: FuseOptions,
    report: Report,
    anchor: int,
    is_bracket: bool,
) -> Placing:
    from mgdn_jax.fusing.align import align_stack
    from mgdn_jax.fusing.handheld import align_exposures

    check_sizes(names, sizes)
    model = options.align_model or "auto"
    try:
        results = (
            align_exposures(load, len(sizes), anchor=anchor, model=model)
            if is_bracket
            else align_stack(load, len(sizes), model=model)
        )
    except InputError as error:
        said = re.sub(r"picture (\d+)", lambda m: names[int(m[1]) - 1], str(error)).rstrip(".")
        raise InputError(f"{said}; --no-align fuses the pictures as they lie.") from None
    # The chain starts in the middle, but people expect the first picture to stay where it is.
    back = results[anchor].transform.inverse()
    apart = max(back.compose(result.transform).corner_shift(sizes[0]) for result in results)
    for name, result in zip(names, results, strict=True):
        if result.remark:
            report.warn(f"{name}: {result.remark}")
    if apart < STILL:
        if any(result.remark for result in results):
            return Placing(sizes[0], (None,) * len(sizes))
        report.note(
            "align",
            f"the pictures lie on each other within {apart:.2f} px and were left as they are.",
            pixels=round(apart, 3),
        )
        return Placing(sizes[0], (None,) * len(sizes))
    transforms: list[Transform | None] = []
    for index, (name, result) in enumerate(zip(names, results, strict=True)):
        transform = back.compose(result.transform) if index != anchor else Transform.identity()
        moved = transform.corner_shift(sizes[0])
        if is_bracket and index != anchor and transform.is_identity:
            transforms.append(None)
            continue
        transforms.append(transform if index != anchor else None)
        # The middle of the chain has no model of its own; it moves by that of the one that stays.
        model = results[anchor].model if result.model == "identity" else result.model
        report.note(
            "align",
            f"{name} was moved by up to {moved:.1f} px ({model})."
            if index != anchor
            else f"{name} stays where it is; the others were laid onto it.",
            source=name,
            model=model,
            pixels=round(moved, 3),
            matrix=transform.matrix.tolist(),
        )
    return Placing(sizes[0], tuple(transforms))


def place_shifted(
    load: Callable[[int], np.ndarray],
    names: Sequence[str],
    sizes: Sequence[Size],
    report: Report,
    anchor: int,
) -> Placing:
    """Undoes the shifts of exposures, where most of the picture agrees on one.

    Args:
        load: as of `place`.
        names: what messages call the sources.
        sizes: heights and widths.
        report: takes what was done.
        anchor: the source that stays.

    Raises:
        InputError: sizes that differ.
    """
    from mgdn_jax.fusing.handheld import shifts_of

    check_sizes(names, sizes)
    transforms: list[Transform | None] = []
    for name, found in zip(names, shifts_of(load, len(names), anchor=anchor), strict=True):
        x, y = (0.0, 0.0) if found is None else (float(n) for n in found.matrix[:2, 2])
        if found is None or np.hypot(x, y) < STILL:
            transforms.append(None)
            continue
        transforms.append(found)
        report.note(
            "shift",
            f"{name} was shifted by {np.hypot(x, y):.1f} px ({x:+.1f}, {y:+.1f}) onto "
            f"{names[anchor]}; --align undoes turns as well, --no-align leaves it.",
            source=name,
            x=round(x, 3),
            y=round(y, 3),
        )
    return Placing(sizes[0], tuple(transforms))


def _resized(names: Sequence[str], sizes: Sequence[Size], report: Report) -> Placing:
    size = sizes[reference(sizes)]
    for name, other in zip(names, sizes, strict=True):
        if other != size:
            report.note(
                "resize", f"{name} was enlarged from {_said(other)} to {_said(size)}.", source=name
            )
            ratios = size[0] / other[0], size[1] / other[1]
            if abs(ratios[0] / ratios[1] - 1) > 0.02:
                report.warn(
                    f"{name} is {_said(other)}, of another shape than {_said(size)}, and was "
                    "stretched by --resize; --register or --homography FILE keeps its proportions."
                )
    return Placing(size, (None,) * len(sizes), resizes=True)


def _cut(placing: Placing, sizes: Sequence[Size], options: FuseOptions, report: Report) -> Placing:
    """Leaves the area that all sources share, where that is asked for or usual."""
    wanted = options.area or ("common" if options.align else "full")
    if wanted == "full" or all(t is None for t in placing.transforms):
        return placing
    transforms = [t if t is not None else Transform(np.eye(3)) for t in placing.transforms]
    area = common_area(transforms, sizes, frame=placing.size)
    top, bottom, left, right = area
    if bottom - top < 8 or right - left < 8:
        raise InputError("the pictures share no area; leave out --area common.")
    if (top, left) == (0, 0) and (bottom, right) == placing.size:
        return placing
    report.note(
        "area",
        f"the result is the area that all pictures share, {right - left}x{bottom - top} of "
        f"{_said(placing.size)}.",
        box=[left, top, right, bottom],
    )
    return dataclasses.replace(placing, area=area)
