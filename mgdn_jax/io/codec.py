"""Image bytes to arrays and back, without losing a bit; the only room that imports Pillow.

Pillow has no mode for 16-bit colour and quietly keeps the high byte of every sample. Here such
files are unpacked twice, once for the high and once for the low byte, so nothing is dropped;
what cannot be decoded without loss is refused.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from mgdn_jax.errors import InputError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".ppm", ".pgm")
MAX_PIXELS = 1_000_000_000
"""Pictures above this many pixels are refused (Pillow's own limit stops at 179 megapixels)."""

_ORIENTATION = 0x0112
_PLAIN = ("L", "LA", "RGB", "RGBA")
_CONVERT = {"1": "L", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}
_open_lock = threading.Lock()


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decodes one image file.

    The first page or frame counts. Palettes are expanded, transparency is kept as a last channel
    (2 channels: gray and alpha; 4: colour and alpha), CMYK and YCbCr become RGB, the EXIF
    orientation is applied.

    Args:
      data: the whole file.
      name: how to call it in messages, normally its path.

    Returns:
      (H, W) or (H, W, C) with C in 2, 3, 4; uint8, uint16, or float32 for float TIFF (values as
      stored, unchecked).

    Raises:
      InputError: not an image, truncated, larger than `MAX_PIXELS`, or of a kind that cannot be
        read without loss.
    """
    try:
        array, orientation = _decode(data, name)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(
            f"{name} is not an image this program can read; give PNG, JPEG, TIFF, BMP, WebP or PPM."
        ) from None
    except Image.DecompressionBombError:
        raise InputError(
            f"{name} has more than {MAX_PIXELS // 10**6} megapixels; scale or cut it first."
        ) from None
    except MemoryError:
        raise InputError(f"{name} does not fit into memory; scale or cut it first.") from None
    except Exception as error:  # Pillow's plugins raise a dozen types for broken files
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise InputError(
            f"{name} is damaged or truncated ({reason}); export or download it again."
        ) from None
    if array.size == 0:
        raise InputError(f"{name} has no pixels; export it again.")
    return np.ascontiguousarray(_orient(array, orientation))


def read_size(source: bytes | str | os.PathLike[str]) -> tuple[int, int] | None:
    """Height and width of a picture as `decode_image` would give it, from its header alone.

    Args:
      source: a file, or all bytes of one.

    Returns:
      None where that cannot be told; to read the picture says why.
    """
    try:
        with contextlib.ExitStack() as stack:
            if isinstance(source, bytes):
                image = stack.enter_context(_open(source))
            else:
                image = stack.enter_context(_open(stack.enter_context(open(source, "rb"))))
            turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            return image.size if turned else image.size[::-1]
    except Exception:  # Pillow's plugins raise a dozen types for broken files
        return None


def read_sizes(sources: Iterable[bytes | str | os.PathLike[str]]) -> list[tuple[int, int]]:
    """`read_size` of each file, those left out that tell none."""
    return [size for size in map(read_size, sources) if size is not None]


def _open(data: bytes | BinaryIO) -> Image.Image:
    with _open_lock:  # the limit is a global of Pillow: lend it and give it back
        saved, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS // 2
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                file = io.BytesIO(data) if isinstance(data, bytes) else data
                return Image.open(file, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = saved


def _decode(data: bytes, name: str) -> tuple[np.ndarray, int]:
    with _open(data) as image:
        if image.format == "PPM" and image.mode == "RGB" and _ppm_maximum(data) > 255:
            raise InputError(f"{name} is a 16-bit colour PPM; save it as 16-bit PNG or TIFF.")
        tags = getattr(image, "tag_v2", {})
        if tags.get(284) == 2 and max(tags.get(258, (8,))) > 8:
            raise InputError(
                f"{name} is a 16-bit TIFF with separate colour planes, which is not read here; "
                "save it with interleaved channels or as PNG."
            )
        raw = _rawmode(image)
        if ";16" in raw and not image.mode.startswith("I"):
            return _decode_wide(data, name, raw)
        image.load()
        orientation = int(image.getexif().get(_ORIENTATION, 1))
        if image.mode == "P" or (image.mode in ("L", "RGB") and "transparency" in image.info):
            keyed = "transparency" in image.info
            wanted = ("LA" if image.mode == "L" else "RGBA") if keyed else "RGB"
            plain = image.convert(wanted)
        elif image.mode == "PA":
            plain = image.convert("RGBA")
        else:
            plain = image.convert(_CONVERT[image.mode]) if image.mode in _CONVERT else image
        array = np.asarray(plain)
        if plain.mode in _PLAIN:
            return array, orientation
        if plain.mode.startswith("I;16"):
            return array.astype(np.uint16), orientation
        if plain.mode == "I" and array.min() >= 0 and array.max() <= 65535:
            return array.astype(np.uint16), orientation
        if plain.mode == "F":
            return array.astype(np.float32), orientation
    raise InputError(
        f"{name} stores pixels of a kind that is not read here ({plain.mode}); "
        "save it as 8-bit or 16-bit PNG or TIFF."
    )


def _rawmode(image: Image.Image) -> str:
    """How the file stores its samples, "RGB;16B" for instance; empty if not told."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _decode_wide(data: bytes, name: str, raw: str) -> tuple[np.ndarray, int]:
    """16-bit samples of a file that Pillow would cut to 8: each byte in a pass of its own."""
    stem, _, order = raw.partition(";16")
    if stem == "LA":  # the four bytes of gray and alpha look like one 8-bit RGBA pixel
        pixels, orientation = _load_as(data, "RGBA")
        return pixels[..., 0::2] << 8 | pixels[..., 1::2], orientation
    if stem not in ("RGB", "RGBA", "RGBX"):
        raise InputError(
            f"{name} stores 16-bit pixels of a kind that is not read here ({raw}); "
            "save it as RGB or gray PNG or TIFF."
        )
    first, orientation = _load_as(data, f"{stem};16B")  # "B" keeps the first byte of a sample
    second, _ = _load_as(data, f"{stem};16L")  # "L" keeps the second
    big = order == "B" or (order == "N" and sys.byteorder == "big")
    array = first << 8 | second if big else second << 8 | first
    return array[..., :3] if stem == "RGBX" else array, orientation


def _load_as(data: bytes, raw: str) -> tuple[np.ndarray, int]:
    opened: Any = _open(data)
    with opened as image:
        image.tile = [tile._replace(args=_renamed(tile.args, raw)) for tile in image.tile]
        image.load()
        return np.asarray(image).astype(np.uint16), int(image.getexif().get(_ORIENTATION, 1))


def _renamed(arguments, raw: str):
    return (raw, *arguments[1:]) if isinstance(arguments, tuple) else raw


def _ppm_maximum(data: bytes) -> int:
    """The largest sample value that a binary PPM announces."""
    fields = re.sub(rb"#[^\n]*", b"", data[:512]).split(maxsplit=4)
    return int(fields[3]) if len(fields) > 3 and fields[3].isdigit() else 255


def _orient(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turns stored rows and columns into the picture as it was seen (EXIF values 1 to 8)."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


# --------------------------------------------------------------------------------- reduction


def downscale(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic reduction whose kernel widens with the factor, so that nothing aliases.

    Args:
      array: (H, W, C) real numbers.
      height: rows of the result, at most H.
      width: columns of the result, at most W.

    Returns:
      (height, width, C) float32, within the range of `array`.
    """
    planes = [Image.fromarray(array[..., k].astype(np.float32)) for k in range(array.shape[-1])]
    small = [p.resize((width, height), Image.Resampling.BICUBIC) for p in planes]
    return np.stack([np.asarray(p) for p in small], axis=-1).clip(
        np.float32(array.min()), np.float32(array.max())
    )


# ---------------------------------------------------------------------------------- writing


def encode(array: np.ndarray, suffix: str, *, quality: int = 95) -> bytes:
    """Encodes a picture for a file name's suffix.

    Args:
      array: (H, W) or (H, W, C) with C in 1 to 4 (2 and 4 end in alpha); uint8, uint16 or float32.
      suffix: one of `SUFFIXES`, upper or lower case.
      quality: 1 to 100, for JPEG and WebP.

    Returns:
      The whole file.

    Raises:
      InputError: the format is unknown or cannot hold these pixels (16 bits: PNG and TIFF; float:
        TIFF, gray only; transparency: not in JPEG, BMP and PPM).
    """
    suffix = suffix.lower()
    array = np.asarray(array)
    _check_pixels(array)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    channels = 1 if array.ndim == 2 else array.shape[-1]
    if suffix not in SUFFIXES:
        raise InputError(
            f"cannot write images of type {suffix or '(none)'!r}; use one of {', '.join(SUFFIXES)}."
        )
    if array.dtype == np.uint16 and suffix not in (".png", ".tif", ".tiff"):
        raise InputError(f"{suffix} cannot hold 16-bit pixels; choose .png or .tif.")
    if array.dtype == np.float32 and (channels > 1 or suffix not in (".tif", ".tiff")):
        raise InputError(
            "float pixels are written as gray .tif only; convert them to uint16 for colour or .png."
        )
    if channels in (2, 4) and suffix in (".jpg", ".jpeg", ".bmp", ".ppm", ".pgm"):
        raise InputError(f"{suffix} cannot hold transparency; choose .png or .tif.")
    if array.dtype == np.uint16 and channels == 2 and suffix != ".png":
        raise InputError("16-bit gray with transparency is written as .png only; choose .png.")
    if suffix == ".png":
        return encode_png(array)
    if suffix in (".jpg", ".jpeg"):
        return encode_jpeg(array, quality)
    if suffix in (".tif", ".tiff"):
        return _encode_tiff(array)
    if suffix == ".webp":
        return _save(array, "WEBP", quality=quality, method=4)
    if suffix == ".pgm" and channels != 1:
        raise InputError(".pgm holds gray pictures only; choose .ppm or .png.")
    return _save(array, {".bmp": "BMP"}.get(suffix, "PPM"))


def encode_png(array: np.ndarray) -> bytes:
    """Encodes uint8 or uint16 (H, W) or (H, W, C), C in 1 to 4, as PNG without loss.

    Raises:
      InputError: other dtypes or shapes.
    """
    array = np.asarray(array)
    _check_pixels(array)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype == np.uint8:
        return _save(array, "PNG", compress_level=4)
    if array.dtype != np.uint16:
        raise InputError("PNG holds 8-bit or 16-bit pixels; convert float pixels to uint16 first.")
    height, width = array.shape[:2]
    channels = 1 if array.ndim == 2 else array.shape[2]
    rows = array.astype(">u2").reshape(height, -1).view(np.uint8)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 2  # filter "up": the difference from the row above, zero above the first
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered.data, 4)), (b"IEND", b""))
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in chunks:
        crc = zlib.crc32(kind + body)
        parts += [struct.pack(">I", len(body)), kind, body, struct.pack(">I", crc)]
    return b"".join(parts)


def encode_jpeg(array: np.ndarray, quality: int = 95, *, subsampling: str = "4:4:4") -> bytes:
    """Encodes uint8 (H, W) or (H, W, C), C in 1 or 3, as JPEG.

    Args:
      array: the picture.
      quality: 1 to 100.
      subsampling: of the chroma: "4:4:4" (none), "4:2:2" or "4:2:0" (what cameras write).

    Raises:
      InputError: other dtypes or shapes.
    """
    array = np.asarray(array)
    _check_pixels(array)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8 or (array.ndim == 3 and array.shape[-1] != 3):
        raise InputError("JPEG holds 8-bit gray or RGB pixels; choose .png or .tif.")
    return _save(array, "JPEG", quality=quality, subsampling=subsampling, optimize=True)


def _check_pixels(array: np.ndarray) -> None:
    ranks = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 2, 3, 4))
    if not ranks or array.size == 0 or array.dtype not in (np.uint8, np.uint16, np.float32):
        raise InputError(
            f"cannot encode {array.dtype} pixels of shape {array.shape}; give (H, W) or "
            "(H, W, C) with 1 to 4 channels of uint8, uint16 or float32."
        )


def _save(array: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    try:
        Image.fromarray(np.ascontiguousarray(array)).save(buffer, kind, **options)
    except (OSError, ValueError, struct.error) as error:
        height, width = array.shape[:2]
        raise InputError(
            f"a picture of {width}x{height} cannot be written as {kind} ({error}); choose .png."
        ) from None
    return buffer.getvalue()


def _encode_tiff(array: np.ndarray) -> bytes:
    if array.dtype == np.uint8 or array.ndim == 2:
        return _save(array, "TIFF", compression="tiff_adobe_deflate")
    # Pillow writes no 16-bit colour: one little-endian strip, deflated (TIFF 6.0 and tag 259 = 8).
    height, width, channels = array.shape
    body = zlib.compress(np.ascontiguousarray(array, "<u2").data, 4)
    offset = 8
    bits_at = offset + len(body) + len(body) % 2
    directory_at = bits_at + 2 * channels
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, bits_at),
        (259, 3, 1, 8),
        (262, 3, 1, 2),
        (273, 4, 1, offset),
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, 1, len(body)),
        (284, 3, 1, 1),
    ]
    if channels == 4:
        entries.append((338, 3, 1, 2))  # the last sample is alpha, not premultiplied
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"".join(
        [
            struct.pack("<2sHI", b"II", 42, directory_at),
            body,
            b"\0" * (len(body) % 2),
            struct.pack(f"<{channels}H", *[16] * channels),
            directory,
            struct.pack("<I", 0),
        ]
    )
