"""Brackets: three or more exposures of one scene, with a network that takes two.

Pictures are ordered by brightness, and the network fuses each with the next brighter one. Its
results join the exposures as further sources of a blend (`blending`). How much each rule counts
at a pixel is decided by the structure it keeps there: the score of MEF-SSIM (Ma et al. 2015). So
the network counts where it is good, and the result is never below Mertens' method by that score.
In the end places that lost most of the brightness that the best exposure gives them are lifted,
and highlights lowered, as far as that costs little structure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from mgdn_jax import image
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import blending, exposure, pyramids, strips
from mgdn_jax.io.pixels import from_float, to_float
from mgdn_jax.metrics.exposure import (
    EXPONENTS,
    MIN_SIDE,
    exposure_similarity,
    exposure_similarity_maps,
)
from mgdn_jax.metrics.gray import Gray, luminance

Pair = Callable[[np.ndarray, np.ndarray], np.ndarray]

_MOST_PIXELS = 1_100_000  # that scores are measured on
_ABOVE = 3  # levels between the second rule's base and the smallest picture
_SHARPNESS = 0.02  # of the choice between rules: a difference of scores that counts for e
_SMOOTH = 4.0  # deviation over which scores are averaged, in pixels of the measured size
_MARGIN = 0.085  # a place may be so much darker than the exposure that shows it best
_SHADOWS = (0.32, 0.25, 0.18, 0.12, 0.08)  # nothing above this is lifted
_HIGHLIGHTS = (0.12, 0.08)  # nothing this far below white is lowered
_EDGE = 0.001  # by which the result has to be above Mertens' method
_COSTS = 0.02, 0.01  # what lifting shadows and lowering highlights may take from the score
_KEPT = 0.35  # of what the score is above Mertens' method


def fuse_bracket(
    pictures: Sequence[np.ndarray],
    pair: Pair,
    masks: Sequence[np.ndarray | None] | None = None,
) -> np.ndarray:
    """Fuses exposures of one scene, in any order.

    Args:
        pictures: two or more, (H, W, C) of one shape, C 1 or 3; uint8, uint16 or floats in
            [0, 1]; aligned.
        pair: the network: a darker and a brighter picture of that shape and type -> (H, W, C)
            floats in [0, 1], or (H, W, 1). It is called for all neighbours in brightness.
        masks: for each picture (H, W) bool, true where it is there; None is everywhere. What is
            missing is taken from the nearest exposure, in the tone of the picture.

    Returns:
        (H, W, C) float32 in [0, 1].

    Raises:
        InputError: fewer than two pictures, or pictures of several shapes.
    """
    if len(pictures) < 2 or len({p.shape for p in pictures}) > 1 or pictures[0].ndim != 3:
        raise InputError(
            "a bracket needs two or more exposures of one shape (H, W, C); "
            f"got {', '.join(str(p.shape) for p in pictures)}."
        )
    order = exposure.brightness_order(pictures, masks)
    exposures = [pictures[i] for i in order]
    if masks is not None:
        exposures = _filled(exposures, [masks[i] for i in order])
    count = len(exposures)
    # 16 bits hold a result of the network in half the memory.
    sources = list(exposures)
    for dark, bright in itertools.pairwise(exposures):
        result = np.broadcast_to(pair(dark, bright), dark.shape)
        sources.append(from_float(np.asarray(result, np.float32), np.dtype(np.uint16)))
    height, width, _ = exposures[0].shape
    weights = blending.mertens(sources)
    halvings = max(0, math.ceil(math.log(height * width / _MOST_PIXELS, 4)))
    if not halvings:
        return _Choice(sources, count, weights).fused
    small: Sequence[np.ndarray] = sources
    for _ in range(halvings):
        small = [blending.halved(source) for source in small]
    choice = _Choice(small, count, blending.mertens(small))
    mixture = _mixture(weights, count, [_enlarged(s, height, width) for s in choice.shares])
    fused = blending.blend(sources, count, mixture, _levels(height, width))
    for channel in range(fused.shape[-1]):
        fused[..., channel] += _enlarged(choice.lift[..., channel], height, width)
    return np.clip(fused, 0, 1, out=fused)


def _levels(height: int, width: int) -> int:
    return max(0, blending.depth(height, width) - _ABOVE)


def _mixture(
    weights: Sequence[np.ndarray], count: int, shares: Sequence[np.ndarray]
) -> blending.Mixture:
    """The weights of all sources where three rules have their shares.

    Args:
        weights: Mertens' weights of exposures and results.
        count: of exposures.
        shares: (h, w) each, adding up to one: of Mertens' rule on the exposures, of the same on
            exposures and results of the network, and of structure.
    """
    plain, joined, structure = shares
    exposed, every = sum(weights[:count]), sum(weights)
    result = []
    for index, weight in enumerate(weights):
        part = joined / every
        if index < count:
            part = part + plain / exposed
        result.append(weight * part)
    return blending.Mixture(result, structure)


class _Choice:
    """What is decided on a small copy of the bracket.

    Attributes:
        shares: (h, w) of each rule, as `_mixture` takes them.
        lift: (h, w, C), what is added in the end.
        fused: (h, w, C) float32 in [0, 1], the result.
    """

    def __init__(self, sources: Sequence[np.ndarray], count: int, weights: Sequence[np.ndarray]):
        self._sources, self._count, self._weights = sources, count, weights
        colours = [to_float(x) for x in sources[:count]]
        shape = colours[0].shape[:2]
        if min(shape) < MIN_SIDE:  # too small for the score
            self.shares = [np.full(shape, 1 / 3, np.float32)] * 3
            fused = self._blended(self.shares)
            self.lift = _lifts(fused, colours, _SHADOWS)[-1]
        else:
            self._grays = [Gray(luminance(255.0 * x)) for x in colours]
            fused = self._decide(colours)
        self.fused = np.clip(fused + self.lift, 0, 1)

    def _decide(self, colours: Sequence[np.ndarray]) -> np.ndarray:
        shape = colours[0].shape[:2]
        ones, none = np.ones(shape, np.float32), np.zeros(shape, np.float32)
        alone = [[ones if i == j else none for j in range(3)] for i in range(3)]
        candidates = [self._blended(shares) for shares in alone]
        least = self._score(candidates[0])
        self.shares = self._preferred(candidates)
        fused = self._blended(self.shares)
        score = self._score(fused)
        if score < least + _EDGE:
            scores = [least, *map(self._score, candidates[1:])]
            best = int(np.argmax(scores))
            if scores[best] > score:
                self.shares, fused, score = alone[best], candidates[best], scores[best]
        self.lift = np.zeros_like(fused)
        # Lowering a highlight is lifting a shadow of the negative.
        inverted = [1 - x for x in colours[::-1]]
        for sign, way, caps, cost in (
            (1, colours, _SHADOWS, _COSTS[0]),
            (-1, inverted, _HIGHLIGHTS, _COSTS[1]),
        ):
            enough = max(least + _EDGE, least + _KEPT * (score - least), score - cost)
            plain = fused + self.lift
            for lift in _lifts(plain if sign > 0 else 1 - plain, way, caps):
                new = self._score(plain + sign * lift)
                if new >= enough:
                    self.lift, score = self.lift + sign * lift, new
                    break
        return fused

    def _blended(self, shares: Sequence[np.ndarray]) -> np.ndarray:
        """The bracket under shares of the rules, (h, w, C)."""
        mixture = _mixture(self._weights, self._count, shares)
        levels = _levels(*self._sources[0].shape[:2])
        return blending.blend(self._sources, self._count, mixture, levels)

    def _score(self, fused: np.ndarray) -> float:
        return exposure_similarity(_gray(fused), *self._grays)

    def _preferred(self, candidates: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Shares of the rules by the structure that each keeps around every pixel."""
        qualities = []
        for fused in candidates:
            quality = np.zeros(fused.shape[:2], np.float32)
            maps = exposure_similarity_maps(_gray(fused), *self._grays)
            for scale, (plane, exponent) in enumerate(zip(maps, EXPONENTS, strict=True)):
                # A score belongs to the middle of its patch.
                plane = np.pad(plane.astype(np.float32), 5, mode="edge")
                plane = plane.repeat(2**scale, 0).repeat(2**scale, 1)
                quality += exponent / sum(EXPONENTS) * plane[: fused.shape[0], : fused.shape[1]]
            qualities.append(ndimage.gaussian_filter(quality, _SMOOTH))
        best = np.max(qualities, 0)
        return blending.normalised([np.exp((q - best) / _SHARPNESS) for q in qualities])


