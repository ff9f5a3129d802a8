"""Differentiable losses, one value per example; the caller reduces.

Images are (B, H, W, C) in [0, 1]. Shapes must agree exactly: nothing broadcasts.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from mgdn_jax.image import gaussian_window, luminance, sobel

Image = Float[Array, "b h w c"]
PerExample = Float[Array, " b"]


def _same_shape(*arrays: Array) -> None:
    if any(a.shape != arrays[0].shape for a in arrays):
        raise ValueError(f"shapes differ: {', '.join(str(a.shape) for a in arrays)}")


@jax.custom_jvp
def absolute(x: Array) -> Array:
    """``|x|`` with derivative 0 at 0 (as PyTorch), where JAX takes 1: it shows on flat regions."""
    return jnp.abs(x)


@absolute.defjvp
def _absolute_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return absolute(primals[0]), jnp.sign(primals[0]) * tangents[0]


def l1(fused: Image, target: Image) -> PerExample:
    """Mean absolute difference."""
    _same_shape(fused, target)
    return jnp.mean(absolute(fused - target), (1, 2, 3))


def mse(fused: Image, target: Image) -> PerExample:
    """Mean squared difference; ``-10 log10`` of it is the PSNR in dB."""
    _same_shape(fused, target)
    return jnp.mean(jnp.square(fused - target), (1, 2, 3))


INTENSITY_RULES = ("max", "mean", "sum", "screen")


def intensity_target(a: Image, b: Image, rule: str = "max", share: float = 1.0) -> Image:
    """What a result's intensities are compared with, in [0, 1] as the sources are.

    Args:
        a: first source.
        b: second source.
        rule: ``"max"``, the pixel-wise maximum; ``"mean"``; ``"sum"``, a + b less the mean of both
            images, cut off at black and white, so that each source keeps its full contrast;
            ``"screen"``, a + b - a b, where black changes nothing and nothing passes white.
        share: how far from the maximum to what `rule` says, in [0, 1].

    Raises:
        ValueError: unknown rule.
    """
    _same_shape(a, b)
    if rule not in INTENSITY_RULES:
        raise ValueError(f"rule is one of {', '.join(INTENSITY_RULES)}, got {rule!r}")
    brighter = jnp.maximum(a, b)
    if rule == "max":
        return brighter
    if rule == "mean":
        target = 0.5 * (a + b)
    elif rule == "sum":
        target = jnp.clip(a + b - 0.5 * jnp.mean(a + b, (1, 2, 3), keepdims=True), 0.0, 1.0)
    else:
        target = a + b - a * b
    return share * target + (1.0 - share) * brighter


def intensity(fused: Image, a: Image, b: Image, *, rule: str = "max") -> PerExample:
    """L1 distance to the `intensity_target` of the sources.

    Args:
        fused: result.
        a: first source.
        b: second source.
        rule: of `INTENSITY_RULES`; ``"max"`` and ``"mean"`` hold for any range of values.
    """
    return l1(fused, intensity_target(a, b, rule))


def gradient_max(fused: Image, a: Image, b: Image) -> PerExample:
    """L1 distance of |Sobel_x| + |Sobel_y| of the result to the larger one of the sources."""
    _same_shape(fused, a, b)

    def strength(image: Array) -> Array:
        gx, gy = sobel(image)
        return absolute(gx) + absolute(gy)

    return l1(strength(fused), jnp.maximum(strength(a), strength(b)))


def ssim(x: Image, y: Image, *, size: int = 11, sigma: float = 1.5) -> PerExample:
    """Mean structural similarity, Gaussian window, valid positions, data range 1; in [-1, 1].

    Wang et al., IEEE TIP 2004. As a loss use ``1 - ssim``.

    Raises:
        ValueError: shapes differ, or a side is shorter than the window.
    """
    _same_shape(x, y)
    if min(x.shape[1:3]) < size:
        raise ValueError(f"ssim needs sides of at least {size} pixels, got {x.shape[1:3]}")
    taps = [float(t) for t in gaussian_window(size, sigma)]
    return jnp.mean(_ssim_map(x, y, taps), (1, 2, 3))


def _ssim_map(x: Image, y: Image, taps: Sequence[float]) -> Array:
    """Structural similarity where the window of these taps fits inside the images."""
    size = len(taps)

    def smooth(image: Array) -> Array:
        for axis in (1, 2):
            n = image.shape[axis] - size + 1
            # Shifted products; XLA is slow at grouped convolutions on CPUs.
            shifts = [lax.slice_in_dim(image, i, i + n, axis=axis) for i in range(size)]
            image = sum((t * s for t, s in zip(taps, shifts, strict=True)), jnp.float32(0.0))
        return image

    # One after the other compiles five times as long.
    together = smooth(jnp.stack([x, y, x * x, y * y, x * y]).reshape(-1, *x.shape[1:]))
    mx, my, xx, yy, xy = together.reshape(5, -1, *together.shape[1:])
    vx, vy, vxy = xx - mx * mx, yy - my * my, xy - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))


def ssim_loss(fused: Image, target: Image) -> PerExample:
    """``1 - ssim``, zero for equal images."""
    return 1.0 - ssim(fused, target)


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
    _same_shape(first, second)
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
        return jax.nn.softmax(-jnp.square((u[..., None] - centres) * bins) / 2, -1)

    p = soft_bins(first)
    q = soft_bins(second)
    joint = jnp.einsum("bni,bnj->bij", p * w[..., None], q) / total[:, None, None]

    def entropy(d: Array) -> Array:
        return -jnp.sum((d * jnp.log(d + 1e-12)).reshape(b, -1), -1)

    h1, h2, h12 = entropy(joint.sum(2)), entropy(joint.sum(1)), entropy(joint)
    nmi = 2.0 * (h1 + h2 - h12) / jnp.maximum(h1 + h2, 1e-12)
    return jnp.where(jnp.mean(w, -1) < 0.01, 0.0, nmi)


def masked_nmi(
    stages: list[list[Image]], mask_images: list[Image], *, reference: int | None = None
) -> PerExample:
    """MGDN's redundancy penalty over the outputs of every stage's dynamic filters.

    Stages combine as a running half, ``L_i = (m_i + L_{i-1}) / 2``.

    Args:
        stages: per stage the filtered branch features, at the (padded) feature size.
        mask_images: target, or sources, at the image size; padding counts as masked.
        reference: branch that is paired with each other one (HDR); None pairs the first two.
    """
    mask = structure_mask(mask_images)
    h, w = stages[0][0].shape[1:3]
    mask = jnp.pad(mask, ((0, 0), (0, h - mask.shape[1]), (0, w - mask.shape[2])))
    loss = None
    for branches in stages:
        if reference is None:
            pairs = [(branches[0], branches[1])]
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


# ---- ReFusion: a learned fusion loss and the reconstruction it is judged by ----------------------
# |.| has slope 0 at 0, ties of a maximum share their gradient, Sobel responses see black around
# the image and are not divided by 8: as in the published training code.

Weights = Float[Array, "b h w 2"]


def _responses(x: Image) -> tuple[Image, Image]:
    gx, gy = sobel(x, border="zero")
    return 8.0 * gx, 8.0 * gy


def sobel_strength(x: Image) -> Image:
    """|Sobel_x| + |Sobel_y|, not divided by 8: 0 to 8 for images in [0, 1]; black surroundings."""
    gx, gy = _responses(x)
    return absolute(gx) + absolute(gy)


def _weighted(value: Image, a: Image, b: Image, weights: Weights) -> PerExample:
    if weights.shape != (*value.shape[:3], 2):
        raise ValueError(f"weights {weights.shape} do not fit images {value.shape}")
    squares = [
        jnp.square(weights[..., i : i + 1] * (source - value)) for i, source in enumerate((a, b))
    ]
    return jnp.mean(squares[0], (1, 2, 3)) + jnp.mean(squares[1], (1, 2, 3))


def weighted_intensity(fused: Image, a: Image, b: Image, weights: Weights) -> PerExample:
    """``mean (w_a (a - f))^2 + mean (w_b (b - f))^2``; the weights are inside the squares.

    Args:
        fused: result f.
        a: first source.
        b: second source.
        weights: of the sources at each pixel, (B, H, W, 2).
    """
    _same_shape(fused, a, b)
    return _weighted(fused, a, b, weights)


def weighted_gradient(fused: Image, a: Image, b: Image, weights: Weights) -> PerExample:
    """`weighted_intensity` of the three images' `sobel_strength`."""
    _same_shape(fused, a, b)
    return _weighted(sobel_strength(fused), sobel_strength(a), sobel_strength(b), weights)


