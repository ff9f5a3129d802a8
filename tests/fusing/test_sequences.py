"""What the pictures of a folder share."""

import numpy as np
import pytest
from fake_fusion import Config
from scipy import ndimage

from mgdn_jax.fusing import sequences
from mgdn_jax.fusing.folders import fuse_folders
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.fusing.options import FuseOptions, limits
from mgdn_jax.fusing.report import Report
from mgdn_jax.io import files


def make(stretch="none", **fields):
    card = {"inference": {"stretch": stretch}}
    config = Config(in_channels=(1, 1), out_channels=1, **fields)
    return Fuser("fake_fusion", config, {"bias": np.zeros((), np.float32)}, {}, card)


def film(dtype=np.uint8, low=80, high=110, frames=6):
    """A still, dull scene into which a small bright thing walks half-way."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(48, 64)), 3)
    noise = (noise - noise.min()) / np.ptp(noise)
    still = (low + (high - low) * noise).astype(dtype)
    for number in range(frames):
        frame = still.copy()
        if number >= frames // 2:
            frame[10:14, 5 + 6 * number : 9 + 6 * number] = np.iinfo(dtype).max
        yield frame


@pytest.fixture
def folders(tmp_path):
    for name, dtype, low, high in (("ir", np.uint8, 80, 110), ("vi", np.uint8, 60, 130)):
        for number, frame in enumerate(film(dtype, low, high)):
            files.write_image(tmp_path / name / f"{number}.png", frame)
    return tmp_path


@pytest.mark.parametrize("stretch", ["minmax", "fill", "robust"])
def test_a_still_patch_of_a_sequence_stays(folders, stretch):
    written = fuse_folders(
        folders / "ir", folders / "vi", output=folders / "out", model=make(stretch)
    )
    patch = np.stack([files.read_image(path)[30:, :30] for path in written.values()]).astype(int)
    assert np.ptp(patch, axis=0).max() <= 1
    assert patch.std() > 5
    # Each picture's own tone, which is still there to be had, flickers.
    written = fuse_folders(
        folders / "ir", folders / "vi", output=folders / "own", model=make(stretch), tone="picture"
    )
    patch = np.stack([files.read_image(path)[30:, :30] for path in written.values()]).astype(int)
    assert np.ptp(patch, axis=0).max() > 20 or stretch == "robust"


def test_unrelated_pictures_have_a_tone_each(tmp_path):
    rng = np.random.default_rng(1)
    for name in ("ir", "vi"):
        for number in range(4):
            pixels = rng.integers(0, 20 + 50 * number, (40, 40), np.uint8)
            files.write_image(tmp_path / name / f"{number}.png", pixels)
    fuser = make("minmax")
    written = fuse_folders(tmp_path / "ir", tmp_path / "vi", output=tmp_path / "out", model=fuser)
    for name, path in written.items():
        alone = fuser(tmp_path / "ir" / f"{name}.png", tmp_path / "vi" / f"{name}.png")
        np.testing.assert_array_equal(files.read_image(path), alone)


def test_counts_of_a_folder_share_a_range(tmp_path):
    groups = []
    for number, frame in enumerate(film(np.uint16, 17000, 17900)):
        frame[frame == 65535] = 18400
        files.write_image(tmp_path / "ir" / f"{number}.png", frame)
        pixels = np.random.default_rng(number).integers(0, 255, frame.shape, np.uint8)
        files.write_image(tmp_path / "vi" / f"{number}.png", pixels)
        groups.append((tmp_path / "ir" / f"{number}.png", tmp_path / "vi" / f"{number}.png"))
    report = Report()
    fuser = make()
    options = fuser.resolve(FuseOptions(range="auto").otherwise(sequences.USUAL))
    _, settled = sequences.settle(fuser, groups, options, report)
    first, second = settled.range.split(";")
    low, high = (float(x) for x in first.removeprefix("A:").split(","))
    assert 16000 < low < 17100
    assert 18000 < high < 19500
    assert second == "B:auto"
    assert "the same in all pictures" in report.steps[0]["says"]
    ranges = {
        (step["low"], step["high"])
        for group in groups
        for step in fuser.fuse(*group, options=settled).report.steps
        if step["step"] == "range"
    }
    assert ranges == {(low, high)}


def counts(low, high, number):
    x = np.random.default_rng(number).random((40, 40))
    return np.rint(low + (high - low) * x).astype(np.uint16)


def test_a_range_holds_every_frame_and_not_more_than_the_contrast_beside_it():
    fuser, dull = make(), np.full((40, 40), 128, np.uint8)
    dull[:20] = 96
    groups = [(counts(9000, 9600 + 900 * (n == 5), n), dull) for n in range(20)]
    options = fuser.resolve(FuseOptions(range="auto").otherwise(sequences.USUAL))
    _, settled = sequences.settle(fuser, groups, options, Report())
    low, high = (float(x) for x in settled.range.split(";")[0].removeprefix("A:").split(","))
    assert high > 10400  # of the sixth frame, which is none of eight that are evenly spread
    assert high - low > 1.8 * 1500
    # One frame has 16 bits: the others are not read as 10.
    groups = [(counts(0, 60000 if n == 5 else 1000, n), dull) for n in range(20)]
    assert sequences.settle(fuser, groups, options, Report())[1].range == "A:type;B:auto"


def test_exposures_of_a_folder_share_a_range():
    card = {"task": "multi-exposure photographs"}
    config = Config(in_channels=(1, 1), out_channels=1)
    fuser = Fuser("fake_fusion", config, {"bias": np.zeros((), np.float32)}, {}, card)
    groups = [(counts(0, 900, n), counts(0, 4000, n + 9)) for n in range(3)]
    options = fuser.resolve(FuseOptions(range="auto").otherwise(sequences.USUAL))
    assert sequences.settle(fuser, groups, options, Report())[1].range == "A:0,4095;B:0,4095"


def test_a_window_leaves_nothing_to_warn_of():
    fuser = make()
    scans = [counts(0, 3000, n).astype(np.int16) - 1000 for n in range(3)]
    options = FuseOptions(range="auto", window="A:lung").otherwise(sequences.USUAL)
    report = Report()
    _, settled = sequences.settle(
        fuser, [(scan, scan.astype(np.uint8)) for scan in scans], fuser.resolve(options), report
    )
    assert settled.range == "A:auto;B:auto"
    assert not report.warnings


def test_what_is_a_sequence(folders, tmp_path):
    groups = [(folders / "ir" / f"{n}.png", folders / "vi" / f"{n}.png") for n in range(6)]
    assert sequences.is_sequence(groups)
    assert not sequences.is_sequence(groups[:1])
    noise = np.random.default_rng(3).integers(0, 255, (48, 64), np.uint8)
    files.write_image(tmp_path / "noise.png", noise)
    other = (tmp_path / "noise.png", tmp_path / "noise.png")
    assert not sequences.is_sequence([groups[0], other, groups[1]])
    # A broken file is said when its turn comes, not here.
    (tmp_path / "broken.png").write_bytes(b"no picture")
    broken = (tmp_path / "broken.png", tmp_path / "broken.png")
    assert sequences.is_sequence([*groups[:3], broken, *groups[3:]])


def test_a_dull_sequence_is_not_blown_up(tmp_path):
    groups = []
    for number in range(3):
        pixels = (100 + 4 * np.random.default_rng(0).random((40, 40))).astype(np.uint8)
        files.write_image(tmp_path / f"{number}.png", pixels)
        groups.append((tmp_path / f"{number}.png",) * 2)
    fuser = make("minmax")
    _, options = sequences.settle(fuser, groups, fuser.resolve(sequences.USUAL), Report())
    low, high = limits(options.tone)
    assert high - low == pytest.approx(1 / sequences.MOST_GAIN)
    assert low < 100 / 255 < high


def test_statistics_of_whole_pictures_are_those_of_all_frames(folders):
    """A network that answers to the mean of the picture moves everywhere when light walks in."""
    fuser = make(uses_mean=True)
    sources = folders / "ir", folders / "vi"
    alone = fuse_folders(*sources, output=folders / "own", model=fuser, tone="picture")
    written = fuse_folders(*sources, output=folders / "out", model=fuser)
    moves = []
    for results in (alone, written):
        patch = np.stack([files.read_image(path)[30:, :30] for path in results.values()])
        moves.append(np.ptp(patch.astype(int), axis=0).max())
    assert moves[0] >= 1
    assert moves[1] == 0
    assert [step["step"] for step in written.report.steps] == ["frames"]
    # The mean of the frames' means, as each frame has it by itself.
    means = [files.read_image(path).mean() / 255 for path in sorted((folders / "ir").iterdir())]
    a, b = (files.read_image(folder / "0.png") / 255 for folder in sources)
    expected = 0.7391 * a + 0.2609 * b + 0.1 * (np.mean(means) - 0.5)
    fused = files.read_image(written["0"])
    np.testing.assert_allclose(fused / 255, expected, atol=0.6 / 255)
    assert fuser.steadied([]) is fuser
