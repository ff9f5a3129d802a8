"""How far exposures lie apart, by the vote of the parts of the picture.

A textured thing that moves has more edges than the sky behind it, and would win wherever edges are
added up. So the picture is cut into cells. Each measures its own displacement, where neither
exposure is black or saturated, and has one vote, however strong its edges are. The movement of the
camera is what most cells agree on.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy import fft, ndimage

from mgdn_jax.fusing.resampling import present, reduced_luminance
from mgdn_jax.fusing.transforms import Transform

SIDE, COARSE_SIDE = 640, 160
"""Longest sides of the luminances on which cells are compared."""

_WHITE, _BLACK = 0.97, 0.012  # shares of full scale beyond which a pixel says nothing
_CELLS = 10  # along the longer side
_CELL_SIDE = 24, 72  # pixels of a cell's side, at least and at most
_REACH, _COARSE_REACH, _NEAR = 14, 28, 5  # pixels in which a cell is looked for
_NOISE = 0.5 / 255  # an edge of this height is noise
_FULL_SIZE = 400  # known pixels of a cell from which on its correlation counts as it is
_CLEAR, _CLEAR_NEAR = 0.3, 0.2  # correlation above which a cell has a vote; chance is rarer near
_AGREED = 1.0  # pixels by which a cell's displacement may differ from the camera's
_MOST_TURN, _MOST_GROWTH = 0.06, 0.05  # radians, and share, between two exposures
_FEWEST = 5  # cells with a vote, below which nothing is concluded


@dataclasses.dataclass(frozen=True)
class Edges:
    """An exposure reduced to what its cells compare.

    Attributes:
        fields: (h, w) complex64 each, the edges of even local strength, from fine to coarse; zero
            where nothing is known.
        known: (h, w) bool each, where the exposure is neither black nor saturated.
        units: pixels of the exposure in a pixel of each field.
        size: (height, width) of the exposure.
        brightness: mean luminance.
    """

    fields: tuple[np.ndarray, ...]
    known: tuple[np.ndarray, ...]
    units: tuple[float, ...]
    size: tuple[int, int]
    brightness: float


@dataclasses.dataclass(frozen=True)
class Ballot:
    """What the cells of two exposures say.

    Attributes:
        points: (n, 2) middles of cells in the first exposure, x and y in its pixels.
        moves: (n, 2) where each lies in the second, less `points`.
        weights: (n,) votes of cells, 0 to 1; 0 for those that find themselves nowhere.
        unit: pixels of the exposure in a pixel of what was compared.
        side: of a cell in pixels.
    """

    points: np.ndarray
    moves: np.ndarray
    weights: np.ndarray
    unit: float
    side: float

    @property
    def tolerance(self) -> float:
        """Pixels by which a cell may differ and agree."""
        return _AGREED * self.unit

    @property
    def count(self) -> int:
        """Cells with a vote."""
        return int((self.weights > 0).sum())

    def errors(self, transform: Transform) -> np.ndarray:
        """Pixels (n,) by which cells differ from a transform of the first onto the second."""
        moved = transform.apply(self.points)
        return np.linalg.norm(moved - self.points - self.moves, axis=1)

    def support(self, transform: Transform) -> float:
        """The share of votes, 0 to 1, that a transform of the first onto the second gets."""
        total = float(self.weights.sum())
        agreed = self.errors(transform) <= self.tolerance
        return float(self.weights[agreed].sum()) / total if total else 0.0

    def disagreement(self, transform: Transform) -> float:
        """Mean pixels by which the better half of the votes differs from a transform."""
        errors, weights = self.errors(transform), self.weights
        order = np.argsort(errors)
        passed = np.cumsum(weights[order])
        better = order[passed <= max(0.5 * weights.sum(), passed[0])] if len(order) else order
        total = float(weights[better].sum())
        return float((weights[better] * errors[better]).sum()) / total if total else 0.0

    def dissenting(self, transform: Transform, size: tuple[int, ...], unit: float) -> np.ndarray:
        """Where more cells differ from a transform than agree, (h, w) bool.

        Args:
            transform: of the first exposure onto the second.
            size: height and width of the map.
            unit: pixels of the exposure in a pixel of it.
        """
        balance = np.zeros(size, np.int32)
        errors = self.errors(transform)
        for (x, y), error, weight in zip(self.points, errors, self.weights, strict=True):
            if weight > 0:
                (top, bottom), (left, right) = (
                    [max(0, round((at + side * self.side / 2) / unit)) for side in (-1, 1)]
                    for at in (y, x)
                )
                balance[top:bottom, left:right] += 1 if error > 2 * self.tolerance else -1
        return balance > 0


# ------------------------------------------------------------------------------------- edges


def edges(pixels: np.ndarray, mask: np.ndarray | None = None) -> Edges:
    """Reduces an exposure to the edges that its cells compare.

    Args:
        pixels: (H, W) or (H, W, C), integers or floats in [0, 1].
        mask: (H, W), true where the exposure is there; None where its alpha, if any, is at least
            half.
    """
    plane, factor = reduced_luminance(pixels, SIDE)
    unit = int(factor[0])
    known = _known(pixels, present(pixels) if mask is None else mask)
    known = _blocks(known, unit, plane.shape) > 0.999
    fields, places, units = [_field(plane, known)], [known], [float(unit)]
    step = -(-max(plane.shape) // COARSE_SIDE)
    if step > 1 and min(plane.shape) // step >= _CELL_SIDE[0]:
        size = plane.shape[0] // step, plane.shape[1] // step
        there = _blocks(known, step, size)
        # Beside what is saturated stands what the rest of the block shows.
        small = _blocks(plane * known, step, size) / np.maximum(there, np.float32(1e-3))
        fields.append(_field(small, there > 0.5))
        places.append(there > 0.5)
        units.append(float(unit * step))
    return Edges(tuple(fields), tuple(places), tuple(units), pixels.shape[:2], float(plane.mean()))


def _known(pixels: np.ndarray, there: np.ndarray | None) -> np.ndarray:
    """Where the channels are neither all saturated nor all black, (H, W) bool."""
    planes = pixels[..., None] if pixels.ndim == 2 else pixels
    planes = planes[..., : 3 if planes.shape[-1] >= 3 else 1]
    full = 1.0 if planes.dtype.kind == "f" else float(np.iinfo(planes.dtype).max)
    known = (planes.min(-1) < _WHITE * full) & (planes.max(-1) > _BLACK * full)
    return known if there is None else known & there


def _blocks(plane: np.ndarray, step: int, size: tuple[int, ...]) -> np.ndarray:
    """Means of blocks, (h, w) float32."""
    height, width = size[0] * step, size[1] * step
    used = plane[:height, :width].reshape(size[0], step, size[1], step)
    return used.mean((1, 3), dtype=np.float32)


def _field(plane: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Gradients as complex numbers, divided by their own strength near by."""
    smooth = ndimage.gaussian_filter(plane, 1.0, truncate=2.5)
    field = np.zeros(plane.shape, np.complex64)
    field.real[:, 1:-1] = smooth[:, 2:] - smooth[:, :-2]
    field.imag[1:-1] = smooth[2:] - smooth[:-2]
    # What the filters mixed with pixels that say nothing says nothing, either.
    inner = ndimage.minimum_filter(known, 5, mode="nearest")
    field[~inner] = 0
    power = field.real**2 + field.imag**2
    for _ in range(2):
        power = ndimage.uniform_filter(power, 15, mode="nearest")
    share = inner.astype(np.float32)
    for _ in range(2):
        share = ndimage.uniform_filter(share, 15, mode="nearest")
    power = power / np.maximum(share, np.float32(1e-2)) + np.float32(_NOISE**2)
    return field / np.sqrt(power)


