"""Networks that leave the package: a program, what it says about itself, and a check of both."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from mgdn_jax import arguments
from mgdn_jax.errors import InputError
from mgdn_jax.fusing.loading import load
from mgdn_jax.io import disk
from mgdn_jax.io.files import check_folder
from mgdn_jax.serving import checks, description, programs
from mgdn_jax.weights import zoo

ALL_PLATFORMS = ("cpu", "cuda", "tpu")
MOST_PIXELS = 2**28


@dataclasses.dataclass(frozen=True)
class Exported:
    """The files of an exported network.

    Attributes:
        artefact: the program, NAME.jax or NAME.onnx.
        about: its description, NAME.json.
        check: inputs and expected outputs, NAME.check.npz.
        description: what `about` holds.
    """

    artefact: Path
    about: Path
    check: Path
    description: dict[str, Any]

    def run_check(self) -> dict[str, Any]:
        """Runs the program on the check pair; see `serving.checks.run`."""
        return checks.run(self.about)


def export(
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    format: str = "jax",
    size: str | tuple[int, int] = "any",
    batch: int | None = None,
    platforms: str | Sequence[str] = ALL_PLATFORMS,
    system: str | None = None,
    trust: bool | str | Collection[str] = False,
) -> Exported:
    """Writes a network as a program that runs without this package.

    The program is the bare network, `Fuser.network`: float32 pictures (B, H, W, C) in, the fused
    one out, and the weights of its inputs where it has some. Beside it lies what else has to be
    known (inputs, ranges, colour, what `Fuser` does outside the network), and a check pair.

    Args:
        model: a bundled name (`list_models`), or a weight file.
        folder: where the files go; it is made where missing.
        format: ``"jax"`` (`jax.export`; runs with jax and flatbuffers) or ``"onnx"`` (runs in
            onnxruntime; for portability, slower).
        size: ``"any"``, or rows and columns, ``"256x320"`` or ``(256, 320)``. Programs of one
            size take the quickest forms for each platform; those of any size take maps whole.
        batch: pictures at once, of one size; 1 if left out. Any size takes any number.
        platforms: what a program of JAX is for, of cpu, cuda, rocm and tpu.
        system: as of `load`.
        trust: as of `load`.

    Returns:
        The files.

    Raises:
        InputError: a bad argument, an extra that is not installed, a network that cannot be
            exported so, or a place that cannot be written.
    """
    if format not in programs.FORMATS:
        choices = " or ".join(programs.FORMATS)
        raise InputError(f"format is {arguments.shown(format)}; choose {choices}.")
    shape = _size(size, batch)
    targets = _platforms(platforms)
    weights = zoo.resolve(model)
    name = weights.stem
    place = Path(folder)
    files = Exported(
        artefact=place / description.artefact(name, format),
        about=place / f"{name}.json",
        check=place / f"{name}.check.npz",
        description={},
    )
    _check_place(files)
    programs.check_extra(format)
    check_folder(place)
    fuser = load(weights, system=system, trust=trust)
    disk.make_folder(place)
    content = description.describe(
        fuser, name=name, weights=weights, kind=format, size=shape, platforms=targets
    )
    program = programs.exported(fuser, format, shape, targets)
    check = checks.made(fuser, shape or checks.ANY_SIZE)
    if format == "onnx":
        _check_conversion(program, check)
    content["artefact"] = {"file": files.artefact.name, "bytes": len(program)}
    content["check"] = {
        "file": files.check.name,
        "step": check.step,
        "tolerance": {name: checks.TOLERANCES[format][name] for name in check.expected},
    }
    disk.write_atomically(files.artefact, program)
    disk.write_atomically(files.check, check.content())
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    disk.write_atomically(files.about, text.encode())
    return dataclasses.replace(files, description=content)


def _check_conversion(program: bytes, check: checks.Check) -> None:
    """Refuses what a converter made wrongly, which they do without a word.

    Raises:
        InputError: the program does not give what is expected.
    """
    result = check.worst(programs.opened(program, "onnx"), checks.TOLERANCES["onnx"], "cpu")
    if not result["passed"]:
        raise InputError(
            f"the converter made an ONNX program whose output {result['output']} is off by"
            f" {result['difference']:.1e}; choose the format jax."
        )


def _size(size: Any, batch: Any) -> programs.Size | None:
    """Pictures, rows and columns; None for any.

    Raises:
        InputError: they are none.
    """
    if size == "any":
        if batch is not None:
            raise InputError("batch needs a size; programs of any size take any batch.")
        return None
    sides = size.lower().split("x") if isinstance(size, str) else size
    try:
        height, width = (int(side) for side in sides)
    except (TypeError, ValueError):
        height = width = 0
    if not (height > 0 and width > 0):
        raise InputError(
            f"size is {arguments.shown(size)}; write any, or rows x columns, 256x320 for instance."
        )
    count = 1 if batch is None else arguments.whole("batch", batch, least=1)
    if count * height * width > MOST_PIXELS:
        raise InputError(
            f"size is {arguments.shown(size)} with batch {count}, more than {MOST_PIXELS} pixels;"
            " export for any size, or for tiles."
        )
    return count, height, width


def _platforms(platforms: Any) -> tuple[str, ...]:
    """Platforms without repetition.

    Raises:
        InputError: one does not exist, or none is named.
    """
    words = platforms.split(",") if isinstance(platforms, str) else list(platforms)
    chosen = tuple(dict.fromkeys(str(word).strip() for word in words))
    if not chosen or not set(chosen) <= set(programs.PLATFORMS):
        choices = ", ".join(programs.PLATFORMS)
        raise InputError(
            f"platforms are {arguments.shown(platforms)}; choose of {choices}, with commas between."
        )
    return chosen


def _check_place(files: Exported) -> None:
    """Refuses to describe two programs by one file.

    Raises:
        InputError: a program of the other format, or a foreign file, is there.
    """
    if not files.about.exists():
        return
    other = checks.read(files.about).get("artefact")
    named = other.get("file") if isinstance(other, dict) else None
    if named != files.artefact.name:
        raise InputError(
            f"{files.about} describes {arguments.shown(named)}; choose another folder for "
            f"{files.artefact.name}."
        )
