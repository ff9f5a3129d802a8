"""Coarse to fine: pairs and stacks, what is held, what is chosen."""

import weakref

import numpy as np
import pytest
from fake_blend import Config
from scipy import ndimage

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import photographs, stacks, tiling
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.fusing.options import USUAL, FuseOptions
from mgdn_jax.io.pixels import from_float, to_float

SIZE = (70, 90)


def texture(seed=0, shape=(*SIZE, 3)):
    random = np.random.default_rng(seed).random(shape)
    smooth = ndimage.gaussian_filter(random, (2, 2, 0))
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return np.rint(255 * np.clip(0.6 * smooth + 0.4 * random, 0, 1)).astype(np.uint8)


def sweep(count, sigma=2.5):
    """A stack in which every picture is sharp in one vertical strip, and the truth."""
    truth = texture()
    blurred = ndimage.gaussian_filter(truth, (sigma, sigma, 0))
    strip = np.arange(SIZE[1]) * count // SIZE[1]
    return [np.where((strip == k)[None, :, None], truth, blurred) for k in range(count)], truth


def even(pictures):
    """A network that is of no opinion."""
    return np.full((*pictures[0].shape[:2], len(pictures)), 1 / len(pictures), np.float32)


class Loader:
    """Hands out copies, and counts how many of them are held at once."""

    class Pixels(np.ndarray):
        pass

    def __init__(self, pictures):
        self.pictures, self.order, self.most, self._held = pictures, [], 0, 0

    def __call__(self, number):
        picture = self.pictures[number].copy().view(self.Pixels)
        weakref.finalize(picture, self._gone)
        self.order.append(number)
        self._held += 1
        self.most = max(self.most, self._held)
        return picture

    def _gone(self):
        self._held -= 1


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def fuse(pictures, weigh=even, coverage=None, **options):
    covers = coverage or [None] * len(pictures)
    scene = photographs.Scene(len(pictures), pictures.__getitem__, covers.__getitem__)
    return photographs.fuse(scene, weigh, dtype=np.dtype(np.uint8), has_depth=True, **options)


def make(**fields):
    return Fuser("fake_blend", Config(**fields), {"gain": np.ones((), np.float32)})


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_sweep_is_put_together(count):
    pictures, truth = sweep(count)
    result = fuse(pictures)
    assert result.picture.dtype == np.uint8
    assert psnr(result.picture, truth) > psnr(pictures[0], truth) + 8
    strip = np.arange(SIZE[1]) * count // SIZE[1]
    assert (result.depth == strip).mean() > 0.8
    assert result.depth.dtype == np.uint16


def test_one_after_the_other_is_as_together():
    pictures, _ = sweep(2)
    together = fuse(pictures, None)
    apart = fuse(pictures, None, inputs=3)
    assert np.abs(apart.picture.astype(int) - together.picture).max() <= 1
    assert (apart.depth == together.depth).mean() > 0.99


@pytest.mark.parametrize("levels", [0, 3])
@pytest.mark.parametrize("count", [2, 3])
def test_a_picture_that_is_not_there_leaves_no_dark_rim(monkeypatch, count, levels):
    monkeypatch.setattr(photographs, "_levels", lambda blur: levels)
    pictures, _ = sweep(count)
    cover = np.ones(SIZE, bool)
    cover[:, :15] = False
    cover[60:] = False
    covers = [None] * count
    covers[0] = cover
    holed = [np.where(cover[..., None], pictures[0], 0).astype(np.uint8), *pictures[1:]]
    result = fuse(holed, coverage=covers)
    if count == 2:
        error = np.abs(result.picture.astype(int) - pictures[1])[:, :12]
        assert error.max() <= (1 if levels == 0 else 6)
        np.testing.assert_array_equal(result.depth[~cover], 1)
    whole = fuse(pictures)
    near = np.abs(result.picture.astype(int) - whole.picture)[:50, 25:]
    assert near.mean() < 1.5
    white = [np.where(cover[..., None], pictures[0], 255).astype(np.uint8), *pictures[1:]]
    np.testing.assert_array_equal(fuse(white, coverage=covers).picture, result.picture)


@pytest.mark.parametrize("count", [3, 8, 11])
def test_a_stack_is_held_one_picture_at_a_time(count):
    pictures, _ = sweep(count)
    load = Loader(pictures)
    photographs.fuse(photographs.Scene(count, load), even, dtype=np.dtype(np.uint8))
    assert load.most <= 2  # the one before goes when the next one has come
    assert load.order == [*range(count), *range(count)]


@pytest.mark.parametrize("count", [2, 3, 5, 8, 13])
def test_depth_first_is_the_tree_by_halves_and_holds_its_logarithm(count):
    random = np.random.default_rng(0)
    pictures = random.random((count, 4, 5, 3)).astype(np.float32)

    def pair(images, dtype):
        a, b = images
        return from_float(np.float32(0.7) * a + np.float32(0.3) * b, dtype)

    def by_halves(images, dtype):  # what stood in Fuser before
        if len(images) == 1:
            return images[0]
        middle = (len(images) + 1) // 2
        halves = [by_halves(half, None) for half in (images[:middle], images[middle:])]
        return pair(halves, dtype)

    load, kind = Loader(pictures), np.dtype(np.uint8)
    np.testing.assert_array_equal(
        stacks.fuse(load, count, 2, pair, kind), by_halves(list(pictures), kind)
    )
    assert load.most <= 2
    assert load.order == list(range(count))


