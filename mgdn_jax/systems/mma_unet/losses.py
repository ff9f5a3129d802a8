"""MMA-UNet's losses: of the fusion as released, and of the two U-Nets, which are ours."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mgdn_jax.losses import (
    Image,
    PerExample,
    intensity_target,
    mse,
    sobel_max,
    structural_dissimilarity,
)


def reconstruction(rebuilt: Image, image: Image, *, ssim: float = 0.5) -> PerExample:
    """``mse + ssim S``, S the `structural_dissimilarity`: what trains the U-Nets.

    The released code has no training of them; this loss is ours.
    """
    return mse(rebuilt, image) + ssim * structural_dissimilarity(rebuilt, image)


def fusion_terms(
    fused: Image,
    infrared: Image,
    visible: Image,
    *,
    rule: str = "mean",
    axis_name: str | None = None,
) -> dict[str, Float[Array, "..."]]:
    """What the fusion is trained by, of pictures of three channels.

    Args:
        fused: result.
        infrared: source, three equal channels.
        visible: source, likewise.
        rule: what intensities are compared with, of `losses.INTENSITY_RULES`; as released the
            ``"mean"`` of both.
        axis_name: mapped axis that the batch is spread over, if any: the mean ``gradient`` is over
            all of it.

    Returns:
        ``gradient``, one number, the mean distance to the stronger gradient (`losses.sobel_max`)
        over the batch; ``dissimilarity``, per example, the `structural_dissimilarity` to one source
        and to the other, added; ``intensity``, per example, the mean squared distance.
    """
    gradient = jnp.mean(sobel_max(fused, visible, infrared))
    return {
        "gradient": gradient if axis_name is None else lax.pmean(gradient, axis_name),
        "dissimilarity": structural_dissimilarity(fused, visible)
        + structural_dissimilarity(fused, infrared),
        "intensity": mse(fused, intensity_target(visible, infrared, rule)),
    }


def fusion(
    terms: dict[str, Float[Array, "..."]],
    *,
    gradient: float = 10.0,
    ssim: float = 0.5,
    intensity: float = 1.0,
) -> PerExample:
    """``gradient G^2 + ssim S + intensity M`` of `fusion_terms`.

    The mean over the batch is squared, so that the slope of the first term is ``2 gradient G``
    times that of the mean: the further its gradients are from those wanted, the more they weigh.
    """
    g = jnp.broadcast_to(terms["gradient"], terms["dissimilarity"].shape)
    return gradient * g * g + ssim * terms["dissimilarity"] + intensity * terms["intensity"]
