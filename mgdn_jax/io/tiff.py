"""TIFF of scanners, microscopes and HDR tools; tifffile finds the parts, this room reads them.

Pillow reads what it reads without loss (8 bits and fewer, palettes, CMYK, JPEG inside); all other
pixels are put together here from the strips or tiles that tifffile lists: 9 to 64 bits, signed,
float, in separate planes, with the predictors of TIFF 6.0.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import logging
import math
import os
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mgdn_jax.errors import InputError
from mgdn_jax.io import bitmaps, guard, metadata
from mgdn_jax.io.pictures import Labels, Picture

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # odd tags are no news to a user

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CFA, _LINEAR = 0, 1, 2, 32803, 34892
# (photometric, samples, extra samples) of 8 bits that Pillow reads whole.
_PILLOW = {
    (0, 1, ()), (1, 1, ()), (1, 2, (0,)), (1, 2, (1,)), (1, 2, (2,)), (2, 3, ()), (2, 4, ()),
    (2, 4, (0,)), (2, 4, (1,)), (2, 4, (2,)), (2, 4, (999,)), (3, 1, ()), (3, 2, (2,)), (5, 4, ()),
    (6, 1, ()), (6, 3, ()),
}  # fmt: skip
_FOREIGN = {
    5: "CMYK inks", 6: "YCbCr colours", 8: "Lab colours", 9: "Lab colours", 10: "Lab colours",
    32844: "logarithmic colours", 32845: "logarithmic colours",
}  # fmt: skip
_FORMATS = {1: "uint", 2: "int", 3: "float", 4: "uint"}
_LIBTIFF = (5, 32773, 34925, 50000)  # LZW, PackBits, LZMA, Zstandard
_DEFLATE = (8, 32946)
Stack = tuple[list[tuple[int, int]], int]
_stacks: dict[tuple[int, ...], Stack] = {}
_GROUP = 1 << 28  # bytes that libtiff unpacks at a time
_PACKED = 1 << 26  # bytes that odd bits are unpacked to at a time


def read(file: BinaryIO, name: str, page: int | None = None) -> Picture:
    """Reads one page.

    Args:
        file: the file.
        name: what messages call it.
        page: the page, from 0, among those of one kind and size (thumbnails, masks and pyramid
            levels do not count); None for the first, with a remark if there are more.

    Returns:
        The picture, upright: uint8, uint16, int16, int32, uint32 or float32; black is low.

    Raises:
        InputError: damaged, too large, or pixels of a kind that is named.
    """
    with guard.decoding(name):
        with _parsed(file) as tif:
            stack, strangers = _stack(file, tif)
            guard.check_page(page or 0, len(stack), name)
            number, shift = stack[page or 0]
            leaf: Any = tif.pages[number]
            guard.check_size(leaf.imagelength, leaf.imagewidth, name)
            remarks = () if page is not None else guard.further_pages(len(stack), name)
            if strangers and page is None:
                which, cure = (
                    ("a further page", "was left out; save it as a file of its own")
                    if strangers == 1
                    else (f"{strangers} further pages", "were left out; save them as files")
                )
                remarks += (f"{name} has {which} of another kind or size, which {cure}.",)
            _check_bands(leaf, len(stack), name)
            if _is_plain(leaf) and not shift:
                picture = bitmaps.read(file, name, number)
                if _key(leaf)[2] == (0,):
                    remarks += (_left_out(name),)
            else:
                picture = _own(file, leaf, shift, name)
        return dataclasses.replace(picture, remarks=remarks + picture.remarks)


def count(file: BinaryIO, name: str) -> int:
    """The number of pages of one kind and size.

    Args:
        file: the file.
        name: what messages call it.

    Returns:
        1 or more.

    Raises:
        InputError: damaged.
    """
    with guard.decoding(name), _parsed(file) as tif:
        return len(_stack(file, tif)[0])


def is_raw(file: BinaryIO) -> bool:
    """Whether the file is a camera's raw file (DNG), whatever it is called."""
    try:
        with _parsed(file) as tif:
            first: Any = tif.pages[0]
            return 50706 in first.tags
    except Exception:  # it is damaged, which reading it will say
        return False


def _parsed(file: BinaryIO) -> tifffile.TiffFile:
    file.seek(0)
    return tifffile.TiffFile(file)


