"""Pictures of one scene, taken by one camera, laid on each other: focus stacks and brackets.

Directions and places are found on band-passed luminance whose local contrast is evened out, so
that exposure and blur count little. Gauss-Newton steps maximise the correlation from a coarse
picture to a finer one, for more and more free models. Features with RANSAC help where the motion is
large.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import linalg

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import shifts
from mgdn_jax.fusing.resampling import needed_opencv, present, reduced_luminance
from mgdn_jax.fusing.transforms import Size, Transform

# Free numbers of each model, in the order of `GENERATORS`.
MODELS = {"translation": 2, "euclidean": 3, "similarity": 4, "affine": 6, "homography": 8}
# Longest side of the luminance on which pictures are compared.
SIDE = 1600
_COARSEST = 96
# Points of a level that are compared; those with the steepest edges.
_POINTS = 200_000
_ITERATIONS = 15
# A step that moves no corner by more pixels than this is the last.
_STILL = 0.005
# Below this correlation at a coarse level, features are tried as well.
_DOUBTFUL = 0.6
# Below this one, the pictures do not show the same.
_UNRELATED = 0.2
# A richer model must explain this share of what the poorer ones leave: its freedom is paid for at
# the corners, where there are often no details.
_WORTH = {"similarity": 0.005, "affine": 0.01, "homography": 0.03}
# Below this correlation of the finest details, parts of the scene probably moved.
_POOR = 0.3

# Around a pixel that does not count, details this near hold the step to it.
_REACH = np.ones((17, 17), np.uint8)

GENERATORS = np.zeros((8, 3, 3))
for _number, _entries in enumerate(
    (
        {(0, 2): 1.0},
        {(1, 2): 1.0},
        {(0, 1): -1.0, (1, 0): 1.0},
        {(0, 0): 1.0, (1, 1): 1.0},
        {(0, 0): 1.0, (1, 1): -1.0},
        {(0, 1): 1.0, (1, 0): 1.0},
        {(2, 0): -1.0},
        {(2, 1): -1.0},
    )
):
    for _place, _value in _entries.items():
        GENERATORS[_number][_place] = _value


@dataclasses.dataclass(frozen=True)
class Alignment:
    """How a moving picture lies on its reference.

    Attributes:
        transform: from the moving picture to the reference.
        model: of `MODELS`; which of them was fitted.
        score: correlation of the aligned pictures' details, up to 1.
        shift: largest displacement of a corner in pixels.
        remark: a sentence for the user where something is not as it should be; empty otherwise.
    """

    transform: Transform
    model: str
    score: float
    shift: float
    remark: str = ""


# -------------------------------------------------------------------------------- levels


@dataclasses.dataclass(frozen=True)
class _Level:
    """One picture at one size.

    Attributes:
        details: (h, w) float32, band-passed and of even local contrast.
        mask: (h, w) bool, or None for all.
        unit: full pixels in a pixel of the level.
    """

    details: np.ndarray
    mask: np.ndarray | None
    unit: float

    def to_full(self) -> np.ndarray:
        """The matrix from points of the level to points of the picture."""
        half = (self.unit - 1.0) / 2.0
        return np.array([[self.unit, 0.0, half], [0.0, self.unit, half], [0.0, 0.0, 1.0]])


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A picture reduced to what its alignment needs.

    Attributes:
        size: (height, width) of the picture.
        levels: from fine to coarse.
        gray: (h, w) uint8 for features, of the finest level's size or half of it.
        gray_unit: full pixels in a pixel of `gray`.
    """

    size: Size
    levels: tuple[_Level, ...]
    gray: np.ndarray
    gray_unit: float


def prepare(pixels: np.ndarray, mask: np.ndarray | None = None, *, side: int = SIDE) -> Prepared:
    """Reduces a picture to the luminances on which it is compared.

    Args:
        pixels: (H, W) or (H, W, C), integers or floats in [0, 1].
        mask: (H, W), true where the picture counts; None where its alpha, if any, is at least half.
        side: longest side of the finest luminance in pixels.

    Raises:
        InputError: OpenCV is not installed.
    """
    cv2 = needed_opencv("aligning pictures")
    plane, factor = reduced_luminance(pixels, side)
    unit = float(factor[0])
    if mask is None:
        mask = present(pixels)
    where = None
    if mask is not None:
        where = reduced_luminance(mask.astype(np.float32), side)[0] > 0.999
        plane = np.where(where, plane, plane[where].mean() if where.any() else 0.0)
    levels: list[_Level] = []
    gray, gray_unit = plane, unit
    while True:
        inner = None if where is None else cv2.erode(where.astype(np.uint8), _REACH) > 0
        levels.append(_Level(_details(cv2, plane), inner, unit))
        if max(plane.shape) > 1000:
            gray, gray_unit = _halved(cv2, plane), 2 * unit
        if max(plane.shape) < 2 * _COARSEST or min(plane.shape) < 64:
            break
        plane, unit = _halved(cv2, plane), 2 * unit
        where = None if where is None else _halved(cv2, where.astype(np.float32)) > 0.999
    return Prepared(pixels.shape[:2], tuple(levels), _gray(gray), gray_unit)


