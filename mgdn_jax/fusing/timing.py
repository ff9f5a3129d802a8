"""Which frames of several videos belong together: those that are nearest in time.

One video is the clock: each of its frames becomes a frame of the result, with the frame of every
other video whose time is nearest. The first frames of all videos are at the same time, unless
offsets say otherwise. Frames of the clock before the first or after the last of another video have
no partner and are left out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from mgdn_jax.arguments import shown
from mgdn_jax.errors import InputError
from mgdn_jax.fusing.report import Report
from mgdn_jax.fusing.sources import letter

CLOCK = 1
"""The video whose times, sound and rate the result has: the second, usually the visible one."""
SAID = 1.0
"""Seconds without a partner, and between starts, from which on they are warned of."""
APART = 0.25
"""Seconds between partners from which on they are warned of."""
_MOST = 1e7


@dataclasses.dataclass(frozen=True)
class Pairing:
    """The frames of a result.

    Attributes:
        numbers: (frames, videos) int64, the number of each video's frame.
        apart: (videos,) the most seconds between a frame and that of the clock.
        left: frames of the clock left out before and after the stretch that all videos show.
        used: (videos,) how many frames of each are used.
    """

    numbers: np.ndarray
    apart: np.ndarray
    left: tuple[int, int]
    used: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)


def pair(
    times: Sequence[np.ndarray], intervals: Sequence[float], offsets: Sequence[float]
) -> Pairing:
    """Finds the partners of the clock's frames.

    Of two that are equally near the earlier one is taken. A video shows something from one of its
    intervals before its first frame to one after its last.

    Args:
        times: of each video's frames in seconds, ascending, from 0 for the first.
        intervals: seconds from one frame of each to the next, usually.
        offsets: seconds to add to the times of each.

    Raises:
        InputError: there is no time that all videos show.
    """
    moved = [np.asarray(t, np.float64) + offset for t, offset in zip(times, offsets, strict=True)]
    clock = moved[CLOCK]
    inside = np.ones(len(clock), bool)
    for other, interval in zip(moved, intervals, strict=True):
        reach = interval + 1e-9
        inside &= (clock >= other[0] - reach) & (clock <= other[-1] + reach)
    kept = np.flatnonzero(inside)
    if not len(kept):
        spans = "; ".join(f"{letter(i)}: {t[0]:.2f} to {t[-1]:.2f} s" for i, t in enumerate(moved))
        raise InputError(f"there is no time that all videos show ({spans}); check --offset.")
    numbers = np.stack([_nearest(clock[kept], other) for other in moved], -1)
    apart = [float(abs(other[numbers[:, i]] - clock[kept]).max()) for i, other in enumerate(moved)]
    used = [len(np.unique(numbers[:, i])) for i in range(len(moved))]
    left = (int(kept[0]), int(len(clock) - 1 - kept[-1]))
    return Pairing(numbers, np.array(apart), left, np.array(used))


def _nearest(wanted: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Number of the nearest time for each."""
    after = np.clip(np.searchsorted(times, wanted), 1, max(1, len(times) - 1))
    if len(times) == 1:
        return np.zeros(len(wanted), np.int64)
    is_before = wanted - times[after - 1] <= times[after] - wanted + 1e-9
    return np.where(is_before, after - 1, after).astype(np.int64)


def offsets(text: str | float | None, count: int) -> list[float]:
    """Seconds to add to the times of each video.

    Args:
        text: seconds for the first video; or ``A:SECONDS``, several with ``;`` between.
        count: of videos.

    Raises:
        InputError: a video that does not exist, or no number.
    """
    result = [0.0] * count
    for part in filter(None, (word.strip() for word in str(text or "").split(";"))):
        name, sign, seconds = part.rpartition(":")
        places = {letter(i): i for i in range(count)} | {str(i + 1): i for i in range(count)}
        place = places.get(name.strip().upper()) if sign else 0
        if place is None:
            raise InputError(
                f"offset {shown(part)} names video {shown(name)}, but the videos are A to "
                f"{letter(count - 1)}."
            )
        try:
            result[place] = float(seconds)
        except ValueError:
            result[place] = np.nan
        if not abs(result[place]) < _MOST:
            raise InputError(f"offset {shown(part)} is no number of seconds; write 0.4 or A:0.4.")
    return result


def stretch(text: str | None, count: int) -> range:
    """The frames of the result that are wanted.

    Args:
        text: ``FIRST:END`` from 0, without the last one, either of which may be left out; None is
            all.
        count: frames of the whole result.

    Raises:
        InputError: no such form, or no frame in it.
    """
    if text is None:
        return range(count)
    match = re.fullmatch(r"\s*(\d*)\s*:\s*(\d*)\s*", str(text), re.ASCII)
    if match is None or max(map(len, match.groups())) > 12:
        raise InputError(
            f"frames is {shown(text)}; write FIRST:END, 100:200 for instance, from 0 and without "
            "the last one."
        )
    first = int(match[1] or 0)
    end = min(int(match[2]), count) if match[2] else count
    if first >= end:
        raise InputError(
            f"frames {shown(text)} holds none of the {count} frames; choose from 0:{count}."
        )
    return range(first, end)


def describe(
    pairing: Pairing,
    names: Sequence[str],
    lengths: Sequence[int],
    intervals: Sequence[float],
    report: Report,
) -> None:
    """Says how frames were paired.

    Args:
        pairing: of the videos.
        names: what messages call them.
        lengths: how many frames each has.
        intervals: seconds from one frame of each to the next, usually.
        report: takes it.
    """
    clock = names[CLOCK]
    others = [i for i in range(len(names)) if i != CLOCK]
    for i in others:
        repeats = "" if pairing.used[i] == len(pairing) else ", some of them several times"
        dropped = f"{pairing.used[i]} of {lengths[i]} frames"
        report.note(
            "pairs",
            f"{len(pairing)} frames at the times of {clock}, each with the nearest of {names[i]} "
            f"(at most {1000 * pairing.apart[i]:.0f} ms apart): {dropped}"
            f"{repeats}.",
            source=names[i],
            frames=len(pairing),
            used=int(pairing.used[i]),
            of=int(lengths[i]),
            apart=round(float(pairing.apart[i]), 6),
        )
        if pairing.apart[i] > APART:
            report.warn(
                f"frames of {names[i]} lie up to {pairing.apart[i]:.2f} s from those of {clock} "
                "that they are fused with; it has gaps."
            )
    lost = sum(pairing.left)
    if lost:
        before, after = pairing.left
        sentence = (
            f"{lost} of {lengths[CLOCK]} frames of {clock} have no partner and are left out "
            f"({before} at the start, {after} at the end)."
        )
        report.note("stretch", sentence, before=before, after=after)
        if lost * intervals[CLOCK] > SAID:
            report.warn(sentence)
    for i in others:
        before = int(pairing.numbers[0, i])
        after = lengths[i] - 1 - int(pairing.numbers[-1, i])
        if (before + after) * intervals[i] > intervals[CLOCK]:
            report.note(
                "stretch",
                f"{before} frames at the start and {after} at the end of {names[i]} lie outside of "
                f"{clock} and are left out.",
                source=names[i], before=before, after=after,
            )  # fmt: skip
