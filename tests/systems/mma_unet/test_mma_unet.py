"""MMA-UNet against the original: blocks, loss, names; its sizes, its colours, its programs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden import Golden, max_error, relative_error
from helpers import last, noise
from helpers_mma_unet import (
    NARROW,
    NETWORKS,
    narrow_results,
    published_shapes,
    shapes,
    state_of,
    whole_state,
)

from mgdn_jax.errors import InputError
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.layers import functional
from mgdn_jax.layers.conv import Conv2d
from mgdn_jax.layers.scales import DoubleConv, average_pool, max_pool
from mgdn_jax.systems import registry
from mgdn_jax.systems.mma_unet import blocks, losses
from mgdn_jax.systems.mma_unet.network import PRESETS, Config, Head, as_three
from mgdn_jax.weights import conversion

CLASSES = {"vi": ("Encoder", "Decoder"), "ir": ("GuidedEncoder", "Decoder"), "fusion": ("Fusion",)}


class Pooled(nnx.Module):
    """Visible maps on their way to the infrared ones of the next level."""

    def __init__(self, rngs):
        self.project = Conv2d(4, 8, 1, rngs=rngs)

    def __call__(self, x):
        return self.project(average_pool(x))


class Last(nnx.Module):
    """The end of a U-Net's own decoder."""

    def __init__(self, rngs):
        self.last = Conv2d(6, 3, 1, rngs=rngs)

    def __call__(self, x):
        return jnp.tanh(self.last(x))


class Guided(blocks.Gate):
    """Maps times their gate."""

    def __call__(self, x, guide):
        return x * super().__call__(guide)


def up(kind):
    return lambda rngs: blocks.Up(12, kind, momentum=0.9, rngs=rngs)


# What a block is in the published networks and in ours, and how it is made.
BLOCKS = {
    "double_conv": ("Encoder", "inc.", "levels/0/",
                    lambda rngs: DoubleConv(5, 6, use_bias=False, rngs=rngs)),
    "up_transposed": ("Decoder", "up1.", "up/0/", up(blocks.TransposedDoubling)),
    "up_shuffle": ("Fusion", "decoder.up1.", "up/0/", up(blocks.ShuffledDoubling)),
    "guidance": ("GuidedEncoder", "attention1.", "gates/0/", lambda rngs: Guided(32, rngs=rngs)),
    "channel_attention_k3": ("Fusion", "fusion_encoder.ca1.", "joins/0/attention/",
                             lambda rngs: blocks.ChannelAttention(16, rngs=rngs)),
    "channel_attention_k5": ("Fusion", "fusion_encoder.ca1.", "joins/0/attention/",
                             lambda rngs: blocks.ChannelAttention(128, rngs=rngs)),
    "scse": ("Fusion", "fusion_encoder.ca3.", "joins/2/attention/",
             lambda rngs: blocks.SpatialChannelAttention(8, rngs=rngs)),
    "asymmetric_down": ("Fusion", "fusion_encoder.down1.", "joins/0/", Pooled),
    "out_head": ("Fusion", "decoder.outc.", "head/", lambda rngs: Head(Config(8), rngs=rngs)),
    "out_tanh": ("Decoder", "outc.", "", Last),
}  # fmt: skip


