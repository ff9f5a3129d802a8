"""`mgdn depth`: files in, files out, what is said, and what is refused."""

import json
import os

import fake_depth
import numpy as np
import pytest
from helpers_cli import everything, mgdn, rows, save_model

from mgdn_jax.cli import main as cli
from mgdn_jax.cli import progress
from mgdn_jax.io import depth, disk, files
from mgdn_jax.weights import zoo
from mgdn_jax.weights.store import save_weights

CARD = {"name": "tiny", "preparation": {"quantity": "depth", "scale": 4, "margin": 0.02}}
PLAIN = "depth low.png rgb.jpg -o high.png --model d.safetensors"


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("MGDN_CACHE_DIR", "off")
    monkeypatch.setattr(progress, "SECONDS", 3600.0)
    monkeypatch.chdir(tmp_path)
    save_weights(
        "d.safetensors",
        system="fake_depth",
        config=fake_depth.Config().to_dict(),
        params={"bias": np.zeros((), np.float32)},
        card=CARD,
    )
    rng = np.random.default_rng(0)
    low = rng.integers(900, 4000, (10, 12), np.uint16)
    low[2, 3] = 0
    files.write_image("low.png", low)
    files.write_image("rgb.jpg", rng.integers(0, 256, (40, 48, 3), np.uint8))


def complaint(capsys, command):
    """The sentence of a command that writes nothing."""
    before = everything()
    assert mgdn(command) == 2
    said = capsys.readouterr()
    assert everything() == before
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_a_map_a_photograph_and_what_is_said(capsys):
    assert mgdn(f"{PLAIN} --preview look.png") == 0
    said = capsys.readouterr()
    assert said.err == ""
    lines = rows(said.out)
    assert lines["model"] == "d.safetensors: fake_depth, 1 parameters"
    assert lines["unit"].startswith("low.png was taken as millimetres")
    assert lines["holes"].startswith("1 values of low.png (0.83 %) are missing")
    assert lines["size"] == "low.png was enlarged 4 times from 12x10 to 48x40."
    assert lines["fused"].startswith("low.png + rgb.jpg (48x40 float32, ")
    assert lines["result"] == "high.png"
    high = depth.read_depth("high.png")
    assert high.unit == "mm"
    assert "says" in high.basis
    assert high.values.shape == (40, 48)
    assert np.isnan(high.values[8:12, 12:16]).all()
    assert np.isnan(high.values).sum() == 16
    assert 800 < np.nanmin(high.values) < np.nanmax(high.values) < 4100
    assert files.read_image("look.png").shape[0] == 240


def test_json_is_one_object(capsys):
    assert mgdn(f"{PLAIN} --json --tile 16 --overlap 4 --preview look.png --unit m") == 0
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert report["model"] == {"name": "d.safetensors", "system": "fake_depth", "parameters": 1}
    (result,) = report["results"]
    assert result["inputs"] == ["low.png", "rgb.jpg"]
    assert (result["output"], result["preview"]) == ("high.png", "look.png")
    assert (result["width"], result["height"], result["unit"]) == (48, 40, "mm")
    assert (result["missing"], result["tiles"]) == (16, 12)
    assert [step["step"] for step in result["steps"]] == ["holes", "size", "file"]
    assert result["steps"][0]["count"] == 1
    assert result["steps"][1]["scale"] == 4
    assert "metres; if these are millimetres or levels, give the unit" in result["warnings"][0]
    assert "cut off" in result["warnings"][1]  # 900 m and more are too many millimetres
    assert "cut off" in said.err


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".npz", ".exr"])
def test_other_formats(suffix, capsys):
    assert mgdn(f"depth low.png rgb.jpg -o out/high{suffix} --model d.safetensors --quiet") == 0
    assert capsys.readouterr() == ("", "")
    read = depth.read_depth(f"out/high{suffix}")
    factor = 1000 if read.unit == "m" else 1
    assert (read.unit == "m") == (suffix in (".npy", ".exr"))
    assert 800 < factor * np.nanmin(read.values) < 1500


