"""Large-kernel convolutions: every form against the direct one in float64, with all gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from unchecked import as_users_call

from mgdn_jax.layers import conv, functional, overlap_save
from mgdn_jax.layers import large_kernel as large

# (b, h, w), kernel, in, out, groups
CASES = {
    "tiles": ((1, 40, 50), (5, 5), 3, 4, 1),
    "odd": ((2, 33, 47), (7, 7), 2, 3, 1),
    "below the kernel": ((2, 7, 9), (15, 15), 3, 2, 1),
    "one pixel": ((1, 1, 1), (5, 5), 2, 2, 1),
    "one row": ((1, 1, 70), (3, 9), 2, 2, 1),
    "largest": ((1, 45, 41), (31, 31), 2, 3, 1),
    "depthwise": ((3, 23, 40), (7, 7), 4, 4, 4),
    "depthwise largest": ((1, 20, 50), (31, 31), 3, 3, 3),
    "depthwise one pixel": ((2, 1, 1), (11, 11), 3, 3, 3),
    "depthwise in two loops": ((2, 20, 13), (11, 11), 3, 3, 3),
    "depthwise narrow": ((1, 12, 17), (9, 7), 3, 3, 3),
    "depthwise small": ((2, 9, 20), (5, 5), 3, 3, 3),
}


def direct(x, kernel, groups=1):
    pads = [(k // 2, k // 2) for k in kernel.shape[:2]]
    dims = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 1), pads, dimension_numbers=dims, feature_group_count=groups
    )


def arrays(case, seed=0):
    shape, size, i, o, groups = case
    random = np.random.default_rng(seed)
    x = random.standard_normal((*shape, i))
    kernel = random.standard_normal((*size, i // groups, o))
    return x, kernel, random.standard_normal(o), random.standard_normal((*shape, o))


@functools.cache
def referee(name):
    """Value and gradients of <y, weights> in float64 by XLA's convolution."""
    groups = CASES[name][4]
    with jax.enable_x64(True):
        x, kernel, bias, slope = (jnp.asarray(a) for a in arrays(CASES[name]))
        y, pull = jax.vjp(
            lambda x, k, b: direct(x, k, groups) + b[None, None, None], x, kernel, bias
        )
        return [np.asarray(a) for a in (y, *pull(slope))]


def off(a, wanted):
    return float(np.max(np.abs(np.asarray(a, np.float64) - wanted)) / np.max(np.abs(wanted)))


@pytest.mark.parametrize("method", large.METHODS)
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_equal_the_direct_form_in_float64(name, method):
    groups = CASES[name][4]
    x, kernel, bias, slope = (jnp.asarray(a, jnp.float32) for a in arrays(CASES[name]))

    @jax.jit
    def both(x, kernel, bias, slope):
        def f(x, k, b):
            return large.large_kernel_conv(x, k, groups=groups, bias=b, method=method)

        y, pull = jax.vjp(f, x, kernel, bias)
        return y, *pull(slope)

    errors = [off(a, w) for a, w in zip(both(x, kernel, bias, slope), referee(name), strict=True)]
    print(f"{name}, {method}: value, to x, kernel, bias: " + " ".join(f"{e:.1e}" for e in errors))
    assert max(errors) <= 5e-6


def test_rounding_does_not_grow_with_the_channels():
    """256 channels and the tiles of a large picture: the sums of the widest layer in use."""
    random = np.random.default_rng(0)
    x = np.maximum(random.standard_normal((1, 64, 64, 256)), 0)  # a mean, as after ReLU
    kernel = random.uniform(-1, 1, (15, 15, 256, 4))
    with jax.enable_x64(True):
        wanted = np.asarray(direct(jnp.asarray(x), jnp.asarray(kernel)))
    errors = {}
    for method in ("direct", "fft"):
        y = large.large_kernel_conv(jnp.float32(x), jnp.float32(kernel), method=method)
        errors[method] = off(y, wanted)
    print("256 channels: " + " ".join(f"{k} {e:.1e}" for k, e in errors.items()))
    assert errors["fft"] <= 2e-6


@pytest.mark.parametrize("groups", [1, 2])
def test_float64_is_exact_and_differentiable_twice(groups):
    """The gradient of a norm of the gradient; the direct form is differentiated by JAX."""

    def steep(f):
        def value(x, k):
            slopes = jax.grad(lambda x, k: jnp.sum(jnp.sin(f(x, k))), (0, 1))(x, k)
            return sum(jnp.sum(jnp.square(s)) for s in slopes)

        return jax.jit(jax.value_and_grad(value, (0, 1)))

    with jax.enable_x64(True):
        x, kernel = (jnp.asarray(a) for a in arrays(((1, 9, 14), (5, 5), 2, 2, groups))[:2])
        f = functools.partial(large.large_kernel_conv, groups=groups, method="fft")
        ours = jax.tree.leaves(steep(f)(x, kernel))
        wanted = jax.tree.leaves(steep(lambda x, k: direct(x, k, groups))(x, kernel))
        errors = [off(a, np.asarray(w)) for a, w in zip(ours, wanted, strict=True)]
    print(f"{groups} groups, float64, second derivatives: {max(errors):.1e}")
    assert max(errors) < 1e-12


def test_other_groups_equal_xla_with_gradients():
    x, kernel, _, slope = (
        jnp.asarray(a, jnp.float32) for a in arrays(((1, 9, 8), (5, 5), 4, 6, 2))
    )

    def grads(f):
        y, pull = jax.vjp(f, x, kernel)
        return y, *pull(slope)

    ours = grads(lambda x, k: large.large_kernel_conv(x, k, groups=2))
    wanted = grads(lambda x, k: direct(x, k, 2))
    assert max(off(a, np.asarray(w)) for a, w in zip(ours, wanted, strict=True)) < 1e-6


