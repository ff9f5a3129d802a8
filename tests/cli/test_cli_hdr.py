"""`mgdn hdr` from files to files, with a network whose result is known."""

import json

import fake_merge
import numpy as np
import pytest
from helpers_cli import everything, mgdn, rows, save_pictures
from helpers_scenes import bracket
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from mgdn_jax.cli import progress
from mgdn_jax.io import files
from mgdn_jax.quantities.radiance import mu_law
from mgdn_jax.weights.store import save_weights

MODEL = "--model m.safetensors"
STOPS = (-2, 0, 2)
CARD = {
    "task": "exposures to radiance",
    "preparation": {"quantity": "radiance", "gamma": 2.2, "mu": 5000.0},
}


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("MGDN_CACHE_DIR", "off")
    monkeypatch.setattr(progress, "SECONDS", 3600.0)
    monkeypatch.chdir(tmp_path)
    params = {"bias": np.zeros((), np.float32)}
    config = fake_merge.Config().to_dict()
    save_weights("m.safetensors", system="fake_merge", config=config, params=params, card=CARD)
    for name, picture in zip(
        ("a.png", "b.png", "c.png"), bracket(STOPS, 0, 40, 52)[1], strict=True
    ):
        files.write_image(name, picture)


def report(command, capsys):
    """The result of a command that succeeds, from its JSON."""
    capsys.readouterr()
    code = mgdn(f"{command} {MODEL} --json")
    said = capsys.readouterr()
    assert code == 0, said.err
    (result,) = json.loads(said.out)["results"]
    return result


def refused(command, capsys):
    """The sentence of a command that fails; nothing is written."""
    before = everything()
    capsys.readouterr()
    assert mgdn(f"{command} {MODEL}") == 2
    err = capsys.readouterr().err
    assert everything() == before
    assert err.startswith("mgdn: error: ")
    assert err.count("\n") == 1
    return err


def test_exposures_become_radiance_and_a_preview(capsys):
    assert mgdn(f"hdr c.png a.png b.png -o out.hdr --preview out.png --ev 2,-2,0 {MODEL}") == 0
    out, err = capsys.readouterr()
    assert err == ""
    said = rows(out)
    assert said["result"] == "out.hdr"
    assert said["preview"] == "out.png"
    assert said["reference"] == "b.png is the reference: moving things are where it shows them."
    assert said["scale"] == "radiance 1 is what just saturates a.png."
    assert said["fused"].startswith("a.png + b.png + c.png (52x40 float32, ")
    light = bracket(STOPS, 0, 40, 52)[0] * 2 / 4
    found = files.read_image("out.hdr")
    assert np.abs(found - light)[light < 0.98].max() < 0.02
    shown = files.read_image("out.png")
    assert shown.dtype == np.uint8
    assert np.corrcoef(shown.ravel(), mu_law(np.minimum(light, 1)).ravel())[0, 1] > 0.99


def test_order_and_formats_change_nothing(capsys):
    first = report("hdr a.png b.png c.png -o 1.exr --ev -2 0 2", capsys)
    assert first["reference"] == "b.png"
    assert first["times"] == {"a.png": 1, "b.png": 4, "c.png": 16}
    assert first["inputs"] == ["a.png", "b.png", "c.png"]
    assert [step["step"] for step in first["steps"]] == ["times", "reference", "scale"]
    report("hdr b.png c.png a.png -o 2.exr --times 1/60,1/15,1/240 --tile 0", capsys)
    np.testing.assert_array_equal(files.read_image("1.exr"), files.read_image("2.exr"))
    half = report("hdr a.png b.png c.png -o 3.exr --ev -2,0,2 --half", capsys)
    assert half["dtype"] == "float16"
    np.testing.assert_allclose(
        files.read_image("3.exr"), files.read_image("1.exr"), rtol=1e-3, atol=1e-6
    )
    report("hdr a.png b.png c.png -o 4.tif --ev -2,0,2 --scale 8 --published-tiles", capsys)
    np.testing.assert_allclose(files.read_image("4.tif"), 8 * files.read_image("1.exr"), atol=1e-6)
    # 16 bits beside 8, and gray.
    files.write_image("b16.png", files.read_image("b.png").astype(np.uint16) * 257)
    report("hdr a.png b16.png c.png -o 5.exr --ev -2,0,2", capsys)
    np.testing.assert_allclose(files.read_image("5.exr"), files.read_image("1.exr"), atol=1e-6)
    tiled = report("hdr a.png b.png c.png -o 6.exr --ev -2,0,2 --tile 32", capsys)
    assert tiled["tiles"] > 1
    np.testing.assert_allclose(files.read_image("6.exr"), files.read_image("1.exr"), atol=1e-6)