# ------------------------------------------------------------------------------------- votes


def ballot(first: Edges, second: Edges, start: Transform | None = None) -> Ballot:
    """Asks the cells of one exposure where they lie in another.

    Args:
        first: the exposure that is cut into cells.
        second: the one they are looked for in, of one size with it.
        start: from the first onto the second, near which alone they are looked for; None looks
            everywhere within a sixth of the picture.
    """
    if start is not None:
        return _Cells(first, second, 0, start, near=True).ballot()
    starts = [Transform.identity()]
    if len(first.fields) > 1:
        coarse = _Cells(first, second, 1, starts[0])
        x, y = coarse.favourite()[0]
        if max(abs(x), abs(y)) > _REACH / 2 * first.units[0]:
            starts.append(_shifting(x, y))
    trials = [_Cells(first, second, 0, start) for start in starts]
    return max(trials, key=lambda cells: cells.favourite()[1]).ballot()


class _Cells:
    """Cells of one exposure and their correlations with places of another."""

    def __init__(
        self, first: Edges, second: Edges, level: int, start: Transform, *, near: bool = False
    ):
        """Correlates every cell with what lies around its place.

        Args:
            first: the exposure that is cut into cells.
            second: the other.
            level: of both.
            start: from the first onto the second.
            near: whether cells are looked for very near of their places alone.
        """
        self.unit = first.units[level]
        self.reach = _NEAR if near else _COARSE_REACH if level else _REACH
        self.clear = _CLEAR_NEAR if near else _CLEAR
        field, other = first.fields[level], second.fields[level]
        shape = field.shape
        side = int(np.clip(max(shape) // _CELLS, *_CELL_SIDE))
        self.side = side = min(side, *shape)
        counts = [max(1, round(1.4 * length / side)) for length in shape]
        rows, columns = (
            np.linspace(0, length - side, count).round().astype(int)
            for length, count in zip(shape, counts, strict=True)
        )
        corners = np.array([(row, column) for row in rows for column in columns])
        middles = (corners[:, ::-1] + (side - 1) / 2) * self.unit + (self.unit - 1) / 2
        self.points = middles
        moved = (start.apply(middles) - middles)[:, ::-1] / self.unit
        self.offsets = moved.round().astype(int)
        margin = self.reach
        size = side + 2 * margin
        # Windows may reach beyond the other picture, where nothing is known.
        limit = int(np.abs(self.offsets).max()) + margin
        wide = np.pad(other, limit)
        cut = [np.s_[r : r + side, c : c + side] for r, c in corners]
        places = corners + self.offsets + limit - margin
        places = np.clip(places, 0, np.array(wide.shape) - size)
        parts = np.stack([field[at] for at in cut])
        windows = np.stack([wide[r : r + size, c : c + size] for r, c in places])
        self.surfaces = _correlations(parts, windows)

    def favourite(self) -> tuple[tuple[float, float], float]:
        """The move (x, y) in pixels of the exposure that most cells like, and how they do."""
        best = self.surfaces.max((1, 2))
        share = np.clip(self.surfaces, 0, None) / np.maximum(best, _CLEAR)[:, None, None]
        total = np.zeros([n + 2 * self._spread for n in self.surfaces.shape[1:]], np.float32)
        middle = np.median(self.offsets, 0).round().astype(int)
        for plane, offset in zip(share, self.offsets - middle, strict=True):
            row, column = np.clip(offset + self._spread, 0, 2 * self._spread)
            total[row : row + plane.shape[0], column : column + plane.shape[1]] += plane
        total = ndimage.gaussian_filter(total, 1.5, mode="constant")
        row, column = np.unravel_index(int(total.argmax()), total.shape)
        move = np.array([row, column]) - self._spread - self.reach + middle
        y, x = move * self.unit
        return (float(x), float(y)), float(total.max()) / len(share)

    @property
    def _spread(self) -> int:
        """Pixels by which the places differ in which cells are looked for."""
        return int(np.abs(self.offsets - np.median(self.offsets, 0).round()).max())

    def ballot(self) -> Ballot:
        """Every cell's own displacement."""
        (x, y), _ = self.favourite()
        liked = np.array([y, x]) / self.unit
        count, size = len(self.surfaces), self.surfaces.shape[1]
        rows, columns = np.ogrid[:size, :size]
        moves, weights = np.zeros((count, 2)), np.zeros(count)
        for index, (plane, offset) in enumerate(zip(self.surfaces, self.offsets, strict=True)):
            best = float(plane.max())
            if best < self.clear:
                continue
            at = liked - offset + self.reach
            near = np.maximum(abs(rows - at[0]), abs(columns - at[1])) <= 5
            # Textures that repeat fit in several places; one that most cells like will do.
            if near.any() and float(plane[near].max()) >= 0.85 * best:
                plane = np.where(near, plane, -1)
            row, column = np.unravel_index(int(plane.argmax()), plane.shape)
            if not (0 < row < size - 1 and 0 < column < size - 1):
                continue
            own = self.surfaces[index]
            part = own[row - 1 : row + 2, column - 1 : column + 2]
            step = np.array([row + vertex(part[:, 1]), column + vertex(part[1])])
            moves[index] = (step - self.reach + offset)[::-1] * self.unit
            weights[index] = min(1.0, float(own[row, column]) / (2 * _CLEAR))
        return Ballot(self.points, moves, weights, self.unit, self.side * self.unit)


def vertex(values: np.ndarray) -> float:
    """Position of the maximum of the parabola through three values, from the middle one."""
    left, middle, right = (float(value) for value in values)
    bend = left - 2.0 * middle + right
    return float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5)) if bend < 0 else 0.0


