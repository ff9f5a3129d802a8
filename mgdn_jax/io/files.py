"""Image files at the edge of the package: reading, writing whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.io import codec
from mgdn_jax.io.disk import write_atomically


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
