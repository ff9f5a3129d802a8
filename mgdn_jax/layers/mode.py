"""How a network runs: its randomness in training, and in use which pixels of a map are image."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from mgdn_jax.layers import padding

Maps = Float[Array, "b h w c"]


@dataclasses.dataclass
class Mode:
    """How one call of a network runs; every call needs a new one, since it counts its draws.

    Attributes:
        training: take batch statistics instead of running ones, and drop where there are keys.
        keys: a PRNG key for every example, (B,), or None: then nothing is dropped. Each example has
            its own key, so that what is dropped does not depend on how a batch is laid out.
        axis_name: mapped axis over which batch statistics are taken, if any.
        extent: height and width of the image in the upper left corner of every example's map
            (`Extent`). Not for training.
        height: of the maps whose pixels ``extent`` counts; for a map half as high, ``extent`` is
            halved, and so on.
        draws: how many times `draw` has given keys.
    """

    training: bool = False
    keys: Key[Array, " b"] | None = None
    axis_name: str | None = None
    extent: padding.Extent = None
    height: int = 0
    draws: int = dataclasses.field(default=0, init=False)

    def draw(self) -> Key[Array, " b"] | None:
        """New keys, one for each example; None if nothing is to be dropped."""
        if not self.training or self.keys is None:
            return None
        self.draws += 1
        return jax.vmap(jax.random.fold_in, (0, None))(self.keys, self.draws)

    def inside(self, x: Maps) -> Bool[Array, "b h w 1"] | None:
        """Which pixels of a map are image; None: all."""
        if self.extent is None:
            return None
        return padding.within(x, self.extent // (self.height // x.shape[1]))

    def zeroed(self, x: Maps) -> Maps:
        """The map with zeros beyond the image, as a convolution with zero padding must see it."""
        inside = self.inside(x)
        return x if inside is None else jnp.where(inside, x, 0)

    def mean(self, x: Maps) -> Float[Array, "b 1 1 c"]:
        """Mean over the pixels of each image."""
        inside = self.inside(x)
        if inside is None:
            return jnp.mean(x, (1, 2), keepdims=True)
        total = jnp.sum(jnp.where(inside, x, 0), (1, 2), keepdims=True)
        return total / jnp.sum(inside, (1, 2), keepdims=True).astype(x.dtype)


EVAL = Mode()


def _dropped(x: Maps, rate: float, mode: Mode, shape: tuple[int, ...]) -> Maps:
    """Draws ``shape`` for each example and zeroes the map where a draw says so."""
    keys = mode.draw() if rate > 0 else None
    if keys is None:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape))(keys)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))


def dropout(x: Maps, rate: float, mode: Mode) -> Maps:
    """Zeroes each value with probability ``rate`` in training; the others grow by its inverse."""
    return _dropped(x, rate, mode, x.shape[1:])


def drop_path(x: Maps, rate: float, mode: Mode) -> Maps:
    """Stochastic depth: zeroes each example with probability ``rate``; the others grow likewise."""
    return _dropped(x, rate, mode, (1,) * (x.ndim - 1))
