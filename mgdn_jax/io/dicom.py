"""DICOM slices and frames, through pydicom (extra `medical`)."""

from __future__ import annotations

import datetime
import io
import math
import os
import warnings
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from mgdn_jax.errors import FusionWarning, InputError
from mgdn_jax.io import guard
from mgdn_jax.io.geometry import Geometry
from mgdn_jax.io.pictures import Labels, Picture

_PIECE = 1 << 20  # bytes that are unpacked at a time
# What says where the pixels lie, and nothing about whom they show.
_PLACE = (
    "FrameOfReferenceUID", "PositionReferenceIndicator", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
    "SliceLocation", "PatientPosition", "Laterality", "InstanceNumber",
)  # fmt: skip
_PATIENT = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize",
    "PatientWeight", "OtherPatientIDs", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID",
    "StudyDescription", "AccessionNumber", "ReferringPhysicianName", "InstitutionName",
    "BodyPartExamined", "Modality",
)  # fmt: skip


def read(file: BinaryIO, name: str, page: int | None = None) -> Picture:
    """Reads one frame.

    The modality's scale is applied (Hounsfield units for CT), and MONOCHROME1 is turned so that
    low is black.

    Args:
        file: the file.
        name: what messages call it.
        page: the frame, from 0; None for the first, with a remark if there are more.

    Returns:
        The picture: the stored integers where the scale is 1; int16 where whole numbers fit;
        else float32. `window` is the first display window that the file declares.

    Raises:
        InputError: damaged, too large, without pixels, or compressed in a way that needs another
            library.
    """
    with guard.decoding(name):
        header = _header(file, name)
        frames = _frames(header)
        number = page or 0
        guard.check_page(number, frames, name)
        array = _stored(file, header, number, name)
        palette = "PALETTE" in header.PhotometricInterpretation
        if palette:
            array = apply_color_lut(array, header)
        if array.ndim == 3 or palette:
            span, window, unit = None, None, ""
        else:
            array, span, window, unit = _values(array, header, number)
        remarks = guard.further_pages(frames, name, "frame") if page is None else ()
        if array.dtype == np.int8:
            array = array.astype(np.int16)
        labels = Labels(geometry=_geometry(header, number))
        pixels = np.ascontiguousarray(array)
        return Picture(pixels, name, labels, span, unit, window, remarks)


def count(file: BinaryIO, name: str) -> int:
    """The number of frames.

    Args:
        file: the file.
        name: what messages call it.

    Returns:
        1 or more.

    Raises:
        InputError: damaged, or without pixels.
    """
    with guard.decoding(name):
        return _frames(_header(file, name))


