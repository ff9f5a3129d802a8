"""Feature mutual information: FMI on pixels, gradients or cosine coefficients."""

from __future__ import annotations

import functools

import numpy as np
from scipy import fft

from mgdn_jax.errors import InputError
from mgdn_jax.metrics.gray import Gray, GrayLike, Plane, checked
from mgdn_jax.metrics.metric import SOURCES, Metric

_SIDE = 3
_CELLS = _SIDE**2
_BLOCK = 2048  # windows at a time: the 81 joint cells of each then stay in the cache
_TINY = 1e-300
FEATURES = ("pixel", "gradient", "dct")

_POSITION = np.arange(1.0, _CELLS + 1)[:, None]


def _feature(image: Gray, feature: str) -> Plane:
    if feature == "pixel":
        return image.pixels
    if feature == "gradient":
        return image.keep("fmi_gradient", lambda: np.gradient(image.pixels, axis=1))
    return image.keep("fmi_dct", lambda: fft.dctn(image.pixels, norm="ortho"))


class _Windows:
    """A block of windows as probability vectors over their nine positions.

    Attributes:
        values: `(9, n)` feature values, positions down the columns first.
        constant: `(n,)`, whether all nine are equal.
        scaled: `(9, n)` the values stretched to 0..1, all 1 in constant windows.
        p: `(9, n)` `scaled` divided by its sum.
        centred: `p` minus its mean, 0 in constant windows.
        length: `(n,)` Euclidean length of `centred`.
        spread: `(n,)` standard deviation of the position under `p`.
        entropy: `(n,)` nats.
    """

    __slots__ = ("centred", "constant", "entropy", "length", "p", "scaled", "spread", "values")

    def __init__(self, x: Plane, top: int, bottom: int) -> None:
        width = x.shape[1] - _SIDE + 1
        self.values = np.stack(
            [
                x[top + i : bottom + i, j : j + width].ravel()
                for j in range(_SIDE)
                for i in range(_SIDE)
            ]
        )
        low, high = self.values.min(axis=0), self.values.max(axis=0)
        self.constant = low == high
        self.scaled = (self.values - low) / np.where(self.constant, 1.0, high - low)
        self.scaled[:, self.constant] = 1
        self.p = p = self.scaled / self.scaled.sum(axis=0)
        self.centred = p - p.mean(axis=0)
        self.centred[:, self.constant] = 0  # exactly, not up to rounding
        self.length = np.sqrt(np.sum(self.centred**2, axis=0))
        mean = np.sum(_POSITION * p, axis=0)
        self.spread = np.sqrt(np.maximum(np.sum(_POSITION**2 * p, axis=0) - mean**2, 0))
        self.entropy = -np.sum(p * np.log(np.maximum(p, _TINY)), axis=0)


def _information(x: _Windows, f: _Windows) -> Plane:
    """Normalised mutual information `2 (Hx + Hf - Hjoint)/(Hx + Hf)` per window, `(n,)`."""
    product = np.sum(x.centred * f.centred, axis=0)
    lengths = x.length * f.length
    rho = np.abs(product) / np.where(lengths == 0, 1.0, lengths)
    # The lower Frechet bound max(F + X - 1, 0) of negatively correlated windows is the upper
    # one, min(F, X), of the same windows with the order of one reversed.
    q = np.where(product < 0, x.p[::-1], x.p)
    cumulative_f, cumulative_x = np.cumsum(f.p, axis=0), np.cumsum(q, axis=0)
    joint = np.minimum(cumulative_f[:, None], cumulative_x[None])  # (9, 9, n)
    covariance = joint.sum(axis=(0, 1)) - cumulative_f.sum(axis=0) * cumulative_x.sum(axis=0)
    scale = rho * x.spread * f.spread
    phi = np.where(scale == 0, 0.0, scale / np.where(covariance == 0, 1.0, covariance))

    for i in range(_CELLS - 1, 0, -1):  # cumulative to cell probabilities, in place
        joint[i] -= joint[i - 1]
    for j in range(_CELLS - 1, 0, -1):
        joint[:, j] -= joint[:, j - 1]
    joint *= phi
    joint += ((1 - phi) * f.p)[:, None] * q[None]
    logarithm = np.abs(joint)
    np.log(np.maximum(logarithm, _TINY, out=logarithm), out=logarithm)
    entropies = x.entropy + f.entropy
    shared = entropies + np.einsum("ijn,ijn->n", joint, logarithm)
    return 2 * shared / np.where(entropies == 0, 1.0, entropies)


