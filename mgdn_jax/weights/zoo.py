"""Names of bundled networks, their weight files and what is known about them."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from mgdn_jax.errors import InputError, nearest
from mgdn_jax.io import objects

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
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            notes = file.metadata() or {}
            names = [name for name in file.keys() if not name.startswith("stats:")]  # noqa: SIM118
            count = sum(math.prod(file.get_slice(name).get_shape()) for name in names)
        return {
            "system": notes["system"],
            "config": objects.object_of(notes["config"], f"the config of {path}"),
            "parameters": count,
            "card": objects.object_of(notes.get("card", "{}"), f"the card of {path}", has_nan=True),
        }
    except (SafetensorError, OSError, KeyError, ValueError):
        raise InputError(
            f"{os.fspath(path)} is no weight file of this package; make one with mgdn convert."
        ) from None


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
