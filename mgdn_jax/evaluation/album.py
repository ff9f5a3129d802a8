"""Pictures for a page: encoded as they come, within a budget of bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.io import codec
from mgdn_jax.io.pictures import Labels
from mgdn_jax.io.pixels import from_float, to_float, without_alpha

SOURCES = ("a", "b")
"""Labels of the two sources in an `Album`; no method may carry one of them."""

_QUALITIES = (92, 85, 75)
_SMALLEST_BUDGET = 25_000  # bytes: less than this shows nothing of a picture worth comparing
_SMALLEST_SIDE = 16
_LARGE = 1_500_000  # pixels above which a picture is averaged in blocks first


@dataclass(frozen=True)
class Picture:
    """A picture as the page shows it.

    Attributes:
        jpeg: The file.
        quality: Its JPEG quality, 1 to 100.
        scale: Its sides relative to the original's, up to 1.
        size: Width and height of the original.
    """

    jpeg: bytes
    quality: int
    scale: float
    size: tuple[int, int]


class Album:
    """Pictures of a report, encoded as they come, within a budget of bytes.

    Every picture gets an equal share. It is kept at full size in the best of three JPEG
    qualities that fits, else made smaller by averaging areas. Where the shares would be too
    small to see anything in, the pictures of the first images are kept and those of the later
    ones left out.

    Attributes:
        pictures: Image to label to picture.
    """

    def __init__(self, expected: int, *, limit_bytes: int = 14_000_000):
        """An empty album.

        Args:
            expected: Number of pictures to come, sources and fused ones of all images together.
            limit_bytes: What all pictures may weigh inside the page, that is in base 64.
        """
        self._left = limit_bytes * 3 // 4
        self._share = max(self._left // max(expected, 1), min(_SMALLEST_BUDGET, self._left))
        self.pictures: dict[str, dict[str, Picture]] = {}
        self._left_out: set[str] = set()

    def add(self, image: str, label: str, pixels: np.ndarray, profile: bytes | None = None) -> None:
        """Encodes one picture; a second one of the same image and label replaces the first.

        Args:
            image: Name of the pair, as in the tables' rows. Pictures of one image come one
                after the other.
            label: `a` or `b` for the sources, else the name of the method.
            pixels: `(H, W)` or `(H, W, C)`, C in 1 to 4 (2 and 4 end in alpha, which is
                dropped); uint8, uint16 or floating point in 0..1.
            profile: ICC profile of the pixels, which the picture then carries on.

        Raises:
            InputError: if the pixels are of another shape, dtype or range.
        """
        gray_or_rgb = _eight_bits(pixels, f"{label} of {image}")
        if image not in self.pictures and not self._has_room():
            self._left_out.add(image)
            return
        shelf = self.pictures.setdefault(image, {})
        replaced = shelf.pop(label, None)
        self._left += len(replaced.jpeg) if replaced else 0
        labels = None if profile is None else Labels(profile=profile)
        picture = _compress(gray_or_rgb, min(self._share, self._left), labels)
        if picture is None:
            return
        self._left -= len(picture.jpeg)
        shelf[label] = picture

    def shows(self, image: str) -> bool:
        """Whether more pictures of an image are wanted: it is not one of those left out."""
        return image in self.pictures or (image not in self._left_out and self._has_room())

    def _has_room(self) -> bool:
        """Whether one more image fits, if it has as many pictures as the fullest so far."""
        if self._left_out:
            return False  # the first images are complete, not some of the later ones
        most = max((len(shelf) for shelf in self.pictures.values()), default=0)
        return most * self._share <= self._left

    def note(self, images: int) -> str:
        """What a page says about its pictures.

        Args:
            images: Number of images that have scores.

        Returns:
            One or two sentences.
        """
        pictures = [p for shelf in self.pictures.values() for p in shelf.values()]
        if not pictures:
            return "This report was made without pictures."
        low, high = (pick(p.quality for p in pictures) for pick in (min, max))
        text = f"The {len(pictures)} pictures are shown as JPEG of quality {low}"
        text += f" to {high}" if high > low else ""
        smaller = sum(p.scale < 1 for p in pictures)
        text += f", {smaller} of them reduced in size" if smaller else ""
        text += "; the scores are of the originals."
        kept = sum(bool(shelf) for shelf in self.pictures.values())
        if kept < images:
            text += f" {kept} of {images} images have pictures here; all have scores."
        return text


def _eight_bits(pixels: np.ndarray, name: str) -> np.ndarray:
    """`(H, W)` or `(H, W, 3)` uint8 of any picture the package handles."""
    pixels = np.asarray(pixels)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] in (1, 2, 3, 4))
    floating = np.issubdtype(pixels.dtype, np.floating)
    if not shaped or pixels.size == 0 or not (floating or pixels.dtype in (np.uint8, np.uint16)):
        raise InputError(
            f"the picture {name} is {pixels.dtype} of shape {pixels.shape}: give (H, W) or "
            "(H, W, C) with 1 to 4 channels of uint8, uint16 or floats in 0..1."
        )
    pixels = without_alpha(pixels)
    if floating:
        pixels = np.nan_to_num(pixels, posinf=1.0, neginf=0.0)
        if pixels.max() > 2:  # a small overshoot is a network's; this is 0..255
            raise InputError(
                f"the picture {name} has float pixels up to {pixels.max():.4g}: "
                "scale them to 0..1 first."
            )
    if pixels.dtype != np.uint8:
        pixels = from_float(to_float(pixels), np.dtype(np.uint8))
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def _compress(pixels: np.ndarray, budget: int, labels: Labels | None = None) -> Picture | None:
    """The best JPEG of at most `budget` bytes; None if there is none."""
    size = (pixels.shape[1], pixels.shape[0])
    # A page holds a few hundred kilobytes a picture; twelve megapixels are never among them, and
    # whole-number averages bring such a picture near its size at little cost.
    factor = max(1, math.isqrt(size[0] * size[1] // _LARGE))
    if factor > 1:
        pixels = _averaged(pixels, factor)
    height, width = pixels.shape[:2]

    def tried(quality: int, scale: float = 1.0) -> Picture:
        sides = (max(1, round(height * scale)), max(1, round(width * scale)))
        chroma = "4:4:4" if quality > 90 else "4:2:0"
        small = pixels if scale == 1 else _shrink(pixels, *sides)
        jpeg = codec.encode_jpeg(small, quality, subsampling=chroma, labels=labels)
        return Picture(jpeg, quality, scale / factor, size)

    # JPEG stops at 65535 pixels a side. The coarsest first: most pictures that are too large for
    # it need no other attempt at this size.
    scale = min(1.0, 65_000 / max(height, width))
    coarsest = tried(_QUALITIES[-1], scale)
    if scale == 1 and len(coarsest.jpeg) <= budget:
        for quality in _QUALITIES[:-1]:
            finer = tried(quality)
            if len(finer.jpeg) <= budget:
                return finer
    kept, too_large = coarsest, 1.0
    while len(kept.jpeg) > budget:
        # As if bytes went with the area; the 0.97 lets it end where they fall more slowly.
        too_large = scale
        scale *= max(0.25, min(0.97, 0.97 * math.sqrt(budget / len(kept.jpeg))))
        if scale * max(height, width) < _SMALLEST_SIDE:
            return None
        kept = tried(_QUALITIES[-1], scale)
    if kept is not coarsest:
        # Where they fall faster, as in noise, two halvings win back most of the size.
        for _ in range(2):
            middle = (scale + too_large) / 2
            larger = tried(_QUALITIES[-1], middle)
            if len(larger.jpeg) <= budget:
                kept, scale = larger, middle
            else:
                too_large = middle
    return kept


def _averaged(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Means of whole blocks of `factor` x `factor` pixels, uint8; an incomplete rest is cut off."""
    height, width = (side // factor for side in pixels.shape[:2])
    cut = pixels[: height * factor, : width * factor]
    blocks = cut.reshape(height, factor, width, factor, *pixels.shape[2:])
    total = blocks.sum(axis=(1, 3), dtype=np.uint32)
    return ((total + factor * factor // 2) // (factor * factor)).astype(np.uint8)


def _shrink(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Averages areas: each new pixel is the mean of the rectangle it covers, uint8."""
    channels = pixels[..., None] if pixels.ndim == 2 else pixels
    small = np.stack(
        [
            _shrink_rows(_shrink_rows(channels[..., c], height).T, width).T
            for c in range(channels.shape[-1])
        ],
        axis=-1,
    )
    small = np.rint(small).astype(np.uint8)
    return small[..., 0] if pixels.ndim == 2 else small


def _shrink_rows(plane: np.ndarray, rows: int) -> np.ndarray:
    """`(H, W)` to `(rows, W)` float64, by differences of the running integral at the new edges."""
    integral = np.zeros((plane.shape[0] + 1, plane.shape[1]))
    np.cumsum(plane, axis=0, dtype=np.float64, out=integral[1:])
    edges = np.linspace(0, plane.shape[0], rows + 1)
    whole = np.minimum(edges.astype(int), plane.shape[0] - 1)
    part = (edges - whole)[:, None]
    at_edges = integral[whole] + part * plane[whole]
    return np.diff(at_edges, axis=0) * (rows / plane.shape[0])
