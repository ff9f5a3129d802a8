"""Small photographs made from nothing: texture with discs, in focus here and there."""

import numpy as np
from scipy import ndimage


def scene(seed=0, height=120, width=180, discs=10):
    """A textured colour picture in [0, 1], float64 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    layers = [
        ndimage.gaussian_filter(rng.normal(size=(height, width, 3)), (s, s, 0)) * s
        for s in (1, 2, 7, 20)
    ]
    x = np.sum(layers, 0)
    x = (x - x.min()) / np.ptp(x)
    rows, columns = np.mgrid[:height, :width]
    for _ in range(discs):
        y, z, radius = rng.integers(height), rng.integers(width), rng.integers(5, 20)
        x[(rows - y) ** 2 + (columns - z) ** 2 < radius**2] = rng.random(3)
    return np.clip(x, 0, 1)


def focus_pair(seed=0, sigma=2.5, **size):
    """The sharp scene, and two pictures of it that are soft on the right and on the left."""
    sharp = scene(seed, **size)
    soft = ndimage.gaussian_filter(sharp, (sigma, sigma, 0))
    left = (np.arange(sharp.shape[1]) < sharp.shape[1] // 2)[None, :, None]
    return sharp, np.where(left, sharp, soft), np.where(left, soft, sharp)


def bracket(stops=(-2.5, 0, 2.5), seed=0, height=120, width=160):
    """Radiance of a scene with a window and a dark corner, and 8-bit exposures of it."""
    light = np.full((height, width), 0.12)
    light[20:60, 90:140], light[75:, :45] = 3.0, 0.006
    light = ndimage.gaussian_filter(light, 1)
    radiance = (0.15 + 0.85 * scene(seed, height, width)) * light[..., None]
    exposures = [np.clip(radiance * 2**ev * 2, 0, 1) ** (1 / 2.2) for ev in stops]
    return radiance, [to(np.uint8, x) for x in exposures]


def to(dtype, x):
    """A picture in [0, 1] as an array of a type."""
    x = np.clip(x, 0, 1)
    if np.issubdtype(dtype, np.floating):
        return x.astype(dtype)
    return np.rint(x * np.iinfo(dtype).max).astype(dtype)
