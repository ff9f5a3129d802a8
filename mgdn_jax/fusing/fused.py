"""A fused picture with all that is known about it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np

from mgdn_jax.fusing.report import Report
from mgdn_jax.io import codec, files
from mgdn_jax.io.pictures import Labels


@dataclasses.dataclass(frozen=True)
class Fused:
    """What came of the pictures of one scene.

    Attributes:
        pixels: (H, W) or (H, W, C), in the type and scale that the report says.
        report: what preparation did and noticed.
        labels: profile, EXIF and resolution that the sources share.
        depth: (H, W) number of the sharpest source, from 0, where that was asked for.
        stretch: how the result was spread over the range, of `fusing.options.STRETCHES`.
    """

    pixels: np.ndarray
    report: Report
    labels: Labels = dataclasses.field(default_factory=Labels)
    depth: np.ndarray | None = None
    stretch: str = "none"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about what is probably not meant."""
        return tuple(self.report.warnings)

    def save(self, path: str | os.PathLike[str], *, quality: int = 95) -> Path:
        """Writes the picture with its labels, whole or not at all.

        Labels that the format has no place for are a warning of the report.

        Args:
            path: its suffix is its format.
            quality: 1 to 100, for JPEG and WebP.

        Raises:
            InputError: as `io.files.write_image`.
        """
        target = files.write_image(path, self.pixels, quality=quality, labels=self.labels)
        lost = codec.left_out(self.labels, os.fspath(path))
        self.report.warn(*([lost] if lost else []))
        return target
