"""Synthesis of brackets: a scene's light as three exposures, with things and a camera that move.

All happens to light, before it is exposed:

    H_i  = camera_i( scene with the objects where they are at moment i )
    LDR_i = quantised( min(t_i H_i + noise, 1)^(1/2.2) )        i: short, middle, long
    truth = min(H_2, 1)

The middle exposure is the reference: its camera is the truth's. Objects are laid over the scene as
light, so that what they cover and uncover is right in every exposure, and the truth is rendered
at the reference's moment, never merged from the exposures. The long exposure is the mean of
several moments. Radiance 1 is what saturates the shortest exposure. This is the project's own
formulation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from mgdn_jax.errors import InputError
from mgdn_jax.image import LUMA
from mgdn_jax.quantities.radiance import developed

MARGIN = 24
"""Pixels of a scene around the exposures, which a moving camera looks into."""
_WHITE = 64.0  # light beyond so many whites, as of the sun, would outshine a window by itself
_SATURATED = 4.0  # more than any exposure tells apart
_SEEN = 128  # side of a crop, in pixels, at which the motion is as said


@dataclasses.dataclass(frozen=True)
class Brackets:
    """How brackets are drawn; every `*_share` is a probability in [0, 1].

    Attributes:
      photographs_share: scenes that are photographs with their range expanded instead of
        radiance pictures.
      expansion: largest k of a photograph's expansion, see `multiexposure`; at most 2.
      still_share: examples without moving objects.
      motion: fastest object, in pixels between two exposures on a crop of 128 or more; smaller
        crops have less in proportion.
      turn: largest turn of an object between two exposures, in degrees.
      shift: largest shift of the camera against the reference, in pixels.
      roll: largest roll of the camera, in degrees.
      shutter: part of the interval between two exposures that the long one is open.
      deep_share: exposures of 16 bits; the others have 8.
    """

    photographs_share: float = 0.5
    expansion: float = 1.5
    still_share: float = 0.4
    motion: float = 40.0
    turn: float = 6.0
    shift: float = 4.0
    roll: float = 0.35
    shutter: float = 0.16
    deep_share: float = 0.5

    def __post_init__(self) -> None:
        """Checks the ranges."""
        limits = {"expansion": 2, "motion": 200, "turn": 90, "shift": 12, "roll": 2, "shutter": 1}
        for name, value in vars(self).items():
            limit = limits.get(name, 1)
            if not 0 <= value <= limit:
                raise InputError(f"{name} is {value}; give a number from 0 to {limit:g}.")


class Cutout(NamedTuple):
    """Something cut from a photograph.

    Attributes:
      light: (h, w, 3) float32, times `alpha`.
      alpha: (h, w) float32, 0 outside, 1 inside.
    """

    light: np.ndarray
    alpha: np.ndarray


class _Motion(NamedTuple):
    """Where a cutout is: `centre` at moment 0, and what an interval adds."""

    centre: np.ndarray  # (2,) of the scene, rows then columns
    velocity: np.ndarray
    turn: float  # radians
    growth: float


def cut_out(light: np.ndarray, region: np.ndarray) -> Cutout:
    """Cuts a region from a linear picture; its edge is softened.

    Args:
      light: (h, w, 3) float32.
      region: (h, w), true inside.
    """
    alpha = ndimage.gaussian_filter(region.astype(np.float32), 0.8, truncate=3.0, mode="constant")
    return Cutout(light * alpha[..., None], alpha)


def times_of(rng: np.random.Generator) -> tuple[float, float, float]:
    """Times of a bracket: two equal steps of 2 or of 3 EV."""
    step = 2.0 ** int(rng.choice((2, 3)))
    return (1.0, step, step * step)


def gain_of(view: np.ndarray, middle: float, rng: np.random.Generator) -> float:
    """What a scene's light is multiplied with to become radiance.

    The middle exposure then shows the median at about 0.15, unless the shortest one would
    saturate more than 1.5 % of the view; the whole is varied by a stop.

    Args:
      view: (..., 3) light of the scene as far as a camera would see it.
      middle: time of the middle exposure.
      rng: source of every random choice.
    """
    median = float(np.median(view @ np.array(LUMA, np.float32)))
    high = float(np.quantile(view.max(-1), 0.985))
    gain = min(0.15 / (middle * max(median, 1e-9)), 1 / max(high, 1e-9))
    return gain * 2.0 ** rng.uniform(-1, 1)


def area_reduced(light: np.ndarray, height: int, width: int) -> np.ndarray:
    """Means over areas of (H, W, C), to (height, width, C) of at most that size."""
    for axis, size in ((0, height), (1, width)):
        if light.shape[axis] != size:
            light = _resampled(light, *_areas(light.shape[axis], size), axis)
    return light


def synthesise_bracket(
    scene: np.ndarray,
    cutouts: Sequence[Cutout],
    times: Sequence[float],
    rng: np.random.Generator,
    spec: Brackets | None = None,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Takes three exposures of a scene.

    Args:
      scene: (H + 2 MARGIN, W + 2 MARGIN, 3) float32 radiance, not negative; 1 saturates the
        shortest exposure.
      cutouts: what moves through it, of any brightness; it is fitted to the place.
      times: of the three, relative to the shortest, ascending.
      rng: source of every random choice.
      spec: distribution of motion, noise and bits.

    Returns:
      The exposures, short to long, (H, W, 3) float32 in [0, 1] each, as 8 or 16 bits store them;
      and the truth, (H, W, 3) float32 radiance in [0, 1], where the middle exposure is.

    Raises:
      InputError: the scene is no larger than its margin, or there are not three times.
    """
    spec = spec or Brackets()
    if scene.ndim != 3 or min(scene.shape[:2]) <= 2 * MARGIN or len(times) != 3:
        raise InputError(
            f"a scene of shape {scene.shape} and {len(times)} times do not make a bracket; give "
            f"(H, W, 3) with sides above {2 * MARGIN} and three times."
        )
    scene = np.minimum(scene, np.float32(_SATURATED))
    moving = [_placed(cutout, scene, rng, spec) for cutout in cutouts]
    open_for = 1 + spec.shutter * np.linspace(-0.5, 0.5, 5 if moving else 1)
    worlds = [
        _world(scene, moving, (-1.0,)),
        _world(scene, moving, (0.0,)),
        _world(scene, moving, tuple(open_for)),
    ]
    inner = (slice(MARGIN, -MARGIN),) * 2
    seen = [_moved(worlds[0], rng, spec), worlds[1][inner], _moved(worlds[2], rng, spec)]
    # One camera takes all three: its electrons and its read-out do not change between them.
    full = math.exp(rng.uniform(math.log(1e4), math.log(2e5)))
    read = math.exp(rng.uniform(math.log(5e-5), math.log(5e-4)))
    levels = 65535 if rng.random() < spec.deep_share else 255
    exposures = [
        _exposed(light, time, full, read, levels, rng)
        for light, time in zip(seen, times, strict=True)
    ]
    return exposures, np.minimum(seen[1], 1)


