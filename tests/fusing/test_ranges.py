"""What becomes black and white."""

import numpy as np
import pytest

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import ranges


def about(pixels, **kw):
    return ranges.statistics(pixels[..., None] if pixels.ndim == 2 else pixels, **kw)


def spread(low, high, dtype, shape=(40, 50)):
    return np.linspace(low, high, shape[0] * shape[1]).reshape(shape).astype(dtype)


def test_counts_in_a_narrow_band_are_spread_and_said():
    counts = about(spread(17100, 18000, np.uint16))
    chosen, said, warning = ranges.choose("ir.tif", counts, "auto")
    assert chosen.rule == "percentile"
    assert 17100 <= chosen.low < 17110
    assert 17990 < chosen.high <= 18000
    assert "uses 1.4 % of the range of its type" in warning
    assert "was taken as black to white" in warning
    assert said.startswith("ir.tif: percentiles")
    # Python's default leaves them, but not without a word.
    chosen, _, warning = ranges.choose("ir.tif", counts, "type")
    assert (chosen.low, chosen.high) == (0, 65535)
    assert "--range LO,HI" in warning


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_fewer_bits_in_a_wider_type_are_seen(bits):
    chosen, _, warning = ranges.choose("x.png", about(spread(0, 2**bits - 1, np.uint16)), "auto")
    assert (chosen.low, chosen.high, chosen.rule) == (0, 2**bits - 1, "bits")
    assert f"read as {bits} bits" in warning


@pytest.mark.parametrize(
    ("pixels", "limits"),
    [
        (spread(0, 255, np.uint8), (0, 255)),
        (spread(0, 65535, np.uint16), (0, 65535)),
        (spread(100, 140, np.uint8), (0, 255)),
        (spread(0, 1, np.float32), (0, 1)),
        (spread(0.2, 0.3, np.float64), (0, 1)),
        (np.zeros((9, 9), np.uint16), (0, 65535)),
        (np.full((9, 9), 700, np.uint16), (0, 65535)),
    ],
)
def test_plain_pictures_keep_their_type(pixels, limits):
    chosen, said, warning = ranges.choose("x", about(pixels), "auto")
    assert (chosen.low, chosen.high, chosen.rule) == (*limits, "type")
    assert said == warning == ""


def test_a_narrow_picture_of_8_bits_is_said_but_left():
    chosen, _, warning = ranges.choose("x", about(spread(100, 108, np.uint8)), "auto")
    assert chosen.rule == "type"
    assert "uses 2.7 % of the range" in warning


def test_kelvin_and_hounsfield():
    chosen, _, warning = ranges.choose("k.tif", about(spread(288, 300, np.float32)), "auto")
    assert (chosen.low, chosen.high) == (pytest.approx(288, abs=0.1), pytest.approx(300, abs=0.1))
    assert "float32 from 288 to 300" in warning
    scan = about(spread(-1000, 2000, np.int16))
    assert "--window brain" in ranges.choose("ct.tif", scan, "auto")[2]
    chosen, said, warning = ranges.choose("ct.tif", scan, "auto", window=(40.0, 80.0))
    assert (chosen.low, chosen.high, warning) == (0, 80, "")
    assert said == "ct.tif: window 40, 80."
    with pytest.raises(InputError, match="--range LO,HI"):
        ranges.choose("k.tif", about(spread(288, 300, np.float32)), "type")
    with pytest.raises(InputError, match="int16"):
        ranges.choose("ct.tif", scan, "type")
    file = about(spread(-1000, 2000, np.float32), unit="HU", window=(50.0, 400.0))
    assert ranges.choose("ct.dcm", file, "auto")[0] == ranges.Range(-150, 250, "window")


