"""Synthesis of multi-focus pairs: one sharp picture, two focus settings, the truth known.

The scene is cut into a foreground F and a background B by a matte alpha (1 on F). With D_r the
defocus by a point-spread function of radius r, I the sharp picture, and products per pixel:

    near = alpha I + (1 - alpha) D_r[w I] / D_r[w]              F sharp, B defocused
    far  = D_s[alpha I] + (1 - D_s[alpha]) B~                   B sharp, F defocused
    B~   = (1 - alpha) I + alpha G[w I] / G[w]                  B continued behind F

where w is 1 - alpha drawn back from the edge a little and G a Gaussian. So a defocused background
never takes colour from the foreground that hides it, and a defocused foreground spreads over the
background and turns transparent at its rim, as through a real lens. Everything happens in light
(the square of the stored value) or in stored values, at random. This is the project's own
formulation; the published systems were trained on comparable but unreleased pairs.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import scipy.fft

from mgdn_jax.data.degradation import Degradation, degrade, to_uint8
from mgdn_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Synthesis(Degradation):
    """How pairs are drawn; every `*_share` is a probability in [0, 1].

    Attributes:
      min_radius: smallest defocus radius in pixels, > 0; radii are log-uniform.
      max_radius: largest defocus radius in pixels.
      gaussian_share: Gaussian spread (sigma = radius / 2) instead of a disk.
      region_share: foreground from the segmentation; of the rest of the share, in equal parts, a
        smooth blob, a bent half-plane, and a band of 3 to 14 pixels.
      ramp_share: no matte at all but a plane whose focus moves across the picture.
      gradient_share: the defocused side changes its radius across the picture.
      light_share: blur in light (squared values) instead of stored values.
      soften_share: the scene itself is softened first by a Gaussian of sigma 0.3 to 0.7 pixels;
        real light-field pictures have that little fine detail.
      noise_share, jpeg_share, quality: see `Degradation`.
    """

    min_radius: float = 0.7
    max_radius: float = 8.0
    gaussian_share: float = 0.4
    region_share: float = 0.65
    ramp_share: float = 0.08
    gradient_share: float = 0.3
    light_share: float = 0.7
    soften_share: float = 0.6

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not 0 < self.min_radius <= self.max_radius <= 64:
            raise InputError(
                f"min_radius {self.min_radius} and max_radius {self.max_radius} must satisfy "
                "0 < min_radius <= max_radius <= 64."
            )
        super().__post_init__()

    @property
    def reach(self) -> int:
        """Pixels of surroundings that a result pixel can depend on."""
        return math.ceil(1.5 * self.max_radius) + 4


def synthesise_multifocus(
    image: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    spec: Synthesis | None = None,
    *,
    margin: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes a near-focused and a far-focused picture of one scene.

    Args:
      image: (H, W, 3) or (H, W, 1), uint8 or float in [0, 255]; the sharp scene.
      labels: (H, W) integer regions, any values.
      rng: source of every random choice.
      spec: distribution of the pairs.
      margin: so many pixels on each side are surroundings only and are cut off; give
        `spec.reach` of them for the fastest path, fewer are completed by reflection.

    Returns:
      near, far, target: (H - 2 margin, W - 2 margin, C) uint8 each. The target is the clean
      sharp scene; noise and JPEG touch the sources only.

    Raises:
      InputError: shapes do not agree.
    """
    spec = spec or Synthesis()
    image, labels = np.asarray(image), np.asarray(labels)
    if image.ndim != 3 or image.shape[:2] != labels.shape or min(labels.shape) <= 2 * margin:
        raise InputError(
            f"an image of shape {image.shape} and labels of shape {labels.shape} do not fit; "
            f"give (H, W, C) and (H, W) with sides above {2 * margin}."
        )
    if margin < spec.reach:
        more = spec.reach - margin
        image = np.pad(image, ((more, more), (more, more), (0, 0)), mode="symmetric")
        labels = np.pad(labels, more, mode="symmetric")
        margin = spec.reach
    height, width = labels.shape
    fast = tuple(scipy.fft.next_fast_len(n, real=True) for n in labels.shape)
    if fast != labels.shape:
        more_y, more_x = fast[0] - height, fast[1] - width
        image = np.pad(image, ((0, more_y), (0, more_x), (0, 0)), mode="symmetric")
        labels = np.pad(labels, ((0, more_y), (0, more_x)), mode="symmetric")
    inner = (slice(margin, height - margin), slice(margin, width - margin))

    plane = _Plane(*labels.shape)
    scene = np.ascontiguousarray(np.moveaxis(image, -1, 0), np.float32)
    if rng.random() < spec.soften_share:
        scene = plane.blur(scene, plane.gaussian(2 * rng.uniform(0.3, 0.7)))
    scene = np.clip(np.rint(scene), 0, 255)
    light = rng.random() < spec.light_share
    linear = scene * (1 / 255)
    if light:
        linear *= linear

    radii = _radii(rng, spec)
    kind = plane.gaussian if rng.random() < spec.gaussian_share else plane.disk
    if rng.random() < spec.ramp_share:
        near, far = _ramp(linear, plane, kind, radii, rng)
    else:
        mask, drawn_by_hand = _mask(labels, plane, rng, spec)
        if drawn_by_hand:
            mask = _snap(mask, linear, plane)
        edge = plane.blur(mask, plane.gaussian(2.4))
        gain = rng.uniform(1.2, 4.0)
        alpha = np.clip(0.5 + (edge - 0.5) * gain, 0, 1)
        behind = np.clip(0.5 + (0.25 - edge) * gain, 0, 1)
        levels = _levels(plane, rng, rng.random() < spec.gradient_share)
        near, far = _compose(linear, alpha, behind, plane, kind, radii, levels)

    target = to_uint8(scene[:, *inner])
    first, second = degrade((_stored(near, light), _stored(far, light)), inner, rng, spec)
    return first, second, target


