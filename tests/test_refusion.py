"""ReFusion against the original: blocks, the three networks, gradients, colour; its properties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden import Golden, max_error, relative_error
from jax.test_util import check_grads

from mgdn_jax import conversion, image, models
from mgdn_jax.errors import InputError
from mgdn_jax.fuser import Fuser
from mgdn_jax.layers import functional, restormer
from mgdn_jax.layers.attention import channel_map, channel_sums
from mgdn_jax.models import refusion
from mgdn_jax.models.refusion import PRESETS, Config

# Channels of a branch; blocks have C and 2C.
SMALL = Config(features=4, heads=2, blocks=1)


# Goldens run once: compiling, not speed, is what takes the time.
jit_once = functools.partial(
    jax.jit,
    compiler_options={
        "xla_llvm_disable_expensive_passes": True,
        "xla_backend_optimization_level": 1,
    },
)


def last(array):
    return np.moveaxis(array, 1, -1)


def part(state, theirs, ours, module):
    """Converts the parameters of one submodule: (graphdef, params)."""
    graphdef, shapes, _ = functional.abstract(module)
    params = {}
    for key, value in state.items():
        for path, transform in conversion._targets(theirs + key, conversion.RULES["refusion"]):
            params[path.removeprefix(ours)] = jnp.asarray(transform(value))
    assert params.keys() == shapes.keys()
    return graphdef, params


def block(golden, features, state=None):
    name, ours = (
        ("decoder.0.", "decoder/0/") if features == 32 else ("encoder1.0.", "encoders/0/0/")
    )
    return part(
        golden.state() if state is None else state,
        name,
        ours,
        lambda: restormer.RestormerBlock(features, heads=8, rngs=nnx.Rngs(0)),
    )


def gradients(golden):
    return {
        k[5:]: v
        for k, v in golden.arrays.items()
        if k.startswith("grad:") and not k.startswith("grad:in:")
    }


def compare(ours, wanted, bound=1e-4):
    assert ours.keys() == wanted.keys()
    worst = max(relative_error(ours[k], np.asarray(wanted[k])) for k in wanted)
    print(f"gradients: {worst:.1e} of the largest entry")
    assert worst <= bound


def close(name, ours, wanted, bound=1e-5):
    error = max_error(ours, wanted)
    print(f"{name}: {error:.1e}")
    assert error <= bound


def test_parameter_counts():
    count = models.count_parameters
    sizes = {
        "Network": 59_856,
        "ProposalNetwork": 89_058,
        "ReconstructionNetwork": 59_648,
    }
    for name, size in sizes.items():
        assert count(models.abstract("refusion", Config(), name)[1]) == size
    single = models.abstract("refusion", Config(proposal="single"), "ProposalNetwork")[1]
    assert count(single) == 44_529
    whole = models.abstract("refusion", Config())[1]
    for prefix, size in (("encoders/0/0", 3_640), ("decoder/1", 12_392), ("fusion", 15_472)):
        assert count(functional.below(whole, prefix)) == size


def test_restormer_block_with_activations_and_gradients():
    golden = Golden("refusion_restormer_block")
    graphdef, params = block(golden, 32)
    x = golden.nhwc("in:x")

    def loss(params, x):
        module = nnx.merge(graphdef, functional.unflatten(params), {}, copy=True)
        normal = module.norm1(x)
        qkv = module.attention.qkv(normal)
        attended = restormer.mixed(qkv[2], module.attention.mixing(channel_sums(qkv[0], qkv[1])))
        mids = {"norm1": normal, "attn.qkv_dwconv": jnp.concatenate(qkv, -1), "attn": attended}
        mids["ffn"] = module.feed_forward(module.norm2(x + attended))
        out, _ = module(x)
        return jnp.sum(out * golden.nhwc("in:cotangent_y")), (out, mids)

    grads, (out, mids) = jit_once(jax.grad(loss, (0, 1), has_aux=True))(params, x)
    close("block", out, last(golden["out:y"]))
    for name, value in mids.items():
        close(name, value, last(golden[f"mid:{name}"]))
    compare(grads[0], block(golden, 32, gradients(golden))[1])
    assert relative_error(grads[1], last(golden["grad:in:x"])) <= 1e-4


def test_queries_and_keys_of_zero_have_finite_gradients():
    golden = Golden("refusion_restormer_block_zero_qk")
    graphdef, params = block(golden, 16)

    def loss(params, x):
        out = functional.apply(graphdef, params, {}, x)[0][0]
        return jnp.sum(out * golden.nhwc("in:cotangent_y")), out

    grads, out = jit_once(jax.grad(loss, (0, 1), has_aux=True))(params, golden.nhwc("in:x"))
    close("zero queries and keys", out, last(golden["out:y"]))
    wanted = block(golden, 16, gradients(golden))[1]
    steep = {"attention/qkv/project/kernel", "attention/qkv/local/kernel"}
    compare(
        {k: v for k, v in grads[0].items() if k not in steep},
        {k: v for k, v in wanted.items() if k not in steep},
    )
    for name in steep:  # by output channel: those of channels 0 and 21 are of order 1e12
        ours, theirs = (np.asarray(g[name]).reshape(-1, 48) for g in (grads[0], wanted))
        assert np.isfinite(ours).all()
        scale = np.abs(theirs).max(0)
        error = np.abs(ours - theirs).max(0) / np.where(scale > 0, scale, 1.0)
        print(f"{name}: {error.max():.1e} of each channel's largest, up to {scale.max():.0e}")
        assert error.max() <= 1e-4
    assert relative_error(grads[1], last(golden["grad:in:x"])) <= 1e-4


def test_cross_modal_fusion_with_attention_and_gradients():
    golden = Golden("refusion_afm")

    def converted(state):
        return part(
            state, "FM.", "fusion/", lambda: refusion.CrossModalFusion(Config(), rngs=nnx.Rngs(0))
        )

    graphdef, params = converted(golden.state())

    def loss(params, *xs):
        out, sums = functional.apply(graphdef, params, {}, *xs)[0]
        return jnp.sum(out * golden.nhwc("in:cotangent_y")), (out, sums)

    inputs = golden.nhwc("in:x1"), golden.nhwc("in:x2")
    grads, (out, sums) = jit_once(jax.grad(loss, (0, 1, 2), has_aux=True))(params, *inputs)
    close("afm", out, last(golden["out:y"]))
    for i in (0, 1):
        attention = channel_map(
            functional.below(sums, str(i)), params[f"attentions/{i}/temperature"]
        )
        blocks = np.stack([attention[:, 2 * n : 2 * n + 2, 2 * n : 2 * n + 2] for n in range(8)], 1)
        close(f"attention {i}", blocks, golden[f"mid:attn{i + 1}_softmax"])
    compare(grads[0], converted(gradients(golden))[1])
    for ours, key in zip(grads[1:], ("x1", "x2"), strict=True):
        assert relative_error(ours, last(golden[f"grad:in:{key}"])) <= 1e-4


CASES = {
    "fusion_random": ("Network", "two_branch"),
    "loss_module": ("ProposalNetwork", "single"),
    "loss_module_two_branch": ("ProposalNetwork", "two_branch"),
    "recon_module": ("ReconstructionNetwork", "two_branch"),
}


@pytest.mark.parametrize("name", CASES)
def test_networks_with_all_gradients(name):
    golden = Golden(f"refusion_{name}")
    network, proposal = CASES[name]
    config = Config(proposal=proposal)
    graphdef = models.abstract("refusion", config, network)[0]

    def converted(state):
        return conversion.convert_state_dict(
            state, system="refusion", config=config, network=network
        )[0]

    params = converted(golden.state())
    x = golden.nhwc("in:x")

    def loss(params, x):
        sources = jnp.split(x, x.shape[-1], -1)
        out, _ = functional.apply(graphdef, params, {}, *sources)
        if network == "Network":
            named = {"y": out[0]}
        elif network == "ProposalNetwork":
            named = {"y": out["w"]} if proposal == "single" else {"y1": out["w"], "y2": out["v"]}
        else:
            named = {"y": jnp.concatenate(out, -1)}
        total = sum(jnp.sum(v * golden.nhwc(f"in:cotangent_{k}")) for k, v in named.items())
        return total, (named, out)

    grads, (named, out) = jit_once(jax.grad(loss, (0, 1), has_aux=True))(params, x)
    for key, value in named.items():
        close(f"{name} {key}", value, last(golden[f"out:{key}"]))
    if network == "Network":
        aux = out[1]
        mids = {"encoder1.1": aux["encoded"][0], "encoder2.1": aux["encoded"][1]}
        mids |= {"FM": aux["joint"], "decoder.1": aux["decoded"]}
        for key, value in mids.items():
            close(key, value[:1, ::3, ::3], last(golden[f"mid:{key}"]))
    if "mid:gradmag" in golden:
        close("m(x)", refusion.gradient_magnitude(x), last(golden["mid:gradmag"]))
        # The second branch adds |Sobel| whose subgradient at 0 is 0, as in the reference.
    compare(grads[0], converted(gradients(golden)))
    assert relative_error(grads[1], last(golden["grad:in:x"])) <= 1e-4


def drawn(config, spread=0.0):
    """Start values by NumPy (drawing them with JAX would compile for every shape)."""
    random = np.random.default_rng(0)
    graphdef, shapes, _ = models.abstract("refusion", config)
    params = {}
    for name, leaf in shapes.items():
        if name.endswith("kernel"):
            value = random.uniform(-1, 1, leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            start = 0.0 if name.endswith("bias") else 1.0
            value = start + spread * random.normal(size=leaf.shape)
        params[name] = jnp.asarray(value, jnp.float32)
    return graphdef, params


@functools.cache
def small():
    graphdef, params = drawn(SMALL, 0.1)
    return graphdef, params, jit_once(lambda *x: functional.apply(graphdef, params, {}, *x)[0][0])


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).random(shape), jnp.float32)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
def test_any_size_and_batches_equal_singles(size):
    _, _, fuse = small()
    a, b = noise(2, *size, 1), noise(2, *size, 1, seed=1)
    whole = fuse(a, b)
    assert whole.shape == (2, *size, 1)
    singles = jnp.concatenate([fuse(a[i : i + 1], b[i : i + 1]) for i in (0, 1)])
    assert np.allclose(whole, singles, atol=1e-6)


def test_the_order_of_the_inputs_matters():
    _, _, fuse = small()
    a, b = noise(1, 9, 8, 1), noise(1, 9, 8, 1, seed=1)
    assert float(jnp.abs(fuse(a, b) - fuse(b, a)).max()) > 1e-3


def test_strips_equal_the_whole_map_with_gradients(monkeypatch):
    graphdef, params, _ = small()
    a, b = noise(2, 23, 6, 1), noise(2, 23, 6, 1, seed=1)  # 23 rows: the last strip is not full
    weights = noise(2, 23, 6, 1, seed=2)

    def loss(params, a):
        (fused, aux), _ = functional.apply(graphdef, params, {}, a, b, pixel_weights=weights)
        return jnp.sum(jnp.sin(9 * fused)), (fused, aux["context"])

    run = jax.value_and_grad(loss, (0, 1), has_aux=True)
    whole = jit_once(run)(params, a)
    monkeypatch.setattr(restormer, "STRIP_PIXELS", 30)
    strips = jit_once(lambda p, a: run(p, a))(params, a)
    for ours, wanted in zip(jax.tree.leaves(strips), jax.tree.leaves(whole), strict=True):
        assert np.allclose(ours, wanted, rtol=1e-4, atol=1e-4)


def test_sums_of_tiles_stand_in_for_the_whole_picture():
    graphdef, params, _ = small()
    a, b = noise(1, 12, 8, 1), noise(1, 12, 8, 1, seed=1)
    (fused, aux), _ = functional.apply(graphdef, params, {}, a, b)
    same, _ = functional.apply(graphdef, params, {}, a, b, context=aux["context"])
    assert np.allclose(same[0], fused, atol=1e-6)
    fuser = Fuser("refusion", SMALL, params)
    assert fuser.plan(40, 40, tile=16, overlap=4).streamed
    assert not fuser.plan(1000, 1400).tiles > 1


def test_second_derivatives():
    """Meta-gradients differentiate the fusion network twice, in reverse."""
    with jax.enable_x64(True):
        module = restormer.RestormerBlock(2, heads=1, rngs=nnx.Rngs(0))
        graphdef, params, _ = functional.split(module)
        params = {k: jnp.asarray(v, jnp.float64) for k, v in params.items()}
        x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 4, 2)))
        check_grads(
            lambda p, x: functional.apply(graphdef, p, {}, x)[0][0],
            (params, x),
            2,
            modes=["rev"],
            rtol=1e-4,
        )


def test_a_larger_floor_bounds_the_gradient_of_a_black_source():
    def slope(floor):
        config = Config(features=4, heads=2, blocks=1, norm_floor=floor)
        graphdef, params = drawn(config)

        def loss(params):
            fused = functional.apply(
                graphdef, params, {}, noise(1, 8, 8, 1), jnp.zeros((1, 8, 8, 1))
            )[0][0]
            return jnp.sum(fused**2)

        return max(
            float(jnp.abs(g).max()) for g in jax.tree.leaves(jit_once(jax.grad(loss))(params))
        )

    steep, gentle = slope(1e-12), slope(1e-3)
    print(f"gradient with a black source: {steep:.0e}, with a larger floor {gentle:.0e}")
    assert gentle < 1e-3 * steep


def test_dense_and_grouped_forms():
    """What CDDFuse's base extractor needs: 363 016 parameters at 64 channels."""
    build = functools.partial(
        restormer.RestormerBlock, 64, heads=8, expansion=1.0, local="dense", group=2
    )
    shapes = functional.abstract(lambda: build(rngs=nnx.Rngs(0)))[1]
    assert models.count_parameters(shapes) == 363_016
    plain = functional.abstract(lambda: restormer.RestormerBlock(64, heads=8, rngs=nnx.Rngs(0)))[1]
    assert models.count_parameters(plain) == 45_256
    feed = restormer.GatedFeedForward(4, hidden=4, group=2, rngs=nnx.Rngs(0))
    x = noise(1, 5, 6, 4)
    wide = feed.expand(x)
    local = jax.lax.conv_general_dilated(
        wide, feed.local.kernel[...], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=4,
    )  # fmt: skip
    u1, u2 = jnp.split(local, 2, -1)
    wanted = feed.contract(jax.nn.gelu(u1, approximate=False) * u2)
    assert np.allclose(feed(x), wanted, atol=1e-6)


