"""Depth maps as files: units, holes, what formats hold, and what is refused."""

import io
import os
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from mgdn_jax.errors import InputError
from mgdn_jax.io import codec, depth, files, guard, opening, previews


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def values():
    """Metres from 0.4 to 6 with a hole."""
    array = np.random.default_rng(0).uniform(0.4, 6, (7, 9)).astype(np.float32)
    array[2, 3] = np.nan
    return array


def same(read, expected, within=0.0):
    assert read.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(read), np.isnan(expected))
    np.testing.assert_allclose(read, expected, rtol=0, atol=within)


@pytest.mark.parametrize("unit", ["m", "levels", None])
@pytest.mark.parametrize("suffix", [".tif", ".exr", ".npy", ".npz"])
def test_floats_come_back(values, suffix, unit):
    written = depth.write_depth(f"x{suffix}", values, unit)
    assert (written.unit, written.warnings) == (unit, ())
    read = depth.read_depth(f"x{suffix}")
    same(read.values, values)
    tells = unit is not None and suffix in (".tif", ".npz")
    assert read.unit == (unit if tells else "m")
    assert ("says that its unit" in read.basis) == tells
    assert os.listdir() == [f"x{suffix}"]


@pytest.mark.parametrize("suffix", [".npy", ".exr"])
def test_millimetres_become_metres_where_no_unit_can_be_said(values, suffix):
    written = depth.write_depth(f"x{suffix}", 1000 * values, "mm")
    assert written.unit == "m"
    assert "millimetres became metres" in written.notes[0]
    same(depth.read_depth(f"x{suffix}").values, values, 1e-6)


def test_png_holds_millimetres_and_says_so(values):
    written = depth.write_depth("x.png", values, "m")
    assert (written.unit, written.warnings) == ("mm", ())
    assert "metres became millimetres" in written.notes[0]
    stored = files.read_image("x.png")
    assert stored.dtype == np.uint16
    assert stored[2, 3] == 0
    with Image.open("x.png") as picture:
        assert picture.text == {"Depth unit": "mm"}
    read = depth.read_depth("x.png")
    assert (read.unit, read.name) == ("mm", "x.png")
    same(read.values, 1000 * values, 0.501)
    # What was read is written again bit for bit.
    depth.write_depth("y.png", read.values, read.unit)
    same(depth.read_depth("y.png").values, read.values)


def test_levels_take_8_bits_where_they_fit():
    levels = np.array([[0, 1], [130, 255]], np.uint8)
    depth.write_depth("x.png", levels, "levels")
    assert files.read_image("x.png").dtype == np.uint8
    read = depth.read_depth("x.png")
    assert read.unit == "levels"
    same(read.values, np.array([[np.nan, 1], [130, 255]], np.float32))
    depth.write_depth("x.png", levels.astype(np.float32) + 1, "levels")
    assert files.read_image("x.png").dtype == np.uint16


def test_what_png_cannot_hold_is_said():
    written = depth.write_depth("x.png", np.array([[70000.0, 500, -3, 65535]]), "mm")
    assert [sentence.split(";")[0] for sentence in written.warnings] == [
        "1 values of x.png above 65535 were cut off to that",
        "1 values of x.png below 1 became 1, for 0 stands for missing",
    ]
    assert files.read_image("x.png").tolist() == [[65535, 500, 1, 65535]]
    (said,) = depth.write_depth("x.png", np.linspace(1, 9.5, 50)[None], "levels").warnings
    assert "fractions" in said
    assert depth.write_depth("x.png", np.full((2, 2), np.nan), "mm").warnings == ()


