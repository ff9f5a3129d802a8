"""The tutorials, small: what they print and write is what they promise."""

import importlib
import pathlib
import sys

import fake_merge
import numpy as np
import pytest

import mgdn_jax
from mgdn_jax.fusing import deghosting
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.image import luminance
from mgdn_jax.io import depth, files
from mgdn_jax.weights.store import load_weights, save_weights

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


@pytest.fixture
def tutorial(monkeypatch, tmp_path):
    """Imports a tutorial as a reader runs it: from its folder."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("MGDN_DATA_DIR", str(tmp_path / "sets"))
    yield importlib.import_module
    for name in ("score_your_method", "train_on_two_folders", "own_system", "depth", "hdr"):
        sys.modules.pop(name, None)


def test_score_your_method(tutorial, tmp_path):
    means = tutorial("score_your_method").main(["--report", str(tmp_path / "report")])
    assert set(means) >= {"sharper", "base_mean", "base_max", "base_laplacian"}
    # Taking the sharper source is what a focus pair asks for.
    plain = ("base_mean", "base_max", "base_laplacian")
    assert means["sharper"]["Qabf"] > max(means[name]["Qabf"] for name in plain)
    page = (tmp_path / "report" / "index.html").read_text()
    assert "sharper" in page


def test_folders_are_paired_by_name(tutorial, tmp_path):
    module = tutorial("score_your_method")
    for folder, name in (("near", "coffee_near"), ("far", "coffee_far")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "cup.jpg").write_bytes((EXAMPLES / f"{name}.jpg").read_bytes())
    pairs = module.read_pairs([str(tmp_path / "near"), str(tmp_path / "far")])
    assert [pair.name for pair in pairs] == ["cup"]


def test_train_on_two_folders(tutorial, tmp_path):
    module = tutorial("train_on_two_folders")
    options = ["--workdir", str(tmp_path / "run"), "--steps", "2", "--crop", "16"]
    fused = files.read_image(module.main(options))
    assert fused.shape == (96, 96, 3)
    assert load_weights(tmp_path / "run" / "run" / "mine.safetensors").system == "mgdn"


def test_a_system_of_your_own(tutorial, tmp_path):
    module = tutorial("own_system")
    fused = files.read_image(module.main(["--workdir", str(tmp_path), "--steps", "60"]))
    infrared = files.read_image(tmp_path / "pictures" / "ir" / "00.png")
    assert fused.shape == (96, 96, 3)
    # The warm spots are in the result: it was trained to keep what is brighter.
    spots = infrared > 200
    fused_light = luminance(fused.astype(np.float32))[..., 0]
    assert fused_light[spots].mean() > 0.85 * infrared[spots].mean()
    stored = load_weights(tmp_path / "run" / "own.safetensors")
    assert stored.system == "own_system"


def test_depth(tutorial, tmp_path, capsys):
    size = {"features": 12, "depths": (1,), "heads": (3,), "mlp_ratio": 1.0}
    config, _, params, _ = mgdn_jax.create("mgdn", "gdsr", **size)
    card = {"preparation": {"quantity": "depth", "scale": 4, "margin": 0.02}}
    place = tmp_path / "depth.safetensors"
    save_weights(place, system="mgdn", config=config.to_dict(), params=params, card=card)
    plain, guided = tutorial("depth").main(["--model", str(place), "--workdir", str(tmp_path)])
    assert 10 < plain < 200
    assert np.isfinite(guided)
    said = capsys.readouterr().out
    assert "low.png says that its unit is millimetres" in said
    assert "16 values of" in said
    high = depth.read_depth(tmp_path / "high.png")
    assert (high.values.shape, high.unit) == ((160, 256), "mm")
    assert np.isnan(high.values[20:36, 160:176]).all()
    assert files.read_image(tmp_path / "look.png").shape[0] == 320


def test_exposures_of_a_ball_that_rolls(tutorial, tmp_path, monkeypatch, capsys):
    """The bundled network's place is taken by a rule, so that what comes out is known."""
    module = tutorial("hdr")
    card = {"preparation": {"quantity": "radiance", "gamma": 2.2, "mu": 5000.0}}
    rule = Fuser("fake_merge", fake_merge.Config(), {"bias": np.float32(0)}, {}, card)
    monkeypatch.setattr(deghosting, "load", lambda *_, **__: rule)
    radiance = module.main(["--model", "rule", "--out", str(tmp_path / "merged")])
    assert "image 2 is the reference" in capsys.readouterr().out
    middle = module.make_bracket()[1] / np.float32(255)
    # The reference as it is where it is not saturated, more than that where it is.
    good = middle.max(-1) < 0.97
    np.testing.assert_allclose(radiance[good], middle[good] ** 2.2 / 4, atol=1e-6)
    assert radiance.max() > 0.9
    stored = files.read_image(tmp_path / "merged.hdr")
    assert (np.abs(stored - radiance) <= radiance.max(-1, keepdims=True) / 255).all()
    assert files.read_image(tmp_path / "merged.png").shape == radiance.shape
