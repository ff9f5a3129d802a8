"""TIM's primitives and blocks against the published ones, with all gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden import Golden, max_error, relative_error

from mgdn_jax.layers import functional
from mgdn_jax.layers.mode import Mode
from mgdn_jax.systems.tim import blocks, conversion
from mgdn_jax.systems.tim.primitives import PRIMITIVES, primitive
from mgdn_jax.weights.conversion import _LEAVES, _LONE

NAMES = (*PRIMITIVES, "DilConv_5_2")
TRAINED = ("SepConv_3_1", "Residualblocks_3_1")
RNGS = nnx.Rngs(0)
BLOCKS = {
    "DownSample2_odd": (lambda: blocks.Down(4, rngs=RNGS), conversion._DOWN, r"body\.0\."),
    "UpSample4": (
        lambda: nnx.List([blocks.Up(16, rngs=RNGS), blocks.Up(8, rngs=RNGS)]),
        conversion._UP,
        r"body\.(\d)\.",
    ),
    "DownSample4": (
        lambda: nnx.List([blocks.Down(4, rngs=RNGS), blocks.Down(8, rngs=RNGS)]),
        conversion._DOWN,
        r"body\.(\d)\.",
    ),
    "SKFF": (lambda: blocks.SelectiveFusion(6, 3, rngs=RNGS), conversion._CELL, r"m\."),
    "ReLUConvBN": (lambda: blocks.Entrance(6, rngs=RNGS), conversion._CELL, ""),
}


@pytest.fixture(scope="module")
def golden():
    return Golden("tim_primitives")


def ours(published, rows, wanted):
    """{our path: (published key, array)} of entries, by rows of a table."""
    found = {}
    for key, value in published.items():
        module, _, leaf = key.rpartition(".")
        for pattern, path, kind in rows:
            if kind in _LONE and (match := re.fullmatch(pattern, key)):
                target, layout = match.expand(path), _LONE[kind]
            elif kind in _LEAVES and leaf in _LEAVES[kind] and re.fullmatch(pattern, module):
                name, layout = _LEAVES[kind][leaf]
                target = f"{re.fullmatch(pattern, module).expand(path)}/{name}"
            else:
                continue
            if target in wanted:
                assert target not in found
                found[target] = key, layout.ours(value)
    assert len(found) == len(published)
    assert set(found) == set(wanted)
    return found


def entries(golden, kind, name):
    prefix = f"{kind}:{name}/"
    return {
        key.removeprefix(prefix): value
        for key, value in golden.arrays.items()
        if key.startswith(prefix) and "/" not in key.removeprefix(prefix)
    }


def compare(golden, name, module, rows, inputs, mode, stored=None):
    graphdef, params, stats = functional.split(module)
    stored = stored or name
    published = ours(entries(golden, "param", stored), rows, params | stats)
    given = {path: jnp.asarray(value) for path, (_, value) in published.items()}
    cotangent = golden.nhwc(f"in:{name}/cotangent")

    def run(params):
        y, after = functional.apply(
            graphdef, params, {path: given[path] for path in stats}, *inputs, **mode
        )
        return jnp.sum(y * cotangent), (y, after)

    trained = {path: given[path] for path in params}
    (_, (y, after)), grads = jax.jit(jax.value_and_grad(run, has_aux=True))(trained)
    error = max_error(y, golden.nhwc(f"out:{name}"))
    wanted = ours(entries(golden, "grad", name), rows, params)
    largest = max(np.abs(value).max() for _, value in wanted.values())
    gradient = max(max_error(grads[p], v) for p, (_, v) in wanted.items()) / largest
    print(f"{name}: output {error:.1e}, gradients {gradient:.1e} of the largest entry")
    assert error <= 1e-5
    assert gradient <= 1e-5
    return after


@pytest.mark.parametrize("name", NAMES)
def test_primitives(golden, name):
    rows = conversion._below(r"_op\.", "", conversion._PRIMITIVE)
    module = primitive(name, 6, rngs=nnx.Rngs(0))
    compare(golden, name, module, rows, [golden.nhwc("in:x")], {"mode": Mode()})


@pytest.mark.parametrize("name", TRAINED)
def test_primitives_in_training(golden, name):
    rows = conversion._below(r"_op\.", "", conversion._PRIMITIVE)
    module = primitive(name, 6, rngs=nnx.Rngs(0))
    after = compare(
        golden, f"{name}/train", module, rows, [golden.nhwc("in:x")],
        {"mode": Mode(training=True)}, stored=name,
    )  # fmt: skip
    wanted = ours(entries(golden, "after", f"{name}/train"), rows, after)
    for path, (_, value) in wanted.items():
        np.testing.assert_allclose(after[path], value, atol=1e-6, err_msg=path)


class Chain(nnx.Module):
    """Blocks one after the other."""

    def __init__(self, members):
        self.members = members

    def __call__(self, x):
        for member in self.members:
            x = member(x)
        return x


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(golden, name):
    build, table, theirs = BLOCKS[name]
    module, mode, inputs = build(), {}, None
    if isinstance(module, nnx.List):
        rows, module = conversion._below(theirs, r"members/\1/", table), Chain(module)
        inputs = [golden.nhwc(f"in:{name}")]
    elif name == "SKFF":
        rows = [(p.replace(r"SKFF\.", theirs), path.removeprefix("select/").replace("2", "1"), kind)
                for p, path, kind in table if path.startswith("select/")]  # fmt: skip
        inputs, mode = [[golden.nhwc(f"in:SKFF/{i}") for i in range(3)]], {"mode": Mode()}
    elif name == "ReLUConvBN":
        rows = [(p.replace(r"preprocess1\.", theirs), path.removeprefix("entrance/"), kind)
                for p, path, kind in table if path.startswith("entrance/")]  # fmt: skip
        inputs, mode = [golden.nhwc("in:x")], {"mode": Mode()}
    else:
        rows, inputs = conversion._below(theirs, "", table), [golden.nhwc(f"in:{name}")]
    compare(golden, name, module, rows, inputs, mode)


def test_a_reflected_convolution(golden):
    conv = blocks.Conv2d(6, 4, 3, rngs=nnx.Rngs(0))
    weight, bias = (golden[f"param:ConvLayer_reflect/conv2d.{n}"] for n in ("weight", "bias"))
    conv.kernel[...], conv.bias[...] = jnp.asarray(weight.transpose(2, 3, 1, 0)), jnp.asarray(bias)
    y = blocks.reflected_conv(conv, golden.nhwc("in:x"))
    assert relative_error(y, golden.nhwc("out:ConvLayer_reflect")) <= 1e-6
