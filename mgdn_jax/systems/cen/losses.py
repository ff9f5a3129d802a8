"""What CEN is trained by: pictures against rules of their sources (ours), classes (published)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mgdn_jax import losses

Image = Float[Array, "b h w 1"]
PerExample = Float[Array, " b"]
Logits = Float[Array, "b h w n"]

_TONE = 8

IGNORED = 255
"""The label of pixels that nothing is known about."""


def terms(fused: Image, a: Image, b: Image, wanted: Image) -> dict[str, PerExample]:
    """Terms of a picture: intensities, the stronger slope with its sign, structure of both sources.

    Intensities are means over 8x8 pixels. Pixel by pixel, the rule that a network starts from has
    no error at all, and nothing that the other terms want is worth leaving it.

    Args:
        fused: the result, or a branch's.
        a: first source.
        b: second source.
        wanted: intensities that are wanted.
    """
    return {
        "intensity": losses.l1(*(losses.blockwise_mean(x, _TONE) for x in (fused, wanted))),
        "gradient": losses.gradient_signed_max(fused, a, b),
        "ssim": 2 - losses.ssim(fused, a) - losses.ssim(fused, b),
    }


def negative_log_likelihood(logits: Logits, labels: Int[Array, "b y x"]) -> Float[Array, ""]:
    """Mean of ``-log softmax`` at the true class, over the pixels of the batch that have one.

    Args:
        logits: (B, h, w, classes); they are resized to the labels, bilinearly, corners not aligned.
        labels: (B, H, W) classes, `IGNORED` where there is none. One pixel has one, at least.
    """
    b, y, x = labels.shape
    shape = (b, y, x, logits.shape[-1])
    whole = jax.image.resize(logits, shape, "linear", antialias=False)
    known = labels != IGNORED
    place = jnp.where(known, labels, 0).astype(jnp.int32)
    values = jnp.take_along_axis(jax.nn.log_softmax(whole), place[..., None], -1)[..., 0]
    return -jnp.sum(jnp.where(known, values, 0)) / jnp.sum(known)


def segmentation(
    outputs: Sequence[Logits],
    labels: Int[Array, "b y x"],
    sparsity: Float[Array, ""],
    weight: float = 2e-4,
) -> tuple[Float[Array, ""], Float[Array, " n"]]:
    """The published loss of `Segmentation`: of each branch and of the ensemble.

    The penalty counts once for each of them: three times its weight in all.

    Args:
        outputs: logits.
        labels: classes.
        sparsity: `channel_exchange.sparsity` of the exchanging layers.
        weight: of the penalty.

    Returns:
        ``(loss, likelihoods)``, the latter of each output.
    """
    likelihoods = jnp.stack([negative_log_likelihood(logits, labels) for logits in outputs])
    return jnp.sum(likelihoods) + len(outputs) * weight * sparsity, likelihoods
