"""What a file says beside its pixels: kept where it is shared, and never lost in silence."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from mgdn_jax.errors import InputError
from mgdn_jax.io import codec, files, metadata, profiles, reading
from mgdn_jax.io.labels import shared_labels, to_profile
from mgdn_jax.io.pictures import Labels, Picture

SRGB_XYZ = [[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]]
WIDE_XYZ = [[0.6097, 0.2053, 0.1492], [0.3111, 0.6257, 0.0632], [0.0195, 0.0609, 0.7446]]


def assembled(tags, device, space, connection):
    """An ICC profile of tags."""
    at, table, bodies = 132 + 12 * len(tags), b"", b""
    for key, body in tags.items():
        table += key + struct.pack(">II", at + len(bodies), len(body))
        bodies += body + b"\0" * (-len(body) % 4)
    size = at + len(bodies)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02100000, device, space, connection)
    head += struct.pack(">6H4s", 2024, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    head += struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + bodies


def made_profile(columns=WIDE_XYZ, gamma=2.2, space=b"RGB ", name="wide"):
    """A small ICC profile with a matrix and a power for each channel."""

    def xyz(values):
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))

    text = name.encode() + b"\0"
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz((0.9642, 1.0, 0.8249)),
    }
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        for k, letter in enumerate((b"r", b"g", b"b")):
            tags[letter + b"XYZ"] = xyz([row[k] for row in columns])
            tags[letter + b"TRC"] = curve
    return assembled(tags, b"mntr", space, b"XYZ ")


def photo(orientation=6, dpi=(240, 240), profile=None, personal=True):
    """A JPEG as a camera writes it, with a thumbnail."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0132] = orientation, "Acme", "2024:05:06 07:08:09"
    exif[0x8769] = {0x829A: 0.01, 0x9003: "2024:05:06 07:08:09", 0xA002: 9}
    if personal:
        exif[0x8769] |= {0x927C: b"maker" * 40, 0xA430: "Jane Doe", 0xA431: "4711"}
        exif[0x8825] = {1: "N", 2: (52.0, 31.0, 12.0)}
    block = exif.tobytes()
    buffer = io.BytesIO()
    pixels = np.arange(6 * 9 * 3).reshape(6, 9, 3).astype(np.uint8)
    profile = profiles.srgb() if profile is None else profile
    Image.fromarray(pixels).save(buffer, "JPEG", exif=block, icc_profile=profile, dpi=dpi)
    return buffer.getvalue()


def read(data, name="x.jpg"):
    return reading.read(io.BytesIO(data), name)


def tags(labels):
    exif = metadata.loaded(labels.exif)
    return dict(exif), exif.get_ifd(0x8769), exif.get_ifd(0x8825), exif.get_ifd(1)


def test_labels_of_a_photograph_are_read():
    picture = read(photo())
    assert picture.pixels.shape == (9, 6, 3)
    assert picture.labels.profile == profiles.srgb()
    assert picture.labels.dpi == (240, 240)
    assert read(photo(6, (300, 150))).labels.dpi == (150, 300)  # rows became columns
    assert read(photo(1, (300, 150))).labels.dpi == (300, 150)
    assert tags(picture.labels)[0][0x010F] == "Acme"
    bare = codec.encode(np.zeros((4, 4), np.uint8), ".jpg")
    assert read(bare).labels == Labels()


def test_a_result_has_what_its_sources_share():
    one, two = read(photo()).labels, read(photo()).labels
    labels, warned = shared_labels([one, two])
    assert warned == []
    assert (labels.profile, labels.dpi) == (profiles.srgb(), (240, 240))
    first, camera, place, thumbnail = tags(labels)
    assert (first[0x0112], first[0x010F], first[0x011A]) == (1, "Acme", 240)
    assert camera == {0x829A: 0.01, 0x9003: "2024:05:06 07:08:09"}
    assert (place, thumbnail) == ({}, {})
    assert b"Jane" not in labels.exif
    everything, _ = shared_labels([one, two], "all")
    first, camera, place, _ = tags(everything)
    assert camera[0xA430] == "Jane Doe"
    assert place[2] == (52, 31, 12)
    assert 0x927C not in camera
    assert shared_labels([one, two], "none") == (Labels(), [])
    with pytest.raises(InputError, match="'some' labels cannot be kept; choose one of usual"):
        shared_labels([one], "some")
    apart = Labels(two.profile, two.exif, (300, 300))
    assert shared_labels([one, apart])[0].dpi is None
    assert 0x011A not in tags(shared_labels([one, apart])[0])[0]
    assert shared_labels([Labels(), one])[0].exif is not None  # of the first that has it
    assert shared_labels([]) == (Labels(), [])


