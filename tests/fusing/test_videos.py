"""Videos through a network: pairs, one preparation for all frames, parts, and what is left."""

import threading
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from fake_fusion import Config
from helpers_video import number_of, numbered, packets, write
from scipy import ndimage

import mgdn_jax
from mgdn_jax.errors import FusionWarning, InputError
from mgdn_jax.fusing import videos
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.fusing.transforms import Transform
from mgdn_jax.fusing.videos import fuse_video
from mgdn_jax.io import video_joining
from mgdn_jax.io.video import Video


def make(stretch="none", channels=1, task="", **fields):
    card = {"inference": {"stretch": stretch}, "task": task}
    config = Config(in_channels=(channels, channels), out_channels=channels, **fields)
    return Fuser("fake_fusion", config, {"bias": np.zeros((), np.float32)}, {}, card)


def read(path):
    with Video(path) as video:
        return [picture.pixels for picture in video.frames(range(len(video)))]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two videos of equal frames: 40 numbers at 20 frames a second, the second with sound."""
    folder = tmp_path_factory.mktemp("clips")
    write(folder / "ir.mp4", numbered(40), rate=20)
    write(folder / "vi.mp4", numbered(40), rate=20, sound=2.0)
    return folder


def still(frames, size, low, high, seed=0, colour=False):
    """A dull scene through which a bright thing walks in the second half."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=size), 5)
    noise = (noise - noise.min()) / np.ptp(noise)
    if colour:
        noise = np.stack([noise, noise[::-1], noise[:, ::-1]], -1)
    for number in range(frames):
        frame = (low + (high - low) * noise).round().astype(np.uint8)
        if number >= frames // 2:
            left = size[1] // 8 + size[1] * (number - frames // 2) // frames
            frame[size[0] // 8 : size[0] // 3, left : left + size[1] // 10] = 250
        yield frame


def test_120_frames_of_two_cameras_are_paired_and_do_not_flicker(tmp_path):
    """The network answers to the mean of the whole picture, and the result is spread."""
    size, count = (256, 320), 120
    bars = list(numbered(count, size, ink=(85, 200)))
    for name, low, high, colour in (("ir", 80, 110, False), ("vi", 60, 130, True)):
        frames = list(still(count, size, low, high, colour=colour))
        for frame, bar in zip(frames, bars, strict=True):
            frame[:8, :64] = bar[:8, :64] if frame.ndim == 2 else bar[:8, :64, None]
        step = 3 if name == "ir" else 1
        rate = 30 // step
        write(tmp_path / f"{name}.mkv", frames[::step], rate=rate, codec="ffv1", pixels="bgr0")
    sources = (tmp_path / "ir.mkv", tmp_path / "vi.mkv")
    fuser = make("minmax", uses_mean=True)
    film = fuse_video(*sources, output=tmp_path / "a.mp4", model=fuser)
    assert (film.frames, film.total, film.size) == (count, count, size)
    assert film.rate > 0
    assert {step["step"] for step in film.report.steps} >= {"pairs", "frames", "tone"}
    fused = np.stack(read(film.path)).astype(int)
    assert fused.shape == (count, *size, 3)
    # At every third frame the numbers of both cameras are the same one.
    assert [number_of(frame) for frame in fused[::3]] == list(range(0, count, 3))
    patch = fused[:, 128:, 160:]
    assert np.ptp(patch, axis=0).max() <= 2
    assert patch.std() > 5
    # Before it is coded it does not move at all; with a tone of its own for each it does.
    for tone, least, most in ((None, 0, 0), ("picture", 15, 255)):
        film = fuse_video(
            *sources, output=tmp_path / "b.mkv", model=fuser, quality=100, tone=tone, frames="55:65"
        )
        patch = np.stack(read(film.path))[:, 128:, 160:].astype(int)
        assert least <= np.ptp(patch, axis=0).max() <= most


@pytest.mark.filterwarnings("ignore::mgdn_jax.errors.FusionWarning")
def test_offsets_and_lengths(clips, tmp_path):
    """The first video begins half a second later: its frame 0 belongs to frame 10 of the second."""
    film = fuse_video(
        clips / "ir.mp4", clips / "vi.mp4", output=tmp_path / "a.mkv", model=make(), quality=100,
        offset=0.5,
    )  # fmt: skip
    assert film.frames == 31
    numbers = [number_of(frame) for frame in read(film.path)]
    # Fused are k and k + 10: the network favours the first, whose number is read.
    assert numbers[1:] == list(range(30))
    assert any("no partner" in sentence for sentence in film.warnings) is (9 / 20 > 1)


def test_irregular_times_are_kept(tmp_path):
    ticks = np.cumsum([0, 40, 40, 20, 200, 30, 30, 40, 90, 10])
    write(tmp_path / "ir.mp4", numbered(20), rate=20)
    write(tmp_path / "vi.mkv", numbered(10), ticks=ticks, base=Fraction(1, 1000))
    film = fuse_video(
        tmp_path / "ir.mp4", tmp_path / "vi.mkv", output=tmp_path / "a.mp4", model=make()
    )
    with Video(film.path) as video:
        np.testing.assert_allclose(1000 * video.times, ticks, atol=1)
        numbers = [number_of(p.pixels) for p in video.frames(range(10))]
    assert numbers == [min(range(20), key=lambda k, t=t: abs(50 * k - t)) for t in ticks]


def test_parts_are_joined_to_the_whole(clips, tmp_path):
    """What all frames share is that of the whole, whichever part is fused; sound is cut exactly."""
    fuser = make("minmax", uses_mean=True)
    sources = (clips / "ir.mp4", clips / "vi.mp4")
    whole = fuse_video(*sources, output=tmp_path / "whole.mp4", model=fuser)
    parts = []
    for part in (":13", "13:14", "14:"):
        place = tmp_path / f"{len(parts)}.mp4"
        film = fuse_video(*sources, output=place, model=fuser, frames=part)
        parts.append(place)
    assert (film.first, film.frames, film.total) == (14, 26, 40)
    joined = video_joining.join(parts, tmp_path / "joined.mp4")
    for a, b in zip(read(joined), read(whole.path), strict=True):
        assert abs(a.astype(int) - b).max() <= 4  # parts begin with key frames of their own
    assert [p[2] for p in packets(joined, "audio")] == [p[2] for p in packets(whole.path, "audio")]
    assert [p[2] for p in packets(whole.path, "audio")] == [
        p[2] for p in packets(clips / "vi.mp4", "audio")
    ]
    lossless = [
        fuse_video(*sources, output=tmp_path / f"{i}.mkv", model=fuser, quality=100, frames=part)
        for i, part in enumerate((":", "7:9"))
    ]
    for a, b in zip(read(lossless[0].path)[7:9], read(lossless[1].path), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_film_is_what_its_pictures_are(clips, tmp_path):
    """Without a tone, each frame is what a call on the two frames gives."""
    write(tmp_path / "vi.mp4", still(6, (48, 64), 30, 220, colour=True), rate=20)
    fuser = make(channels=3)
    film = fuse_video(
        clips / "ir.mp4", tmp_path / "vi.mp4", output=tmp_path / "a.mkv", model=fuser, quality=100
    )
    first, second = read(clips / "ir.mp4"), read(tmp_path / "vi.mp4")
    for number, fused in enumerate(read(film.path)):
        np.testing.assert_array_equal(fused, fuser(first[number], second[number], checks=False))


def test_one_placing_for_all_frames(tmp_path):
    """Two cameras side by side: what a few frames agree on holds for all, so nothing trembles."""
    scene = list(still(12, (96, 128), 20, 230, seed=3))
    write(tmp_path / "a.mp4", [np.roll(frame, (4, 6), (0, 1)) for frame in scene])
    write(tmp_path / "b.mp4", scene)
    fuser = make(task="multi-focus")
    with pytest.warns(FusionWarning) as caught:
        film = fuse_video(
            tmp_path / "a.mp4", tmp_path / "b.mp4", output=tmp_path / "c.mp4", model=fuser,
            frames="0:1",
        )  # fmt: skip
    assert any("shifted against" in str(w.message) for w in caught)
    film = fuse_video(
        tmp_path / "b.mp4", tmp_path / "a.mp4", output=tmp_path / "c.webm", model=fuser, align=True
    )
    (placing,) = (step for step in film.report.steps if step["step"] == "placing")
    assert placing["pixels"] < 1
    moved = [step for step in film.report.steps if step["step"] == "align"]
    assert max(step["pixels"] for step in moved) == pytest.approx(np.hypot(4, 6), abs=0.7)
    height, width = film.size
    assert 88 <= height <= 93
    assert 118 <= width <= 123
    assert np.shape(read(film.path)[0])[:2] == film.size


def test_placings_are_told_apart():
    class Fake:
        def __init__(self, x):
            shift = Transform(np.array([[1, 0, x], [0, 1, 0], [0, 0, 1.0]]))
            self.placing = type("Placing", (), {"transforms": (None, shift)})
            self.survey = type("Survey", (), {"sizes": ((10, 10), (10, 10))})

    assert videos._apart(Fake(1.0), Fake(3.5)) == pytest.approx(2.5)
    assert videos._apart(Fake(2.0), Fake(2.0)) == 0


def test_counts_of_a_thermal_camera(tmp_path):
    """16 bits in a narrow band: one range for all frames, and a result that can be seen."""
    frames = [(17000 + 900 * f.astype(np.uint16) // 255) for f in numbered(12, ink=(0, 255))]
    write(tmp_path / "ir.mkv", frames, codec="ffv1", pixels="gray16le")
    write(tmp_path / "vi.mp4", numbered(12))
    with pytest.warns(FusionWarning, match=r"source A uses 0\.\d+ % of the range"):
        film = fuse_video(
            tmp_path / "ir.mkv", tmp_path / "vi.mp4", output=tmp_path / "a.mp4", model=make(),
            range="auto",
        )  # fmt: skip
    assert film.dtype == "uint16"
    assert [number_of(frame) for frame in read(film.path)] == list(range(12))
    (said,) = (step for step in film.report.steps if "the same in all" in step["says"])
    assert 16900 < said["low"] < said["high"] < 18500


def test_videos_that_do_not_go_together(clips, tmp_path):
    fuser, vi = make(), clips / "vi.mp4"
    write(tmp_path / "large.mp4", numbered(5, (64, 80)))
    write(tmp_path / "odd.webm", numbered(5, (49, 65)), codec="libvpx-vp9")
    (tmp_path / "text.mp4").write_text("text")
    for sources, name, changes, words in (
        ((vi, tmp_path / "large.mp4"), "a.mp4", {}, "must have the same size"),
        ((vi,), "a.mp4", {}, "is alone; give at least two videos"),
        ((vi, tmp_path / "text.mp4"), "a.mp4", {}, r"text\.mp4 is no video that can be read"),
        ((tmp_path / "odd.webm",) * 2, "a.mp4", {}, "an odd number of pixels"),
        ((vi, vi), "a.gif", {}, "does not end in a kind of video"),
        ((vi, vi), "a.mp4", {"frames": "50:60"}, "holds none of the 40 frames"),
        ((vi, vi), "a.mp4", {"offset": "100"}, "no time that all videos show"),
        ((vi, vi), "a.mp4", {"quality": 0}, "quality"),
        ((vi, vi), "a.mp4", {"tiles": 3}, "no option 'tiles'"),
    ):
        with pytest.raises(InputError, match=words):
            fuse_video(*sources, output=tmp_path / name, model=fuser, **changes)
    (tmp_path / "same.mp4").write_bytes(vi.read_bytes())
    with pytest.raises(InputError, match="is one of the inputs"):
        fuse_video(vi, tmp_path / "same.mp4", output=tmp_path / "same.mp4", model=fuser)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "large.mp4", "odd.webm", "same.mp4", "text.mp4"
    ]  # fmt: skip
    with pytest.warns(FusionWarning, match="was stretched by --resize"):
        film = fuse_video(
            vi, tmp_path / "large.mp4", output=tmp_path / "a.mp4", model=fuser, resize=True
        )
    assert film.size == (64, 80)


def test_files_that_begin_at_other_times_are_said(clips, tmp_path):
    write(tmp_path / "late.mp4", numbered(40), rate=20, ticks=range(60, 100))
    with pytest.warns(FusionWarning, match=r"ir\.mp4 says .* -3\.00 s from .*--offset A:-3\.00"):
        film = fuse_video(
            clips / "ir.mp4", tmp_path / "late.mp4", output=tmp_path / "a.mp4", model=make(),
            frames="3:4",
        )  # fmt: skip
    assert number_of(read(film.path)[0]) == 3


def interrupted_after(fuser, count):
    """The network, and an interruption when it has fused so many frames."""

    class Interrupting:
        calls = 0

        def __call__(self, scenes):
            if self.calls == count:
                raise KeyboardInterrupt
            self.calls += 1
            return fuser.fuse_prepared(scenes)

    return Interrupting()


@pytest.mark.parametrize("count", [0, 15])
def test_an_interruption_leaves_a_part_or_nothing(clips, tmp_path, count):
    fuser = make("minmax")
    sources = (clips / "ir.mp4", clips / "vi.mp4")
    (tmp_path / "a.mp4").write_bytes(b"what was there")
    with videos.Footage(sources) as footage:
        production = videos.Production(footage, tmp_path / "a.mp4")
        production.settle(fuser, fuser.resolve(videos.USUAL))
        with pytest.raises(KeyboardInterrupt) as caught:
            production.run(fuse=interrupted_after(fuser, count), batch=1)
    assert (tmp_path / "a.mp4").read_bytes() == b"what was there"
    others = [p for p in tmp_path.iterdir() if p.name != "a.mp4"]
    assert not [t for t in threading.enumerate() if t.name.startswith("mgdn-files")]
    if not count:
        assert (str(caught.value), others) == ("interrupted.", [])
        return
    (part,) = others
    end = int(part.name.split("-")[1].removesuffix(".mp4"))
    assert part.name == f"a.0-{end}.mp4"
    assert 1 <= end <= count
    assert f"the {end} frames so far are in {part}: go on with --frames {end}:" in str(caught.value)
    assert [number_of(frame) for frame in read(part)] == list(range(end))
    times = [start + length for start, length, _ in packets(part, "audio")]
    assert max(times) < end / 20 + 0.03
    # The rest, and both together.
    fuse_video(*sources, output=tmp_path / "b.mp4", model=fuser, frames=f"{end}:")
    video_joining.join([part, tmp_path / "b.mp4"], tmp_path / "c.mp4")
    assert [number_of(frame) for frame in read(tmp_path / "c.mp4")] == list(range(40))


def test_a_damaged_source_leaves_nothing(clips, tmp_path):
    data = bytearray((clips / "ir.mp4").read_bytes())
    place = data.find(b"mdat") + 1500
    data[place : place + 1500] = b"\xff" * 1500
    (tmp_path / "bad.mp4").write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"bad\.mp4 is (damaged|no video)"):
        fuse_video(tmp_path / "bad.mp4", clips / "vi.mp4", output=tmp_path / "a.mp4", model=make())
    assert [p.name for p in tmp_path.iterdir()] == ["bad.mp4"]


def test_memory_does_not_grow_with_the_film(tmp_path):
    """Arrays alone; benchmarks/video.py looks at the whole process."""
    frames = list(still(10, (48, 64), 30, 220, colour=True))
    fuser, most = make(), []
    for times in (2, 12):
        place = write(tmp_path / f"{times}.mp4", frames * times)
        tracemalloc.start()
        film = fuse_video(place, place, output=tmp_path / "a.mp4", model=fuser, checks=False)
        most.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert film.frames == 120
    assert most[1] - most[0] < 20 * frames[0].nbytes  # of 200 more in both films


def test_the_extra_is_named(clips, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    for name in ("video", "video_frames", "video_writing"):
        monkeypatch.delitem(__import__("sys").modules, f"mgdn_jax.io.{name}", raising=False)
        monkeypatch.delattr(f"mgdn_jax.io.{name}", raising=False)
    with pytest.raises(InputError, match=r'needs an extra .*pip install "mgdn-jax\[video\]"'):
        mgdn_jax.fuse_video(
            clips / "ir.mp4", clips / "vi.mp4", output=tmp_path / "a.mp4", model=make()
        )
