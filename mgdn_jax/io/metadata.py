"""EXIF blocks, resolution and profile of a file: read, cleaned, and made ready to be written."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import Any, BinaryIO

from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from mgdn_jax.io.pictures import Labels

ORIENTATION = 0x0112
_X, _Y, _UNIT = 0x011A, 0x011B, 0x0128
_CAMERA, _PLACE = 0x8769, 0x8825
_PREFIX = b"Exif\0\0"
# Tags of a picture's first part that describe it; the others say how its pixels are stored.
_DESCRIPTIVE = {
    0x010D, 0x010E, 0x010F, 0x0110, 0x011D, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749, 0x8298,
    0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F,
}  # fmt: skip
_NOTE, _WIDTH, _HEIGHT, _RELATED = 0x927C, 0xA002, 0xA003, 0xA004
# Names and numbers of a person, or of a camera that has an owner.
_PERSONAL = {0x013C, 0x9C9C, 0x9286, 0xA420, 0xA430, 0xA431, 0xA435}
_WRITERS = ("ImageJ=", "<?xml", "<OME", "{")


def labels_of(image: Any) -> Labels:
    """What a file says beside its pixels.

    Args:
        image: an image of Pillow, not loaded yet.

    Returns:
        Profile, EXIF block and resolution, as they are stored.
    """
    profile = image.info.get("icc_profile") or None
    block = image.info.get("exif")
    if image.format == "TIFF":
        exif = described(image.getexif())
    elif isinstance(block, bytes) and block:
        exif = block.removeprefix(_PREFIX)
    else:
        exif = tobytes(image.getexif()) if len(image.getexif()) else None
    return Labels(profile, exif, _resolution(image, exif))


def _resolution(image: Any, exif: bytes | None) -> tuple[float, float] | None:
    if image.format in ("JPEG", "MPO"):
        unit, density = image.info.get("jfif_unit"), image.info.get("jfif_density")
        if unit in (1, 2) and density:
            return dpi_of(density[0], density[1], {1: 2, 2: 3}[unit])
    elif image.format == "TIFF":
        tags = image.tag_v2
        return dpi_of(tags.get(_X), tags.get(_Y), tags.get(_UNIT, 2))
    elif "dpi" in image.info:
        across, down = image.info["dpi"]
        return dpi_of(across, down, 2)
    tags = loaded(exif)
    return dpi_of(tags.get(_X), tags.get(_Y), tags.get(_UNIT, 2))


def dpi_of(x: Any, y: Any, unit: Any) -> tuple[float, float] | None:
    """Pixels an inch.

    Args:
        x: pixels across a unit; None if the file does not say.
        y: pixels down a unit.
        unit: 2 for inches, 3 for centimetres; others have no length.

    Returns:
        Both, as whole numbers where they are that but for the rounding of a format; or None.
    """
    try:
        pair = [float(value) * {2: 1.0, 3: 2.54}[unit] for value in (x, y)]
    except (TypeError, ValueError, KeyError, ZeroDivisionError):
        return None
    if not all(0 < value < 1e6 for value in pair):
        return None
    # PNG counts pixels a metre in whole numbers: half of one is 0.0127 an inch.
    near = [round(value) if abs(value - round(value)) < 0.013 else value for value in pair]
    return float(near[0]), float(near[1])


def loaded(block: bytes | None) -> Image.Exif:
    """An EXIF block as a mapping of tags; empty where it cannot be understood."""
    exif = Image.Exif()
    if block:
        with contextlib.suppress(Exception):  # a broken block is no reason to lose the picture
            exif.load(_PREFIX + block)
            return exif
    return Image.Exif()


def tobytes(exif: Image.Exif) -> bytes:
    """The block of a mapping of tags, without the prefix that JPEG has."""
    return exif.tobytes().removeprefix(_PREFIX)


def described(exif: Image.Exif) -> bytes | None:
    """The tags of a TIFF that describe the picture, as an EXIF block.

    Args:
        exif: all tags of its first page.

    Returns:
        The block without how the pixels are stored; None if nothing is left.
    """
    with contextlib.suppress(Exception):  # broken tags are no reason to lose the picture
        block = Image.Exif()
        for tag, value in exif.items():
            if tag in _DESCRIPTIVE or tag in (ORIENTATION, _X, _Y, _UNIT):
                block[tag] = value
        for tag in (_CAMERA, _PLACE):
            if tag in exif and (values := exif.get_ifd(tag)):
                block.get_ifd(tag).update(values)
                block[tag] = values
        descriptive = set(block) - {ORIENTATION, _X, _Y, _UNIT}
        return tobytes(block) if descriptive else None
    return None


def of_tiff(file: BinaryIO) -> bytes | None:
    """The EXIF block of a TIFF, or of a camera's raw file that is one.

    Args:
        file: the file.

    Returns:
        As `described`; None too where the tags cannot be read, and for BigTIFF.
    """
    file.seek(0)
    if file.read(4) in (b"II+\0", b"MM\0+"):
        return None
    with contextlib.suppress(Exception):
        file.seek(0)
        exif = Image.Exif()
        exif.load_from_fp(file)
        return described(exif)
    return None


@dataclasses.dataclass(frozen=True)
class Shot:
    """How a camera took a picture; None for what its EXIF does not say.

    Attributes:
        seconds: how long it was open.
        sensitivity: by ISO.
        aperture: the f-number.
    """

    seconds: float | None = None
    sensitivity: float | None = None
    aperture: float | None = None


def shot(block: bytes | None) -> Shot:
    """How a camera took a picture.

    Args:
        block: the EXIF block of its file.
    """
    with contextlib.suppress(Exception):  # broken tags say nothing
        tags = loaded(block).get_ifd(_CAMERA)
        seconds, sensitivity = _positive(tags.get(0x829A)), _positive(tags.get(0x8827))
        aperture = _positive(tags.get(0x829D))
        # Some cameras write logarithms of base 2 alone: of the speed, and of the squared f-number.
        if seconds is None and (speed := _number(tags.get(0x9201))) is not None:
            seconds = _positive(2.0**-speed)
        if aperture is None and (value := _number(tags.get(0x9202))) is not None:
            aperture = _positive(2.0 ** (value / 2))
        return Shot(seconds, sensitivity, aperture)
    return Shot()


def _number(value: Any) -> float | None:
    """A finite number of a tag, the first of several."""
    if isinstance(value, tuple):
        value = value[0] if value else None
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def _positive(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and number > 0 else None


def cleaned(
    block: bytes | None, dpi: tuple[float, float] | None, *, everything: bool
) -> bytes | None:
    """The EXIF block of a result.

    The picture is upright, has no thumbnail and no maker's note, and its size may be another.

    Args:
        block: the block of a source.
        dpi: the resolution of the result.
        everything: keep place and person too.

    Returns:
        The block, or None if nothing is left.
    """
    source = loaded(block)
    exif = Image.Exif()
    for tag, value in source.items():
        if tag not in _DESCRIPTIVE or (tag in _PERSONAL and not everything):
            continue
        if tag == 0x010E and str(value).startswith(_WRITERS):
            continue  # how another program lays out its pages
        exif[tag] = value
    for part in (_CAMERA, _PLACE) if everything else (_CAMERA,):
        values = {
            tag: value
            for tag, value in source.get_ifd(part).items()
            if tag not in (_NOTE, _WIDTH, _HEIGHT, _RELATED, 0xA005)
            and (everything or tag not in _PERSONAL)
        }
        if values:
            exif[part] = values
    if not len(exif):
        return None
    exif[ORIENTATION] = 1
    if dpi is not None:
        exif[_X], exif[_Y], exif[_UNIT] = IFDRational(dpi[0]), IFDRational(dpi[1]), 2
    with contextlib.suppress(Exception):  # values that no longer fit their tags
        return tobytes(exif)
    return None


def with_resolution(labels: Labels) -> bytes | None:
    """The EXIF block for a format that has no other place for the resolution."""
    if labels.dpi is None:
        return labels.exif
    exif = loaded(labels.exif)
    exif[_X], exif[_Y], exif[_UNIT] = (*map(IFDRational, labels.dpi), 2)
    return tobytes(exif)


def with_prefix(block: bytes) -> bytes:
    """The block as Pillow takes it."""
    return _PREFIX + block


def tags_of(block: bytes | None) -> dict[int, Any]:
    """The tags of an EXIF block for the first page of a TIFF, parts of it as mappings."""
    exif = loaded(block)
    kept = _DESCRIPTIVE | {ORIENTATION}
    tags: dict[int, Any] = {tag: value for tag, value in exif.items() if tag in kept}
    for part in (_CAMERA, _PLACE):
        if values := dict(exif.get_ifd(part)):
            tags[part] = values
    return tags