def test_a_thumbnail_and_the_layout_of_other_programs_go():
    exif = Image.Exif()
    exif[0x010E], exif[0x010F] = "ImageJ=1.53\nimages=5", "Acme"
    exif.get_ifd(1)[0x0201], exif.get_ifd(1)[0x0202] = 0, 0
    block = metadata.tobytes(exif)
    labels, _ = shared_labels([Labels(exif=block)])
    first, _, _, thumbnail = tags(labels)
    assert first == {0x010F: "Acme", 0x0112: 1}
    assert thumbnail == {}
    assert shared_labels([Labels(exif=b"II*\0broken")])[0].exif is None


def test_profiles_that_differ_are_said_with_the_cure():
    wide, srgb = made_profile(), profiles.srgb()
    names = ["near.png", "far.png"]
    labels, warned = shared_labels([Labels(srgb), Labels(wide)], names=names)
    assert labels.profile is None
    assert warned == [
        "near.png and far.png have different colour profiles (sRGB built-in; wide), so the result "
        "has none; add --profile sRGB to convert them."
    ]
    assert shared_labels([Labels(None), Labels(wide)], names=names)[1]  # none means sRGB
    assert shared_labels([Labels(None), Labels(srgb)], names=names) == (Labels(), [])
    assert shared_labels([Labels(wide), Labels(wide)])[0].profile == wide
    # The same colours by other bytes: made on another day, or by another program.
    other_day = bytearray(wide)
    other_day[24:30] = bytes(6)
    assert shared_labels([Labels(wide), Labels(bytes(other_day))])[0].profile == wide
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert "different colour profiles" in shared_labels([Labels(srgb), Labels(lab)])[1][0]
    assert "a damaged one" in shared_labels([Labels(srgb), Labels(b"x" * 300)])[1][0]
    # A gray source without a profile has no say in the colours.
    flat = shared_labels([Labels(None), Labels(wide)], gray=[True, False])
    assert (flat[0].profile, flat[1]) == (wide, [])


WRITTEN = [
    (".jpg", np.uint8), (".png", np.uint8), (".png", np.uint16), (".tif", np.uint8),
    (".tif", np.uint16), (".tif", np.float32), (".webp", np.uint8),
]  # fmt: skip


@pytest.mark.parametrize(("suffix", "dtype"), WRITTEN)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_labels_are_embedded_in_each_format(tmp_path, suffix, dtype, channels):
    if suffix == ".jpg" and channels == 4:
        channels = 3
    labels, _ = shared_labels([read(photo()).labels], "all")
    gray = made_profile(space=b"GRAY", name="gray")
    if channels == 1:
        labels = Labels(gray, labels.exif, labels.dpi)
    pixels = np.arange(24 * 25 * channels).reshape(24, 25, channels).astype(dtype)
    if dtype == np.float32:
        pixels /= pixels.max()
    if channels == 1 and suffix != ".webp":
        pixels = pixels[..., 0]
    path = tmp_path / f"fused{suffix}"
    files.write_image(path, pixels, labels=labels)
    back = files.read_picture(path)
    if suffix in (".png", ".tif"):
        np.testing.assert_array_equal(back.pixels, pixels)
    assert back.labels.dpi == (240, 240)
    webp_gray = suffix == ".webp" and channels == 1  # written, but as colour
    assert webp_gray or back.labels.profile == labels.profile
    first, camera, place, _ = tags(back.labels)
    assert (first[0x0112], first[0x010F]) == (1, "Acme")
    assert camera[0x829A] == pytest.approx(0.01)
    assert place[1] == "N"
    assert files.read_pages(path) == 1
    if dtype != np.float32:
        with Image.open(path) as image:  # another reader finds them too
            assert image.getexif()[0x010F] == "Acme"


