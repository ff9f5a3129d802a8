"""Synthesis of brackets: one picture as what a fusion should give, two or three exposures of it.

A picture T that shows everything stands for a scene after its range was compressed. The range is
put back region by region, and the scene is then exposed twice by a camera that clips:

    R     = T^g exp(k (M - mean M))              M: log brightness of a pixel's region, blurred
    under = min(1, R u / R_high)^(1/g)           R_high, R_low: a high and a low quantile of R
    over  = min(1, R o / R_low)^(1/g)            u near 1 spares the lights; o lifts the shadows

Regions are those of a segmentation, so the light changes where things change, as between a window
and its room. Where u / R_high is above o / R_low, as in flat pictures, the two change places. The
target is T. It may show what neither source does: lights above the high quantile where u is near
1, and the middle where k is large. A third exposure has a gain between those of the two, or
somewhat beyond. This is the project's own formulation; the published systems were trained on
comparable but unreleased pairs.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from mgdn_jax.data.degradation import Degradation, degrade, to_uint8
from mgdn_jax.errors import InputError

_BEYOND = 0.25  # by how much of the stops between two exposures a third may lie outside of them


@dataclasses.dataclass(frozen=True)
class Exposures(Degradation):
    """How brackets are drawn; every `*_share` is a probability in [0, 1].

    Attributes:
      expansion: largest k, at most 2; uniform in 0 .. expansion. At 1 the regions' contrast, as
        light, is squared.
      lights: range of u, the light that the 98 % quantile of the scene has in `under`.
      shadows: range of o, the light that the 15 % quantile of the scene has in `over`.
      gamma: range of g, the camera's curve.
      count: of exposures, 2 (under, over) or 3 (in any order).
      twins_share: of brackets of three in which two are one and the same picture.
      noise_share, jpeg_share, quality: see `Degradation`.
    """

    expansion: float = 1.0
    lights: tuple[float, float] = (0.1, 1.0)
    shadows: tuple[float, float] = (0.08, 0.6)
    gamma: tuple[float, float] = (1.8, 2.6)
    count: int = 2
    twins_share: float = 0.15

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not 0 <= self.expansion <= 2:
            raise InputError(f"expansion is {self.expansion}; give a number from 0 to 2.")
        if self.count not in (2, 3):
            raise InputError(f"count is {self.count}; give 2 or 3 exposures.")
        for name, limit in (("lights", 4.0), ("shadows", 4.0), ("gamma", 4.0)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= limit:
                raise InputError(
                    f"{name} {(low, high)} must be two numbers 0 < low <= high <= {limit:g}."
                )
        super().__post_init__()

    @property
    def reach(self) -> int:
        """Pixels of surroundings that a result pixel's region may be softened by."""
        return 16


def synthesise_multiexposure(
    image: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    spec: Exposures | None = None,
    *,
    margin: int = 0,
) -> tuple[np.ndarray, ...]:
    """Makes an under- and an over-exposed picture of one scene, or a bracket of three.

    Args:
      image: (H, W, 3) or (H, W, 1), uint8 or float in [0, 255]; shows lights and shadows.
      labels: (H, W) integer regions, any values.
      rng: source of every random choice.
      spec: distribution of the brackets.
      margin: so many pixels on each side are surroundings only and are cut off.

    Returns:
      under, over, target: (H - 2 margin, W - 2 margin, C) uint8 each. Noise and JPEG touch the
      sources only. Nowhere is `under` brighter than `over` but for these two. Of a `spec` of three
      exposures: three sources in random order, then the target.

    Raises:
      InputError: shapes do not agree.
    """
    spec = spec or Exposures()
    image, labels = np.asarray(image), np.asarray(labels)
    if image.ndim != 3 or image.shape[:2] != labels.shape or min(labels.shape) <= 2 * margin:
        raise InputError(
            f"an image of shape {image.shape} and labels of shape {labels.shape} do not fit; "
            f"give (H, W, C) and (H, W) with sides above {2 * margin}."
        )
    height, width = labels.shape
    inner = (slice(margin, height - margin), slice(margin, width - margin))
    stored = np.ascontiguousarray(np.moveaxis(image, -1, 0), np.float32)
    stored = np.clip(np.rint(stored), 0, 255)
    gamma = rng.uniform(*spec.gamma)
    # Half a grey level above nothing: log 0 would let one black pixel decide for its region.
    light = ((stored + 0.5) * np.float32(1 / 255.5)) ** np.float32(gamma)
    _, region = np.unique(labels, return_inverse=True)
    region = region.reshape(labels.shape)
    bright = np.log(light.mean(0))
    means = np.bincount(region.ravel(), bright.ravel()) / np.bincount(region.ravel())
    soft = ndimage.gaussian_filter(
        means[region].astype(np.float32), rng.uniform(1.0, 4.0), truncate=4.0, mode="nearest"
    )
    scene = light * np.exp(rng.uniform(0, spec.expansion) * (soft - soft.mean()))
    low, high = np.quantile(scene.max(0)[::2, ::2], (0.15, 0.98))
    low = max(low, 2.0**-8 * high)  # below is no shadow but black, and its last bits
    gains = [rng.uniform(*spec.lights) / high, rng.uniform(*spec.shadows) / low]
    # The lights of a flat window lie in its shadows: the darker source is `under` all the same.
    gains.sort()
    if spec.count == 3:
        gains.append(gains[0] * (gains[1] / gains[0]) ** rng.uniform(-_BEYOND, 1 + _BEYOND))
    exposures = [
        255 * np.minimum(scene * np.float32(gain), 1) ** np.float32(1 / gamma) for gain in gains
    ]
    sources = degrade(exposures, inner, rng, spec)
    if spec.count == 3:
        sources = [sources[i] for i in rng.permutation(3)]
        if rng.random() < spec.twins_share:
            sources[0] = sources[1].copy()
            sources = [sources[i] for i in rng.permutation(3)]
    return (*sources, to_uint8(stored[:, *inner]))
