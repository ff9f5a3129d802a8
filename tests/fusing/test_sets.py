"""Exposures that a network weighs all at once: any order, any number, holes, sizes, memory."""

import itertools
import weakref

import fake_blend
import helpers_scenes as scenes
import numpy as np
import pytest
from helpers_systems import drawn

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import blending, sets
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.fusing.photographs import Scene
from mgdn_jax.metrics import exposure_similarity, luminance
from mgdn_jax.systems.mgdn.network import Config

UINT8 = np.dtype(np.uint8)
ORDERS = list(itertools.permutations(range(3)))


def make(kind="pyramid"):
    card = {"task": "multi-exposure photographs"}
    config = fake_blend.Config(kind=kind)
    return Fuser("fake_blend", config, {"gain": np.ones((), np.float32)}, card=card)


def bracket(count=3, height=64, width=80, seed=0):
    return scenes.bracket(np.linspace(-2.5, 2.5, count), seed, height, width)[1]


def weights_of(pictures):
    """What the set of `fake_blend` gives them."""
    means = np.stack([x.mean(-1) / np.float32(255) for x in pictures])
    raised = np.exp(-25 * (means - 0.5) ** 2)
    return raised / raised.sum(0)


def weigh(pictures):
    return np.moveaxis(weights_of([255 * x for x in pictures]), 0, -1)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_weights_of_all_pictures_blend_their_details(count):
    pictures = bracket(count)
    none = np.zeros(pictures[0].shape[:2], np.float32)
    mixture = blending.Mixture(list(weights_of(pictures)), none)
    wanted = 255 * np.clip(blending.blend(pictures, count, mixture, 0), 0, 1)
    fused = make().fuse(*pictures)
    assert fused.pixels.dtype == np.uint8
    assert np.abs(fused.pixels - wanted).max() <= 0.51
    assert "weighed all pictures at once, at 80x64" in str(fused.report)
    plain = np.sum([w[..., None] * x for w, x in zip(weights_of(pictures), pictures, strict=True)],
                   0)  # fmt: skip
    assert np.abs(make("set")(*pictures) - plain).max() <= 0.51


@pytest.mark.parametrize("scale", [1, 2])
def test_no_order_changes_a_bit(scale):
    pictures = bracket()
    fuser = make()
    wanted = fuser(*pictures, scale=scale)
    for order in ORDERS:
        np.testing.assert_array_equal(fuser(*(pictures[i] for i in order), scale=scale), wanted)


def test_equally_bright_pictures_have_an_order_too():
    rng = np.random.default_rng(0)
    one = rng.random((40, 44, 3)).astype(np.float32)
    pictures = [one, one[::-1].copy(), one[:, ::-1].copy()]  # the same mean but for rounding
    fuser = make()
    results = [fuser(*(pictures[i] for i in order), checks=False) for order in ORDERS]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    assert sets.order([one, one]) == [0, 1]


def test_a_twin_is_no_third_opinion_but_counts():
    one, two = bracket(2)
    fuser = make("set")
    weights = weights_of([one, two, two])
    plain = (1 - weights[0])[..., None] * two + weights[0][..., None] * one
    assert np.abs(fuser(two, one, two) - plain).max() <= 0.51


def test_three_exposures_are_at_least_as_good_as_two():
    pictures = bracket(3, 120, 160)
    grays = [luminance(x) for x in pictures]
    fuser = make()
    scores = [
        exposure_similarity(luminance(fuser(*chosen)), *grays)
        for chosen in (pictures, pictures[::2], pictures[:2], pictures[1:])
    ]
    assert scores[0] == max(scores)


def test_pictures_are_held_one_at_a_time():
    pictures, held, most = bracket(6), 0, 0

    class Pixels(np.ndarray):
        pass

    def gone():
        nonlocal held
        held -= 1

    loaded = []

    def load(number):
        nonlocal held, most
        picture = pictures[number].copy().view(Pixels)
        weakref.finalize(picture, gone)
        loaded.append(number)
        held += 1
        most = max(most, held)
        return picture

    ticks = []
    result = sets.fuse(
        Scene(6, load), weigh, size=(32, 40), dtype=UINT8, tick=lambda: ticks.append(1)
    )
    assert most <= 2
    assert loaded == [*range(6), *range(6)]  # dark to bright already
    assert len(ticks) == 13
    assert result.size == (32, 40)


