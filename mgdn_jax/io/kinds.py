"""What a file is, from its first bytes; and the step that helps where it cannot be read."""

from __future__ import annotations

import codecs
import os
import re
import zlib
from pathlib import PurePath

from mgdn_jax.errors import InputError

HEAD = 4096
"""So many bytes from the start of a file decide what it is."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".ppm", ".pgm")
"""What ordinary pictures are written as."""
RAW = (
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mos", ".mrw",
    ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
)  # fmt: skip
READABLE = (
    *SUFFIXES, ".avif", ".heic", ".heif", ".hif", *RAW, ".exr", ".hdr", ".dcm", ".dicom", ".nii",
    ".nii.gz",
)  # fmt: skip
"""How the names of files that may be read end, for `str.endswith` (".nii.gz" has two dots)."""
VIDEOS = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg",
    ".vob", ".3gp", ".ogv", ".flv", ".wmv", ".asf", ".mxf", ".y4m", ".h264", ".hevc",
)  # fmt: skip
"""How the names of videos end."""

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"BM", "bmp"),
    (b"FUJIFILMCCD-RAW", "raw"),
    (b"II*\0\x10\0\0\0CR", "raw"),
    (b"IIRO", "raw"),
    (b"IIRS", "raw"),
    (b"MMOR", "raw"),
    (b"IIU\0", "raw"),
    (b"FOVb", "raw"),
    (b"\0MRM", "raw"),
    (b"II\x1a\0\0\0HEAPCCDR", "raw"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"v/1\x01", "exr"),
    (b"GIF8", "gif"),
    (b"8BPS", "psd"),
    (b"gimp xcf", "xcf"),
    (b"%PDF", "pdf"),
    (b"%!PS", "postscript"),
    (b"\xc5\xd0\xd3\xc6", "postscript"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jpeg2000"),
    (b"\xffO\xffQ", "jpeg2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "jpegxl"),
    (b"\xff\n", "jpegxl"),
    (b"II\xbc", "jpegxr"),
    (b"#?RADIANCE", "radiance"),
    (b"#?RGBE", "radiance"),
    (b"SIMPLE  =", "fits"),
    (b"DDS ", "texture"),
    (b"\xabKTX", "texture"),
    (b"\0\0\1\0", "icon"),
    (b"FFF\0", "flir"),
    (b"AFF\0", "flir"),
    (b"\x93NUMPY", "numpy"),
    (b"\x89HDF", "hdf5"),
    (b"MATLAB 5.0", "matlab"),
    (b"ZISRAWFILE", "microscope"),
    (b"\xda\xce\xbe\x0a", "microscope"),
    (b"\x70\0\0\0", "microscope"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "microscope"),
    (b"NRRD0", "nrrd"),
    (b"ObjectType", "nrrd"),
    (b"PK\x03\x04", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "zip"),
    (b"Rar!", "zip"),
    (b"\x1f\x8b", "zip"),
    (b"BZh", "zip"),
    (b"\xfd7zXZ", "zip"),
    (b"(\xb5/\xfd", "zip"),
    (b"\x1aE\xdf\xa3", "video"),
    (b"\0\0\1\xba", "video"),
    (b"\0\0\1\xb3", "video"),
    (b"OggS", "video"),
    (b"FLV", "video"),
    (b"version https://git-lfs", "lfs"),
)
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_EXPORT = "open it in the program that made it and export PNG or TIFF"
UNREAD = {
    "gif": (
        "a GIF, whose 256 colours are too few to be fused",
        "save its frames as PNG (for instance `ffmpeg -i {file} frame%03d.png`)",
    ),
    "svg": ("an SVG drawing, which has no pixels", "export it as PNG"),
    "pdf": ("a PDF document", "save the page as PNG (for instance `pdftoppm -png {file} page`)"),
    "postscript": ("a PostScript document", "save the page as PNG"),
    "psd": ("a Photoshop document with layers", "flatten it and save it as TIFF or PNG"),
    "xcf": ("a GIMP document with layers", "export it as TIFF or PNG"),
    "jpeg2000": (
        "a JPEG 2000 picture",
        "convert it (for instance `opj_decompress -i {file} -o x.tif`)",
    ),
    "jpegxl": ("a JPEG XL picture", "convert it (for instance `djxl {file} x.png`)"),
    "jpegxr": ("a JPEG XR picture", "convert it to TIFF or PNG"),
    "fits": ("a FITS picture from astronomy", "convert it to 16-bit or float TIFF"),
    "texture": ("a texture of a graphics engine", "convert it to PNG"),
    "icon": ("an icon", "save it as PNG"),
    "flir": ("a raw FLIR recording", "export its frames as 16-bit TIFF"),
    "numpy": (
        "a NumPy array",
        "in Python, load it with numpy.load and give the array in place of a path",
    ),
    "hdf5": ("an HDF5 file", "save the picture in it as TIFF"),
    "matlab": ("a MATLAB file", "save the picture in it as TIFF with imwrite"),
    "microscope": ("a file of a microscope's own format", _EXPORT),
    "nrrd": ("an NRRD or MetaImage volume", "convert it to NIfTI (.nii.gz)"),
    "analyze": (
        "half of a NIfTI pair (.hdr and .img)",
        "convert the pair to one .nii file (for instance `nib-convert`)",
    ),
    "zip": ("a compressed archive", "unpack it and give the files in it"),
    "video": (
        "a video",
        "give videos alone to mgdn fuse, or save its frames as PNG (for instance `ffmpeg -i {file} "
        "frame%04d.png`)",
    ),
    "lfs": ("a pointer of Git LFS in place of the file", "run `git lfs pull`"),
    "html": ("not an image but a web page", "download the image itself"),
    "text": ("not an image but text", "give the image file"),
}  # fmt: skip
"""Kinds that are not read: what they are, and the step that helps."""


def kind_of(head: bytes, name: str) -> str:
    """What a file is.

    Args:
        head: its first `HEAD` bytes, or all of it.
        name: its path; the suffix counts where the bytes do not decide.

    Returns:
        "png", "jpeg", "tiff", "bmp", "webp", "ppm", "avif", "heif", "raw", "exr", "radiance",
        "dicom", "nifti", a key of `UNREAD`, or "" if nothing fits.
    """
    suffix = PurePath(name).suffix.lower()
    if head[128:132] == b"DICM":
        return "dicom"
    if (volume := _volume(head)) is not None:
        return volume
    if head[4:8] == b"ftyp":
        return _boxes(head)
    if head[:4] == b"RIFF":
        return "webp" if head[8:12] == b"WEBP" else "video"
    for start, kind in _STARTS:
        if head.startswith(start):
            # Most cameras write their raw files as a kind of TIFF.
            return "raw" if kind == "tiff" and suffix in RAW else kind
    if re.match(rb"P[1-7fF]\s", head):
        return "ppm"
    if suffix in (".dcm", ".dicom"):
        return "dicom"
    return _words(head)


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a video, by its name or by its first bytes."""
    name = os.fspath(path)
    if os.path.isdir(name):
        return False
    if name.lower().endswith(VIDEOS):
        return True
    if not os.path.isfile(name):
        return False
    try:
        with open(name, "rb") as file:
            return kind_of(file.read(HEAD), name) == "video"
    except OSError:
        return False  # whoever reads it says why


