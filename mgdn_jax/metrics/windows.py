"""Separable local windows and gradients in float64, 'valid' positions only."""

from __future__ import annotations

import functools

import numpy as np

from mgdn_jax.metrics.gray import Gray, Plane

_STRIP = 32  # lines filtered at a time
# Multiplications in one matrix product. Larger ones would start threads, which cost more than
# they gain here and stall where other processes want the cores.
_PRODUCT = 2**18


@functools.cache
def gaussian_taps(size: int, sigma: float) -> Plane:
    """`size` (odd) samples of a Gaussian, centred, with sum 1."""
    x = np.arange(size) - (size - 1) // 2
    taps = np.exp(-(x**2) / (2 * sigma**2))
    taps /= taps.sum()
    taps.flags.writeable = False
    return taps


@functools.lru_cache(maxsize=64)
def _band(taps: bytes, count: int, step: int) -> Plane:
    """Matrix that filters along one axis: row i holds the taps from column `i * step` on."""
    values = np.frombuffer(taps)
    band = np.zeros((count, (count - 1) * step + len(values)))
    for i in range(count):
        band[i, i * step : i * step + len(values)] = values
    band.flags.writeable = False
    return band


def filter_valid(x: Plane, taps: Plane, step: int = 1) -> Plane:
    """Correlates rows and columns with `taps` where the window fits, every `step`-th position.

    Each axis is filtered as a product with a band matrix: most of the products are with zeros,
    but a matrix product is many times faster than a loop over lines.

    Args:
        x: `(H, W)`.
        taps: `(N,)`, N odd, N <= H and N <= W.
        step: Keep rows and columns 0, step, 2 step, ... of the valid result.

    Returns:
        `(ceil((H-N+1)/step), ceil((W-N+1)/step))`.
    """
    key = taps.tobytes()
    columns_filtered = _filter_rows(x, key, len(taps), step)
    return _filter_rows(columns_filtered.T, key, len(taps), step).T


def _filter_rows(x: Plane, taps: bytes, size: int, step: int) -> Plane:
    """Correlates along the first axis, block by block."""
    height, width = (x.shape[0] - size) // step + 1, x.shape[1]
    # One layout for both passes: each reads what the other wrote with unit stride.
    result = np.empty((width, height)).T if x.flags.f_contiguous else np.empty((height, width))
    for i in range(0, height, _STRIP):
        band = _band(taps, min(_STRIP, height - i), step)
        lines = x[i * step : i * step + band.shape[1]]
        block = _PRODUCT // band.size
        for j in range(0, width, block):
            columns = slice(j, j + block)
            np.matmul(band, lines[:, columns], out=result[i : i + _STRIP, columns])
    return result


def box_sum(x: Plane, size: int) -> Plane:
    """Sums over all `size` x `size` windows inside the image (exact for integer pixels).

    Args:
        x: `(H, W)`.
        size: Window side, at most H and W.

    Returns:
        `(H-size+1, W-size+1)`.
    """
    height, width = x.shape[0] - size + 1, x.shape[1] - size + 1
    result = np.empty((height, width))
    for i in range(0, height, _STRIP):  # strips stay in the cache
        strip = _run_sum(x[i : i + _STRIP + size - 1], size)
        result[i : i + _STRIP] = _run_sum(strip.T, size).T
    return result


def _run_sum(x: Plane, size: int) -> Plane:
    """Sums of `size` successive rows, from sums of 1, 2, 4, ... rows."""
    count = x.shape[0] - size + 1
    total: Plane | None = None
    done, length = 0, 1
    while True:
        if size & length:
            part = x[done : done + count]
            total = part.copy() if total is None else np.add(total, part, out=total)
            done += length
        length *= 2
        if length > size:
            break
        x = x[: x.shape[0] - length // 2] + x[length // 2 :]
    assert total is not None  # a window has at least one row
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
