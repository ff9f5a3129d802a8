"""A picture as its file has it: pixels, and what the file says about them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Labels:
    """What a file says beside its pixels, and a result may carry on.

    Attributes:
        profile: the ICC profile; None without one.
        exif: the EXIF block, as it is stored (its orientation was applied to the pixels already).
        dpi: pixels an inch, across and down.
        geometry: where the pixels lie in a patient or a volume; whatever the medical reader needs
            to write it again.
    """

    profile: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    geometry: Any = None


@dataclasses.dataclass(frozen=True)
class Picture:
    """Pixels with their name and meaning.

    Attributes:
        pixels: (H, W) or (H, W, C), C 1 to 4, 2 and 4 end in alpha; uint8, uint16, int16, int32,
            uint32 or float32; upright.
        name: what messages call it, normally its path.
        labels: what a result may carry on.
        span: values that stand for black and white where the file says so, ``(0, 4095)`` for 12
            bits in a file that declares them; None for the whole type (floats: 0 to 1).
        unit: ``"HU"``, ``"K"``, ``""`` where the file does not say.
        window: the display window that the file declares, as ``(level, width)``.
        remarks: sentences about what was not read (further pages, for instance).
    """

    pixels: np.ndarray
    name: str
    labels: Labels = Labels()
    span: tuple[float, float] | None = None
    unit: str = ""
    window: tuple[float, float] | None = None
    remarks: tuple[str, ...] = ()
