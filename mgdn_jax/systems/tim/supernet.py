"""The network that a search trains: every place of a cell holds all primitives at once.

A mixed operation is ``sum_k share_k op_k(x)``; the shares are a softmax over the architecture's
logits, one row a place, the same in all cells. The primitive of the largest share stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgdn_jax.layers.mode import EVAL, Mode
from mgdn_jax.systems.tim.blocks import Entrance, Head, Stem
from mgdn_jax.systems.tim.network import Config
from mgdn_jax.systems.tim.primitives import primitive

Maps = Float[Array, "b h w c"]
Image = Float[Array, "b h w 1"]
Shares = Float[Array, "places k"]


class MixedOperation(nnx.Module):
    """All primitives of a list at one place.

    Args:
        names: of the primitives.
        features: channels C.
        rngs: of the weights.
    """

    def __init__(self, names: Sequence[str], features: int, *, rngs: nnx.Rngs):
        self.operations = nnx.List([primitive(name, features, rngs=rngs) for name in names])

    def __call__(self, x: Maps, shares: Float[Array, " k"], mode: Mode) -> Maps:
        """Map (B, H, W, C) to the same shape."""
        results = [operation(x, mode) for operation in self.operations]
        shares = shares.astype(x.dtype)
        return sum((shares[k] * y for k, y in enumerate(results)), jnp.zeros_like(x))


class MixedCell(nnx.Module):
    """`blocks.ChainCell` with a mixed operation at every place."""

    def __init__(self, names: Sequence[str], places: int, features: int, *, rngs: nnx.Rngs):
        self.entrance = Entrance(features, rngs=rngs)
        self.mixed = nnx.List([MixedOperation(names, features, rngs=rngs) for _ in range(places)])

    def __call__(self, x: Maps, shares: Shares, mode: Mode) -> Maps:
        """Map (B, H, W, C) to the same shape."""
        x = self.entrance(x, mode)
        for place, mixed in enumerate(self.mixed):
            x = mixed(x, shares[place], mode)
        return x


class Supernet(nnx.Module):
    """`network.InitialFusion` whose chain cells hold all primitives.

    Args:
        config: of the network that is searched for; ``chain`` says how many places a cell has.
        names: primitives to choose from.
        rngs: of the weights.
    """

    def __init__(self, config: Config, names: Sequence[str], *, rngs: nnx.Rngs):
        c, places = config.features, len(config.chain)
        self.dtype = config.dtype
        self.stem = Stem(c, norm=False, rngs=rngs)
        self.cells = nnx.List(
            [MixedCell(names, places, c, rngs=rngs) for _ in range(config.chains)]
        )
        self.head = Head(c, c, act=True, rngs=rngs)

    def __call__(self, first: Image, second: Image, shares: Shares, mode: Mode = EVAL) -> Image:
        """(B, H, W, 1) in float32 or more, not bounded; computed in the network's ``dtype``."""
        dtype = jnp.dtype(self.dtype)
        x = self.stem(first.astype(dtype), second.astype(dtype), mode)
        for cell in self.cells:
            x = cell(x, shares, mode)
        return self.head(x).astype(jnp.promote_types(dtype, jnp.float32))