def _stack(file: BinaryIO, tif: Any) -> Stack:
    """As `_listed`, which looks at every page: the pages of a stack are asked for one by one."""
    try:
        facts = os.fstat(file.fileno())
    except io.UnsupportedOperation:  # it lies in memory
        return _listed(file, tif)
    key = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    if key not in _stacks:
        if len(_stacks) > 63:
            _stacks.clear()
        _stacks[key] = _listed(file, tif)
    return _stacks[key]


def _listed(file: BinaryIO, tif: Any) -> Stack:
    """The pages that belong together (number, bytes behind its pixels), and how many others."""
    pages = list(tif.pages)
    # Bit 0: a reduced version of another page; bit 2: a mask of another page.
    whole = [k for k, leaf in enumerate(pages) if not int(leaf.subfiletype) & 0b101] or [0]
    first = pages[whole[0]]

    def kind(leaf):
        return leaf.imagelength, leaf.imagewidth, leaf.bitspersample, *_key(leaf)

    alike = [(k, 0) for k in whole if kind(pages[k]) == kind(first)]
    if len(pages) == 1 and (many := _behind(tif)) > 1:
        room = (file.seek(0, io.SEEK_END) - first.dataoffsets[0]) // max(1, first.nbytes)
        alike = [(0, k * first.nbytes) for k in range(min(many, room))] or alike
    return alike, len(whole) - len(alike) if len(pages) > 1 else 0


def _behind(tif: Any) -> int:
    """How many pictures lie one behind the other where the file lists the first alone.

    ImageJ writes large stacks so, and tifffile on request.
    """
    leaf = tif.pages[0]
    if leaf.compression != 1 or not leaf.is_contiguous:
        return 1
    if tif.is_imagej:
        return int((tif.imagej_metadata or {}).get("images", 1))
    shaped = (tif.shaped_metadata or [{}])[0] if tif.is_shaped else {}
    if shaped.get("truncated"):
        return math.prod(shaped["shape"]) // math.prod(leaf.shape)
    return 1


def _check_bands(leaf: Any, pages: int, name: str) -> None:
    """Refuses bands that were written as if they were the columns of many tiny pages."""
    height, width = leaf.imagelength, leaf.imagewidth
    if width <= 32 and height >= 4 * width and pages >= 4 * width:
        raise InputError(
            f"{name} has {pages} pages of {width}x{height}, which are {width} bands of a picture "
            f"of {height}x{pages}; choose three bands and save them as RGB, or save each as a "
            "gray picture."
        )


def _key(leaf: Any) -> tuple[int, int, tuple[int, ...]]:
    tag = leaf.tags.get(338)
    extras = () if tag is None else tag.value
    extras = tuple(int(x) for x in (extras if isinstance(extras, tuple) else (extras,)))
    return int(leaf.photometric), leaf.samplesperpixel, extras


def _sample(leaf: Any) -> tuple[str, int]:
    """Format and bits of a sample: ("uint", 16)."""
    tag = leaf.tags.get(339)
    values = (1,) if tag is None else tag.value
    values = {int(x) for x in (values if isinstance(values, tuple) else (values,))}
    bits = leaf.bitspersample
    bits = set(bits) if isinstance(bits, tuple) else {bits}
    if len(values) > 1 or len(bits) > 1:
        return "mixed", 0
    return _FORMATS.get(values.pop(), "complex"), int(bits.pop())


def _is_plain(leaf: Any) -> bool:
    form, bits = _sample(leaf)
    inside = leaf.compression in (6, 7, 2, 3, 4, 32771, 50001)  # pictures or faxes as segments
    big = leaf.parent.is_bigtiff and leaf.parent.byteorder == ">"
    apart = leaf.planarconfig == 2 and leaf.samplesperpixel > 1
    if (big or apart) and bits == 8 and leaf.photometric in (0, 1, 2) and not inside:
        return False  # Pillow takes it for another kind, or mixes up its planes
    return form == "uint" and bits <= 8 and (_key(leaf) in _PILLOW or inside)


def _left_out(name: str) -> str:
    return (
        f"{name} has a last band without a stated meaning, which was left out; "
        "declare it as alpha if it is transparency."
    )


# ---------------------------------------------------------------------------------- meaning


