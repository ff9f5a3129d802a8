"""Names of bundled networks, their weight files and what is known about them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mgdn_jax.errors import InputError, nearest
from mgdn_jax.io import opening
from mgdn_jax.weights.header import MOST_BYTES, content, read_header

DEFAULT = "mgdn-mff"
_TORCH = (".pth", ".pt", ".ckpt", ".bin")


def weights_folder() -> Path:
    """The folder of the bundled weight files."""
    return Path(__file__).parent / "bundled"


def bundled() -> dict[str, Path]:
    """Name of each bundled network to its safetensors file, sorted by name."""
    return {path.stem: path for path in sorted(weights_folder().glob("*.safetensors"))}


def list_models(*, task: str = "") -> dict[str, dict[str, Any]]:
    """The bundled networks.

    Args:
      task: leaves only those with this in their name or in their card's task, whatever the case:
        "mff", "infrared", "medical".

    Returns:
      Name to what `describe` tells about it.
    """
    models = {name: describe(path) for name, path in bundled().items()}
    return {
        name: about
        for name, about in models.items()
        if task.lower() in f"{name} {about['card'].get('task', '')}".lower()
    }


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a weight file says about itself, without reading its tensors.

    Args:
      path: a file written by `checkpoint.save_weights`.

    Returns:
      "system", "config" (fields of the network), "parameters" (their number), "card" (notes:
      "task", "inputs", "trained_on", "figures", "inference", all optional).

    Raises:
      InputError: not such a file.
    """
    with opening.opened(path, "a weight file", most=MOST_BYTES) as file:
        try:
            header = read_header(file, os.fspath(path))
        except InputError:
            raise
        except (OSError, ValueError) as error:
            raise InputError(
                f"{os.fspath(path)} is no weight file of this package ({error}); make one with mgdn"
                " convert."
            ) from None
    system, config, card = content(header)
    return {"system": system, "config": config, "parameters": header.parameters, "card": card}


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """The weight file of a bundled name, or a path that exists.

    Args:
      name_or_path: "mgdn-mff" for instance, or a .safetensors file. A bundled name wins; write
        "./name" for a file called alike.

    Returns:
      An existing file.

    Raises:
      InputError: unknown name (near matches and all names are listed), missing file, a folder, or
        a PyTorch checkpoint.
    """
    text = os.fspath(name_or_path)
    known = bundled()
    if text in known:
        return known[text]
    path, shown = Path(text), text if len(text) <= 100 else f"{text[:100]}..."
    # os.path says no where pathlib raises: names that are too long, for instance.
    if os.path.isdir(text):
        raise InputError(f"{text} is a folder where a weight file is expected; name a file.")
    if path.suffix.lower() in _TORCH and os.path.exists(text):
        raise InputError(
            f"{text} is a PyTorch checkpoint; turn it into .safetensors with mgdn convert first."
        )
    if os.path.isfile(text):
        return path
    if os.path.exists(text):
        raise InputError(f"{text} is not a regular file; name a weight file.")
    if path.suffix or os.sep in text or (os.altsep and os.altsep in text):
        raise InputError(f"{shown} does not exist; check the path of the weight file.")
    raise InputError(
        f"there is no model {shown!r}; {nearest(text, known)} (a file needs its path)."
    )
