"""Whatever is given is called what it is; and only regular files of bounded size are opened."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from mgdn_jax.errors import InputError
from mgdn_jax.io import bitmaps, codec, files, guard, kinds, reading


def box(brand, *others):
    body = brand + bytes(4) + b"".join(others)
    return (8 + len(body)).to_bytes(4, "big") + b"ftyp" + body


def npy():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


FOREIGN = {
    "a.gif": (b"GIF89a" + bytes(20), "is a GIF.*ffmpeg -i a.gif"),
    "a.svg": (b'<?xml version="1.0"?>\n<svg xmlns="x"></svg>', "is an SVG drawing"),
    "a.pdf": (b"%PDF-1.7\n", "is a PDF document.*pdftoppm"),
    "a.eps": (b"%!PS-Adobe", "is a PostScript document"),
    "a.psd": (b"8BPS\0\1", "is a Photoshop document.*flatten"),
    "a.xcf": (b"gimp xcf v011", "is a GIMP document"),
    "a.jp2": (b"\0\0\0\x0cjP  \r\n\x87\n", "is a JPEG 2000 picture"),
    "a.j2k": (b"\xffO\xffQ\0", "is a JPEG 2000 picture"),
    "a.jxl": (b"\xff\n\0", "is a JPEG XL picture.*djxl a.jxl"),
    "b.jxl": (b"\0\0\0\x0cJXL \r\n\x87\n", "is a JPEG XL picture"),
    "a.jxr": (b"II\xbc\1", "is a JPEG XR picture"),
    "a.fits": (b"SIMPLE  =      T", "is a FITS picture"),
    "a.ico": (b"\0\0\1\0\1\0", "is an icon"),
    "a.seq": (b"FFF\0" + bytes(20), "is a raw FLIR recording"),
    "a.npy": (npy(), "is a NumPy array.*numpy.load"),
    "a.h5": (b"\x89HDF\r\n", "is an HDF5 file"),
    "a.mat": (b"MATLAB 5.0 MAT-file", "is a MATLAB file"),
    "a.czi": (b"ZISRAWFILE\0", "is a file of a microscope's own format"),
    "a.nrrd": (b"NRRD0004\n", "is an NRRD"),
    "a.zip": (b"PK\x03\x04", "is a compressed archive"),
    "a.png.gz": (b"\x1f\x8b\x08" + bytes(20), "is a compressed archive"),
    "a.mp4": (box(b"isom", b"mp41"), "is a video.*ffmpeg -i a.mp4"),
    "a.mov": (box(b"qt  "), "is a video"),
    "a.avi": (b"RIFF\0\0\0\0AVI LIST", "is a video"),
    "a.mkv": (b"\x1aE\xdf\xa3", "is a video"),
    "a.jpg": (b"<!DOCTYPE html><html>", "is not an image but a web page"),
    "b.jpg": (b"\n<HTML><head>404", "is not an image but a web page"),
    "c.jpg": ("größer, sagte er".encode(), "is not an image but text"),
    "d.jpg": (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
    "e.jpg": (bytes(300), "is not an image this program can read"),
    "a.img": (b"\x5c\1\0\0" + bytes(340) + b"ni1\0", "is half of a NIfTI pair"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_kind_that_is_not_read_is_named_with_the_step_that_helps(name, tmp_path):
    data, message = FOREIGN[name]
    path = tmp_path / name
    path.write_bytes(data)
    for read in (files.read_picture, files.read_image, files.read_pages):
        with pytest.raises(InputError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
        assert str(caught.value).endswith(".")
    with pytest.raises(InputError, match=message):
        codec.decode_image(data, name)


def test_what_a_file_is_does_not_depend_on_its_name(tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    path = tmp_path / "photo.jpg"
    path.write_bytes(codec.encode_png(pixels))
    np.testing.assert_array_equal(files.read_image(path), pixels)
    for data, kind in (
        (box(b"heic", b"mif1"), "heif"),
        (box(b"mif1", b"avif"), "avif"),
        (box(b"crx ", b"isom"), "raw"),
        (b"FUJIFILMCCD-RAW 0201", "raw"),
        (b"v/1\x01\2", "exr"),
        (b"#?RGBE\n", "radiance"),
        (bytes(128) + b"DICM", "dicom"),
        (b"II*\0\x08\0\0\0", "tiff"),
    ):
        assert kinds.kind_of(data, "x") == kind
    assert kinds.kind_of(b"II*\0\x08\0\0\0", "IMG_1.NEF") == "raw"
    assert set(kinds.SUFFIXES) < set(kinds.READABLE)
    assert "scan.NII.GZ".lower().endswith(codec.READABLE)


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("raw", "photo"),
        ("heif", "photo"),
        ("dicom", "medical"),
        ("nifti", "medical"),
        ("exr", "hdr"),
    ],
)
def test_without_its_extra_a_kind_names_it(kind, extra, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("no", name="library")

    monkeypatch.setattr(reading.importlib, "import_module", missing)
    for ending in (".exr", ".dcm", ".nii.gz"):  # said before the work, not after it
        with pytest.raises(InputError, match="needs an extra"):
            files.check_output(f"fused{ending}")
    with pytest.raises(InputError) as caught:
        reading.room(kind, "shot.x")
    assert str(caught.value).startswith("shot.x is a")
    assert str(caught.value).endswith(
        f'needs an extra (library is missing): pip install "mgdn-jax[{extra}]".'
    )


def test_avif_needs_a_pillow_that_has_it(monkeypatch):
    monkeypatch.setattr(bitmaps, "has_avif", lambda: False)
    with pytest.raises(InputError, match=r"is an AVIF picture, which needs Pillow 11\.3"):
        reading.read(io.BytesIO(box(b"avif")), "x.avif")


def test_pipes_devices_and_files_without_end_are_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match=r"pipe\.png is not a regular file"):
        files.read_image(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="is not a regular file"):
        files.read_image("/dev/zero")
    path = tmp_path / "long.png"
    path.write_bytes(codec.encode_png(np.zeros((9, 9), np.uint8)))
    monkeypatch.setattr(guard, "MAX_BYTES", 40)
    with pytest.raises(InputError, match=r"long\.png has more than"):
        files.read_image(path)


def frames(kind, **options):
    pictures = [np.random.default_rng(k).integers(0, 256, (9, 12, 3), np.uint8) for k in range(3)]
    buffer = io.BytesIO()
    first, *others = map(Image.fromarray, pictures)
    first.save(buffer, kind, save_all=True, append_images=others, **options)
    return buffer, pictures


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_animations_are_stacks_of_frames(kind, options):
    buffer, pictures = frames(kind, **options)
    assert reading.count(buffer, "x") == 3
    for page, pixels in enumerate(pictures):
        picture = reading.read(buffer, "x", page)
        np.testing.assert_array_equal(picture.pixels[..., :3], pixels)
        assert not picture.remarks
    first = reading.read(buffer, "x.png")
    assert (
        "has 3 frames of which the first was read and the other 2 were left out" in first.remarks[0]
    )
    with pytest.raises(InputError, match="has no page 3"):
        reading.read(buffer, "x", 3)


def test_a_thermal_camera_s_jpeg_says_what_was_read():
    jpeg = codec.encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    segment = b"FLIR\0\1\0\0" + bytes(30)
    data = jpeg[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + jpeg[2:]
    picture = reading.read(io.BytesIO(data), "hot.jpg")
    assert picture.pixels.shape == (8, 8, 3)
    assert picture.remarks == (
        "hot.jpg is a radiometric FLIR picture of which only the coloured preview was read; "
        "export its temperatures as 16-bit TIFF and give that.",
    )
    assert reading.read(io.BytesIO(jpeg), "x").remarks == ()