def _volume(head: bytes) -> str | None:
    """NIfTI, plain or compressed."""
    if head[:2] == b"\x1f\x8b":
        try:
            head = zlib.decompressobj(31).decompress(head, 600)
        except zlib.error:
            return None
    if head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0":
        return "nifti"
    return "analyze" if head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0" else None


def _boxes(head: bytes) -> str:
    """Kinds of the container that MP4, HEIC, AVIF and CR3 share."""
    size = int.from_bytes(head[:4], "big")
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, min(size, len(head)), 4))]
    if b"crx " in brands:
        return "raw"
    if b"avif" in brands or b"avis" in brands:
        return "avif"
    return "heif" if any(brand in _HEIF for brand in brands) else "video"


def _words(head: bytes) -> str:
    """Text that came in place of an image."""
    if not head or b"\0" in head:
        return ""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # its end may be cut
    except UnicodeDecodeError:
        return ""
    text = text.lstrip("\ufeff \t\r\n").lower()
    if "<svg" in text[:2000]:
        return "svg"
    if text.startswith(("<!doctype html", "<html", "<head", "<body", "<script")):
        return "html"
    return "text" if text and all(c.isprintable() or c.isspace() for c in text) else ""


def refusal(kind: str, name: str) -> InputError:
    """The sentence about a file of a kind that is not read.

    Args:
        kind: a key of `UNREAD`, or "".
        name: what messages call the file.

    Returns:
        The error to raise.
    """
    if kind not in UNREAD:
        return InputError(
            f"{name} is not an image this program can read; give PNG, JPEG, TIFF, BMP, WebP or PPM."
        )
    noun, step = UNREAD[kind]
    return InputError(f"{name} is {noun}; {step.format(file=PurePath(name).name)}.")
