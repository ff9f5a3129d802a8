"""The labels of a result: what its sources share; and pictures moved to one colour profile."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from PIL import ImageCms

from mgdn_jax.errors import InputError
from mgdn_jax.io import metadata, opening, profiles
from mgdn_jax.io.pictures import Labels, Picture

KEEP = ("usual", "all", "none")
"""What a result may carry on: without place and person, with them, nothing."""


def shared_labels(
    labels: Sequence[Labels],
    keep: str = "usual",
    *,
    names: Sequence[str] = (),
    gray: Sequence[bool] = (),
) -> tuple[Labels, list[str]]:
    """The labels that a result of several pictures may carry.

    Args:
        labels: those of the sources, in their order.
        keep: "usual" (profile and resolution that all share, EXIF of the first without place,
            person, thumbnail and maker's note, geometry of the first without the patient), "all"
            (place, person and patient too) or "none".
        names: what warnings call the sources.
        gray: which sources have one channel. Such a source without a profile has no say in the
            colours, nor has a profile for gray pixels beside one for colour.

    Returns:
        The labels, and a sentence for each thing on which the sources disagree.

    Raises:
        InputError: `keep` is none of these.
    """
    if keep not in KEEP:
        raise InputError(f"{keep!r} labels cannot be kept; choose one of {', '.join(KEEP)}.")
    if keep == "none" or not labels:
        return Labels(), []
    names = names or [f"picture {number}" for number in range(1, len(labels) + 1)]
    gray = gray or [False] * len(labels)
    profile, warnings = _shared_profile([item.profile for item in labels], names, gray)
    dpi = _shared_dpi([item.dpi for item in labels])
    first = next((item.exif for item in labels if item.exif is not None), None)
    exif = metadata.cleaned(first, dpi, everything=keep == "all")
    geometry, more = _shared_geometry(labels, names, personal=keep == "all")
    return Labels(profile, exif, dpi, geometry), warnings + more


def _shared_profile(
    found: Sequence[bytes | None], names: Sequence[str], gray: Sequence[bool]
) -> tuple[bytes | None, list[str]]:
    colour = any(not flat for flat in gray)
    voices = [
        (profile, name)
        for profile, name, flat in zip(found, names, gray, strict=True)
        if not (flat and colour and (profile is None or profiles.space(profile) == "GRAY"))
    ]
    first, name = voices[0]
    for other, other_name in voices[1:]:
        if first is None and other is None:
            continue
        # A picture without a profile is meant to be sRGB.
        left, right = (profiles.srgb() if p is None else p for p in (first, other))
        if profiles.same(left, right):
            if first is None or other is None:
                first = None
            continue
        return None, [
            f"{name} and {other_name} have different colour profiles "
            f"({profiles.label(first)}; {profiles.label(other)}), so the result has none; "
            "add --profile sRGB to convert them."
        ]
    return first, []


def _shared_dpi(found: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    first = found[0]
    if first is None:
        return None
    alike = all(other is not None and np.allclose(first, other, rtol=5e-3) for other in found)
    return first if alike else None


def _shared_geometry(labels: Sequence[Labels], names: Sequence[str], personal: bool):
    """The geometry of the first source that has one, and whether the others lie elsewhere."""
    placed = [(item.geometry, name) for item, name in zip(labels, names, strict=True)]
    placed = [(geometry, name) for geometry, name in placed if geometry is not None]
    if not placed:
        return None, []
    first, name = placed[0]
    warnings = [
        f"{other_name} does not lie where {name} lies in the patient or volume, and the result "
        f"keeps the geometry of {name}; resample one onto the other first."
        for other, other_name in placed[1:]
        if not first.agrees(other)
    ]
    return dataclasses.replace(first, personal=personal), warnings[:1]


def to_profile(picture: Picture, target: str | os.PathLike[str] = "sRGB") -> Picture:
    """Converts the colours of a picture to another profile.

    Pictures of 8 bits go through LittleCMS. Deeper ones are converted in float64 where both
    profiles have a matrix and curves, as those of cameras and screens do. Where a profile has
    tables, they go through 8 bits, which a remark says.

    Args:
        picture: the picture; without a profile its colours count as sRGB.
        target: "sRGB", or the path of an ICC profile for RGB.

    Returns:
        The picture with new colours and the new profile. Gray pictures stay gray, and alpha stays
        as it is.

    Raises:
        InputError: the target is no profile for RGB.
    """
    wanted = _target(target)
    source = picture.labels.profile
    labels = dataclasses.replace(picture.labels, profile=wanted)
    if source is None:
        source = profiles.srgb()
    if profiles.same(source, wanted):
        return dataclasses.replace(picture, labels=labels)
    pixels = picture.pixels
    flat = pixels.ndim == 2
    channels = 1 if flat else pixels.shape[-1]
    colours = pixels[..., None] if flat else pixels[..., : channels - (channels in (2, 4))]
    if profiles.space(source) not in (("RGB", "GRAY") if colours.shape[-1] == 1 else ("RGB",)):
        remark = (
            f"{picture.name} has a colour profile that does not fit its pixels "
            f"({profiles.label(source)}), so its colours were taken as sRGB; "
            "save it again with the profile that it was made in."
        )
        plain = dataclasses.replace(picture.labels, profile=None)
        again = to_profile(dataclasses.replace(picture, labels=plain), target)
        return dataclasses.replace(again, remarks=(*again.remarks, remark))
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        return picture  # counts of a sensor have no colour
    moved, remarks = _moved(colours, source, wanted, picture)
    if colours.shape[-1] == 1:
        moved = moved[..., 1:2]
    moved = np.concatenate([moved, pixels[..., moved.shape[-1] :]], -1) if not flat else moved
    return dataclasses.replace(
        picture,
        pixels=moved[..., 0] if flat else moved,
        labels=labels,
        remarks=picture.remarks + remarks,
    )


def _moved(
    colours: np.ndarray, source: bytes, wanted: bytes, picture: Picture
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Colours in another profile, (H, W, 3), in the dtype they have."""
    dtype = colours.dtype
    black, white = (0.0, 1.0) if dtype == np.float32 else (0.0, float(np.iinfo(dtype).max))
    if picture.span is not None and dtype != np.uint8:
        black, white = picture.span
    try:
        if dtype == np.uint8:
            neutral = colours.shape[-1] == 1 and profiles.space(source) == "RGB"
            shown = np.repeat(colours, 3, -1) if neutral else colours
            shown = shown[..., 0] if shown.shape[-1] == 1 else shown
            return profiles.convert8(shown, source, wanted), ()
        values = (colours.astype(np.float64) - black) / (white - black)
        if colours.shape[-1] == 1 and profiles.space(source) == "RGB":
            values = np.repeat(values, 3, -1)
        exact = profiles.convert_float(values, source, wanted)
        remark: tuple[str, ...] = ()
        if exact is None:
            shown = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
            shown = shown[..., 0] if shown.shape[-1] == 1 else shown
            exact = profiles.convert8(shown, source, wanted) / 255
            remark = (
                f"the colour profile of {picture.name} has tables, so its colours went through 8 "
                "bits; convert them in a photo editor to keep all.",
            )
    except (OSError, ValueError, ImageCms.PyCMSError):
        raise InputError(
            f"{picture.name} has a damaged colour profile ({profiles.label(source)}); "
            "save it again with another."
        ) from None
    exact = exact * (white - black) + black
    return (exact if dtype == np.float32 else np.rint(exact)).astype(dtype), remark


def _target(target: str | os.PathLike[str]) -> bytes:
    if os.fspath(target).lower() == "srgb":
        return profiles.srgb()
    try:
        profile = opening.read_bytes(target, "a colour profile", opening.MOST_TEXT)
        profiles.opened(profile)
    except (InputError, OSError, ImageCms.PyCMSError):
        raise InputError(
            f"{target} is no colour profile; write sRGB or the path of an ICC file."
        ) from None
    if profiles.space(profile) != "RGB":
        raise InputError(
            f"{target} is a profile for {profiles.space(profile)} pixels; choose one for RGB."
        )
    return profile
