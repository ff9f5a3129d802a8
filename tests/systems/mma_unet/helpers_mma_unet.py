"""Published state dictionaries of MMA-UNet, and what our networks make of such weights."""

import csv
import dataclasses
import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from golden import Golden
from helpers_systems import by_formula

from mgdn_jax.layers import functional
from mgdn_jax.systems import registry
from mgdn_jax.systems.mma_unet.network import Config
from mgdn_jax.weights import conversion

NETWORKS = ("vi", "ir", "fusion")
NARROW = Config(features=4)
OF_DECODERS = {"vi": "visible", "ir": "infrared"}


@functools.cache
def published_shapes(network):
    """Shapes of a published network's entries, by key."""
    rows = csv.DictReader(io.StringIO(Golden("mma_unet_narrow")["keys"].tobytes().decode()))
    return {
        row["key"]: tuple(int(n) for n in row["shape"].split("x") if n != "scalar")
        for row in rows
        if row["network"] == network
    }


def shapes(network, features=64):
    """The same of a narrower network."""
    taps = {"ca1": 3 if features < 64 else 5, "ca2": 3 if features < 64 else 5}

    def scaled(key, shape):
        if len(shape) == 3:  # of the convolution along channels
            return (1, 1, taps[key.split(".")[1]])
        if key.startswith("attention"):  # at least one channel between the projections
            return tuple(max(n * features // 64, 1) for n in shape)
        return tuple(n * features // 64 if n % 16 == 0 else n for n in shape)

    return {key: scaled(key, shape) for key, shape in published_shapes(network).items()}


def state_of(network, features=64):
    """The entries of a published network by the formula (fixtures' README)."""
    state = {}
    for key, shape in shapes(network, features).items():
        if key.endswith("tracked"):
            state[key] = np.zeros(shape, np.float32)
            continue
        value = by_formula(f"{network}/{key}", shape)
        state[key] = value * np.float32(0.9) if value.ndim == 4 else value
    return state


@functools.cache
def whole_state(features=64):
    """The entries of all three, under the names of a file of all."""
    return {
        f"{network}.{key}": value
        for network in NETWORKS
        for key, value in state_of(network, features).items()
    }


def typed(tree, dtype):
    return {k: jnp.asarray(v, dtype) for k, v in tree.items()}


def results(state, config, a, b, dtype="float32"):
    """What the networks make of pictures as they are.

    Returns:
        ``fused``, three channels; the sources as their U-Nets rebuild them, under the published
        names; and the maps.
    """
    config = dataclasses.replace(config, dtype=dtype)
    made = conversion.convert_arrays(state, system="mma_unet", config=config)[:2]
    graphdef = registry.graphdef("mma_unet", config)

    @jax.jit
    def run(params, stats, a, b):
        network = nnx.merge(graphdef, *map(functional.unflatten, (params, stats)), copy=True)
        return network.whole(a, b)

    a, b = (jnp.asarray(x, dtype) for x in (a, b))
    fused, maps = run(*(typed(tree, dtype) for tree in made), a, b)
    decoder = registry.graphdef("mma_unet", config, "Decoder")
    rebuild = jax.jit(lambda params, stats, x: functional.apply(decoder, params, stats, x)[0])
    rebuilt = {}
    for network, name in OF_DECODERS.items():
        own = {k.removeprefix(f"{network}."): v for k, v in state.items() if k.startswith(network)}
        made = conversion.convert_arrays(own, system="mma_unet", config=config, network="Decoder")
        rebuilt[network] = rebuild(*(typed(tree, dtype) for tree in made[:2]), maps[name])
    return {"fused": fused, **rebuilt}, maps


def narrow_results(dtype="float32"):
    """Pictures of an odd and an even side through the narrow networks."""
    random = np.random.RandomState(0)
    a, b = (random.uniform(size=(1, 33, 40, 1)).astype(np.float32) for _ in "ab")
    return results(whole_state(4), NARROW, a, b, dtype)[0]
