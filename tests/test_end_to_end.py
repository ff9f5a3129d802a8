"""The real recipe, shrunk: prepare photographs, train, stop, resume, load, fuse."""

import numpy as np
import pytest

import mgdn_jax
from configs import mgdn as configs
from mgdn_jax import data, training
from mgdn_jax.io import codec


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    monkeypatch.setenv("MGDN_DATA_DIR", str(tmp_path / "sets"))
    rng = np.random.default_rng(0)
    for folder in ("train", "train_seg"):
        (tmp_path / "source" / folder).mkdir(parents=True)
    y, x = np.mgrid[:48, :64]
    for i in range(8):
        labels = (1 + (x + y * (i - 4) / 4 > 32)).astype(np.uint8)
        picture = rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)
        picture[labels == 2] //= 2
        (tmp_path / "source" / "train" / f"{i}.png").write_bytes(codec.encode_png(picture))
        (tmp_path / "source" / "train_seg" / f"{i}.png").write_bytes(codec.encode_png(labels))
    data.prepare("natural", tmp_path / "source")
    return tmp_path


def test_train_resume_load_fuse(photographs):
    def config(steps):
        config = configs.get_config("smoke")
        config.data.train.split = "train[:75%]"
        config.data.validation.split = "train[75%:]"
        config.train.update({"steps": steps, "log_every": 1, "eval_every": 4, "save_every": 2})
        return config

    run = photographs / "run"
    training.fit(config(3), str(run), quiet=True)
    result = training.fit(config(6), str(run), quiet=True)
    assert result.step == 6
    fuse = mgdn_jax.load(run / "mgdn-smoke.safetensors")
    assert fuse.card["training"]["steps"] == 6
    a = np.random.default_rng(1).integers(0, 256, (37, 41, 3)).astype(np.uint8)
    b = np.roll(a, 1, 0)
    fused = fuse(a, b)
    assert fused.shape == a.shape
    low, high = np.minimum(a, b), np.maximum(a, b)
    assert np.all((fused >= low) & (fused <= high))  # the blend head mixes, never invents
    assert list((run / "grids").glob("*.png"))


def test_multifocus_pairs_as_luminance(photographs):
    del photographs
    with data.make_loader(
        "natural", task="mff", channels=1, batch_size=4, crop=16, split="train", threads=0
    ) as loader:
        batch = next(loader)
    for name in ("a", "b", "target"):
        assert batch[name].shape == (4, 16, 16, 1)
        assert 0 <= batch[name].min() < batch[name].max() <= 1
    assert np.abs(batch["a"] - batch["b"]).max() > 0.02
