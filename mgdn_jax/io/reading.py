"""One door for every kind of file: what it is decides who reads it."""

from __future__ import annotations

import importlib
import io
from types import ModuleType
from typing import BinaryIO

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.io import bitmaps, guard, kinds
from mgdn_jax.io.pictures import Picture

_PLAIN = {"radiance": "mgdn_jax.io.radiance"}  # rooms that need nothing further
_BITMAPS = ("png", "jpeg", "bmp", "webp", "ppm")
# Rooms that need a library of an extra, and how to say so.
_EXTRAS = {
    "raw": ("mgdn_jax.io.raw", "a camera RAW file", "photo"),
    "heif": ("mgdn_jax.io.heif", "a HEIC picture", "photo"),
    "dicom": ("mgdn_jax.io.dicom", "a DICOM file", "medical"),
    "nifti": ("mgdn_jax.io.nifti", "a NIfTI volume", "medical"),
    "exr": ("mgdn_jax.io.exr", "an OpenEXR picture", "hdr"),
}


def read(file: BinaryIO, name: str, page: int | None = None) -> Picture:
    """Reads one page of a file of any kind.

    Args:
        file: the file.
        name: what messages call it, normally its path; the suffix helps to tell the kind.
        page: the page, frame or slice, from 0; None for the first, with a remark on further ones.

    Returns:
        The picture.

    Raises:
        InputError: it cannot be read; the sentence says what the file is and what helps.
    """
    return _reader(file, name).read(file, name, page)


def count(file: BinaryIO, name: str) -> int:
    """The number of pages, frames or slices that make a stack.

    Args:
        file: the file.
        name: what messages call it.

    Returns:
        1 or more.

    Raises:
        InputError: as `read`.
    """
    return _reader(file, name).count(file, name)


def _reader(file: BinaryIO, name: str) -> ModuleType:
    file.seek(0)
    kind = kinds.kind_of(file.read(kinds.HEAD), name)
    if kind in _BITMAPS:
        return bitmaps
    if kind == "tiff":
        # tifffile takes a moment to import, which other pictures need not wait for.
        tiff = importlib.import_module("mgdn_jax.io.tiff")
        if not tiff.is_raw(file):
            return tiff
        kind = "raw"
    if kind == "avif":
        if bitmaps.has_avif():
            return bitmaps
        raise InputError(
            f'{name} is an AVIF picture, which needs Pillow 11.3: pip install "pillow>=11.3".'
        )
    return room(kind, name)


def room(kind: str, name: str) -> ModuleType:
    """The room that reads and writes files of a kind that has one of its own.

    Args:
        kind: "radiance"; or, with an extra, "raw", "heif", "dicom", "nifti" or "exr".
        name: what messages call the file.

    Returns:
        The module.

    Raises:
        InputError: the extra is not installed, or the kind is not read at all.
    """
    if kind in _PLAIN:
        return importlib.import_module(_PLAIN[kind])
    if kind not in _EXTRAS:
        raise kinds.refusal(kind, name)
    module, noun, group = _EXTRAS[kind]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise guard.extra(name, noun, group, error) from None


def plain(data: bytes, name: str) -> np.ndarray:
    """The pixels of an ordinary picture in memory.

    Args:
        data: the whole file.
        name: what messages call it.

    Returns:
        (H, W) or (H, W, C) with C in 2, 3, 4; uint8, uint16 or float32.

    Raises:
        InputError: as `read`, or the pixels are signed or deeper than 16 bits.
    """
    return common(read(io.BytesIO(data), name))


def common(picture: Picture) -> np.ndarray:
    """The pixels of a picture in one of the three dtypes of pictures that everything takes.

    Args:
        picture: the picture.

    Returns:
        uint8, uint16 and float32 as they are; other integers as uint16.

    Raises:
        InputError: there are values that 16 bits without a sign cannot hold.
    """
    pixels = picture.pixels
    if pixels.dtype in (np.uint8, np.uint16, np.float32):
        return pixels
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > 65535:
        raise InputError(
            f"{picture.name} stores pixels of a kind that is not read here ({pixels.dtype}, from "
            f"{low} to {high}); save it as 8-bit or 16-bit PNG or TIFF."
        )
    return pixels.astype(np.uint16)
