"""DeFusion's blocks, network and files: as the original's, and as is promised of a network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden import Golden, max_error, relative_error
from helpers_defusion import TINY, narrow, nhwc, ours, params_of, state_of

from mgdn_jax import image
from mgdn_jax.errors import InputError
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.layers import functional
from mgdn_jax.systems import registry
from mgdn_jax.systems.defusion import blocks
from mgdn_jax.systems.defusion.network import PRESETS, Config
from mgdn_jax.weights import conversion

BLOCKS = {
    "splat": ("upper_encoder_layer1.layer.0.conv2.", "parts/encoder/rows/1/blocks/0/attention/",
              lambda rngs: blocks.SplitAttention(8, rngs=rngs)),
    "layer_first": ("upper_encoder_layer1.", "parts/encoder/rows/1/",
                    lambda rngs: blocks.Row(4, 2, 8, smooths=True, rngs=rngs)),
    "layer_stride2_odd": ("upper_encoder_layer1.", "parts/encoder/rows/1/",
                          lambda rngs: blocks.Row(8, 2, 16, stride=2, rngs=rngs)),
    "layer_decoder": ("decoder_upper_layer1.", "parts/unique/rows/0/",
                      lambda rngs: blocks.Row(4, 2, 24, rngs=rngs)),
}  # fmt: skip


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_with_their_gradients(name):
    golden = Golden(f"defusion_{name}")
    theirs, prefix, build = BLOCKS[name]
    graphdef, shapes, _ = functional.abstract(lambda: build(nnx.Rngs(0)))
    params = ours(golden.state(), theirs, prefix)
    assert params.keys() == shapes.keys()
    with jax.enable_x64(True):
        params = {k: jnp.asarray(v, "float64") for k, v in params.items()}
        x, slope = (jnp.asarray(nhwc(golden[f"in:{k}"], "float64")) for k in ("x", "cotangent"))

        def loss(params, x):
            y = functional.apply(graphdef, params, {}, x)[0]
            return jnp.sum(y * slope), y

        (grads, dx), y = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)
        single = jax.tree.map(lambda v: v.astype("float32"), (params, x))
        low = jax.jit(lambda p, x: functional.apply(graphdef, p, {}, x)[0])(*single)
    wanted = ours(golden.gradients(), theirs, prefix)
    assert len(wanted) == len(params)
    off = {k: relative_error(grads[k], v) for k, v in wanted.items()}
    off["x"] = relative_error(dx, nhwc(golden["grad_in:x"]))
    error = max_error(y, nhwc(golden["out:y_f64"], "float64"))
    rough = max_error(low, nhwc(golden["out:y"]))
    worst = max(off, key=off.get)
    print(f"{name}: float64 {error:.1e}, float32 {rough:.1e}, gradients {off[worst]:.1e} ({worst})")
    assert error <= 1e-8
    assert rough <= 1e-5
    assert off[worst] <= 1e-5


def test_a_pair_as_the_original_fuses_it():
    """Reflected border, odd size, values; 8 bits are rounded here and were cut off there."""
    golden = Golden("defusion_inference")
    config = narrow("b", border=16)
    fuser = Fuser("defusion", config, params_of(config, "dfB."))
    gray = [golden["in:ir_hw"], golden["out:vis_L_hw"]]
    colour = np.asarray(golden["in:vis_rgb_hwc"], np.int64)
    luminance = (colour @ [19595, 38470, 7471] + 32768) >> 16
    assert np.array_equal(luminance, gray[1])
    inputs = [np.repeat(x[None, ..., None] / np.float32(255), 3, -1) for x in gray]
    fused = np.asarray(fuser.network(*inputs))
    wanted = nhwc(golden["out:fusion"])
    error = max_error(fused, wanted)
    cut = np.floor(np.clip(fused[0], 0, 1) * 255).astype(int)
    apart = np.abs(cut - golden["out:fusion_uint8_hwc"])
    print(f"a pair: {error:.1e}; 8 bits differ in {np.count_nonzero(apart)} of {apart.size}")
    assert error <= 1e-5
    assert apart.max() <= 1
    assert np.count_nonzero(apart) <= 2
    ramp = np.floor(np.clip(golden["in:ramp"], 0, 1) * np.float32(255))
    assert np.array_equal(ramp, golden["out:ramp_uint8"])
    # The result of gray pictures is gray: the luminance of the three.
    whole = fuser(*gray)
    assert whole.shape == gray[0].shape
    assert np.abs(whole / 255 - np.clip(wanted[0], 0, 1) @ [0.299, 0.587, 0.114]).max() < 3e-3


COUNTS = {"a": (7_687_593, 676), "b": (7_874_473, 676), "c": (8_043_817, 760),
          "d": (7_879_977, 760)}  # fmt: skip
# Narrow rows that change channels where the published ones do, so that there are as many entries.
WIDTHS = {"stem": 6, "common": (16, 8, 2, 2)}


@pytest.mark.parametrize("letter", COUNTS)
def test_files_of_all_four_forms_convert(letter):
    config = narrow(letter, **WIDTHS)
    state = state_of(config)
    assert len(state) == COUNTS[letter][1]
    params, report = conversion.convert_state_dict(state, system="defusion", config=config)
    dead = 0 if config.own_projection else 2  # stored, counted by the authors, never read
    twins = [name for name in report.skipped if "lower" in name]
    assert len(report.skipped) == len(twins) + dead
    assert len(params) + len(report.skipped) == len(state)
    # And back, second names and dead entries included.
    back = conversion.to_state_dict(params, {}, state, system="defusion")
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[name], value) for name, value in state.items())
    changed = {**state, twins[0]: state[twins[0]] + 1}
    with pytest.raises(InputError, match="1 entries with two partners"):
        conversion.convert_state_dict(changed, system="defusion", config=config)
    other = narrow("a" if letter == "b" else "b", **WIDTHS)
    with pytest.raises(InputError, match="check --system and --preset"):
        conversion.convert_state_dict(state, system="defusion", config=other)


@pytest.mark.parametrize("letter", ["b", *(pytest.param(n, marks=pytest.mark.long) for n in "acd")])
def test_parameters_are_as_many_as_published(letter):
    config = PRESETS[letter]
    unread = 0 if config.own_projection else 3 * 16 * 9 + 3
    shapes = registry.abstract("defusion", config)[1]
    assert registry.count_parameters(shapes) + unread == COUNTS[letter][0]


def test_a_published_file_is_unwrapped(torch, tmp_path):
    config = dataclasses.replace(TINY, code_skip=False)
    state = {name: torch.from_numpy(value) for name, value in state_of(config).items()}
    torch.save({"state_dict": state, "optimizers": {}, "schedulers": {}, "epoch": 50},
               tmp_path / "latest.pth")  # fmt: skip
    read = conversion.read_torch(tmp_path / "latest.pth")
    assert read.keys() == state.keys()
    params, _ = conversion.convert_state_dict(read, system="defusion", config=config)
    assert params.keys() == registry.abstract("defusion", config)[1].keys()


def test_any_size_and_the_parts():
    config = TINY
    _, params, _ = registry.initialise("defusion", config, jax.random.key(0))
    graphdef = registry.graphdef("defusion", config)
    run = jax.jit(lambda a, b: functional.apply(graphdef, params, {}, a, b)[0])
    a, b = jax.random.uniform(jax.random.key(1), (2, 2, 1, 3, 3))
    fused, aux = run(a, b)
    assert fused.shape == aux["common"].shape == aux["upper"].shape == (2, 1, 3, 3)
    assert float(fused.min()) >= 0
    # One decoder serves both; which is the first still matters to the code.
    parts = run(a, a)[1]
    np.testing.assert_allclose(parts["upper"], parts["lower"], rtol=1e-6)
    with pytest.raises(ValueError, match="of one shape"):
        run(a, b[:, :, :2])


def test_gray_beside_colour_is_fused_in_luminance():
    _, params, _ = registry.initialise("defusion", TINY, jax.random.key(0))
    params = {k: 0.05 * v if k.startswith("rule") else v for k, v in params.items()}
    fuser = Fuser("defusion", TINY, {**params, "rule/project/bias": jnp.full(3, 0.4)})
    rng = np.random.default_rng(0)
    thermal = rng.random((9, 12), np.float32)
    colour = np.float32(0.4) + np.float32(0.2) * rng.random((9, 12, 3), np.float32)
    brightness, *chroma = np.moveaxis(image.rgb_to_ycbcr(colour), -1, 0)
    fused = fuser(thermal, colour)
    assert fused.shape == (9, 12, 3)
    ours = np.moveaxis(image.rgb_to_ycbcr(fused), -1, 0)
    inside = np.all((fused > 0) & (fused < 1), -1)
    assert inside.sum() > 20
    for one, other in zip(ours[1:], chroma, strict=True):
        np.testing.assert_allclose(one[inside], other[inside], atol=1e-5)
    np.testing.assert_allclose(ours[0][inside], fuser(thermal, brightness)[inside], atol=1e-5)
    # A thermal picture that is stored in three equal channels is gray as well; in one run, too.
    stored = np.repeat(thermal[..., None], 3, -1)
    np.testing.assert_allclose(fuser(stored, colour), fused, atol=1e-5)
    for one in fuser.batch([(thermal, colour), (stored, colour)]):
        np.testing.assert_allclose(one, fused, atol=1e-5)
    # Two colour pictures go through as they are.
    both = np.asarray(fuser.network(colour[None, ::-1], colour[None]))[0]
    np.testing.assert_allclose(fuser(colour[::-1], colour), np.clip(both, 0, 1), atol=1e-5)


def test_configurations():
    for fields, sentence in (
        ({"encoder": (8, 16, 32)}, "encoder is 4 positive whole numbers"),
        ({"code": 255}, "planes are even"),
        ({"common": (64, 16, 4, 2)}, "the last of common is that of unique"),
        ({"border": -1}, "border is a whole number from 0 to 256"),
        ({"in_channels": (1, 1)}, "in_channels is"),
        ({"remat": "all"}, "remat is one of"),
    ):
        with pytest.raises(InputError, match=sentence):
            Config(**fields)