def limited(light: np.ndarray, gain: float) -> np.ndarray:
    """Light as radiance, with the sun no brighter than 64 whites.

    Args:
      light: any shape, of any scale, not negative.
      gain: of `gain_of`.
    """
    return np.minimum(light * np.float32(gain), np.float32(_WHITE))


def _exposed(
    light: np.ndarray,
    time: float,
    full: float,
    read: float,
    levels: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """A picture of light: shot noise and read-out noise, the camera's curve, rounding."""
    x = np.minimum(light * np.float32(time), 1)
    spread = np.sqrt(x * np.float32(1 / full) + np.float32(read**2))
    x = x + spread * rng.standard_normal(x.shape, np.float32)
    ldr = developed(x, 1.0)
    return np.rint(ldr * np.float32(levels)) * np.float32(1 / levels)


def _placed(
    cutout: Cutout, scene: np.ndarray, rng: np.random.Generator, spec: Brackets
) -> tuple[Cutout, _Motion]:
    """A cutout somewhere in the picture, as bright as its surroundings up to a factor of 2.5."""
    height, width = (n - 2 * MARGIN for n in scene.shape[:2])
    side = min(height, width)
    longest = max(cutout.alpha.shape)
    zoom = min(1.0, rng.uniform(0.2, 0.75) * side / longest)
    if zoom < 1:
        small = [max(1, round(zoom * n)) for n in cutout.alpha.shape]
        planes = np.concatenate([cutout.light, cutout.alpha[..., None]], -1)
        planes = area_reduced(planes, *small)
        cutout = Cutout(planes[..., :-1], planes[..., -1])
    centre = MARGIN + np.array([rng.uniform(0, height), rng.uniform(0, width)])
    angle = rng.uniform(0, 2 * math.pi)
    speed = rng.uniform(0.1, 1) * spec.motion * min(1, side / _SEEN)
    motion = _Motion(
        centre,
        speed * np.array([math.sin(angle), math.cos(angle)]),
        math.radians(rng.uniform(-spec.turn, spec.turn)),
        rng.uniform(-0.03, 0.03),
    )
    reach = max(4, max(cutout.alpha.shape) // 2)
    top, left = (max(0, round(c) - reach) for c in centre)
    luma = np.array(LUMA, np.float32)
    around = np.median(scene[top : top + 2 * reach : 2, left : left + 2 * reach : 2] @ luma)
    inside = cutout.alpha > 0.5
    middle = np.median(cutout.light[inside] @ luma) if inside.any() else 0
    gain = np.float32(around / max(middle, 1e-6) * math.exp(rng.uniform(-0.9, 0.9)))
    light = np.minimum(cutout.light * gain, _SATURATED)
    return Cutout(light, cutout.alpha), motion


def _world(
    scene: np.ndarray, moving: Sequence[tuple[Cutout, _Motion]], moments: Sequence[float]
) -> np.ndarray:
    """The mean light of some moments, objects over the scene."""
    if not moving:
        return scene
    total = np.zeros_like(scene)
    for moment in moments:
        world = scene.copy()
        for cutout, motion in moving:
            _lay(world, cutout, motion, moment)
        total += world
    return total / np.float32(len(moments))


def _lay(world: np.ndarray, cutout: Cutout, motion: _Motion, moment: float) -> None:
    """Composites a cutout where it is at a moment, in place."""
    zoom = 1 + motion.growth * moment
    turn = motion.turn * moment
    cosine, sine = math.cos(turn), math.sin(turn)
    size = np.array(cutout.alpha.shape)
    half = zoom / 2 * np.abs([[cosine, sine], [sine, cosine]]) @ size + 1
    centre = motion.centre + motion.velocity * moment
    low = np.maximum(np.floor(centre - half), 0).astype(int)
    high = np.minimum(np.ceil(centre + half) + 1, world.shape[:2]).astype(int)
    if (high <= low).any():
        return
    matrix = np.array([[cosine, -sine], [sine, cosine]]) / zoom
    offset = (size - 1) / 2 + matrix @ (low - centre)
    shape = tuple(high - low)
    alpha, *channels = (
        ndimage.affine_transform(plane, matrix, offset, shape, order=1, mode="grid-constant")
        for plane in (cutout.alpha, *np.moveaxis(cutout.light, -1, 0))
    )
    part = world[low[0] : high[0], low[1] : high[1]]
    part *= (1 - alpha)[..., None]
    part += np.stack(channels, -1)


def _moved(world: np.ndarray, rng: np.random.Generator, spec: Brackets) -> np.ndarray:
    """What a camera in another pose than the reference's sees, without the margin.

    The pose is a turn, a scale and a shift, taken as one pass along the rows and one along the
    columns: at a degree the two differ from a turn by a pixel in 3000.
    """
    height, width = (n - 2 * MARGIN for n in world.shape[:2])
    turn = math.radians(rng.uniform(-spec.roll, spec.roll))
    scale = 1 + rng.uniform(-0.003, 0.003)
    # The axis of the camera may lie outside the crop, which is a part of a picture.
    pivot = MARGIN + np.array([rng.uniform(-1, 2) * height, rng.uniform(-1, 2) * width])
    shift = rng.uniform(-spec.shift, spec.shift, 2)
    y = np.arange(world.shape[0])[:, None] - pivot[0]
    x = np.arange(MARGIN, MARGIN + width)[None] - pivot[1]
    across = pivot[1] + shift[1] + scale * (x + turn * y)
    seen = _sampled(world, across, 1)
    y = y[MARGIN:-MARGIN]
    down = pivot[0] + shift[0] + scale * (y - turn * x)
    return _sampled(seen, down, 0)


def _resampled(light: np.ndarray, start: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """Weighted sums of neighbours along an axis of (H, W, C).

    Args:
      light: (H, W, C) float32.
      start: (n,), the first neighbour of each result.
      weights: (taps, n) float32.
      axis: 0 or 1; its size becomes n.
    """
    last = light.shape[axis] - 1
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    total = np.take(light, start, axis) * weights[0].reshape(shape)
    for k, weight in enumerate(weights[1:], 1):
        total += np.take(light, np.minimum(start + k, last), axis) * weight.reshape(shape)
    return total


def _sampled(light: np.ndarray, place: np.ndarray, axis: int) -> np.ndarray:
    """Values between pixels along an axis, by cubic weights that do not ring.

    Args:
      light: (H, W, C) float32.
      place: (h, w), where along the axis; the other one of its sides is that of `light`.
      axis: 0 or 1.
    """
    width, channels = light.shape[1:]
    size = light.shape[axis]
    place = np.clip(place, 1, size - 2.001)
    start = np.floor(place).astype(int)
    rows, columns = np.ogrid[: place.shape[0], : place.shape[1]]
    flat = light.reshape(-1, channels)
    first, step = (start * width + columns, width) if axis == 0 else (rows * width + start, 1)
    taps = [np.take(flat, first + k * step, 0) for k in (-1, 0, 1, 2)]
    weights = _cubic((place - start).astype(np.float32))
    total = taps[0] * weights[0][..., None]
    for tap, weight in zip(taps[1:], weights[1:], strict=True):
        total += tap * weight[..., None]
    # Beside a lamp the negative weights would draw a black line that no lens does.
    return np.clip(total, np.minimum(taps[1], taps[2]), np.maximum(taps[1], taps[2]))


def _areas(large: int, small: int) -> tuple[np.ndarray, np.ndarray]:
    """First cell, and the part of a small cell that each of the next large ones has."""
    edges = np.linspace(0, large, small + 1)
    start = np.minimum(edges[:-1].astype(int), large - 1)
    cells = start + np.arange(int(large / small) + 2)[:, None]
    overlap = np.minimum(edges[1:], cells + 1) - np.maximum(edges[:-1], cells)
    return start, (np.clip(overlap, 0, None) * (small / large)).astype(np.float32)


def _cubic(t: np.ndarray) -> list[np.ndarray]:
    """Weights (a = -0.75) of the neighbours at -1, 0, 1, 2 for places 0 <= t < 1."""
    a = np.float32(-0.75)
    inner = [((a + 2) * d - (a + 3)) * d * d + 1 for d in (t, 1 - t)]
    outer = [((a * d - 5 * a) * d + 8 * a) * d - 4 * a for d in (t + 1, 2 - t)]
    return [outer[0], *inner, outer[1]]
