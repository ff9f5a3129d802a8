"""The ruler against the published evaluators, values stored in tests/goldens/metrics_*.npz.

The files hold uint8 triples `case:f`, `case:a`, `case:b`, and `values[case, key]` where
`present`: `f64/` keys are the CDDFuse evaluator's on float64 images, `def/` keys a float64
implementation checked against published code, `mefb/`, `vifb/` and `gem/` keys that published
MATLAB code itself. `metrics_truth.npz` holds the comparisons with a true picture.
"""

import functools
import math
from pathlib import Path

import numpy as np
import pytest

from mgdn_jax import metrics

GOLDENS = Path(__file__).parents[1] / "goldens"
NAMES = {
    "f64/EN": "EN",
    "f64/SD": "SD",
    "f64/SF": "SF",
    "f64/AG": "AG",
    "f64/MI": "MI",
    "f64/MSE": "MSE",
    "f64/CC": "CC",
    "f64/PSNR": "PSNR_peakF",
    "f64/SCD": "SCD",
    "f64/VIFF": "VIF",
    "f64/Qabf": "Qabf",
    "f64/SSIM_L255": "SSIM_dr255",
    "f64/SSIM_L2": "SSIM_dr2",
    "def/NMI": "NMI",
    "def/NMI_minmax": "NMI_minmax",
    "def/CE": "CE",
    "def/EI": "EI",
    "def/Q_NCIE": "Q_NCIE",
    "def/Q_TE": "Q_TE_published",
    "def/Q_TE_fixed": "Q_TE",
    "def/FMI_pixel": "FMI_pixel",
    "def/FMI_gradient": "FMI_gradient",
    "def/FMI_dct": "FMI_dct",
    "def/FMI_pixel_symmetric": "FMI_pixel_symmetric",
    "def/Nabf": "Nabf",
    "def/MS_SSIM": "MS_SSIM",
    "def/SSIM_gauss": "SSIM_gauss",
    "def/VIFF_han": "VIFF_han",
    "def/Q_CB": "Q_CB",
    "def/Q_CV": "Q_CV",
    "def/Q_Y": "Q_Y",
    "def/Q_C": "Q_C",
    "def/Q_W": "Q_W",
    "def/MEF_SSIM": "MEF_SSIM",
    "mefb/Cross_entropy": "CE",
    "mefb/Edge_intensity": "EI",
    "mefb/NMI": "NMI_minmax",
    "mefb/Qcb": "Q_CB",
    "mefb/Qcv": "Q_CV",
    "mefb/Qncie": "Q_NCIE",
    "mefb/Qw": "Q_W",
    "mefb/TE": "Q_TE_published",
    "mefb/VIF": "VIFF_han",
    "vifb/Ssim": "SSIM_gauss",
    "gem/FMI_pixel": "FMI_pixel",
    "gem/FMI_gradient": "FMI_gradient",
    "gem/FMI_dct": "FMI_dct",
    "gem/MEF_MS_SSIM": "MEF_SSIM",
    "gem/Nabf": "Nabf",
}
SCALES = {f"{code}/MEF_SSIM_l{k + 1}": k for code in ("def", "gem") for k in range(3)}
# Quantities in units of their own; the others are indices (spec of the goldens, section 12).
RELATIVE = {"SD", "SF", "AG", "EI", "MSE", "PSNR_peakF", "Q_CV", "Q_TE", "Q_TE_published"}


def load(name):
    with np.load(GOLDENS / f"metrics_{name}.npz") as archive:
        stored = dict(archive)
    cases = {}
    for i, case in enumerate(stored["cases"]):
        triple = tuple(stored[f"{case}:{role}"] for role in "fab")
        expected = {
            str(key): float(stored["values"][i, j])
            for j, key in enumerate(stored["keys"])
            if stored["present"][i, j]
        }
        cases[str(case)] = triple, expected
    return cases


ORDINARY, DEGENERATE = load("cases"), load("degenerate")
CASES = ORDINARY | DEGENERATE