def _own(file: BinaryIO, leaf: Any, shift: int, name: str) -> Picture:
    form, bits = _sample(leaf)
    _check_kind(leaf, form, bits, name)
    span = _span(leaf, form, bits)
    array = _array(file, leaf, shift, form, bits, name)
    photometric, samples, extras = _key(leaf)
    if photometric == _WHITE_IS_ZERO:
        array, span = _inverted(array, form, bits, span, name)
    remarks: tuple[str, ...] = ()
    colours = samples - len(extras)
    if photometric != _RGB and (colours == 3 or extras == (0, 0)):
        remarks = (
            f"the three bands of {name} were taken as red, green and blue; "
            "save them as gray pictures if they are not that.",
        )
        colours = 3
    elif samples == 4 and not extras:
        colours = 3
    if leaf.planarconfig == 2 and samples > 2 and leaf.parent.is_shaped:
        remarks = (
            f"the {samples} planes of {name} were taken as the colours of one picture; "
            'if they are pages of a stack, write them with photometric="minisblack".',
        )
    if extras == (0,):
        array, remarks = array[..., :colours], (*remarks, _left_out(name))
    array = _typed(array, name)
    if extras == (1,):
        array = _unmultiplied(array)
    if array.shape[-1] == 1:
        array = array[..., 0]
    tag = leaf.tags.get(metadata.ORIENTATION)
    turn = int(tag.value) if tag is not None else 1
    labels = bitmaps.turned(_labels(file, leaf), turn)
    return Picture(bitmaps.oriented(array, turn), name, labels, span=span, remarks=remarks)


def _check_kind(leaf: Any, form: str, bits: int, name: str) -> None:
    photometric, samples, extras = _key(leaf)
    if form in ("mixed", "complex"):
        raise InputError(
            f"{name} stores {'numbers of several kinds' if form == 'mixed' else 'complex numbers'} "
            "in one pixel, which is not read; save each part as a picture of its own."
        )
    if photometric in (_CFA, _LINEAR):
        raise InputError(
            f"{name} stores the raw pixels of a camera; develop it in a raw converter."
        )
    if photometric in _FOREIGN or photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
        noun = _FOREIGN.get(photometric, f"colours of kind {photometric}")
        raise InputError(
            f"{name} stores {noun} at {bits} bits, which is not read; save it as RGB TIFF or PNG."
        )
    if leaf.imagedepth > 1:
        raise InputError(f"{name} stores a volume in one page; save each slice as a page.")
    colours = 3 if photometric == _RGB else 1
    spare = samples - colours
    alpha = extras in ((), (1,), (2,), (0,), (999,))
    bands = samples in (3, 4) if photometric == _BLACK_IS_ZERO else False
    meant = spare == 0 or (spare == 1 and alpha and (photometric == _RGB or extras in ((1,), (2,))))
    three = samples - len(extras) == 3 or (samples == 3 and extras == (0, 0))
    if not meant and not (bands and three):
        raise InputError(
            f"{name} has {samples} bands, which is neither gray nor RGB with or without "
            "transparency; choose three of them and save them as RGB, or save each as a gray "
            "picture."
        )
    widths = {"uint": (*range(1, 17), 32), "int": (8, 16, 32), "float": (16, 32, 64)}[form]
    if bits not in widths:
        raise InputError(
            f"{name} stores {bits}-bit {form} samples, which are not read; "
            "save it as 16-bit or 32-bit TIFF."
        )


def _span(leaf: Any, form: str, bits: int) -> tuple[float, float] | None:
    """What stands for black and white: as declared, or all values of odd bit depths."""
    low, high = (leaf.tags.get(number) for number in (340, 341))  # SMin- and SMaxSampleValue
    if low is not None and high is not None:
        lows, highs = (np.atleast_1d(np.asarray(tag.value, np.float64)) for tag in (low, high))
        bottom, top = float(lows.min()), float(highs.max())
        if np.isfinite([bottom, top, top - bottom]).all() and bottom < top:
            return bottom, top
    odd = form == "uint" and bits not in (8, 16, 32)
    return (0.0, float(2**bits - 1)) if odd else None


def _inverted(array: np.ndarray, form: str, bits: int, span, name: str):
    """Min-is-white to min-is-black."""
    if form == "float":
        if span is None and not (array.min() >= 0 and array.max() <= 1):
            raise InputError(
                f"{name} says that white is zero and not which of its float values is black; "
                "invert it and save it with black as zero."
            )
        total = 1.0 if span is None else span[0] + span[1]
        return (total - array.astype(np.float64)).astype(array.dtype), span
    if form == "int":
        top = -1
        array = ~array
    else:
        top = 2**bits - 1
        array = array.dtype.type(top) - array
    return array, None if span is None else (top - span[1], top - span[0])


