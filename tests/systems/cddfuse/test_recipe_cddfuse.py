"""CDDFuse's training: four steps of the original, its rates, its phases, a whole run."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden, max_error, relative_error
from helpers import ROOT, environment, xla_flags
from helpers_systems import cddfuse_params

import mgdn_jax
from configs import cddfuse as configs
from mgdn_jax.errors import InputError
from mgdn_jax.io import codec
from mgdn_jax.layers import functional
from mgdn_jax.systems import registry
from mgdn_jax.systems.cddfuse.losses import fusion_max, gradient_l1, structure
from mgdn_jax.systems.cddfuse.recipe import Recipe
from mgdn_jax.training import config as run_config
from mgdn_jax.training import optimisers
from mgdn_jax.training import plan as run_plan
from mgdn_jax.training.state import init_state
from mgdn_jax.training.step import make_train_step
from mgdn_jax.weights import conversion

PARTS = {"encoder": "DIDF_Encoder", "decoder": "DIDF_Decoder",
         "base_fusion": "BaseFuseLayer", "detail_fusion": "DetailFuseLayer"}  # fmt: skip


def stored(golden, prefix):
    """Published arrays below a prefix, by our path in the joined network."""
    found = {}
    for name, value in golden.arrays.items():
        if name.startswith(prefix):
            key = name.removeprefix(prefix).replace("/module.", ".")
            ((path, layout),) = conversion._targets(key, conversion.rules_of("cddfuse"))
            found[path] = layout.ours(value)
    assert found
    return found


def norm(tree):
    return float(jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in tree.values())))


@pytest.mark.long
def test_four_steps_of_the_original():
    golden = Golden("cddfuse_train_steps")
    with jax.enable_x64(True):
        recipe = Recipe({"preset": "ivf", "dtype": "float64"})
        whole = {k: jnp.asarray(v, "float64") for k, v in cddfuse_params().items()}
        params = {name: functional.below(whole, name) for name in PARTS}
        adam = {
            name: optimisers.make_optimiser("adam", 1e-4, clip_norm=0.01, clip_offset=1e-6)
            for name in PARTS
        }
        stats = {name: {} for name in PARTS}
        state = init_state(params, stats, adam, ema=False)
        compiled = {}
        for i in range(4):
            phase = recipe.phases[i // 2]
            batch = {
                ours: jnp.asarray(np.moveaxis(golden[f"in:step{i}/{theirs}"], 1, -1), "float64")
                for ours, theirs in (("a", "ir"), ("b", "vis"))
            }
            batch["_index"] = np.arange(2, dtype=np.uint32)
            if phase.name not in compiled:
                step = make_train_step(
                    recipe.loss, adam, seed=0, phase=phase.name, trains=phase.trains
                )

                def both(state, batch, step=step, phase=phase):
                    def value(trained):
                        return recipe.loss({**state.params, **trained}, stats, batch, None,
                                           phase.name)  # fmt: skip

                    trained = {name: state.params[name] for name in phase.trains}
                    found = jax.value_and_grad(value, has_aux=True)(trained)
                    return step(state, batch), found

                compiled[phase.name] = jax.jit(both).lower(state, batch).compile()
            before = state
            (state, _), ((loss, (_, terms)), grads) = compiled[phase.name](state, batch)
            scalar = {k: float(golden[f"scalar:step{i}/{k}"])
                      for k in ("loss", "loss_decomp", "cc_loss_B", "cc_loss_D")}  # fmt: skip
            off = {
                k: abs(float(v) / scalar[k] - 1)
                for k, v in (("loss", loss), ("loss_decomp", terms["decomposition"]),
                             ("cc_loss_B", terms["cc_base"]), ("cc_loss_D", terms["cc_detail"]))
            }  # fmt: skip
            norms = {
                name: abs(norm(grads[name])
                          / float(golden[f"scalar:step{i}/grad_norm/{PARTS[name]}"]) - 1)
                for name in phase.trains
            }  # fmt: skip
            delta = {
                name: abs(
                    norm({k: v - params[name][k] for k, v in state.params[name].items()})
                    - float(golden[f"scalar:step{i}/param_delta_l2/{part}"])
                )
                for name, part in PARTS.items()
            }
            print(f"step {i}: scalars {max(off.values()):.1e}, gradient norms"
                  f" {max(norms.values()):.1e}, moved {max(delta.values()):.1e}")  # fmt: skip
            assert max(off.values()) <= 1e-6  # the window of SSIM, see its loss
            assert max(norms.values()) <= 1e-6
            assert max(delta.values()) <= 1e-6
            own = recipe.join({**{n: {} for n in PARTS}, **grads}, {})[0]
            if i in (0, 3):
                wanted = stored(golden, f"grad:step{i}/")
                error = max(relative_error(own[k], v) for k, v in wanted.items())
                print(f"  {len(wanted)} gradients {error:.1e} of the largest entry")
                assert error <= 1e-5
            if i in (1, 3):
                joined = recipe.join(state.params, {})[0]
                wanted = stored(golden, f"out:step{i}/param/")
                error = max(max_error(joined[k], v) for k, v in wanted.items())
                print(f"  {len(wanted)} parameters {error:.1e}")
                assert error <= 1e-7  # Adam divides by gradients that are nearly zero
            for name in set(PARTS) - set(phase.trains):  # nothing of it moves, moments included
                same = jax.tree.map(lambda x, y: bool((x == y).all()), before.opt[name],
                                    state.opt[name])  # fmt: skip
                assert all(jax.tree.leaves(same))


def read(preset, **changes):
    """(recipe, run) of a preset."""
    config = configs.get_config(preset)
    config.recipe.update(changes)
    run = run_config.check(config.to_dict())
    values = {key: value for key, value in run.recipe.items() if key != "name"}
    return run_config.call(registry.recipe("cddfuse"), "recipe", values, model=run.model), run


def test_rates_are_the_published_ones():
    recipe, run = read("ivf")
    plan = run_plan.stretches(recipe.phases, 1200)  # ten steps an epoch
    assert [(s.start, s.stop) for s in plan] == [(0, 400), (400, 1200)]
    _, schedules = run_plan.optimisers(run.optimiser, plan)
    table = {0: 1e-4, 19: 1e-4, 20: 5e-5, 39: 5e-5, 40: 2.5e-5, 60: 1.25e-5, 99: 6.25e-6,
             100: 3.125e-6, 119: 3.125e-6}  # fmt: skip
    fusion = {40: 1e-4, 59: 1e-4, 60: 5e-5, 80: 2.5e-5, 99: 2.5e-5, 100: 1.25e-5, 119: 1.25e-5}
    for names, rates in ((("encoder", "decoder"), table),
                         (("base_fusion", "detail_fusion"), fusion)):  # fmt: skip
        for name in names:
            for epoch, rate in rates.items():
                for step in (10 * epoch, 10 * epoch + 9):
                    done = run_plan.updates(plan, name, step)
                    assert float(schedules[name](done)) == pytest.approx(rate, rel=1e-6)


def test_clipping_divides_by_the_norm_and_its_offset():
    clip = optimisers.make_optimiser("sgd", 1.0, momentum=0, clip_norm=0.01, clip_offset=1e-3)
    grads = {"x": jnp.asarray([3.0, 4.0])}
    step, _ = clip.update(grads, clip.init(grads))
    assert np.allclose(step["x"], -np.asarray([3.0, 4.0]) * 0.01 / 5.001, rtol=1e-6)
    small = {"x": jnp.asarray([0.003, 0.004])}
    step, _ = clip.update(small, clip.init(small))
    assert np.allclose(step["x"], -small["x"], rtol=1e-6)


def test_options_of_the_recipe():
    for preset in configs.PRESETS:
        recipe, _ = read(preset)
        wanted = "none" if preset.startswith("mif") else "second"
        assert recipe.model_config.skip == wanted
    with pytest.raises(InputError, match=r"recipe.form is 'newest'; choose one of released, paper"):
        read("ivf", form="newest")
    with pytest.raises(InputError, match=r"first_phase is 1.0 and must be in"):
        read("ivf", first_phase=1.0)
    recipe, _ = read("smoke")
    colour = {name: jnp.zeros((1, 8, 8, 3)) for name in "ab"}
    with pytest.raises(InputError, match=r"set data.channels=1"):
        recipe.loss({}, {}, colour, None)


def test_what_ships_comes_apart_again():
    recipe, _ = read("smoke")
    networks = recipe.init(jax.random.key(0))
    joined = recipe.join(*networks)
    parts = recipe.part(*joined)
    assert parts[1] == networks[1]
    assert jax.tree.structure(parts[0]) == jax.tree.structure(networks[0])
    assert jax.tree.all(jax.tree.map(np.array_equal, parts[0], networks[0]))


def test_both_forms_in_both_phases():
    """The forms differ by the gradient term and by how correlations meet the batch."""
    built = {form: read("smoke", form=form)[0] for form in ("released", "paper")}
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.random((2, 12, 12, 1)), jnp.float32) for _ in "ab")

    def values(key):
        params, stats = built["paper"].init(key)
        found = {
            (form, phase.name): recipe.loss(params, stats, {"a": a, "b": b}, None, phase.name)
            for form, recipe in built.items()
            for phase in recipe.phases
        }
        fused = built["paper"].fuse(params, stats, a, b)
        rebuilt = built["paper"]._rebuilt(params, a, b)[0]
        images = rebuilt[1], b, rebuilt[0], a
        return {"_".join(k): (v, m) for k, (v, (_, m)) in found.items()}, fused, images

    found, fused, (rebuilt_b, b, rebuilt_a, a) = jax.jit(
        values
    )(jax.random.key(0))  # fmt: skip
    for form in built:
        value, terms = found[f"{form}_fusion"]
        wanted = fusion_max(fused, a, b).mean() + 2 * terms["decomposition"]
        assert float(value) == pytest.approx(float(wanted), rel=1e-5)
        value, terms = found[f"{form}_reconstruction"]
        wanted = (structure(rebuilt_a, a, form=form) + structure(rebuilt_b, b, form=form)).mean()
        wanted += 2 * terms["decomposition"]
        if form == "released":
            wanted += 5 * gradient_l1(rebuilt_b, b).mean()
        assert float(value) == pytest.approx(float(wanted), rel=1e-5)
    ours, theirs = (found[f"{form}_fusion"][1]["decomposition"] for form in built)
    assert 0 < abs(float(ours - theirs)) < 0.5 * float(theirs)


@pytest.mark.long
def test_a_run_through_both_phases_ends_with_weights_that_fuse(pairs):
    workdir = pairs / "run"
    run = subprocess.run(
        [sys.executable, "train.py", "--config=configs/cddfuse.py:smoke", f"--workdir={workdir}"],
        cwd=ROOT, env=environment(XLA_FLAGS=xla_flags(2)), capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "complete at step 6" in run.stdout
    fuser = mgdn_jax.load(workdir / "cddfuse-smoke.safetensors")
    assert (fuser.system, fuser.card["loss"]["form"]) == ("cddfuse", "released")
    assert fuser.card["inputs"] == "infrared, visible"
    picture = codec.decode_image((pairs / "source" / "ir" / "0.png").read_bytes(), "0.png")
    assert fuser(picture, picture).shape == (20, 24)