def part(golden, kind, name):
    """Entries of one block, converted as if they sat in the whole network."""
    network, theirs, ours, _ = BLOCKS[name]
    rules, found = conversion.rules_of("mma_unet", network), {}
    for key, value in golden.arrays.items():
        if key.startswith(f"{kind}:{name}/"):
            targets = conversion._targets(theirs + key.partition("/")[2], rules)
            wanted = [t for t in targets if t[0].startswith(ours)]
            assert len(wanted) == 1 or key.endswith("tracked"), key
            for path, layout in wanted:
                found[path.removeprefix(ours)] = jnp.asarray(layout.ours(value))
    return found


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_with_all_gradients(name):
    golden = Golden("mma_unet_blocks")
    graphdef, params, stats = functional.abstract(lambda: BLOCKS[name][3](rngs=nnx.Rngs(0)))
    weights = part(golden, "param", name)
    assert {k: v.shape for k, v in weights.items()} == {
        k: v.shape for k, v in (params | stats).items()
    }
    own = {k: weights[k] for k in params}
    moments = {k: weights[k] for k in stats}
    names = [str(i) for i in range(2) if f"in:{name}/{i}" in golden]
    inputs = [golden.nhwc(f"in:{name}/{i}") for i in names]
    cotangent = golden.nhwc(f"in:{name}/cotangent")

    @jax.jit
    def run(own, inputs):
        def loss(own, inputs):
            y, _ = functional.apply(graphdef, own, moments, *inputs)
            return jnp.sum(y * cotangent), y

        return jax.grad(loss, (0, 1), has_aux=True)(own, inputs)

    (grads, slopes), y = run(own, inputs)
    error = max_error(y, last(golden[f"out:{name}"]))
    wanted = part(golden, "grad", name)
    off = {k: relative_error(grads[k], np.asarray(v)) for k, v in wanted.items()}
    off |= {
        f"in {i}": relative_error(s, last(golden[f"grad_in:{name}/{i}"]))
        for i, s in zip(names, slopes, strict=True)
    }
    worst = max(off, key=off.get)
    print(f"{name}: {error:.1e}, gradients {off[worst]:.1e} of the largest entry ({worst})")
    assert wanted.keys() == grads.keys()
    assert error <= 2e-6
    assert off[worst] <= 1e-4


def test_the_loss_of_the_fusion():
    golden = Golden("mma_unet_losses")
    fused = golden.nhwc("in:fused")
    infrared, visible = (as_three(golden.nhwc(f"in:{name}")) for name in ("ir", "vis"))

    @jax.jit
    def run(fused):
        def loss(fused):
            terms = losses.fusion_terms(fused, infrared, visible)
            return jnp.mean(losses.fusion(terms)), terms

        return jax.value_and_grad(loss, has_aux=True)(fused)

    (total, terms), slope = run(fused)
    found = {
        "gradient_term_squared": terms["gradient"] ** 2,
        "ssim_term_mean": jnp.mean(terms["dissimilarity"]),
        "mse_term": jnp.mean(terms["intensity"]),
        "total": total,
    }
    off = {k: abs(float(v) / float(golden[f"out:{k}"][0]) - 1) for k, v in found.items()}
    error = relative_error(slope, last(golden["grad_in:fused"]))
    print({k: f"{v:.1e}" for k, v in off.items()}, f"slope {error:.1e} of the largest entry")
    assert max(off.values()) <= 1e-6
    assert error <= 1e-4


def test_the_loss_of_the_u_nets():
    run = jax.jit(lambda x, y: (losses.reconstruction(x, y), losses.reconstruction(x, y, ssim=0.0)))
    # Two grids of opposite phase: every pixel is at the clamp, half a unit each.
    grid = jnp.asarray(np.indices((12, 12)).sum(0) % 2, jnp.float32)[None, ..., None]
    x, y = jnp.concatenate([grid, grid]), jnp.concatenate([1 - grid, grid])
    whole, squares = run(x, y)
    np.testing.assert_allclose(whole, [1.25, 0], atol=1e-6)
    np.testing.assert_allclose(squares, [1, 0], atol=1e-6)


def test_the_networks_are_put_together_as_those_that_agreed():
    """Frozen when the published width agreed with the original (test_whole_mma_unet.py)."""
    golden = Golden("mma_unet_narrow")
    errors = {}
    for name, picture in narrow_results().items():
        wanted = golden[f"out:{name}"]
        errors[name] = max_error(picture, wanted)
        assert wanted.std() > 0.01
    print({k: f"{v:.1e}" for k, v in errors.items()})
    assert max(errors.values()) <= 2e-6


