"""Scripts about CDDFuse and the one that trains everything, on tiny networks and by dry runs."""

import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, noise, script
from helpers_systems import CDDFUSE, drawn

import mgdn_jax
from mgdn_jax.errors import InputError
from mgdn_jax.io.pixels import from_float


def test_feature_maps_are_those_of_the_network():
    maps_of = script("examples/feature_maps.py")
    _, params = drawn("cddfuse", CDDFUSE, 0.1)
    fuser = mgdn_jax.Fuser("cddfuse", CDDFUSE, params)
    a, b = (np.asarray(noise(9, 12, seed=seed)) for seed in (0, 1))
    maps, alike = maps_of.features(fuser, a, b)
    np.testing.assert_allclose(maps["pictures"][:2], [a, b], atol=1e-6)
    np.testing.assert_allclose(maps["pictures"][2], fuser(a, b), atol=1e-5)
    assert maps["base"].shape == maps["detail"].shape == (3, 9, 12)
    assert all(-1 <= value <= 1 for value in alike.values())
    assert not np.allclose(maps["base"][0], maps["base"][1])
    page = maps_of.sheet(maps)
    assert (page.shape, page.dtype) == ((3 * 9 + 8, 3 * 12 + 8), np.uint8)
    np.testing.assert_array_equal(page[:9, :12], from_float(a, np.dtype(np.uint8)))
    assert (page[9:13] == 255).all()
    for column in (page[:, 16:28], page[:, 32:44]):  # both scales are used in full
        assert column[:22].min() == 0
        assert column[-9:].max() == 255
    fuser.system = "mgdn"
    with pytest.raises(InputError, match="give a CDDFuse network"):
        maps_of.features(fuser, a, b)


def retrain(*arguments):
    return subprocess.run(
        [sys.executable, "benchmarks/retrain.py", *arguments],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


def test_every_system_and_task_is_retrained(tmp_path):
    (tmp_path / "ivf").mkdir()
    place = ["--data", str(tmp_path), "--out", "runs", "--dry-run"]
    ran = retrain(*place, "--", "--config.train.seed=1")
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert len([line for line in lines if "data prepare pairs" in line]) == 1  # the folder there is
    for name in ("mgdn-mff", "mgdn-mef", "cddfuse-ivf", "cddfuse-mif", *(
        f"refusion-{task}" for task in ("ivf", "mif", "mff", "mef")
    )):  # fmt: skip
        (line,) = [
            line for line in lines if line.endswith(f"--workdir=runs/{name} --config.train.seed=1")
        ]
        assert f"configs/{name.replace('-', '.py:')}" in line
    ran = retrain(*place, "--cpu", "--only", "cddfuse:ivf")
    prepare, train = ran.stdout.splitlines()
    assert "--name ivf" in prepare
    assert "configs/cddfuse.py:ivf_cpu --workdir=runs/cddfuse-ivf" in train
    ran = retrain(*place, "--only", "cddfuse:mff")
    assert ran.returncode == 1
    assert "there is no run cddfuse:mff" in ran.stderr
