"""The fuser around the real network, small: what padding does, and what tiling changes."""

import numpy as np
import pytest

from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.systems import registry


@pytest.fixture(scope="module")
def fuser():
    config, _, params, stats = registry.create(
        "mgdn", "mff", seed=3, features=12, depths=(2,), heads=(3,)
    )
    # Fresh weights hardly react to the global statistics; larger ones do, as trained ones do.
    louder = {k: v * (2.0 if k.endswith("kernel") else 1.0) for k, v in params.items()}
    return Fuser("mgdn", config, louder, stats)


def photographs(height, width):
    """Two pictures whose left and right differ, so that local statistics are not global ones."""
    rng = np.random.default_rng(0)
    base = rng.random((height, width, 3), np.float32)
    ramp = np.linspace(0, 1, width, dtype=np.float32)[:, None]
    return base * ramp, 1 - base * ramp[::-1]


def test_padding_is_the_published_scripts_or_the_networks_own(fuser):
    a, b = photographs(16, 21)
    for padding, widths, mode in (
        ("script", ((0, 8), (0, 3), (0, 0)), "symmetric"),
        ("network", ((0, 0), (0, 0), (0, 0)), "reflect"),
    ):
        inputs = [np.pad(x, widths, mode)[None] for x in (a, b)]
        bare = np.asarray(fuser.network(*inputs))[0, :16, :21]
        np.testing.assert_allclose(fuser(a, b, padding=padding), bare, atol=1e-6)
    script, network = (fuser(a, b, padding=p) for p in ("script", "network"))
    assert np.abs(script - network).max() > 1e-5


def test_global_context_brings_tiles_closer_to_the_whole_picture(fuser):
    a, b = photographs(64, 192)
    whole = fuser(a, b, tile=0)
    off = {}
    for context in ("global", "local"):
        tiled = fuser(a, b, tile=64, overlap=24, tile_context=context)
        off[context] = float(np.mean(np.abs(tiled - whole)))
    assert off["global"] < 0.2 * off["local"], off