@pytest.mark.parametrize("network", NETWORKS)
def test_published_shapes_are_ours(network):
    """At the published width, without drawing it."""
    for kind in CLASSES[network]:
        _, params, stats = registry.abstract("mma_unet", PRESETS["published"], kind)
        wanted = {k: tuple(v.shape) for k, v in (params | stats).items()}
        rules, found = conversion.rules_of("mma_unet", kind), {}
        for key, shape in published_shapes(network).items():
            for path, layout in conversion._targets(key, rules):
                if path in wanted:
                    found[path] = layout.ours(np.broadcast_to(np.float32(0), shape)).shape
        assert found == wanted


def test_parameters_are_counted():
    counts = {
        kind: registry.count_parameters(
            registry.abstract("mma_unet", PRESETS["published"], kind)[1]
        )
        for kind in ("Encoder", "GuidedEncoder", "Decoder", "Fusion", "Network")
    }
    assert (counts["Encoder"], counts["Decoder"]) == (18_847_168, 12_190_595)
    assert counts["Encoder"] + counts["Decoder"] == 31_037_763
    assert counts["GuidedEncoder"] + counts["Decoder"] == 31_212_355
    assert counts["Fusion"] == 36_397_263
    assert counts["Network"] == 74_266_191
    small = registry.abstract("mma_unet", PRESETS["small"])[1]
    assert registry.count_parameters(small) == 4_647_131


def told_apart(state, start=1):
    """The same names and shapes with values that tell entries apart."""
    return {k: np.full_like(v, start + i) for i, (k, v) in enumerate(state.items())}


def test_published_names_there_and_back():
    """The three files as one, and each by itself, as it is or wrapped."""
    whole = told_apart(whole_state(4))
    params, stats, report = conversion.convert_arrays(whole, system="mma_unet", config=NARROW)
    decoders = [k for k in whole if k[:2] in ("vi", "ir") and k[3:5] in ("up", "ou")]
    counts = [k for k in whole if k.endswith("tracked")]
    assert sorted(report.skipped) == sorted({*decoders, *counts})
    assert len(params) + len(stats) + len(report.skipped) == len(whole)
    back = conversion.to_state_dict(params, stats, whole, system="mma_unet")
    assert all(np.array_equal(back[key], whole[key]) for key in whole)
    for network, kinds in CLASSES.items():
        state = told_apart(state_of(network, 4))
        filled = set()
        for kind in kinds:
            wrap = "model." if kind != "Decoder" else ""
            wrapped = {wrap + k: v for k, v in state.items()}
            own, moments, report = conversion.convert_arrays(
                wrapped, system="mma_unet", config=NARROW, network=kind
            )
            filled |= {k.removeprefix(wrap) for k in report.converted}
            back = conversion.to_state_dict(own, moments, wrapped, system="mma_unet", network=kind)
            assert all(np.array_equal(back[key], wrapped[key]) for key in wrapped)
        assert filled == {k for k in state if not k.endswith("tracked")}


def test_what_a_file_may_have_and_must_not_lack():
    state = whole_state(4)
    kernels = {f"fusion.sobelconv.weight{axis}": np.ones((1, 1, 3, 3), np.float32) for axis in "xy"}
    report = conversion.convert_arrays(state | kernels, system="mma_unet", config=NARROW)[2]
    assert kernels.keys() <= set(report.skipped)
    torn = {k: v for k, v in state.items() if k != "ir.attention3.fc.0.weight"}
    with pytest.raises(InputError, match=r"1 parameters without a source \(infrared/gates/2/squ"):
        conversion.convert_arrays(torn, system="mma_unet", config=NARROW)
    with pytest.raises(InputError, match=r"1 unknown entries \(ir\.attention6"):
        conversion.convert_arrays(
            state | {"ir.attention6.fc.0.weight": np.ones((1, 4), np.float32)},
            system="mma_unet", config=NARROW,
        )  # fmt: skip


