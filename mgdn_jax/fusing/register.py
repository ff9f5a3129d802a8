"""Infrared laid on visible light: pictures of two cameras with other sizes and fields of view.

Directions of edges are compared without their sense, so that hot may be bright or dark. Every
scale, turn and place is tried coarsely by correlation; the best are refined by Gauss-Newton steps.
What two criteria do not agree on is refused.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import fft, linalg

from mgdn_jax.errors import InputError
from mgdn_jax.fusing.align import GENERATORS, MODELS, Alignment
from mgdn_jax.fusing.resampling import needed_opencv, reduced_luminance, resize, warp
from mgdn_jax.fusing.transforms import Size, Transform, scaling

# Longest sides in pixels: of the search, of the choice among its finds, and of the last steps.
_SEARCH, _CHOICE, _FINE = 160, (100, 160, 240), (400, 640)
# Scales are searched around the one at which both pictures are as large, in steps of 5 %.
_SCALES = np.exp(np.arange(math.log(0.33), math.log(3.0), 0.05))
# Rigs hold their cameras level, and their fields of view are alike: what is far from that must
# correlate more.
_ANGLES = (-6.0, -3.0, 0.0, 3.0, 6.0)
_USUAL_SCALE = 1.0
# The share of the smaller picture that must lie on the larger one.
_OVERLAP = 0.35
# How the correlation counts against the number of pixels it rests on.
_SIZE_POWER = 0.25
_FINDS, _KEPT = 8, 4
_SMOOTH, _RIM = 1.5, 4
# A richer model must explain this share of what the poorer one leaves; at the corners, where edges
# are few, its freedom costs several pixels.
_WORTH = {"affine": 0.03, "homography": 0.1}
# What is trusted: the correlation, the best rival's rank as a share, the share of small motions
# that lower the mutual information, and by how much they do; then the shape of the transform.
_LEAST_AGREEMENT, _RIVAL, _LOWER, _DROP = 0.25, 0.8, 0.9, 1.05
_LEAST_FINE_AGREEMENT = 0.2
_PLAUSIBLE_SCALE, _PLAUSIBLE_ANGLE, _PLAUSIBLE_STRETCH = 5.0, 30.0, 1.35
_SIDE = 1280


# ------------------------------------------------------------------------------ fields


def _field(cv2: Any, plane: np.ndarray) -> np.ndarray:
    """Doubled directions of edges, (h, w) complex64; strong ones near magnitude one."""
    plane = cv2.GaussianBlur(plane, (0, 0), _SMOOTH)
    x, y = np.zeros_like(plane), np.zeros_like(plane)
    x[:, 1:-1] = plane[:, 2:] - plane[:, :-2]
    y[1:-1] = plane[2:] - plane[:-2]
    size = np.sqrt(x * x + y * y)
    around = cv2.blur(cv2.blur(size, (24, 24)), (24, 24))
    floor = around + np.float32(0.3) * size.mean() + np.float32(1e-6)
    scale = size * np.sqrt(size * size + floor * floor) + np.float32(1e-12)
    return ((x + 1j * y) ** 2 / scale).astype(np.complex64)


def _product(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> float:
    return float((weight * (first.real * second.real + first.imag * second.imag)).sum())


def _agreement(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> float:
    """Correlation of two fields, -1 to 1."""
    energy = _product(first, first, weight) * _product(second, second, weight)
    return _product(first, second, weight) / math.sqrt(energy + 1e-12)


# ------------------------------------------------------------------------------ search


@dataclasses.dataclass(frozen=True)
class _Find:
    """A place that was found.

    Attributes:
        matrix: (3, 3) from the moving picture to the reference.
        agreement: correlation of the fields, on `pixels` of them.
        pixels: on which the pictures lie on each other at the level compared.
    """

    matrix: np.ndarray
    agreement: float
    pixels: float

    @property
    def rank(self) -> float:
        """What finds are compared by."""
        return self.agreement * max(self.pixels, 1.0) ** _SIZE_POWER


def _overlapping(
    first: np.ndarray, seconds: Sequence[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Correlation of a field with others of one shape for every place, over what lies on it.

    Yields:
        For each of the others the correlation (-1 where too little overlaps) and the pixels that
        overlap, both with the place (row, column) of its corner as index, negative ones from the
        end.
    """
    sizes = zip(first.shape, seconds[0].shape, strict=True)
    shape = [fft.next_fast_len(a + b) for a, b in sizes]

    def spectrum(plane: np.ndarray) -> np.ndarray:
        return fft.rfft2(plane.astype(np.float32), shape)

    field = fft.fft2(first, shape)
    power, here = spectrum(np.abs(first) ** 2), spectrum(np.ones(first.shape))
    there = spectrum(np.ones(seconds[0].shape)).conj()
    pixels = fft.irfft2(here * there, shape)
    energy = np.maximum(fft.irfft2(power * there, shape), 1e-3)
    is_small = pixels <= _OVERLAP * min(first.size, seconds[0].size)
    for second in seconds:
        products = fft.ifft2(field * fft.fft2(second, shape).conj()).real
        other = fft.irfft2(here * spectrum(np.abs(second) ** 2).conj(), shape)
        products /= np.sqrt(energy * np.maximum(other, 1e-3))
        products[is_small] = -1.0
        yield products, np.maximum(pixels, 1.0)


