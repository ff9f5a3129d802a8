"""Folders of radiance pictures and of brackets, and what is read from their files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.io.codec import decode_image

BRACKET = ("short", "middle", "long", "times", "radiance")
"""Roles of the files of a stored bracket."""
_RADIANCE = (".hdr", ".exr", ".pic", ".tif", ".tiff")
_EXPOSURES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
_MOST_TEXT = 1 << 16  # bytes that are looked at; three numbers take a few
_TIMES, _TRUTH = "exposure.txt", "hdrimg"


def find_scenes(source: Path) -> list[dict[str, Any]]:
    """The radiance pictures of a folder.

    Args:
      source: folder with .hdr, .exr or float .tif files.

    Returns:
      {"name": stem, "radiance": path} each, sorted by name.

    Raises:
      InputError: there are none, or two of one stem.
    """
    files = sorted(path for path in _inside(source) if path.suffix.lower() in _RADIANCE)
    if not files:
        raise InputError(
            f"{source} holds no radiance pictures; give a folder of .hdr or .exr files."
        )
    stems = [path.stem for path in files]
    for path in files:
        if stems.count(path.stem) > 1:
            raise InputError(f"{source} holds two pictures called {path.stem}; rename one.")
    return [{"name": path.stem, "radiance": path} for path in files]


def find_brackets(source: Path) -> list[dict[str, Any]]:
    """The brackets of a folder, in the layout of Kalantari and Ramamoorthi's data.

    Args:
      source: a folder with a subfolder for each scene: three exposures, short to long by name or
        by `exposure.txt` (an EV step a line), and `HDRImg.hdr` (or .exr).

    Returns:
      {"name": subfolder, "short": path, "middle": path, "long": path, "times": path, "radiance":
      path} each, sorted by name.

    Raises:
      InputError: there are no such subfolders, or one lacks a file.
    """
    folders = [path for path in _inside(source) if path.is_dir() and path.name[0] != "."]
    entries = [_bracket(path) for path in folders if (path / _TIMES).is_file()]
    if not entries:
        raise InputError(
            f"{source} holds no brackets; give a folder with a subfolder a scene, each with three "
            f"exposures, {_TIMES} and HDRImg.hdr."
        )
    return entries


def _bracket(folder: Path) -> dict[str, Any]:
    files = [path for path in _inside(folder) if path.is_file() and path.name[0] != "."]
    truth = [
        path
        for path in files
        if path.stem.lower() == _TRUTH and path.suffix.lower() in (".hdr", ".exr")
    ]
    exposures = [path for path in files if path.suffix.lower() in _EXPOSURES]
    if len(exposures) != 3 or len(truth) != 1:
        raise InputError(
            f"{folder} holds {len(exposures)} exposures and {len(truth)} files HDRImg.hdr; a scene "
            "has three and one."
        )
    paths = dict(zip(BRACKET, (*exposures, folder / _TIMES, truth[0]), strict=True))
    return {"name": folder.name, **paths}


def read_steps(data: bytes, name: str) -> list[float]:
    """The EV steps of a bracket's three exposures.

    Args:
      data: a text file with a number a line.
      name: what messages call it.

    Raises:
      InputError: there are not three finite numbers that differ by at most 30.
    """
    words = data[:_MOST_TEXT].decode("utf-8", "replace").replace(",", " ").split()
    plain = all(re.fullmatch(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", word) for word in words)
    steps = [float(word) for word in words] if plain else []
    if len(steps) != 3 or not max(steps) - min(steps) <= 30:
        raise InputError(f"{name} must hold three EV steps, a line each, at most 30 apart.")
    return steps


def read_radiance(data: bytes, name: str) -> np.ndarray:
    """The light of a radiance picture.

    Args:
      data: the whole file, of any kind with float pixels.
      name: what messages call it.

    Returns:
      (H, W, 3) float32, finite and not negative; gray is repeated.

    Raises:
      InputError: it cannot be read, holds integers, or nothing but black.
    """
    light = decode_image(data, name)
    if light.dtype != np.float32:
        raise InputError(f"{name} has {light.dtype} pixels; radiance is stored as .hdr or .exr.")
    if light.ndim == 2:
        light = light[..., None]
    light = light[..., :1] if light.shape[-1] < 3 else light[..., :3]
    light = np.nan_to_num(light, nan=0.0, posinf=float(np.finfo(np.float32).max), neginf=0.0)
    light = np.maximum(light, 0)
    if not light.any():
        raise InputError(f"{name} is black all over; leave it out.")
    return np.repeat(light, 3 // light.shape[-1], axis=-1)


def ordered(steps: Sequence[float]) -> list[int]:
    """Places of the exposures from the shortest to the longest."""
    return sorted(range(len(steps)), key=lambda k: steps[k])


def _inside(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"the source {folder} is not a folder; give the one with the images.")
    return sorted(folder.iterdir())
