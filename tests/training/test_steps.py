"""The pure step against Optax by hand, and everything it promises not to depend on."""

import fake_recipe
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mgdn_jax.training.optimisers import make_optimiser, make_schedule
from mgdn_jax.training.state import example_keys, init_state
from mgdn_jax.training.step import make_eval_step, make_train_step


def quadratic(params, stats, batch, keys, phase, *, axis_name=None):
    """Mean over examples of |w - x|^2 / 2 for each network; stats count their examples."""
    del keys, phase, axis_name
    total = sum(
        jnp.mean(jnp.sum(jnp.square(net["w"][None] - batch["x"]), -1)) / 2
        for net in params.values()
    )
    stats = {name: {"n": s["n"] + len(batch["x"])} for name, s in stats.items()}
    return total, (stats, {"first": batch["x"][0, 0]})


def batch(size=8):
    x = np.random.default_rng(0).normal(size=(size, 3)).astype(np.float32)
    return {"x": x, "_index": np.arange(size, dtype=np.uint32)}


def state(optimisers, names=("net",), ema=True):
    params = {name: {"w": jnp.arange(3.0) + i} for i, name in enumerate(names)}
    stats = {name: {"n": jnp.zeros(())} for name in names}
    return init_state(params, stats, optimisers, ema=ema)


def test_two_updates_equal_optax_by_hand():
    optimiser = make_optimiser("adamw", 0.1, weight_decay=0.01, clip_norm=0.5)
    step = make_train_step(
        quadratic, {"net": optimiser}, seed=0, phase="p", trains=("net",), ema_decay=0.9
    )
    now, x = state({"net": optimiser}), batch()["x"]
    reference = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.1, weight_decay=0.01))
    w = average = np.arange(3.0, dtype=np.float32)
    opt = reference.init({"w": w})
    for count in range(2):
        grad = w - x.mean(0)
        now, metrics = jax.jit(step)(now, batch())
        np.testing.assert_allclose(
            metrics["loss"], np.square(np.asarray(w) - x).sum(-1).mean() / 2, rtol=1e-6
        )
        np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(grad), rtol=1e-6)
        change, opt = reference.update({"w": grad}, opt, {"w": w})
        w = w + change["w"]
        average = 0.9 * average + 0.1 * w
        assert now.step == count + 1
        np.testing.assert_allclose(now.params["net"]["w"], w, rtol=1e-6)
        np.testing.assert_allclose(now.ema["net"]["w"], average, rtol=1e-6)


def test_first_adam_step_is_the_learning_rate():
    # m / sqrt(v) = sign(g) after bias correction, whatever the gradient's size.
    optimiser = make_optimiser("adam", 0.25)
    step = make_train_step(quadratic, {"net": optimiser}, seed=0, phase="p", trains=("net",))
    before = state({"net": optimiser})
    after, _ = step(before, batch())
    grad = np.arange(3.0) - batch()["x"].mean(0)
    expected = np.arange(3.0) - 0.25 * np.sign(grad)
    np.testing.assert_allclose(after.params["net"]["w"], expected, rtol=1e-5)


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulation_equals_the_whole_batch(parts):
    recipe = fake_recipe.Recipe(model={})
    params, stats = recipe.init(jax.random.key(0))
    optimisers = {"fusion": make_optimiser("sgd", 0.1, momentum=0.0)}
    data = fake_recipe.stack([fake_recipe.example(0, i, 8) for i in range(8)])
    results = []
    for accumulate in (1, parts):
        step = make_train_step(
            recipe.loss,
            optimisers,
            seed=3,
            phase="only",
            trains=("fusion",),
            accumulate=accumulate,
            ema_decay=0.5,
        )
        results.append(jax.jit(step)(init_state(params, stats, optimisers, ema=True), data))
    (whole, whole_metrics), (summed, summed_metrics) = results
    # Statistics see one update a part, so only they may differ.
    for one, other in [
        (whole.params, summed.params),
        (whole.ema, summed.ema),
        (whole_metrics, summed_metrics),
    ]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, other)
    moved = whole.params["fusion"]["layers/0/kernel"] - params["fusion"]["layers/0/kernel"]
    assert np.abs(moved).max() > 1e-4


def test_statistics_are_carried_through_the_parts():
    optimiser = make_optimiser("sgd", 0.1)
    step = make_train_step(
        quadratic, {"net": optimiser}, seed=0, phase="p", trains=("net",), accumulate=4
    )
    after, metrics = step(state({"net": optimiser}), batch())
    assert after.stats["net"]["n"] == 8
    np.testing.assert_allclose(metrics["first"], batch()["x"][::2, 0].mean(), rtol=1e-6)


def test_only_the_named_networks_move():
    optimisers = {name: make_optimiser("sgd", 0.1) for name in "ab"}
    step = make_train_step(quadratic, optimisers, seed=0, phase="p", trains=("b",))
    before = state(optimisers, "ab")
    after, _ = step(before, batch())
    np.testing.assert_array_equal(after.params["a"]["w"], before.params["a"]["w"])
    assert np.all(np.asarray(after.params["b"]["w"] != before.params["b"]["w"]))
    same = jax.tree.map(lambda x, y: bool(np.all(x == y)), after.opt["a"], before.opt["a"])
    assert all(jax.tree.leaves(same))
    # A decay of 0 leaves the average alone.
    np.testing.assert_array_equal(after.ema["b"]["w"], before.ema["b"]["w"])


