"""HEIC and HEIF of telephones, through pillow-heif (extra `photo`)."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
import pillow_heif

from mgdn_jax.io import guard, metadata
from mgdn_jax.io.pictures import Labels, Picture


def read(file: BinaryIO, name: str, page: int | None = None) -> Picture:
    """Reads one picture of a file.

    Args:
        file: the file.
        name: what messages call it.
        page: the picture, from 0; None for the primary one, with a remark if there are more.

    Returns:
        The picture, upright; uint8, or uint16 where the file has 10 or 12 bits, which then lie in
        the high bits (`span` says which value is white).

    Raises:
        InputError: damaged or too large.
    """
    with guard.decoding(name):
        pictures = _opened(file)
        guard.check_page(page or 0, len(pictures), name)
        image = pictures[pictures.primary_index if page is None else page]
        width, height = image.size
        guard.check_size(height, width, name)
        guard.check_bytes(height * width * 8, name)  # four channels of 16 bits at most
        pixels = np.ascontiguousarray(np.asarray(image))
        depth = image.info["bit_depth"]
        span = None
        if pixels.dtype == np.uint16 and depth < 16:
            span = (0.0, float((2**depth - 1) << (16 - depth)))
        remarks = guard.further_pages(len(pictures), name, "picture") if page is None else ()
        return Picture(pixels, name, _labels(image), span=span, remarks=remarks)


def count(file: BinaryIO, name: str) -> int:
    """The number of pictures in a file.

    Args:
        file: the file.
        name: what messages call it.

    Returns:
        1 or more.

    Raises:
        InputError: damaged.
    """
    with guard.decoding(name):
        return len(_opened(file))


def _opened(file: BinaryIO) -> Any:
    file.seek(0)
    return pillow_heif.open_heif(file, convert_hdr_to_8bit=False)


def _labels(image: Any) -> Labels:
    block = image.info.get("exif")
    exif = block.removeprefix(b"Exif\0\0") if block else None
    tags = metadata.loaded(exif)
    dpi = metadata.dpi_of(tags.get(0x011A), tags.get(0x011B), tags.get(0x0128, 2))
    return Labels(image.info.get("icc_profile") or None, exif, dpi)
