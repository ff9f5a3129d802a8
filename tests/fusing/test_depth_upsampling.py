"""Depth maps through a network: sizes, holes, limits, and what is said."""

import dataclasses
import functools

import fake_depth
import fake_fusion
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import filled

import mgdn_jax
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import depth as upsampling
from mgdn_jax.fusing.depth import DEFAULT, DepthUpsampler, route
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.io import depth as depth_files
from mgdn_jax.io import files
from mgdn_jax.io.depth import Depth
from mgdn_jax.quantities import depth as quantity
from mgdn_jax.systems import registry

CARD = {"preparation": {"quantity": "depth", "scale": 4, "margin": 0.02}}


@functools.cache
def network(guide=0.0, uses_mean=0.0, scale=4):
    config = fake_depth.Config(guide=guide, uses_mean=uses_mean)
    card = {"preparation": quantity.DepthPreparation(scale=scale).to_dict()}
    return Fuser("fake_depth", config, {"bias": jnp.zeros(())}, card=card)


def scene(low=(10, 12), full=(40, 48), seed=0, dtype=np.uint8):
    """A map from 1 to 3 and a photograph."""
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, np.iinfo(dtype).max, (*full, 3), dtype, endpoint=True)
    return (1 + 2 * rng.random(low)).astype(np.float32), rgb


def enlarged(low, size):
    """What the fake network gives back: the map as the network gets it, inside the limits."""
    limits = quantity.limits_of(low, 0.02)
    return quantity.enlarge(low, size).clip(limits.low, limits.high)


def said(result, step):
    return " ".join(entry["says"] for entry in result.report.steps if entry["step"] == step)


def test_the_preparation_is_that_of_the_card():
    low, rgb = scene()
    result = DepthUpsampler(network(guide=0.01))(low, rgb)
    limits = quantity.limits_of(low, 0.02)
    inputs = quantity.network_inputs(rgb, low, limits)
    values = network(guide=0.01).network(*(x[None] for x in inputs))[0, ..., 0]
    expected = quantity.restored(np.asarray(values).clip(0, 1), limits)
    assert result.depth.dtype == np.float32
    np.testing.assert_allclose(result.depth, expected, atol=1e-6)
    assert not np.allclose(result.depth, enlarged(low, (40, 48)), atol=1e-3)
    assert not result.missing.any()
    assert result.warnings == ()
    assert result.tiles == 1
    assert said(result, "size") == "the depth map was enlarged 4 times from 12x10 to 48x40."


@pytest.mark.parametrize("dtype", [np.uint16, np.float64])
def test_photographs_of_any_type_are_the_same(dtype):
    low, rgb = scene()
    upsampler = DepthUpsampler(network(guide=0.01))
    expected = upsampler(low, rgb).depth
    other = rgb / 255 if dtype is np.float64 else rgb.astype(np.uint16) * 257
    np.testing.assert_allclose(upsampler(low, other.astype(dtype)).depth, expected, atol=1e-6)
    opaque = np.concatenate([rgb, np.full((40, 48, 1), 255, np.uint8)], -1)
    result = upsampler(low, opaque)
    np.testing.assert_array_equal(result.depth, expected)
    assert "transparency" in said(result, "guide")
    gray = upsampler(low, rgb[..., 0])
    triple = upsampler(low, rgb[..., :1].repeat(3, -1))
    np.testing.assert_array_equal(gray.depth, triple.depth)
    assert "gray" in said(gray, "guide")


def test_any_unit_and_sign():
    low, rgb = scene()
    upsampler = DepthUpsampler(network(guide=0.01))
    plain = upsampler(low, rgb)
    scaled = upsampler(low * 1000, rgb, unit="mm")
    np.testing.assert_allclose(scaled.depth, 1000 * plain.depth, rtol=1e-5)
    assert (plain.unit, scaled.unit) == (None, "mm")
    below = upsampler(low - 2, rgb)
    np.testing.assert_allclose(below.depth, plain.depth - 2, atol=1e-5)
    assert "values of the depth map are negative" in below.warnings[0]
    levels = upsampler((100 * low).astype(np.uint16)[..., None], rgb)
    assert abs(levels.depth - 100 * plain.depth).max() < 3


