"""ReFusion's training: swap and black guard, a real step of the real networks, presets, the CLI."""

import functools
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import ROOT, environment, xla_flags

import mgdn_jax
from configs import refusion as configs
from mgdn_jax import bilevel, data
from mgdn_jax.errors import InputError
from mgdn_jax.io import codec
from mgdn_jax.systems import registry
from mgdn_jax.systems.refusion.recipe import Recipe
from mgdn_jax.training import config as run_config
from mgdn_jax.training import plan as run_plan
from mgdn_jax.training.meta_step import make_meta_step
from mgdn_jax.training.state import init_state

NETWORKS = ("fusion", "proposal", "reconstruction")
TINY = {"features": 2, "blocks": 1, "heads": 1}


def judge(psi, fused, batch):
    """An outer loss of one's own, without a network: (B,)."""
    del psi
    return jnp.mean(jnp.square(fused - batch["a"]), (1, 2, 3))


class Head:
    """An outer loss that brings a network: labels 0 and 1 of every pixel from the fused image."""

    def init(self, key):
        return {"kernel": jax.random.normal(key, (1, 2)), "bias": jnp.zeros(2)}

    def __call__(self, psi, fused, batch):
        scores = jax.nn.log_softmax(fused @ psi["kernel"] + psi["bias"].reshape(1, 1, 1, 2))
        right = batch["target"][..., 0] > 0.5
        return -jnp.mean(jnp.where(right, scores[..., 1], scores[..., 0]), (1, 2))


def images(size=4, side=8, seed=0):
    rng = np.random.default_rng(seed)
    a, b, target = rng.random((3, size, side, side, 1), np.float32)
    return {"a": a, "b": b, "target": target, "_index": np.arange(size, dtype=np.uint32)}


@functools.cache
def built(preset="ivf", **changes):
    """(recipe, optimisers, step) of a preset with tiny networks."""
    config = configs.get_config(preset)
    if preset == "ivf_mgdn":
        config.model.update({"features": 12, "depths": (1,), "heads": (3,)})
        config.recipe.auxiliary = TINY
    else:
        config.model.update(TINY)
    config.recipe.update(changes)
    run = run_config.check(config.to_dict())
    values = {key: value for key, value in run.recipe.items() if key != "name"}
    recipe = run_config.call(registry.recipe("refusion"), "recipe", values, model=run.model)
    plan = run_plan.stretches(recipe.phases, 1000)
    optimisers, schedules = run_plan.optimisers(
        run.optimiser, plan, optional=recipe.optional_networks
    )
    step = make_meta_step(
        recipe, optimisers, trains=plan[0].trains, rate=schedules["fusion"], total=1000,
        ema_decay=0.9,
    )  # fmt: skip
    return recipe, optimisers, step