def test_five_exposures_two_of_them_equal_with_exif(capsys):
    seconds = (1, 2, 4, 4, 16)
    for k, ev in enumerate((-2, -1, 0, 0, 2)):
        picture = Image.fromarray(bracket((ev,), 0, 40, 52)[1][0])
        exif = Image.Exif()
        exif[0x8769] = {0x829A: IFDRational(seconds[k], 400)}
        picture.save(f"e{k}.png", exif=exif)
    result = report("hdr e4.png e3.png e2.png e1.png e0.png -o out.exr", capsys)
    assert result["inputs"] == ["e0.png", "e1.png", "e4.png"]
    says = " ".join(step["says"] for step in result["steps"])
    assert "e2.png is as long as e3.png and was left out." in says
    assert "by their EXIF the exposures are 4, 2, 2, 1, 0 EV apart" in says
    two = report("hdr e0.png e2.png -o two.exr", capsys)
    assert two["reference"] == "e2.png"


def test_warnings_reach_people(capsys):
    assert mgdn(f"hdr a.png b.png c.png -o out.exr --ev 0,6,9 {MODEL}") == 0
    err = capsys.readouterr().err
    assert err.startswith("mgdn: warning: b.png shows +2.0 EV more light than a.png")
    assert mgdn(f"hdr a.png b.png c.png -o out.exr --ev 0,6,9 --no-checks --quiet {MODEL}") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("hdr a.png b.png c.png -o o.exr", "a.png has no exposure time in its EXIF; give the"),
        ("hdr a.png b.png c.png -o o.exr --ev 0,2", "--ev has 2 numbers for 3 exposures"),
        ("hdr a.png b.png c.png -o o.exr --ev 0,2,x", "--ev has 'x', which is no number"),
        ("hdr a.png b.png c.png -o o.exr --times 1/0,1,2", "--times has '1/0', which is no number"),
        ("hdr a.png b.png c.png -o o.exr --times 0,1,2", "must be above zero"),
        ("hdr a.png b.png -o o.exr --ev 0,2 --times 1,2", "--times and --ev say the same"),
        ("hdr a.png b.png -o o.exr --ev 1,1", "the 2 exposures are equally long"),
        ("hdr a.png -o o.exr --ev 1", "give two or more exposures"),
        ("hdr a.png other.png -o o.exr --ev 0,2", "other.png is 20x16 but a.png is 52x40"),
        ("hdr a.png cut.png -o o.exr --ev 0,2", "cut.png is damaged or truncated"),
        ("hdr a.png b.png -o o.png --ev 0,2", "o.png cannot hold radiance"),
        ("hdr a.png b.png -o o.hdr --half --ev 0,2", "--half is for .exr"),
        ("hdr a.png b.png -o o.hdr --preview p.exr --ev 0,2", "a preview is for the screen"),
        ("hdr a.png b.png -o o.tif --preview ./o.tif --ev 0,2", "is named twice"),
        ("hdr a.tif b.png -o a.tif --ev 0,2", "a.tif is named twice"),
        ("hdr a.png b.png -o o.hdr --preview none/x/../../a.png/p.png --ev 0,2", "is not a folder"),
        ("hdr a.png b.png -o o.exr --tile 32 --published-tiles --ev 0,2", "choose one of them"),
        ("hdr a.png b.png -o o.exr --tile 30 --ev 0,2", "tile is 30, but must be"),
        ("hdr a.png b.png -o o.exr --curve srgb --gamma 2 --ev 0,2", "say different things"),
        ("hdr a.png b.png -o o.exr --gamma 70 --ev 0,2", "gamma is 70"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(command, message, capsys):
    save_pictures("other.png")
    files.write_image("a.tif", files.read_image("a.png"))
    with open("a.png", "rb") as whole, open("cut.png", "wb") as part:
        part.write(whole.read()[:900])
    assert message in refused(command, capsys)


@pytest.mark.parametrize(
    "command",
    [
        "hdr a.png b.png c.png -o o.exr",
        "hdr a.png b.png c.png -o o.exr --ev 0,2",
        "hdr a.png -o o.exr --ev 1",
        "hdr a.png b.png -o o.exr --ev 1,1",
        "hdr a.png none.png -o o.exr --ev 0,2",
    ],
)
def test_bad_input_is_said_before_a_network_is_loaded(command, capsys, monkeypatch):
    def load(*args, **kwargs):
        raise AssertionError("a network was loaded")

    monkeypatch.setattr("mgdn_jax.fusing.deghosting.load", load)
    refused(command, capsys)


def test_half_that_overflows_writes_nothing(capsys):
    command = "hdr a.png b.png c.png -o o.exr --half --scale 1e8 --ev -2,0,2 --preview o.png"
    assert "half holds values up to 65504" in refused(command, capsys)


def test_the_default_network_and_others(capsys, monkeypatch):
    from mgdn_jax.weights import zoo

    monkeypatch.setattr(zoo, "bundled", dict)
    assert mgdn("hdr a.png b.png c.png -o o.exr --ev -2,0,2") == 2
    assert "mgdn-hdr did not come with this installation; train it" in capsys.readouterr().err
    assert mgdn(f"fuse a.png b.png c.png -o o.png {MODEL}") == 2
    assert "takes exposures with their times; use mgdn hdr" in capsys.readouterr().err