def test_colour_arithmetic_of_the_published_code():
    golden = Golden("refusion_inference_color")
    rgb1, rgb2 = golden["in:rgb1_hwc"], golden["in:rgb2_hwc"]
    planes = [image.rgb_to_ycrcb_published(x) for x in (rgb1, rgb2)]
    for ours, key in zip(planes, ("out:ycrcb1_hwc", "out:ycrcb2_hwc"), strict=True):
        close(key, ours, golden[key], 1e-4)
    parity = image.fuse_chroma_published(planes[0][..., 1:], planes[1][..., 1:])
    close("parity", parity, golden["out:fused_crcb_parity_hwc"], 1e-4)
    centred = image.fuse_chroma(planes[0][..., 1:], planes[1][..., 1:])
    close("centred", centred, golden["out:fused_crcb_centred_hwc"], 1e-3)
    luma = golden["in:fused_y_hw"][..., None]
    full = np.concatenate([luma, golden["out:fused_crcb_parity_hwc"]], -1)
    close("rgb", image.ycrcb_published_to_rgb(full), golden["out:rgb_unclipped_hwc"], 1e-4)


def test_options_of_the_result():
    _, params, fuse = small()
    fuser = Fuser("refusion", SMALL, params)
    a, b = (np.asarray(noise(9, 8, seed=i)) for i in (0, 1))
    raw = np.asarray(fuse(a[None, ..., None], b[None, ..., None]))[0, ..., 0]
    assert np.allclose(fuser(a, b), raw, atol=1e-6)
    wide = (raw - raw.min()) / (raw.max() - raw.min())
    assert np.allclose(fuser(a, b, stretch="minmax"), wide, atol=1e-5)
    tiled = fuser(np.tile(a, (4, 4)), np.tile(b, (4, 4)), tile=16, overlap=4, stretch="minmax")
    assert tiled.min() == 0.0
    assert abs(tiled.max() - 1.0) <= 1e-6
    flat = fuser(a[:1, :1], b[:1, :1], stretch="minmax")  # constant: nothing to stretch
    assert np.allclose(flat, fuser(a[:1, :1], b[:1, :1]))
    colour = np.asarray(noise(9, 8, 3, seed=3))
    gray = np.repeat(a[..., None], 3, -1)  # gray content in three channels brings no chroma
    for chroma in ("centred", "parity"):
        three = fuser(gray, colour, chroma=chroma)
        assert three.shape == (9, 8, 3)
        assert np.allclose(three, fuser(a, colour, chroma=chroma), atol=1e-6)
    assert np.ptp(fuser(gray, gray), axis=-1).max() == 0
    difference = np.abs(fuser(colour, colour[::-1], chroma="parity") - fuser(colour, colour[::-1]))
    assert 0 < difference.max() < 0.01
    with pytest.raises(InputError, match="chroma is 'vivid'; choose one of centred, parity"):
        fuser(a, b, chroma="vivid")
    with pytest.raises(InputError, match="stretch is 'full'"):
        fuser(a, b, stretch="full")
    with pytest.raises(InputError, match="stretch on the weights' card is 'x'"):
        Fuser("refusion", SMALL, params, card={"inference": {"stretch": "x"}})
    carded = Fuser("refusion", SMALL, params, card={"inference": {"stretch": "minmax"}})
    assert np.allclose(carded(a, b), wide, atol=1e-5)


