"""Metrics of transferred edges: Qabf and Nabf."""

from __future__ import annotations

import functools
import math

import numpy as np

from mgdn_jax.metrics.gray import Gray, GrayLike, Plane, checked
from mgdn_jax.metrics.metric import SOURCES, Metric
from mgdn_jax.metrics.windows import sobel


def _qabf_edges(image: Gray) -> tuple[Plane, Plane]:
    """Edge strength and angle in -pi/2..pi/2 with zeros around the image; kept."""

    def compute() -> tuple[Plane, Plane]:
        gx, gy = sobel(np.pad(image.pixels, 1))
        # Axes of the published kernels: the vertical one points up, hence the minus.
        vertical = gx == 0
        angle = np.arctan(-gy / np.where(vertical, 1.0, gx))
        angle[vertical] = math.pi / 2
        return np.sqrt(gx**2 + gy**2), angle

    return image.keep("qabf_edges", compute)


def _qabf_preserved(source: Gray, fused: Gray) -> Plane:
    """Edge preservation map `Q_XF`, `(H, W)`."""
    g_x, angle_x = _qabf_edges(source)
    g_f, angle_f = _qabf_edges(fused)
    larger = np.maximum(g_x, g_f)
    same = g_x == g_f
    strength = np.minimum(g_x, g_f) / np.where(same, 1.0, larger)  # equal: the strength itself
    orientation = 1 - np.abs(angle_x - angle_f) / (math.pi / 2)
    # exp(-15 G) underflows harmlessly for large equal strengths.
    q_strength = 0.9994 / (1 + np.exp(-15 * (strength - 0.5)))
    return q_strength * (0.9879 / (1 + np.exp(-22 * (orientation - 0.8))))


def edge_preservation(f: GrayLike, a: GrayLike, b: GrayLike) -> float:
    """Qabf (Q_G): how much of the sources' edge strength and orientation F preserves.

    Sobel strength `g` and angle `a` per image, zeros outside it. Per pixel and source X:
    `G = min(gX,gF)/max(gX,gF)`, but `G = g` itself where both strengths are equal;
    `T = 1 - |aX - aF|/(pi/2)`, without wrap-around;
    `Q_XF = 0.9994/(1+exp(-15(G-0.5))) * 0.9879/(1+exp(-22(T-0.8)))`;
    `Qabf = sum(Q_AF gA + Q_BF gB) / sum(gA + gB)`.
    The zero border makes strong edges along the frame, which are part of the score.

    Range 0..0.975333 (reached for F = A = B); higher is better. Symmetric in the sources.
    Source: Xydeas and Petrovic 2000. Degenerate: NaN only if both sources are zero everywhere.
    """
    fused, first, second = checked("Qabf", f, a, b)
    preserved = weights = 0.0
    for source in (first, second):
        strength = _qabf_edges(source)[0]
        preserved += float(np.sum(_qabf_preserved(source, fused) * strength))
        weights += float(np.sum(strength))
    return preserved / weights if weights else math.nan


def _nabf_edges(image: Gray) -> tuple[Plane, Plane]:
    """Edge strength and angle with the image mirrored at its border pixels; kept."""

    def compute() -> tuple[Plane, Plane]:
        gv, gh = sobel(np.pad(image.pixels, 1, mode="reflect") / 8)
        with np.errstate(divide="ignore", invalid="ignore"):
            angle = np.arctan(gv / gh)
        angle[(gv == 0) & (gh == 0)] = 0
        return np.sqrt(gv**2 + gh**2), angle

    return image.keep("nabf_edges", compute)


def _nabf_preserved(source: Gray, fused: Gray) -> Plane:
    g_x, angle_x = _nabf_edges(source)
    g_f, angle_f = _nabf_edges(fused)
    larger = np.maximum(g_x, g_f)
    strength = np.minimum(g_x, g_f) / np.where(larger == 0, 1.0, larger)
    orientation = np.abs(np.abs(angle_x - angle_f) - math.pi / 2) * 2 / math.pi
    q_strength = 0.9999 / (1 + np.exp(-19 * (strength - 0.5)))
    return np.sqrt(q_strength * (0.9995 / (1 + np.exp(-22 * (orientation - 0.5)))))


def added_artefacts(f: GrayLike, a: GrayLike, b: GrayLike) -> float:
    """Nabf: the share of edge information in F that neither source has.

    Sobel/8 strength `g` and angle, mirrored border. Per pixel and source X:
    `G = min/max` of the strengths (0 when either is 0), `T = ||aX - aF| - pi/2| * 2/pi`,
    `Q_XF = sqrt(0.9999/(1+exp(-19(G-0.5))) * 0.9995/(1+exp(-22(T-0.5))))`,
    weight `wX = gX^1.5` where gX >= 2, else 0.001. With N = 1 where F's edge is stronger than
    both sources' and 0 elsewhere,
    `Nabf = sum(N ((1-Q_AF) wA + (1-Q_BF) wB)) / sum(wA + wB)`.

    Range 0..1; lower is better. Symmetric in the sources. Source: Petrovic and Xydeas 2005 as
    modified by Shreyamsha Kumar 2013. Needs 2x2 pixels. Degenerate: 0 if F adds no edges.
    """
    fused, first, second = checked("Nabf", f, a, b, min_side=2)
    g_f = _nabf_edges(fused)[0]
    added = (g_f > _nabf_edges(first)[0]) & (g_f > _nabf_edges(second)[0])
    lost = weights = 0.0
    for source in (first, second):
        g_x = _nabf_edges(source)[0]
        weight = np.where(g_x >= 2, g_x * np.sqrt(g_x), 0.001)
        lost += float(np.sum((added * (1 - _nabf_preserved(source, fused))) * weight))
        weights += float(np.sum(weight))
    return lost / weights


_metric = functools.partial(Metric, needs=SOURCES, group="edges")
ENTRIES: tuple[Metric, ...] = (
    _metric(
        name="Qabf",
        title="edge preservation, Q_G",
        meaning="edge strength and orientation preserved from the sources",
        fn=edge_preservation,
        higher_is_better=True,
        bounds=(0.0, 0.9754),
    ),
    _metric(
        name="Nabf",
        title="added artefacts",
        meaning="edge information of F that no source has",
        fn=added_artefacts,
        higher_is_better=False,
        bounds=(0.0, 1.0),
        min_side=2,
    ),
)
