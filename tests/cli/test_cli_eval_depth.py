"""`mgdn eval-depth`: networks beside rules, tables, JSON, CSV, and what is refused."""

import json

import fake_depth
import numpy as np
import pytest
from helpers_cli import everything, mgdn

from mgdn_jax.cli import progress
from mgdn_jax.cli.measures import DEPTH_SETS
from mgdn_jax.evaluation.depth import PROTOCOLS
from mgdn_jax.evaluation.scores import MEAN
from mgdn_jax.evaluation.upsampling import BASELINES
from mgdn_jax.io import files
from mgdn_jax.weights.store import save_weights

PLAIN = "eval-depth --set nyu --data set"


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("MGDN_CACHE_DIR", "off")
    monkeypatch.setattr(progress, "SECONDS", 3600.0)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for kind in ("rgb", "depth"):
        (tmp_path / "set" / kind).mkdir(parents=True)
    for k in range(2):
        rgb = rng.integers(0, 256, (32, 48, 3), np.uint8)
        files.write_image(f"set/rgb/{k}.png", rgb)
        np.save(f"set/depth/{k}.npy", rng.random((32, 48)).astype(np.float32))
    save_weights(
        "d8.safetensors",
        system="fake_depth",
        config=fake_depth.Config().to_dict(),
        params={"bias": np.zeros((), np.float32)},
        card={"name": "d8", "preparation": {"quantity": "depth", "scale": 8, "margin": 0.02}},
    )


def test_the_table_names_set_scale_and_rules(capsys):
    assert mgdn(PLAIN) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].strip() == "NYU v2, 2 maps, 4x, cm"
    assert [line.split()[1] for line in lines if line.startswith("│")] == list(BASELINES)
    assert everything().count("./d8.safetensors") == 1


def test_a_network_is_measured_at_its_scale(capsys):
    assert mgdn(f"{PLAIN} --model d8.safetensors bicubic --no-baselines --json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["scale"], report["images"], report["unit"], report["border"]) == (8, 2, "cm", 6)
    assert list(report["methods"]) == ["d8", "bicubic"]
    network = report["methods"]["d8"]
    assert set(network["images"]) == {"0", "1"}
    values = [row["RMSE_cm"] for row in network["images"].values()]
    assert network["mean"]["RMSE_cm"] == pytest.approx(np.mean(values))
    assert mgdn(f"{PLAIN} --model bicubic_mgdn --no-baselines --json --scale 8") == 0
    rule = json.loads(capsys.readouterr().out)["methods"]["bicubic_mgdn"]
    # The fake network hands its input on, which is then clipped.
    assert network["mean"]["RMSE_cm"] < rule["mean"]["RMSE_cm"] + 1e-6
    assert network["mean"]["RMSE_cm"] == pytest.approx(rule["mean"]["RMSE_cm"], rel=0.05)


def test_scores_are_written(capsys):
    assert mgdn(f"{PLAIN} --csv out.csv --scale 16") == 0
    assert "written out.csv" in capsys.readouterr().out
    with open("out.csv") as text:
        head, *body = text.read().splitlines()
    assert head == "method,image,RMSE_cm,MAD_cm"
    assert len(body) == 3 * len(BASELINES)
    assert body[2].startswith(f"nearest,{MEAN},")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--set lu6 --data nowhere", "is not a folder"),
        ("--set lu6 --data set --scale 1", "--scale is 1"),
        ("--set lu6 --data set --scale 40", "cannot be reduced by 40"),
        ("--set ivf --data set", "invalid choice: 'ivf'"),
        ("--set lu6 --data set --model bicubics", "bicubics"),
        ("--set lu6 --data set --csv out.txt", ".csv"),
        ("--set lu6 --data set --folders rgb maps", "maps is not a folder"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(capsys, words, reason):
    before = everything()
    assert mgdn(f"eval-depth {words}") == 2
    said = capsys.readouterr()
    assert reason in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert everything() == before


def test_the_sets_of_the_command_are_the_protocols():
    assert tuple(PROTOCOLS) == DEPTH_SETS