def feature_mutual_information(
    f: GrayLike,
    a: GrayLike,
    b: GrayLike,
    *,
    feature: str = "pixel",
    symmetric: bool = False,
) -> float:
    """FMI, the mean mutual information of local feature windows of F and of the sources.

    The `feature` is `pixel`, `gradient` (the horizontal derivative) or `dct` (the orthonormal
    cosine transform of the whole image). Every 3x3 window of feature values, scaled to 0..1
    and divided by its sum, is a distribution over its nine positions. The joint distribution
    of two windows mixes their product with the extreme coupling of their cumulative
    distributions (upper Frechet bound if their Pearson correlation rho is positive, lower if
    negative) so that its covariance is `rho s_x s_f`, `s` being the standard deviations of the
    position. The value of a window is `2 (Hx + Hf - Hxf)/(Hx + Hf)`; 1 if both windows are
    equal or both constant. FMI is the mean over windows and sources.

    The original code compares the windows of A with those of F. Where they differ, it then
    compares the windows of B with those of F after scaling, which matters where a window has one
    nonzero position. `symmetric=True` compares both with the windows of F as they are and makes
    the metric symmetric in the sources. Beware of other tables: the default feature of the
    original is a binary edge map.

    Range 0..1; higher is better. Source: Haghighat and Razkari 2014 (fast FMI). Needs 3x3 pixels.
    Degenerate: 1 for constant against constant, 0 for constant against anything else; never NaN.
    """
    if feature not in FEATURES:
        raise InputError(f"unknown feature {feature!r} of FMI: choose {', '.join(FEATURES)}.")
    images = checked(f"FMI_{feature}", f, a, b, min_side=_SIDE)
    maps = [_feature(image, feature) for image in images]
    height, width = (side - _SIDE + 1 for side in images[0].shape)
    rows = max(1, _BLOCK // width)
    total = 0.0
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        fused, first, second = (_Windows(x, top, bottom) for x in maps)
        total += _block(fused, first, second, symmetric)
    return total / (2 * height * width)


def _block(fused: _Windows, first: _Windows, second: _Windows, symmetric: bool) -> float:
    """Sum over the windows of a block and over both sources."""
    total = 0.0
    reference = fused.values
    for source in (first, second):
        equal = (source.values == reference).all(axis=0)
        value = _information(source, fused)
        value[source.constant ^ fused.constant] = 0  # exactly, not up to rounding
        value[equal | (source.constant & fused.constant)] = 1
        total += float(np.sum(value))
        if not symmetric:
            reference = np.where(equal, fused.values, fused.scaled)
    return total


_metric = functools.partial(Metric, needs=SOURCES, group="information")
ENTRIES: tuple[Metric, ...] = (
    _metric(
        name="FMI_pixel",
        title="feature mutual information of pixels",
        meaning="local information that 3x3 windows share with the sources'",
        fn=feature_mutual_information,
        higher_is_better=True,
        bounds=(0.0, 1.0),
        min_side=3,
        symmetric=False,
    ),
    _metric(
        name="FMI_pixel_symmetric",
        title="feature mutual information of pixels, sources on a par",
        meaning="FMI_pixel without the published code's asymmetry",
        fn=functools.partial(feature_mutual_information, symmetric=True),
        higher_is_better=True,
        bounds=(0.0, 1.0),
        min_side=3,
    ),
    _metric(
        name="FMI_gradient",
        title="feature mutual information of gradients",
        meaning="FMI of the horizontal derivative",
        fn=functools.partial(feature_mutual_information, feature="gradient"),
        higher_is_better=True,
        bounds=(0.0, 1.0),
        min_side=3,
        symmetric=False,
    ),
    _metric(
        name="FMI_dct",
        title="feature mutual information of cosine coefficients",
        meaning="FMI of the cosine transform of the whole image",
        fn=functools.partial(feature_mutual_information, feature="dct"),
        higher_is_better=True,
        bounds=(0.0, 1.0),
        min_side=3,
        symmetric=False,
    ),
)
