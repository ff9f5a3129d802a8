import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from mgdn_jax.errors import InputError
from mgdn_jax.io import codec, guard, reading


def noise(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    if dtype == np.float32:
        return rng.random(shape, np.float32)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 2), (5, 7, 3), (5, 7, 4), (1, 1), (1, 1, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
def test_lossless_formats_return_every_bit(shape, dtype, suffix):
    pixels = noise(shape, dtype)
    back = codec.decode_image(codec.encode(pixels, suffix), "x")
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, pixels)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 2), (300, 400, 3), (4, 5, 4)])
def test_one_channel_is_gray_and_float_tiff_keeps_its_values(shape):
    gray = noise((4, 5, 1), np.uint8)
    np.testing.assert_array_equal(codec.decode_image(codec.encode_png(gray), "x"), gray[..., 0])
    values = noise(shape, np.float32) * 3 - 1
    np.testing.assert_array_equal(codec.decode_image(codec.encode(values, ".tif"), "x"), values)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32])
def test_tiff_holds_counts_with_a_sign_and_of_32_bits(dtype):
    values = np.array([[np.iinfo(dtype).min, 0], [1, np.iinfo(dtype).max]], dtype)
    back = reading.read(io.BytesIO(codec.encode(values, ".tif")), "x").pixels
    np.testing.assert_array_equal(back, values, strict=True)
    with pytest.raises(InputError, match="cannot encode"):
        codec.encode(values, ".png")


@pytest.mark.parametrize("suffix", [".bmp", ".ppm"])
def test_plain_formats(suffix):
    for shape in ((4, 5), (4, 5, 3)):
        pixels = noise(shape, np.uint8)
        back = codec.decode_image(codec.encode(pixels, suffix), "x")
        np.testing.assert_array_equal(back, pixels)


def test_lossy_formats_stay_close():
    smooth = np.add.outer(np.arange(32), 2 * np.arange(40)).astype(np.uint8)
    for suffix in (".jpg", ".webp"):
        back = codec.decode_image(codec.encode(np.stack([smooth] * 3, -1), suffix), "x")
        assert np.abs(back.astype(int) - smooth[..., None]).max() <= 6


def test_sixteen_bit_png_agrees_with_another_decoder():
    # Pillow keeps the high byte of 16-bit colour: that half is an independent witness.
    pixels = noise((9, 6, 3), np.uint16)
    seen = np.asarray(Image.open(io.BytesIO(codec.encode_png(pixels))))
    np.testing.assert_array_equal(seen, pixels >> 8)