@pytest.mark.parametrize(
    ("array", "suffix", "unit"),
    [
        (np.array([[0, 700]], np.uint16), ".png", "mm"),
        (np.array([[0, 700]], np.uint16), ".tif", "mm"),
        (np.array([[0, 70]], np.uint8), ".png", "levels"),
        (np.array([[0, 0.7]], np.float32), ".tif", "m"),
        (np.array([[0, 0.7]], np.float32), ".exr", "m"),
    ],
)
def test_the_type_says_the_unit_by_convention(array, suffix, unit):
    files.write_image(f"x{suffix}", array)
    read = depth.read_depth(f"x{suffix}")
    assert read.unit == unit
    assert "was taken as" in read.basis
    same(read.values, np.where(array == 0, np.nan, array.astype(np.float32)))
    stated = depth.read_depth(f"x{suffix}", "levels")
    assert (stated.unit, stated.basis) == ("levels", "")
    # As stored: what is missing stays what it was.
    raw = depth.decode_depth(opening.read_bytes(f"x{suffix}"), "x")
    np.testing.assert_array_equal(raw, array.astype(np.float32))


def test_arrays_of_numpy():
    np.save("a.npy", np.asfortranarray(np.arange(6.0).reshape(1, 2, 3) + 1))
    np.save("b.npy", (np.arange(6) + 1).astype(">u2").reshape(2, 3))
    expected = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    for name, unit in (("a.npy", "m"), ("b.npy", "mm")):
        read = depth.read_depth(name)
        same(read.values, expected)
        assert read.unit == unit
    np.save("c.npy", np.array([[np.inf, 1e300, 2.0]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(depth.read_depth("c.npy").values, np.array([[np.nan, np.nan, 2]], np.float32))


def test_archives_of_numpy():
    plane = np.ones((2, 3), np.float32)
    np.savez("named.npz", depth=plane, rgb=np.zeros((2, 3)))
    np.savez("single.npz", z=plane, rgb=np.zeros((2, 3, 3)), unit="levels")
    np.savez("several.npz", z=plane, mask=plane)
    np.savez("objects.npz", depth=np.array([[{}]], dtype=object))
    with zipfile.ZipFile("none.npz", "w") as archive:
        archive.writestr("notes.txt", "far and near")
    np.savez("odd.npz", depth=plane, unit="furlongs")
    assert depth.read_depth("named.npz").unit == "m"
    assert depth.read_depth("single.npz").unit == "levels"
    assert depth.read_depth("odd.npz").unit == "m"
    for name, said in {
        "several": "holds the arrays z, mask; call the depth map 'depth'",
        "objects": "holds object values and no numbers",
        "none": "holds no arrays",
    }.items():
        with pytest.raises(InputError, match=said):
            depth.read_depth(f"{name}.npz")


def test_gray_in_three_channels_is_a_map_and_colour_is_not():
    gray = np.array([[7, 9]], np.uint8)
    files.write_image("gray.png", np.stack([gray] * 3, -1))
    same(depth.read_depth("gray.png").values, gray.astype(np.float32))
    files.write_image("clear.png", np.stack([gray, gray], -1))
    assert "transparency" in depth.read_depth("clear.png").remarks[0]
    files.write_image("colour.png", np.array([[[7, 8, 9]]], np.uint8))
    with pytest.raises(InputError, match="is a colour picture and no depth map"):
        depth.read_depth("colour.png")


def test_damaged_files_are_one_sentence(values):
    for suffix in depth.WRITABLE:
        depth.write_depth(f"x{suffix}", values, "m")
        whole = opening.read_bytes(f"x{suffix}")
        for data in (whole[: len(whole) // 2], whole[:12]):
            with pytest.raises(InputError) as complaint:
                depth.decode_depth(data, "x")
            assert str(complaint.value).count(".") >= 1
            assert "\n" not in str(complaint.value)
    for name, said in (("no.png", "does not exist"), (".", "is a folder")):
        with pytest.raises(InputError, match=said):
            depth.read_depth(name)
    with pytest.raises(InputError, match="text"):
        depth.decode_depth(b"far and near", "x.png")
    with pytest.raises(InputError, match="unit is 'cm'"):
        depth.read_depth("x.png", "cm")


def test_sizes_are_bounded_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(guard, "MAX_PIXELS", 100)
    buffer = io.BytesIO()
    np.save(buffer, np.ones((20, 30)))
    with pytest.raises(InputError, match="megapixels"):
        depth.decode_depth(buffer.getvalue(), "x.npy")
    with zipfile.ZipFile("x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("depth.npy", buffer.getvalue())
    with pytest.raises(InputError, match="megapixels"):
        depth.read_depth("x.npz")
    with pytest.raises(InputError, match="megapixels"):
        depth.decode_depth(codec.encode_png(np.ones((20, 30), np.uint16)), "x.png")


def test_what_cannot_be_written_is_said_and_leaves_nothing(values):
    for name, said in (("x.jpg", "use one of"), ("x.dcm", "use one of"), ("x", "use one of")):
        with pytest.raises(InputError, match=said):
            depth.write_depth(name, values, "m")
    with pytest.raises(InputError, match="no depth map"):
        depth.write_depth("x.png", values[None], "m")
    with pytest.raises(InputError, match="unit is 'ft'"):
        depth.write_depth("x.png", values, "ft")
    os.mkdir("d.npz")
    with pytest.raises(InputError, match="is a folder"):
        depth.check_output("d.npz")
    assert os.listdir() == ["d.npz"]


def test_the_text_chunk_is_a_valid_one(values):
    depth.write_depth("x.png", values, "m")
    data = opening.read_bytes("x.png")
    at = data.index(b"tEXt")
    length = int.from_bytes(data[at - 4 : at], "big")
    body, check = data[at : at + 4 + length], data[at + 4 + length :][:4]
    assert body == b"tEXtDepth unit\0mm"
    assert zlib.crc32(body) == int.from_bytes(check, "big")


# --------------------------------------------------------------------------------- previews


def test_lightness_of_the_colours_rises():
    table = previews.colours().astype(float) / 255
    light = np.where(table <= 0.04045, table / 12.92, ((table + 0.055) / 1.055) ** 2.4)
    luminance = light @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).mean() > 0.98
    assert luminance[0] < 0.02
    assert luminance[-1] > 0.7
    assert not (table == np.array(previews.MISSING) / 255).all(-1).any()


def test_ticks_are_round_and_inside():
    assert previews.ticks(0.4, 5.2) == [1, 2, 3, 4, 5]
    assert previews.ticks(-2, 0.001) == [-2, -1.5, -1, -0.5, 0]
    assert previews.ticks(3, 3) == [3]
    for low, high in ((1000, 65535), (0.1, 0.10007), (1e-6, 1)):
        marks = previews.ticks(low, high)
        assert 2 <= len(marks) <= 9
        assert low <= marks[0] < marks[-1] <= high


def test_a_preview_has_the_map_and_a_bar():
    values = np.linspace(1, 5, 300 * 200).reshape(300, 200).astype(np.float32)
    values[:40, :40] = np.nan
    picture = previews.preview(values, "m")
    assert picture.dtype == np.uint8
    assert picture.shape[0] == 300
    assert 230 < picture.shape[1] < 300
    assert (picture[:40, :40] == previews.MISSING).all()
    assert tuple(picture[-1, 199]) == tuple(previews.colours()[-1])
    bar = picture[:, 200:]
    assert (bar == 255).all(-1).mean() > 0.5
    assert (bar[:, 30:] < 100).all(-1).any()  # numbers
    without = previews.preview(np.nan_to_num(values, nan=1), "")
    assert (without[..., 0] != 128).mean() > 0.99


def test_previews_of_small_large_and_constant_maps():
    assert previews.preview(np.ones((3, 4), np.float32)).shape[0] == 240
    assert previews.preview(np.ones((10, 4100), np.float32)).shape[0] < 10 * 24
    with pytest.raises(InputError, match="without values"):
        previews.preview(np.full((3, 4), np.nan))
