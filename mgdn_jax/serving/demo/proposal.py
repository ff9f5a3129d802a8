"""Which task pictures are for, as far as they show it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mgdn_jax.fusing import cells, looks, preparation, tasks
from mgdn_jax.fusing.likeness import looks_like
from mgdn_jax.fusing.options import USUAL, FuseOptions
from mgdn_jax.fusing.sources import Sources
from mgdn_jax.io.pictures import Picture

_DARK = 0.03
# Share of a picture that is black in all, and of what is black in one of them. Of 771 medical pairs
# none has less than 0.21 and 0.85; of 368 thermal ones none has more than 0.13 black in both.
_SURROUNDINGS, _SHARED = 0.17, 0.75
_MOST = 3  # pictures of a stack that are looked at
_LOOK = FuseOptions(range="auto", resize=True, checks=False).otherwise(USUAL)


def propose(pictures: Sequence[Picture]) -> tasks.Task | None:
    """Looks at pictures of one scene and says what they are fused for.

    Pictures of two kinds of sensor are medical where they lie in a patient or hold Hounsfield
    units, or lie in black that they share; else they are thermal.

    Args:
        pictures: two or more, of any sizes and types.

    Returns:
        The task; None where it is not clear.

    Raises:
        InputError: a picture without pixels, or of values that stand for none.
    """
    if any(picture.labels.geometry is not None for picture in pictures):
        return tasks.TASKS["medical"]
    places = sorted(
        {round(x) for x in np.linspace(0, len(pictures) - 1, min(len(pictures), _MOST))}
    )
    chosen = Sources([pictures[place] for place in places])
    # A dark exposure is not spread over the range by itself: the task has all share one.
    prepared = preparation.prepare(chosen, _LOOK, task=tasks.TASKS["exposure"])
    views = [prepared.picture(position) for position in range(len(prepared))]
    kind = looks_like(views).kind
    if kind != "cross-modal":
        return None if kind is None else tasks.TASKS[kind]
    is_medical = any(about.unit == "HU" for about in prepared.survey.statistics) or _on_black(views)
    return tasks.TASKS["medical" if is_medical else "thermal"]


def _on_black(views: Sequence[np.ndarray]) -> bool:
    """Whether all pictures lie in the same black surroundings."""
    dark = np.stack([cells.cells(x, looks.CELLS).luminance < _DARK for x in views])
    shared, least = float(dark.all(0).mean()), float(dark.mean((1, 2)).min())
    return shared > _SURROUNDINGS and shared > _SHARED * least
