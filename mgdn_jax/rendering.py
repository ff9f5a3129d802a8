"""What a call of a `Fuser` does around the network: mirrored views, range and colour."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from mgdn_jax import files, image
from mgdn_jax.errors import InputError

CHROMAS = ("centred", "parity")
STRETCHES = ("none", "minmax", "fill")
ENSEMBLES = ("none", "flips")
_BAND_ROWS = 512

View = tuple[slice, slice]
_AS_IT_IS, _BACKWARDS = slice(None), slice(None, None, -1)


@dataclasses.dataclass(frozen=True)
class Rendering:
    """The rules of one call; a `Fuser` call says what they mean.

    Attributes:
      chroma: one of `CHROMAS`.
      stretch: one of `STRETCHES`.
      ensemble: one of `ENSEMBLES`.

    Raises:
      InputError: a rule that does not exist.
    """

    chroma: str = "centred"
    stretch: str = "none"
    ensemble: str = "none"

    def __post_init__(self) -> None:
        choose("chroma", self.chroma, CHROMAS)
        choose("stretch", self.stretch, STRETCHES)
        choose("ensemble", self.ensemble, ENSEMBLES)

    @property
    def views(self) -> tuple[View, ...]:
        """Index of rows and columns for every view that goes through the network.

        Each is its own inverse, so the same index turns the result back.
        """
        if self.ensemble == "none":
            return ((_AS_IT_IS, _AS_IT_IS),)
        both = (_AS_IT_IS, _BACKWARDS)
        return tuple((rows, columns) for rows in both for columns in both)

    def picture(
        self,
        fused: np.ndarray,
        sources: Sequence[np.ndarray] | None,
        dtype: np.dtype | None,
        channels: int,
    ) -> np.ndarray:
        """A picture from the network's values: range, then colour, then the type.

        Args:
          fused: (H, W, C) float32; changed in place where values are cut off.
          sources: the pictures whose chroma joins a fused luminance; None joins nothing.
          dtype: of the result; None is float32 as computed, neither stretched, clipped nor rounded.
          channels: of the result.

        Returns:
          (H, W, channels).
        """
        stretched = self.stretch != "none" and dtype is not None
        if stretched and self.stretch == "fill":
            np.clip(fused, 0.0, 1.0, out=fused)
        low, high = (float(fused.min()), float(fused.max())) if stretched else (0.0, 1.0)
        if high == low:
            low, high = 0.0, 1.0
        out = np.empty((*fused.shape[:2], channels), dtype or np.float32)
        for top in range(0, len(out), _BAND_ROWS):
            rows = slice(top, top + _BAND_ROWS)
            band = (fused[rows] - np.float32(low)) / np.float32(high - low)
            if sources is not None:
                band = self._colour(band, [files.to_float(x[rows]) for x in sources])
            out[rows] = files.from_float(band, dtype)
        return out

    def _colour(self, fused: np.ndarray, sources: Sequence[np.ndarray]) -> np.ndarray:
        """Fused luminance (H, W, 1) with the chroma of those sources that have any; floats."""
        coloured = [x for x in sources if x.shape[-1] == 3]
        if not coloured:
            return fused
        if self.chroma == "parity":
            planes = [image.rgb_to_ycrcb_published(255.0 * x)[..., 1:] for x in coloured]
            mixed = functools.reduce(image.fuse_chroma_published, planes)
            full = np.concatenate([255.0 * fused, mixed], -1)
            return np.asarray(image.ycrcb_published_to_rgb(full) / 255.0, np.float32)
        planes = [image.rgb_to_ycbcr(x)[..., 1:] for x in coloured]
        mixed = functools.reduce(image.fuse_chroma, planes)
        return np.asarray(image.ycbcr_to_rgb(np.concatenate([fused, mixed], -1)))


def choose(what: str, given: Any, known: Sequence[str]) -> None:
    """Raises InputError unless `given` is among `known`."""
    if given not in known:
        raise InputError(f"{what} is {given!r}; choose one of {', '.join(known)}.")
