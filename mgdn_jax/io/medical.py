"""Series and volumes: in order, and written where they lie (extra `medical`)."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.io import reading
from mgdn_jax.io.disk import write_atomically
from mgdn_jax.io.pictures import Labels

VOLUMES = (".nii", ".nii.gz")
SLICES = (".dcm", ".dicom")


def read_series(folder: str | os.PathLike[str]) -> list[Path]:
    """The DICOM files of a folder in the order in which their slices lie.

    Args:
        folder: the folder; other files are passed over.

    Returns:
        The paths, sorted along the normal of the slices; by instance number where the files do
        not say where they lie.

    Raises:
        InputError: no DICOM file, several series or orientations, or several slices at one
            position.
    """
    if not (found := series_of(folder)):
        raise InputError(f"{os.fspath(folder)} holds no DICOM file; name the folder of a series.")
    return found


def series_of(folder: str | os.PathLike[str]) -> list[Path]:
    """As `read_series`, but none where the folder holds no DICOM file.

    Raises:
        InputError: as `read_series`, or the folder cannot be listed.
    """
    name = os.fspath(folder)
    try:
        return list(_series(name, os.stat(name).st_mtime_ns))
    except OSError as error:
        raise InputError(f"{name} cannot be listed ({error.strerror}); name a folder.") from None


@functools.lru_cache(maxsize=8)
def _series(name: str, changed: int) -> tuple[Path, ...]:
    """The series of a folder as it was at one time: its slices are asked for one by one."""
    if not any(_is_dicom(path) for path in Path(name).iterdir()):
        return ()
    return tuple(reading.room("dicom", name).series(name))


def _is_dicom(path: Path) -> bool:
    if path.name.startswith(".") or not path.is_file():
        return False
    if path.suffix.lower() in SLICES:
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def encode_slice(array: np.ndarray, labels: Labels, name: str) -> bytes:
    """One slice as a DICOM file or as a NIfTI volume of one slice.

    Args:
        array: the pixels.
        labels: the labels of the result, with the geometry of its source.
        name: the path; its end says which.

    Returns:
        The whole file.

    Raises:
        InputError: the format cannot hold the pixels, or lacks a place for them.
    """
    if name.lower().endswith(SLICES):
        return reading.room("dicom", name).encode(array, labels, name)
    return reading.room("nifti", name).encode([array], [labels.geometry], name)


def write_volume(
    path: str | os.PathLike[str],
    slices: Iterable[np.ndarray],
    labels: Labels | Sequence[Labels],
) -> Path:
    """Writes slices as a NIfTI volume that lies where its sources lie, whole or not at all.

    Args:
        path: the file, ".nii" or ".nii.gz".
        slices: (H, W) each, or (H, W, 3) uint8, in the order of the pages that were read.
        labels: of the result: those of its first slice, whose volume gives the header (NIfTI), or
            those of each slice, whose positions give it (DICOM).

    Returns:
        The path, with symbolic links resolved.

    Raises:
        InputError: another kind of file, several sizes, another size or number of slices than the
            source has, or the place cannot be written.
    """
    name = os.fspath(path)
    if not name.lower().endswith(VOLUMES):
        raise InputError(f"{name} cannot hold a volume; let its name end in .nii.gz.")
    places = [item.geometry for item in ([labels] if isinstance(labels, Labels) else labels)]
    data = reading.room("nifti", name).encode(list(slices), places, name)
    write_atomically(path, data)
    return Path(os.path.realpath(path))


def write_series(
    folder: str | os.PathLike[str], slices: Iterable[np.ndarray], labels: Sequence[Labels]
) -> list[Path]:
    """Writes slices as a DICOM series, a file each.

    Args:
        folder: the folder, made if missing.
        slices: as `write_volume`; taken one by one.
        labels: those of each slice.

    Returns:
        The paths, "0001.dcm" and on.

    Raises:
        InputError: a slice cannot be written, or there is not one of the labels for each.
    """
    encode = reading.room("dicom", os.fspath(folder)).encode
    paths = []
    try:
        for number, (array, item) in enumerate(zip(slices, labels, strict=True), 1):
            path = Path(folder) / f"{number:04}.dcm"
            write_atomically(path, encode(array, item, os.fspath(path)))
            paths.append(path)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder} needs the labels of each slice; give as many.") from None
    return paths
