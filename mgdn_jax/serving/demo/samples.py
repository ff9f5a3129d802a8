"""Example pairs that may be shipped: one CC0 photograph, and scenes that are drawn here.

The focus pair is that of `examples/` (see examples/README.md). The bracket is computed from its
near picture. Thermal and medical pairs are drawings, no measurements: they show what such pictures
have in common and what only one of them sees.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from mgdn_jax.io import codec


@dataclasses.dataclass(frozen=True)
class Sample:
    """An example picture.

    Attributes:
        media_type: of its file.
        content: makes the file.
    """

    media_type: str
    content: Callable[[], bytes]


PAIRS = (
    ("Coffee, two focuses", "a photograph", "focus", ("coffee_near.jpg", "coffee_far.jpg")),
    ("Coffee, two exposures", "computed", "exposure", ("coffee_dark.png", "coffee_bright.png")),
    ("A street at night", "drawn", "thermal", ("street_thermal.png", "street_photo.png")),
    ("A head", "drawn", "medical", ("head_ct.png", "head_mr.png")),
)
"""Title, origin, task and names of each pair."""


def _photograph(name: str) -> bytes:
    folder = importlib.resources.files("mgdn_jax.serving.demo") / "page"
    return (folder / name).read_bytes()


@functools.cache
def _exposed(stops: float) -> bytes:
    """The near picture, exposed otherwise; what falls outside of the range is cut off."""
    pixels = codec.decode_image(_photograph("coffee_near.jpg"), "the photograph")
    light = (pixels / 255.0) ** 2.2 * 2.0**stops
    return _png(np.clip(light, 0, 1) ** (1 / 2.2))


def _png(values: np.ndarray) -> bytes:
    return codec.encode_png(np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8))


# -------------------------------------------------------------------------------- drawings


class _Drawing:
    """Planes on a grid, drawn over one another."""

    def __init__(self, height: int, width: int, seed: int):
        self.rows, self.columns = np.mgrid[:height, :width].astype(np.float64)
        self._random = np.random.default_rng(seed)

    def grain(self, size: float, amount: float) -> np.ndarray:
        """Texture of a size in pixels, around 0."""
        plane = ndimage.gaussian_filter(self._random.normal(size=self.rows.shape), size)
        return amount * plane / plane.std()

    def box(self, top: float, left: float, bottom: float, right: float) -> np.ndarray:
        """1 inside."""
        inside = (self.rows >= top) & (self.rows < bottom)
        return (inside & (self.columns >= left) & (self.columns < right)).astype(float)

    def oval(self, row: float, column: float, high: float, wide: float) -> np.ndarray:
        """1 inside, with a soft rim."""
        away = np.hypot((self.rows - row) / high, (self.columns - column) / wide)
        return np.clip((1 - away) * min(high, wide) + 0.5, 0, 1)

    def glow(self, row: float, column: float, radius: float) -> np.ndarray:
        """1 in the middle, less around it."""
        away = np.hypot(self.rows - row, self.columns - column) / radius
        return 1 / (1 + away**2)


def _over(plane: np.ndarray, mask: np.ndarray, value: np.ndarray | float) -> np.ndarray:
    return plane * (1 - mask) + mask * value


def _person(pen: _Drawing, foot: float, column: float, size: float) -> np.ndarray:
    """A standing person as a mask."""
    parts = (
        pen.oval(foot - 0.91 * size, column, 0.09 * size, 0.075 * size),
        pen.oval(foot - 0.62 * size, column, 0.22 * size, 0.14 * size),
        pen.oval(foot - 0.24 * size, column - 0.06 * size, 0.25 * size, 0.055 * size),
        pen.oval(foot - 0.24 * size, column + 0.06 * size, 0.25 * size, 0.055 * size),
    )
    return np.maximum.reduce(parts)


@functools.cache
def _street() -> tuple[bytes, bytes]:
    """A thermal picture, and a photograph in which lamps and signs are seen, but no persons."""
    pen = _Drawing(288, 384, seed=3)
    road = pen.box(190, 0, 288, 384)
    house = pen.box(40, 20, 190, 170)
    windows = sum(pen.box(r, c, r + 24, c + 16) for r in (58, 104) for c in (36, 74, 112, 142))
    lit = pen.box(58, 74, 82, 90) + pen.box(104, 112, 128, 128)
    lines = sum(pen.box(236, c, 242, c + 40) for c in range(10, 384, 80))
    sign = pen.box(120, 300, 150, 352)
    letters = sum(pen.box(128, c, 142, c + 5) for c in (306, 315, 324, 333, 342))
    tree = pen.oval(110, 236, 62, 44) * (pen.grain(2.5, 1.0) > -0.9)
    car = np.maximum(pen.box(200, 226, 228, 322), pen.oval(202, 272, 22, 34))
    wheels = np.maximum(pen.oval(228, 246, 11, 11), pen.oval(228, 302, 11, 11))
    persons = np.maximum(_person(pen, 262, 196, 96), _person(pen, 226, 354, 66))

    photo = np.stack([0.05 + 0.05 * (1 - pen.rows / 288)] * 3, -1) * (0.8, 0.9, 1.5)
    for mask, colour in (
        (house, (0.16, 0.11, 0.09)),
        (windows, (0.04, 0.05, 0.08)),
        (lit, (0.95, 0.78, 0.42)),
        (tree, (0.06, 0.11, 0.05)),
        (road, (0.13, 0.13, 0.14)),
        (lines, (0.62, 0.62, 0.58)),
        (sign, (0.12, 0.28, 0.66)),
        (letters, (0.92, 0.93, 0.95)),
        (car, (0.26, 0.05, 0.06)),
        (wheels, (0.03, 0.03, 0.03)),
        (0.18 * persons, (0.05, 0.05, 0.06)),
    ):
        photo = _over(photo, np.asarray(mask)[..., None], np.array(colour))
    lamp = pen.glow(70, 204, 26)[..., None] * np.array((1.0, 0.86, 0.6))
    photo = photo * (0.75 + 1.6 * pen.glow(150, 204, 120)[..., None]) + 0.9 * lamp
    photo += pen.grain(0.8, 0.012)[..., None]

    heat = 0.24 + 0.12 * pen.rows / 288 + pen.grain(6, 0.015)
    for mask, value in (
        (house, 0.36),
        (windows, 0.46),
        (tree, 0.2),
        (road, 0.34),
        (car, 0.42),
        (pen.oval(206, 308, 12, 18) * car, 0.8),
        (wheels, 0.68),
        (persons, 0.94),
    ):
        heat = _over(heat, np.asarray(mask), value)
    heat = ndimage.gaussian_filter(heat, 0.9) + pen.grain(0.5, 0.01)
    return _png(heat), _png(photo)


@functools.cache
def _head() -> tuple[bytes, bytes]:
    """A slice as a CT shows it, mostly bone, and as an MR shows it, mostly soft tissue."""
    pen = _Drawing(256, 256, seed=5)
    scalp, outer, inner = (
        pen.oval(128, 128, high, wide) for high, wide in ((108, 88), (102, 82), (94, 74))
    )
    turns = np.hypot((pen.rows - 128) / 94, (pen.columns - 128) / 74)
    angle = np.arctan2(pen.rows - 128, pen.columns - 128)
    folds = np.sin(13 * angle + 3 * pen.grain(9, 0.7)) * np.sin(16 * turns + pen.grain(7, 0.9))
    white = np.clip(1.1 * (0.75 - turns) + 0.5, 0, 1)
    chambers = np.maximum(
        pen.oval(112, 112, 26, 8) * (pen.columns < 127), pen.oval(112, 144, 26, 8)
    )
    tumour = pen.oval(158, 164, 15, 13)
    chalk = np.maximum(pen.oval(150, 104, 4, 4), pen.oval(96, 158, 3, 3))

    ct = _over(np.zeros_like(pen.rows), scalp, 0.24)
    ct = _over(ct, outer, 0.95)
    ct = _over(ct, inner, 0.33 + 0.015 * white)
    ct = _over(ct, chambers, 0.2)
    ct = _over(ct, chalk, 0.9)
    ct = ndimage.gaussian_filter(ct, 0.8) + scalp * pen.grain(0.7, 0.008)

    mr = _over(np.zeros_like(pen.rows), scalp, 0.62)
    mr = _over(mr, outer, 0.06)
    mr = _over(mr, inner, 0.42 + 0.2 * white + 0.1 * folds * (1 - 0.6 * white))
    mr = _over(mr, chambers, 0.08)
    mr = _over(mr, tumour, 0.88 + 0.1 * pen.grain(3, 0.4))
    mr = ndimage.gaussian_filter(mr, 0.9) + scalp * pen.grain(0.7, 0.012)
    return _png(ct), _png(mr)


SAMPLES = {
    "coffee_near.jpg": Sample("image/jpeg", lambda: _photograph("coffee_near.jpg")),
    "coffee_far.jpg": Sample("image/jpeg", lambda: _photograph("coffee_far.jpg")),
    "coffee_dark.png": Sample("image/png", lambda: _exposed(-2.5)),
    "coffee_bright.png": Sample("image/png", lambda: _exposed(1.5)),
    "street_thermal.png": Sample("image/png", lambda: _street()[0]),
    "street_photo.png": Sample("image/png", lambda: _street()[1]),
    "head_ct.png": Sample("image/png", lambda: _head()[0]),
    "head_mr.png": Sample("image/png", lambda: _head()[1]),
}
"""Name to picture."""
