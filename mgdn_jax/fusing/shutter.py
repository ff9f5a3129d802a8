"""Exposures in order: how much light each took in, and which three of them a network gets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from mgdn_jax import arguments
from mgdn_jax.errors import InputError
from mgdn_jax.fusing.report import Report
from mgdn_jax.io.metadata import Shot
from mgdn_jax.quantities.radiance import relative_times

INPUTS = 3
"""So many exposures a network takes."""
_EQUAL = 0.15  # stops; cameras round their times to thirds
_APART = 2.0, 3.0  # stops between the reference and either neighbour that networks are trained for


@dataclasses.dataclass(frozen=True)
class Choice:
    """What becomes of the exposures of a scene.

    Attributes:
        inputs: the sources that the network gets, as indices, from the shortest to the longest;
            one may come twice.
        reference: the source whose moment the result shows.
        times: of all sources, relative to the shortest one that is used.
    """

    inputs: tuple[int, ...]
    reference: int
    times: tuple[float, ...]

    @property
    def sources(self) -> tuple[int, ...]:
        """Sources that are used, each once, from the shortest to the longest."""
        return tuple(dict.fromkeys(self.inputs))


def light(
    names: Sequence[str],
    shots: Sequence[Shot],
    report: Report,
    *,
    times: Sequence[float] | None = None,
    ev: Sequence[float] | None = None,
) -> tuple[float, ...]:
    """How much light every exposure took in, relative to the darkest.

    Args:
        names: what messages call the exposures.
        shots: what their files say.
        report: takes where the numbers come from.
        times: seconds, in the order of the exposures; None for what the files say.
        ev: instead of them, steps of factors of two.

    Returns:
        Numbers of which the least is 1.

    Raises:
        InputError: numbers that do not fit, or none anywhere.
    """
    check_counts(len(names), times, ev)
    if times is not None or ev is not None:
        relative = relative_times(seconds=times, ev=ev)
        report.note("times", f"the exposures are {_steps(relative)} EV apart, as it was said.",
                    times=list(relative))  # fmt: skip
        return relative
    unknown = [name for name, shot in zip(names, shots, strict=True) if shot.seconds is None]
    if unknown:
        raise InputError(
            f"{unknown[0]} has no exposure time in its EXIF; give the times of all exposures with "
            "--times 1/500,1/60,1/8 (seconds), or their steps with --ev -3,0,3."
        )
    seconds = [float(shot.seconds or 0) for shot in shots]
    taken = list(seconds)
    words = [_fraction(x) for x in seconds]
    # What only some files say cannot be compared.
    if all(shot.sensitivity for shot in shots):
        taken = [x * float(s.sensitivity or 1) for x, s in zip(taken, shots, strict=True)]
        words = [f"{w} ISO {s.sensitivity:g}" for w, s in zip(words, shots, strict=True)]
    if all(shot.aperture for shot in shots):
        taken = [x / float(s.aperture or 1) ** 2 for x, s in zip(taken, shots, strict=True)]
        words = [f"{w} f/{s.aperture:.2g}" for w, s in zip(words, shots, strict=True)]
    relative = relative_times(seconds=taken)
    report.note(
        "times",
        f"by their EXIF the exposures are {_steps(relative)} EV apart ({', '.join(words)}).",
        times=list(relative),
        seconds=seconds,
    )
    return relative


def check_counts(
    count: int, times: Sequence[float] | None = None, ev: Sequence[float] | None = None
) -> None:
    """Finds out whether as many numbers were given as there are exposures.

    Raises:
        InputError: there are more or fewer.
    """
    for option, numbers in (("--times", times), ("--ev", ev)):
        if numbers is not None and len(arguments.reals(option, numbers)) != count:
            raise InputError(
                f"{option} has {len(numbers)} numbers for {count} exposures; give one for "
                "each, in the order of the files."
            )


def choose(names: Sequence[str], taken: Sequence[float], report: Report) -> Choice:
    """Orders exposures, and chooses the reference and the ones that a network gets.

    Args:
        names: what messages call the exposures.
        taken: how much light each took in, relative to any of them.
        report: takes the choice.

    Raises:
        InputError: there are not two different exposures.
    """
    order = sorted(range(len(names)), key=lambda i: (taken[i], i))
    different = [order[0]]
    for index in order[1:]:
        if _apart(taken, different[-1], index) > _EQUAL:
            different.append(index)
            continue
        report.note("equal", f"{names[index]} is as long as {names[different[-1]]} and was left "
                    "out.", source=names[index])  # fmt: skip
    if len(different) < 2:
        raise InputError(
            f"the {len(names)} exposures are equally long; give pictures of different exposure "
            "(--times and --ev say what their EXIF does not)."
        )
    if len(different) == 2:
        short, long = different
        report.note(
            "reference",
            f"{names[long]} is the reference, where moving things stay, and stands in for the "
            "missing third exposure.",
            source=names[long],
        )
        return _choice((short, long, long), long, taken)
    middle = (len(different) - 1) // 2
    reference = different[middle]
    report.note("reference", f"{names[reference]} is the reference: moving things are where it "
                "shows them.", source=names[reference])  # fmt: skip

    def suits(index: int) -> tuple[float, float]:
        apart = _apart(taken, reference, index)
        low, high = _APART
        return max(low - apart, apart - high, 0.0), -apart

    short = min(different[:middle], key=suits)
    long = min(different[middle + 1 :], key=suits)
    inputs = (short, reference, long)
    left = [names[i] for i in different if i not in inputs]
    if left:
        report.note(
            "chosen",
            f"the network takes {INPUTS} exposures: {', '.join(names[i] for i in inputs)}; "
            f"{', '.join(left)} {'were' if len(left) > 1 else 'was'} left out.",
            sources=[names[i] for i in inputs],
        )
    return _choice(inputs, reference, taken)


def _choice(inputs: tuple[int, ...], reference: int, taken: Sequence[float]) -> Choice:
    least = min(taken[i] for i in inputs)
    return Choice(inputs, reference, tuple(x / least for x in taken))


def _apart(taken: Sequence[float], first: int, second: int) -> float:
    """Stops between two exposures."""
    return abs(math.log2(taken[second] / taken[first]))


def _steps(relative: Sequence[float]) -> str:
    return ", ".join(f"{math.log2(x):.2g}" for x in relative)


def _fraction(seconds: float) -> str:
    """As photographers write it."""
    return f"1/{1 / seconds:.3g} s" if seconds < 0.3 else f"{seconds:.3g} s"
