"""`mgdn fuse` on files as cameras, scanners and hospitals write them.

Each situation is one that people report; the makers are ours and small. The network mixes its
sources in fixed shares, or, for stacks, weighs them: what is tried is everything around it.
"""

import json
from pathlib import Path

import helpers_scenes
import numpy as np
import pytest
import tifffile
from helpers_cli import mgdn, save_model
from PIL import Image, ImageCms
from scipy import ndimage

from mgdn_jax import metrics
from mgdn_jax.cli import progress
from mgdn_jax.io import files
from mgdn_jax.io.pictures import Labels
from mgdn_jax.weights.store import save_weights

MODEL = "--model m.safetensors"


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("MGDN_CACHE_DIR", "off")
    monkeypatch.setattr(progress, "SECONDS", 3600.0)
    monkeypatch.chdir(tmp_path)
    save_model("m.safetensors")


def save_choosing_model(path, kind="pair", task="multi-focus photographs"):
    """Weights of a network that chooses between pictures."""
    import fake_blend

    config = fake_blend.Config(kind=kind).to_dict()
    params = {"gain": np.ones((), np.float32)}
    card = {"task": task}
    save_weights(path, system="fake_blend", config=config, params=params, card=card)


def scene(height, width, seed=0, channels=3):
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(height, width, channels))
    x = sum(ndimage.gaussian_filter(noise, (s, s, 0)) * s for s in (1, 2, 7, 20))
    x = (x - x.min()) / np.ptp(x)
    yy, xx = np.mgrid[:height, :width]
    for _ in range(14):
        cy, cx, radius = rng.integers(height), rng.integers(width), rng.integers(5, 20)
        x[(yy - cy) ** 2 + (xx - cx) ** 2 < radius**2] = rng.random(channels)
    return x


def u8(x):
    return np.rint(255 * np.clip(x, 0, 1)).astype(np.uint8)


def report(command, capsys):
    """The first result of a command that succeeds, from its JSON."""
    capsys.readouterr()
    code = mgdn(f"{command} --json")
    said = capsys.readouterr()
    assert code == 0, said.err
    return json.loads(said.out)["results"][0]


def psnr(a, b):
    return 10 * np.log10(255**2 / ((a.astype(float) - b) ** 2).mean())


# ------------------------------------------------------------------------------------- stacks


def moved(picture, matrix):
    """A picture whose pixel (x, y) shows the scene at `matrix` (x, y, 1)."""
    height, width = picture.shape[:2]
    yy, xx = np.mgrid[:height, :width]
    x, y, _ = np.tensordot(matrix, np.stack([xx, yy, np.ones_like(xx)]), 1)
    planes = [
        ndimage.map_coordinates(picture[..., k], (y, x), order=3, mode="nearest") for k in range(3)
    ]
    return np.stack(planes, -1)


def save_shaken():
    """Three pictures of a focus sweep, shifted, turned and breathing, and their true places."""
    sharp = scene(180, 240, seed=3)
    places = []
    for number, (dx, dy, degrees, growth) in enumerate(
        [(0, 0, 0, 1), (3.4, -2.1, 0.2, 1.007), (-2.7, 3.3, -0.15, 1.013)]
    ):
        c, s = np.cos(np.deg2rad(degrees)) / growth, np.sin(np.deg2rad(degrees)) / growth
        turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        centre = np.array([[1, 0, 120], [0, 1, 90], [0, 0, 1.0]])
        shift = np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1.0]])
        place = shift @ centre @ turn @ np.linalg.inv(centre)
        distance = np.abs(np.arange(240) / 80 - 0.5 - number) - 0.5
        blur = np.clip(2 * distance, 0, 4)[None, :, None]
        levels = [ndimage.gaussian_filter(sharp, (v, v, 0)) for v in range(5)]
        seen = sum(np.clip(1 - np.abs(blur - k), 0, 1) * x for k, x in enumerate(levels))
        files.write_image(f"stack/{number}.png", u8(moved(seen, place)))
        places.append(place)
    return sharp, places