def test_what_a_format_cannot_hold_is_left_out(tmp_path):
    exif = read(photo()).labels.exif
    labels = Labels(profiles.srgb(), exif, (96.5, 96.5))
    pixels = np.zeros((4, 5, 3), np.uint8)
    for suffix in (".bmp", ".ppm"):
        files.write_image(tmp_path / f"x{suffix}", pixels, labels=labels)
        assert files.read_image(tmp_path / f"x{suffix}").shape == (4, 5, 3)
    # A profile for colour says nothing about gray pixels, and the other way round.
    for array in (pixels[..., 0], pixels[..., 0].astype(np.uint16)):
        files.write_image(tmp_path / "x.png", array, labels=labels)
        assert files.read_picture(tmp_path / "x.png").labels.profile is None
    long = Labels(exif=labels.exif + bytes(70000))
    files.write_image(tmp_path / "x.jpg", pixels, labels=long)
    assert files.read_picture(tmp_path / "x.jpg").labels.exif is None


# -------------------------------------------------------------------------------- conversion


def expected(values, columns=WIDE_XYZ, gamma=2.2):
    """From a matrix and a power to sRGB, written out."""
    light = values**gamma @ np.asarray(columns).T @ np.linalg.inv(np.asarray(SRGB_XYZ)).T
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def colours(dtype):
    grid = np.linspace(0.05, 0.95, 12)
    values = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), -1).reshape(36, 48, 3)
    if dtype == np.float32:
        return values.astype(dtype), values
    top = np.iinfo(dtype).max
    stored = np.rint(values * top).astype(dtype)
    return stored, stored / top


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_colours_move_to_srgb_at_their_depth(dtype):
    stored, values = colours(dtype)
    picture = Picture(stored, "wide.png", Labels(made_profile(), None, (72, 72)))
    moved = to_profile(picture, "sRGB")
    assert moved.labels.profile == profiles.srgb()
    assert moved.labels.dpi == (72, 72)
    assert moved.pixels.dtype == dtype
    assert moved.remarks == ()
    top = 1 if dtype == np.float32 else np.iinfo(dtype).max
    difference = np.abs(moved.pixels.astype(float) - expected(values) * top).max()
    assert difference <= {np.uint8: 2.5, np.uint16: 130, np.float32: 0.002}[dtype]
    if dtype == np.uint16:
        assert len(np.unique(moved.pixels & 0xFF)) > 200  # not 8 bits spread out
        there_and_back = to_profile(Picture(stored, "x", Labels(profiles.srgb())), "sRGB")
        np.testing.assert_array_equal(there_and_back.pixels, stored)
    alpha = np.concatenate([stored, stored[..., :1]], -1)
    clear = to_profile(Picture(alpha, "x", picture.labels)).pixels
    np.testing.assert_array_equal(clear[..., :3], moved.pixels)
    np.testing.assert_array_equal(clear[..., 3], alpha[..., 3])


