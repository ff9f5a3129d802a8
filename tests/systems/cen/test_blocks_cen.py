"""CEN's published blocks: bottleneck, chained pools, residual units, with all gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden import Golden, max_error, relative_error
from helpers_cen import entries, ours

from mgdn_jax.layers import functional
from mgdn_jax.layers.channel_exchange import ChannelExchange
from mgdn_jax.layers.mode import Mode
from mgdn_jax.systems.cen import blocks


@pytest.fixture(scope="module")
def golden():
    return Golden("cen_exchange")


def both(golden, name):
    return blocks.together([golden.nhwc(f"{name}{m}") for m in (0, 1)])


@pytest.mark.parametrize("kind", ["eval", "train"])
def test_bottleneck(golden, kind):
    graphdef, shapes, moments = functional.abstract(
        lambda: blocks.Bottleneck(12, 8, 2, exchange=ChannelExchange(0.02), rngs=nnx.Rngs(0))
    )
    place = {"theirs": "layer1.0.", "place": "stages/0/0/"}
    published = jax.tree.map(jnp.asarray, ours(entries(golden, "param:bottleneck/"), **place))
    assert published.keys() == shapes.keys() | moments.keys()
    stats = {path: published[path] for path in moments}
    cotangent = both(golden, "in:bottleneck/cotangent")

    def run(params, x):
        y, new = functional.apply(graphdef, params, stats, x, Mode(training=kind == "train"))
        return jnp.sum(y * cotangent), (y, new)

    params = {path: published[path] for path in shapes}
    inputs = both(golden, "in:bottleneck/x")
    (grads, to_input), (y, new) = jax.jit(jax.grad(run, (0, 1), has_aux=True))(params, inputs)
    wanted = ours(entries(golden, f"grad:bottleneck/{kind}/"), **place)
    assert wanted.keys() == params.keys()
    largest = max(np.abs(value).max() for value in wanted.values())
    back = both(golden, f"grad_in:bottleneck/{kind}/x")
    errors = {
        "output": relative_error(y, both(golden, f"out:bottleneck/{kind}/y")),
        "gradients": max(max_error(grads[p], v) for p, v in wanted.items()) / largest,
        "to the input": relative_error(to_input, back),
    }
    print(kind, {name: f"{error:.1e}" for name, error in errors.items()})
    assert max(errors.values()) <= 1e-6
    after = ours(entries(golden, "after:bottleneck/"), **place) if kind == "train" else stats
    for path, value in after.items():
        np.testing.assert_allclose(new[path], value, atol=1e-6, err_msg=path)


@pytest.mark.parametrize(
    ("name", "build", "theirs", "place"),
    [
        ("crp", lambda: blocks.ChainedPool(6, 4, rngs=nnx.Rngs(0)), "mflow_conv_g1_pool.0.",
         "decoder/0/pool/"),
        ("rcu", lambda: blocks.ResidualUnits(6, 2, rngs=nnx.Rngs(0)), "adapt_stage1_b.0.",
         "decoder/0/adapt/"),
    ],
)  # fmt: skip
def test_blocks_of_the_decoder(golden, name, build, theirs, place):
    graphdef, shapes, _ = functional.abstract(build)
    params = ours(entries(golden, f"param:{name}/"), theirs, place)
    assert params.keys() == shapes.keys()
    x = both(golden, f"in:{name}/x")
    y, _ = functional.apply(graphdef, jax.tree.map(jnp.asarray, params), {}, x)
    error = relative_error(y, both(golden, f"out:{name}/y"))
    print(f"{name}: {error:.1e}")
    assert error <= 1e-6
    # What is added to the second convolution is relu(x): -1 comes through a block of zeros as 0.
    if name == "rcu":
        zeros = {path: jnp.zeros_like(value) for path, value in params.items()}
        y, _ = functional.apply(graphdef, zeros, {}, x)
        assert np.array_equal(y, jnp.maximum(x, 0))
        assert float(x.min()) < 0
