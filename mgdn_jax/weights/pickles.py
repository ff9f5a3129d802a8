"""What a PyTorch file declares, read before PyTorch unpickles it: nothing here is executed.

PyTorch's `weights_only` runs no code of a file's, but believes its sizes: a kilobyte may declare
storages of terabytes, unpack to gigabytes, or hold keys that take years to hash.
"""

from __future__ import annotations

import os
import pickletools
import zipfile
from typing import Any, BinaryIO, NamedTuple

from mgdn_jax.errors import InputError
from mgdn_jax.io import opening
from mgdn_jax.systems import limits

_ZIP = b"PK\x03\x04"
_MOST_STEPS = 500_000
"""Operations of a pickle; a tensor takes about forty."""
_MOST_ENTRIES = 100_000
_MOST_GROWTH, _MOST_SPARE = 4, 16 * 2**20
"""Somebody may have compressed an archive, by a factor that weights have; 16 MiB do no harm."""
_MOST_TUPLE = 10_000
"""Values and letters in a tuple, those of tuples in it included, each as often as it comes: what a
key costs to hash. A tensor's own arguments are about a hundred."""
_MOST_LETTERS = 4096
"""Letters of one text; what PyTorch says against a file takes as long as their square."""
_PICKLES = 5
"""Files of the old form are so many pickles and then the bytes of all storages."""


def check(path: str | os.PathLike[str]) -> None:
    """Refuses a file whose declarations cannot be those of a model's tensors.

    Args:
        path: of a file that `torch.save` may have written, in its new or its old form.

    Raises:
        InputError: it is no regular file, larger than `limits` allow, declares more than it
            holds, or asks for objects that no state dictionary has. Anything else that is wrong
            with it is left for PyTorch to find.
    """
    name = os.fspath(path)
    most = 8 * limits.most("parameters")
    with opening.opened(path, "a PyTorch checkpoint", most=most) as file:
        if file.read(4) == _ZIP:
            _check_archive(file, name)
        else:
            file.seek(0)
            for _ in range(_PICKLES):
                if not _check_pickle(file, name):
                    break


def _check_archive(file: BinaryIO, name: str) -> None:
    """The new form: a zip archive with a pickle in it; PyTorch itself does not compress it."""
    whole = os.fstat(file.fileno()).st_size
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            declared = sum(entry.file_size for entry in entries)
            if len(entries) > _MOST_ENTRIES or declared > _MOST_GROWTH * whole + _MOST_SPARE:
                raise _refusal(name, "it declares more than it holds")
            for entry in entries:
                if entry.filename.endswith(".pkl"):
                    with archive.open(entry) as content:
                        _check_pickle(content, name)
    except InputError:
        raise
    except Exception as error:  # zipfile raises many kinds for a damaged archive
        raise _refusal(name, f"its archive is damaged: {str(error)[:80]}") from None


class _Class(NamedTuple):
    """A class or a function, by its name without its module."""

    name: str


_ROOMY = ("bytearray", "bytes")


class _Item(NamedTuple):
    """A value on the pickle machine's stack: what it costs to hash, and itself where it is plain.

    Plain are numbers, texts, classes, and tuples of those.
    """

    cost: int
    value: Any = None


_MARK = _Item(0)


def _check_pickle(file: Any, name: str) -> bool:
    """Walks through one pickle; False where there is none, or one that cannot be followed."""
    machine = _Machine(name)
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if number > _MOST_STEPS:
                raise _refusal(name, "its pickle is too long")
            if isinstance(argument, str | bytes) and len(argument) > _MOST_LETTERS:
                raise _refusal(name, "it holds a text that is too long for a name")
            machine.step(opcode, argument)
    except InputError:
        raise
    except Exception:  # a damaged pickle, which PyTorch refuses too
        return False
    return True


class _Machine:
    """The pickle machine with costs for values: it makes no object and calls nothing."""

    def __init__(self, name: str):
        self._name = name
        self._stack: list[_Item] = []
        self._memo: dict[int, _Item] = {}
        self._storages: dict[str, int] = {}

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Does what an operation does to the stack.

        Raises:
            InputError: no state dictionary has the operation.
            IndexError: the stack is too short for it.
            KeyError: it takes what was never kept.
        """
        if opcode.name in ("BINGET", "LONG_BINGET", "GET"):
            self._stack.append(self._memo[int(argument)])
        elif opcode.name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[int(argument)] = self._stack[-1]
        elif opcode.name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif opcode.name == "DUP":
            self._stack.append(self._stack[-1])
        elif opcode.name == "MARK":
            self._stack.append(_MARK)
        else:
            self._apply(opcode, argument, self._popped(opcode))

    def _popped(self, opcode: pickletools.OpcodeInfo) -> list[_Item]:
        """What an operation takes from the stack, without the mark."""
        before = list(opcode.stack_before)
        if pickletools.stackslice not in before:
            count = len(before)
            if count == 0:
                return []
            items = self._stack[-count:]
            if len(items) < count:
                raise IndexError("the stack is too short")
            del self._stack[-count:]
            return items
        place = len(self._stack) - 1
        while self._stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise IndexError("there is no mark")
        items = self._stack[place + 1 :]
        below = before.index(pickletools.markobject)  # what the operation takes from below the mark
        items = self._stack[place - below : place] + items
        del self._stack[place - below :]
        return items

    def _apply(self, opcode: pickletools.OpcodeInfo, argument: Any, items: list[_Item]) -> None:
        made = len(opcode.stack_after)
        if opcode.name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE"):
            cost = 1 + sum(item.cost for item in items)
            if cost > _MOST_TUPLE:
                raise _refusal(self._name, "it nests tuples as no model does")
            self._stack.append(_Item(cost, tuple(item.value for item in items)))
        elif opcode.name == "GLOBAL":
            self._stack.append(_Item(1, _Class(str(argument).split(" ")[-1])))
        elif opcode.name in ("REDUCE", "NEWOBJ"):
            self._check_call(items)
            self._stack.append(_Item(1))
        elif opcode.name == "BINPERSID":
            self._check_storage(items[0].value)
            self._stack.append(_Item(1))
        elif made == 1 and not items:  # a constant, or an empty container
            letters = len(argument) if isinstance(argument, str | bytes) else 0
            value = argument if isinstance(argument, int | str) else None
            self._stack.append(_Item(1 + letters, value))
        elif made:
            self._stack.append(items[0] if items else _Item(1))

    def _check_call(self, items: list[_Item]) -> None:
        """Classes that make as much room as they are told to, without any bytes for it."""
        function, arguments = (item.value for item in items[:2])
        if not isinstance(function, _Class):
            raise _refusal(self._name, "it calls what is no class")
        if arguments and (function.name in _ROOMY or function.name.endswith(("Tensor", "Storage"))):
            raise _refusal(self._name, f"it makes a {function.name[:40]} without a storage")

    def _check_storage(self, value: Any) -> None:
        """``("storage", class, key, place, numbers, ...)``: the old form makes room for it."""
        if isinstance(value, tuple) and len(value) > 4 and isinstance(value[4], int):
            self._storages[str(value[2])] = max(0, value[4])  # once for all tensors that share it
        limits.check(sum(self._storages.values()), "parameters", self._name)


def _refusal(name: str, reason: str) -> InputError:
    return InputError(
        f"{name}: cannot be read as a PyTorch checkpoint of plain tensors ({reason}); save the"
        " model's state_dict again by torch.save."
    )
