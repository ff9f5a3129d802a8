"""One compiled program for many sizes: what a bucket holds beside the picture does not matter."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import noise
from helpers_systems import CDDFUSE, LKC_FUNET, REFUSION, drawn

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import stream
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.layers import functional, restormer
from mgdn_jax.systems import registry
from mgdn_jax.systems.mgdn import blocks
from mgdn_jax.systems.mgdn import network as mgdn
from mgdn_jax.systems.pyramid import network as pyramid

# Without running statistics; all kinds of norm that look at the image.
_lkc_funet = registry.network("lkc_funet").Config(**LKC_FUNET, norm_maf="instance")
# Both heads, both kinds of guidance, and shifted windows.
_small = mgdn.Config(in_channels=(1, 1), out_channels=1, features=12, depths=(2,), heads=(3,))
_mgdn_hdr = dataclasses.replace(
    _small, inputs=3, in_channels=(1, 1, 1), guidance="reference", skip=1
)
SYSTEMS = {
    "cddfuse": CDDFUSE,
    "refusion": REFUSION,
    "lkc_funet": _lkc_funet,
    "mgdn": dataclasses.replace(_small, head="blend"),
    "mgdn hdr": _mgdn_hdr,
    "pyramid": pyramid.Config(levels=2, features=6, convolutions=1),
}


SIZES = [(11, 7), (1, 9), (12, 1)]


@functools.cache
def exact(system):
    """Parameters, pairs of pictures of `SIZES`, and what is fused of each by itself."""
    config = SYSTEMS[system]
    graphdef, params = drawn(config.system, config, 0.1)
    run = jax.jit(lambda *x: functional.apply(graphdef, params, {}, *x)[0][0])
    seeds = range(len(config.in_channels))
    pairs = [[noise(1, *size, 1, seed=seed) for seed in seeds] for size in SIZES]
    return graphdef, params, pairs, [run(*pair)[0] for pair in pairs]


# LKC-FUNet has no strips, and norms over nine pixels, which enlarge rounding.
@pytest.mark.parametrize(
    ("system", "pixels", "bound"),
    [
        ("cddfuse", restormer.STRIP_PIXELS, 1e-6),
        ("cddfuse", 30, 1e-6),
        ("refusion", restormer.STRIP_PIXELS, 1e-6),
        ("refusion", 30, 1e-6),
        ("lkc_funet", restormer.STRIP_PIXELS, 5e-6),
        ("mgdn", blocks._STRIP_PIXELS, 1e-6),
        ("mgdn", 30, 1e-6),
        ("mgdn hdr", blocks._STRIP_PIXELS, 1e-6),
        ("pyramid", 1, 2e-6),
    ],
)
def test_padding_changes_nothing_and_compiles_nothing(system, pixels, bound, monkeypatch):
    graphdef, params, pairs, wanted = exact(system)
    rng = np.random.default_rng(0)
    full = [rng.random((len(SIZES), 12, 9, 1)).astype(np.float32) for _ in pairs[0]]
    full[0][0, 11:] = np.inf  # whatever stands there
    for i, (h, w) in enumerate(SIZES):
        for whole, picture in zip(full, pairs[i], strict=True):
            whole[i, :h, :w] = picture[0]
    monkeypatch.setattr(restormer, "STRIP_PIXELS", pixels)
    monkeypatch.setattr(blocks, "_STRIP_PIXELS", pixels)

    def padded(extent, *images):
        return functional.apply(graphdef, params, {}, *images, extent=extent)[0][0]

    fused = jax.jit(padded)(jnp.asarray(SIZES, jnp.int32), *map(jnp.asarray, full))
    for result, answer, (h, w) in zip(fused, wanted, SIZES, strict=True):
        error = float(jnp.abs(result[:h, :w] - answer).max())
        print(f"{system} {h}x{w}, strips of {pixels}: {error:.1e}")
        assert error <= bound


@pytest.mark.parametrize("system", ["mgdn", "refusion", "cddfuse"])
def test_pixels_without_weight_are_not_in_the_statistics(system):
    """What is missing from a picture does not show far from there: one call, no second pass.

    Weights are 0 as far as convolutions and windows carry what stands in the hole.
    """
    graphdef, params, *_ = exact(system)
    size, width = (12, 72), 64
    a, b = (noise(1, *size, 1, seed=seed) for seed in (0, 1))
    weights = jnp.ones((1, *size, 1)).at[:, :, :34].set(0)

    @jax.jit
    def run(a, weights):
        kw = {"pixel_weights": weights, "extent": jnp.asarray([[12, width]], jnp.int32)}
        fused, aux = functional.apply(graphdef, params, {}, a, b, **kw)[0]
        return fused[:, :, 44:width], aux["context"]

    hidden = a.at[:, :, :4].set(1.0)
    (seen, sums), (again, _) = run(a, weights), run(hidden, weights)
    away = float(jnp.abs(again - seen).max())
    counted = float(jnp.abs(run(hidden, jnp.ones_like(weights))[0] - seen).max())
    print(f"{system}: far from what is missing {away:.1e}, if it counts {counted:.1e}")
    assert away <= 1e-6
    assert counted > 20 * away
    counts = {float(v[0]) for k, v in sums.items() if k.endswith("count")}
    assert counts <= {12.0 * (width - 34)}


def test_strips_equal_the_whole_picture(monkeypatch):
    """CDDFuse's detail nodes reflect at the border of the picture, not at that of a strip."""
    graphdef, params, *_ = exact("cddfuse")
    a, b, weights = (noise(2, 23, 7, 1, seed=seed) for seed in range(3))

    def run(a, b):
        fused, aux = functional.apply(graphdef, params, {}, a, b, pixel_weights=weights)[0]
        again = functional.apply(graphdef, params, {}, a, b, context=aux["context"])[0][0]
        return fused, again, aux

    whole = jax.jit(lambda *x: run(*x))(a, b)
    monkeypatch.setattr(restormer, "STRIP_PIXELS", 30)
    strips = jax.jit(run)(a, b)
    for x, y in zip(jax.tree.leaves(strips), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
    print(f"strips: {float(jnp.abs(strips[0] - whole[0]).max()):.1e}")


def test_a_fuser_compiles_once_for_a_bucket():
    _, params = drawn("cddfuse", CDDFUSE, 0.1)
    fuser = Fuser("cddfuse", CDDFUSE, params)
    rng = np.random.default_rng(0)
    scenes = [[rng.random(s).astype(np.float32) for _ in "ab"] for s in [(5, 8), (7, 6), (8, 8)]]
    singly = [fuser(*pictures, bucket=8) for pictures in scenes]
    assert fuser._fuse._cache_size() == 1
    for together, alone, pictures in zip(
        fuser.batch(scenes, bucket=8), singly, scenes, strict=True
    ):
        assert together.shape == pictures[0].shape
        np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(singly[0], fuser(*scenes[0]), atol=1e-6)
    assert fuser._fuse._cache_size() == 3
    # Mirrored pictures are padded where the others are, and need no program of their own.
    flips = fuser(*scenes[0], ensemble="flips")
    np.testing.assert_allclose(flips, fuser(*scenes[0], ensemble="flips", bucket=8), atol=1e-6)
    assert abs(flips - singly[0]).max() > 1e-4
    assert fuser._fuse._cache_size() == 3
    assert fuser.plan(60, 70, bucket=stream.BUCKET).padded == (64, 128)
    assert fuser.plan(60, 70, bucket=64, tile=32).bucketed is False
    with pytest.raises(InputError, match="bucket is -1"):
        fuser.plan(5, 5, bucket=-1)
