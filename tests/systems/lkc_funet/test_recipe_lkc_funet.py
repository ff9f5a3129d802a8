"""LKC-FUNet's training: devices, batch statistics, dropout across a stop, its configs, its data."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers_runs import newest

import mgdn_jax
from configs import lkc_funet as configs
from mgdn_jax import data, losses, training
from mgdn_jax.data.augmentation import augment
from mgdn_jax.errors import InputError
from mgdn_jax.io import codec
from mgdn_jax.systems import registry
from mgdn_jax.systems.lkc_funet.losses import ssim_both
from mgdn_jax.systems.lkc_funet.recipe import Recipe
from mgdn_jax.training import config as run_config
from mgdn_jax.training import optimisers
from mgdn_jax.training.state import example_keys, init_state
from mgdn_jax.training.step import make_train_step

TINY = {"features": 2, "norm_groups": 2, "kernels": (3, 3, 3), "norm_in": "batch"}


def read(preset, **changes):
    """(recipe, run) of a preset."""
    config = configs.get_config(preset)
    config.recipe.update(changes)
    run = run_config.check(config.to_dict())
    values = {key: value for key, value in run.recipe.items() if key != "name"}
    return run_config.call(registry.recipe("lkc_funet"), "recipe", values, model=run.model), run


def start(recipe):
    """A training state whose values NumPy draws."""
    _, shapes, moments = registry.abstract("lkc_funet", recipe.model_config)
    random = np.random.default_rng(0)
    params = {
        k: jnp.asarray(
            random.uniform(-1, 1, v.shape) / np.sqrt(np.prod(v.shape[:-1]))
            if k.endswith("kernel")
            else np.full(v.shape, float(not k.endswith("bias"))),
            jnp.float32,
        )
        for k, v in shapes.items()
    }
    stats = {k: jnp.full(v.shape, float(k.endswith("variance"))) for k, v in moments.items()}
    adam = {"fusion": optimisers.make_optimiser("sgd", 1e-2, momentum=0.0)}
    return init_state({"fusion": params}, {"fusion": stats}, adam, ema=False), adam


def batch(count=4, side=8):
    random = np.random.default_rng(1)
    images = {k: random.random((count, side, side, 1), np.float32) for k in "ab"}
    return images | {"_index": np.arange(count, dtype=np.uint32)}


@pytest.mark.long
def test_two_devices_see_the_whole_batch():
    recipe = Recipe({"preset": "ivf", **TINY})
    state, _ = start(recipe)
    whole = batch()

    def loss(state, batch, seed=0, axis_name=None):
        keys = example_keys(seed, 0, batch["_index"])
        args = state.params, state.stats, batch, keys
        value, (new, _) = recipe.loss(*args, axis_name=axis_name)
        return value, new["fusion"]

    alone = jax.jit(loss)
    value, one = alone(state, whole, 0)
    assert float(alone(state, whole, 1)[0]) != pytest.approx(float(value), rel=1e-4)
    shared = {k: v.reshape(2, -1, *v.shape[1:]) for k, v in whole.items()}
    mapped = functools.partial(loss, axis_name="data")
    values, two = jax.pmap(mapped, "data", in_axes=(None, 0), devices=jax.devices()[:2])(
        state, shared
    )
    # Dropping is on: what goes is the example's affair, not the device's.
    assert float(values.mean()) == pytest.approx(float(value), rel=1e-5)
    assert len(one) == 20
    assert any((v != state.stats["fusion"][k]).any() for k, v in one.items())
    for name, moments in one.items():
        shards = np.asarray(two[name])
        assert shards[0].tobytes() == shards[1].tobytes(), name
        assert np.allclose(shards[0], moments, rtol=1e-5, atol=1e-6), name


@pytest.mark.long
def test_two_devices_take_the_statistics_of_the_whole_batch():
    recipe = Recipe({"preset": "ivf", **TINY})
    state, sgd = start(recipe)
    whole = batch()

    def step(axis_name):
        return make_train_step(
            recipe.loss, sgd, seed=0, phase="fusion", trains=("fusion",), axis_name=axis_name
        )

    one, alone = jax.jit(step(None))(state, whole)
    shared = {k: v.reshape(2, -1, *v.shape[1:]) for k, v in whole.items()}
    spread = jax.pmap(step("data"), axis_name="data", in_axes=(None, 0), devices=jax.devices()[:2])
    two, both = spread(state, shared)
    for name, value in alone.items():
        assert float(both[name][0]) == pytest.approx(float(value), rel=1e-5), name
    worst = 0.0
    for kind in ("stats", "params"):
        before, after, spread = (getattr(s, kind)["fusion"] for s in (state, one, two))
        for name, value in after.items():
            shards = np.asarray(spread[name])
            assert shards[0].tobytes() == shards[1].tobytes(), name
            worst = max(worst, np.abs(shards[0] - value).max())
        assert any((before[k] != v).any() for k, v in after.items())
    print(f"two devices against one: {worst:.1e}")
    assert len(one.stats["fusion"]) == 20
    assert worst <= 1e-5


@pytest.mark.parametrize(
    ("ssim_range", "gradient_rule", "intensity_rule", "intensity_share"),
    [
        ("network", "strength", "max", 1.0),
        ("unit", "strength", "sum", 1.0),
        ("unit", "signed", "screen", 0.5),
    ],
)
def test_the_loss_is_the_sum_of_its_terms_each_in_its_range(
    ssim_range, gradient_rule, intensity_rule, intensity_share
):
    choices = {
        "ssim_range": ssim_range,
        "gradient_rule": gradient_rule,
        "intensity_rule": intensity_rule,
        "intensity_share": intensity_share,
    }
    recipe = Recipe({"preset": "ivf", **TINY}, gradient=2.0, ssim=0.5, **choices)
    state, _ = start(recipe)
    images = {k: jnp.asarray(v) for k, v in batch().items()}

    def values(params, stats):
        loss, (new, terms) = recipe.loss(params, stats, images, None)
        return loss, new, terms, recipe.fuse(params, stats, *recipe.sources(images))

    loss, new, terms, fused = jax.jit(values)(state.params, state.stats)
    f, a, b = (2 * x - 1 for x in (fused, images["a"], images["b"]))
    if gradient_rule == "signed":  # twice that of [0, 1], where what surrounds them is black
        gradient = 2 * losses.gradient_signed_max(fused, images["a"], images["b"])
    else:
        gradient = losses.sobel_max(f, a, b)
    # twice that of [0, 1], where a sum and a screen have their meaning
    target = losses.intensity_target(images["a"], images["b"], intensity_rule, intensity_share)
    wanted = 2 * losses.l1(fused, target) + 2 * gradient
    seen = (f, a, b) if ssim_range == "network" else (fused, images["a"], images["b"])
    wanted = float((wanted + 0.5 * ssim_both(*seen)).mean())
    assert float(loss) == pytest.approx(wanted, rel=1e-5)
    assert set(terms) == {"intensity", "gradient", "ssim"}
    # Without keys the network runs as it is used: its statistics stay.
    same = jax.tree.map(lambda x, y: bool((x == y).all()), new, state.stats)
    assert all(jax.tree.leaves(same))


def test_options_of_the_recipe():
    for preset in configs.PRESETS:
        recipe, run = read(preset)
        config = recipe.model_config
        mif = preset.startswith("mif")
        assert config.order == ((0, 1) if mif else (1, 0))
        assert recipe.card()["inputs"] == ("CT/PET/SPECT, MRI" if mif else "infrared, visible")
        assert run.data["train"]["augment"] == "flips"
        assert config.dropout == (0.0 if preset.endswith(("_cpu", "_cameras")) else 0.2)
    for changes, message in (
        ({"ssim": -1.0}, "recipe.ssim is -1.0 and must be a number"),
        ({"intensity_share": 1.5}, "recipe.intensity_share is 1.5 and must be between 0 and 1"),
        ({"intensity": 0, "gradient": 0, "ssim": 0}, "recipe has no loss"),
        ({"ssim_range": "255"}, "recipe.ssim_range is '255'; it is one of network, unit"),
        (
            {"gradient_rule": "abs"},
            "recipe.gradient_rule is 'abs'; it is one of strength, signed",
        ),
        (
            {"intensity_rule": "median"},
            "recipe.intensity_rule is 'median'; it is one of max, mean, sum, screen",
        ),
    ):
        with pytest.raises(InputError, match=message):
            read("smoke", **changes)
    with pytest.raises(InputError, match="merged networks are for use"):
        Recipe({"preset": "ivf", "merged": True})
    recipe, _ = read("smoke")
    colour = {name: jnp.zeros((1, 8, 8, 3)) for name in "ab"}
    with pytest.raises(InputError, match=r"set data.channels=1"):
        recipe.loss({}, {}, colour, None)


def test_flips_alone_leave_rows_rows(pairs):
    source = codec.decode_image((pairs / "source" / "ir" / "0.png").read_bytes(), "0.png")
    flips = {augment(source, mode).tobytes() for mode in (0, 2, 4, 6)}
    assert flips == {x.tobytes() for x in (source, source[::-1], source[:, ::-1],
                                           source[::-1, ::-1])}  # fmt: skip
    common = {"batch_size": 4, "task": "pairs", "channels": 1, "crop": 64, "threads": 0}
    loader = data.make_loader("ivf", augment="flips", **common)
    # Pictures are completed by reflection: a quarter turn would exchange the periods of the axes.
    for _ in range(5):
        for image in next(loader)["a"][..., 0]:
            assert np.array_equal(image[:10], image[38:48])
    loader.close()
    with pytest.raises(InputError, match="use True, False or 'flips'"):
        data.make_loader("ivf", augment="turns", **common)


@pytest.mark.long
def test_stopped_and_resumed_equals_uninterrupted_dropout_included(pairs):
    def fit(name, steps):
        config = configs.get_config("smoke")
        config.model.update({**TINY, "multiplier": 4})
        config.train.update({"steps": steps, "devices": 1, "save_every": 0, "eval_every": 0})
        config.data.train.threads = 0
        return training.fit(config, pairs / name, quiet=True)

    fit("whole", 4)
    for count in (2, 4):
        result = fit("parts", count)
    whole, parts = (newest(pairs / name)[1] for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert any(name.startswith("stats/fusion/") for name in whole)
    for name, value in whole.items():
        assert value.tobytes() == parts[name].tobytes(), name
    lines = [json.loads(x) for x in (pairs / "whole" / "log.jsonl").read_text().splitlines()]
    assert {"intensity", "gradient", "ssim"} <= lines[0].keys()
    # Statistics travel with the averaged weights.
    fuser = mgdn_jax.load(result.weights)
    assert fuser.config.norm_in == "batch"
    for name, value in fuser.stats.items():
        assert np.asarray(value).tobytes() == whole[f"stats/fusion/{name}"].tobytes()
    assert any((fuser.stats[k] != float(k.endswith("variance"))).any() for k in fuser.stats)
    for name, value in fuser.params.items():
        assert np.asarray(value).tobytes() == whole[f"ema/fusion/{name}"].tobytes()
    picture = codec.decode_image((pairs / "source" / "ir" / "0.png").read_bytes(), "0.png")
    assert fuser(picture, picture).shape == (20, 24)