def test_holes_are_filled_for_the_network_and_are_there_again():
    low, rgb = scene()
    holes = low.copy()
    holes[2:4, 5:8] = 0
    holes[9, 0], holes[0, 0] = np.nan, np.inf
    result = DepthUpsampler(network())(holes, rgb)
    full, valid = quantity.fill_holes(holes)
    expected = np.kron(~valid, np.ones((4, 4), bool))
    np.testing.assert_array_equal(result.missing, expected)
    np.testing.assert_array_equal(np.isnan(result.depth), expected)
    inside = enlarged(full, (40, 48))
    np.testing.assert_allclose(result.depth[~expected], inside[~expected], atol=1e-5)
    assert "8 values of the depth map (6.7 %) are missing" in said(result, "holes")
    sparse = np.where(np.arange(120).reshape(10, 12) % 3 == 0, low, 0)
    assert (
        "66.7 % of the depth map is missing" in DepthUpsampler(network())(sparse, rgb).warnings[0]
    )
    with pytest.raises(InputError, match="empty"):
        DepthUpsampler(network())(np.zeros((10, 12)), rgb)


def test_a_map_of_full_size_is_refined_as_it_is():
    low, rgb = scene(low=(40, 48))
    result = DepthUpsampler(network())(low, rgb)
    np.testing.assert_allclose(result.depth, low, atol=1e-6)
    assert "has the size of the photograph already" in said(result, "size")
    assert "nothing was enlarged" in said(result, "size")
    assert "redrawn as if it had been enlarged" in result.warnings[0]


def test_units_that_no_sensor_measures_in():
    low, rgb = scene()
    enlarge = DepthUpsampler(network())
    metres = Depth(low * (2000 / low.max()), "m", "low.npy")
    assert (
        enlarge(metres, rgb)
        .warnings[0]
        .startswith(
            "low.npy reaches 2000 metres; if these are millimetres or levels, give the unit"
        )
    )
    close = dataclasses.replace(metres, values=low * (9 / low.max()), unit="mm")
    assert "ends at 9 millimetres; if these are metres" in enlarge(close, rgb).warnings[0]
    for unit in ("m", "levels", None):
        assert enlarge(dataclasses.replace(close, unit=unit), rgb).warnings == ()
    assert enlarge(dataclasses.replace(metres, unit="mm"), rgb).warnings == ()


def test_limits_of_another_unit_are_refused():
    low, rgb = scene()
    message = "the limits .* leave out all of the depth map, .* give limits in the same unit"
    for limits in ((low.max(), 2 * low.max()), (low.min() / 2000, low.max() / 1000)):
        with pytest.raises(InputError, match=message):
            DepthUpsampler(network())(low, rgb, limits=limits)


def test_a_map_that_is_nearly_all_missing():
    low, rgb = scene()
    one = np.zeros_like(low)
    one[5, 5] = 1234
    result = DepthUpsampler(network())(one, rgb)
    assert "119 values of the depth map (99.2 %) are missing" in said(result, "holes")


def test_a_constant_map_stays_as_it_is():
    _, rgb = scene()
    low = np.full((10, 12), 7.25)
    low[3, 3] = 0
    result = DepthUpsampler(network(guide=1.0))(low, rgb)
    assert set(np.unique(result.depth[~result.missing])) == {7.25}
    assert result.missing.sum() == 16
    assert result.tiles == 0
    assert "one value everywhere" in said(result, "depth")


@pytest.mark.parametrize(
    ("low", "full", "passes"),
    [
        ((10, 12), (41, 50), [((10, 12), (41, 50))]),  # as good as 4x
        ((11, 13), (41, 50), [((11, 13), (41, 50))]),
        ((20, 24), (40, 48), [((10, 12), (40, 48))]),  # 2x: reduced to what 4x takes
        ((9, 11), (41, 50), [((10, 12), (41, 50))]),  # 4.5x: brought to 4x
        ((5, 6), (40, 48), [((5, 6), (20, 24)), ((10, 12), (40, 48))]),  # 8x in two runs
        ((2, 3), (32, 48), [((2, 3), (8, 12)), ((8, 12), (32, 48))]),  # 16x in two runs
        ((1, 1), (3, 5), [((1, 1), (3, 5))]),
        ((40, 48), (40, 48), [((40, 48), (40, 48))]),
    ],
)
def test_factors_lead_through_the_scale_of_the_network(low, full, passes):
    assert list(route(low, full, 4).passes) == passes
    depth, rgb = scene(low, full)
    result = DepthUpsampler(network())(depth, rgb)
    assert result.depth.shape == full
    assert np.isfinite(result.depth).all()
    if len(passes) > 1:
        assert f"in {len(passes)} runs of the network, which is for 4x" in said(result, "size")
    if passes[-1][0] not in (low, full, *(size for _, size in passes)):
        rows, columns = passes[-1][0]
        assert f"resampled to {columns}x{rows}" in said(result, "size")


