"""Weight files as they lie on disk: the header, what it declares, and arrays one by one.

The format is safetensors: eight bytes with the length of a JSON header, the header, and the bytes
of all arrays without a gap. Nothing is believed that the file's length does not bear out.
"""

from __future__ import annotations

import dataclasses
import math
import os
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mgdn_jax.arguments import shown
from mgdn_jax.errors import InputError
from mgdn_jax.io import objects
from mgdn_jax.systems import limits

FORMAT = "mgdn_jax"
VERSION = "1"
STATS = "stats:"
"""Names of running statistics begin so."""
BLOCKS = ("inference", "preparation", "training")
"""Entries of a card that are objects where they are there."""

MOST_BYTES = 2**50
"""Weight files have no more bytes; how many numbers they have is another limit."""
_MOST_HEADER = 16 * 2**20
_KINDS = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"},  # NumPy has no bfloat16
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1", "BOOL": "?"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1"},
}


class Slot(NamedTuple):
    """Where an array lies: kind and shape, first byte after the header, number of bytes."""

    kind: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says about itself.

    Attributes:
        path: of the file, for messages.
        notes: texts by name.
        slots: arrays by name.
        start: byte of the file that the first array begins at.
    """

    path: str
    notes: Mapping[str, str]
    slots: Mapping[str, Slot]
    start: int

    @property
    def parameters(self) -> int:
        """Numbers in all arrays that are no statistics."""
        names = [name for name in self.slots if not name.startswith(STATS)]
        return sum(math.prod(self.slots[name].shape) for name in names)


def read_header(file: BinaryIO, path: str) -> Header:
    """Reads and checks the header; no array is read.

    Args:
        file: the open file.
        path: of the file, for messages.

    Raises:
        InputError: the arrays have more numbers than `limits` allow.
        ValueError: it is no such file, or it is cut short or damaged; the message is the reason.
    """
    whole = os.fstat(file.fileno()).st_size
    file.seek(0)
    prefix = file.read(8)
    count = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else _MOST_HEADER + 1
    if count > min(_MOST_HEADER, whole - 8):
        raise ValueError("it does not begin with the length of a header")
    try:
        content = objects.object_of(file.read(count), "the header")
    except InputError:
        raise ValueError("its header is no JSON") from None
    notes = content.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(v, str) for v in notes.values()):
        raise ValueError("the notes in its header are no texts")
    slots = {name: _slot(name, entry) for name, entry in content.items()}
    numbers = sum(math.prod(slot.shape) for slot in slots.values())
    limits.check(numbers, "parameters", path)
    end = 0
    for name, slot in sorted(slots.items(), key=lambda item: item[1][2:]):
        if slot.start != end:
            raise ValueError(f"its array {shown(name)} does not begin where the one before ends")
        end += slot.size
    if end != whole - 8 - count:
        raise ValueError(f"its arrays have {end} bytes, and {whole - 8 - count} are there")
    return Header(path, notes, slots, 8 + count)


def _slot(name: str, entry: Any) -> Slot:
    """One entry of a header, checked by itself."""
    entry = entry if isinstance(entry, dict) else {}
    kind, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    code = _KINDS.get(kind) if isinstance(kind, str) else None
    if code is None:
        raise ValueError(f"its array {shown(name)} is of the kind {shown(kind)}")
    if not _whole_numbers(shape) or len(shape) > 32 or math.prod(n or 1 for n in shape) > 2**56:
        raise ValueError(f"its array {shown(name)} has the shape {shown(shape)}")
    size = math.prod(shape) * np.dtype(code).itemsize
    if not _whole_numbers(offsets) or len(offsets) != 2 or offsets[1] - offsets[0] != size:
        raise ValueError(f"its array {shown(name)} has not the bytes that its shape asks for")
    return Slot(kind, tuple(shape), offsets[0], size)


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def read_array(file: BinaryIO, header: Header, name: str) -> np.ndarray:
    """One array; float16 and bfloat16 become float32.

    Args:
        file: the open file.
        header: of the file.
        name: of the array.

    Raises:
        InputError: a value is not finite (in float32).
        OSError: it cannot be read.
    """
    slot = header.slots[name]
    dtype = np.dtype(_KINDS[slot.kind])
    file.seek(header.start + slot.start)
    value = np.fromfile(file, dtype, slot.size // dtype.itemsize)
    if value.nbytes != slot.size:
        raise OSError("the file became shorter")
    if slot.kind == "BF16":
        value = (value.astype(np.uint32) << 16).view(np.float32)
    value = value.astype(np.float32 if slot.kind == "F16" else value.dtype.newbyteorder("="))
    check_finite(value, f"{header.path}: the array {shown(name)}")
    return value.reshape(slot.shape)


def check_finite(value: np.ndarray, what: str) -> None:
    """Refuses NaN, infinities, and what becomes infinite in float32.

    Args:
        value: numbers of any kind.
        what: what to call them.

    Raises:
        InputError: one is not finite.
    """
    with np.errstate(over="ignore"):
        narrow = value.astype(np.float32, copy=False)
    if not np.isfinite(narrow).all():
        raise InputError(
            f"{what} has values that are not finite (NaN or infinite); the weights are damaged:"
            " fetch, convert or train them again."
        )


def content(header: Header) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """System, config and card of a weight file of ours.

    Args:
        header: of the file.

    Raises:
        InputError: it was written by another program or a newer version, or one of the three
            cannot be read.
    """
    notes, path = header.notes, header.path
    if notes.get("format") != FORMAT:
        raise InputError(
            f"{path}: was not written by mgdn_jax; weights from elsewhere go through"
            " `mgdn convert` first."
        )
    if notes.get("version") != VERSION:
        raise InputError(
            f"{path}: has format version {shown(notes.get('version'))} and this mgdn_jax reads"
            f" {VERSION!r}; update the package."
        )
    system = notes.get("system", "")
    try:
        if not system.isprintable() or not 0 < len(system) <= 200:
            raise InputError("its system is no name")
        config = objects.object_of(notes.get("config", ""), "the config")
        card = objects.object_of(notes.get("card", "{}"), "the card", has_nan=True)
        for name in BLOCKS:
            if not isinstance(card.get(name, {}), dict):
                raise InputError(f"{name!r} on its card is no object")
    except InputError as error:
        reason = str(error).removesuffix("; write it again.")
        raise InputError(
            f"{path}: lacks a readable system, config or card in its header ({reason}); write it"
            " again."
        ) from None
    return system, config, card
