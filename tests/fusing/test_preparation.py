"""The step before the network, with a network that mixes its sources in fixed shares."""

import numpy as np
import pytest
from fake_fusion import FIRST, Config
from scipy import ndimage

from mgdn_jax.errors import FusionWarning, InputError
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.fusing.sources import KEPT_BYTES, Sources, letter
from mgdn_jax.fusing.transforms import Transform, write_transforms
from mgdn_jax.io.pictures import Picture

RNG = np.random.default_rng(5)
GRAY = {"in_channels": (1, 1), "out_channels": 1}
AUTO = FuseOptions(range="auto")


def make(card=None, **fields):
    return Fuser("fake_fusion", Config(**fields), {"bias": np.zeros((), np.float32)}, {}, card)


def scene(height=60, width=80, seed=0, channels=3):
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(height, width, channels))
    x = sum(ndimage.gaussian_filter(noise, (s, s, 0)) * s for s in (1, 2, 6))
    return (x - x.min()) / np.ptp(x)


def u8(x):
    return np.rint(255 * x).astype(np.uint8)


def with_alpha(picture, alpha):
    there = alpha[..., None].astype(picture.dtype)
    return np.concatenate([picture * there, np.iinfo(picture.dtype).max * there], -1)


def rims(shape=(60, 80)):
    near, far = np.ones(shape, np.uint8), np.ones(shape, np.uint8)
    near[:, :9], near[-7:] = 0, 0
    far[:, -11:] = 0
    return near, far


# ------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_where_one_picture_is_transparent_the_other_counts(dtype, channels):
    top = np.iinfo(dtype).max
    a, b = (np.rint(top * scene(seed=s, channels=channels)).astype(dtype) for s in (1, 2))
    near, far = rims()
    fused = make()(with_alpha(a, near), with_alpha(b, far))
    assert fused.shape == (60, 80, channels + 1)
    assert fused.dtype == dtype
    for mine, other, picture in ((near, far, b), (far, near, a)):
        hidden = (mine == 0) & (other > 0)
        np.testing.assert_array_equal(fused[hidden][:, :-1], picture[hidden])
    np.testing.assert_array_equal(fused[..., -1] == top, (near | far) > 0)
    # Neither rim darkens what lies beside it.
    both = FIRST * a + (1 - FIRST) * b
    inside = ndimage.binary_erosion(near & far, iterations=12, border_value=1)
    slack = 0.51 if dtype == np.uint8 else 1
    np.testing.assert_allclose(fused[inside][:, :-1], both[inside], atol=slack)
    seen = (near | far) > 0
    assert (fused[seen][:, :-1] >= np.minimum(a, b)[seen].astype(int) - 1).all()


def test_an_opaque_picture_lends_its_pixels_and_alpha_is_gone():
    a, b = u8(scene(seed=1)), u8(scene(seed=2))
    near, _ = rims()
    fused = make()(with_alpha(a, near), b)
    assert fused.shape == (60, 80, 3)
    np.testing.assert_array_equal(fused[near == 0], b[near == 0])


def test_nobody_there_stays_transparent():
    a, b = u8(scene(seed=1)), u8(scene(seed=2))
    hole = np.ones((60, 80), np.uint8)
    hole[20:30, 30:40] = 0
    fused = make()(with_alpha(a, hole), with_alpha(b, hole))
    assert (fused[20:30, 30:40, 3] == 0).all()
    assert (fused[..., 3] == 255).sum() == hole.sum()
    edge = ndimage.binary_dilation(hole == 0, iterations=4) & (hole > 0)
    assert (fused[edge][:, :3] >= np.minimum(a, b)[edge].astype(int) - 1).all()


def test_a_stack_with_rims_is_whole():
    pictures = [u8(scene(seed=7)) for _ in range(5)]
    alphas = np.ones((5, 60, 80), np.uint8)
    for k in range(4):
        alphas[k, :, : 5 * (k + 1)] = 0
    fused = make()(*(with_alpha(p, a) for p, a in zip(pictures, alphas, strict=True)))
    np.testing.assert_allclose(fused[..., :3].astype(int), pictures[0], atol=1)
    assert (fused[..., 3] == 255).all()