def test_three_files_become_one_and_convert(torch, tmp_path):
    """As docs/systems/mma_unet.md has it."""
    parts = {}
    for network in NETWORKS:
        tensors = {k: torch.from_numpy(v) for k, v in state_of(network, 4).items()}
        torch.save({"model": tensors}, tmp_path / f"{network}.pth")
        parts[network] = torch.load(tmp_path / f"{network}.pth")["model"]
    torch.save(parts, tmp_path / "all.pth")
    target = tmp_path / "mma.safetensors"
    report = conversion.convert(
        tmp_path / "all.pth", target, system="mma_unet", preset="published", features=4
    )
    assert report.complete
    single = conversion.read_torch(tmp_path / "ir.pth")
    assert conversion.sort_entries(
        single, system="mma_unet", config=NARROW, network="GuidedEncoder"
    )[0].complete


@functools.cache
def tiny():
    """(params, stats) of a narrow network by the formula."""
    return conversion.convert_arrays(whole_state(4), system="mma_unet", config=NARROW)[:2]


def test_pictures_are_completed_by_reflection():
    graphdef, weights = registry.graphdef("mma_unet", NARROW), tiny()
    run = jax.jit(lambda a, b: functional.apply(graphdef, *weights, a, b)[0][0])
    a, b = noise(1, 19, 32, 1, seed=1), noise(1, 19, 32, 1, seed=2)
    whole = [jnp.pad(x, ((0, 0), (0, 13), (0, 0), (0, 0)), mode="reflect") for x in (a, b)]
    np.testing.assert_allclose(run(a, b), run(*whole)[:, :19], atol=1e-6)
    # Each source has an encoder of its own.
    assert np.abs(run(a, b) - run(b, a)).max() > 1e-4
    with pytest.raises(ValueError, match="of one shape"):
        run(a, b[:, :4])
    with pytest.raises(ValueError, match="of one shape"):
        run(as_three(a), as_three(b))


def test_pooling_leaves_an_odd_line_out():
    x = noise(1, 5, 4, 2)
    blocks_of_four = np.asarray(x)[:, :4].reshape(1, 2, 2, 2, 2, 2)
    np.testing.assert_array_equal(max_pool(x), blocks_of_four.max((2, 4)))
    np.testing.assert_allclose(average_pool(x), blocks_of_four.mean((2, 4)), rtol=1e-6)


def test_colour_stays_that_of_the_visible_picture():
    fuse = Fuser("mma_unet", NARROW, *tiny())
    ramp = np.linspace(0, 255, 20).astype(np.uint8)[None].repeat(17, 0)
    red = np.stack([ramp, ramp // 2, ramp // 2], -1)
    fused = fuse(ramp, red, stretch="minmax")
    assert fused.shape == (17, 20, 3)
    assert (fused[..., 0].astype(int) - fused[..., 1] >= 0).all()
    assert np.ptp(fused) > 0


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"features": 6}, "features must be a multiple of 4"),
        ({"features": 0}, "features must be a positive whole number"),
        ({"momentum": 1.0}, "momentum must be in"),
        ({"in_channels": (3, 3)}, "it fuses luminance"),
    ],
)
def test_impossible_networks_are_refused(fields, sentence):
    with pytest.raises(InputError, match=sentence):
        Config(**fields)


def test_taps_along_the_channels():
    counts = {c: blocks.channel_taps(c) for c in (8, 16, 32, 64, 128, 256)}
    assert counts == {8: 3, 16: 3, 32: 3, 64: 3, 128: 5, 256: 5}
    for features in (16, 64):
        published = shapes("fusion", features)["fusion_encoder.ca1.conv.weight"]
        assert published == (1, 1, blocks.channel_taps(2 * features))


def test_half_precision_keeps_the_result_in_single():
    graphdef = registry.graphdef("mma_unet", dataclasses.replace(NARROW, dtype="bfloat16"))
    shape = jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32)
    fused, aux = jax.eval_shape(
        lambda a, b: functional.apply(graphdef, *tiny(), a, b)[0], shape, shape
    )
    assert fused.dtype == aux["channels"].dtype == jnp.float32
    assert aux["joined"][0].dtype == jnp.bfloat16
