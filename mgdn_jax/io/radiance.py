"""Radiance pictures (.hdr): three mantissas of 8 bits that share an exponent, read and written."""

from __future__ import annotations

import io
import math
import re
from typing import BinaryIO

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.io import guard
from mgdn_jax.io.pictures import Picture

_MOST_HEADER = 1 << 16  # bytes; programs keep their history there
_NARROWEST, _WIDEST = 8, 32767  # pixels of a scanline that is run-length encoded by component
_SHORTEST_RUN = 4
_LONGEST_RUN, _LONGEST_DUMP = 127, 128
_BLOCK = 1 << 21  # bytes that are encoded at once
_AXES = re.compile(rb"([-+])([XY]) +(\d{1,10}) +([-+])([XY]) +(\d{1,10})\s*\Z")
# What a step of the mantissa is worth, by the stored exponent; exponent 0 means black.
_STEPS = np.ldexp(np.float32(1), np.arange(256) - 136).astype(np.float32)
_STEPS[0] = 0


def read(file: BinaryIO, name: str, page: int | None = None) -> Picture:
    """Reads a file.

    Args:
        file: the file.
        name: what messages call it.
        page: None or 0.

    Returns:
        The picture, (H, W, 3) float32, linear light as `decode` gives it.

    Raises:
        InputError: as `decode`.
    """
    guard.check_page(page or 0, 1, name)
    guard.check_bytes(file.seek(0, io.SEEK_END), name)
    file.seek(0)
    return Picture(decode(file.read(), name), name)


def count(file: BinaryIO, name: str) -> int:
    """A file counts as one picture."""
    return 1


# ------------------------------------------------------------------------------------ reading


def decode(data: bytes, name: str) -> np.ndarray:
    """Decodes a whole file: flat, or run-length encoded in the old or the new way.

    Args:
        data: the whole file.
        name: what messages call it.

    Returns:
        (H, W, 3) float32, linear light, upright; what `EXPOSURE` and `COLORCORR` lines of the
        header say was multiplied in is divided out.

    Raises:
        InputError: damaged, truncated, too large, or in XYZ.
    """
    with guard.decoding(name):
        gains, start = _header(data, name)
        axes, start = _resolution(data, start)
        lines, length = (size for _, _, size in axes)
        guard.check_size(lines, length, name)
        guard.check_bytes(12 * lines * length, name)
        pixels = _pixels(_scanlines(data, start, lines, length), gains)
        if axes[0][1] == b"X":  # columns come one after the other
            pixels = pixels.swapaxes(0, 1)
        signs = {axis: sign for sign, axis, _ in axes}
        if signs[b"Y"] == b"+":
            pixels = pixels[::-1]
        if signs[b"X"] == b"-":
            pixels = pixels[:, ::-1]
        return np.ascontiguousarray(pixels)


def _header(data: bytes, name: str) -> tuple[np.ndarray, int]:
    """What was multiplied into each colour, (3,) float64; and where the header ends."""
    if not data.startswith(b"#?"):
        raise ValueError("there is no header")
    gains = np.ones(3)
    end = re.search(rb"\n\r?\n", data[:_MOST_HEADER])
    if end is None:
        raise ValueError("the header has no end")
    for line in data[: end.start()].splitlines():
        word, _, value = line.partition(b"=")
        match word.strip().upper():
            case b"FORMAT" if value.strip().lower() == b"32-bit_rle_xyze":
                raise InputError(
                    f"{name} holds XYZ in place of RGB; convert it (for instance `ra_xyze -r`)."
                )
            case b"FORMAT" if value.strip().lower() != b"32-bit_rle_rgbe":
                raise ValueError(f"unknown format {value.strip()[:40].decode('latin-1')!r}")
            case b"EXPOSURE":
                gains *= float(value)
            case b"COLORCORR":
                red, green, blue = map(float, value.split())
                gains *= (red, green, blue)
    if not all(0 < gain < math.inf for gain in gains):
        raise ValueError("the header declares an exposure that is not positive")
    return gains, end.end()


