import jax.numpy as jnp
import numpy as np
import pytest
from fake_fusion import FIRST, Config

from mgdn_jax import image
from mgdn_jax.errors import InputError
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.io import files
from mgdn_jax.io.pixels import from_float, to_float


def make(card=None, **fields):
    return Fuser("fake_fusion", Config(**fields), {"bias": np.zeros((), np.float32)}, {}, card)


GRAY = {"in_channels": (1, 1), "out_channels": 1}


def noise(shape, dtype=np.uint8, seed=0):
    values = np.random.default_rng(seed).random(shape)
    if np.issubdtype(dtype, np.floating):
        return values.astype(dtype)
    return np.rint(values * np.iinfo(dtype).max).astype(dtype)


def blend(a, b):
    return FIRST * to_float(a) + (1 - FIRST) * to_float(b)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (9, 7, 3), (1, 1), (1, 5, 3), (2, 1)])
def test_dtype_size_and_layout_come_back(dtype, shape):
    a, b = noise(shape, dtype), noise(shape, dtype, 1)
    fused = make()(a, b)
    assert fused.shape == shape
    assert fused.dtype == dtype
    expected = from_float(blend(a, b), np.dtype(dtype))
    slack = 1e-3 if dtype == np.float16 else 1e-6
    if np.dtype(dtype).kind == "u":
        slack = 1 if dtype == np.uint16 else 0  # 16 bits meet half-way values after all
    np.testing.assert_allclose(fused, expected, atol=slack, rtol=0)


def test_paths_and_jax_arrays_are_taken(tmp_path):
    a, b = noise((8, 9, 3)), noise((8, 9, 3), seed=1)
    for name, pixels in (("a.png", a), ("b.png", b)):
        files.write_image(tmp_path / name, pixels)
    fuser = make()
    expected = fuser(a, b)
    np.testing.assert_array_equal(fuser(tmp_path / "a.png", str(tmp_path / "b.png")), expected)
    np.testing.assert_array_equal(fuser(jnp.asarray(a), b), expected)
    with pytest.raises(InputError, match=r"b\.png is 9x8 but image 1 is 9x9"):
        fuser(noise((9, 9, 3)), tmp_path / "b.png")


def test_gray_and_colour_in_a_colour_network():
    gray, colour = noise((6, 5)), noise((6, 5, 3), seed=1)
    fused = make()(gray, colour)
    expected = blend(np.stack([gray] * 3, -1), colour)
    np.testing.assert_allclose(fused / 255, expected, atol=0.51 / 255)


def test_gray_networks_keep_or_mix_chroma():
    gray, one, two = noise((6, 5)), noise((6, 5, 3), seed=1), noise((6, 5, 3), seed=2)
    fuser = make(**GRAY)
    np.testing.assert_allclose(
        fuser(gray, gray[::-1]) / 255, blend(gray, gray[::-1]), atol=0.51 / 255
    )
    one, two = (to_float(x) for x in (one, two))
    ycc = image.rgb_to_ycbcr(one)
    single = fuser(to_float(gray), one)
    expected = np.concatenate(
        [FIRST * to_float(gray)[..., None] + (1 - FIRST) * ycc[..., :1], ycc[..., 1:]], -1
    )
    np.testing.assert_allclose(single, np.clip(image.ycbcr_to_rgb(expected), 0, 1), atol=1e-6)
    other = image.rgb_to_ycbcr(two)
    planes = [FIRST * ycc[..., :1] + (1 - FIRST) * other[..., :1]]
    planes += [image.fuse_chroma(ycc[..., k : k + 1], other[..., k : k + 1]) for k in (1, 2)]
    expected = np.clip(image.ycbcr_to_rgb(np.concatenate(planes, -1)), 0, 1)
    np.testing.assert_allclose(fuser(one, two), expected, atol=1e-6)


def test_alpha_is_kept_only_if_all_have_it():
    a, b = noise((5, 4, 4)), noise((5, 4, 4), seed=1)
    fuser = make()
    fused = fuser(a, b)
    np.testing.assert_array_equal(fused[..., 3], np.maximum(a[..., 3], b[..., 3]))
    np.testing.assert_array_equal(fused[..., :3], fuser(a[..., :3], b[..., :3]))
    np.testing.assert_array_equal(fuser(a, b[..., :3]), fused[..., :3])
    assert fuser(a[..., :2], b[..., :2]).shape == (5, 4, 2)


