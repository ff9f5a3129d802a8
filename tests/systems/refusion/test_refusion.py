"""ReFusion against the original: blocks, the three networks, gradients, colour; its properties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden import Golden, max_error, relative_error
from helpers import filled, last, noise
from helpers_systems import REFUSION, drawn

from mgdn_jax import image
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import rendering
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.io.pixels import from_float
from mgdn_jax.layers import functional, restormer
from mgdn_jax.layers.attention import channel_map, channel_sums
from mgdn_jax.systems import registry
from mgdn_jax.systems.refusion import network as refusion
from mgdn_jax.systems.refusion.network import PRESETS, Config
from mgdn_jax.weights import conversion


def part(state, theirs, ours, module):
    """Converts the parameters of one submodule: (graphdef, params)."""
    graphdef, shapes, _ = functional.abstract(module)
    params = {}
    for key, value in state.items():
        for path, layout in conversion._targets(theirs + key, conversion.rules_of("refusion")):
            params[path.removeprefix(ours)] = jnp.asarray(layout.ours(value))
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
    count = registry.count_parameters
    sizes = {
        "Network": 59_856,
        "ProposalNetwork": 89_058,
        "ReconstructionNetwork": 59_648,
    }
    for name, size in sizes.items():
        assert count(registry.abstract("refusion", Config(), name)[1]) == size
    single = registry.abstract("refusion", Config(proposal="single"), "ProposalNetwork")[1]
    assert count(single) == 44_529
    whole = registry.abstract("refusion", Config())[1]
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

    grads, (out, mids) = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)
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

    grads, out = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, golden.nhwc("in:x"))
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
    grads, (out, sums) = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(params, *inputs)
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
    graphdef = registry.abstract("refusion", config, network)[0]

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

    grads, (named, out) = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)
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


@functools.cache
def small():
    graphdef, params = drawn("refusion", REFUSION, 0.1)
    return graphdef, params, jax.jit(lambda *x: functional.apply(graphdef, params, {}, *x)[0][0])


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


def joined(floor=1e-12):
    """Cross-modal fusion of 4 + 4 channels and a Restormer block of 8: all that cuts strips."""
    config = Config(features=4, heads=2, norm_floor=floor)
    parts = (
        lambda: refusion.CrossModalFusion(config, rngs=nnx.Rngs(0)),
        lambda: restormer.RestormerBlock(8, heads=2, rngs=nnx.Rngs(0)),
    )
    built = [filled(*functional.abstract(build)[:2]) for build in parts]
    graphdefs, params = ([one[i] for one in built] for i in (0, 1))

    def run(params, a, b, **options):
        joint, first = functional.apply(graphdefs[0], params[0], {}, a, b, **options)[0]
        out, second = functional.apply(graphdefs[1], params[1], {}, joint, **options)[0]
        return out, (first, second)

    return params, run


def test_strips_equal_the_whole_map_with_gradients(monkeypatch):
    params, forward = joined()
    a, b = noise(2, 23, 6, 4), noise(2, 23, 6, 4, seed=1)  # 23 rows: the last strip is not full
    weights = noise(2, 23, 6, 1, seed=2)

    def loss(params, a):
        out, sums = forward(params, a, b, pixel_weights=weights)
        return jnp.sum(jnp.sin(9 * out)), (out, sums)

    run = jax.value_and_grad(loss, (0, 1), has_aux=True)
    (_, (whole, sums)), grads = jax.jit(run)(params, a)
    monkeypatch.setattr(restormer, "STRIP_PIXELS", 30)
    (_, (strips, their_sums)), their_grads = jax.jit(lambda p, a: run(p, a))(params, a)
    close("strips", strips, whole, 2e-6)
    for ours, wanted in zip(
        jax.tree.leaves((their_sums, their_grads)), jax.tree.leaves((sums, grads)), strict=True
    ):
        assert relative_error(ours, np.asarray(wanted)) <= 1e-5


def test_sums_of_tiles_stand_in_for_the_whole_picture():
    graphdef, params, _ = small()
    a, b = noise(1, 12, 8, 1), noise(1, 12, 8, 1, seed=1)
    (fused, aux), _ = functional.apply(graphdef, params, {}, a, b)
    same, _ = functional.apply(graphdef, params, {}, a, b, context=aux["context"])
    assert np.allclose(same[0], fused, atol=1e-6)
    whole = Fuser("refusion", REFUSION, params)
    assert whole.plan(40, 40, tile=16, overlap=4).streamed
    assert not whole.plan(1000, 1400).tiles > 1


def test_second_derivatives():
    """Meta-gradients differentiate the fusion network twice, in reverse."""
    with jax.enable_x64(True):
        build = functools.partial(restormer.RestormerBlock, 2, heads=1)
        graphdef, params = filled(*functional.abstract(lambda: build(rngs=nnx.Rngs(0)))[:2], 0.1)
        random = np.random.default_rng(0)
        point = {k: np.asarray(v, np.float64) for k, v in params.items()}
        point["x"] = random.normal(size=(1, 3, 4, 2))
        along = {k: random.normal(size=v.shape) for k, v in point.items()}

        def loss(point):
            rest = {k: v for k, v in point.items() if k != "x"}
            return jnp.sum(jnp.sin(functional.apply(graphdef, rest, {}, point["x"])[0][0]))

        def slope(point):
            return sum(jnp.vdot(g, along[k]) for k, g in jax.grad(loss)(point).items())

        curve = jax.jit(jax.value_and_grad(slope))

        def moved(step, direction):
            return {k: v + step * direction[k] for k, v in point.items()}

        _, second = curve(point)
        for seed in range(2):
            other = {
                k: np.random.default_rng(seed + 1).normal(size=v.shape) for k, v in point.items()
            }
            step = 1e-5
            wanted = (curve(moved(step, other))[0] - curve(moved(-step, other))[0]) / (2 * step)
            exact = sum(np.vdot(second[k], other[k]) for k in point)
            print(f"second derivative: {abs(exact - wanted) / abs(wanted):.1e}")
            assert abs(exact - wanted) <= 1e-6 * abs(wanted)


def test_a_larger_floor_bounds_the_gradient_of_a_black_source():
    def slope(floor):
        params, forward = joined(floor)
        light, black = noise(1, 6, 5, 4), jnp.zeros((1, 6, 5, 4))
        # With respect to the black features: whatever made them receives this gradient.
        slopes = jax.jit(jax.grad(lambda x: jnp.sum(forward(params, light, x)[0] ** 2)))(black)
        return max(float(jnp.abs(g).max()) for g in jax.tree.leaves(slopes))

    steep, gentle = slope(1e-12), slope(1e-3)
    print(f"gradient with a black source: {steep:.0e}, with a larger floor {gentle:.0e}")
    assert gentle < 1e-3 * steep


def test_dense_and_grouped_forms():
    """What CDDFuse's base extractor needs: 363 016 parameters at 64 channels."""
    build = functools.partial(
        restormer.RestormerBlock, 64, heads=8, expansion=1.0, local="dense", group=2
    )
    shapes = functional.abstract(lambda: build(rngs=nnx.Rngs(0)))[1]
    assert registry.count_parameters(shapes) == 363_016
    plain = functional.abstract(lambda: restormer.RestormerBlock(64, heads=8, rngs=nnx.Rngs(0)))[1]
    assert registry.count_parameters(plain) == 45_256
    small = functools.partial(restormer.GatedFeedForward, 4, hidden=4, group=2)
    graphdef, params = filled(*functional.abstract(lambda: small(rngs=nnx.Rngs(0)))[:2])

    def both(params, x):
        feed = nnx.merge(graphdef, functional.unflatten(params), {}, copy=True)
        local = jax.lax.conv_general_dilated(
            feed.expand(x), feed.local.kernel[...], (1, 1), "SAME", feature_group_count=4,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        u1, u2 = jnp.split(local, 2, -1)
        return feed(x), feed.contract(jax.nn.gelu(u1, approximate=False) * u2)

    ours, wanted = jax.jit(both)(params, noise(1, 5, 6, 4))
    assert np.allclose(ours, wanted, atol=1e-6)


def test_colour_arithmetic_of_the_published_code():
    golden = Golden("refusion_inference_color")
    rgb1, rgb2 = golden["in:rgb1_hwc"], golden["in:rgb2_hwc"]
    planes = [image.rgb_to_ycrcb_published(x) for x in (rgb1, rgb2)]
    for ours, key in zip(planes, ("out:ycrcb1_hwc", "out:ycrcb2_hwc"), strict=True):
        close(key, ours, golden[key], 1e-4)
    # From the reference's own planes: next to neutral the rule turns rounding into 0.05 levels.
    first, second = (golden[f"out:ycrcb{i}_hwc"][..., 1:] for i in (1, 2))
    parity = image.fuse_chroma_published(first, second)
    close("parity", parity, golden["out:fused_crcb_parity_hwc"])
    close("centred", image.fuse_chroma(first, second), golden["out:fused_crcb_centred_hwc"], 1e-3)
    ours = image.fuse_chroma_published(planes[0][..., 1:], planes[1][..., 1:])
    close("parity from pictures, levels", ours, golden["out:fused_crcb_parity_hwc"], 0.06)
    luma = golden["in:fused_y_hw"][..., None]
    full = np.concatenate([luma, golden["out:fused_crcb_parity_hwc"]], -1)
    rgb = image.ycrcb_published_to_rgb(full)
    close("rgb", rgb, golden["out:rgb_unclipped_hwc"], 1e-4)
    # The published writer stretches once more; nothing happens where the range is full already.
    gray = image.luminance(golden["in:fused_y_hw"][..., None])[..., 0]
    for name, picture in (("png_rgb8_hwc", np.clip(rgb, 0, 255)), ("png_gray8_hw", gray),
                          ("soft_png_rgb8_hwc", golden["in:soft_rgb_hwc"])):  # fmt: skip
        low, high = picture.min(), picture.max()
        print(f"{name}: range {low:.2f} to {high:.2f}")
        levels = from_float((picture - low) / (high - low), np.dtype(np.uint8))
        assert np.array_equal(levels, golden[f"out:{name}"])


def test_gray_content_is_recognised():
    golden = Golden("refusion_inference_color")
    for key, flag in (("rgb1", "1"), ("gray", "g")):
        picture = golden[f"in:{key}_hwc"].astype(np.uint8)
        ours = rendering.gray_if_equal(picture).shape[-1] == 1
        assert ours == bool(golden[f"scalar:is_gray_{flag}"])


def test_options_of_the_result():
    _, params, fuse = small()
    fuse_pictures = Fuser("refusion", REFUSION, params)
    a, b = (np.asarray(noise(9, 8, seed=i)) for i in (0, 1))
    raw = np.asarray(fuse(a[None, ..., None], b[None, ..., None]))[0, ..., 0]
    assert np.allclose(fuse_pictures(a, b), raw, atol=1e-6)
    wide = (raw - raw.min()) / (raw.max() - raw.min())
    assert np.allclose(fuse_pictures(a, b, stretch="minmax"), wide, atol=1e-5)
    pictures = [np.tile(x, (4, 4)) for x in (a, b)]  # tiles of 9 x 8: no new program
    tiled = fuse_pictures(*pictures, tile=9, overlap=0, tile_context="local", stretch="minmax")
    assert tiled.min() == 0.0
    assert abs(tiled.max() - 1.0) <= 1e-6
    flat = fuse_pictures(a[:1, :1], b[:1, :1], stretch="minmax")  # constant: nothing to stretch
    assert np.allclose(flat, fuse_pictures(a[:1, :1], b[:1, :1]))
    colour = np.asarray(noise(9, 8, 3, seed=3))
    gray = np.repeat(a[..., None], 3, -1)  # gray content in three channels brings no chroma
    for chroma in ("centred", "parity"):
        three = fuse_pictures(gray, colour, chroma=chroma)
        assert three.shape == (9, 8, 3)
        assert np.allclose(three, fuse_pictures(a, colour, chroma=chroma), atol=1e-6)
    assert np.ptp(fuse_pictures(gray, gray), axis=-1).max() == 0
    rules = [fuse_pictures(colour, colour[::-1], chroma=rule) for rule in ("parity", "centred")]
    difference = np.abs(rules[0] - rules[1])
    assert 0 < difference.max() < 0.01
    with pytest.raises(InputError, match="chroma is 'vivid'; choose one of centred, parity"):
        fuse_pictures(a, b, chroma="vivid")
    with pytest.raises(InputError, match="stretch is 'full'"):
        fuse_pictures(a, b, stretch="full")
    with pytest.raises(InputError, match="on the weights' card, stretch is 'x'"):
        Fuser("refusion", REFUSION, params, card={"inference": {"stretch": "x"}})
    carded = Fuser("refusion", REFUSION, params, card={"inference": {"stretch": "minmax"}})
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
    assert (
        set(PRESETS)
        == {"ivf", "mif", "mff", "mef"}
        == set(registry.conversion("refusion").PUBLISHED)
    )
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


def test_policies_of_rematerialisation_give_the_same_results():
    rng = np.random.default_rng(3)
    a, b = rng.random((2, 2, 9, 10, 1), np.float32)
    found = {}
    for remat in ("none", "row", "example"):
        config, graphdef, params, _ = registry.create(
            "refusion", "ivf", features=4, heads=2, remat=remat
        )
        assert registry.network("refusion").Config.from_dict(config.to_dict()) == config

        def value(params, graphdef=graphdef):
            fused = functional.apply(graphdef, params, {}, a, b)[0][0]
            return jnp.mean(jnp.square(fused - a)), fused

        found[remat] = jax.jit(jax.value_and_grad(value, has_aux=True))(params)
    for remat in ("row", "example"):
        for ours, wanted in zip(*map(jax.tree.leaves, (found[remat], found["none"])), strict=True):
            np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-6, err_msg=remat)
    with pytest.raises(InputError, match="remat is one of none, dots"):
        registry.create("refusion", "ivf", remat="all")
