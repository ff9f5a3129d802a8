"""Ordinary pictures through Pillow, without losing a bit.

Pillow has no mode for 16-bit colour and quietly keeps the high byte of every sample. Here such
files are unpacked twice, once for the high and once for the low byte, so nothing is dropped;
what cannot be decoded without loss is refused.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError, features

from mgdn_jax.errors import InputError
from mgdn_jax.io import guard, kinds, profiles
from mgdn_jax.io.metadata import ORIENTATION, labels_of
from mgdn_jax.io.pictures import Labels, Picture

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "PPM")
_ANIMATED = ("PNG", "WEBP", "AVIF")
_PLAIN = ("L", "LA", "RGB", "RGBA")
_CONVERT = {"1": "L", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}
_open_lock = threading.Lock()
# These formats hold so many bytes of pixels in a byte of file at most: Deflate makes 1032 of one,
# a bit is a pixel, and a palette has four values.
_EXPANSION = {"PNG": 1032 * 8 * 4, "BMP": 128 * 8 * 4, "PPM": 8}
_BAND_BYTES = 1 << 25


def read(file: BinaryIO, name: str, page: int | None = None) -> Picture:
    """Reads one picture of a file that Pillow knows.

    Palettes are expanded, transparency is kept as a last channel (2 channels: gray and alpha; 4:
    colour and alpha), CMYK goes through its profile to sRGB (without a profile: by the plain
    rule), YCbCr becomes RGB, the EXIF orientation is applied.

    Args:
        file: the file, from its start.
        name: what messages call it.
        page: the page or frame, from 0; None for the first, with a remark if there are more.

    Returns:
        The picture; uint8, uint16, int32 or float32.

    Raises:
        InputError: damaged, too large, or of a kind that cannot be read without loss.
    """
    length = file.seek(0, io.SEEK_END)
    with guard.decoding(name), opened(file, name) as image:
        _check_amount(image, length, name)
        remarks: tuple[str, ...] = ()
        if image.format != "TIFF":  # its pages are counted by `tiff`; Pillow refuses some of them
            pages = _pages(image)
            guard.check_page(page or 0, pages, name)
            remarks = guard.further_pages(pages, name, "frame") if page is None else ()
        if page:
            image.seek(page)
        array, loaded = _pixels(file, image, name, page or 0)
        guard.check_size(array.shape[0], array.shape[1], name)
        # PNG may have them behind the pixels: asked for earlier, they would load the picture.
        turn = int(loaded.getexif().get(ORIENTATION, 1))
        labels = labels_of(loaded)
        if image.mode == "CMYK" and labels.profile is not None:
            labels = Labels(profiles.srgb(), labels.exif, labels.dpi)
        remarks += _losses(file, image, name)
        return Picture(oriented(array, turn), name, turned(labels, turn), remarks=remarks)


def count(file: BinaryIO, name: str) -> int:
    """The number of frames that a file has.

    Args:
        file: the file, from its start.
        name: what messages call it.

    Returns:
        1 or more.

    Raises:
        InputError: damaged or too large.
    """
    with guard.decoding(name), opened(file, name) as image:
        return _pages(image)


def size(file: BinaryIO, name: str) -> tuple[int, int]:
    """Height and width of the first page as it would be read, from the header alone.

    Raises:
        InputError: damaged, or no image that Pillow knows.
    """
    with guard.decoding(name), opened(file, name) as image:
        turned = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
        return (image.width, image.height) if turned else (image.height, image.width)


def opened(file: BinaryIO, name: str) -> Image.Image:
    """Opens a file as an image of Pillow, with our limit of size in place of Pillow's.

    Args:
        file: the file.
        name: what messages call it.

    Returns:
        The image, not loaded yet.

    Raises:
        InputError: too large, or no image that Pillow knows.
    """
    file.seek(0)
    formats = (*FORMATS, "AVIF") if has_avif() else FORMATS
    try:
        with _own_limit(), warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(file, formats=formats)
    except UnidentifiedImageError:
        raise kinds.refusal("", name) from None
    except Image.DecompressionBombError:
        raise guard.too_large(name) from None


@contextlib.contextmanager
def _own_limit() -> Iterator[None]:
    """Lends Pillow our limit of size, which is a global of it, and gives its own back."""
    with _open_lock:
        saved, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, guard.most_pixels() // 2
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = saved


def _check_amount(image: Any, length: int, name: str) -> None:
    """Refuses pixels that do not fit into memory, or cannot lie in a file of so many bytes."""
    channels = len(image.getbands())
    if image.mode in ("P", "PA"):
        channels = 4 if "transparency" in image.info or image.mode == "PA" else 3
    elif "transparency" in image.info and image.mode in ("L", "RGB"):
        channels += 1
    size = 4 if image.mode in ("I", "F") else 1
    if ";16" in _rawmode(image) or image.mode.startswith("I;16"):
        size = 2
    count = image.width * image.height * channels * size
    guard.check_bytes(count, name)
    if count > _EXPANSION.get(image.format, math.inf) * length:
        raise ValueError("it ends in the middle of its pixels")


def has_avif() -> bool:
    """Whether this Pillow reads AVIF (from 11.3 on, where it was built with it)."""
    return "avif" in features.modules and bool(features.check_module("avif"))


def _pages(image: Any) -> int:
    return image.n_frames if image.format in _ANIMATED else 1


def _losses(file: BinaryIO, image: Any, name: str) -> tuple[str, ...]:
    """What an ordinary picture holds and this room does not read."""
    if image.format in ("JPEG", "MPO"):
        if any(kind == "APP1" and body.startswith(b"FLIR\0") for kind, body in image.applist):
            return (
                f"{name} is a radiometric FLIR picture of which only the coloured preview was "
                "read; export its temperatures as 16-bit TIFF and give that.",
            )
    elif image.format == "AVIF":
        file.seek(0)
        head = file.read(65536)
        at = head.find(b"av1C")
        if at >= 0 and len(head) > at + 6 and head[at + 6] & 0x40:  # the flag of high bit depth
            return (
                f"{name} has more than 8 bits a channel, of which 8 were read; "
                "convert it to 16-bit PNG to keep them.",
            )
    return ()


# ----------------------------------------------------------------------------------- pixels


def _pixels(file: BinaryIO, image: Any, name: str, page: int) -> tuple[np.ndarray, Any]:
    """The pixels as stored, and an image of Pillow that is loaded."""
    if image.format == "PPM" and image.mode == "RGB" and _ppm_maximum(file) > 255:
        raise InputError(f"{name} is a 16-bit colour PPM; save it as 16-bit PNG or TIFF.")
    raw = _rawmode(image)
    if ";16" in raw and not image.mode.startswith("I"):
        if page:
            raise InputError(f"{name} is a 16-bit animation; save its frames as PNG or TIFF.")
        return _wide(file, image, name, raw)
    image.load()
    if image.mode == "CMYK" and image.info.get("icc_profile"):
        return _separated(image, name), image
    keyed = "transparency" in image.info
    if image.mode == "P" or (image.mode in ("L", "RGB") and keyed):
        plain = image.convert(("LA" if image.mode == "L" else "RGBA") if keyed else "RGB")
    elif image.mode == "PA":
        plain = image.convert("RGBA")
    else:
        plain = image.convert(_CONVERT[image.mode]) if image.mode in _CONVERT else image
    array = _array(plain)
    if plain.mode in _PLAIN:
        return array, image
    if plain.mode.startswith("I;16") or (plain.mode == "I" and image.format in ("PNG", "PPM")):
        return _keyed(array.astype(np.uint16), image), image
    if plain.mode == "I":
        return array.astype(np.int32), image
    if plain.mode == "F":
        return array.astype(np.float32), image
    raise InputError(
        f"{name} stores pixels of a kind that is not read here ({plain.mode}); "
        "save it as 8-bit or 16-bit PNG or TIFF."
    )


def _array(image: Any) -> np.ndarray:
    """The pixels of a loaded image; Pillow would hold them twice more on the way."""
    width, height = image.size
    rows = max(1, _BAND_BYTES // (8 * width))
    if rows >= height:
        return np.asarray(image)
    with _own_limit():  # pieces are measured by it, too
        pieces = ((top, min(height, top + rows)) for top in range(0, height, rows))
        array = np.empty(0)
        for top, bottom in pieces:
            piece = np.asarray(image.crop((0, top, width, bottom)))
            if top == 0:
                array = np.empty((height, *piece.shape[1:]), piece.dtype)
            array[top:bottom] = piece
    return array


def _rawmode(image: Any) -> str:
    """How the file stores its samples, "RGB;16B" for instance; empty if it is not said."""
    if not image.tile:
        return ""
    arguments = image.tile[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _wide(file: BinaryIO, image: Any, name: str, raw: str) -> tuple[np.ndarray, Any]:
    """16-bit samples of a file that Pillow would cut to 8: each byte in a pass of its own."""
    stem, _, order = raw.partition(";16")
    if stem == "LA":  # the four bytes of gray and alpha look like one 8-bit RGBA pixel
        loaded = _load_as(file, name, "RGBA")
        return _array(loaded).view(">u2").astype(np.uint16), loaded
    if stem not in ("RGB", "RGBA", "RGBX"):
        raise InputError(
            f"{name} stores 16-bit pixels of a kind that is not read here ({raw}); "
            "save it as RGB or gray PNG or TIFF."
        )
    big = order == "B" or (order == "N" and sys.byteorder == "big")
    first = _array(_load_as(file, name, f"{stem};16B"))  # "B" keeps the first byte of a sample
    samples = np.empty((*first.shape, 2), np.uint8)
    samples[..., 0] = first
    del first
    loaded = _load_as(file, name, f"{stem};16L")  # "L" keeps the second
    samples[..., 1] = _array(loaded)
    array = samples.view(">u2" if big else "<u2")[..., 0].astype(np.uint16, copy=False)
    return array[..., :3] if stem == "RGBX" else _keyed(array, image), loaded


def _load_as(file: BinaryIO, name: str, raw: str) -> Any:
    again: Any = opened(file, name)
    again.tile = [tile._replace(args=_renamed(tile.args, raw)) for tile in again.tile]
    again.load()
    return again


def _renamed(arguments, raw: str):
    return (raw, *arguments[1:]) if isinstance(arguments, tuple) else raw


def _keyed(array: np.ndarray, image: Any) -> np.ndarray:
    """Turns the one colour that a 16-bit PNG declares transparent into an alpha channel."""
    key = image.info.get("transparency")
    if not isinstance(key, int | tuple) or array.shape[2:] not in ((), (3,)):
        return array
    colour = array.reshape(*array.shape[:2], -1)
    opaque = (colour != np.asarray(key, np.uint16).reshape(-1)).any(-1, keepdims=True)
    return np.concatenate([colour, opaque * np.uint16(65535)], -1)


def _separated(image: Any, name: str) -> np.ndarray:
    """CMYK inks to sRGB, through the profile of the press that they are meant for."""
    profile = image.info["icc_profile"]
    try:
        inks = profiles.opened(profile)
        if profiles.space(profile) != "CMYK":
            raise ValueError
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        rgb = ImageCms.profileToProfile(
            image, inks, profiles.opened(profiles.srgb()), intent, "RGB", flags=flags
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        raise InputError(
            f"{name} has CMYK pixels and a colour profile that does not fit them; save it as RGB."
        ) from None
    return np.asarray(rgb)


def _ppm_maximum(file: BinaryIO) -> int:
    """The largest sample value that a binary PPM announces."""
    file.seek(0)
    fields = re.sub(rb"#[^\n]*", b"", file.read(512)).split(maxsplit=4)
    is_number = len(fields) > 3 and re.fullmatch(rb"[0-9]{1,9}", fields[3])
    return int(fields[3]) if is_number else 255


# ------------------------------------------------------------------------------ orientation


def oriented(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turns stored rows and columns into the picture as it was seen.

    Args:
        array: (H, W) or (H, W, C).
        orientation: the EXIF value, 1 to 8; any other leaves the array as it is.

    Returns:
        The upright picture, contiguous.
    """
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def turned(labels: Labels, orientation: int) -> Labels:
    """The labels of a picture whose rows may have become columns."""
    if orientation in (5, 6, 7, 8) and labels.dpi is not None:
        return Labels(labels.profile, labels.exif, labels.dpi[::-1], labels.geometry)
    return labels


def unpacked(carrier: bytes) -> np.ndarray:
    """The pixels of a TIFF of 8-bit gray that was put together to be decompressed.

    Args:
        carrier: the file.

    Returns:
        (H, W) uint8.

    Raises:
        OSError, ValueError: it is damaged.
    """
    with opened(io.BytesIO(carrier), "the file") as image:
        image.load()
        return np.asarray(image)
