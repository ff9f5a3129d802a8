"""Colour profiles: which are the same, and colours from one to another without losing bits.

ImageCms (LittleCMS) converts pictures of 8 bits. Deeper ones would lose their low byte there, so
profiles of the common kind (a matrix and a curve for each channel) are evaluated here in float64.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms

_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION


@functools.cache
def srgb() -> bytes:
    """The profile of sRGB, the same bytes every day."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    made[24:36] = struct.pack(">6H", 2024, 1, 1, 0, 0, 0)  # the date of making
    made[84:100] = bytes(16)  # a checksum over it
    return bytes(made)


def opened(profile: bytes) -> ImageCms.ImageCmsProfile:
    """A profile as ImageCms takes it.

    Raises:
        OSError, ImageCms.PyCMSError: the bytes are no profile.
    """
    return ImageCms.ImageCmsProfile(io.BytesIO(profile))


def space(profile: bytes) -> str:
    """The kind of pixels a profile is about: "RGB", "GRAY", "CMYK", "LAB"; "" if it is broken."""
    return profile[16:20].decode("latin-1").strip().upper() if len(profile) > 128 else ""


def label(profile: bytes | None) -> str:
    """What a profile calls itself, for messages."""
    if profile is None:
        return "none"
    try:
        return ImageCms.getProfileDescription(opened(profile)).strip() or "one without a name"
    except (OSError, ImageCms.PyCMSError):
        return "a damaged one"


def same(a: bytes, b: bytes) -> bool:
    """Whether two profiles mean the same colours.

    Args:
        a: a profile.
        b: another.

    Returns:
        True if they are equal but for the date they were made, or if both are about RGB and no
        colour of a coarse grid differs by more than one level of 8 bits.
    """
    if _undated(a) == _undated(b):
        return True
    if space(a) != "RGB" or space(b) != "RGB":
        return False
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(27, 27, 3)
    try:
        moved = convert8(grid, a, b)
    except (OSError, ImageCms.PyCMSError):
        return False
    return int(np.abs(moved.astype(int) - grid).max()) <= 1


def _undated(profile: bytes) -> bytes:
    return profile[:24] + profile[36:84] + profile[100:]


def convert8(colours: np.ndarray, source: bytes, target: bytes) -> np.ndarray:
    """Converts 8-bit colours through LittleCMS, relative colorimetric with black point.

    Args:
        colours: (H, W, 3) uint8 where the source is RGB, (H, W) where it is gray.
        source: the profile of `colours`.
        target: an RGB profile.

    Returns:
        (H, W, 3) uint8.

    Raises:
        OSError, ImageCms.PyCMSError: a profile is broken or does not fit.
    """
    image = ImageCms.profileToProfile(
        Image.fromarray(np.ascontiguousarray(colours)),
        opened(source),
        opened(target),
        _INTENT,
        "RGB",
        flags=_FLAGS,
    )
    return np.asarray(image)


def convert_float(colours: np.ndarray, source: bytes, target: bytes) -> np.ndarray | None:
    """Converts colours in full precision, where both profiles have a matrix and curves.

    Args:
        colours: (H, W, 3) or, where the source is gray, (H, W, 1); floats, 0 to 1.
        source: the profile of `colours`.
        target: an RGB profile.

    Returns:
        (H, W, 3) float64, 0 to 1; None if a profile is of another kind (tables, for instance).
    """
    here, there = _shaper(source), _shaper(target)
    if here is None or there is None or len(there[0]) != 3:
        return None
    curves, matrix = here
    light = np.stack([curve(colours[..., k]) for k, curve in enumerate(curves)], -1)
    if matrix.shape[1] == 1:  # gray is neutral: equal light in each channel
        linear = np.repeat(light, 3, -1)
    else:
        linear = light @ (np.linalg.inv(there[1]) @ matrix).T
    return np.stack([_inverse(curve, linear[..., k]) for k, curve in enumerate(there[0])], -1)


Curve = Callable[[np.ndarray], np.ndarray]


def _shaper(profile: bytes) -> tuple[list[Curve], np.ndarray] | None:
    """Curves and the matrix to XYZ of a profile; None where tables do that work."""
    try:
        tags = _tags(profile)
        if space(profile) == "GRAY" and "A2B0" not in tags:
            return [_curve(tags["kTRC"])], np.ones((3, 1))
        if space(profile) != "RGB" or "A2B0" in tags or profile[20:24] != b"XYZ ":
            return None
        columns = [
            np.frombuffer(tags[f"{c}XYZ"], ">i4", 3, 8).astype(np.float64) / 65536 for c in "rgb"
        ]
        return [_curve(tags[f"{c}TRC"]) for c in "rgb"], np.stack(columns, -1)
    except (KeyError, IndexError, ValueError, struct.error):
        return None


def _tags(profile: bytes) -> dict[str, bytes]:
    (count,) = struct.unpack_from(">I", profile, 128)
    entries = struct.iter_unpack(">4sII", profile[132 : 132 + 12 * min(count, 1000)])
    return {name.decode("latin-1"): profile[at : at + size] for name, at, size in entries}


def _curve(tag: bytes) -> Curve:
    """A tone curve (types "curv" and "para" of the ICC's specification), from code to light."""
    if tag[:4] == b"para":
        (kind,) = struct.unpack_from(">H", tag, 8)
        count = (1, 3, 4, 5, 7)[kind]
        numbers = np.frombuffer(tag, ">i4", count, 12) / 65536
        g, a, b, c, d, e, f = _seven(kind, *map(float, numbers))
        return lambda x: np.where(x >= d, np.clip(a * x + b, 0, None) ** g + e, c * x + f)
    if tag[:4] != b"curv":
        raise ValueError(tag[:4])
    (count,) = struct.unpack_from(">I", tag, 8)
    if count == 0:
        return lambda x: x
    table = np.frombuffer(tag, ">u2", count, 12).astype(np.float64)
    if count == 1:
        return lambda x: np.clip(x, 0, None) ** (table[0] / 256)
    nodes = np.linspace(0, 1, count)
    return lambda x: np.interp(x, nodes, table / 65535)


def _seven(kind: int, g: float, a=1.0, b=0.0, c=0.0, d=0.0, e=0.0, f=0.0):
    """The numbers of the longest kind of parametric curve, from those of a shorter one."""
    if kind == 0:
        return g, 1.0, 0.0, 0.0, -1.0, 0.0, 0.0
    if kind in (1, 2):  # a constant (c in kind 2, else 0) below the foot of the power
        return g, a, b, 0.0, -b / a, c, c
    return g, a, b, c, d, e, f


def _inverse(curve: Curve, light: np.ndarray) -> np.ndarray:
    """From light to code: the curve is sampled so finely that 16 bits come back as they were."""
    # Curves are steep near black, so the nodes lie closer there.
    nodes = np.linspace(0, 1, 1 << 15) ** 2
    values = np.maximum.accumulate(curve(nodes))
    return np.interp(np.clip(light, 0, 1), values, nodes)
