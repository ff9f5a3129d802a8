"""Which picture is sharp where: evidence at four scales and a prior, for any number of pictures.

The energy E of a picture is the sum of its squared second differences along x and y of luminance,
smoothed by a Gaussian of deviation 1.5; the picture is mirrored at its edge, the border pixel
included. Its score is

    s = log(E + n^2) + 0.3 (the same at 1/2, 1/4 and 1/8 of the size, enlarged) + p log(prior)

with n = 0.012, about three levels of 8 bits: less is noise. The share p is 0.3, and less where the
blur is so narrow that fine evidence knows better than a reduced picture (`prior_share`). Of all
pictures the weights are softmax(4 s), smoothed by a Gaussian of deviation 1. For two pictures that
is the sigmoid of four times the difference of their scores.

Where a coverage says that a picture is not there, no difference that touches such a place counts,
the energy is the mean over the others (normalised filtering), and the weight is zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mgdn_jax import image
from mgdn_jax.fusing import pyramids, strips

LEVELS = 4
"""Scales of the evidence: full size, 1/2, 1/4, 1/8."""
NOISE = 0.012
"""Second differences below it, on luminance in [0, 1], are noise."""
COARSE = 0.3
"""Share of each coarser scale."""
PRIOR = 0.3
"""Share of the logarithm of the prior, at most."""
STEEPNESS = 4.0
"""Of the softmax over scores."""
FLOOR = 0.03
"""Added to a prior, so that no picture is excluded by it."""

_RADIUS, _SMOOTH = 6, 4
_ENERGY_TAPS = image.gaussian_window(2 * _RADIUS + 1, 1.5).astype(np.float32)
_WEIGHT_TAPS = image.gaussian_window(2 * _SMOOTH + 1, 1.0).astype(np.float32)
_LEAST = np.float32(1e-12)


def luminance(picture: np.ndarray) -> np.ndarray:
    """Luminance in [0, 1] of (h, w, 1 or 3) uint8, uint16 or float pixels: (h, w) float32."""
    scale = np.iinfo(picture.dtype).max if picture.dtype.kind == "u" else 1
    if picture.shape[-1] == 1:
        return np.multiply(picture[..., 0], np.float32(1 / scale), dtype=np.float32)
    total = np.multiply(picture[..., 0], np.float32(image.LUMA[0] / scale), dtype=np.float32)
    for channel in (1, 2):
        share = np.float32(image.LUMA[channel] / scale)
        total += np.multiply(picture[..., channel], share, dtype=np.float32)
    return total


def log_energy(plane: np.ndarray, coverage: np.ndarray | None = None) -> np.ndarray:
    """Logarithm of the energy of a piece that has a margin of `MARGIN` positions.

    Args:
        plane: (h + 2 MARGIN, w + 2 MARGIN) float32, luminance in [0, 1].
        coverage: of the same size, bool, where it is there; None is everywhere.

    Returns:
        (h, w) float32.
    """
    middle = plane[1:-1, 1:-1]
    energy = plane[:-2, 1:-1] + plane[2:, 1:-1]
    energy -= 2 * middle
    energy *= energy
    across = plane[1:-1, :-2] + plane[1:-1, 2:]
    across -= 2 * middle
    across *= across
    energy += across
    if coverage is not None and not coverage.all():
        whole = coverage[1:-1, 1:-1] & coverage[:-2, 1:-1] & coverage[2:, 1:-1]
        whole &= coverage[1:-1, :-2] & coverage[1:-1, 2:]
        energy *= whole
        share = strips.filtered(whole.astype(np.float32), _ENERGY_TAPS)
        energy = strips.filtered(energy, _ENERGY_TAPS)
        # Sums of rounded taps may leave a trace where nothing is there.
        energy /= np.maximum(share, np.float32(1e-6))
    else:
        energy = strips.filtered(energy, _ENERGY_TAPS)
    energy += np.float32(NOISE * NOISE)
    return np.log(energy, out=energy)


MARGIN = _RADIUS + 1
"""Positions around a piece that its energy needs."""


def prior_share(blur: float) -> float:
    """Share of the prior's logarithm: none up to a blur radius of 6 pixels, `PRIOR` from 16 on.

    Where the blur is narrow, evidence at full size is better alone: by 0.1 dB at radius 4.
    """
    return PRIOR * min(max((blur - 6) / 10, 0.0), 1.0)


class Evidence:
    """The evidence of one picture, ready to be asked for pieces of its score.

    Holds one float map of half the picture's size beside the picture.

    Attributes:
        picture: (H, W, C).
        coverage: (H, W) bool where the picture is there, or None.
        energies: log energy at 1/4, 1/8, ... of the size, for an estimate of the blur.
    """

    def __init__(
        self,
        picture: np.ndarray,
        coverage: np.ndarray | None = None,
        *,
        depth: int = LEVELS,
    ):
        """Measures the coarser scales.

        Args:
            picture: (H, W, 1 or 3), uint8, uint16 or floats in [0, 1].
            coverage: (H, W) bool, or None.
            depth: number of scales to measure; those beyond `LEVELS` serve `energies` alone.
        """
        self.picture = picture
        self.coverage = coverage
        maps = _coarser_energies(picture, coverage, max(depth, LEVELS))
        self.energies = maps[1:]
        self._coarse = _gathered(maps[: LEVELS - 1])

    def add_prior(self, prior: np.ndarray, share: float = PRIOR) -> None:
        """Adds the share of the prior to the score.

        Args:
            prior: (h, w) float32, at least 0; of any size, stretched over the picture.
            share: of its logarithm.
        """
        logarithm = np.float32(share) * np.log(prior.astype(np.float32) + np.float32(FLOOR))
        coarse = self._coarse

        def work(rows: slice, columns: slice) -> None:
            coarse[rows, columns] += stretched(logarithm, coarse.shape, rows, columns)

        strips.spread(work, *coarse.shape)

    def score(self, rows: slice, columns: slice, margin: int = 0) -> np.ndarray:
        """The score of a piece, (rows + 2 margin, columns + 2 margin) float32."""
        around = margin + MARGIN
        plane = luminance(strips.window(self.picture, rows, columns, around))
        coverage = self.coverage
        covered = None if coverage is None else strips.window(coverage, rows, columns, around)
        score = log_energy(plane, covered)
        grown = (slice(s.start - margin, s.stop + margin) for s in (rows, columns))
        score += pyramids.doubled(self._coarse, *grown)
        return score

    def share(
        self, reference: np.ndarray | float, rows: slice, columns: slice, margin: int = 0
    ) -> np.ndarray:
        """exp(4 (s - reference)) of a piece, zero where the picture is not there."""
        share = self.score(rows, columns, margin)
        share -= reference
        share *= np.float32(STEEPNESS)
        np.exp(np.minimum(share, np.float32(20), out=share), out=share)
        if self.coverage is not None:
            share *= strips.window(self.coverage, rows, columns, margin)
        return share


def _coarser_energies(
    picture: np.ndarray, coverage: np.ndarray | None, depth: int
) -> list[np.ndarray]:
    """Log energy at 1/2, 1/4, ... of the size."""
    plane = _half_luminance(picture)
    covered = None if coverage is None else _all_of_four(coverage)
    maps = []
    for level in range(1, depth):
        maps.append(_energies(plane, covered))
        if level + 1 < depth:
            plane = pyramids.halved(plane)
            covered = None if covered is None else _all_of_four(covered)
    return maps


def _half_luminance(picture: np.ndarray) -> np.ndarray:
    height, width = ((n + 1) // 2 for n in picture.shape[:2])
    out = np.empty((height, width), np.float32)

    def work(rows: slice, columns: slice) -> None:
        x = strips.window(picture, pyramids.twice(rows), pyramids.twice(columns))
        x = luminance(x)
        total = x[::2, ::2] + x[1::2, ::2]
        total += x[::2, 1::2]
        total += x[1::2, 1::2]
        np.multiply(total, np.float32(0.25), out=out[rows, columns])

    strips.spread(work, height, width)
    return out


def _all_of_four(coverage: np.ndarray) -> np.ndarray:
    height, width = ((n + 1) // 2 for n in coverage.shape)
    x = strips.window(coverage, slice(0, 2 * height), slice(0, 2 * width))
    return x[::2, ::2] & x[1::2, ::2] & x[::2, 1::2] & x[1::2, 1::2]


def _energies(plane: np.ndarray, coverage: np.ndarray | None) -> np.ndarray:
    out = np.empty(plane.shape, np.float32)

    def work(rows: slice, columns: slice) -> None:
        covered = None if coverage is None else strips.window(coverage, rows, columns, MARGIN)
        piece = strips.window(plane, rows, columns, MARGIN)
        out[rows, columns] = log_energy(piece, covered)

    strips.spread(work, *plane.shape)
    return out


def _gathered(maps: Sequence[np.ndarray]) -> np.ndarray:
    """The coarser scales' share of the score, at the size of the first of them."""
    total = maps[-1]
    for finer in reversed(maps[:-1]):
        grown = finer.copy()
        _add_doubled(grown, total)
        total = grown
    return total * np.float32(COARSE)


