"""The ruler's other promises: names and groups, exposures, features, the true picture."""

import functools
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mgdn_jax import metrics
from mgdn_jax.errors import InputError
from mgdn_jax.metrics.exposure import exposure_similarity_maps
from mgdn_jax.metrics.gray import min_max

PAGE = Path(__file__).parents[2] / "docs" / "measure" / "metrics.md"
few = functools.partial(settings, max_examples=15, deadline=None, derandomize=True)
small = arrays(np.uint8, (13, 12), elements=st.integers(0, 255))
seeds = st.integers(0, 2**32 - 1)


def picture(seed, shape=(48, 50), low=20, high=230):
    """A smooth random picture with some noise, uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(low, high, (7, 7))
    y, x = (np.linspace(0, 5.999, n) for n in shape)
    i, j = y.astype(int), x.astype(int)
    u, v = (y - i)[:, None], (x - j)[None]
    rows = coarse[i] * (1 - u) + coarse[i + 1] * u
    smooth = rows[:, j] * (1 - v) + rows[:, j + 1] * v
    return np.clip(np.rint(smooth + rng.normal(0, 4, shape)), 0, 255).astype(np.uint8)


def close(x, y, tolerance=1e-9):
    return x == pytest.approx(y, rel=tolerance, abs=tolerance, nan_ok=True)


# --- names ---------------------------------------------------------------------------------


def test_lists_of_names():
    assert metrics.names("standard") == metrics.STANDARD
    assert metrics.names("ALL") == metrics.ALL
    assert metrics.names("en, Qabf,ssim_DR2") == ("EN", "Qabf", "SSIM_dr2")
    assert metrics.names("edges, EN, Nabf") == ("Qabf", "Nabf", "EN")
    assert metrics.names(" lkc ") == metrics.GROUPS["lkc"]
    assert metrics.names("SSIM,PSNR") == ("SSIM", "PSNR")
    with pytest.raises(InputError, match=r"unknown metric 'qfab': did you mean 'Qabf'"):
        metrics.names("EN,qfab")
    with pytest.raises(InputError, match=r"unknown metric 'statistic': did you mean 'statistics'"):
        metrics.names("statistic")
    with pytest.raises(InputError, match="no metric is named"):
        metrics.names(" , ")


def test_groups_share_out_the_exact_names():
    fields = [group for group in metrics.GROUPS if group != "lkc"]
    listed = [name for group in fields for name in metrics.GROUPS[group]]
    assert len(listed) == len(set(listed))
    assert set(listed) == metrics.METRICS.keys() - {"SSIM", "PSNR"}
    assert all(
        metrics.METRICS[name].group == group for group in fields for name in metrics.GROUPS[group]
    )
    assert set(metrics.ALL) == {n for n in listed if "truth" not in metrics.METRICS[n].needs}
    # Two variants never under one title, and never a bare name in a set of exact ones.
    assert not {"SSIM", "PSNR"} & set(metrics.GROUPS["lkc"])
    folded = [name.casefold() for name in (*metrics.METRICS, *metrics.GROUPS, "standard", "all")]
    assert len(folded) == len(set(folded))


def test_the_page_holds_the_table_of_the_registry():
    page = PAGE.read_text(encoding="utf-8")
    assert metrics.markdown_table() in page
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", page, re.MULTILINE))
    del rows["all"]
    groups = {"standard": metrics.STANDARD, **metrics.GROUPS}
    assert rows == {group: " ".join(names) for group, names in groups.items()}


# --- metrics of information ----------------------------------------------------------------


@few()
@given(small, small, st.integers(0, 120), st.sampled_from([1, 2]))
def test_stretched_metrics_ignore_the_offset_and_gain_of_the_fused_image(a, b, offset, gain):
    f = (a // 4 + b // 4).astype(int) // 2
    for metric in (
        metrics.nonlinear_correlation_information,
        metrics.tsallis_information,
        functools.partial(metrics.normalised_mutual_information, mode="minmax"),
    ):
        # An injective map of the levels: the joint histogram is the same up to its labels.
        plain, moved = metric(f, a, b), metric(gain * f + offset, a, b)
        if math.isnan(plain) or math.isnan(moved):
            assert f.min() == f.max() or a.min() == a.max() or b.min() == b.max()
        else:
            assert close(plain, moved)


def test_chen_blum_and_chen_varshney_ignore_gain_and_offset():
    a, b, f = (picture(seed).astype(float) for seed in (1, 2, 3))
    low, high = f.min(), f.max()
    f = np.floor((f - low) * (100 / (high - low)))
    for metric in (metrics.chen_blum_quality, metrics.chen_varshney_quality):
        assert close(metric(f, a, b), metric(2 * f + 30, a, b), 1e-7)


def test_min_max():
    assert np.array_equal(min_max(np.array([[2.0, 3.0, 4.0]])), [[0, 128, 255]])
    assert np.array_equal(min_max(np.zeros((2, 2))), np.zeros((2, 2)))
    assert np.isnan(min_max(np.ones((2, 2)))).all()


def test_cross_entropy_may_be_negative_and_vanishes_for_copies():
    a = picture(4)
    assert metrics.cross_entropy(a, a, a) == 0
    f = np.array([[1, 1, 1, 2]])
    assert metrics.cross_entropy(f, f * 0 + [1, 3, 3, 3], f) < 0


def test_unknown_modes_windows_and_features_are_refused():
    x = picture(5)
    with pytest.raises(InputError, match="mode 'max' of NMI"):
        metrics.normalised_mutual_information(x, x, x, mode="max")
    with pytest.raises(InputError, match="feature 'edge' of FMI"):
        metrics.feature_mutual_information(x, x, x, feature="edge")
    with pytest.raises(InputError, match="window 'box' of SSIM"):
        metrics.ssim(x, x, window="box")


# --- feature mutual information ------------------------------------------------------------


def window_information(x, f):
    """One pair of 3x3 windows straight from the definition, cell by cell."""
    x, f = x.ravel(order="F"), f.ravel(order="F")
    if np.array_equal(x, f) or (np.ptp(x) == 0 and np.ptp(f) == 0):
        return 1.0
    if np.ptp(x) == 0 or np.ptp(f) == 0:
        return 0.0
    x, f = ((w - w.min()) / np.ptp(w) for w in (x, f))
    x, f = x / x.sum(), f / f.sum()
    k = np.arange(1, 10)
    s_x, s_f = (math.sqrt(max(0, np.sum(k**2 * p) - np.sum(k * p) ** 2)) for p in (x, f))
    rho = np.corrcoef(x, f)[0, 1]
    big_x, big_f = np.cumsum(x), np.cumsum(f)
    upper = np.zeros((10, 10))
    for i in range(9):
        for j in range(9):
            both = min(big_f[i], big_x[j]) if rho >= 0 else max(big_f[i] + big_x[j] - 1, 0)
            upper[i + 1, j + 1] = both
    covariance = np.sum(upper[1:, 1:] - np.outer(big_f, big_x))
    phi = rho * s_x * s_f / covariance if s_x * s_f and abs(rho) > 1e-12 else 0.0
    cells = upper[1:, 1:] - upper[:-1, 1:] - upper[1:, :-1] + upper[:-1, :-1]
    joint = phi * cells + (1 - phi) * np.outer(f, x)

    def entropy(p):
        p = p[p != 0]
        return -np.sum(p * np.log2(np.abs(p)))

    total = entropy(x) + entropy(f)
    return 2 * (total - entropy(joint)) / total if total else 0.0


@few(max_examples=8)
@given(seeds, st.sampled_from([2, 4, 256]))
def test_symmetric_feature_information_is_the_mean_over_windows(seed, levels):
    rng = np.random.default_rng(seed)
    f, a, b = (rng.integers(0, levels, (6, 7)).astype(float) for _ in range(3))
    wanted = np.mean(
        [
            window_information(s[i : i + 3, j : j + 3], f[i : i + 3, j : j + 3])
            for s in (a, b)
            for i in range(4)
            for j in range(5)
        ]
    )
    measured = metrics.feature_mutual_information(f, a, b, symmetric=True)
    assert measured == pytest.approx(wanted, abs=1e-9)


@few(max_examples=8)
@given(seeds, st.sampled_from(["pixel", "gradient", "dct"]))
def test_symmetric_feature_information_is_symmetric(seed, feature):
    f, a, b = (picture(seed + k, (9, 10)) for k in range(3))
    measure = functools.partial(
        metrics.feature_mutual_information, f, feature=feature, symmetric=True
    )
    assert close(measure(a, b), measure(b, a))


def test_blocks_of_windows_do_not_show(monkeypatch):
    f, a, b = (picture(k) for k in range(3))
    whole = metrics.feature_mutual_information(f, a, b)
    monkeypatch.setattr("mgdn_jax.metrics.features._BLOCK", 100)
    assert close(metrics.feature_mutual_information(f, a, b), whole, 1e-13)


# --- exposures -----------------------------------------------------------------------------


def patch_score(f, sources):
    """Finest-scale MEF-SSIM patch by patch, from the definition."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    eps, scores = np.finfo(float).eps, []
    for i in range(f.shape[0] - 10):
        for j in range(f.shape[1] - 10):
            patches = [s[i : i + 11, j : j + 11].astype(float) for s in sources]
            centred = [p - p.mean() for p in patches]
            lengths = [np.linalg.norm(c) for c in centred]
            strengths = np.array(lengths) + 0.001
            ratio = (np.linalg.norm(sum(centred)) + eps) / (sum(lengths) + eps)
            power = min(math.tan(math.pi / 2 * min(ratio, 1 - eps)), 10)
            weights = (strengths / 11) ** power + eps
            weights /= weights.sum()
            r = sum(w * c / e for w, c, e in zip(weights, centred, strengths, strict=True))
            if np.linalg.norm(r) > 0:
                r *= strengths.max() / np.linalg.norm(r)
            g = f[i : i + 11, j : j + 11].astype(float)
            r, g = r - np.sum(window * r), g - np.sum(window * g)
            c = (0.03 * 255) ** 2
            top = 2 * np.sum(window * r * g) + c
            scores.append(top / (np.sum(window * r * r) + np.sum(window * g * g) + c))
    return np.mean(scores)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_exposure_similarity_equals_the_patch_loop(count):
    f, *sources = (picture(k, (44, 46)) for k in range(count + 1))
    finest = metrics.exposure_similarity_by_scale(f, *sources)[0]
    assert finest == pytest.approx(patch_score(f, sources), abs=1e-12)


