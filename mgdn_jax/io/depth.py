"""Depth maps as files: metric depth and disparity, read and written with their unit.

A hole is 0 in whole numbers and NaN in floats; in memory it is NaN. Where a file does not say its
unit, its type does by convention: 16-bit numbers are millimetres, floats are metres, 8-bit numbers
are levels (a disparity, or whatever rises or falls with depth).
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mgdn_jax.errors import InputError
from mgdn_jax.io import arrays, bitmaps, codec, files, guard, kinds, metadata, opening, reading
from mgdn_jax.io.disk import check_links, write_atomically
from mgdn_jax.io.pictures import Labels

UNITS = ("mm", "m", "levels")
_NAMES = {"mm": "millimetres", "m": "metres", "levels": "levels"}
_PICTURES = (".png", ".tif", ".tiff", ".exr")
ARRAYS = (".npy", ".npz")
"""How files of arrays end, which are no pictures."""
WRITABLE = (*_PICTURES, *ARRAYS)
"""How the names of files that `write_depth` writes end; ".exr" needs an extra."""
_KEY, _UNIT_KEY = "depth", "unit"
_KEYWORD = b"Depth unit"  # of a text chunk in PNG
_DESCRIPTION = 0x010E  # the tag of TIFF
_MOST, _MOST_LEVELS = 65535, 255
_FEW_STEPS = 16
_MOST_UNIT_BYTES = 256


@dataclasses.dataclass(frozen=True)
class Depth:
    """A depth map with its unit.

    Attributes:
        values: (H, W) float32 in `unit`; NaN is missing.
        unit: one of `UNITS`; None where nobody knows.
        name: what messages call it, normally its path.
        remarks: sentences about what was not read.
        basis: how the unit is known, a sentence; empty where it was given.
    """

    values: np.ndarray
    unit: str | None = None
    name: str = "the depth map"
    remarks: tuple[str, ...] = ()
    basis: str = ""


@dataclasses.dataclass(frozen=True)
class Written:
    """What became of a map in a file.

    Attributes:
        path: the file, with symbolic links resolved.
        unit: of the numbers in it.
        notes: sentences about what was converted.
        warnings: sentences about what was lost.
    """

    path: Path
    unit: str | None
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


# ---------------------------------------------------------------------------------- reading


def decode_depth(data: bytes, name: str) -> np.ndarray:
    """The numbers of a depth map in memory, as they are stored.

    Args:
        data: the whole file: PNG, TIFF or EXR of one channel, NPY, or NPZ with the array "depth"
            or with one array of two dimensions.
        name: what messages call it.

    Returns:
        (H, W) float32; holes as they are stored.

    Raises:
        InputError: damaged, too large, no map, or several.
    """
    return _decoded(data, name).values


def read_depth(path: str | os.PathLike[str], unit: str | None = None) -> Depth:
    """Reads a depth map.

    Args:
        path: 8- or 16-bit PNG or TIFF, float TIFF, EXR (extra `hdr`), NPY or NPZ.
        unit: of the numbers, one of `UNITS`, in place of what the file or the convention says.

    Returns:
        The map; 0 and what is not finite became NaN.

    Raises:
        InputError: the file is missing, damaged, too large, holds no map or several, or the unit
            does not exist.
    """
    if unit is not None:
        check_unit(unit)
    name = os.fspath(path)
    stored = _decoded(opening.read_bytes(path, "a depth map"), name)
    values = np.where(np.isfinite(stored.values) & (stored.values != 0), stored.values, np.nan)
    basis = ""
    if unit is None and stored.unit is not None:
        unit, basis = stored.unit, f"{name} says that its unit is {_NAMES[stored.unit]}."
    elif unit is None:
        unit = stored.usual_unit
        basis = (
            f"{name} was taken as {_NAMES[unit]}, as {stored.kind} usually are; give the unit "
            "where that is wrong."
        )
    return Depth(values.astype(np.float32), unit, name, stored.remarks, basis)


def check_unit(unit: str) -> None:
    """Refuses a unit that does not exist.

    Raises:
        InputError: it is none of `UNITS`.
    """
    if unit not in UNITS:
        raise InputError(f"the unit is {unit!r}; choose one of {', '.join(UNITS)}.")


@dataclasses.dataclass(frozen=True)
class _Stored:
    """Numbers as a file has them.

    Attributes:
        values: (H, W) float32.
        kind: what the numbers are, in words.
        usual_unit: by convention.
        unit: what the file says; None where it says nothing.
        remarks: sentences about what was not read.
    """

    values: np.ndarray
    kind: str
    usual_unit: str
    unit: str | None
    remarks: tuple[str, ...]


def _decoded(data: bytes, name: str) -> _Stored:
    kind = kinds.kind_of(data[: kinds.HEAD], name)
    unit: str | None = None
    remarks: tuple[str, ...] = ()
    with guard.decoding(name):
        if kind == "numpy":
            array = _plane(arrays.read(io.BytesIO(data), name), name)
        elif kind == "zip":
            array, unit = _of_archive(data, name)
        else:
            picture = reading.read(io.BytesIO(data), name)
            array, lost = _single(picture.pixels, name)
            remarks = picture.remarks + lost
            unit = _unit_in_picture(data, kind, picture.labels)
        with np.errstate(over="ignore"):  # what floats of 32 bits cannot hold is missing
            values = array.astype(np.float32)
    if array.dtype.kind == "f":
        return _Stored(values, "floats", "m", unit, remarks)
    if array.dtype.itemsize == 1:
        return _Stored(values, "8-bit numbers", "levels", unit, remarks)
    return _Stored(values, f"{8 * array.dtype.itemsize}-bit numbers", "mm", unit, remarks)


def _single(pixels: np.ndarray, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The one channel of a map, and what was left out."""
    if pixels.ndim == 2:
        return pixels, ()
    colours = pixels[..., :-1] if pixels.shape[-1] in (2, 4) else pixels
    if (colours != colours[..., :1]).any():
        raise InputError(
            f"{name} is a colour picture and no depth map; give the map first and the photograph "
            "second (the colours of a preview hold no depth)."
        )
    lost = "" if colours is pixels else f"{name} has transparency, which was left out."
    return colours[..., 0], (lost,) if lost else ()