def test_a_shaken_stack_warns_and_is_sharp_once_aligned(capsys):
    save_choosing_model("m.safetensors")
    sharp, places = save_shaken()
    assert mgdn(f"fuse stack -o plain.png {MODEL} --scale 2") == 0
    said = capsys.readouterr().err
    assert "mgdn: warning: shifted against the picture before: stack/1.png by" in said
    assert "stack/2.png by" in said
    assert "--align brings them together" in said
    command = f"fuse stack -o out.png {MODEL} --scale 2 --align --save-transforms t.json"
    result = report(f"{command} --depth-map d.png", capsys)
    assert result["warnings"] == []
    steps = [step for step in result["steps"] if step["step"] == "align"]
    corners = np.array([[0, 239, 0, 239], [0, 0, 179, 179], [1, 1, 1, 1]])
    for step, place in zip(steps, places, strict=True):
        where = np.array(step["matrix"]) @ corners
        np.testing.assert_allclose(where[:2] / where[2], (place @ corners)[:2], atol=0.3)
    (area,) = (step for step in result["steps"] if step["step"] == "area")
    left, top, right, bottom = area["box"]
    fused = files.read_image("out.png")
    assert fused.shape == (bottom - top, right - left, 3)
    truth = u8(sharp)[top:bottom, left:right]
    assert psnr(fused, truth) >= 38
    assert psnr(files.read_image("plain.png"), u8(sharp)) < 30
    # The sharpest picture follows the sweep.
    depth = files.read_image("d.png")
    assert depth.shape == fused.shape[:2]
    means = [depth[:, s].mean() for s in (slice(0, 60), slice(90, 140), slice(170, 220))]
    assert means == sorted(means)
    # What was found can be applied again, and gives the same picture.
    again = report(f"fuse stack -o again.png {MODEL} --scale 2 --homography t.json --area common",
                   capsys)  # fmt: skip
    np.testing.assert_array_equal(files.read_image("again.png"), fused)
    assert again["steps"][0]["step"] == "homography"


def test_pages_of_a_file_are_a_stack(capsys):
    save_choosing_model("m.safetensors")
    sharp = scene(90, 120, seed=5, channels=1)[..., 0]
    pages = []
    for number in range(3):
        soft = ndimage.gaussian_filter(sharp, 3)
        soft[:, 40 * number : 40 * number + 40] = sharp[:, 40 * number : 40 * number + 40]
        pages.append(Image.fromarray(u8(soft)))
    pages[0].save("pages.tif", save_all=True, append_images=pages[1:])
    assert report(f"fuse pages.tif -o out.png {MODEL} --scale 2", capsys)["warnings"] == []
    assert psnr(files.read_image("out.png"), u8(sharp)) > psnr(np.asarray(pages[0]), u8(sharp)) + 6
    # Beside other files its first page counts, and the others are named.
    pages[0].save("one.png")
    (warning,) = report(f"fuse pages.tif one.png -o out.png {MODEL}", capsys)["warnings"]
    assert "pages.tif has 3 pages" in warning


def test_planes_that_may_be_pages_are_named_where_a_file_is_alone(capsys):
    stack = u8(scene(20, 24, channels=1))[None, ..., 0].repeat(3, 0)
    tifffile.imwrite("three.tif", stack, photometric="rgb", planarconfig="separate")
    assert mgdn(f"fuse three.tif -o out.tif {MODEL}") == 2
    error = capsys.readouterr().err
    assert "three.tif is alone; give at least two pictures" in error
    assert 'if they are pages of a stack, write them with photometric="minisblack"' in error