def _peaks(rank: np.ndarray, count: int) -> Iterator[tuple[int, int]]:
    """The highest places of a plane that wraps around, each some pixels from the others."""
    rank = rank.copy()
    near = np.arange(-8, 9)
    for _ in range(count):
        row, column = (int(n) for n in np.unravel_index(rank.argmax(), rank.shape))
        yield row, column
        rows, columns = (row + near) % rank.shape[0], (column + near) % rank.shape[1]
        rank[rows[:, None], columns] = -np.inf


def _turned(cv2: Any, plane: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """A plane turned about its middle by `angle` degrees, and the matrix that does it."""
    height, width = plane.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -angle, 1.0)
    if angle:
        plane = cv2.warpAffine(plane, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return plane, np.vstack([matrix, [0, 0, 1]])


def _search(cv2: Any, moving: np.ndarray, reference: np.ndarray) -> list[_Find]:
    """Places of the moving luminance on the reference, best first, over scales and turns."""
    usual = math.sqrt(reference.size / moving.size)
    finds: list[_Find] = []
    for factor in _SCALES:
        scale = usual * factor
        longest = max(*reference.shape, *(scale * length for length in moving.shape))
        reduction = min(1.0, _SEARCH / longest, 1.5 / scale)
        small = _rounded(reference.shape, reduction)
        part = _rounded(moving.shape, scale * reduction)
        if min(*small, *part) < 16:
            continue
        target, source = _field(cv2, resize(reference, small)), resize(moving, part)
        to_full = np.linalg.inv(scaling(reference.shape, small).matrix)
        to_part = scaling(moving.shape, part).matrix
        turns = [_turned(cv2, source, angle) for angle in _ANGLES]
        fields = [_field(cv2, plane) for plane, _ in turns]
        found = zip(turns, _overlapping(target, fields), strict=True)
        for (_, turn), (agreement, pixels) in found:
            rank = agreement * pixels**_SIZE_POWER
            for row, column in _peaks(rank, 2):
                y = row - rank.shape[0] if row >= small[0] else row
                x = column - rank.shape[1] if column >= small[1] else column
                move = np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])
                matrix = to_full @ move @ turn @ to_part
                find = _Find(
                    matrix / matrix[2, 2],
                    float(agreement[row, column]),
                    float(pixels[row, column]) / reduction**2,
                )
                finds.append(find)
    return sorted(finds, key=lambda find: -_weighted(find, moving, reference))


def _weighted(find: _Find, moving: np.ndarray, reference: np.ndarray) -> float:
    """The rank of a find, less where the scale is unusual."""
    factor = _area_scale(find.matrix) / math.sqrt(reference.size / moving.size)
    return find.rank * math.exp(-0.5 * (math.log(factor) / _USUAL_SCALE) ** 2)


