"""Merging exposures without learning: what a network for moving scenes has to beat.

Each rule takes three exposures, short to long, `(H, W, 3)` float32 in [0, 1], and their times
relative to the shortest. It returns the linear radiance where the middle exposure is, which is
the reference; 1 saturates the shortest exposure. `H_i` below is `LDR_i^2.2 / t_i`, `z` the
largest of the reference's three channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from scipy import ndimage

from mgdn_jax.quantities.radiance import linear, mu_law

Exposures: TypeAlias = Sequence[np.ndarray]
Merge: TypeAlias = Callable[[Exposures, Sequence[float]], np.ndarray]

_GOOD, _CLIPPED = 0.88, 0.97  # of full scale: below the reference serves, above it does not
_NEAR_CLIPPED = 0.9
_AGREES = 0.06
_WINDOW = 5
_LEAST = 1e-4


def _light(exposures: Exposures, times: Sequence[float]) -> list[np.ndarray]:
    return [linear(x, time) for x, time in zip(exposures, times, strict=True)]


def reference_exposure(exposures: Exposures, times: Sequence[float]) -> np.ndarray:
    """The middle exposure alone: no ghosts, no range.

    Args:
        exposures: Short, middle, long.
        times: Of each, relative to the shortest.

    Returns:
        Radiance, `(H, W, 3)` float32.
    """
    return _light(exposures, times)[1]


def short_exposure(exposures: Exposures, times: Sequence[float]) -> np.ndarray:
    """The shortest exposure alone: all the lights, at another moment, and noise in the shadows.

    Args:
        exposures: Short, middle, long.
        times: Of each, relative to the shortest.

    Returns:
        Radiance, `(H, W, 3)` float32.
    """
    return _light(exposures, times)[0]


def linear_mean_weighted(exposures: Exposures, times: Sequence[float]) -> np.ndarray:
    """All the light over all the time: `sum LDR^2.2 / sum t`.

    Args:
        exposures: Short, middle, long.
        times: Of each, relative to the shortest.

    Returns:
        Radiance, `(H, W, 3)` float32.
    """
    total = sum(linear(x, 1.0) for x in exposures)
    return np.asarray(total / np.float32(sum(times)))


def debevec_hat_known_gamma(exposures: Exposures, times: Sequence[float]) -> np.ndarray:
    """The mean of Debevec and Malik, channel by channel, with hats as weights.

    The shortest exposure keeps its weight towards white, the longest towards black. Things that
    move appear as often as they were taken.

    Args:
        exposures: Short, middle, long.
        times: Of each, relative to the shortest.

    Returns:
        Radiance, `(H, W, 3)` float32.
    """
    weights = [1 - np.abs(2 * x - 1) for x in exposures]
    weights[0] = np.where(exposures[0] > 0.5, 1, weights[0])
    weights[2] = np.where(exposures[2] < 0.5, 1, weights[2])
    weights = [w + np.float32(_LEAST) for w in weights]
    light = _light(exposures, times)
    return np.asarray(sum(w * h for w, h in zip(weights, light, strict=True)) / sum(weights))


def _triangle(z: np.ndarray) -> list[np.ndarray]:
    """Weights of the three by the reference's brightness; they sum to 1."""
    return [np.clip(2 * z - 1, 0, 1), 1 - np.abs(2 * z - 1), np.clip(1 - 2 * z, 0, 1)]


def triangle_by_reference(exposures: Exposures, times: Sequence[float]) -> np.ndarray:
    """Kalantari and Ramamoorthi's triangles: the brighter the reference, the shorter the exposure.

    Args:
        exposures: Short, middle, long.
        times: Of each, relative to the shortest.

    Returns:
        Radiance, `(H, W, 3)` float32.
    """
    weights = _triangle(exposures[1].max(-1, keepdims=True))
    light = _light(exposures, times)
    return np.asarray(sum(w * h for w, h in zip(weights, light, strict=True)))