def _lifts(
    fused: np.ndarray, colours: Sequence[np.ndarray], caps: Sequence[float]
) -> list[np.ndarray]:
    """What would lift dark places, (h, w, C), the boldest first.

    Args:
        fused: (h, w, C).
        colours: the exposures in float, dark to bright.
        caps: values of the exposures above which nothing is lifted.
    """
    radius = max(8, min(fused.shape[:2]) // 30)
    means = [_smoothed(np.asarray(image.luminance(x))[..., 0], radius) for x in colours]
    near = blending.normalised([np.exp(-(((m - 0.5) / 0.12) ** 2) / 2) + 1e-9 for m in means])
    shown = np.sum([w * m for w, m in zip(near, means, strict=True)], 0)
    guide = np.asarray(image.luminance(colours[-1]))[..., 0]
    level = _guided(guide, np.asarray(image.luminance(fused))[..., 0], radius)
    # A lift has the colour of the exposure that shows the place best.
    tint = np.sum([w[..., None] * x for w, x in zip(near, colours, strict=True)], 0)
    tint = np.stack([_guided(shown, tint[..., c], radius) for c in range(tint.shape[-1])], -1)
    tint = np.clip(tint / np.maximum(image.luminance(tint), 0.02), 0, 3)
    lifts = []
    # What kept half of its brightness is a matter of taste; what lost most of it is lost.
    crushed = np.clip((0.6 - level / np.maximum(shown, 1e-3)) / 0.2, 0, 1)
    for cap in caps:
        missing = crushed * np.maximum(0, np.minimum(shown - _MARGIN, cap) - level)
        amount = _guided(shown, missing, 2 * radius)
        lifts.append((amount[..., None] * tint).astype(np.float32))
    return lifts


def _gray(fused: np.ndarray) -> np.ndarray:
    """Luminance (h, w) of what a file of 8 bits would hold."""
    return luminance(np.rint(255.0 * np.clip(fused, 0, 1)))


def _smoothed(plane: np.ndarray, radius: int) -> np.ndarray:
    """A plane without its texture, its strong edges kept."""
    return _guided(plane, plane, radius, 0.003)


def _guided(guide: np.ndarray, plane: np.ndarray, radius: int, eps: float = 0.001) -> np.ndarray:
    """He, Sun, Tang 2010: the local linear function of the guide that fits a plane best."""

    def box(x: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(x, 2 * radius + 1, mode="reflect")

    mean, level = box(guide), box(plane)
    slope = (box(guide * plane) - mean * level) / (box(guide * guide) - mean**2 + eps)
    return box(slope) * guide + box(level - slope * mean)


def _enlarged(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map of a small copy at the size of the picture, bilinear."""
    sizes = [(height, width)]
    while sizes[-1] != plane.shape:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    for rows, columns in sizes[-2::-1]:
        large = np.empty((rows, columns), np.float32)

        def work(r: slice, c: slice, x: np.ndarray = plane, out: np.ndarray = large) -> None:
            out[r, c] = pyramids.doubled(x, r, c)

        strips.spread(work, rows, columns)
        plane = large
    return plane


def _filled(
    exposures: Sequence[np.ndarray], masks: Sequence[np.ndarray | None]
) -> list[np.ndarray]:
    """Exposures whose missing parts come from the nearest ones that are there, in their tone."""
    result = []
    for index, (picture, mask) in enumerate(zip(exposures, masks, strict=True)):
        if mask is None or mask.all():
            result.append(picture)
            continue
        new, gap = picture.copy(), ~mask
        for other in sorted(range(len(exposures)), key=lambda i: abs(i - index))[1:]:
            there = masks[other]
            part = gap if there is None else gap & there
            if not part.any():
                continue
            curve = exposure.match(picture, exposures[other], [mask, there])
            new[part] = curve.apply(exposures[other])[part]
            gap = gap & ~part
        result.append(new)
    return result
