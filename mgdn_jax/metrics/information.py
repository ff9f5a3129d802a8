"""Metrics of information theory on grey level histograms: MI, NMI, CE, Q_NCIE, Q_TE."""

from __future__ import annotations

import functools
import math

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.metrics.gray import Gray, GrayLike, Plane, checked, stretched
from mgdn_jax.metrics.metric import SOURCES, Metric
from mgdn_jax.metrics.statistics import entropy_nats, entropy_of_counts, levels

_TSALLIS_ORDER = 1.85


def _joint_counts(x: Gray, y: Gray) -> np.ndarray:
    """`(256, 256)` histogram of the pairs (level of x, level of y); kept on `x`."""
    # The partner itself is part of the key: it stays alive, so its identity stays unique.
    return x.keep(
        ("joint_counts", y),
        lambda: np.bincount(levels(x) * 256 + levels(y), minlength=65536).reshape(256, 256),
    )


def _shared(x: Gray, y: Gray) -> float:
    """Mutual information `H(X) + H(Y) - H(X,Y)` of two images in nats; kept on `x`."""
    return x.keep(
        ("shared", y),
        lambda: entropy_nats(x) + entropy_nats(y) - entropy_of_counts(_joint_counts(x, y)),
    )


def _stretched(*images: Gray) -> tuple[Gray, ...] | None:
    """The images after `stretched`; None if one of them cannot be stretched."""
    mapped = tuple(gray for image in images if (gray := stretched(image)) is not None)
    return mapped if len(mapped) == len(images) else None


def mutual_information(f: GrayLike, a: GrayLike, b: GrayLike, *, base: float = math.e) -> float:
    """MI `= I(F;A) + I(F;B)`, with `I(X;Y) = H(X) + H(Y) - H(X,Y)`.

    Histograms have 256 levels and 256x256 cells and are not smoothed. `base` is that of the
    logarithm: the CDDFuse evaluator prints nats, other groups print bits (`base=2`), which are
    larger by 1.4427.

    Range 0..H(A)+H(B) nats, or the unit of `base`; higher is better (copying one source maximises
    it). Symmetric in the sources. Source: Qu, Zhang, Yan 2002. Degenerate: 0 for a constant F.
    """
    fused, first, second = checked("MI", f, a, b)
    return (_shared(fused, first) + _shared(fused, second)) / math.log(base)


def normalised_mutual_information(
    f: GrayLike, a: GrayLike, b: GrayLike, *, mode: str = "raw"
) -> float:
    """NMI `= 2 [I(A;F)/(H(A)+H(F)) + I(B;F)/(H(B)+H(F))]`, also called Q_MI.

    Range 0..2; higher is better. Symmetric in the sources; free of the logarithm's base.
    Source: Hossny, Nahavandi, Creighton 2008. The mode `raw` takes the 8-bit values themselves;
    `minmax` stretches each image to 0..255 first, as MEFB's code does. For integer images that
    changes nothing but degenerate cases.
    Degenerate: 0 if only F is constant, NaN if F and a source are both constant; in mode
    `minmax` NaN as soon as an image is constant and not zero (the stretch is 0/0).
    """
    fused, *sources = checked("NMI", f, a, b)
    if mode == "minmax":
        mapped = _stretched(fused, *sources)
        if mapped is None:
            return math.nan
        fused, *sources = mapped
    elif mode != "raw":
        raise InputError(f"unknown mode {mode!r} of NMI: choose raw or minmax.")
    total = 0.0
    for source in sources:
        entropies = entropy_nats(source) + entropy_nats(fused)
        if entropies == 0:
            return math.nan
        total += 2 * _shared(fused, source) / entropies
    return total


def _shares(image: Gray) -> Plane:
    """Relative frequency of each of the 256 levels; kept."""
    return image.keep(
        "shares", lambda: np.bincount(levels(image), minlength=256) / image.pixels.size
    )


def cross_entropy(f: GrayLike, a: GrayLike, b: GrayLike) -> float:
    """CE, the mean over the sources of `sum_k p_S(k) log2(p_S(k)/p_F(k))`.

    The sum runs over the levels that both images have, so it is a Kullback-Leibler divergence
    in name only and may be negative.

    Unbounded both ways, in bits; lower is better. Symmetric in the sources. Source: Bulanon, Burks,
    Alchanatis 2009, as in the VIFB and MEFB benchmarks. Degenerate: 0 if F shares no level
    with the sources; always finite.
    """
    fused, *sources = checked("CE", f, a, b)
    p_f = _shares(fused)
    total = 0.0
    for source in sources:
        p = _shares(source)
        common = (p > 0) & (p_f > 0)
        total += float(np.sum(p[common] * np.log2(p[common] / p_f[common])))
    return total / 2


