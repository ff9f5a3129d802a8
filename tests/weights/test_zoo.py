import numpy as np
import pytest

from mgdn_jax.errors import InputError
from mgdn_jax.weights import zoo
from mgdn_jax.weights.store import save_weights


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    folder = tmp_path / "weights"
    monkeypatch.setattr(zoo, "weights_folder", lambda: folder)
    for name in ("mgdn-mff", "mgdn-mef"):
        save_weights(
            folder / f"{name}.safetensors",
            system="mgdn",
            config={"window": 4},
            params={"a/kernel": np.zeros((2, 3), np.float32), "a/bias": np.zeros(3, np.float32)},
            stats={"mean": np.zeros(50, np.float32)},
            card={"task": "multi-focus"},
        )
    return folder


def test_models_of_a_task(bundle):
    assert list(zoo.list_models(task="MFF")) == ["mgdn-mff"]
    assert list(zoo.list_models(task="focus")) == ["mgdn-mef", "mgdn-mff"]
    assert zoo.list_models(task="medical") == {}


def test_models_are_listed_with_their_cards(bundle):
    assert list(zoo.list_models()) == ["mgdn-mef", "mgdn-mff"]
    assert zoo.list_models()["mgdn-mff"] == {
        "system": "mgdn",
        "config": {"window": 4},
        "parameters": 9,
        "card": {"task": "multi-focus"},
    }


def test_names_and_paths_resolve(bundle, tmp_path):
    assert zoo.resolve("mgdn-mff") == bundle / "mgdn-mff.safetensors"
    path = bundle / "mgdn-mef.safetensors"
    assert zoo.resolve(path) == path
    assert zoo.resolve(str(path)) == path


def test_names_that_do_not_resolve(bundle, tmp_path):
    (tmp_path / "old.pth").write_bytes(b"x")
    cases = {
        "mgdn-mf": "did you mean 'mgdn-mff'",
        "zebra": "choose one of mgdn-mef, mgdn-mff",
        str(tmp_path): "is a folder",
        str(tmp_path / "none.safetensors"): "does not exist",
        "none.safetensors": "does not exist",
        str(tmp_path / "old.pth"): "turn it into .safetensors with mgdn convert",
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            zoo.resolve(name)
        assert "\n" not in str(caught.value)


def test_foreign_files_are_not_described(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="no weight file of this package"):
        zoo.describe(path)


def test_what_is_bundled_can_be_described():
    for name, about in zoo.list_models().items():
        assert zoo.resolve(name).is_file()
        assert about["parameters"] > 0
        assert about["card"].get("task"), f"the card of {name} names no task"


def test_each_card_names_the_stretch_its_figures_were_measured_with():
    """Changing one changes every result: then the tables are to be measured again."""
    for about in zoo.list_models().values():
        assert about["card"]["inference"].get("ensemble", "none") == "none"
    found = {
        name: about["card"]["inference"].get("stretch", "none")
        for name, about in zoo.list_models().items()
    }
    assert found == {
        "cddfuse-ivf": "minmax",
        "cddfuse-mif": "minmax",
        "cen-ivf": "none",
        "fusion-ivf": "none",
        "fusion-mif": "none",
        "lkc-funet-small-ivf": "none",
        "lkc-funet-small-mif": "none",
        "mgdn-gdsr4": "none",
        "mgdn-gdsr8": "none",
        "mgdn-hdr": "none",
        "mgdn-mef": "none",
        "mgdn-mff": "none",
        "refusion-ivf": "none",
        "refusion-mef": "minmax",
        "refusion-mff": "none",
        "refusion-mif": "minmax",
        "tim-ivf": "none",
    }