def test_exposure_similarity_is_the_mean_of_its_maps():
    rng = np.random.default_rng(0)
    f, *sources = (rng.integers(0, 256, (51, 60)).astype(float) for _ in range(4))
    maps = exposure_similarity_maps(f, *sources)
    assert [plane.shape for plane in maps] == [(41, 50), (16, 20), (3, 5)]
    scores = metrics.exposure_similarity_by_scale(f, *sources)
    assert [plane.mean() for plane in maps] == list(scores)


@few(max_examples=8)
@given(seeds, st.permutations(range(3)))
def test_exposure_similarity_ignores_the_order_of_the_sources(seed, order):
    f, *sources = (picture(seed + k) for k in range(4))
    shuffled = [sources[k] for k in order]
    plain = metrics.exposure_similarity(f, *sources)
    assert close(plain, metrics.exposure_similarity(f, *shuffled))
    assert 0 <= plain <= 1
    assert close(metrics.exposure_similarity(f, f, f), 1, 1e-6)  # by the 0.001 in the strength
    assert all(-1 <= score <= 1 for score in metrics.exposure_similarity_by_scale(f, *sources))


def test_an_inverted_picture_scores_zero_for_exposures():
    x = picture(6)
    assert min(metrics.exposure_similarity_by_scale(255 - x, x, x)) < 0
    assert metrics.exposure_similarity(255 - x, x, x) == 0


