"""CDDFuse's two phases through the loop: stops, kills and devices leave no trace."""

import os
import re
import signal
import time

import fake_cddfuse
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers_runs import finish, log, losses, newest, start, wait_for_step

from mgdn_jax import training
from mgdn_jax.layers.functional import REMATS
from mgdn_jax.systems.cddfuse.recipe import Recipe

NETWORKS = {"encoder", "decoder", "base_fusion", "detail_fusion"}
BOUNDARY = 3


def fit(workdir, recipe=None, **train):
    made = fake_cddfuse.config(**{"devices": 1} | train)
    made["recipe"] |= recipe or {}
    return training.fit(made, workdir, quiet=True)


def same(one, other):
    """Checkpoints and losses of two runs are equal bit for bit."""
    (step, whole, header), (other_step, parts, other_header) = newest(one), newest(other)
    assert step == other_step == 6
    assert header["data"] == other_header["data"]
    assert whole.keys() == parts.keys()
    for kind in ("params", "opt"):
        assert {name.split("/")[1] for name in whole if name.startswith(kind)} == NETWORKS
    for name, value in whole.items():
        assert value.tobytes() == parts[name].tobytes(), name
    assert losses(one) == losses(other)
    assert len(losses(one)) == 6


@pytest.mark.long
def test_stopped_before_at_and_after_the_boundary_equals_uninterrupted(tmp_path, monkeypatch):
    fit(tmp_path / "whole")
    stops = (BOUNDARY - 1, BOUNDARY, BOUNDARY + 1)

    class Interrupting(fake_cddfuse.Gray):
        def __next__(self):
            if self.position + 1 in stops:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__next__()

    monkeypatch.setattr(fake_cddfuse, "Gray", Interrupting)
    ends = []
    while not ends or ends[-1] < 6:
        ends.append(fit(tmp_path / "parts").step)
    assert ends == [*stops, 6]
    same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param([BOUNDARY - 1], id="before", marks=pytest.mark.long),
        pytest.param([BOUNDARY, BOUNDARY + 1], id="at and after", marks=pytest.mark.long),
    ],
)
def test_killed_around_the_boundary_equals_uninterrupted(tmp_path, moments):
    fit(tmp_path / "whole", save_every=1)
    workdir, config = tmp_path / "killed", "--config=tests/fake_cddfuse.py"
    command = ["--config.train.save_every=1", "--config.train.devices=1",
               "--config.data.train.delay=0.5"]  # fmt: skip
    for moment in moments:
        process = start(workdir, *command, config=config)
        wait_for_step(workdir, moment, process)
        while not (workdir / "checkpoints" / str(moment)).exists():  # saved in a thread
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.005)
        process.kill()
        code, out = finish(process)
        assert code == -signal.SIGKILL, out
    code, out = finish(start(workdir, *command, config=config))
    assert code == 0, out
    resumed = int(re.search(r"from step (\d+) to", out)[1])
    print(f"killed at {moments}, went on from step {resumed}")
    assert moments[-1] <= resumed <= BOUNDARY + 1
    same(tmp_path / "whole", workdir)


@pytest.mark.parametrize(
    "form",
    [pytest.param(form, marks=pytest.mark.long) for form in ("released", "paper")],
)
def test_one_device_and_four_give_the_same_trajectory(tmp_path, form):
    """Also where the loss is no mean of its examples' ("released"): means cross devices."""
    for devices in (1, 4):
        fit(tmp_path / str(devices), {"form": form}, devices=devices)
    one, four = (log(tmp_path / name) for name in "14")
    names = {"loss", "grad_norm", "decomposition", "cc_base", "cc_detail"}
    assert one[0].keys() >= names
    assert "intensity" in one[-1]
    for name in sorted(names):
        found, wanted = ([row[name] for row in rows] for rows in (four, one))
        off = np.max(np.abs(np.subtract(found, wanted)) / np.abs(wanted))
        print(f"{form} {name}: 4 devices off by {off:.1e}")
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6, err_msg=name)
    (_, wanted, _), (_, found, _) = (newest(tmp_path / name) for name in "14")
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=2e-5, err_msg=name)


def loss_of(remat):
    """(loss of the second phase as a function of parameters, what makes the parameters)."""
    recipe = Recipe(fake_cddfuse.config()["model"] | {"remat": remat, "blocks": 2})
    stats = {name: {} for name in NETWORKS}
    rng = np.random.default_rng(0)
    batch = {name: jnp.asarray(rng.random((2, 8, 8, 1)), jnp.float32) for name in "ab"}
    return lambda params: recipe.loss(params, stats, batch, None)[0], recipe.init


def test_policies_of_rematerialisation_keep_less_and_less():
    kept = {}
    for remat in REMATS:
        loss, init = loss_of(remat)
        params, _ = jax.eval_shape(init, jax.random.key(0))
        pullback = jax.eval_shape(lambda params, loss=loss: jax.vjp(loss, params)[1], params)
        kept[remat] = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pullback))
    print(kept)
    assert kept["none"] > kept["dots"] > kept["block"] > kept["row"]
    assert kept["example"] <= 1.01 * kept["block"]


@pytest.mark.long
def test_policies_of_rematerialisation_give_the_same_gradients():
    found, params = {}, loss_of("none")[1](jax.random.key(0))[0]
    for remat in REMATS:
        loss, _ = loss_of(remat)
        found[remat] = jax.tree.leaves(jax.jit(jax.grad(loss))(params))
    for remat, grads in found.items():
        for ours, wanted in zip(grads, found["none"], strict=True):
            np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5, err_msg=remat)
