"""Plane transforms between pictures: how they act, where pictures overlap, and their files.

Points are (x, y), x to the right and y down, with pixel centres at integers from 0. A transform
takes points of the moving picture to points of the reference picture.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.io import arrays, objects, opening
from mgdn_jax.io.disk import write_atomically

Size = tuple[int, int]
Box = tuple[int, int, int, int]

KIND = "mgdn transforms"
# Slack in pixels by which a position may lie outside and still count as inside.
_SLACK = 1e-6
# The area of a pixel may change by at most this factor; beyond it a matrix is a mistake.
_AREA_FACTOR = 1e8
_COARSE = 256
_MOST_BYTES = 16 * 2**20  # of a file
_CURE = "give 3x3 numbers as text, .npy, JSON or OpenCV's YAML"


@dataclasses.dataclass(frozen=True, eq=False)
class Transform:
    """A projective map of the plane.

    Attributes:
        matrix: (3, 3) float64, its last number 1.
        sizes: (height, width) of the moving and of the reference picture for which it was made;
            None for any. `warp` refuses others.

    Raises:
        InputError: the matrix is not 3x3 (or 2x3), not finite, or has no inverse.
    """

    matrix: np.ndarray
    sizes: tuple[Size, Size] | None = None

    def __post_init__(self) -> None:
        matrix = np.asarray(self.matrix, np.float64)
        if matrix.shape == (2, 3):
            matrix = np.vstack([matrix, [0.0, 0.0, 1.0]])
        if matrix.shape != (3, 3):
            raise InputError(f"a transform has shape {matrix.shape}; give a 3x3 (or 2x3) matrix.")
        if not np.isfinite(matrix).all():
            raise InputError("a transform holds NaN or infinite numbers; give a 3x3 matrix.")
        if abs(matrix[2, 2]) <= 1e-12 * np.abs(matrix).max():
            raise InputError("a transform sends the first pixel to infinity; give another matrix.")
        with np.errstate(all="ignore"):  # numbers near the largest ones fail the next check
            matrix = matrix / matrix[2, 2]
            area = abs(np.linalg.det(matrix))
        if not 1.0 / _AREA_FACTOR < area < _AREA_FACTOR:
            raise InputError(
                f"a transform changes areas by a factor of {area:.3g}, so that it has no inverse; "
                "give another matrix."
            )
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    @property
    def is_identity(self) -> bool:
        """Whether every pixel stays where it is."""
        return bool(np.array_equal(self.matrix, np.eye(3)))

    def __eq__(self, other: object) -> bool:
        """Two transforms are equal where all their numbers are."""
        if not isinstance(other, Transform):
            return NotImplemented
        return bool(np.array_equal(self.matrix, other.matrix)) and self.sizes == other.sizes

    def __hash__(self) -> int:
        return hash((self.matrix.tobytes(), self.sizes))

    @classmethod
    def identity(cls) -> Transform:
        """The transform that moves nothing."""
        return cls(np.eye(3))

    def apply(self, points: Any) -> np.ndarray:
        """Points (..., 2) of the moving picture as points (..., 2) of the reference, float64."""
        points = np.asarray(points, np.float64)
        mapped = points @ self.matrix[:, :2].T + self.matrix[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            return mapped[..., :2] / mapped[..., 2:]

    def inverse(self) -> Transform:
        """The transform from the reference to the moving picture."""
        sizes = None if self.sizes is None else (self.sizes[1], self.sizes[0])
        return Transform(np.linalg.inv(self.matrix), sizes)

    def compose(self, other: Transform) -> Transform:
        """This transform after the other one: ``a.compose(b).apply(p) == a.apply(b.apply(p))``."""
        sizes = None
        if self.sizes is not None and other.sizes is not None:
            sizes = (other.sizes[0], self.sizes[1])
        return Transform(self.matrix @ other.matrix, sizes)

    def corner_shift(self, size: Size) -> float:
        """Largest displacement in pixels of the corners of a picture of (height, width)."""
        corners = _corners(size)
        return float(np.linalg.norm(self.apply(corners) - corners, axis=-1).max())

    def scaled(self, from_size: Size, to_size: Size) -> Transform:
        """The same motion where both pictures are enlarged or reduced from one size to another."""
        change = scaling(from_size, to_size)
        return Transform(change.matrix @ self.matrix @ np.linalg.inv(change.matrix))

    def check_sizes(self, moving: Size, reference: Size, name: str = "the transform") -> None:
        """Refuses pictures of other sizes than those for which the transform was made.

        Args:
            moving: (height, width).
            reference: (height, width).
            name: what the message calls the transform, a path for instance.

        Raises:
            InputError: a size differs.
        """
        if self.sizes is None or self.sizes == (tuple(moving), tuple(reference)):
            return
        made, given = (
            f"{a[1]}x{a[0]} on {b[1]}x{b[0]}" for a, b in (self.sizes, (moving, reference))
        )
        raise InputError(
            f"{name} was made for a picture of {made} pixels but meets {given}; "
            "use it with pictures of those sizes, or align these anew."
        )

    def check_horizon(self, size: Size) -> None:
        """Refuses a transform that sends a part of a picture of (height, width) to infinity.

        Raises:
            InputError: it does.
        """
        weights = _corners(size) @ self.matrix[2, :2] + 1.0
        if not (weights > 1e-6).all():
            raise InputError(
                "the transform sends a part of the picture to infinity; give the matrix that maps "
                "pixels (x, y) of the moving picture to the reference."
            )


def _corners(size: Size) -> np.ndarray:
    """Centres of the corner pixels, (4, 2) as (x, y)."""
    bottom, right = size[0] - 1.0, size[1] - 1.0
    return np.array([[0.0, 0.0], [right, 0.0], [0.0, bottom], [right, bottom]])


def scaling(from_size: Size, to_size: Size) -> Transform:
    """The transform of a picture that is resized from one (height, width) to another."""
    fy, fx = to_size[0] / from_size[0], to_size[1] / from_size[1]
    return Transform(
        np.array([[fx, 0.0, (fx - 1.0) / 2.0], [0.0, fy, (fy - 1.0) / 2.0], [0.0, 0.0, 1.0]])
    )


# -------------------------------------------------------------------------------- areas


def row_intervals(transform: Transform, moving: Size, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """First and last column of every row of the reference that the moving picture covers.

    A pixel is covered where its position in the moving picture lies between pixel centres.

    Args:
        transform: from the moving picture to the reference.
        moving: (height, width) of the moving picture.
        size: (height, width) of the reference.

    Returns:
        Two int arrays (height,); the last is less than the first where a row is not covered.

    Raises:
        InputError: the transform sends a part of the picture to infinity.
    """
    transform.check_horizon(moving)
    back = np.linalg.inv(transform.matrix)
    x, y, w = back
    bottom, right = moving[0] - 1.0 + _SLACK, moving[1] - 1.0 + _SLACK
    rows = np.arange(size[0], dtype=np.float64)
    low, high = np.full(size[0], -np.inf), np.full(size[0], np.inf)
    for form in (w, x + _SLACK * w, y + _SLACK * w, right * w - x, bottom * w - y):
        level = form[1] * rows + form[2]
        if abs(form[0]) < 1e-15:
            low[level < 0] = np.inf
        elif form[0] > 0:
            low = np.maximum(low, -level / form[0])
        else:
            high = np.minimum(high, -level / form[0])
    # A bound that rounding puts just above an integer still includes that integer.
    first = np.clip(np.ceil(low - 1e-9), 0, size[1])
    last = np.clip(np.floor(high + 1e-9), -1, size[1] - 1)
    return first.astype(np.int64), last.astype(np.int64)


def covered(transform: Transform, moving: Size, size: Size) -> np.ndarray:
    """Mask (height, width) of the reference's pixels at which the moving picture has pixels."""
    first, last = row_intervals(transform, moving, size)
    columns = np.arange(size[1])
    mask = columns >= first[:, None]
    mask &= columns <= last[:, None]
    return mask


