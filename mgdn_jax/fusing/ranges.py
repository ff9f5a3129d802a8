"""Which values of a source are black and white: bits, windows, percentiles, limits of a user.

A network takes light in [0, 1]. A file may hold counts of a thermal camera in a narrow band of 16
bits, 12 bits of a scanner, kelvin or Hounsfield units. A `Range` says what becomes 0 and 1.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from mgdn_jax.arguments import shown
from mgdn_jax.errors import InputError, nearest
from mgdn_jax.fusing import masks
from mgdn_jax.fusing.sources import letter
from mgdn_jax.io.pictures import Picture
from mgdn_jax.io.pixels import without_alpha

RULES = ("type", "auto", "percentile")
NARROW = 0.05
"""A source that uses less of its type than this is not passed on unseen."""
SHARE = 0.1
"""Percent of the pixels that are cut off at either end by ``percentile``."""
LEAST_CONTRAST = 0.5
"""Part of [0, 1] that a narrow source is spread over at least."""
WINDOWS = {
    "brain": (40.0, 80.0),
    "subdural": (75.0, 215.0),
    "stroke": (40.0, 40.0),
    "bone": (600.0, 2800.0),
    "lung": (-600.0, 1500.0),
    "mediastinum": (50.0, 350.0),
    "soft-tissue": (50.0, 400.0),
    "abdomen": (60.0, 400.0),
    "liver": (30.0, 150.0),
    "angio": (300.0, 600.0),
}
"""Level and width of the usual windows of computed tomography, in Hounsfield units."""

MOST, LEAST_WIDTH = 1e30, 1e-30
"""Limits lie within this number of 0 and at least the other apart; floats of 32 bits end soon."""

_SAMPLES = 1_000_000
_BITS = (8, 10, 12, 14)
_LIMIT = re.compile(r"([+-]?[0-9.]+(?:e[+-]?[0-9]+)?)([CFK]?)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What is known about a source's values, of the pixels that are there.

    Attributes:
        dtype: as the file has it.
        low: smallest value.
        high: largest value.
        robust: what `SHARE` percent of the values lie below, and above.
        span: what the file declares as black and white, or None.
        unit: ``"HU"``, ``"K"``, or ``""``.
        window: what the file declares as its display window, or None.
        span_of_channel: what the values of one channel span at most; 0 for one flat colour.
    """

    dtype: np.dtype
    low: float
    high: float
    robust: tuple[float, float]
    span: tuple[float, float] | None = None
    unit: str = ""
    window: tuple[float, float] | None = None
    span_of_channel: float = math.inf

    @property
    def full(self) -> tuple[float, float]:
        """Black and white of the type; 0 and 1 for floats."""
        return type_range(self.dtype)

    @property
    def is_plain(self) -> bool:
        """Whether the type says what is black and white: 8 and 16 bits, floats in [0, 1]."""
        if self.dtype.kind == "f":
            return self.low >= -1e-6 and self.high <= 1 + 1e-6
        return self.dtype in (np.uint8, np.uint16)

    @property
    def used(self) -> float:
        """The part of the type that the values use."""
        low, high = self.full
        return (self.robust[1] - self.robust[0]) / (high - low)


@dataclasses.dataclass(frozen=True)
class Range:
    """What becomes 0 and 1.

    Attributes:
        low: black.
        high: white.
        rule: ``"type"``, ``"declared"``, ``"bits"``, ``"percentile"``, ``"window"`` or ``"given"``.
    """

    low: float
    high: float
    rule: str = "type"

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, C) values to float32 in [0, 1]; what lies beyond is cut off."""
        scale = np.float32(1.0 / (self.high - self.low))
        if pixels.dtype.kind in "iu" and pixels.dtype.itemsize >= 4:
            pixels = pixels.astype(np.float64)
        out = np.subtract(pixels, self.low, dtype=np.result_type(pixels.dtype, np.float32))
        return np.clip(out.astype(np.float32, copy=False) * scale, 0.0, 1.0)

    def contrast(self, about: Statistics) -> float:
        """What one channel of a source spans between black and white, in [0, 1]."""
        return min(max(about.span_of_channel / (self.high - self.low), 0.0), 1.0)

    def restore(self, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Floats in [0, 1] back to values of the source."""
        scaled = values.astype(np.float64) * (self.high - self.low) + self.low
        if np.dtype(dtype).kind == "f":
            return scaled.astype(dtype)
        limits = np.iinfo(dtype)
        return np.clip(np.rint(scaled), limits.min, limits.max).astype(dtype)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


def type_range(dtype: np.dtype) -> tuple[float, float]:
    """Black and white of a type: all of it, 0 and 1 for floats."""
    if np.dtype(dtype).kind == "f":
        return 0.0, 1.0
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)


