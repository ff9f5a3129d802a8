"""Crops, flips and quarter turns that treat all images of an example alike; jitter of sources."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from mgdn_jax.errors import InputError

MODES = 8
# Quarter turns counter-clockwise, then upside down: the numbering of the published systems.
_TURNS = (0, 1, 0, 3, 2, 1, 2, 3)
_FLIPPED = (False, True, True, False, True, False, False, True)


def augment(image: np.ndarray, mode: int) -> np.ndarray:
    """One of the 8 flips and quarter turns.

    Modes (a turn is counter-clockwise, the flip is upside down and comes last): 0 nothing;
    1 one turn, flip; 2 flip; 3 three turns; 4 two turns, flip; 5 one turn; 6 two turns; 7 three
    turns, flip.

    Args:
      image: (H, W) or (H, W, C).
      mode: 0 to 7.

    Returns:
      A view of the image, sides exchanged by odd numbers of turns.

    Raises:
      InputError: no such mode.
    """
    if not 0 <= mode < MODES:
        raise InputError(f"augmentation mode {mode} does not exist; use 0 to 7.")
    image = np.rot90(image, _TURNS[mode], axes=(0, 1))
    return image[::-1] if _FLIPPED[mode] else image


def crop_around(image: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Cuts a window that may lie partly outside; what is outside mirrors the image.

    Args:
      image: (H, W) or (H, W, C), any size from 1 pixel.
      top: first row, negative or beyond the image allowed.
      left: first column, likewise.
      height: rows of the window.
      width: columns of the window.

    Returns:
      (height, width[, C]); a view where the window lies inside.
    """
    rows, columns = image.shape[:2]
    if top >= 0 and left >= 0 and top + height <= rows and left + width <= columns:
        return image[top : top + height, left : left + width]
    y, x = mirror_index(top, height, rows), mirror_index(left, width, columns)
    return image[y[:, None], x]


def mirror_index(start: int, count: int, size: int) -> np.ndarray:
    """Indices start .. start + count - 1 reflected into 0 .. size - 1 (edge not repeated)."""
    period = max(2 * size - 2, 1)
    index = np.arange(start, start + count) % period
    return np.minimum(index, period - index) if size > 1 else np.zeros(count, np.intp)


def draw_corner(rng: np.random.Generator, shape: Sequence[int], crop: int) -> tuple[int, int]:
    """Corner of a random crop inside (H, W); centred along a side that is too small."""
    top, left = (
        int(rng.integers(n - crop + 1)) if n > crop else -((crop - n) // 2) for n in shape[:2]
    )
    return top, left


@dataclasses.dataclass(frozen=True)
class Jitter:
    """Random scale, tone, noise and levels: for networks that shall see more than is stored.

    Attributes:
      scale: pictures are reduced by a factor log-uniform in 1 .. scale, all of an example alike; a
        larger window than there is becomes the largest there is. 1 turns it off. Fine detail and
        sharp edges become frequent.
      gamma: each source is raised to a power log-uniform in 1 / gamma .. gamma; 1 turns it off.
      noise: each source gets white Gaussian noise, its standard deviation uniform in 0 .. noise of
        full scale; 0 turns it off. Gray sources stay gray.
      clip: every other source has its levels spread: values up to one uniform in 0 .. clip become
        black, those from another one in 1 - clip .. 1 on white; 0 turns it off. Empty black (a cold
        sky) and white (a lamp) become frequent, where noise and file compression left none.
      exposure: one of the sources, drawn for each example, is multiplied by a gain log-uniform in
        1 / exposure .. exposure, and what passes white is white; 1 turns it off.
      contrast: the same source moves towards a level uniform in 0 .. 1, by a part uniform in
        0 .. contrast of the way, so that it fills a part of the range only; 0 turns it off.
      polarity: share of the examples whose source "a" is inverted, as by infrared cameras that show
        heat as black; 0 turns it off.
    """

    scale: float = 1.0
    gamma: float = 1.0
    noise: float = 0.0
    clip: float = 0.0
    exposure: float = 1.0
    contrast: float = 0.0
    polarity: float = 0.0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name in ("scale", "gamma", "exposure"):
            if not 1 <= getattr(self, name) <= 16:
                raise InputError(f"jitter.{name} is {getattr(self, name)}; use 1 (off) to 16.")
        if not 0 <= self.noise <= 1:
            raise InputError(f"jitter.noise is {self.noise}; use 0 (off) to 1, in full scales.")
        if not 0 <= self.clip < 0.5:
            raise InputError(f"jitter.clip is {self.clip}; use 0 (off) to less than 0.5.")
        if not 0 <= self.contrast < 1:
            raise InputError(f"jitter.contrast is {self.contrast}; use 0 (off) to less than 1.")
        if not 0 <= self.polarity <= 1:
            raise InputError(f"jitter.polarity is {self.polarity}; use 0 (off) to 1, a share.")

    @property
    def parting(self) -> tuple[str, ...]:
        """Fields that are on and part the sources from a target."""
        off = Jitter()
        names = ("gamma", "clip", "exposure", "contrast", "polarity")
        return tuple(name for name in names if getattr(self, name) != getattr(off, name))

    def side(self, rng: np.random.Generator, shape: Sequence[int], crop: int) -> int:
        """Side of the window that becomes a crop: crop .. scale * crop, within (H, W)."""
        if self.scale == 1:
            return crop
        drawn = round(crop * math.exp(rng.uniform(0, math.log(self.scale))))
        return max(crop, min(drawn, *shape[:2]))

    def sources(
        self, images: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Polarity, exposure, tone, noise and levels of "a" and "b"; others pass through.

        Args:
          images: (h, w, C) float32 in [0, 1].
          rng: where the numbers come from.

        Returns:
          The images, float32 in [0, 1].
        """
        result = dict(images)
        if self.polarity and rng.random() < self.polarity:
            result["a"] = 1 - result["a"]
        if self.exposure > 1 or self.contrast:
            role = "a" if rng.random() < 0.5 else "b"
            result[role] = self._exposed(result[role], rng)
        for role in ("a", "b"):
            image = result[role]
            if self.gamma > 1:
                limit = math.log(self.gamma)
                image = image ** np.float32(math.exp(rng.uniform(-limit, limit)))
            if self.noise:
                spread = np.float32(rng.uniform(0, self.noise))
                gray = (image == image[..., :1]).all()
                shape = image.shape[:2] + ((1,) if gray else image.shape[2:])
                image = image + spread * rng.standard_normal(shape, np.float32)
            if self.clip and rng.random() < 0.5:
                black, white = rng.uniform(0, self.clip), 1 - rng.uniform(0, self.clip)
                image = (image - np.float32(black)) * np.float32(1 / (white - black))
            result[role] = image.clip(0, 1)
        return result

    def _exposed(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Darker or brighter, then flatter."""
        if self.exposure > 1:
            limit = math.log(self.exposure)
            image = (image * np.float32(math.exp(rng.uniform(-limit, limit)))).clip(0, 1)
        if self.contrast:
            level, part = np.float32(rng.uniform()), np.float32(rng.uniform(0, self.contrast))
            image = image + part * (level - image)
        return image
