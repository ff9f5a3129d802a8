"""What unpacks to more bytes than memory should hold is refused before anything of it is made."""

import gzip
import io
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from mgdn_jax.errors import InputError
from mgdn_jax.io import bitmaps, depth, files, guard


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(guard.VARIABLE, raising=False)


def png(width, height, bits, colour):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(300))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def npy(*shape):
    text = repr({"descr": "<f8", "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text


def npz(member):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("depth.npy", member)
    return buffer.getvalue()


def tiff(rows, columns, dtype=np.uint16, **options):
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((4, 4), dtype), metadata=None, **options)
    data = bytearray(buffer.getvalue())
    for tag, value in ((256, columns), (257, rows), (278, rows)):
        at = data.index(struct.pack("<H", tag), 8)
        data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, value)
    return bytes(data)


def exr():
    from mgdn_jax.io.exr import encode

    good = encode(np.zeros((9, 8), np.float32))
    window = struct.pack("<iiii", 0, 0, 7, 8)
    return good.replace(window, struct.pack("<iiii", 0, 0, 29999, 29999))


def nifti():
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape((1000, 1000, 1000))
    return gzip.compress(header.binaryblock + bytes(4))


# Each unpacks to more than 2 GiB.
LARGE = {
    "rgba.png": png(30000, 30000, 8, 6),
    "rgb16.png": png(20000, 20000, 16, 2),
    "float.tif": tiff(30000, 30000, np.float32),
    "light.hdr": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 20000 +X 20000\n",
    "light.exr": exr(),
    "volume.nii.gz": nifti(),
}
# Each would be within the limit, if the file held it.
SHORT = {
    "rgba.png": png(20000, 20000, 8, 6),
    "gray16.png": png(31000, 31000, 16, 0),
    "bits.png": png(31000, 31000, 1, 0),
    "x.ppm": b"P6 20000 20000 255\n",
    "x.pgm": b"P5 30000 30000 65535\n",
    "gray.tif": tiff(30000, 30000),
    "packed.tif": tiff(30000, 30000, compression="zlib"),
}


@pytest.mark.parametrize("name", LARGE)
def test_declared_bytes_are_bounded(name, monkeypatch):
    with open(name, "wb") as file:
        file.write(LARGE[name])
    tracemalloc.start()
    with pytest.raises(InputError, match=r"GiB when it is unpacked.*set MGDN_MAX_GIB higher"):
        files.read_picture(name, 0)
    assert tracemalloc.get_traced_memory()[1] < 2**25
    tracemalloc.stop()


@pytest.mark.parametrize("name", SHORT)
def test_files_that_cannot_hold_their_pixels(name):
    with open(name, "wb") as file:
        file.write(SHORT[name])
    tracemalloc.start()
    with pytest.raises(InputError, match="is damaged or truncated"):
        files.read_image(name)
    # TIFF asks for its array first, which costs nothing until it is filled.
    assert name.endswith(".tif") or tracemalloc.get_traced_memory()[1] < 2**25
    tracemalloc.stop()


@pytest.mark.parametrize("shape", [(20000, 20000), (2**20, 2**20), (10**12,)])
def test_arrays_of_numpy_are_bounded(shape):
    for name, data in (("x.npy", npy(*shape)), ("x.npz", npz(npy(*shape) + bytes(10**6)))):
        with open(name, "wb") as file:
            file.write(data)
        with pytest.raises(InputError, match=r"GiB when it is unpacked|megapixels"):
            depth.read_depth(name)
    long = b"\x93NUMPY\x02\0" + struct.pack("<I", 2**32 - 1) + b" " * 10**6
    with open("x.npz", "wb") as file:
        file.write(npz(long))
    with pytest.raises(InputError, match="a header has 4294967295 bytes"):
        depth.read_depth("x.npz")


def test_stacks_that_lie_about_their_length():
    import tifffile

    tifffile.imwrite("x.tif", np.zeros((3, 9, 8), np.uint16), imagej=True)
    with open("x.tif", "rb") as file:
        data = file.read().replace(b"images=3", b"images=9" + b"9" * 9)
    for name in ("x.tif", "y.tif"):
        with open(name, "wb") as file:
            file.write(data)
        assert files.read_pages(name) < 10**4


def test_the_limit_can_be_moved(monkeypatch):
    files.write_image("x.png", np.zeros((512, 512), np.uint8))
    monkeypatch.setenv(guard.VARIABLE, "0.0001")
    with pytest.raises(InputError, match=r"takes 0.000244 GiB .* limit of 0.0001"):
        files.read_image("x.png")
    monkeypatch.setenv(guard.VARIABLE, "0.001")
    assert files.read_image("x.png").shape == (512, 512)
    for text in ("", "much", "0", "-1", "nan", "inf", "1e400"):
        monkeypatch.setenv(guard.VARIABLE, text)
        with pytest.raises(InputError, match=r"MGDN_MAX_GIB is .*; write a number of GiB"):
            files.read_image("x.png")


def test_large_pictures_come_in_pieces(monkeypatch):
    pictures = {
        "x.png": np.arange(60 * 50, dtype=np.uint16).reshape(60, 50),
        "c.png": np.arange(60 * 50 * 3, dtype=np.uint16).reshape(60, 50, 3),
        "a.png": np.arange(60 * 50 * 2, dtype=np.uint16).reshape(60, 50, 2),
        "x.bmp": np.arange(60 * 50 * 3).reshape(60, 50, 3).astype(np.uint8),
    }
    monkeypatch.setattr(bitmaps, "_BAND_BYTES", 8 * 50 * 7)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for name, pixels in pictures.items():
        files.write_image(name, pixels)
        np.testing.assert_array_equal(files.read_image(name), pixels)
    assert Image.MAX_IMAGE_PIXELS == 10
