"""Camera RAW, HEIC, AVIF and OpenEXR, from files made here."""

import io
import struct

import numpy as np
import OpenEXR
import pillow_heif
import pytest
import tifffile
from PIL import Image

from mgdn_jax.errors import InputError
from mgdn_jax.io import bitmaps, exr, files, guard, profiles

Y, X = np.mgrid[:48, :64]
SMOOTH = np.stack([X * 3, Y * 4, X + Y], -1).astype(np.uint8)


# From XYZ to the colours of sRGB.
MATRIX = (3.2405, -1.5371, -0.4985, -0.9693, 1.876, 0.0416, 0.0556, -0.204, 1.0572)


def ratios(*values):
    return tuple(n for value in values for n in (round(value * 10000), 10000))


def dng(path, mosaic, orientation=1):
    """A small raw file: red, green, green and blue of a camera that sees as sRGB does."""
    tags = [
        (50706, 1, 4, (1, 4, 0, 0)), (50707, 1, 4, (1, 1, 0, 0)), (50708, 2, 0, "Acme A-1"),
        (271, 2, 0, "Acme"), (272, 2, 0, "A-1"), (274, 3, 1, orientation), (33421, 3, 2, (2, 2)),
        (33422, 1, 4, (0, 1, 1, 2)), (50714, 4, 1, 0), (50717, 4, 1, 65535),
        (50721, 10, 9, ratios(*MATRIX)),
        (50728, 5, 3, ratios(1, 1, 1)), (50778, 3, 1, 21),
    ]  # fmt: skip
    tifffile.imwrite(
        path, mosaic, photometric=32803, extratags=[(*tag, True) for tag in tags], metadata=None
    )
    return path


def test_a_raw_file_is_developed_to_16_bits_without_automatic_brightness(tmp_path):
    for level in (8000, 16000, 32000):
        path = dng(tmp_path / "shot.dng", np.full((32, 48), level, np.uint16))
        picture = files.read_picture(path)
        assert picture.pixels.shape == (32, 48, 3)
        assert picture.pixels.dtype == np.uint16
        middle = picture.pixels[8:-8, 8:-8] / 65535
        light = level / 65535  # brightness follows the light by the curve of sRGB
        expected = 1.055 * light ** (1 / 2.4) - 0.055
        assert np.abs(middle - expected).max() < 0.02
        assert picture.labels.profile == profiles.srgb()
        assert b"Acme" in picture.labels.exif
        assert files.read_pages(path) == 1


def test_a_raw_file_is_upright_whatever_its_name_is(tmp_path):
    path = dng(tmp_path / "shot.tif", np.full((32, 48), 9000, np.uint16), orientation=6)
    assert files.read_picture(path).pixels.shape == (48, 32, 3)


def test_raw_files_that_cannot_be_developed(tmp_path, monkeypatch):
    path = tmp_path / "shot.nef"
    path.write_bytes(b"II*\0\x08\0\0\0" + bytes(2000))
    with pytest.raises(InputError, match=r"shot\.nef is a raw file of a camera that LibRaw"):
        files.read_picture(path)
    monkeypatch.setattr(guard, "MAX_PIXELS", 1000)
    with pytest.raises(InputError, match=r"large\.dng has more than"):
        files.read_picture(dng(tmp_path / "large.dng", np.zeros((32, 48), np.uint16)))


def test_heic_of_a_telephone_is_upright_with_its_labels(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A], exif[0x011B], exif[0x0128] = 6, "Acme", 72.0, 72.0, 2
    made = pillow_heif.from_pillow(Image.fromarray(SMOOTH))
    path = tmp_path / "shot.heic"
    made.save(path, quality=-1, exif=exif.tobytes(), icc_profile=profiles.srgb())
    picture = files.read_picture(path)
    assert picture.pixels.dtype == np.uint8
    assert np.abs(picture.pixels.astype(int) - np.rot90(SMOOTH, -1)).max() <= 6
    assert picture.labels.profile == profiles.srgb()
    assert b"Acme" in picture.labels.exif
    assert picture.labels.dpi == (72, 72)
    assert (files.read_pages(path), picture.remarks) == (1, ())