def statistics(
    pixels: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    span: tuple[float, float] | None = None,
    unit: str = "",
    window: tuple[float, float] | None = None,
) -> Statistics:
    """Looks at a source's values.

    Args:
        pixels: (H, W, C).
        mask: (H, W), True where the picture is there; None everywhere.
        span: as of `Picture`.
        unit: as of `Picture`.
        window: as of `Picture`.
    """
    values = pixels.reshape(-1, pixels.shape[-1]) if mask is None else pixels[mask]
    if values.size == 0:
        values = pixels.reshape(-1, pixels.shape[-1])
    sample = values[:: max(1, len(values) // _SAMPLES)]
    low, high = np.percentile(sample, (SHARE, 100 - SHARE))
    # Single pixels decide neither; but bits need the largest value that there is.
    return Statistics(
        pixels.dtype,
        float(values.min()),
        float(values.max()),
        (float(low), float(high)),
        span,
        unit,
        window,
        max(float(np.ptp(values[:, k].astype(np.float64))) for k in range(values.shape[-1])),
    )


def span_of(pixels: np.ndarray) -> float:
    """What the values of one channel span at most, as in `Statistics.span_of_channel`.

    Args:
        pixels: (H, W) or (H, W, C), without holes.
    """
    colour = without_alpha(pixels)
    return float((colour.max((0, 1)).astype(np.float64) - colour.min((0, 1))).max())


def of_picture(picture: Picture) -> Statistics:
    """Statistics of a source as it was read, of the pixels that are there."""
    return statistics(
        without_alpha(picture.pixels),
        masks.of_alpha(picture.pixels),
        span=picture.span,
        unit=picture.unit,
        window=picture.window,
    )


def percentiles(
    pixels: np.ndarray, mask: np.ndarray | None, percentages: tuple[float, float]
) -> tuple[float, float]:
    """Values that so many percent of the pixels that are there lie below."""
    values = pixels.reshape(-1, pixels.shape[-1]) if mask is None else pixels[mask]
    values = values[:: max(1, len(values) // _SAMPLES)]
    if values.size == 0:
        return type_range(pixels.dtype)
    low, high = np.percentile(values, percentages)
    return float(low), float(high)


def pooled(parts: Sequence[Statistics]) -> Statistics:
    """Statistics of several pictures of one kind, of a stack or a folder."""
    return dataclasses.replace(
        parts[0],
        low=min(p.low for p in parts),
        high=max(p.high for p in parts),
        robust=(min(p.robust[0] for p in parts), max(p.robust[1] for p in parts)),
        span_of_channel=max(p.span_of_channel for p in parts),
    )


# ------------------------------------------------------------------------------ what was asked for


def rules(text: str | None, count: int, default: str) -> list[str]:
    """The rule of each source.

    Args:
        text: ``RULE`` for all sources or ``A:RULE``, several with ``;`` between; RULE is one of
            `RULES`, ``percentile,LO,HI`` or ``LO,HI`` (kelvin may be written ``20C,40C``).
        count: of sources.
        default: the rule where the text says nothing.

    Raises:
        InputError: a rule or a source that does not exist.
    """
    chosen = [default] * count
    for part in filter(None, (word.strip() for word in (text or "").split(";"))):
        place, rule = _place(part, count, "range")
        _parsed(rule)
        for index in range(count) if place is None else (place,):
            chosen[index] = rule
    return chosen


def windows(text: str | None, count: int) -> list[tuple[float, float] | None]:
    """Level and width asked for each source; those of all sources count for Hounsfield units only.

    Args:
        text: a name of `WINDOWS` or ``LEVEL,WIDTH``, or ``A:`` in front of either; several with
            ``;`` between.
        count: of sources.

    Raises:
        InputError: a window or a source that does not exist.
    """
    chosen: list[tuple[float, float] | None] = [None] * count
    for part in filter(None, (word.strip() for word in (text or "").split(";"))):
        place, rule = _place(part, count, "window")
        for index in range(count) if place is None else (place,):
            chosen[index] = _window(rule)
    return chosen


def names_source(text: str | None, index: int) -> bool:
    """Whether an option names a source by its letter or number, not all of them."""
    words = [word.strip() for word in (text or "").split(";") if ":" in word]
    places = {word.partition(":")[0].strip().upper() for word in words}
    return bool(places & {letter(index), str(index + 1)})


def _place(part: str, count: int, option: str) -> tuple[int | None, str]:
    name, sign, rule = part.partition(":")
    if not sign:
        return None, part
    known = {letter(i): i for i in range(count)} | {str(i + 1): i for i in range(count)}
    if name.strip().upper() not in known:
        last = letter(count - 1)
        raise InputError(
            f"{option} {part!r} names source {name!r}, but the sources are A to {last}."
        )
    return known[name.strip().upper()], rule.strip()


def _window(rule: str) -> tuple[float, float]:
    if rule.lower() in WINDOWS:
        return WINDOWS[rule.lower()]
    try:
        level, width = (float(word) for word in rule.split(","))
    except ValueError:
        raise InputError(
            f"there is no window {rule!r}; {nearest(rule, WINDOWS)} or write LEVEL,WIDTH."
        ) from None
    if not (abs(level) <= MOST and LEAST_WIDTH <= width <= MOST):
        raise InputError(f"window {shown(rule)} has no width that can be; write LEVEL,WIDTH.")
    return level, width


def _parsed(rule: str) -> tuple[str, tuple[float, float] | None]:
    """Kind of a rule and its two numbers.

    Raises:
        InputError: no such rule.
    """
    head, _, tail = rule.partition(",")
    if rule in RULES:
        return rule, None
    if head == "percentile":
        low, high = _limits(tail, rule)
        if not 0 <= low < high <= 100:
            raise InputError(f"range {rule!r} needs two percentages, such as percentile,1,99.")
        return head, (low, high)
    low, high = _limits(rule, rule)
    if not (max(abs(low), abs(high)) <= MOST and high - low >= LEAST_WIDTH):
        raise InputError(
            f"range {shown(rule)} runs from {low:g} to {high:g}; give LO,HI with LO < HI, neither "
            f"beyond {MOST:g}."
        )
    return "given", (low, high)


def _limits(text: str, rule: str) -> tuple[float, float]:
    matches = [_LIMIT.fullmatch(word.strip()) for word in text.split(",")]
    if len(matches) != 2 or any(m is None for m in matches):
        raise InputError(
            f"there is no range {rule!r}; write LO,HI, A:LO,HI, or one of {', '.join(RULES)}."
        )
    try:
        low, high = (_kelvin(float(m[1]), m[2]) for m in matches if m)
    except ValueError:
        raise InputError(f"range {rule!r} holds no two numbers; write LO,HI.") from None
    return low, high


def _kelvin(value: float, unit: str) -> float:
    if unit.upper() == "C":
        return value + 273.15
    return (value + 459.67) / 1.8 if unit.upper() == "F" else value


# --------------------------------------------------------------------------------- what is done


def choose(
    name: str,
    about: Statistics,
    rule: str,
    *,
    window: tuple[float, float] | None = None,
    percentiles: tuple[float, float] | None = None,
    contrast: tuple[float, float] | None = None,
) -> tuple[Range, str, str]:
    """The range of one source.

    Args:
        name: what messages call the source.
        about: its values; of all sources pooled where they are pictures of one camera.
        rule: as `rules` gives it.
        window: level and width asked for.
        percentiles: what the values at the percentages of the rule are, where it names any.
        contrast: where in [0, 1] the values of the other sources lie; those of a narrow source
            are spread over the same by ``"auto"``. None is over all.

    Returns:
        The range; what was done, a sentence or ``""``; and a warning or ``""``.

    Raises:
        InputError: floats outside [0, 1] or signed values, and the rule is ``"type"``.
    """
    kind, numbers = _parsed(rule)
    if window is not None:
        level, width = window
        limits = (level - width / 2, level + width / 2)
        return _range(limits, about, "window"), f"{name}: window {level:g}, {width:g}.", ""
    if kind == "given":
        assert numbers is not None
        beyond = about.robust[1] < numbers[0] or about.robust[0] > numbers[1]
        warning = (
            f"{name} holds values from {about.low:g} to {about.high:g}, all outside the range "
            f"{numbers[0]:g} to {numbers[1]:g} that was given."
            if beyond
            else ""
        )
        return Range(*numbers, "given"), f"{name}: {numbers[0]:g} to {numbers[1]:g}.", warning
    if kind == "percentile":
        chosen = _range(percentiles or about.robust, about, "percentile")
        return chosen, f"{name}: percentiles, {chosen}.", ""
    return _of_type(name, about) if kind == "type" else _automatic(name, about, contrast)


def _of_type(name: str, about: Statistics) -> tuple[Range, str, str]:
    """The whole type, with a word where that is hardly what is meant."""
    if about.dtype.kind == "f" and (about.low < -1e-6 or about.high > 1 + 1e-6):
        raise InputError(
            f"{name} has float pixels from {about.low:.4g} to {about.high:.4g}; scale them to "
            "[0, 1] first, or say which values are black and white (--range LO,HI or --range auto)."
        )
    if about.dtype.kind == "i" or (about.dtype.itemsize > 2 and about.dtype.kind == "u"):
        raise InputError(
            f"{name} is {about.dtype}, from {about.low:g} to {about.high:g}; convert it to uint8, "
            "uint16 or float32, or say which values are black and white (--range LO,HI or auto)."
        )
    advice = "say which values are black and white with --range LO,HI, or try --range percentile"
    is_narrow = about.used < NARROW and about.high > about.low
    return Range(*about.full), "", _narrow(name, about, advice) if is_narrow else ""


def _narrow(name: str, about: Statistics, rest: str) -> str:
    return (
        f"{name} uses {100 * about.used:.2g} % of the range of its type "
        f"({about.robust[0]:g} to {about.robust[1]:g} of {about.dtype}); {rest}."
    )


def _automatic(
    name: str, about: Statistics, contrast: tuple[float, float] | None
) -> tuple[Range, str, str]:
    """What a stranger's file needs: declared limits, fewer bits, or percentiles."""
    if about.window is not None:
        level, width = about.window
        chosen = _range((level - width / 2, level + width / 2), about, "window")
        return chosen, f"{name}: the file's window {level:g}, {width:g}.", ""
    if about.unit == "HU":
        chosen = _range(about.robust, about, "percentile")
        warning = (
            f"{name} holds Hounsfield units from {about.low:g} to {about.high:g}, which were read "
            f"from {chosen}; choose a window with --window brain, or LEVEL,WIDTH."
        )
        return chosen, f"{name}: percentiles, {chosen}.", warning
    if about.span is not None:
        chosen = Range(*about.span, "declared")
        return chosen, f"{name}: {chosen}, as the file says.", ""
    if not about.is_plain:
        return _odd(name, about, contrast)
    bits = 16
    if about.dtype == np.uint16 and about.high > 0:
        bits = next((b for b in _BITS if about.high < 2**b), 16)
    white = 2**bits - 1 if about.dtype == np.uint16 else about.full[1]
    width = (about.robust[1] - about.robust[0]) / white
    is_narrow = width < NARROW or _is_band(about, white, contrast)
    if is_narrow and about.high > about.low and about.dtype != np.uint8:
        chosen = _spread(about, contrast)
        said = f"{chosen} was taken as black to white; --range LO,HI chooses others"
        return chosen, f"{name}: percentiles, {chosen}.", _narrow(name, about, said)
    if bits < 16 and not is_narrow:
        chosen = Range(0, white, "bits")
        warning = (
            f"{name} has no value above {about.high:g}, so it was read as {bits} bits "
            f"(0 to {white}) in a file of 16; --range type takes all 16."
        )
        return chosen, f"{name}: {bits} bits, {chosen}.", warning
    chosen, said, warning = _of_type(name, about)
    return chosen, said, warning


def _is_band(about: Statistics, white: float, contrast: tuple[float, float] | None) -> bool:
    """Whether values lie in a band far from black, with a third of the contrast beside them."""
    low, high = about.robust
    if contrast is None or low <= high - low:
        return False
    return (high - low) / white < (contrast[1] - contrast[0]) / 3


def _spread(about: Statistics, contrast: tuple[float, float] | None) -> Range:
    """The robust values over the contrast of the other sources."""
    chosen = _range(about.robust, about, "percentile")
    low, high = contrast or (0.0, 1.0)
    width = (chosen.high - chosen.low) / (high - low)
    start = chosen.low - low * width
    return dataclasses.replace(chosen, low=start, high=start + width)


def _odd(
    name: str, about: Statistics, contrast: tuple[float, float] | None
) -> tuple[Range, str, str]:
    """Signed, wide or physical values without a declared range."""
    chosen = _spread(about, contrast)
    what = f"{about.dtype} from {about.low:g} to {about.high:g}"
    cure = (
        "choose a window with --window brain (or LEVEL,WIDTH), or --range LO,HI"
        if about.low < 0 and about.dtype.kind == "i"
        else "--range LO,HI chooses others"
    )
    warning = f"{name} holds {what}, which was read from {chosen}; {cure}."
    return chosen, f"{name}: percentiles, {chosen}.", warning


def _range(limits: tuple[float, float], about: Statistics, rule: str) -> Range:
    """Limits that are apart, whatever the picture."""
    low, high = limits
    if not high > low:
        low, high = about.low, about.high
    if not high > low:
        low, high = low - 0.5, low + 0.5
    return Range(low, high, rule)


def percentages(rule: str) -> tuple[float, float] | None:
    """The percentages that a rule names, or None."""
    kind, numbers = _parsed(rule)
    return numbers if kind == "percentile" else None