def test_scenes_with_rims_among_others_in_one_run():
    a, b = u8(scene(seed=1)), u8(scene(seed=2))
    near, far = rims()
    groups = [(a, b), (with_alpha(a, near), with_alpha(b, far)), (b, a)]
    fuser = make()
    together = fuser.batch(groups, bucket=64)
    for group, result in zip(groups, together, strict=True):
        np.testing.assert_array_equal(result, fuser(*group))


def test_transparent_black_moves_no_range():
    a = np.rint(1000 + 80 * scene(seed=1, channels=1)).astype(np.uint16)
    b = np.rint(65535 * scene(seed=2, channels=1)).astype(np.uint16)
    near, _ = rims()
    plain = make(**GRAY).fuse(a, b, options=AUTO).report.steps[0]
    hidden = make(**GRAY).fuse(with_alpha(a, near), b, options=AUTO).report.steps[0]
    assert hidden["step"] == "range"
    assert hidden["low"] > 990
    assert hidden["high"] == pytest.approx(plain["high"], rel=0.01)


# ------------------------------------------------------------------------------------- values


def test_narrow_counts_come_through_and_the_scale_is_said():
    a = np.rint(17100 + 900 * scene(seed=1, channels=1)).astype(np.uint16)
    b = u8(scene(seed=2, channels=1))
    fused = make(**GRAY).fuse(a, b, options=AUTO)
    assert fused.pixels.dtype == np.uint16
    steps = {step["step"]: step for step in fused.report.steps}
    assert steps["range"]["rule"] == "percentile"
    assert "0 to 65535 (uint16)" in steps["scale"]["says"]
    (warning,) = fused.warnings
    assert warning.startswith("image 1 uses ")
    for source in (a, b):
        assert np.corrcoef(fused.pixels.ravel(), source.ravel())[0, 1] > 0.3


def test_few_bits_beside_it_do_not_drown_in_a_narrow_source():
    scan = np.rint(3000 * scene(seed=3, channels=1) - 1000).astype(np.int16)
    other = np.rint(1000 + 2200 * scene(seed=4, channels=1)).astype(np.uint16)
    fused = make(**GRAY).fuse(scan, other, options=AUTO)
    low, high = fused.report.steps[0]["low"], fused.report.steps[0]["high"]
    assert high - low > 1.5 * np.ptp(np.percentile(scan, (0.1, 99.9)))
    for source in (scan, other):
        assert np.corrcoef(fused.pixels.ravel(), source.ravel())[0, 1] > 0.3


def test_twelve_bits_come_back_as_twelve_bits():
    a, b = (np.rint(4095 * scene(seed=s, channels=1)).astype(np.uint16) for s in (1, 2))
    fused = make(**GRAY).fuse(a, b, options=AUTO)
    np.testing.assert_allclose(fused.pixels, FIRST * a + (1 - FIRST) * b, atol=1)
    assert "0 to 4095" in fused.report.steps[-1]["says"]


def test_kelvin_stays_kelvin_where_both_sources_are():
    a, b = (288 + 12 * scene(seed=s, channels=1) for s in (1, 2))
    fused = make(**GRAY).fuse(a, b, range="280,310")
    assert fused.pixels.dtype == np.float32
    np.testing.assert_allclose(fused.pixels, FIRST * a + (1 - FIRST) * b, atol=1e-3)
    with pytest.raises(InputError, match="image 1 has float pixels from 288"):
        make(**GRAY)(a, b)


def test_a_dark_exposure_is_not_spread():
    dark = np.rint(1500 * scene(seed=1)).astype(np.uint16)
    bright = np.rint(65535 * scene(seed=1)).astype(np.uint16)
    fused = make({"task": "multi-exposure photographs"}).fuse(dark, bright, range="auto")
    np.testing.assert_allclose(fused.pixels, FIRST * dark + (1 - FIRST) * bright, atol=1)


