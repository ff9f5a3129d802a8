"""The evidence of focus: pieces and the whole, pairs and many, pictures with holes."""

import numpy as np
import pytest
from scipy import ndimage

from mgdn_jax.evaluation import baselines
from mgdn_jax.fusing import evidence, pyramids, reduction, strips
from mgdn_jax.fusing.evidence import Evidence

WHOLE = slice(0, 61), slice(0, 83)


def texture(seed, shape=(61, 83, 3)):
    """Noise of several scales, uint8."""
    random = np.random.default_rng(seed).random(shape)
    smooth = ndimage.gaussian_filter(random, (2, 2, 0))
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return np.rint(255 * np.clip(0.7 * smooth + 0.3 * random, 0, 1)).astype(np.uint8)


def focus_pair(sigma=3.0):
    """A picture that is sharp on the left, one that is sharp on the right, and the truth."""
    truth = texture(0)
    blurred = ndimage.gaussian_filter(truth, (sigma, sigma, 0))
    left = np.arange(83)[None, :, None] < 40
    return np.where(left, truth, blurred), np.where(left, blurred, truth), truth


def weight_of(a, b):
    return evidence.weights([Evidence(a), Evidence(b)], *WHOLE)[0]


def test_the_weight_of_a_pair_is_the_rule_of_the_ruler():
    a, b = (x[..., :1] for x in focus_pair()[:2])  # the ruler rounds luminance
    wanted = baselines.evidence_weight(a[..., 0], b[..., 0])
    np.testing.assert_allclose(weight_of(a, b), wanted, atol=1e-3)


def test_the_sharper_picture_wins():
    weight = weight_of(*focus_pair()[:2])
    assert weight[:, :32].mean() > 0.98
    assert weight[:, 48:].mean() < 0.02


def test_softmax_of_two_is_the_sigmoid_of_their_difference():
    members = [Evidence(x) for x in focus_pair()[:2]]
    gap = np.subtract(*(m.score(*WHOLE, margin=evidence.REACH) for m in members))
    sigmoid = 1 / (1 + np.exp(-4.0 * gap))
    smooth = ndimage.gaussian_filter(sigmoid, 1.0)[evidence.REACH : -evidence.REACH]
    wanted = smooth[:, evidence.REACH : -evidence.REACH]
    np.testing.assert_allclose(evidence.weights(members, *WHOLE)[0], wanted, atol=1e-3)


def test_weights_of_many_sum_to_one():
    members = [Evidence(texture(seed)) for seed in range(4)]
    np.testing.assert_allclose(sum(evidence.weights(members, *WHOLE)), 1, atol=1e-5)


@pytest.mark.parametrize("side", [16, 23])
def test_pieces_are_the_whole_bit_for_bit(monkeypatch, side):
    a, b, _ = focus_pair()
    whole = weight_of(a, b)
    monkeypatch.setattr(strips, "ROWS", side)
    monkeypatch.setattr(strips, "COLUMNS", side)
    members = [Evidence(x) for x in (a, b)]
    out = np.empty_like(whole)
    for rows, columns in strips.pieces(61, 83):
        out[rows, columns] = evidence.weights(members, rows, columns)[0]
    np.testing.assert_array_equal(out, whole)


def test_a_prior_moves_what_evidence_leaves_open():
    flat = np.full((61, 83, 1), 128, np.uint8)
    members = [Evidence(flat), Evidence(flat)]
    np.testing.assert_allclose(evidence.weights(members, *WHOLE)[0], 0.5, atol=1e-6)
    for member, prior in zip(members, (0.9, 0.1), strict=True):
        member.add_prior(np.full((8, 8), prior, np.float32))
    wanted = 1 / (1 + (0.13 / 0.93) ** 1.2)
    np.testing.assert_allclose(evidence.weights(members, *WHOLE)[0], wanted, rtol=1e-4)