@pytest.mark.parametrize("bits", [10, 12])
def test_heic_of_more_than_8_bits_keeps_them(tmp_path, bits):
    deep = SMOOTH.astype(np.uint16) * 256 + (X * 3)[..., None].astype(np.uint16)
    path = tmp_path / "deep.heic"
    made = pillow_heif.from_bytes(mode="RGB;16", size=(64, 48), data=deep.tobytes())
    made.save(path, quality=-1, bit_depth=bits)
    picture = files.read_picture(path)
    assert picture.pixels.dtype == np.uint16
    assert picture.span == (0, (2**bits - 1) << (16 - bits))
    assert np.abs(picture.pixels.astype(int) - deep)[2:-2, 2:-2].max() <= 6 * 256
    assert len(np.unique(picture.pixels & 0xFF)) > 1  # what 8 bits would not hold


def test_heic_with_several_pictures_has_pages(tmp_path):
    made = pillow_heif.from_pillow(Image.fromarray(SMOOTH))
    made.add_from_pillow(Image.fromarray(SMOOTH[::-1].copy()))
    path = tmp_path / "burst.heic"
    made.save(path, quality=-1)
    assert files.read_pages(path) == 2
    assert "has 2 pictures" in files.read_picture(path).remarks[0]
    second = files.read_picture(path, 1).pixels.astype(int)
    assert np.abs(second - SMOOTH[::-1]).max() <= 6
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"burst\.heic is damaged"):
        files.read_picture(path)


def test_avif(tmp_path):
    path = tmp_path / "shot.avif"
    Image.fromarray(SMOOTH).save(path, quality=95)
    picture = files.read_picture(path)
    assert np.abs(picture.pixels.astype(int) - SMOOTH).max() <= 12
    assert picture.remarks == ()
    # The flag of high bit depth, in the box that describes the coding.
    data = bytearray(path.read_bytes())
    data[data.index(b"av1C") + 6] |= 0x40
    with bitmaps.opened(io.BytesIO(path.read_bytes()), "x") as image:
        (remark,) = bitmaps._losses(io.BytesIO(bytes(data)), image, "shot.avif")
    assert "has more than 8 bits a channel, of which 8 were read" in remark


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 2), (6, 7, 3), (6, 7, 4)])
def test_openexr_holds_floats(tmp_path, shape):
    values = np.random.default_rng(0).random(shape, np.float32) * 4 + 0.1
    path = tmp_path / "light.exr"
    files.write_image(path, values)
    picture = files.read_picture(path)
    np.testing.assert_allclose(picture.pixels, values, rtol=1e-6)
    assert picture.pixels.dtype == np.float32
    files.write_image(path, values.astype(np.float16))
    np.testing.assert_allclose(files.read_image(path), values, rtol=4e-3)
    with pytest.raises(InputError, match=r"\.exr holds float pixels, not uint8"):
        files.write_image(path, np.zeros((2, 2), np.uint8))