def test_a_step_of_exposure_warns_and_is_matched(capsys):
    save_choosing_model("m.safetensors")
    sharp = 0.05 + 0.6 * scene(120, 160, seed=9)
    soft = ndimage.gaussian_filter(sharp, (2.5, 2.5, 0))
    near, far = sharp.copy(), sharp.copy()
    near[:, 80:], far[:, :80] = soft[:, 80:], soft[:, :80]
    files.write_image("near.png", u8(near))
    files.write_image("far.png", u8(far * 2**0.3 * [1.04, 1, 0.95]))
    (warning,) = report(f"fuse near.png far.png -o a.png {MODEL} --scale 2", capsys)["warnings"]
    assert "far.png by +0.3" in warning
    assert "--match-exposure" in warning
    command = f"fuse near.png far.png -o b.png {MODEL} --scale 2 --match-exposure"
    assert report(command, capsys)["warnings"] == []
    error = files.read_image("b.png").astype(float) - u8(sharp)
    left, right = error[:, 50:75].mean((0, 1)), error[:, 85:110].mean((0, 1))
    assert np.abs(left).max() < 1  # the first picture's tone
    assert np.abs(left - right).max() < 2


# ------------------------------------------------------------------------------ two cameras


def test_two_cameras_of_two_sizes(capsys):
    photo = scene(180, 240, seed=13)
    part = photo[30:150, 40:200].mean(-1)
    thermal = 1 - ndimage.zoom(part, 0.5, order=3)
    files.write_image("ir.png", u8(thermal))
    files.write_image("vis.png", u8(photo))
    place = np.array([[159 / 79, 0, 40], [0, 119 / 59, 30], [0, 0, 1]])
    np.savetxt("h.txt", place)
    command = f"fuse ir.png vis.png -o out.png {MODEL}"
    assert mgdn(command) == 2
    said = capsys.readouterr().err
    for option in ("--register", "--homography FILE", "--resize"):
        assert option in said
    result = report(f"{command} --homography h.txt", capsys)
    assert (result["width"], result["height"]) == (240, 180)
    fused = files.read_image("out.png")
    # Outside the thermal picture's field the photograph is all there is.
    np.testing.assert_array_equal(fused[:28], u8(photo)[:28])
    centre = fused[60:120, 80:160].astype(float)
    mixed = 0.7391 * (1 - photo.mean(-1, keepdims=True)) + 0.2609 * photo
    assert np.corrcoef(centre.ravel(), mixed[60:120, 80:160].ravel())[0, 1] > 0.97
    found = report(f"{command} --register", capsys)["steps"][0]
    corners = np.array([[0, 79, 0, 79], [0, 0, 59, 59], [1, 1, 1, 1]])
    where = np.array(found["matrix"]) @ corners
    np.testing.assert_allclose(where[:2] / where[2], (place @ corners)[:2], atol=3)
    assert report(f"{command} --resize", capsys)["width"] == 240
    assert mgdn(f"{command} --resize --register") == 2
    assert "do not go together" in capsys.readouterr().err


def test_counts_kelvin_and_hounsfield(capsys):
    light = scene(60, 80, seed=17, channels=1)[..., 0]
    files.write_image("counts.tif", np.rint(15000 + 700 * light).astype(np.uint16))
    files.write_image("kelvin.tif", (280 + 15 * light).astype(np.float32))
    files.write_image("hu.tif", np.rint(2500 * light - 1000).astype(np.int16))
    photo = scene(60, 80, seed=18, channels=1)[..., 0]
    files.write_image("photo.png", u8(photo))
    files.write_image("deep.png", np.rint(65535 * photo).astype(np.uint16))
    for source in ("counts.tif", "kelvin.tif", "hu.tif"):
        for other in ("photo.png", "deep.png"):
            result = report(f"fuse {source} {other} -o out.png {MODEL}", capsys)
            assert any(w.startswith(source) for w in result["warnings"])
            assert result["dtype"] == "uint16"
            # Both are in it, in about the shares of the network.
            planes = [(x - x.mean()).ravel() / x.std() for x in (light, photo)]
            fused = files.read_image("out.png").astype(float).ravel()
            first, second = np.linalg.lstsq(np.stack(planes, 1), fused - fused.mean())[0]
            assert 0.2 < second / first < 0.7
    result = report(
        f"fuse counts.tif photo.png -o out.png {MODEL} --range A:14900,15800 --range B:type", capsys
    )
    assert (result["steps"][0]["low"], result["steps"][0]["high"]) == (14900, 15800)
    assert result["warnings"] == []
    result = report(f"fuse hu.tif photo.png -o out.png {MODEL} --window 50,400", capsys)
    assert (result["steps"][0]["low"], result["steps"][0]["high"]) == (-150, 250)