def test_pictures_of_all_exposures_by_name():
    f, *sources = (picture(k) for k in range(4))
    assert metrics.mef_ssim(f, sources) == metrics.exposure_similarity(f, *sources)
    two = metrics.evaluate(f, *sources[:2], ("MEF_SSIM",))["MEF_SSIM"]
    assert metrics.mef_ssim(f, sources[:2]) == two
    colour = np.stack([f, sources[0], sources[1]], -1).astype(np.uint8)
    gray = metrics.luminance(colour)
    assert metrics.mef_ssim(colour, sources) == metrics.exposure_similarity(gray, *sources)
    with pytest.raises(InputError, match="two or more sources, got 1"):
        metrics.mef_ssim(f, sources[:1])
    assert [m.name for m in metrics.METRICS.values() if m.takes_many] == ["MEF_SSIM"]


def test_one_exposure_is_refused():
    x = picture(7)
    with pytest.raises(InputError, match="two or more sources, got 1"):
        metrics.exposure_similarity(x, x)


# --- fidelity and structure ----------------------------------------------------------------


@few(max_examples=8)
@given(seeds)
def test_perfect_copies_reach_the_top(seed):
    x = picture(seed)
    top = {"SSIM_gauss": 2, "VIFF_han": 1, "Q_W": 1, "Q_CV": 0, "Q_CB": 1, "NMI_minmax": 2}
    values = metrics.evaluate(x, x, x, (*top, "FMI_pixel", "FMI_dct", "FMI_gradient"))
    for name, wanted in top.items():
        assert close(values[name], wanted, 1e-6), name
    assert values["FMI_pixel"] == values["FMI_dct"] == values["FMI_gradient"] == 1


