"""A cheap look at the pictures before they are fused: order, tone, and what is probably not meant.

Everything is measured on small copies; a stack is walked through once, two pictures at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mgdn_jax.fusing import cells, exposure, shifts
from mgdn_jax.fusing.likeness import looks_like, resemblance
from mgdn_jax.fusing.report import Report
from mgdn_jax.fusing.tasks import Task

STOPS = 0.1
"""A difference of exposure above this is said of pictures that should have one exposure."""

STRANGE = 0.2
"""Below this resemblance, and without a shift that is sure, pictures show other things."""

CELLS = 160
"""Cells along the longer side of small copies."""

_MOST = 3  # pictures of a stack that its kind is told from
_ONE_CAMERA = ("focus", "exposure")

Load = Callable[[int], np.ndarray]
Mask = Callable[[int], Any]


def by_brightness(load: Load, mask: Mask, names: Sequence[str], report: Report) -> list[int]:
    """The order from dark to bright, said where it is not that given.

    Args:
        load: pictures on the grid of the result.
        mask: where each is there.
        names: what messages call them.
        report: takes what was done.
    """
    order = exposure.order(_reduced(load, mask, len(names)))
    if order != sorted(order):
        listed = ", ".join(names[i] for i in order)
        report.note("order", f"the exposures were ordered from dark to bright: {listed}.",
                    order=order)  # fmt: skip
    return order


def _reduced(load: Load, mask: Mask, count: int) -> list[cells.Cells]:
    """Small copies of all pictures."""
    return [cells.cells(load(index), CELLS, mask(index)) for index in range(count)]


def curves(load: Load, mask: Mask, names: Sequence[str], report: Report) -> list:
    """What brings every picture to the tone of the first; None for pictures that have it.

    Args:
        load: pictures on the grid of the result.
        mask: where each is there.
        names: what messages call them.
        report: takes what was done.
    """
    previous, there = load(0), mask(0)
    result: list[Any] = [None]
    chain: Any = None
    for index in range(1, len(names)):
        current, here = load(index), mask(index)
        # Neighbours of a sweep are most alike in focus; their curves are chained to the first.
        curve = exposure.match(previous, current, (there, here))
        if curve.kind == "none":
            report.warn(
                f"the exposure of {names[index]} could not be compared with that of "
                f"{names[index - 1]}, so it was left as it is."
            )
        chain = curve if chain is None else curve.then(chain)
        if _is_idle(chain):
            result.append(None)
        else:
            stops = float(np.mean(chain.stops))
            report.note("match", f"{names[index]} was {-stops:+.2f} stops from {names[0]} and got "
                        "its tone.", source=names[index], stops=round(-stops, 4),
                        kind=curve.kind)  # fmt: skip
            result.append(chain)
        previous, there = current, here
    return result


def _is_idle(curve: Any) -> bool:
    """Whether a curve changes no level of 8 bits."""
    grid = np.linspace(0, 1, curve.table.shape[-1])
    return bool(np.abs(curve.table - grid).max() < 0.5 / 255)


def check(
    load: Load,
    mask: Mask,
    names: Sequence[str],
    task: Task | None,
    report: Report,
    *,
    is_placed: bool,
    is_matched: bool,
) -> None:
    """Warns of shifts, other exposures, and sets that are for another task.

    Args:
        load: pictures on the grid of the result.
        mask: where each is there.
        names: what messages call them.
        task: what the network is for.
        report: takes the warnings.
        is_placed: whether geometry was taken care of.
        is_matched: whether exposures were.
    """
    kind = _kind(load, len(names), task, report)
    if not is_placed:
        _shifts(load, names, kind or (task.name if task else ""), report)
    if not is_matched and task is not None and task.name == "focus" and kind in (None, "focus"):
        _exposures(_reduced(load, mask, len(names)), names, report)


def _kind(load: Load, count: int, task: Task | None, report: Report) -> str | None:
    """What kind of set it is, where that is clear; a warning where the network is for another."""
    places = sorted({round(place) for place in np.linspace(0, count - 1, min(count, _MOST))})
    kind = looks_like([load(place) for place in places]).kind
    if kind is None or task is None:
        return kind
    is_cross = kind == "cross-modal"
    if kind == task.name or (is_cross and task.name not in _ONE_CAMERA):
        return kind
    words = {
        "focus": "pictures of different focus",
        "exposure": "different exposures of one view",
        "cross-modal": "pictures of different cameras, infrared and visible for instance",
    }
    cure = "--task thermal or --task medical" if is_cross else f"--task {kind}"
    report.warn(
        f"the sources look like {words[kind]}, but the network was trained for {task.name}: "
        f"{task.sources}; {cure} chooses another."
    )
    return kind


def _shifts(load: Load, names: Sequence[str], kind: str, report: Report) -> None:
    """Warns of pictures that lie elsewhere than their neighbours, or show other things."""
    is_cross = kind not in _ONE_CAMERA
    moved, strange = [], []
    previous = load(0)
    for index in range(1, len(names)):
        current = load(index)
        found = shifts.shift(previous, current, kind="cross" if is_cross else "same")
        if found.is_noticeable:
            moved.append(
                f"{names[index]} by {found.largest:.1f} px ({found.x:+.1f}, {found.y:+.1f})"
            )
        elif not (is_cross or found.is_sure) and resemblance(previous, current) < STRANGE:
            strange.append(f"{names[index - 1]} and {names[index]}")
        previous = current
    if strange:
        report.warn(
            f"these do not seem to show one scene: {', '.join(strange)}; leave out what does not "
            "belong, or try --align where large parts overlap."
        )
    if not moved:
        return
    cure = "--register brings them together" if is_cross else "--align brings them together"
    to = names[0] if len(names) == 2 else "the picture before"
    report.warn(f"shifted against {to}: {', '.join(moved)}; {cure}.")


def _exposures(reduced: Sequence[cells.Cells], names: Sequence[str], report: Report) -> None:
    """One warning that names every picture that is brighter or of another colour than the first."""
    other = []
    for index in range(1, len(names)):
        found = exposure.compare(reduced[0], reduced[index])
        if found.reliability >= 0.5 and found.largest > STOPS:
            other.append(f"{names[index]} by {found.stops:+.2f} stops")
    if other:
        report.warn(
            f"exposed or coloured otherwise than {names[0]}: {', '.join(other)}; "
            "--match-exposure gives all pictures its tone."
        )