def test_rules_by_source():
    assert ranges.rules(None, 2, "auto") == ["auto", "auto"]
    assert ranges.rules("percentile", 2, "auto") == ["percentile"] * 2
    assert ranges.rules("A:17000,18100", 2, "auto") == ["17000,18100", "auto"]
    assert ranges.rules("B:type;1:percentile,1,99", 2, "auto") == ["percentile,1,99", "type"]
    assert ranges.rules("type;b:0,1", 2, "auto") == ["type", "0,1"]
    chosen = ranges.choose("x", about(spread(280, 320, np.float32)), "20C,40C")[0]
    assert (chosen.low, chosen.high) == (pytest.approx(293.15), pytest.approx(313.15))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("C:0,1", "the sources are A to B"),
        ("0,1,2", "there is no range"),
        ("5,5", "LO < HI"),
        ("percentile,99,1", "percentages"),
        ("wide", "there is no range 'wide'"),
        ("nan,1", "there is no range"),
        ("1e999,2", "LO < HI"),
        ("1.2.3,4", "no two numbers"),
    ],
)
def test_wrong_rules_are_said(text, said):
    with pytest.raises(InputError, match=said):
        ranges.rules(text, 2, "auto")


def test_windows_by_name_and_by_source():
    assert ranges.windows("brain", 2) == [(40, 80)] * 2
    assert ranges.windows("A:Lung;B:50,350", 2) == [(-600, 1500), (50, 350)]
    assert ranges.names_source("A:lung", 0)
    assert not ranges.names_source("lung", 0)
    for text, said in (("brian", "did you mean 'brain'"), ("5,0", "no width"), ("1", "there is")):
        with pytest.raises(InputError, match=said):
            ranges.windows(text, 2)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.uint32, np.float32])
def test_values_go_out_as_they_came(dtype):
    pixels = spread(100, 250, dtype)[..., None]
    span = ranges.Range(50, 300)
    floats = span.apply(pixels)
    assert floats.dtype == np.float32
    assert 0 < floats.min() < floats.max() < 1
    np.testing.assert_allclose(span.restore(floats, np.dtype(dtype)), pixels, atol=1e-4)
    far = ranges.Range(120, 200).apply(pixels)
    assert (far.min(), far.max()) == (0, 1)


def test_what_is_hidden_does_not_count():
    pixels = spread(1000, 1100, np.uint16)
    pixels[:, :10] = 0
    mask = np.ones(pixels.shape, bool)
    mask[:, :10] = False
    seen = about(pixels, mask=mask)
    assert seen.low >= 1000
    assert ranges.choose("x", seen, "auto")[0].low >= 1000


def test_percentages_of_the_pixels():
    pixels = np.arange(101, dtype=np.uint16).reshape(1, 101, 1)
    assert ranges.percentiles(pixels, None, (10, 90)) == (10, 90)
    assert ranges.percentages("percentile,10,90") == (10, 90)
    assert ranges.percentages("percentile") is None


@pytest.mark.parametrize(("low", "high"), [(7300, 9300), (30000, 36000)])
def test_a_band_far_from_black_is_spread_beside_others(low, high):
    band = about(spread(low, high, np.uint16))
    chosen, _, warning = ranges.choose("ir.tif", band, "auto", contrast=(0.2, 0.8))
    assert chosen.rule == "percentile"
    scaled = (np.array(band.robust) - chosen.low) / (chosen.high - chosen.low)
    np.testing.assert_allclose(scaled, (0.2, 0.8))
    assert "was taken as black to white" in warning
    # Alone, or from black on, it may be a picture without contrast.
    assert ranges.choose("ir.tif", band, "auto")[0].rule in ("bits", "type")
    dark = about(spread(0, high - low, np.uint16))
    assert ranges.choose("ir.tif", dark, "auto", contrast=(0.2, 0.8))[0].rule in ("bits", "type")


def test_a_narrow_source_gets_the_contrast_of_the_others():
    counts = about(spread(17100, 18000, np.uint16))
    chosen = ranges.choose("ir.tif", counts, "auto", contrast=(0.25, 0.75))[0]
    low, high = (float(ranges.Range.apply(chosen, np.array([x]))[0]) for x in counts.robust)
    assert (low, high) == (pytest.approx(0.25, abs=1e-3), pytest.approx(0.75, abs=1e-3))