# --- the true picture ----------------------------------------------------------------------


@few()
@given(seeds, st.floats(0.001, 0.1), st.integers(1, 3))
def test_radiance_metrics(seed, noise, channels):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, 1, (9, 8, channels))
    output = np.clip(truth + rng.normal(0, noise, truth.shape), 0, 1)
    names = metrics.GROUPS["hdr"]
    one, other = (metrics.evaluate_truth(*p, names) for p in ((output, truth), (truth, output)))
    assert all(close(one[name], other[name]) for name in names)
    mean = np.mean((output - truth) ** 2)
    assert one["PSNR_L"] == pytest.approx(-10 * math.log10(mean), rel=1e-12)
    per_channel = [metrics.ssim_linear(output[..., c], truth[..., c]) for c in range(channels)]
    assert one["SSIM_L"] == pytest.approx(np.mean(per_channel), rel=1e-12)
    perfect = metrics.evaluate_truth(truth, truth, names)
    assert perfect["PSNR_mu"] == perfect["PSNR_L"] == math.inf
    assert close(perfect["SSIM_mu"], 1)
    # Compression multiplies small radiances: errors in the dark weigh more.
    dark = metrics.evaluate_truth(0.01 * output, 0.01 * truth, names)
    assert dark["PSNR_mu"] < dark["PSNR_L"]


def test_mu_law():
    assert np.allclose(metrics.mu_law(np.array([0.0, 1.0])), [0, 1], rtol=0, atol=1e-15)
    assert metrics.mu_law(np.array(-1e-4)) < 0
    assert np.isnan(metrics.mu_law(np.array([-1 / 5000, -1.0]))).all()
    x = np.full((8, 8, 3), 0.5)
    negative = x.copy()
    negative[0, 0, 0] = -0.1
    assert math.isnan(metrics.psnr_mu(negative, x))
    assert math.isnan(metrics.ssim_mu(negative, x))
    assert math.isfinite(metrics.psnr_linear(negative, x))


def test_depth():
    truth = np.linspace(1, 4, 400).reshape(20, 20)
    assert metrics.depth_rmse(truth + 0.02, truth) == pytest.approx(2)
    assert metrics.depth_rmse(truth + 0.02, truth, scale=1.0) == pytest.approx(0.02)
    frame = truth.copy()
    frame[:6] += 9
    assert metrics.depth_rmse(frame, truth, crop=6) == 0
    assert metrics.evaluate_truth(frame, truth, ("RMSE_cm",), crop=6) == {"RMSE_cm": 0}
    assert metrics.evaluate_truth(frame, truth, ("RMSE_cm",))["RMSE_cm"] > 100
    normal = (truth - 1) / 3
    assert metrics.depth_rmse(normal, normal, span=(1.0, 4.0)) == 0
    assert metrics.depth_rmse(normal + 1, normal, span=(1.0, 4.0)) < 300  # clamped to 0..1
    assert metrics.depth_ssim(normal, normal, span=(1.0, 4.0), crop=4) == pytest.approx(1)
    assert math.isnan(metrics.depth_ssim(normal, np.ones_like(normal)))


