"""Pixels at the edge: types, ranges and alpha in and out."""

from __future__ import annotations

import numpy as np


def _has_alpha(array: np.ndarray) -> bool:
    return array.ndim == 3 and array.shape[-1] in (2, 4)


def without_alpha(array: np.ndarray) -> np.ndarray:
    """The gray or colour channels, (H, W, 1 or 3), as a view."""
    if array.ndim == 2:
        return array[..., None]
    return array[..., :-1] if _has_alpha(array) else array


def to_float(pixels: np.ndarray) -> np.ndarray:
    """uint8, uint16 or float pixels to float32 in [0, 1]; the division is correctly rounded."""
    if pixels.dtype.newbyteorder("=") in (np.uint8, np.uint16):
        scale = np.float32(np.iinfo(pixels.dtype).max)
        return np.divide(pixels, scale, dtype=np.float32)
    return pixels.astype(np.float32, copy=False)


def from_float(values: np.ndarray, dtype: np.dtype | None) -> np.ndarray:
    """Float32 results in a dtype: clipped to [0, 1], integers rounded half to even; None: as is."""
    if dtype is None:
        return values
    values = np.clip(values, 0.0, 1.0)
    if np.issubdtype(dtype, np.floating):
        return values.astype(dtype, copy=False)
    return np.rint(values * np.float32(np.iinfo(dtype).max)).astype(dtype)
