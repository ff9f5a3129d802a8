"""What DeFusion's parts and fused picture are held to, and how the weights change as it learns."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mgdn_jax.errors import InputError
from mgdn_jax.losses import Image, PerExample, absolute, l1, same_shape

Mask = Float[Array, "b h w 1"]


@dataclasses.dataclass(frozen=True)
class Annealing:
    """Calls of the loss at which weights change; defaults are the published ones.

    Attributes:
        outside: how strongly parts are drawn to black outside their squares, at most.
        outside_from: calls before which they are not.
        outside_full: calls from which `outside` holds; before, its share is that of the calls,
            squared.
        outside_relaxed: calls after which it is multiplied by `outside_rest`.
        outside_rest: see there.
        fusion_from: calls before which the fused picture does not count, and the last convolution
            does not learn.
        fusion_zero: calls at which its weight begins to grow, with the square of what follows.
        fusion_full: calls from which it is 1.
    """

    outside: float = 0.15
    outside_from: int = 3000
    outside_full: int = 7000
    outside_relaxed: int = 40_000
    outside_rest: float = 0.1
    fusion_from: int = 17_000
    fusion_zero: int = 10_000
    fusion_full: int = 24_000

    def __post_init__(self):
        for name in ("outside", "outside_rest"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"recipe.{name} is {getattr(self, name)} and must be in [0, 1]")
        counts = ("outside_from", "outside_full", "outside_relaxed", "fusion_from", "fusion_zero")
        for name in counts:
            if getattr(self, name) < 0:
                raise InputError(f"recipe.{name} is {getattr(self, name)} and must be 0 or more")
        if self.fusion_full <= self.fusion_zero:
            raise InputError(
                f"recipe.fusion_full is {self.fusion_full} and must be above fusion_zero,"
                f" {self.fusion_zero}"
            )


def outside_weight(calls: Any, annealing: Annealing) -> jax.Array:
    """How strongly a part is drawn to black outside its squares.

    Args:
        calls: number of earlier calls of the loss, a float.
        annealing: where it changes.
    """
    t = jnp.asarray(calls)
    part = jnp.minimum(t / max(annealing.outside_full, 1), 1.0)
    weight = annealing.outside * jnp.square(part)
    weight = jnp.where(t > annealing.outside_relaxed, annealing.outside_rest * weight, weight)
    return jnp.where(t < annealing.outside_from, 0.0, weight)


def fusion_weight(calls: Any, annealing: Annealing) -> jax.Array:
    """How much the fused picture counts.

    Args:
        calls: number of earlier calls of the loss, a float.
        annealing: where it changes.
    """
    t = jnp.asarray(calls)
    way = max(annealing.fusion_full - annealing.fusion_zero, 1)
    part = jnp.clip((t - annealing.fusion_zero) / way, 0.0, 1.0)
    return jnp.where(t < annealing.fusion_from, 0.0, jnp.square(part))


def squares(mask_a: Mask, mask_b: Mask) -> tuple[Mask, Mask, Mask]:
    """Where both pictures show the photograph, where the first alone does, and the second."""
    both = mask_a * mask_b
    return both, mask_a - both, mask_b - both


def part(picture: Image, target: Image, mask: Mask, outside: Any) -> PerExample:
    """Distance of a part to the photograph in its squares, and to black outside of them.

    Args:
        picture: the part.
        target: the photograph.
        mask: 1 in its squares, else 0.
        outside: weight of what lies outside.
    """
    same_shape(picture, target)
    outside = jnp.asarray(outside, picture.dtype)
    # Summed in the published order, which says on which side of a tie rounding falls.
    reach = outside * picture + (1 - outside) * mask * picture
    return jnp.mean(absolute(reach - mask * target), (1, 2, 3))


def terms(
    common: Image,
    upper: Image,
    lower: Image,
    target: Image,
    masks: tuple[Mask, Mask],
    outside: Any,
) -> dict[str, PerExample]:
    """The three parts' distances, by name.

    Args:
        common: what both pictures show.
        upper: what the first shows alone.
        lower: what the second shows alone.
        target: the photograph.
        masks: where the first and the second picture show it.
        outside: of `part`.
    """
    parts = zip(("common", "upper", "lower"), (common, upper, lower), squares(*masks), strict=True)
    return {name: part(picture, target, mask, outside) for name, picture, mask in parts}


fusion = l1
"""Distance of the fused picture to the photograph."""