def test_the_reduced_judge_is_nearly_as_good():
    pictures = bracket(3, 120, 160)
    grays = [luminance(x) for x in pictures]
    fuser = make()
    whole, reduced = fuser(*pictures), fuser(*pictures, scale=2)
    assert (whole != reduced).any()
    scores = [exposure_similarity(luminance(x), *grays) for x in (whole, reduced)]
    assert scores[1] > scores[0] - 0.01


@pytest.mark.parametrize("size", [None, (32, 40)])
def test_what_is_missing_has_no_weight(size):
    pictures = bracket()
    covers = [np.ones((64, 80), bool) for _ in pictures]
    covers[0][:, :24] = False
    covers[1][:40, :24] = False
    covers[2][:16, :24] = False  # nobody is there
    results = []
    for fill in (0, 255):
        holed = [np.where(c[..., None], x, np.uint8(fill)) for c, x in zip(covers, pictures,
                                                                          strict=True)]  # fmt: skip
        scene = Scene(3, holed.__getitem__, covers.__getitem__)
        results.append(sets.fuse(scene, weigh, size=size, has_scales=False, dtype=UINT8).picture)
    np.testing.assert_array_equal(*results)
    # The third one is alone there, but for the two pixels next to its rim.
    np.testing.assert_array_equal(results[0][20:38, :21], pictures[2][20:38, :21])
    whole = sets.fuse(
        Scene(3, pictures.__getitem__), weigh, size=size, has_scales=False, dtype=UINT8
    )
    away = np.abs(results[0].astype(int) - whole.picture)[:, 30:]
    assert away.max() <= (0 if size is None else 2)


def test_a_rim_that_is_missing_leaves_no_seam():
    pictures = bracket()
    cover = np.ones((64, 80), bool)
    cover[:, :4] = cover[60:] = False
    covers = [None, cover, None]
    holed = [pictures[0], np.where(cover[..., None], pictures[1], 0).astype(np.uint8), pictures[2]]
    whole, rimmed = (
        sets.fuse(Scene(3, x.__getitem__, c.__getitem__), weigh, dtype=UINT8).picture.astype(int)
        for x, c in ((pictures, [None] * 3), (holed, covers))
    )
    difference = (rimmed - whole).mean(-1)
    assert np.abs(difference).mean() < 4
    assert np.abs(np.diff(difference[:56], axis=1)).max() < 12


@pytest.mark.parametrize("stops", [(-2.5, 0, 2.5), (-2, 2)])
def test_a_large_hole_changes_its_surroundings_alone(stops):
    pictures = scenes.bracket(stops, 0, 160, 200)[1]
    count = len(pictures)

    def mertens(smalls):
        return np.moveaxis(np.stack(blending.normalised(blending.mertens(smalls))), 0, -1)

    whole = sets.fuse(Scene(count, pictures.__getitem__), mertens, dtype=UINT8)
    whole, cover = whole.picture.astype(int), np.ones((160, 200), bool)
    cover[:, :60] = False  # 30 %
    for index in range(count):
        results = []
        for hidden in (0, 255):
            holed, covers = list(pictures), [None] * count
            holed[index] = np.where(cover[..., None], pictures[index], np.uint8(hidden))
            covers[index] = cover
            scene = Scene(count, holed.__getitem__, covers.__getitem__)
            results.append(sets.fuse(scene, mertens, dtype=UINT8, has_depth=True))
        np.testing.assert_array_equal(results[0].picture, results[1].picture)
        assert index not in results[0].depth[:, :60]  # it is not there, whatever fills the hole
        difference = np.abs(results[0].picture - whole)
        assert difference[:, 90:].max() <= 4
        assert difference[:, :60].mean() < 4