def _add_doubled(target: np.ndarray, coarse: np.ndarray) -> None:
    def work(rows: slice, columns: slice) -> None:
        target[rows, columns] += pyramids.doubled(coarse, rows, columns)

    strips.spread(work, *target.shape)


def stretched(array: np.ndarray, size: Sequence[int], rows: slice, columns: slice) -> np.ndarray:
    """A piece of a map that is enlarged (bilinear, pixel centres) over another size.

    Args:
        array: (h, w) float32.
        size: height and width to stretch it over.
        rows: of the piece.
        columns: of the piece.

    Returns:
        (rows, columns) float32.
    """
    for axis, wanted in enumerate((rows, columns)):
        length = array.shape[axis]
        places = (np.arange(wanted.start, wanted.stop) + 0.5) * (length / size[axis]) - 0.5
        places = np.clip(places, 0, length - 1)
        first = np.minimum(places.astype(int), max(length - 2, 0))
        second = np.minimum(first + 1, length - 1)
        part = (places - first).astype(np.float32)
        part = part[:, None] if axis == 0 else part
        array = array.take(first, axis) * (1 - part) + array.take(second, axis) * part
    return array


def reference(members: Sequence[Evidence], rows: slice, columns: slice, margin: int) -> np.ndarray:
    """log(sum(exp(4 s))) / 4 over pictures: scores less it are logarithms of weights over four."""
    total: np.ndarray | None = None
    for member in members:
        score = covered_score(member, rows, columns, margin)
        total = score if total is None else joined(total, score)
    assert total is not None
    return total


