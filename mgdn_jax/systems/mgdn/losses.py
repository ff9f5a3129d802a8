"""MGDN's redundancy penalty: mutual information of filtered branches outside shared structure."""

import itertools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mgdn_jax.image import luminance, sobel
from mgdn_jax.losses import Image, PerExample, same_shape


def structure_mask(images: list[Image]) -> Float[Array, "b h w"]:
    """1 on pixels without strong gradient, 0 on shared structure; carries no gradient.

    Per example the threshold is ``mean + 0.5 std`` of the Sobel magnitude of the luminance; with
    several images, of its pixel-wise maximum. Project formulation of MGDN's gradient mask.
    """
    magnitudes = []
    for image in images:
        gx, gy = sobel(luminance(image))
        magnitudes.append(jnp.sqrt(gx**2 + gy**2 + 1e-12)[..., 0])
    strongest = magnitudes[0]
    for magnitude in magnitudes[1:]:
        strongest = jnp.maximum(strongest, magnitude)
    mean = jnp.mean(strongest, (1, 2), keepdims=True)
    std = jnp.std(strongest, (1, 2), keepdims=True)
    return lax.stop_gradient((strongest <= mean + 0.5 * std).astype(jnp.float32))


def normalised_mutual_information(
    first: Image, second: Image, weights: Float[Array, "b h w"], *, bins: int = 32
) -> PerExample:
    """Differentiable NMI of two feature maps over weighted pixels, in [0, 1).

    Features are reduced to their root mean square over channels, standardised and squashed, so
    that a branch cannot lower the value by shrinking; the joint histogram is a Parzen estimate.
    ``NMI = 2 (H1 + H2 - H12) / (H1 + H2)``. Examples that keep less than 1 % of their pixels give
    0. Project formulation of MGDN's mutual-information loss (its own is unpublished).

    Args:
        first: features of one branch.
        second: features of the other branch.
        weights: non-negative pixel weights, e.g. `structure_mask`.
        bins: histogram bins K; the Parzen bandwidth is 1/K.
    """
    same_shape(first, second)
    if weights.shape != first.shape[:3]:
        raise ValueError(f"weights {weights.shape} do not fit features {first.shape}")
    b = weights.shape[0]
    w = weights.reshape(b, -1)
    total = jnp.maximum(jnp.sum(w, -1), 1e-12)
    centres = (jnp.arange(bins) + 0.5) / bins

    def soft_bins(features: Array) -> Array:
        s = jnp.sqrt(jnp.mean(jnp.square(features), -1) + 1e-6).reshape(b, -1)
        mean = (jnp.sum(w * s, -1) / total)[:, None]
        variance = (jnp.sum(w * jnp.square(s - mean), -1) / total)[:, None]
        u = jax.nn.sigmoid((s - mean) / jnp.sqrt(variance + 1e-6))
        return jax.nn.softmax(-jnp.square((u[..., None] - centres[None, None]) * bins) / 2, -1)

    p = soft_bins(first)
    q = soft_bins(second)
    joint = jnp.einsum("bni,bnj->bij", p * w[..., None], q) / total[:, None, None]

    def entropy(d: Array) -> Array:
        return -jnp.sum((d * jnp.log(d + 1e-12)).reshape(b, -1), -1)

    h1, h2, h12 = entropy(joint.sum(2)), entropy(joint.sum(1)), entropy(joint)
    nmi = 2.0 * (h1 + h2 - h12) / jnp.maximum(h1 + h2, 1e-12)
    return jnp.where(jnp.mean(w, -1) < 0.01, 0.0, nmi)


def masked_nmi(
    stages: list[list[Image]],
    mask_images: list[Float[Array, "b y x k"]],
    *,
    reference: int | None = None,
) -> PerExample:
    """MGDN's redundancy penalty over the outputs of every stage's dynamic filters.

    Stages combine as a running half, ``L_i = (m_i + L_{i-1}) / 2``.

    Args:
        stages: per stage the filtered branch features, at the (padded) feature size.
        mask_images: target, or sources, at the image size; padding counts as masked.
        reference: branch that is paired with each other one (HDR); None pairs each with each.
    """
    mask = structure_mask(mask_images)
    h, w = stages[0][0].shape[1:3]
    mask = jnp.pad(mask, ((0, 0), (0, h - mask.shape[1]), (0, w - mask.shape[2])))
    loss = None
    for branches in stages:
        if reference is None:
            pairs = list(itertools.combinations(branches, 2))
        else:
            pairs = [
                (branch, branches[reference]) for i, branch in enumerate(branches) if i != reference
            ]
        values = [normalised_mutual_information(x, y, mask) for x, y in pairs]
        value = sum(values[1:], values[0]) / len(values)
        loss = value if loss is None else 0.5 * (value + loss)
    if loss is None:
        raise ValueError("masked_nmi needs at least one stage")
    return loss