def _compose(
    linear: np.ndarray,
    alpha: np.ndarray,
    behind: np.ndarray,
    plane: _Plane,
    kind,
    radii: tuple[float, float],
    levels: tuple[np.ndarray, np.ndarray | None],
) -> tuple[np.ndarray, np.ndarray]:
    """The three formulas of this file: linear (C, H, W) and two mattes (H, W) to near, far."""
    scales, weights = levels
    back = plane.forward(np.concatenate([linear * behind, behind[None]]))
    front = plane.forward(np.concatenate([linear * alpha, alpha[None]]))

    def defocus(spectrum: np.ndarray, radius: float) -> np.ndarray:
        if weights is None:
            return plane.inverse(spectrum * kind(radius))
        return sum(
            w * plane.inverse(spectrum * kind(radius * s))
            for s, w in zip(scales, weights, strict=True)
        )

    blurred = _normalised(defocus(back, radii[0]), linear)
    near = blurred + alpha * (linear - blurred)
    np.copyto(near, linear, where=alpha == 1)
    hidden = _normalised(plane.inverse(back * plane.gaussian(radii[1] + 1)), linear)
    spread = defocus(front, radii[1])
    opacity = np.clip(spread[-1], 0, 1)
    opacity[opacity < 1e-5] = 0  # rounding of the transform: the background stays exact
    far = np.where(opacity == 0, 0, spread[:-1])
    far += (1 - opacity) * (linear + alpha * (hidden - linear))
    return near, far


