"""`mgdn fuse` on videos, `mgdn join`, parts of folders."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import environment
from helpers_cli import everything, mgdn, rows, save_model, save_pictures
from helpers_video import number_of, numbered, write

from mgdn_jax.cli import main as cli
from mgdn_jax.cli import progress
from mgdn_jax.cli.settings import Settings
from mgdn_jax.io.video import Video


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """Two videos of 24 frames, the second with sound, and a model for gray pictures."""
    monkeypatch.setenv("MGDN_CACHE_DIR", "off")
    monkeypatch.setattr(progress, "SECONDS", 3600.0)
    monkeypatch.chdir(tmp_path)
    save_model("m.safetensors", in_channels=(1, 1), out_channels=1)
    write("ir.mp4", numbered(12), rate=12)
    write("vi.mp4", numbered(24), rate=24, sound=1.0)


def numbers(path):
    with Video(path) as video:
        return [number_of(picture.pixels) for picture in video.frames(range(len(video)))]


def test_two_videos_and_what_is_said(capsys):
    assert mgdn("fuse ir.mp4 vi.mp4 -o out/c.mp4 --model m.safetensors --no-checks") == 0
    said = capsys.readouterr()
    assert said.err == ""
    lines = rows(said.out)
    assert lines["pairs"].startswith(
        "24 frames at the times of vi.mp4, each with the nearest of ir.mp4 (at most 42 ms apart): "
        "12 of 12 frames, some of them several times."
    )
    assert lines["fused"].startswith("ir.mp4 + vi.mp4 (64x48 uint8, 24 frames, ")
    assert lines["fused"].endswith(" frames a second)")
    assert lines["result"] == "out/c.mp4"
    with Video("out/c.mp4") as video:
        assert len(video) == 24


def test_json_is_one_object(capsys):
    command = "fuse vi.mp4 vi.mp4 -o c.mkv --model m.safetensors --frames 4:9 --quality 100 --json"
    assert mgdn(command) == 0
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert said.out.count("\n") == 1
    (result,) = report["results"]
    assert (result["first"], result["frames"], result["total"]) == (4, 5, 24)
    assert (result["width"], result["height"], result["coder"]) == (64, 48, "ffv1")
    assert result["frames_per_second"] > 0
    assert result["inputs"] == ["vi.mp4", "vi.mp4"]
    assert result["steps"][0]["step"] == "pairs"
    assert report["failed"] == []
    assert numbers("c.mkv") == [4, 5, 6, 7, 8]


def test_videos_of_a_task_have_a_network_that_keeps_still():
    words = ["fuse", "a.png", "b.png", "-o", "c.png", "--task", "thermal"]
    models = []
    for names in (["a.png", "b.png"], ["ir.mp4", "vi.mp4"]):
        parsed = cli.build_parser().parse_args([*words[:1], *names, *words[3:]])
        models.append(Settings.read(parsed).model)
    assert models == ["fusion-ivf", "refusion-ivf"]


def test_parts_are_joined(capsys):
    for name, part in (("a.mp4", ":10"), ("b.mp4", "10:")):
        command = f"fuse vi.mp4 vi.mp4 -o {name} --model m.safetensors --frames {part} --quiet"
        assert mgdn(command) == 0
    assert cli.main(["join", "a.mp4", "b.mp4", "-o", "c.mp4"]) == 0
    assert rows(capsys.readouterr().out)["result"] == "c.mp4"
    assert numbers("c.mp4") == list(range(24))
    assert cli.main(["join", "a.mp4", "b.mp4", "-o", "c.mp4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"inputs": ["a.mp4", "b.mp4"], "output": "c.mp4"}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("fuse ir.mp4 text.mp4 -o c.mp4", "text.mp4 is no video that can be read"),
        ("fuse ir.mp4 p.png -o c.mp4", "p.png is no video, but others are; give videos alone"),
        ("fuse ir.mp4 -o c.mp4", "ir.mp4 is alone; give at least two videos"),
        ("fuse ir.mp4 nothing.mp4 -o c.mp4", "nothing.mp4 does not exist"),
        ("fuse ir.mp4 vi.mp4 -o c.png", "c.png does not end in a kind of video"),
        ("fuse ir.mp4 vi.mp4 -o c.mp4 --frames 30:40", "holds none of the 24 frames"),
        ("fuse ir.mp4 vi.mp4 -o c.mp4 --offset 90", "no time that all videos show"),
        ("fuse ir.mp4 vi.mp4 -o vi.mp4", "vi.mp4 is one of the inputs"),
        ("fuse ir.mp4 vi.mp4 -o c.mp4 --score", "--score is for pictures"),
        ("fuse ir.mp4 vi.mp4 -o c.mp4 --depth-map d.png", "--depth-map is for pictures"),
        ("fuse p.png p.png -o c.png --offset 3", "--offset is for videos"),
        ("fuse p.png p.png -o c.png --frames 3:4", "--frames is for videos and folders"),
        ("join ir.mp4 -o c.mp4", "alone cannot be joined"),
        ("join ir.mp4 vi.mp4 -o c.mp4", "was not made with the settings of ir.mp4"),
    ],
)
def test_what_is_refused(command, words, capsys):
    save_pictures("p.png")
    with open("text.mp4", "w") as file:
        file.write("text")
    before = everything()
    words_of_command = f"{command} --model m.safetensors" if "fuse" in command else command
    assert mgdn(words_of_command) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert words in said.err
    assert everything() == before


def test_a_part_of_folders_is_what_it_is_in_the_whole(capsys):
    save_pictures(*(f"{folder}/{n}.png" for folder in ("x", "y") for n in range(6)))
    options = "--model m.safetensors --stretch minmax --tone folder --quiet"
    assert mgdn(f"fuse x y -o whole {options}") == 0
    assert mgdn(f"fuse x y -o part {options} --frames 2:4") == 0
    assert sorted(os.listdir("part")) == ["2.png", "3.png"]
    for name in os.listdir("part"):
        with open(f"part/{name}", "rb") as one, open(f"whole/{name}", "rb") as two:
            assert one.read() == two.read()


@pytest.mark.process
def test_ctrl_c_leaves_a_part_that_plays(tmp_path):
    noise = np.random.default_rng(0).integers(60, 120, (5, 96, 128)).astype(np.uint8)
    frames = [frame.copy() for _ in range(6) for frame in numbered(100, (96, 128))]
    for number, frame in enumerate(frames):
        frame[16:] = noise[number % 5, 16:]
    write("long.mp4", frames, rate=50)
    command = [sys.executable, "-m", "mgdn_jax", "fuse", "long.mp4", "long.mp4", "-o", "c.mp4"]
    command += ["--model", "m.safetensors", "--trust-system", "--no-checks"]
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    hidden = None
    for _ in range(3000):
        hidden = next((p for p in tmp_path.iterdir() if p.name.startswith(".c.mp4")), None)
        if hidden is not None and hidden.stat().st_size > 20_000:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.startswith("mgdn: interrupted; the ")
    (part,) = (p for p in tmp_path.iterdir() if p.name.startswith("c."))
    assert str(part.name) in said
    end = int(part.name.split("-")[1].removesuffix(".mp4"))
    assert numbers(part) == [number % 100 for number in range(end)]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
