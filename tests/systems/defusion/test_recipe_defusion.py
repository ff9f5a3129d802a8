"""DeFusion's training: phases, rates, what ships, the calls that are counted, devices, resuming."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers_defusion import TINY

from configs import defusion as configs
from mgdn_jax.errors import InputError
from mgdn_jax.systems import registry
from mgdn_jax.systems.contract import Phase
from mgdn_jax.systems.defusion.recipe import Recipe
from mgdn_jax.training import config as run_config
from mgdn_jax.training import optimisers
from mgdn_jax.training import plan as run_plan
from mgdn_jax.training.parallel import AXIS, WAYS
from mgdn_jax.training.state import init_state
from mgdn_jax.training.step import make_eval_step, make_train_step

SHORT = {"outside_from": 1, "outside_full": 3, "outside_relaxed": 4, "fusion_from": 2,
         "fusion_zero": 1, "fusion_full": 4}  # fmt: skip


def read(preset):
    """(recipe, run) of a preset."""
    run = run_config.check(configs.get_config(preset).to_dict())
    values = {key: value for key, value in run.recipe.items() if key != "name"}
    return run_config.call(registry.recipe("defusion"), "recipe", values, model=run.model), run


def test_the_published_schedule():
    """The last convolution begins at step 17,000, and its rate falls with that of the others."""
    recipe, run = read("b")
    plan = run_plan.stretches(recipe.phases, run.train.steps)
    assert [(s.phase, s.start, s.stop, s.trains) for s in plan] == [
        ("decomposition", 0, 17_000, ("parts",)),
        ("fusion", 17_000, 637_500, ("parts", "rule")),
    ]
    _, schedules = run_plan.optimisers(run.optimiser, plan)
    for epoch, rate in ((1, 1e-3), (10, 5e-4), (20, 2.5e-4), (30, 1.25e-4), (40, 6.25e-5)):
        for step in (12_500 * epoch, 12_500 * (epoch + 10) - 1 if epoch > 1 else 124_999):
            for name in ("parts", "rule"):
                done = run_plan.updates(plan, name, step)
                if step >= 17_000 or name == "parts":
                    assert float(schedules[name](done)) == pytest.approx(rate, rel=1e-6), step


def test_phases_of_a_length_in_updates():
    phases = (Phase("x", ("n",), 0.0, steps=3), Phase("y", ("n",), 0.25), Phase("z", ("n",), 0.75))
    for total, stops in ((11, (3, 5, 11)), (3, (3, 3, 3)), (2, (2, 2, 2))):
        laid = run_plan.stretches(phases, total)
        assert tuple(s.stop for s in laid) == stops
        assert [s.start for s in laid] == [0, *stops[:-1]]
    assert read("small")[0].phases[0].steps == 400
    assert [p.name for p in Recipe({}, fusion_from=0).phases] == ["fusion"]


def test_presets_and_a_calmer_start():
    for preset in configs.PRESETS:
        recipe, run = read(preset)
        assert recipe.networks == ("parts", "rule")
        assert run.data["task"] == "mgdn_jax.systems.defusion.pretext"
    model = TINY.to_dict()
    key = jax.random.key(0)
    plain, stats = Recipe(model).init(key)
    calm = Recipe(model, start_gain=0.5, start_level=0.25).init(key)[0]
    name = "encoder/rows/0/blocks/0/widen/kernel"
    np.testing.assert_allclose(calm["parts"][name], 0.5 * plain["parts"][name])
    for network, name in (("rule", "project/bias"), ("parts", "unique/project/bias")):
        np.testing.assert_allclose(calm[network][name], plain[network][name] + 0.25, rtol=1e-6)
    assert float(stats["rule"]["calls"]) == 0
    # A fresh convolution has the published spread.
    wide = registry.initialise("defusion", dataclasses.replace(TINY, code=64), key)[1]
    kernel = wide["parts/ensembler/blocks/0/attention/kernel"]
    assert kernel.shape == (3, 3, 32, 128)
    assert float(kernel.std()) == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.02)
    for fields, sentence in (
        ({"scale": 0.0}, "recipe.scale is 0.0 and must be above 0"),
        ({"start_gain": -1.0}, "recipe.start_gain is -1.0 and must be above 0"),
    ):
        with pytest.raises(InputError, match=sentence):
            Recipe(model, **fields)
    with pytest.raises(InputError, match=r"set data.task=mgdn_jax.systems.defusion.pretext"):
        Recipe(model).loss(plain, stats, {"a": None}, None)


def batches(count, size=4, side=8):
    rng = np.random.default_rng(0)
    for turn in range(count):
        first = rng.integers(0, 2, (size, side, side, 1)).astype(np.float32)
        images = {name: rng.random((size, side, side, 3), np.float32) for name in ("a", "b")}
        yield {
            **images,
            "target": (images["a"] + images["b"]) / 2,
            "mask_a": first,
            "mask_b": np.maximum(1 - first, rng.integers(0, 2, first.shape).astype(np.float32)),
            "_index": np.arange(turn * size, (turn + 1) * size, dtype=np.uint32),
        }


@pytest.fixture(scope="module")
def built():
    """(recipe, {phase: step}, first state) of a tiny network on a short schedule."""
    recipe = Recipe(TINY.to_dict(), **SHORT, start_gain=0.5, start_level=0.3)
    adam = {name: optimisers.make_optimiser("adam", 1e-3) for name in recipe.networks}
    steps = {
        phase.name: make_train_step(
            recipe.loss, adam, seed=0, phase=phase.name, trains=phase.trains, axis_name=AXIS,
            ema_decay=0.9,
        )
        for phase in recipe.phases
    }  # fmt: skip
    return recipe, steps, init_state(*recipe.init(jax.random.key(2)), adam, ema=True)


def run(built, devices, count, state=None, begin=0):
    """(losses by step, states after every step) over so many devices."""
    recipe, steps, first = built
    parallel = WAYS["pmap"](jax.devices()[:devices], is_part=True)
    updates = {name: parallel.train(step) for name, step in steps.items()}
    state = parallel.replicate(jax.device_get(first if state is None else state))
    figures, states = [], []
    for turn, batch in enumerate(batches(count)):
        if turn < begin:
            continue
        phase = recipe.phases[int(turn >= SHORT["fusion_from"])]
        state, metrics = updates[phase.name](state, parallel.split(batch))
        figures.append({name: float(value) for name, value in metrics.items()})
        states.append(jax.device_get(state))
    return figures, states


def test_devices_resuming_and_when_the_last_convolution_learns(built):
    first = built[2]
    figures, states = run(built, 1, 5)
    # Nothing of the rule moves in the first phase, its optimiser's count included.
    for turn, state in enumerate(states):
        assert float(state.stats["rule"]["calls"]) == turn + 1 == int(state.step)
        moved = bool(np.any(state.params["rule"]["project/kernel"]
                            != np.asarray(first.params["rule"]["project/kernel"])))  # fmt: skip
        (count,) = {int(x) for x in jax.tree.leaves(state.opt["rule"]) if np.ndim(x) == 0}
        assert (moved, count) == ((turn >= 2), max(turn - 1, 0))
        assert ("fusion" in figures[turn]) == (turn >= 2)
    assert figures[0]["loss"] == pytest.approx(
        4 * sum(figures[0][name] for name in ("common", "upper", "lower")), rel=1e-6
    )
    # Stopped within either phase and between them, it goes on to the same bits.
    for stop in (1, 2, 3):
        _, later = run(built, 1, 5, states[stop - 1], stop)
        same = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), states[-1], later[-1])
        assert all(jax.tree.leaves(same))
    # Four devices take the same steps.
    spread, others = run(built, 4, 5)
    for one, other in zip(figures, spread, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    assert float(others[-1].stats["rule"]["calls"]) == 5
    gaps = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), states[0].params, others[0].params)
    print(f"1 and 4 devices: {max(jax.tree.leaves(gaps)):.1e} after a step")


def test_validation_has_the_weights_of_the_end(built):
    recipe, _, state = built
    evaluate = jax.jit(make_eval_step(recipe, phase="decomposition"))
    batch = {**next(batches(1)), "_mask": np.ones(4, np.float32)}
    del batch["_index"]
    sums, pictures = evaluate(state.params, state.stats, batch)
    later = {**state.stats, "rule": {"calls": jnp.float32(50)}}
    again, _ = evaluate(state.params, later, batch)
    assert sums.keys() == {"loss", "psnr", "count"}
    assert float(sums["loss"]) == float(again["loss"])
    assert pictures[0].shape == (4, 8, 8, 3)
