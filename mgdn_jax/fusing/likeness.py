"""What kind of set pictures are: a change of focus, a bracket of exposures, two kinds of sensor."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage

from mgdn_jax import image
from mgdn_jax.fusing import cells, exposure
from mgdn_jax.io.codec import downscale
from mgdn_jax.io.pixels import to_float, without_alpha

Kind = Literal["focus", "exposure", "cross-modal"]

_SIDE = 160
_SMALL_SIDE = 32  # of copies that a whole picture's light and shade is compared at
_DULL = 0.08  # range of luminance below which a picture says little


class Likeness(NamedTuple):
    """What pictures look like.

    Attributes:
        kind: ``"focus"``, ``"exposure"`` or ``"cross-modal"``; None where nothing is sure.
        confidence: 0 to 1; 0 with None.
    """

    kind: Kind | None
    confidence: float


_SILENCE = Likeness(None, 0.0)


def looks_like(pictures: Sequence[np.ndarray]) -> Likeness:
    """Says what kind of set pictures are, or nothing: it is silent where it could be wrong.

    - *exposure*: one structure, 0.7 stops or more between the darkest and the brightest.
    - *focus*: one structure in one tone, and each of two pictures is clearly sharper somewhere.
    - *cross-modal*: gray beside colour, or two gray pictures of other distributions or of one
      outline on black, whose structures do not agree.

    Args:
        pictures: two or more, (H, W) or (H, W, C), uint8, uint16 or float in [0, 1].

    Returns:
        Kind and confidence. Sets of several sizes are None.
    """
    if len(pictures) < 2 or len({p.shape[:2] for p in pictures}) > 1:
        return _SILENCE
    views = [_View.of(p) for p in pictures]
    brightness = exposure.order([v.cells for v in views])
    in_order = [views[i] for i in brightness]
    pairs = [_Pair.of(a, b) for a, b in itertools.pairwise(in_order)]
    for judge in (_cross_modal, _exposure):
        likeness = judge(pairs)
        if likeness.kind is not None:
            return likeness
    return _focus(pictures, views, pairs)


class _View(NamedTuple):
    """A picture at a glance.

    Attributes:
        cells: the picture, reduced.
        is_colour: whether it surely has colour.
        is_gray: whether it surely has none; a picture too dark to tell is neither.
        contrast: range of its luminance.
    """

    cells: cells.Cells
    is_colour: bool
    is_gray: bool
    contrast: float

    @classmethod
    def of(cls, picture: np.ndarray) -> _View:
        reduced = cells.cells(picture, _SIDE)
        chroma = np.ptp(reduced.values, axis=-1)
        low, high = np.percentile(reduced.luminance, (1, 99))
        contrast = float(high - low)
        return cls(
            cells=reduced,
            is_colour=bool(np.percentile(chroma, 99) > 0.02),
            is_gray=bool(chroma.max() < 0.01) and contrast > _DULL,
            contrast=contrast,
        )


class _Pair(NamedTuple):
    """What two neighbours in brightness have to do with each other.

    Attributes:
        stops: how much brighter the second is.
        agreement: of their structures, shifted to where they agree best.
        outline: how well black backgrounds lie on each other, 0 to 1; 0 where there are none.
        spread: distance of their distributions at one brightness, 0 to 1.
        order: correlation of the ranks of their brightness, -1 to 1.
        is_mixed: whether one has colour and the other has none.
        is_gray: whether neither has colour.
        contrast: range of the duller one.
    """

    stops: float
    agreement: float
    outline: float
    spread: float
    order: float
    is_mixed: bool
    is_gray: bool
    contrast: float

    @classmethod
    def of(cls, a: _View, b: _View) -> _Pair:
        measured = exposure.compare(a.cells, b.cells)
        x, y = a.cells.luminance, b.cells.luminance
        dark = [plane < 0.03 for plane in (x, y)]
        either = float((dark[0] | dark[1]).mean())
        both = float((dark[0] & dark[1]).mean())
        levels = np.linspace(0, 1, 101)
        shares = [
            np.searchsorted(np.sort(plane.ravel()), levels) / plane.size
            for plane in (x * 2**measured.stops, y)
        ]
        return cls(
            stops=measured.stops,
            agreement=measured.agreement,
            outline=both / either if both > 0.2 else 0.0,
            spread=float(np.abs(shares[0] - shares[1]).max()),
            order=cells.correlation(*(cells.ranks(plane) - 0.5 for plane in (x, y))),
            is_mixed=(a.is_colour and b.is_gray) or (a.is_gray and b.is_colour),
            is_gray=a.is_gray and b.is_gray,
            contrast=min(a.contrast, b.contrast),
        )


def _cross_modal(pairs: Sequence[_Pair]) -> Likeness:
    """Any two of the pictures that cannot be of one sensor."""
    best = 0.0
    for pair in pairs:
        if pair.contrast < _DULL:
            continue
        if pair.is_mixed and pair.agreement < 0.65:
            best = max(best, 1 - pair.agreement / 2)
        # Structures do not agree either where the camera moved far between the two; then the
        # distributions do, and black surroundings do not keep their outline.
        others = pair.outline > 0.7 or (pair.spread > 0.2 and pair.order < 0.7)
        if pair.is_gray and pair.agreement < 0.45 and pair.stops < 2.5 and others:
            best = max(best, 0.9 - pair.agreement / 2)
    return Likeness("cross-modal", best) if best else _SILENCE


def _exposure(pairs: Sequence[_Pair]) -> Likeness:
    """All pictures of one structure, from dark to bright."""
    stops = sum(pair.stops for pair in pairs)
    if stops < 0.7 or any(pair.is_mixed for pair in pairs):
        return _SILENCE
    for pair in pairs:
        # Gray pictures may be of two sensors; two in colour hardly are, and far apart in
        # brightness they share little that neither cuts off.
        least = 0.85 if pair.is_gray else 0.6 if pair.stops < 2 else 0.38
        if pair.agreement < least:
            return _SILENCE
    weakest = min(pair.agreement for pair in pairs)
    return Likeness("exposure", float(min(1, 0.5 + (stops - 0.7) / 2) * min(1, weakest + 0.1)))


def _focus(
    pictures: Sequence[np.ndarray], views: Sequence[_View], pairs: Sequence[_Pair]
) -> Likeness:
    """One structure and tone; the ends of the set, or any neighbours, are sharp at other places."""
    if any(pair.agreement < 0.9 or abs(pair.stops) > 0.6 or pair.is_mixed for pair in pairs):
        return _SILENCE
    best = 0.0
    ends = [(0, len(pictures) - 1)] if len(pictures) > 2 else []
    for i, j in [*itertools.pairwise(range(len(pictures))), *ends]:
        moved = exposure.compare(views[i].cells, views[j].cells).shift
        sharp = [_sharpness(p) for p in cells.common([pictures[i], pictures[j]], *moved)]
        if min(sharp[0].shape) < 4:
            continue
        low, high = np.percentile(np.log2(sharp[0] / sharp[1]), (5, 95))
        best = max(best, min(-float(low), float(high)))
    return Likeness("focus", min(1.0, best / 2)) if best > 0.8 else _SILENCE


def _sharpness(picture: np.ndarray) -> np.ndarray:
    """Energy of the fine detail in squares of a fortieth of the picture; the green of colour."""
    planes = without_alpha(picture)
    step = max(1, max(planes.shape[:2]) // 1500)
    plane = to_float(planes[::step, ::step, planes.shape[-1] // 2])
    side = max(2, max(plane.shape) // 40)
    rows, columns = plane.shape[0] // side, plane.shape[1] // side
    energy = ndimage.laplace(plane)[: rows * side, : columns * side] ** 2
    return energy.reshape(rows, side, columns, side).mean((1, 3)) + 1e-5


def resemblance(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation of small copies of two pictures; a small bright thing hardly counts.

    Args:
        first: (H, W) or (H, W, C), of any range.
        second: likewise, of the same height and width.

    Returns:
        -1 to 1; 1 where one of them is flat, 0 for other sizes.
    """
    from scipy import stats  # a tenth of a second and 50 MB that only this needs

    small = []
    for pixels in (first, second):
        gray = np.asarray(image.luminance(without_alpha(pixels).astype(np.float32)))
        height, width = gray.shape[:2]
        plane = downscale(gray, min(_SMALL_SIDE, height), min(_SMALL_SIDE, width))
        ranks = stats.rankdata(plane)
        small.append(ranks - ranks.mean())
    if small[0].shape != small[1].shape:
        return 0.0
    power = float(np.sqrt((small[0] ** 2).sum() * (small[1] ** 2).sum()))
    return float((small[0] * small[1]).sum()) / power if power > 0 else 1.0