def test_a_range_of_one_source_leaves_the_others_what_is_usual(capsys):
    kelvin = (288 + 12 * scene(24, 32, seed=1, channels=1)[..., 0]).astype(np.float32)
    files.write_image("a.tif", kelvin)
    files.write_image("b.png", u8(scene(24, 32, seed=2, channels=1)[..., 0]))
    steps = report(f"fuse a.tif b.png -o out.tif {MODEL} --range B:0,200", capsys)["steps"]
    assert [(step["source"], step["rule"]) for step in steps[:2]] == [
        ("a.tif", "percentile"),
        ("b.png", "given"),
    ]


def test_limits_may_start_with_a_minus(capsys):
    scan = np.rint(3000 * scene(24, 32, seed=1, channels=1)[..., 0] - 1000).astype(np.int16)
    files.write_image("a.tif", scan)
    for option, limits in (("--window -600,1500", (-1350, 150)), ("--range -500,900", (-500, 900))):
        steps = report(f"fuse a.tif a.tif -o out.tif {MODEL} {option}", capsys)["steps"]
        assert (steps[0]["low"], steps[0]["high"]) == limits


# ------------------------------------------------------------------------------------- labels


def save_labelled(name, pixels, profile):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Acme"
    exif.get_ifd(0x8825)[1] = "N"
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(pixels)))
    turned.save(name, quality=97, exif=exif.tobytes(), icc_profile=profile, dpi=(300, 300))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_what_photographs_say_goes_on(suffix, capsys):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for seed, name in enumerate(("a.jpg", "b.jpg")):
        save_labelled(name, u8(scene(60, 90, seed=seed)), profile)
    result = report(f"fuse a.jpg b.jpg -o out.{suffix} {MODEL}", capsys)
    assert (result["width"], result["height"]) == (90, 60)
    with Image.open(f"out.{suffix}") as image:
        exif = image.getexif()
        assert image.info["icc_profile"] == profile
        assert (exif.get(0x0112, 1), exif[0x010F]) == (1, "Acme")
        assert not exif.get_ifd(0x8825)
        assert round(float(exif.get(282, 300))) == 300
    report(f"fuse a.jpg b.jpg -o all.{suffix} {MODEL} --metadata all", capsys)
    with Image.open(f"all.{suffix}") as image:
        assert image.getexif().get_ifd(0x8825)[1] == "N"
    report(f"fuse a.jpg b.jpg -o none.{suffix} {MODEL} --metadata none", capsys)
    with Image.open(f"none.{suffix}") as image:
        assert "icc_profile" not in image.info


def test_what_a_format_has_no_place_for_is_said(capsys):
    near, far = u8(scene(24, 32)), u8(scene(24, 32, seed=2))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    save_labelled("near.jpg", near, profile)
    save_labelled("far.jpg", far, profile)
    (warning,) = report(f"fuse near.jpg far.jpg -o out.bmp {MODEL}", capsys)["warnings"]
    assert warning.startswith("out.bmp cannot hold the colour profile and EXIF of the sources")
    assert report(f"fuse near.jpg far.jpg -o out.png {MODEL}", capsys)["warnings"] == []


def test_openexr_to_openexr(capsys):
    for name, seed in (("a.exr", 1), ("b.exr", 2)):
        files.write_image(name, scene(24, 32, seed=seed).astype(np.float32))
    report(f"fuse a.exr b.exr -o out.exr {MODEL}", capsys)
    assert files.read_image("out.exr").dtype == np.float32


def test_profiles_that_differ_are_said_or_converted(capsys):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = u8(scene(40, 50))
    files.write_image("a.png", pixels, labels=Labels(profile=srgb))
    other = bytearray(srgb)
    entry = srgb.index(b"rXYZ", 128)  # another red primary: another space of colours
    at = int.from_bytes(srgb[entry + 4 : entry + 8], "big")
    other[at + 8 : at + 12] = (0x9000).to_bytes(4, "big")
    files.write_image("b.png", pixels, labels=Labels(profile=bytes(other)))
    warnings = report(f"fuse a.png b.png -o out.png {MODEL}", capsys)["warnings"]
    assert any("different colour profiles" in w and "--profile sRGB" in w for w in warnings)
    assert files.read_picture("out.png").labels.profile is None
    warnings = report(f"fuse a.png b.png -o out.png {MODEL} --profile sRGB", capsys)["warnings"]
    assert not any("different colour profiles" in w for w in warnings)
    assert files.read_picture("out.png").labels.profile is not None