def luminance_and_chroma(luminance: np.ndarray, chroma: dict[str, np.ndarray]) -> bytes:
    """An OpenEXR file without compression; the library for Python writes no smaller channels."""
    height, width = luminance.shape
    channels = b"".join(
        key.encode() + struct.pack("<BIIII", 0, 2, 0, step, step)
        for key, step in (("BY", 2), ("RY", 2), ("Y", 1))
    )
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    fields = {
        "channels": ("chlist", channels + b"\0"), "compression": ("compression", b"\0"),
        "dataWindow": ("box2i", window), "displayWindow": ("box2i", window),
        "lineOrder": ("lineOrder", b"\0"), "pixelAspectRatio": ("float", struct.pack("<f", 1)),
        "screenWindowCenter": ("v2f", bytes(8)),
        "screenWindowWidth": ("float", struct.pack("<f", 1)),
    }  # fmt: skip
    head = struct.pack("<II", 20000630, 2)
    for key, (kind, value) in fields.items():
        head += f"{key}\0{kind}\0".encode() + struct.pack("<I", len(value)) + value
    head += b"\0"
    lines = []
    for row in range(height):
        body = [chroma[key][row // 2].tobytes() for key in ("BY", "RY") if row % 2 == 0]
        body.append(luminance[row].tobytes())
        lines.append(struct.pack("<iI", row, sum(map(len, body))) + b"".join(body))
    places = np.cumsum([len(head) + 8 * height, *map(len, lines[:-1])])
    return head + places.astype("<u8").tobytes() + b"".join(lines)


def test_openexr_with_chroma_at_half_size(tmp_path):
    shape = (8, 10)
    luminance = np.random.default_rng(0).random(shape, np.float32) + np.float32(0.1)
    # Ratios that are linear across the picture are recovered between the samples.
    down, across = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    ratios = {"RY": 0.02 * down - 0.03 * across, "BY": 0.01 * across - 0.05}
    path = tmp_path / "chroma.exr"
    path.write_bytes(luminance_and_chroma(luminance, {k: x[::2, ::2] for k, x in ratios.items()}))
    picture = files.read_picture(path)
    assert picture.remarks == ()
    red, green, blue = np.moveaxis(picture.pixels, -1, 0)
    inner = np.s_[: shape[0] - 1, : shape[1] - 1]  # past the last sample there is nothing between
    np.testing.assert_allclose(red[inner], ((ratios["RY"] + 1) * luminance)[inner], rtol=1e-5)
    np.testing.assert_allclose(blue[inner], ((ratios["BY"] + 1) * luminance)[inner], rtol=1e-5)
    mixed = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    np.testing.assert_allclose(mixed, luminance, rtol=1e-5)
    # Where chroma asks for less than no light, there is none.
    path.write_bytes(
        luminance_and_chroma(luminance, {k: x[::2, ::2] - 2 for k, x in ratios.items()})
    )
    assert files.read_image(path).min() == 0


def test_openexr_as_half(tmp_path):
    values = np.random.default_rng(0).random((6, 7, 3), np.float32)
    path = tmp_path / "half.exr"
    path.write_bytes(exr.encode(values, half=True))
    with OpenEXR.File(str(path), separate_channels=True) as file:
        assert {x.pixels.dtype.name for x in file.channels().values()} == {"float16"}
    np.testing.assert_array_equal(files.read_image(path), values.astype(np.float16))
    with pytest.raises(InputError, match="half holds values up to 65504"):
        exr.encode(values * 1e6, half=True)


def test_openexr_windows_channels_and_limits(tmp_path, monkeypatch):
    values = np.random.default_rng(0).random((4, 5), np.float32)
    path = str(tmp_path / "part.exr")
    windows = {
        "compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage,
        "displayWindow": (np.array([0, 0], np.int32), np.array([6, 7], np.int32)),
        "dataWindow": (np.array([1, 2], np.int32), np.array([5, 5], np.int32)),
    }  # fmt: skip
    OpenEXR.File(windows, {"Y": values}).write(path)
    picture = files.read_image(path)
    assert picture.shape == (8, 7)
    np.testing.assert_array_equal(picture[2:6, 1:6], values)
    assert picture.sum() == pytest.approx(values.sum())
    depth = str(tmp_path / "depth.exr")
    OpenEXR.File({}, {"Z": values, "id": values}).write(depth)
    with pytest.raises(InputError, match=r"depth\.exr has the channels Z, id; save R, G and B"):
        files.read_image(depth)
    several = str(tmp_path / "several.exr")
    planes = {key: values * k for k, key in enumerate(("R", "G", "B", "Z", "beauty.R"), 1)}
    identity = {"id": np.ones(values.shape, np.uint32)}
    OpenEXR.File({}, planes | identity).write(several)
    picture = files.read_picture(several)
    np.testing.assert_array_equal(picture.pixels, np.stack([values, 2 * values, 3 * values], -1))
    assert picture.remarks == (
        f"{several} has further channels, which were left out: Z, beauty.R, id.",
    )
    monkeypatch.setattr(guard, "MAX_PIXELS", 10)
    with pytest.raises(InputError, match=r"part\.exr has more than"):
        files.read_image(path)
