"""Folders whose pictures have names that are not equal, through every command that pairs them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers_cli import everything, mgdn, save_model, save_pictures
from PIL import Image

import mgdn_jax
from mgdn_jax import data, evaluation
from mgdn_jax import metrics as ruler
from mgdn_jax.cli import main as cli
from mgdn_jax.errors import InputError
from mgdn_jax.io import files

WAYS = {
    "suffix": ("{}_ir", "{}_vis", "{}"),
    "prefix": ("LWIR_{}", "RGB_{}", "{}"),
    "case": ("S{}", "s{}", "S{}"),
    "nested": ("day/{}", "day/{}", "day/{}"),
    "both": ("day/ir{}", "day/vis{}", "day/{}"),
}


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("MGDN_CACHE_DIR", "off")
    monkeypatch.setenv("MGDN_DATA_DIR", str(tmp_path / "sets"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    save_model("m.safetensors")


def make(way):
    """Three pairs in ir/ and vi/; the names of their results."""
    patterns = WAYS[way]
    for place, pattern in zip(("ir", "vi"), patterns, strict=False):
        save_pictures(*(f"{place}/{pattern.format(k)}.png" for k in (1, 2, 3)))
    return [patterns[-1].format(k) for k in (1, 2, 3)]


@pytest.mark.parametrize("way", WAYS)
def test_fusing_names_the_rule_and_mirrors_subfolders(way, capsys):
    names = make(way)
    assert mgdn("fuse ir vi -o out --model m.safetensors") == 0
    said = capsys.readouterr().out
    assert "names   pictures are paired by name " in said
    paths = [f"out/{name}.png" for name in names]
    assert sorted(path for path in everything() if path.startswith("./out")) == [
        f"./{path}" for path in paths
    ]
    assert mgdn("fuse ir vi -o out --model m.safetensors --json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["pairing"] in said
    assert [result["output"] for result in content["results"]] == paths
    # Scored as they came out, and as results are called that keep a source's name.
    command = "eval out ir vi --metrics EN,MI --no-baselines --json"
    assert mgdn(command) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["pairing"][0] == content["pairing"]
    assert list(scored["methods"]["out"]["images"]) == names
    sources = [files.read_image(path) for path in content["results"][1]["inputs"]]
    wanted = ruler.evaluate(files.read_image(paths[1]), *sources, ("EN", "MI"))
    assert scored["methods"]["out"]["images"][names[1]] == wanted
    for path, result in zip(paths, content["results"], strict=True):
        target = result["inputs"][0].replace("ir/", "mine/", 1)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.rename(path, target)
    assert mgdn(command.replace("out", "mine")) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["methods"]["mine"]["images"] == scored["methods"]["out"]["images"]


def test_fuse_folders_says_the_rule_and_counts():
    names = make("both")
    counts = []
    result = mgdn_jax.fuse_folders(
        *("ir", "vi"),
        output="out",
        model="m.safetensors",
        trust=True,
        progress=lambda done, total: counts.append((done, total)),
    )
    assert result == {name: Path(f"out/{name}.png") for name in names}
    assert "mirrored subfolders, without 'ir' and 'vis' (day/ir1.png with day/vis1" in result.rule
    assert counts == [(1, 3), (2, 3), (3, 3)]
    save_pictures("ir/1.png", "vi/x1y.png")
    with pytest.raises(InputError, match="has the same name in each"):
        mgdn_jax.fuse_folders("ir/day", "vi", output="new", model="m.safetensors", trust=True)
    assert not os.path.exists("new")


def test_a_wrong_pair_is_refused_everywhere_and_nothing_is_written(capsys):
    save_pictures(*(f"ir/{k}.png" for k in (1, 2, 3)), *(f"vi/x{k}y.png" for k in (1, 2, 3)))
    save_pictures(*(f"fused/{k}.png" for k in (1, 2, 3)))
    before = everything()
    for command in (
        "fuse ir vi -o out --model m.safetensors",
        "eval fused ir vi",
        "data prepare pairs --source . --folders ir vi",
        "eval vi --truth ir",
    ):
        assert mgdn(command) == 2
        said = capsys.readouterr().err
        assert "1.png and" in said or "such as 1)" in said
        assert "x1y.png" in said
        assert said.count("\n") == 1
    assert everything() == before


def test_truth_of_other_names(capsys):
    make("suffix")
    save_pictures(*(f"gt/{k}_gt.png" for k in (1, 2, 3)), *(f"net/{k}_net.png" for k in (1, 2, 3)))
    assert mgdn("eval net ir vi --truth gt --metrics PSNR_gt,EN --no-baselines") == 0
    said = capsys.readouterr().out
    assert "without 'ir' and 'vis' and 'gt' (1_ir.png with 1_vis.png with 1_gt.png)" in said
    assert "pictures of net are found by name without 'net' (1_net.png for 1)" in said
    assert mgdn("eval net --truth gt --metrics PSNR_gt") == 0
    assert mgdn("eval net ir vi --metrics EN --report page --quiet") == 0
    assert "paired by name without" in Path("page/index.html").read_text()


def test_preparing_says_how_many_and_by_which_rule(capsys):
    make("both")
    command = "data prepare pairs --source . --folders ir vi"
    assert mgdn(command) == 0
    said = capsys.readouterr().out
    assert "holds   3 pairs\nnames   pictures are paired by name in mirrored subfolders" in said
    assert mgdn(f"{command} --json") == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["examples"], content["output"]) == (3, os.path.abspath("sets/pairs"))
    assert "without 'ir' and 'vis'" in content["pairing"]
    source, _ = data.open_set("pairs", "train")
    stored = {example["name"].decode(): example["a"] for example in source}
    assert stored.keys() == {"day/1", "day/2", "day/3"}
    assert np.asarray(stored["day/2"]).item() == Path("ir/day/ir2.png").read_bytes()
    assert mgdn(f"{command} --name odd --only day/* !*2") == 0
    assert "holds   2 pairs\n" in capsys.readouterr().out
    assert {e["name"].decode() for e in data.open_set("odd", "train")[0]} == {"day/1", "day/3"}
    assert mgdn(f"{command} --name none --only night*") == 2
    said = capsys.readouterr().err
    assert "has 3 names, day/1 to day/3, and none fits 'night*'; write patterns like" in said
    assert said.count("\n") == 1
    assert not os.path.exists("sets/none")
    os.remove("vi/day/vis2.png")
    assert mgdn(command) == 2
    said = capsys.readouterr().err
    assert "ir/day/ir2.png has no partner in vi (1 such files in day)" in said


ESCAPE, FOREIGN = "\x1b[31mred\x07", "caf\udce9"


@pytest.mark.parametrize("name", [ESCAPE, FOREIGN, "1²", "line\nbreak"])
def test_names_of_any_bytes_in_every_output(name, capfd):
    save_pictures(*(f"{place}/{name}.png" for place in ("ir", "vi")), shape=(64, 64, 3))
    save_pictures("ir/2.png", "vi/2.png", shape=(64, 64, 3))
    words = ["fuse", "ir", "vi", "-o", "out", "--model", "m.safetensors", "--trust-system"]
    pair = ["fuse", f"ir/{name}.png", f"vi/{name}.png", "-o", f"one/{name}.png", *words[5:]]
    ends = {"csv": "csv", "json": "json", "latex": "tex", "markdown": "md"}
    targets = [*(f"--{option}=s.{end}" for option, end in ends.items()), "--report=page"]
    for command in (
        words,
        pair,
        [*pair, "--json"],
        ["eval", "out", "ir", "vi", "--metrics", "EN", *targets],
        ["eval", f"out/{name}.png", f"ir/{name}.png", f"vi/{name}.png", "--metrics", "EN,SSIM"],
        ["eval", "--compare", "s.csv", "t.csv"],
        ["data", "prepare", "pairs", "--source", ".", "--folders", "ir", "vi"],
    ):
        if "--compare" in command:
            Path("t.csv").write_bytes(Path("s.csv").read_bytes())
        assert cli.main(command) == 0
        said = "".join(capfd.readouterr())
        assert not set(said.replace("\n", "")) & set(map(chr, range(32)))
    assert os.path.exists(f"out/{name}.png")
    assert len(next(iter(evaluation.read_tables("s.csv").values())).rows) == 2
    # What is wrong is said without them, too.
    for command in (
        ["fuse", f"{name}.png", "x.png", "-o", "c.png"],
        ["fuse", "ir/2.png", "vi/2.png", "-o", "c.png", "--model", name],
        ["models", name],
        ["depth", name, name, "-o", "c.png"],
        ["hdr", name, name, "-o", "c.hdr"],
        ["eval", name, name, name],
        ["eval", "--compare", name, name],
        ["data", "prepare", "pairs", "--source", name],
        ["train", f"--config={name}", "--workdir=w"],
        ["train", f"--{name}"],
        [name],
        ["fuse", f"--{name}"],
    ):
        assert cli.main(command) == 2
        said = "".join(capfd.readouterr())
        assert said.startswith("mgdn: error: ")
        assert said.count("\n") == 1
        assert not set(said[:-1]) & set(map(chr, range(32)))


def test_names_too_long_and_folders_that_are_gone(tmp_path, monkeypatch, capsys):
    save_pictures("a.png", "b.png")
    long = "x" * 5000
    for words in (
        ["fuse", "a.png", "b.png", "-o", "c.png", "--model", long],
        ["fuse", "a.png", "b.png", "-o", "c.png", "--model", f"{long}.safetensors"],
        ["fuse", "a.png", "b.png", "-o", f"{long}.png"],
        ["fuse", f"{long}.png", "b.png", "-o", "c.png"],
        ["fuse", long, long, "-o", "c"],
        ["eval", "a.png", "a.png", "b.png", "--csv", f"{long}.csv"],
        ["eval", "--compare", long, long],
        ["depth", long, "a.png", "-o", "c.npy"],
        ["data", "prepare", "pairs", "--source", long],
        ["models", long],
    ):
        assert cli.main(words) == 2
        assert capsys.readouterr().err.startswith("mgdn: error: ")
    place = tmp_path / "gone"
    place.mkdir()
    monkeypatch.chdir(place)
    place.rmdir()
    for words in (["models"], ["fuse", "a.png", "b.png", "-o", "c.png"], ["train"]):
        assert cli.main(words) == 2
        assert "the working folder does not exist any more" in capsys.readouterr().err


def test_warnings_of_python_are_said_and_in_json(capsys):
    save_pictures("ir/1.png", "vi/1.png", "ir/day/2.png", "vi/day/2.png", shape=(64, 64, 3))
    pages = [Image.fromarray(np.full((64, 64), 40 * k, np.uint8)) for k in range(3)]
    pages[0].save("ir/3.png", save_all=True, append_images=pages[1:])
    pages[0].save("vi/3.tif", save_all=True, append_images=pages[1:])
    command = "eval ir ir vi --metrics EN --no-baselines"
    assert mgdn(f"{command} --json") == 0
    said = capsys.readouterr()
    content = json.loads(said.out)
    assert sum("of which the first was read" in text for text in content["warnings"]) == 2
    assert any("subfolders are left out" in text for text in content["warnings"])
    for text in content["warnings"]:
        assert said.err.count(f"mgdn: warning: {text}\n") == 1
    assert mgdn(f"{command} --quiet --json s.json --jobs 2") == 0
    assert capsys.readouterr().err == ""
    assert sorted(json.loads(Path("s.json").read_text())["warnings"]) == sorted(content["warnings"])
    assert mgdn("data prepare pairs --source . --folders ir vi --json") == 0
    said = capsys.readouterr()
    assert sorted(json.loads(said.out)["warnings"]) == sorted(content["warnings"])
