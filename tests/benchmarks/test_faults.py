"""Figures of the five faults, on pictures whose figures are known."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from mgdn_jax.errors import InputError
from mgdn_jax.evaluation import baselines
from mgdn_jax.metrics import luminance

SOURCE = Path(__file__).parents[2] / "benchmarks" / "faults.py"


@pytest.fixture(scope="module")
def faults():
    spec = importlib.util.spec_from_file_location("faults", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def fault_cases(faults):
    return faults.fault_cases


def test_blobs_are_looked_for_where_white_goes_on(fault_cases):
    visible = np.full((60, 80), 100, np.uint8)
    visible[:30] = 255
    visible[5, 70] = 0  # white must go on for eight pixels
    case = fault_cases.blobs("x", "test", np.zeros_like(visible), visible)
    assert case.region[:22, :62].all()
    assert not case.region[22:].any()
    assert not case.region[:14, 62:79].any()
    fused = np.full(visible.shape, 240.0)
    fused[30:] = 0  # not white before
    assert case.measure([fused]) == {"lowest": 240, "share below 225": 0, "hole": 0}
    fused[2:4, 10:20] = 170
    found = case.measure([fused])
    assert (found["lowest"], found["hole"]) == (170, 70)
    assert found["share below 225"] == pytest.approx(20 / case.region.sum())


def test_a_half_dark_sky_is_compared_with_both_sources(fault_cases):
    infrared, visible = np.zeros((40, 50), np.uint8), np.full((40, 50), 100, np.uint8)
    infrared[:, 25:] = 90
    case = fault_cases.sky("x", "test", infrared, visible)
    assert case.region.sum() == (40 - 8) * (25 - 8)
    found = case.measure([np.full((40, 50), 30.0)])
    assert found == {"below the mean": 20, "95 % below the mean": 20, "below the brighter": 70}


def test_what_is_missing_in_shadows_is_measured_from_the_best_exposure(fault_cases):
    exposures, corner = fault_cases.made_bracket(1)
    case = fault_cases.shadows("x", "test", exposures, corner)
    best = luminance(exposures[-1])
    found = case.measure([best - 12])
    assert found["missing"] == pytest.approx(12)
    assert found["95 % missing"] == pytest.approx(12)
    assert found["best exposure"] - found["level"] == pytest.approx(12)
    assert 40 < found["best exposure"] < 80
    # Without a region it is where the first exposure is black and the last one is not.
    assert (case.region & fault_cases.dark(exposures)).sum() > 0.7 * corner.sum()


def test_tone_is_compared_with_the_blend(fault_cases):
    random = np.random.default_rng(0)
    near = np.rint(255 * ndimage.gaussian_filter(random.random((64, 64)), 1)).astype(np.uint8)
    far = ndimage.gaussian_filter(near, 2)
    case = fault_cases.tone("x", "train", near, far, truth=near)
    weight = baselines.evidence_weight(near, far)
    blend = weight * near + (1 - weight) * far
    found = case.measure([blend + 5])
    assert found["largest, sigma 16"] == pytest.approx(5)
    assert found["average, sigma 32"] == pytest.approx(5)
    assert case.measure([luminance(near)])["largest from the truth, sigma 16"] == 0


def test_still_patches_far_from_what_is_hot_are_compared(fault_cases):
    before, after = fault_cases.made_walk(3)
    case = fault_cases.still("x", "test", before, after)
    assert not case.region[90 - 32 : 90 + 32, 115 - 32 : 115 + 32].any()
    plane = luminance(before[1])
    moved = plane.copy()
    moved[16:32, 240:256] += 8  # one whole patch
    moved[90, 115] += 100  # the hot thing itself
    found = case.measure([plane, moved])
    assert found["largest move"] == 8
    assert 0 < found["average move"] < 0.2


def test_made_pictures_show_their_fault(fault_cases):
    assert fault_cases.white(fault_cases.made_white(1)[1]).mean() > 0.2
    assert fault_cases.half_dark(*fault_cases.made_half_dark(1)).mean() > 0.1
    with pytest.raises(InputError, match="shows nothing of the fault 'blobs'"):
        fault_cases.blobs("x", "test", *[np.zeros((20, 20), np.uint8)] * 2)


def test_weights_are_named_by_their_task(faults):
    parts = faults.split(["ivf=a.safetensors:none"])
    assert parts[0] == ("ivf", "a.safetensors:none")
    assert {task for task, _ in parts[1:]} == {"mef", "mff"}
    for word in ("a.safetensors", "ivf=", "depth=a"):
        with pytest.raises(InputError, match="write ivf=, mef= or mff="):
            faults.split([word])


def test_figures_and_a_sheet_are_written(faults, fault_cases, tmp_path, monkeypatch, capsys):
    def seen(data, cases, names):
        infrared, visible = fault_cases.made_white(5)
        half = [x[::4, ::4] for x in (infrared, visible)]
        yield fault_cases.blobs("white", "test", *half)

    monkeypatch.setattr(fault_cases, "seen", seen)
    dull = {"blobs": {"net": lambda pictures: pictures[1] // 2}}
    monkeypatch.setattr(faults, "networks", lambda words, names: dull)
    names = [tmp_path / "f.csv", tmp_path / "f.png"]
    command = f"--data . --faults blobs --list test --csv {names[0]} --sheet {names[1]}"
    faults.main(command.split())
    with names[0].open(encoding="utf-8") as file:
        rows = {(row["method"], row["figure"]): row for row in csv.DictReader(file)}
    assert rows["net", "lowest"]["value"] == "127.0000"
    assert rows["net", "share below 225"]["value"] == "1.0000"
    assert rows["base_max", "share below 225"]["value"] == "0.0000"
    assert rows["visible", "share below 225"]["goal"] == "0"
    with Image.open(names[1]) as sheet:
        assert sheet.size == (6 * 208, round(120 * 208 / 160) + 42)
    assert "net" in capsys.readouterr().out
