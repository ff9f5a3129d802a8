"""`mgdn fuse` where all is well."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_fusion import Config
from helpers import environment
from helpers_cli import mgdn, rows, save_model, save_pictures

from mgdn_jax.cli import main as cli
from mgdn_jax.cli import progress
from mgdn_jax.cli.settings import Settings
from mgdn_jax.cli.voice import COMPILING
from mgdn_jax.fusing.compile_cache import cache_folder, enable_compilation_cache
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.io import files
from mgdn_jax.systems import registry


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("MGDN_CACHE_DIR", "off")
    monkeypatch.setattr(progress, "SECONDS", 3600.0)  # a machine may be slow
    monkeypatch.chdir(tmp_path)
    save_model("m.safetensors")


def test_two_files_and_what_is_said(capsys):
    save_pictures("a.png", "b.png", shape=(48, 60, 3))
    assert mgdn("fuse a.png b.png -o out/c.png --model m.safetensors --score") == 0
    said = capsys.readouterr()
    assert said.err == ""
    lines = rows(said.out)
    assert lines["model"] == "m.safetensors: fake_fusion, 1 parameters"
    assert lines["fused"].startswith("a.png + b.png (60x48 uint8, ")
    assert lines["result"] == "out/c.png"
    names = ("EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM")
    assert [part.split()[0] for part in lines["scores"].split("  ")] == list(names)
    assert files.read_image("out/c.png").shape == (48, 60, 3)


def test_json_is_one_object(capsys):
    save_pictures("a.png", "b.png")
    command = "fuse a.png b.png -o c.png --model m.safetensors --tile 8 --overlap 4 --json --score"
    assert mgdn(command) == 0
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert said.out.count("\n") == 1
    assert report["model"] == {"name": "m.safetensors", "system": "fake_fusion", "parameters": 1}
    assert report["failed"] == []
    (result,) = report["results"]
    assert result["inputs"] == ["a.png", "b.png"]
    assert result["output"] == "c.png"
    assert (result["width"], result["height"], result["dtype"]) == (20, 16, "uint8")
    assert (result["tiles"], result["stretch"], result["ensemble"]) == (12, "none", "none")
    assert set(result["scores"]) == {"EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM"}
    assert result["scores"]["VIF"] is None  # needs a larger picture


def test_a_stretch_is_said(capsys):
    save_pictures("a.png", "b.png")
    for option, words in (("", "(20x16 uint8, "), ("--stretch fill", "uint8, stretched (fill), ")):
        assert mgdn(f"fuse a.png b.png -o c.png --model m.safetensors {option}") == 0
        said = rows(capsys.readouterr().out)["fused"]
        assert words in said
        assert ("stretched" in said) == bool(option)


def test_an_ensemble_is_said(capsys):
    save_pictures("a.png", "b.png")
    command = "fuse a.png b.png -o c.png --model m.safetensors --ensemble"
    assert mgdn(f"{command} flips --stretch fill") == 0
    said = rows(capsys.readouterr().out)["fused"]
    assert "uint8, averaged (flips), stretched (fill), " in said
    assert mgdn(f"{command} flips --json") == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["ensemble"] == "flips"
    assert mgdn(f"{command} turns") == 2
    assert "invalid choice: 'turns'" in capsys.readouterr().err


def test_quiet_says_nothing(capsys):
    save_pictures("a.png", "b.png")
    assert mgdn("fuse a.png b.png -o c.jpg --model m.safetensors --quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert files.read_image("c.jpg").shape == (16, 20, 3)


def test_stacks_as_files_and_as_a_folder_in_natural_order():
    save_pictures("stack/s9.png", "stack/s10.png", "stack/s11.png")
    model = "--model m.safetensors --quiet"
    assert mgdn(f"fuse stack -o one.png {model}") == 0
    order = "stack/s9.png stack/s10.png stack/s11.png"
    assert mgdn(f"fuse {order} -o two.png {model}") == 0
    np.testing.assert_array_equal(files.read_image("one.png"), files.read_image("two.png"))


def test_folders_fuse_what_they_can_and_tell_the_rest(capsys):
    save_pictures("a/1.png", "a/2.png", "a/3.png", "b/1.png", "b/3.png")
    Path("b/2.png").write_bytes(b"broken")
    save_pictures("a/4.png")
    command = "fuse a b -o out --model m.safetensors"
    assert mgdn(command) == 1
    said = capsys.readouterr()
    assert sorted(os.listdir("out")) == ["1.png", "3.png"]
    assert "done    2 pictures in" in said.out
    errors = said.err.splitlines()
    assert errors[0] == "mgdn: error: 4 has no partner in b."
    assert errors[1].startswith("mgdn: error: b/2.png is not an image")
    assert mgdn(f"{command} --json") == 1
    report = json.loads(capsys.readouterr().out)
    assert len(report["results"]) == 2
    assert len(report["failed"]) == 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (7, 13)])
def test_strange_but_good_pictures(dtype, channels, size):
    save_pictures("a.png", "b.png", shape=(*size, channels), dtype=dtype)
    assert mgdn("fuse a.png b.png -o c.png --model m.safetensors --quiet") == 0
    fused = files.read_image("c.png")
    assert fused.shape == (size if channels == 1 else (*size, channels))
    assert fused.dtype == dtype


def test_float_tiffs():
    for name, value in (("a.tif", 0.25), ("b.tif", 0.5)):
        files.write_image(name, np.full((5, 4), value, np.float32))
    assert mgdn("fuse a.tif b.tif -o c.tif --model m.safetensors --quiet") == 0
    fused = files.read_image("c.tif")
    assert fused.dtype == np.float32
    np.testing.assert_allclose(fused, 0.25 * 0.7391 + 0.5 * 0.2609, atol=1e-6)


def test_options_reach_the_fuser():
    save_model("mean.safetensors", uses_mean=True)
    save_pictures("a.png", "b.png", shape=(40, 40, 3))
    results = {}
    for options in ("--tile 0", "--tile 8 --overlap 0 --tile-context local", "--padding script"):
        command = f"fuse a.png b.png -o c.png --model mean.safetensors --quiet {options}"
        assert mgdn(command) == 0
        results[options] = files.read_image("c.png").astype(int)
    first, *others = results.values()
    assert all(np.any(first != other) for other in others)


VALUES = {
    "tile": 64,
    "overlap": 8,
    "tile_context": "local",
    "padding": "script",
    "chroma": "parity",
    "stretch": "fill",
    "ensemble": "flips",
    "base": "focus",
    "bucket": 32,
    "range": "percentile",
    "window": "brain",
    "align": True,
    "align_model": "affine",
    "register": True,
    "homography": "h.txt",
    "resize": True,
    "area": "full",
    "match_exposure": True,
    "order": "brightness",
    "tone": "0.1,0.9",
    "profile": "sRGB",
    "metadata": "all",
    "checks": True,
    "scale": 1,
}


def test_every_option_of_a_call_is_one_of_the_command_and_is_documented():
    assert VALUES.keys() == set(FuseOptions.names())
    flags = {name: "--" + name.replace("_", "-") for name in VALUES}
    words = []
    for name, value in VALUES.items():
        words += [flags[name]] if value is True else [flags[name], str(value)]
    command = ["fuse", "a.png", "b.png", "-o", "c.png"]
    settings = Settings.read(cli.build_parser().parse_args([*command, *words]))
    assert settings.options == FuseOptions(**VALUES)
    plain = Settings.read(cli.build_parser().parse_args(command))
    assert plain.options == FuseOptions()
    pages = (Path(__file__).parents[2] / "docs").rglob("*.md")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    assert [flag for flag in flags.values() if f"`{flag}" not in text] == []


def test_the_cache_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() is None
    monkeypatch.setenv("MGDN_CACHE_DIR", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("MGDN_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "mgdn_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "mgdn_jax"
    # A folder that cannot be made switches the cache off, no more.
    (tmp_path / "file").touch()
    monkeypatch.setenv("MGDN_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert enable_compilation_cache() is None


def test_a_process_of_its_own_fills_the_cache(tmp_path):
    # The real network, tiny: the whole way from the shell to the file.
    from mgdn_jax.weights.store import save_weights

    config, _, params, stats = registry.create("mgdn", "mff", features=12, depths=(1,), heads=(3,))
    save_weights(
        "tiny.safetensors", system="mgdn", config=config.to_dict(), params=params, stats=stats
    )
    save_pictures("a.png", "b.png")
    command = [sys.executable, "-m", "mgdn_jax", "fuse", "a.png", "b.png", "-o", "c.png"]
    ran = subprocess.run(
        [*command, "--model", "tiny.safetensors"],
        # Compiled in full: what takes less than 0.2 s is not kept.
        env=environment(
            MGDN_CACHE_DIR=str(tmp_path / "cache"), JAX_DISABLE_MOST_OPTIMIZATIONS="false"
        ),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr in ("", f"mgdn: {COMPILING}\n")  # the latter after ten seconds
    assert rows(ran.stdout)["result"] == "c.png"
    assert files.read_image("c.png").shape == (16, 20, 3)
    assert any((tmp_path / "cache").iterdir())


def test_config_of_the_fake_round_trips():
    assert Config.from_dict(Config(window=8).to_dict()) == Config(window=8)
