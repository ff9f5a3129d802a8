"""CDDFuse: two branches told apart by correlation, trained in two phases.

The published weights and figures come from the released code, which differs from the paper. Each
loss that does takes ``form``: "released" (the default, as it is what can be compared to) or
"paper".
"""

import jax.numpy as jnp
from jax import lax

from mgdn_jax.losses import (
    Image,
    PerExample,
    correlation,
    gradient_l1,
    intensity,
    mse,
    sobel_max,
    structural_dissimilarity,
)

# ---- CDDFuse: two branches told apart by correlation, trained in two phases ----------------------
# The published weights and figures come from the released code, which differs from the paper. Each
# loss that does takes ``form``: "released" (the default, as it is what can be compared to) or
# "paper".

FORMS = ("released", "paper")


def _known(form: str) -> None:
    if form not in FORMS:
        raise ValueError(f"form is one of {', '.join(FORMS)}, got {form!r}")


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
