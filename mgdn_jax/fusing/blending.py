"""Exposures blended detail by detail: Mertens' weights, and the strongest structure there is.

Two rules are mixed, pixel by pixel, in one Laplacian pyramid (Burt and Adelson 1983). The first is
Mertens' (2007): at all levels a mean of the sources under their weights. The second takes from
each level of detail the structure of the strongest sources, at the strength of the strongest
(after Ma et al. 2017), over a base in which each exposure counts by its brightness. The first
keeps the look of the scene at large, the second keeps structure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from mgdn_jax import image
from mgdn_jax.fusing import pyramids, strips
from mgdn_jax.io.pixels import to_float

_WINDOW = 2.0  # deviation of the window in which strength is measured, at each level
_MARGIN = 9  # of a piece: the window, cut off at four deviations, and one more
_QUIET = 0.002  # strength that counts as none
_MOST = 3.0  # what a detail may be multiplied by
_GLOBAL, _LOCAL = 0.2, 0.5  # deviations around middle gray: of a whole exposure, of a place


@dataclasses.dataclass(frozen=True)
class Mixture:
    """What counts how much at each pixel; all weights add up to one.

    Attributes:
        weights: for each source (h, w), its weight at all levels.
        structure: (h, w), the share of the second rule, which looks at the exposures alone.
    """

    weights: Sequence[np.ndarray]
    structure: np.ndarray


def depth(height: int, width: int) -> int:
    """Levels of detail that a picture has: its shorter side can be halved so often."""
    return max(0, int(np.log2(min(height, width))))


def mertens(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Mertens' weight of each picture, (H, W) float32, not yet divided by their sum.

    Args:
        pictures: (H, W, C), uint8, uint16 or floats in [0, 1].
    """
    result = []
    for picture in pictures:
        weight = np.empty(picture.shape[:2], np.float32)

        def work(rows: slice, columns: slice, x: np.ndarray = picture, out=weight) -> None:
            part = np.clip(to_float(strips.window(x, rows, columns, 1)), 0, 1)
            out[rows, columns] = image.mertens_weight(part)[1:-1, 1:-1]

        strips.spread(work, *picture.shape[:2])
        result.append(weight)
    return result