def common_area(
    pictures: Sequence[np.ndarray | Transform],
    sizes: Sequence[Size] | None = None,
    *,
    frame: Size | None = None,
) -> Box:
    """The largest upright rectangle that all pictures cover.

    Args:
        pictures: for each picture its mask (H, W) in the frame, or its transform into the frame.
        sizes: (height, width) of each picture before its transform; masks do not need them.
        frame: (height, width) of the reference; None is the first of `sizes`, or of the masks.

    Returns:
        (top, bottom, left, right), so that ``picture[top:bottom, left:right]`` is covered.

    Raises:
        InputError: the pictures have no pixel in common.
    """
    masks = [picture for picture in pictures if not isinstance(picture, Transform)]
    frame = frame or _first_frame(masks, sizes)
    first, last = np.zeros(frame[0], np.int64), np.full(frame[0], frame[1] - 1)
    for number, picture in enumerate(pictures):
        if isinstance(picture, Transform):
            assert sizes is not None, "transforms need the sizes of their pictures"
            low, high = row_intervals(picture, sizes[number], frame)
            first, last = np.maximum(first, low), np.minimum(last, high)
    if not masks:
        box = _largest_between(first, last)
    else:
        columns = np.arange(frame[1])
        mask = np.asarray((columns >= first[:, None]) & (columns <= last[:, None]))
        for other in masks:
            mask &= other
        box = _largest_in(mask)
    if box[1] <= box[0] or box[3] <= box[2]:
        raise InputError("the pictures have no area in common; check their transforms.")
    return box


