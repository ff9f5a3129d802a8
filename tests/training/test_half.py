"""Presets in bfloat16: one step runs, and its loss is near that of float32."""

import helpers
import jax
import numpy as np
import pytest

from mgdn_jax.training import config as run_config
from mgdn_jax.training import plan
from mgdn_jax.training.setup import read_recipe
from mgdn_jax.training.state import init_state
from mgdn_jax.training.step import make_train_step


def losses(name):
    """Losses of two steps in float32, and in bfloat16."""
    figures = {}
    for preset in ("smoke", "smoke_bf16"):
        config = helpers.script(f"configs/{name}.py").get_config(preset).to_dict()
        run = run_config.check(config)
        recipe = read_recipe(run)
        first, *_ = stretches = plan.stretches(recipe.phases, 10)
        optimisers, _ = plan.optimisers(run.optimiser, stretches)
        step = jax.jit(
            make_train_step(recipe.loss, optimisers, seed=0, phase=first.phase, trains=first.trains)
        )
        params, stats = recipe.init(jax.random.key(0))
        state = init_state(params, stats, optimisers, ema=False)
        side, rng = config["data"]["train"]["crop"], np.random.default_rng(0)
        counts = dict(zip("ab", recipe.model_config.in_channels, strict=True))
        counts["target"] = recipe.model_config.out_channels
        batch = {k: rng.random((2, side, side, c), np.float32) for k, c in counts.items()}
        batch["_index"] = np.arange(2, dtype=np.uint32)
        figures[preset] = []
        for _ in range(2):
            state, metrics = step(state, batch)
            figures[preset].append(float(metrics["loss"]))
        kinds = {leaf.dtype for leaf in jax.tree.leaves(state.params)}
        assert kinds == {np.dtype("float32")}
        assert recipe.model_config.dtype == ("bfloat16" if "bf16" in preset else "float32")
    return figures.values()


NAMES = ("cddfuse", "lkc_funet", "mgdn", "pyramid")


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_has_one_in_bfloat16(name):
    configs = helpers.script(f"configs/{name}.py")
    for preset in configs.PRESETS:
        whole, half = (configs.get_config(n).to_dict() for n in (preset, f"{preset}_bf16"))
        assert half["model"].pop("dtype") == "bfloat16"
        assert whole["model"].pop("dtype", "float32") == "float32"
        assert half == whole
    with pytest.raises(ValueError, match="there is no preset 'x'"):
        configs.get_config("x_bf16")


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_a_step_in_bfloat16_is_near_one_in_float32(name):
    whole, half = losses(name)
    assert half != whole
    np.testing.assert_allclose(half, whole, rtol=0.03)