def test_mixed_layouts_give_what_the_network_gives():
    fuser = make(in_channels=(3, 1), out_channels=1)
    assert fuser(noise((6, 5, 3)), noise((6, 5))).shape == (6, 5, 1)
    with pytest.raises(InputError, match="more than pictures"):
        make(in_channels=(5, 5))(noise((6, 5)), noise((6, 5)))
    with pytest.raises(InputError, match="exposures with their times; use mgdn hdr"):
        make(in_channels=(6, 6))(noise((6, 5)), noise((6, 5)))


def test_a_stack_is_a_balanced_tree_of_unrounded_results():
    stack = [noise((6, 5, 3), seed=k) for k in range(5)]
    a, b, c, d, e = (to_float(x) for x in stack)

    def pair(x, y):
        return np.float32(FIRST) * x + np.float32(1 - FIRST) * y

    expected = pair(pair(pair(a, b), c), pair(d, e))
    fused = make()(*stack)
    np.testing.assert_allclose(fused / 255, expected, atol=0.501 / 255)
    floats = make()(*(to_float(x) for x in stack))
    np.testing.assert_allclose(floats, expected, atol=1e-6)
    gray = make(**GRAY)(*stack[:3])
    assert gray.shape == (6, 5, 3)


@pytest.mark.parametrize(
    ("bias", "low", "high"),  # where the results lie, and what "fill" takes for black and white
    [(0.0, 0.25, 0.75), (0.5, 0.75, 1.0), (-0.5, 0.0, 0.25), (2.0, None, None)],
)
def test_fill_cuts_off_before_it_spreads(bias, low, high):
    ramp = np.linspace(0.25, 0.75, 40, dtype=np.float32).reshape(5, 8)
    fuser = make(**GRAY)
    fuser.params["bias"] = np.float32(bias)
    filled = fuser(ramp, ramp, stretch="fill")
    moved = np.clip(ramp + bias, 0, 1)
    wanted = moved if low is None else (moved - low) / (high - low)  # all white: left alone
    np.testing.assert_allclose(filled, wanted, atol=1e-5)
    spread = fuser(ramp, ramp, stretch="minmax")
    np.testing.assert_allclose(spread, (ramp - 0.25) / 0.5, atol=1e-5)


def test_fill_cuts_off_before_colour_comes_back():
    fuser = make(**GRAY)
    gray, colour = noise((6, 8), np.float32), noise((6, 8, 3), np.float32, seed=1)
    ycbcr = np.asarray(image.rgb_to_ycbcr(colour))
    fuser.params["bias"] = np.float32(0.4)
    filled = fuser(gray, colour, stretch="fill")
    y = np.clip(FIRST * gray + (1 - FIRST) * ycbcr[..., 0] + 0.4, 0, 1)
    y = (y - y.min()) / (y.max() - y.min())
    assert (y == 1).sum() > 5
    wanted = image.ycbcr_to_rgb(np.concatenate([y[..., None], ycbcr[..., 1:]], -1))
    np.testing.assert_allclose(filled, np.clip(wanted, 0, 1), atol=1e-4)


def mirrored_mean(fuse, *pictures):
    """The mean over mirrored pictures from one call for each."""
    total = 0.0
    for rows in (1, -1):
        for columns in (1, -1):
            total = total + fuse(*(x[::rows, ::columns] for x in pictures))[::rows, ::columns]
    return total / 4


