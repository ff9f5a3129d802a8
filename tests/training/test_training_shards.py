"""Two processes, each with half of the shards in a folder of its own, against one that has all."""

import shutil
import socket

import fake_shards
import numpy as np
import pytest
from helpers import xla_flags
from helpers_runs import finish, log, losses, newest, start

from mgdn_jax import data, training
from mgdn_jax.io.codec import encode_png


@pytest.fixture
def sets(tmp_path):
    """all/ with "noise" in two shards of 9 and 8 pairs with targets; 0/ and 1/ with one each."""
    rng = np.random.default_rng(0)
    for k in range(17):
        a, b = rng.integers(0, 256, (2, 10, 10, 3))
        for role, picture in (("a", a), ("b", b), ("target", (a + b) // 2)):
            path = tmp_path / "source" / role / f"{k:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(picture.astype(np.uint8)))
    data.prepare("pairs", tmp_path / "source", tmp_path / "all", name="noise", shards=2)
    for k in range(2):
        name = f"noise-0000{k}-of-00002"
        shutil.copytree(tmp_path / "all" / name, tmp_path / str(k) / name)
    return tmp_path


def test_half_of_the_shards_each_is_as_all_of_them(sets, tmp_path, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    open_mpi = {
        "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1,127.0.1.1:34911",
        "OMPI_COMM_WORLD_SIZE": "2",
        "JAX_COORDINATOR_PORT": str(port),
    }
    pair = [
        start(
            *(tmp_path / "two", "--distributed=auto", "--config.train.steps=5"),
            config="--config=tests/fake_shards.py",
            MGDN_DATA_DIR=str(sets / str(k)),
            XLA_FLAGS=xla_flags(1),
            **open_mpi,
            OMPI_COMM_WORLD_RANK=str(k),
            OMPI_COMM_WORLD_LOCAL_RANK=str(k),
        )
        for k in range(2)
    ]
    for code, out in map(finish, pair):
        assert code == 0, out
    # One process goes on with all shards; another one has trained alone all the time.
    monkeypatch.setenv("MGDN_DATA_DIR", str(sets / "all"))
    for name in ("two", "one"):
        training.fit(fake_shards.config(devices=1), tmp_path / name, quiet=True)
    two, one = (losses(tmp_path / name) for name in ("two", "one"))
    assert len(one) == 10
    np.testing.assert_allclose(two, one, rtol=1e-5)
    for line, other in zip(*(log(tmp_path / n, "validation") for n in ("two", "one")), strict=True):
        for figure in ("loss", "psnr"):
            assert line[figure] == pytest.approx(other[figure], rel=1e-5)
    both, alone = (newest(tmp_path / name) for name in ("two", "one"))
    assert both[2]["data"] == alone[2]["data"]
    assert both[2]["data"]["shards"] == 2
    for name, value in alone[1].items():
        np.testing.assert_allclose(both[1][name], value, rtol=1e-4, atol=1e-6, err_msg=name)
