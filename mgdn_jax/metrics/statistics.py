"""Metrics of the fused image alone: EN, SD, SF, AG, EI."""

from __future__ import annotations

import functools

import numpy as np

from mgdn_jax.metrics.gray import Gray, GrayLike, checked
from mgdn_jax.metrics.metric import FUSED, Metric
from mgdn_jax.metrics.windows import sobel


def levels(image: Gray) -> np.ndarray:
    """The pixels as integers 0..255 (rounded, clipped), flattened, int64; kept."""
    return image.keep(
        "levels",
        lambda: np.clip(np.rint(image.pixels), 0, 255).astype(np.int64).ravel(),
    )


def entropy_of_counts(counts: np.ndarray) -> float:
    """Shannon entropy in nats of a histogram of any shape."""
    p = counts[counts > 0] / counts.sum()
    return max(0.0, -float(np.sum(p * np.log(p))))  # max: a single symbol gives -0.0


def entropy_nats(image: Gray) -> float:
    """Entropy of the 256-level histogram in nats; kept."""
    return image.keep(
        "entropy", lambda: entropy_of_counts(np.bincount(levels(image), minlength=256))
    )


def entropy(f: GrayLike) -> float:
    """EN, the entropy of the grey level histogram.

    `EN = -sum_k p_k log2 p_k` over the 256 levels of the rounded image.

    Range 0..8 bit; higher is better. Source: Roberts, van Aardt, Ahmed 2008.
    Degenerate: 0 for a constant image.
    """
    (image,) = checked("EN", f)
    return entropy_nats(image) / float(np.log(2))


def standard_deviation(f: GrayLike) -> float:
    """SD, the population standard deviation `sqrt(mean((F - mean F)^2))`.

    Range 0..127.5 grey levels; higher is better (contrast). Degenerate: 0 for a constant image.
    """
    (image,) = checked("SD", f)
    return float(np.std(image.pixels))


def spatial_frequency(f: GrayLike) -> float:
    """SF, `sqrt(R + C)` of the mean squared horizontal and vertical first differences.

    Each mean is over its own number of differences, `H (W-1)` and `(H-1) W`.

    Range 0..360.6 grey levels; higher is better, but noise and ringing raise it too: report it,
    never select by it. Source: Eskicioglu and Fisher 1995. Needs 2x2 pixels. Degenerate: 0 for a
    constant image.
    """
    (image,) = checked("SF", f, min_side=2)
    x = image.pixels
    return float(np.sqrt(np.mean(np.diff(x, axis=1) ** 2) + np.mean(np.diff(x, axis=0) ** 2)))


def average_gradient(f: GrayLike) -> float:
    """AG, the mean over all pixels of `sqrt((gx^2 + gy^2)/2)`.

    `gx`, `gy` are central differences `(next - previous)/2`, one-sided at the border.

    Range 0..255 grey levels per pixel; higher is better, with the reservation of SF. Source: Cui
    et al. 2015. Needs 2x2 pixels. Degenerate: 0 for a constant image.
    """
    (image,) = checked("AG", f, min_side=2)
    gy, gx = np.gradient(image.pixels)
    return float(np.mean(np.sqrt((gx**2 + gy**2) / 2)))


def edge_intensity(f: GrayLike) -> float:
    """EI, the mean length of the Sobel gradient (weights 1 2 1, border replicated).

    Range 0..1442.5 grey levels (8 times those per pixel); higher is better, with the reservation
    of SF. Source: the VIFB and MEFB benchmarks. Degenerate: 0 for a constant image.
    """
    (image,) = checked("EI", f)
    gx, gy = sobel(np.pad(image.pixels, 1, mode="edge"))
    return float(np.mean(np.sqrt(gx**2 + gy**2)))


_metric = functools.partial(Metric, needs=FUSED, group="statistics")
ENTRIES: tuple[Metric, ...] = (
    _metric(
        name="EN",
        title="entropy",
        meaning="spread of the grey level histogram",
        fn=entropy,
        higher_is_better=True,
        bounds=(0.0, 8.0),
        unit="bit",
    ),
    _metric(
        name="SD",
        title="standard deviation",
        meaning="global contrast",
        fn=standard_deviation,
        higher_is_better=True,
        bounds=(0.0, 127.5),
        unit="grey levels",
    ),
    _metric(
        name="SF",
        title="spatial frequency",
        meaning="root mean square of first differences",
        fn=spatial_frequency,
        higher_is_better=True,
        bounds=(0.0, 360.7),
        unit="grey levels",
        min_side=2,
        selects=False,
    ),
    _metric(
        name="AG",
        title="average gradient",
        meaning="mean length of the central-difference gradient over the root of 2",
        fn=average_gradient,
        higher_is_better=True,
        bounds=(0.0, 255.0),
        unit="grey levels",
        min_side=2,
        selects=False,
    ),
    _metric(
        name="EI",
        title="edge intensity",
        meaning="mean length of the Sobel gradient",
        fn=edge_intensity,
        higher_is_better=True,
        bounds=(0.0, 1442.5),
        unit="grey levels",
        selects=False,
    ),
)
