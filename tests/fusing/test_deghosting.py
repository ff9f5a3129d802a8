"""Exposures to radiance: order, choice of the reference, times, curves, tiles, alignment."""

import dataclasses

import fake_fusion
import fake_merge
import numpy as np
import pytest
from helpers import filled
from helpers_scenes import bracket, scene, to
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

import mgdn_jax
from mgdn_jax.errors import FusionWarning, InputError
from mgdn_jax.fusing import deghosting, resampling, shutter
from mgdn_jax.fusing.deghosting import Deghoster
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.fusing.radiance import MergedExposures
from mgdn_jax.fusing.report import Report
from mgdn_jax.io import files, metadata
from mgdn_jax.io.metadata import Shot
from mgdn_jax.quantities import radiance
from mgdn_jax.systems import registry
from mgdn_jax.systems.mgdn.network import Config

PREPARATION = {"quantity": "radiance", "gamma": 2.2, "mu": 5000.0}
STOPS = (-2, 0, 2)


def fuser(bias=0.0, **card):
    params = {"bias": np.float32(bias)}
    return Fuser("fake_merge", fake_merge.Config(), params, {}, {"preparation": PREPARATION} | card)


@pytest.fixture(scope="module")
def merge():
    return Deghoster(fuser())


@pytest.fixture(scope="module")
def scenery():
    """Radiance relative to what saturates the shortest, and exposures of 8 bits."""
    light, exposures = bracket(STOPS, height=64, width=84)
    return (light * 2 * 2 ** STOPS[0]).astype(np.float32), exposures


def shifted(pictures, offset=3):
    return [np.roll(x, offset * k, 1) for k, x in zip((-1, 0, 1), pictures, strict=True)]


def test_order_and_depth_of_the_files_do_not_matter(merge, scenery):
    light, exposures = scenery
    merged = merge(exposures, ev=STOPS)
    assert isinstance(merged, MergedExposures)
    assert (merged.reference, merged.inputs, merged.times) == (1, (0, 1, 2), (1, 4, 16))
    assert merged.radiance.dtype == np.float32
    assert merged.warnings == ()
    there = light < 0.99
    assert np.abs(merged.radiance - light)[there].max() < 0.02
    turned = merge([exposures[k] for k in (2, 0, 1)], ev=[STOPS[k] for k in (2, 0, 1)])
    np.testing.assert_array_equal(turned.radiance, merged.radiance)
    assert (turned.reference, turned.inputs, turned.times) == (2, (1, 2, 0), (16, 1, 4))
    # 257 times an 8-bit value is the same share of 16 bits; floats are the shares themselves.
    mixed = [exposures[0].astype(np.uint16) * 257, exposures[1], exposures[2] / np.float32(255)]
    np.testing.assert_allclose(
        merge(mixed, times=(0.01, 0.04, 0.16)).radiance, merged.radiance, atol=1e-6
    )
    whole = [x.astype(np.float32) / 255 for x in exposures]
    np.testing.assert_allclose(merge.predict(whole, merged.times), merged.radiance, atol=1e-6)
    scaled = merge(exposures, ev=STOPS, scale=100)
    np.testing.assert_allclose(scaled.radiance, 100 * merged.radiance, rtol=1e-6)
    assert scaled.report.steps[-1]["says"] == "radiance 100 is what just saturates image 1."


def test_alpha_and_gray_are_no_obstacle(merge, scenery):
    exposures = [x[..., 0] for x in scenery[1]]
    gray = merge(exposures, ev=STOPS).radiance
    assert gray.shape == (64, 84, 3)
    np.testing.assert_array_equal(gray[..., 0], gray[..., 2])
    holes = [np.stack([x, np.full_like(x, 255)], -1) for x in exposures]
    holes[0][:, :20, 1] = 0  # there the reference stands in
    found = merge(holes, ev=STOPS).radiance
    np.testing.assert_array_equal(found[:, 20:], gray[:, 20:])
    whole = radiance.linear(exposures[1] / np.float32(255), 4.0)
    np.testing.assert_allclose(found[:, :20, 0], whole[:, :20], atol=1e-6)


def test_gray_exposures_have_gray_radiance(scenery, monkeypatch):
    tint = np.float32([0.9, 1.0, 1.2])
    plain = Deghoster._run
    monkeypatch.setattr(Deghoster, "_run", lambda *args: plain(*args) * tint)
    merge = Deghoster(fuser())
    merged = merge.merge([x[..., 0] for x in scenery[1]], ev=STOPS)
    assert np.ptp(merged.radiance, axis=-1).max() == 0
    assert "gray" in {step["step"] for step in merged.report.steps}
    assert np.ptp(merge.merge(scenery[1], ev=STOPS).radiance, axis=-1).max() > 0