def _resolution(
    data: bytes, start: int
) -> tuple[tuple[tuple[bytes, bytes, int], tuple[bytes, bytes, int]], int]:
    """The two axes, the slower one first, as (sign, letter, size); and where the pixels start."""
    end = data.find(b"\n", start, start + 80)
    match = _AXES.match(data[start:end]) if end >= 0 else None
    if match is None or match[2] == match[5]:
        raise ValueError("the header has no size")
    return ((match[1], match[2], int(match[3])), (match[4], match[5], int(match[6]))), end + 1


def _scanlines(data: bytes, at: int, lines: int, length: int) -> np.ndarray:
    """The stored bytes of all scanlines, (lines, length, 4) uint8.

    Nothing of the declared size is made before the file has filled it.
    """
    planes, parts = bytearray(), []
    by_component = _NARROWEST <= length <= _WIDEST
    head = bytes((2, 2, length >> 8, length & 255)) if by_component else b""
    for _ in range(lines):
        if by_component and data[at : at + 4] == head:
            at = _components(data, at + 4, length, planes)
            continue
        if by_component and data[at : at + 2] == b"\2\2" and data[at + 2 : at + 3] < b"\x80":
            raise ValueError("a scanline has another width than the header says")
        if planes:
            parts.append(_interleaved(planes, length))
            planes = bytearray()
        line, at = _whole_pixels(data, at, length)
        parts.append(line)
    if planes:
        parts.append(_interleaved(planes, length))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _interleaved(planes: bytearray, length: int) -> np.ndarray:
    return np.frombuffer(planes, np.uint8).reshape(-1, 4, length).swapaxes(1, 2)


def _components(data: bytes, at: int, length: int, planes: bytearray) -> int:
    """Appends four components of a scanline in the new encoding; gives where it ends."""
    for _ in range(4):
        end = len(planes) + length
        while len(planes) < end:
            if at >= len(data):
                raise ValueError("the file ends within a scanline")
            code = data[at]
            if code > 128:
                planes += data[at + 1 : at + 2] * (code - 128)
                at += 2
            else:
                planes += data[at + 1 : at + 1 + code]
                at += 1 + code
            if code == 0 or at > len(data):
                raise ValueError("the file ends within a run" if code else "a run has no length")
        if len(planes) > end:
            raise ValueError("a run reaches beyond its scanline")
    return at


