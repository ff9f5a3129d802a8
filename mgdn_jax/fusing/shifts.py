"""A cheap check whether pictures lie on each other: shift, turn and growth at reduced size.

Directions of edges are correlated, not brightness, so that exposure and blur count little. For
pictures of different kinds (infrared, visible) the sense of an edge counts for nothing.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import fft

from mgdn_jax.errors import InputError
from mgdn_jax.fusing.resampling import reduced_luminance

KINDS = ("same", "cross")
_SIDE, _COARSE_SIDE = 640, 160
# Magnitudes well above this share of the mean one count fully, those below hardly.
_FLOOR = 1.0
# Around a peak, positions within this many reduced pixels belong to it.
_PEAK_RADIUS = 6
_BLOCKS, _BLOCK_SIDE = 3, 128


@dataclasses.dataclass(frozen=True)
class Shift:
    """How far the second picture lies from the first, as measured.

    Attributes:
        x: pixels by which the second picture's content lies to the right of the first's.
        y: pixels by which it lies below.
        peak: correlation of edges at this shift, 0 to 1.
        contrast: correlation anywhere else, as a share of the peak; near 1 says nothing was found.
        gain: the share of the peak by which the correlation exceeds that without a shift.
        largest: largest displacement of a corner in pixels, with turn and growth where the parts
            of the picture agree on them; otherwise the length of the shift.
        angle: degrees by which the second picture is turned, clockwise on the screen.
        scale: by which it is enlarged.
        error: pixels by which `x` and `y` may be wrong.
        is_sure: whether the figures may be relied on.
    """

    x: float
    y: float
    peak: float
    contrast: float = 1.0
    gain: float = 0.0
    largest: float = 0.0
    angle: float = 0.0
    scale: float = 1.0
    error: float = 0.0
    is_sure: bool = False

    @property
    def length(self) -> float:
        """Length of the shift in pixels."""
        return float(np.hypot(self.x, self.y))

    @property
    def is_noticeable(self) -> bool:
        """Whether the pictures surely do not lie on each other, so that a word is due."""
        slack = 2.0 * self.error
        return self.is_sure and (self.length >= 1.0 + slack or self.largest >= 2.5 + 2.0 * slack)


def shift(first: np.ndarray, second: np.ndarray, *, kind: str = "same") -> Shift:
    """Measures by how much two pictures of one size are displaced.

    Args:
        first: (H, W) or (H, W, C), integers or floats in [0, 1].
        second: likewise, of the same height and width.
        kind: ``"same"`` for pictures of one camera, ``"cross"`` for different modalities, where
            much less is sure.

    Returns:
        The shift; not sure where the pictures are too small, flat or different.

    Raises:
        InputError: the sizes differ.
    """
    if first.shape[:2] != second.shape[:2]:
        sizes = [f"{picture.shape[1]}x{picture.shape[0]}" for picture in (first, second)]
        raise InputError(
            f"a shift is measured between pictures of one size, not {sizes[0]} and {sizes[1]}; "
            "resize or register one of them."
        )
    (plane, factor), (other, _) = (reduced_luminance(x, _SIDE) for x in (first, second))
    found = _measured(plane, other, kind, float(factor[0]), error=0.05)
    if found.is_sure or kind == "cross":
        return found
    # Where one picture is blurred much more than the other, only its coarse edges are left.
    (plane, more), (other, _) = (reduced_luminance(x, _COARSE_SIDE) for x in (plane, other))
    coarse = _measured(plane, other, kind, float(factor[0] * more[0]), error=0.25)
    is_clear = coarse.is_sure and coarse.peak > 0.35 and coarse.contrast < 0.6
    return coarse if is_clear else found


def _measured(first: np.ndarray, second: np.ndarray, kind: str, unit: float, error: float) -> Shift:
    """The shift between two luminances (h, w).

    Args:
        first: of one picture.
        second: of the other.
        kind: of `KINDS`.
        unit: pixels of the pictures in a pixel of their luminances.
        error: how wrong a shift may be, in pixels of the luminances.
    """
    if min(first.shape) < 24:
        return Shift(0.0, 0.0, 0.0)
    field, other = directions(first, kind), directions(second, kind)
    x, y, peak, contrast, gain = _peak(_correlation(field, other), radius=min(first.shape) // 3)
    blocks = _block_shifts(field, other, (round(x), round(y)))
    blocks[:, 2:] *= unit
    found = Shift(x * unit, y * unit, peak, contrast, gain, error=error * unit)
    found = dataclasses.replace(found, largest=found.length)
    return _judged(found, blocks, first.shape, kind, unit)


def directions(plane: np.ndarray, kind: str = "same") -> np.ndarray:
    """Directions of edges as complex numbers, strong edges near magnitude one.

    Args:
        plane: (H, W) floats.
        kind: of `KINDS`; ``"cross"`` doubles the angle, so that an edge from dark to bright equals
            one from bright to dark.

    Returns:
        (H, W) complex64.
    """
    smooth = plane.copy()
    for axis in (0, 1):
        line = np.moveaxis(smooth, axis, 0)
        inner = 0.25 * line[:-2] + 0.5 * line[1:-1] + 0.25 * line[2:]
        line[1:-1] = inner
    edges = np.zeros(plane.shape, np.complex64)
    edges.real[:, 1:-1] = smooth[:, 2:] - smooth[:, :-2]
    edges.imag[1:-1] = smooth[2:] - smooth[:-2]
    size = np.abs(edges)
    floor = np.float32(_FLOOR) * size.mean()
    edges /= np.sqrt(size * size + floor * floor + np.float32(1e-12))
    if kind == "cross":
        edges *= edges / np.maximum(np.abs(edges), np.float32(1e-6))
    return edges


def strongest(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The shift (x, y) in pixels at which two fields of `directions` correlate most."""
    x, y, *_ = _peak(_correlation(first, second), radius=min(first.shape) // 2)
    return x, y


def _window(shape: tuple[int, ...]) -> np.ndarray:
    rows, columns = (np.hanning(length + 2)[1:-1].astype(np.float32) for length in shape[-2:])
    return rows[:, None] * columns


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlation (..., h, w) of two fields for every shift, the shift of nothing at the middle."""
    window = _window(first.shape)
    shape = [fft.next_fast_len(length) for length in first.shape[-2:]]
    first, second = first * window, second * window
    spectra = [fft.fft2(field, shape) for field in (first, second)]
    spectra[1] *= spectra[0].conj()
    correlation = fft.fftshift(fft.ifft2(spectra[1]).real, axes=(-2, -1))
    energies = [(field.real**2 + field.imag**2).sum(axis=(-2, -1)) for field in (first, second)]
    scale = np.sqrt(energies[0] * energies[1]) + 1e-9
    return correlation / scale[..., None, None]


def _peak(plane: np.ndarray, radius: int) -> tuple[float, float, float, float, float]:
    """Where a correlation is largest within `radius` of the middle, to parts of a pixel.

    Returns:
        x and y from the middle, the peak, the highest value elsewhere as a share of it, and the
        share by which it exceeds the value at the middle.
    """
    middle = [length // 2 for length in plane.shape]
    radius = min(radius, *(m - 2 for m in middle))
    rows, columns = (slice(m - radius, m + radius + 1) for m in middle)
    inner = plane[rows, columns].copy()
    i, j = (int(n) for n in np.unravel_index(inner.argmax(), inner.shape))
    top = max(float(inner[i, j]), 1e-6)
    row, column = i + rows.start, j + columns.start
    y = i - radius + _vertex(plane[row - 1 : row + 2, column])
    x = j - radius + _vertex(plane[row, column - 1 : column + 2])
    near = [slice(max(0, n - _PEAK_RADIUS), n + _PEAK_RADIUS + 1) for n in (i, j)]
    inner[near[0], near[1]] = 0.0
    at_rest = float(plane[middle[0], middle[1]])
    return x, y, top, float(inner.max()) / top, 1.0 - at_rest / top


def _vertex(values: np.ndarray) -> float:
    """Position of the maximum of the parabola through three values, from the middle one."""
    left, middle, right = (float(value) for value in values)
    bend = left - 2.0 * middle + right
    return float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5)) if bend < 0 else 0.0


def _block_shifts(first: np.ndarray, second: np.ndarray, move: tuple[int, int]) -> np.ndarray:
    """Shifts of the parts of a picture that say something, (n, 4): x, y of the part, its shift.

    Args:
        first: directions of one picture.
        second: directions of the other.
        move: the shift (x, y) of the whole, from which the parts are searched.
    """
    side = min(_BLOCK_SIDE, *(length // 2 for length in first.shape))
    if side < 24:
        return np.empty((0, 4))
    rows, columns = (
        np.linspace(0, length - side, _BLOCKS).round().astype(int) for length in first.shape
    )
    moved = np.roll(second, (-move[1], -move[0]), axis=(0, 1))
    places = [(row, column) for row in rows for column in columns]
    parts = [np.stack([x[r : r + side, c : c + side] for r, c in places]) for x in (first, moved)]
    shifts = []
    for (row, column), plane in zip(places, _correlation(*parts), strict=True):
        x, y, peak, contrast, _ = _peak(plane, radius=side // 4)
        if peak > 0.12 and contrast < 0.8:
            middle = (side - 1) / 2
            shifts.append((column + middle, row + middle, x + move[0], y + move[1]))
    return np.array(shifts).reshape(-1, 4)


def _judged(
    found: Shift, blocks: np.ndarray, size: tuple[int, ...], kind: str, unit: float
) -> Shift:
    """The shift with what the blocks say about it.

    Args:
        found: the shift of the whole.
        blocks: (n, 4) middles of blocks in reduced pixels, and their shifts in full ones.
        size: (height, width) in reduced pixels.
        kind: of `KINDS`.
        unit: full pixels in a reduced one.
    """
    tolerance = unit * (0.5 if kind == "same" else 1.0)
    shifts = blocks[:, 2:]
    off = np.hypot(shifts[:, 0] - found.x, shifts[:, 1] - found.y)
    near = off <= max(tolerance, 0.4 * found.length)
    agree = int(near.sum())
    if kind == "same":
        is_sure = found.peak > 0.15 and found.contrast < 0.8 and agree >= max(3, len(blocks) / 2)
        is_sure = is_sure or (found.peak > 0.45 and found.contrast < 0.4)
    else:
        is_sure = found.peak > 0.15 and found.contrast < 0.75 and found.gain > 0.25
        is_sure = is_sure and found.length >= 2.0 and agree >= max(3, 0.6 * len(blocks))
    found = dataclasses.replace(found, is_sure=bool(is_sure))
    if kind == "cross" or len(blocks) < 6:
        return found
    half = (np.array(size[::-1]) - 1) / 2
    motion, rest = _similarity((blocks[:, :2] - half) * unit, shifts)
    # Turn and growth count where they explain what a shift alone does not.
    if rest > 0.4 * tolerance or rest > 0.5 * np.sort(off)[: _most(len(off))].mean():
        return found
    (a, b), move = motion[:2], motion[2:]
    corners = half * unit * np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]])
    moved = corners @ np.array([[a, b], [-b, a]]) + move
    return dataclasses.replace(
        found,
        x=float(move[0]),
        y=float(move[1]),
        largest=float(np.linalg.norm(moved, axis=1).max()),
        angle=float(np.rad2deg(np.arctan2(b, 1 + a))),
        scale=float(np.hypot(1 + a, b)),
        is_sure=True,
    )


def _similarity(points: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, float]:
    """The similarity that moves points by shifts, robustly: (a, b, x, y), and what remains.

    The shift of a point p is ``(a px - b py + x, b px + a py + y)``. What remains is the mean
    distance of the better three quarters of the points.
    """
    x, y = points.T
    one, none = np.ones_like(x), np.zeros_like(x)
    system = np.stack([np.stack([x, -y, one, none], 1), np.stack([y, x, none, one], 1)], 1)
    weights = np.ones(len(points))
    motion, off = np.zeros(4), weights
    for _ in range(8):
        scale = np.sqrt(weights)[:, None]
        rows = (system * scale[..., None]).reshape(-1, 4)
        motion = np.linalg.lstsq(rows, (shifts * scale).ravel(), rcond=None)[0]
        off = np.linalg.norm(system @ motion - shifts, axis=1)
        spread = max(float(np.median(off)), 1e-6)
        weights = 1.0 / (1.0 + (off / (2 * spread)) ** 2) ** 2
    return motion, float(np.sort(off)[: _most(len(off))].mean())


def _most(count: int) -> int:
    """Three quarters of `count`."""
    return max(4, int(0.75 * count))
