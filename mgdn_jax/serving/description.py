"""What stands beside an exported network: all that a program without this package must know."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import mgdn_jax
from mgdn_jax.fusing import base, tasks
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.quantities.depth import rgb_input
from mgdn_jax.serving import programs

FORMAT, VERSION = "mgdn_jax-export", 1

_LUMINANCE = (
    "The network fuses luminance, Y = 0.299 R + 0.587 G + 0.114 B of values in [0, 1]. A picture "
    "whose channels are equal everywhere counts as gray."
)
_CHROMA = {
    "centred": "Cb and Cr (BT.601, full range, neutral 0.5) of the sources that have colour join "
    "the fused Y; of two they are mixed as (|c1 - 0.5| c1 + |c2 - 0.5| c2) / (|c1 - 0.5| + "
    "|c2 - 0.5|), 0.5 where both are neutral.",
    "parity": "Cr = 0.713 (R - Y) + 0.5 / 255 and Cb = 0.564 (B - Y) + 0.5 / 255 of the sources "
    "that have colour join the fused Y; of two they are mixed in levels of 255 as (|c1 - 0.5| c1 + "
    "|c2 - 0.5| c2) / (|c1 - 0.5| + |c2 - 0.5| + 1e-4).",
}
_RGB = "The network takes RGB; gray pictures are repeated in all three channels."
_STRETCHES = {
    "none": "The result is cut off at 0 and 1.",
    "minmax": "The result's least and largest value become 0 and 1, before colour joins it.",
    "fill": "The result is cut off at 0 and 1; then its least and largest value become 0 and 1, "
    "before colour joins it.",
    "robust": "The result's percentiles 0.1 and 99.9 become 0 and 1, before colour joins it.",
}


def describe(
    fuser: Fuser,
    *,
    name: str,
    weights: Path,
    kind: str,
    size: programs.Size | None,
    platforms: Sequence[str],
) -> dict[str, Any]:
    """The description of an exported network but for its files, ready for JSON.

    Args:
        fuser: the network.
        name: what files are called.
        weights: the weight file.
        kind: of `programs.FORMATS`.
        size: of the pictures; None for any.
        platforms: that a program of JAX is for.
    """
    config, options = fuser.config, fuser.options
    quantity = tasks.quantity_of(fuser.card, config.in_channels)
    batch, height, width = ("any",) * 3 if size is None else size
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "kind": kind,
        "made_with": _versions(kind),
        "system": fuser.system,
        "config": config.to_dict(),
        "weights": {
            "file": weights.name,
            "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        },
        "task": str(fuser.card.get("task", "")),
        "platforms": list(platforms) if kind == "jax" else [],
        "layout": "NHWC",
        "dtype": "float32",
        "inputs": _inputs(fuser, quantity),
        "outputs": _outputs(fuser, quantity),
        "size": {"batch": batch, "height": height, "width": width, "least": 1, "multiple": 1},
        "padding": {
            "where": "inside",
            "multiple": config.grid,
            "rule": f"The program itself reflects its inputs at the bottom and the right, to "
            f"multiples of {config.grid} pixels, and cuts its outputs."
            if config.grid > 1
            else "None is needed.",
        },
        **_picture(fuser, options, quantity),
        "outside": _outside(fuser, options, quantity),
    }


def _versions(kind: str) -> dict[str, str]:
    libraries = {"jax": ("jax",), "onnx": ("jax", "jax2onnx", "onnx")}[kind]
    versions = {library: metadata.version(library) for library in libraries}
    more = {"opset": str(programs.OPSET)} if kind == "onnx" else {}
    return {"mgdn_jax": mgdn_jax.__version__, **versions, **more}


def _inputs(fuser: Fuser, quantity: str) -> list[dict[str, Any]]:
    channels = fuser.config.in_channels
    roles = str(fuser.card.get("inputs", ""))
    parts = [part.strip() for part in roles.split(",")]
    if quantity == tasks.DEPTH:
        extremes = np.array([[[0.0] * 3, [1.0] * 3]], np.float32)
        low, high = rgb_input(extremes).reshape(-1, 3)[[0, -1]].tolist()
        about = [
            {
                "role": "photograph",
                "range": [min(low), max(high)],
                "values": "RGB in [0, 1], less (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225)",
            },
            {
                "role": "depth map, enlarged to the photograph's size",
                "range": [0.0, 1.0],
                "values": "(depth - low) / (high - low), with the limits of the map",
            },
        ]
    elif quantity == tasks.RADIANCE:
        gamma = (fuser.card.get("preparation") or {}).get("gamma", 2.2)
        values = f"RGB in [0, 1], then RGB ** {gamma} / t; t is 1 for the shortest exposure"
        exposures = ("short exposure", "middle exposure, the reference", "long exposure")
        about = [{"role": role, "range": [0.0, 1.0], "values": values} for role in exposures]
    else:
        kind = {1: "luminance", 3: "RGB"}
        about = [
            {
                "role": parts[i] if len(parts) == len(channels) else f"picture {i + 1}: {roles}",
                "range": [0.0, 1.0],
                "values": f"{kind.get(c, 'values')} in [0, 1]",
            }
            for i, c in enumerate(channels)
        ]
    names = programs.names(len(channels))
    return [
        {"name": name, "channels": c, **entry}
        for name, c, entry in zip(names, channels, about, strict=True)
    ]


def _outputs(fuser: Fuser, quantity: str) -> list[dict[str, Any]]:
    values = {
        tasks.DEPTH: "depth as the map's, (depth - low) / (high - low), not clipped",
        tasks.RADIANCE: "linear light; 1 just saturates the shortest exposure",
    }.get(quantity, "in [0, 1], but for rounding and what the head may add; cut off what is beyond")
    about = [{"name": "fused", "channels": fuser.config.out_channels, "values": values}]
    if "weights" in programs.outputs(fuser):
        about.append(
            {
                "name": "weights",
                "channels": len(fuser.config.in_channels),
                "values": "of each input at every pixel, summing to 1",
            }
        )
    return about


def _picture(fuser: Fuser, options: FuseOptions, quantity: str) -> dict[str, Any]:
    """Colour and range: what `Fuser` does to a fused picture, by name and in words."""
    if quantity != tasks.PICTURES:
        return {"colour": {"space": "none"}, "stretch": {"name": "none", "rule": "None."}}
    stretch = str(options.stretch)
    is_gray = set(fuser.config.in_channels) == {1}
    colour: Mapping[str, Any] = {"space": "rgb", "rule": _RGB}
    if is_gray:
        chroma = str(options.chroma)
        rule = f"{_LUMINANCE} {_CHROMA[chroma]}"
        colour = {"space": "luminance", "chroma": chroma, "rule": rule}
    return {"colour": colour, "stretch": {"name": stretch, "rule": _STRETCHES[stretch]}}


def _outside(fuser: Fuser, options: FuseOptions, quantity: str) -> list[str]:
    """What the commands and `Fuser` do that is no part of the network."""
    config = fuser.config
    if quantity == tasks.DEPTH:
        return [
            "mgdn depth: units, holes, limits, enlargement (bicubic, a = -0.75), normalisation of "
            "both inputs, tiles, and the depth in its unit again.",
        ]
    if quantity == tasks.RADIANCE:
        return [
            "mgdn hdr: exposure times, order, alignment, linear light, tiles, and the file of "
            "radiance.",
        ]
    parts = [
        "Preparation: reading files, alpha, profiles, which values are black and white, alignment, "
        "registration, resizing, order.",
        "Colour and stretch, as described here; sources without contrast are stretched less.",
        "Tiles of large pictures, which share the whole picture's statistics.",
    ]
    if config.blends:
        parts.append(
            "Photographs above 1.5 megapixels: the network judges them reduced, and evidence of "
            "sharpness does the rest; `weights` is what it judges with."
        )
    chosen = base.chosen(options, config)
    if chosen != "network":
        parts.append(
            f"base = {chosen}: low frequencies of luminance are replaced by those of the sources, "
            "blended by sharpness or exposure."
        )
    if options.ensemble != "none":
        parts.append("ensemble = flips: the mean over the mirrored pictures.")
    if config.sets:
        parts.append(f"More than {len(config.in_channels)} pictures at once.")
    elif len(config.in_channels) == 2:
        parts.append("Stacks: more than two pictures, fused pair by pair.")
    return parts


def artefact(name: str, kind: str) -> str:
    """File name of a program."""
    return f"{os.path.basename(name)}.{kind}"
