"""CDDFuse against the original: blocks, networks, gradients; its inverse, its sizes, its use."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden import Golden, max_error, relative_error
from helpers import filled, last, noise
from helpers_systems import CDDFUSE, cddfuse_params, cddfuse_state

from mgdn_jax.cli import main as cli
from mgdn_jax.errors import InputError
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.io import files
from mgdn_jax.io.pixels import from_float
from mgdn_jax.layers import functional
from mgdn_jax.layers.restormer import RestormerBlock
from mgdn_jax.systems import registry
from mgdn_jax.systems.cddfuse import network as cddfuse
from mgdn_jax.systems.cddfuse.network import PRESETS, Config
from mgdn_jax.weights import conversion

FULL = PRESETS["ivf"]
ENCODER = "DIDF_Encoder."


def part(entries, theirs, ours):
    """Entries of one submodule, converted as if they sat in the whole network."""
    found = {}
    for key, value in entries.items():
        for path, layout in conversion._targets(theirs + key, conversion.rules_of("cddfuse")):
            found[path.removeprefix(ours)] = layout.ours(value)
    return found


BLOCKS = {
    "restormer_block": (
        ENCODER + "encoder_level1.0.",
        "encoder/blocks/0/",
        lambda rngs: RestormerBlock(64, heads=8, rngs=rngs),
    ),
    "base_extractor": (
        ENCODER + "baseFeature.",
        "encoder/base/",
        lambda rngs: cddfuse.BaseExtractor(FULL, rngs=rngs),
    ),
    "detail_extractor": (
        ENCODER + "detailFeature.",
        "encoder/detail/",
        lambda rngs: cddfuse.DetailExtractor(FULL, rngs=rngs),
    ),
    "coupling_node": (
        "DetailFuseLayer.net.0.",
        "detail_fusion/nodes/0/",
        lambda rngs: cddfuse.CouplingNode(64, rngs=rngs),
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_with_all_gradients(name, dtype):
    golden = Golden(f"cddfuse_{name}")
    theirs, ours, build = BLOCKS[name]
    with jax.enable_x64(dtype == "float64"):
        graphdef, shapes, _ = functional.abstract(lambda: build(nnx.Rngs(0)))
        if name == "base_extractor":  # stored with the whole network
            start = {k.removeprefix(theirs): v for k, v in cddfuse_state().items() if theirs in k}
        else:
            start = golden.state()
        params = {k: jnp.asarray(v, dtype) for k, v in part(start, theirs, ours).items()}
        assert params.keys() == shapes.keys()
        if name == "coupling_node":
            x, out, slope = (
                np.concatenate([golden[f"{k}{i}"] for i in "12"], 1)
                for k in ("in:z", "out:z", "grad_in:z")
            )
        else:
            x, out, slope = golden["in:x"], golden["out:y"], golden["grad_in:x"]
        cotangent = jnp.asarray(last(golden["in:cotangent"]), dtype)

        def loss(params, x):
            y = functional.apply(graphdef, params, {}, x)[0]
            y = y[0] if isinstance(y, tuple) else y
            return jnp.sum(y * cotangent), y

        run = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
        (grads, own_slope), y = run(params, jnp.asarray(last(x), dtype))
        error, scale = max_error(y, last(out)), float(np.abs(out).max())
        wanted = part(golden.gradients(), theirs, ours)
        thin = golden.gradients().get("attn.qkv2.weight.o12")
        if thin is not None:  # every twelfth output channel is stored
            path = "attention/qkv/local/kernel"
            wanted[path], grads[path] = thin.transpose(2, 3, 1, 0), grads[path][..., ::12]
        assert wanted.keys() == params.keys()
        off = {k: relative_error(grads[k], v) for k, v in wanted.items()}
        off["x"] = relative_error(own_slope, last(slope))
        worst = max(off, key=off.get)
        print(
            f"{name} {dtype}: {error:.1e} of {scale:.0f}, gradients {off[worst]:.1e} of the"
            f" largest entry ({worst})"
        )
        assert error <= 1e-5 * max(1.0, scale)
        assert off[worst] <= 1e-5
        if dtype == "float64" and "scalar:f32_vs_f64_maxabs" in golden:
            assert error <= 1.001 * float(golden["scalar:f32_vs_f64_maxabs"])


def test_an_inverted_residual_block_alone():
    golden = Golden("cddfuse_coupling_node")
    theirs, ours, _ = BLOCKS["coupling_node"]
    graphdef = functional.abstract(lambda: cddfuse.InvertedResidual(32, rngs=nnx.Rngs(0)))[0]
    params = functional.below(part(golden.state(), theirs, ours), "phi")
    run = jax.jit(lambda x: functional.apply(graphdef, params, {}, x)[0])
    assert max_error(run(golden.nhwc("in:irb_x")), last(golden["out:irb_y"])) <= 1e-5


def invertible(params, x, dtype):
    """(x from y from x, y, log-determinant) by the detail branch with these parameters."""
    build = functional.abstract(lambda: cddfuse.DetailExtractor(FULL, rngs=nnx.Rngs(0)))[0]

    def run(params, x):
        module = nnx.merge(build, functional.unflatten(params), {}, copy=True)
        y, volume = module.with_log_determinant(x)
        return module.inverse(y), y, module(x), volume

    params = {k: jnp.asarray(v, dtype) for k, v in params.items()}
    return jax.jit(run)(params, jnp.asarray(x, dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_detail_branch_inverts(dtype):
    golden = Golden("cddfuse_detail_extractor")
    x = last(golden["in:x"])
    cases = {
        "golden": part(golden.state(), *BLOCKS["detail_extractor"][:2]),
        "as started": functional.below(cddfuse_params(), "encoder/detail"),
    }
    # A rounded y has lost what shuffles of condition 100 to 700 in a row enlarge (about 1e-3 to
    # 1e-1 even if inverted exactly): single precision is asked of well conditioned ones.
    random = np.random.default_rng(0)
    cases["orthogonal shuffles"] = {
        k: np.linalg.qr(random.normal(size=(64, 64)))[0][None, None] if "shuffle/kernel" in k else v
        for k, v in cases["as started"].items()
    }
    for name, params in cases.items():
        if dtype == "float32" and name != "orthogonal shuffles":
            continue
        with jax.enable_x64(dtype == "float64"):
            back, y, plain, _ = invertible(params, x, dtype)
            error = relative_error(back, x)
            print(f"{name} {dtype}: inverse {error:.1e} of the largest entry")
            assert error <= (1e-9 if dtype == "float64" else 1e-5)
            assert max_error(y, np.asarray(plain)) <= 1e-5


def test_the_log_determinant_is_that_of_the_jacobian():
    config = Config(features=4, heads=2, detail_nodes=2)
    with jax.enable_x64(True):
        graphdef, params = filled(
            *functional.abstract(lambda: cddfuse.DetailExtractor(config, rngs=nnx.Rngs(0)))[:2], 0.3
        )
        params = {k: 2.0 * v.astype("float64") for k, v in params.items()}
        x = noise(2, 2, 3, 4).astype("float64")

        def forward(flat):
            module = nnx.merge(graphdef, functional.unflatten(params), {}, copy=True)
            return module.with_log_determinant(flat.reshape(1, 2, 3, 4))

        def check(flat):
            return jax.jacobian(lambda v: forward(v)[0].ravel())(flat), forward(flat)[1][0]

        for example in x.reshape(2, -1):
            jacobian, volume = jax.jit(check)(example)
            wanted = np.linalg.slogdet(np.asarray(jacobian))[1]
            print(f"log-determinant {float(volume):.4f}, off {abs(float(volume) - wanted):.1e}")
            assert abs(wanted) > 0.5
            assert abs(float(volume) - wanted) <= 1e-9


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_networks(dtype):
    golden = Golden("cddfuse_networks")
    with jax.enable_x64(dtype == "float64"):
        config = Config(dtype=dtype)
        params = {k: jnp.asarray(v, dtype) for k, v in cddfuse_params().items()}
        graphdef = registry.abstract("cddfuse", config)[0]
        decoder = registry.abstract("cddfuse", config, "Decoder")[0]
        vis, ir = (jnp.asarray(last(golden[f"in:{k}"]), dtype) for k in ("vis", "ir"))

        def run(params, vis, ir):
            fused, aux = functional.apply(graphdef, params, {}, ir, vis)[0]
            # The decoder's other uses, as one batch: both of phase I, fusion of three skips.
            skips = jnp.concatenate([vis, ir, 0 * vis, vis + ir])
            base, detail = (
                jnp.concatenate([aux[k][1], aux[k][0], aux[f"{k}_fused"], aux[f"{k}_fused"]])
                for k in ("base", "detail")
            )
            painted, own = functional.apply(
                decoder, functional.below(params, "decoder"), {}, skips, base, detail
            )[0]
            return fused, aux, painted, own["reduced"]

        fused, aux, painted, reduced = jax.jit(run)(params, vis, ir)
        ours = {"phase2/fused": fused, "phase2/reduced": aux["reduced"]}
        for i, kind in enumerate(("phase1/vis_hat", "phase1/ir_hat", "mif/fused_noskip",
                                  "mif/fused_sumskip")):  # fmt: skip
            ours[kind] = painted[2 * i : 2 * i + 2]
        ours |= {"phase1/vis_reduced": reduced[:2], "phase1/ir_reduced": reduced[2:4]}
        for kind in ("base", "detail"):
            ours[f"phase2/{kind}_fused"] = aux[f"{kind}_fused"]
        for i, source in enumerate(("ir", "vis")):
            ours |= {f"enc/{source}/{k}": aux[k][i] for k in ("base", "detail", "shallow")}
        for name, value in ours.items():
            value = np.asarray(value)
            if value.shape[-1] == 1:
                errors = [max_error(value, last(golden[f"out:{name}"]))]
            else:
                wide = value.astype(np.float64)
                rms = np.sqrt(np.square(wide).mean((1, 2)))
                errors = [
                    max_error(value[:1, ::2, ::2, ::8], last(golden[f"out:{name}.ch8"])),
                    max_error(wide.mean((1, 2)), golden[f"out:{name}.chmean"]),
                    max_error(rms, golden[f"out:{name}.chrms"]),
                ]
            rounding = float(golden[f"scalar:f32_vs_f64_maxabs/{name}"])
            print(f"{dtype} {name}: {max(errors):.1e} (rounding of the golden {rounding:.1e})")
            assert max(errors) <= (1.001 * rounding if dtype == "float64" else 1e-5)


@functools.cache
def small(skip="second"):
    config = dataclasses.replace(CDDFUSE, skip=skip)
    graphdef, params = filled(*registry.abstract("cddfuse", config)[:2], 0.1)
    return params, jax.jit(lambda *x: functional.apply(graphdef, params, {}, *x)[0])


def test_parameter_counts():
    counts = {"Network": 1_188_272, "Encoder": 599_144, "Decoder": 207_936}
    counts |= {"BaseFusion": 363_016, "DetailFusion": 18_176}
    for name, count in counts.items():
        assert registry.count_parameters(registry.abstract("cddfuse", FULL, name)[1]) == count
    whole = registry.abstract("cddfuse", FULL)[1]
    for prefix, count in (("encoder/blocks/0", 45_256), ("encoder/detail", 54_528)):
        assert registry.count_parameters(functional.below(whole, prefix)) == count
    narrow = registry.abstract("cddfuse", PRESETS["ivf_small"])[1]
    assert registry.count_parameters(narrow) == 68_644


@pytest.mark.parametrize("size", [(1, 1), (5, 3)])
def test_any_size_and_batches_equal_singles(size):
    _, fuse = small()
    a, b = noise(2, *size, 1), noise(2, *size, 1, seed=1)
    whole, aux = fuse(a, b)
    assert whole.shape == (2, *size, 1)
    assert aux["base"].shape == aux["detail"].shape == (2, 2, *size, 4)
    singles = jnp.concatenate([fuse(a[i : i + 1], b[i : i + 1])[0] for i in (0, 1)])
    assert np.allclose(whole, singles, atol=1e-6)


def test_symmetric_but_for_the_skip():
    a, b = noise(1, 5, 3, 1), noise(1, 5, 3, 1, seed=1)
    for skip in ("second", "none"):
        _, fuse = small(skip)
        (fused, aux), (turned, other) = fuse(a, b), fuse(b, a)
        difference = float(jnp.abs(fused - turned).max())
        assert difference > 1e-2 if skip == "second" else difference <= 1e-6
        assert np.allclose(aux["base"], other["base"][::-1], atol=1e-6)
        assert np.allclose(aux["detail"], other["detail"][::-1], atol=1e-6)


def test_tiles_share_the_sums_of_the_whole_picture():
    params, _ = small()
    louder = {k: v * (2.0 if k.endswith("kernel") else 1.0) for k, v in params.items()}
    fuser = Fuser("cddfuse", CDDFUSE, louder)
    ramp = np.linspace(0, 1, 96, dtype=np.float32)
    a = np.asarray(noise(32, 96)) * ramp
    b = 1 - a[::-1]
    whole = fuser(a, b, tile=0)
    off = {
        context: float(np.mean(np.abs(fuser(a, b, tile=32, overlap=12, tile_context=context)
                                      - whole)))
        for context in ("global", "local")
    }  # fmt: skip
    print(off)
    assert off["global"] < 0.5 * off["local"]


def published(torch, path, state, prefix="module."):
    """A checkpoint as published: four state dictionaries in one file."""
    parts = {}
    for name, value in state.items():
        part_name, _, key = name.partition(".")
        parts.setdefault(part_name, {})[prefix + key] = torch.from_numpy(value)
    torch.save(parts, path)
    return path


def test_published_files_convert_and_fuse(torch, tmp_path, capsys):
    source = published(torch, tmp_path / "CDDFuse_IVF.pth", cddfuse_state())
    bare = published(torch, tmp_path / "bare.pth", cddfuse_state(), "")
    for path in (source, bare):
        state = conversion.read_torch(path)
        params, report = conversion.convert_state_dict(state, system="cddfuse", config=FULL)
        assert len(report.converted) == 158
        assert all(np.array_equal(params[k], v) for k, v in cddfuse_params().items())
    target = str(tmp_path / "ivf.safetensors")
    command = ["convert", str(source), target, "--system", "cddfuse", "--preset", "ivf"]
    assert cli.main(command) == 0
    assert "converted 158 tensors, skipped 0" in capsys.readouterr().out
    random = np.random.default_rng(0)
    pair = [str(tmp_path / f"{name}.png") for name in ("ir", "vis")]
    files.write_image(pair[0], random.integers(0, 256, (8, 9), np.uint8))
    files.write_image(pair[1], random.integers(0, 256, (8, 9, 3), np.uint8))
    assert cli.main(["fuse", *pair, "-o", str(tmp_path / "f.png"), "--model", target]) == 0
    assert files.read_image(tmp_path / "f.png").shape == (8, 9, 3)


def test_conversion_is_strict():
    state = cddfuse_state()

    def convert(entries):
        conversion.convert_state_dict(entries, system="cddfuse", config=FULL)

    short = {k: v for k, v in state.items() if not k.startswith("BaseFuseLayer")}
    with pytest.raises(InputError, match="11 parameters without a source"):
        convert(short)
    with pytest.raises(InputError, match=r"unknown entries \(Optimizer.step\)"):
        convert({**state, "Optimizer.step": np.zeros(1, np.float32)})
    with pytest.raises(InputError, match="wrong shape"):
        convert({**state, "BaseFuseLayer.attn.scale": np.ones((4, 1, 1), np.float32)})


@pytest.mark.parametrize("kind", ["ivf", "mif_sumskip"])
def test_pictures_as_published(kind):
    golden = Golden("cddfuse_inference_121x163")
    preset = {"ivf": "ivf", "mif_sumskip": "mif_sum"}[kind]
    fuser = Fuser("cddfuse", PRESETS[preset], cddfuse_params())
    vis, ir = (golden[f"in:{k}"][0, 0] for k in ("vis", "ir"))
    raw = fuser(ir, vis)
    error = max_error(raw, golden[f"out:{kind}/fused"][0, 0])
    levels = from_float(fuser(ir, vis, stretch="minmax"), np.dtype(np.uint8))
    off = levels.astype(int) - golden[f"out:{kind}/u8_round"]
    print(f"{kind}: {error:.1e}; {np.mean(off != 0):.1e} of the pixels one level off")
    assert error <= 1e-5
    assert np.abs(off).max() <= 1
    assert np.mean(off != 0) <= 5e-4


def test_configurations():
    assert (
        set(registry.conversion("cddfuse").PUBLISHED) == {"ivf", "mif", "mif_sum"} <= set(PRESETS)
    )
    config = Config(skip="none", norm_floor=1e-3)
    assert Config.from_dict(config.to_dict()) == config
    for fields, message in (
        ({"heads": 5}, "divisible by heads"),
        ({"features": 9, "heads": 3}, "must be even"),
        ({"skip": "first"}, "skip is one of second, sum, none"),
        ({"featurs": 8}, "did you mean 'features'"),
        ({"in_channels": [3, 3]}, "fuses luminance"),
        ({"detail_nodes": 0}, "detail_nodes must be a positive whole number"),
    ):
        with pytest.raises(InputError, match=message):
            Config.from_dict(fields)
    _, fuse = small()
    with pytest.raises(ValueError, match="sizes differ"):
        fuse(noise(1, 4, 4, 1), noise(1, 4, 5, 1))
    with pytest.raises(ValueError, match="expected luminance"):
        fuse(noise(1, 4, 4, 3), noise(1, 4, 4, 3))
