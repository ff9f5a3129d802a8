"""Separable local windows and gradients in float64, 'valid' positions only."""

from __future__ import annotations

import functools

import numpy as np
from scipy import ndimage

from mgdn_jax.metrics.gray import Gray, Plane


@functools.cache
def gaussian_taps(size: int, sigma: float) -> Plane:
    """`size` (odd) samples of a Gaussian, centred, with sum 1."""
    x = np.arange(size) - (size - 1) // 2
    taps = np.exp(-(x**2) / (2 * sigma**2))
    taps /= taps.sum()
    taps.flags.writeable = False
    return taps


def filter_valid(x: Plane, taps: Plane, step: int = 1) -> Plane:
    """Correlates rows and columns with `taps` where the window fits, every `step`-th position.

    Args:
        x: `(H, W)`.
        taps: `(N,)`, N odd, N <= H and N <= W.
        step: Keep rows and columns 0, step, 2 step, ... of the valid result.

    Returns:
        `(ceil((H-N+1)/step), ceil((W-N+1)/step))`.
    """
    r = len(taps) // 2
    height, width = x.shape
    # The border mode is irrelevant: those positions are cut away.
    x = ndimage.correlate1d(x, taps, axis=0, mode="constant")[r : height - r : step]
    return ndimage.correlate1d(x, taps, axis=1, mode="constant")[:, r : width - r : step]


def box_sum(x: Plane, size: int) -> Plane:
    """Sums over all `size` x `size` windows inside the image (exact for integer pixels).

    Args:
        x: `(H, W)`.
        size: Window side, at most H and W.

    Returns:
        `(H-size+1, W-size+1)`.
    """
    height, width = x.shape[0] - size + 1, x.shape[1] - size + 1
    rows = x[:height].copy()
    for i in range(1, size):
        rows += x[i : i + height]
    total = rows[:, :width].copy()
    for j in range(1, size):
        total += rows[:, j : j + width]
    return total


def gaussian_moments(image: Gray, size: int, sigma: float) -> tuple[Plane, Plane]:
    """Local mean and population variance (not clipped) under a Gaussian window, kept."""

    def compute() -> tuple[Plane, Plane]:
        taps = gaussian_taps(size, sigma)
        mean = filter_valid(image.pixels, taps)
        return mean, filter_valid(image.pixels**2, taps) - mean**2

    return image.keep(("gaussian_moments", size, sigma), compute)


def gaussian_covariance(x: Gray, y: Gray, size: int, sigma: float) -> Plane:
    """Local population covariance of two images under a Gaussian window."""
    mean_x, _ = gaussian_moments(x, size, sigma)
    mean_y, _ = gaussian_moments(y, size, sigma)
    return filter_valid(x.pixels * y.pixels, gaussian_taps(size, sigma)) - mean_x * mean_y


def sobel(padded: Plane, middle: float = 2.0) -> tuple[Plane, Plane]:
    """Right minus left and bottom minus top of an image padded by 1.

    Args:
        padded: `(H+2, W+2)`.
        middle: Weight of the middle line: 2 for Sobel (1 2 1), 1 for Prewitt (1 1 1).

    Returns:
        Two `(H, W)` arrays.
    """
    across = padded[:, 2:] - padded[:, :-2]
    down = padded[2:] - padded[:-2]
    gx = across[:-2] + middle * across[1:-1] + across[2:]
    gy = down[:, :-2] + middle * down[:, 1:-1] + down[:, 2:]
    return gx, gy
