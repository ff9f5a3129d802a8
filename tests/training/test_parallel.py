"""A step by pmap and by a mesh: the same figures, the same bits after resuming, and in turns."""

import itertools

import fake_meta
import fake_recipe
import helpers
import jax
import numpy as np
import pytest
from helpers_runs import losses, newest

from mgdn_jax import training
from mgdn_jax.errors import InputError
from mgdn_jax.training import config as run_config
from mgdn_jax.training import plan
from mgdn_jax.training.meta_step import make_meta_step
from mgdn_jax.training.parallel import AXIS, WAYS, ByMesh
from mgdn_jax.training.setup import read_recipe
from mgdn_jax.training.state import init_state
from mgdn_jax.training.step import make_train_step

STEPS = 10


def built(config):
    """(steps of all phases, first state, recipe) of a config."""
    run = run_config.check(config)
    recipe = read_recipe(run)
    stretches = plan.stretches(recipe.phases, STEPS)
    every = {} if recipe.meta is None else {recipe.meta.learns: recipe.meta.every}
    optimisers, schedules = plan.optimisers(
        run.optimiser, stretches, every=every, optional=recipe.optional_networks
    )
    steps = []
    for stretch in stretches:
        options = {"trains": stretch.trains, "ema_decay": 0.9, "axis_name": AXIS}
        if stretch.kind == "meta":
            rate = schedules[recipe.meta.inner]
            step = make_meta_step(recipe, optimisers, rate=rate, total=STEPS, **options)
        else:
            step = make_train_step(recipe.loss, optimisers, seed=0, phase=stretch.phase, **options)
        steps.append(step)
    params, stats = recipe.init(jax.random.key(0))
    return steps, jax.device_get(init_state(params, stats, optimisers, ema=True)), recipe


def trained(way, devices, step, state, batches):
    """(losses, last state) of a step over some devices."""
    parallel = WAYS[way](jax.devices()[:devices], is_part=True)
    update, state, figures = parallel.train(step), parallel.replicate(state), []
    for batch in batches:
        state, metrics = update(state, parallel.split(batch))
        figures.append(float(metrics["loss"]))
    for leaf in jax.tree.leaves(state):  # what claims to be replicated is
        shards = [np.asarray(shard.data).tobytes() for shard in leaf.addressable_shards]
        assert len(shards) == devices
        assert len({*shards}) == 1
    return figures, jax.device_get(state)


def assert_equal(step, state, batches, devices):
    (by_pmap, one), (by_mesh, other) = (
        trained(way, devices, step, state, batches) for way in ("pmap", "mesh")
    )
    assert by_pmap[-1] != by_pmap[0]
    np.testing.assert_allclose(by_mesh, by_pmap, rtol=1e-6)
    gaps = jax.tree.map(lambda a, b: float(np.abs(a - b).max(initial=0)), one, other)
    assert max(jax.tree.leaves(gaps)) < 1e-6, gaps
    return one


def fakes(count=STEPS, size=8):
    rows = [fake_recipe.example(0, i, 4) for i in range(count * size)]
    return [fake_recipe.stack(rows[k * size : (k + 1) * size]) for k in range(count)]


def test_a_learned_loss_is_equal_by_pmap_and_mesh():
    (step,), state, _ = built(fake_meta.config())
    assert_equal(step, state, fakes(), 2)


def test_pmap_and_mesh_are_equal_on_one_two_and_four_devices():
    (step,), state, _ = built(fake_recipe.config())
    ends = [assert_equal(step, state, fakes(), devices) for devices in (1, 2, 4)]
    for name, value in ends[0].params["fusion"].items():
        np.testing.assert_allclose(ends[-1].params["fusion"][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("name", ["cddfuse", "lkc_funet", "mgdn", "pyramid", "refusion"])
def test_every_system_is_equal_by_pmap_and_mesh(name):
    """With what they bring along: statistics of batches, learned losses, two optimisers."""
    config = helpers.script(f"configs/{name}.py").get_config("smoke").to_dict()
    steps, state, recipe = built(config)
    side = config["data"]["train"]["crop"]
    rng = np.random.default_rng(0)
    names = "abc"[: len(recipe.model_config.in_channels)]
    channels = dict(zip(names, recipe.model_config.in_channels, strict=True))
    channels["target"] = recipe.model_config.out_channels
    batches = [
        {k: rng.random((8, side, side, c), np.float32) for k, c in channels.items()}
        | {"_index": np.arange(8 * t, 8 * t + 8, dtype=np.uint32)}
        for t in range(STEPS)
    ]
    for step, devices in itertools.product(steps, (1, 2, 4)):
        assert_equal(step, state, batches, devices)


def test_pictures_of_a_share_come_in_its_order():
    batch = {"x": np.arange(8, dtype=np.float32)[:, None], "_set": np.zeros(8)}
    for way in WAYS:
        parallel = WAYS[way](jax.devices(), is_part=False)
        step = parallel.evaluate(lambda p, s, b: (jax.lax.psum(b["x"].sum(), AXIS), [p * b["x"]]))
        two, nothing = parallel.replicate((np.float32(2), {}))
        total, (pictures,) = step(two, nothing, parallel.split(batch))
        assert float(total) == 28
        np.testing.assert_array_equal(parallel.rows(pictures), 2 * batch["x"])


def fit(workdir, steps, **train):
    config = fake_recipe.config(**{"devices": 2, "steps": steps, "parallel": "mesh"} | train)
    return training.fit(config, workdir, quiet=True)


def test_a_mesh_resumes_to_the_same_bits_and_goes_on_by_pmap(tmp_path):
    fit(tmp_path / "whole", 6)
    for steps in (3, 6):
        fit(tmp_path / "parts", steps)
    fit(tmp_path / "both", 3, parallel="pmap")
    fit(tmp_path / "both", 6)
    whole, parts, both = (newest(tmp_path / name)[1] for name in ("whole", "parts", "both"))
    assert {k: v.tobytes() for k, v in whole.items()} == {k: v.tobytes() for k, v in parts.items()}
    np.testing.assert_allclose(losses(tmp_path / "both"), losses(tmp_path / "whole"), rtol=1e-6)
    for name, value in whole.items():
        np.testing.assert_allclose(both[name], value, atol=1e-6, err_msg=name)


def test_a_mesh_refuses_what_does_not_divide(tmp_path):
    mesh = ByMesh(jax.devices(), is_part=False)
    with pytest.raises(ValueError, match="divi"):
        mesh.train(lambda s, b: (s, b))(mesh.replicate(np.ones(1)), mesh.split({"x": np.ones(6)}))
    with pytest.raises(InputError, match=r"'train.parallel' is 'shards' and must be 'pmap' or 'm"):
        fit(tmp_path, 1, parallel="shards")