def test_limits_of_the_result():
    assert mgdn(f"{PLAIN} --limits -1,2000") == 0
    values = depth.read_depth("high.png").values
    assert np.nanmax(values) == 2000
    for words in ("2,1", "1", "a,b"):
        assert mgdn(f"{PLAIN} --limits {words}") == 2


def test_a_map_of_full_size(capsys):
    files.write_image("full.png", np.random.default_rng(1).integers(1, 9000, (40, 48), np.uint16))
    assert mgdn("depth full.png rgb.jpg -o high.png --model d.safetensors") == 0
    assert "has the size of the photograph already" in rows(capsys.readouterr().out)["size"]
    np.testing.assert_allclose(
        files.read_image("high.png").astype(int), files.read_image("full.png").astype(int), atol=1
    )


def test_what_does_not_fit_is_said_and_nothing_is_written(capsys):
    np.savez("two.npz", a=np.ones((10, 12)), b=np.ones((10, 12)))
    with open("low.png", "rb") as file:
        half = file.read()[:90]
    with open("half.png", "wb") as file:
        file.write(half)
    files.write_image("other.png", np.zeros((40, 90, 3), np.uint8))
    files.write_image("empty.png", np.zeros((10, 12), np.uint16))
    start = "depth {} --model d.safetensors"
    for words, sentence in (
        ("two.npz rgb.jpg -o h.png", "holds the arrays a, b; call the depth map 'depth'"),
        ("half.png rgb.jpg -o h.png", "half.png is damaged or truncated"),
        ("no.png rgb.jpg -o h.png", "no.png does not exist"),
        ("low.png no.jpg -o h.png", "no.jpg does not exist"),
        ("rgb.jpg low.png -o h.png", "rgb.jpg is a colour picture and no depth map"),
        ("low.png other.png -o h.png", "cut them to the same view"),
        ("empty.png rgb.jpg -o h.png", "empty"),
        ("low.png rgb.jpg -o h.jpg", "does not end in a type that holds depth"),
        ("low.png rgb.jpg -o low.png", "low.png is one of the inputs"),
        ("low.png rgb.jpg -o h.png --preview rgb.jpg", "name a .png file"),
        ("low.png rgb.jpg -o h.png --preview low.png", "low.png is one of the inputs"),
        ("low.png rgb.jpg -o h.png --preview h.png", "is the result and the preview"),
        ("low.png rgb.jpg -o h.png --tile 5", "tile is 5"),
        ("low.png rgb.jpg -o h.png --limits 2,1", "write LO,HI"),
    ):
        assert sentence in complaint(capsys, start.format(words))


def test_nothing_is_left_when_the_disk_is_full(capsys, monkeypatch):
    def replace(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk.os, "replace", replace)
    before = everything()
    assert mgdn(PLAIN) == 2
    assert "high.png cannot be written (no space left on device)" in capsys.readouterr().err
    assert everything() == before


def test_each_command_names_the_other(capsys):
    save_model("p.safetensors")
    assert "use mgdn fuse" in complaint(
        capsys, "depth low.png rgb.jpg -o h.png --model p.safetensors"
    )
    files.write_image("a.png", np.zeros((40, 48, 3), np.uint8))
    said = complaint(capsys, "fuse a.png rgb.jpg -o h.png --model d.safetensors")
    assert said == (
        "mgdn: error: the network tiny takes a depth map beside a photograph; use mgdn depth, or "
        "mgdn_jax.DepthUpsampler.\n"
    )
    os.mkdir("x")
    os.mkdir("y")
    for folder in "xy":
        files.write_image(f"{folder}/1.png", np.zeros((40, 48, 3), np.uint8))
    assert "use mgdn depth" in complaint(capsys, "fuse x y -o z --model d.safetensors")


def test_without_a_model_the_weights_are_named(capsys, monkeypatch):
    monkeypatch.setattr(zoo, "bundled", dict)
    assert cli.main(["depth", "low.png", "rgb.jpg", "-o", "h.png"]) == 2
    said = capsys.readouterr().err
    assert "the weights mgdn-gdsr4 do not come with this version; train them with" in said
    assert "--config=mgdn:gdsr4" in said