def test_big_endian_and_signed_sixteen_bit_gray():
    pixels = noise((4, 5), np.uint16)
    image = Image.frombytes("I;16B", (5, 4), pixels.astype(">u2").tobytes())
    np.testing.assert_array_equal(codec.decode_image(saved(image, "TIFF"), "x"), pixels)
    with pytest.raises(InputError, match="kind that is not read"):
        codec.decode_image(saved(Image.fromarray(np.full((2, 2), -5, np.int32)), "TIFF"), "x")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    image = Image.fromarray(noise((8, 16, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "TIFF"):
        data = saved(image, kind, exif=exif)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        np.testing.assert_array_equal(codec.decode_image(data, "x"), upright)


def test_palettes_transparency_cmyk_and_bits():
    colours = Image.fromarray(noise((6, 6, 3), np.uint8)).quantize(8)
    expected = np.asarray(colours.convert("RGB"))
    np.testing.assert_array_equal(codec.decode_image(saved(colours, "PNG"), "x"), expected)
    clear = codec.decode_image(saved(colours, "PNG", transparency=0), "x")
    assert clear.shape == (6, 6, 4)
    assert set(np.unique(clear[..., 3])) == {0, 255}
    cmyk = Image.fromarray(noise((6, 6, 4), np.uint8), "CMYK")
    assert codec.decode_image(saved(cmyk, "JPEG"), "x").shape == (6, 6, 3)
    bits = codec.decode_image(saved(Image.fromarray(np.eye(4) > 0), "PNG"), "x")
    np.testing.assert_array_equal(bits, (np.eye(4) * 255).astype(np.uint8))


def test_damaged_and_foreign_files_are_named():
    whole = codec.encode(noise((40, 40, 3), np.uint8), ".png")
    jpeg = codec.encode_jpeg(noise((40, 40, 3), np.uint8))
    wide = codec.encode(noise((40, 40, 3), np.uint16), ".tif")
    for data in (whole[:200], whole[:-3000], jpeg[: len(jpeg) // 2], wide[: len(wide) // 2]):
        with pytest.raises(InputError, match=r"shot\.png is (damaged|not an image)"):
            codec.decode_image(data, "shot.png")
    for data in (b"hello", b"", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(InputError, match=r"notes\.txt is (not an image|damaged)"):
            codec.decode_image(data, "notes.txt")


def test_what_would_lose_bits_is_refused():
    wide = codec.encode(noise((4, 4, 3), np.uint16), ".tif")
    entry = struct.Struct("<HHII")
    planar = wide.replace(entry.pack(284, 3, 1, 1), entry.pack(284, 3, 1, 2))
    with pytest.raises(InputError, match=r"x\.tif is damaged or truncated \(parts are missing\)"):
        codec.decode_image(planar, "x.tif")  # it says three planes and has one
    with pytest.raises(InputError, match="16-bit colour PPM"):
        codec.decode_image(b"P6\n# c\n2 1\n65535\n" + bytes(12), "x.ppm")


def test_the_pixel_limit_is_ours_and_pillows_is_left_alone(monkeypatch):
    data = codec.encode_png(noise((20, 20), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert codec.decode_image(data, "x").shape == (20, 20)
    assert Image.MAX_IMAGE_PIXELS == 10
    monkeypatch.setattr(guard, "MAX_PIXELS", 300)
    with pytest.raises(InputError, match=r"big\.png has more than 0\.0003 megapixels"):
        codec.decode_image(data, "big.png")
    with pytest.raises(InputError, match=r"big\.tif has more than"):
        codec.decode_image(codec.encode(noise((20, 20, 3), np.float32), ".tif"), "big.tif")


@pytest.mark.parametrize(
    ("pixels", "suffix", "message"),
    [
        (np.zeros((2, 2, 3), np.uint16), ".jpg", "16-bit"),
        (np.zeros((2, 2), np.uint16), ".webp", "16-bit"),
        (np.zeros((2, 2, 4), np.uint8), ".jpeg", "transparency"),
        (np.zeros((2, 2, 2), np.uint8), ".bmp", "transparency"),
        (np.zeros((2, 2), np.float32), ".png", "float pixels"),
        (np.zeros((2, 2, 3), np.float32), ".png", "choose .tif"),
        (np.zeros((2, 2, 3), np.uint8), ".gif", "type '.gif'"),
        (np.zeros((2, 2, 3), np.uint8), "", "(none)"),
        (np.zeros((2, 2, 3), np.uint8), ".pgm", "gray pictures only"),
        (np.zeros((2, 2, 5), np.uint8), ".png", "cannot encode"),
        (np.zeros((0, 2), np.uint8), ".png", "cannot encode"),
        (np.zeros((2, 2), np.int64), ".png", "cannot encode"),
        (np.zeros((70000, 1), np.uint8), ".jpg", "cannot be written as JPEG"),
    ],
)
def test_formats_that_cannot_hold_the_pixels(pixels, suffix, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace(")", r"\)")):
        codec.encode(pixels, suffix)


def test_reduction_keeps_means_ranges_and_equals_without_a_change():
    image = np.random.default_rng(0).uniform(0, 1, (30, 44, 2)).astype(np.float32)
    np.testing.assert_array_equal(codec.downscale(image, 30, 44), image, strict=True)
    small = codec.downscale(image, 10, 11)
    assert small.shape == (10, 11, 2)
    assert small.dtype == np.float32
    np.testing.assert_allclose(small.mean((0, 1)), image.mean((0, 1)), atol=0.01)
    assert image.min() <= small.min() < small.max() <= image.max()
    # 3x4 pixels become one: the noise of a pixel falls to about a third, it is not picked out.
    assert 0.2 < small.std() / image.std() < 0.45
    whole = codec.downscale(np.arange(64, dtype=np.int64).reshape(8, 8, 1), 4, 4)
    assert whole.dtype == np.float32


def test_a_transparent_colour_of_16_bits_becomes_alpha():
    pixels = noise((5, 6, 3), np.uint16)
    data = codec.encode_png(pixels)
    body = b"".join(int(v).to_bytes(2, "big") for v in pixels[2, 3])
    chunk = b"tRNS" + body
    key = len(body).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    at = data.index(b"IDAT") - 4
    back = codec.decode_image(data[:at] + key + data[at:], "x.png")
    np.testing.assert_array_equal(back[..., :3], pixels)
    assert back[2, 3, 3] == 0
    assert (back[..., 3] == 0).sum() == 1
    assert back[..., 3].max() == 65535
