"""Radiance pictures: every encoding and orientation, what broken files say, and writing."""

import contextlib

import cv2
import numpy as np
import pytest

from mgdn_jax.errors import InputError
from mgdn_jax.io import codec, files, guard, radiance

HEAD = b"#?RADIANCE\n# made by hand\nFORMAT=32-bit_rle_rgbe\n\n"


def file_of(body: bytes, size: bytes = b"-Y 1 +X 2\n", head: bytes = HEAD) -> bytes:
    return head + size + body


def light(height=9, width=40, seed=0):
    """Radiances over many stops with runs of equal pixels, as RGBE holds them."""
    rng = np.random.default_rng(seed)
    values = rng.lognormal(0, 4, (height, width, 3)).astype(np.float32)
    values[:, 5:30] = values[:, 5:6]
    values[2:3] = 0
    return radiance.decode(radiance.encode(values), "x")


def test_what_opencv_writes_is_read_and_the_other_way_round(tmp_path):
    values = np.random.default_rng(1).lognormal(0, 3, (20, 300, 3)).astype(np.float32)
    values[3:9, 20:290] = 0.25
    path = str(tmp_path / "theirs.hdr")
    cv2.imwrite(path, values[..., ::-1])
    theirs = files.read_image(path)
    most = values.max(-1, keepdims=True)
    assert (np.abs(theirs - values) <= most / 128).all()
    ours = str(tmp_path / "ours.hdr")
    files.write_image(ours, values)
    read = files.read_picture(ours)
    np.testing.assert_array_equal(read.pixels, cv2.imread(ours, cv2.IMREAD_UNCHANGED)[..., ::-1])
    assert (np.abs(read.pixels - values) <= most / 255).all()
    assert files.read_pages(ours) == 1
    np.testing.assert_array_equal(codec.decode_image(radiance.encode(theirs), "x"), theirs)


@pytest.mark.parametrize("width", [1, 7, 8, 129, 128 * 3 + 5, 32768])
def test_what_rgbe_holds_comes_back_bit_for_bit(width):
    values = light(3, width)
    data = radiance.encode(values)
    np.testing.assert_array_equal(radiance.decode(data, "x"), values)
    smooth = np.full((3, width, 3), 2.5, np.float32)
    np.testing.assert_array_equal(radiance.decode(radiance.encode(smooth), "x"), smooth)
    if width == 389:  # runs are short, and pixels that differ cost one byte in 128 at most
        assert len(radiance.encode(smooth)) < 3 * (4 + 4 * 2 * 4) + 80
        assert len(data) < 4 * values[..., 0].size * 1.05 + 80


def test_the_smallest_and_the_greatest_values(monkeypatch):
    values = np.zeros((1, 3, 3), np.float32)
    values[0, 0] = 255 / 256 * 2.0**127
    values[0, 1] = 2.0**-128  # the least that has an exponent, half a mantissa
    values[0, 2] = 2.0**-135  # darker than the format goes
    decoded = radiance.decode(radiance.encode(values), "x")
    np.testing.assert_array_equal(decoded[0, :2], values[0, :2])
    assert (decoded[0, 2] == 0).all()
    nearly = np.full((1, 8, 3), 255.6 / 256, np.float32)  # rounds to the next exponent
    np.testing.assert_array_equal(radiance.decode(radiance.encode(nearly), "x"), 1)
    monkeypatch.setattr(radiance, "_BLOCK", 64)
    tall = light(50, 9)
    np.testing.assert_array_equal(radiance.decode(radiance.encode(tall), "x"), tall)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 9, 3), -1e-3, np.float32), "values from 0 to"),
        (np.full((2, 9, 3), np.nan, np.float32), "values from 0 to"),
        (np.full((2, 9, 3), 3e38, np.float32), "values from 0 to"),
        (np.zeros((2, 9, 4), np.float32), "cannot hold transparency"),
        (np.zeros((2, 9, 3), np.uint8), "holds float pixels, not uint8"),
    ],
)
def test_what_it_cannot_hold_is_refused_and_nothing_is_written(array, message, tmp_path):
    with pytest.raises(InputError, match=message):
        files.write_image(tmp_path / "x.hdr", array)
    assert list(tmp_path.iterdir()) == []


def test_gray_is_written_as_three_colours(tmp_path):
    path = tmp_path / "gray.HDR"
    values = light()[..., 0]
    files.write_image(path, values)
    np.testing.assert_array_equal(files.read_image(path), np.stack([values] * 3, -1))


def test_all_eight_orientations():
    values = light(6, 9)
    stored = radiance._stored(values)
    for turned in (False, True):
        for flip in (False, True):
            for mirror in (False, True):
                body = stored[::-1] if flip else stored
                body = body[:, ::-1] if mirror else body
                rows = f"{'+' if flip else '-'}Y 6"
                columns = f"{'-' if mirror else '+'}X 9"
                if turned:
                    body = body.swapaxes(0, 1)
                size = f"{columns} {rows}\n" if turned else f"{rows} {columns}\n"
                data = file_of(body.tobytes(), size.encode())
                np.testing.assert_array_equal(radiance.decode(data, "x"), values)


