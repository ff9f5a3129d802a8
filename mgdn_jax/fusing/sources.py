"""The pictures of one scene, read when they are needed."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from mgdn_jax import arguments
from mgdn_jax.errors import InputError
from mgdn_jax.io import labels
from mgdn_jax.io.files import read_picture
from mgdn_jax.io.pictures import Picture

KEPT_BYTES = 256 * 2**20
"""Pixels of files that are kept between two looks at them."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Sources:
    """Arrays, `Picture`s, paths or loaders, as a sequence of `Picture`s.

    Files are read again when they are looked at again, unless all that was read lately fits into
    `KEPT_BYTES`: a stack of any length takes the memory of a few pictures.
    """

    def __init__(self, images: Sequence[Any], names: Sequence[str] = (), profile: str = "keep"):
        """Reads nothing yet.

        Args:
            images: paths, arrays of (H, W) or (H, W, C), `Picture`s, or functions without
                arguments that return one of these.
            names: what messages call them; paths have names of their own.
            profile: of `fusing.options.PROFILES`.
        """
        self._images = list(images)
        self._names = [
            os.fspath(image)
            if isinstance(image, (str, os.PathLike))
            else (names[i] if i < len(names) else f"image {i + 1}")
            for i, image in enumerate(self._images)
        ]
        self._profile = profile
        self._kept: OrderedDict[int, Picture] = OrderedDict()

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        """What messages call a source."""
        return self._names[index]

    def __getitem__(self, index: int) -> Picture:
        """One source.

        Raises:
            InputError: it cannot be read, or is no picture.
        """
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        picture = self._read(self._images[index], self._names[index])
        if self._profile != "keep" and picture.labels.profile is not None:
            picture = labels.to_profile(picture, self._profile)
        self._kept[index] = picture
        while sum(p.pixels.nbytes for p in self._kept.values()) > KEPT_BYTES and self._kept:
            self._kept.popitem(last=False)
        return picture

    def _read(self, image: Any, name: str) -> Picture:
        if callable(image):
            image = image()
        if isinstance(image, (str, os.PathLike)):
            return _checked(read_picture(image))
        if isinstance(image, Picture):
            return _checked(image)
        return _checked(Picture(arguments.array(name, image), name))


def letter(index: int) -> str:
    """What options call a source: A, B, ..., then 27, 28, ..."""
    return LETTERS[index] if index < len(LETTERS) else str(index + 1)


def _checked(picture: Picture) -> Picture:
    """The picture in native byte order.

    Raises:
        InputError: no shape of a picture, no pixels, a type that stands for no numbers, or NaN.
    """
    array, name = picture.pixels, picture.name
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 2, 3, 4)):
        raise InputError(
            f"{name} has shape {array.shape}; give (H, W) or (H, W, C) with 1 to 4 channels "
            "(batches go through .network())."
        )
    if array.size == 0:
        raise InputError(f"{name} has shape {array.shape}, that is no pixels; give a picture.")
    if array.dtype.kind not in "uif" or array.dtype.itemsize > 8:
        raise InputError(f"{name} is {array.dtype}; convert it to uint8, uint16 or float32.")
    if array.dtype.kind == "f" and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise InputError(f"{name} holds NaN or infinite pixels; replace them first.")
    native = arguments.array(name, array)
    return picture if native is array else Picture(**{**vars(picture), "pixels": native})