def test_twins_of_convolutions_convert_once():
    state = Golden("refusion_fusion_random").state()
    convs = [k for k, v in state.items() if v.ndim == 4 and k.endswith(".weight")]
    assert len(convs) == 54
    twins = {k.removesuffix("weight") + "conv.weight": state[k] for k in convs}

    def convert(entries):
        return conversion.convert_state_dict(entries, system="refusion", config=PRESETS["ivf"])

    plain = convert(state)[0]
    both, report = convert({**state, **twins})
    assert len(report.converted) == 86
    assert sorted(report.skipped) == sorted(twins)
    alone = convert({**{k: v for k, v in state.items() if k not in convs}, **twins})[0]
    for other in (both, alone):
        assert all(np.array_equal(plain[k], other[k]) for k in plain)
    different = {**state, **twins, "FM.qkv1.conv.weight": twins["FM.qkv1.conv.weight"] + 1}
    with pytest.raises(InputError, match=r"two partners \(FM.qkv1.conv.weight\)"):
        convert(different)
    with pytest.raises(InputError, match=r"unknown entries \(FM.qkv1_meta\)"):
        convert({**state, "FM.qkv1_meta": state["FM.qkv1.weight"]})


def test_configurations():
    assert set(PRESETS) == {"ivf", "mif", "mff", "mef"} == set(refusion.PUBLISHED)
    config = Config(proposal="single", norm_floor=1e-3)
    assert Config.from_dict(config.to_dict()) == config
    for fields, message in (
        ({"heads": 5}, "divisible by heads"),
        ({"proposal": "three"}, "proposal is"),
        ({"featurs": 8}, "did you mean 'features'"),
        ({"in_channels": [3, 3]}, "fuses luminance"),
        ({"norm_floor": 0.0}, "norm_floor must be a positive number"),
    ):
        with pytest.raises(InputError, match=message):
            Config.from_dict(fields)
