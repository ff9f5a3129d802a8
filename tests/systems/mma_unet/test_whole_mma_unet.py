"""MMA-UNet at the published width against the original: pictures, maps, a training step's slopes.

Collected only where the fixtures lie (see conftest.py); what default tests need of them is in
tests/goldens.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SHARED
from golden import Golden, max_error, relative_error
from helpers import last
from helpers_mma_unet import results, state_of, typed, whole_state

from mgdn_jax.layers import functional
from mgdn_jax.layers.mode import Mode
from mgdn_jax.systems import registry
from mgdn_jax.systems.mma_unet import losses
from mgdn_jax.systems.mma_unet.network import Config, as_three
from mgdn_jax.weights import conversion

PATH = SHARED / "fixtures" / "mma_unet" / "networks_formula.npz"
PUBLISHED = Config()
MAPS = {"visible": "vi_features", "infrared": "ir_features", "joined": "fusion"}
# Their biases come before a batch norm: what is left of their slopes is rounding.
WITHOUT_SLOPE = {"decoder.outc.output.0.bias", "decoder.outc.output.3.bias"}
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def golden():
    return Golden("", PATH)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", ["even", "odd"])
def test_pictures_and_maps(golden, size, dtype):
    """An odd side loses a pixel in the fused picture, as in the released code."""
    prefix = "" if size == "even" else "odd/"
    a, b = (golden.nhwc(f"in:{prefix}{name}") for name in ("ir", "vis"))
    with jax.enable_x64(dtype == "float64"):
        pictures, maps = results(whole_state(), PUBLISHED, a, b, dtype)
    ending = dtype.replace("float", "f")
    names = {"fused": "fused", "vi": "vi_reconstruction", "ir": "ir_reconstruction"}
    errors = {
        name: max_error(pictures[name], last(golden[f"out:{size}/{theirs}/{ending}"]))
        for name, theirs in names.items()
    }
    off = {}
    for kind, theirs in MAPS.items():
        for i, x in enumerate(maps[kind]):
            x = np.asarray(x, np.float64)
            wanted = golden[f"mid:{size}/{theirs}{i}.mean_rms/{ending}"]
            off[f"{kind}/{i}"] = np.abs([x.mean(), np.sqrt((x**2).mean())] / wanted - 1).max()
    print(f"{size} {dtype}: {errors}; maps {max(off.values()):.1e}")
    assert max(errors.values()) <= (2e-6 if dtype == "float32" else 1e-12)
    assert max(off.values()) <= 2e-6
    if size == "even":  # stretched over all channels, cut off, the first one kept
        fused = np.asarray(pictures["fused"])
        low, high = fused.min(), fused.max()
        levels = ((fused - low) / (high - low) * 255).astype(np.uint8)
        np.testing.assert_array_equal(levels[0, ..., 0], golden["out:even/saved_uint8"])


def test_a_training_step_of_the_fusion(golden):
    """In double precision: in single, the golden is 3e-5 from its own double."""
    state, published = whole_state(), state_of("fusion")
    made = conversion.convert_arrays(state, system="mma_unet", config=Config(dtype="float64"))
    with jax.enable_x64(True):
        params, stats = (typed(tree, "float64") for tree in made[:2])
        graphdef = registry.graphdef("mma_unet", Config(dtype="float64"))
        a, b = (jnp.asarray(golden.nhwc(f"in:{name}"), "float64") for name in ("ir", "vis"))

        def loss(fusion, params, stats):
            params = params | functional.above("fusion", fusion)
            mode = Mode(training=True)
            (_, aux), new = functional.apply(graphdef, params, stats, a, b, mode=mode)
            terms = losses.fusion_terms(aux["channels"], as_three(a), as_three(b))
            return jnp.mean(losses.fusion(terms)), (aux["channels"], new)

        run = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (total, (channels, new)), grads = run(functional.below(params, "fusion"), params, stats)
    error = max_error(channels, last(golden["out:train/fused/f64"]))
    off_loss = abs(float(total) / float(golden["out:train/loss/f64"][0]) - 1)
    moments = functional.below(stats, "fusion")
    back = conversion.to_state_dict(grads, moments, published, system="mma_unet", network="Fusion")
    off = {}
    for key in golden.arrays:
        name = key.rpartition("/")[2]
        if name in WITHOUT_SLOPE:
            assert np.abs(back[name]).max() <= 1e-12
        elif key.startswith("grad:"):
            off[name] = relative_error(back[name], golden[key])
        elif key.startswith("out:train/gradnorm/"):
            off[f"norm of {name}"] = abs(np.linalg.norm(back[name]) / float(golden[key][0]) - 1)
    worst = max(off, key=off.get)
    print(f"loss {off_loss:.1e}, picture {error:.1e}, slopes {off[worst]:.1e} ({worst})")
    assert len(off) == 81
    assert error <= 2e-6
    assert off_loss <= 1e-6
    assert off[worst] <= 1e-4
    # The encoders ran by their running statistics, which stay.
    for name, value in stats.items():
        same = np.array_equal(new[name], value)
        assert same != name.startswith("fusion/"), name
