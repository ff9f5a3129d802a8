"""Image bytes to arrays and back, without losing a bit."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mgdn_jax.errors import InputError
from mgdn_jax.io import guard, metadata, profiles, reading
from mgdn_jax.io.kinds import RAW, READABLE, SUFFIXES
from mgdn_jax.io.pictures import Labels

__all__ = [
    "MAX_PIXELS",
    "RAW",
    "READABLE",
    "SUFFIXES",
    "decode_image",
    "downscale",
    "encode",
    "encode_jpeg",
    "encode_png",
    "left_out",
]
MAX_PIXELS = guard.MAX_PIXELS
_DEEP = (np.int16, np.int32, np.uint32)
_MOST_EXIF = 65_499  # bytes that a segment of JPEG has room for
_STRIP = 1 << 20  # bytes of a strip before it is compressed


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
    return reading.plain(data, name)


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


def encode(
    array: np.ndarray, suffix: str, *, quality: int = 95, labels: Labels | None = None
) -> bytes:
    """Encodes a picture for a file name's suffix.

    Args:
      array: (H, W) or (H, W, C) with C in 1 to 4 (2 and 4 end in alpha); uint8, uint16 or float32;
        for TIFF also int16, int32 and uint32.
      suffix: one of `SUFFIXES`, upper or lower case.
      quality: 1 to 100, for JPEG and WebP.
      labels: profile, EXIF and resolution to embed; what the format cannot hold is left out, and a
        profile that does not fit the channels.

    Returns:
      The whole file.

    Raises:
      InputError: the format is unknown or cannot hold these pixels (16 bits: PNG and TIFF; float:
        TIFF; transparency: not in JPEG, BMP and PPM).
    """
    suffix = suffix.lower()
    array = _native(array)
    tiff = suffix in (".tif", ".tiff")
    _check_pixels(array, _DEEP if tiff else ())
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    channels = 1 if array.ndim == 2 else array.shape[-1]
    if suffix not in SUFFIXES:
        raise InputError(
            f"cannot write images of type {suffix or '(none)'!r}; use one of {', '.join(SUFFIXES)}."
        )
    if array.dtype == np.uint16 and suffix != ".png" and not tiff:
        raise InputError(f"{suffix} cannot hold 16-bit pixels; choose .png or .tif.")
    if array.dtype == np.float32 and not tiff:
        raise InputError(
            f"{suffix} cannot hold float pixels; choose .tif, or convert them to uint16 for .png."
        )
    if channels in (2, 4) and suffix in (".jpg", ".jpeg", ".bmp", ".ppm", ".pgm"):
        raise InputError(f"{suffix} cannot hold transparency; choose .png or .tif.")
    labels = _fitting(labels, channels)
    if suffix == ".png":
        return encode_png(array, labels)
    if suffix in (".jpg", ".jpeg"):
        return encode_jpeg(array, quality, labels=labels)
    if tiff:
        return _encode_tiff(array, labels)
    if suffix == ".webp":
        return _save(array, "WEBP", quality=quality, method=4, **_webp_options(labels))
    if suffix == ".pgm" and channels != 1:
        raise InputError(".pgm holds gray pictures only; choose .ppm or .png.")
    if suffix == ".bmp":
        return _save(array, "BMP", **({"dpi": labels.dpi} if labels.dpi else {}))
    return _save(array, "PPM")


def left_out(labels: Labels, name: str) -> str | None:
    """What labels lose in a file, in a sentence; None where it holds them all.

    Args:
      labels: what was to be embedded.
      name: of the file; its suffix is its format.
    """
    suffix = Path(name).suffix.lower()
    if suffix in (".bmp", ".ppm", ".pgm", ".exr", ".hdr"):
        lost = {"colour profile": labels.profile, "EXIF": labels.exif}
        words = [word for word, value in lost.items() if value]
    elif suffix in (".jpg", ".jpeg") and len(labels.exif or b"") > _MOST_EXIF:
        words = ["EXIF"]
    else:
        return None
    if not words:
        return None
    return (
        f"{name} cannot hold the {' and '.join(words)} of the sources, which got lost; "
        "choose .png or .tif to keep them."
    )


def _fitting(labels: Labels | None, channels: int) -> Labels:
    """Labels without a profile for other pixels than these."""
    if labels is None:
        return Labels()
    wanted = "RGB" if channels > 2 else "GRAY"
    if labels.profile is None or profiles.space(labels.profile) == wanted:
        return labels
    return Labels(None, labels.exif, labels.dpi, labels.geometry)


def _options(labels: Labels) -> dict:
    """Profile and resolution in Pillow's words."""
    options: dict = {}
    if labels.profile is not None:
        options["icc_profile"] = labels.profile
    if labels.dpi is not None:
        options["dpi"] = labels.dpi
    return options


def _webp_options(labels: Labels) -> dict:
    options = _options(labels)
    options.pop("dpi", None)
    exif = metadata.with_resolution(labels)
    return options | ({"exif": exif} if exif else {})


