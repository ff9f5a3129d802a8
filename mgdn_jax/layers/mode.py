"""Whether a network trains, and what is random about it then: dropout and stochastic depth."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Maps = Float[Array, "b h w c"]


@dataclasses.dataclass
class Mode:
    """How one call of a network runs; made anew for every call, since it counts its draws.

    Attributes:
        training: batch statistics instead of running ones, and dropping where there are keys.
        keys: a PRNG key for every example, (B,), or None, with which nothing is dropped. As each
            example has its own, what is dropped does not depend on how a batch is laid out.
        axis_name: mapped axis over which batch statistics are taken, if any.
    """

    training: bool = False
    keys: Key[Array, " b"] | None = None
    axis_name: str | None = None
    draws: int = dataclasses.field(default=0, init=False)

    def draw(self) -> Key[Array, " b"] | None:
        """Fresh keys, one an example; None if nothing is to be dropped."""
        if not self.training or self.keys is None:
            return None
        self.draws += 1
        return jax.vmap(jax.random.fold_in, (0, None))(self.keys, self.draws)


EVAL = Mode()


def _dropped(x: Maps, rate: float, mode: Mode, shape: tuple[int, ...]) -> Maps:
    keys = mode.draw() if rate > 0 else None
    if keys is None:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape))(keys)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))


def dropout(x: Maps, rate: float, mode: Mode) -> Maps:
    """Zeroes each value with probability ``rate`` in training; the others grow by its inverse."""
    return _dropped(x, rate, mode, x.shape[1:])


def drop_path(x: Maps, rate: float, mode: Mode) -> Maps:
    """Stochastic depth: zeroes whole examples with probability ``rate``, the others grow."""
    return _dropped(x, rate, mode, (1,) * (x.ndim - 1))
