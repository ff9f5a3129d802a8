"""What a camera and a file do to synthetic sources: noise and JPEG, the same kind on all."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.io.codec import decode_image, encode_jpeg


@dataclasses.dataclass(frozen=True)
class Degradation:
    """Noise and JPEG of all sources; every `*_share` is a probability in [0, 1].

    Attributes:
      noise_share: white noise on all sources, standard deviation 0.3 to 3 of 255.
      jpeg_share: all sources pass through JPEG of the same quality.
      quality: lowest and highest JPEG quality.
    """

    noise_share: float = 0.5
    jpeg_share: float = 0.7
    quality: tuple[int, int] = (70, 98)

    def __post_init__(self) -> None:
        """Checks the ranges, those of a subclass's shares too."""
        for name, value in vars(self).items():
            if name.endswith("_share") and not 0 <= value <= 1:
                raise InputError(f"{name} is a probability; give a number from 0 to 1.")
        low, high = self.quality
        if not 1 <= low <= high <= 100:
            raise InputError(f"quality {(low, high)} must be two numbers 1 <= low <= high <= 100.")


def degrade(
    sources: Sequence[np.ndarray],
    inner: tuple[slice, slice],
    rng: np.random.Generator,
    spec: Degradation,
) -> list[np.ndarray]:
    """Noise and JPEG, each with its probability.

    Args:
      sources: (C, H, W) float32 in [0, 255] each.
      inner: rows and columns of the result; what lies above and left of it lets it begin anywhere
        in a block of JPEG.
      rng: source of every random choice.
      spec: how often, and how much.

    Returns:
      The inner parts, (h, w, C) uint8 each.
    """
    sigma = 0.0
    if rng.random() < spec.noise_share:
        sigma = math.exp(rng.uniform(math.log(0.3), math.log(3.0)))
    jpeg = rng.random() < spec.jpeg_share
    level = int(rng.integers(spec.quality[0], spec.quality[1] + 1))
    chroma = "4:2:0" if rng.random() < 0.7 else "4:4:4"
    # The inner part lies anywhere on the grid of JPEG blocks.
    up, left = (int(min(rng.integers(16), s.start)) for s in inner) if jpeg else (0, 0)
    rows = slice(inner[0].start - up, inner[0].stop)
    columns = slice(inner[1].start - left, inner[1].stop)
    results = []
    for source in sources:
        part = source[:, rows, columns]
        if sigma:
            part = part + np.float32(sigma) * rng.standard_normal(part.shape, dtype=np.float32)
        picture = to_uint8(part)
        if jpeg:
            data = encode_jpeg(picture, level, subsampling=chroma)
            picture = decode_image(data, "a synthesised picture")
            picture = picture if picture.ndim == 3 else picture[..., None]
        results.append(np.ascontiguousarray(picture[up:, left:]))
    return results


def to_uint8(planes: np.ndarray) -> np.ndarray:
    """(C, H, W) in [0, 255] to (H, W, C) uint8, rounded."""
    rounded = np.clip(np.rint(planes), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(rounded, 0, -1))