def test_a_factor_below_the_network_keeps_what_the_map_has():
    rows, columns = np.mgrid[0:40, 0:48] / 8
    smooth = (2 + np.sin(rows) * np.cos(columns)).astype(np.float32)
    _, rgb = scene()
    low = quantity.reduce(smooth, 2)
    result = DepthUpsampler(network())(low, rgb)
    plain = quantity.enlarge(low, (40, 48))
    through_four = quantity.enlarge(quantity.reduce(low, 2), (40, 48))
    errors = [float(abs(x - smooth).mean()) for x in (result.depth, plain, through_four)]
    assert errors[0] < 0.5 * errors[2]
    assert errors[0] < 1.5 * errors[1]
    assert "was added again" in said(result, "size")


def test_networks_of_other_scales():
    low, rgb = scene((20, 24))
    result = DepthUpsampler(network(scale=2))(low, rgb)
    np.testing.assert_allclose(result.depth, enlarged(low, (40, 48)), atol=1e-5)
    assert "resampled" not in said(result, "size")
    assert DepthUpsampler(network(scale=1))(low, rgb).depth.shape == (40, 48)


def test_sizes_that_do_not_fit_are_refused():
    upsampler = DepthUpsampler(network())
    for low, full, words in (
        ((10, 12), (48, 40), "12x10 values and the photograph 40x48 pixels.*turn one of them"),
        ((40, 48), (48, 40), "turn one of them"),
        ((10, 10), (40, 80), "cut them to the same view"),
        ((80, 96), (40, 48), "at least as large"),
    ):
        with pytest.raises(InputError, match=words):
            upsampler(*scene(low, full))


def test_limits():
    low, rgb = scene()
    upsampler = DepthUpsampler(network())
    wide = upsampler(low, rgb, limits=(0, 10))
    np.testing.assert_allclose(wide.depth, quantity.enlarge(low, (40, 48)), atol=1e-5)
    assert wide.warnings == ()
    narrow = upsampler(low, rgb, limits=quantity.Limits(1.5, 2.0))
    assert 1.5 <= narrow.depth.min() < narrow.depth.max() <= 2.0
    assert "lie beyond the limits 1.5 and 2" in narrow.warnings[0]
    for limits in ((2, 1), (1, 1), (0, np.nan)):
        with pytest.raises(InputError, match="limits"):
            upsampler(low, rgb, limits=limits)


def test_large_pictures_go_through_in_tiles_that_agree():
    low, rgb = scene()
    upsampler = DepthUpsampler(network(guide=0.01, uses_mean=0.3))
    whole = upsampler(low, rgb)
    calls = []
    tiled = upsampler(
        low, rgb, tile=16, overlap=4, progress=lambda done, total: calls.append((done, total))
    )
    np.testing.assert_allclose(tiled.depth, whole.depth, atol=1e-5)
    assert tiled.tiles == 12
    assert calls == [(k + 1, 24) for k in range(24)]  # once for the sums, once for the result
    local = upsampler(low, rgb, tile=16, overlap=4, tile_context="local")
    assert abs(local.depth - whole.depth).max() > 1e-3
    flips = upsampler(low, rgb, ensemble="flips")
    np.testing.assert_allclose(flips.depth, whole.depth, atol=1e-5)


def test_progress_counts_all_runs():
    calls = []
    low, rgb = scene((5, 6))
    DepthUpsampler(network())(low, rgb, progress=lambda *count: calls.append(count))
    assert calls == [(1, 2), (2, 2)]


def test_options_that_mean_nothing_here_are_refused():
    low, rgb = scene()
    with pytest.raises(InputError, match="no option 'align' for depth maps"):
        DepthUpsampler(network())(low, rgb, align=True)
    with pytest.raises(InputError, match="did you mean 'tile'"):
        DepthUpsampler(network())(low, rgb, tiles=16)
    with pytest.raises(InputError, match="tile is 6"):
        DepthUpsampler(network())(low, rgb, tile=6)


def test_inputs_that_are_none():
    low, rgb = scene()
    upsampler = DepthUpsampler(network())
    for depth, picture, words in (
        (rgb, low, r"the depth map has shape \(40, 48, 3\)"),
        (low, rgb * 1.0, "float pixels from .* bring them to"),
        (low, np.full((40, 48, 3), np.nan), "NaN"),
        (low > 2, rgb, "type bool"),
        (low[:0], rgb, "shape"),
        ("missing.png", rgb, "missing.png does not exist"),
    ):
        with pytest.raises(InputError, match=words):
            upsampler(depth, picture)
    with pytest.raises(InputError, match="unit is 'inch'"):
        upsampler(low, rgb, unit="inch")


