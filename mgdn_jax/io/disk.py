"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import pathlib
import stat
import tempfile

from mgdn_jax.errors import InputError


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes `content` to a hidden name beside `path`, then renames: nobody sees half a file.

    A link is followed and the permissions of a file that is replaced are kept.

    Args:
        path: the file to write; its folder is made when missing.
        content: the bytes.

    Raises:
        InputError: no space, no permission, or no such place. The hidden file is removed, also
            when the user interrupts.
    """
    target = pathlib.Path(os.path.realpath(path))
    hidden = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, hidden = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(hidden, _mode(target))
        os.replace(hidden, target)
        hidden = None
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{os.fspath(path)} cannot be written ({reason[:1].lower()}{reason[1:]}); "
            "free some space or choose another place."
        ) from error
    finally:
        if hidden is not None:
            pathlib.Path(hidden).unlink(missing_ok=True)


def _mode(target: pathlib.Path) -> int:
    """The permissions of the file to replace, or what `open` would give a new one."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


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
