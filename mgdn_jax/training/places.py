"""Where checkpoints may lie: in the workdir, in another folder, or at an address of a store.

Orbax writes to addresses by TensorStore and etils' paths, and these by the store's own package.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

from mgdn_jax.errors import InputError
from mgdn_jax.io.disk import reason

_READERS = {"gs": "gcsfs", "s3": "s3fs"}
"""Addresses that checkpoints may have, and the package that reads each."""


def home(workdir: str | os.PathLike[str], elsewhere: str = "") -> str:
    """Where the checkpoints of a run are.

    Args:
        workdir: the run's folder.
        elsewhere: the config's `train.checkpoints`.
    """
    return elsewhere or os.fspath(pathlib.Path(workdir) / "checkpoints")


def is_remote(place: str | os.PathLike[str]) -> bool:
    """Whether a place is an address and no folder of this machine."""
    return "://" in os.fspath(place)


def path_of(place: str | os.PathLike[str]) -> Any:
    """A folder as a path, an address as one of etils', which reads like it.

    Raises:
        InputError: an address of a kind that is not known.
    """
    if not is_remote(place):
        return pathlib.Path(place).absolute()
    scheme = os.fspath(place).partition("://")[0]
    if scheme not in _READERS:
        known = ", ".join(f"{name}://" for name in _READERS)
        raise InputError(f"{place}: is no place for checkpoints; name a folder, or one of {known}.")
    from etils import epath  # which Orbax brings along

    return epath.Path(place)


def open_address(path: Any) -> None:
    """Makes an address ready to be written to.

    Raises:
        InputError: its reader is not installed, or it cannot be reached.
    """
    reader = _READERS[os.fspath(path).partition("://")[0]]
    try:
        path.mkdir(parents=True, exist_ok=True)
        list(path.iterdir())
    except ImportError as error:
        raise InputError(
            f"{path}: needs {reader}; install it with pip install {reader}."
        ) from error
    except Exception as error:  # of the network, of credentials, of a bucket that is not there
        raise InputError(
            f"{path}: cannot be opened ({type(error).__name__}: {reason(error)}); see to its name"
            f" and to the credentials that {reader} takes."
        ) from error