def normalised(weights: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Weights divided by their sum, new arrays."""
    total = np.sum(weights, 0)
    return [weight / total for weight in weights]


def halved(picture: np.ndarray) -> np.ndarray:
    """The next level of a picture, (H, W, C) of any type -> (H/2, W/2, C) float32 in [0, 1]."""
    scale = 1.0 if np.issubdtype(picture.dtype, np.floating) else np.iinfo(picture.dtype).max
    planes = [_shrunk(picture[..., c]) for c in range(picture.shape[-1])]
    return np.stack(planes, -1) * np.float32(1 / scale)


def blend(
    sources: Sequence[np.ndarray], exposures: int, mixture: Mixture, levels: int
) -> np.ndarray:
    """Sources blended.

    Args:
        sources: (H, W, C) of one shape, uint8, uint16 or floats in [0, 1]: exposures, then other
            pictures of the scene that only the first rule takes into account.
        exposures: how many of them are exposures.
        mixture: weights of the size of the pictures.
        levels: of detail in the second rule; the base lies below. 0 uses the first rule alone.

    Returns:
        (H, W, C) float32, not cut off.
    """
    height, width = sources[0].shape[:2]
    weights = [*mixture.weights, mixture.structure]
    totals: list[np.ndarray] = []
    for _ in range(levels):
        coarse = [halved(source) for source in sources]
        total = np.zeros(sources[0].shape, np.float32)
        _add_level(total, sources, coarse, exposures, weights)
        totals.append(total)
        sources = coarse
        weights = [_shrunk(weight) for weight in weights]
    sources = [*sources, _base(sources[:exposures])]
    for _ in range(depth(height, width) - levels):
        coarse = [halved(source) for source in sources]
        total = np.zeros(sources[0].shape, np.float32)
        for source, small, weight in zip(sources, coarse, weights, strict=True):
            total += weight[..., None] * (to_float(source) - _expanded(small, source.shape))
        totals.append(total)
        sources = coarse
        weights = [_shrunk(weight) for weight in weights]
    fused = np.sum(
        [w[..., None] * s for w, s in zip(weights, map(to_float, sources), strict=True)], 0
    )
    for total in reversed(totals):
        _add_expanded(total, fused)
        fused = total
    return np.asarray(fused, np.float32)


def _add_level(
    total: np.ndarray,
    sources: Sequence[np.ndarray],
    coarse: Sequence[np.ndarray],
    exposures: int,
    weights: Sequence[np.ndarray],
) -> None:
    """Adds one level of detail of all sources, in pieces."""

    def work(rows: slice, columns: slice) -> None:
        details = [_detail(s, c, rows, columns) for s, c in zip(sources, coarse, strict=True)]
        inner = (slice(_MARGIN, -_MARGIN),) * 2
        share = weights[-1][rows, columns]
        structure = _structure(
            [np.asarray(image.luminance(d))[..., 0] for d in details[:exposures]]
        )
        for index, detail in enumerate(details):
            weight = weights[index][rows, columns]
            if index < exposures:
                weight = weight + share * structure[index][inner]
            total[rows, columns] += weight[..., None] * detail[inner]

    strips.spread(work, *total.shape[:2])


def _shrunk(plane: np.ndarray) -> np.ndarray:
    return pyramids.shrunk(plane, strips.reflected)


def _expanded(coarse: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A whole level of twice the size, (H, W, C)."""
    large = np.zeros(shape, np.float32)
    _add_expanded(large, coarse)
    return large


def _detail(source: np.ndarray, coarse: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """A piece of a level of detail with a margin; beyond the edge it is mirrored."""
    height, width = source.shape[:2]
    outer = [slice(s.start - _MARGIN, s.stop + _MARGIN) for s in (rows, columns)]
    # Of the picture itself first: what lies beyond the edge mirrors the detail.
    (top, bottom), (left, right) = (
        (max(s.start, 0), min(s.stop, n)) for s, n in zip(outer, (height, width), strict=True)
    )
    inside = slice(top, bottom), slice(left, right)
    detail = to_float(source[inside])
    planes = [
        pyramids.expanded(coarse[..., c], *inside, pyramids.beyond) for c in range(source.shape[-1])
    ]
    detail = detail - np.stack(planes, -1)
    here = slice(rows.start - top, rows.stop - top)
    there = slice(columns.start - left, columns.stop - left)
    return strips.window(detail, here, there, _MARGIN)


def _structure(details: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The factor of each exposure's detail in the second rule, (h, w) each.

    Where the exposures agree they are averaged towards the strongest, where they do not they are
    averaged evenly, as the reference of MEF-SSIM is built; then all is raised to the largest
    strength.
    """

    def strength(x: np.ndarray) -> np.ndarray:
        return np.asarray(np.sqrt(ndimage.gaussian_filter(x * x, _WINDOW)) + np.float32(_QUIET))

    strengths = [strength(x) for x in details]
    strongest = np.max(strengths, 0)
    together = strength(np.sum(details, 0))
    agreement = np.clip(together / np.sum(strengths, 0), 0, 0.999)
    power = np.minimum(np.tan(np.pi / 2 * agreement), 10)
    factors = normalised([(s / strongest) ** power for s in strengths])
    mixed = np.sum([f * x for f, x in zip(factors, details, strict=True)], 0)
    gain = np.minimum(strongest / strength(mixed), _MOST)
    return [factor * gain for factor in factors]


def _base(exposures: Sequence[np.ndarray]) -> np.ndarray:
    """Exposures averaged by how near to middle gray each is on the whole and at each place."""
    weights = []
    for exposure in exposures:
        y = np.asarray(image.luminance(to_float(exposure)))[..., 0]
        far = (float(y.mean()) - 0.5) ** 2 / _GLOBAL**2 + (y - 0.5) ** 2 / _LOCAL**2
        weights.append(np.exp(-far / 2) + 1e-6)
    weights = normalised(weights)
    parts = [w[..., None] * to_float(x) for w, x in zip(weights, exposures, strict=True)]
    return np.asarray(np.sum(parts, 0), np.float32)


def _add_expanded(total: np.ndarray, coarse: np.ndarray) -> None:
    def work(rows: slice, columns: slice) -> None:
        for channel in range(total.shape[-1]):
            total[rows, columns, channel] += pyramids.expanded(
                coarse[..., channel], rows, columns, pyramids.beyond
            )

    strips.spread(work, *total.shape[:2])