def test_tiles_agree_and_published_ones_do_not(scenery):
    exposures = scenery[1]
    merge = Deghoster(fuser(bias=0.3))
    whole = merge(exposures, ev=STOPS, tile=0).radiance
    ticks = []
    tiled = merge(
        exposures, ev=STOPS, tile=32, overlap=8, progress=lambda *x: ticks.append(x)
    ).radiance
    np.testing.assert_allclose(tiled, whole, atol=1e-6)
    assert ticks[-1][0] == ticks[-1][1] > 10
    flips = merge(exposures, ev=STOPS, ensemble="flips").radiance
    np.testing.assert_allclose(flips, whole, atol=1e-6)
    published = merge(exposures, ev=STOPS, published_tiles=True).radiance
    np.testing.assert_allclose(published, whole, atol=1e-6)  # smaller than one of them


def test_published_tiles_know_nothing_of_each_other(monkeypatch, scenery):
    monkeypatch.setattr(deghosting, "PUBLISHED_TILE", 48)
    merge = Deghoster(fuser(bias=0.3))
    floats = [x.astype(np.float32) / 255 for x in scenery[1]]
    published = merge.predict(floats, (1, 4, 16), published_tiles=True)
    parts = [x[48:, :48] for x in floats]
    np.testing.assert_allclose(published[48:, :48], merge.predict(parts, (1, 4, 16)), atol=1e-6)
    assert np.abs(published - merge.predict(floats, (1, 4, 16))).max() > 1e-3


def test_curves_of_cameras(merge, scenery):
    light, exposures = scenery
    plain = merge(exposures, ev=STOPS).radiance
    # Half the power in the pixels, half the power on the way back.
    flat = [(x / np.float32(255)) ** np.float32(0.5) for x in exposures]
    np.testing.assert_allclose(merge(flat, ev=STOPS, gamma=4.4).radiance, plain, atol=1e-5)
    times = [1.0, 4.0, 16.0]
    linear = [np.minimum(light * t, 1) for t in times]
    srgb = [
        np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-9) ** (1 / 2.4) - 0.055)
        for x in linear
    ]
    found = merge([x.astype(np.float32) for x in srgb], times=times, curve="srgb").radiance
    there = light < 0.24
    np.testing.assert_allclose(found[there], light[there], rtol=1e-3, atol=1e-6)
    for wrong, message in (
        ({"curve": "film"}, "curve is 'film'"),
        ({"curve": "srgb", "gamma": 2.0}, "say different things"),
        ({"gamma": 9.0}, "gamma is 9"),
        ({"scale": 0.0}, "scale is 0"),
        ({"tile": 30}, "tile is 30"),
        ({"tiel": 32}, "there is no option 'tiel'"),
    ):
        with pytest.raises(InputError, match=message):
            merge(exposures, ev=STOPS, **wrong)


def test_two_exposures_and_equal_ones(merge, scenery):
    exposures = scenery[1]
    two = merge.merge(exposures[:2], ev=(0, 2))
    assert (two.inputs, two.reference, two.times) == ((0, 1, 1), 1, (1, 4))
    assert "stands in for the missing third exposure" in two.report.steps[1]["says"]
    three = merge.merge(exposures, ev=STOPS)
    np.testing.assert_array_equal(two.radiance, three.radiance)  # the rule never sees the long one
    equal = merge.merge([*exposures, exposures[1]], ev=(*STOPS, 0.1))
    assert equal.inputs == (0, 1, 2)
    assert equal.report.steps[1]["says"] == "image 4 is as long as image 2 and was left out."
    np.testing.assert_array_equal(equal.radiance, three.radiance)
    with pytest.raises(InputError, match="the 2 exposures are equally long"):
        merge.merge(exposures[:2], times=(0.1, 0.1))
    with pytest.raises(InputError, match="give two or more exposures"):
        merge.merge(exposures[:1], ev=(0,))


