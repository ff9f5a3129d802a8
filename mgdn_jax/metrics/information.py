"""Metrics of information theory: MI and NMI."""

from __future__ import annotations

import math

import numpy as np

from mgdn_jax.metrics.gray import Gray, GrayLike, checked
from mgdn_jax.metrics.statistics import entropy_nats, entropy_of_counts, levels


def _shared(x: Gray, y: Gray) -> float:
    """Mutual information `H(X) + H(Y) - H(X,Y)` of two images in nats."""
    joint = np.bincount(levels(x) * 256 + levels(y), minlength=65536)
    return entropy_nats(x) + entropy_nats(y) - entropy_of_counts(joint)


def mutual_information(f: GrayLike, a: GrayLike, b: GrayLike, *, base: float = math.e) -> float:
    """MI `= I(F;A) + I(F;B)`, with `I(X;Y) = H(X) + H(Y) - H(X,Y)`.

    Histograms have 256 levels and 256x256 cells, unsmoothed.

    Range 0..H(A)+H(B); higher is better (copying one source maximises it). Symmetric in the
    sources. Source: Qu, Zhang, Yan 2002; in nats as the CDDFuse evaluator prints it, while
    other groups print bits (`base=2`, larger by 1.4427). Degenerate: 0 for a constant F.

    Args:
        f: Fused image, `(H, W)`, 0..255.
        a: First source.
        b: Second source.
        base: Base of the logarithm.

    Returns:
        Nats, or the unit of `base`.

    Raises:
        InputError: if shapes differ.
    """
    fused, first, second = checked("MI", f, a, b)
    return (_shared(fused, first) + _shared(fused, second)) / math.log(base)


def normalised_mutual_information(f: GrayLike, a: GrayLike, b: GrayLike) -> float:
    """NMI `= 2 [I(A;F)/(H(A)+H(F)) + I(B;F)/(H(B)+H(F))]`, also called Q_MI.

    Range 0..2; higher is better. Symmetric in the sources; free of the logarithm's base.
    Source: Hossny, Nahavandi, Creighton 2008 (mode `raw`, on the 8-bit values themselves).
    Degenerate: 0 if only F is constant, NaN if F and a source are both constant.

    Args:
        f: Fused image, `(H, W)`, 0..255.
        a: First source.
        b: Second source.

    Returns:
        Dimensionless value or NaN.

    Raises:
        InputError: if shapes differ.
    """
    fused, *sources = checked("NMI", f, a, b)
    total = 0.0
    for source in sources:
        entropies = entropy_nats(source) + entropy_nats(fused)
        if entropies == 0:
            return math.nan
        total += 2 * _shared(source, fused) / entropies
    return total