def _rounded(size: tuple[int, ...], factor: float) -> Size:
    height, width = (max(1, round(length * factor)) for length in size)
    return height, width


def _distinct(finds: Sequence[_Find], moving: Size, reference: Size, count: int) -> list[_Find]:
    """The first `count` finds whose corners lie apart by a part of the reference's diagonal."""
    chosen: list[_Find] = []
    for find in finds:
        if all(
            _apart(find.matrix, other.matrix, moving) > 0.05 * math.hypot(*reference)
            for other in chosen
        ):
            chosen.append(find)
        if len(chosen) == count:
            break
    return chosen


def _apart(first: np.ndarray, second: np.ndarray, size: Size) -> float:
    """Largest distance in pixels between the corners of a picture under two matrices."""
    bottom, right = size[0] - 1, size[1] - 1
    corners = np.array([[0, 0], [right, 0], [0, bottom], [right, bottom]])
    ends = [Transform(matrix).apply(corners) for matrix in (first, second)]
    return float(np.linalg.norm(ends[0] - ends[1], axis=1).max())


# -------------------------------------------------------------------------- refinement


def _level(
    cv2: Any, reference: np.ndarray, scale: float, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """The reference's field at one size, and the matrix from the picture to it.

    The moving picture, enlarged by `scale`, is not enlarged by more than half of that.
    """
    reduction = min(1.0, side / max(reference.shape), 1.5 / scale)
    small = _rounded(reference.shape, reduction)
    return _field(cv2, resize(reference, small)), scaling(reference.shape, small).matrix


def _area_scale(matrix: np.ndarray) -> float:
    return math.sqrt(abs(float(np.linalg.det(matrix[:2, :2]))))


def _seen(
    cv2: Any, moving: np.ndarray, matrix: np.ndarray, size: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The moving luminance in a frame, its field, and where that field is whole (float32)."""
    plane, mask = warp(moving, Transform(matrix), (size[0], size[1]), interpolation="cubic")
    inner = cv2.erode(mask.astype(np.uint8), np.ones((9, 9), np.uint8), borderValue=1)
    inner[:_RIM], inner[-_RIM:], inner[:, :_RIM], inner[:, -_RIM:] = 0, 0, 0, 0
    return plane, inner.astype(np.float32)


def _refined(
    cv2: Any, moving: np.ndarray, reference: np.ndarray, start: np.ndarray, side: int, model: str
) -> _Find:
    """Gauss-Newton steps on the fields at one size; never worse than the start."""
    count = MODELS[model]
    target, change = _level(cv2, reference, _area_scale(start), side)
    height, width = target.shape
    radius = max(height, width) / 2
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    u, v = (columns - (width - 1) / 2) / radius, (rows - (height - 1) / 2) / radius
    frame = np.array(
        [[1 / radius, 0, -(width - 1) / 2 / radius], [0, 1 / radius, -(height - 1) / 2 / radius]]
    )
    frame = np.vstack([frame, [0, 0, 1]])
    matrix = change @ start
    best = _Find(start, -1.0, 0.0)
    for _ in range(12):
        try:
            plane, inner = _seen(cv2, moving, matrix, target.shape)
        except InputError:
            break
        pixels = float(inner.sum())
        if pixels < 0.1 * target.size and pixels < 0.3 * moving.size:
            break
        field = _field(cv2, plane)
        agreement = _agreement(target, field, inner)
        if agreement > best.agreement:
            whole = np.linalg.solve(change, matrix)
            area = float(np.linalg.det(change[:2, :2]))
            best = _Find(whole / whole[2, 2], agreement, pixels / area)
        step = _step(target, field, inner, (u * radius, v * radius), radius, count)
        matrix = (
            np.linalg.inv(frame)
            @ linalg.expm(np.tensordot(step, GENERATORS[:count], 1))
            @ frame
            @ matrix
        )
        if np.abs(step).sum() * radius < 0.02:
            break
    return best


def _step(
    target: np.ndarray,
    field: np.ndarray,
    inner: np.ndarray,
    place: tuple[np.ndarray, np.ndarray],
    radius: float,
    count: int,
) -> np.ndarray:
    """The generators' amounts by which the moving picture should move in the frame.

    Args:
        target: (h, w) complex field of the reference.
        field: likewise of the moving picture as it lies now.
        inner: (h, w) where it counts.
        place: x and y of every pixel from the middle.
        radius: half the longest side in pixels, the unit of the generators.
        count: of generators.
    """
    used = np.flatnonzero(inner)
    # Slopes of both fields together make steps of second order.
    mean = (target + field) * np.float32(0.5 * radius)
    x, y = np.zeros_like(mean), np.zeros_like(mean)
    x[:, 1:-1] = (mean[:, 2:] - mean[:, :-2]) / 2
    y[1:-1] = (mean[2:] - mean[:-2]) / 2
    x, y = x.ravel()[used], y.ravel()[used]
    u, v = (axis.ravel()[used] / np.float32(radius) for axis in place)
    spread = x * u + y * v
    answers = np.stack(
        [x, y, y * u - x * v, spread, x * u - y * v, x * v + y * u, spread * u, spread * v][:count]
    )
    rest = (field - target).ravel()[used]
    weight = 1.0 / np.square(1.0 + 2.0 * (rest.real**2 + rest.imag**2))
    both = np.concatenate([answers.real, answers.imag], axis=1)
    weights = np.concatenate([weight, weight])
    weighted = both * weights
    normal = (weighted @ both.T).astype(np.float64)
    normal += np.eye(count) * (1e-4 * np.trace(normal) / count + 1e-9)
    aim = weighted @ np.concatenate([rest.real, rest.imag])
    step = np.linalg.solve(normal, aim.astype(np.float64))
    # Steps beyond a few pixels leave the range in which slopes say anything.
    length = np.abs(step).sum() * radius
    return step * min(1.0, 4.0 / max(length, 1e-9))


# ------------------------------------------------------------------------------- trust


def _information(
    moving: np.ndarray, reference: np.ndarray, matrix: np.ndarray, side: int, bins: int = 24
) -> float:
    """Mutual information of both luminances where they lie on each other, in nats."""
    reduction = min(1.0, side / max(reference.shape))
    small = _rounded(reference.shape, reduction)
    change = scaling(reference.shape, small).matrix
    try:
        plane, mask = warp(moving, Transform(change @ matrix), small, interpolation="linear")
    except InputError:
        return 0.0
    if mask.sum() < 200:
        return 0.0
    ranks = []
    for values in (resize(reference, small)[mask], plane[mask]):
        limits = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
        ranks.append(np.searchsorted(limits, values))
    table = np.bincount(ranks[0] * bins + ranks[1], minlength=bins * bins).reshape(bins, bins)
    shares = table / table.sum()
    alone = np.outer(shares.sum(axis=1), shares.sum(axis=0))
    filled = shares > 0
    return float((shares[filled] * np.log(shares[filled] / alone[filled])).sum())


def _neighbours(matrix: np.ndarray, reference: Size, share: float) -> list[np.ndarray]:
    """Matrices that move the picture by a share of the reference's diagonal, or scale it."""
    height, width = reference
    move = share * math.hypot(height, width)
    middle = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1.0]])
    moved = []
    for turn in np.arange(8) * (math.pi / 4):
        change = np.eye(3)
        change[:2, 2] = move * math.cos(turn), move * math.sin(turn)
        moved.append(change @ matrix)
    for factor in (1 - 2 * share, 1 + 2 * share):
        change = np.diag([factor, factor, 1.0])
        moved.append(middle @ change @ np.linalg.inv(middle) @ matrix)
    return moved


