"""benchmarks/downstream.py on drawn pictures: what is cut, what is learned, what may be claimed."""

import csv
import importlib
import json
import sys

import numpy as np
import pytest
from helpers import ROOT

from mgdn_jax.errors import InputError
from mgdn_jax.io import files

LINES = ("0 0.1666667 0.5 0.1666667 0.5", "2 0.75 0.5 0.1666667 0.5")


@pytest.fixture(scope="module")
def modules():
    names = ("downstream", "downstream_page", "labelled", "patch_network")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(ROOT), *sys.path])
        yield {name: importlib.import_module(f"benchmarks.{name}") for name in names}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Persons are warm and cars green: visible pictures do not show the former."""
    folder = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 4)):
        for i in range(count):
            infrared = rng.integers(0, 30, (64, 192)).astype(np.uint8)
            visible = rng.integers(0, 30, (64, 192, 3)).astype(np.uint8)
            infrared[16:48, 16:48] = 250
            visible[16:48, 128:160, 1] = 250
            files.write_image(folder / split / "ir" / f"{i}.png", infrared)
            files.write_image(folder / split / "vi" / f"{i}.png", visible)
            labels = folder / split / "labels" / f"{i}.txt"
            labels.parent.mkdir(exist_ok=True)
            labels.write_text("\n".join(LINES) + "\n")
    light = {
        split: [{"name": str(i), "light": "day" if i % 2 else "night"} for i in range(count)]
        for split, count in (("train", 6), ("test", 4))
    }
    (folder / "labels.json").write_text(
        json.dumps({"classes": ["person", "bicycle", "car"], **light})
    )
    return folder


def test_squares_lie_around_boxes_and_beside_them(modules, drawn):
    labelled = modules["labelled"]
    classes, light = labelled.read_labels(drawn)
    scenes = labelled.read_scenes(drawn / "train", classes, light["train"])
    places = labelled.find_places(scenes, "train")
    first = [place for place in places if place.scene == 0]
    assert [place.name for place in first[:2]] == ["person", "car"]
    assert (first[0].left, first[0].top, first[0].side) == pytest.approx((12, 12, 40), abs=1e-4)
    assert labelled.find_places(scenes, "train") == places
    beside = [place for place in places if place.name == labelled.BACKGROUND]
    assert len(beside) == 6 * labelled.BACKGROUNDS
    for place in beside:
        assert (place.top, place.side) == pytest.approx((12, 40), abs=1e-4)
        for box in scenes[place.scene].boxes:
            assert place.left >= box.right or place.left + place.side <= box.left
    (patch,) = labelled.cut(files.read_image(scenes[0].infrared)[..., None], first[:1])
    assert patch.shape == (32, 32, 1)
    assert patch[4:28, 4:28].min() > 200
    assert patch[:3].max() < 60


def test_small_boxes_are_neither_things_nor_background(modules, tmp_path):
    labelled = modules["labelled"]
    boxes = (labelled.Box("person", 10, 10, 20, 20), labelled.Box("car", 40, 0, 100, 60))
    scene = labelled.Scene("1", tmp_path, tmp_path, (60, 100), "-", boxes)
    places = labelled.find_places([scene], "train")
    assert [(p.name, p.left, p.top, p.side) for p in places] == [("car", 40, 0, 60)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0.5 0.5 0.1", "is no box; write a class"),
        ("0 0.5 0.5 0.1 nan", "is no box"),
        ("0 0.5 0.5 0 0.1", "is no box"),
        ("car 0.5 0.5 0.1 0.1", "is no box"),
        ("3 0.5 0.5 0.1 0.1", "there is no class 3; choose one of 0 person, 1 bicycle, 2 car"),
        ("0 0.95 0.5 0.2 0.1", "reaches beyond the picture of 128x64"),
        ("0 64 32 20 10", "reaches beyond the picture"),
    ],
)
def test_wrong_lines_are_named(modules, tmp_path, line, reason):
    path = tmp_path / "1.txt"
    path.write_text(f"{LINES[0]}\n\n{line}\n")
    with pytest.raises(InputError, match=reason) as caught:
        modules["labelled"].read_boxes(path, (64, 128), modules["labelled"].CLASSES)
    assert f"{path}, line 3" in str(caught.value)


def test_a_box_on_the_border_is_cut_off(modules, tmp_path):
    path = tmp_path / "1.txt"
    path.write_text("1 0.1 0.5 0.205 0.5\n")
    (box,) = modules["labelled"].read_boxes(path, (64, 128), modules["labelled"].CLASSES)
    assert (box.name, box.left, box.top, box.bottom) == ("bicycle", 0.0, 16.0, 48.0)


def test_missing_parts_end_in_one_sentence(modules, drawn, tmp_path, capsys):
    main = modules["downstream"].main
    for words, reason in (
        (["--data", str(tmp_path / "none")], "none does not exist; check the path"),
        (["--data", str(tmp_path)], "has train/ and test/ with ir/, vi/ and labels/ each"),
        (["--data", str(drawn), "--inputs", "base_meen"], "did you mean 'base_mean'?"),
        (["--data", str(drawn), "--inputs", "both=x"], "must be NAME=FOLDER"),
        (["--data", str(drawn), "--inputs", f"a={tmp_path}/x"], "x/train does not exist"),
    ):
        assert main(words) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert reason in said[0]
    (tmp_path / "labels.json").write_text("{}")
    with pytest.raises(InputError, match="needs lists train and test"):
        modules["labelled"].read_labels(tmp_path)


def test_rules_keep_the_visible_colour(modules):
    downstream = modules["downstream"]
    rng = np.random.default_rng(0)
    visible = rng.integers(100, 156, (8, 9, 3)).astype(np.uint8)
    fused = downstream.by_rule(
        downstream.BASELINES["base_max"], np.zeros((8, 9), np.uint8), visible
    )
    assert np.abs(fused.astype(int) - visible).max() <= 1
    gray = downstream.by_rule(downstream.BASELINES["base_mean"], visible[..., 0], visible[..., 0])
    np.testing.assert_array_equal(gray, np.repeat(visible[..., :1], 3, 2))


def test_networks_of_one_seed_share_all_but_the_first_layer(modules):
    network = modules["patch_network"]
    starts = [network._programs(channels, 3, 4)[0](7) for channels in (3, 6)]
    for name, value in starts[0].items():
        if name != "first/kernel":
            np.testing.assert_array_equal(value, starts[1][name])
    patches = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 1)).astype(np.uint8)
    both = np.concatenate([patches, patches], -1)
    one, two = (network._augmented(x, np.random.default_rng(3)) for x in (patches, both))
    np.testing.assert_array_equal(two, np.concatenate([one, one], -1))


def test_what_an_input_shows_is_learned(modules, drawn, tmp_path, capsys, monkeypatch):
    """One camera shows persons, one cars, and fused pictures both: the table says so."""
    downstream, network = modules["downstream"], modules["patch_network"]
    monkeypatch.setattr(network, "BATCH", 16)
    table, text = tmp_path / "o.csv", tmp_path / "o.md"
    words = ["--data", str(drawn), "--inputs", "base_max", "--seeds", "2", "--epochs", "12"]
    words += ["--csv", str(table), "--markdown", str(text), "--montage", str(tmp_path / "m.png")]
    assert downstream.main(words) == 0
    assert "bicycle is left out" in capsys.readouterr().err
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 2 * 3  # inputs, seeds; all, day and night
    scores = {}
    for row in rows:
        if row["light"] == "all":
            scores.setdefault(row["input"], []).append(float(row["balanced_accuracy"]))
    assert min(scores["both"] + scores["base_max"]) > max(scores["visible"])
    page = text.read_text()
    assert "| test | all | 4 |" in page
    assert (
        "- Beside `visible`, above: `both`, `base_max`; below: none; no claim: `infrared`." in page
    )
    assert files.read_image(tmp_path / "m.png").shape[2] == 3


def figures_of(modules, hits):
    """A hundred patches of two classes in 20 pictures, recognised as `hits` says."""
    labels, pictures = np.tile([0, 1], 50), np.repeat(np.arange(20), 5)
    lights = np.where(pictures < 10, "day", "night")
    return modules["downstream_page"].Figures(
        ("background", "person"), {}, {}, labels, lights, pictures, hits
    )


def test_small_differences_are_no_claim(modules):
    page = modules["downstream_page"]
    rng = np.random.default_rng(0)
    base = rng.random((5, 100)) < 0.6
    better = base | (rng.random((5, 100)) < 0.7)
    alike = base.copy()
    alike[:, 0] = True
    figures = figures_of(modules, {"visible": base, "better": better, "alike": alike})
    up = page.compare(figures, "better", "visible")
    assert up.verdict == "above"
    assert up.low < up.difference < up.high
    means = [page.balanced(x, figures.labels, 2).mean() for x in (better, base)]
    assert up.difference == pytest.approx(means[0] - means[1])
    down = page.compare(figures, "visible", "better")
    assert down.verdict == "below"
    assert (down.low, down.high) == pytest.approx((-up.high, -up.low))
    assert page.compare(figures, "alike", "visible").verdict == "no claim"


def test_one_picture_alone_is_no_claim(modules):
    """What many patches of a single picture say is one observation."""
    page = modules["downstream_page"]
    base = np.zeros((3, 100), bool)
    lucky = base.copy()
    lucky[:, :5] = True
    figures = figures_of(modules, {"visible": base, "lucky": lucky})
    assert page.compare(figures, "lucky", "visible").verdict == "no claim"


def test_classes_without_a_patch_do_not_count(modules):
    page = modules["downstream_page"]
    hits = np.array([[True, False, True]])
    labels = np.array([0, 0, 2])
    np.testing.assert_allclose(page.balanced(hits, labels, 3), [0.75])
