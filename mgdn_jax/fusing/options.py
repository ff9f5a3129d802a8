"""Every option of a call that fuses, named once: for Python, the command line and cards alike.

Imports nothing heavy, so that the command line can show them at once.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

from mgdn_jax import arguments
from mgdn_jax.errors import InputError, nearest

PADDINGS = ("script", "network")
CONTEXTS = ("global", "local")
CHROMAS = ("centred", "parity")
STRETCHES = ("none", "minmax", "fill", "robust")
ENSEMBLES = ("none", "flips")
BASES = ("network", "focus", "exposure")
MODELS = ("auto", "translation", "euclidean", "similarity", "affine", "homography")
AREAS = ("common", "full")
ORDERS = ("given", "brightness")
PROFILES = ("keep", "sRGB")
_MOST = 1e30  # of the limits of a tone; floats of 32 bits end soon
METADATA = ("usual", "all", "none")


def _option(
    help: str,
    *,
    choices: Sequence[str] = (),
    kind: type = int,
    metavar: str = "N",
    repeats: bool = False,
) -> Any:
    """A field with what the command line shows of it; text may repeat, ``;`` between."""
    about = {
        "help": help,
        "choices": tuple(choices),
        "kind": kind,
        "metavar": metavar,
        "repeats": repeats,
    }
    return dataclasses.field(default=None, metadata=about)


def limits(tone: str | None) -> tuple[float, float] | None:
    """The two limits that a tone names, or None.

    Raises:
        InputError: neither a name nor two numbers.
    """
    if tone in (None, "picture", "folder", "auto"):
        return None
    try:
        low, high = (float(word) for word in str(tone).split(","))
    except ValueError:
        low = high = 0.0
    if not (max(abs(low), abs(high)) <= _MOST and high - low >= 1 / _MOST):
        raise InputError(
            f"tone is {arguments.shown(tone)}; write picture, folder, auto, or LO,HI with LO < HI."
        )
    return low, high


def _checked(name: str, value: Any, about: Mapping[str, Any]) -> Any:
    """The value of an option in its own type.

    Raises:
        InputError: it is of another type, or none of the choices.
    """
    if about["choices"]:
        if not isinstance(value, str) or value not in about["choices"]:
            choices = ", ".join(about["choices"])
            raise InputError(f"{name} is {arguments.shown(value)}; choose one of {choices}.")
        return value
    if about["kind"] is int:
        return arguments.whole(name, value)
    if about["kind"] is bool:
        return arguments.flag(name, value)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise InputError(f"{name} is {arguments.shown(value)}, but must be a text.")
    return value


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
            lie beyond) or ``"robust"`` (a tenth of a percent is cut off at either end, so that no
            single pixel decides). Stacks are stretched once, at the end. Flat sources stay flat,
            and those that span less than 16 levels of 256 are spread in part. None is the card's,
            else none.
        ensemble: ``"none"``, or ``"flips"``: the mean over the picture as it is and mirrored along
            either axis and both, each turned back, before any stretch: four times the work, and
            two float pictures of the result's size (the geometric self-ensemble of EDSR, Lim et
            al. 2017, section 3.4, less its quarter turns). None is the card's, else none.
        base: whose low frequencies of luminance the result has: ``"network"`` (its own), or those
            of the sources blended by sharpness (``"focus"``) or by Mertens' weights
            (``"exposure"``), before any stretch (`fusing.base`). Without effect on networks that
            weigh their inputs (`Config.blends`), whose values are the sources'. None is the
            card's, else network.
        bucket: an untiled picture is padded to multiples of so many pixels, which the network
            masks out, so that pictures of similar sizes share one compiled program; the result is
            the same up to rounding. 0 does not; without effect on networks that cannot
            (`Fuser.has_buckets`). None is 0, but the pictures of a folder share at most three
            padded sizes (`Fuser.for_sizes`).
        range: which values of a source are black and white: ``"type"`` (all of its type; floats
            from 0 to 1), ``"auto"`` (declared limits, fewer bits, or percentiles where a source
            uses under 5 % of its type), ``"percentile"`` or ``"percentile,LO,HI"``, or
            ``"LO,HI"`` (kelvin may be written ``20C,40C``). ``"A:RULE"`` is for the first source;
            several are divided by ``;``. None is type.
        window: a window of Hounsfield units, ``"brain"`` for instance (`fusing.ranges.WINDOWS`),
            or ``"LEVEL,WIDTH"``; ``"A:..."`` for one source.
        align: whether pictures of one camera are aligned before they are fused (extra ``align``).
        align_model: what alignment may do, of `MODELS`. None is auto.
        register: whether pictures of different cameras, of infrared and visible light for
            instance, are registered to the largest one (extra ``align``).
        homography: file of transforms from the other pictures to the largest one.
        resize: whether smaller pictures are enlarged to the largest one.
        area: ``"common"``, what all pictures share, or ``"full"``, the frame of the reference.
            None is common with `align`, else full.
        match_exposure: whether all pictures take the tone of the first one.
        order: ``"given"``, or ``"brightness"``: from dark to bright. None is given.
        tone: limits of `stretch`, ``"LO,HI"`` in the network's values, the same for every picture;
            ``"picture"``: each picture has its own; ``"folder"``: those of a folder share one;
            ``"auto"``: they do where they are a sequence. None is auto for folders, else picture.
        profile: ``"keep"``, or ``"sRGB"``: sources that have a profile are converted from it.
            None is keep.
        metadata: what the result carries on: ``"usual"`` (profile and resolution that all sources
            share, EXIF of the first without places, persons and thumbnails), ``"all"`` or
            ``"none"``. None is usual.
        checks: whether pictures are looked at for shifts, other exposures and other tasks, which
            are warnings. None does.
        scale: for networks that weigh their inputs (`Config.blends`): what the sides of the
            pictures are divided by before the network judges them; its weights then guide
            evidence at full size (see docs/use/tiles.md). 1 is the network at full size. 0 reduces
            pictures above 1.5 megapixels to about a third of one, at most eightfold, where `tile`
            is None, and leaves smaller ones alone. None is 0.

    Raises:
        InputError: a value of another type, a choice that does not exist, a negative number, or a
            scale above 1 together with tiles.
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
    base: str | None = _option(
        "low frequencies of luminance: the network's, or the sources', blended by sharpness or by"
        " exposure (per model)",
        choices=BASES,
    )
    bucket: int | None = _option(
        "pad to multiples of N pixels, which the network leaves out (where it can), so that fewer"
        " sizes are compiled; 0: never (a folder's pictures share three sizes)"
    )
    range: str | None = _option(
        "which values are black and white: auto, type, percentile, LO,HI, or A:RULE for the first"
        " source (auto)",
        kind=str,
        metavar="RULE",
        repeats=True,
    )
    window: str | None = _option(
        "window of Hounsfield units: brain, bone, lung, ..., LEVEL,WIDTH, or A:WINDOW",
        kind=str,
        metavar="WINDOW",
        repeats=True,
    )
    align: bool | None = _option("align pictures of one camera", kind=bool)
    align_model: str | None = _option("what alignment may do (auto)", choices=MODELS)
    register: bool | None = _option(
        "register pictures of different cameras to the largest", kind=bool
    )
    homography: str | None = _option(
        "transforms from the other pictures to the largest: 3x3 text, or what --save-transforms"
        " wrote",
        kind=str,
        metavar="FILE",
    )
    resize: bool | None = _option("enlarge smaller pictures to the largest", kind=bool)
    area: str | None = _option(
        "what is kept: the area that all pictures share, or the reference's (common with --align)",
        choices=AREAS,
    )
    match_exposure: bool | None = _option("give all pictures the tone of the first", kind=bool)
    order: str | None = _option("order of exposures (by brightness for brackets)", choices=ORDERS)
    tone: str | None = _option(
        "limits of --stretch: picture, folder, LO,HI, or auto: folder for sequences (auto)",
        kind=str,
        metavar="TONE",
    )
    profile: str | None = _option(
        "convert sources that have a colour profile (keep)", choices=PROFILES
    )
    metadata: str | None = _option(
        "profile, EXIF and resolution of the result; all: with places and persons (usual)",
        choices=METADATA,
    )
    checks: bool | None = _option("look for shifts, exposures and other tasks (on)", kind=bool)
    scale: int | None = _option(
        "the network judges pictures of 1/N of the size, the rest is evidence at full size; 1:"
        " never (0: photographs above 1.5 megapixels, for models that can)"
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                object.__setattr__(self, field.name, _checked(field.name, value, field.metadata))
        limits(self.tone)
        if (self.scale or 0) > 1 and self.tile:
            raise InputError(
                f"scale is {self.scale} and tile {self.tile}; a reduced picture is not tiled, so"
                " give one of them."
            )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all options."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @property
    def brings_together(self) -> bool:
        """Whether pictures of several sizes become pictures of one."""
        return bool(self.register or self.homography or self.resize)

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
        if not isinstance(block, Mapping):
            raise InputError(
                f"on the weights' card, inference is {arguments.shown(block)} and no object; write "
                "the weights again."
            )
        try:
            return cls(**{name: block[name] for name in cls.names() if name in block})
        except InputError as error:
            raise InputError(f"on the weights' card, {error}") from None

    def otherwise(self, defaults: FuseOptions) -> FuseOptions:
        """These options, those of `defaults` where they are None.

        Raises:
            InputError: `defaults` are no options.
        """
        if not isinstance(defaults, FuseOptions):
            raise InputError(
                f"options are {arguments.shown(defaults)}; give FuseOptions, or single ones by "
                "name."
            )
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
    base="network",
    bucket=0,
    range="type",
    align=False,
    register=False,
    resize=False,
    match_exposure=False,
    order="given",
    tone="picture",
    profile="keep",
    metadata="usual",
    checks=True,
    scale=0,
)
"""What holds where neither the call nor the card says otherwise."""
