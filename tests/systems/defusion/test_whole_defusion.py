"""DeFusion's networks and training steps against the whole fixtures.

Collected only where they lie (see conftest.py).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SHARED
from golden import max_error
from helpers_defusion import RULES, narrow, nhwc, params_of, state_of

from mgdn_jax.layers import functional
from mgdn_jax.systems import registry
from mgdn_jax.systems.defusion.network import PRESETS
from mgdn_jax.systems.defusion.recipe import Recipe
from mgdn_jax.training import optimisers
from mgdn_jax.training.state import init_state
from mgdn_jax.training.step import make_train_step
from mgdn_jax.weights import conversion

FIXTURES = SHARED / "fixtures" / "defusion"
OUTPUTS = ("fusion", "common", "upper", "lower")


def load(name):
    return np.load(FIXTURES / f"{name}.npz")


def text(array):
    return bytes(array).decode().split("\n")


def place(name):
    """(our path, layout) of a published name."""
    ((path, layout),) = conversion._targets(conversion._first_name(name, RULES), RULES)
    return path, layout


@pytest.mark.parametrize("letter", "abcd")
def test_weights_by_rule_are_those_of_the_fixtures(letter):
    golden = load(f"net_{letter.upper()}_narrow")
    state = state_of(narrow(letter), f"df{letter.upper()}.")
    assert set(text(golden["text:all_keys"])) == state.keys()
    stored = [name for name in golden if name.startswith("param:")]
    assert bool(stored) == (letter in "bd")
    for name in stored:
        assert np.array_equal(golden[name], state[name[6:]]), name


@pytest.mark.long
@pytest.mark.parametrize("letter", "abcd")
def test_networks_with_all_gradients(letter):
    golden = load(f"net_{letter.upper()}_narrow")
    with jax.enable_x64(True):
        config = narrow(letter, dtype="float64")
        graphdef = registry.graphdef("defusion", config)
        params = {
            name: jnp.asarray(value, "float64")
            for name, value in params_of(config, f"df{letter.upper()}.").items()
        }
        pair = [jnp.asarray(nhwc(golden[f"in:img{n}"], "float64")) for n in (1, 2)]
        slopes = {k: jnp.asarray(nhwc(golden[f"in:cotangent_{k}"], "float64")) for k in OUTPUTS}

        def total(params, pair):
            (fused, aux), _ = functional.apply(graphdef, params, {}, *pair)
            outputs = {"fusion": fused, **{k: aux[k] for k in OUTPUTS[1:]}}
            return sum(jnp.sum(outputs[k] * slopes[k]) for k in OUTPUTS), outputs

        compiled = jax.jit(jax.grad(total, (0, 1), has_aux=True))
        slope, outputs = compiled(params, pair)
        off = distances(golden, *slope)
        tries = 0
        while max(off.values()) > 1e-5 and tries < 60:
            # The golden was computed in single precision, where a unit whose input is 0 but for
            # rounding may be on the other side of its ReLU: all gradients through it differ. Then
            # there are pictures next to these, about as near as rounding, where none does.
            draws = np.random.default_rng(tries)
            size = 10 ** draws.uniform(-7, -5)
            noise = [size * draws.standard_normal(x.shape) for x in pair]
            slope, _ = compiled(params, [x + y for x, y in zip(pair, noise, strict=True)])
            off, tries = distances(golden, *slope), tries + 1
    error = max(max_error(outputs[k], nhwc(golden[f"out:{k}"])) for k in OUTPUTS)
    # In double precision there are two of them.
    exact = 0.0
    if "out:fusion_f64" in golden:
        exact = max_error(outputs["fusion"], nhwc(golden["out:fusion_f64"], "float64"))
    worst = max(off, key=off.get)
    print(f"{letter}: {error:.1e}, float64 {exact:.1e}, {len(off)} gradients {off[worst]:.1e}"
          f" ({worst}), {tries} pictures beside")  # fmt: skip
    assert error <= 1e-5
    assert exact <= 1e-8
    assert len(off) > len(slope[0])
    assert off[worst] <= 1e-5


def distances(golden, grads, pictures):
    """Distances of gradients, by path, and of all norms over the largest norm."""
    pairs = {}
    for name in golden:
        if name.startswith("grad:"):
            path, layout = place(name[5:])
            pairs[path] = np.asarray(grads[path]), layout.ours(golden[name])
    for ours, n in zip(pictures, (1, 2), strict=True):
        pairs[f"picture {n}"] = np.asarray(ours), nhwc(golden[f"grad_in:img{n}"])
    # Those of the golden are rounded to single precision of sums that cancel: an array ten
    # thousand times smaller than the largest one has few digits of its own.
    largest = max(np.abs(wanted).max() for _, wanted in pairs.values())
    off = {
        path: np.abs(ours - wanted).max() / max(np.abs(wanted).max(), 1e-4 * largest)
        for path, (ours, wanted) in pairs.items()
    }
    norms = golden["out:gradnorms"]
    for name, norm in zip(text(golden["text:gradnorm_keys"]), norms, strict=True):
        path = place(name)[0]
        off[f"norm of {path}"] = abs(np.linalg.norm(grads[path]) - norm) / norms.max()
    return off


@pytest.mark.long
@pytest.mark.parametrize("letter", "abcd")
def test_odd_sizes(letter):
    golden = load(f"net_{letter.upper()}_narrow")
    config = narrow(letter)
    graphdef = registry.graphdef("defusion", config)
    params = params_of(config, f"df{letter.upper()}.")
    pair = [jnp.asarray(nhwc(golden[f"in:odd/img{n}"])) for n in (1, 2)]
    fused, aux = jax.jit(lambda p, x: functional.apply(graphdef, p, {}, *x)[0])(params, pair)
    # The test class of A returns the maps of its parts in place of their pictures.
    maps = dict(zip(OUTPUTS[1:], aux["maps"], strict=True))
    parts = {k: maps[k] if letter == "a" else aux[k] for k in OUTPUTS[1:]}
    outputs = {"fusion": fused, **parts}
    error = max(max_error(outputs[k], nhwc(golden[f"out:odd/{k}"])) for k in OUTPUTS)
    print(f"{letter} at 37x45: {error:.1e}")
    assert error <= 1e-5


@pytest.mark.long
@pytest.mark.parametrize("letter", "abcd")
def test_full_widths(letter):
    golden = load(f"net_{letter.upper()}_full_recipe")
    config = PRESETS[letter]
    state = state_of(config, f"dffull{letter.upper()}.")
    for name in golden:
        if name.startswith("check:"):
            value, way = state[name[6:].rpartition(".")[0]], name.rpartition(".")[2]
            part = value.ravel()[:8] if way == "first8" else value.sum(dtype=np.float64)
            np.testing.assert_allclose(part, golden[name], rtol=1e-12)
    params = conversion.convert_state_dict(state, system="defusion", config=config)[0]
    graphdef = registry.graphdef(
        "defusion",
        narrow(
            letter,
            **{**{f: getattr(config, f) for f in ("stem", "encoder", "code", "unique", "common")}},
        ),
    )
    pair = [jnp.asarray(nhwc(golden[f"in:img{n}"])) for n in (1, 2)]
    fused, aux = jax.jit(lambda p, x: functional.apply(graphdef, p, {}, *x)[0])(params, pair)
    outputs = {"fusion": fused, **{k: aux[k] for k in OUTPUTS[1:]}}
    error = max(max_error(outputs[k], nhwc(golden[f"out:{k}"])) for k in OUTPUTS)
    largest = max(np.abs(golden[f"out:{k}"]).max() for k in OUTPUTS)
    print(f"{letter}, full widths: {error:.1e}, largest value {largest:.2f}")
    assert error <= 1e-5 * max(largest, 1)


@pytest.mark.long
@pytest.mark.parametrize("letter", "cd")
def test_three_steps_of_the_original(letter):
    """Counters 0, 6000 and 20000; the last convolution has no optimiser before the third step."""
    inputs, golden = (load(f"train_steps_{letter.upper()}{end}") for end in ("", "_f64"))
    with jax.enable_x64(True):
        config = narrow(letter, dtype="float64")
        recipe = Recipe(config.to_dict(), scale=2.0)  # the sum over a batch of two
        params = {
            name: jnp.asarray(value, "float64")
            for name, value in params_of(config, f"df{letter.upper()}.").items()
        }
        networks, stats = recipe.part(params, {})
        adam = {name: optimisers.make_optimiser("adam", 1e-3) for name in networks}
        state = init_state(networks, stats, adam, ema=False)
        compiled = {}
        for turn in range(3):
            calls = int(inputs[f"in:step{turn}/iteration"])
            phase = recipe.phases[int(calls >= recipe.settings.fusion_from)]
            truth = jnp.asarray(nhwc(inputs[f"in:step{turn}/gt"], "float64"))
            batch = {
                **{k: jnp.asarray(nhwc(inputs[f"in:step{turn}/img{n}"], "float64"))
                   for k, n in (("a", 1), ("b", 2))},
                **{"mask_a": truth[..., :1], "mask_b": truth[..., 1:2], "target": truth[..., 2:5]},
                "_index": np.arange(2, dtype=np.uint32),
            }  # fmt: skip
            state = state._replace(stats={**state.stats, "rule": {"calls": jnp.float32(calls)}})
            if phase.name not in compiled:
                step = make_train_step(
                    recipe.loss, adam, seed=0, phase=phase.name, trains=phase.trains
                )

                def both(state, batch, step=step, phase=phase):
                    def value(trained):
                        keys = jax.random.split(jax.random.key(0), 2)
                        params = {**state.params, **trained}
                        return recipe.loss(params, state.stats, batch, keys, phase.name)

                    trained = {name: state.params[name] for name in phase.trains}
                    return step(state, batch), jax.value_and_grad(value, has_aux=True)(trained)

                compiled[phase.name] = jax.jit(both)
            (state, _), ((loss, (_, terms)), grads) = compiled[phase.name](state, batch)
            check_step(
                golden, turn, f"df{letter.upper()}.", recipe, state, float(loss), terms, grads
            )


def check_step(golden, turn, salt, recipe, state, loss, terms, grads):
    scalars = abs(loss / float(golden[f"scalar:step{turn}/total_loss"]) - 1)
    for name, term in terms.items():
        wanted = float(golden[f"scalar:step{turn}/self_supervised_{name}_mix"])
        scalars = max(scalars, abs(float(term) - wanted))
    flat = recipe.join({"rule": {}, **grads}, {})[0]
    params = recipe.join(state.params, {})[0]
    names, norms = (
        text(golden[f"text:step{turn}/gradnorm_keys"]),
        golden[f"out:step{turn}/gradnorms"],
    )
    assert {place(name)[0] for name in names} == flat.keys()
    off = [
        abs(np.linalg.norm(flat[place(name)[0]]) - norm) / norms.max()
        for name, norm in zip(names, norms, strict=True)
    ]
    slopes, moved = [], []
    for name in golden:
        if name.startswith((f"grad:step{turn}/", f"out:step{turn}/param/")):
            path, layout = place(name.split("/")[-1])
            wanted = layout.ours(golden[name])
            if name.startswith("grad:"):
                gap = np.abs(np.asarray(flat[path]) - wanted).max()
                slopes.append(gap / np.abs(wanted).max())
            else:
                moved.append(np.abs(np.asarray(params[path]) - wanted).max())
    total = sum(float(jnp.abs(value).sum()) for value in params.values())
    if not recipe.model_config.own_projection:  # never read, never moved, and in their sum
        dead = state_of(recipe.model_config, salt)
        names = [name for name in dead if name.startswith("decoder_common_projection_layer.0.")]
        total += sum(float(np.abs(dead[name]).sum(dtype=np.float64)) for name in names)
    drift = abs(total / float(golden[f"scalar:step{turn}/param_abs_sum"]) - 1)
    print(f"step {turn}: scalars {scalars:.1e}, {len(off)} norms {max(off):.1e}, {len(slopes)}"
          f" gradients {max(slopes):.1e}, {len(moved)} parameters {max(moved):.1e}, sum"
          f" {drift:.1e}")  # fmt: skip
    assert scalars <= 1e-8
    assert max(off) <= 1e-6
    assert max(slopes) <= 1e-5
    assert max(moved) <= 2e-6
    assert drift <= 1e-8