def _typed(array: np.ndarray, name: str) -> np.ndarray:
    """The samples in a dtype of `Picture`."""
    if array.dtype == np.int8:
        return array.astype(np.int16)
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            values = array.astype(np.float32)
        if np.isinf(values).any() and np.isfinite(array).all():
            raise InputError(f"{name} has values beyond 32-bit floats; scale them first.")
        return values
    return array


def _unmultiplied(array: np.ndarray) -> np.ndarray:
    """Undoes the product of colour and alpha, which Pillow does for 8 bits."""
    alpha = array[..., -1:].astype(np.float64)
    top = 1.0 if array.dtype.kind == "f" else float(np.iinfo(array.dtype).max)
    colour = array[..., :-1] * np.divide(top, alpha, out=np.zeros_like(alpha), where=alpha > 0)
    if array.dtype.kind != "f":
        colour = np.rint(np.clip(colour, 0, top))
    return np.concatenate([colour.astype(array.dtype), array[..., -1:]], -1)


def _labels(file: BinaryIO, leaf: Any) -> Labels:
    def value(number):
        tag = leaf.tags.get(number)
        return None if tag is None else tag.value

    def fraction(pair):
        return pair[0] / pair[1] if isinstance(pair, tuple) and pair[1] else None

    profile, unit = value(34675), value(296)
    unit = 2 if unit is None else int(unit)
    dpi = metadata.dpi_of(fraction(value(282)), fraction(value(283)), unit)
    return Labels(bytes(profile) if profile else None, metadata.of_tiff(file), dpi)


# ----------------------------------------------------------------------------------- pixels


