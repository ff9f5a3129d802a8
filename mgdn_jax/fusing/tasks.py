"""What people fuse pictures for: which network, and which preparation, a task takes.

Imports nothing heavy, so that the command line can show tasks at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mgdn_jax.fusing.options import FuseOptions


@dataclasses.dataclass(frozen=True)
class Task:
    """A kind of fusion.

    Attributes:
        name: what options call it.
        words: what a card's task holds, any of them.
        model: the bundled network for it.
        sources: what is fused.
        result: what comes out.
        options: the preparation that such sources need.
    """

    name: str
    words: tuple[str, ...]
    model: str
    sources: str
    result: str
    options: FuseOptions


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            Task(
                "focus",
                ("focus",),
                "mgdn-mff",
                "photographs with different focus, two or a whole stack",
                "sharp everywhere",
                FuseOptions(align=True, match_exposure=True, range="auto"),
            ),
            Task(
                "exposure",
                ("exposure",),
                "refusion-mef",
                "a bracket: the same view, dark to bright",
                "detail in shadows and highlights",
                FuseOptions(align=True, order="brightness", range="auto"),
            ),
            Task(
                "thermal",
                ("infrared",),
                "lkc-funet-small-ivf",
                "a thermal picture and a photograph",
                "warm things on the photograph, in its colours",
                FuseOptions(range="auto"),
            ),
            Task(
                "medical",
                ("medical",),
                "lkc-funet-small-mif",
                "CT, PET or SPECT with MRI",
                "bone, activity and soft tissue in one picture",
                FuseOptions(range="auto"),
            ),
        )
    }
)


def of_card(card: Mapping[str, Any]) -> Task | None:
    """The task that weights were trained for; None where the card names none of ours."""
    text = str(card.get("task", "")).lower()
    return next((task for task in TASKS.values() if any(w in text for w in task.words)), None)
