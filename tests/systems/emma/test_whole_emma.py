"""EMMA's whole networks, training steps, data and pictures against the original.

Collected only where the fixtures lie (see conftest.py); what default tests need of them is in
tests/goldens.
"""

import csv
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SHARED
from golden import Golden, max_error, relative_error
from helpers import last
from helpers_systems import by_rule, emma_shapes, sensing_shapes

from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.image import luminance
from mgdn_jax.io import files
from mgdn_jax.layers import functional
from mgdn_jax.layers.mode import Mode
from mgdn_jax.losses import mse
from mgdn_jax.systems import registry
from mgdn_jax.systems.emma import patches
from mgdn_jax.systems.emma.network import PRESETS, SensingConfig
from mgdn_jax.systems.emma.recipe import SENSING, Recipe
from mgdn_jax.training.optimisers import make_optimiser
from mgdn_jax.training.state import apply_gradients
from mgdn_jax.weights import conversion

FOLDER = SHARED / "fixtures" / "emma"
NARROW = (8, 16, 32, 64, 128)
pytestmark = pytest.mark.long


def fixture(name):
    return Golden("", FOLDER / f"{name}.npz")


def typed(tree, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def published(grads, like):
    return conversion.to_state_dict(grads, {}, like, system="emma")


@functools.cache
def fuser_params():
    state = by_rule(emma_shapes(), "")
    return conversion.convert_arrays(state, system="emma", config=PRESETS["ivf"])[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_u_fuser_with_all_gradients(dtype):
    golden = fixture("ufuser_random")
    state = by_rule(emma_shapes(), "")
    config = dataclasses.replace(PRESETS["ivf"].for_use(), dtype=dtype)
    graphdef = registry.graphdef("emma", config)
    with jax.enable_x64(dtype == "float64"):
        a, b, cotangent = (
            jnp.asarray(golden.nhwc(f"in:{k}"), dtype) for k in ("ir", "vis", "cotangent")
        )

        def loss(params, a, b):
            fused, aux = functional.apply(graphdef, params, {}, a, b)[0]
            return jnp.sum(fused * cotangent), (fused, aux)

        run = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
        (grads, *slopes), (fused, aux) = run(typed(fuser_params(), dtype), a, b)
    double = dtype == "float64"
    error = max_error(fused, last(golden["out:fused_f64" if double else "out:fused"]))
    errors = {"fused": error}
    for scale in range(4):
        for kind, name in (("fused_features", f"f_{scale + 1}"), ("decoded", f"de_{scale + 1}")):
            ours = np.moveaxis(np.asarray(aux[kind][scale]), -1, 1)
            if f"mid:{name}" in golden:
                errors[name] = relative_error(ours, golden[f"mid:{name}"])
            elif f"mid:{name}.ch0" in golden:
                errors[name] = relative_error(ours[:, 0], golden[f"mid:{name}.ch0"])
    off = {
        key: relative_error(value, golden[f"grad:{key}"])
        for key, value in published(grads, state).items()
        if f"grad:{key}" in golden and golden[f"grad:{key}"].any()
    }
    for name, slope in zip(("ir", "vis"), slopes, strict=True):
        off[name] = relative_error(slope, last(golden[f"grad_in:{name}"]))
    worst = max(off, key=off.get)
    middle = float(np.median(list(off.values())))
    print(f"{dtype}: {errors}; gradients {off[worst]:.1e} ({worst}), {middle:.1e} in the middle")
    assert len(off) > 200
    assert max(errors.values()) <= 1e-5
    assert error <= (1e-8 if double else 1e-5)
    # The golden's are of single precision, and as far from the truth after so many layers.
    assert middle <= 1e-5
    assert off[worst] <= 5e-5


def test_swapped_sources():
    golden = fixture("ufuser_random")
    graphdef = registry.graphdef("emma", PRESETS["ivf"].for_use())
    run = jax.jit(lambda params, a, b: functional.apply(graphdef, params, {}, a, b)[0][0])
    fused = run(fuser_params(), golden.nhwc("in:vis"), golden.nhwc("in:ir"))
    error = max_error(fused, last(golden["out:swapped"]))
    print(f"swapped: {error:.1e}")
    assert error <= 1e-5


def test_the_full_sensing_network():
    golden = fixture("unet5_full_recipe")
    params, stats, _ = conversion.convert_arrays(
        by_rule(sensing_shapes(), "full."),
        system="emma", config=SensingConfig(), network="SensingNetwork",
    )  # fmt: skip
    graphdef = registry.graphdef("emma", SensingConfig(), "SensingNetwork")
    x = golden.nhwc("in:x")

    @jax.jit
    def run(params, stats):
        used, _ = functional.apply(graphdef, params, stats, x)
        return used, functional.apply(graphdef, params, stats, x, Mode(training=True))

    used, (trained, moved) = run(params, stats)
    mean, variance = moved["down/4/norms/0/mean"], moved["up/3/norms/1/variance"]
    errors = {
        "in use": max_error(used, last(golden["out:eval/y"])),
        "training": max_error(trained, last(golden["out:train/y"])),
        "mean": max_error(mean, golden["out:train/down5.conv.1.running_mean"]),
        "variance": max_error(variance, golden["out:train/up1.conv.4.running_var"]),
    }
    print(errors)
    assert max(errors.values()) <= 1e-5


def sensing_states():
    """Published states of A_i and A_v of the training fixtures."""
    of_a = by_rule(sensing_shapes(NARROW), "narrow.")
    of_b = {k: v[:, :, ::-1, ::-1] if v.ndim == 4 else v for k, v in of_a.items()}
    return of_a, of_b


def training(dtype):
    """(recipe, params, stats) of the training fixtures."""
    recipe = Recipe({"preset": "ivf_small"}, sensing=NARROW)
    params, stats = {}, {}
    for name, state in zip(SENSING, sensing_states(), strict=True):
        params[name], stats[name], _ = conversion.convert_arrays(
            state, system="emma", config=recipe.sensing_config, network="SensingNetwork"
        )
    state = by_rule(emma_shapes((8, 8, 16, 16)), "tf.")
    params["fusion"], stats["fusion"], _ = conversion.convert_arrays(
        state, system="emma", config=recipe.model_config
    )
    return recipe, typed(params, dtype), typed(stats, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_steps_of_the_fusion_phase(dtype):
    inputs = fixture("train_fusion_steps")
    golden = fixture("train_fusion_steps_f64") if dtype == "float64" else inputs
    state = by_rule(emma_shapes((8, 8, 16, 16)), "tf.")
    optimiser = make_optimiser("adam", 1e-4)
    with jax.enable_x64(dtype == "float64"):
        recipe, params, stats = training(dtype)

        def loss(fusion, a, b, shifts):
            terms = recipe.terms({**params, "fusion": fusion}, stats, a, b, shifts)
            total = terms["sense_a"] + terms["sense_b"]
            return total + recipe.settings.equivariance * terms["equivariance"], terms

        @jax.jit
        def step(fusion, moments, a, b, shifts):
            (total, terms), grads = jax.value_and_grad(loss, has_aux=True)(fusion, a, b, shifts)
            return (
                *apply_gradients(optimiser, grads, moments, fusion),
                grads,
                {**terms, "total": total},
            )

        fusion, moments = params["fusion"], optimiser.init(params["fusion"])
        for k in range(2):
            a, b = (jnp.asarray(inputs.nhwc(f"in:step{k}/{s}"), dtype) for s in ("ir", "vis"))
            shifts = np.stack([golden[f"in:step{k}/shift_{s}"] for s in ("rows", "cols")], -1)
            shifts = jnp.broadcast_to(jnp.asarray(shifts)[None], (len(a), 3, 2))
            fusion, moments, grads, terms = step(fusion, moments, a, b, shifts)
            names = {"sense_a": "sense_ir", "sense_b": "sense_vis", "equivariance": "equivariance"}
            off = {
                ours: abs(float(terms[ours]) / float(golden[f"scalar:step{k}/loss_{name}"]) - 1)
                for ours, name in {**names, "total": "total"}.items()
            }
            found = published(grads, state)
            sizes = {
                key: abs(np.linalg.norm(found[key].astype(np.float64)) - norm) / (norm or 1.0)
                for key, norm in zip(
                    bytes(golden.arrays[f"text:step{k}/gradnorm_keys"]).decode().split("\n"),
                    golden[f"out:step{k}/gradnorms"], strict=True,
                )
            }  # fmt: skip
            slopes = {
                key: relative_error(value, golden[f"grad:step{k}/{key}"])
                for key, value in found.items()
                if f"grad:step{k}/{key}" in golden and golden[f"grad:step{k}/{key}"].any()
            }
            weights = published(fusion, state)
            moved = {
                key: max_error(value, golden[f"out:step{k}/param/{key}"])
                for key, value in weights.items()
                if f"out:step{k}/param/{key}" in golden
            }
            print(f"{dtype} step {k}: losses {max(off.values()):.1e}, gradients"
                  f" {max(slopes.values()):.1e} of {len(slopes)}, norms {max(sizes.values()):.1e},"
                  f" parameters {max(moved.values()):.1e} of {len(moved)}")  # fmt: skip
            assert len(moved) == len(slopes) + 1 == 10
            assert max(off.values()) <= (1e-5 if dtype == "float32" else 2e-6)
            assert max(slopes.values()) <= (1e-5 if k == 0 else 1e-4)
            assert max(sizes.values()) <= 5e-4
            assert max(moved.values()) <= 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_steps_of_a_sensing_network(dtype):
    inputs = fixture("train_sensing_steps")
    golden = fixture("train_sensing_steps_f64") if dtype == "float64" else inputs
    like = sensing_states()[0]
    optimiser = make_optimiser("adam", 1e-4)
    config = SensingConfig(NARROW)
    graphdef = registry.graphdef("emma", config, "SensingNetwork")
    with jax.enable_x64(dtype == "float64"):
        params, stats, _ = conversion.convert_arrays(
            like, system="emma", config=config, network="SensingNetwork"
        )
        params, stats = typed(params, dtype), typed(stats, dtype)

        def loss(params, stats, x, target):
            y, stats = functional.apply(graphdef, params, stats, x, Mode(True))
            return jnp.mean(mse(y, target)), (y, stats)

        @jax.jit
        def step(params, stats, moments, x, target):
            (value, (y, stats)), grads = jax.value_and_grad(loss, has_aux=True)(
                params, stats, x, target
            )
            return *apply_gradients(optimiser, grads, moments, params), stats, grads, y, value

        moments = optimiser.init(params)
        for k in range(2):
            x, target = (
                jnp.asarray(inputs.nhwc(f"in:step{k}/{s}"), dtype) for s in ("input", "target")
            )
            params, moments, stats, grads, y, value = step(params, stats, moments, x, target)
            found = conversion.to_state_dict(
                params, stats, like, system="emma", network="SensingNetwork"
            )
            # A bias before a batch norm has no gradient: Adam makes steps of its rounding.
            moved = {
                key: max_error(found[key], golden[f"out:step{k}/param/{key}"])
                for key in found
                if f"out:step{k}/param/{key}" in golden
                and "num_batches" not in key
                and not key.endswith(("conv.0.bias", "conv.3.bias"))
            }
            norms = dict(zip(
                bytes(golden.arrays[f"text:step{k}/gradnorm_keys"]).decode().split("\n"),
                golden[f"out:step{k}/gradnorms"], strict=True,
            ))  # fmt: skip
            slopes = conversion.to_state_dict(
                grads, stats, like, system="emma", network="SensingNetwork"
            )
            sizes = {
                key: abs(np.linalg.norm(slopes[key].astype(np.float64)) / norm - 1)
                for key, norm in norms.items()
                if not key.endswith(("conv.0.bias", "conv.3.bias"))
            }
            off = abs(float(value) / float(golden[f"scalar:step{k}/loss"]) - 1)
            error = max_error(y, last(golden[f"out:step{k}/y"]))
            print(
                f"{dtype} step {k}: loss {off:.1e}, picture {error:.1e}, gradient norms"
                f" {max(sizes.values()):.1e}, parameters {max(moved.values()):.1e}"
                f" of {len(moved)}"
            )
            assert len(moved) >= 6
            assert off <= 1e-5
            assert error <= 1e-5
            assert max(sizes.values()) <= 5e-4
            # A running mean has a tenth of what its convolution's bias is off by.
            most = {k: 1e-5 if k.endswith("running_mean") else 1e-6 for k in moved}
            assert all(value <= most[key] for key, value in moved.items())


def test_the_data_recipe():
    """All patches of the five test pairs: percentiles and decisions, exactly."""
    golden = fixture("data_prep")
    folder = SHARED / "data" / "ivf" / "msrs5"
    values, flat = [], []
    for name in sorted(p.name for p in (folder / "ir").iterdir()):
        ir, vis = (np.asarray(files.read_image(folder / k / name)) for k in ("ir", "vi"))
        assert ir.ndim == 2
        planes = [ir.astype(np.float32) / 255, luminance(vis.astype(np.float32) / 255)[..., 0]]
        if not values:
            np.testing.assert_array_equal(
                planes[1][:32, :32], golden["out:first/vis_patch0_corner"]
            )
        for pair in zip(*map(patches.cut, planes), strict=True):
            values.append([value for x in pair for value in patches.percentiles(x)])
            flat.append([patches.is_flat(x) for x in pair])
    assert len(values) == 30
    error = max_error(np.array(values), golden["out:percentiles_ir10_ir90_vi10_vi90"])
    print(f"percentiles off by {error:.1e}")
    assert error <= 1e-7
    np.testing.assert_array_equal(flat, golden["out:low_contrast_ir_vis"])


def released(fuse, a, b):
    """The four passes over crops that the original's script makes of a picture."""
    h, w = a.shape
    whole = [h - h % 32, w - w % 32]

    def run(rows, columns):
        crops = (jnp.asarray(x[rows, columns])[None, ..., None] for x in (a, b))
        return np.asarray(fuse.network(*crops))[0, ..., 0]

    rows, columns = slice(0, whole[0]), slice(0, whole[1])
    result = np.zeros((h, w), np.float32)
    result[rows, columns] = run(rows, columns)
    if w % 32:
        result[rows, whole[1] :] = run(rows, slice(-whole[1], None))[:, -(w % 32) :]
    if h % 32:
        result[whole[0] :, columns] = run(slice(-whole[0], None), columns)[-(h % 32) :]
    if h % 32 and w % 32:
        corner = run(slice(-whole[0], None), slice(-whole[1], None))
        result[whole[0] :, whole[1] :] = corner[-(h % 32) :, -(w % 32) :]
    return result


@pytest.mark.parametrize(
    ("name", "size"),
    [("none", (64, 96)), ("width_only", (64, 101)), ("height_only", (77, 96)), ("both", (77, 101))],
)
def test_pictures_of_the_original_script(name, size):
    golden = fixture("inference")
    config = PRESETS["ivf"]
    fuse = Fuser("emma", config, {k: jnp.asarray(v) for k, v in fuser_params().items()})
    h, w = size
    a, b = (golden[f"in:{k}_grey_hw"][:h, :w] / 255 for k in ("ir", "vis"))
    made = released(fuse, a, b)
    low, high = made.min(), made.max()
    stretched = (made - low) / (high - low) * 255
    error = max_error(255 * (made - low) / (high - low), golden[f"out:{name}/stretched255_hw"])
    levels = np.floor(stretched + 0.499999999).astype(np.uint8)
    different = int((levels != golden[f"out:{name}/png_uint8_hw"]).sum())
    # Our own rule: one pass over the picture, completed by reflection.
    once = np.asarray(fuse.network(*(jnp.asarray(x)[None, ..., None] for x in (a, b))))[0, ..., 0]
    apart = float(np.abs(once - made).max())
    print(f"{name}: {error:.1e} levels, {different} of {h * w} pixels differ; one pass {apart:.1e}")
    assert error <= 255e-5 * 4
    assert different <= 2
    assert (apart < 1e-5) == (name == "none")


def test_published_figures_are_in_the_anchors():
    path = SHARED / "anchors" / "emma_defusion_published.csv"
    with path.open(newline="") as file:
        assert any("EMMA" in cell for row in csv.reader(file) for cell in row)