def _doubt(finds: Sequence[_Find], moving: np.ndarray, reference: np.ndarray) -> str | None:
    """Why the first of several refined finds is not to be trusted; None where it is.

    Args:
        finds: best first.
        moving: (h, w) luminance.
        reference: likewise.
    """
    best = finds[0]
    if best.agreement < _LEAST_AGREEMENT:
        return f"their edges agree by {best.agreement:.2f} only"
    far = 0.05 * math.hypot(*reference.shape)
    for rival in finds[1:]:
        if _apart(rival.matrix, best.matrix, _size(moving)) > far:
            share = _weighted(rival, moving, reference) / _weighted(best, moving, reference)
            if share > _RIVAL:
                return "another place fits nearly as well"
            break
    here = _information(moving, reference, best.matrix, 200)
    around = np.array(
        [
            _information(moving, reference, matrix, 200)
            for share in (0.02, 0.04)
            for matrix in _neighbours(best.matrix, _size(reference), share)
        ]
    )
    if (around < here).mean() < _LOWER or here < _DROP * np.median(around):
        return "their brightness does not confirm where their edges agree"
    return None


def _shape_doubt(matrix: np.ndarray, moving: np.ndarray, reference: np.ndarray) -> str | None:
    """Why a transform is not that of a rig of two cameras; None where it may be."""
    (a, b), (c, d) = matrix[:2, :2]
    stretches = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    scale = _area_scale(matrix) / math.sqrt(reference.size / moving.size)
    angle = abs(math.degrees(math.atan2(c - b, a + d)))
    if a * d - b * c <= 0:
        return "the best transform mirrors the picture"
    if not 1 / _PLAUSIBLE_SCALE < scale < _PLAUSIBLE_SCALE or angle > _PLAUSIBLE_ANGLE:
        return f"the best transform scales by {scale:.2g} and turns by {angle:.0f} degrees"
    if stretches[0] > _PLAUSIBLE_STRETCH * stretches[1]:
        return "the best transform stretches one direction more than the other"
    return None


