"""Small networks of the systems, and random ones that goldens were made with."""

import functools

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
