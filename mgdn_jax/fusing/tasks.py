"""What people fuse pictures for: which network, and which preparation, a task takes.

Imports nothing heavy, so that the command line can show tasks at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from mgdn_jax import arguments
from mgdn_jax.errors import InputError
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
        still: the bundled network for videos, where that of pictures answers to what walks in with
            another tone everywhere; empty where it does not.
    """

    name: str
    words: tuple[str, ...]
    model: str
    sources: str
    result: str
    options: FuseOptions
    still: str = ""


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
                "mgdn-mef",
                "a bracket: the same view, dark to bright",
                "detail in shadows and highlights",
                FuseOptions(align=True, order="brightness", range="auto"),
            ),
            Task(
                "thermal",
                ("infrared",),
                "fusion-ivf",
                "a thermal picture and a photograph",
                "warm things on the photograph, in its colours",
                FuseOptions(range="auto"),
                still="refusion-ivf",
            ),
            Task(
                "medical",
                ("medical",),
                "fusion-mif",
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


DEPTH = "depth"
RADIANCE = "radiance"
PICTURES = ""
_DOORS = {
    PICTURES: ("pictures", "mgdn fuse, or mgdn_jax.load"),
    DEPTH: ("a depth map beside a photograph", "mgdn depth, or mgdn_jax.DepthUpsampler"),
    RADIANCE: ("exposures with their times", "mgdn hdr, or mgdn_jax.Deghoster"),
}


def quantity_of(card: Mapping[str, Any], in_channels: Sequence[int]) -> str:
    """What a network takes beside or in place of plain pictures.

    Three channels and one may be a photograph and a depth map, or a photograph and a thermal
    picture: there the card alone can tell.

    Args:
        card: of the weights; its ``preparation`` counts.
        in_channels: of the network, which count where the card says nothing.

    Returns:
        `PICTURES`, `DEPTH`, `RADIANCE`, or another quantity that the card names.
    """
    preparation = card.get("preparation") or {}
    if not isinstance(preparation, Mapping):
        raise InputError(
            f"on the weights' card, preparation is {arguments.shown(preparation)} and no object; "
            "write the weights again."
        )
    if "quantity" in preparation:
        return str(preparation["quantity"])
    return RADIANCE if set(in_channels) == {6} else PICTURES


def check_pictures(card: Mapping[str, Any], in_channels: Sequence[int]) -> None:
    """Refuses a network for anything but pictures, with the command that takes it.

    Args:
        card: as in `quantity_of`.
        in_channels: as in `quantity_of`.

    Raises:
        InputError: it takes a depth map, or exposures with their times.
    """
    quantity = quantity_of(card, in_channels)
    if quantity in (DEPTH, RADIANCE):
        raise _other_door(card, quantity)


def check_depth(card: Mapping[str, Any], in_channels: Sequence[int]) -> None:
    """Refuses a network for anything but depth maps.

    Args:
        card: as in `quantity_of`.
        in_channels: as in `quantity_of`.

    Raises:
        InputError: it takes no photograph with a depth map; weights that do not say what they
            take may.
    """
    quantity = quantity_of(card, in_channels)
    is_pair = tuple(in_channels) == (3, 1)
    if quantity not in (DEPTH, PICTURES) or (quantity == PICTURES and not is_pair):
        raise _other_door(card, quantity)
    if not is_pair:
        raise InputError(
            f"this network takes {', '.join(map(str, in_channels))} channels, not a photograph of "
            "3 and a depth map of 1; choose weights for guided depth super-resolution."
        )


def check_radiance(card: Mapping[str, Any], in_channels: Sequence[int]) -> None:
    """Refuses a network for anything but exposures with their times.

    Args:
        card: as in `quantity_of`.
        in_channels: as in `quantity_of`.

    Raises:
        InputError: it takes no exposures with the light that they show.
    """
    quantity = quantity_of(card, in_channels)
    if quantity != RADIANCE:
        raise _other_door(card, quantity)
    if set(in_channels) != {6}:
        raise InputError(
            f"this network takes {', '.join(map(str, in_channels))} channels, not exposures of 6; "
            "choose weights for HDR deghosting."
        )


def _other_door(card: Mapping[str, Any], quantity: str) -> InputError:
    noun, door = _DOORS.get(quantity, (f"the quantity {quantity!r}", "other weights"))
    name = card.get("name")
    return InputError(f"the network {name or 'of these weights'} takes {noun}; use {door}.")