def test_keys_follow_the_example_not_its_place():
    index = jnp.arange(8, dtype=jnp.uint32)
    whole = jax.random.key_data(example_keys(1, 5, index))
    turned = jax.random.key_data(example_keys(1, 5, index[::-1]))
    np.testing.assert_array_equal(whole, turned[::-1])
    assert len({tuple(key) for key in whole.tolist()}) == 8
    for seed, step, stream in [(2, 5, "train"), (1, 6, "train"), (1, 5, "other")]:
        other = jax.random.key_data(example_keys(seed, step, index, stream=stream))
        assert not np.any(np.all(whole == other, -1))


def test_muon_takes_convolutions_as_matrices():
    """Updates of convolutions have like singular values; what is no matrix moves as by NAdam."""
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = {
        "dense/kernel": (5, 5, 3, 4),
        "depthwise/kernel": (5, 5, 1, 4),
        "linear/kernel": (6, 4),
        "dense/bias": (4,),
    }
    params = {
        name: jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    grads = jax.tree.map(lambda x: jnp.square(x) - x, params)
    made, adam = make_optimiser("muon", 0.1), optax.adam(0.1, nesterov=True)
    update, _ = jax.jit(made.update)(grads, made.init(params), params)
    reference, _ = jax.jit(adam.update)(grads, adam.init(params), params)
    for name in ("depthwise/kernel", "dense/bias"):
        np.testing.assert_allclose(update[name], reference[name], rtol=1e-5)
    for name in ("dense/kernel", "linear/kernel"):
        values = np.linalg.svd(np.asarray(update[name]).reshape(-1, 4), compute_uv=False)
        print(f"{name}: singular values over the largest {values / values[0]}")
        assert values[-1] > 0.5 * values[0]  # five Newton-Schulz steps leave 0.7 to 1.2
        raw = np.linalg.svd(np.asarray(grads[name]).reshape(-1, 4), compute_uv=False)
        assert raw[-1] < 0.5 * raw[0]
        assert np.sum(update[name] * grads[name]) < 0


def test_mistakes_are_refused():
    optimisers = {"net": make_optimiser("sgd", 0.1)}
    with pytest.raises(ValueError, match="no optimiser for \\['other'\\]"):
        make_train_step(quadratic, optimisers, seed=0, phase="p", trains=("other",))
    step = make_train_step(quadratic, optimisers, seed=0, phase="p", trains=("net",), accumulate=3)
    with pytest.raises(ValueError, match="batch of 8 does not divide into 3"):
        step(state(optimisers), batch())
    with pytest.raises(ValueError, match="'adamw'"):
        make_optimiser("adam", 0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match="unknown optimiser 'lion'"):
        make_optimiser("lion", 0.1)
    with pytest.raises(ValueError, match="unknown schedule"):
        make_schedule("poly", learning_rate=1, total_steps=1)
    with pytest.raises(ValueError, match="do not fit"):
        make_schedule("cosine", learning_rate=1, total_steps=5, warmup_steps=6)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("constant", {}, {0: 2.0, 50: 2.0, 99: 2.0}),
        ("constant", {"warmup_steps": 4}, {0: 0.5, 1: 1.0, 3: 2.0, 4: 2.0}),
        ("cosine", {}, {0: 2.0, 50: 1.0, 100: 0.0, 200: 0.0}),
        ("cosine", {"end_factor": 0.1}, {0: 2.0, 50: 1.1, 100: 0.2}),
        ("cosine", {"warmup_steps": 20}, {0: 0.1, 19: 2.0, 20: 2.0, 60: 1.0, 100: 0.0}),
        (
            "multistep",
            {"milestones": (0.5, 0.75), "gamma": 0.1},
            {0: 2.0, 49: 2.0, 50: 0.2, 74: 0.2, 75: 0.02},
        ),
        ("multistep", {}, {0: 2.0, 99: 2.0}),
    ],
)
def test_schedules(name, options, expected):
    schedule = make_schedule(name, learning_rate=2.0, total_steps=100, **options)
    for count, rate in expected.items():
        np.testing.assert_allclose(schedule(count), rate, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(jax.jit(schedule)(jnp.int32(count)), rate, rtol=1e-5, atol=1e-7)


def test_state_leaves_share_no_buffer():
    optimisers = {"net": make_optimiser("adam", 0.1)}
    donating = jax.jit(
        make_train_step(quadratic, optimisers, seed=0, phase="p", trains=("net",), ema_decay=0.5),
        donate_argnums=0,
    )
    after, _ = donating(state(optimisers), batch())
    after, _ = donating(after, batch())
    assert after.step == 2


def test_validation_sums_equal_one_by_one():
    recipe = fake_recipe.Recipe(model={})
    params, stats = recipe.init(jax.random.key(0))
    step = jax.jit(make_eval_step(recipe, phase="only"))
    data = fake_recipe.stack([fake_recipe.example(0, i, 8) for i in range(5)])
    data["target"] = data["target"] * 0.5
    mask = np.array([1, 1, 0, 1, 0], np.float32)
    sums, (fused,) = step(params, stats, {**data, "_mask": mask})
    assert fused.shape == (5, 8, 8, 3)
    losses, psnrs = [], []
    for i in np.flatnonzero(mask):
        one = {name: value[i : i + 1] for name, value in data.items()}
        losses.append(recipe.loss(params, stats, one, None, "only")[0])
        image = np.clip(recipe.fuse(params, stats, one["a"], one["b"])[0], 0, 1)
        psnrs.append(10 * np.log10(1 / np.mean(np.square(image - one["target"][0]))))
        np.testing.assert_allclose(np.clip(fused[i], 0, 1), image, atol=1e-6)
    assert sums["count"] == 3
    np.testing.assert_allclose(sums["loss"], sum(losses), rtol=1e-5)
    np.testing.assert_allclose(sums["psnr"], sum(psnrs), rtol=1e-5)
