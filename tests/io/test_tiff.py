"""Kinds of TIFF that scanners, microscopes and HDR tools write; tifffile is the witness."""

import io
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from mgdn_jax.errors import InputError
from mgdn_jax.io import codec, files, reading


def noise(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return (rng.random(shape) * 3 - 1).astype(dtype)
    return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def written(pixels, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer


def read(buffer, page=None):
    return reading.read(buffer, "scan.tif", page)


WIDER = {"i1": np.int16, "f2": np.float32, "f8": np.float32}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8"])
def test_every_depth_sign_and_layout_is_read_as_written(dtype, order):
    layouts = (
        {},
        {"compression": "zlib", "rowsperstrip": 5},
        {"tile": (16, 32), "compression": "zlib"},
        {"bigtiff": True},
        {"planarconfig": "separate", "rowsperstrip": 10},
    )
    for layout in layouts:
        for channels in ((), (3,), (4,)):
            pixels = noise((37, 53, *channels), dtype)
            options = {"photometric": "rgb" if channels else "minisblack"} | layout
            if channels == (4,):
                options["extrasamples"] = ["unassalpha"]
            stored = pixels
            if channels and "planarconfig" in layout:
                stored = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
            elif "planarconfig" in layout:
                continue
            picture = read(written(stored, byteorder=order, **options))
            wanted = pixels.astype(WIDER.get(dtype, dtype))
            np.testing.assert_array_equal(picture.pixels, wanted, strict=True)
            assert picture.span is None
            # tifffile writes three gray pages so, unless it is told that they are gray.
            apart = "planarconfig" in layout
            assert bool(picture.remarks) == apart
            assert not apart or "planes of scan.tif were taken as the colours" in picture.remarks[0]


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i2"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_min_is_white_equals_min_is_black(dtype, compression):
    pixels = noise((9, 11), dtype)
    negative = ~pixels
    options = {"photometric": "miniswhite", "compression": compression}
    for order in "<>":
        picture = read(written(negative, byteorder=order, **options))
        np.testing.assert_array_equal(picture.pixels, pixels, strict=True)
    if dtype in ("u1", "u2"):
        plain = written(pixels, photometric="minisblack").getvalue()
        turned = written(negative, **options).getvalue()
        black, white = (codec.decode_image(data, "x") for data in (plain, turned))
        np.testing.assert_array_equal(white, black, strict=True)
    with pytest.raises(InputError, match=r"scan\.tif says that white is zero and not"):
        read(written(noise((4, 4), "f4"), photometric="miniswhite"))
    light = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    negative = read(written(1 - light, photometric="miniswhite"))
    np.testing.assert_allclose(negative.pixels, light, atol=1e-7)


def test_a_declared_range_comes_along_and_turns_with_the_negative():
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4) + 100
    declared = [(340, 3, 1, 100, True), (341, 3, 1, 4095, True)]
    assert read(written(pixels, extratags=declared)).span == (100, 4095)
    turned = read(written(pixels, photometric="miniswhite", extratags=declared))
    np.testing.assert_array_equal(turned.pixels, 65535 - pixels)
    assert turned.span == (65535 - 4095, 65535 - 100)


def carried(pixels, tags, body):
    """A little-endian TIFF of one strip with tags of one's own."""
    entries = {
        256: (4, pixels[1]), 257: (4, pixels[0]), 259: (3, 1), 262: (3, 1), 277: (3, 1),
        273: (4, 8), 278: (4, pixels[0]), 279: (4, len(body)),
    } | tags  # fmt: skip
    data = b"II*\0" + (8 + len(body) + len(body) % 2).to_bytes(4, "little") + body
    data += b"\0" * (len(body) % 2) + len(entries).to_bytes(2, "little")
    for tag, (kind, value) in sorted(entries.items()):
        head = (tag.to_bytes(2, "little"), kind.to_bytes(2, "little"), (1).to_bytes(4, "little"))
        data += b"".join(head) + value.to_bytes(4, "little")
    return io.BytesIO(data + b"\0\0\0\0")


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("white", [0, 1])
def test_packed_samples_of_ten_to_fourteen_bits(bits, white):
    pixels = noise((5, 7), np.uint16) >> (16 - bits)
    rows = []
    for row in pixels:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows.append(int(text, 2).to_bytes(len(text) // 8, "big"))
    picture = read(carried((5, 7), {258: (3, bits), 262: (3, white)}, b"".join(rows)))
    wanted = pixels if white else (2**bits - 1) - pixels
    np.testing.assert_array_equal(picture.pixels, wanted, strict=True)
    assert picture.span == (0, 2**bits - 1)


@pytest.mark.parametrize(
    ("compression", "mode"),
    [("tiff_lzw", "F"), ("packbits", "F"), ("zstd", "F"), ("lzma", "I;16"), ("tiff_lzw", "I;16")],
)
@pytest.mark.parametrize("predictor", [1, 2, 3])
def test_what_libtiff_compressed_is_unpacked_with_its_predictor(compression, mode, predictor):
    # Pillow's libtiff is the witness: it compresses and takes differences.
    if (predictor == 3 and mode != "F") or (predictor == 2 and mode == "F"):
        predictor = 1 if compression != "packbits" else 2
    pixels = np.cumsum(noise((300, 41), "f4"), 1)
    pixels = pixels.astype(np.float32 if mode == "F" else np.uint16)
    buffer = io.BytesIO()
    info = {317: predictor}  # which means nothing to PackBits
    Image.fromarray(pixels).save(buffer, "TIFF", compression=compression, tiffinfo=info)
    np.testing.assert_array_equal(read(buffer).pixels, pixels, strict=True)


def test_the_floating_predictor_of_three_channels():
    pixels = noise((6, 10, 3), "f4")
    octets = pixels.astype(">f4").view(np.uint8).reshape(6, 30, 4).swapaxes(1, 2)
    shuffled = octets.reshape(6, -1, 3)
    differences = np.concatenate([shuffled[:, :1], np.diff(shuffled, axis=1)], 1)
    body = np.ascontiguousarray(differences).tobytes()
    data = bytearray(written(pixels, photometric="rgb", compression="zlib").getvalue())
    leaf = tifffile.TiffFile(io.BytesIO(bytes(data))).pages[0]
    # The strip goes to the end of the file, and its tags follow.
    packed = zlib.compress(body)
    for tag, value in ((273, len(data)), (279, len(packed))):
        at = leaf.tags[tag].offset + 8
        data[at : at + 4] = value.to_bytes(4, "little")
    entry = leaf.tags[305].offset  # "Software" becomes "Predictor": tags stay in order
    data[entry : entry + 12] = b"\x3d\1\3\0\1\0\0\0\3\0\0\0"
    picture = read(io.BytesIO(bytes(data) + packed))
    np.testing.assert_array_equal(picture.pixels, pixels, strict=True)


def test_alpha_that_was_multiplied_in_is_divided_out():
    colour = np.array([[[60000, 30000, 10]]], np.uint16)
    for alpha in (65535, 20000):
        product = np.rint(colour * (alpha / 65535)).astype(np.uint16)
        stored = np.concatenate([product, np.full((1, 1, 1), alpha, np.uint16)], -1)
        options = {"photometric": "rgb", "extrasamples": ["assocalpha"]}
        back = read(written(np.repeat(stored, 3, 1), **options)).pixels[0, 0]
        assert back[3] == alpha
        assert np.abs(back[:3].astype(int) - colour[0, 0]).max() <= 2
    clear = np.zeros((3, 3, 4), np.float32)
    assert read(written(clear, **options)).pixels.max() == 0


def test_bands_are_counted_and_never_dropped_in_silence():
    five = noise((20, 30, 5), "u2")
    for layout in ("contig", "separate"):
        stored = five if layout == "contig" else np.ascontiguousarray(np.moveaxis(five, -1, 0))
        buffer = written(stored, photometric="minisblack", planarconfig=layout)
        with pytest.raises(InputError, match=r"scan\.tif has 5 bands.*choose three of them"):
            read(buffer)
    # Written carelessly, bands become the columns of as many pages as the picture has rows.
    with pytest.raises(InputError, match=r"which are 5 bands of a picture of 50x40; choose three"):
        read(written(noise((40, 50, 5), "u2")))
    with pytest.raises(InputError, match="has 6 bands"):
        read(written(noise((8, 9, 6), "u1"), photometric="rgb", extrasamples=[0, 0, 0]))
    for dtype in ("u1", "u2"):
        unnamed = noise((8, 9, 4), dtype)
        picture = read(written(unnamed, photometric="rgb", extrasamples=[0]))
        np.testing.assert_array_equal(picture.pixels, unnamed[..., :3])
        assert "last band without a stated meaning" in picture.remarks[0]
    three = noise((8, 9, 3), "u2")
    picture = read(written(three, photometric="minisblack", planarconfig="contig"))
    np.testing.assert_array_equal(picture.pixels, three)
    assert "taken as red, green and blue" in picture.remarks[0]


def test_kinds_that_are_not_read_say_which_they_are():
    ink = written(noise((4, 4, 4), "u2"), photometric="separated")
    with pytest.raises(InputError, match="stores CMYK inks at 16 bits"):
        read(ink)
    complex_pixels = written(np.ones((4, 4), np.complex64))
    with pytest.raises(InputError, match="complex numbers"):
        read(complex_pixels)
    with pytest.raises(InputError, match="64-bit uint samples"):
        read(written(np.ones((4, 4), np.uint64)))
    with pytest.raises(InputError, match="values beyond 32-bit floats"):
        read(written(np.full((4, 4), 1e300)))
    with pytest.raises(InputError, match="compressed in a way"):
        read(carried((4, 4), {258: (3, 16), 259: (3, 34712)}, bytes(32)))
    with pytest.raises(InputError, match="raw pixels of a camera"):
        read(carried((4, 4), {258: (3, 16), 262: (3, 32803)}, bytes(32)))


def test_pages_are_counted_read_and_said(tmp_path):
    stack = noise((5, 12, 14), "u2")
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, stack)
    assert files.read_pages(path) == 5
    for page in range(5):
        picture = files.read_picture(path, page)
        np.testing.assert_array_equal(picture.pixels, stack[page])
        assert not picture.remarks
    first = files.read_picture(path)
    np.testing.assert_array_equal(first.pixels, stack[0])
    assert first.remarks == (
        f"{path} has 5 pages of which the first was read and the other 4 were left out; "
        "give the file alone to fuse its pages as a stack.",
    )
    with pytest.raises(InputError, match=r"has no page 5; choose one from 0 to 4"):
        files.read_picture(path, 5)
    colour = written(noise((3, 12, 14, 3), "u1"), photometric="rgb")
    assert reading.count(colour, "x") == 3
    np.testing.assert_array_equal(read(colour, 2).pixels, noise((3, 12, 14, 3), "u1")[2])


def test_thumbnails_are_no_pages_and_strangers_are_said():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as tif:
        tif.write(noise((4, 5), "u2"), subfiletype=1, metadata=None)
        tif.write(noise((12, 14), "u2"), metadata=None)
        tif.write(noise((12, 14), "u2", 1), metadata=None)
        tif.write(noise((6, 7), "u2"), metadata=None)
    assert reading.count(buffer, "x") == 2
    picture = read(buffer)
    assert picture.pixels.shape == (12, 14)
    assert "has 2 pages" in picture.remarks[0]
    assert "a further page of another kind or size" in picture.remarks[1]
    np.testing.assert_array_equal(read(buffer, 1).pixels, noise((12, 14), "u2", 1))


def test_a_mask_that_pillow_refuses_costs_nothing():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as tif:
        tif.write(noise((12, 14, 3), "u1"), photometric="rgb", metadata=None)
        tif.write(noise((12, 14), "u1"), subfiletype=1, metadata=None)
    with tifffile.TiffFile(io.BytesIO(buffer.getvalue())) as tif:
        places = [tif.pages[1].tags[number].valueoffset for number in (254, 262)]
        for place in places:  # both are 4: a transparency mask
            buffer.seek(place)
            buffer.write(b"\4\0")
    picture = read(buffer)
    np.testing.assert_array_equal(picture.pixels, noise((12, 14, 3), "u1"))
    assert picture.remarks == ()


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_stacks_of_which_one_page_alone_is_listed(dtype):
    stack = noise((4, 12, 14), dtype)
    short = written(stack, photometric="minisblack", truncate=True)
    assert len(tifffile.TiffFile(io.BytesIO(short.getvalue())).pages) == 1
    assert reading.count(short, "x") == 4
    for page in range(4):
        np.testing.assert_array_equal(read(short, page).pixels, stack[page])


def test_broken_files_are_damaged():
    whole = written(noise((40, 40, 3), "f4"), photometric="rgb").getvalue()
    for end in (60, 300, len(whole) - 100):
        with pytest.raises(InputError, match=r"scan\.tif is (damaged|not an image)"):
            read(io.BytesIO(whole[:end]))
    packed = bytearray(written(noise((40, 40), "f4"), compression="zlib").getvalue())
    packed[3000] ^= 1
    with pytest.raises(InputError, match=r"scan\.tif is damaged"):
        read(io.BytesIO(bytes(packed)))


def test_what_was_read_before_is_read_as_before(tmp_path):
    # Non-negative counts of 32 bits that 16 can hold: the dtype that everything takes.
    counts = np.array([[0, 7], [65535, 9]], np.int32)
    path = tmp_path / "counts.tif"
    tifffile.imwrite(path, counts)
    np.testing.assert_array_equal(files.read_image(path), counts.astype(np.uint16), strict=True)
    assert files.read_picture(path).pixels.dtype == np.int32
    tifffile.imwrite(path, counts - 1)
    with pytest.raises(InputError, match="kind that is not read here"):
        files.read_image(path)
    assert files.read_picture(path).pixels.min() == -1


def test_resolution_and_description():
    def labels(**options):
        return read(written(noise((4, 4), "f4"), **options)).labels

    assert labels(resolution=(300, 150), resolutionunit="inch").dpi == (300, 150)
    assert labels(resolution=(100, 100), resolutionunit="centimeter").dpi == (254, 254)
    assert labels().dpi is None
    assert b"a leaf" in labels(description="a leaf", metadata=None).exif
    assert labels(iccprofile=b"x" * 200).profile == b"x" * 200
