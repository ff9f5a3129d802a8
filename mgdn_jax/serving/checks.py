"""A pair of made pictures with the result that is expected: how a copy elsewhere is proved right.

The pictures are sums of waves, the same on every machine, and both show the same things: networks
that choose between sources are then undecided, and their weights show what they compute.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import tasks
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.io import objects
from mgdn_jax.quantities import radiance
from mgdn_jax.quantities.depth import rgb_input
from mgdn_jax.serving import description, programs

ANY_SIZE: programs.Size = (1, 61, 83)
"""Of the pictures where the program takes any: sides that no network's grid divides."""
TOLERANCES = {
    "jax": {
        "fused": {"cpu": 1e-5, "elsewhere": 2e-2},
        "weights": {"cpu": 1e-4, "elsewhere": 0.5},
    },
    "onnx": {
        "fused": {"cpu": 1e-4, "elsewhere": 2e-2},
        "weights": {"cpu": 1e-2, "elsewhere": 0.5},
    },
}
"""Largest differences to what is expected, by format, output and place. Elsewhere products have
fewer digits unless told, and weights may turn on the last digit of a large number at single
pixels."""
MOST_VALUES = 100_000
"""Of an expected output are kept, evenly spread."""
_WAVES = 24
Tolerances = Mapping[str, Mapping[str, float]]


def pictures(fuser: Fuser, size: programs.Size) -> list[np.ndarray]:
    """Inputs for a network, float32, exact in float16.

    Args:
        fuser: the network.
        size: of the inputs.
    """
    quantity = tasks.quantity_of(fuser.card, fuser.config.in_channels)
    scene = _waves(size, 3, seed=0)
    if quantity == tasks.RADIANCE:
        levels = (0.25, 0.5, 1.0)
        exposures = [np.clip(level * scene + 0.1, 0, 1) for level in levels]
        values = radiance.inputs(exposures, (1.0, 2.0, 4.0))
    else:
        views = [
            0.9 * scene + 0.1 * _waves(size, 3, seed=i + 1)
            for i in range(len(fuser.config.in_channels))
        ]
        values = [
            x[..., :channels] for x, channels in zip(views, fuser.config.in_channels, strict=True)
        ]
        if quantity == tasks.DEPTH:
            values[0] = np.stack([rgb_input(picture) for picture in values[0]])
    return [np.asarray(x, np.float16).astype(np.float32) for x in values]


def _waves(size: programs.Size, channels: int, seed: int) -> np.ndarray:
    """Waves of all directions and lengths above two pixels, in [0, 1]: (B, H, W, channels)."""
    batch, height, width = size
    rng = np.random.default_rng(seed)
    maps = np.zeros((batch, height, width, channels))
    for b in range(batch):
        for c in range(channels):
            for _ in range(_WAVES):
                y, x = rng.uniform(-1.5, 1.5, 2) * rng.uniform(0, 1)
                phase = rng.uniform(0, 2 * np.pi)
                rows, columns = y * np.arange(height) + phase, x * np.arange(width)
                maps[b, ..., c] += np.outer(np.cos(rows), np.cos(columns))
                maps[b, ..., c] -= np.outer(np.sin(rows), np.sin(columns))
    return np.clip(0.5 + maps / (3 * np.sqrt(_WAVES)), 0, 1)


@dataclasses.dataclass(frozen=True)
class Check:
    """Inputs, and every so-manieth row and column of the outputs that are expected.

    Attributes:
        inputs: by name, float16.
        expected: by name, float32.
        step: between rows and columns that are kept.
    """

    inputs: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]
    step: int

    def content(self) -> bytes:
        """The file, an archive of NumPy's."""
        file = io.BytesIO()
        np.savez_compressed(file, **self.inputs, **self.expected)  # type: ignore[arg-type]
        return file.getvalue()

    def differences(self, program: programs.Run) -> dict[str, float]:
        """The largest one of each output of a program."""
        results = program([x.astype(np.float32) for x in self.inputs.values()])
        return {
            name: float(np.abs(result[:, :: self.step, :: self.step] - wanted).max())
            for (name, wanted), result in zip(self.expected.items(), results, strict=True)
        }

    def worst(self, program: programs.Run, tolerances: Tolerances, place: str) -> dict[str, Any]:
        """The output that is furthest from what is expected, for what is right of it.

        Args:
            program: of the network.
            tolerances: by output and place.
            place: where the program runs, ``"cpu"`` or ``"elsewhere"``.

        Returns:
            Its name, ``difference``, ``tolerance`` and ``passed``, and the ``differences`` of all.
        """
        differences = self.differences(program)
        allowed = {name: float(tolerances[name][place]) for name in differences}
        shares = {name: x / allowed[name] for name, x in differences.items()}
        worst = max(shares, key=lambda name: np.nan_to_num(shares[name], nan=np.inf))
        return {
            "output": worst,
            "difference": differences[worst],
            "tolerance": allowed[worst],
            "passed": bool(shares[worst] <= 1),  # False of NaN
            "differences": differences,
        }


def made(fuser: Fuser, size: programs.Size) -> Check:
    """The check of a network, whose results its own quick forms work out.

    Args:
        fuser: the network.
        size: of the inputs.
    """
    inputs = pictures(fuser, size)
    names = programs.names(len(inputs))
    results = jax.jit(programs.network(fuser))(fuser.params, fuser.stats, *inputs)
    expected = dict(zip(programs.outputs(fuser), map(np.asarray, results), strict=True))
    values = max(x.size for x in expected.values())
    step = max(1, int(np.ceil(np.sqrt(values / MOST_VALUES))))
    return Check(
        {name: x.astype(np.float16) for name, x in zip(names, inputs, strict=True)},
        {name: x[:, ::step, ::step] for name, x in expected.items()},
        step,
    )


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The description of an exported network.

    Args:
        path: the file, NAME.json.

    Raises:
        InputError: it is none, or of a newer version of this package.
    """
    about = objects.read_object(path, "export the network again")
    if about.get("format") != description.FORMAT:
        raise InputError(f"{path} describes no exported network; name the NAME.json beside one.")
    if about.get("version") != description.VERSION:
        raise InputError(
            f"{path} has version {about.get('version')!r} and this mgdn_jax reads "
            f"{description.VERSION}; update the package."
        )
    return about


def run(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Runs an exported network on its check pair, on this machine.

    Args:
        path: its description, NAME.json; the files that it names lie beside it.

    Returns:
        What `Check.worst` says.

    Raises:
        InputError: a file is missing or damaged, or the libraries that run it are not there.
    """
    path = Path(path)
    about = read(path)
    try:
        kind, check = about["kind"], about["check"]
        names = [entry["name"] for entry in about["inputs"]]
        outputs = [entry["name"] for entry in about["outputs"]]
        artefact, step = path.parent / about["artefact"]["file"], check["step"]
        file, tolerances = path.parent / check["file"], check["tolerance"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} lacks {error}; export the network again.") from None
    arrays = _arrays(file, [*names, *outputs])
    check_pair = Check(
        {name: arrays[name] for name in names}, {name: arrays[name] for name in outputs}, step
    )
    place = "cpu" if programs.platform(kind) == "cpu" else "elsewhere"
    try:
        return check_pair.worst(programs.loaded(artefact, kind), tolerances, place)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} lacks {error}; export the network again.") from None


def _arrays(path: Path, names: list[str]) -> Mapping[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except Exception as error:  # of zip files, of NumPy's header, of the disk
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise InputError(f"{path} cannot be read ({reason}); export the network again.") from None
