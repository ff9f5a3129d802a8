"""Noise and JPEG of synthetic sources: the same kind on both, and a block grid that moves."""

import numpy as np
import pytest

from mgdn_jax.data import degradation
from mgdn_jax.data.degradation import Degradation, degrade
from mgdn_jax.errors import InputError
from mgdn_jax.io import codec

INNER = (slice(16, 80), slice(16, 112))
FLAT = np.full((1, 96, 128), 100.0, np.float32)


def flat(spec, seed):
    return degrade((FLAT, FLAT), INNER, np.random.default_rng(seed), spec)


def test_nothing_is_rounding_alone():
    rng = np.random.default_rng(0)
    sources = tuple(rng.uniform(-5, 260, (3, 96, 128)).astype(np.float32) for _ in range(2))
    results = degrade(sources, INNER, rng, Degradation(noise_share=0.0, jpeg_share=0.0))
    for source, result in zip(sources, results, strict=True):
        expected = np.moveaxis(np.clip(np.rint(source), 0, 255).astype(np.uint8), 0, -1)
        np.testing.assert_array_equal(result, expected[16:80, 16:112], strict=True)


def test_noise_is_as_strong_on_both_and_not_the_same():
    spreads = []
    for seed in range(40):
        rest = [x - 100.0 for x in flat(Degradation(noise_share=1.0, jpeg_share=0.0), seed)]
        one, two = (x.std() for x in rest)
        assert abs(one - two) < 0.1 * one + 0.03
        if one > 1:
            assert abs(np.corrcoef(rest[0].ravel(), rest[1].ravel())[0, 1]) < 0.06
        spreads.append(one)
    assert min(spreads) < 0.5
    assert 2.5 < max(spreads) < 3.2


def test_jpeg_is_of_one_quality_for_both_and_its_blocks_lie_anywhere(monkeypatch):
    written = []

    def encode(picture, level, *, subsampling):
        written.append((picture.shape, level, subsampling))
        return codec.encode_jpeg(picture, level, subsampling=subsampling)

    monkeypatch.setattr(degradation, "encode_jpeg", encode)
    for seed in range(150):
        spec = Degradation(noise_share=0.0, jpeg_share=1.0, quality=(60, 64))
        for result in flat(spec, seed):
            assert result.shape == (64, 96, 1)
            assert np.abs(result - 100.0).max() <= 1
    pairs = list(zip(written[::2], written[1::2], strict=True))
    assert all(one == two for one, two in pairs)
    assert {level for _, level, _ in written} == {60, 61, 62, 63, 64}
    assert {chroma for _, _, chroma in written} == {"4:2:0", "4:4:4"}
    above = {shape[0] - 64 for shape, _, _ in written}
    left = {shape[1] - 96 for shape, _, _ in written}
    assert above == left == set(range(16))


def test_shares_are_probabilities():
    touched = sum(
        any((x != 100).any() for x in flat(Degradation(noise_share=0.25, jpeg_share=0.0), seed))
        for seed in range(200)
    )
    assert 25 < touched < 80
    for bad in ({"noise_share": 2.0}, {"jpeg_share": -0.1}, {"quality": (0, 50)}):
        with pytest.raises(InputError, match=r"probability|two numbers"):
            Degradation(**bad)
