"""Holes of exposures, filled with what other exposures show there, in the tone of the holed one.

A pyramid of full depth spreads what is missing at one place over the whole picture: where an
exposure has no weight in a hole, the others weigh more at the coarsest scale, everywhere. An
exposure without holes has its usual weight at every scale, and only the surroundings of the hole
feel what the fill does not get right.

The value in a hole is the mean that the exposure has elsewhere, where the other one has the value
that it has in the hole; of two others, each counts by how little such values spread. So what is
cut off in one of them is taken from the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from mgdn_jax import image
from mgdn_jax.fusing import pyramids
from mgdn_jax.fusing.masks import Mask
from mgdn_jax.io.pixels import from_float, to_float

_STEPS = 256  # of values
_SAMPLES = 400_000
_FEW = 30  # samples are too few for a relation
_BLUR = 3.0  # steps, over which the spread is averaged
_NOISE = 1 / 255  # least spread
_NEAREST = 2  # exposures that are always asked


@dataclasses.dataclass(frozen=True)
class Relation:
    """What one channel of an exposure is where another exposure has a value.

    Attributes:
        x: (n,) values of the other, rising.
        y: (n,) means of the exposure there, not falling.
        spread: (n,) variances around them.
    """

    x: np.ndarray
    y: np.ndarray
    spread: np.ndarray

    def __call__(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and variances at values in [0, 1]; beyond what was seen, in proportion."""
        inside = np.clip(values, self.x[0], self.x[-1])
        mean = np.interp(inside, self.x, self.y)
        beyond = np.clip(mean * values / np.maximum(inside, 1e-6), 0, 1)
        spread = np.interp(inside, self.x, self.spread) + (beyond - mean) ** 2
        return beyond, spread


def relation(other: np.ndarray, exposure: np.ndarray) -> Relation | None:
    """The relation of values at the same places; None where they are too few.

    Args:
        other: (n,) in [0, 1].
        exposure: (n,) in [0, 1].
    """
    from scipy import optimize  # a tenth of a second and 50 MB that only this needs

    if len(other) < _FEW:
        return None
    step = np.minimum((other * _STEPS).astype(np.int64), _STEPS - 1)
    count = np.bincount(step, minlength=_STEPS).astype(np.float64)
    seen = count > 0
    sums = [np.bincount(step, x, _STEPS)[seen] / count[seen] for x in (other, exposure)]
    mean = optimize.isotonic_regression(sums[1], weights=count[seen]).x
    table = np.zeros(_STEPS)
    table[seen] = mean
    error = np.bincount(step, (exposure - table[step]) ** 2, _STEPS)
    error, weight = (ndimage.gaussian_filter1d(v, _BLUR, mode="constant") for v in (error, count))
    spread = (error / np.maximum(weight, 1e-12))[seen] + _NOISE**2
    return Relation(sums[0], mean, spread)


class Filler:
    """Exposures of a scene without their holes.

    What fills a hole is found once and kept. Two pictures are held meanwhile.

    Attributes:
        covers: (H, W) bool where each exposure is there or was filled from others; None is
            everywhere, and is known once `fill` was called.
    """

    def __init__(
        self,
        load: Callable[[int], np.ndarray],
        covers: Sequence[Mask | None],
        order: Sequence[int],
        *,
        has_tone: bool = True,
    ):
        """Takes a scene.

        Args:
            load: number -> (H, W, C), C 1 or 3, uint8, uint16 or floats in [0, 1].
            covers: where each exposure is there; None is everywhere.
            order: exposures from dark to bright, as numbers.
            has_tone: whether other exposures fill holes; else they continue their surroundings.
        """
        self.covers = list(covers)
        self._load, self._there, self._order = load, tuple(covers), list(order)
        self._has_tone = has_tone
        self._fills: dict[int, np.ndarray] = {}

    def load(self, number: int) -> np.ndarray:
        """An exposure, (H, W, C), complete; nothing of it depends on what its hole hides."""
        picture, there = self._load(number), self._there[number]
        if there is None or there.all():
            return picture
        gap = ~there
        if number not in self._fills:
            self._fills[number] = self._filled(number, picture, there)[gap]
        picture = picture.copy()
        picture[gap] = self._fills[number]
        return picture

    def _filled(self, number: int, picture: np.ndarray, there: Mask) -> np.ndarray:
        """An exposure whose hole is filled, once."""
        if not self._has_tone:
            return pyramids.filled(picture, there)
        gap = ~there
        total = np.zeros((np.count_nonzero(gap), picture.shape[-1]))
        weight = np.zeros_like(total)
        place = self._order.index(number)
        near = sorted(range(len(self._order)), key=lambda i: abs(i - place))[1:]
        for rank, donor in enumerate(self._order[i] for i in near):
            donated = self._there[donor]
            is_here = np.ones(len(total), bool) if donated is None else donated[gap]
            if rank >= _NEAREST:
                is_here = is_here & (weight[:, 0] == 0)
            if is_here.any():
                other = _alike(self._load(donor), picture.shape[-1])
                relations = self._relations(picture, other, there, donated)
                for channel, known in enumerate(relations):
                    if known is not None:
                        mean, spread = known(to_float(other[..., channel][gap][is_here]))
                        total[is_here, channel] += mean / spread
                        weight[is_here, channel] += 1 / spread
        is_known = weight.min(-1) > 0
        values = total[is_known] / weight[is_known]
        result, done = picture.copy(), there.copy()
        done[gap] = is_known
        result[done & gap] = from_float(values.astype(np.float32), picture.dtype)
        self.covers[number] = None if done.all() else done
        return pyramids.filled(result, done)

    def _relations(
        self, picture: np.ndarray, other: np.ndarray, there: Mask, donated: Mask | None
    ) -> list[Relation | None]:
        """Of each channel, from where both are there."""
        both = there if donated is None else there & donated
        step = max(1, int((both.size / _SAMPLES) ** 0.5))
        grid = np.s_[::step, ::step]
        both = both[grid]
        return [
            relation(*(to_float(x[grid][..., channel][both]) for x in (other, picture)))
            for channel in range(picture.shape[-1])
        ]


def _alike(picture: np.ndarray, channels: int) -> np.ndarray:
    """A picture of so many channels, 1 or 3."""
    if picture.shape[-1] == channels:
        return picture
    if channels == 3:
        return np.broadcast_to(picture, (*picture.shape[:2], 3))
    gray = np.asarray(image.luminance(picture.astype(np.float32)))
    return (np.rint(gray) if picture.dtype.kind == "u" else gray).astype(picture.dtype)
