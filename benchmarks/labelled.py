"""Pictures with boxes around things, and the patches that are cut from them.

A folder of labelled pairs has `train/` and `test/`, each with `ir/`, `vi/` and `labels/`: equal
names, and a text file a pair in YOLO's form, a line a box: class, centre x, centre y, width,
height, all but the class relative to the picture. `labels.json` beside them names the classes and
the light of each pair: `{"classes": [...], "train": [{"name": ..., "light": ...}, ...], "test":
[...]}`; without it the classes are those of `CLASSES` and the light is `UNKNOWN`.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mgdn_jax.errors import InputError
from mgdn_jax.io import files
from mgdn_jax.io.pairing import pair_folders

SPLITS = ("train", "test")
CLASSES = ("person", "bicycle", "car")
BACKGROUND = "background"
UNKNOWN = "-"
SIDE = 32
"""Pixels of a patch, after it is resized."""
CONTEXT = 1.25
"""Side of a patch over the longer side of its box."""
SMALLEST = 12.0
"""Pixels of the longer side of a box; smaller ones are left out, but are no background either."""
BACKGROUNDS = 5
"""Patches without a box that are cut from each picture, where it has room for them."""
_TRIES = 50


@dataclass(frozen=True)
class Box:
    """A thing in a picture, in its pixels.

    Attributes:
        name: its class.
        left, top, right, bottom: its sides.
    """

    name: str
    left: float
    top: float
    right: float
    bottom: float

    @property
    def longer(self) -> float:
        """The longer side."""
        return max(self.right - self.left, self.bottom - self.top)


@dataclass(frozen=True)
class Scene:
    """A pair with its boxes.

    Attributes:
        name: of both files.
        infrared, visible: the files.
        size: height and width.
        light: "day" or "night" for instance.
        boxes: all, small ones too.
    """

    name: str
    infrared: Path
    visible: Path
    size: tuple[int, int]
    light: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Place:
    """Where a patch lies: a square within a picture.

    Attributes:
        scene: number of the scene.
        name: class of the box, or `BACKGROUND`.
        left, top, side: in pixels.
    """

    scene: int
    name: str
    left: float
    top: float
    side: float


def read_labels(data: Path) -> tuple[tuple[str, ...], dict[str, dict[str, str]]]:
    """Names of the classes, and for each split the light of its pairs.

    Raises:
        InputError: `labels.json` is there and has another form.
    """
    path = data / "labels.json"
    if not path.is_file():
        return CLASSES, {split: {} for split in SPLITS}
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        classes = tuple(str(name) for name in table.get("classes", CLASSES))
        light = {
            split: {entry["name"]: str(entry.get("light", UNKNOWN)) for entry in table[split]}
            for split in SPLITS
        }
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path} is no JSON ({error}); write it again or remove it.") from None
    except (KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} needs lists train and test of objects with name and light; write it again or"
            " remove it."
        ) from None
    if not classes or len(set(classes)) < len(classes) or BACKGROUND in classes:
        raise InputError(
            f"{path} has the classes {', '.join(classes) or 'none'}; name each once, and none"
            f" {BACKGROUND}."
        )
    return classes, light


def read_scenes(folder: Path, classes: Sequence[str], light: Mapping[str, str]) -> list[Scene]:
    """The pairs of a split with their boxes, by name.

    Raises:
        InputError: a folder, a partner or a label file is missing, a pair has two sizes, or a
            line of labels is wrong.
    """
    for part in ("ir", "vi", "labels"):
        if not (folder / part).is_dir():
            raise InputError(
                f"{folder / part} does not exist; a folder of labelled pairs has train/ and test/ "
                "with ir/, vi/ and labels/ each."
            )
    pairs = pair_folders([folder / "ir", folder / "vi"])
    for sentence in pairs.problems:
        raise InputError(sentence)
    scenes = []
    for name, (infrared, visible) in pairs.groups.items():
        size, other = (files.read_image(path).shape[:2] for path in (infrared, visible))
        if size != other:
            raise InputError(
                f"{infrared} is {size[0]}x{size[1]} and {visible} {other[0]}x{other[1]}; give "
                "registered pairs of one size."
            )
        labels = folder / "labels" / f"{name}.txt"
        if not labels.is_file():
            raise InputError(f"{labels} does not exist; write an empty one where nothing is.")
        boxes = read_boxes(labels, size, classes)
        scenes.append(Scene(name, infrared, visible, size, light.get(name, UNKNOWN), boxes))
    return scenes


def read_boxes(path: Path, size: tuple[int, int], classes: Sequence[str]) -> tuple[Box, ...]:
    """The boxes of a label file; what reaches beyond the picture by less than a pixel is cut off.

    Args:
        path: the file.
        size: height and width of the picture.
        classes: their names, by number.

    Raises:
        InputError: a line is no box, of no class, or not within the picture.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); write it again.") from None
    boxes = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where, words = f"{path}, line {number}", line.split()
        try:
            index, values = int(words[0]), [float(word) for word in words[1:]]
        except ValueError:
            index, values = 0, []
        if len(values) != 4 or not all(map(math.isfinite, values)) or min(values[2:]) <= 0:
            raise InputError(
                f"{where}: {line.strip()[:60]!r} is no box; write a class and four numbers, centre "
                "x, centre y, width and height."
            )
        if not 0 <= index < len(classes):
            known = ", ".join(f"{i} {name}" for i, name in enumerate(classes))
            raise InputError(f"{where}: there is no class {index}; choose one of {known}.")
        x, y, width, height = (v * size[1 - i % 2] for i, v in enumerate(values))
        sides = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        if min(sides[:2]) <= -1 or sides[2] >= size[1] + 1 or sides[3] >= size[0] + 1:
            raise InputError(
                f"{where}: the box from ({sides[0]:.0f}, {sides[1]:.0f}) to ({sides[2]:.0f}, "
                f"{sides[3]:.0f}) reaches beyond the picture of {size[1]}x{size[0]} pixels; divide "
                "pixels by width and height."
            )
        limits = [(0, size[1 - i % 2]) for i in range(4)]
        sides = [min(max(side, low), high) for side, (low, high) in zip(sides, limits, strict=True)]
        boxes.append(Box(classes[index], *sides))
    return tuple(boxes)


