"""NIfTI volumes slice by slice, through nibabel (extra `medical`)."""

from __future__ import annotations

import functools
import gzip
import io
import math
import os
import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO

import nibabel
import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.io import guard
from mgdn_jax.io.geometry import Geometry
from mgdn_jax.io.pictures import Labels, Picture

_DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8")


def read(file: BinaryIO, name: str, page: int | None = None) -> Picture:
    """Reads one slice of a volume, across the third axis of its array.

    The first axis runs to the right and the second upwards, so that a volume in the usual axes
    (right, anterior, superior) shows the front at the top. Slices of later volumes (a fourth axis)
    follow those of the first.

    Args:
        file: the file.
        name: what messages call it.
        page: the slice, from 0; None for the first, with a remark if there are more.

    Returns:
        The picture; the stored integers, or float32 where the file declares a scale. `window` is
        the display range that it declares.

    Raises:
        InputError: damaged, too large, or of more than four axes or a kind that is named.
    """
    with guard.decoding(name):
        image = _opened(file, name)
        shape, slices = _shape(image, name)
        guard.check_page(page or 0, slices, name)
        later, third = divmod(page or 0, shape[2])
        place = (slice(None), slice(None), third, later, 0, 0, 0)[: len(image.shape)]
        values = np.asarray(image.dataobj[place])
        pixels = _typed(values, name)
        pixels = np.ascontiguousarray(pixels[:, ::-1].swapaxes(0, 1))
        low, high = (float(image.header[key]) for key in ("cal_min", "cal_max"))
        window = ((low + high) / 2, high - low) if 0 < high - low < math.inf else None
        remarks = guard.further_pages(slices, name, "slice") if page is None else ()
        shown = (shape[1], shape[0], *shape[2:])
        geometry = Geometry("nifti", image.header.copy(), image.affine, shown, page=page or 0)
        return Picture(pixels, name, Labels(geometry=geometry), window=window, remarks=remarks)


def count(file: BinaryIO, name: str) -> int:
    """The number of slices.

    Args:
        file: the file.
        name: what messages call it.

    Returns:
        1 or more.

    Raises:
        InputError: damaged, or of more than four axes.
    """
    with guard.decoding(name):
        return _shape(_opened(file, name), name)[1]


def _shape(image: Any, name: str) -> tuple[tuple[int, int, int, int], int]:
    """Columns, rows, slices and volumes; and slices in all."""
    sizes = [*image.shape, 1, 1]
    if len(image.shape) < 2 or any(size != 1 for size in image.shape[4:]):
        raise InputError(
            f"{name} has the shape {'x'.join(map(str, image.shape))}, of which no slices can be "
            "made; save the volumes one by one."
        )
    guard.check_size(sizes[1], sizes[0], name)
    guard.check_bytes(sizes[0] * sizes[1] * image.get_data_dtype().itemsize, name)
    shape = (sizes[0], sizes[1], sizes[2], sizes[3])
    return shape, shape[2] * shape[3]


def _opened(file: Any, name: str) -> Any:
    file.seek(0)
    if file.read(2) == b"\x1f\x8b":
        try:
            facts = os.fstat(file.fileno())
        except io.UnsupportedOperation:  # it lies in memory
            file.seek(0)
            file = io.BytesIO(_inflated(file, name))
        else:
            # Slices are read one by one: the volume is unpacked once for all of them.
            file = io.BytesIO(_unpacked(name, facts.st_ino, facts.st_size, facts.st_mtime_ns))
    file.seek(0)
    start = file.read(8)
    two = 540 in (int.from_bytes(start[:4], order) for order in ("little", "big"))
    kind = nibabel.Nifti2Image if two else nibabel.Nifti1Image
    file.seek(0)
    return kind.from_file_map({"image": nibabel.FileHolder(fileobj=file)})


@functools.lru_cache(maxsize=2)
def _unpacked(name: str, *identity: int) -> bytes:
    with open(name, "rb") as file:
        return _inflated(file, name)


