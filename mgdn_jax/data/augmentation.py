"""Crops, flips and quarter turns that treat all images of an example alike."""

from __future__ import annotations

from collections.abc import Sequence

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