@pytest.mark.parametrize(
    ("ev", "inputs"),
    [
        ((0, 1, 2, 3, 4), (0, 2, 4)),  # two stops rather than one
        ((0, 1, 2, 3, 4, 5, 6), (0, 3, 6)),
        ((0, 2, 4, 6, 8), (1, 2, 3)),
        ((0, 1.5, 4.5, 6), (0, 1, 2)),  # of two middle ones the shorter, which saturates less
        ((8, 0, 4, 2, 6), (3, 2, 4)),
    ],
)
def test_more_than_three_exposures(ev, inputs):
    report = Report()
    names = [f"{k}.png" for k in range(len(ev))]
    choice = shutter.choose(names, radiance.relative_times(ev=ev), report)
    assert choice.inputs == inputs
    assert choice.times[inputs[0]] == 1
    left = [name for k, name in enumerate(names) if k not in inputs]
    said = report.steps[-1]["says"]
    assert said.endswith("were left out." if len(left) > 1 else "was left out.")
    assert all(name in said for name in left)


def test_five_exposures_through_the_network(merge):
    _, exposures = bracket((-2, -1, 0, 1, 2), height=40, width=52)
    merged = merge.merge(exposures, ev=(-2, -1, 0, 1, 2))
    assert merged.inputs == (0, 2, 4)
    np.testing.assert_array_equal(merged.radiance, merge.merge(exposures[::2], ev=STOPS).radiance)


# ---------------------------------------------------------------------------------------- times


def exif(**tags):
    block = Image.Exif()
    numbers = {"seconds": 0x829A, "iso": 0x8827, "f": 0x829D, "speed": 0x9201, "aperture": 0x9202}
    block.get_ifd(0x8769).update({numbers[k]: v for k, v in tags.items()})
    return block.tobytes().removeprefix(b"Exif\0\0")


def test_what_exif_says_of_an_exposure():
    found = metadata.shot(exif(seconds=IFDRational(1, 250), iso=200, f=IFDRational(28, 10)))
    assert found == Shot(0.004, 200, pytest.approx(2.8))
    logarithms = metadata.shot(exif(speed=IFDRational(3), aperture=IFDRational(6)))
    assert logarithms == Shot(pytest.approx(1 / 8), None, pytest.approx(8))
    for nothing in (None, b"", b"II*\0rubbish", exif(seconds=IFDRational(0, 1), iso=0)):
        assert metadata.shot(nothing) == Shot()
    assert metadata.shot(exif(seconds=IFDRational(1, 0))) == Shot()


def save(path, pixels, **tags):
    Image.fromarray(pixels).save(path, exif=b"Exif\0\0" + exif(**tags))


def test_times_from_exif(merge, scenery, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exposures = scenery[1]
    # The second is longer by its sensitivity, the third by its aperture.
    save("b.png", exposures[1], seconds=IFDRational(1, 200), iso=400, f=IFDRational(8))
    save("a.png", exposures[0], seconds=IFDRational(1, 200), iso=100, f=IFDRational(8))
    save("c.png", exposures[2], seconds=IFDRational(1, 50), iso=100, f=IFDRational(4))
    merged = merge.merge(["b.png", "a.png", "c.png"])
    np.testing.assert_allclose(merged.times, (4, 1, 16))
    assert merged.warnings == ()
    assert merged.report.steps[0]["says"] == (
        "by their EXIF the exposures are 2, 0, 4 EV apart (1/200 s ISO 400 f/8, 1/200 s ISO 100 "
        "f/8, 1/50 s ISO 100 f/4)."
    )
    np.testing.assert_array_equal(merged.radiance, merge.merge(exposures, ev=STOPS).radiance)
    # Numbers that were said win over the files.
    assert merge.merge(["b.png", "a.png", "c.png"], ev=(0, -2, 2)).times == (4, 1, 16)
    save("c.png", exposures[2])
    with pytest.raises(InputError, match=r"c\.png has no exposure time in its EXIF; give .*--ev"):
        merge.merge(["b.png", "a.png", "c.png"])
    with pytest.raises(InputError, match="--times has 2 numbers for 3 exposures"):
        merge.merge(["b.png", "a.png", "c.png"], times=(1, 2))


def test_exposures_that_contradict_their_times(merge, scenery):
    exposures = scenery[1]
    with pytest.warns(FusionWarning, match=r"image 2 shows \+2\.0 EV more light than image 1"):
        merge(exposures, ev=(0, 5, 7))
    with pytest.warns(FusionWarning) as caught:
        merge(exposures, ev=(2, 0, -2))  # the wrong way round
    assert "-2.0 EV more light" in str(caught[0].message)
    assert merge.merge(exposures, ev=(2, 0, -2), checks=False).warnings == ()
    # Far exposures have little in common, and cameras are no powers: a stop and a third is allowed.
    assert merge.merge(exposures, ev=(0, 3.4, 6)).warnings == ()
    bright = [np.maximum(x, 255 * (np.arange(84) < 20)[None, :, None]) for x in exposures]
    said = merge.merge([x.astype(np.uint8) for x in bright], ev=STOPS).warnings
    assert any("% of image 1 is saturated" in sentence for sentence in said)


# ----------------------------------------------------------------------------- other bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :60], r"image 2 is 60x64 but image 1 is 84x64; exposures must have one"),
        (lambda x: x.astype(np.float32), r"image 2 holds values from \d+ to \d+, but exposures"),
        (lambda x: x.astype(np.int16) - 9, "image 2 holds int16; give exposures of 8 or 16"),
        (lambda x: "nothing.png", r"nothing\.png does not exist"),
    ],
)
def test_what_cannot_be_an_exposure(merge, scenery, change, message):
    exposures = list(scenery[1])
    exposures[1] = change(exposures[1])
    with pytest.raises(InputError, match=message):
        merge.merge(exposures, ev=STOPS)