def _plane(array: np.ndarray, name: str) -> np.ndarray:
    shape = _plane_shape(array.shape)
    if shape is None:
        raise InputError(
            f"{name} is no depth map but has the shape {array.shape}; give rows and columns."
        )
    return array.reshape(shape)


def _plane_shape(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Rows and columns of an array whose other axes have length 1; None if it has no such form."""
    if len(shape) > 2:
        shape = tuple(n for n in shape if n != 1)
    return shape if len(shape) == 2 else None


def _of_archive(data: bytes, name: str) -> tuple[np.ndarray, str | None]:
    """The map of an NPZ, and its unit if that is there."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        shapes = arrays.members(archive)
        planes = [key for key, shape in shapes.items() if _plane_shape(shape) is not None]
        named = [_KEY] if _KEY in shapes else planes if len(planes) == 1 else [*shapes]
        if len(named) != 1:
            held = f"the arrays {', '.join(named)}" if named else "no arrays"
            raise InputError(f"{name} holds {held}; call the depth map {_KEY!r}.")
        (key,) = named
        with archive.open(f"{key}.npy") as file:
            array = _plane(arrays.read(file, name), name)
        unit = None
        if _UNIT_KEY in shapes:
            with archive.open(f"{_UNIT_KEY}.npy") as file:
                unit = _text(file)
    return array, unit if unit in UNITS else None


def _text(file: Any) -> str | None:
    """A short text stored as an array; None for anything else."""
    shape, _, dtype = arrays.header(file)
    if dtype.kind not in "US" or shape not in ((), (1,)) or dtype.itemsize > _MOST_UNIT_BYTES:
        return None
    value = np.frombuffer(file.read(dtype.itemsize), dtype)[0]
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _unit_in_picture(data: bytes, kind: str, labels: Labels) -> str | None:
    """What a text chunk of a PNG, or the description of a TIFF, says."""
    text = ""
    if kind == "png":
        with bitmaps.opened(io.BytesIO(data), "the map") as picture:
            text = f"{_KEYWORD.decode()}: {picture.info.get(_KEYWORD.decode(), '')}"
    elif kind == "tiff":
        text = str(metadata.loaded(labels.exif).get(_DESCRIPTION, ""))
    stated = re.search(rf"\b{_KEYWORD.decode()}: ({'|'.join(UNITS)})\b", text)
    return stated[1] if stated else None


# ---------------------------------------------------------------------------------- writing


def check_output(path: str | os.PathLike[str]) -> Path:
    """Finds out before the work whether a map can be written to `path`.

    Args:
        path: the file to be.

    Returns:
        The path, with symbolic links resolved.

    Raises:
        InputError: the file's type holds no depth, needs an extra that is not installed, or the
            place is not writable.
    """
    name = os.fspath(path)
    check_links(name)
    target = Path(os.path.realpath(name))
    if target.is_dir():
        raise InputError(f"{name} is a folder where a depth map is to be written; name a file.")
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        raise InputError(f"{name} is not a regular file; name another output.")
    if not name.lower().endswith(WRITABLE):
        raise InputError(
            f"{name} does not end in a type that holds depth; use one of {', '.join(WRITABLE)}."
        )
    if name.lower().endswith(".exr"):
        reading.room("exr", name)
    files.check_folder(target.parent, name)
    return target


def write_depth(
    path: str | os.PathLike[str], values: np.ndarray, unit: str | None = None
) -> Written:
    """Writes a depth map, whole or not at all.

    PNG holds whole numbers: millimetres in 16 bits, metres as such, levels in 8 bits where they
    fit. TIFF, NPY, NPZ and EXR hold float32. PNG, TIFF and NPZ say their unit. The others cannot:
    in them, millimetres become metres, which floats are by convention.

    Args:
        path: the file; its suffix is its format, one of `WRITABLE`.
        values: (H, W) numbers; 0 and what is not finite are missing: 0 in PNG, NaN elsewhere.
        unit: of the values; None writes them as they are, without one.

    Returns:
        What became of them.

    Raises:
        InputError: no map, an unknown unit, or the place cannot be written.
    """
    if unit is not None:
        check_unit(unit)
    values = np.asarray(values)
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "uif":
        raise InputError(
            f"an array of shape {values.shape} and type {values.dtype} is no depth map; "
            "give (H, W) numbers."
        )
    target = check_output(path)
    name, suffix = os.fspath(path), Path(path).suffix.lower()
    values = values.astype(np.float32)
    values = np.where(np.isfinite(values) & (values != 0), values, np.float32(np.nan))
    values, unit, notes = _converted(values, unit, suffix, name)
    warnings: list[str] = []
    if suffix == ".png":
        data = _png(values, unit, name, notes, warnings)
    elif suffix in (".tif", ".tiff"):
        data = codec.encode(values, suffix, labels=_described(unit))
    elif suffix == ".exr":
        data = reading.room("exr", name).encode(values)
    else:
        buffer = io.BytesIO()
        if suffix == ".npy":
            np.save(buffer, values, allow_pickle=False)
        else:
            contents = {_KEY: values} | ({_UNIT_KEY: np.array(unit)} if unit else {})
            np.savez_compressed(buffer, **contents)  # type: ignore[arg-type]
        data = buffer.getvalue()
    write_atomically(target, data)
    return Written(target, unit, tuple(notes), tuple(warnings))


def _converted(
    values: np.ndarray, unit: str | None, suffix: str, name: str
) -> tuple[np.ndarray, str | None, list[str]]:
    """Values in the unit that a format means."""
    if suffix == ".png" and unit == "m":
        return values * np.float32(1000), "mm", [f"metres became millimetres in {name}."]
    if suffix in (".npy", ".exr") and unit == "mm":
        note = f"millimetres became metres in {name}, which has no place for a unit."
        return values / np.float32(1000), "m", [note]
    if suffix in (".npy", ".exr") and unit == "levels":
        return values, unit, [f"{name} has no place for the unit, levels; .npz and .tif have."]
    return values, unit, []


def _png(
    values: np.ndarray, unit: str | None, name: str, notes: list[str], warnings: list[str]
) -> bytes:
    """Whole numbers from 1, in 8 or 16 bits; 0 is missing."""
    valid = np.isfinite(values)
    present = np.rint(values[valid])
    top, bottom = (float(x) for x in (present.max(), present.min())) if present.size else (1.0, 1.0)
    above, below = int((present > _MOST).sum()), int((present < 1).sum())
    cure = "write .tif or .npz to keep them"
    if above:
        warnings.append(f"{above} values of {name} above {_MOST} were cut off to that; {cure}.")
    if below:
        warnings.append(
            f"{below} values of {name} below 1 became 1, for 0 stands for missing; {cure}."
        )
    is_coarse = np.ptp(values[valid]) > 0 and top - bottom < _FEW_STEPS if present.size else False
    if is_coarse:
        warnings.append(
            f"{name} holds whole numbers, of which this map has {top - bottom + 1:g}; "
            "write .tif or .npz to keep its fractions."
        )
    is_small = unit == "levels" and top <= _MOST_LEVELS
    if unit in ("levels", None) and not is_coarse and (values[valid] != present).any():
        notes.append(f"values were rounded to whole numbers in {name}.")
    whole = np.zeros(values.shape, np.uint8 if is_small else np.uint16)
    whole[valid] = np.clip(present, 1, _MOST).astype(whole.dtype)
    return _with_text(codec.encode_png(whole), unit)


def _with_text(png: bytes, unit: str | None) -> bytes:
    """A PNG with the unit in a text chunk behind its header."""
    if unit is None:
        return png
    body = b"tEXt" + _KEYWORD + b"\0" + unit.encode()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    header = 8 + 12 + 13  # signature, and the first chunk
    return png[:header] + chunk + png[header:]


def _described(unit: str | None) -> Labels | None:
    """Labels with the unit in the description of a TIFF."""
    if unit is None:
        return None
    block = Image.Exif()
    block[_DESCRIPTION] = f"{_KEYWORD.decode()}: {unit}"
    return Labels(exif=metadata.tobytes(block))
