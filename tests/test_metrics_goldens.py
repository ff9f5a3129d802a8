"""The ruler against the published evaluators, values stored in tests/goldens/metrics_*.npz.

The files hold uint8 triples `case:f`, `case:a`, `case:b`, and `values[case, key]` where
`present`: `f64/` keys are the CDDFuse evaluator's on float64 images, `def/` keys a float64
implementation checked against published MATLAB code.
"""

import math
from pathlib import Path

import numpy as np
import pytest

from mgdn_jax import metrics

GOLDENS = Path(__file__).parent / "goldens"
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
    "def/Nabf": "Nabf",
    "def/MS_SSIM": "MS_SSIM",
    "def/Q_Y": "Q_Y",
    "def/Q_C": "Q_C",
}


def load(name):
    with np.load(GOLDENS / f"metrics_{name}.npz") as archive:
        stored = dict(archive)
    cases = {}
    for i, case in enumerate(stored["cases"]):
        triple = tuple(stored[f"{case}:{role}"] for role in "fab")
        expected = {
            NAMES[key]: float(stored["values"][i, j])
            for j, key in enumerate(stored["keys"])
            if stored["present"][i, j]
        }
        cases[str(case)] = triple, expected
    return cases


CASES = load("cases") | load("degenerate")


@pytest.mark.parametrize("case", CASES)
def test_every_metric_equals_the_published_evaluator(case):
    triple, expected = CASES[case]
    measured = metrics.evaluate(*triple, names=tuple(expected))
    for name, value in expected.items():
        # Relative 1e-9 for quantities in grey levels, absolute for indices (spec, section 12).
        assert measured[name] == pytest.approx(value, rel=1e-9, abs=1e-9, nan_ok=True), name


def test_the_goldens_cover_every_metric():
    covered = set().union(*(expected for _, expected in CASES.values()))
    # The bare names and the standard PSNR have no column of their own in the goldens.
    assert set(metrics.METRICS) - covered == {"SSIM", "PSNR", "PSNR_peak255"}


def test_variants_are_the_two_evaluators():
    triple, expected = CASES["tno_big_lap"]
    standard = metrics.evaluate(*triple, names=("SSIM", "PSNR"))
    cddfuse = metrics.evaluate(*triple, names=("SSIM", "PSNR"), variant="cddfuse")
    assert standard["SSIM"] == pytest.approx(expected["SSIM_dr255"], rel=1e-9)
    assert cddfuse["SSIM"] == pytest.approx(expected["SSIM_dr2"], rel=1e-9)
    assert cddfuse["PSNR"] == pytest.approx(expected["PSNR_peakF"], rel=1e-9)
    assert standard["PSNR"] == pytest.approx(10 * math.log10(255**2 / expected["MSE"]), rel=1e-12)
    assert metrics.resolve("SSIM", "standard").name == "SSIM_dr255"
    assert metrics.resolve("SSIM", "cddfuse").name == "SSIM_dr2"


def test_mutual_information_in_bits():
    triple, expected = CASES["tno_max"]
    bits = metrics.mutual_information(*triple, base=2)
    assert bits == pytest.approx(expected["MI"] / math.log(2), rel=1e-12)


def test_entropy_of_a_constant_is_not_minus_zero():
    value = metrics.entropy(np.full((3, 3), 7))
    assert math.copysign(1, value) == 1
    assert value == 0


def test_a_source_prepared_once_gives_the_same_figures():
    names = tuple(metrics.METRICS)
    (f, a, b), _ = CASES["tno_big_lap"]
    first, second = metrics.prepare(a), metrics.prepare(b)
    metrics.evaluate(np.roll(f, 3, axis=0), first, second, names)  # leaves its traces in both
    assert metrics.evaluate(f, first, second, names) == metrics.evaluate(f, a, b, names)