def _ramp(
    linear: np.ndarray, plane: _Plane, kind, radii: tuple[float, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A plane seen at a slant: the near picture loses focus along it, the far one gains it."""
    way = plane.slope(rng, bend=0.1)
    low, high = np.quantile(way[::4, ::4], (0.05, 0.95))
    way = np.clip((way - low) / (high - low), 0, 1)
    sharp = rng.uniform(0.25, 0.55)  # the share of the way that stays in focus
    spectrum = plane.forward(linear)

    def stack(amount: np.ndarray, radius: float) -> np.ndarray:
        result = linear * np.clip(1 - 3 * amount, 0, 1)
        for level in (1, 2, 3):
            weight = np.clip(1 - np.abs(3 * amount - level), 0, 1)
            result += weight * plane.inverse(spectrum * kind(radius * level / 3))
        return result

    near = stack(np.clip((way - sharp) / (1 - sharp), 0, 1), radii[0])
    far = stack(np.clip((1 - sharp - way) / (1 - sharp), 0, 1), radii[1])
    return near, far


def _radii(rng: np.random.Generator, spec: Synthesis) -> tuple[float, float]:
    """Radius of the background in `near` and of the foreground in `far`, of similar size."""
    low, high = spec.min_radius, spec.max_radius
    first = math.exp(rng.uniform(math.log(low), math.log(high)))
    second = first * math.exp(rng.normal(0, 0.35))
    return first, min(max(second, low), high)


def _levels(
    plane: _Plane, rng: np.random.Generator, varied: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Three scales of the radius and where each holds (weights add up to 1), or one for all."""
    if not varied:
        return np.ones(1), None
    way = plane.slope(rng, bend=0.2)
    way = (way - way.min()) / np.ptp(way)
    scales = np.linspace(rng.uniform(0.4, 0.7), 1, 3)
    weights = np.stack([np.clip(1 - np.abs(2 * way - k), 0, 1) for k in range(3)])
    return scales, weights


def _normalised(blurred: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """Weighted colours over their weight (last channel); `fallback` where there is no weight."""
    weight = np.maximum(blurred[-1], 0)
    return (blurred[:-1] * (weight > 1e-5) + 1e-3 * fallback) / (weight * (weight > 1e-5) + 1e-3)


def _stored(linear: np.ndarray, light: bool) -> np.ndarray:
    """Light back to stored values in [0, 255]."""
    linear = np.clip(linear, 0, 1, out=linear)
    return 255 * (np.sqrt(linear, out=linear) if light else linear)


# ------------------------------------------------------------------------------------- mattes


def _mask(
    labels: np.ndarray, plane: _Plane, rng: np.random.Generator, spec: Synthesis
) -> tuple[np.ndarray, bool]:
    """A hard foreground mask (H, W), 0 or 1, float32, and whether it comes from `labels`."""
    if rng.random() < spec.region_share:
        mask = _regions(labels, rng)
        if mask is not None:
            return mask, True
        if rng.random() < 0.3:  # one region only: sometimes the whole is one depth
            return np.full(labels.shape, rng.integers(2), np.float32), False
    shape = rng.integers(3)
    field = plane.blob(rng) if shape == 0 else plane.slope(rng, bend=0.35)
    centre = np.quantile(field[::4, ::4], rng.uniform(0.2, 0.8))
    if shape < 2:
        return (field > centre).astype(np.float32), False
    return (np.abs(field - centre) < rng.uniform(1.5, 7.0)).astype(np.float32), False


def _snap(mask: np.ndarray, linear: np.ndarray, plane: _Plane) -> np.ndarray:
    """Moves a hand-drawn outline by up to two pixels to where the colour changes.

    Outlines of segmentations miss the edge by a pixel or two; the sliver between would stay sharp
    beside a defocused object. A pixel near the outline changes sides if its colour is far nearer
    to the mean colour of the other side's inside than to that of its own.

    Args:
      mask: (H, W), 0 or 1.
      linear: (C, H, W) picture.
      plane: the grid.

    Returns:
      (H, W) float32, 0 or 1.
    """
    edge = plane.blur(mask, plane.gaussian(3.0))
    distances = []
    for core in (edge > 0.92, edge < 0.08):
        weight = core.astype(np.float32)
        sums = plane.blur(np.concatenate([linear * weight, weight[None]]), plane.gaussian(5.0))
        known = sums[-1] > 1e-3
        mean = sums[:-1] / np.where(known, sums[-1], 1)
        distances.append(np.where(known, np.square(linear - mean).sum(0), np.inf))
    to_front, to_back = distances
    band = (edge > 0.08) & (edge < 0.92)
    snapped = mask.copy()
    snapped[band & (to_front < 0.4 * to_back)] = 1
    snapped[band & (to_back < 0.4 * to_front)] = 0
    return snapped


def _regions(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """A region and some of its neighbours, or all the rest; None if there is one region only."""
    if labels.dtype != np.uint8:
        _, labels = np.unique(labels, return_inverse=True)
    labels = labels.astype(np.int64)
    count = int(labels.max()) + 1
    area = np.bincount(labels.ravel(), minlength=count) / labels.size
    seeds = np.flatnonzero(area > 0.02)
    if area.max() > 0.97 or not len(seeds):
        return None
    touching = np.zeros((count, count), bool)
    touching[labels[:, :-1].ravel(), labels[:, 1:].ravel()] = True
    touching[labels[:-1].ravel(), labels[1:].ravel()] = True
    touching |= touching.T
    chance = np.sqrt(area[seeds])
    chosen = np.zeros(count, bool)
    chosen[rng.choice(seeds, p=chance / chance.sum())] = True
    wanted = rng.uniform(0.1, 0.6)
    while area[chosen].sum() < wanted:
        others = np.flatnonzero(touching[chosen].any(0) & ~chosen & (area > 0))
        others = others[area[others] + area[chosen].sum() < 0.95]
        if not len(others):
            break
        chosen[rng.choice(others)] = True
    if rng.random() < 0.5:
        chosen = ~chosen
    return chosen.astype(np.float32)[labels]


class _Plane:
    """Transforms, spreads and random fields on one (height, width) grid; blurs wrap around."""

    def __init__(self, height: int, width: int):
        self.shape = (height, width)
        self._y = scipy.fft.fftfreq(height).astype(np.float32)[:, None]
        self._x = scipy.fft.rfftfreq(width).astype(np.float32)[None]
        self._square = self._y**2 + self._x**2

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Spectrum of (..., H, W) float32."""
        return scipy.fft.rfft2(x)

    def inverse(self, spectrum: np.ndarray) -> np.ndarray:
        """The (..., H, W) float32 of a spectrum."""
        return scipy.fft.irfft2(spectrum, s=self.shape, overwrite_x=True)

    def blur(self, x: np.ndarray, transfer: np.ndarray) -> np.ndarray:
        """Blurs (..., H, W) with a transfer function."""
        return self.inverse(self.forward(x) * transfer)

    def gaussian(self, radius: float) -> np.ndarray:
        """Transfer function of a Gaussian of the variance of a disk (sigma = radius / 2)."""
        return np.exp((-0.5 * (math.pi * radius) ** 2) * self._square)

    def disk(self, radius: float) -> np.ndarray:
        """Transfer function of a disk with a rim one pixel wide."""
        height, width = self.shape
        y = np.minimum(np.arange(height), height - np.arange(height)).astype(np.float32)
        x = np.minimum(np.arange(width), width - np.arange(width)).astype(np.float32)
        spread = np.clip(radius + 0.5 - np.sqrt(y[:, None] ** 2 + x**2), 0, 1)
        return scipy.fft.rfft2(spread / spread.sum())

    def slope(self, rng: np.random.Generator, bend: float) -> np.ndarray:
        """Distance in pixels along a random direction, bent by up to `bend` of the size."""
        height, width = self.shape
        angle, turn = rng.uniform(0, 2 * math.pi, 2)
        y = np.arange(height, dtype=np.float32)[:, None]
        x = np.arange(width, dtype=np.float32)[None]
        along = math.cos(angle) * x + math.sin(angle) * y
        across = math.cos(angle) * y - math.sin(angle) * x
        size = max(height, width)
        depth = rng.uniform(0, bend) * size / 4
        return along + depth * np.sin(across * (2 * math.pi * rng.uniform(0.5, 2) / size) + turn)

    def blob(self, rng: np.random.Generator) -> np.ndarray:
        """Smooth random field: a few random values, spread by Gaussians."""
        nodes = int(rng.integers(3, 7))
        values = rng.standard_normal((nodes, nodes)).astype(np.float32)
        rows, columns = (
            np.exp(-0.5 * ((np.linspace(0, nodes - 1, n)[:, None] - np.arange(nodes)) / 0.6) ** 2)
            for n in self.shape
        )
        return (rows @ values @ columns.T).astype(np.float32)
