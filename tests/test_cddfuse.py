"""CDDFuse against the original: blocks, networks, gradients; its inverse, its sizes, its use."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden import Golden, max_error, relative_error

from mgdn_jax import conversion, files, models
from mgdn_jax.errors import InputError
from mgdn_jax.fuser import Fuser
from mgdn_jax.layers import functional
from mgdn_jax.layers.restormer import RestormerBlock
from mgdn_jax.models import cddfuse
from mgdn_jax.models.cddfuse import PRESETS, Config

FULL = PRESETS["ivf"]
SMALL = Config(features=4, heads=2, blocks=1, detail_nodes=2)
ENCODER = "DIDF_Encoder."

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


@functools.cache
def cddfuse_state():
    """Random weights of the four networks, keyed ``part.key`` (tests/goldens/pack.py)."""
    networks = Golden("cddfuse_networks")
    vector = np.concatenate([Golden(f"cddfuse_weights_{i}")["piece"] for i in range(5)])
    state, start = {}, 0
    for key, text in zip(networks["keys"], networks["shapes"], strict=True):
        shape = tuple(map(int, str(text).split()))
        stop = start + int(np.prod(shape))
        state[str(key).replace("/module.", ".")] = vector[start:stop].reshape(shape)
        start = stop
    assert start == vector.size
    return state


@functools.cache
def full_params():
    return conversion.convert_state_dict(cddfuse_state(), system="cddfuse", config=FULL)[0]


def part(entries, theirs, ours):
    """Entries of one submodule, converted as if they sat in the whole network."""
    found = {}
    for key, value in entries.items():
        for path, transform in conversion._targets(theirs + key, conversion.RULES["cddfuse"]):
            found[path.removeprefix(ours)] = transform(value)
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

        run = jit_once(jax.grad(loss, (0, 1), has_aux=True))
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
    state = {k.removeprefix("theta_phi."): v for k, v in golden.state().items()}
    theirs, ours, _ = BLOCKS["coupling_node"]
    graphdef = functional.abstract(lambda: cddfuse.InvertedResidual(32, rngs=nnx.Rngs(0)))[0]
    outs = [
        functional.apply(
            graphdef,
            part({k: v for k, v in state.items() if "theta" not in k and "shffle" not in k},
                 theirs + f"{theta}.", ours + f"{theta[6:]}/"),
            {},
            golden.nhwc("in:irb_x"),
        )[0]
        for theta in ("theta_phi",)
    ]  # fmt: skip
    assert max_error(outs[0], last(golden["out:irb_y"])) <= 1e-5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_networks(dtype):
    golden = Golden("cddfuse_networks")
    with jax.enable_x64(dtype == "float64"):
        config = Config(dtype=dtype)
        params = {k: jnp.asarray(v, dtype) for k, v in full_params().items()}
        graphdef = models.abstract("cddfuse", config)[0]
        decoder = models.abstract("cddfuse", config, "Decoder")[0]
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

        fused, aux, painted, reduced = jit_once(run)(params, vis, ir)
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
