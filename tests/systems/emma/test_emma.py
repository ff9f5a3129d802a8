"""EMMA against the original: blocks, sensing networks, names; its sizes and its tiles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden import Golden, max_error, relative_error
from helpers import filled, last, noise
from helpers_systems import by_rule, emma_shapes, sensing_shapes

from mgdn_jax.errors import InputError
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.layers import functional
from mgdn_jax.layers.mode import Mode
from mgdn_jax.systems import registry
from mgdn_jax.systems.emma import network
from mgdn_jax.systems.emma.network import PRESETS, Block, Config, SensingConfig
from mgdn_jax.weights import conversion

TINY = Config(features=(4, 8), heads=4, remat="none")
NARROW = SensingConfig((8, 16, 32, 64, 128))


def part(entries, theirs, ours):
    """Entries of one block, converted as if they sat in the whole network."""
    found = {}
    for key, value in entries.items():
        for path, layout in conversion._targets(theirs + key, conversion.rules_of("emma")):
            found[path.removeprefix(ours)] = layout.ours(value)
    return found


@pytest.mark.parametrize(("name", "sizes"), [("16_8", (16, 8)), ("1_16", (1, 16))])
def test_blocks_with_all_gradients(name, sizes):
    """Heads of one channel, whose softmax is of one entry, and of two."""
    golden = Golden(f"emma_block_{name}")
    wanted = part(golden.gradients(), "f_1.", "fusion/0/")
    errors = {}
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            graphdef, shapes, _ = functional.abstract(
                lambda: Block(*sizes, Config(remat="none"), rngs=nnx.Rngs(0))
            )
            params = part(golden.state(), "f_1.", "fusion/0/")
            params = {k: jnp.asarray(v, dtype) for k, v in params.items()}
            assert params.keys() == shapes.keys() == wanted.keys()
            cotangent = jnp.asarray(last(golden["in:cotangent"]), dtype)

            def loss(params, x, graphdef=graphdef, cotangent=cotangent):
                y, _ = functional.apply(graphdef, params, {}, x)[0]
                return jnp.sum(y * cotangent), y

            run = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
            (grads, slope), y = run(params, jnp.asarray(last(golden["in:x"]), dtype))
            truth = golden["out:y_f64"] if dtype == "float64" else golden["out:y"]
            errors[dtype] = max_error(y, last(truth))
            scale = float(np.abs(truth).max())
            off = {k: relative_error(grads[k], v) for k, v in wanted.items() if v.any()}
            off["x"] = relative_error(slope, last(golden["grad_in:x"]))
            worst = max(off, key=off.get)
            print(f"{name} {dtype}: {errors[dtype]:.1e} of {scale:.0f}, gradients {off[worst]:.1e}"
                  f" of the largest entry ({worst})")  # fmt: skip
            assert off[worst] <= 1e-5
            for key in (k for k, v in wanted.items() if not v.any()):  # a head of one channel
                assert key.endswith("temperature")
                assert not np.any(grads[key]), key
    assert errors["float32"] <= 1e-5 * max(1.0, scale)
    assert errors["float64"] <= 1e-8


@functools.partial(jax.jit, static_argnums=0)
def sensed(graphdef, params, stats, x):
    """What a sensing network makes in use, and in training with its new statistics."""
    used, _ = functional.apply(graphdef, params, stats, x)
    return used, functional.apply(graphdef, params, stats, x, Mode(training=True))


def test_a_sensing_network_in_use_and_in_training():
    golden = Golden("emma_unet5_narrow")
    state = by_rule(sensing_shapes(NARROW.features), "narrow.")
    params, stats, report = conversion.convert_arrays(
        state, system="emma", config=NARROW, network="SensingNetwork"
    )
    assert len(report.skipped) == 18
    graphdef = registry.graphdef("emma", NARROW, "SensingNetwork")
    for dtype, most in (("float32", 1e-5), ("float64", 1e-8)):
        with jax.enable_x64(dtype == "float64"):
            weights = [{k: jnp.asarray(v, dtype) for k, v in w.items()} for w in (params, stats)]
            x = jnp.asarray(last(golden["in:x"]), dtype)
            used, (trained, moved) = sensed(graphdef, *weights, x)
            ending = "_f64" if dtype == "float64" else ""
            errors = {
                "in use": max_error(used, last(golden[f"out:eval/y{ending}"])),
                "training": max_error(trained, last(golden[f"out:train/y{ending}"])),
            }
            print(f"{dtype}: {errors}")
            assert max(errors.values()) <= most
            wanted = golden["out:train/down5.conv.4.running_var"]  # the unbiased variance
            assert max_error(moved["down/4/norms/1/variance"], wanted) <= 1e-5


@pytest.mark.parametrize(
    ("kind", "config", "like", "entries", "dead", "count"),
    [
        ("Network", PRESETS["ivf"], emma_shapes(), 347, 0, 1_517_657),
        ("SensingNetwork", SensingConfig(), sensing_shapes(), 132, 18, 39_397_761),
    ],
)
def test_published_names_there_and_back(kind, config, like, entries, dead, count):
    """EMMA.pth, and Ai.pth and Av.pth, which are alike; values that tell entries apart."""
    assert len(like) == entries
    state = {
        key: np.full(shape, i + 1, np.float32) if shape else np.zeros((), np.int64)
        for i, (key, shape) in enumerate(like.items())
    }
    params, stats, report = conversion.convert_arrays(
        {f"module.{key}": value for key, value in state.items()},
        system="emma", config=config, network=kind,
    )  # fmt: skip
    assert report.complete
    assert len(report.skipped) == dead
    assert len(params) + len(stats) == entries - dead
    assert registry.count_parameters(params) == count
    back = conversion.to_state_dict(params, stats, state, system="emma", network=kind)
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[key], state[key]) for key in state)
    torn = dict(list(state.items())[1:])
    with pytest.raises(InputError, match="1 parameters without a source"):
        conversion.convert_arrays(torn, system="emma", config=config, network=kind)


def test_transposed_convolutions_double_the_size():
    layer = network.Doubling(3, 2, rngs=nnx.Rngs(0))
    x = noise(1, 3, 4, 3) - 0.5
    wanted = np.zeros((1, 8, 10, 2))
    kernel = np.asarray(layer.kernel[...])
    for row, column, i, j in np.ndindex(3, 4, 4, 4):
        wanted[0, 2 * row + i, 2 * column + j] += kernel[i, j] @ np.asarray(x[0, row, column])
    np.testing.assert_allclose(layer(x), np.maximum(wanted[:, 1:-1, 1:-1], 0), atol=1e-6)


def tiny():
    graphdef, params = filled(*registry.abstract("emma", TINY)[:2], 0.2)
    return graphdef, params


def test_pictures_are_completed_by_reflection():
    graphdef, params = tiny()
    run = jax.jit(lambda a, b: functional.apply(graphdef, params, {}, a, b)[0][0])
    a, b = noise(1, 11, 14, 1, seed=1), noise(1, 11, 14, 1, seed=2)
    whole = [jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0)), mode="reflect") for x in (a, b)]
    np.testing.assert_allclose(run(a, b), run(*whole)[:, :11], atol=1e-6)
    assert run(a[:, :1, :1], b[:, :1, :1]).shape == (1, 1, 1, 1)
    # Each source has an encoder of its own.
    assert np.abs(run(a, b) - run(b, a)).max() > 1e-3
    with pytest.raises(ValueError, match="sizes differ"):
        run(a, b[:, :4])
    with pytest.raises(ValueError, match="expected luminance"):
        run(jnp.repeat(a, 3, -1), b)


def test_tiles_share_the_sums_of_the_picture():
    """Sums gathered over halves are those of the whole but for the seam, and serve both halves."""
    graphdef, params = tiny()

    @jax.jit
    def run(a, b, weights, context):
        return functional.apply(graphdef, params, {}, a, b, pixel_weights=weights, context=context)[
            0
        ]

    a, b = noise(1, 16, 24, 1, seed=3), noise(1, 16, 24, 1, seed=4)
    fused, aux = run(a, b, None, None)
    sums = aux["context"]
    # Scale 0 has one channel a head and gathers nothing; scale 1 has two.
    assert {name.rpartition("/")[0] for name in sums} == {
        "infrared/1", "visible/1", "fusion/1", "decoder/0"
    }  # fmt: skip
    again, _ = run(a, b, None, sums)
    np.testing.assert_allclose(again, fused, atol=1e-6)
    halved = run(a, b, jnp.full(a.shape, 0.5), None)[1]["context"]
    for name, value in sums.items():
        np.testing.assert_allclose(halved[name], 0.5 * value, rtol=1e-4, atol=1e-5)
    other = {
        name: jnp.ones_like(value) if name.endswith(("qq", "kk")) else -value
        for name, value in sums.items()
    }
    assert np.abs(run(a, b, None, other)[0] - fused).max() > 1e-4


@pytest.mark.long
def test_rematerialisation_changes_nothing():
    a, b = noise(2, 8, 8, 1, seed=5), noise(2, 8, 8, 1, seed=6)
    found = {}
    for remat in network.REMATS:
        config = Config(features=(2, 4), heads=2, remat=remat)
        graphdef, params = filled(*registry.abstract("emma", config)[:2], 0.2)

        def loss(params, graphdef=graphdef):
            return jnp.mean(functional.apply(graphdef, params, {}, a, b)[0][0])

        found[remat] = jax.jit(jax.grad(loss))(params)
        assert config.for_use().remat == "none"
    for name, value in found["none"].items():
        np.testing.assert_allclose(found["block"][name], value, rtol=1e-5, atol=1e-7)


def test_colour_stays_that_of_the_visible_picture():
    _, params = tiny()
    fuse = Fuser("emma", TINY, params)
    ramp = np.linspace(0, 255, 20).astype(np.uint8)[None].repeat(16, 0)
    red = np.stack([ramp, ramp // 2, ramp // 2], -1)
    fused = fuse(ramp, red)
    assert fused.shape == (16, 20, 3)
    assert (fused[..., 0].astype(int) - fused[..., 1] >= 0).all()
    assert np.ptp(fused) > 0


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"features": (8,)}, "two scales or more"),
        ({"features": (8, 12)}, "divisible by heads"),
        ({"features": (3, 9), "heads": 3}, "must be even"),
        ({"norm_floor": 1e-30}, "at least 1e-18"),
        ({"remat": "row"}, "remat is one of none, block"),
    ],
)
def test_impossible_networks_are_refused(fields, sentence):
    with pytest.raises(InputError, match=sentence):
        Config(**fields)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"features": (8, 24)}, "must double"),
        ({"features": (8,)}, "two levels"),
        ({"momentum": 1.0}, "momentum must be"),
    ],
)
def test_impossible_sensing_networks_are_refused(fields, sentence):
    with pytest.raises(InputError, match=sentence):
        SensingConfig(**fields)


def test_attention_has_a_floor_while_training():
    config = Config().for_training(1e-3)
    assert (config.norm_floor, Config().norm_floor) == (1e-3, 1e-12)