def find_places(scenes: Sequence[Scene], split: str) -> list[Place]:
    """Squares around the boxes, and as many without a box as each picture has room for.

    A square is moved into its picture where it would reach beyond. Squares without a box have the
    sides and the heights of boxes of the split, so that neither tells a thing from background; only
    where they lie from left to right is drawn freely.

    Args:
        scenes: of the split.
        split: its name, from which (with the names of pictures) the random numbers come.
    """
    shapes = []
    for scene in scenes:
        for box in scene.boxes:
            if box.longer >= SMALLEST:
                shapes.append((box.longer, (box.top + box.bottom) / 2 / scene.size[0]))
    places = []
    for number, scene in enumerate(scenes):
        height, width = scene.size
        for box in scene.boxes:
            if box.longer >= SMALLEST:
                x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
                places.append(Place(number, box.name, *_square(x, y, box.longer, scene.size)))
        rng = np.random.default_rng(zlib.crc32(f"{split}/{scene.name}".encode()))
        squares: list[tuple[float, float, float]] = []
        for _ in range(_TRIES if shapes else 0):
            longer, row = shapes[rng.integers(len(shapes))]
            square = _square(rng.uniform(0, width), row * height, longer, scene.size)
            if len(squares) < BACKGROUNDS and not _meets(square, scene.boxes):
                squares.append(square)
        places += [Place(number, BACKGROUND, *square) for square in squares]
    return places


def _square(x: float, y: float, longer: float, size: tuple[int, int]) -> tuple[float, float, float]:
    side = min(CONTEXT * longer, *size)
    left = min(max(x - side / 2, 0.0), size[1] - side)
    top = min(max(y - side / 2, 0.0), size[0] - side)
    return left, top, side


def _meets(square: tuple[float, float, float], boxes: Sequence[Box]) -> bool:
    left, top, side = square
    return any(
        left < box.right and box.left < left + side and top < box.bottom and box.top < top + side
        for box in boxes
    )


def cut(picture: np.ndarray, places: Sequence[Place]) -> np.ndarray:
    """Patches of one picture: (n, SIDE, SIDE, C) uint8, resized by Pillow's antialiased bilinear.

    Args:
        picture: (H, W, C) uint8.
        places: squares within it.
    """
    patches = np.empty((len(places), SIDE, SIDE, picture.shape[2]), np.uint8)
    for channel in range(picture.shape[2]):
        plane = Image.fromarray(np.ascontiguousarray(picture[..., channel]))
        for number, place in enumerate(places):
            box = place.left, place.top, place.left + place.side, place.top + place.side
            patches[number, ..., channel] = plane.resize(
                (SIDE, SIDE), Image.Resampling.BILINEAR, box=box
            )
    return patches


def montage(patches: Mapping[str, np.ndarray], names: Sequence[str], count: int = 16) -> np.ndarray:
    """Patches side by side, to look at: a row an input and class.

    Args:
        patches: input to (n, SIDE, SIDE, 3 or 6); of six channels the first three are shown.
        names: the class of each.
        count: patches of a class, spread evenly.

    Returns:
        (H, W, 3) uint8; rows of one class lie together, white between classes.
    """
    gap, rows = 2, []
    for name in dict.fromkeys(names):
        members = [i for i, other in enumerate(names) if other == name]
        shown = min(count, len(members))
        chosen = [members[i * len(members) // shown] for i in range(shown)]
        for stack in patches.values():
            row = np.full((SIDE + gap, count * (SIDE + gap), 3), 255, np.uint8)
            for column, i in enumerate(chosen):
                left = column * (SIDE + gap)
                row[:SIDE, left : left + SIDE] = stack[i, ..., :3]
            rows.append(row)
        rows.append(np.full((4 * gap, count * (SIDE + gap), 3), 255, np.uint8))
    return np.concatenate(rows)