def test_alpha_is_a_hole():
    pictures = bracket()
    alpha = np.full((64, 80, 1), 255, np.uint8)
    holed = [np.concatenate([x, alpha], -1) for x in pictures]
    holed[1][:, 40:, 3] = 0
    fused, other = [], holed[1].copy()
    other[:, 40:, :3] = 255
    for middle in (holed[1], other):
        fused.append(make()(holed[0], middle, holed[2]))
    np.testing.assert_array_equal(*fused)
    assert (fused[0][..., 3] == 255).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_types_and_channels(dtype):
    pictures = bracket()
    wanted = make()(*pictures)
    fused = make()(*(scenes.to(dtype, x / 255) for x in pictures))
    assert fused.dtype == dtype
    full = 1 if dtype == np.float32 else 65535
    assert np.abs(255 * (fused / full) - wanted).max() < 0.6
    grays = [x[..., 1] for x in pictures]
    assert make()(*grays).shape == (64, 80)
    mixed = make()(pictures[0], grays[1], pictures[2])
    assert mixed.shape == (64, 80, 3)
    tall = make()(*(x.swapaxes(0, 1) for x in pictures), scale=2)
    assert np.abs(tall.swapaxes(0, 1).astype(int) - make()(*pictures, scale=2)).max() <= 1


def test_the_number_of_the_picture_that_counts_most():
    pictures = bracket()
    turned = [pictures[i] for i in (2, 0, 1)]
    depth = make().fuse(*turned, has_depth=True).depth
    np.testing.assert_array_equal(depth, np.argmax(weights_of(turned), 0))


@pytest.mark.parametrize("scale", [1, 2])
def test_one_program_for_each_number_and_size(scale):
    fuser = make()
    done = []
    for seed in range(2):
        for count in (2, 3):
            pictures, before = bracket(count, seed=seed), len(done)
            fuser(*pictures, scale=scale, progress=lambda *at: done.append(at))
            assert done[-1][0] == done[-1][1] == len(done) - before
        assert fuser.programs == 2
    assert len(fuser.batch([bracket(2), bracket(3)], scale=scale)) == 2
    assert fuser.programs == 2


def test_stretch_and_values():
    pictures = bracket()
    fuser = make()
    values = fuser.values(pictures)
    assert values.dtype == np.float32
    assert np.abs(255 * np.clip(values, 0, 1) - fuser(*pictures)).max() <= 0.51
    stretched = fuser(*pictures, stretch="minmax")
    assert (stretched.min(), stretched.max()) == (0, 255)


def test_a_set_is_a_bracket_whatever_its_card_says():
    fuser = Fuser("fake_blend", fake_blend.Config(kind="set"), {"gain": np.ones((), np.float32)})
    assert fuser.task.name == "exposure"
    assert make().task is fuser.task
    steps = fuser.fuse(*bracket(3)[::-1], order="brightness").report.steps
    assert "order" in {step["step"] for step in steps}


def test_one_picture_is_no_set():
    with pytest.raises(InputError, match="fuses 2 or more pictures, but was given 1"):
        make()(bracket()[0])
    x = np.zeros((1, 8, 8, 3), np.float32)
    assert make().network(x, x, x).shape == (1, 8, 8, 3)
    with pytest.raises(InputError, match="the network takes"):
        make().network(x)
    with pytest.raises(InputError, match="the network takes"):
        make().network(x, x, x[..., :1])


def test_buckets_and_tiles_of_the_real_network():
    """Padding beyond the extent and cuts change nothing that is seen; neither does the order."""
    config = Config(
        features=12, depths=(1,), heads=(3,), window=4, guidance="set", head="pyramid", patch=2
    )
    _, params = drawn("mgdn", config, 0.1)
    fuser = Fuser("mgdn", config, params)
    pictures = bracket(2, 44, 60)
    wanted = fuser(*pictures)
    bucketed = fuser(*pictures[::-1], bucket=64)
    assert np.abs(bucketed.astype(int) - wanted).max() <= 1
    fuser(*(x[:, :50] for x in pictures), bucket=64)
    assert fuser.programs == 2
    tiled = fuser(*pictures, tile=48)
    assert np.abs(tiled.astype(int) - wanted).mean() < 1.5