@pytest.mark.parametrize("options", [{}, {"tile": 8, "overlap": 4}, {"padding": "script"}])
@pytest.mark.parametrize("fields", [GRAY, {}, {"in_channels": (3, 1), "out_channels": 1}])
def test_flips_are_the_mean_over_mirrored_pictures(fields, options):
    fuser = make(uses_slopes=True, uses_mean=True, **fields)
    pictures = [0.3 + 0.4 * noise((11, 14), np.float32, seed) for seed in (0, 1)]
    wanted = mirrored_mean(lambda *x: fuser(*x, **options), *pictures)
    ticks = []
    fused = fuser(*pictures, ensemble="flips", progress=lambda *x: ticks.append(x), **options)
    np.testing.assert_allclose(fused, wanted, atol=1e-6)
    assert abs(fused - fuser(*pictures, **options)).max() > 1e-3
    assert ticks[-1] == (len(ticks), len(ticks))
    # The range is spread once, after the mean.
    filled = fuser(*pictures, ensemble="flips", stretch="minmax", **options)
    spread = (wanted - wanted.min()) / (wanted.max() - wanted.min())
    np.testing.assert_allclose(filled, spread, atol=1e-5)


@pytest.mark.parametrize("fields", [GRAY, {}])
def test_flips_leave_colour_and_alpha_in_place(fields):
    fuser = make(**fields)  # pixel by pixel: mirroring changes nothing
    for a, b in (((6, 9), (6, 9, 3)), ((6, 9, 4), (6, 9, 4))):
        pictures = noise(a), noise(b, seed=1)
        fused = fuser(*pictures, ensemble="flips")
        np.testing.assert_allclose(fused, fuser(*pictures).astype(float), atol=1)


def test_flips_of_a_stack_are_averaged_at_every_stage():
    fuser = make(uses_slopes=True, card={"inference": {"ensemble": "flips"}})
    a, b, c = (0.3 + 0.4 * noise((6, 5, 3), np.float32, k) for k in range(3))
    ticks = []
    fused = fuser(a, b, c, progress=lambda *x: ticks.append(x))
    assert len(ticks) == 8
    plain = make(uses_slopes=True)
    first = mirrored_mean(plain, a, b)
    np.testing.assert_allclose(fused, mirrored_mean(plain, first, c), atol=1e-6)
    np.testing.assert_allclose(fuser(a, b, ensemble="none"), plain(a, b), atol=1e-7)


def test_an_ensemble_that_does_not_exist_is_named():
    pixels = noise((6, 5, 3))
    with pytest.raises(InputError, match="ensemble is 'turns'; choose one of none, flips"):
        make()(pixels, pixels, ensemble="turns")
    with pytest.raises(InputError, match="on the weights' card, ensemble is 'x'"):
        make(card={"inference": {"ensemble": "x"}})


