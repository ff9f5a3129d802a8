"""Training on several sets: figures of each, resumed to the same bits, a mixture that is kept."""

import shutil

import fake_recipe
import numpy as np
import pytest
from helpers_runs import log, losses, newest

from mgdn_jax import data, training
from mgdn_jax.cli.train import parse
from mgdn_jax.data.mixture import Slots
from mgdn_jax.errors import InputError
from mgdn_jax.io.codec import decode_image, encode_png
from mgdn_jax.training.logs import Figures
from mgdn_jax.weights.store import load_weights

SIZES = {"day": 5, "night": 12}
MIX = {"day": 1, "night": 3}
STEPS = 4


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Noise: "day" is bright, "night" dark; the target is the mean."""
    root = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(0)
    for name, count in SIZES.items():
        for k in range(count):
            a, b = rng.integers(0, 128, (2, 12, 12, 3)) + (127 if name == "day" else 0)
            for role, picture in (("a", a), ("b", b), ("target", (a + b) // 2)):
                path = root / "source" / name / role / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encode_png(picture.astype(np.uint8)))
        data.prepare("pairs", root / "source" / name, root, name=name)
    return root


@pytest.fixture(autouse=True)
def here(sets, monkeypatch):
    monkeypatch.setenv("MGDN_DATA_DIR", str(sets))


def config(validation=None, **train):
    block = fake_recipe.config(**{"steps": STEPS, "devices": 1, "save_every": 2, **train})
    block["data"] = {
        "loader": "mgdn_jax.data",
        "task": "pairs",
        "train": {"mix": dict(MIX), "crop": 8, "split": "train[:80%]", "threads": 0},
        "validation": validation or {"mix": dict(MIX), "crop": 8, "split": "train[80%:]"},
    }
    return block


@pytest.fixture(scope="module")
def whole(sets, tmp_path_factory):
    """An uninterrupted run, and what it said."""
    workdir = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MGDN_DATA_DIR", str(sets))
        result = training.fit(config(), workdir, quiet=True)
    return workdir, result


def test_the_log_says_how_often_each_set_was_gone_through(whole):
    workdir, _ = whole
    for line in log(workdir):
        day, night = Slots([1, 3]).counts(8 * line["step"])
        assert line["passes.day"] == day / 4  # four in five are for training
        assert line["passes.night"] == night / 10
        assert day + night == 8 * line["step"]
    card = load_weights(workdir / "fake.safetensors").card
    assert card["training"]["passes"] == {"day": 2.0, "night": 2.4}
    assert card["training"]["dataset_size"] == 14


def test_figures_of_each_set_and_of_all_by_their_shares(whole, tmp_path):
    workdir, result = whole
    (line,) = log(workdir, "validation")
    names = ["loss", "psnr", *(f"{figure}.{name}" for name in MIX for figure in ("loss", "psnr"))]
    assert list(result.metrics) == [k for k in line if k not in ("step", "kind")] == names
    for figure in ("loss", "psnr"):
        mean = (line[f"{figure}.day"] + 3 * line[f"{figure}.night"]) / 4
        assert line[figure] == pytest.approx(mean, rel=1e-6)
        assert line[f"{figure}.day"] != pytest.approx(line[f"{figure}.night"], rel=0.01)
    # The same networks, and one set alone is held out.
    alone = {"dataset": "night", "crop": 8, "split": "train[80%:]"}
    figures = training.fit(config(alone, save_every=0), tmp_path, quiet=True).metrics
    assert figures == pytest.approx({n: line[f"{n}.night"] for n in ("loss", "psnr")}, rel=1e-6)
    held_out = load_weights(workdir / "fake.safetensors").card["held_out"]
    assert held_out == {name: round(line[name], 6) for name in names}
    text = (workdir / "fake.md").read_text()
    assert f"- loss.night: {held_out['loss.night']:.5g}" in text


def test_the_grid_shows_every_set(whole):
    workdir, _ = whole
    (path,) = (workdir / "grids").iterdir()
    rows = decode_image(path.read_bytes(), "grid")
    assert rows.shape == (3 * 8 + 2 * 2, 4 * 8 + 3 * 2, 3)  # one pair of day, two of night
    assert rows[:8, :8].min() >= 127
    assert rows[10:18, :8].max() <= 127
    assert rows[20:28, :8].max() <= 127


def test_killed_and_resumed_gives_the_same_bits(whole, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole[0], workdir)
    for folder in (workdir / "checkpoints").iterdir():  # what a kill in the last step leaves
        if folder.name.isdigit() and int(folder.name) > 2:
            shutil.rmtree(folder)
    (workdir / "fake.safetensors").unlink()
    training.fit(config(), workdir, quiet=True)
    (_, wanted, header), (step, arrays, other) = newest(whole[0]), newest(workdir)
    assert step == STEPS
    assert header["data"] == other["data"]
    assert {k: v.tobytes() for k, v in arrays.items()} == {
        k: v.tobytes() for k, v in wanted.items()
    }
    for kind in ("train", "validation"):
        one, two = (
            [line | {"images_per_s": 0} for line in log(w, kind)] for w in (whole[0], workdir)
        )
        assert one == two


def test_one_device_as_two(whole, tmp_path, capsys):
    result = training.fit(config(devices=2, save_every=0), tmp_path)
    np.testing.assert_allclose(losses(tmp_path), losses(whole[0]), rtol=1e-5)
    assert result.metrics == pytest.approx(whole[1].metrics, rel=1e-4)
    said = capsys.readouterr().out
    for ending, figures in (("", ""), (".day", ".day"), (".night", ".night")):
        loss, psnr = (result.metrics[f"{figure}{figures}"] for figure in ("loss", "psnr"))
        assert f"step 4/4  validation{ending}  loss {loss:.5g}  psnr {psnr:.5g}\n" in said


def test_a_run_keeps_its_mixture(whole, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole[0], workdir)
    for mix, words in (
        ({"day": 1, "night": 2}, "data.train.mix.night=3 and the config now says 2; use the old"),
        ({"day": 1}, "data.train.mix.night=3 and the config now says None; use the old"),
        ({**MIX, "dusk": 1}, "mix.dusk: the data set 'dusk' is neither a prepared folder"),
    ):
        other = config(steps=9)
        other["data"]["train"]["mix"] = mix
        with pytest.raises(InputError) as caught:
            training.fit(other, workdir, quiet=True)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    other = config(steps=9)
    other["data"]["train"] |= {"mix": {}, "dataset": "day"}
    with pytest.raises(InputError, match=r"data.train.dataset='' and the config now says 'day'"):
        training.fit(other, workdir, quiet=True)
    assert newest(workdir)[0] == STEPS


def test_the_best_is_a_figure_of_all(tmp_path):
    with pytest.raises(InputError, match=r"'train.best' is 'psnr.day', which validation does not"):
        training.fit(config(best="psnr.day"), tmp_path, quiet=True)


class Evaluation:
    """Validation of a loader that somebody else wrote."""

    def __init__(self, **shares):
        self.shares = shares

    def __iter__(self):
        return iter(())


def test_figures_are_exact_whatever_the_sizes_of_the_batches():
    figures = Figures(Evaluation(day=1.0, dusk=5.0, night=3.0))
    for number, error, count in ((0, 6.0, 4), (0, 2.0, 1), (2, 1.0, 8), (2, 0.0, 2)):
        batch = {"_set": np.array([number, number])}
        figures.add(batch, {"error": np.float32(error), "count": np.float32(count)})
    assert figures.sets == 3
    # Nothing of dusk came: the others share what it had.
    assert figures.means() == {
        "": {"error": pytest.approx((8 / 5 + 3 * 0.1) / 4)},
        "day": {"error": 8 / 5},
        "night": {"error": 0.1},
    }
    for loader in ([], Evaluation()):
        plain = Figures(loader)
        plain.add({}, {"error": 3.0, "count": 2.0})
        plain.add({}, {"error": 1.0, "count": 2.0})
        assert (plain.sets, plain.means()) == (1, {"": {"error": 1.0}})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # ml_collections loads modules so
@pytest.mark.parametrize("name", ["mgdn:mff", "cddfuse:ivf", "lkc_funet:mif_cpu", "refusion:mef"])
def test_every_config_takes_a_mixture_and_jitter_from_the_command_line(name):
    words = [f"--config={name}", "--workdir=x", "--config.data.dataset="]
    words += [
        '--config.data.mix={"ivf": 1, "train2": 2.5}',
        "--config.data.train.jitter.contrast=1",
    ]
    words += ["--config.data.train.jitter.exposure=2", "--config.data.train.jitter.polarity=0.1"]
    block = parse(words).config.to_dict()["data"]
    assert (block["dataset"], block["mix"]) == ("", {"ivf": 1, "train2": 2.5})
    jitter = {"exposure": 2.0, "contrast": 1.0, "polarity": 0.1}
    off = {"scale": 1.0, "gamma": 1.0, "noise": 0.0, "clip": 0.0}
    assert {k: v for k, v in block["train"]["jitter"].items() if k in jitter} == jitter
    assert block["train"]["jitter"].keys() == {*jitter, *off}