def agrees(name, measured, wanted, degenerate):
    """The spec's own tolerance, and one millionth of the value; NaN and infinity exactly."""
    if not math.isfinite(wanted):
        return measured == wanted or (math.isnan(measured) and math.isnan(wanted))
    error = abs(measured - wanted)
    if name == "MEF_SSIM" and degenerate:  # the stored values carry noise of flat patches
        tight = 1e-7
    else:
        tight = 1e-9 * abs(wanted) if name in RELATIVE else 1e-9
    return error <= max(tight, 1e-12) and error <= max(1e-6 * abs(wanted), 1e-12)


@pytest.mark.parametrize("case", CASES)
def test_every_metric_equals_the_published_evaluator(case):
    triple, expected = CASES[case]
    names = {NAMES[key] for key in expected if key not in SCALES}
    measured = metrics.evaluate(*triple, names=tuple(names))
    scales = None
    wrong = {}
    worst = 0.0
    for key, wanted in expected.items():
        if key in SCALES:
            scales = scales or metrics.exposure_similarity_by_scale(*triple)
            name, value = key, scales[SCALES[key]]
        else:
            name = NAMES[key]
            value = measured[name]
        if not agrees(name, value, wanted, case in DEGENERATE):
            wrong[key] = value, wanted
        elif math.isfinite(wanted):
            worst = max(worst, abs(value - wanted) / max(1, abs(wanted)))
    print(f"{case}: {len(expected)} values, largest error {worst:.1e}")
    assert not wrong


def test_every_metric_of_the_registry_has_a_golden():
    covered = {
        NAMES[key] for _, expected in CASES.values() for key in expected.keys() - SCALES.keys()
    }
    derived = {"MI_bits": "f64/MI", "PSNR_peak255": "f64/MSE"}  # see the two tests below
    aliases = {"SSIM", "PSNR"}
    assert set(NAMES.values()) == covered
    assert set(metrics.METRICS) == covered | derived.keys() | aliases | TRUTH.keys() | EIGHT_BIT
    for key in derived.values():
        assert all(key in expected for _, expected in CASES.values())


def test_variants_are_the_two_evaluators():
    triple, expected = CASES["tno_big_lap"]
    standard = metrics.evaluate(*triple, names=("SSIM", "PSNR"))
    cddfuse = metrics.evaluate(*triple, names=("SSIM", "PSNR"), variant="cddfuse")
    assert standard["SSIM"] == pytest.approx(expected["f64/SSIM_L255"], rel=1e-9)
    assert cddfuse["SSIM"] == pytest.approx(expected["f64/SSIM_L2"], rel=1e-9)
    assert cddfuse["PSNR"] == pytest.approx(expected["f64/PSNR"], rel=1e-9)
    assert metrics.resolve("SSIM", "standard").name == "SSIM_dr255"
    assert metrics.resolve("SSIM", "cddfuse").name == "SSIM_dr2"


@pytest.mark.parametrize("case", CASES)
def test_peak_255_and_bits_follow_from_the_goldens(case):
    triple, expected = CASES[case]
    measured = metrics.evaluate(*triple, names=("PSNR_peak255", "MI_bits"))
    error = expected["f64/MSE"]
    wanted = 10 * math.log10(255**2 / error) if error else math.inf
    assert measured["PSNR_peak255"] == pytest.approx(wanted, rel=1e-9)
    bits = expected["f64/MI"] / math.log(2)
    assert measured["MI_bits"] == pytest.approx(bits, rel=1e-9, abs=1e-12)


def test_entropy_of_a_constant_is_not_minus_zero():
    value = metrics.entropy(np.full((3, 3), 7))
    assert math.copysign(1, value) == 1
    assert value == 0


def test_a_source_prepared_once_gives_the_same_figures():
    names = metrics.ALL
    (f, a, b), _ = CASES["tno_big_lap"]
    first, second = metrics.prepare(a), metrics.prepare(b)
    metrics.evaluate(np.roll(f, 3, axis=0), first, second, names)  # leaves its traces in both
    assert metrics.evaluate(f, first, second, names) == metrics.evaluate(f, a, b, names)


