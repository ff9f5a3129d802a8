"""A map of numbers as a picture to look at: colours, and a scale bar with numbers and a unit."""

from __future__ import annotations

import functools
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from mgdn_jax.errors import InputError

MISSING = (128, 128, 128)
"""The colour of what is missing; no value has it."""
_STEPS = 256
_DARK, _BRIGHT = 0.24, 0.93  # lightness of the least and the largest value in OKLab
_HUES = (305.0, 100.0)  # degrees: violet, by blue and green, to yellow
_CHROMA = 0.16
_TAIL = 0.5  # percent of the values at either end that share the colour of the limit
_SMALLEST, _LARGEST = (
    240,
    2000,
)  # rows and columns of a picture that is neither enlarged nor thinned
_LETTERS, _BAR, _GAP, _TICK = 13, 16, 10, 4
_MOST_TICKS = 8
_INK, _PAPER = (0, 0, 0), (255, 255, 255)


@functools.cache
def colours() -> np.ndarray:
    """The colours from the least to the largest value: (256, 3) uint8.

    Lightness in OKLab rises evenly, so that equal steps look equal, also in gray or to eyes that
    see few hues. The hue turns from violet to yellow, as strong as sRGB can show it.
    """
    t = np.linspace(0, 1, _STEPS)
    lightness = _DARK + (_BRIGHT - _DARK) * t
    hue = np.deg2rad(_HUES[0] + (_HUES[1] - _HUES[0]) * t)
    table = np.zeros((_STEPS, 3))
    for chroma in np.linspace(0, _CHROMA, 65):  # the strongest that still lies inside is kept
        light = _linear(lightness, chroma * np.cos(hue), chroma * np.sin(hue))
        fits = ((light >= 0) & (light <= 1)).all(-1)
        table[fits] = light[fits]
    curved = np.where(table <= 0.0031308, 12.92 * table, 1.055 * table ** (1 / 2.4) - 0.055)
    return np.rint(255 * curved).astype(np.uint8)


def _linear(lightness: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """OKLab (Ottosson 2020) to linear sRGB, (N, 3)."""
    cones = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    matrix = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    return (matrix @ cones**3).T


def coloured(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """A map in colours.

    Args:
        values: (H, W); what is not finite is missing.
        low: the value of the darkest colour.
        high: the value of the brightest colour; not above `low`: all values get the middle one.

    Returns:
        (H, W, 3) uint8.
    """
    valid = np.isfinite(values)
    share = np.full(values.shape, 0.5)
    if high > low:
        share[valid] = (values[valid].astype(np.float64) - low) / (high - low)
    index = np.rint((_STEPS - 1) * share.clip(0, 1)).astype(np.int64)
    return np.where(valid[..., None], colours()[index], np.array(MISSING, np.uint8))


def preview(values: np.ndarray, unit: str = "") -> np.ndarray:
    """A map in colours with a scale bar beside it.

    Half a percent of the values at either end lies beyond the bar and has the colour of its end,
    so that single values do not take the contrast. Small maps are enlarged by whole numbers, large
    ones are thinned.

    Args:
        values: (H, W); what is not finite is missing, and gray.
        unit: over the bar; empty for none.

    Returns:
        (H', W', 3) uint8.

    Raises:
        InputError: there is no finite value.
    """
    present = values[np.isfinite(values)]
    if not present.size:
        raise InputError("a map without values has no preview; give one that measures something.")
    low, high = (float(x) for x in np.percentile(present, (_TAIL, 100 - _TAIL)))
    picture = coloured(_sized(values), low, high)
    has_gaps = present.size < values.size
    bar = _bar(picture.shape[0], low, high, unit, has_gaps)
    return np.concatenate([picture, bar], 1)


def _sized(values: np.ndarray) -> np.ndarray:
    """A map that numbers beside it can be read with."""
    larger = max(1, math.ceil(_SMALLEST / values.shape[0]))
    larger = min(larger, max(1, _LARGEST // max(values.shape)))
    thinner = max(1, math.ceil(max(values.shape) / _LARGEST))
    return values[::thinner, ::thinner].repeat(larger, 0).repeat(larger, 1)


def ticks(low: float, high: float, most: int = _MOST_TICKS) -> list[float]:
    """Round numbers between two limits.

    Args:
        low: the lower limit.
        high: the upper limit.
        most: of the numbers, at least 2.

    Returns:
        Multiples of 1, 2 or 5 times a power of ten, ascending; the one value where both are equal.
    """
    if not high > low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10, 20) if m * power >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def _bar(height: int, low: float, high: float, unit: str, has_gaps: bool) -> np.ndarray:
    """The strip at the right: unit, colours with numbers, and what gray means."""
    font = _font()
    top, bottom = 2 * _LETTERS, height - _LETTERS - (2 * _LETTERS if has_gaps else 0)
    length = max(bottom - top, 2)
    room = max(2, length // (2 * _LETTERS))
    marks = ticks(low, high, min(_MOST_TICKS, room))
    texts = [f"{mark:g}" for mark in marks]
    left = _GAP + _BAR + _TICK + 4
    labels = [*texts, *([unit] if unit else []), *(["missing"] if has_gaps else [])]
    width = left + math.ceil(max(font.getlength(label) for label in labels)) + _GAP
    strip = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(strip)
    if unit:
        _write(draw, (left, _LETTERS), unit, font)
    shades = coloured(np.linspace(1, 0, length)[:, None].repeat(_BAR, 1), 0, 1)
    strip.paste(Image.fromarray(shades), (_GAP, top))
    for mark, text in zip(marks, texts, strict=True):
        share = (mark - low) / (high - low) if high > low else 0.5
        row = round(top + (1 - share) * (length - 1))
        draw.line([(_GAP + _BAR, row), (_GAP + _BAR + _TICK, row)], fill=_INK)
        _write(draw, (left, row), text, font)
    if has_gaps:
        row = height - _LETTERS - _LETTERS // 2
        box = [_GAP, row - _LETTERS // 2, _GAP + _BAR - 1, row + _LETTERS // 2]
        draw.rectangle(box, fill=MISSING)
        _write(draw, (left, row), "missing", font)
    return np.asarray(strip)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The letters that come with Pillow, without outlines where it lacks FreeType."""
    if features.check_module("freetype2"):
        return ImageFont.load_default(_LETTERS)
    return ImageFont.load_default()


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, font) -> None:
    """Text that begins at a column, its middle on a row."""
    left, top, _, bottom = font.getbbox(text)
    draw.text((place[0] - left, place[1] - (top + bottom) / 2), text, fill=_INK, font=font)
