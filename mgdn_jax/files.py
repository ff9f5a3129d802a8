"""Image files at the edge of the package: reading, pairing folders, writing whole or not at all."""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mgdn_jax import codec
from mgdn_jax.disk import write_atomically
from mgdn_jax.errors import InputError


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads one image file.

    Args:
      path: the file.

    Returns:
      (H, W) or (H, W, C) with C in 2, 3, 4, as `codec.decode_image` gives it: uint8, uint16 or
      float32; float pixels are finite.

    Raises:
      InputError: the file is missing, a folder, unreadable, empty, damaged, not an image, or
        holds NaN or infinite pixels.
    """
    name = os.fspath(path)
    if "\0" not in name and os.path.isdir(name):
        raise InputError(f"{name} is a folder where an image file is expected; name a file.")
    try:
        with open(name, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise InputError(f"{name} does not exist; check the path.") from None
    except PermissionError:
        raise InputError(f"{name} may not be read; check its permissions.") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise InputError(f"{name!r} cannot be read ({_reason(error)}); check the path.") from None
    if not data:
        raise InputError(f"{name} is empty; export or download it again.")
    array = codec.decode_image(data, name)
    if array.dtype == np.float32 and not np.isfinite(array).all():
        raise InputError(f"{name} holds NaN or infinite pixels; replace them first.")
    return array


def check_output(path: str | os.PathLike[str]) -> Path:
    """Finds out before the work whether an image can be written to `path`.

    Args:
      path: the file to be; it need not exist, nor need its folder (`write_image` makes it).

    Returns:
      The path, with symbolic links resolved.

    Raises:
      InputError: unknown image type, the path is a folder or a device, or the place is not
        writable.
    """
    name = os.fspath(path)
    target = Path(os.path.realpath(name))
    if target.is_dir():
        raise InputError(f"{name} is a folder where an image file is to be written; name a file.")
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        raise InputError(f"{name} is not a regular file; name another output.")
    if Path(name).suffix.lower() not in codec.SUFFIXES:
        raise InputError(
            f"{name} does not end in an image type that can be written; "
            f"use one of {', '.join(codec.SUFFIXES)}."
        )
    check_folder(target.parent, name)
    return target


def check_folder(folder: str | os.PathLike[str], name: str | None = None) -> None:
    """Finds out whether files can be written in `folder`, which need not exist yet.

    Args:
      folder: the folder to be.
      name: what to call the output in the message; the folder itself if None.

    Raises:
      InputError: a part of the path is a file, or the nearest existing folder is not writable.
    """
    name = name or os.fspath(folder)
    nearest = Path(os.path.realpath(folder))
    while not os.path.lexists(nearest) and nearest.parent != nearest:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise InputError(f"{name} cannot be written because {nearest} is not a folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{name} cannot be written because {nearest} is not writable.")


def write_image(path: str | os.PathLike[str], array: np.ndarray, *, quality: int = 95) -> Path:
    """Writes a picture in the format of the path's suffix, whole or not at all.

    Args:
      path: the file; its folder is made if missing; an existing file is replaced as a whole.
      array: (H, W) or (H, W, C), C in 1 to 4; uint8, uint16 or float32.
      quality: 1 to 100, for JPEG and WebP.

    Returns:
      The path written, with symbolic links resolved.

    Raises:
      InputError: the format cannot hold the pixels, or the place cannot be written.
    """
    target = check_output(path)
    write_atomically(target, codec.encode(array, Path(path).suffix, quality=quality))
    return target


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:1].lower() + text[1:]


def list_images(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """The image files directly in a folder, by stem, sorted naturally ("shot9" before "shot10").

    Args:
      folder: the folder. Hidden files and other types are passed over.

    Returns:
      Stem ("lytro-01" of "lytro-01.jpg") to path.

    Raises:
      InputError: no such folder, no image in it, or two images of one stem.
    """
    folder = Path(folder)
    try:
        entries = sorted(folder.iterdir())
    except FileNotFoundError:
        raise InputError(f"{folder} does not exist; check the path.") from None
    except OSError as error:
        raise InputError(f"{folder} cannot be listed ({_reason(error)}); name a folder.") from None
    found: dict[str, Path] = {}
    for entry in entries:
        if entry.name.startswith(".") or entry.suffix.lower() not in codec.SUFFIXES:
            continue
        if entry.stem in found:
            raise InputError(
                f"{folder} holds both {found[entry.stem].name} and {entry.name}; "
                "keep one image per name."
            )
        found[entry.stem] = entry
    if not found:
        raise InputError(f"{folder} holds no image ({', '.join(codec.SUFFIXES)}); name another.")
    return dict(sorted(found.items(), key=lambda item: _natural(item[0])))


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sorting key by which "shot10" comes after "shot9"."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]


def pair_folders(
    folders: Sequence[str | os.PathLike[str]],
) -> tuple[dict[str, tuple[Path, ...]], list[str]]:
    """Matches the images of two or more folders by file stem.

    Args:
      folders: the folders, in the order in which the network takes its inputs.

    Returns:
      Stem to one path per folder, for the stems that all folders have; and one sentence for each
      stem that some folder lacks.

    Raises:
      InputError: as `list_images`, or no stem is common to all folders.
    """
    listings = [list_images(folder) for folder in folders]
    stems = sorted(set().union(*listings), key=_natural)
    groups: dict[str, tuple[Path, ...]] = {}
    missing: list[str] = []
    for stem in stems:
        lacking = [
            os.fspath(f) for f, found in zip(folders, listings, strict=True) if stem not in found
        ]
        if lacking:
            missing.append(f"{stem} has no partner in {', '.join(lacking)}.")
        else:
            groups[stem] = tuple(found[stem] for found in listings)
    if not groups:
        names = " and ".join(os.fspath(folder) for folder in folders)
        raise InputError(
            f"no image of {names} has the same name in each; "
            "name the pictures that belong together alike."
        )
    return groups, missing


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
