"""What a call of a `Fuser` does around the network: mirrored views, range and colour."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from mgdn_jax import image
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.fusing.options import limits as tone_limits
from mgdn_jax.io.pixels import from_float, to_float
from mgdn_jax.systems.contract import Config

_BAND_ROWS = 512
MOST_GAIN = 16.0
"""Contrast that a stretch adds at most: sources of 16 levels of 256 and more are spread in full."""
TAIL = 0.1
"""Percent of the values that robust limits leave out at either end."""

View = tuple[slice, slice]
_AS_IT_IS, _BACKWARDS = slice(None), slice(None, None, -1)


@dataclasses.dataclass(frozen=True)
class Contrast:
    """What there is to spread in the sources of a scene.

    Attributes:
        span: what the values of one channel of a source span in [0, 1]; 0 where all are flat.
        colour: (C,) floats in [0, 1], where all sources are flat and of this colour; else None.
    """

    span: float = 1.0
    colour: np.ndarray | None = None

    def flattened(
        self, fused: np.ndarray, sources: Sequence[np.ndarray] | None, channels: int
    ) -> tuple[np.ndarray, Sequence[np.ndarray] | None]:
        """What flat sources become: their one colour, or the middle of the network's values.

        Networks answer to the border of a picture, and to black, where there is nothing to see.

        Args:
            fused: (H, W, C) float32.
            sources: the pictures whose chroma joins a fused luminance.
            channels: of the result.

        Returns:
            Both, flat; no sources where the colour is known.
        """
        if self.colour is None:
            flat = np.broadcast_to(np.median(fused, (0, 1)), fused.shape)
            return flat.astype(np.float32), sources
        colour = self.colour if channels > 1 else image.luminance(self.colour)
        return np.broadcast_to(colour, (*fused.shape[:2], channels)).astype(np.float32), None


FULL = Contrast()


def views(ensemble: str | None) -> tuple[View, ...]:
    """Index of rows and columns for every view that goes through the network.

    Each is its own inverse, so the same index turns the result back.

    Args:
        ensemble: of `options.ENSEMBLES`.
    """
    if ensemble != "flips":
        return ((_AS_IT_IS, _AS_IT_IS),)
    both = (_AS_IT_IS, _BACKWARDS)
    return tuple((rows, columns) for rows in both for columns in both)


def mean(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Mean of float maps of one shape; the first one is changed, one more is held at a time."""
    parts = iter(parts)
    total, count = next(parts), 1
    for part in parts:
        total += part
        count += 1
    if count > 1:
        total /= np.float32(count)
    return total


def averaged(
    run: Callable[[Sequence[np.ndarray]], np.ndarray],
    pictures: Sequence[np.ndarray],
    ensemble: str | None,
) -> np.ndarray:
    """Mean of what comes of all views, each turned back.

    Args:
        run: pictures -> a float map of their size that may be changed.
        pictures: (H, W, C) each.
        ensemble: of `options.ENSEMBLES`.
    """
    return mean(run([x[view] for x in pictures])[view] for view in views(ensemble))


def gray_if_equal(picture: np.ndarray) -> np.ndarray:
    """One channel of a colour picture whose channels are equal everywhere; else the picture."""
    return picture[..., :1] if (picture == picture[..., :1]).all() else picture


def fuses_luminance(config: Config) -> bool:
    """Whether a network has one channel throughout: chroma passes beside it."""
    return set(config.in_channels) == {1} and config.out_channels == 1


