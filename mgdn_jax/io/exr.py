"""OpenEXR, half and float, through OpenEXR's own library (extra `hdr`)."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

import numpy as np
import OpenEXR

from mgdn_jax.errors import InputError
from mgdn_jax.io import guard
from mgdn_jax.io.pictures import Picture

_CHROMA = ("RY", "BY")
_LAYOUTS: tuple[tuple[str, ...], ...] = (("R", "G", "B"), ("Y", *_CHROMA), ("Y",))
_LUMA = (0.2126, 0.7152, 0.0722)  # Rec. 709: what luminance-chroma files are made with
_MOST_HALF = 65504.0
_open_lock = threading.Lock()


def read(file: BinaryIO, name: str, page: int | None = None) -> Picture:
    """Reads the first part of a file.

    Args:
        file: the file.
        name: what messages call it.
        page: None or 0.

    Returns:
        The picture, float32, linear light as stored; alpha is no longer multiplied in; luminance
        and chroma (Y, RY, BY) are RGB. What lies outside the display window is cut off, what is
        missing inside is zero. Further channels are left out with a remark.

    Raises:
        InputError: damaged, too large, or without the channels of gray or RGB.
    """
    with guard.decoding(name), tempfile.TemporaryDirectory() as folder:
        guard.check_page(page or 0, 1, name)
        path = _path(file, folder)
        with _opened(path, header_only=True) as head:
            _windows(head.parts[0].header, name)
            _check_amount([part.header for part in head.parts], name)
        with _opened(path, separate_channels=True) as whole:
            if not whole.parts:
                raise ValueError("its pixels cannot be unpacked")
            part = whole.parts[0]
            channels = {key: np.asarray(value.pixels) for key, value in part.channels.items()}
            steps = {key: (x.ySampling, x.xSampling) for key, x in part.channels.items()}
            display, data = _windows(part.header, name)
            others = len(whole.parts) - 1
        wanted = _wanted(channels, name)
        if wanted[1:3] == _CHROMA:
            planes = _coloured(channels, steps, wanted)
        else:
            planes = [channels[key].astype(np.float32) for key in wanted]
        pixels = _framed(_stacked(planes, "A" in wanted), display, data)
    remarks = []
    if others:
        remarks.append(f"{name} has {others} further parts, which were left out.")
    if further := sorted(set(channels) - set(wanted)):
        remarks.append(f"{name} has further channels, which were left out: {', '.join(further)}.")
    return Picture(pixels, name, remarks=tuple(remarks))


def count(file: BinaryIO, name: str) -> int:
    """A file counts as one picture."""
    return 1


class _Mute:
    """Stdout for all threads but one, whose lines go nowhere."""

    def __init__(self, stream: Any):
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        if threading.get_ident() == self._thread:
            return len(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _opened(path: str, **options: Any) -> Any:
    """The library's file; what it prints about a damaged one would stand among our results."""
    with _open_lock, contextlib.redirect_stdout(cast(TextIO, _Mute(sys.stdout))):
        return OpenEXR.File(path, **options)


def _path(file: BinaryIO, folder: str) -> str:
    """The library reads files by name."""
    if isinstance(file, io.BufferedReader) and isinstance(file.name, str):
        with contextlib.suppress(UnicodeEncodeError):  # the library takes no other names
            file.name.encode()
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
        height, width = int(high[1] - low[1]) + 1, int(high[0] - low[0]) + 1
        guard.check_size(height, width, name)
        guard.check_bytes(height * width * 4, name)
    return display, data


def _check_amount(headers: list[Any], name: str) -> None:
    """Refuses parts that do not fit into memory, for the library unpacks all of them."""
    count = 0
    for header in headers:
        if header["type"] not in (OpenEXR.scanlineimage, OpenEXR.tiledimage):
            raise InputError(f"{name} holds deep pixels, which are not read; flatten them first.")
        low, high = np.asarray(header["dataWindow"], np.int64).reshape(2, 2)
        width, height = (max(0, int(n)) for n in high - low + 1)
        count += width * height * 4 * len(header["channels"])
    guard.check_bytes(count, name)