# ------------------------------------------------------------------------ registration


def register(moving: np.ndarray, reference: np.ndarray) -> Alignment:
    """Lays an infrared picture on a visible one of another camera, or the other way round.

    Args:
        moving: (H, W) or (H, W, C), integers or floats in [0, 1].
        reference: likewise, of any size.

    Returns:
        The alignment; its score is the correlation of the directions of edges.

    Raises:
        InputError: no place can be trusted, or OpenCV is not installed.
    """
    cv2 = needed_opencv("registering pictures")
    (plane, unit), (target, unit_there) = (
        reduced_luminance(picture, _SIDE) for picture in (moving, reference)
    )
    finds = _distinct(_search(cv2, plane, target), _size(plane), _size(target), _FINDS)
    if not finds:
        raise _refusal("they are too small or too unlike in size")
    for number, side in enumerate(_CHOICE):
        finds = [_refined(cv2, plane, target, find.matrix, side, "similarity") for find in finds]
        finds.sort(key=lambda find: -_weighted(find, plane, target))
        finds = finds[:_KEPT] if number == 1 else finds
    reason = _doubt(finds, plane, target)
    if reason is not None:
        raise _refusal(reason)
    found, model = finds[0], "similarity"
    for side in _FINE:
        found = _refined(cv2, plane, target, found.matrix, side, "similarity")
    for name, worth in _WORTH.items():
        richer = _refined(cv2, plane, target, found.matrix, _FINE[-1], name)
        if 1 - richer.agreement < (1 - worth) * (1 - found.agreement):
            found, model = richer, name
    reason = _shape_doubt(found.matrix, plane, target)
    if found.agreement < _LEAST_FINE_AGREEMENT:
        reason = f"their fine edges agree by {found.agreement:.2f} only"
    if reason is not None:
        raise _refusal(reason)
    whole = _unit_matrix(unit_there) @ found.matrix @ np.linalg.inv(_unit_matrix(unit))
    transform = Transform(whole, (_size(moving), _size(reference)))
    transform.check_horizon(_size(moving))
    shift = transform.corner_shift(_size(moving))
    return Alignment(transform, model, found.agreement, shift)


def _size(picture: np.ndarray) -> Size:
    return picture.shape[0], picture.shape[1]


def _unit_matrix(unit: np.ndarray) -> np.ndarray:
    """From points of a luminance of which a pixel is `unit` pixels to points of its picture."""
    x, y = unit
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1.0]])


def _refusal(reason: str) -> InputError:
    return InputError(
        f"the pictures cannot be registered: {reason}; measure the transform once for the rig and "
        "give it with --homography FILE."
    )