def gradient_signed_max(fused: Image, a: Image, b: Image) -> PerExample:
    """L1 distance of both Sobel responses to those of the source where they are larger, signed.

    Ties take the first source. The choice carries no gradient.
    """
    _same_shape(fused, a, b)
    total = jnp.zeros(fused.shape[0], fused.dtype)
    for f, ra, rb in zip(*map(_responses, (fused, a, b)), strict=True):
        target = jnp.where(absolute(ra) >= absolute(rb), ra, rb)
        total = total + l1(f, target)
    return total


def reconstruction_max(first: Image, second: Image, a: Image, b: Image) -> PerExample:
    """``mean max(|a - first|, |b - second|)^2``: the worse of both reconstructions per pixel.

    Args:
        first: reconstruction of `a`.
        second: reconstruction of `b`.
        a: first source.
        b: second source.
    """
    _same_shape(first, second, a, b)
    worse = jnp.maximum(absolute(a - first), absolute(b - second))
    return jnp.mean(jnp.square(worse), (1, 2, 3))


def reconstruction_max_gradient(first: Image, second: Image, a: Image, b: Image) -> PerExample:
    """`reconstruction_max` of the four images' `sobel_strength`."""
    return reconstruction_max(*map(sobel_strength, (first, second, a, b)))


def reconstruction_mse(first: Image, second: Image, a: Image, b: Image) -> PerExample:
    """``mean (first - a)^2 + mean (second - b)^2``."""
    return mse(first, a) + mse(second, b)


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
    _same_shape(x, y)
    if form not in ("released", "later"):
        raise ValueError(f"form is 'released', 'later' or 'paper', got {form!r}")
    if min(x.shape[1:3]) < 6:
        raise ValueError(f"this ssim needs sides of at least 6 pixels, got {x.shape[1:3]}")
    # In single precision, as there: flat regions cancel, and enlarge what the taps' sum is off by.
    window = np.exp(np.arange(-5, 6) ** 2 / -4.5).astype(np.float32)
    taps = [float(t) for t in window / np.float32(window.sum(dtype=np.float64))]
    x, y = (jnp.pad(z, ((0, 0), (5, 5), (5, 5), (0, 0)), mode="reflect") for z in (x, y))
    distance = 1.0 - _ssim_map(x, y, taps)
    if form == "later":
        distance = 0.5 * distance
    # Slope 1 at both ends of the clamp, as PyTorch has it.
    distance = jnp.where(
        (distance >= 0) & (distance <= 1), distance, lax.stop_gradient(jnp.clip(distance, 0, 1))
    )
    return jnp.mean(distance if form == "later" else 0.5 * distance, (1, 2, 3))


