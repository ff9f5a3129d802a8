"""What TIM's networks are trained by here: the release has no training, so this is ours.

Three terms, per example: intensities of a rule, the stronger slope with its sign, structure of both
sources.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mgdn_jax import losses

Image = Float[Array, "b h w 1"]
PerExample = Float[Array, " b"]

RULES = losses.INTENSITY_RULES


def target(a: Image, b: Image, rule: str | Int[Array, ""]) -> Image:
    """What intensities are compared with: of a rule by name, or by its number, which is traced."""
    if isinstance(rule, str):
        return losses.intensity_target(a, b, rule)
    every = jnp.stack([losses.intensity_target(a, b, name) for name in RULES])
    return every[rule]


def terms(fused: Image, a: Image, b: Image, wanted: Image) -> dict[str, PerExample]:
    """The three terms of a result.

    Args:
        fused: result.
        a: first source.
        b: second source.
        wanted: `target` of the sources.
    """
    return {
        "intensity": losses.l1(fused, wanted),
        "gradient": losses.gradient_signed_max(fused, a, b),
        "ssim": 2 - losses.ssim(fused, a) - losses.ssim(fused, b),
    }
