"""Raw files of cameras, developed through LibRaw (rawpy, extra `photo`)."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
import rawpy

from mgdn_jax.errors import InputError
from mgdn_jax.io import guard, metadata, profiles
from mgdn_jax.io.pictures import Labels, Picture


def read(file: BinaryIO, name: str, page: int | None = None) -> Picture:
    """Develops a raw file to 16-bit sRGB.

    The white balance is the camera's. Brightness is not adjusted to the picture, so that the
    exposures of a bracket stay apart and those of a focus stack stay alike.

    Args:
        file: the file.
        name: what messages call it.
        page: None or 0.

    Returns:
        The picture, upright, uint16 (H, W, 3), with the profile of sRGB.

    Raises:
        InputError: damaged, too large, or of a camera that LibRaw does not know.
    """
    with guard.decoding(name):
        guard.check_page(page or 0, 1, name)
        file.seek(0)
        try:
            with rawpy.imread(file) as image:
                guard.check_size(image.sizes.height, image.sizes.width, name)
                guard.check_bytes(image.sizes.height * image.sizes.width * 6, name)
                pixels = image.postprocess(
                    output_bps=16,
                    use_camera_wb=True,
                    no_auto_bright=True,
                    output_color=rawpy.ColorSpace.sRGB,
                    gamma=(2.4, 12.92),
                )
        except rawpy.LibRawFileUnsupportedError:
            raise InputError(
                f"{name} is a raw file of a camera that LibRaw does not know, or is damaged; "
                "convert it to DNG or 16-bit TIFF."
            ) from None
        labels = Labels(profiles.srgb(), metadata.of_tiff(file))
        return Picture(np.ascontiguousarray(pixels), name, labels)


def count(file: BinaryIO, name: str) -> int:
    """A raw file has one picture."""
    return 1