def test_deep_colours_agree_with_littlecms(tmp_path):
    path = tmp_path / "target.icc"
    path.write_bytes(made_profile(SRGB_XYZ, 1.8, name="narrow"))
    stored, _ = colours(np.uint8)
    deep = Picture(stored.astype(np.uint16) * 257, "x", Labels(made_profile()))
    by_lcms = to_profile(Picture(stored, "x", deep.labels), path).pixels
    by_us = to_profile(deep, path).pixels
    assert np.abs(by_us / 257 - by_lcms).max() <= 1
    with pytest.raises(InputError, match="is no colour profile; write sRGB"):
        to_profile(deep, tmp_path / "none.icc")
    path.write_bytes(made_profile(space=b"GRAY"))
    with pytest.raises(InputError, match="is a profile for GRAY pixels; choose one for RGB"):
        to_profile(deep, path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("space", [b"GRAY", b"RGB "])
def test_gray_pictures_stay_gray(dtype, space):
    top = np.iinfo(dtype).max
    stored = np.rint(np.linspace(0, 1, 60).reshape(6, 10) * top).astype(dtype)
    for pixels in (stored, np.stack([stored, stored[::-1]], -1)):
        picture = Picture(pixels, "x", Labels(made_profile(space=space, gamma=1.8)))
        moved = to_profile(picture).pixels
        assert moved.shape == pixels.shape
        gray = moved if moved.ndim == 2 else moved[..., 0]
        light = (stored / top) ** 1.8
        wanted = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        assert np.abs(gray / top - wanted).max() < 2 / 255


def test_profiles_that_do_not_fit_are_said():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    stored, _ = colours(np.uint8)
    moved = to_profile(Picture(stored, "far.png", Labels(lab)))
    np.testing.assert_array_equal(moved.pixels, stored)
    assert moved.labels.profile == profiles.srgb()
    assert "far.png has a colour profile that does not fit its pixels" in moved.remarks[0]
    counts = Picture(stored[..., 0].astype(np.int16), "ct", Labels(made_profile()))
    assert to_profile(counts) is counts
    broken = made_profile()[:200] + bytes(400)
    with pytest.raises(InputError, match=r"x\.png has a damaged colour profile"):
        to_profile(Picture(stored, "x.png", Labels(broken)))


def test_tables_go_through_8_bits_and_say_so(monkeypatch):
    stored, values = colours(np.uint16)
    monkeypatch.setattr(profiles, "_shaper", lambda profile: None)
    moved = to_profile(Picture(stored, "press.tif", Labels(made_profile())))
    assert np.abs(moved.pixels / 65535 - expected(values)).max() < 4 / 255
    assert "the colour profile of press.tif has tables" in moved.remarks[0]


def test_parametric_curves_are_those_of_the_specification():
    x = np.linspace(0, 1, 101)

    def check(wanted, kind, *numbers):
        fixed = [round(number * 65536) for number in numbers]
        tag = b"para\0\0\0\0" + struct.pack(f">HH{len(fixed)}i", kind, 0, *fixed)
        np.testing.assert_allclose(profiles._curve(tag)(x), wanted, atol=1e-4)

    power = (x - 0.5) ** 2
    check(x**2, 0, 2)
    check(np.where(x >= 0.5, power, 0), 1, 2, 1, -0.5)
    check(np.where(x >= 0.5, power + 0.25, 0.25), 2, 2, 1, -0.5, 0.25)
    srgb = np.where(x >= 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)
    check(srgb, 3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    longest = np.where(x >= 0.5, x**2 + 0.125, x / 2 + 0.25)
    check(longest, 4, 2, 1, 0, 0.5, 0.5, 0.125, 0.25)
    table = b"curv\0\0\0\0" + struct.pack(">I3H", 3, 0, 10000, 65535)
    np.testing.assert_allclose(
        profiles._curve(table)(np.array([0, 0.25, 0.5, 1])), [0, 5000 / 65535, 10000 / 65535, 1]
    )
    assert profiles._curve(b"curv\0\0\0\0\0\0\0\0")(x) is x


def press():
    """A profile of a press whose inks are all gray, black the darkest."""
    nodes = []
    for number in range(16):  # the last ink runs fastest
        inks = [number >> 3 & 1, number >> 2 & 1, number >> 1 & 1, number & 1]
        light = 230 * (1 - 0.25 * sum(inks[:3])) * (1 - 0.8 * inks[3])
        nodes += [round(light), 128, 128]
    straight = bytes(range(256))
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity
    table += straight * 4 + bytes(nodes) + straight * 3
    text = b"press\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"A2B0": table,
        b"A2B1": table,
    }
    return assembled(tags, b"prtr", b"CMYK", b"Lab ")


def test_inks_go_through_their_profile():
    inks = np.zeros((4, 6, 4), np.uint8)
    inks[:, 2:4, 3], inks[:, 4:, 0] = 255, 255

    def stored(profile):
        buffer = io.BytesIO()
        Image.fromarray(inks, "CMYK").save(buffer, "TIFF", **profile)
        return read(buffer.getvalue())

    picture = stored({"icc_profile": press()})
    assert picture.labels.profile == profiles.srgb()
    paper, black, cyan = (picture.pixels[0, k].astype(int) for k in (0, 2, 4))
    assert paper.tolist() == [255, 255, 255]
    assert 20 < black[0] < 80  # the plain rule says 0
    assert np.ptp(cyan) <= 2  # gray on this press
    assert 150 < cyan[0] < 180
    plain = stored({})
    assert plain.pixels[0, 4].tolist() == [0, 255, 255]
    assert plain.labels.profile is None
    with pytest.raises(InputError, match="has CMYK pixels and a colour profile that does not fit"):
        stored({"icc_profile": profiles.srgb()})
