"""The small presets of MGDN's tasks, shrunk: resumed to the same bits, one device as four."""

import shutil

import jax
import numpy as np
import pytest
from helpers_runs import log, newest

from configs import mgdn as configs
from mgdn_jax import data, training
from mgdn_jax.io import codec, radiance
from mgdn_jax.weights.store import load_weights

PRESETS = (pytest.param("mef_cpu", marks=pytest.mark.long), "gdsr4_cpu", "hdr_cpu")
STEPS = 3
FIGURES = {"mef_cpu": "mef_ssim", "gdsr4_cpu": "rmse", "hdr_cpu": "psnr_mu"}
QUANTITIES = {"mef_cpu": None, "gdsr4_cpu": "depth", "hdr_cpu": "radiance"}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Photographs with regions, depth maps and radiance pictures, prepared."""
    root = tmp_path_factory.mktemp("tasks")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :112]
    places = {name: root / name for name in ("train", "train_seg", "rgb", "depth", "scenes")}
    for place in places.values():
        place.mkdir()
    for i in range(10):
        regions = (1 + (x + y * (i - 4) / 4 > 50)).astype(np.uint8)
        picture = rng.integers(0, 256, (96, 112, 3)).astype(np.uint8)
        picture[regions == 2] //= 2
        depth = (900 + 40 * (i + 1) * regions.astype(int) + x + y).astype(np.uint16)
        light = np.exp(np.sin(x / 9 + i) * 2)[..., None] * (1 + picture / 255)
        for name, array in (("train", picture), ("train_seg", regions), ("rgb", picture)):
            (places[name] / f"{i}.png").write_bytes(codec.encode_png(array))
        (places["depth"] / f"{i}.png").write_bytes(codec.encode_png(depth))
        (places["scenes"] / f"{i}.hdr").write_bytes(radiance.encode(light.astype(np.float32)))
    data.prepare("natural", root, root / "sets")
    data.prepare("rgbd", root, root / "sets")
    data.prepare("hdr", root / "scenes", root / "sets")
    return root / "sets"


def shrunk(preset, sets, **train):
    config = configs.get_config(preset)
    config.model.update({"features": 12, "depths": (1,), "heads": (3,), "window": 4})
    config.data.dataset = str(sets / config.data.dataset)
    if preset == "hdr_cpu":
        photographs = {"objects": str(sets / "natural"), "train_split": "train[:80%]"}
        config.data.synthesis.update({**photographs, "held_out_split": "train[80%:]"})
    crop = 48 if preset == "mef_cpu" else 32
    config.data.train.update({"crop": crop, "threads": 0, "split": "train[:80%]"})
    config.data.validation.update({"crop": crop, "limit": 2, "split": "train[80%:]"})
    config.optimiser.warmup = 1
    config.train.update({"batch": 4, "eval_batch": 4, "steps": STEPS, "keep": STEPS})
    config.train.update({"log_every": 1, "eval_every": STEPS, "save_every": 1, **train})
    return config


@pytest.fixture(scope="module", params=PRESETS)
def run(request, sets, tmp_path_factory):
    """An uninterrupted run on one device."""
    workdir = tmp_path_factory.mktemp(request.param)
    training.fit(shrunk(request.param, sets, devices=1), workdir, quiet=True)
    return request.param, workdir


def test_killed_and_resumed_gives_the_same_bits(run, sets, tmp_path):
    preset, whole = run
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    for folder in (workdir / "checkpoints").iterdir():  # what a kill in the second step leaves
        if folder.name.isdigit() and int(folder.name) > 1:
            shutil.rmtree(folder)
    for path in workdir.glob("mgdn-*"):
        path.unlink()
    training.fit(shrunk(preset, sets, devices=1), workdir, quiet=True)
    step, arrays, _ = newest(workdir)
    assert step == STEPS
    wanted = newest(whole)[1]
    assert arrays.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(array, arrays[name], err_msg=name)


def test_one_device_as_four(run, sets, tmp_path):
    preset, whole = run
    assert jax.local_device_count() == 4
    training.fit(shrunk(preset, sets, devices=0), tmp_path, quiet=True)
    ours, wanted = ([line["loss"] for line in log(path)] for path in (tmp_path, whole))
    assert len(ours) == STEPS
    np.testing.assert_allclose(ours, wanted, rtol=2e-4)


def test_the_card_holds_the_preparation_and_the_figure_of_the_task(run):
    preset, workdir = run
    card = load_weights(next(workdir.glob("*.safetensors"))).card
    assert FIGURES[preset] in card["held_out"]
    assert card.get("preparation", {}).get("quantity") == QUANTITIES[preset]
    grid = codec.decode_image(next((workdir / "grids").glob("*.png")).read_bytes(), "grid")
    assert grid.ndim == 3
    assert min(grid.shape[:2]) >= 32
