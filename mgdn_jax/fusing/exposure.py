"""Exposures: how far pictures of one scene differ in tone, and the curve that brings them together.

All of it compares pictures after both are blurred to one scale, so that a change of focus and a
shift of a few pixels do not count. It assumes that one curve for each channel holds all over the
picture: vignetting that differs (another aperture or zoom) is not undone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import cells
from mgdn_jax.fusing.tone_curve import FEW, LEVEL, SHOULDER, STEPS, Curve, Samples, choose
from mgdn_jax.io.pixels import without_alpha

_SIDE = 160  # cells, for a glance
_DETAIL = 1.0, 6.0  # of structure: blur, and the surroundings left out, in cells
_FINE = 400  # cells, for a curve
_BLUR = 5.0  # of those, the common scale of two focus settings
_MARGIN = 3.0  # around what is cut off, in cells
_FLAT = 11  # cells, the window that must be flat


@dataclasses.dataclass(frozen=True)
class Difference:
    """How two pictures of one scene differ in tone.

    Attributes:
        stops: log2 of the second picture's stored values over the first's; 0.4 is 1.32 times as
            bright. The gamma of photographs makes about 0.45 of a stop of light.
        tint: for each channel the stops beyond that, (0,) for gray.
        reliability: 0 to 1, how well the two show one structure at one tone curve. Below 0.5 they
            may be of different kinds (infrared beside visible, CT beside MRI), and `stops` says
            nothing about exposure.
        agreement: correlation of the structures behind that, -1 to 1.
        overlap: share of the picture that neither cuts off in shadows or highlights.
        shift: about how many pixels, down and to the right, the second picture has to move to lie
            on the first.
    """

    stops: float
    tint: tuple[float, ...]
    reliability: float
    agreement: float
    overlap: float
    shift: tuple[int, int]

    @property
    def largest(self) -> float:
        """The largest difference of a channel, in stops."""
        return max(abs(self.stops + tint) for tint in self.tint)


def difference(
    a: np.ndarray, b: np.ndarray, masks: Sequence[np.ndarray | None] | None = None
) -> Difference:
    """Measures how two pictures differ in exposure and colour, cheaply: at 160 cells a side.

    Args:
        a: (H, W) or (H, W, C), uint8, uint16 or float in [0, 1].
        b: of the same height and width; one channel beside three is compared in luminance.
        masks: for each picture (H, W) bool, true where it is there; None is everywhere.

    Raises:
        InputError: the sizes differ.
    """
    _check_sizes([a, b])
    first, second = _reduced([a, b], masks, _SIDE)
    return compare(first, second)


def compare(first: cells.Cells, second: cells.Cells) -> Difference:
    """`difference` of pictures that are reduced already."""
    x, y = first.luminance, second.luminance
    dy, dx = cells.shift(*(cells.detail(cells.ranks(p)) for p in (x, y)))
    clear = _common_cells(first.mostly_clear, second.mostly_clear, dy, dx)
    x, y = cells.common([x, y], dy, dx)
    overlap = float(clear.mean())
    stops = _log_ratio(x, y, clear)
    tint = [0.0]
    if first.values.shape[-1] == second.values.shape[-1] == 3:
        planes = [
            cells.common([first.values[..., c], second.values[..., c]], dy, dx) for c in range(3)
        ]
        tint = [_log_ratio(p, q, clear) - stops for p, q in planes]
    likeness = agreement(x, y, clear)
    reliability = float(np.clip((likeness - 0.6) / 0.2, 0, 1))
    moved = dy * first.size, dx * first.size
    return Difference(stops, tuple(tint), reliability, likeness, overlap, moved)


def agreement(x: cells.Plane, y: cells.Plane, clear: cells.Mask) -> float:
    """How well two luminances show one structure, -1 to 1, whatever their exposures.

    Correlation of what they have beyond their surroundings: of ranks, which no monotone curve
    changes, or of logarithms where neither is cut off, which no gain changes; the better one.

    Args:
        x: (h, w) in [0, 1].
        y: (h, w).
        clear: (h, w), where neither is cut off.
    """
    blur, around = _DETAIL
    x, y = (ndimage.gaussian_filter(p, blur) for p in (x, y))
    black = (x < 0.04) & (y < 0.04)
    # One outline on black, as of two scans of a head, is no common structure.
    seen = ~ndimage.binary_dilation(black, iterations=4) if black.mean() > 0.2 else ~black
    weights = [seen.astype(np.float32), (seen & clear).astype(np.float32)]
    scores = [0.0]
    for weight, planes in zip(
        weights,
        ([cells.ranks(p) for p in (x, y)], [np.log2(p + 0.02) for p in (x, y)]),
        strict=True,
    ):
        if weight.mean() > 0.05:
            scores.append(cells.correlation(*(cells.detail(p, weight, around) for p in planes)))
    return max(scores)


def brightness_order(
    pictures: Sequence[np.ndarray], masks: Sequence[np.ndarray | None] | None = None
) -> list[int]:
    """The pictures from dark to bright, as indices; equally bright ones stay in their order.

    Brightness is the median ratio of two pictures where neither is cut off, for every pair, so
    that a bright thing that enters, or clipping, does not count. Where a pair has no such place,
    the ranks of its cut-off shares and means decide. The order differs from that given where the
    list is not ``[0, 1, ..., n - 1]``.

    Args:
        pictures: two or more, (H, W) or (H, W, C), of one height and width.
        masks: as in `difference`.

    Raises:
        InputError: the sizes differ.
    """
    _check_sizes(pictures)
    return order(_reduced(pictures, masks, _SIDE))


def order(reduced: Sequence[cells.Cells]) -> list[int]:
    """`brightness_order` of pictures that are reduced already."""
    planes = [c.luminance for c in reduced]
    count = len(planes)
    ratios = np.zeros((count, count))
    for i in range(count):
        for j in range(i):
            clear = reduced[i].mostly_clear & reduced[j].mostly_clear
            ratios[i, j] = _log_ratio(planes[j], planes[i], clear)
            ratios[j, i] = -ratios[i, j]
    # The mean over all partners is the least-squares brightness for a full table of ratios.
    brightness = np.round(ratios.mean(1), 3)
    return [int(i) for i in np.argsort(brightness, kind="stable")]


def _log_ratio(x: cells.Plane, y: cells.Plane, clear: cells.Mask) -> float:
    """Median of log2(y / x) where both are clear, or of the rest if hardly anything is."""
    if clear.sum() >= FEW:
        x, y = x[clear], y[clear]
    else:  # one dark and one blown out: any value that moves says which is which
        moving = np.abs(y - x) > LEVEL
        if not moving.any():
            return 0.0
        x, y = x[moving], y[moving]
    return float(np.median(np.log2((y + 1e-3) / (x + 1e-3))))


def _common_cells(a: cells.Mask, b: cells.Mask, dy: int, dx: int) -> cells.Mask:
    first, second = cells.common([a, b], dy, dx)
    return first & second


def _check_sizes(pictures: Sequence[np.ndarray]) -> None:
    for number, picture in enumerate(pictures[1:], 2):
        if picture.shape[:2] != pictures[0].shape[:2]:
            raise InputError(
                f"picture {number} is {picture.shape[1]}x{picture.shape[0]} but the first is "
                f"{pictures[0].shape[1]}x{pictures[0].shape[0]}; give exposures of one size."
            )


def _reduced(
    pictures: Sequence[np.ndarray], masks: Sequence[np.ndarray | None] | None, side: int
) -> list[cells.Cells]:
    masks = [None] * len(pictures) if masks is None else masks
    return [cells.cells(p, side, m) for p, m in zip(pictures, masks, strict=True)]


def match(
    reference: np.ndarray,
    moving: np.ndarray,
    masks: Sequence[np.ndarray | None] | None = None,
) -> Curve:
    """The curve that brings `moving` to the tone of `reference`.

    A gain for each channel; with an offset, or as a power, or as a smooth monotone curve only
    where that explains clearly more. Pixels that either picture cuts off do not count. Both are
    blurred to one scale, far beyond the usual difference of two focus settings.

    Args:
        reference: (H, W) or (H, W, C), uint8, uint16 or float in [0, 1].
        moving: picture of the same scene and shape.
        masks: for the reference and for the moving picture (H, W) bool, true where it is there.

    Raises:
        InputError: the sizes or numbers of channels differ.
    """
    _check_sizes([reference, moving])
    first, second = _reduced([reference, moving], masks, _FINE)
    channels = first.values.shape[-1]
    if second.values.shape[-1] != channels:
        raise InputError(
            f"one picture has {channels} channels and the other {second.values.shape[-1]}; "
            "match the tones of gray or of colour pictures alone."
        )
    samples = [_samples(first, second, channel) for channel in range(channels)]
    ceiling = np.array([_ceiling(moving, channel) for channel in range(channels)])
    if min(len(sample.x) for sample in samples) < FEW:
        table = np.tile(np.linspace(0, 1, STEPS), (channels, 1))
        return Curve(table, "none", (0.0,) * channels, 0.0, ceiling)
    kind, models, error = choose(samples)
    grid = np.linspace(0, 1, STEPS)
    table = np.stack([np.maximum.accumulate(np.clip(model(grid), 0, 1)) for model in models])
    stops = []
    for model, sample in zip(models, samples, strict=True):
        middle = np.array([np.median(sample.x)])
        stops.append(float(np.log2(max(model(middle)[0], 1e-6) / max(middle[0], 1e-6))))
    return Curve(table, kind, tuple(stops), error / LEVEL, ceiling)


def match_stack(
    pictures: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None] | None = None,
    reference: int = 0,
) -> list[Curve]:
    """The curves that bring a stack to the tone of one of its pictures.

    Each picture is matched to its neighbour towards the reference, whose focus is most like its
    own, and the curves are chained.

    Args:
        pictures: two or more of one shape.
        masks: as in `match`, one for each picture.
        reference: index of the picture whose tone is kept.

    Returns:
        One curve a picture; that of the reference changes nothing.
    """
    masks = [None] * len(pictures) if masks is None else list(masks)
    start = match(pictures[reference], pictures[reference], [masks[reference]] * 2)
    same = np.tile(np.linspace(0, 1, STEPS), (len(start.table), 1))
    still = dataclasses.replace(start, table=same, kind="none", stops=(0.0,) * len(same), error=0.0)
    curves = {reference: still}
    places = [*range(reference - 1, -1, -1), *range(reference + 1, len(pictures))]
    for place in places:
        near = place + 1 if place < reference else place - 1
        step = match(pictures[near], pictures[place], [masks[near], masks[place]])
        curves[place] = step if near == reference else step.then(curves[near])
    return [curves[place] for place in range(len(pictures))]


def _ceiling(picture: np.ndarray, channel: int) -> float:
    """Where a channel is cut off: its largest value, if more than a few pixels have it."""
    plane = without_alpha(picture)[..., channel]
    top = plane.max()
    scale = 1.0 if np.issubdtype(plane.dtype, np.floating) else float(np.iinfo(plane.dtype).max)
    at_top = float((plane >= top - 0.004 * scale).mean())
    return float(top) / scale if at_top > 2e-4 else 1.0 + SHOULDER


def _samples(first: cells.Cells, second: cells.Cells, channel: int) -> Samples:
    """Means over wide Gaussians, and over narrow ones where both pictures are flat or alike.

    Blur hardly changes the wide ones but they lack the extremes of tone, and a mean of a curve is
    not the curve of a mean; it does not change flat places at all.
    """
    clear = first.clear[..., channel] & second.clear[..., channel]
    # What is cut off leaks into its surroundings where a picture is out of focus.
    weight = clear.astype(np.float32)
    weight *= cells.smooth(weight, np.ones_like(weight), _MARGIN) > 0.9
    planes = [c.values[..., channel] for c in (second, first)]
    ready = (cells.smooth(weight, np.ones_like(weight), _BLUR) > 0.5)[::2, ::2]
    wide = [cells.smooth(p, weight, _BLUR) for p in planes]
    narrow = [cells.smooth(p, weight, 1.5) for p in planes]
    contrast = []
    flat = weight > 0
    for plane, fine, coarse in zip(planes, narrow, wide, strict=True):
        spread = ndimage.maximum_filter(fine, _FLAT) - ndimage.minimum_filter(fine, _FLAT)
        flat &= spread < 0.02 + 0.03 * fine
        energy = cells.smooth((plane - fine) ** 2, weight, _BLUR)
        contrast.append(energy / (coarse**2 + 1e-6))
    # Alike: equally sharp, but for what a tone curve does to contrast.
    ratio = np.log((contrast[1] + 1e-6) / (contrast[0] + 1e-6))
    exact = flat | ((np.abs(ratio) < 0.6) & (weight > 0))
    sharper, exact = (ratio > 0)[::2, ::2], exact[::2, ::2]
    x, y = (
        np.concatenate([w[::2, ::2][ready], n[::2, ::2][exact]]).astype(np.float64)
        for w, n in zip(wide, narrow, strict=True)
    )
    both = np.ones(int(exact.sum()), bool)
    return Samples(
        x,
        y,
        (np.concatenate([sharper[ready], both]), np.concatenate([~sharper[ready], both])),
    )
