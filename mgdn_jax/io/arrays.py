"""NumPy's files, .npy and .npz: numbers alone, as many as the file says and memory may take."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from typing import Any

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.io import guard

_MOST_HEADER = 1 << 16  # bytes; a header says a shape and a type


def header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """What an array's header says; nothing else is read.

    Args:
        file: at its start, or that of a member of an archive.

    Returns:
        Shape, whether columns come first, and type.

    Raises:
        ValueError: it is damaged, longer than a header needs, or of a later version.
    """
    start = file.read(8)
    if start[:6] != b"\x93NUMPY" or len(start) < 8:
        raise ValueError("it holds no array")
    version = start[6], start[7]
    form = {(1, 0): "<H", (2, 0): "<I"}.get(version)
    if form is None:
        raise ValueError(f"its arrays are of version {version[0]}.{version[1]}")
    size = file.read(struct.calcsize(form))
    if len(size) < struct.calcsize(form):
        raise ValueError("the file ends in the middle of a header")
    (length,) = struct.unpack(form, size)
    if length > _MOST_HEADER:
        raise ValueError(f"a header has {length} bytes")
    content = io.BytesIO(size + file.read(length))
    try:
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(content)
        return np.lib.format.read_array_header_2_0(content)
    except Exception as error:  # it is parsed as Python, whose parser raises what it likes
        raise ValueError(f"a header cannot be read ({type(error).__name__})") from None


def read(file: Any, name: str) -> np.ndarray:
    """An array of numbers that is as long as its header says; nothing is unpickled.

    Args:
        file: as of `header`.
        name: what messages call it.

    Raises:
        InputError: it holds no numbers, or too many.
        ValueError: it is damaged.
    """
    shape, columns_first, dtype = header(file)
    if dtype.kind not in "uif":
        raise InputError(f"{name} holds {dtype} values and no numbers; store numbers.")
    count = math.prod(shape)
    guard.check_size(count, 1, name)
    guard.check_bytes(count * dtype.itemsize, name)
    data = file.read(count * dtype.itemsize)
    if len(data) < count * dtype.itemsize:
        raise ValueError("the file ends in the middle of its array")
    flat = np.frombuffer(data, dtype)
    array = flat.reshape(shape[::-1]).T if columns_first else flat.reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def members(archive: zipfile.ZipFile) -> dict[str, tuple[int, ...]]:
    """Names of the arrays of an open .npz, with their shapes.

    Raises:
        ValueError, OSError, zipfile.BadZipFile: it is damaged.
    """
    shapes = {}
    for entry in archive.namelist():
        if entry.endswith(".npy"):
            with archive.open(entry) as file:
                shapes[entry.removesuffix(".npy")] = header(file)[0]
    return shapes
