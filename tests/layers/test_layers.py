"""Convolutions against XLA's own, values, gradients and second derivatives; pure-function glue."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.test_util import check_grads

from mgdn_jax.layers import conv, dynamic_filter, functional, padding
from mgdn_jax.layers.attention import (
    ChannelCrossAttention,
    WindowAttention,
    channel_sums,
    shift_masks,
)

KEY = jax.random.key(0)


def xla(x, kernel, dilation=1, groups=1):
    kh, kw = kernel.shape[:2]
    pads = [(dilation * (k // 2),) * 2 for k in (kh, kw)]
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        pads,
        rhs_dilation=(dilation,) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@pytest.mark.parametrize("channels", [(4, 5), (5, 2), (1, 3), (3, 3)])
@pytest.mark.parametrize(
    ("size", "dilation", "shape"),
    [
        ((3, 3), 1, (2, 7, 9)),
        ((3, 3), 2, (1, 6, 5)),
        ((1, 5), 1, (2, 4, 8)),
        ((3, 3), 1, (1, 1, 1)),
    ],
)
def test_dense_convolution_equals_xla_with_gradients(size, dilation, shape, channels):
    x = jax.random.normal(KEY, (*shape, channels[0]))
    kernel = jax.random.normal(jax.random.key(1), (*size, *channels))

    def loss(f):
        return lambda x, k: jnp.sum(jnp.square(f(x, k)))

    @jax.jit
    def both(x, kernel):
        return [
            jax.value_and_grad(loss(f), (0, 1))(x, kernel)
            for f in (lambda x, k: conv.conv2d(x, k, dilation), lambda x, k: xla(x, k, dilation))
        ]

    ours, wanted = both(x, kernel)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        assert np.allclose(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 7, 6), (1, 21, 4), (1, 1, 1)])
def test_depthwise_equals_xla_with_gradients(shape):
    x = jax.random.normal(KEY, (*shape, 5))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, 5))

    def loss(f):
        return lambda x, k: (jnp.sum(jnp.square(y := f(x, k))), y)

    @jax.jit
    def both(x, kernel):
        return [
            jax.grad(loss(f), (0, 1), has_aux=True)(x, kernel)
            for f in (conv.depthwise, lambda x, k: xla(x, k, groups=5))
        ]

    (ours, y), (wanted, wanted_y) = both(x, kernel)
    assert np.allclose(y, wanted_y, atol=1e-5)
    for a, b in zip(ours, wanted, strict=True):
        assert np.allclose(a, b, rtol=1e-4, atol=1e-3)


def test_second_derivatives_of_convolutions():
    with jax.enable_x64(True):
        x = jax.random.normal(KEY, (1, 4, 5, 2), jnp.float64)
        dense = jax.random.normal(KEY, (3, 3, 2, 2), jnp.float64)
        single = jax.random.normal(KEY, (3, 3, 1, 2), jnp.float64)
        narrow = jax.random.normal(KEY, (3, 3, 2, 1), jnp.float64)
        check_grads(jax.jit(conv.conv2d), (x, dense), 2, modes=["rev"])
        check_grads(jax.jit(conv.depthwise), (x, single), 2, modes=["rev"])
        check_grads(jax.jit(conv.conv2d), (x, narrow), 2, modes=["rev"])


def _normalised(x, scale, bias):
    mean = jnp.mean(x, -1, keepdims=True)
    variance = jnp.mean((x - mean) ** 2, -1, keepdims=True)
    scale, bias = (jnp.expand_dims(v, range(x.ndim - 1)) for v in (scale, bias))
    return (x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias


@pytest.mark.parametrize("c", [1, 2, 16])
def test_layer_norm_and_its_derivatives(c):
    with jax.enable_x64(True):
        draw = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(2, 3, 4, c), c, c]))
        x, scale, bias = given = tuple(draw)
        away = jax.random.normal(KEY, x.shape)

        def derivatives(norm, given):
            def along(*given):
                return sum(jnp.vdot(jnp.sin(d), d) for d in jax.vjp(norm, *given)[1](away))

            value, pull = jax.vjp(norm, *given)
            return value, pull(away), jax.grad(along, (0, 1, 2))(*given)

        both = jax.jit(lambda *x: [derivatives(norm, x) for norm in (conv.layer_norm, _normalised)])
        (value, first, second), (wanted, wanted_first, wanted_second) = both(*given)
        np.testing.assert_allclose(value, wanted, atol=1e-13)
        for ours, theirs in zip(first, wanted_first, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)
        for ours, theirs in zip(second, wanted_second, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    # Pixels all alike, far from zero: no slope of the mean may be left in rounding.
    flat = jnp.full((1, 2, 2, 16), 3.0)
    dx, _, _ = jax.vjp(conv.layer_norm, flat, jnp.ones(16), jnp.zeros(16))[1](jnp.ones_like(flat))
    assert np.abs(dx).max() < 1e-3
    half = conv.layer_norm(x.astype(jnp.bfloat16), *(v.astype(jnp.float32) for v in (scale, bias)))
    assert half.dtype == jnp.bfloat16


def test_sums_of_attention_and_their_derivatives():
    with jax.enable_x64(True):
        q, k = (jax.random.normal(jax.random.key(i), (2, 3, 4, 5)) for i in range(2))
        weights = jax.random.uniform(KEY, (2, 3, 4, 1))
        sums = channel_sums(q, k, weights)
        np.testing.assert_allclose(sums["qk"], np.einsum("bhwc,bhwd->bcd", q * weights, k))
        check_grads(jax.jit(lambda q, k: channel_sums(q, k, weights)), (q, k), 2, modes=["rev"])


def _by_hand(x, kernel):
    framed = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [
        framed[:, dy : dy + x.shape[1], dx : dx + x.shape[2]] * kernel[None, dy, dx, None]
        for dy in range(3)
        for dx in range(3)
    ]
    return sum(taps)


def _filtered(x, kernel):
    flat = kernel.reshape(1, 1, 1, 9)
    kernels = jnp.broadcast_to(flat, (*x.shape[:3], 9))
    return dynamic_filter.dynamic_filter(x, kernels, kernel_size=3, border="zero")


def _after_inner_steps(network, kernels):
    """Slope of a loss after two inner steps to a factor of the inner loss."""

    def value(phi):
        def step(kernels, _):
            slope = jax.grad(lambda k: phi * jnp.sum(network(k) ** 2))(kernels)
            return kernels - 0.1 * slope, None

        fast = lax.scan(jax.checkpoint(step, prevent_cse=False), kernels, None, length=2)[0]
        return jnp.sum(network(fast))

    return jax.jit(jax.grad(value))(1.0)


@pytest.mark.parametrize(
    "layer",
    [
        conv.depthwise,
        lambda x, k: conv.conv2d(x, k * jnp.eye(2)[None, None], 1),
        _filtered,
    ],
    ids=["depthwise", "conv2d", "filter"],
)
def test_gradients_through_nested_scans_and_inner_steps(layer):
    """JAX mixed up the residuals of custom backward passes here; see `functional.keep`."""
    x = jax.random.normal(KEY, (1, 4, 4, 2))
    kernels = (
        0.3 * jax.random.normal(jax.random.key(1), (2, 3, 3, 1, 1)) * jnp.ones((1, 1, 1, 1, 2))
    )
    if layer is _filtered:
        kernels = kernels[..., :1]

    def scanned(kernels):
        return lax.scan(lambda c, k: (jnp.tanh(layer(c, k)), None), x, kernels)[0]

    def unrolled(kernels):
        y = x
        for kernel in kernels:
            y = jnp.tanh(_by_hand(y, kernel))
        return y

    ours, wanted = (_after_inner_steps(network, kernels) for network in (scanned, unrolled))
    assert np.isclose(ours, wanted, rtol=1e-5)


def test_norms_and_sums_through_nested_scans_and_inner_steps():
    x = jax.random.normal(KEY, (1, 4, 4, 2))
    scales = jnp.stack([jnp.array([0.5, 0.8]), jnp.array([1.1, -0.7])])

    def network(norm, gram):
        def block(x, scale):
            y = norm(x, scale, 0.1 * scale).reshape(1, 16, 2)
            return jnp.tanh(y @ gram(y)).reshape(x.shape), None

        return block

    def scanned(scales):
        block = network(conv.layer_norm, lambda y: channel_sums(y, 2 * y)["qk"])
        return lax.scan(block, x, scales)[0]

    def unrolled(scales):
        block, y = network(_normalised, lambda y: 2 * jnp.einsum("bpc,bpd->bcd", y, y)), x
        for scale in scales:
            y = block(y, scale)[0]
        return y

    ours, wanted = (_after_inner_steps(f, scales) for f in (scanned, unrolled))
    assert np.isclose(ours, wanted, rtol=1e-4)


def test_strips_equal_the_whole_map(monkeypatch):
    from mgdn_jax.systems.mgdn import blocks

    for shift in (0, 2):
        graphdef, params, _ = functional.split(
            blocks.ContextAwareBlock(
                12, heads=3, window=4, shift=shift, mlp_ratio=2.0, drop_path=0.0, rngs=nnx.Rngs(0)
            )
        )
        x = jax.random.normal(KEY, (2, 24, 8, 12))
        whole = functional.apply(graphdef, params, {}, x)[0][0]
        monkeypatch.setattr(blocks, "_STRIP_PIXELS", 64)  # three strips of two window rows
        strips = functional.apply(graphdef, params, {}, x)[0][0]
        monkeypatch.undo()
        assert np.allclose(strips, whole, atol=1e-5)


def test_masks_of_shifted_windows():
    by_row, by_column = shift_masks(8, 12, 4, 2)
    assert by_row.shape == (2, 16, 16)
    assert by_column.shape == (3, 16, 16)
    assert not by_row[0].any()
    assert by_row[1].any()
    # tokens 0 (row 0) and 8 (row 2) of the last window row lie on two sides of the seam
    assert by_row[1, 0, 8]
    assert not by_row[1, 0, 4]
    assert shift_masks(4, 4, 4, 2)[0].any()  # a single window is split too


def test_arithmetic_of_shapes():
    assert [padding.ceil_div(n, 4) for n in (0, 1, 4, 5, 8)] == [0, 1, 1, 2, 2]
    assert padding.match_rank(jnp.ones(3), jnp.ones((2, 4, 5, 3))).shape == (1, 1, 1, 3)
    assert padding.match_rank(jnp.ones((4, 3)), jnp.ones((4, 3))).shape == (4, 3)


def test_blocks_with_arrays_of_examples_do_not_take_examples_in_turn():
    for remat in functional.REMATS:
        assert functional.per_example_policy(remat, False) == remat
        with_arrays = "block" if remat == "example" else remat
        assert functional.per_example_policy(remat, True) == with_arrays


def test_features_must_fit_the_heads():
    with pytest.raises(ValueError, match="divisible"):
        ChannelCrossAttention(10, heads=6, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="divisible"):
        WindowAttention(10, heads=3, window=4, rngs=nnx.Rngs(0))


def test_flat_names_round_trip_and_missing_leaves_raise():
    module = nnx.Sequential(
        conv.Linear(3, 4, rngs=nnx.Rngs(0)), conv.Linear(4, 2, rngs=nnx.Rngs(1))
    )
    graphdef, params, stats = functional.split(module)
    assert list(params) == ["layers/0/bias", "layers/0/kernel", "layers/1/bias", "layers/1/kernel"]
    assert functional.flatten(functional.unflatten(params)) == params
    x = jnp.ones((2, 3))
    out, _ = functional.apply(graphdef, params, stats, x)
    assert np.allclose(out, module(x))
    shapes = functional.abstract(
        lambda: nnx.Sequential(
            conv.Linear(3, 4, rngs=nnx.Rngs(0)), conv.Linear(4, 2, rngs=nnx.Rngs(1))
        )
    )[1]
    assert {k: v.shape for k, v in shapes.items()} == {k: v.shape for k, v in params.items()}
    params.pop("layers/1/bias")
    with pytest.raises(ValueError, match="leaves"):
        functional.apply(graphdef, params, stats, x)


def test_the_largest_channel_has_the_derivative_of_its_place():
    x = jnp.asarray([[[[1.0, 3.0, 3.0, -2.0]]], [[[0.0, 0.0, 0.0, 0.0]]]])
    y, pull = jax.vjp(functional.largest_channel, x)
    assert np.array_equal(y, jnp.max(x, -1, keepdims=True))
    (slope,) = pull(jnp.full(y.shape, 2.0))
    assert np.array_equal(slope.reshape(2, 4), [[0, 2, 0, 0], [2, 0, 0, 0]])
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 3, 4, 5)), jnp.float32)
    check_grads(lambda x: functional.largest_channel(x**2), (x,), 2, modes=["rev"])


def test_keys_are_those_of_flax():
    ours, theirs = functional.Rngs(3), nnx.Rngs(3)
    for name in ("params", "dropout", "params"):
        one, other = getattr(ours, name)(), getattr(theirs, name)()
        assert np.array_equal(jax.random.key_data(one), jax.random.key_data(other))
    one, other = (jax.random.key_data(rngs.fork().default()) for rngs in (ours, theirs))
    assert np.array_equal(one, other)
