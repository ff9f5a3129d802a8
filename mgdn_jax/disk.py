"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib

from mgdn_jax.errors import InputError


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes `content` to `path` so that no reader ever sees half of it.

    Args:
        path: the file to write; its folder is made when missing.
        content: the bytes.

    Raises:
        InputError: the folder or the file cannot be written.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); choose a writable place."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def make_folder(path: str | os.PathLike[str]) -> None:
    """Makes a folder and its parents where missing.

    Raises:
        InputError: it cannot be made, or a file has its name.
    """
    try:
        pathlib.Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be made ({error.strerror}); choose a writable folder."
        ) from error