def test_a_window_is_for_hounsfield_units():
    scan = np.rint(3000 * scene(seed=1, channels=1) - 1000).astype(np.int16)
    other = u8(scene(seed=2, channels=1))
    fused = make(**GRAY).fuse(scan, other, range="auto", window="brain")
    low = scan[..., 0] < 0
    expected = (1 - FIRST) * other[low] / 255
    np.testing.assert_allclose(fused.pixels[low] / 65535, expected, atol=2e-5)
    with pytest.raises(InputError, match="no source holds any"):
        make(**GRAY)(other, other, window="brain")
    np.testing.assert_array_equal(
        make(**GRAY).fuse(other, other, window="A:128,256", range="auto").pixels.shape, (60, 80, 1)
    )


def test_depths_mix():
    a, b = u8(scene(seed=1)), np.rint(65535 * scene(seed=2)).astype(np.uint16)
    fused = make()(a, b)
    assert fused.dtype == np.uint16
    np.testing.assert_allclose(fused, FIRST * 257.0 * a + (1 - FIRST) * b, atol=1)


# ----------------------------------------------------------------------------------- warnings


def test_warnings_are_pythons_and_stand_in_the_report():
    a = np.rint(17100 + 900 * scene(seed=1)).astype(np.uint16)
    b = np.rint(65535 * scene(seed=2)).astype(np.uint16)
    with pytest.warns(FusionWarning, match="image 1 uses"):
        plain = make()(a, b)
    np.testing.assert_allclose(plain, FIRST * a + (1 - FIRST) * b, atol=1)  # off by default
    fused = make().fuse(a, b)
    assert len(fused.warnings) == 1
    assert fused.report.content()["warnings"] == list(fused.warnings)


def test_sizes_that_differ_name_the_cures():
    with pytest.raises(InputError, match=r"--register .*--homography FILE or --resize"):
        make()(u8(scene()), u8(scene(30, 40)))
    fused = make().fuse(u8(scene()), u8(scene(30, 40)), resize=True)
    assert fused.pixels.shape == (60, 80, 3)
    assert fused.report.steps[0]["says"] == "image 2 was enlarged from 40x30 to 80x60."


def test_a_picture_of_another_scene_is_said():
    card = {"task": "multi-focus photographs"}
    near, far = scene(120, 160, seed=1), scene(120, 160, seed=1)
    near[:, 80:], far[:, :80] = (
        ndimage.gaussian_filter(half, (3, 3, 0)) for half in (near[:, 80:], far[:, :80])
    )
    assert make(card).fuse(u8(near), u8(far)).warnings == ()
    (warning,) = make(card).fuse(u8(near), u8(scene(120, 160, seed=7))).warnings
    assert warning.startswith("these do not seem to show one scene: image 1 and image 2;")


def test_transforms_of_two_cameras_serve_other_pictures_in_their_order(tmp_path):
    a, b = u8(scene()), u8(scene(seed=2))
    moved = Transform([[1, 0, 3], [0, 1, 0], [0, 0, 1]])
    sizes = dict.fromkeys(("ir.png", "vis.png"), ((60, 80), (60, 80)))
    write_transforms(tmp_path / "t.json", {"ir.png": Transform.identity(), "vis.png": moved}, sizes)
    fused = make().fuse(a, b, homography=str(tmp_path / "t.json"), checks=False)
    (step,) = fused.report.steps
    assert step["says"].startswith("image 2 was laid onto image 1 by ")
    expected = FIRST * a[:, 3:] + (1 - FIRST) * b[:, :-3]
    np.testing.assert_allclose(fused.pixels[:, 23:], expected[:, 20:], atol=1)


@pytest.mark.parametrize("is_transparent", [True, False])
def test_a_source_of_which_nothing_is_left_is_said(is_transparent, tmp_path):
    a, b = u8(scene()), u8(scene(seed=2))
    if is_transparent:
        fused = make().fuse(with_alpha(a, np.zeros((60, 80), bool)), b)
    else:
        np.savetxt(tmp_path / "t.txt", [[1, 0, 900], [0, 1, 0], [0, 0, 1]])
        fused = make().fuse(a, b, homography=str(tmp_path / "t.txt"))
    assert fused.warnings[0].startswith("nothing of image 1 is on the result")
    np.testing.assert_array_equal(fused.pixels, b)


