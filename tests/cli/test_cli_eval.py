"""`mgdn eval` as a stranger uses it: files, folders, networks, tables, and every mistake."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers_cli import everything, mgdn, save_model

from mgdn_jax import data
from mgdn_jax import metrics as ruler
from mgdn_jax.cli import main as cli
from mgdn_jax.cli import pairs as cli_pairs
from mgdn_jax.cli import progress
from mgdn_jax.errors import InputError
from mgdn_jax.evaluation import methods as methods_room
from mgdn_jax.evaluation import scores
from mgdn_jax.io import codec, files


def save(path, seed, shape=(48, 50), dtype=np.uint8):
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)
    files.write_image(path, picture)
    return picture


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """Three pairs, two methods' folders, a model, and one of every bad thing."""
    monkeypatch.setenv("MGDN_CACHE_DIR", "off")
    monkeypatch.setenv("MGDN_DATA_DIR", str(tmp_path / "sets"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(progress, "SECONDS", 3600.0)  # a machine may be slow
    monkeypatch.chdir(tmp_path)
    for k, folder in enumerate(("set/ir", "set/vi", "ours", "theirs")):
        for n in range(3):
            save(f"{folder}/p{n}.png", 10 * k + n)
    save("small.png", 1, (15, 20))
    save("dot.png", 1, (1, 1))
    save("other/y.png", 0)
    save_model("m.safetensors")
    os.makedirs("nothing")
    whole = Path("ours/p0.png").read_bytes()
    Path("half.png").write_bytes(whole[:300])
    nan = codec.encode(np.full((48, 50), np.nan, np.float32), ".tif")
    Path("nan.tif").write_bytes(nan)
    save("base_max/p0.png", 3)
    for name in ("ours.safetensors", "a.safetensors"):
        Path(name).write_bytes(Path("m.safetensors").read_bytes())
    Path("double.csv").write_text("dataset,method,n,EN\nS,far,3,7.5\nS,far,3,7.4\n")
    os.makedirs("site")
    Path("site/index.html").write_text("<html>somebody's</html>")
    Path("bad.csv").write_text("dataset,method,n,EN\nS,x,20,7\n")
    Path("one.csv").write_text("image,EN\nx,1\n")
    Path("two.csv").write_text("image,EN\ny,1\n")
    Path("sets.csv").write_text("dataset,method,n,EN,PSNR\nS,far,3,7.5,20\nT,near,3,7.4,21\n")


PLAIN = ("base_mean", "base_max", "base_laplacian")
PAIR = "set/ir/p0.png set/vi/p0.png"
BAD = {
    f"eval small.png {PAIR}": "small.png is 20x15 but set/ir/p0.png is 50x48; pictures to compare "
    "must have the same size (--crop scores the common area of a result that was cut).",
    "eval set/ir/p0.png small.png small.png --crop": "is 50x48 but small.png is 20x15; pictures to "
    "compare must have the same size.",
    "eval dot.png set/ir/p0.png small.png --crop": "must have the same size.",
    f"eval small.png {PAIR} --crop": "small.png is 20x15, too small for VIF (41)",
    f"eval dot.png {PAIR}": "dot.png is 1x1 but",
    "eval dot.png dot.png dot.png": "dot.png is 1x1, too small for SF (2), VIF (41)",
    f"eval missing.png {PAIR}": "missing.png does not exist",
    "eval ours/p0.png set/ir/p0.png missing.png": "missing.png does not exist",
    f"eval half.png {PAIR}": "half.png is damaged or truncated",
    f"eval nan.tif {PAIR}": "nan.tif holds NaN",
    f"eval ours/p0.png {PAIR.split()[0]}": "give FUSED A B",
    "eval": "give FUSED A B",
    "eval ours set/ir nothing": "nothing holds no image",
    "eval nothing set/ir set/vi": "nothing holds no image",
    "eval other set/ir set/vi": "no picture of other has the name of a pair (such as p0)",
    "eval ours set/ir other": "has the same name in each",
    "eval ours set/ir absent": "absent does not exist",
    "eval ours set/ir set/vi/p0.png": "files and folders mixed",
    "eval ours set/ir/p0.png set/vi/p0.png": "ours is a folder, but its sources are files",
    "eval ours ours set/ir set/vi": "ours is named twice",
    "eval ours --data set/ir": "set/ir should hold two subfolders",
    "eval ours --data nowhere": "the data set 'nowhere' is neither",
    "eval ours --data set/ir set/vi set/vi --metrics MI": "--data names 3 places; choose MEF_SSIM",
    "eval ours --data set/ir set/vi set/vi --metrics truth": "compares with ground truth",
    "eval --model base_max --data set/ir set/vi set/vi": "base_max fuses two pictures, but --data",
    "eval ours --data set/ir set/vi other": "has the same name in each",
    "eval --data set": "nothing to score",
    "eval ours set/ir set/vi --metrics QAB": "unknown metric 'QAB': did you mean 'Qabf'?",
    "eval ours set/ir set/vi --metrics ,": "no metric is named",
    "eval ours set/ir set/vi --metrics PSNR_gt": "PSNR_gt compares with ground truth",
    "eval ours set/ir set/vi --variant loose": "invalid choice",
    "eval ours set/ir set/vi --csv ours": "--csv would write ours, which does not end in .csv",
    "eval ours set/ir set/vi --csv one.csv/x.csv": "is not a folder",
    "eval ours set/ir set/vi --report one.csv": "one.csv is a file; --report needs a folder",
    "eval ours set/ir set/vi --report site": "site/index.html is there and is no report of ours",
    "eval --json ours set/ir set/vi": "--json would write ours",
    "eval ours set/ir set/vi --jobs -1": "--jobs is -1",
    "eval ours set/ir set/vi --beside bad2.csv": "bad2.csv does not exist",
    "eval ours set/ir set/vi --beside sets.csv": "holds the data sets S, T; choose one",
    "eval ours set/ir set/vi --beside one.csv": "no table of mean scores",
    "eval ours set/ir set/vi --dataset S": "--dataset chooses rows of --beside",
    "eval --model mgdn-mfx --data set": "there is no model 'mgdn-mfx'",
    "eval m.safetensors --model m.safetensors --data set": "m.safetensors cannot be listed",
    "eval ours --model ours.safetensors --data set": "a method would be called ours",
    "eval --model a.safetensors --data set": "a method would be called a",
    "eval base_max --data set": "called base_max, as a rule that is scored too",
    "eval ours --truth theirs --metrics MI": "MI compares with the two sources",
    "eval ours set/ir set/vi --metrics CC --beside sets.csv --dataset S": "has no column of",
    "eval ours set/ir set/vi --beside double.csv": "has two rows of far in S",
    "eval --compare one.csv": "a comparison needs two methods",
    "eval --compare one.csv two.csv": "one and two share no image",
    "eval --compare one.csv bad.csv": "bad.csv holds means and is no table of scores an image",
    "eval --compare one.csv gone.csv": "gone.csv does not exist",
    "eval --compare one.csv one.csv": "is there already; rename the file",
    "eval ours --compare one.csv two.csv": "give no pictures or networks",
    "eval --compare one.csv two.csv --crop": "--compare knows no --crop",
    "eval --compare one.csv two.csv --csv out.csv": "--compare knows no --csv",
    "eval --compare one.csv two.csv --latex out.tex": "--compare knows no --latex",
    "eval --compare one.csv two.csv --markdown out.md": "--compare knows no --markdown",
    "eval ours set/ir set/vi --latex out.txt": "out.txt, which does not end in .tex",
    "eval ours set/ir set/vi --markdown out": "--markdown would write out, which does not end in",
    "eval ours set/ir set/vi --markdown one.csv/x.md": "is not a folder",
    "eval =ours set/ir set/vi": "=ours lacks a name or a path; write NAME=PATH",
    "eval x= set/ir set/vi": "x= lacks a name or a path",
    "eval a=ours set/ir set/vi": "a method would be called a, as another one or a source is",
    "eval x=ours x=theirs set/ir set/vi": "a method would be called x",
    "eval x=gone set/ir set/vi": "gone does not exist",
    "eval base_max=ours set/ir set/vi": "called base_max, as a rule that is scored too",
    "eval x=ours --model x=m.safetensors --data set": "a method would be called x",
    "eval --model x=gone.safetensors --data set": "gone.safetensors does not exist",
    "eval --beside published --dataset ?": "published holds the data sets Lytro20, TNO25, ",
    "eval ours set/ir set/vi --beside published": "; choose one with --dataset.",
    "eval --beside published --dataset tno25": "--dataset (did you mean 'TNO25'?).",
}


@pytest.mark.parametrize("command", BAD)
def test_bad_input_is_one_sentence_exit_2_and_no_debris(command, capsys):
    before = everything()
    assert mgdn(command) == 2
    said = capsys.readouterr()
    assert BAD[command] in said.err
    assert said.err.startswith("mgdn: error: ")
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert everything() == before


def lines(text):
    """Rows of the table by their first cell."""
    cells = [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]
        for line in text.splitlines()
        if line[:1] in "│┃"
    ]
    return {row[0]: row[1:] for row in cells}


def test_unequal_pictures_are_compared_on_equal_terms(capsys):
    """One easy picture must not beat three: means and ranks are over what all methods have."""
    os.remove("theirs/p1.png")
    os.remove("theirs/p2.png")
    command = "eval ours theirs set/ir set/vi --metrics EN,SD,MI --no-baselines --json out.json"
    assert mgdn(command) == 1
    said = capsys.readouterr().out
    assert "one pair, on luminance" in said
    assert "ours has scores of 3 pairs; means and ranks are over those that all" in said
    content = json.loads(Path("out.json").read_text())
    ours = content["methods"]["ours"]
    assert lines(said)["ours"][0] == f"{ours['images']['p0']['EN']:.4f}"
    assert ours["mean"]["EN"] == pytest.approx(np.mean([r["EN"] for r in ours["images"].values()]))
    assert content["ranked_over"] == ["p0"]
    save("more/p9.png", 1)
    save("theirs/p1.png", 1)
    os.remove("theirs/p0.png")
    os.remove("ours/p1.png")
    os.remove("ours/p2.png")
    assert mgdn("eval ours theirs set/ir set/vi --metrics EN,SD --no-baselines") == 1
    said = capsys.readouterr().out
    assert "which share none: no ranks, no marks" in said
    assert "mean rank" not in said


def test_a_perfect_picture_is_the_best(capsys):
    for n in range(3):
        files.write_image(f"theirs/p{n}.png", files.read_image(f"ours/p{n}.png"))
    Path("exact").mkdir()
    for n in range(3):
        picture = files.read_image(f"theirs/p{n}.png")
        files.write_image(f"exact/p{n}.png", picture)
        files.write_image(f"ours/p{n}.png", np.minimum(picture, 254) + 1)
    assert mgdn("eval ours exact --truth theirs --metrics PSNR_gt,SSIM_gt") == 0
    rows = lines(capsys.readouterr().out)
    assert rows["exact"] == ["∞", "1.0000", "1.00"]
    assert rows["ours"][2] == "2.00"


def test_rows_measured_on_other_numbers_of_pairs_are_not_ranked(capsys):
    Path("sets.csv").write_text("dataset,method,n,EN\nS,far,25,9.9\nS,near,3,1.0\n")
    assert mgdn("eval ours set/ir set/vi --metrics EN --no-baselines --beside sets.csv") == 0
    said = capsys.readouterr().out
    rows = lines(said)
    assert rows["method"][0] == "images"
    assert rows["far †"] == ["25", "9.9000", "-"]
    assert rows["near †"] == ["3", "1.0000", "2.00"]
    assert "† over 25 pairs, not 3: not ranked, not marked" in said


def test_numbers_are_never_cut(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    assert mgdn(f"eval ours/p0.png {PAIR}") == 0
    said = capsys.readouterr().out
    assert "…" not in said
    assert lines(said)["metric"][:2] == ["p0", "base_mean"]  # metrics down: it fits so
    scores.write_tables("x.csv", {"": scores.Table(("EN",), {"p": {"EN": 1.25}})})
    scores.write_tables("y.csv", {"": scores.Table(("EN",), {"p": {"EN": 1.5}})})
    assert mgdn("eval --compare x.csv y.csv") == 0
    said = capsys.readouterr().out
    assert "…" not in said
    assert lines(said)["EN ↑"][:2] == ["1.2500", "1.5000"]


def test_a_damaged_example_of_a_set_does_not_lose_the_others(monkeypatch, capsys):
    data.prepare("pairs", "set", name="mine")
    decode = codec.decode_image

    def damaged(content, name):
        if name == "b of p1":
            raise InputError("b of p1 is damaged.")
        return decode(content, name)

    monkeypatch.setattr(codec, "decode_image", damaged)
    assert mgdn("eval --model base_max --data mine --metrics EN --json --jobs 0") == 1
    said = capsys.readouterr()
    assert list(json.loads(said.out)["methods"]["base_max"]["images"]) == ["p0", "p2"]
    assert said.err == "mgdn: error: p1: b of p1 is damaged.\n"


def test_control_characters_do_not_reach_the_terminal(capsys):
    os.rename("ours", "ou\x1b[31mrs")
    evil = ["eval", "ou\x1b[31mrs", "set/ir", "set/vi", "--metrics", "EN"]
    assert cli.main(evil) == 0
    assert "\x1b[31m" not in capsys.readouterr().out


def test_the_figures_are_said_before_a_file_fails(monkeypatch, capsys):
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    assert mgdn("eval ours set/ir set/vi --metrics EN --csv out.csv --jobs 0") == 2
    said = capsys.readouterr()
    assert "ours" in lines(said.out)
    assert "out.csv cannot be written" in said.err


def test_three_files(capsys):
    assert mgdn(f"eval ours/p0.png {PAIR}") == 0
    said = capsys.readouterr().out
    rows = lines(said)
    assert rows["method"][:3] == ["EN ↑", "SD ↑", "SF ↑"]
    assert list(rows) == ["method", "p0", *PLAIN, "base_hybrid_multiscale"]
    fused, a, b = (files.read_image(p) for p in ("ours/p0.png", *PAIR.split()))
    wanted = ruler.evaluate(fused, a, b)
    assert rows["p0"][:8] == [f"{v:.4f}" for v in wanted.values()]
    assert "variant standard" in said
    assert "SSIM_dr255" in said


def test_folders_csv_json_and_a_picture_that_fails(capsys):
    Path("theirs/p1.png").write_bytes(Path("half.png").read_bytes())
    save("ours/stray.png", 9)
    command = "eval ours theirs set/ir set/vi --metrics EN,PSNR --variant cddfuse --no-baselines"
    assert mgdn(f"{command} --csv out.csv --json out.json --jobs 2") == 1
    said = capsys.readouterr()
    assert "p1: theirs/p1.png is damaged or truncated" in said.err
    assert "ours/stray.png belongs to no pair called stray" in said.err
    assert "written out.csv" in said.out
    rows = list(csv.reader(Path("out.csv").read_text().splitlines()))
    assert rows[0] == ["method", "image", "EN", "PSNR_peakF"]
    assert [row[:2] for row in rows[1:]] == [
        *(["ours", name] for name in ("p0", "p1", "p2", "mean")),
        *(["theirs", name] for name in ("p0", "p2", "mean")),
    ]
    content = json.loads(Path("out.json").read_text())
    assert content["variant"] == "cddfuse"
    assert content["command"] == f"mgdn {command} --csv out.csv --json out.json --jobs 2"
    assert list(content["methods"]["theirs"]["images"]) == ["p0", "p2"]
    assert "p1" in content["methods"]["theirs"]["failures"]
    assert content["metrics"]["EN"] == {"higher_is_better": True, "group": "statistics"}
    assert {"python", "numpy", "scipy"} <= content["versions"].keys()
    assert "jax" not in content["versions"]


def test_one_method_alone_makes_the_plain_csv(capsys):
    assert mgdn("eval ours set/ir set/vi --metrics EN,MI --csv out.csv --quiet") == 0
    assert capsys.readouterr() == ("", "")
    rows = list(csv.reader(Path("out.csv").read_text().splitlines()))
    assert rows[0] == ["image", "EN", "MI"]  # the baselines are not what was asked for
    assert [row[0] for row in rows[1:]] == ["p0", "p1", "p2", "mean"]
    fused = files.read_image("ours/p1.png")
    sources = (files.read_image(f"set/{role}/p1.png") for role in ("ir", "vi"))
    wanted = ruler.evaluate(fused, *sources, ("EN", "MI"))
    assert [float(cell) for cell in rows[2][1:]] == list(wanted.values())
    assert float(rows[4][1]) == pytest.approx(np.mean([float(row[1]) for row in rows[1:4]]))


def test_a_network_over_folders_and_a_prepared_set(capsys):
    results = []
    data.prepare("pairs", "set", name="mine")
    for place in ("set", "set/ir set/vi", "mine", "sets/mine"):
        command = f"eval --model m.safetensors base_max --data {place} --metrics EN,MI --json"
        assert mgdn(command) == 0
        results.append(json.loads(capsys.readouterr().out)["methods"])
    wanted = ["m", "base_max", "base_mean", "base_laplacian", "base_hybrid_multiscale"]
    assert list(results[0]) == wanted
    for methods in results[1:]:
        assert {n: m["images"] for n, m in methods.items()} == {
            n: m["images"] for n, m in results[0].items()
        }
    assert not results[0]["base_max"]["baseline"]
    assert results[0]["base_mean"]["baseline"]
    sources = [files.read_image(f"set/{role}/p1.png") for role in ("ir", "vi")]
    wanted = ruler.evaluate(np.maximum(*sources), *sources, ("EN", "MI"))
    assert results[0]["base_max"]["images"]["p1"] == wanted


def test_networks_and_pictures_in_one_table(capsys):
    assert mgdn("eval ours --model m.safetensors --data set --metrics EN --no-baselines") == 0
    assert list(lines(capsys.readouterr().out)) == ["method", "ours", "m"]


def test_the_focus_rule_joins_for_near_and_far(capsys):
    os.rename("set/ir", "set/near")
    os.rename("set/vi", "set/far")
    for places in ("set/near set/far", "--data set"):
        assert mgdn(f"eval ours {places} --metrics EN") == 0
        rows = lines(capsys.readouterr().out)
        assert "base_focus_guided" in rows
        assert "base_hybrid_multiscale" not in rows


def test_the_exposure_rule_joins_for_under_and_over(capsys):
    os.rename("set/ir", "set/under")
    os.rename("set/vi", "set/over")
    assert mgdn("eval ours set/under set/over --metrics EN") == 0
    rows = lines(capsys.readouterr().out)
    assert "base_mertens" in rows
    assert "base_focus_guided" not in rows
    assert "base_hybrid_multiscale" not in rows


def test_ground_truth(capsys):
    assert mgdn("eval ours --truth theirs --json") == 0
    content = json.loads(capsys.readouterr().out)
    assert list(content["methods"]) == ["ours"]
    wanted = ruler.evaluate_truth(
        files.read_image("ours/p2.png"), files.read_image("theirs/p2.png")
    )
    assert content["methods"]["ours"]["images"]["p2"] == wanted
    both = "eval ours set/ir set/vi --truth theirs --metrics truth,MI --no-baselines --json"
    assert mgdn(both) == 0
    images = json.loads(capsys.readouterr().out)["methods"]["ours"]["images"]
    assert images["p2"].keys() == wanted.keys() | {"MI"}


def test_rows_measured_elsewhere(capsys):
    command = "eval ours set/ir set/vi --metrics EN,PSNR --variant cddfuse --beside sets.csv"
    assert mgdn(f"{command} --dataset T") == 0
    said = capsys.readouterr().out
    assert lines(said)["near †"][:3] == ["7.4000", "21.0000", "3.50"]
    assert "†: measured elsewhere (sets.csv, T)" in said
    # The standard variant has another PSNR: the foreign one is not shown under its name.
    assert mgdn(f"{command.replace('cddfuse', 'standard')} --dataset T") == 0
    assert lines(capsys.readouterr().out)["near †"][:2] == ["7.4000", "-"]


@pytest.mark.parametrize("place", ["set/ir set/vi", "mine"])
def test_report(capsys, place):
    if place == "mine":
        data.prepare("pairs", "set", name="mine")
    Path("theirs/p1.png").unlink()
    command = f"eval ours theirs --model m.safetensors --data {place} --metrics EN,MI"
    for _ in range(2):  # our own page is replaced
        assert mgdn(f"{command} --report page --jobs 0 --beside sets.csv --dataset S") == 1
    said = capsys.readouterr()
    assert "written page/index.html" in said.out
    assert "theirs has no picture called p1" in said.err
    assert os.listdir("page") == ["index.html"]
    page = Path("page/index.html").read_text()
    for part in ("theirs has no picture called p1", f"mgdn {command}", "not 2: not ranked"):
        assert part in page
    # Two sources, two folders, a network and four rules on three pairs; one picture lacks.
    assert page.count("data:image/jpeg;base64,") == 3 * (2 + 3 + 4) - 1


def test_sources_may_be_called_as_they_like(capsys):
    os.rename("ours", "a")
    assert mgdn("eval a set/ir set/vi --metrics EN --no-baselines --report page") == 0
    assert list(lines(capsys.readouterr().out))[1].endswith("/a")


def test_values_left_out_of_a_mean_are_told(capsys):
    for n in (0, 2):
        files.write_image(f"ours/p{n}.png", np.full((48, 50), 7, np.uint8))
    assert mgdn("eval ours set/ir set/vi --metrics CC,EN") == 0
    said = capsys.readouterr().out
    assert "ours: CC is nan on 2 of 3 pairs, which its mean leaves out" in said


def test_many_metrics_go_down_the_side(capsys):
    names = "statistics,information,edges,Q_Y,Q_C,CC"
    assert mgdn(f"eval ours/p0.png {PAIR} --metrics {names}") == 0
    rows = lines(capsys.readouterr().out)
    assert list(rows)[:2] == ["metric", "EN ↑"]


def test_names_of_methods_are_as_short_as_they_may_be():
    os.makedirs("x/fused")
    os.makedirs("y/fused")
    Path("pic.v2.png").touch()
    assert list(cli_pairs._titled(["x/fused", "y/fused"])) == ["x/fused", "y/fused"]
    assert list(cli_pairs._titled(["x/fused", "ours"])) == ["fused", "ours"]
    assert list(cli_pairs._titled(["pic.v2.png"])) == ["pic.v2"]


def test_methods_may_be_called_as_one_likes(capsys):
    os.rename("theirs", "the=irs")
    command = "eval net=ours the=irs --model x=m.safetensors --data set --metrics EN,MI"
    assert mgdn(f"{command} --no-baselines --csv out.csv") == 0
    assert list(lines(capsys.readouterr().out)) == ["method", "net", "the=irs", "x"]
    rows = list(csv.reader(Path("out.csv").read_text().splitlines()))
    assert {row[0] for row in rows[1:]} == {"net", "the=irs", "x"}
    # A name that says nothing new about the others: "ours" is free for the second one.
    os.makedirs("old")
    os.rename("the=irs", "old/ours")
    assert list(cli_pairs._titled(["net=ours", "old/ours"])) == ["net", "ours"]
    assert list(cli_pairs._titled(["ours=ours", "old/ours"])) == ["ours", "old/ours"]
    assert mgdn("eval fused=ours/p0.png set/ir/p0.png set/vi/p0.png --metrics EN") == 0
    assert "fused" in lines(capsys.readouterr().out)


def test_tables_for_papers_and_pages(capsys):
    command = "eval ours theirs set/ir set/vi --metrics EN,MSE --beside sets.csv --dataset S"
    assert mgdn(f"{command} --latex out.tex --markdown out.md --json out.json") == 0
    assert "written out.tex" in capsys.readouterr().out
    content = json.loads(Path("out.json").read_text())["methods"]
    paper, page = Path("out.tex").read_text(), Path("out.md").read_text()
    best = max(content, key=lambda name: content[name]["mean"]["EN"])
    shown = f"{content[best]['mean']['EN']:.4f}"
    assert f"\\textbf{{{shown}}}" in paper
    assert f"**{shown}**" in page
    assert "& MSE $\\downarrow$ & mean rank $\\downarrow$ \\\\" in paper
    assert page.startswith(
        "| method | EN ↑ | MSE ↓ | mean rank ↓ |\n|---|---:|---:|---:|\n| ours | "
    )
    assert "% means over 3 pairs, on luminance" in paper
    assert "- †: measured elsewhere (sets.csv, S)" in page


def test_rows_that_come_with_the_program(capsys):
    command = "eval ours set/ir set/vi --metrics EN,SSIM --no-baselines --variant cddfuse"
    assert mgdn(f"{command} --beside published --dataset TNO42 --json out.json") == 0
    said = capsys.readouterr().out
    assert lines(said)["DenseFuse †"] == ["42", "6.8193", "1.0234"]
    assert "†: measured elsewhere (published, TNO42)" in said
    assert "† 9 rows: measured on the pictures stored in Linfeng-Tang/Image-Fusion" in said
    assert "† over 42 pairs, not 3: not ranked, not marked" in said
    row = json.loads(Path("out.json").read_text())["elsewhere"]["DenseFuse"]
    assert (row["dataset"], row["n"], row["mean_rank"]) == ("TNO42", 42, None)
    assert row["source"].startswith("measured on the pictures stored in")


def test_compare(capsys):
    rng = np.random.default_rng(0)
    names = [f"i{k}" for k in range(10)]
    base = {n: {"EN": rng.uniform(6, 7), "MI": 2.0} for n in names}
    better = {n: {"EN": row["EN"] + 0.1, "MI": 2.0} for n, row in base.items()}
    scores.write_tables("[a].csv", {"": scores.Table(("EN", "MI"), better)})
    scores.write_tables("b.csv", {"": scores.Table(("EN", "MI"), {**base, "more": base["i0"]})})
    assert mgdn("eval --compare [a].csv b.csv") == 0
    said = capsys.readouterr().out
    assert lines(said)["EN ↑"][2:] == ["10", "0", "0", "+1.00", "0.0020", "0.0039", "[a]"]
    assert lines(said)["MI ↑"][2:] == ["0", "10", "0", "+0.00", "1.0000", "1.0000", "-"]
    assert "SF" not in said
    assert "left out, scored for b alone: more (1)" in said
    assert "mean rank on 10 images over EN MI: [a] 1.25, b 1.75" in said
    assert mgdn("eval --compare [a].csv b.csv --json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["comparisons"][0]["metrics"]["EN"]["verdict"] == "first"
    assert content["comparisons"][0]["only_second"] == ["more"]
    assert mgdn("eval --compare [a].csv b.csv --json out.json --quiet") == 0
    assert json.loads(Path("out.json").read_text()) == content


def test_a_full_disk_and_ctrl_c_leave_nothing(monkeypatch, capsys):
    before = everything()

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(methods_room, "_measure", interrupt)
        assert mgdn("eval ours set/ir set/vi --csv out.csv --jobs 0") == 130
    assert capsys.readouterr() == ("", "mgdn: interrupted.\n")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        assert mgdn("eval ours set/ir set/vi --metrics EN --csv out.csv --jobs 0") == 2
    assert "out.csv cannot be written (no space left)" in capsys.readouterr().err
    assert everything() == before
