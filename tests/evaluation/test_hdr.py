"""Scores of brackets: files of a scene, clipping, saved results, and what is refused."""

import numpy as np
import pytest

from mgdn_jax import metrics
from mgdn_jax.errors import InputError
from mgdn_jax.evaluation import hdr, merges
from mgdn_jax.io import files, radiance
from mgdn_jax.quantities.radiance import developed, linear, mu_law

pytestmark = pytest.mark.quick


def write(folder, truth, steps, order=(0, 1, 2)):
    """A scene whose radiance 1 saturates an exposure of time 1."""
    folder.mkdir(parents=True)
    for name, k in enumerate(order):
        stored = np.rint(65535 * developed(truth, 2.0 ** steps[k])).astype(np.uint16)
        files.write_image(folder / f"{name}.tif", stored)
    (folder / "exposure.txt").write_text("\n".join(str(steps[k]) for k in order))
    (folder / "HDRImg.hdr").write_bytes(radiance.encode(truth))


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for k, steps in enumerate([(0, 2, 4), (-3, 0, 3)]):
        scale = 2.0 ** -steps[0]
        truth = (scale * rng.random((12, 16, 3)) ** 3).astype(np.float32)
        write(tmp_path / "set" / f"scene{k}", truth, steps, (0, 1, 2) if k else (2, 0, 1))
    return tmp_path / "set"


def test_a_scene_is_read_short_to_long_with_the_shortest_time_one(root):
    for scene, wanted in zip(hdr.find_scenes(root), [(1, 4, 16), (1, 8, 64)], strict=True):
        exposures, times, truth = scene.read()
        assert times == wanted
        assert truth.max() <= 1
        for picture, time in zip(exposures, times, strict=True):
            assert picture.dtype == np.float32
            # The truth is stored to a part in 256 of a pixel's largest channel.
            assert np.abs(linear(picture, time) - np.minimum(truth, 1 / time)).max() < 0.005


def test_scores_are_of_the_clipped_result_on_both_scales(root):
    scenes = hdr.find_scenes(root)
    seen = []
    methods = {"beyond": lambda x, t: merges.short_exposure(x, t) * 3 - 0.1}
    tables = hdr.evaluate_hdr(methods, scenes, on_scene=seen.append)
    assert seen == ["scene0", "scene1"]
    exposures, times, truth = scenes[1].read()
    made = methods["beyond"](exposures, times).clip(0, 1)
    row = tables["beyond"].rows["scene1"]
    assert list(row) == list(hdr.METRICS)
    assert row["PSNR_L"] == pytest.approx(-10 * np.log10(np.mean((made - truth) ** 2.0)), abs=1e-4)
    ours, true = mu_law(made.astype(np.float64)), mu_law(truth.astype(np.float64))
    assert row["PSNR_mu"] == pytest.approx(-10 * np.log10(np.mean((ours - true) ** 2)), abs=1e-4)
    assert row["SSIM_mu"] == pytest.approx(metrics.ssim(ours, true, peak=1.0), abs=1e-6)
    assert tables["beyond"].mean()["SSIM_L"] < 1


def test_results_are_kept(root, tmp_path):
    scenes = hdr.find_scenes(root)
    hdr.evaluate_hdr({"short": merges.short_exposure}, scenes, save=tmp_path / "kept")
    kept = sorted(path.name for path in (tmp_path / "kept" / "short").iterdir())
    assert kept == ["scene0.hdr", "scene0.png", "scene1.hdr", "scene1.png"]
    exposures, times, _ = scenes[0].read()
    made = merges.short_exposure(exposures, times)
    stored = radiance.decode((tmp_path / "kept" / "short" / "scene0.hdr").read_bytes(), "x")
    assert np.allclose(stored, made, rtol=0.01, atol=0.005)
    picture = files.read_image(tmp_path / "kept" / "short" / "scene0.png")
    assert np.abs(picture / 255 - mu_law(made)).max() < 0.004
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        hdr.evaluate_hdr({"short": merges.short_exposure}, scenes, save=tmp_path / "file")


def test_scenes_that_do_not_fit_are_refused(root):
    scenes = hdr.find_scenes(root)
    with pytest.raises(InputError, match="flat gave"):
        hdr.evaluate_hdr({"flat": lambda x, t: x[0][..., 0]}, scenes)
    files.write_image(root / "scene1" / "1.tif", np.zeros((12, 17, 3), np.uint16))
    with pytest.raises(InputError, match="17x12, but"):
        scenes[1].read()
    files.write_image(root / "scene1" / "1.tif", np.zeros((12, 16), np.uint16))
    with pytest.raises(InputError, match="is gray"):
        scenes[1].read()
    files.write_image(root / "scene1" / "1.tif", np.zeros((12, 16, 3), np.float32))
    with pytest.raises(InputError, match="float pixels"):
        scenes[1].read()