def test_predict_takes_what_the_network_takes(merge):
    x = np.zeros((8, 8, 3), np.float32)
    for exposures, times, message in (
        ([x, x], (1, 2), "the network takes 3 exposures, but there are 2"),
        ([x, x, x[:4]], (1, 2, 4), "must have one shape"),
        ([x[..., 0]] * 3, (1, 2, 4), "must have one shape"),
        ([x, x, x], (1, 2), "2 times were given for 3"),
        ([x, x, x], (2, 4, 8), "relative to the shortest"),
    ):
        with pytest.raises(InputError, match=message):
            merge.predict(exposures, times)


def test_networks_for_other_things_are_refused():
    with pytest.raises(InputError, match=r"takes exposures with their times; use mgdn hdr, or"):
        fuser().fuse(*[np.zeros((8, 8, 3), np.uint8)] * 3)
    with pytest.raises(InputError, match=r"takes pictures; use mgdn fuse"):
        Deghoster(Fuser("fake_fusion", fake_fusion.Config(), {"bias": np.float32(0)}))
    with pytest.raises(InputError, match="is not one of radiance with gamma and mu"):
        Deghoster(fuser(preparation={"quantity": "radiance"}))
    two = dataclasses.replace(fake_merge.Config(), in_channels=(6, 6))
    pair = Fuser("fake_merge", two, {"bias": np.float32(0)}, {}, {})
    with pytest.raises(InputError, match="the network takes 2 exposures, but there are 3"):
        Deghoster(pair).merge([np.zeros((8, 8, 3), np.uint8)] * 3, ev=STOPS, checks=False)
    # Where the card says nothing, the channels do, and the preparation is the usual one.
    plain = Deghoster(Fuser("fake_merge", fake_merge.Config(), {"bias": np.float32(0)}))
    assert plain.preparation.gamma == 2.2
    assert "Deghoster(Fuser(" in repr(plain)


def test_the_default_network_is_named(monkeypatch):
    monkeypatch.setattr(deghosting.zoo, "bundled", dict)
    with pytest.raises(InputError, match=r"mgdn-hdr did not come with .*configs/mgdn\.py:hdr_cpu"):
        mgdn_jax.merge_exposures([], ev=())


# --------------------------------------------------------------------------- the camera's movement


def test_a_camera_that_moved(merge):
    pytest.importorskip("cv2")
    light = 0.15 * scene(3, 160, 200)[..., :] + 0.01
    exposures = [to(np.uint8, np.minimum(light * 2.0**ev * 2, 1) ** (1 / 2.2)) for ev in STOPS]
    wide = [np.pad(x, ((0, 0), (9, 9), (0, 0)), mode="edge") for x in exposures]
    moved = [x[:, 9 + k : 209 + k] for x, k in zip(wide, (-6, 0, 6), strict=True)]
    warned = merge.merge(moved, ev=STOPS, align=False)
    assert any("--align brings them together" in sentence for sentence in warned.warnings)
    aligned = merge.merge(moved[::-1], ev=STOPS[::-1], align=True)
    assert not any("--align" in sentence for sentence in aligned.warnings)
    assert aligned.radiance.shape == warned.radiance.shape  # the frame of the reference
    says = [step["says"] for step in aligned.report.steps if step["step"] == "align"]
    assert sum("stays where it is" in sentence for sentence in says) == 1
    assert any("image 2 stays" in sentence for sentence in says)
    # Where the others are not, the reference stands in: nothing at the rim is dark or doubled.
    still = merge.merge(exposures, ev=STOPS).radiance
    assert np.abs(aligned.radiance - still).max() < 0.05


