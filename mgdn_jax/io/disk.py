"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import re
import stat
import tempfile
from collections.abc import Iterable

from mgdn_jax.errors import InputError

_REASONS = (
    *("No space left on device", "Disk quota exceeded", "File too large"),
    *("Read-only file system", "Input/output error", "Permission denied", "Too many open files"),
)
_START = 32  # of a name that a hidden one has; the longest that a disk takes has no room for more
_HIDDEN = re.compile(rf"\.(?P<start>.{{1,{_START}}})\.[a-z0-9_]{{8}}", re.DOTALL)


class WriteError(InputError):
    """A file cannot be written: no space, no permission, a broken disk, or no such place.

    Args:
        place: the file or folder.
        error: what was raised.

    Attributes:
        place: the file or folder.
        reason: why, in a few words.
    """

    def __init__(self, place: str | os.PathLike[str], error: BaseException):
        self.place, self.reason = os.fspath(place), reason(error)
        super().__init__(
            f"{self.place} cannot be written ({self.reason});"
            " free some space or choose another place."
        )


def reason(error: BaseException) -> str:
    """Why something cannot be written, in a few words without a capital.

    Args:
        error: what was raised; libraries pack the system's words into texts of their own.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror[:1].lower() + cause.strerror[1:]
        match = re.search("|".join(_REASONS), str(cause), re.IGNORECASE)
        if match:
            return match[0].lower()
        cause = cause.__cause__ or cause.__context__
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes `content` to a hidden name beside `path`, then renames: nobody sees half a file.

    A link is followed and the permissions of a file that is replaced are kept.

    Args:
        path: the file to write; its folder is made when missing.
        content: the bytes.

    Raises:
        WriteError: no space, no permission, or no such place. The hidden file is removed, also
            when the user interrupts.
    """
    try:
        hidden = hidden_beside(path)
        try:
            hidden.write_bytes(content)
            publish(hidden, path)
        finally:
            hidden.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(path, error) from error


def hidden_beside(path: str | os.PathLike[str]) -> pathlib.Path:
    """An empty file with a hidden name in the folder of `path`, which is made when missing.

    Who writes to it ends with `publish`, or removes it.

    Args:
        path: the file to be; a link is followed.

    Raises:
        InputError: as `check_links`.
        OSError: it cannot be made.
    """
    check_links(path)
    target = pathlib.Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    start = target.name[:_START]
    descriptor, hidden = tempfile.mkstemp(prefix=f".{start}.", dir=target.parent)
    os.close(descriptor)
    return pathlib.Path(hidden)


def publish(hidden: pathlib.Path, path: str | os.PathLike[str]) -> None:
    """Puts a hidden file, once it is on the disk, in the place of `path`, all at once.

    Args:
        hidden: as `hidden_beside` gave it, written and closed.
        path: the file to be; the permissions of one that is replaced are kept.

    Raises:
        OSError: it cannot be done; the hidden file is still there.
    """
    target = pathlib.Path(os.path.realpath(path))
    with open(hidden, "r+b") as file:
        os.fsync(file.fileno())
    os.chmod(hidden, _mode(target))
    os.replace(hidden, target)


def encoded(text: str) -> bytes:
    """Text for a file, in UTF-8; what is no Unicode in a name is spelled out by its number."""
    return text.encode("utf-8", "backslashreplace")


def _mode(target: pathlib.Path) -> int:
    """The permissions of the file to replace, or what `open` would give a new one."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def check_links(path: str | os.PathLike[str], *, is_folder: bool = False) -> None:
    """Refuses a place that lies behind a link to nowhere: folders are made along paths alone.

    Args:
        path: of a file to be. A link to a file that is not there yet is fine where its folder is.
        is_folder: whether a folder is to be there.

    Raises:
        InputError: a part of the path is a link to a folder that does not exist, or the name is
            longer than a disk takes.
    """
    place = pathlib.Path(path).absolute()
    for part in (place, *place.parents):
        if not os.path.islink(part) or os.path.exists(part):
            continue
        real = os.path.realpath(part)
        if part == place and not is_folder and os.path.isdir(os.path.dirname(real)):
            continue
        raise InputError(
            f"{os.fspath(path)} cannot be written because {part} is a link to {real}, which does "
            "not exist; make its folder or name another place."
        )
    try:
        os.lstat(place)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(
                f"{os.fspath(path)[:100]}... is too long a name for a file; choose a shorter one."
            ) from None


def make_folder(path: str | os.PathLike[str]) -> None:
    """Makes a folder and its parents where missing.

    Raises:
        InputError: it cannot be made, or a file has its name.
    """
    check_links(path, is_folder=True)
    try:
        pathlib.Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be made ({error.strerror}); choose a writable folder."
        ) from error


def sweep(paths: Iterable[str | os.PathLike[str]], *, since: int = 0, until: int = 2**63) -> int:
    """Removes the hidden files that killed processes left beside files that they were to write.

    Args:
        paths: the files to be. Nobody may be writing them in that time.
        since: nanoseconds of the clock of files; what was changed before stays.
        until: likewise; what was changed later stays.

    Returns:
        How many there were.
    """
    starts: dict[pathlib.Path, set[str]] = {}
    for path in paths:
        target = pathlib.Path(path)
        starts.setdefault(target.parent, set()).add(target.name[:_START])
    count = 0
    for folder, names in starts.items():
        try:
            hidden = [entry for entry in os.scandir(folder) if entry.name.startswith(".")]
        except OSError:
            continue  # it is not there yet
        for entry in hidden:
            match = _HIDDEN.fullmatch(entry.name)
            if match is None or match["start"] not in names:
                continue
            with contextlib.suppress(OSError):
                if since <= entry.stat(follow_symlinks=False).st_mtime_ns <= until:
                    os.unlink(entry.path)
                    count += 1
    return count