def _whole_pixels(data: bytes, at: int, length: int) -> tuple[np.ndarray, int]:
    """One flat or old-encoded scanline, (1, length, 4) uint8; and where it ends.

    A pixel of mantissas 1, 1, 1 says how often the one before it is repeated; several such pixels
    in a row are the bytes of one number, the lowest first.
    """
    units = np.frombuffer(data, np.uint8, min(length, (len(data) - at) // 4) * 4, at).reshape(-1, 4)
    marks = (units[:, :3] == 1).all(1)
    if not marks.any():
        if len(units) < length:
            raise ValueError("the file ends within a scanline")
        return units[None], at + 4 * length
    where = np.arange(len(units))
    places = where - np.maximum.accumulate(np.where(marks, -1, where))  # 1 at the first mark
    if marks[0] or (places > 4).any():
        raise ValueError("a run repeats nothing" if marks[0] else "a run has no sensible length")
    counts = np.where(marks, units[:, 3].astype(np.int64) << (8 * np.maximum(places - 1, 0)), 1)
    ends = np.cumsum(counts)
    last = int(np.searchsorted(ends, length))
    if last == len(units):
        raise ValueError("the file ends within a scanline")
    if ends[last] > length:
        raise ValueError("a run reaches beyond its scanline")
    sources = np.repeat((where - places)[: last + 1], counts[: last + 1])
    return units[sources][None], at + 4 * (last + 1)


def _pixels(stored: np.ndarray, gains: np.ndarray) -> np.ndarray:
    pixels = np.empty((*stored.shape[:2], 3), np.float32)
    np.multiply(stored[..., :3], _STEPS[stored[..., 3:]], out=pixels)
    if (gains != 1).any():
        with np.errstate(over="raise"):
            pixels /= gains.astype(np.float32)
    return pixels


# ------------------------------------------------------------------------------------ writing


def encode(array: np.ndarray) -> bytes:
    """Encodes linear light, run-length encoded by component (flat below 8 and above 32767 columns).

    Args:
        array: (H, W), (H, W, 1) or (H, W, 3); float32 or float16, 0 or more and finite. Mantissas
            are rounded: the error is at most 1/256 of a pixel's greatest colour.

    Returns:
        The whole file.

    Raises:
        InputError: other dtypes or channels, negative values, NaN, or values above 1.69e38.
    """
    if array.dtype not in (np.float32, np.float16):
        raise InputError(f".hdr holds float pixels, not {array.dtype}; choose .png or .tif.")
    colours = array[..., None] if array.ndim == 2 else array
    if colours.shape[-1] not in (1, 3):
        raise InputError(".hdr cannot hold transparency; choose .exr or .tif.")
    height, width = colours.shape[:2]
    parts = [b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n", f"-Y {height} +X {width}\n".encode()]
    rows = max(1, _BLOCK // (4 * width))
    for top in range(0, height, rows):
        stored = _stored(np.asarray(colours[top : top + rows], np.float32))
        whole = _NARROWEST <= width <= _WIDEST
        parts.append(_runs(stored) if whole else stored.tobytes())
    return b"".join(parts)


def _stored(pixels: np.ndarray) -> np.ndarray:
    """Mantissas and exponents, (h, w, 4) uint8."""
    most = pixels.max(-1)
    if not (pixels.min() >= 0 and most.max() < np.ldexp(255.5 / 256, 127)):  # NaN fails as well
        raise InputError(
            ".hdr holds values from 0 to 1.69e38 alone, and there are others; choose .exr or .tif."
        )
    exponents = np.frexp(most)[1]
    # A greatest mantissa that rounds to 256 needs the next exponent.
    exponents += np.ldexp(most, 8 - exponents) >= 255.5
    exponents = np.where(exponents < -127, -1000, exponents)  # darker than the format goes
    stored = np.empty((*most.shape, 4), np.uint8)
    steps = np.ldexp(np.float64(1), 8 - np.maximum(exponents, -127))[..., None]
    stored[..., :3] = np.rint(pixels * steps)
    stored[..., 3] = np.maximum(exponents + 128, 0)
    stored[(exponents < -127) | (most == 0)] = 0
    return stored


def _runs(stored: np.ndarray) -> bytes:
    """Scanlines in the new encoding."""
    height, width, _ = stored.shape
    flat = np.ascontiguousarray(stored.swapaxes(1, 2)).reshape(-1)
    edge = np.ones(flat.size, bool)  # where the value changes, or a component starts
    edge[1:] = flat[1:] != flat[:-1]
    edge[::width] = True
    starts = np.flatnonzero(edge)
    long = np.diff(starts, append=flat.size) >= _SHORTEST_RUN
    # Neighbouring short runs become one dump.
    first = np.ones(starts.size, bool)
    first[1:] = long[1:] | long[:-1] | (starts[1:] % width == 0)
    starts, long = starts[first], long[first]
    lengths = np.diff(starts, append=flat.size)
    most = np.where(long, _LONGEST_RUN, _LONGEST_DUMP)
    pieces = -(-lengths // most)
    owner = np.repeat(np.arange(starts.size), pieces)
    number = np.arange(owner.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    begin = starts[owner] + number * most[owner]
    run = long[owner]
    extent = np.minimum(most[owner], starts[owner] + lengths[owner] - begin)
    sizes = 1 + np.where(run, 1, extent)
    heads = 4 * (begin // (4 * width) + 1)
    places = np.cumsum(sizes) - sizes + heads
    coded = np.empty(int(sizes.sum()) + 4 * height, np.uint8)
    coded[places] = np.where(run, 128 + extent, extent)
    taken = np.where(run, 1, extent)
    within = np.arange(int(taken.sum())) - np.repeat(np.cumsum(taken) - taken, taken)
    coded[np.repeat(places + 1, taken) + within] = flat[np.repeat(begin, taken) + within]
    lines = places[np.flatnonzero(begin % (4 * width) == 0)] - 4
    for byte, value in enumerate((2, 2, width >> 8, width & 255)):
        coded[lines + byte] = value
    return coded.tobytes()
