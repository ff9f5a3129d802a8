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
from mgdn_jax.io import opening
from mgdn_jax.io.disk import write_atomically
from mgdn_jax.weights.header import (
    FORMAT,
    MOST_BYTES,
    STATS,
    VERSION,
    check_finite,
    content,
    read_array,
    read_header,
)


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
        InputError: the place cannot be written, or a value is not finite.
        ValueError: `params` is empty, a name starts with the prefix kept for statistics, or a
            parameter is too large for float16.
    """
    from safetensors.numpy import save

    if not params or any(name.startswith(STATS) for name in params):
        raise ValueError("params must be a non-empty flat dict without names in 'stats:'")
    if half:
        params = {name: _halved(name, np.asarray(value)) for name, value in params.items()}
    named = dict(params) | {STATS + name: value for name, value in (stats or {}).items()}
    # safetensors writes the raw buffer whatever the strides, so C order is not optional.
    tensors = {name: np.asarray(value, order="C") for name, value in named.items()}
    for name, value in tensors.items():
        check_finite(value, f"{os.fspath(path)} is not written: the array {name!r}")
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "system": system,
        "config": json.dumps(dict(config)),
        "card": json.dumps(dict(card or {})),
    }
    write_atomically(path, save(tensors, metadata=metadata))


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
        The weights, as NumPy arrays on the host; what was stored as float16 or bfloat16 as float32.

    Raises:
        InputError: the file is missing, truncated, not safetensors, was not written by this package
            (or by a newer version of it), declares more numbers than `systems.limits` allow, or
            holds a value that is not finite.
    """
    path = pathlib.Path(path)
    if not path.exists() or path.is_dir():
        raise InputError(f"{path}: no such weights file; check the name.")
    if path.is_file() and path.stat().st_size == 0:
        raise _damaged(path, "it is empty")
    with opening.opened(path, "a weight file", most=MOST_BYTES) as file:
        try:
            header = read_header(file, str(path))
            system, config, card = content(header)
            arrays = {name: read_array(file, header, name) for name in header.slots}
        except InputError:
            raise
        except (OSError, ValueError) as error:
            raise _damaged(path, str(error)) from None
    return Weights(
        system=system,
        config=config,
        params={k: v for k, v in arrays.items() if not k.startswith(STATS)},
        stats={k.removeprefix(STATS): v for k, v in arrays.items() if k.startswith(STATS)},
        card=card,
    )


def _damaged(path: pathlib.Path, reason: str) -> InputError:
    return InputError(
        f"{path}: is damaged or not a safetensors file ({reason}); fetch or write it again, or turn"
        " a PyTorch checkpoint into one with `mgdn convert`."
    )
