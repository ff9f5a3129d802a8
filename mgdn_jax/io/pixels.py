"""Pixels at the edge: arrays as users have them, checked; types, ranges and alpha in and out."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.io.files import read_image

# ------------------------------------------------------------------------- pixels at the edge


def load_pictures(images: Sequence[Any]) -> list[np.ndarray]:
    """Arrays or paths to pixels, checked to be of one size and one dtype.

    Args:
      images: paths, or arrays of (H, W) or (H, W, C) with C in 1 to 4 (2 and 4 end in alpha);
        uint8, uint16 or floats in [0, 1].

    Returns:
      The pixels as NumPy arrays in native byte order, otherwise as given.

    Raises:
      InputError: a picture cannot be read, has another shape, dtype or range, or differs from the
        first in size or dtype.
    """
    pixels, names = [], []
    for number, picture in enumerate(images, 1):
        is_path = isinstance(picture, (str, os.PathLike))
        names.append(os.fspath(picture) if is_path else f"image {number}")
        array = read_image(picture) if is_path else np.asarray(picture)
        _check_pixels(array, names[-1])
        pixels.append(array.astype(array.dtype.newbyteorder("="), copy=False))
    first, name = pixels[0], names[0]
    for other, other_name in zip(pixels[1:], names[1:], strict=True):
        if other.shape[:2] != first.shape[:2]:
            raise InputError(
                f"{other_name} is {_size(other)} but {name} is {_size(first)}; "
                "pictures to fuse must have the same size."
            )
        if other.dtype != first.dtype:
            raise InputError(
                f"{other_name} is {other.dtype} but {name} is {first.dtype}; "
                "convert one of them to the other's type."
            )
    return pixels


def _check_pixels(array: np.ndarray, name: str) -> None:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 2, 3, 4)):
        raise InputError(
            f"{name} has shape {array.shape}; give (H, W) or (H, W, C) with 1 to 4 channels "
            "(batches go through .network())."
        )
    if array.size == 0:
        raise InputError(f"{name} has shape {array.shape}, that is no pixels; give a picture.")
    if array.dtype in (np.uint8, np.uint16):
        return
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{name} is {array.dtype}; convert it to uint8, uint16 or float32.")
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"{name} holds NaN or infinite pixels; replace them first.")
    if low < -1e-6 or high > 1 + 1e-6:
        raise InputError(
            f"{name} has float pixels from {low:.4g} to {high:.4g}; scale them to [0, 1] first."
        )


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"


def _has_alpha(array: np.ndarray) -> bool:
    return array.ndim == 3 and array.shape[-1] in (2, 4)


def without_alpha(array: np.ndarray) -> np.ndarray:
    """The gray or colour channels, (H, W, 1 or 3), as a view."""
    if array.ndim == 2:
        return array[..., None]
    return array[..., :-1] if _has_alpha(array) else array


def like_inputs(fused: np.ndarray, pixels: Sequence[np.ndarray]) -> np.ndarray:
    """Gives a fused picture the layout of its sources.

    Args:
      fused: (H, W, 1 or 3).
      pixels: the sources, as `load_pictures` gives them.

    Returns:
      (H, W) if `fused` is gray and the first source has no channel axis of its own; with a last
      alpha channel, the maximum over the sources', if all of them have one; else `fused`.
    """
    if all(_has_alpha(x) for x in pixels):
        alpha = functools.reduce(np.maximum, [x[..., -1:] for x in pixels])
        return np.concatenate([fused, alpha], -1)
    flat = pixels[0].ndim == 2 or _has_alpha(pixels[0])
    return fused[..., 0] if fused.shape[-1] == 1 and flat else fused


def to_float(pixels: np.ndarray) -> np.ndarray:
    """uint8, uint16 or float pixels to float32 in [0, 1]; the division is correctly rounded."""
    if pixels.dtype == np.uint8 or pixels.dtype == np.uint16:
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