def test_exposure_and_colour_correction_are_divided_out():
    head = b"#?RGBE\r\nEXPOSURE=2\r\nFORMAT=32-bit_rle_rgbe\nEXPOSURE= 4.0\n"
    head += b"COLORCORR= 1 0.5 2\nGAMMA=1\n\n"
    decoded = radiance.decode(file_of(bytes((128, 128, 128, 129)) * 2, head=head), "x")
    np.testing.assert_allclose(decoded[0, 0], [1 / 8, 1 / 4, 1 / 16])


def test_old_runs_repeat_the_pixel_before():
    pixel, other = bytes((128, 64, 32, 130)), bytes((9, 200, 7, 120))
    body = pixel + bytes((1, 1, 1, 44)) + bytes((1, 1, 1, 1)) + other  # 44 + 256 times more
    data = file_of(body, b"-Y 1 +X 302\n")
    decoded = radiance.decode(data, "x")
    assert (decoded[0, :301] == [2, 1, 0.5]).all()
    np.testing.assert_allclose(decoded[0, 301] * 2**16, [9, 200, 7])
    # Scanlines of both encodings in one file.
    new = radiance._runs(radiance._stored(light(1, 302)))
    both = radiance.decode(file_of(new + body + new, b"-Y 3 +X 302\n"), "x")
    np.testing.assert_array_equal(both[1], decoded[0])
    np.testing.assert_array_equal(both[0], both[2])
    np.testing.assert_array_equal(both[:1], light(1, 302))


WIDE = b"-Y 1 +X 8\n"
START = b"\2\2\0\x08"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"#?RADIANCE\n", "the header has no end"),
        (HEAD + b"-Y 1 -Y 2\n" + bytes(8), "the header has no size"),
        (HEAD + b"-Y 1 +X", "the header has no size"),
        (HEAD + b"-Y 0 +X 5\n", "has no pixels"),
        (file_of(b"", b"-Y 60000 +X 60000\n"), "more than 1000 megapixels"),
        (file_of(b"", b"-Y 13000 +X 13000\n"), "ends within a scanline"),
        (file_of(b"", b"-Y 30000 +X 30000\n"), "takes 10.1 GiB when it is unpacked"),
        (file_of(bytes(7)), "ends within a scanline"),
        (file_of(START, WIDE), "ends within a scanline"),
        (file_of(START + b"\x88\5" * 3, WIDE), "ends within a scanline"),
        (file_of(START + b"\x88\5" * 3 + b"\x08\1", WIDE), "ends within a run"),
        (file_of(START + b"\x88\5" * 3 + b"\x88", WIDE), "ends within a run"),
        (file_of(START + b"\x89\5" * 4, WIDE), "reaches beyond its scanline"),
        (file_of(START + b"\x85\5\x09" + bytes(40), WIDE), "reaches beyond its scanline"),
        (file_of(START + bytes(40), WIDE), "a run has no length"),
        (file_of(b"\2\2\0\x09" + bytes(40), WIDE), "another width than the header says"),
        (file_of(bytes((1, 1, 1, 2)) * 2), "a run repeats nothing"),
        (file_of(b"\5\5\5\x80" + bytes((1, 1, 1, 2))), "reaches beyond its scanline"),
        (file_of(b"\5\5\5\x80" + bytes((1, 1, 1, 0)) * 9, WIDE), "no sensible length"),
        (
            file_of(b"\5\5\5\x80" + bytes((1, 1, 1, 255)) * 4, b"-Y 1 +X 40000\n"),
            "reaches beyond its scanline",
        ),
        (HEAD.replace(b"rgbe", b"xyze") + b"-Y 1 +X 1\n" + bytes(4), "holds XYZ in place of RGB"),
        (HEAD.replace(b"rle_rgbe", b"float") + b"-Y 1 +X 1\n" + bytes(4), "unknown format"),
        (b"#?RGBE\nEXPOSURE=0\n\n-Y 1 +X 1\n" + bytes(4), "exposure that is not positive"),
        (b"#?RGBE\nEXPOSURE=bright\n\n-Y 1 +X 1\n" + bytes(4), "is damaged"),
        (b"#?RGBE\nEXPOSURE=1e-9\n\n-Y 1 +X 1\n" + b"\xff" * 4, "is damaged"),
        (b"#?RGBE\nCOLORCORR=1 1\n\n-Y 1 +X 1\n" + bytes(4), "is damaged"),
    ],
)
def test_broken_files_end_in_one_sentence(data, message, tmp_path):
    path = tmp_path / "broken.hdr"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        files.read_image(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_any_cut_and_any_noise_ends_in_a_picture_or_a_sentence():
    data = radiance.encode(light(4, 40))
    rng = np.random.default_rng(0)
    start = data.index(b"+X 40\n") + 6
    for cut in range(0, len(data), 7):
        with pytest.raises(InputError, match="is damaged or truncated"):
            radiance.decode(data[:cut], "cut")
    for _ in range(200):
        noisy = bytearray(data)
        for at in rng.integers(start, len(data), 3):
            noisy[at] = rng.integers(256)
        with contextlib.suppress(InputError):
            assert radiance.decode(bytes(noisy), "noisy").shape == (4, 40, 3)


def test_limits_hold(monkeypatch):
    monkeypatch.setattr(guard, "MAX_PIXELS", 10)
    with pytest.raises(InputError, match="has more than"):
        radiance.decode(radiance.encode(light(4, 40)), "x")