def _correlations(parts: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Correlation of parts with every place of their windows, over what is known in both.

    Args:
        parts: (n, s, s) complex64, zero where unknown.
        windows: (n, t, t) likewise, t > s.

    Returns:
        (n, t - s + 1, t - s + 1) float32, -1 to 1; 0 where too little is known.
    """
    side, size = parts.shape[-1], windows.shape[-1]
    places = size - side + 1
    shape = [fft.next_fast_len(size, real=True)] * 2

    energies = [x.real**2 + x.imag**2 for x in (parts, windows)]
    there = [(x > 0).astype(np.float32) for x in energies]
    planes = [(x.real, x.imag, e, t) for x, e, t in zip((parts, windows), energies, there,
              strict=True)]  # fmt: skip
    ours, theirs = ([fft.rfft2(x, shape) for x in four] for four in planes)

    def summed(*pairs: tuple[int, int]) -> np.ndarray:
        product = sum(ours[a].conj() * theirs[b] for a, b in pairs)
        return fft.irfft2(product, shape)[:, :places, :places]

    product, shared = summed((0, 0), (1, 1)), summed((3, 3))
    first, second = summed((2, 3)), summed((3, 2))
    whole = energies[0].sum((1, 2))[:, None, None]
    enough = (first > 0.25 * whole) & (shared > 0.08 * side * side) & (second > 1e-3)
    # Few pixels correlate somewhere by chance, and count less.
    ratio = product / np.sqrt(np.maximum(first * second, 1e-9))
    return np.where(enough, ratio / np.sqrt(np.maximum(1, _FULL_SIZE / np.maximum(shared, 1))), 0)


# -------------------------------------------------------------------------------- agreement


def agreed_shift(votes: Ballot) -> Transform:
    """The shift from the first exposure onto the second that most votes agree on."""
    trials = votes.moves[votes.weights > 0]
    if not len(trials):
        return Transform.identity()
    off = np.linalg.norm(votes.moves[None] - trials[:, None], axis=2)
    move = trials[int((_kernel(off, votes.tolerance) @ votes.weights).argmax())]
    for _ in range(8):
        off = np.linalg.norm(votes.moves - move, axis=1)
        weights = votes.weights * _kernel(off, votes.tolerance)
        move = (weights[:, None] * votes.moves).sum(0) / max(float(weights.sum()), 1e-9)
    return _shifting(*move)


def agreed_similarity(votes: Ballot, *, grows: bool = True) -> Transform:
    """The shift, turn and growth, first exposure onto second, that most votes agree on.

    Args:
        votes: of all cells.
        grows: whether it may grow.
    """
    chosen = np.flatnonzero(votes.weights > 0)
    if len(chosen) < _FEWEST:
        return agreed_shift(votes)
    # As complex numbers: z + motion(z) with motion = a z + b.
    places, moves = (x[:, 0] + 1j * x[:, 1] for x in (votes.points, votes.moves))
    middle = places[chosen].mean()
    places = places - middle
    one, two = np.triu_indices(len(chosen), 1)
    one, two = chosen[one], chosen[two]
    between = places[two] - places[one]
    far = np.abs(between) > 0.25 * np.abs(places[chosen]).max()
    one, two, between = one[far], two[far], between[far]
    turns = (moves[two] - moves[one]) / between
    usual = (np.abs(turns.imag) < _MOST_TURN) & (np.abs(turns.real) < _MOST_GROWTH)
    turns, one = turns[usual], one[usual]
    turns = turns if grows else _turned(turns)
    shift = agreed_shift(votes).matrix[:2, 2]
    turns = np.append(turns, 0)
    steps = np.append(moves[one] - turns[:-1] * places[one], shift[0] + 1j * shift[1])
    best, score = 0, -1.0
    for begin in range(0, len(turns), 512):
        part = slice(begin, begin + 512)
        off = np.abs(turns[part, None] * places + steps[part, None] - moves)
        scores = _kernel(off, votes.tolerance) @ votes.weights
        if scores.max() > score:
            best, score = begin + int(scores.argmax()), float(scores.max())
    turn, step = turns[best], steps[best]
    for _ in range(8):
        weights = votes.weights * _kernel(
            np.abs(turn * places + step - moves), 0.5 * votes.tolerance
        )
        total = max(float(weights.sum()), 1e-9)
        centre, move = (weights * places).sum() / total, (weights * moves).sum() / total
        spread = float((weights * np.abs(places - centre) ** 2).sum())
        if spread < 1e-9:
            break
        turn = (weights * (places - centre).conj() * (moves - move)).sum() / spread
        turn = turn if grows else _turned(turn)
        step = move - turn * centre
    a, b = 1 + turn.real, turn.imag
    about = step - turn * middle
    return Transform(np.array([[a, -b, about.real], [b, a, about.imag], [0, 0, 1]]))


def _turned(motion: Any) -> Any:
    """The turn alone of turn and growth, `a` of the motion ``a z + b``."""
    return (1 + motion) / np.abs(1 + motion) - 1


def _kernel(off: np.ndarray, tolerance: float) -> np.ndarray:
    """Weights that fall with distance, near zero beyond three times the tolerance."""
    return 1.0 / (1.0 + (off / tolerance) ** 2) ** 2


def middle_shift(transform: Transform, size: tuple[int, ...]) -> Transform:
    """The shift that a transform is at the middle of a picture of (height, width)."""
    middle = (np.array(size[1::-1]) - 1) / 2
    x, y = transform.apply(middle) - middle
    return _shifting(x, y)


def _shifting(x: float, y: float) -> Transform:
    return Transform(np.array([[1, 0, x], [0, 1, y], [0, 0, 1]]))