def reduced(config: Config, pictures: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """Pictures as a network sees them, before colour is reduced or gray repeated."""
    if not (fuses_luminance(config) or config.splits_chroma):
        return pictures
    return [gray_if_equal(x) for x in pictures]


def splits_chroma(config: Config, pictures: Sequence[np.ndarray]) -> bool:
    """Whether a network fuses the luminance of these, and chroma passes beside it."""
    if fuses_luminance(config) or not config.splits_chroma:
        return fuses_luminance(config)
    return len({x.shape[-1] == 1 for x in reduced(config, pictures)}) == 2


def inputs(
    pictures: Sequence[np.ndarray], channels: Sequence[int], splits: bool
) -> Iterable[np.ndarray]:
    """Float pictures as a network takes them, (1, H, W, C): gray repeated, or colour reduced.

    Args:
        pictures: (H, W, 1 or 3) each.
        channels: of each, as the network wants them.
        splits: as `splits_chroma` says of the whole scene.
    """
    for shown, wanted in zip(pictures, channels, strict=True):
        values = np.asarray(image.luminance(shown)) if splits or wanted == 1 else shown
        yield (np.repeat(values, 3, -1) if wanted == 3 and values.shape[-1] == 1 else values)[None]


def picture(
    fused: np.ndarray,
    sources: Sequence[np.ndarray] | None,
    options: FuseOptions,
    dtype: np.dtype | None,
    channels: int,
    contrast: Contrast = FULL,
) -> np.ndarray:
    """A picture from the network's values: range, then colour, then the type.

    Args:
        fused: (H, W, C) float32; changed in place where values are cut off.
        sources: the pictures whose chroma joins a fused luminance; None joins nothing.
        options: `chroma` and `stretch` of the call.
        dtype: of the result; None is float32 as computed, neither stretched, clipped nor rounded.
        channels: of the result.
        contrast: of the sources, which bounds a stretch.

    Returns:
        (H, W, channels).
    """
    is_stretched = options.stretch != "none" and dtype is not None
    if is_stretched and options.stretch == "fill":
        np.clip(fused, 0.0, 1.0, out=fused)
    if is_stretched and contrast.span == 0:
        fused, sources = contrast.flattened(fused, sources, channels)
    low, high = limits(fused, options) if is_stretched else (0.0, 1.0)
    if tone_limits(options.tone) is None:
        low, high = tempered(low, high, contrast.span)
    if high == low:
        low, high = 0.0, 1.0
    out = np.empty((*fused.shape[:2], channels), dtype or np.float32)
    for top in range(0, len(out), _BAND_ROWS):
        rows = slice(top, top + _BAND_ROWS)
        band = (fused[rows] - np.float32(low)) / np.float32(high - low)
        if sources is not None:
            band = _coloured(band, [to_float(x[rows]) for x in sources], options.chroma)
        out[rows] = from_float(band, dtype)
    return out


def limits(fused: np.ndarray, options: FuseOptions) -> tuple[float, float]:
    """The values of a network's result that become black and white.

    Args:
        fused: (H, W, C) float32.
        options: `tone` and `stretch` of the call.
    """
    common = tone_limits(options.tone)
    if common is not None:
        return common
    if options.stretch == "robust":
        low, high = np.percentile(fused, (TAIL, 100 - TAIL))
        return float(low), float(high)
    return float(fused.min()), float(fused.max())


def tempered(low: float, high: float, contrast: float) -> tuple[float, float]:
    """Limits of a stretch that makes no contrast of none.

    Where no source spans more than 1 / `MOST_GAIN` of the range, the stretch is mixed with the
    values as they are, the more the less the sources span: what is flat stays as it is.

    Args:
        low: what would become black.
        high: what would become white.
        contrast: what the values of the sources span in [0, 1].

    Returns:
        Both as they came, or further apart.
    """
    share = min(contrast * MOST_GAIN, 1.0) ** 2
    if share == 1.0 or high <= low:
        return low, high
    slope = 1.0 - share + share / (high - low)
    start = share * low / (high - low) / slope
    return start, start + 1.0 / slope


def _coloured(fused: np.ndarray, sources: Sequence[np.ndarray], chroma: str | None) -> np.ndarray:
    """Fused luminance (H, W, 1) with the chroma of those sources that have any; floats."""
    coloured = [x for x in sources if x.shape[-1] == 3]
    if not coloured:
        return fused
    if chroma == "parity":
        planes = [image.rgb_to_ycrcb_published(255.0 * x)[..., 1:] for x in coloured]
        mixed = functools.reduce(image.fuse_chroma_published, planes)
        full = np.concatenate([255.0 * fused, mixed], -1)
        return np.asarray(image.ycrcb_published_to_rgb(full) / 255.0, np.float32)
    planes = [image.rgb_to_ycbcr(x)[..., 1:] for x in coloured]
    mixed = functools.reduce(image.fuse_chroma, planes)
    return np.asarray(image.ycbcr_to_rgb(np.concatenate([fused, mixed], -1)))