def test_16_bit_depth_beside_an_8_bit_photograph(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    low, rgb = scene()
    stored = np.rint(low * 1000).astype(np.uint16)
    stored[4, 4] = 0
    files.write_image("low.png", stored)
    files.write_image("rgb.jpg", rgb)
    result = mgdn_jax.upsample_depth("low.png", "rgb.jpg", model=network())
    assert result.unit == "mm"
    assert "taken as millimetres" in said(result, "unit")
    assert 950 < np.nanmin(result.depth) < np.nanmax(result.depth) < 3100
    written = result.save("high.png")
    assert written.unit == "mm"
    high = files.read_image("high.png")
    assert high.dtype == np.uint16
    assert (high[16:20, 16:20] == 0).all()
    np.testing.assert_allclose(high[~result.missing], result.depth[~result.missing], atol=0.51)
    result.save_preview("look.png")
    assert files.read_image("look.png").ndim == 3
    metres = mgdn_jax.upsample_depth("low.png", "rgb.jpg", model=network(), unit="m")
    assert metres.unit == "m"
    assert said(metres, "unit") == ""
    assert "cut off" in metres.save("far.png").warnings[0]
    assert "reaches 2991 metres" in metres.warnings[0]
    assert "cut off" in metres.warnings[1]
    again = mgdn_jax.upsample_depth(depth_files.read_depth("low.png"), rgb, model=network())
    assert (again.unit, said(again, "unit")) == ("mm", said(result, "unit"))


def test_weights_without_a_card_are_taken_for_four_times():
    fuser = Fuser("fake_depth", fake_depth.Config(), {"bias": jnp.zeros(())})
    upsampler = DepthUpsampler(fuser)
    assert upsampler.preparation.scale == 4
    assert "4x was assumed" in upsampler(*scene()).warnings[0]


def test_each_kind_of_network_names_the_other_command():
    pictures = scene((40, 48))
    with pytest.raises(InputError, match="takes a depth map beside a photograph; use mgdn depth"):
        network()(*pictures)
    with pytest.raises(InputError, match="takes pictures; use mgdn fuse"):
        DepthUpsampler(Fuser("fake_fusion", fake_fusion.Config(), {"bias": jnp.zeros(())}))
    other = Fuser(
        "fake_depth",
        fake_depth.Config(),
        {"bias": jnp.zeros(())},
        card={"preparation": {"quantity": "radiance"}},
    )
    with pytest.raises(InputError, match="exposures with their times; use mgdn hdr"):
        DepthUpsampler(other)
    wide = Fuser(
        "fake_depth", fake_depth.Config(in_channels=(3, 3)), {"bias": jnp.zeros(())}, card=CARD
    )
    with pytest.raises(InputError, match="takes 3, 3 channels, not a photograph of 3"):
        DepthUpsampler(wide)


def test_the_usual_weights_say_how_to_get_them(monkeypatch):
    monkeypatch.setattr("mgdn_jax.weights.zoo.bundled", dict)
    with pytest.raises(InputError, match=rf"{DEFAULT} do not come.*--config=mgdn:gdsr4"):
        DepthUpsampler()
    with pytest.raises(InputError, match="no model 'mgdn-gdrs4'"):
        DepthUpsampler("mgdn-gdrs4")


def test_the_network_of_mgdn_takes_a_map():
    config = registry.preset("mgdn", "gdsr", features=12, depths=(1,), heads=(3,), mlp_ratio=1.0)
    _, shapes, _ = registry.abstract("mgdn", config)
    params = filled(None, shapes)[1]
    upsampler = DepthUpsampler(Fuser("mgdn", config, params, card=CARD))
    low, rgb = scene((5, 6), (21, 23))
    result = upsampler(low, rgb)
    assert result.depth.shape == (21, 23)
    limits = quantity.limits_of(low, 0.02)
    assert limits.low <= result.depth.min() < result.depth.max() <= limits.high
    swapped = upsampler(low, rgb[:, ::-1])
    assert not np.allclose(swapped.depth, result.depth)


@pytest.mark.parametrize(
    ("given", "name"),
    [((60, 80), "mgdn-gdsr4"), ((20, 30), "mgdn-gdsr4"), ((11, 14), "mgdn-gdsr4"),
     ((10, 13), "mgdn-gdsr8"), ((7, 10), "mgdn-gdsr8"), ((2, 3), "mgdn-gdsr8")],
)  # fmt: skip
def test_the_usual_network_is_the_nearest(given, name):
    assert upsampling.usual(given, (60, 80)) == name


def test_one_call_takes_the_usual_network(monkeypatch, tmp_path):
    monkeypatch.setattr(upsampling, "DepthUpsampler", lambda model: lambda low, rgb, **_: model)
    files.write_image(tmp_path / "rgb.png", np.zeros((64, 80, 3), np.uint8))
    low = np.ones((8, 10), np.float32)
    assert upsampling.upsample_depth(low, tmp_path / "rgb.png") == "mgdn-gdsr8"
    assert upsampling.upsample_depth(low.repeat(2, 0).repeat(2, 1), np.zeros((64, 80, 3))) == (
        "mgdn-gdsr4"
    )
