"""The goldens notice the mistakes that are easily made: each one moves the output far."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden, max_error
from helpers_systems import mgdn_golden

from mgdn_jax.layers import attention, conv, functional
from mgdn_jax.layers.attention import ChannelCrossAttention
from mgdn_jax.systems import registry
from mgdn_jax.systems.mgdn import blocks
from mgdn_jax.systems.mgdn import network as mgdn


def error(params=None, **overrides):
    """Distance from the golden, compiled anew so that patches count."""
    _, _, published, _ = mgdn_golden()
    golden = Golden("mgdn_mff_grad")
    graphdef = registry.abstract("mgdn", mgdn.Config.preset("mff", **overrides))[0]
    call = jax.jit(lambda p, a, b: functional.apply(graphdef, p, {}, a, b)[0][0])
    out = call(params or published, golden.nhwc("in:a"), golden.nhwc("in:b"))
    return max_error(out, np.moveaxis(golden["out:fused"], 1, -1))


def change(suffix, how):
    _, _, params, _ = mgdn_golden()
    touched = {k: how(v) for k, v in params.items() if k.endswith(suffix)}
    assert touched
    return {**params, **touched}


conv_filter = blocks.dynamic_filter


def swap_halves(v):
    half = v.shape[-1] // 2
    return np.concatenate([v[..., half:], v[..., :half]], -1)


def patch_filter_transposed(m):
    m.setattr(
        blocks,
        "dynamic_filter",
        lambda x, k: conv_filter(
            x, k.reshape(*k.shape[:-1], 7, 7).swapaxes(-1, -2).reshape(k.shape)
        ),
    )


def patch_filter_flipped(m):
    m.setattr(blocks, "dynamic_filter", lambda x, k: conv_filter(x, k[..., ::-1]))


def patch_filter_zero_border(m):
    m.setattr(blocks, "dynamic_filter", functools.partial(conv_filter, border="zero"))


def patch_guide_and_operand(m):
    call = ChannelCrossAttention.__call__
    m.setattr(ChannelCrossAttention, "__call__", lambda self, g, o, **kw: call(self, o, g, **kw))


def patch_no_mask(m):
    masks = blocks.shift_masks
    m.setattr(blocks, "shift_masks", lambda *a: tuple(np.zeros_like(x) for x in masks(*a)))


def patch_position_index(m):
    index = attention.relative_position_index
    m.setattr(attention, "relative_position_index", lambda w: index(w).T)


def patch_tanh_gelu(m):
    gelu = jax.nn.gelu
    m.setattr(jax.nn, "gelu", lambda x, approximate: gelu(x, approximate=True))


def patch_slope(m):
    leaky = blocks.leaky
    m.setattr(blocks, "leaky", lambda x, slope: leaky(x, 0.2))


def patch_dilation(m):
    plain = conv.conv2d
    m.setattr(conv, "conv2d", lambda x, k, d=1: plain(x, k, 1))


def patch_zero_padding(m):
    def zeros(x, n):
        return jnp.pad(x, ((0, 0), (0, -x.shape[1] % n), (0, -x.shape[2] % n), (0, 0)))

    m.setattr(mgdn, "pad_to_multiple", zeros)


PATCHES = {
    "taps transposed": patch_filter_transposed,
    "kernel flipped": patch_filter_flipped,
    "zero border": patch_filter_zero_border,
    "guide and operand swapped": patch_guide_and_operand,
    "shift mask omitted": patch_no_mask,
    "position index transposed": patch_position_index,
    "tanh GELU": patch_tanh_gelu,
    "predictor slope 0.2": patch_slope,
    "dilation 1": patch_dilation,
    "zeros instead of reflection": patch_zero_padding,
}


def test_without_a_mistake_the_golden_is_met():
    assert error() <= 1e-5


@pytest.mark.parametrize("mistake", PATCHES)
def test_mistake_in_the_code_is_caught(mistake, monkeypatch):
    PATCHES[mistake](monkeypatch)
    distance = error()
    print(f"{mistake}: {distance:.1e}")
    assert distance > 1e-4  # ten times the tolerance of the parity tests


@pytest.mark.parametrize(
    ("mistake", "suffix", "how"),
    [
        ("temperature ignored", "temperature", np.ones_like),
        ("key and value swapped", "key_value_local/kernel", swap_halves),
    ],
)
def test_mistake_in_the_weights_is_caught(mistake, suffix, how):
    distance = error(change(suffix, how))
    print(f"{mistake}: {distance:.1e}")
    assert distance > 1e-4


def test_skip_from_the_wrong_stem_is_caught():
    assert error(skip=1) > 1e-4
