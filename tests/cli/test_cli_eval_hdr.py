"""`mgdn eval-hdr`: networks beside rules, tables, JSON, CSV, results, and what is refused."""

import json
from pathlib import Path

import fake_merge
import numpy as np
import pytest
from helpers_cli import everything, mgdn
from scipy import ndimage

from mgdn_jax.cli import progress
from mgdn_jax.evaluation.hdr import METRICS
from mgdn_jax.evaluation.merges import MERGES
from mgdn_jax.evaluation.scores import MEAN
from mgdn_jax.io import files, radiance
from mgdn_jax.quantities.radiance import RadiancePreparation, developed
from mgdn_jax.weights.store import save_weights

PLAIN = "eval-hdr --data set"


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("MGDN_CACHE_DIR", "off")
    monkeypatch.setattr(progress, "SECONDS", 3600.0)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        (tmp_path / "set" / name).mkdir(parents=True)
        truth = rng.random((16, 24, 3), np.float32) ** 3
        for k in range(3):
            stored = np.rint(255 * developed(truth, 4.0**k)).astype(np.uint8)
            files.write_image(f"set/{name}/{k + 1}.png", stored)
        (tmp_path / "set" / name / "exposure.txt").write_text("0\n2\n4\n")
        (tmp_path / "set" / name / "HDRImg.hdr").write_bytes(radiance.encode(truth))
    save_weights(
        "m.safetensors",
        system="fake_merge",
        config=fake_merge.Config().to_dict(),
        params={"bias": np.zeros((), np.float32)},
        card={"name": "m", "preparation": RadiancePreparation().to_dict()},
    )


def test_the_table_names_the_rules(capsys):
    assert mgdn(PLAIN) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "2 scenes"
    assert [line.split()[1] for line in lines if line.startswith("│")] == list(MERGES)


def test_a_network_stands_before_the_rules(capsys):
    assert mgdn(f"{PLAIN} --model m.safetensors reference_exposure --no-baselines --json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["scenes"], list(report["methods"])) == (2, ["m", "reference_exposure"])
    network = report["methods"]["m"]
    assert set(network["scenes"]) == {"one", "two"}
    for metric in METRICS:
        values = [row[metric] for row in network["scenes"].values()]
        assert network["mean"][metric] == pytest.approx(np.mean(values))
    # Nothing moves here, and the network takes the short exposure where the reference clips.
    assert network["mean"]["PSNR_mu"] > 25
    assert network["mean"]["PSNR_L"] > report["methods"]["reference_exposure"]["mean"]["PSNR_L"]


def test_exposures_lie_on_each_other_before_they_are_merged(capsys):
    rng = np.random.default_rng(1)
    scene = ndimage.gaussian_filter(rng.random((80, 96, 3)), (2, 2, 0))
    scene = np.float32((scene - scene.min()) / np.ptp(scene)) ** 2
    for k, shift in enumerate((3, 0, -3)):
        moved = np.rint(255 * developed(np.roll(scene, shift, 1), 2.0**k)).astype(np.uint8)
        files.write_image(f"set/one/{k + 1}.png", moved)
    (Path("set") / "one" / "exposure.txt").write_text("0\n1\n2\n")
    (Path("set") / "one" / "HDRImg.hdr").write_bytes(radiance.encode(scene))
    means = {}
    for words in ("", "--no-align"):
        assert mgdn(f"{PLAIN} --model m.safetensors --no-baselines --json {words}") == 0
        means[words] = json.loads(capsys.readouterr().out)["methods"]["m"]["scenes"]["one"]
    assert means[""]["PSNR_mu"] > means["--no-align"]["PSNR_mu"] + 3


def test_scores_and_results_are_written(capsys):
    assert mgdn(f"{PLAIN} --model short_exposure --no-baselines --csv out.csv --save kept") == 0
    said = capsys.readouterr().out
    assert "written out.csv" in said
    assert "written kept" in said
    with open("out.csv") as text:
        head, *body = text.read().splitlines()
    assert head == "image,PSNR_mu,PSNR_L,SSIM_mu,SSIM_L"
    assert [line.split(",")[0] for line in body] == ["one", "two", MEAN]
    assert "./kept/short_exposure/one.hdr" in everything()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--data nowhere", "is not a folder"),
        ("--data set/one", "holds no brackets"),
        ("--data set --model shortest", "shortest"),
        ("--data set --csv out.txt", ".csv"),
        ("--data set --save m.safetensors", "is a file"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(capsys, words, reason):
    before = everything()
    assert mgdn(f"eval-hdr {words}") == 2
    said = capsys.readouterr()
    assert reason in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert everything() == before
