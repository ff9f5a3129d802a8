"""Checkpoints outside the workdir: another folder, and addresses that cannot be used."""

import json
import shutil
import sys

import fake_recipe
import pytest
from helpers_runs import losses, newest

from mgdn_jax import training
from mgdn_jax.errors import InputError
from mgdn_jax.training.checkpoints import newest_whole
from mgdn_jax.training.lock import Lock
from mgdn_jax.training.places import home, is_remote, path_of


def fit(workdir, recipe=None, **train):
    config = fake_recipe.config(**{"devices": 1, "save_every": 2} | train)
    config["recipe"] |= recipe or {}
    return training.fit(config, workdir, quiet=True)


def test_a_run_whose_workdir_is_lost_goes_on_from_its_checkpoints(tmp_path):
    place = str(tmp_path / "store" / "run")
    fit(tmp_path / "whole", steps=6)
    fit(tmp_path / "lost", steps=4, checkpoints=place)
    assert not (tmp_path / "lost" / "checkpoints").exists()
    assert newest_whole(place) == tmp_path / "store" / "run" / "4"
    shutil.rmtree(tmp_path / "lost")
    # Another config is not taken for it: the checkpoints hold their own.
    with pytest.raises(InputError, match=r"was started with recipe.noise=0.01 .* says 0.5"):
        fit(tmp_path / "other", {"noise": 0.5}, steps=6, checkpoints=place)
    assert fit(tmp_path / "new", steps=6, checkpoints=place).status == "complete"
    assert json.loads((tmp_path / "new" / "config.json").read_text())["train"]["steps"] == 6
    (tmp_path / "new" / "checkpoints").symlink_to(place)
    whole, parts = newest(tmp_path / "whole"), newest(tmp_path / "new")
    assert {k: v.tobytes() for k, v in whole[1].items()} == {
        k: v.tobytes() for k, v in parts[1].items()
    }
    assert losses(tmp_path / "new") == losses(tmp_path / "whole")[4:]


def test_two_runs_do_not_share_a_folder_of_checkpoints(tmp_path):
    with Lock(tmp_path), pytest.raises(InputError, match="trains here since"):
        fit(tmp_path / "run", steps=2, checkpoints=str(tmp_path))


def test_a_failure_names_the_checkpoint_where_it_is(tmp_path):
    place = tmp_path / "store"
    with pytest.raises(training.TrainingDivergedError, match=f"good checkpoint is {place}/2;"):
        fit(tmp_path / "run", {"poison": 20}, steps=6, checkpoints=str(place))


def test_homes(tmp_path):
    assert home("runs/a") == "runs/a/checkpoints"
    assert home("runs/a", "gs://bucket/a") == "gs://bucket/a"
    assert is_remote("s3://bucket")
    assert not is_remote(tmp_path)
    assert path_of(tmp_path) == tmp_path
    assert str(path_of("gs://bucket/a") / "b") == "gs://bucket/a/b"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (
            "s3://bucket/run",
            "s3://bucket/run: is no place for checkpoints, which Orbax writes to f",
        ),
        ("gs://bucket/run", "gs://bucket/run: needs gcsfs; install it with pip install gcsfs."),
    ],
)
def test_an_address_that_cannot_be_used_is_one_sentence(tmp_path, monkeypatch, place, words):
    for name in ("gcsfs", "tensorflow"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError) as caught:
        fit(tmp_path, steps=2, checkpoints=place)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)