def _halved(cv2: Any, plane: np.ndarray) -> np.ndarray:
    """Means of two by two; a last odd row or column is left out."""
    height, width = (length // 2 for length in plane.shape)
    even = np.ascontiguousarray(plane[: 2 * height, : 2 * width])
    return cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)


def _gray(plane: np.ndarray) -> np.ndarray:
    low, high = np.quantile(plane[::4, ::4], (0.01, 0.99))
    return np.clip((plane - low) * (255.0 / max(high - low, 1e-3)), 0, 255).astype(np.uint8)


def _details(cv2: Any, plane: np.ndarray) -> np.ndarray:
    """Structures of about 1 to 4 pixels, divided by their own strength within about 10 pixels."""
    fine = cv2.GaussianBlur(plane, (0, 0), 1.0)
    band = fine - cv2.GaussianBlur(fine, (0, 0), 4.0)
    power = cv2.blur(cv2.blur(band * band, (15, 15)), (15, 15))
    # Weak areas are noise or blur; they stay weak.
    floor = 0.25 * float(power.mean()) + 1e-7
    return band / np.sqrt(power + np.float32(floor))


# ----------------------------------------------------------------------------- refinement

_Pair = tuple[_Level, _Level]


@dataclasses.dataclass
class _Points:
    """The steepest points of a reference level, and how they answer to the generators."""

    x: np.ndarray
    y: np.ndarray
    values: np.ndarray
    answers: np.ndarray
    normaliser: np.ndarray


def _points(level: _Level, count: int) -> _Points:
    """Points of the reference at which pictures are compared.

    Args:
        level: of the reference.
        count: of generators that are used.
    """
    details = level.details
    height, width = details.shape
    gx, gy = np.zeros_like(details), np.zeros_like(details)
    gx[:, 1:-1] = (details[:, 2:] - details[:, :-2]) / 2
    gy[1:-1] = (details[2:] - details[:-2]) / 2
    steep = gx * gx + gy * gy
    if level.mask is not None:
        steep *= level.mask
    # Blurs at the rim look at pixels that do not exist.
    rim = 4
    steep[:rim], steep[-rim:], steep[:, :rim], steep[:, -rim:] = 0, 0, 0, 0
    share = min(0.5, _POINTS / steep.size)
    least = np.quantile(steep[::3, ::3], 1 - share)
    rows, columns = np.nonzero(steep > max(float(least), 1e-9))
    radius = max(height, width) / 2
    x, y = columns.astype(np.float32), rows.astype(np.float32)
    u, v = (x - (width - 1) / 2) / radius, (y - (height - 1) / 2) / radius
    gx, gy = gx[rows, columns] * radius, gy[rows, columns] * radius
    spread = gx * u + gy * v
    answers = [gx, gy, gy * u - gx * v, spread, gx * u - gy * v, gx * v + gy * u]
    answers += [spread * u, spread * v]
    normaliser = np.array(
        [[1 / radius, 0, -(width - 1) / 2 / radius], [0, 1 / radius, -(height - 1) / 2 / radius]]
    )
    return _Points(
        x, y, details[rows, columns], np.stack(answers[:count]), np.vstack([normaliser, [0, 0, 1]])
    )