def test_values_between_stages_are_not_clipped():
    fuser = make()
    ones = np.ones((4, 4, 3), np.float32)
    zeros = np.zeros_like(ones)
    fuser.params["bias"] = np.float32(0.1)
    # The first stage leaves [0, 1]: clipped there, the result would be lower.
    expected = FIRST * 1.1 + 0.1
    np.testing.assert_allclose(fuser(ones, ones, zeros), expected, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_pictures(count):
    with pytest.raises(InputError, match="2 or more pictures, but was given"):
        make()(*[noise((4, 4))] * count)
    with pytest.raises(InputError, match="fuses 3 pictures, but was given 4"):
        make(in_channels=(3, 3, 3))(*[noise((4, 4))] * 4)


@pytest.mark.parametrize("padding", ["script", "network"])
@pytest.mark.parametrize("size", [(70, 53), (64, 64), (33, 97)])
@pytest.mark.parametrize("fields", [{}, {"uses_mean": True}, GRAY])
def test_tiles_equal_the_whole_picture(padding, size, fields):
    fuser = make(**fields)
    a, b = noise((*size, 3)), noise((*size, 3), seed=1)
    whole = fuser(a, b, tile=0, padding=padding)
    tiled = fuser(a, b, tile=32, overlap=8, padding=padding)
    differing = np.mean(whole != tiled)
    # Pointwise networks agree in every bit; sums over tiles are added in another order.
    assert differing < 1e-2 if fields.get("uses_mean") else differing == 0
    assert np.abs(whole.astype(int) - tiled).max() <= 1
    a, b = to_float(a), to_float(b)
    np.testing.assert_allclose(
        fuser(a, b, tile=32, padding=padding), fuser(a, b, tile=0, padding=padding), atol=1e-6
    )


def test_local_context_differs_from_the_whole_picture():
    fuser = make(uses_mean=True)
    a = np.full((64, 64), 0.2, np.float32)
    a[:, 32:] = 0.8
    whole = fuser(a, a, tile=0)
    local = fuser(a, a, tile=32, overlap=0, tile_context="local")
    np.testing.assert_allclose(whole[:, 0] - local[:, 0], 0.03, atol=1e-6)


def test_a_stack_in_tiles_and_its_progress():
    fuser = make(uses_mean=True)
    stack = [noise((40, 60, 3), np.float32, seed=k) for k in range(3)]
    seen = []
    tiled = fuser(*stack, tile=32, overlap=8, progress=lambda *x: seen.append(x))
    np.testing.assert_allclose(tiled, fuser(*stack, tile=0), atol=1e-6)
    tiles = fuser.plan(40, 60, tile=32, overlap=8).tiles
    assert seen == [(i + 1, 4 * tiles) for i in range(4 * tiles)]


def test_padding_is_what_each_recipe_says():
    fuser = make(uses_mean=True)
    a = noise((8, 5), np.float32)
    assert fuser.plan(8, 5, padding="script").padded == (16, 8)
    assert fuser.plan(8, 5, padding="network").padded == (8, 8)
    for padding, (widths, mode) in {
        "script": (((0, 8), (0, 3)), "symmetric"),
        "network": (((0, 0), (0, 3)), "reflect"),
    }.items():
        mean = np.pad(a, widths, mode).mean()
        np.testing.assert_allclose(
            fuser(a, a, padding=padding), np.clip(a + 0.1 * (mean - 0.5), 0, 1), atol=1e-6
        )
    assert make().options.padding == "network"
    assert make({"inference": {"padding": "script"}}).options.padding == "script"
    with pytest.raises(InputError, match="card, padding is 'mirror'"):
        make({"inference": {"padding": "mirror"}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 30}, "tile is 30, but must be 0 or a multiple of 4"),
        ({"tile": -8}, "tile is -8"),
        ({"tile": 4}, "from 8 up"),
        ({"tile": 32, "overlap": 30}, "overlap is 30"),
        ({"tile": 32, "overlap": -1}, "overlap is -1"),
        ({"padding": "mirror"}, "padding is 'mirror'"),
        ({"tile_context": "none"}, "tile_context is 'none'"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(InputError, match=message):
        make()(noise((40, 40)), noise((40, 40)), **options)


def test_large_pictures_are_tiled_by_themselves():
    fuser = make()
    assert fuser.plan(1000, 1500).tiles == 1
    assert not fuser.plan(1000, 1500).streamed
    plan = make(uses_mean=True).plan(1001, 1500)
    assert plan.tiles == 12
    assert plan.streamed
    assert fuser.plan(4000, 6000, tile=0).tiles == 1


def test_network_is_the_bare_network():
    a, b = noise((2, 5, 7, 3), np.float32), noise((2, 5, 7, 3), np.float32, 1)
    fuser = make()
    np.testing.assert_allclose(fuser.network(a, b), FIRST * a + (1 - FIRST) * b, atol=1e-6)
    for wrong in ((a,), (a, b, b), (a[0], b[0]), (a, b[:1]), (a[..., :1], b)):
        with pytest.raises(InputError, match="the network takes"):
            fuser.network(*wrong)


def test_each_size_is_compiled_once():
    fuser = make()
    for height in (16, 16, 24, 16):
        fuser(noise((height, 16)), noise((height, 16)))
    assert fuser._fuse._cache_size() == 2


def test_weights_must_fit():
    with pytest.raises(InputError, match=r"1 missing \(bias\), 1 foreign \(gain\)"):
        Fuser("fake_fusion", Config(), {"gain": np.zeros(())})
    with pytest.raises(InputError, match=r"1 misshapen \(bias\)"):
        Fuser("fake_fusion", Config(), {"bias": np.zeros(3)})
    with pytest.raises(InputError, match="statistics do not fit"):
        Fuser("fake_fusion", Config(), {"bias": np.zeros(())}, {"mean": np.zeros(3)})
    with pytest.raises(InputError, match="there is no system"):
        Fuser("nothing", Config(), {})
