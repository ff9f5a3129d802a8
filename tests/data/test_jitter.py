"""Jitter of exposure, contrast and polarity; test_data_loader has the other fields."""

import numpy as np
import pytest

from mgdn_jax.data.augmentation import Jitter
from mgdn_jax.data.examples import make_draw
from mgdn_jax.errors import InputError

A, B = np.float32(0.25), np.float32(0.6)
PAIRS = {"set": "pairs", "roles": ["a", "b"]}
AIMED = {"set": "pairs", "roles": ["a", "b", "target"]}


def drawn(count=400, **fields):
    """(count, 2): what two plain pictures of A and B become."""
    jitter, rng = Jitter(**fields), np.random.default_rng(0)
    rows = []
    for _ in range(count):
        plain = {role: np.full((2, 3, 1), value) for role, value in (("a", A), ("b", B))}
        images = jitter.sources(plain, rng)
        assert all((plain[role] == value).all() for role, value in (("a", A), ("b", B)))
        for image in images.values():
            assert image.dtype == np.float32
            assert (image == image[0, 0, 0]).all()
        rows.append([images[role][0, 0, 0] for role in "ab"])
    return np.array(rows)


def changed(values):
    """(count, 2) bool: which of the two sources is another."""
    return values != [A, B]


def test_what_is_off_draws_nothing():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    images = {role: rng.permuted(np.linspace(0, 1, 12, dtype=np.float32)).reshape(2, 2, 3)
              for role in ("a", "b", "target")}  # fmt: skip
    before = rng.bit_generator.state
    for role, image in Jitter().sources(images, rng).items():
        assert image.tobytes() == images[role].tobytes()
    assert rng.bit_generator.state == before
    assert Jitter().parting == ()


def test_exposure_multiplies_one_source():
    values = drawn(exposure=3.0)
    which = changed(values)
    assert (which.sum(1) == 1).all()
    assert 0.4 < which[:, 0].mean() < 0.6
    gains = np.log(values[:, 0] / A)[which[:, 0]] / np.log(3)
    assert -1.0001 < gains.min() < -0.97
    assert 0.97 < gains.max() < 1.0001
    assert abs(np.median(gains)) < 0.15  # log-uniform
    bright = values[which[:, 1], 1]
    assert bright.max() == 1  # what passes white is white
    assert 0.2 < (bright == 1).mean() < 0.7


def test_contrast_moves_one_source_towards_a_level():
    values = drawn(contrast=0.8)
    which = changed(values)
    assert (which.sum(1) == 1).all()
    a = values[which[:, 0], 0]
    assert A * 0.2 < a.min() < A * 0.6  # towards black
    assert 0.6 < a.max() < A + 0.8 * (1 - A)  # towards white
    # Of a whole picture: what was a range of 1 becomes one of 1 - part.
    jitter, rng = Jitter(contrast=0.8), np.random.default_rng(0)
    ramp = np.linspace(0, 1, 5, dtype=np.float32).reshape(1, 5, 1)
    spans = []
    for _ in range(300):
        images = jitter.sources({"a": ramp, "b": ramp}, rng)
        (flat,) = [x for x in images.values() if (x != ramp).any()]
        steps = np.diff(flat[0, :, 0])
        np.testing.assert_allclose(steps, steps[0], atol=1e-6)
        spans.append(4 * steps[0])
    assert 0.199 < min(spans) < 0.22
    assert 0.98 < max(spans) <= 1


def test_exposure_and_contrast_meet_the_same_source():
    assert (changed(drawn(exposure=2.0, contrast=0.5)).sum(1) == 1).all()


def test_polarity_inverts_a_share_of_a_alone():
    values = drawn(polarity=0.3)
    assert (values[:, 1] == B).all()
    inverted = values[:, 0] == 1 - A
    assert (values[~inverted, 0] == A).all()
    assert 0.24 < inverted.mean() < 0.36
    assert (drawn(50, polarity=1.0)[:, 0] == 1 - A).all()


def test_all_together_stay_in_range():
    values = drawn(
        *(300,), gamma=2.0, clip=0.3, exposure=8.0, contrast=0.9, polarity=0.5, scale=2.0
    )
    assert values.min() >= 0
    assert values.max() <= 1
    assert len(np.unique(values[:, 0])) > 200


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"exposure": 0.5}, "jitter.exposure is 0.5; use 1 (off) to 16."),
        ({"exposure": 17}, "jitter.exposure is 17; use 1 (off) to 16."),
        ({"contrast": -0.1}, "jitter.contrast is -0.1; use 0 (off) to less than 1."),
        ({"contrast": 1.0}, "jitter.contrast is 1.0; use 0 (off) to less than 1."),
        ({"polarity": 1.1}, "jitter.polarity is 1.1; use 0 (off) to 1, a share."),
        ({"polarity": float("nan")}, "jitter.polarity is nan; give a finite number."),
        ({"polarity": True}, "jitter.polarity is True; give a finite number."),
        ({"polarty": 0.1}, "jitter has no field polarty; choose from scale, gamma, noise, clip"),
    ],
)
def test_fields_out_of_range_are_named(fields, message):
    with pytest.raises(InputError) as caught:
        make_draw("pairs", PAIRS, 1, None, fields)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "off"),
    [
        ("gamma", 2, 1),
        ("clip", 0.1, 0),
        ("exposure", 2, 1),
        ("contrast", 0.1, 0),
        ("polarity", 1, 0),
    ],
)
def test_targets_forbid_what_parts_the_sources_from_them(field, value, off):
    with pytest.raises(InputError) as caught:
        make_draw("pairs", AIMED, 1, None, {field: value, "noise": 0.1, "scale": 2})
    words = f"jitter.{field} would part the sources from their target; set it to {off} for pairs"
    assert words in str(caught.value)
    assert make_draw("pairs", AIMED, 1, None, {field: off, "noise": 0.1, "scale": 2})
    with pytest.raises(InputError, match="jitter belongs to task 'pairs'; for 'mff' set its scale"):
        make_draw("mff", {"set": "natural", "roles": ["image", "labels"]}, 1, None, {field: value})
