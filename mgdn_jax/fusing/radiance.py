"""The radiance that exposures were merged into, with all that is known about it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.fusing.report import Report
from mgdn_jax.io import files
from mgdn_jax.io.pixels import from_float
from mgdn_jax.quantities.radiance import MU, mu_law

_WHITE = 0.999  # quantile of the radiance that a preview shows as white
_MOST_VALUES = 4_000_000  # that the quantile is measured on


@dataclasses.dataclass(frozen=True)
class MergedExposures:
    """What came of the exposures of one scene.

    Attributes:
        radiance: (H, W, 3) float32, 0 or more, proportional to light: `scale` is what just
            saturates the shortest exposure that was used.
        reference: index of the source whose moment it shows.
        inputs: indices of the sources that the network got, from the shortest to the longest; the
            reference comes twice where there were two.
        times: of every source, relative to the shortest one that was used.
        scale: what the radiance was multiplied by.
        report: what was done and noticed.
    """

    radiance: np.ndarray
    reference: int
    inputs: tuple[int, ...]
    times: tuple[float, ...]
    scale: float
    report: Report

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about what is probably not meant."""
        return tuple(self.report.warnings)

    def save(self, path: str | os.PathLike[str], *, half: bool = False) -> Path:
        """Writes the radiance, whole or not at all.

        Args:
            path: ends in ".exr" (extra `hdr`), ".hdr" or ".tif".
            half: whether ".exr" holds 16 bits a value in place of 32.

        Raises:
            InputError: as `io.files.write_image`.
        """
        check_place(path, half=half)
        return files.write_image(path, self.radiance, half=half)

    def preview(self, mu: float = MU) -> np.ndarray:
        """A picture of the radiance for a screen.

        Args:
            mu: the strength of the curve, `quantities.radiance.mu_law`.

        Returns:
            (H, W, 3) uint8. White is the radiance that a thousandth of the values exceeds.
        """
        step = max(1, self.radiance.size // _MOST_VALUES)
        white = float(np.quantile(self.radiance.reshape(-1)[::step], _WHITE))
        shown = np.clip(self.radiance / np.float32(max(white, 1e-12)), 0, 1)
        return from_float(mu_law(shown, mu), np.dtype(np.uint8))


def check_place(path: str | os.PathLike[str], *, half: bool = False) -> None:
    """Finds out before the work whether radiance can be written to a place.

    Args:
        path: of the file to be.
        half: whether it shall hold 16 bits a value.

    Raises:
        InputError: it cannot.
    """
    name = os.fspath(path)
    if half and not name.lower().endswith(".exr"):
        raise InputError(f"--half is for .exr, but the output is {name}; leave it out.")
    files.check_output(path)
    if not name.lower().endswith((*files.LIGHT, ".tif", ".tiff")):
        raise InputError(
            f"{name} cannot hold radiance; choose .exr or .hdr (--preview writes a picture for "
            "the screen)."
        )
