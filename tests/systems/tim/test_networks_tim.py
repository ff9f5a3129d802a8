"""TIM's six published networks at their width, from checkpoints of the published names."""

import dataclasses

import jax
import numpy as np
import pytest
from golden import Golden, max_error
from helpers_tim import tim_state

from mgdn_jax.errors import InputError
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.layers import functional
from mgdn_jax.systems import registry
from mgdn_jax.systems.tim.network import PRESETS, Config
from mgdn_jax.weights import conversion

ENHANCED = {"ivf": "enh_ivif", "ct": "enh_ct", "pet": "enh_pet", "spect": "enh_spect"}


@pytest.fixture(scope="module")
def golden():
    return Golden("tim_networks")


def published(preset):
    """(our configuration, published entries) of a preset."""
    if preset == "light":
        return PRESETS[preset], tim_state(initial="meta_light")
    return PRESETS[preset], tim_state(initial="meta_M", enhancement=ENHANCED[preset])


def fuse(config, params, stats, a, b):
    graphdef = registry.graphdef("tim", config)
    run = jax.jit(lambda p, s, a, b: functional.apply(graphdef, p, s, a, b)[0])
    return run(params, stats, a, b)


@pytest.mark.parametrize("preset", ["ivf", "light", "ct", "pet", "spect"])
def test_published_networks(golden, preset):
    config, state = published(preset)
    params, stats, report = conversion.convert_arrays(state, system="tim", config=config)
    name = ENHANCED.get(preset, "meta_light")
    count = sum(value.size for value in params.values())
    wanted = int(golden[f"scalar:parameters:{name}"][0])
    assert count == wanted + (0 if preset == "light" else 994_917)
    assert all(key.endswith(("filt", "tracked")) for key in report.skipped)
    # What went into the golden networks is not what the scripts of every task feed.
    orders = {"light": ("ba", "ab"), "ivf": ("ab", "ba")}.get(preset, ("ab", "ab"))
    config = dataclasses.replace(config, initial_order=orders[0], enhancement_order=orders[1])
    a, b = golden.nhwc("in:a"), golden.nhwc("in:b")
    fused, aux = fuse(config, params, stats, a, b)
    if preset == "light":
        errors = {"fused": max_error(fused, golden.nhwc("out:meta_light"))}
    else:
        prefix = f"out:{name}" + ("/train" if preset == "ivf" else "")
        errors = {
            "initial": max_error(aux["initial"], golden.nhwc("out:meta_M")),
            "fused": max_error(fused, golden.nhwc(f"{prefix}/final")),
            "first": max_error(aux["enhanced"][0], golden.nhwc(f"{prefix}/first_branch")),
            "second": max_error(aux["enhanced"][1], golden.nhwc(f"{prefix}/second_branch")),
        }
    print(preset, {name: f"{error:.1e}" for name, error in errors.items()})
    # Statistics of an image whose features hardly vary amplify rounding.
    limit = 1e-4 if preset == "ivf" else 1e-5
    assert max(errors.values()) <= limit
    assert errors.get("initial", 0) <= 1e-5


def test_running_statistics_are_an_option(golden):
    config, state = published("ivf")
    config = dataclasses.replace(config, statistics="running", initial_order="ab")
    params, stats, _ = conversion.convert_arrays(state, system="tim", config=config)
    fused, aux = fuse(config, params, stats, golden.nhwc("in:a"), golden.nhwc("in:b"))
    error = max_error(fused, golden.nhwc("out:enh_ivif/eval/final"))
    print(f"running statistics: {error:.1e}")
    assert error <= 1e-5
    for image, name in zip(aux["enhanced"], ("first", "second"), strict=True):
        assert max_error(image, golden.nhwc(f"out:enh_ivif/eval/{name}_branch")) <= 1e-5


def test_a_blur_that_differs_is_no_part_of_the_network():
    config, state = published("ct")
    name = "initial.cells.0.down_2.body.0.top.4.filt"
    assert name in state
    state[name] = state[name] * 1.01
    with pytest.raises(InputError, match=r"1 unknown entries \(initial\.cells\.0\.down_2"):
        conversion.convert_arrays(state, system="tim", config=config)


def test_there_and_back_again():
    config, state = published("pet")
    params, stats, _ = conversion.convert_arrays(state, system="tim", config=config)
    back = conversion.to_state_dict(params, stats, state, system="tim")
    assert back.keys() == state.keys()
    for key, value in back.items():
        np.testing.assert_array_equal(value, state[key], err_msg=key)


def test_any_size_and_any_order():
    config = Config(features=4, pyramid=("SepConv_3_1",), chains=1, initial_order="ba")
    _, params, stats = registry.initialise("tim", config, jax.random.key(0))
    rng = np.random.default_rng(0)
    a, b = (rng.random((2, 7, 10, 1)).astype(np.float32) for _ in "ab")
    fused, _ = fuse(config, params, stats, a, b)
    assert fused.shape == a.shape
    swapped, _ = fuse(dataclasses.replace(config, initial_order="ab"), params, stats, b, a)
    assert max_error(fused, np.asarray(swapped)) == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"chain": ("Pooling_3_1",)}, "there is no primitive 'Pooling_3_1'; it is Kind_kernel"),
        ({"chain": ("SepConv_5_1",)}, "of SepConv there is SepConv_3_1 alone"),
        ({"chain": ("ECAattention_5",)}, "attentions have a kernel of 3"),
        ({"chain": ("Denseblocks_3_2",)}, "dense blocks have no dilation"),
        ({"features": 3}, "features is even"),
        ({"enhancement": "mask"}, "first and second name primitives"),
        ({"first": ("SepConv_3_1",)}, "first and second name primitives"),
        ({"chains": 0}, "there is a cell"),
    ],
)
def test_impossible_configurations(fields, words):
    with pytest.raises(InputError, match=words):
        Config(**fields)


def test_sides_of_one_pixel_pass_and_tiles_of_what_sees_the_whole_are_told():
    """Channel attention looks at the whole picture, and a tile at itself."""
    found = Config(features=4, chains=1, chain=("ECAattention_3", "SPAattention_3"))
    local = Config(features=4, chains=1, chain=("SepConv_3_1", "SPAattention_3"))
    assert found.sees_whole
    assert not local.sees_whole
    assert PRESETS["ivf"].sees_whole
    for config in (found, local):
        _, params, stats = registry.abstract("tim", config)
        ones = [{k: np.ones(v.shape, v.dtype) for k, v in tree.items()} for tree in (params, stats)]
        fuser = Fuser("tim", config, *ones)
        for shape in ((1, 5), (5, 1), (1, 1)):
            assert fuser(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)).shape == shape
        picture = np.arange(40 * 24, dtype=np.float32).reshape(40, 24) / 960
        warnings = [fuser.fuse(picture, picture, tile=n).report.warnings for n in (0, 16)]
        told = any("looks at the whole picture, and each of the" in s for s in warnings[1])
        assert told == config.sees_whole
        assert not any("looks at the whole picture" in s for s in warnings[0])