# ------------------------------------------------------------------------------------ hospitals


def test_volumes_are_fused_slice_by_slice_where_they_lie(capsys):
    import nibabel

    affine = np.array([[-1.5, 0, 0, 10], [0, 1.5, 0, 20], [0, 0, 3, -30], [0, 0, 0, 1.0]])
    rng = np.random.default_rng(0)
    volumes = {}
    for name, high in (("ct", 2000), ("mr", 900)):
        volumes[name] = rng.integers(0, high, (20, 24, 4)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(volumes[name], affine), f"{name}.nii.gz")
    assert mgdn(f"fuse ct.nii.gz mr.nii.gz -o out.nii.gz {MODEL}") == 0
    assert "done    4 pictures" in capsys.readouterr().out
    fused = nibabel.load("out.nii.gz")
    np.testing.assert_allclose(fused.affine, affine)
    assert fused.shape == (20, 24, 4)
    values = np.asarray(fused.dataobj, float)
    for volume in volumes.values():
        assert np.corrcoef(values.ravel(), volume.ravel())[0, 1] > 0.3
    assert mgdn(f"fuse ct.nii.gz mr.nii.gz -o out.png {MODEL}") == 2
    assert "name a .nii.gz file" in capsys.readouterr().err
    nibabel.save(nibabel.Nifti1Image(volumes["mr"][..., :3], affine), "short.nii.gz")
    assert mgdn(f"fuse ct.nii.gz short.nii.gz -o out2.nii.gz {MODEL}") == 2
    assert "short.nii.gz has 3 slices but ct.nii.gz has 4" in capsys.readouterr().err
    assert not Path("out2.nii.gz").exists()


# --------------------------------------------------------------------------------------- tasks


def test_tasks_choose_the_network_and_the_preparation(capsys):
    assert mgdn("models --task focus") == 0
    listed = capsys.readouterr().out
    assert "mgdn-mff" in listed
    assert "-ivf" not in listed
    for seed, name in enumerate(("a.png", "b.png")):
        files.write_image(name, u8(scene(64, 80, seed=seed)))
    # A model of one's own beside a task: its preparation, with that network.
    assert mgdn(f"fuse a.png a.png -o out.png --task focus {MODEL}") == 0
    assert "align" in capsys.readouterr().out
    assert mgdn(f"fuse a.png b.png -o out.png --task focus --no-align {MODEL}") == 0
    assert "\nalign" not in capsys.readouterr().out
    assert mgdn("fuse a.png b.png -o out.png --task focsu") == 2
    assert "focus" in capsys.readouterr().err


def test_a_set_takes_a_bracket_at_once_in_any_order(capsys):
    save_choosing_model("set.safetensors", "pyramid", "multi-exposure photographs")
    _, pictures = helpers_scenes.bracket(height=96, width=120)
    for name, picture in zip("abc", pictures, strict=True):
        files.write_image(f"{name}.png", picture)
    said = report("fuse a.png b.png c.png -o one.png --model set.safetensors", capsys)
    steps = {step["step"]: step for step in said["steps"]}
    assert steps["set"]["says"].startswith("the network weighed all pictures at once, at 120x96")
    assert "bracket" not in steps
    turned = report("fuse c.png a.png b.png -o two.png --model set.safetensors", capsys)
    assert any(step["step"] == "order" for step in turned["steps"])
    np.testing.assert_array_equal(files.read_image("one.png"), files.read_image("two.png"))
    grays = [metrics.luminance(x) for x in pictures]
    score = metrics.exposure_similarity(metrics.luminance(files.read_image("one.png")), *grays)
    assert score > 0.9