def first_state(recipe, optimisers):
    """As after initialisation, but drawn by NumPy, which compiles nothing."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        name = path[-1].key
        if name.endswith("kernel"):
            fan_in = np.prod(leaf.shape[:-1])
            return jnp.asarray(rng.uniform(-1, 1, leaf.shape) / np.sqrt(fan_in), jnp.float32)
        ones = ("scale", "temperature", "slope")
        return jnp.full(leaf.shape, float(any(word in name for word in ones)))

    shapes, stats = jax.eval_shape(recipe.init, jax.random.key(0))
    params = jax.tree_util.tree_map_with_path(draw, shapes)
    return init_state(params, stats, optimisers, ema=True)


@pytest.fixture(scope="module")
def real():
    """(first state, compiled step) of form R; nothing guards against black but the norm floor."""
    recipe, optimisers, step = built("ivf", black=0.0)
    state = first_state(recipe, optimisers)
    return state, jax.jit(step).lower(state, images()).compile()


def moved(before, after):
    return {
        name: max(float(jnp.abs(after[name][k] - v).max()) for k, v in net.items())
        for name, net in before.items()
    }


@pytest.mark.long
def test_two_real_steps_move_every_network_by_its_rate(real):
    state, step = real
    for _ in range(2):
        before, (state, metrics) = state, step(state, images())
        change = moved(before.params, state.params)
        print(change, {name: float(value) for name, value in metrics.items()})
        # P by exactly eta in its largest coordinate; Adam's first steps by the rate at most.
        assert change["proposal"] == pytest.approx(1e-4, rel=1e-2)  # of float32 parameters near 1
        assert 0 < change["fusion"] <= 1.1e-4
        assert 0 < change["reconstruction"] <= 1.1e-4
        assert metrics["max_g"] > 0
        assert metrics["w_a"] + metrics["w_b"] == pytest.approx(1, abs=1e-5)
        assert metrics["v_a"] + metrics["v_b"] == pytest.approx(1, abs=1e-5)
        ramp = int(before.step + 1) / 1000
        wanted = metrics["int"] + ramp * metrics["grad"]
        np.testing.assert_allclose(metrics["loss"], wanted, rtol=1e-5)


@pytest.mark.long
def test_a_step_is_the_same_one_example_after_the_other(real):
    state, step = real
    config = configs.get_config("ivf")
    config.model.update({**TINY, "remat": "example"})
    recipe = Recipe(model=config.model.to_dict(), black=0.0)
    optimisers = built("ivf", black=0.0)[1]
    other = make_meta_step(
        recipe, optimisers, trains=NETWORKS, rate=lambda _: 1e-4, total=1000, ema_decay=0.9
    )
    after, metrics = jax.jit(other).lower(state, images()).compile()(state, images())
    wanted, known = step(state, images())
    for name in known:
        np.testing.assert_allclose(metrics[name], known[name], rtol=1e-3, err_msg=name)
    change, right = moved(wanted.params, after.params), moved(state.params, wanted.params)
    print(change, right)
    assert all(change[name] < 0.05 * right[name] for name in NETWORKS)


@pytest.mark.long
def test_a_black_source_at_the_start_is_survived_by_the_norm_floor(real):
    state, step = real
    batch = images() | {"b": np.zeros((4, 8, 8, 1), np.float32)}
    after, metrics = step(state, batch)
    print({name: float(metrics[name]) for name in ("max_g", "outer_loss", "grad_norm")})
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves((after.params, metrics)))
    assert metrics["max_g"] > 0
    assert moved(state.params, after.params)["proposal"] == pytest.approx(1e-4, rel=1e-2)


def test_the_guard_takes_black_examples_out():
    recipe = built()[0]
    batch = images()
    batch["b"][1] = 0.004
    view = recipe._view(batch)
    np.testing.assert_array_equal(view.counts, [1, 0, 1, 1] * 2)
    assert np.all(view.first[1] == 0.5)
    assert np.all(view.second[1] == 0.5)
    np.testing.assert_array_equal(view.first[2], batch["a"][2])
    own = built("ivf", outer="test_recipe_refusion.judge")[0]
    fused = jnp.zeros((8, 8, 8, 1))
    squares = np.square(batch["a"]).mean((1, 2, 3))[[0, 2, 3]]
    assert own.outer_loss({}, fused, batch) == pytest.approx(squares.sum() / 4, rel=1e-5)


def test_sources_are_swapped_and_targets_are_not():
    recipe = built("ivf", outer="test_recipe_refusion.judge")[0]
    batch = images()
    view = recipe._view(batch)
    np.testing.assert_array_equal(view.first, np.concatenate([batch["a"], batch["b"]]))
    np.testing.assert_array_equal(view.second, np.concatenate([batch["b"], batch["a"]]))
    for name in ("a", "b", "target"):
        np.testing.assert_array_equal(view.judged[name], np.concatenate([batch[name]] * 2))
    # R must give the original a from both orders.
    twice = jnp.concatenate([batch["a"], batch["a"]])
    assert recipe.outer_loss({}, jnp.asarray(twice), batch) == 0
    assert recipe.outer_loss({}, view.first, batch) > 0.01
    plain = built("ivf", swap=False)[0]._view(batch)
    assert len(plain.first) == 4


def test_an_outer_loss_may_bring_a_network():
    recipe = built("ivf", outer="test_recipe_refusion.Head")[0]
    assert recipe.networks == ("fusion", "proposal", "task")
    psi = Head().init(jax.random.key(0))
    value, g = jax.value_and_grad(recipe.auxiliary_loss)(psi, jnp.full((8, 8, 8, 1), 0.3), images())
    assert value > 0
    assert jnp.abs(g["kernel"]).max() > 0
    bare = {name: x for name, x in images().items() if name != "target"}
    supervised = built("ivf", outer="supervised_l1")[0]
    with pytest.raises(InputError, match="needs a data set with targets"):
        supervised.outer_loss({}, jnp.ones((8, 8, 8, 1)), bare)


@pytest.mark.parametrize("preset", configs.PRESETS)
def test_presets_are_good(preset):
    run = run_config.check(configs.get_config(preset).to_dict())
    values = {key: value for key, value in run.recipe.items() if key != "name"}
    recipe = run_config.call(Recipe, "recipe", values, model=run.model)
    plan = run_plan.stretches(recipe.phases, run.train.steps)
    made, _ = run_plan.optimisers(run.optimiser, plan, optional=recipe.optional_networks)
    assert set(made) == set(recipe.networks)
    assert recipe.ships in recipe.networks
    assert getattr(recipe.model_config, "norm_floor", 1e-12) == 1e-12  # what ships


def test_the_configs_file_is_short():
    text = pathlib.Path(configs.__file__).read_text()
    # The docstring has a line a preset: hours, machine, figures.
    assert len(text.splitlines()) - len(configs.__doc__.splitlines()) <= 140


@pytest.mark.long
@pytest.mark.parametrize("preset", ["ivf_form_r", "ivf_mgdn", "ivf_supervised"])
def test_families_trace(preset):
    recipe, optimisers, step = built(preset)
    state = jax.eval_shape(lambda: first_state(recipe, optimisers))
    after, metrics = jax.eval_shape(step, state, images())
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert metrics.keys() >= {"loss", "int", "grad", "outer_loss", "inner_loss", "max_g", "w_a"}
    assert ("recon" in metrics) == (preset != "ivf_supervised")
    assert ("v_a" in metrics) == (preset == "ivf_form_r")


def test_an_even_start_is_the_frozen_loss_and_moves_at_once():
    recipe = built("smoke", even_start=True)[0]
    params, _ = recipe.init(jax.random.key(0))
    batch = images()

    def first(phi):
        return jnp.mean(jnp.square(recipe.propose(phi, batch)["w"][..., 0]))

    maps = recipe.propose(params["proposal"], batch)
    assert all(np.all(weights == 0.5) for weights in maps.values())
    slopes = jax.grad(first)(params["proposal"])
    assert any(np.any(slope) for name, slope in slopes.items() if "last/" in name)
    drawn = built("smoke")[0]
    others = drawn.init(jax.random.key(0))[0]["proposal"]
    for name, value in params["proposal"].items():
        assert ("last/" in name) == (value.tobytes() != others[name].tobytes()), name


def test_frozen_weights_have_no_proposal():
    recipe = built("ivf_frozen", form="R")[0]
    assert recipe.networks == ("fusion", "reconstruction")
    maps = recipe.propose({}, images())
    assert maps.keys() == {"w", "v"}
    assert np.all(maps["w"] == 0.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"form": "S"}, "recipe.form is 'S' and must be 'R' or 'T'"),
        ({"outer": "nowhere.loss"}, "recipe.outer is 'nowhere.loss'; choose one of reconstruction"),
        (
            {"inner_optimiser": "adma"},
            "recipe.inner_optimiser is 'adma'; choose one of sgd, normalised_sgd, adam",
        ),
        ({"inner_steps": 0}, "recipe.inner_steps is 0 and must be a whole number from 1"),
        ({"inner_steps": 3, "mode": "mixed_product"}, "'mixed_product' is for steps=1, got 3"),
        ({"mode": "first_order"}, "recipe.mode is 'first_order' and must be one of auto"),
        ({"norm_floor": 0.0}, "recipe.norm_floor is 0.0 and must be above 0"),
        ({"trainable": "fusion"}, "recipe.trainable is 'fusion' and must be a tuple"),
        ({"model": {"system": "mgnd"}}, "no system 'mgnd'"),
        ({"model": {"featurs": 3}}, "no field 'featurs'; did you mean 'features'"),
        ({"model": {"dtype": "bfloat16"}}, "model.dtype is 'bfloat16' and must be 'float32'"),
        ({"auxiliary": {"head": 3}}, "no field 'head'; did you mean 'heads'"),
        ({"gradient": -1.0}, "recipe.gradient is -1.0 and must be a number of 0 or more"),
    ],
)
def test_bad_fields_are_one_sentence(change, words):
    with pytest.raises(InputError, match=words) as caught:
        Recipe(**{"model": {}} | change)
    assert "\n" not in str(caught.value)


def test_a_loss_cannot_win_by_being_steeper():
    # One step on (w (x - 1))^2 goes further the larger w is: a meta-gradient that says nothing
    # about where to go. Steps of equal length have none.
    def slope(name, x):
        inner = Recipe(model=TINY, inner_optimiser=name).meta.optimiser
        meta = bilevel.meta_gradient(
            lambda theta, w, batch: jnp.square(w * (theta - 1.0)),
            lambda theta, w, batch: jnp.square(theta - 1.0),
            optimiser=optax.chain(inner, optax.scale(0.1)),
        )
        return float(meta(jnp.float32(0.5), jnp.float32(x), {}, {})[1])

    assert slope("sgd", 0.0) < -0.1
    assert abs(slope("normalised_sgd", 0.0)) < 1e-6
    assert slope("normalised_sgd", 1.0) == 0.0  # no gradient, no step, and no NaN


@pytest.mark.parametrize("name", ["adam", "optax.rmsprop"])
def test_inner_optimisers_are_one_word(name):
    if name == "optax.rmsprop":
        assert Recipe(model=TINY, inner_optimiser=name).meta.optimiser.init({"x": jnp.ones(1)})
    else:
        assert Recipe(model=TINY, inner_optimiser=name, inner_steps=2).meta.mode == "unrolled"


def test_colour_is_refused():
    with pytest.raises(InputError, match=r"set data\.channels=1"):
        built()[0]._view({"a": jnp.ones((1, 4, 4, 3)), "b": jnp.ones((1, 4, 4, 3))})


def test_gray_and_colour_pairs_become_luminance(pairs):
    del pairs
    with data.make_loader(
        "ivf", task="pairs", channels=1, batch_size=2, crop=16, split="train", threads=0
    ) as loader:
        batch = next(loader)
    assert batch["a"].shape == batch["b"].shape == (2, 16, 16, 1)
    levels = batch["b"] * 255
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)  # rounded as published
    assert np.std(levels) < 0.85 * np.std(batch["a"] * 255)  # a mean of channels varies less


@pytest.mark.long
def test_train_py_smoke_ends_with_weights_that_fuse(pairs):
    def command(*words):
        run = subprocess.run(
            [sys.executable, *words],
            cwd=ROOT, env=environment(XLA_FLAGS=xla_flags(2)), capture_output=True, text=True,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    workdir = pairs / "run"
    tiny = [f"--config.model.{name}={value}" for name, value in TINY.items()]
    shown = command(
        "train.py", "--config=configs/refusion.py:smoke", f"--workdir={workdir}",
        "--config.train.steps=2", *tiny,
    )  # fmt: skip
    assert "complete at step 2" in shown
    weights = workdir / "refusion-smoke.safetensors"
    fuser = mgdn_jax.load(weights)
    assert fuser.system == "refusion"
    assert fuser.config.norm_floor == 1e-12
    assert fuser.card["learned_loss"]["form"] == "R"
    source = pairs / "source"
    command("-m", "mgdn_jax", "fuse", source / "ir" / "0.png", source / "vi" / "0.png", "-o",
            pairs / "fused.png", "--model", weights)  # fmt: skip
    assert codec.decode_image((pairs / "fused.png").read_bytes(), "fused").shape == (20, 24, 3)
