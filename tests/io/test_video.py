"""Videos in and out: what is read, in which colours, and what is left when something is wrong."""

import os
import struct
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from helpers import environment
from helpers_video import number_of, numbered, packets, streams, write

from mgdn_jax.errors import InputError
from mgdn_jax.io import video_frames, video_writing
from mgdn_jax.io.video import Video
from mgdn_jax.io.video_joining import join
from mgdn_jax.io.video_writing import Coder, Sound, Writer


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """60 numbered frames with sound."""
    return write(tmp_path_factory.mktemp("video") / "clip.mp4", numbered(60), sound=2.0)


def copy(source, target, quality=95, part=slice(None)):
    """Writes the frames of a video again, with its sound."""
    with Video(source) as video:
        first, last, _ = part.indices(len(video))
        base = video.facts.time_base
        coding = video_writing.coder(
            target, quality=quality, is_gray=video.is_gray, bits=video.facts.bits
        )
        video_writing.check_output(target, video.facts.size, coding)
        origin = int(video.ticks[first]) * base
        start = float(origin) - (video_writing.LEAD if first == 0 else 0)
        end = float("inf") if last == len(video) else float(int(video.ticks[last]) * base)
        sound = Sound(str(source), origin, start, end)
        with Writer(target, video.facts, video.facts.size, coding, sound=sound) as writer:
            for number in range(first, last):
                step = int(video.ticks[1] - video.ticks[0])
                later = int(video.ticks[number + 1]) if number + 1 < len(video) else None
                ticks = int(video.ticks[number])
                length = later - ticks if later is not None else step
                writer.write(video.at(number).pixels, ticks - int(video.ticks[first]), length)
            writer.finish()
            return writer.lost


def test_frames_in_order_and_sought(clip):
    with Video(clip) as video:
        assert (len(video), video.facts.size, video.facts.rate) == (60, (48, 64), 30)
        assert video.is_gray
        assert [number_of(p.pixels) for p in video.frames(range(60))] == list(range(60))
        for number in (50, 3, 3, 59, 0, 31, 30):
            assert number_of(video.at(number).pixels) == number
        assert video.missing == set()
        np.testing.assert_allclose(video.times, np.arange(60) / 30, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mkv", "libx264", "yuv420p"),
        ("a.mov", "libx264", "yuv422p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.ts", "libx264", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.mpg", "mpeg2video", "yuv420p"),
        ("b.mkv", "ffv1", "gray"),
        ("c.mkv", "ffv1", "bgr0"),
        ("d.mkv", "mjpeg", "yuvj420p"),
    ],
)
def test_kinds_of_files(tmp_path, name, codec, pixels):
    path = write(tmp_path / name, numbered(20), codec=codec, pixels=pixels)
    with Video(path) as video:
        assert [number_of(p.pixels) for p in video.frames(range(20))] == list(range(20))
        for number in (17, 2, 11):
            assert number_of(video.at(number).pixels) == number
        assert video.is_gray
        levels = video.at(0).pixels[20:, 20:]
        assert abs(levels.astype(int) - 90).max() <= 3


def test_repeats_are_not_decoded_again(clip):
    with Video(clip) as video:
        pictures = list(video.frames([4, 4, 4, 7]))
    assert pictures[0] is pictures[2]
    assert number_of(pictures[3].pixels) == 7


def patches():
    """A picture of 24 flat patches of colour."""
    colours = np.random.default_rng(0).integers(30, 226, (4, 6, 3)).astype(np.uint8)
    return np.kron(colours, np.ones((16, 16, 1), np.uint8))


def inner(picture):
    """The middles of the patches."""
    return picture.reshape(4, 16, 6, 16, 3)[:, 5:11, :, 5:11].astype(float)


@pytest.mark.parametrize("tags", [(1, 1, 1, 1), (6, 1, 6, 6), (5, 2, 5, 2), (9, 1, 9, 14)])
def test_colours_come_back_in_every_matrix_and_range(tmp_path, tags):
    """The numbers are those of H.273; by another matrix colours are off by 10 levels and more."""
    picture = patches()
    path = write(tmp_path / "a.mp4", [picture] * 3, tags=tags)
    with Video(path) as video:
        read = video.facts.tags
        assert (read.matrix, read.range, read.primaries, read.transfer) == tags
        assert not video.is_gray
        assert abs(inner(video.at(1).pixels) - inner(picture)).max() <= 4
    copy(path, tmp_path / "b.mp4")
    with Video(tmp_path / "b.mp4") as video:
        assert video.facts.tags == read
        assert abs(inner(video.at(1).pixels) - inner(picture)).max() <= 7