def encode_png(array: np.ndarray, labels: Labels | None = None) -> bytes:
    """Encodes uint8 or uint16 (H, W) or (H, W, C), C in 1 to 4, as PNG without loss.

    Args:
      array: the picture.
      labels: profile, EXIF and resolution to embed.

    Raises:
      InputError: other dtypes or shapes.
    """
    array = _native(array)
    _check_pixels(array)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    channels = 1 if array.ndim == 2 else array.shape[2]
    labels = _fitting(labels, channels)
    if array.dtype == np.uint8:
        exif = {"exif": metadata.with_prefix(labels.exif)} if labels.exif else {}
        return _save(array, "PNG", compress_level=4, **_options(labels), **exif)
    if array.dtype != np.uint16:
        raise InputError("PNG holds 8-bit or 16-bit pixels; convert float pixels to uint16 first.")
    height, width = array.shape[:2]
    rows = array.astype(">u2").reshape(height, -1).view(np.uint8)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 2  # filter "up": the difference from the row above, zero above the first
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))]
    if labels.profile is not None:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(labels.profile)))
    if labels.dpi is not None:
        metre = [round(value / 0.0254) for value in labels.dpi]
        chunks.append((b"pHYs", struct.pack(">IIB", *metre, 1)))
    if labels.exif is not None:
        chunks.append((b"eXIf", labels.exif))
    chunks += [(b"IDAT", zlib.compress(filtered.data, 4)), (b"IEND", b"")]
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in chunks:
        crc = zlib.crc32(kind + body)
        parts += [struct.pack(">I", len(body)), kind, body, struct.pack(">I", crc)]
    return b"".join(parts)


def encode_jpeg(
    array: np.ndarray,
    quality: int = 95,
    *,
    subsampling: str = "4:4:4",
    labels: Labels | None = None,
) -> bytes:
    """Encodes uint8 (H, W) or (H, W, C), C in 1 or 3, as JPEG.

    Args:
      array: the picture.
      quality: 1 to 100.
      subsampling: of the chroma: "4:4:4" (none), "4:2:2" or "4:2:0" (what cameras write).
      labels: profile, EXIF and resolution to embed; an EXIF block above 64 KiB is left out.

    Raises:
      InputError: other dtypes or shapes.
    """
    array = _native(array)
    _check_pixels(array)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8 or (array.ndim == 3 and array.shape[-1] != 3):
        raise InputError("JPEG holds 8-bit gray or RGB pixels; choose .png or .tif.")
    labels = _fitting(labels, 1 if array.ndim == 2 else 3)
    options = _options(labels)
    if "dpi" in options:  # whole numbers only
        options["dpi"] = tuple(min(65535, max(1, round(value))) for value in options["dpi"])
    if labels.exif is not None and len(labels.exif) <= _MOST_EXIF:
        options["exif"] = metadata.with_prefix(labels.exif)
    return _save(array, "JPEG", quality=quality, subsampling=subsampling, optimize=True, **options)


def _native(array: np.ndarray) -> np.ndarray:
    """The array in the machine's order of bytes."""
    array = np.asarray(array)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _check_pixels(array: np.ndarray, further: tuple = ()) -> None:
    ranks = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 2, 3, 4))
    dtypes = (np.uint8, np.uint16, np.float32, *further)
    if not ranks or array.size == 0 or array.dtype not in dtypes:
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


def _encode_tiff(array: np.ndarray, labels: Labels) -> bytes:
    """Little-endian TIFF in deflated strips; Pillow writes its tags, but no 16-bit colour."""
    height, width = array.shape[:2]
    channels = 1 if array.ndim == 2 else array.shape[2]
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    rows = max(1, min(height, _STRIP // array[0].nbytes))
    strips = [zlib.compress(array[k : k + rows].data, 4) for k in range(0, height, rows)]
    tags = ImageFileDirectory_v2(b"II*\0\x08\0\0\0")
    for tag, value in metadata.tags_of(labels.exif).items():
        tags[tag] = value
    tags[256], tags[257], tags[259] = width, height, 8
    tags[258] = (8 * array.dtype.itemsize,) * channels
    tags[262], tags[277], tags[278], tags[284] = 2 if channels > 2 else 1, channels, rows, 1
    tags[339] = ({"u": 1, "i": 2, "f": 3}[array.dtype.kind],) * channels
    if channels in (2, 4):
        tags[338] = 2  # the last sample is alpha, not premultiplied
    if labels.dpi is not None:
        tags[282], tags[283], tags[296] = *labels.dpi, 2
    if labels.profile is not None:
        tags[34675] = labels.profile
    starts = np.cumsum([0, *(len(strip) + len(strip) % 2 for strip in strips)])
    if starts[-1] > 0xFFF00000:
        raise InputError(f"a picture of {width}x{height} is too large for TIFF; choose .png.")
    for tag, values in ((273, starts[:-1].tolist()), (279, [len(strip) for strip in strips])):
        tags.tagtype[tag] = 4
        tags[tag] = tuple(values)
    parts = [b"II*\0\x08\0\0\0", tags.tobytes(8)]
    for strip in strips:
        parts += [strip, b"\0" * (len(strip) % 2)]
    return b"".join(parts)