with np.load(GOLDENS / "metrics_truth.npz") as archive:
    STORED = dict(archive)
LINEAR = tuple(
    np.moveaxis(STORED[f"in:hdr:{role}"][0], 0, -1) for role in ("output", "target")
)  # (H, W, 3)
DEPTHS = tuple(STORED[f"in:gdsr:{role}"][0, 0] for role in ("pred_norm", "gt_norm"))
SPAN = (float(STORED["in:gdsr:depth_min"]), float(STORED["in:gdsr:depth_max"]))
METRES = (
    np.clip(DEPTHS[0], 0, 1).astype(float) * (SPAN[1] - SPAN[0]) + SPAN[0],
    DEPTHS[1].astype(float) * (SPAN[1] - SPAN[0]) + SPAN[0],
)
TRUTH = {
    "PSNR_mu": functools.partial(metrics.evaluate_truth, *LINEAR, ("PSNR_mu",)),
    "PSNR_L": functools.partial(metrics.evaluate_truth, *LINEAR, ("PSNR_L",)),
    "SSIM_mu": functools.partial(metrics.evaluate_truth, *LINEAR, ("SSIM_mu",)),
    "SSIM_L": functools.partial(metrics.evaluate_truth, *LINEAR, ("SSIM_L",)),
    "RMSE_cm": functools.partial(metrics.evaluate_truth, *METRES, ("RMSE_cm",), crop=6),
}
EIGHT_BIT = {"PSNR_gt", "SSIM_gt", "RMSE_gt"}


@pytest.mark.parametrize("name", TRUTH)
def test_comparisons_with_the_truth_equal_the_published_functions(name):
    system = "gdsr" if name == "RMSE_cm" else "hdr"
    wanted = float(STORED[f"scalar:{system}:{name}"])
    measured = TRUTH[name]()[name]
    print(f"{name}: {abs(measured / wanted - 1):.1e}")
    assert measured == pytest.approx(wanted, rel=1e-6)


def test_depth_is_denormalised_clamped_and_cropped_as_published():
    rmse = metrics.depth_rmse(*DEPTHS, span=SPAN, crop=6)
    ssim = metrics.depth_ssim(*DEPTHS, span=SPAN, crop=6)
    raw = metrics.depth_rmse(*DEPTHS, span=SPAN, scale=1.0)
    assert DEPTHS[0].max() > 1  # the clamp matters
    errors = {}
    for key, value in {"RMSE_cm": rmse, "SSIM": ssim, "RMSE_raw_nocrop": raw}.items():
        errors[key] = abs(value / float(STORED[f"scalar:gdsr:{key}"]) - 1)
    print(errors)
    assert max(errors.values()) < 1e-6


@pytest.mark.parametrize("case", ORDINARY)
def test_8_bit_comparisons_follow_from_the_published_two_source_figures(case):
    # With the truth in the place of both sources: MSE(F,T), and SSIM is the half of the sum.
    (f, a, b), expected = ORDINARY[case]
    first, second = (metrics.evaluate_truth(f, truth) for truth in (a, b))
    mean = (first["RMSE_gt"] ** 2 + second["RMSE_gt"] ** 2) / 2
    assert mean == pytest.approx(expected["f64/MSE"], rel=1e-9)
    total = first["SSIM_gt"] + second["SSIM_gt"]
    assert total == pytest.approx(expected["f64/SSIM_L255"], rel=1e-9, abs=1e-9)
    for one in (first, second):
        wanted = 20 * math.log10(255 / one["RMSE_gt"])
        assert one["PSNR_gt"] == pytest.approx(wanted, rel=1e-12)
    gauss = sum(metrics.ssim(f, truth, window="gaussian") for truth in (a, b))
    assert gauss == pytest.approx(expected["def/SSIM_gauss"], rel=1e-9, abs=1e-9)