def _sampled(cv2: Any, level: _Level, points: _Points, matrix: np.ndarray) -> Any:
    """Details of the moving level at the points' places, and where it has any (float32 0 or 1)."""
    if not points.x.size:  # a flat reference; OpenCV takes no empty maps
        return points.values, np.zeros(0, np.float32)
    x, y, w = (
        np.float32(form[0]) * points.x + np.float32(form[1]) * points.y + np.float32(form[2])
        for form in matrix
    )
    x, y = x / w, y / w
    height, width = level.details.shape
    rim = 4
    inside = (x >= rim) & (y >= rim) & (x <= width - 1 - rim) & (y <= height - 1 - rim) & (w > 0)
    # OpenCV's maps have at most 32767 columns.
    length = 1024
    count = -(-x.size // length) * length
    maps = [np.resize(np.where(inside, place, 0), count).reshape(-1, length) for place in (x, y)]
    values = cv2.remap(level.details, *maps, cv2.INTER_CUBIC).ravel()[: x.size]
    if level.mask is not None:
        nearest = [np.where(inside, place, 0).round().astype(np.int64) for place in (y, x)]
        inside &= level.mask[nearest[0], nearest[1]]
    return values, inside.astype(np.float32)


def _correlation(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> float:
    """Correlation of two lists of values of mean zero."""
    energy = float((weight * first * first).sum()) * float((weight * second * second).sum())
    return float((weight * first * second).sum()) / math.sqrt(energy + 1e-12)


def _score(cv2: Any, reference: _Level, moving: _Level, matrix: np.ndarray) -> float:
    """Correlation of two levels; the matrix takes points of the reference to the moving level."""
    points = _points(reference, 2)
    values, inside = _sampled(cv2, moving, points, matrix)
    if inside.sum() < max(64, 0.1 * inside.size):
        return 0.0
    return _correlation(points.values, values, inside)


def _refined(
    cv2: Any, points: _Points, moving: _Level, matrix: np.ndarray, count: int, radius: float
) -> tuple[np.ndarray, float]:
    """Gauss-Newton steps on one level.

    Args:
        cv2: the module.
        points: of the reference level.
        moving: level of the moving picture.
        matrix: (3, 3) from points of the reference to the moving level.
        count: of generators.
        radius: half of the picture's longest side in pixels of the level.

    Returns:
        The better matrix, and the correlation at it; never below that of the first matrix.
    """
    back = np.linalg.inv(points.normaliser)
    answers = points.answers[:count]
    best, best_score = matrix, -1.0
    for _ in range(_ITERATIONS):
        values, inside = _sampled(cv2, moving, points, matrix)
        if inside.sum() < max(64, 0.1 * inside.size):
            break
        score = _correlation(points.values, values, inside)
        if score > best_score:
            best, best_score = matrix, score
        elif score < best_score - 0.02:
            break
        gain = float((inside * values * points.values).sum())
        gain /= float((inside * values * values).sum()) + 1e-12
        rest = np.float32(np.clip(gain, 0.25, 4.0)) * values - points.values
        # What differs much does not belong: objects that move, areas that one picture blurs.
        spread = 1.5 * float(np.median(np.abs(rest[inside > 0]))) + 1e-6
        weight = inside / np.square(1.0 + np.square(rest / np.float32(3 * spread)))
        weighted = answers * weight
        normal = (weighted @ answers.T).astype(np.float64)
        normal += np.eye(count) * (1e-6 * np.trace(normal) + 1e-12)
        step = np.linalg.solve(normal, (weighted @ rest).astype(np.float64))
        change = linalg.expm(np.tensordot(-step, GENERATORS[:count], 1))
        matrix = matrix @ back @ change @ points.normaliser
        matrix /= matrix[2, 2]
        if np.abs(step).sum() * radius < _STILL:
            break
    return best, best_score


def _grown(
    cv2: Any, points: _Points, pair: _Pair, matrix: np.ndarray, names: Sequence[str]
) -> tuple[np.ndarray, str, float]:
    """Refines one model after the other, and keeps a richer one where it is worth its freedom.

    Args:
        cv2: the module.
        points: of the reference level.
        pair: the reference level and the moving one.
        matrix: between the levels.
        names: of `MODELS`, poorest first.

    Returns:
        The matrix between the levels, the model kept, and its correlation.
    """
    radius = max(pair[0].details.shape) / 2
    best, kept, score = matrix, names[0], -1.0
    for name in names:
        trial, reached = _refined(cv2, points, pair[1], best, MODELS[name], radius)
        if score < 0 or 1 - reached < (1 - _WORTH.get(name, 0.0)) * (1 - score):
            best, kept, score = trial, name, reached
    return best, kept, score


# ----------------------------------------------------------------------------- first guesses


def _guesses(reference: Prepared, moving: Prepared) -> list[np.ndarray]:
    """Matrices from full points of the reference to the moving picture: nothing, and a shift."""
    guesses = [np.eye(3)]
    level = next(
        (n for n, part in enumerate(reference.levels) if max(part.details.shape) <= 400), -1
    )
    first, second = reference.levels[level], moving.levels[level]
    shape = [min(n) for n in zip(first.details.shape, second.details.shape, strict=True)]
    fields = [
        shifts.directions(part.details[: shape[0], : shape[1]].copy()) for part in (first, second)
    ]
    x, y = shifts.strongest(*fields)
    guesses.append(np.array([[1, 0, x * first.unit], [0, 1, y * first.unit], [0, 0, 1.0]]))
    return guesses


def _feature_guess(cv2: Any, reference: Prepared, moving: Prepared) -> np.ndarray | None:
    """A similarity by matched features, from full points of the reference to the moving one."""
    detector = cv2.SIFT_create(nfeatures=3000)
    keys, words = zip(
        *(detector.detectAndCompute(part.gray, None) for part in (reference, moving)), strict=True
    )
    if any(word is None or len(word) < 8 for word in words):
        return None
    pairs = cv2.BFMatcher().knnMatch(words[0], words[1], k=2)
    chosen = [pair[0] for pair in pairs if pair[0].distance < 0.8 * pair[1].distance]
    if len(chosen) < 8:
        return None
    ends = [
        np.array([keys[0][match.queryIdx].pt for match in chosen]) * reference.gray_unit,
        np.array([keys[1][match.trainIdx].pt for match in chosen]) * moving.gray_unit,
    ]
    reach = 4.0 * reference.gray_unit
    matrix, inliers = cv2.estimateAffinePartial2D(*ends, ransacReprojThreshold=reach)
    if matrix is None or int(inliers.sum()) < 8:
        return None
    return np.vstack([matrix, [0, 0, 1]])


# -------------------------------------------------------------------------------- pairs


def align(
    reference: np.ndarray,
    moving: np.ndarray,
    *,
    model: str = "auto",
    mask: np.ndarray | None = None,
) -> Alignment:
    """Lays one picture on another of the same scene and camera.

    Args:
        reference: (H, W) or (H, W, C), integers or floats in [0, 1].
        moving: likewise.
        model: of `MODELS`, or ``"auto"``: the poorest that is hardly worse than the richest.
        mask: (H, W), true where the reference counts; None where its alpha, if any, is at least
            half, as for the moving picture.

    Returns:
        The alignment; without motion and with a remark where none is better than that.

    Raises:
        InputError: the pictures do not show the same scene, the model is unknown, or OpenCV is not
            installed.
    """
    return align_prepared(prepare(reference, mask), prepare(moving), model=model)


def align_prepared(reference: Prepared, moving: Prepared, *, model: str = "auto") -> Alignment:
    """`align` of pictures that were prepared before, each once."""
    _check(model)
    cv2 = needed_opencv("aligning pictures")
    pairs = list(zip(reference.levels, moving.levels, strict=False))
    start, first_score = _coarse(cv2, reference, moving, pairs, model)
    if first_score < _UNRELATED:
        likeness = max(first_score, 0.0)
        raise InputError(
            "the pictures cannot be aligned: they do not show the same scene "
            f"(their details correlate by {likeness:.2f}); leave one out, or align by hand "
            "and give its transform."
        )
    matrix, name, score = _fine(cv2, pairs, start, model)
    identity = _score(cv2, *pairs[0], _to_level(*pairs[0], np.eye(3)))
    remark = ""
    if identity > score:
        matrix, score = np.eye(3), identity
        remark = "no motion lays it better on its reference than none; it is used as it is."
    elif score < _POOR:
        remark = (
            f"only a part of it lies on its reference (correlation {score:.2f}): things moved, or "
            "the camera did between near and far things; look at the result."
        )
    found = Transform(np.linalg.inv(matrix))
    return Alignment(found, name, score, found.corner_shift(moving.size), remark)


def refine(
    reference: Prepared, moving: Prepared, start: Transform, *, model: str = "auto"
) -> Alignment:
    """Improves an alignment that is nearly right.

    Args:
        reference: the picture that stays; the masks of its levels say what counts.
        moving: the other one.
        start: from the moving picture to the reference, right within a few pixels.
        model: as for `align`.

    Raises:
        InputError: the model is unknown, or OpenCV is not installed.
    """
    _check(model)
    cv2 = needed_opencv("aligning pictures")
    pairs = list(zip(reference.levels, moving.levels, strict=False))
    matrix, name, score = _fine(cv2, pairs, start.inverse().matrix, model)
    found = Transform(np.linalg.inv(matrix))
    return Alignment(found, name, score, found.corner_shift(moving.size))


def _check(model: str) -> None:
    if model != "auto" and model not in MODELS:
        raise InputError(f"the model is {model!r}; choose one of auto, {', '.join(MODELS)}.")


def _to_level(reference: _Level, moving: _Level, matrix: np.ndarray) -> np.ndarray:
    """A matrix between pictures as one between their levels."""
    return np.linalg.inv(moving.to_full()) @ matrix @ reference.to_full()


def _to_full(reference: _Level, moving: _Level, matrix: np.ndarray) -> np.ndarray:
    """A matrix between levels as one between their pictures."""
    return moving.to_full() @ matrix @ np.linalg.inv(reference.to_full())


def _coarse(
    cv2: Any, reference: Prepared, moving: Prepared, pairs: list[_Pair], model: str
) -> tuple[np.ndarray, float]:
    """The best of several first guesses after refinement on the coarse levels.

    Returns:
        A matrix between the full pictures, and the correlation at a middle level.
    """
    names = _names(model)[:2]
    middle = next((n for n, pair in enumerate(pairs) if _is_coarse(pair)), len(pairs) - 1)
    levels = [(_points(pair[0], MODELS[names[-1]]), pair) for pair in pairs[middle:]]

    def improved(guess: np.ndarray) -> tuple[np.ndarray, float]:
        score = 0.0
        for points, pair in reversed(levels):
            at_level, _, score = _grown(cv2, points, pair, _to_level(*pair, guess), names)
            guess = _to_full(*pair, at_level)
        return guess, score

    trials = [improved(guess) for guess in _guesses(reference, moving)]
    best = max(trials, key=lambda trial: trial[1])
    if best[1] < _DOUBTFUL:
        guess = _feature_guess(cv2, reference, moving)
        if guess is not None:
            best = max(best, improved(guess), key=lambda trial: trial[1])
    return best


def _is_coarse(pair: _Pair) -> bool:
    return max(pair[0].details.shape) <= 400


def _names(model: str) -> list[str]:
    """Models that are tried for one that was asked for, poorest first."""
    if model in ("auto", "affine", "homography"):
        names = ["translation", "similarity", "affine", "homography"]
        return names if model == "auto" else names[: names.index(model) + 1]
    return ["translation", model] if model != "translation" else [model]


def _fine(
    cv2: Any, pairs: list[_Pair], start: np.ndarray, model: str
) -> tuple[np.ndarray, str, float]:
    """From a first guess to the finest level.

    Returns:
        A matrix between the full pictures, the model's name, the correlation on the finest level.
    """
    names = _names(model)
    names = names[1:] or names
    matrix = start
    for pair in reversed(pairs[1:]):
        if not _is_coarse(pair):
            points = _points(pair[0], MODELS[names[0]])
            at_level = _to_level(*pair, matrix)
            matrix = _to_full(*pair, _grown(cv2, points, pair, at_level, names[:1])[0])
    pair = pairs[0]
    points = _points(pair[0], MODELS[names[-1]])
    at_level, kept, score = _grown(cv2, points, pair, _to_level(*pair, matrix), names)
    if model not in ("auto", kept):
        radius = max(pair[0].details.shape) / 2
        at_level, score = _refined(cv2, points, pair[1], at_level, MODELS[model], radius)
        kept = model
    return _to_full(*pair, at_level), kept, score


# -------------------------------------------------------------------------------- stacks


def align_stack(
    load: Callable[[int], np.ndarray],
    count: int,
    *,
    model: str = "auto",
    reference: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Alignment]:
    """Lays the pictures of a stack on one of them, neighbour by neighbour.

    Neighbours in a sweep of focus or exposure are alike where the first and the last are not.

    Args:
        load: gives the picture of a number from 0; each is loaded once, the reference too.
        count: of pictures.
        model: as for `align`.
        reference: number of the picture that stays where it is; None is the middle one.
        progress: is called with the number of each picture that is done.

    Returns:
        For each picture how it lies on the reference; its score is that against its neighbour.

    Raises:
        InputError: a picture does not show the scene of its neighbour (the message has the
            number), or OpenCV is not installed.
    """
    middle = count // 2 if reference is None else reference
    start = prepare(load(middle))
    found: dict[int, Alignment] = {middle: Alignment(Transform.identity(), "identity", 1.0, 0.0)}
    if progress is not None:
        progress(middle)
    for numbers in (range(middle + 1, count), range(middle - 1, -1, -1)):
        neighbour, last = start, middle
        for number in numbers:
            moving = prepare(load(number))
            try:
                step = align_prepared(neighbour, moving, model=model)
            except InputError as error:
                raise InputError(f"picture {number + 1} on picture {last + 1}: {error}") from None
            whole = found[last].transform.compose(step.transform)
            shift = whole.corner_shift(moving.size)
            found[number] = dataclasses.replace(step, transform=whole, shift=shift)
            neighbour, last = moving, number
            if progress is not None:
                progress(number)
    return [found[number] for number in range(count)]