def covered_score(member: Evidence, rows: slice, columns: slice, margin: int = 0) -> np.ndarray:
    """The score of a piece, very low where the picture is not there."""
    score = member.score(rows, columns, margin)
    if member.coverage is not None:
        score[~strips.window(member.coverage, rows, columns, margin)] = -1e3
    return score


def joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """log(exp(4 a) + exp(4 b)) / 4, without overflow."""
    larger = np.maximum(first, second)
    gap = np.abs(first - second)
    gap *= np.float32(-STEEPNESS)
    np.exp(gap, out=gap)
    np.log1p(gap, out=gap)
    gap *= np.float32(1 / STEEPNESS)
    larger += gap
    return larger


def smoothed(
    member: Evidence, level: np.ndarray | float, rows: slice, columns: slice
) -> np.ndarray:
    """A picture's weight in a piece before it is divided by the sum over pictures, (h, w).

    Args:
        member: the picture's evidence.
        level: `reference` of the piece with a margin of `REACH` positions, or a constant.
        rows: of the piece.
        columns: of the piece.
    """
    weight = strips.filtered(member.share(level, rows, columns, REACH), _WEIGHT_TAPS)
    if member.coverage is not None:
        weight *= member.coverage[rows, columns]
    return weight


REACH = _SMOOTH
"""Positions around a piece that its weights need."""


def weights(members: Sequence[Evidence], rows: slice, columns: slice) -> list[np.ndarray]:
    """Weights of all pictures in a piece; they sum to one where any picture is there.

    Args:
        members: evidence of each picture.
        rows: of the piece.
        columns: of the piece.

    Returns:
        (h, w) float32 for each picture.
    """
    if len(members) == 2 and all(member.coverage is None for member in members):
        gap = members[1].score(rows, columns, REACH)
        gap -= members[0].score(rows, columns, REACH)
        gap *= np.float32(STEEPNESS)
        np.exp(np.minimum(gap, np.float32(80), out=gap), out=gap)
        gap += 1
        first = strips.filtered(np.reciprocal(gap, out=gap), _WEIGHT_TAPS)
        return [first, 1 - first]
    level = reference(members, rows, columns, REACH)
    parts = [smoothed(member, level, rows, columns) for member in members]
    if any(member.coverage is not None for member in members):
        total = np.maximum(sum(parts), _LEAST)
        parts = [part / total for part in parts]
    return parts