def _first_frame(masks: Sequence[np.ndarray], sizes: Sequence[Size] | None) -> Size:
    """The size of the first mask, or of the first picture where there is no mask."""
    if masks:
        return masks[0].shape[0], masks[0].shape[1]
    assert sizes is not None, "transforms need the sizes of their pictures"
    return sizes[0]


def _largest_between(first: np.ndarray, last: np.ndarray) -> Box:
    """Largest rectangle within a convex area of which every row has a first and last column.

    Convexity leaves the widest span of rows t to b between the bounds of these two rows.
    """
    rows = np.flatnonzero(last >= first)
    if not rows.size:
        return 0, 0, 0, 0

    def best(tops: np.ndarray, bottoms: np.ndarray) -> tuple[int, int]:
        left = np.maximum(first[tops][:, None], first[bottoms])
        right = np.minimum(last[tops][:, None], last[bottoms])
        heights = bottoms - tops[:, None] + 1
        areas = np.where(heights > 0, heights * (right - left + 1), 0)
        t, b = np.unravel_index(areas.argmax(), areas.shape)
        return int(tops[t]), int(bottoms[b])

    step = -(-rows.size // _COARSE)
    grid = np.unique(np.append(rows[::step], rows[-1]))
    top, bottom = best(grid, grid)
    near = [rows[(rows >= row - 2 * step) & (rows <= row + 2 * step)] for row in (top, bottom)]
    top, bottom = best(*near)
    left, right = int(first[top : bottom + 1].max()), int(last[top : bottom + 1].min())
    return top, bottom + 1, left, right + 1


def _largest_in(mask: np.ndarray) -> Box:
    """Largest rectangle of a mask: by blocks first, then its sides move by single pixels."""
    step = max(1, -(-max(mask.shape) // _COARSE))
    height, width = (-(-n // step) for n in mask.shape)
    padded = np.ones((height * step, width * step), bool)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    blocks = np.asarray(padded.reshape(height, step, width, step).all(axis=(1, 3)))
    top, bottom, left, right = (step * n for n in _largest_of_blocks(blocks))
    box = (top, min(bottom, mask.shape[0]), left, min(right, mask.shape[1]))
    if step == 1 or box[1] <= box[0]:
        return box
    return _moved_sides(mask, box, 2 * step)


def _largest_of_blocks(mask: np.ndarray) -> Box:
    """Largest rectangle of a small mask, exactly: the largest area below a skyline, row by row."""
    best, box = 0, (0, 0, 0, 0)
    heights = np.zeros(mask.shape[1] + 1, np.int64)
    for row, line in enumerate(mask):
        heights[:-1] = np.where(line, heights[:-1] + 1, 0)
        open_at: list[tuple[int, int]] = []
        for column, height in enumerate(heights.tolist()):
            start = column
            while open_at and open_at[-1][1] >= height:
                start, tall = open_at.pop()
                if tall * (column - start) > best:
                    best = tall * (column - start)
                    box = (row + 1 - tall, row + 1, start, column)
            open_at.append((start, height))
    return box


def _moved_sides(mask: np.ndarray, box: Box, reach: int) -> Box:
    """A rectangle whose sides move, alone or two at a time, while its area grows."""
    integral = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int32)
    np.cumsum(~mask, axis=0, dtype=np.int32, out=integral[1:, 1:])
    np.cumsum(integral[1:, 1:], axis=1, out=integral[1:, 1:])

    def is_inside(sides: Sequence[int]) -> bool:
        t, b, x, y = sides
        if not (0 <= t < b <= mask.shape[0] and 0 <= x < y <= mask.shape[1]):
            return False
        holes = integral[b, y] - integral[t, y] - integral[b, x] + integral[t, x]
        return int(holes) == 0

    def area(sides: Sequence[int]) -> int:
        return (sides[1] - sides[0]) * (sides[3] - sides[2])

    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    sides, step = list(box), reach
    while step:
        trials = []
        for i, j in pairs:
            for a, b in ((step, 0), (step, -step), (step, -2 * step), (2 * step, -step)):
                trial = list(sides)
                trial[i] += a if i % 2 else -a
                trial[j] += b if j % 2 else -b
                trials.append(trial)
        inside = [trial for trial in trials if area(trial) > area(sides) and is_inside(trial)]
        if inside:
            sides = max(inside, key=area)
        else:
            step //= 2
    return sides[0], sides[1], sides[2], sides[3]


# -------------------------------------------------------------------------------- files


def write_transforms(
    path: str | os.PathLike[str],
    transforms: Mapping[Any, Transform],
    sizes: Mapping[Any, tuple[Size, Size]] | Size | None = None,
) -> None:
    """Writes transforms as JSON that `read_transforms` reads, and that people can read, too.

    Args:
        path: of the file.
        transforms: by the name or number of their picture.
        sizes: for each (moving size, reference size), each (height, width); one (height, width)
            where all pictures have it; None takes what the transforms know.

    Raises:
        InputError: the file cannot be written.
    """
    entries = []
    for name, transform in transforms.items():
        made = transform.sizes
        if isinstance(sizes, Mapping):
            made = sizes[name]
        elif sizes is not None:
            made = (sizes, sizes)
        entry = {"picture": name, "matrix": transform.matrix.tolist()}
        if made is not None:
            entry |= {"moving_size": list(made[0]), "reference_size": list(made[1])}
        entries.append(entry)
    text = json.dumps({"kind": KIND, "version": 1, "transforms": entries}, indent=1)
    write_atomically(path, (text + "\n").encode())


def read_transforms(path: str | os.PathLike[str]) -> dict[str | int, Transform]:
    """Reads transforms from any of the usual files.

    Args:
        path: 3x3 or 2x3 numbers as text (`numpy.savetxt`), ``.npy``, ``.npz``, YAML of OpenCV's
            FileStorage, or JSON: a matrix, a list of them, names with matrices, or what
            `write_transforms` wrote.

    Returns:
        Transforms by name, or by number from 0 where the file has no names.

    Raises:
        InputError: the file is missing, of another form, or holds a matrix without an inverse.
    """
    path = Path(path)
    data = opening.read_bytes(path, "a file of transforms", _MOST_BYTES)
    try:
        found = _matrices(data, path)
    except InputError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, OSError, zipfile.BadZipFile):
        found = {}
    if not found:
        raise InputError(f"{path}: holds no transform that can be read; {_CURE}.")
    transforms: dict[str | int, Transform] = {}
    for name, (matrix, sizes) in found.items():
        try:
            rows = matrix if isinstance(matrix, np.ndarray) else _rows(matrix)
            transforms[name] = Transform(rows, sizes)
        except (ValueError, TypeError) as error:
            reason = error if isinstance(error, InputError) else "it is no matrix of numbers."
            raise InputError(f"{path}: transform {name!r}: {reason}") from None
    return transforms


_Entry = tuple[Any, tuple[Size, Size] | None]


def _matrices(data: bytes, path: Path) -> dict[str | int, _Entry]:
    """Matrices of a file with the sizes for which they were made."""
    suffix, name = path.suffix.lower(), os.fspath(path)
    if suffix == ".npy":
        return _numbered(arrays.read(io.BytesIO(data), name))
    if suffix == ".npz":
        entries: dict[str | int, _Entry] = {}
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for key in arrays.members(archive):
                with archive.open(f"{key}.npy") as file:
                    entries[key] = (arrays.read(file, name), None)
        return entries
    text = opening.decoded(data, name)
    if "opencv-matrix" in text:
        return _opencv_matrices(text)
    if text.lstrip()[:1] in ("{", "["):
        return _json_matrices(objects.value_of(text, name, _CURE))
    lines = [line.split("#")[0].replace(",", " ").split() for line in text.splitlines()]
    return _numbered(np.array([[float(word) for word in line] for line in lines if line]))


def _numbered(array: np.ndarray) -> dict[str | int, _Entry]:
    """One matrix, or several that are stacked."""
    if array.ndim == 2 and array.shape[0] > 3 and array.shape[0] % 3 == 0:
        array = array.reshape(-1, 3, array.shape[1])
    if array.ndim == 2:
        array = array[None]
    return {number: (matrix, None) for number, matrix in enumerate(array)}


def _json_matrices(content: Any) -> dict[str | int, _Entry]:
    if isinstance(content, list):
        return _numbered(_rows(content))
    if content.get("kind") != KIND:
        return {name: (matrix, None) for name, matrix in content.items()}
    entries: dict[str | int, _Entry] = {}
    for entry in content["transforms"]:
        sizes = None
        if "moving_size" in entry:
            (top, left), (bottom, right) = entry["moving_size"], entry["reference_size"]
            sizes = ((int(top), int(left)), (int(bottom), int(right)))
        if isinstance(entry["picture"], bool) or not isinstance(entry["picture"], str | int):
            raise TypeError("a picture has a name or a number")
        entries[entry["picture"]] = (entry["matrix"], sizes)
    return entries


def _rows(content: Any) -> np.ndarray:
    """Nested lists as an array; texts and truth values, which NumPy takes as well, are refused."""
    values = [content]
    while values:
        value = values.pop()
        if isinstance(value, list):
            values += value
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{value!r} is no number")
    return np.array(content, np.float64)


def _opencv_matrices(text: str) -> dict[str | int, _Entry]:
    """Matrices of YAML as OpenCV's FileStorage writes it; other YAML is not read."""
    pattern = re.compile(
        r"^ *(\w+): *!!opencv-matrix\s+rows: *(\d{1,3})\s+cols: *(\d{1,3})\s+dt: *\S+\s+"
        r"data: *\[([^\[\]]*)\]",
        re.MULTILINE,
    )
    return {
        name: (np.array(numbers.replace(",", " ").split(), float).reshape(int(h), int(w)), None)
        for name, h, w, numbers in pattern.findall(text)
    }
