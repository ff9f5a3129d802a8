"""Every option of a call that fuses, named once: for Python, the command line and cards alike.

Imports nothing heavy, so that the command line can show them at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from mgdn_jax.errors import InputError, nearest

PADDINGS = ("script", "network")
CONTEXTS = ("global", "local")
CHROMAS = ("centred", "parity")
STRETCHES = ("none", "minmax", "fill")
ENSEMBLES = ("none", "flips")


def _option(help: str, *, choices: Sequence[str] = (), default: Any = None) -> Any:
    """A field with what the command line shows of it."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": tuple(choices)})


@dataclasses.dataclass(frozen=True)
class FuseOptions:
    """How pictures are fused; None leaves a choice to the weights' card, or to what is usual.

    Attributes:
        tile: longest edge of a tile in pixels, a multiple of the network's grid (tiles are made
            even, so they may be shorter); 0 never tiles; None is 512 above 1.5 megapixels, else 0.
        overlap: pixels that neighbouring tiles share and blend over, at least; None is 64, or a
            quarter of a tile below 256.
        tile_context: ``"global"`` runs all tiles twice, first to sum the network's global
            statistics over the picture, so that tiles agree; ``"local"`` lets every tile use its
            own. None is global.
        padding: ``"script"`` (mirrored to the next multiple of 8 plus, always at least one row, as
            the published MGDN script does) or ``"network"`` (reflected to a multiple of the grid,
            as the network does by itself). Global statistics see the padding, so this changes the
            whole picture slightly. None is the card's, else network.
        chroma: for networks that fuse luminance: ``"centred"`` (BT.601; two colour pictures mix by
            distance from neutral) or ``"parity"`` (the rounded constants and the uncentred mix of
            ReFusion's published code). A picture whose channels are equal everywhere counts as
            gray. None is the card's, else centred.
        stretch: ``"none"`` (the network's values), ``"minmax"`` (every result of the network spread
            over the full range before colour comes back, which some published figures rest on and
            which discards brightness and contrast; a constant result stays as it is) or ``"fill"``
            (cut off at black and white first, so that contrast never falls, whatever few values
            lie beyond). Stacks are stretched once, at the end. None is the card's, else none.
        ensemble: ``"none"``, or ``"flips"``: the mean over the picture as it is and mirrored along
            either axis and both, each turned back, before any stretch: four times the work, and
            two float pictures of the result's size (the geometric self-ensemble of EDSR, Lim et
            al. 2017, section 3.4, less its quarter turns). None is the card's, else none.
        bucket: an untiled picture is padded to multiples of so many pixels, which the network
            masks out, so that pictures of similar sizes share one compiled program; the result is
            the same up to rounding. 0 does not; without effect on networks that cannot
            (`Fuser.has_buckets`). None is 64 for folders, else 0.
        scale: for networks that weigh their inputs (`Config.blends`): what the sides of the
            pictures are divided by before the network judges them; its weights then guide
            evidence at full size (see docs/use/tiles.md). 1 is the network at full size. 0 reduces
            pictures above 1.5 megapixels to about a third of one, at most eightfold, where `tile`
            is None, and leaves smaller ones alone. None is 0.

    Raises:
        InputError: a choice that does not exist, a negative bucket or scale, or a scale above 1
            together with tiles.
    """

    tile: int | None = _option("longest tile edge; 0: never (only large pictures)")
    overlap: int | None = _option("pixels tiles share (64)")
    tile_context: str | None = _option(
        "statistics of the whole picture for every tile (global), or of the tile alone, twice as"
        " fast",
        choices=CONTEXTS,
    )
    padding: str | None = _option("how borders are extended (per model)", choices=PADDINGS)
    chroma: str | None = _option("colour beside luminance (per model)", choices=CHROMAS)
    stretch: str | None = _option(
        "spread the fused values over the full range, per picture; fill cuts off what is beyond"
        " black and white first (per model)",
        choices=STRETCHES,
    )
    ensemble: str | None = _option(
        "average over the mirrored pictures, four times the work (per model)", choices=ENSEMBLES
    )
    bucket: int | None = _option(
        "pad to multiples of N pixels, which the network leaves out (where it can), so that fewer"
        " sizes are compiled (64 for folders, 0 else: never)"
    )
    scale: int | None = _option(
        "the network judges pictures of 1/N of the size, the rest is evidence at full size; 1:"
        " never (0: photographs above 1.5 megapixels, for models that can)"
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, choices = getattr(self, field.name), field.metadata["choices"]
            if value is not None and choices and value not in choices:
                raise InputError(f"{field.name} is {value!r}; choose one of {', '.join(choices)}.")
        if self.bucket is not None and self.bucket < 0:
            raise InputError(f"bucket is {self.bucket}, but must be 0 or a number of pixels.")
        if self.scale is not None and self.scale < 0:
            raise InputError(f"scale is {self.scale}, but must be 0, 1 or a larger number.")
        if (self.scale or 0) > 1 and self.tile:
            raise InputError(
                f"scale is {self.scale} and tile {self.tile}; a reduced picture is not tiled, so"
                " give one of them."
            )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all options."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Options by name.

        Raises:
            InputError: a name that does not exist (a near one is named), or a wrong value.
        """
        for name in values:
            if name not in cls.names():
                raise InputError(f"there is no option {name!r}; {nearest(name, cls.names())}")
        return cls(**values)

    @classmethod
    def on_card(cls, card: Mapping[str, Any]) -> Self:
        """What a card's block ``inference`` asks for.

        Raises:
            InputError: something that does not exist.
        """
        block = card.get("inference") or {}
        try:
            return cls(**{name: block[name] for name in cls.names() if name in block})
        except InputError as error:
            raise InputError(f"on the weights' card, {error}") from None

    def otherwise(self, defaults: FuseOptions) -> FuseOptions:
        """These options, those of `defaults` where they are None."""
        values = dataclasses.asdict(self)
        return FuseOptions(
            **{k: getattr(defaults, k) if v is None else v for k, v in values.items()}
        )


USUAL = FuseOptions(
    tile_context="global",
    padding="network",
    chroma="centred",
    stretch="none",
    ensemble="none",
    bucket=0,
    scale=0,
)
"""What holds where neither the call nor the card says otherwise."""