def _wanted(channels: dict[str, np.ndarray], name: str) -> tuple[str, ...]:
    """The channels that make the picture, alpha last."""
    for layout in _LAYOUTS:
        if set(layout) <= channels.keys():
            wanted = (*layout, "A") if "A" in channels else layout
            shapes = {channels[key].shape for key in wanted if key not in _CHROMA}
            if len(shapes) == 1 and all(channels[key].dtype.kind == "f" for key in wanted):
                return wanted
    raise InputError(
        f"{name} has the channels {', '.join(sorted(channels))}; "
        "save R, G and B or Y alone, as half or float."
    )


def _coloured(
    channels: dict[str, np.ndarray], steps: dict[str, tuple[int, int]], wanted: tuple[str, ...]
) -> list[np.ndarray]:
    """Red, green and blue, with alpha if there is one, of luminance and two ratios to it."""
    luminance = channels["Y"].astype(np.float32)
    ratios = [
        _enlarged(channels[key].astype(np.float32), steps[key], luminance.shape) for key in _CHROMA
    ]
    red, blue = ((ratio + 1) * luminance for ratio in ratios)
    green = (luminance - _LUMA[0] * red - _LUMA[2] * blue) / _LUMA[1]
    # Between two chroma samples a strong colour may come out below black.
    colours = [np.maximum(plane, 0) for plane in (red, green, blue)]
    return [*colours, *(channels[key].astype(np.float32) for key in wanted[3:])]


def _enlarged(plane: np.ndarray, steps: tuple[int, int], size: tuple[int, ...]) -> np.ndarray:
    """A channel that is stored at every n-th pixel, between them linear."""
    for axis, (step, length) in enumerate(zip(steps, size, strict=True)):
        if step == 1:
            continue
        places = np.arange(length)
        low = places // step
        high = np.minimum(low + 1, plane.shape[axis] - 1)
        share = (places % step / step).astype(np.float32)
        share = share[:, None] if axis == 0 else share
        plane = plane.take(low, axis) * (1 - share) + plane.take(high, axis) * share
    return plane


def _stacked(planes: list[np.ndarray], alpha_last: bool) -> np.ndarray:
    """(H, W) or (H, W, C), alpha no longer multiplied in."""
    if len(planes) == 1:
        return planes[0]
    pixels = np.stack(planes, -1)
    if alpha_last:
        alpha = pixels[..., -1:]
        pixels[..., :-1] = np.divide(
            pixels[..., :-1], alpha, out=np.zeros_like(pixels[..., :-1]), where=alpha > 0
        )
    return pixels


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


def encode(array: np.ndarray, *, half: bool = False) -> bytes:
    """Encodes a float picture as OpenEXR (ZIP).

    Args:
        array: (H, W) or (H, W, C), C in 1 to 4; float32, or float16 to be written as half.
        half: write float32 as half too: half the size, 11 bits of precision.

    Returns:
        The whole file.

    Raises:
        InputError: other dtypes, or values above 65504, which half does not hold.
    """
    if array.dtype not in (np.float32, np.float16):
        raise InputError(f".exr holds float pixels, not {array.dtype}; choose .png or .tif.")
    planes = array[..., None] if array.ndim == 2 else array
    layout = {1: "Y", 2: "YA", 3: "RGB", 4: "RGBA"}[planes.shape[-1]]
    if layout.endswith("A"):
        planes = np.concatenate([planes[..., :-1] * planes[..., -1:], planes[..., -1:]], -1)
    if half and planes.dtype == np.float32:
        if np.abs(planes).max() > _MOST_HALF:
            raise InputError(
                f"half holds values up to {_MOST_HALF:g} and there are greater ones; write float."
            )
        planes = planes.astype(np.float16)
    channels = {key: np.ascontiguousarray(planes[..., k]) for k, key in enumerate(layout)}
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.exr"
        OpenEXR.File(header, channels).write(os.fspath(path))
        return path.read_bytes()