def test_colour_is_compared_on_luminance():
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 256, (2, 9, 9, 3)).astype(np.uint8)
    assert metrics.evaluate_truth(x, y) == metrics.evaluate_truth(
        metrics.luminance(x), metrics.luminance(y)
    )
    assert metrics.evaluate_truth(metrics.prepare(x), y) == metrics.evaluate_truth(x, y)


def test_truth_and_sources_are_not_mixed():
    x = picture(8)
    with pytest.raises(InputError, match=r"^PSNR_gt compares with the true picture.*_truth"):
        metrics.evaluate(x, x, x, ("EN", "PSNR_gt"))
    with pytest.raises(InputError, match=r"^EN needs no true picture"):
        metrics.evaluate_truth(x, x, ("PSNR_gt", "EN"))
    with pytest.raises(InputError, match="domains gray and metres"):
        metrics.evaluate_truth(x, x, ("PSNR_gt", "RMSE_cm"))
    with pytest.raises(InputError, match="did you mean 'SSIM_mu'"):
        metrics.evaluate_truth(x, x, ("SSIM_mue",))


@pytest.mark.parametrize(
    ("x", "truth", "crop", "message"),
    [
        (np.zeros((8, 8)), np.zeros((8, 9)), 0, "one shape, got"),
        (np.zeros(8), np.zeros(8), 0, r"needs arrays \(H, W\)"),
        (np.full((8, 8), np.nan), np.zeros((8, 8)), 0, "NaN or infinite"),
        (np.zeros((12, 20)), np.zeros((12, 20)), 6, "6 pixels cannot be cropped"),
        (np.zeros((12, 20)), np.zeros((12, 20)), -1, "-1 pixels cannot be cropped"),
    ],
)
def test_arrays_that_cannot_be_compared(x, truth, crop, message):
    with pytest.raises(InputError, match=message):
        metrics.evaluate_truth(x, truth, ("RMSE_cm",), crop=crop)


def test_crops_and_windows_that_leave_nothing():
    x = np.zeros((16, 20))
    with pytest.raises(InputError, match="1x1 pixels after cropping 8 on every side, got 16x20"):
        metrics.depth_rmse(x, x, crop=8)
    with pytest.raises(InputError, match="cannot crop -2"):
        metrics.depth_rmse(x, x, crop=-2)
    with pytest.raises(InputError, match="SSIM of depth needs at least 11x11 pixels after"):
        metrics.depth_ssim(x, x, crop=3)
    for name in metrics.METRICS:
        metric = metrics.METRICS[name]
        if "truth" in metric.needs and metric.min_side > 1:
            small = np.zeros((metric.min_side - 1, 20))
            with pytest.raises(InputError, match=f"at least {metric.min_side}x"):
                metrics.evaluate_truth(small, small, (name,))


def test_luminance_rounds_as_the_reference_does():
    # Exact luminance a half level: single products decide, so their order and fusing show.
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (4096, 64, 3)).astype(np.uint8)
    exact = colours.astype(np.int64) @ np.array([299, 587, 114])
    ties = colours[exact % 1000 == 500]
    assert len(ties) > 100
    levels = metrics.luminance(ties[None])[0]
    r, g, b = (ties[:, k].astype(np.float64) for k in range(3))
    wr, wg, wb = (np.float64(np.float32(w)) for w in (0.299, 0.587, 0.114))
    step = (g * wg).astype(np.float32)
    step = (step + b * wb).astype(np.float32)
    assert np.array_equal(levels, np.rint((step + r * wr).astype(np.float32)))
    assert np.abs(levels - exact[exact % 1000 == 500] / 1000).max() == 0.5
    plain = np.rint(
        np.float32(0.299) * ties[:, 0].astype(np.float32)
        + np.float32(0.587) * ties[:, 1].astype(np.float32)
        + np.float32(0.114) * ties[:, 2].astype(np.float32)
    )
    assert (levels != plain).any()  # another order would give other pixels