def _header(file: BinaryIO, name: str) -> Dataset:
    _check_deflated(file, name)
    file.seek(0)
    header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
    if "DirectoryRecordSequence" in header:
        raise InputError(f"{name} is the index of a DICOM disc; give one of its image files.")
    if "Rows" not in header or "PhotometricInterpretation" not in header:
        raise InputError(
            f"{name} is a DICOM file without pixels (a report or a plan); give an image."
        )
    guard.check_size(header.Rows, header.Columns, name)
    samples, bits = (int(header.get(key) or 1) for key in ("SamplesPerPixel", "BitsAllocated"))
    frames = 1 if "file_meta" in header.__dict__ and header.file_meta else _frames(header)
    count = header.Rows * header.Columns * samples * -(-bits // 8) * frames
    guard.check_bytes(count, name)
    return header


def _check_deflated(file: BinaryIO, name: str) -> None:
    """Refuses a compressed data set that does not fit into memory, for pydicom unpacks it whole."""
    file.seek(0)
    head = file.read(4096)
    if head[128:132] != b"DICM" or DeflatedExplicitVRLittleEndian.encode() not in head:
        return
    file.seek(144 + int.from_bytes(head[140:144], "little"))  # behind what says how it is packed
    unpacker, count = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while not unpacker.eof and (data := unpacker.unconsumed_tail or file.read(_PIECE)):
        count += len(unpacker.decompress(data, _PIECE))
        guard.check_bytes(count, name)


def _frames(header: Dataset) -> int:
    return max(1, int(header.get("NumberOfFrames") or 1))


def _stored(file: BinaryIO, header: Dataset, number: int, name: str) -> np.ndarray:
    syntax = header.file_meta.get("TransferSyntaxUID") if "file_meta" in header.__dict__ else None
    file.seek(0)
    try:
        if syntax is None:  # a file without its preamble
            whole = pydicom.dcmread(file, force=True)
            whole.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
            return _frame(whole.pixel_array, header, number)
        if syntax == DeflatedExplicitVRLittleEndian:  # its frames cannot be found one by one
            return _frame(pydicom.dcmread(file).pixel_array, header, number)
        return pixel_array(file, index=number)
    except (RuntimeError, NotImplementedError) as error:
        if syntax is None or not syntax.is_compressed:
            raise
        raise InputError(
            f"{name} is compressed as {syntax.name}, which needs another library "
            f"({str(error).splitlines()[0].rstrip('.')}); decompress it "
            "(for instance `gdcmconv --raw`)."
        ) from None


def _frame(frames: np.ndarray, header: Dataset, number: int) -> np.ndarray:
    return frames[number] if _frames(header) > 1 else frames


def _item(header: Dataset, number: int, sequence: str, keyword: str) -> Any:
    """A value of one frame: its own, that of all frames, or that of the file."""
    groups = []
    if len(header.get("PerFrameFunctionalGroupsSequence") or ()) > number:
        groups.append(header.PerFrameFunctionalGroupsSequence[number])
    groups.extend(header.get("SharedFunctionalGroupsSequence") or ())
    for group in groups:
        for item in group.get(sequence) or ():
            if (value := item.get(keyword)) is not None:
                return value
    return header.get(keyword)


def _first(value: Any) -> float | None:
    """A number, or the first of several; None for what is no finite one."""
    if value is None or value == "":
        return None
    number = float(value) if isinstance(value, int | float | str) else float(value[0])
    return number if math.isfinite(number) else None


def _values(array: np.ndarray, header: Dataset, number: int):
    """Stored numbers to meant ones, with what is black and white, the window and the unit."""
    bits, signed = int(header.get("BitsStored", 16)), bool(header.get("PixelRepresentation"))
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
    center, width = (
        _first(_item(header, number, "FrameVOILUTSequence", f"Window{word}"))
        for word in ("Center", "Width")
    )
    scale = "PixelValueTransformationSequence"
    slope = _first(_item(header, number, scale, "RescaleSlope"))
    intercept = _first(_item(header, number, scale, "RescaleIntercept"))
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if header.PhotometricInterpretation == "MONOCHROME1":
        total = low + high
        array = (total - array.astype(np.float64)).astype(array.dtype)  # exact below 53 bits
        center = None if center is None else slope * total + 2 * intercept - center
    if header.get("ModalityLUTSequence"):
        array, span = apply_modality_lut(array, header).astype(np.float32), None
    else:
        ends = sorted((slope * low + intercept, slope * high + intercept))
        odd = array.dtype.kind != "f" and bits not in (8, 16)
        array = _scaled(array, slope, intercept)
        span = (ends[0], ends[1]) if odd or array.dtype == np.float32 else None
    window = (center, width) if center is not None and width else None
    kind = str(_item(header, number, scale, "RescaleType") or "")
    if header.get("Modality") == "CT" and kind in ("", "US"):
        kind = "HU"
    elif header.get("Modality") == "PT":
        kind = str(header.get("Units", ""))
    return array, span, window, "" if kind == "US" else kind


def _scaled(array: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    if slope == 1 and intercept == 0:
        return array.astype(np.float32) if array.dtype.kind == "f" else array
    values = array.astype(np.float64) * slope + intercept
    whole = slope.is_integer() and intercept.is_integer() and array.dtype.kind != "f"
    if whole and values.min() >= -32768 and values.max() <= 32767:
        return values.astype(np.int16)
    return values.astype(np.float32)


def _geometry(header: Dataset, number: int) -> Geometry:
    frame = Dataset()
    frame.update({element.tag: element for element in header})
    position = _item(header, number, "PlanePositionSequence", "ImagePositionPatient")
    turn = _item(header, number, "PlaneOrientationSequence", "ImageOrientationPatient")
    spacing = _item(header, number, "PixelMeasuresSequence", "PixelSpacing")
    thick = _first(_item(header, number, "PixelMeasuresSequence", "SliceThickness"))
    affine = None
    if position and turn and spacing:
        across, down = (np.array(turn[k : k + 3], float) for k in (0, 3))
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1] = across * float(spacing[1]), down * float(spacing[0])
        affine[:3, 2] = np.cross(across, down) * (thick or 1.0)
        affine[:3, 3] = [float(x) for x in position]
        frame.ImagePositionPatient, frame.ImageOrientationPatient = position, turn
        frame.PixelSpacing, frame.SliceThickness = spacing, thick
    if _frames(header) > 1:
        frame.InstanceNumber = number + 1
    shape = (int(header.Rows), int(header.Columns))
    name = str(header.get("FrameOfReferenceUID", ""))
    return Geometry("dicom", frame, affine, shape, name, number)


# ----------------------------------------------------------------------------------- series


def series(folder: str | os.PathLike[str]) -> list[Path]:
    """The files of a series, in the order of their positions along the normal of the slices.

    Args:
        folder: the folder; files that are not DICOM are passed over.

    Returns:
        The paths; none if the folder holds no DICOM file.

    Raises:
        InputError: several series, orientations, or slices at one position.
    """
    found: list[tuple[Path, Dataset]] = []
    tags = ["SeriesInstanceUID", "SeriesDescription", "Rows", *_PLACE]
    for path in sorted(Path(folder).iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        with path.open("rb") as file:
            if file.read(132)[128:] != b"DICM" and path.suffix.lower() not in (".dcm", ".dicom"):
                continue
            with guard.decoding(str(path)):
                file.seek(0)
                header: Dataset = pydicom.dcmread(
                    file, stop_before_pixels=True, specific_tags=tags, force=True
                )
        if "Rows" in header:
            found.append((path, header))
    names: dict[str, list[str]] = {}
    for _, header in found:
        names.setdefault(str(header.get("SeriesInstanceUID", "")), []).append(
            str(header.get("SeriesDescription", "without a name"))
        )
    if len(names) > 1:
        several = ", ".join(f"{len(group)} of {group[0]!r}" for group in names.values())
        raise InputError(
            f"{folder} holds files of {len(names)} DICOM series ({several}); "
            "put each series into a folder of its own."
        )
    return _sorted(found, folder)


def _sorted(found: list[tuple[Path, Dataset]], folder: Any) -> list[Path]:
    placed = [header for _, header in found if header.get("ImagePositionPatient")]
    if len(found) < 2 or len(placed) < len(found) or not placed[0].get("ImageOrientationPatient"):
        return [
            path
            for path, _ in sorted(
                found, key=lambda pair: _first(pair[1].get("InstanceNumber")) or 0
            )
        ]
    turns = np.array([header.get("ImageOrientationPatient", [0] * 6) for header in placed], float)
    if np.abs(turns - turns[0]).max() > 1e-3:
        raise InputError(
            f"{folder} holds slices of several orientations (a scout among them, for instance); "
            "keep those of one orientation."
        )
    normal = np.cross(turns[0, :3], turns[0, 3:])
    heights = np.array([header.ImagePositionPatient for header in placed], float) @ normal
    order = np.argsort(heights, kind="stable")
    steps = np.diff(heights[order])
    if steps.min() < 1e-4:
        first = found[order[int(steps.argmin())]][0].name
        second = found[order[int(steps.argmin()) + 1]][0].name
        raise InputError(
            f"{folder} holds several slices at one position ({first} and {second}; other echoes "
            "or times, for instance); put each volume into a folder of its own."
        )
    if steps.max() > 1.5 * np.median(steps):
        warnings.warn(
            FusionWarning(
                f"{folder} lacks slices: the distance between neighbours is up to "
                f"{steps.max():.3g} mm where {np.median(steps):.3g} mm is usual; "
                "copy the whole series."
            ),
            stacklevel=2,
        )
    return [found[k][0] for k in order]


# ---------------------------------------------------------------------------------- writing


def encode(array: np.ndarray, labels: Labels, name: str) -> bytes:
    """Encodes a result as a derived image that lies where its source lies.

    Names and numbers of the patient and the study are written only if `labels` say so
    (`shared_labels(..., keep="all")`); without them the study and the series get new identifiers.

    Args:
        array: (H, W) uint8, uint16, int16 or float32, or (H, W, 3) uint8. Floats are stored as 16
            bits with a scale (RescaleSlope, RescaleIntercept) that returns their values.
        labels: those of the result, with the geometry of a DICOM source.
        name: what messages call the file.

    Returns:
        The whole file.

    Raises:
        InputError: no DICOM source, another size than the source, or pixels DICOM cannot hold.
    """
    place = labels.geometry
    if place is None or place.kind != "dicom":
        raise InputError(f"{name} needs a DICOM source to lie where it lies; choose .png or .tif.")
    if array.shape[:2] != place.shape[:2]:
        raise InputError(
            f"{name} would be {array.shape[1]}x{array.shape[0]} but its source is "
            f"{place.shape[1]}x{place.shape[0]}, so its place is lost; choose .png or .tif."
        )
    colour = array.ndim == 3
    if array.dtype not in ((np.uint8,) if colour else (np.uint8, np.uint16, np.int16, np.float32)):
        raise InputError(f"DICOM holds no {array.dtype} pixels here; convert them to uint16.")
    if colour and array.shape[-1] != 3:
        raise InputError("DICOM holds gray or RGB pixels without alpha; choose .png or .tif.")
    source, made = place.header, Dataset()
    for keyword in _PLACE + (_PATIENT if place.personal else ()):
        if keyword in source:
            made[keyword] = source[keyword]
    _describe(made, source, place.personal)
    _pixel_data(made, array, str(source.get("RescaleType", "US")))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = made.SOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta = meta
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, made, enforce_file_format=True)
    return buffer.getvalue()


def _describe(made: Dataset, source: Dataset, personal: bool) -> None:
    study, group = (
        str(source.get(keyword, "")) for keyword in ("StudyInstanceUID", "SeriesInstanceUID")
    )
    if not personal:
        made.PatientName, made.PatientID, made.Modality = "", "", "OT"
        made.PatientBirthDate = made.PatientSex = made.StudyDate = made.StudyTime = ""
        made.StudyID = made.AccessionNumber = made.ReferringPhysicianName = ""
        made.PatientIdentityRemoved = "YES"
        made.DeidentificationMethod = "only the geometry of the source was kept"
        made.StudyInstanceUID = generate_uid(entropy_srcs=[study, "a study without a patient"])
    # All slices of one source series make one new series.
    made.SeriesInstanceUID = generate_uid(entropy_srcs=[group, study, "fused"])
    made.SeriesNumber, made.SeriesDescription = None, "fused"
    made.ImageType, made.ConversionType = ["DERIVED", "SECONDARY"], "WSD"
    made.DerivationDescription = "fused by mgdn_jax"
    now = datetime.datetime.now()
    made.ContentDate, made.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made.BurnedInAnnotation = "NO"


def _pixel_data(made: Dataset, array: np.ndarray, unit: str) -> None:
    slope, intercept = 1.0, 0.0
    if array.dtype == np.float32:
        low, high = float(array.min()), float(array.max())
        slope, intercept, unit = (high - low) / 65535 or 1.0, low, "US"
        array = np.rint((array.astype(np.float64) - low) / slope).astype(np.uint16)
    elif array.dtype != np.int16:
        unit = "US"
    made.Rows, made.Columns = array.shape[:2]
    made.SamplesPerPixel = 3 if array.ndim == 3 else 1
    made.PhotometricInterpretation = "RGB" if array.ndim == 3 else "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8 * array.dtype.itemsize
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(array.dtype == np.int16)
    if array.ndim == 3:
        made.PlanarConfiguration = 0
    else:
        made.RescaleSlope, made.RescaleIntercept = f"{slope:.10g}", f"{intercept:.10g}"
        made.RescaleType = unit
    data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
    made.add_new(
        "PixelData", "OB" if array.dtype.itemsize == 1 else "OW", data + b"\0" * (len(data) % 2)
    )