# ------------------------------------------------------------------------------------ sources


def test_sources_are_read_when_they_are_looked_at():
    reads = []

    def reader(number):
        def read():
            reads.append(number)
            return u8(scene(seed=number))

        return read

    sources = Sources([reader(0), reader(1), u8(scene())], ["first"])
    assert reads == []
    assert [sources.name(i) for i in range(3)] == ["first", "image 2", "image 3"]
    assert sources[0].pixels is sources[0].pixels
    assert reads == [0]


def test_large_stacks_are_read_again_instead_of_kept(monkeypatch):
    monkeypatch.setattr("mgdn_jax.fusing.sources.KEPT_BYTES", 3 * 60 * 80 * 3)
    assert KEPT_BYTES > 10**8
    pictures = [u8(scene(seed=i)) for i in range(8)]
    sources = Sources([lambda i=i: pictures[i] for i in range(8)])
    for index in range(8):
        np.testing.assert_array_equal(sources[index].pixels, pictures[index])
    assert len(sources._kept) == 3


def test_letters_go_on_as_numbers():
    assert [letter(i) for i in (0, 25, 26)] == ["A", "Z", "27"]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 3, 5), np.uint8), "1 to 4 channels"),
        (np.zeros((0, 3), np.uint8), "no pixels"),
        (np.zeros((2, 3), bool), "is bool"),
        (np.full((2, 3), np.nan, np.float32), "NaN"),
        (np.zeros((2, 3), complex), "complex"),
    ],
)
def test_what_is_no_picture_is_said(array, said):
    with pytest.raises(InputError, match=said):
        Sources([array])[0]
    with pytest.raises(InputError, match=said):
        Sources([Picture(array, "x.png")])[0]


def test_pictures_that_lie_on_each_other_are_left_alone():
    sharp = scene(90, 120, seed=21)
    near, far = sharp.copy(), sharp.copy()
    soft = ndimage.gaussian_filter(sharp, (2, 2, 0))
    near[:, 60:], far[:, :60] = soft[:, 60:], soft[:, :60]
    a, b = u8(near), u8(far)
    fused = make().fuse(a, b, align=True)
    assert "were left as they are" in fused.report.steps[0]["says"]
    np.testing.assert_array_equal(fused.pixels, make()(a, b))


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (np.zeros((5, 6, 3), np.uint8), "image 2 is 6x5 but image 1 is 5x6"),
        (np.zeros((6, 5, 3), np.int32), "image 2 is int32"),
        (np.zeros((6, 5, 3), bool), "image 2 is bool"),
        (np.zeros((6, 5, 7), np.uint8), "has shape"),
        (np.zeros((1, 6, 5, 3), np.uint8), "batches"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (np.full((6, 5, 3), np.nan), "NaN"),
        (np.full((6, 5, 3), -np.inf), "NaN or infinite"),
        (np.full((6, 5, 3), 200.0), "from 200 to 200"),
        (np.full((6, 5, 3), -0.1), r"from -0\.1 to"),
    ],
)
def test_pictures_that_do_not_fit(second, message):
    with pytest.raises(InputError, match=message) as caught:
        make()(np.zeros((6, 5, 3), np.uint8), second)
    assert "\n" not in str(caught.value)


def test_the_result_gets_the_layout_of_its_sources():
    flat, gray, colour = (np.zeros((8, 12, *c), np.uint8) for c in ((), (1,), (3,)))
    clear, solid = np.zeros((8, 12, 2), np.uint8), np.full((8, 12, 2), 255, np.uint8)
    layouts = [
        ((flat, flat), (8, 12)),
        ((gray, flat), (8, 12, 1)),
        ((flat, colour), (8, 12, 3)),
        ((clear, solid), (8, 12, 2)),
        ((solid, flat), (8, 12)),
    ]
    for pictures, shape in layouts:
        assert make(**GRAY).fuse(*pictures).pixels.shape == shape