def test_where_a_picture_is_not_there_it_has_no_weight_and_leaves_no_trace():
    a, b, _ = focus_pair()
    cover = np.ones((61, 83), bool)
    cover[:, :20] = False
    cover[50:] = False
    results = []
    for hidden in (0, 255):  # what lies under the hole must not matter
        holed = np.where(cover[..., None], a, hidden).astype(np.uint8)
        whole = pyramids.filled(holed, cover)
        members = [Evidence(whole, cover), Evidence(b)]
        results.append(evidence.weights(members, *WHOLE))
    np.testing.assert_array_equal(*[r[0] for r in results])
    first, second = results[0]
    np.testing.assert_array_equal(first[~cover], 0)
    np.testing.assert_allclose(second[~cover], 1, atol=1e-6)
    # Away from the hole nothing changes but by what coarse scales see of it.
    plain = weight_of(a, b)
    assert np.abs(first - plain)[:40, 70:].max() < 0.05


def test_nowhere_is_no_number_lost():
    a, b, _ = focus_pair()
    cover = np.ones((61, 83), bool)
    cover[10:20, 10:20] = False
    parts = evidence.weights([Evidence(a, cover), Evidence(b, cover)], *WHOLE)
    assert np.isfinite(parts).all()
    np.testing.assert_array_equal(np.array(parts)[:, ~cover], 0)


def test_filling_continues_the_surroundings():
    ramp = np.broadcast_to(np.linspace(40, 200, 83), (61, 83))[..., None]
    picture = np.rint(ramp).astype(np.uint8)
    cover = np.ones((61, 83), bool)
    cover[20:40, 30:50] = False
    holed = np.where(cover[..., None], picture, 0).astype(np.uint8)
    filled = pyramids.filled(holed, cover)
    np.testing.assert_array_equal(filled[cover], picture[cover])
    assert np.abs(filled.astype(int) - picture)[~cover].max() < 20
    assert pyramids.filled(picture, np.ones((61, 83), bool)) is picture


def test_a_pyramid_of_one_picture_is_the_picture():
    plane = texture(3)[..., 0]
    ones = np.ones(plane.shape, np.float32)
    blend = pyramids.Blend(*plane.shape, 3)
    blend.add(plane, pyramids.weight_pyramid(0.25 * ones, 3))
    blend.add(plane, pyramids.weight_pyramid(0.75 * ones, 3))
    np.testing.assert_allclose(blend.collapse(), plane, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_differences_blended_are_the_sum_of_pyramids(dtype):
    planes = [texture(seed)[..., 0].astype(dtype) for seed in range(3)]
    shares = np.random.default_rng(0).dirichlet(np.ones(3), (61, 83)).astype(np.float32)
    maps = [pyramids.weight_pyramid(shares[..., k].copy(), 3) for k in range(3)]
    sums = pyramids.Blend(61, 83, 3)
    for plane, weights in zip(planes, maps, strict=True):
        sums.add(plane, weights)
    out = np.empty((61, 83), np.float32)

    def write(rows, columns, values):
        out[rows, columns] = values

    pyramids.blended(planes[2], planes[:2], maps[:2], write)
    np.testing.assert_allclose(out, sums.collapse(), atol=2e-3)


@pytest.mark.parametrize("size", [(16, 24), (13, 7), (30, 41), (1, 1)])
def test_reduced_pixels_are_means_of_what_they_cover(size):
    picture = texture(5, (30, 41, 3))
    rows, columns = (
        np.array([[max(0, min(j + 1, (i + 1) * n / m) - max(j, i * n / m)) * m / n
                   for j in range(n)] for i in range(m)])
        for n, m in zip((30, 41), size, strict=True)
    )  # fmt: skip
    wanted = np.einsum("ij,jkc,lk->ilc", rows, picture / 255, columns)
    np.testing.assert_allclose(reduction.reduced(picture, *size), wanted, atol=1e-5)


def test_reduced_sizes_are_few_and_about_a_third_of_a_megapixel():
    cameras = [(4000, 6000), (4016, 6016), (3456, 5184), (3648, 5472), (2848, 4272)]
    assert len({reduction.size(*c) for c in cameras}) == 1
    for height, width in [*cameras, (3000, 4000), (2160, 3840), (3000, 3000)]:
        rows, columns = reduction.size(height, width)
        assert 300_000 < rows * columns < 400_000
        assert rows % 64 == columns % 64 == 0
    assert reduction.size(16000, 24000) == (1984, 2944)  # not below an eighth
    assert reduction.size(520, 520, 2) == (256, 256)
    assert reduction.size(20, 20, 2) == (20, 20)
