"""The list of metrics: what each name means, in data."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

from mgdn_jax.metrics import (
    edges,
    exposure,
    features,
    information,
    perception,
    reference,
    similarity,
    statistics,
    structure,
    vif,
)


@dataclass(frozen=True)
class Metric:
    """One number that judges a fused image.

    Attributes:
        name: Column title.
        title: Long name.
        meaning: What it measures, in one line.
        fn: Pure function of one array per entry of `needs`.
        higher_is_better: Direction.
        needs: Arguments of `fn`: `("fused",)`, `("fused", "a", "b")` or `("fused", "truth")`.
        group: Room of the definition, a key of `mgdn_jax.metrics.GROUPS`.
        bounds: Smallest and largest value for integer images in 0..255, up to rounding.
        unit: Unit of the value; empty for pure numbers.
        min_side: Smallest height and width.
        symmetric: Whether exchanging the sources leaves the value unchanged.
        selects: False for metrics that reward noise, or say little, and must not choose
            between models.
        domain: What `fn` takes: `gray` (luminance in 0..255), `metres` (raw float depth maps)
            or `linear` (raw float `(H, W, C)` radiance in 0..1).
    """

    name: str
    title: str
    meaning: str
    fn: Callable[..., float]
    higher_is_better: bool
    needs: tuple[str, ...]
    group: str
    bounds: tuple[float, float]
    unit: str = ""
    min_side: int = 1
    symmetric: bool = True
    selects: bool = True
    domain: str = "gray"

    @property
    def arrow(self) -> str:
        """Direction as a sign for table heads."""
        return "↑" if self.higher_is_better else "↓"


_INF = math.inf
_FUSED = functools.partial(Metric, needs=("fused",))
_SOURCES = functools.partial(Metric, needs=("fused", "a", "b"))
_TRUTH = functools.partial(Metric, needs=("fused", "truth"))

_fmi = features.feature_mutual_information
_ssim, _psnr = similarity.structural_similarity, similarity.peak_signal_to_noise

ENTRIES: tuple[Metric, ...] = (
    _FUSED(
        "EN",
        "entropy",
        "spread of the grey level histogram",
        statistics.entropy,
        True,
        group="statistics",
        bounds=(0, 8),
        unit="bit",
    ),
    _FUSED(
        "SD",
        "standard deviation",
        "global contrast",
        statistics.standard_deviation,
        True,
        group="statistics",
        bounds=(0, 127.5),
        unit="grey levels",
    ),
    _FUSED(
        "SF",
        "spatial frequency",
        "root mean square of first differences",
        statistics.spatial_frequency,
        True,
        group="statistics",
        bounds=(0, 360.7),
        unit="grey levels",
        min_side=2,
        selects=False,
    ),
    _FUSED(
        "AG",
        "average gradient",
        "mean length of the central-difference gradient over the root of 2",
        statistics.average_gradient,
        True,
        group="statistics",
        bounds=(0, 255),
        unit="grey levels",
        min_side=2,
        selects=False,
    ),
    _FUSED(
        "EI",
        "edge intensity",
        "mean length of the Sobel gradient",
        statistics.edge_intensity,
        True,
        group="statistics",
        bounds=(0, 1442.5),
        unit="grey levels",
        selects=False,
    ),
    _SOURCES(
        "MI",
        "mutual information",
        "information on grey levels shared with each source, summed",
        information.mutual_information,
        True,
        group="information",
        bounds=(0, 16 * math.log(2)),
        unit="nat",
    ),
    _SOURCES(
        "MI_bits",
        "mutual information in bits",
        "MI times 1.4427, as other groups print it",
        functools.partial(information.mutual_information, base=2),
        True,
        group="information",
        bounds=(0, 16),
        unit="bit",
    ),
    _SOURCES(
        "NMI",
        "normalised mutual information, Q_MI",
        "mutual information relative to the entropies",
        information.normalised_mutual_information,
        True,
        group="information",
        bounds=(0, 2),
    ),
    _SOURCES(
        "NMI_minmax",
        "normalised mutual information after a stretch",
        "NMI of images stretched to 0..255; differs in degenerate cases only",
        functools.partial(information.normalised_mutual_information, mode="minmax"),
        True,
        group="information",
        bounds=(0, 2),
    ),
    _SOURCES(
        "CE",
        "cross entropy",
        "how far F's histogram is from the sources', over common levels",
        information.cross_entropy,
        False,
        group="information",
        bounds=(-_INF, _INF),
        unit="bit",
    ),
    _SOURCES(
        "Q_NCIE",
        "nonlinear correlation information entropy",
        "joint nonlinear correlation of all three images",
        information.nonlinear_correlation_information,
        True,
        group="information",
        bounds=(0.8018, 1),
    ),
    _SOURCES(
        "Q_TE",
        "Tsallis mutual information",
        "mutual information of order 1.85, without a scale",
        information.tsallis_information,
        True,
        group="information",
        bounds=(0, _INF),
        selects=False,
    ),
    _SOURCES(
        "Q_TE_published",
        "Tsallis mutual information as published code has it",
        "Q_TE with the two marginals exchanged: compare with such tables only",
        functools.partial(information.tsallis_information, as_published=True),
        True,
        group="information",
        bounds=(-2 / 0.85, _INF),
        selects=False,
    ),
    _SOURCES(
        "FMI_pixel",
        "feature mutual information of pixels",
        "local information that 3x3 windows share with the sources'",
        _fmi,
        True,
        group="information",
        bounds=(0, 1),
        min_side=3,
        symmetric=False,
    ),
    _SOURCES(
        "FMI_pixel_symmetric",
        "feature mutual information of pixels, sources on a par",
        "FMI_pixel without the published code's asymmetry",
        functools.partial(_fmi, symmetric=True),
        True,
        group="information",
        bounds=(0, 1),
        min_side=3,
    ),
    _SOURCES(
        "FMI_gradient",
        "feature mutual information of gradients",
        "FMI of the horizontal derivative",
        functools.partial(_fmi, feature="gradient"),
        True,
        group="information",
        bounds=(0, 1),
        min_side=3,
        symmetric=False,
    ),
    _SOURCES(
        "FMI_dct",
        "feature mutual information of cosine coefficients",
        "FMI of the cosine transform of the whole image",
        functools.partial(_fmi, feature="dct"),
        True,
        group="information",
        bounds=(0, 1),
        min_side=3,
        symmetric=False,
    ),
    _SOURCES(
        "MSE",
        "mean squared error",
        "squared distance from the sources, averaged",
        similarity.mean_squared_error,
        False,
        group="similarity",
        bounds=(0, 65025),
        unit="squared grey levels",
    ),
    _SOURCES(
        "PSNR_peak255",
        "peak signal-to-noise ratio, peak 255",
        "MSE in decibels",
        _psnr,
        True,
        group="similarity",
        bounds=(0, _INF),
        unit="dB",
    ),
    _SOURCES(
        "PSNR_peakF",
        "peak signal-to-noise ratio, peak of the fused image",
        "MSE in decibels as the CDDFuse evaluator has it",
        functools.partial(_psnr, peak=None),
        True,
        group="similarity",
        bounds=(-_INF, _INF),
        unit="dB",
    ),
    _SOURCES(
        "CC",
        "correlation coefficient",
        "linear correlation with the sources, averaged",
        similarity.correlation_coefficient,
        True,
        group="similarity",
        bounds=(-1, 1),
    ),
    _SOURCES(
        "SCD",
        "sum of the correlations of differences",
        "correlation of what F adds to one source with the other",
        similarity.sum_of_correlations_of_differences,
        True,
        group="similarity",
        bounds=(-2, 2),
    ),
    _SOURCES(
        "SSIM_dr255",
        "structural similarity, data range 255",
        "local structure, contrast and luminance against each source, summed",
        _ssim,
        True,
        group="similarity",
        bounds=(-2, 2),
        min_side=7,
    ),
    _SOURCES(
        "SSIM_dr2",
        "structural similarity, data range 2",
        "SSIM as the CDDFuse evaluator has it: for its tables only",
        functools.partial(_ssim, data_range=2.0),
        True,
        group="similarity",
        bounds=(-2, 2),
        min_side=7,
    ),
    _SOURCES(
        "SSIM_gauss",
        "structural similarity, Gaussian window",
        "SSIM with the 11x11 window of the original paper",
        similarity.gaussian_structural_similarity,
        True,
        group="similarity",
        bounds=(-2, 2),
        min_side=similarity.GAUSSIAN_SIZE,
    ),
    _SOURCES(
        "MS_SSIM",
        "multi-scale structural similarity",
        "SSIM over five scales, summed over the sources",
        similarity.multi_scale_structural_similarity,
        True,
        group="similarity",
        bounds=(0, 2),
        min_side=161,
    ),
    _SOURCES(
        "VIF",
        "visual information fidelity",
        "share of the sources' visible information, summed over the sources",
        vif.visual_information_fidelity,
        True,
        group="fidelity",
        bounds=(0, _INF),
        min_side=vif.MIN_SIDE,
    ),
    _SOURCES(
        "VIFF_han",
        "visual information fidelity for fusion",
        "VIF of the less preserved source at each position",
        vif.fusion_visual_information_fidelity,
        True,
        group="fidelity",
        bounds=(0, _INF),
        min_side=vif.MIN_SIDE,
        symmetric=False,
    ),
    _SOURCES(
        "Qabf",
        "edge preservation, Q_G",
        "edge strength and orientation preserved from the sources",
        edges.edge_preservation,
        True,
        group="edges",
        bounds=(0, 0.9754),
    ),
    _SOURCES(
        "Nabf",
        "added artefacts",
        "edge information of F that no source has",
        edges.added_artefacts,
        False,
        group="edges",
        bounds=(0, 1),
        min_side=2,
    ),
    _SOURCES(
        "Q_CB",
        "Chen-Blum quality",
        "visible local contrast preserved",
        perception.chen_blum_quality,
        True,
        group="perception",
        bounds=(0, 1),
    ),
    _SOURCES(
        "Q_CV",
        "Chen-Varshney quality",
        "visible error where the sources are salient",
        perception.chen_varshney_quality,
        False,
        group="perception",
        bounds=(0, _INF),
        unit="squared grey levels",
    ),
    _SOURCES(
        "Q_Y",
        "Yang's quality",
        "local similarity to the sources, or the better one where they disagree",
        structure.yang_quality,
        True,
        group="structure",
        bounds=(-1, 1),
        min_side=7,
    ),
    _SOURCES(
        "Q_C",
        "Cvejic's quality",
        "local similarity to the sources, shared out by covariance",
        structure.cvejic_quality,
        True,
        group="structure",
        bounds=(-1, 1),
        min_side=7,
        symmetric=False,
    ),
    _SOURCES(
        "Q_W",
        "Piella's quality",
        "similarity of edge maps, weighted by activity",
        structure.piella_quality,
        True,
        group="structure",
        bounds=(-1, 1),
        min_side=11,
    ),
    _SOURCES(
        "MEF_SSIM",
        "structural similarity for multi-exposure fusion",
        "similarity to the best structure that any of the sources has",
        exposure.exposure_similarity,
        True,
        group="structure",
        bounds=(0, 1),
        min_side=exposure.MIN_SIDE,
    ),
    _TRUTH(
        "PSNR_gt",
        "peak signal-to-noise ratio to the truth",
        "mean squared error of luminance in decibels, peak 255",
        reference.psnr,
        True,
        group="truth",
        bounds=(0, _INF),
        unit="dB",
    ),
    _TRUTH(
        "SSIM_gt",
        "structural similarity to the truth",
        "SSIM of luminance, 7x7 windows, L = 255",
        reference.ssim,
        True,
        group="truth",
        bounds=(-1, 1),
        min_side=similarity.BOX,
    ),
    _TRUTH(
        "RMSE_gt",
        "root mean square error to the truth",
        "error of luminance",
        reference.rmse,
        False,
        group="truth",
        bounds=(0, 255),
        unit="grey levels",
    ),
    _TRUTH(
        "RMSE_cm",
        "root mean square error of depth",
        "error of a depth map in metres",
        reference.depth_rmse,
        False,
        group="depth",
        bounds=(0, _INF),
        unit="cm",
        domain="metres",
    ),
    _TRUTH(
        "PSNR_mu",
        "peak signal-to-noise ratio after the mu-law",
        "error of compressed radiance in decibels, peak 1",
        reference.psnr_mu,
        True,
        group="hdr",
        bounds=(-_INF, _INF),
        unit="dB",
        domain="linear",
    ),
    _TRUTH(
        "PSNR_L",
        "peak signal-to-noise ratio of linear radiance",
        "error of radiance in decibels, peak 1",
        reference.psnr_linear,
        True,
        group="hdr",
        bounds=(-_INF, _INF),
        unit="dB",
        domain="linear",
    ),
    _TRUTH(
        "SSIM_mu",
        "structural similarity after the mu-law",
        "SSIM of compressed radiance, L = 1, mean over channels",
        reference.ssim_mu,
        True,
        group="hdr",
        bounds=(-1, 1),
        min_side=similarity.BOX,
        domain="linear",
    ),
    _TRUTH(
        "SSIM_L",
        "structural similarity of linear radiance",
        "SSIM of radiance, L = 1, mean over channels",
        reference.ssim_linear,
        True,
        group="hdr",
        bounds=(-1, 1),
        min_side=similarity.BOX,
        domain="linear",
    ),
)