def test_a_pair_with_holes_goes_whole_through_any_network():
    a, b = (texture(seed) for seed in (1, 2))
    cover = np.ones(SIZE, bool)
    cover[:10] = False
    seen = []

    def mean(images, dtype):
        seen.extend(images)
        return from_float((to_float(images[0]) + to_float(images[1])) / 2, dtype)

    covers = [cover, None]
    fused = stacks.fuse([a, b].__getitem__, 2, 2, mean, np.dtype(np.uint8), covers.__getitem__)
    # Two rows beside the rim may hold colours mixed with what is not there.
    np.testing.assert_array_equal(fused[:12], b[:12])
    np.testing.assert_array_equal(fused[12:], mean([a, b], np.dtype(np.uint8))[12:])
    np.testing.assert_array_equal(seen[0][:12], b[:12])


@pytest.mark.parametrize("radius", [4, 12, 30])
def test_the_blur_is_measured(radius):
    random = np.random.default_rng(0)
    truth = random.random((768, 768)).astype(np.float32)
    truth += 4 * ndimage.zoom(random.random((96, 96)), 8, order=1)
    truth = ndimage.gaussian_filter(truth, 0.7)
    truth = (truth - truth.min()) / np.ptp(truth)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (np.hypot(x, y) <= radius).astype(float)
    from scipy.signal import fftconvolve

    blurred = fftconvolve(np.pad(truth, radius, mode="symmetric"), disk / disk.sum(), "valid")
    near = np.arange(768) < 384
    pair = [np.where(near, truth, blurred), np.where(near, blurred, truth)]
    pair = [x[..., None].astype(np.float32) for x in pair]
    result = fuse(pair)
    assert radius / 1.8 < result.blur < radius * 1.8
    assert result.blend == ("direct" if radius == 4 else "pyramid")


def test_what_is_reduced():
    plans = {
        (scale, tile, pixels): tiling.plan(
            pixels, 1000, FuseOptions(scale=scale, tile=tile).otherwise(USUAL), grid=1, blends=True
        )
        for scale in (None, 0, 1, 2)
        for tile in (None, 0)
        for pixels in (1000, 1600)
    }
    reduced = {key for key, plan in plans.items() if plan.reduced}
    large = {(scale, None, 1600) for scale in (None, 0)}
    assert reduced == large | {(2, tile, n) for tile in (None, 0) for n in (1000, 1600)}
    assert all(plans[key].tiles == 1 for key in reduced)
    assert not tiling.plan(1600, 1000, USUAL, grid=1).reduced
    with pytest.raises(InputError, match="scale is 2 and tile 64"):
        FuseOptions(scale=2, tile=64)
    with pytest.raises(InputError, match="scale is -1"):
        FuseOptions(scale=-1)


def test_a_fuser_that_blends_reduces_when_asked():
    pictures, truth = sweep(2)
    fuser = make()
    plain = fuser(*pictures)
    ticks = []
    scaled = fuser(*pictures, scale=2, progress=lambda *state: ticks.append(state))
    assert psnr(scaled, truth) > psnr(plain, truth) + 5
    assert ticks == [(k, 5) for k in range(1, 6)]
    np.testing.assert_array_equal(fuser(*pictures, scale=1), plain)
    batch = fuser.batch([pictures, pictures], scale=2)
    np.testing.assert_array_equal(batch[1], scaled)
    stack, _ = sweep(4)
    assert fuser(*stack, scale=2).shape == scaled.shape
    flips = fuser(*pictures, scale=2, ensemble="flips")
    assert np.abs(flips.astype(int) - scaled).max() <= 2
    spread = fuser(*pictures, scale=2, stretch="minmax")
    assert spread.min() == 0
    assert spread.max() == 255


def test_the_report_says_how_it_came_about():
    pictures, _ = sweep(2)
    fuser = make()
    (step,) = [s for s in fuser.fuse(*pictures, scale=2).report.steps if s["step"] == "scale"]
    assert (step["width"], step["height"]) == (64, 64)
    assert "at 64x64" in step["says"]
    assert step["blend"] == "direct"
    plain = fuser.fuse(*pictures)
    assert "scale" not in {s["step"] for s in plain.report.steps}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_types_and_layouts_come_back(dtype):
    pictures, _ = sweep(2)
    scale = 255 if np.issubdtype(dtype, np.floating) else 255 / np.iinfo(dtype).max
    pictures = [(x / scale).astype(dtype) for x in pictures]
    fuser = make()
    fused = fuser(*pictures, scale=2)
    assert fused.dtype == dtype
    assert fused.shape == pictures[0].shape
    gray = fuser(*(x[..., 1] for x in pictures), scale=2)
    assert gray.shape == SIZE
    assert fuser(pictures[0][..., 1], pictures[1], scale=2).shape == (*SIZE, 3)


def test_an_upright_picture_is_turned():
    pictures, _ = sweep(2)
    upright = [x.swapaxes(0, 1) for x in pictures]
    seen = []
    fuser = make()
    call = fuser._weigh

    def weigh(params, stats, images, abilities):
        seen.append(images[0].shape[1:3])
        return call(params, stats, images, abilities)

    fuser._weigh = weigh
    flat = fuser(*pictures, scale=2)
    turned = fuser(*upright, scale=2)
    assert len(set(seen)) == 1
    assert np.abs(turned.swapaxes(0, 1).astype(int) - flat).max() <= 1