def test_shifts_are_undone_unless_that_is_declined(merge, monkeypatch):
    monkeypatch.setattr(resampling, "opencv", lambda: None)
    light = 0.15 * scene(3, 160, 200) + 0.01
    # A lamp saturates the reference, so that the shortest is looked at.
    light[40:100, 60:120] *= 7
    exposures = [to(np.uint8, np.minimum(light * 2.0**ev * 2, 1) ** (1 / 2.2)) for ev in STOPS]
    still = merge.merge(exposures, ev=STOPS)
    assert not [step for step in still.report.steps if step["step"] == "shift"]
    moved = [np.roll(x, k, 1) for x, k in zip(exposures, (-6, 0, 6), strict=True)]
    shifted = merge.merge(moved, ev=STOPS)
    steps = [step for step in shifted.report.steps if step["step"] == "shift"]
    assert [step["source"] for step in steps] == ["image 1", "image 3"]
    np.testing.assert_allclose([step["x"] for step in steps], (6, -6), atol=0.1)
    assert "image 3 was shifted by 6.0 px (-6.0, " in steps[1]["says"]
    assert not any("--align" in sentence for sentence in shifted.warnings)
    assert np.abs(shifted.radiance - still.radiance)[:, 8:-8].max() < 0.01
    for choices in ({"align": False}, {"checks": False}):
        left = merge.merge(moved, ev=STOPS, **choices)
        assert np.abs(left.radiance - still.radiance)[:, 8:-8].max() > 0.05
        assert not [step for step in left.report.steps if step["step"] == "shift"]
    with pytest.raises(InputError, match="align is 'full'; choose one of 'shift', True, False"):
        merge.merge(moved, ev=STOPS, align="full")


# ------------------------------------------------------------------------------ results, real thing


def test_results_are_written_and_shown(merge, scenery, tmp_path):
    merged = merge.merge(scenery[1], ev=STOPS)
    for name, tolerance in (("a.exr", 0), ("a.tif", 0), ("a.hdr", 1 / 255)):
        path = merged.save(tmp_path / name)
        most = merged.radiance.max(-1, keepdims=True)
        assert (np.abs(files.read_image(path) - merged.radiance) <= tolerance * most).all()
    merged.save(tmp_path / "half.exr", half=True)
    np.testing.assert_allclose(
        files.read_image(tmp_path / "half.exr"), merged.radiance, rtol=1e-3, atol=1e-7
    )
    for name, half, message in (
        ("b.png", False, r"b\.png cannot hold radiance; choose \.exr or \.hdr"),
        ("b.hdr", True, r"--half is for \.exr"),
    ):
        with pytest.raises(InputError, match=message):
            merged.save(tmp_path / name, half=half)
    shown = merged.preview()
    assert shown.dtype == np.uint8
    white = np.quantile(merged.radiance, 0.999)
    expected = radiance.mu_law(np.minimum(merged.radiance / white, 1))
    assert np.abs(shown / 255 - expected).max() < 0.0021
    dark = dataclasses.replace(merged, radiance=np.zeros((4, 5, 3), np.float32))
    assert (dark.preview() == 0).all()


def test_the_network_itself(scenery):
    """A small MGDN whose last layer is zero merges by the rule it starts with."""
    config = Config(
        inputs=3, in_channels=(6, 6, 6), features=12, depths=(1,), heads=(3,), window=4,
        guidance="reference", skip=1, head="merge", mlp_ratio=1.0,
    )  # fmt: skip
    graphdef, shapes, stats = registry.abstract("mgdn", config)
    _, params = filled(graphdef, shapes)
    params = {k: 0 * v if k.startswith("last") else v for k, v in params.items()}
    exposures = [x[:24, :32] for x in scenery[1]]
    merge = Deghoster(Fuser("mgdn", config, params, stats))
    found = merge.merge(exposures, ev=STOPS, checks=False).radiance
    floats = [x.astype(np.float32) / 255 for x in exposures]
    parts = [radiance.linear(x, 4.0**k) for k, x in enumerate(floats)]
    good = np.clip((0.97 - floats[1].max(-1, keepdims=True)) / 0.09, 0, 1)
    rule = good * parts[1] + (1 - good) * parts[0]
    assert np.abs(found - rule).max() < 0.02