def nonlinear_correlation_information(f: GrayLike, a: GrayLike, b: GrayLike) -> float:
    """Q_NCIE `= 1 + sum_i (l_i/3) log_256(l_i/3)`, nonlinear correlation information entropy.

    `l_i` are the eigenvalues of the 3x3 matrix with unit diagonal whose other entries are the
    mutual informations (logarithms to base 256) of the pairs AB, AF, BF, each image stretched
    to 0..255 by its own minimum and maximum.

    Range 0.8018..1; higher is better. Symmetric in the sources. Source: Wang, Shen, Jin 2008.
    Degenerate: NaN if an image is constant and not zero (the stretch is 0/0).
    """
    mapped = _stretched(*checked("Q_NCIE", f, a, b))
    if mapped is None:
        return math.nan
    fused, first, second = mapped
    matrix = np.eye(3)
    for (i, x), (j, y) in (
        ((0, first), (1, second)),
        ((2, fused), (0, first)),
        ((2, fused), (1, second)),
    ):
        matrix[i, j] = matrix[j, i] = _shared(x, y) / math.log(256)
    share = np.linalg.eigvalsh(matrix) / 3
    share = share[share > 0]  # 0 log 0 = 0
    return 1 + float(np.sum(share * np.log(share))) / math.log(256)


def tsallis_information(
    f: GrayLike, a: GrayLike, b: GrayLike, *, as_published: bool = False
) -> float:
    """Q_TE `= T(A,F) + T(B,F)`, mutual information of Tsallis' entropy of order q = 1.85.

    `T(X,F) = (1 - sum_ij h_ij^q / (hX_i hF_j)^(q-1)) / (1-q)` over cells with nonzero
    marginals, each image stretched to 0..255 first.

    The public code exchanges the two marginals (`hF_i hX_j`), which gives values of several
    hundred that may be negative; `as_published=True` repeats that.

    Range 0 upwards, without a scale, hence of little use; higher is better. Symmetric in the
    sources. Source: Cvejic, Canagarajah, Bull 2006 and MEFB.
    Degenerate: NaN if an image is constant and not zero (the stretch is 0/0).
    """
    mapped = _stretched(*checked("Q_TE", f, a, b))
    if mapped is None:
        return math.nan
    fused, *sources = mapped
    q = _TSALLIS_ORDER
    p_f = _shares(fused)
    total = 0.0
    for source in sources:
        joint = _joint_counts(fused, source).T / fused.pixels.size  # rows: levels of the source
        p = _shares(source)
        product = np.outer(p_f, p) if as_published else np.outer(p, p_f)
        cells = (product > 0) & (joint > 0)
        total += (1 - float(np.sum(joint[cells] ** q / product[cells] ** (q - 1)))) / (1 - q)
    return total


_metric = functools.partial(Metric, needs=SOURCES, group="information")
ENTRIES: tuple[Metric, ...] = (
    _metric(
        name="MI",
        title="mutual information",
        meaning="information on grey levels shared with each source, summed",
        fn=mutual_information,
        higher_is_better=True,
        bounds=(0.0, 16 * math.log(2)),
        unit="nat",
    ),
    _metric(
        name="MI_bits",
        title="mutual information in bits",
        meaning="MI times 1.4427, as other groups print it",
        fn=functools.partial(mutual_information, base=2.0),
        higher_is_better=True,
        bounds=(0.0, 16.0),
        unit="bit",
    ),
    _metric(
        name="NMI",
        title="normalised mutual information, Q_MI",
        meaning="mutual information relative to the entropies",
        fn=normalised_mutual_information,
        higher_is_better=True,
        bounds=(0.0, 2.0),
    ),
    _metric(
        name="NMI_minmax",
        title="normalised mutual information after a stretch",
        meaning="NMI of images stretched to 0..255; differs in degenerate cases only",
        fn=functools.partial(normalised_mutual_information, mode="minmax"),
        higher_is_better=True,
        bounds=(0.0, 2.0),
    ),
    _metric(
        name="CE",
        title="cross entropy",
        meaning="how far F's histogram is from the sources', over common levels",
        fn=cross_entropy,
        higher_is_better=False,
        bounds=(-math.inf, math.inf),
        unit="bit",
    ),
    _metric(
        name="Q_NCIE",
        title="nonlinear correlation information entropy",
        meaning="joint nonlinear correlation of all three images",
        fn=nonlinear_correlation_information,
        higher_is_better=True,
        bounds=(0.8018, 1.0),
    ),
    _metric(
        name="Q_TE",
        title="Tsallis mutual information",
        meaning="mutual information of order 1.85, without a scale",
        fn=tsallis_information,
        higher_is_better=True,
        bounds=(0.0, math.inf),
        selects=False,
    ),
    _metric(
        name="Q_TE_published",
        title="Tsallis mutual information as published code has it",
        meaning="Q_TE with the two marginals exchanged: compare with such tables only",
        fn=functools.partial(tsallis_information, as_published=True),
        higher_is_better=True,
        bounds=(-2 / 0.85, math.inf),
        selects=False,
    ),
)