def _inflated(file: BinaryIO, name: str) -> bytes:
    """The unpacked volume, as long as its header declares and no longer."""
    with gzip.GzipFile(fileobj=file) as stream:
        try:
            head = stream.read(560)
            two = 540 in (int.from_bytes(head[:4], order) for order in ("little", "big"))
            kind = nibabel.Nifti2Header if two else nibabel.Nifti1Header
            header = kind(head[: 540 if two else 348])
            size = math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
            size += int(header["vox_offset"])
            guard.check_bytes(size, name)
            return head + stream.read(max(0, size - len(head)))
        except (EOFError, zlib.error) as error:
            raise ValueError(str(error)) from None


def _typed(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype.names is not None:  # colours are stored as records
        return np.ascontiguousarray(values).view(np.uint8).reshape(*values.shape, -1)
    if values.dtype.str[1:] not in _DTYPES:
        raise InputError(
            f"{name} stores {values.dtype} numbers, which are not read; "
            "save it as float32 or int16."
        )
    values = values.astype(values.dtype.newbyteorder("="))
    if values.dtype == np.int8:
        return values.astype(np.int16)
    return values.astype(np.float32) if values.dtype.kind == "f" else values


# ---------------------------------------------------------------------------------- writing


def encode(slices: Sequence[np.ndarray], places: Sequence[Geometry | None], name: str) -> bytes:
    """Encodes slices as a volume that lies where the sources lie.

    Args:
        slices: (H, W) each, or (H, W, 3) uint8, of one size and dtype.
        places: the geometry of each slice, or of the first alone.
        name: the file's name; ".gz" at its end compresses it.

    Returns:
        The whole file. Text of the source's header and its extensions are kept only where the
        geometry says so.

    Raises:
        InputError: no slices, several sizes, or another size or number than the source has.
    """
    if not slices or len({(s.shape, s.dtype) for s in slices}) > 1:
        raise InputError(f"{name} needs slices of one size and type; fuse one volume at a time.")
    first = places[0] if places else None
    if first is not None and slices[0].shape[:2] != first.shape[:2]:
        raise InputError(
            f"{name} would have slices of {slices[0].shape[1]}x{slices[0].shape[0]} but its source "
            f"has {first.shape[1]}x{first.shape[0]}, so its place is lost; choose .tif."
        )
    flip = first is None or first.kind == "nifti"
    volume = np.stack([(s[::-1] if flip else s).swapaxes(0, 1) for s in slices], 2)
    if volume.ndim == 4:
        if volume.dtype != np.uint8 or volume.shape[-1] != 3:
            raise InputError(f"{name} holds colour as 8-bit RGB only; convert the slices.")
        records = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
        volume = np.ascontiguousarray(volume).view(records)[..., 0]
    if first is None:
        image = nibabel.Nifti1Image(volume, np.eye(4))
    elif first.kind == "nifti":
        image = _like(volume, first, name)
    else:
        image = nibabel.Nifti1Image(volume, _from_dicom(places))
        image.header.set_xyzt_units("mm")
    data = image.to_bytes()
    return gzip.compress(data, 6, mtime=0) if name.lower().endswith(".gz") else data


def _like(volume: np.ndarray, first: Geometry, name: str) -> Any:
    """A volume with the header of its source."""
    shape = first.shape[2:]
    many, wanted = volume.shape[2], math.prod(shape)
    affine = np.array(first.affine, np.float64)
    if many == wanted:
        sizes = shape if len(shape) == 1 or shape[1] > 1 else shape[:1]
        volume = volume.reshape(*volume.shape[:2], *sizes, order="F")
    elif first.page % shape[0] + many <= shape[0]:  # a part of one volume
        affine[:3, 3] += affine[:3, 2] * (first.page % shape[0])
    else:
        raise InputError(
            f"{name} has {many} slices but its source has {wanted}; fuse all of them or one."
        )
    header = first.header.copy()
    header.set_data_dtype(volume.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    if not first.personal:
        header.extensions.clear()
        for text in ("descrip", "aux_file", "db_name", "intent_name"):
            header[text] = b""
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    return kind(volume, affine, header)


def _from_dicom(places: Sequence[Geometry | None]) -> np.ndarray:
    """The affine in NIfTI's axes of slices that lie in DICOM's."""
    affines = [place.affine for place in places if place is not None and place.affine is not None]
    if not affines:
        return np.eye(4)
    affine = affines[0].copy()
    if len(affines) > 1:
        affine[:3, 2] = (affines[-1][:3, 3] - affine[:3, 3]) / (len(affines) - 1)
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # left, posterior to right, anterior