def test_vmap_and_dtype():
    x = jax.random.normal(jax.random.key(0), (2, 1, 12, 13, 2))
    kernel = jax.random.normal(jax.random.key(1), (2, 5, 5, 2, 3))
    f = functools.partial(large.large_kernel_conv, method="fft")
    mapped = jax.jit(jax.vmap(f))(x, kernel)
    single = jnp.stack([direct(a, k) for a, k in zip(x, kernel, strict=True)])
    assert off(mapped, np.asarray(single)) < 2e-6
    half = jax.jit(f)(x[0].astype(jnp.bfloat16), kernel[0])
    assert half.dtype == jnp.bfloat16
    assert off(half, np.asarray(single[0])) < 2e-2


def test_wide_inputs_in_parts_equal_the_whole(monkeypatch):
    monkeypatch.setattr(overlap_save, "_MAX_CHANNELS", 2)
    x, kernel, bias, _ = (jnp.asarray(a, jnp.float32) for a in arrays(CASES["tiles"]))
    y = jax.jit(lambda x, k: large.large_kernel_conv(x, k, bias=bias, method="fft"))(x, kernel)
    assert off(y, referee("tiles")[0]) < 5e-6


def test_layers_in_turn_need_no_more_memory_than_two():
    # Kernel spectra and buffers of results depend on no image; made at once, they add up.
    x, kernels = jnp.ones((1, 96, 96, 16)), jnp.ones((8, 15, 15, 16, 16))

    def temporaries(depth):
        def run(x, kernels):
            for kernel in kernels:
                x = jnp.tanh(large.large_kernel_conv(x, kernel, method="fft"))
            return x

        compiled = jax.jit(run).lower(x, [*kernels[:depth]]).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = temporaries(2), temporaries(8)
    print(f"temporaries of 2 and 8 layers: {few / 2**20:.1f} and {many / 2**20:.1f} MiB")
    assert many < 1.05 * few


def test_no_sum_over_many_taps_is_fused_into_the_next():
    """XLA would work out the first one's last taps anew for every tap of the second."""
    x, kernel = jnp.ones((1, 16, 16, 4)), jnp.ones((11, 11, 1, 4))

    def twice(x, kernel):
        one = large.large_kernel_conv(x, kernel, groups=4, method="shift")
        return large.large_kernel_conv(2 * one, kernel, groups=4, method="shift")

    program = jax.jit(twice).lower(x, kernel).compile().as_text()
    assert program.count(" while(") == 2


def test_the_rule():
    assert large.choose((1, 480, 640, 128), (15, 15, 128, 128)) == "fft"
    assert large.choose((1, 1, 1, 2), (5, 5, 2, 2)) == "direct"
    assert large.choose((1, 64, 64, 8), (11, 11, 1, 8), 8) == "shift"
    assert large.choose((1, 64, 64, 8), (15, 15, 1, 8), 8) == "fft"
    assert large.choose((1, 64, 64, 4), (5, 5, 2, 4), 2) == "direct"
    # Narrow networks, and where a gradient differs from a convolution.
    assert large.choose((1, 128, 128, 8), (11, 11, 8, 8)) == "fft"
    assert large.choose((2, 96, 96, 16), (5, 5, 16, 16)) == "direct"
    assert large.choose((2, 96, 96, 16), (5, 5, 16, 16), gradient=True) == "fft"
    assert large.choose((1, 64, 64, 8), (11, 11, 1, 8), 8, gradient=True) == "fft"


def test_layer_shares_weights_with_the_small_ones():
    x = jax.random.normal(jax.random.key(0), (1, 10, 11, 4))
    pairs = [
        (large.LargeKernelConv(4, 6, 5, rngs=nnx.Rngs(0)), conv.Conv2d(4, 6, 5, rngs=nnx.Rngs(0))),
        (
            large.LargeKernelConv(4, 4, 5, groups=4, use_bias=False, rngs=nnx.Rngs(1)),
            conv.DepthwiseConv2d(4, 5, use_bias=False, rngs=nnx.Rngs(1)),
        ),
    ]
    for ours, small in pairs:
        params = functional.split(ours)[1]
        wanted = functional.split(small)[1]
        assert params.keys() == wanted.keys()
        assert all(np.array_equal(params[k], wanted[k]) for k in params)
        y, wanted = jax.jit(lambda: (ours(x), small(x)))()  # noqa: B023 - called here
        assert off(y, np.asarray(wanted)) < 2e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": jnp.ones((4, 4, 2))}, "x must be"),
        ({"x": jnp.ones((1, 4, 4, 2), jnp.int32)}, "real floats"),
        ({"kernel": jnp.ones((4, 5, 2, 2))}, "odd height and width, got 4x5"),
        ({"kernel": jnp.ones((5, 5, 3, 2))}, "does not fit 2 input channels"),
        ({"groups": 2, "kernel": jnp.ones((5, 5, 1, 3))}, "does not fit"),
        ({"method": "winograd"}, "direct, fft, shift"),
        ({"bias": jnp.ones(3)}, "bias"),
    ],
)
def test_bad_arguments(change, message):
    good = {"x": jnp.ones((1, 4, 4, 2)), "kernel": jnp.ones((5, 5, 2, 2))}
    with as_users_call(), pytest.raises(ValueError, match=message):
        large.large_kernel_conv(**(good | change))


def test_layer_needs_divisible_features():
    with pytest.raises(ValueError, match="divisible by groups"):
        large.LargeKernelConv(4, 6, 5, groups=4, rngs=nnx.Rngs(0))
