"""Channel exchanging against the published code: who takes what, and where gradients go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden, max_error

from mgdn_jax.layers import functional
from mgdn_jax.layers.channel_exchange import (
    ChannelExchange,
    PrivateNorm,
    layers_of_scales,
    parts_of,
    penalised,
    sparsity,
)
from mgdn_jax.layers.mode import Mode

RULE = ChannelExchange(0.02)
NAMES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "variance"}


@pytest.fixture(scope="module")
def golden():
    return Golden("cen_exchange")


def stored(golden, prefix, leaves):
    """Entries of both norms by our paths."""
    return {
        f"norms/{m}/{NAMES[leaf]}": jnp.asarray(golden[f"{prefix}bn_{m}.{leaf}"])
        for m in (0, 1)
        for leaf in leaves
    }


@pytest.mark.parametrize("kind", ["eval", "train"])
def test_private_norms_that_exchange(golden, kind):
    graphdef, _, _ = functional.abstract(lambda: PrivateNorm(8, 2))
    params = stored(golden, "param:", ("weight", "bias"))
    stats = stored(golden, "param:", ("running_mean", "running_var"))
    maps = [golden.nhwc(f"in:x{m}") for m in (0, 1)]
    cotangents = [golden.nhwc(f"in:cotangent{m}") for m in (0, 1)]

    def run(params, maps):
        mode = Mode(training=kind == "train")
        found, _ = functional.apply(graphdef, params, stats, maps, mode, RULE)
        return sum(jnp.sum(y * c) for y, c in zip(found, cotangents, strict=True)), found

    grads, found = jax.jit(jax.grad(run, (0, 1), has_aux=True))(params, maps)
    wanted = stored(golden, f"grad:{kind}/", ("weight", "bias"))
    errors = {
        "output": max(max_error(y, golden.nhwc(f"out:{kind}/y{m}")) for m, y in enumerate(found)),
        "parameters": max(max_error(grads[0][path], value) for path, value in wanted.items()),
        "maps": max(max_error(g, golden.nhwc(f"grad_in:{kind}/x{m}"))
                    for m, g in enumerate(grads[1])),
    }  # fmt: skip
    print(kind, {name: f"{error:.1e}" for name, error in errors.items()})
    largest = max(float(jnp.abs(value).max()) for value in wanted.values())
    assert errors["output"] <= 1e-6
    assert errors["parameters"] <= 1e-6 * max(largest, 1.0)
    assert errors["maps"] <= 1e-6


def test_a_scale_at_the_threshold_stays(golden):
    scales = [jnp.asarray(golden[f"param:bn_{m}.weight"]) for m in (0, 1)]
    assert float(golden["scalar:threshold"][0]) == 0.02
    # 0.02 in float32 is below 0.02: what compares in double precision replaces channel 4.
    assert 0 < float(scales[0][4]) < 0.02
    low = [np.flatnonzero(mask).tolist() for mask in RULE.replaced(scales)]
    assert low == [[1, 2, 6], [1, 4, 6]]
    assert RULE.count(scales).tolist() == [3, 3]
    own = ChannelExchange(0.02, "own_half")
    assert [np.flatnonzero(mask).tolist() for mask in own.replaced(scales)] == [[1, 2], [4, 6]]
    with jax.enable_x64(True):
        double = [jnp.asarray(np.asarray(scale, np.float64)) for scale in scales]
        assert [np.flatnonzero(mask).tolist() for mask in RULE.replaced(double)] == low


def test_three_branches(golden):
    scales = [jnp.asarray(golden[f"in:three/scale{m}"]) for m in range(3)]
    maps = [golden.nhwc(f"in:three/z{m}") for m in range(3)]
    found = jax.jit(RULE.__call__)(maps, scales)
    errors = [max_error(y, golden.nhwc(f"out:three/y{m}")) for m, y in enumerate(found)]
    print("three branches:", errors)
    assert max(errors) <= 1e-6


def test_the_penalty_of_halves(golden):
    scales = [jnp.asarray(golden[f"param:bn_{m}.weight"]) for m in (0, 1)]
    value, (first, second) = jax.value_and_grad(lambda s: sparsity([s]))(scales)
    assert abs(float(value) - float(golden["out:l1_halves"][0])) <= 1e-6
    assert np.array_equal(first, np.r_[np.sign(scales[0][:4]), np.zeros(4)])
    # The first of the second half is 0, where the derivative is 0.
    assert np.array_equal(second, [0, 0, 0, 0, 0, 1, -1, 1])
    assert float(sparsity([scales, scales])) == pytest.approx(2 * float(value))


def test_parts_of_any_number_of_branches():
    assert parts_of(7, 2) == [slice(0, 3), slice(3, 7)]
    assert parts_of(8, 3) == [slice(0, 2), slice(2, 5), slice(5, 8)]
    masks = [penalised(f"a/norm/norms/{m}/scale", 8, 3) for m in range(3)]
    assert np.array_equal(np.sum(masks, 0), np.ones(8))
    scales = [jnp.arange(8.0), jnp.ones(8), -jnp.ones(8)]
    assert float(sparsity([scales])) == 0 + 1 + 3 + 3


def test_a_channel_that_is_low_in_one_branch_gets_no_gradient_of_the_task():
    graphdef, params, stats = functional.split(PrivateNorm(4, 2))
    scales = np.array([[1, 0.01, 0.01, 1], [1, 1, 0.01, 0.01]], np.float32)
    params = {**params, **{f"norms/{m}/scale": jnp.asarray(scales[m]) for m in (0, 1)}}
    maps = [jnp.asarray(np.random.default_rng(m).normal(size=(2, 3, 3, 4)), jnp.float32)
            for m in (0, 1)]  # fmt: skip

    def run(params):
        (x, y), _ = functional.apply(graphdef, params, stats, maps, Mode(), RULE)
        return jnp.sum(jnp.sin(x) + 2 * jnp.cos(y))

    grads = jax.grad(run)(params)
    for leaf in ("scale", "bias"):
        moved = [np.asarray(grads[f"norms/{m}/{leaf}"]) != 0 for m in (0, 1)]
        # Low in both is swapped: each gets the other branch's gradient.
        assert [row.tolist() for row in moved] == [[True, False, True, True], [True] * 3 + [False]]


def test_statistics_follow_the_own_maps_of_a_branch():
    graphdef, params, stats = functional.split(PrivateNorm(2, 2))
    params = {**params, "norms/0/scale": jnp.asarray([0.0, 1.0])}
    maps = [jnp.full((1, 2, 2, 2), value) for value in (3.0, 5.0)]
    _, new = functional.apply(graphdef, params, stats, maps, Mode(training=True), RULE)
    np.testing.assert_allclose(new["norms/0/mean"], [0.3, 0.3], rtol=1e-6)
    np.testing.assert_allclose(new["norms/1/mean"], [0.5, 0.5], rtol=1e-6)


def test_layers_are_found_by_their_path():
    values = {f"encoder/{i}/norm/norms/{m}/scale": jnp.full(2, 10.0 * i + m)
              for i in (0, 1) for m in (1, 0)}  # fmt: skip
    params = {**values, "stem/norm/norms/0/scale": jnp.ones(2), "encoder/0/conv/kernel": 1}
    layers = layers_of_scales(params, r"(encoder)/\d/norm")
    assert list(layers) == ["encoder/0/norm", "encoder/1/norm"]
    assert [float(scale[0]) for scale in layers["encoder/1/norm"]] == [10, 11]


@pytest.mark.unchecked
def test_mistakes():
    maps = [jnp.ones((1, 2, 2, 3))] * 2
    scales = [jnp.ones(3)] * 2
    with pytest.raises(ValueError, match=r"threshold is -1\.0 and must be 0 or more"):
        ChannelExchange(-1.0)
    with pytest.raises(ValueError, match="parts is one of all, own_half, got 'half'"):
        ChannelExchange(0.1, "half")
    with pytest.raises(ValueError, match="two or more branches are needed"):
        RULE(maps[:1], scales[:1])
    with pytest.raises(ValueError, match="2 branches have 3 scales"):
        RULE(maps, [*scales, scales[0]])
    with pytest.raises(ValueError, match="do not belong together"):
        RULE([maps[0], maps[0][:, :1]], scales)
    with pytest.raises(ValueError, match="have shapes that differ"):
        RULE(maps, [scales[0], jnp.ones(2)])
    with pytest.raises(ValueError, match="the kind of a private norm is one of batch, instance"):
        PrivateNorm(3, 2, "layer")
    with pytest.raises(ValueError, match="one branch or more"):
        PrivateNorm(3, 0)
    with pytest.raises(ValueError, match="3 branches for 2 norms"):
        PrivateNorm(3, 2)([*maps, maps[0]])
    with pytest.raises(ValueError, match="there is no layer"):
        sparsity([])
    with pytest.raises(ValueError, match="is no scale of a private norm of 2 branches"):
        penalised("norms/2/scale", 3, 2)