def test_without_tags_the_size_decides(tmp_path):
    """Small videos are BT.601, those of HD are BT.709, as players have it; the result says so."""
    rgb = av.VideoFrame.from_ndarray(np.full((720, 32, 3), (200, 40, 40), np.uint8), "rgb24")
    for height, matrix in ((720, 1), (48, 5)):
        made = rgb.reformat(32, height, "yuv420p", dst_colorspace=matrix, dst_color_range=1)
        tags = video_frames.Tags()
        picture = video_frames.pixels(made, tags, is_gray=False)
        assert abs(picture[8, 8].astype(int) - (200, 40, 40)).max() <= 3
        assert tags.for_encoding(height).matrix == {1: 1, 5: 6}[matrix]


def test_ten_bits_stay_ten_bits(tmp_path):
    ramp = np.linspace(4000, 60000, 64).astype(np.uint16)[None].repeat(48, 0)
    path = write(tmp_path / "a.mp4", [ramp] * 2, pixels="yuv420p10le", tags=(1, 1, 1, 1))
    copy(path, tmp_path / "b.mp4")
    for place in (path, tmp_path / "b.mp4"):
        with Video(place) as video:
            picture = video.at(0)
            assert video.facts.bits == 10
            assert picture.pixels.dtype == np.uint16
            assert picture.span == (0.0, 65535.0)
            assert abs(picture.pixels.astype(int) - ramp).max() < 600  # 2 levels of 8 bits


