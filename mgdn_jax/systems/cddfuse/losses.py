"""CDDFuse: two branches told apart by correlation, trained in two phases.

The published weights and figures come from the released code, which differs from the paper. Each
loss that does takes ``form``: "released" (the default, as it is what can be compared to) or
"paper".
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from mgdn_jax.losses import (
    Image,
    PerExample,
    correlation,
    gradient_l1,
    intensity,
    mse,
    same_shape,
    sobel_max,
    ssim_loss,
    ssim_map,
)

# ---- CDDFuse: two branches told apart by correlation, trained in two phases ----------------------
# The published weights and figures come from the released code, which differs from the paper. Each
# loss that does takes ``form``: "released" (the default, as it is what can be compared to) or
# "paper".

FORMS = ("released", "paper")


def _known(form: str) -> None:
    if form not in FORMS:
        raise ValueError(f"form is one of {', '.join(FORMS)}, got {form!r}")


def structural_dissimilarity(x: Image, y: Image, *, form: str = "released") -> PerExample:
    """Mean of ``clamp(1 - ssim, 0, 1) / 2`` over all pixels, images reflected at their border.

    The SSIM loss of CDDFuse's released code, which is that of kornia 0.2. The clamp comes before
    the halving: the loss ends at 0.5, and pixels of negative SSIM have no gradient.

    Args:
        x: image.
        y: image to resemble.
        form: ``"released"``; ``"later"`` is ``clamp((1 - ssim) / 2, 0, 1)``, what kornia made of it
            from 0.5 on; ``"paper"`` is `ssim_loss`, ``1 - ssim`` where the window fits.

    Raises:
        ValueError: shapes differ, the form is unknown, or a side is too short (6 pixels; 11 for
            ``"paper"``).
    """
    if form == "paper":
        return ssim_loss(x, y)
    same_shape(x, y)
    if form not in ("released", "later"):
        raise ValueError(f"form is 'released', 'later' or 'paper', got {form!r}")
    if min(x.shape[1:3]) < 6:
        raise ValueError(f"this ssim needs sides of at least 6 pixels, got {x.shape[1:3]}")
    # In single precision, as there: flat regions cancel, and enlarge what the taps' sum is off by.
    window = np.exp(np.arange(-5, 6) ** 2 / -4.5).astype(np.float32)
    taps = [float(t) for t in window / np.float32(window.sum(dtype=np.float64))]
    x, y = (jnp.pad(z, ((0, 0), (5, 5), (5, 5), (0, 0)), mode="reflect") for z in (x, y))
    distance = 1.0 - ssim_map(x, y, taps)
    if form == "later":
        distance = 0.5 * distance
    # Slope 1 at both ends of the clamp, as PyTorch has it.
    distance = jnp.where(
        (distance >= 0) & (distance <= 1), distance, lax.stop_gradient(jnp.clip(distance, 0, 1))
    )
    return jnp.mean(distance if form == "later" else 0.5 * distance, (1, 2, 3))


def decomposition(
    base_a: Image,
    base_b: Image,
    detail_a: Image,
    detail_b: Image,
    *,
    form: str = "released",
    axis_name: str | None = None,
) -> PerExample:
    """Tells base from detail: ``cc(details)^2 / (1.01 + cc(bases))``.

    Small where details are uncorrelated and bases correlated; cc is `correlation`.

    Args:
        base_a: base features of the first source.
        base_b: base features of the second source.
        detail_a: detail features of the first source.
        detail_b: detail features of the second source.
        form: ``"paper"`` takes the formula for each pair; ``"released"`` puts the batch's mean
            correlations into it, so all examples get the same value. Equal for a batch of one.
        axis_name: mapped axis that the batch is spread over, if any: its mean is over all of it.
    """
    _known(form)
    detail, base = correlation(detail_a, detail_b), correlation(base_a, base_b)
    if form == "released":
        means = [jnp.mean(cc) for cc in (detail, base)]
        if axis_name is not None:
            means = lax.pmean(means, axis_name)
        detail, base = (jnp.broadcast_to(mean, detail.shape) for mean in means)
    return jnp.square(detail) / (1.01 + base)


def structure(rebuilt: Image, image: Image, *, form: str = "released") -> PerExample:
    """``5 S + mean squared error``, with S the `structural_dissimilarity` of that form."""
    _known(form)
    return 5.0 * structural_dissimilarity(image, rebuilt, form=form) + mse(rebuilt, image)


def fusion_max(fused: Image, a: Image, b: Image) -> PerExample:
    """``mean |max(a, b) - f| + 10 mean |max(g(a), g(b)) - g(f)|`` with g the `sobel_strength`.

    CDDFuse's phase II without the decomposition; the same in paper and code.
    """
    return intensity(fused, a, b) + 10.0 * sobel_max(fused, a, b)


def reconstruction_phase(
    a: Image,
    b: Image,
    rebuilt_a: Image,
    rebuilt_b: Image,
    apart: PerExample,
    *,
    form: str = "released",
) -> PerExample:
    """CDDFuse's phase I: both `structure` terms, ``2 apart``, and as released ``5 gradient_l1``.

    Args:
        a: first source (infrared).
        b: second source (visible).
        rebuilt_a: what the decoder makes of the first source's features.
        rebuilt_b: what the decoder makes of the second source's features.
        apart: `decomposition` of the features.
        form: ``"paper"`` has no gradient term; the one ``"released"`` is about the second source.
    """
    total = structure(rebuilt_b, b, form=form) + structure(rebuilt_a, a, form=form) + 2.0 * apart
    return total + 5.0 * gradient_l1(b, rebuilt_b) if form == "released" else total


def fusion_phase(fused: Image, a: Image, b: Image, apart: PerExample) -> PerExample:
    """CDDFuse's phase II: `fusion_max` and ``2 apart``, apart the `decomposition` of features."""
    return fusion_max(fused, a, b) + 2.0 * apart
