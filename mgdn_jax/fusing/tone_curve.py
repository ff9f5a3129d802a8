"""Tone curves: how one is fitted to two pictures of a scene, and laid on a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mgdn_jax.errors import InputError
from mgdn_jax.io.pixels import from_float, to_float, without_alpha

Values: TypeAlias = NDArray[np.float64]
Model: TypeAlias = Callable[[Values], Values]

STEPS = 4097  # of a stored curve
FEW = 30  # samples are too few for a measure
LEVEL = 1 / 255
SHOULDER = 0.02  # below the clipping point, where the reference begins to stand in
_BAND_ROWS = 512
_GROUPS = 16  # of like brightness
_FADE = 0.15  # of tone, over which a mended curve goes back to a simple one


@dataclasses.dataclass(frozen=True)
class Curve:
    """A tone curve for each channel, from the values of one picture to those of another.

    Attributes:
        table: (C, n) float64 in [0, 1]: results at n values evenly spaced over [0, 1].
        kind: ``"gain"``, ``"light"`` (a gain of light, through the curve of sRGB), ``"offset"``
            (gain and offset), ``"gamma"`` (gain and power), ``"smooth"`` (a monotone curve),
            ``"chain"`` (one after another) or ``"none"`` (nothing could be measured; the curve
            changes nothing).
        stops: log2 of the gain of each channel at middle values.
        error: what remains after the curve, in 8-bit levels: the root mean square over levels of
            brightness of the median difference.
        ceiling: (C,) values at and above which the picture is cut off; 1 for none.
    """

    table: Values
    kind: str
    stops: tuple[float, ...]
    error: float
    ceiling: Values

    def apply(self, pixels: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
        """The picture with the curve's tone.

        Where a channel of the picture is cut off in the highlights, nothing is known but that the
        scene is at least as bright as the end of the curve. There the result is that end, or the
        reference's own value where it is brighter: no detail returns, but no colour is invented.

        Args:
            pixels: (H, W) or (H, W, C), uint8, uint16 or float in [0, 1]; alpha passes through.
            reference: picture of the same shape whose tone the curve leads to; None leaves the
                end of the curve in highlights that are cut off.

        Returns:
            The same shape and dtype; integers are rounded.

        Raises:
            InputError: the picture has another number of channels than the curve.
        """
        planes = without_alpha(pixels)
        if planes.shape[-1] != len(self.table):
            raise InputError(
                f"the tone curve has {len(self.table)} channels but the picture has "
                f"{planes.shape[-1]}; match it to a picture of its own kind."
            )
        out = pixels.copy()
        target = without_alpha(out)
        source = None if reference is None else without_alpha(reference)
        for channel, table in enumerate(self.table):
            for top in range(0, len(planes), _BAND_ROWS):
                rows = slice(top, top + _BAND_ROWS)
                values = to_float(planes[rows, :, channel])
                result = _look_up(table, planes[rows, :, channel])
                if source is not None:
                    beyond = to_float(source[rows, :, channel]) - result
                    start = self.ceiling[channel] - SHOULDER
                    share = np.clip((values - start) / SHOULDER, 0, 1)
                    result = result + share * np.maximum(beyond, 0)
                target[rows, :, channel] = from_float(result.astype(np.float32), pixels.dtype)
        return out

    def then(self, other: Curve) -> Curve:
        """This curve followed by another one."""
        tables = [_look_up(t, s) for s, t in zip(self.table, other.table, strict=True)]
        stops = tuple(p + q for p, q in zip(self.stops, other.stops, strict=True))
        return Curve(np.stack(tables), "chain", stops, self.error + other.error, self.ceiling)


def _look_up(table: Values, pixels: np.ndarray) -> Values:
    """Values of a table over [0, 1] at pixels of any accepted type; integers through all levels."""
    grid = np.linspace(0, 1, len(table))
    if np.issubdtype(pixels.dtype, np.floating):
        return np.interp(pixels, grid, table)
    levels = np.arange(np.iinfo(pixels.dtype).max + 1) / np.iinfo(pixels.dtype).max
    return np.interp(levels, grid, table)[pixels]


class Samples(NamedTuple):
    """What a curve is fitted to: values of one channel at one scale.

    Attributes:
        x: (n,) of the moving picture.
        y: (n,) of the reference at the same places.
        sides: two (n,) bool: where the reference is the sharper one, and where the moving one is.
            Places without detail belong to both.
    """

    x: Values
    y: Values
    sides: tuple[NDArray[np.bool_], NDArray[np.bool_]]


def choose(samples: Sequence[Samples]) -> tuple[str, list[Model], float]:
    """The simplest kind of curve that explains the samples of all channels."""
    fits: dict[str, tuple[list[Model], float]] = {}
    for kind, fit in _KINDS.items():
        models = [fit(sample) for sample in samples]
        errors = [_misfit(m, sample) for m, sample in zip(models, samples, strict=True)]
        fits[kind] = models, float(np.sqrt(np.mean(np.square(errors))))
    best = "gain"
    for rivals, worth in ((("light", "offset", "gamma"), 0.2), (("smooth",), 0.7)):
        rival = min(rivals, key=lambda kind: fits[kind][1])
        better = fits[best][1] - fits[rival][1]
        if better > worth * LEVEL and fits[rival][1] < min(0.6 * fits[best][1], LEVEL):
            best = rival
    return best, *fits[best]


def _gain(sample: Samples) -> Model:
    x, y = sample.x, sample.y
    ratio = np.log(np.maximum(y, 1e-6) / np.maximum(x, 1e-6))
    gain = float(np.exp(np.median(ratio)))
    for _ in range(20):
        weight = _trust(y - gain * x)
        gain = float((weight * x * y).sum() / (weight * x * x).sum())
    return lambda v: gain * v


def _light(sample: Samples) -> Model:
    """A gain of light, seen through the curve of sRGB."""
    gain = _gain(Samples(to_light(sample.x), to_light(sample.y), sample.sides))
    return lambda v: from_light(gain(to_light(v)))


def to_light(v: Values) -> Values:
    """Light of values that sRGB encodes, both 0 to 1."""
    return np.where(v <= 0.04045, v / 12.92, ((np.maximum(v, 0.04045) + 0.055) / 1.055) ** 2.4)


def from_light(v: Values) -> Values:
    """Inverse of `to_light`."""
    return np.where(
        v <= 0.0031308, 12.92 * v, 1.055 * np.maximum(v, 0.0031308) ** (1 / 2.4) - 0.055
    )


def _affine(sample: Samples) -> Model:
    x, y = sample.x, sample.y
    slope = float(np.std(y) / max(float(np.std(x)), 1e-6))
    offset = float(np.median(y - slope * x))
    for _ in range(20):
        weight = _trust(y - slope * x - offset)
        total = weight.sum()
        mx, my = (weight * x).sum() / total, (weight * y).sum() / total
        # The ratio of deviations, not a regression: both have errors, and neither is favoured.
        spread = [float(np.sqrt((weight * (v - m) ** 2).sum())) for v, m in ((x, mx), (y, my))]
        slope = spread[1] / max(spread[0], 1e-6)
        offset = float(my - slope * mx)
    return lambda v: slope * v + offset


def _power(sample: Samples) -> Model:
    x, y = (np.log(np.maximum(v, 1e-4)) for v in (sample.x, sample.y))
    line = _affine(Samples(x, y, sample.sides))
    return lambda v: np.exp(line(np.log(np.maximum(v, 1e-4))))


def _smooth(sample: Samples) -> Model:
    """A gain, mended at the middle of every group of like brightness."""
    from scipy import interpolate, optimize  # a tenth of a second and 50 MB that only this needs

    base = _gain(sample)
    knots = []
    for sides in _groups(sample, sample.x + sample.y):
        if len(sides) == 2:
            # The mean of both sides: what blur does to one it does to the other the other way.
            knots.append([np.mean([np.median(v[side]) for side in sides]) for v in sample[:2]])
    if len(knots) < 4:
        return base
    px, py = np.array(knots).T
    keep = np.concatenate([[True], np.diff(np.maximum.accumulate(px)) > 0.005])
    px, py = px[keep], optimize.isotonic_regression(py[keep]).x
    if len(px) < 4:
        return base
    mend = interpolate.PchipInterpolator(px, py - base(px))

    def curve(v: Values) -> Values:
        # Beyond what was seen the simple curve goes on.
        inside = np.clip(v, px[0], px[-1])
        return base(v) + mend(inside) * np.clip(1 - np.abs(v - inside) / _FADE, 0, 1)

    return curve


_KINDS: Mapping[str, Callable[[Samples], Model]] = MappingProxyType(
    {"gain": _gain, "light": _light, "offset": _affine, "gamma": _power, "smooth": _smooth}
)


def _groups(sample: Samples, brightness: Values) -> list[list[NDArray[np.intp]]]:
    """Indices of like brightness, a list a group; in it one set for each side that has enough."""
    low, high = np.percentile(brightness, (0.2, 99.8))
    number = np.clip((brightness - low) / max(high - low, 1e-6) * _GROUPS, 0, _GROUPS - 1).astype(
        int
    )
    groups = []
    for group in range(_GROUPS):
        sides = [np.flatnonzero((number == group) & side) for side in sample.sides]
        sides = [side for side in sides if len(side) >= FEW // 2]
        if sides:
            groups.append(sides)
    return groups


def _trust(error: Values) -> Values:
    """Huber's weights: full up to 1.5 times the usual error, falling beyond."""
    usual = 1.5 * 1.4826 * float(np.median(np.abs(error))) + 1e-9
    return np.minimum(1, usual / np.maximum(np.abs(error), 1e-12))


def _misfit(model: Model, sample: Samples) -> float:
    """Root mean square, over groups of like brightness, of the error that both sides share.

    Blur draws the values of the softer picture together, which looks like a tone curve; but it
    is the opposite one on the other side of the focus. What only one side shows does not count.
    """
    result = model(sample.x)
    error = sample.y - result
    shared = [0.0]
    for sides in _groups(sample, result + sample.y):
        middles = [float(np.median(error[side])) for side in sides]
        agree = len(middles) == 2 and min(middles) * max(middles) > 0
        shared.append(min(map(abs, middles)) if agree else 0.0)
    return float(np.sqrt(np.mean(np.square(shared))))
