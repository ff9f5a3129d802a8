"""Image files at the edge of the package: reading, writing whole or not at all."""

from __future__ import annotations

import dataclasses
import io
import os
import stat
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mgdn_jax.errors import FusionWarning, InputError
from mgdn_jax.io import bitmaps, codec, guard, medical, opening, reading
from mgdn_jax.io.disk import check_links, write_atomically
from mgdn_jax.io.pictures import Labels, Picture

LIGHT = {".hdr": "radiance", ".exr": "exr"}
"""How the names of files of linear light end, and the kinds they are."""
_BY_ROOMS = LIGHT | dict.fromkeys(medical.SLICES, "dicom")
_BY_ROOMS |= dict.fromkeys(medical.VOLUMES, "nifti")
WRITABLE = (*codec.SUFFIXES, *_BY_ROOMS)
"""How the names of files that `write_image` writes end; those after ".hdr" need an extra."""


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads one image file.

    Args:
      path: the file.

    Returns:
      (H, W) or (H, W, C) with C in 2, 3, 4, as `codec.decode_image` gives it: uint8, uint16 or
      float32; float pixels are finite.

    Raises:
      InputError: the file is missing, a folder, unreadable, empty, damaged, not an image, or
        holds NaN or infinite pixels, or integers that 16 bits cannot hold.

    Warns:
      FusionWarning: about what was not read (further pages, for instance).
    """
    picture = read_picture(path)
    for remark in picture.remarks:
        warnings.warn(remark, FusionWarning, stacklevel=2)
    return reading.common(picture)


def read_picture(path: str | os.PathLike[str], page: int | None = None) -> Picture:
    """Reads one page of a file, with what the file says about it.

    Args:
      path: the file; or a folder with one DICOM series, whose slices are the pages.
      page: the page, frame or slice, from 0; None for the first, with a remark that says how many
        were left out.

    Returns:
      The picture, upright: (H, W) or (H, W, C) with C in 2, 3, 4; uint8, uint16, int16, int32,
      uint32 or float32; float pixels are finite.

    Raises:
      InputError: as `read_image`, or there is no such page.
    """
    name = os.fspath(path)
    if series := _series(name):
        guard.check_page(page or 0, len(series), name)
        remarks = guard.further_pages(len(series), name, "slice") if page is None else ()
        picture = read_picture(series[page or 0], 0)
        return dataclasses.replace(picture, remarks=remarks + picture.remarks)
    with opening.opened(name) as file:
        picture = reading.read(file, name, page)
    if picture.pixels.dtype == np.float32 and not np.isfinite(picture.pixels).all():
        raise InputError(f"{name} holds NaN or infinite pixels; replace them first.")
    return picture


def read_pages(path: str | os.PathLike[str]) -> int:
    """The number of pages, frames or slices of a file that make a stack.

    Args:
      path: the file, or a folder with one DICOM series.

    Returns:
      1 for an ordinary picture; more for TIFF with pages of one size, animated PNG and WebP, HEIC
      with several pictures, DICOM with frames, NIfTI volumes, and folders of slices.

    Raises:
      InputError: as `read_picture`.
    """
    name = os.fspath(path)
    if series := _series(name):
        return len(series)
    with opening.opened(name) as file:
        return reading.count(file, name)


def read_size(source: bytes | str | os.PathLike[str]) -> tuple[int, int] | None:
    """Height and width of a picture as it would be read, from its header alone.

    Args:
      source: a file, or all bytes of one.

    Returns:
      None where that cannot be told; to read the picture says why.
    """
    try:
        opened = (
            io.BytesIO(source) if isinstance(source, bytes) else opening.opened(os.fspath(source))
        )
        with opened as file:
            return bitmaps.size(file, "a picture")
    except InputError:
        return None


def read_sizes(sources: Iterable[bytes | str | os.PathLike[str]]) -> list[tuple[int, int]]:
    """`read_size` of each file, those left out that tell none."""
    return [size for size in map(read_size, sources) if size is not None]


def _series(name: str) -> list[Path]:
    """The DICOM files of a folder in order; none if it is no folder or holds none."""
    if "\0" in name or not os.path.isdir(name):
        return []
    return medical.series_of(name)


def check_output(path: str | os.PathLike[str]) -> Path:
    """Finds out before the work whether an image can be written to `path`.

    Args:
      path: the file to be; it need not exist, nor need its folder (`write_image` makes it).

    Returns:
      The path, with symbolic links resolved.

    Raises:
      InputError: unknown image type, one that needs an extra that is not installed, the path is
        a folder or a device, or the place is not writable.
    """
    name = os.fspath(path)
    check_links(name)
    target = Path(os.path.realpath(name))
    if target.is_dir():
        raise InputError(f"{name} is a folder where an image file is to be written; name a file.")
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        raise InputError(f"{name} is not a regular file; name another output.")
    if not name.lower().endswith(WRITABLE):
        raise InputError(
            f"{name} does not end in an image type that can be written; "
            f"use one of {', '.join(codec.SUFFIXES)}."
        )
    for ending, kind in _BY_ROOMS.items():
        if name.lower().endswith(ending):
            reading.room(kind, name)
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
    check_links(folder, is_folder=True)
    name = name or os.fspath(folder)
    nearest = Path(os.path.realpath(folder))
    while not os.path.lexists(nearest) and nearest.parent != nearest:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise InputError(f"{name} cannot be written because {nearest} is not a folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{name} cannot be written because {nearest} is not writable.")


def write_image(
    path: str | os.PathLike[str],
    array: np.ndarray,
    *,
    quality: int = 95,
    labels: Labels | None = None,
    half: bool = False,
) -> Path:
    """Writes a picture in the format of the path's suffix, whole or not at all.

    Args:
      path: the file; its folder is made if missing; an existing file is replaced as a whole.
      array: (H, W) or (H, W, C), C in 1 to 4; uint8, uint16 or float32; for TIFF also int16, int32
        and uint32.
      quality: 1 to 100, for JPEG and WebP.
      labels: what to embed (`labels.shared_labels`): profile, EXIF and resolution, as far as the
        format has a place for them. ".dcm" and ".nii" need the geometry of a source.
      half: whether ".exr" holds float32 as half, 16 bits a value; others do not care.

    Returns:
      The path written, with symbolic links resolved.

    Raises:
      InputError: the format cannot hold the pixels, needs an extra, or the place cannot be
        written.
    """
    target = check_output(path)
    array = np.asarray(array)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    encoded = _encoded(os.fspath(path), array, quality, labels, half)
    write_atomically(target, encoded)
    return target


def check_pixels(path: str | os.PathLike[str], sample: np.ndarray) -> None:
    """Finds out before the work whether a file can hold pixels of a kind.

    Args:
      path: where they shall be written; nothing is.
      sample: a small array of the dtype and the channels of the result.

    Raises:
      InputError: it cannot.
    """
    name = os.fspath(path)
    if not name.lower().endswith((*medical.SLICES, *medical.VOLUMES)):  # these need a place as well
        _encoded(name, sample, 95, None)


def _encoded(
    name: str, array: np.ndarray, quality: int, labels: Labels | None, half: bool = False
) -> bytes:
    ending = name.lower()
    if ending.endswith((*medical.SLICES, *medical.VOLUMES)):
        return medical.encode_slice(array, labels or Labels(), name)
    if ending.endswith(".exr"):
        return reading.room("exr", name).encode(array, half=half)
    if ending.endswith(".hdr"):
        return reading.room("radiance", name).encode(array)
    return codec.encode(array, Path(name).suffix, quality=quality, labels=labels)
