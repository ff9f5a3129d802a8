"""OpenEXR, half and float, through OpenEXR's own library (extra `hdr`)."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import OpenEXR

from mgdn_jax.errors import InputError
from mgdn_jax.io import guard
from mgdn_jax.io.pictures import Picture

_LAYOUTS = {
    frozenset("RGB"): "RGB",
    frozenset("RGBA"): "RGBA",
    frozenset("Y"): "Y",
    frozenset("YA"): "YA",
}


def read(file: BinaryIO, name: str, page: int | None = None) -> Picture:
    """Reads the first part of a file.

    Args:
        file: the file.
        name: what messages call it.
        page: None or 0.

    Returns:
        The picture, float32, linear light as stored; alpha is no longer multiplied in. What lies
        outside the display window is cut off, what is missing inside is zero.

    Raises:
        InputError: damaged, too large, or other channels than gray or RGB, with or without alpha.
    """
    with guard.decoding(name), tempfile.TemporaryDirectory() as folder:
        guard.check_page(page or 0, 1, name)
        path = _path(file, folder)
        with OpenEXR.File(path, header_only=True) as head:
            _windows(head.parts[0].header, name)
        with OpenEXR.File(path, separate_channels=True) as whole:
            part = whole.parts[0]
            channels = {key: np.asarray(value.pixels) for key, value in part.channels.items()}
            display, data = _windows(part.header, name)
            others = len(whole.parts) - 1
        pixels = _framed(_stacked(channels, name), display, data)
    remarks = (f"{name} has {others} further parts, which were left out.",) if others else ()
    return Picture(pixels, name, remarks=remarks)


def count(file: BinaryIO, name: str) -> int:
    """A file counts as one picture."""
    return 1


def _path(file: BinaryIO, folder: str) -> str:
    """The library reads files by name."""
    if isinstance(file, io.BufferedReader) and isinstance(file.name, str):
        return file.name
    file.seek(0)
    path = Path(folder) / "picture.exr"
    path.write_bytes(file.read())
    return os.fspath(path)


def _windows(header: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the display and the data window, as ((x0, y0), (x1, y1)), both inside."""
    display, data = (
        np.asarray(header[key], np.int64).reshape(2, 2) for key in ("displayWindow", "dataWindow")
    )
    for low, high in (display, data):
        guard.check_size(int(high[1] - low[1]) + 1, int(high[0] - low[0]) + 1, name)
    return display, data


def _stacked(channels: dict[str, np.ndarray], name: str) -> np.ndarray:
    layout = _LAYOUTS.get(frozenset(channels))
    kinds = {array.dtype.kind for array in channels.values()}
    if layout is None or kinds != {"f"} or len({x.shape for x in channels.values()}) > 1:
        raise InputError(
            f"{name} has the channels {', '.join(sorted(channels))}; "
            "save R, G and B or Y alone, as half or float."
        )
    pixels = np.stack([channels[key].astype(np.float32) for key in layout], -1)
    if layout.endswith("A"):
        alpha = pixels[..., -1:]
        pixels[..., :-1] = np.divide(
            pixels[..., :-1], alpha, out=np.zeros_like(pixels[..., :-1]), where=alpha > 0
        )
    return pixels[..., 0] if layout == "Y" else pixels


def _framed(pixels: np.ndarray, display: np.ndarray, data: np.ndarray) -> np.ndarray:
    """The pixels of the display window."""
    if (display == data).all():
        return pixels
    (left, top), (right, bottom) = display
    framed = np.zeros((bottom - top + 1, right - left + 1, *pixels.shape[2:]), pixels.dtype)
    low, high = np.maximum(display[0], data[0]), np.minimum(display[1], data[1])
    if (low <= high).all():
        (x0, y0), (x1, y1) = low, high + 1
        framed[y0 - top : y1 - top, x0 - left : x1 - left] = pixels[
            y0 - data[0][1] : y1 - data[0][1], x0 - data[0][0] : x1 - data[0][0]
        ]
    return framed


def encode(array: np.ndarray) -> bytes:
    """Encodes a float picture as OpenEXR (ZIP).

    Args:
        array: (H, W) or (H, W, C), C in 1 to 4; float32, or float16 to be written as half.

    Returns:
        The whole file.

    Raises:
        InputError: other dtypes.
    """
    if array.dtype not in (np.float32, np.float16):
        raise InputError(f".exr holds float pixels, not {array.dtype}; choose .png or .tif.")
    planes = array[..., None] if array.ndim == 2 else array
    layout = {1: "Y", 2: "YA", 3: "RGB", 4: "RGBA"}[planes.shape[-1]]
    if layout.endswith("A"):
        planes = np.concatenate([planes[..., :-1] * planes[..., -1:], planes[..., -1:]], -1)
    channels = {key: np.ascontiguousarray(planes[..., k]) for k, key in enumerate(layout)}
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.exr"
        OpenEXR.File(header, channels).write(os.fspath(path))
        return path.read_bytes()