def _array(file: BinaryIO, leaf: Any, shift: int, form: str, bits: int, name: str) -> np.ndarray:
    """All samples of a page, (H, W, samples), in native byte order."""
    height, width, samples = leaf.imagelength, leaf.imagewidth, leaf.samplesperpixel
    planes = samples if leaf.planarconfig == 2 else 1
    deep = samples // planes
    rows = leaf.tilelength if leaf.is_tiled else min(leaf.rowsperstrip, height)
    columns = leaf.tilewidth if leaf.is_tiled else width
    guard.check_size(rows, columns, name)
    width_of = {9: 16, 10: 16, 11: 16, 12: 16, 13: 16, 14: 16, 15: 16}.get(bits, bits)
    dtype = np.dtype(f"{form}{max(width_of, 8)}")
    guard.check_bytes(max(height * width * planes, rows * columns) * deep * dtype.itemsize, name)
    across, down = -(-width // columns), -(-height // rows)
    line = -(-columns * deep * bits // 8)
    if len(leaf.dataoffsets) < across * down * planes:
        raise ValueError("parts are missing")
    heights = [
        rows if leaf.is_tiled else min(rows, height - k // across * rows)
        for k in range(across * down)
    ] * planes
    array = np.zeros((height, width, samples), dtype)
    for k, data in enumerate(_unpacked(file, leaf, shift, heights, line, name)):
        plane, place = divmod(k, across * down)
        top, left = place // across * rows, place % across * columns
        block = _samples(data, leaf, dtype, bits, (heights[k], columns, deep))
        bottom, right = min(top + heights[k], height), min(left + columns, width)
        array[top:bottom, left:right, plane : plane + deep] = block[: bottom - top, : right - left]
    return array


def _samples(data: bytes, leaf: Any, dtype: np.dtype, bits: int, shape) -> np.ndarray:
    """The samples of one strip or tile, (rows, columns, samples)."""
    rows, columns, deep = shape
    octets = np.frombuffer(data, np.uint8).reshape(rows, -1)
    if leaf.fillorder == 2:
        octets = np.packbits(np.unpackbits(octets, axis=1, bitorder="little"), axis=1)
    if bits not in (8, 16, 32, 64):  # packed, the highest bit first
        unpacked = np.empty((rows, columns * deep), dtype)
        some = max(1, _PACKED // max(1, 16 * columns * deep))  # a bit becomes a byte on the way
        for top in range(0, rows, some):
            single = np.unpackbits(octets[top : top + some], axis=1)[:, : columns * deep * bits]
            single = single.reshape(-1, columns * deep, bits)
            single = np.pad(single, ((0, 0), (0, 0), (16 - bits, 0)))
            unpacked[top : top + some] = np.packbits(single, axis=-1).view(">u2")[..., 0]
        return unpacked.reshape(shape)
    size = dtype.itemsize
    # As libtiff does: a predictor without a compression of its kind is not meant.
    predictor = 1 if leaf.compression in (1, 32773) else leaf.predictor
    if predictor == 3:  # differences of bytes, the highest bytes of a row first
        sums = np.cumsum(octets.reshape(rows, -1, deep), axis=1, dtype=np.uint8)
        shuffled = sums.reshape(rows, size, columns * deep).swapaxes(1, 2)
        return np.ascontiguousarray(shuffled).view(dtype.newbyteorder(">")).reshape(shape)
    values = octets.view(dtype.newbyteorder(leaf.parent.byteorder)).reshape(shape)
    if predictor == 2:  # differences of neighbours, modulo the size of a sample
        whole = values.astype(dtype).view(f"u{size}")
        return np.cumsum(whole, axis=1, dtype=whole.dtype).view(dtype)
    return values


def _unpacked(
    file: BinaryIO, leaf: Any, shift: int, heights: list[int], line: int, name: str
) -> Iterator[bytes]:
    """The bytes of each strip or tile, as long as they must be."""
    offsets = [offset + shift for offset in leaf.dataoffsets]
    parts = list(zip(offsets, leaf.databytecounts, heights, strict=False))
    if leaf.predictor not in (1, 2, 3):
        raise InputError(
            f"{name} has the predictor {int(leaf.predictor)}, which is not read; "
            "save it without compression."
        )
    if leaf.compression in _LIBTIFF:
        yield from _by_libtiff(file, leaf, parts, line, name)
        return
    for offset, size, rows in parts:
        wanted = rows * line
        data = _chunk(file, offset, min(size, wanted) if leaf.compression == 1 else size)
        if leaf.compression in _DEFLATE:
            data = zlib.decompressobj().decompress(data, wanted + 1)  # to its checksum
        elif leaf.compression != 1:
            raise InputError(
                f"{name} is compressed in a way that is not read "
                f"({_compression(leaf)}); save it with LZW, Deflate or none."
            )
        if len(data) < wanted:
            raise ValueError("a strip or tile is too short")
        yield data[:wanted]


def _compression(leaf: Any) -> str:
    try:
        return tifffile.COMPRESSION(leaf.compression).name
    except ValueError:
        return str(int(leaf.compression))


def _chunk(file: BinaryIO, offset: int, size: int) -> bytes:
    if offset + size > file.seek(0, os.SEEK_END):
        raise ValueError("the file ends in the middle of its pixels")
    file.seek(offset)
    return file.read(size)


def _by_libtiff(
    file: BinaryIO, leaf: Any, parts: list[Any], line: int, name: str
) -> Iterator[bytes]:
    """Has the libtiff in Pillow unpack parts, as rows of 8-bit gray whatever they hold."""
    while parts:
        rows = parts[0][2]
        most = max(1, _GROUP // max(1, rows * line))
        # A shorter strip may be the last of an image only.
        end = next((k for k, part in enumerate(parts) if part[2] != rows), len(parts))
        if end < len(parts) and parts[end][2] < rows:
            end += 1
        group, parts = parts[: min(most, end)], parts[min(most, end) :]
        heights = [part[2] for part in group]
        carrier = _carrier(file, leaf.compression, group, rows, line)
        try:
            octets = bitmaps.unpacked(carrier)
        except OSError:
            if leaf.compression in (5, 32773):
                raise
            raise InputError(
                f"{name} is compressed as {_compression(leaf)}, which this Pillow cannot unpack, "
                "or is damaged; save it with LZW or Deflate."
            ) from None
        for top, height in zip(np.cumsum([0, *heights[:-1]]), heights, strict=True):
            yield octets[top : top + height].tobytes()


def _carrier(file: BinaryIO, compression: int, group: list[Any], rows: int, line: int) -> bytes:
    """A TIFF of 8-bit gray whose strips are the compressed parts of another."""
    chunks = [_chunk(file, offset, size) for offset, size, _ in group]
    tags = ImageFileDirectory_v2(b"II*\0\x08\0\0\0")
    offsets = [0, *itertools.accumulate(len(chunk) for chunk in chunks[:-1])]
    tags[256], tags[257], tags[258], tags[259] = line, sum(p[2] for p in group), 8, compression
    tags[262], tags[277], tags[278], tags[284] = 1, 1, rows, 1
    for number, values in ((273, offsets), (279, [len(chunk) for chunk in chunks])):
        tags.tagtype[number] = 4
        tags[number] = tuple(values)
    return b"".join([b"II*\0\x08\0\0\0", tags.tobytes(8), *chunks])