@pytest.mark.parametrize("codec", ["gray16le", "bgr0", "yuv420p10le"])
def test_quality_100_in_matroska_is_lossless(tmp_path, codec):
    rng = np.random.default_rng(0)
    deep = np.uint8 if codec == "bgr0" else np.uint16
    shape = (31, 33) if codec == "gray16le" else (32, 34, 3)
    frames = list(rng.integers(0, np.iinfo(deep).max, (3, *shape)).astype(deep))
    if codec == "yuv420p10le":
        frames = [np.repeat(np.repeat(f[::8, ::8], 8, 0), 8, 1)[:32, :34] for f in frames]
        frames = [(f >> 8).astype(np.uint8) for f in frames]
    name = "libx264" if codec == "yuv420p10le" else "ffv1"
    path = write(tmp_path / "a.mkv", frames, codec=name, pixels=codec)
    copy(path, tmp_path / "b.mkv", quality=100)
    with Video(path) as before, Video(tmp_path / "b.mkv") as after:
        for number in range(3):
            a, b = before.at(number).pixels, after.at(number).pixels
            np.testing.assert_array_equal(a, b)
    if codec != "yuv420p10le":
        np.testing.assert_array_equal(a, frames[2])


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_turned_videos_come_upright(tmp_path, rotation):
    scene = np.full((32, 64), 60, np.uint8)
    scene[:8, :8] = 240  # upper left, once it is upright
    stored = np.rot90(scene, -rotation // 90)
    path = write(tmp_path / "a.mp4", [stored] * 2, rotation=rotation)
    with Video(path) as video:
        assert video.facts.size == (32, 64)
        assert abs(video.at(0).pixels.astype(int) - scene).mean() < 3
    copy(path, tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as container:
        frame = next(container.decode(video=0))
        assert (frame.rotation, frame.width, frame.height) == (0, 64, 32)


def test_sound_is_copied_as_it_is(clip, tmp_path):
    assert copy(clip, tmp_path / "b.mp4") == []
    assert packets(tmp_path / "b.mp4", "audio") == packets(clip, "audio")
    (lost,) = copy(clip, tmp_path / "b.webm")
    assert "(aac) has no place in" in lost
    assert streams(tmp_path / "b.webm") == ["video"]


def test_parts_are_the_whole(clip, tmp_path):
    """Pictures, times and sound: joined parts hold the packets that the whole has."""
    copy(clip, tmp_path / "whole.mp4")
    cuts = [slice(0, 17), slice(17, 18), slice(18, 60)]
    parts = [tmp_path / f"{i}.mp4" for i in range(3)]
    for part, cut in zip(parts, cuts, strict=True):
        copy(clip, part, part=cut)
    join(parts, tmp_path / "joined.mp4")
    joined, whole = (packets(tmp_path / f"{name}.mp4", "audio") for name in ("joined", "whole"))
    np.testing.assert_allclose([p[:2] for p in joined], [p[:2] for p in whole], atol=1e-4)
    assert [p[2] for p in joined] == [p[2] for p in whole]
    with Video(tmp_path / "joined.mp4") as video:
        assert [number_of(p.pixels) for p in video.frames(range(60))] == list(range(60))
        np.testing.assert_allclose(video.times, np.arange(60) / 30, atol=1e-4)


def test_what_cannot_be_joined(clip, tmp_path):
    copy(clip, tmp_path / "a.mp4")
    write(tmp_path / "b.mp4", numbered(5, (64, 64)))
    (tmp_path / "c.mp4").write_text("text")
    out = tmp_path / "out.mp4"
    for parts, words in (
        (["a.mp4"], "alone cannot be joined"),
        (["a.mp4", "b.mp4"], "b.mp4 was not made with the settings of"),
        (["a.mp4", "c.mp4"], "c.mp4 is no video that can be read"),
        (["a.mp4", "d.mp4"], "d.mp4 does not exist"),
    ):
        with pytest.raises(InputError, match=words):
            join([tmp_path / name for name in parts], out)
        assert not out.exists()
    with pytest.raises(InputError, match="is one of the parts"):
        join([tmp_path / "a.mp4", tmp_path / "b.mp4"], tmp_path / "b.mp4")
    with pytest.raises(InputError, match=r"use one of \.mp4"):
        join([tmp_path / "a.mp4", tmp_path / "a.mp4"], tmp_path / "out.gif")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4", "c.mp4"]


def box(name, content):
    return struct.pack(">I4s", 8 + len(content), name) + content


def make_bad(folder, clip):
    """A file of each kind that is no video; name to what is said of it."""
    whole = clip.read_bytes()
    first = {"movflags": "faststart"}
    with (
        av.open(str(clip)) as source,
        av.open(str(folder / "fast.mp4"), "w", options=first) as target,
    ):
        new = {s: target.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.size:
                packet.stream = new[packet.stream]
                target.mux(packet)
    fast = (folder / "fast.mp4").read_bytes()
    noise = bytearray(fast)
    for place in np.random.default_rng(0).integers(fast.find(b"mdat") + 400, len(fast), 600):
        noise[place] ^= 255
    write(folder / "long.mkv", numbered(90))
    (folder / "fast.mp4").unlink()
    files = {
        "text.mp4": (b"hello\n" * 50, "text.mp4 is no video that can be read"),
        "empty.mp4": (b"", "empty.mp4 is empty"),
        "half.mp4": (whole[: len(whole) // 2], "half.mp4 is no video that can be read"),
        "cut.mp4": (fast[: len(fast) * 3 // 4], "cut.mp4 is cut short"),
        "cut.mkv": ((folder / "long.mkv").read_bytes()[:3000], "cut.mkv is cut short"),
        "noise.mp4": (bytes(noise), "noise.mp4 is damaged at"),
        "none.mp4": (box(b"ftyp", b"isom\0\0\2\0isom") + box(b"moov", b""), "none.mp4"),
        "list.mp4": (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n", "is no video that can"),
        "concat.mkv": (b"ffconcat version 1.0\nfile clip.mp4\n", "is of a kind that is not read"),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    return {name: words for name, (_, words) in files.items()}


def test_files_that_are_no_videos(clip, tmp_path):
    for name, words in make_bad(tmp_path, clip).items():
        with pytest.raises(InputError) as caught, Video(tmp_path / name) as video:
            for _ in video.frames(range(len(video))):
                pass
        assert words in str(caught.value), name
        assert str(caught.value).count(".\n") == 0
        assert str(caught.value).endswith(".")
    with pytest.raises(InputError, match="is a folder where a video is expected"):
        Video(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        Video(tmp_path / "nowhere.mp4")


def test_sound_alone_and_no_frames(clip, tmp_path):
    with av.open(str(clip)) as source, av.open(str(tmp_path / "a.mp4"), "w") as target:
        stream = source.streams.audio[0]
        new = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.size:
                packet.stream = new
                target.mux(packet)
    with pytest.raises(InputError, match="holds no video stream; give a video"):
        Video(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "b.mkv"), "w") as target:
        stream = target.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        target.start_encoding()
    with pytest.raises(InputError, match="holds no"):
        Video(tmp_path / "b.mkv")


def test_what_is_too_large_is_refused_before_it_is_decoded(clip, monkeypatch):
    monkeypatch.setenv("MGDN_MAX_GIB", "0.00005")
    with pytest.raises(InputError, match=r"clip\.mp4 takes .* GiB when it is unpacked"):
        Video(clip)


def test_frames_without_times(tmp_path):
    path = write(tmp_path / "a.h264", numbered(5))
    with pytest.raises(
        InputError, match=r"a\.h264 is of a kind that is not read; convert it to MP4"
    ):
        Video(path)


def test_a_size_that_changes(tmp_path):
    """Two streams of two sizes, one behind the other, as a camera writes that was turned."""
    first = write(tmp_path / "a.ts", numbered(5))
    second = write(
        tmp_path / "b.ts", numbered(5, (64, 48)), ticks=range(5, 10), base=Fraction(1, 30)
    )
    both = tmp_path / "c.ts"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    with (
        pytest.raises(InputError, match=r"changes its size|frames out of order"),
        Video(both) as video,
    ):
        list(video.frames(range(len(video))))


def test_gray_that_gets_colour_is_noticed(tmp_path):
    gray = [np.full((48, 64, 3), 90, np.uint8)] * 200
    red = np.full((48, 64, 3), (220, 40, 40), np.uint8)
    frames = [red if 10 <= number < 14 else frame for number, frame in enumerate(gray)]
    path = write(tmp_path / "a.mp4", frames, options={"g": "250", "sc_threshold": "0"})
    with Video(path) as video:
        assert video.is_gray
        list(video.frames(range(20)))
        assert video.coloured_at == pytest.approx(10 / 30, abs=0.02)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("folder", "does not end in a kind of video"),
        ("a.avi", r"use one of \.mp4, \.m4v, \.mov, \.mkv, \.webm"),
        ("folder.mp4", "is a folder where a video is to be written"),
        ("a.png/b.mp4", "is not a folder"),
    ],
)
def test_places_that_cannot_be_written(tmp_path, name, words):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "a.png").write_text("")

    def check():
        coding = video_writing.coder(tmp_path / name, quality=95, is_gray=False, bits=8)
        video_writing.check_output(tmp_path / name, (48, 64), coding)

    with pytest.raises(InputError, match=words):
        check()


@pytest.mark.parametrize("size", [(49, 64), (48, 65)])
def test_odd_sizes(tmp_path, size):
    frames = list(numbered(3, size))
    for name, quality in (("a.mp4", 95), ("a.webm", 95), ("a.mkv", 100), ("b.mkv", 95)):
        coding = video_writing.coder(tmp_path / name, quality=quality, is_gray=True, bits=8)
        if coding.name == "libx264":
            with pytest.raises(InputError, match=r"an odd number of pixels; name a \.webm"):
                video_writing.check_output(tmp_path / name, size, coding)
            continue
        video_writing.check_output(tmp_path / name, size, coding)
    source = write(tmp_path / "s.mkv", frames, codec="ffv1", pixels="gray")
    copy(source, tmp_path / "a.webm")
    with Video(tmp_path / "a.webm") as video:
        assert video.facts.size == size
        assert [number_of(p.pixels) for p in video.frames(range(3))] == [0, 1, 2]


def test_qualities():
    values = [
        int(video_writing.coder("a.mp4", quality=q, is_gray=True, bits=8).options["qp"])
        for q in (1, 50, 95, 100)
    ]
    assert values == [51, 30, 12, 10]
    assert video_writing.coder("a.mkv", quality=100, is_gray=False, bits=10) == Coder(
        "matroska", "ffv1", "gbrp16le", {"level": "3", "slicecrc": "1"}
    )


def test_metadata_without_places_and_devices():
    known = {"title": "x", "creation_time": "2026", "location": "+1+2/", "com.android.model": "y"}
    assert video_writing.kept_metadata(known, "usual") == {"title": "x", "creation_time": "2026"}
    assert video_writing.kept_metadata(known, "all") == known
    assert video_writing.kept_metadata(known, "none") == {}


FULL = """
import resource, sys
sys.path.insert(0, {tests!r})
import test_video
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
try:
    test_video.copy(sys.argv[1], sys.argv[2])
except test_video.InputError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv"])
def test_a_full_disk_leaves_what_was_there(clip, tmp_path, name):
    (tmp_path / name).write_bytes(b"what was there")
    code = FULL.format(tests=os.path.dirname(__file__))
    command = [sys.executable, "-c", code, str(clip), str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.stderr == ""
    assert f"{name} cannot be written (file too large); free some space" in done.stdout
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(name, b"what was there")]
