"""Small networks of the systems, and random ones that goldens were made with."""

import functools
import zlib

import helpers
import numpy as np
from golden import Golden

from mgdn_jax.systems import registry
from mgdn_jax.systems.cddfuse import network as cddfuse
from mgdn_jax.systems.mgdn import network as mgdn
from mgdn_jax.systems.refusion import network as refusion
from mgdn_jax.weights import conversion

CDDFUSE = cddfuse.Config(features=4, heads=2, blocks=1, detail_nodes=2)
# Channels of a branch; blocks have C and 2C.
REFUSION = refusion.Config(features=4, heads=2, blocks=1)
# Narrower still, for what has no golden.
LKC_FUNET = {"features": 2, "norm_groups": 2, "kernels": (5, 3, 3)}


def drawn(system, config, spread=0.0):
    """(graphdef, params) of a network without statistics, values by NumPy."""
    return helpers.filled(*registry.abstract(system, config)[:2], spread)


def assembled(keys, shapes, *pieces):
    """A state by name, from a vector that is stored in pieces."""
    vector = np.concatenate([Golden(name)["piece"] for name in pieces])
    state, start = {}, 0
    for key, text in zip(keys, shapes, strict=True):
        shape = tuple(map(int, str(text).split()))
        stop = start + int(np.prod(shape))
        state[str(key)] = vector[start:stop].reshape(shape)
        start = stop
    assert start == vector.size
    return state


@functools.cache
def cddfuse_state():
    """Random weights of the four networks, keyed ``part.key`` (tests/goldens/pack.py)."""
    golden = Golden("cddfuse_networks")
    pieces = [f"cddfuse_weights_{i}" for i in range(5)]
    state = assembled(golden["keys"], golden["shapes"], *pieces)
    return {key.replace("/module.", "."): value for key, value in state.items()}


@functools.cache
def cddfuse_params():
    config = cddfuse.PRESETS["ivf"]
    return conversion.convert_state_dict(cddfuse_state(), system="cddfuse", config=config)[0]


@functools.cache
def mgdn_golden():
    """(golden, graphdef, params, report) of the random network for multi-focus pairs."""
    golden = Golden("mgdn_mgff_mff_random")
    config = mgdn.Config.preset("mff")
    graphdef = registry.abstract("mgdn", config)[0]
    params, report = conversion.convert_state_dict(golden.state(), system="mgdn", config=config)
    return golden, graphdef, params, report


def by_formula(key, shape):
    """The weight of a key in golden files of TIM and MMA-UNet that store none."""
    u = np.random.RandomState(zlib.crc32(key.encode())).uniform(-1, 1, size=shape)
    if key.endswith("running_var"):
        value = 1 + 0.3 * u
    elif key.endswith(("running_mean", "bias")):
        value = 0.1 * u
    elif len(shape) == 1:
        value = 0.25 + 0.1 * u if shape == (1,) else 1 + 0.3 * u
    else:
        value = u * np.sqrt(3 / np.prod(shape[1:]))
    return value.astype(np.float32)


EMMA_GAINS = {"": 1.0, "tf.": 1.0, "narrow.": 1.4, "full.": 1.4}


def by_rule(like, salt):
    """EMMA's random weights, which follow from their names (fixtures/emma/README.md).

    Args:
        like: shapes by published name.
        salt: what the names begin with when they seed.
    """
    state = {}
    for key, shape in like.items():
        leaf = key.rpartition(".")[2]
        if leaf == "num_batches_tracked":
            state[key] = np.zeros((), np.int64)
            continue
        draw = np.random.RandomState(zlib.crc32((salt + key).encode())).standard_normal(shape)
        value = np.rint(np.clip(draw, -4, 4) * 16) / 16
        if leaf == "running_var":
            value = 1 + np.abs(value) / 4
        elif leaf in ("bias", "running_mean"):
            value = value / 16
        elif leaf == "scale" or value.ndim == 1:
            value = 1 + value / 8
        else:
            gain = EMMA_GAINS[salt]
            if key == "last.0.weight":
                gain = 4.0 if gain > 1 else 2.0
            value = value * 2.0 ** np.round(np.log2(gain / np.sqrt(np.prod(shape[1:]))))
        state[key] = value.astype(np.float32)
    return state


def emma_shapes(features=(8, 16, 32, 32)):
    """Published names and shapes of a U-Fuser."""

    def block(name, i, c):
        shapes = {"embed.weight": (c, i, 3, 3), "FFN.weight": (c, 2 * c, 3, 3)}
        for n in (1, 2):
            for leaf in ("weight", "bias"):
                shapes[f"GlobalFeature.norm{n}.body.{leaf}"] = (c,)
        shapes["GlobalFeature.attn.scale"] = (8, 1, 1)
        for leaf, shape in (
            *(("attn.qkv1", (3 * c, c, 1, 1)), ("attn.qkv2", (3 * c, 3 * c, 3, 3))),
            *(("attn.proj", (c, c, 1, 1)), ("mlp.project_in", (2 * c, c, 1, 1))),
            *(("mlp.dwconv", (2 * c, 2, 3, 3)), ("mlp.project_out", (c, c, 1, 1))),
        ):
            shapes[f"GlobalFeature.{leaf}.weight"] = shape
        for part in ("0.conv.0", "0.conv.2", "1.conv.0", "1.conv.2"):
            shapes[f"LocalFeature.Extraction.{part}.weight"] = (c, c, 3, 3)
            shapes[f"LocalFeature.Extraction.{part}.bias"] = (c,)
        return {f"{name}.{key}": shape for key, shape in shapes.items()}

    shapes = {"last.0.weight": (1, features[0], 3, 3), "last.0.bias": (1,)}
    wide = (1, *features)
    for s, c in enumerate(features, 1):
        for source in "IV":
            shapes |= block(f"{source}_en_{s}", wide[s - 1], c)
            if s < 4:
                shapes[f"{source}_down{s}.weight"] = (c, c, 3, 3)
        shapes |= block(f"f_{s}", 2 * c, c)
        shapes |= block(f"de_{s}", c if s == 4 else 2 * c, c)
        if s > 1:
            shapes[f"up{s}.0.weight"] = (c, wide[s - 1], 4, 4)
    return shapes


def sensing_shapes(features=(64, 128, 256, 512, 1024)):
    """Published names and shapes of a sensing network."""

    def double(name, i, c):
        shapes = {}
        for n, before in ((0, i), (3, c)):
            shapes |= {f"conv.{n}.weight": (c, before, 3, 3), f"conv.{n}.bias": (c,)}
            leaves = ("weight", "bias", "running_mean", "running_var")
            shapes |= {f"conv.{n + 1}.{leaf}": (c,) for leaf in leaves}
            shapes[f"conv.{n + 1}.num_batches_tracked"] = ()
        return {f"{name}.{key}": shape for key, shape in shapes.items()}

    shapes = {"last.0.weight": (1, features[0], 3, 3), "last.0.bias": (1,)}
    wide = (1, *features)
    for level, c in enumerate(features, 1):
        shapes |= double(f"down{level}", wide[level - 1], c)
        if level < 5:
            shapes |= double(f"up{level}", 2 * c, c)
        if level > 1:
            shapes[f"up_sample{level}.0.weight"] = (c, wide[level - 1], 4, 4)
    return shapes
