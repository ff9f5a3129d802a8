"""Where checkpoints may lie: in the workdir, in another folder, or in a bucket of Google's.

Orbax writes arrays to folders and to gs:// alone. It begins to save to s3://, for etils' paths take
it, and fails over the first array; so such an address is refused before anything is trained.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

from mgdn_jax.errors import InputError
from mgdn_jax.io.disk import reason

_SCHEME = "gs://"


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
        InputError: an address of a kind that Orbax does not write to.
    """
    if not is_remote(place):
        return pathlib.Path(place).absolute()
    if not os.fspath(place).startswith(_SCHEME):
        raise InputError(
            f"{place}: is no place for checkpoints, which Orbax writes to folders and {_SCHEME}"
            " alone; mount the store and name the folder."
        )
    from etils import epath  # which Orbax brings along

    return epath.Path(place)


def open_address(path: Any) -> None:
    """Makes an address ready to be written to.

    Raises:
        InputError: its reader is not installed, or it cannot be reached.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Stores have no empty folders. This proves that they can be written, too.
        (path / "README").write_text("Training checkpoints of mgdn_jax.\n")
    except ImportError as error:
        raise InputError(f"{path}: needs gcsfs; install it with pip install gcsfs.") from error
    except Exception as error:  # of the network, of credentials, of a bucket that is not there
        raise InputError(
            f"{path}: cannot be opened ({type(error).__name__}: {reason(error)}); see to its name"
            " and to the credentials that gcsfs takes."
        ) from error