def triangle_deghosted(exposures: Exposures, times: Sequence[float]) -> np.ndarray:
    """`triangle_by_reference`, the other exposures only where they agree with the reference.

    They agree where the mean of 5x5 pixels of the difference of their light, after the mu-law, is
    below 0.06, and where the reference is clipped and cannot tell. Elsewhere the reference takes
    their weight.

    Args:
        exposures: Short, middle, long.
        times: Of each, relative to the shortest.

    Returns:
        Radiance, `(H, W, 3)` float32.
    """
    z = exposures[1].max(-1, keepdims=True)
    weights = _triangle(z)
    light = _light(exposures, times)
    merged = light[1]
    for k in (0, 2):
        apart = np.abs(mu_law(light[k]) - mu_law(light[1])).mean(-1)
        apart = np.where(z[..., 0] >= _CLIPPED, 0, apart)
        agrees = ndimage.uniform_filter(apart, _WINDOW) < _AGREES
        merged = merged + weights[k] * agrees[..., None] * (light[k] - light[1])
    return merged


def reference_or_short(exposures: Exposures, times: Sequence[float]) -> np.ndarray:
    """The reference, and the shortest exposure where it is clipped.

    The share of the shortest goes from 0 at `z = 0.88` to 1 at `z = 0.97`. Channels in which the
    reference is above 0.9 do not become darker than it.

    Args:
        exposures: Short, middle, long.
        times: Of each, relative to the shortest.

    Returns:
        Radiance, `(H, W, 3)` float32.
    """
    light = _light(exposures, times)
    return _either(exposures[1], light[1], light[0])


def _either(reference: np.ndarray, middle: np.ndarray, short: np.ndarray) -> np.ndarray:
    z = reference.max(-1, keepdims=True)
    share = np.clip((z - _GOOD) / (_CLIPPED - _GOOD), 0, 1)
    short = np.where(reference >= _NEAR_CLIPPED, np.maximum(short, middle), short)
    return (1 - share) * middle + share * short


def reference_or_short_shifted(exposures: Exposures, times: Sequence[float]) -> np.ndarray:
    """`reference_or_short` after one shift of the shortest exposure, by phase correlation.

    Args:
        exposures: Short, middle, long.
        times: Of each, relative to the shortest.

    Returns:
        Radiance, `(H, W, 3)` float32.
    """
    light = _light(exposures, times)
    ceiling = np.float32(1 / times[1])
    # What both can show: the reference clips at the ceiling.
    planes = [mu_law(np.minimum(h, ceiling)).mean(-1) for h in light[:2]]
    shift = _shift_between(planes[1], planes[0])
    channels = [
        ndimage.shift(x, shift, order=3, mode="nearest") for x in np.moveaxis(light[0], -1, 0)
    ]
    short = np.maximum(np.stack(channels, -1), 0)
    return _either(exposures[1], light[1], short)


def _shift_between(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Rows and columns by which the second picture must be moved, to parts of a pixel."""
    rows, columns = (np.hanning(n) for n in fixed.shape)
    window = rows[:, None] * columns
    first, second = (np.fft.fft2((x - x.mean()) * window) for x in (fixed, moving))
    cross = first * second.conj()
    peaks = np.fft.ifft2(cross / np.maximum(np.abs(cross), 1e-12)).real
    place = np.array(np.unravel_index(peaks.argmax(), peaks.shape))
    size = np.array(peaks.shape)
    shift = np.where(place > size / 2, place - size, place).astype(np.float64)
    for axis in (0, 1):
        step = np.eye(2, dtype=int)[axis]
        before, here, after = (peaks[tuple((place + k * step) % size)] for k in (-1, 0, 1))
        shift[axis] += 0.5 * (before - after) / (before - 2 * here + after)
    return shift


MERGES: Mapping[str, Merge] = MappingProxyType(
    {
        rule.__name__: rule
        for rule in (
            reference_exposure,
            short_exposure,
            debevec_hat_known_gamma,
            triangle_by_reference,
            triangle_deghosted,
            reference_or_short,
            reference_or_short_shifted,
            linear_mean_weighted,
        )
    }
)
"""Name in tables to rule."""
