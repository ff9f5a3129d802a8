"""Weights that travel: one safetensors file with the system's name, its config and a card."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.io import objects
from mgdn_jax.io.disk import write_atomically

FORMAT = "mgdn_jax"
VERSION = "1"
_STATS = "stats:"


@dataclasses.dataclass(frozen=True)
class Weights:
    """A network's weights as read from a file.

    Attributes:
        system: name of the system, e.g. "mgdn".
        config: the model config as a json-safe dict (`Config.from_dict` takes it).
        params: flat dict of float arrays, "layers/0/.../kernel" -> array.
        stats: flat dict of running statistics (empty where the network has none).
        card: what is known about how the weights came to be (json-safe dict).
    """

    system: str
    config: dict[str, Any]
    params: dict[str, np.ndarray]
    stats: dict[str, np.ndarray]
    card: dict[str, Any]


def save_weights(
    path: str | os.PathLike[str],
    *,
    system: str,
    config: Mapping[str, Any],
    params: Mapping[str, Any],
    stats: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Writes a network's weights as one safetensors file, atomically.

    Args:
        path: the file to write (conventionally `*.safetensors`).
        system: name of the system the weights belong to.
        config: the model config, json-safe.
        params: flat dict name -> array; NumPy or (fully addressable) JAX arrays.
        stats: flat dict of running statistics, if the network has any.
        card: free json-safe notes on origin and quality.
        half: stores float32 parameters as float16, in half the space, rounded to 11 bits.
            `load_weights` makes float32 of them again. Statistics stay as they are.

    Raises:
        InputError: the place cannot be written.
        ValueError: `params` is empty, a name starts with the prefix kept for statistics, or a
            parameter is too large for float16.
    """
    from safetensors.numpy import save

    if not params or any(name.startswith(_STATS) for name in params):
        raise ValueError("params must be a non-empty flat dict without names in 'stats:'")
    if half:
        params = {name: _halved(name, np.asarray(value)) for name, value in params.items()}
    named = dict(params) | {_STATS + name: value for name, value in (stats or {}).items()}
    # safetensors writes the raw buffer whatever the strides, so C order is not optional.
    tensors = {name: np.asarray(value, order="C") for name, value in named.items()}
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "system": system,
        "config": json.dumps(dict(config)),
        "card": json.dumps(dict(card or {})),
    }
    write_atomically(path, save(tensors, metadata=metadata))


def _widened(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32) if value.dtype == np.float16 else value


def _halved(name: str, value: np.ndarray) -> np.ndarray:
    if value.dtype != np.float32:
        return value
    if value.size and np.abs(value).max() > np.finfo(np.float16).max:
        raise ValueError(f"{name} has values too large for float16")
    return value.astype(np.float16)


def load_weights(path: str | os.PathLike[str]) -> Weights:
    """Reads a file written by `save_weights`.

    Args:
        path: the safetensors file.

    Returns:
        The weights, as NumPy arrays on the host; what was stored as float16 as float32.

    Raises:
        InputError: the file is missing, truncated, not safetensors, or was not written by
            this package (or by a newer version of it).
    """
    from safetensors import SafetensorError, safe_open

    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such weights file; check the name.")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            ours = metadata.get("format") == FORMAT
            tensors = {name: _widened(file.get_tensor(name)) for name in names} if ours else {}
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: is damaged or not a safetensors file; fetch or write it again, or turn a"
            " PyTorch checkpoint into one with `mgdn convert`."
        ) from error
    if not ours:
        raise InputError(
            f"{path}: was not written by mgdn_jax; weights from elsewhere go through"
            " `mgdn convert` first."
        )
    if metadata.get("version") != VERSION:
        raise InputError(
            f"{path}: has format version {metadata.get('version')!r} and this mgdn_jax reads"
            f" {VERSION!r}; update the package."
        )
    try:
        system, config, card = metadata["system"], metadata["config"], metadata.get("card", "{}")
        config = objects.object_of(config, f"the config of {path}")
        card = objects.object_of(card, f"the card of {path}", has_nan=True)
    except (KeyError, InputError) as error:
        raise InputError(
            f"{path}: lacks a readable system or config in its header; write it again."
        ) from error
    return Weights(
        system=system,
        config=config,
        params={k: v for k, v in tensors.items() if not k.startswith(_STATS)},
        stats={k.removeprefix(_STATS): v for k, v in tensors.items() if k.startswith(_STATS)},
        card=card,
    )