def gradient_l1(x: Image, y: Image) -> PerExample:
    """L1 distance of the Sobel responses along both axes, divided by 8, borders replicated."""
    _same_shape(x, y)
    (along_x, along_y), (their_x, their_y) = sobel(x), sobel(y)
    return 0.5 * (l1(along_x, their_x) + l1(along_y, their_y))


def correlation(x: Image, y: Image) -> PerExample:
    """Correlation coefficient over space of each channel with its partner, averaged; in [-1, 1].

    ``sum xy / (2^-23 + |x| |y|)`` of the centred channels. A channel that is constant
    (up to rounding) correlates with nothing, 0, and has no gradient where the formula has an
    infinite one.
    """
    _same_shape(x, y)

    def centred(z: Array) -> tuple[Array, Array, Array]:
        """The channels without their mean, their norms, and where they vary beyond rounding."""
        mean = jnp.mean(z, (1, 2), keepdims=True)
        square = jnp.sum(jnp.square(z - mean), (1, 2))
        noise = 8.0 * jnp.finfo(z.dtype).eps * mean[:, 0, 0]
        varies = square > z.shape[1] * z.shape[2] * jnp.square(noise)
        return z - mean, jnp.sqrt(jnp.where(varies, square, 1.0)), varies

    (x, norm_x, varies_x), (y, norm_y, varies_y) = centred(x), centred(y)
    value = jnp.sum(x * y, (1, 2)) / (2.0**-23 + norm_x * norm_y)
    value = jnp.where(jnp.abs(value) <= 1, value, lax.stop_gradient(jnp.clip(value, -1, 1)))
    return jnp.mean(jnp.where(varies_x & varies_y, value, 0.0), -1)


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


# ---- LKC-FUNet: three terms on images in [-1, 1] -------------------------------------------------


def ssim_padded(x: Image, y: Image) -> PerExample:
    """Mean structural similarity at every pixel, black (0) around the images, any size.

    As in SwinFusion's code: the window is cut off by the border without being scaled up, the
    constants are those of data range 1 whatever the range, and variances may come out negative in
    flat regions.
    """
    _same_shape(x, y)
    taps = [float(t) for t in gaussian_window(11, 1.5)]
    x, y = (jnp.pad(z, ((0, 0), (5, 5), (5, 5), (0, 0))) for z in (x, y))
    return jnp.mean(_ssim_map(x, y, taps), (1, 2, 3))


def sobel_max(fused: Image, a: Image, b: Image) -> PerExample:
    """L1 distance of the result's `sobel_strength` to the larger one of the sources."""
    _same_shape(fused, a, b)
    return l1(sobel_strength(fused), jnp.maximum(sobel_strength(a), sobel_strength(b)))


def ssim_both(fused: Image, a: Image, b: Image) -> PerExample:
    """``1 - (s(a, f) + s(b, f)) / 2`` with s the `ssim_padded`."""
    _same_shape(fused, a, b)
    twice = ssim_padded(jnp.concatenate([a, b]), jnp.concatenate([fused, fused]))
    return 1.0 - jnp.mean(twice.reshape(2, -1), 0)
