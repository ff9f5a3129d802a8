"""Videos at the edge of the package: what a file holds, and its frames as pictures.

Needs PyAV (extra `video`). All times of a file are read before anything is decoded, so that frames
have numbers and a file that was cut short is noticed before the work. Nothing but the file that is
named is opened, whatever it refers to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from mgdn_jax.errors import InputError
from mgdn_jax.io import guard, opening, video_frames
from mgdn_jax.io.pictures import Picture
from mgdn_jax.io.video_frames import Tags

MOST_BYTES = 2**42
"""Files above this many bytes are refused."""
HELD = 8
"""Frames that are in memory at once, about: they bound what a frame may declare."""
LOOKED = 9
"""Frames, evenly spread, that tell whether a video has colour."""
NEAR = 48
"""Frames that are decoded on the way to another before one is sought."""
# Names of what is read: containers of one file, none that names others (playlists, for instance).
_CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,ogg,flv,asf,mxf,ivf,yuv4mpegpipe"
# Seconds and part of its length by which a file may be shorter than it says.
_SHORT = (1.0, 0.02)


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a file says about its pictures.

    Attributes:
        size: height and width, upright.
        rate: frames a second, on average.
        time_base: the unit of times.
        bits: of a value, 8 to 16.
        tags: of its colours.
        aspect: width of a pixel by its height, upright; 1 where nobody says.
        codec: name of the coder.
        metadata: what the container says, by name.
    """

    size: tuple[int, int]
    rate: Fraction
    time_base: Fraction
    bits: int
    tags: Tags
    aspect: Fraction
    codec: str
    metadata: dict[str, str]


class Video:
    """The pictures of one file.

    Attributes:
        name: its path as it was given.
        facts: what the file says.
        ticks: times of all frames in units of `facts.time_base`, ascending, (n,) int64.
        start: seconds at which the first frame is shown, by the file's own clock; None for files
            whose clock starts anywhere.
        remarks: sentences about what is not read, or looks wrong.
        is_gray: whether it has no colour.
        missing: numbers of frames that could not be decoded, so far; a neighbour took their place.
        coloured_at: seconds of the first frame with colour in a gray video; None for none.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Reads the times of all frames, and decodes a few.

        Args:
            path: the file.

        Raises:
            InputError: it is no video that can be read, holds no frames, is cut short, or too
                large.
        """
        self.name = os.fspath(path)
        self.missing: set[int] = set()
        self.coloured_at: float | None = None
        self.remarks: tuple[str, ...] = ()
        self.ticks, self._keys, self.start = self._scan()
        self._cursor: tuple[Iterator[av.VideoFrame], InputContainer, VideoStream] | None = None
        self._ahead: av.VideoFrame | None = None
        self._last = -1
        self.facts = Facts((1, 1), Fraction(1), Fraction(1), 8, Tags(), Fraction(1), "", {})
        first = self._frame(0)
        self.facts = self._describe(first)
        self.is_gray = self._looks_gray()

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends reading."""
        if self._cursor is not None:
            self._cursor[1].close()
        self._cursor = self._ahead = None

    def __len__(self) -> int:
        return len(self.ticks)

    @property
    def times(self) -> np.ndarray:
        """Seconds of all frames, the first at 0, (n,) float64."""
        return (self.ticks - self.ticks[0]) * float(self.facts.time_base)

    @property
    def interval(self) -> float:
        """Seconds from a frame to the next, usually."""
        if len(self.ticks) < 2:
            return float(1 / self.facts.rate)
        return float(np.median(np.diff(self.ticks)) * self.facts.time_base)

    def at(self, number: int) -> Picture:
        """One frame.

        Args:
            number: of the frame, from 0. To ask for them in order is quick; others are sought.

        Raises:
            InputError: the file is damaged there, or its pictures change their size.
        """
        frame = self._frame(number)
        pixels = video_frames.pixels(frame, self.facts.tags, is_gray=self.is_gray)
        if pixels.shape[:2] != self.facts.size:
            (height, width), seconds = pixels.shape[:2], self.times[number]
            raise InputError(
                f"{self.name} changes its size to {width}x{height} at {seconds:.2f} s; cut it "
                "there into two videos."
            )
        is_clean = self.is_gray and self.coloured_at is None
        if is_clean and video_frames.chroma(frame) > video_frames.COLOURED:
            self.coloured_at = float(self.times[number])
        # Values of 10 and 12 bits lie over all of 16; counts of a thermal camera need not.
        is_counts = self.facts.bits == 16 and video_frames.is_luma_alone(frame.format)
        span = None if pixels.dtype == np.uint8 or is_counts else (0.0, 65535.0)
        return Picture(pixels, self.name, span=span)

    def frames(self, numbers: Sequence[int]) -> Iterator[Picture]:
        """Frames in order, decoded in one go; one that is asked for again is not decoded again.

        Args:
            numbers: ascending; the same number may come several times.

        Raises:
            InputError: as `at`.
        """
        last, picture = -1, None
        for number in numbers:
            if picture is None or number != last:
                last, picture = number, self.at(int(number))
            yield picture

    # ---------------------------------------------------------------------------- reading

    def _open(self) -> tuple[InputContainer, VideoStream]:
        container = opened(self.name)
        streams = [s for s in container.streams.video if "attached_pic" not in _marks(s)]
        if not streams:
            container.close()
            raise InputError(f"{self.name} holds no video stream; give a video.")
        streams[0].thread_type = "AUTO"
        return container, streams[0]

    def _scan(self) -> tuple[np.ndarray, np.ndarray, float | None]:
        """Times of all frames, of key frames, and when the first is shown."""
        container, stream = self._open()
        with container, guard_reading(self.name):
            _check_declared(stream, self.name)
            ticks: list[int] = []
            keys: list[int] = []
            end = 0.0
            for packet in container.demux():
                is_ours = packet.stream is stream
                if packet.size == 0 or packet.is_discard:
                    continue
                if packet.pts is None:
                    if is_ours:
                        raise _timeless(self.name)
                    continue
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if is_ours:
                    ticks.append(packet.pts)
                    keys += [packet.pts] if packet.is_keyframe else []
            if not ticks:
                raise InputError(f"{self.name} holds no frames; export it again.")
            self._check_whole(container, stream, end)
            self.remarks += _further(container, self.name)
            has_clock = container.format.name.startswith(("mov", "matroska"))
            base = stream.time_base
            start = float(min(ticks) * base) if has_clock and base is not None else None
        return np.unique(np.array(ticks, np.int64)), np.unique(np.array(keys, np.int64)), start

    def _check_whole(self, container: InputContainer, stream: VideoStream, end: float) -> None:
        """Refuses a file that ends before what it declares.

        Raises:
            InputError: it does.
        """
        kind, entries = container.format.name, stream.index_entries
        declared = float(container.duration or 0) / av.time_base
        begun = float(container.start_time or 0) / av.time_base
        is_short = declared + begun - end > max(_SHORT[0], _SHORT[1] * declared)
        if kind.startswith("mov"):  # an edit list may leave frames out, so places decide
            last = entries[len(entries) - 1] if len(entries) else None
            is_short = last is not None and last.pos + last.size > container.size
        if is_short and kind.startswith(("mov", "matroska", "avi")):
            raise InputError(
                f"{self.name} is cut short: it ends at {end:.1f} s of {declared:.1f} s; copy or "
                "download it again."
            )

    def _describe(self, frame: av.VideoFrame) -> Facts:
        container, stream = self._open()
        with container:
            metadata = dict(container.metadata)
            rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            aspect = stream.sample_aspect_ratio or Fraction(1)
            base, codec = stream.time_base, stream.codec_context.codec.name
        matrix = video_frames.display_matrix(frame)
        size = (frame.height, frame.width)
        if matrix[0, 0] == 0:
            size, aspect = size[::-1], 1 / aspect
        guard.check_size(*size, self.name)
        bits = video_frames.bits(frame.format)
        count = size[0] * size[1] * 3 * HELD
        guard.check_bytes(count * (1 if bits == 8 else 2), self.name)
        if frame.interlaced_frame:
            self.remarks += (
                f"{self.name} is interlaced, so what moves has combs; deinterlace it first (for "
                "instance `ffmpeg -i in.mp4 -vf bwdif out.mp4`).",
            )
        assert base is not None
        return Facts(size, rate, base, bits, Tags.of(frame), aspect, codec, metadata)

    def _looks_gray(self) -> bool:
        """Whether no frame of a few has colour."""
        count = len(self.ticks)
        for place in sorted({round(x) for x in np.linspace(0, count - 1, min(LOOKED, count))}):
            # The key frame before it is at hand sooner.
            keys = self._keys[self._keys <= self.ticks[place]]
            near = int(np.searchsorted(self.ticks, keys[-1])) if len(keys) else place
            if video_frames.chroma(self._frame(near)) > video_frames.NEUTRAL:
                return False
        return True

    def _frame(self, number: int) -> av.VideoFrame:
        """The frame of that number as it is decoded, or the one after it where it is missing."""
        wanted = int(self.ticks[number])
        if self._ahead is not None and self._ahead.pts == wanted:
            return self._ahead
        with guard_reading(self.name, lambda: self._said(number)):
            if self._cursor is None or not self._comes(number):
                self._seek(wanted)
            frame = self._forward(wanted)
            if frame is None:
                raise InputError(f"{self.name} holds no frame that can be read; export it again.")
        if frame.pts != wanted:
            self.missing.add(number)
        return frame

    def _said(self, number: int) -> str:
        if len(self.ticks) == 0 or self.facts.codec == "":
            return "at its start"
        return f"at {self.times[number]:.2f} s (frame {number})"

    def _comes(self, number: int) -> bool:
        """Whether a frame lies ahead, and no key frame is much nearer to it."""
        wanted = int(self.ticks[number])
        if self._last >= wanted:
            return False
        key = self._key(wanted)
        passed = int(np.searchsorted(self.ticks, self._last))
        return key is None or key <= self._last or number - passed <= NEAR

    def _key(self, wanted: int, back: int = 1) -> int | None:
        """Time of the key frame at or before another, or one further back."""
        place = int(np.searchsorted(self._keys, wanted, "right")) - back
        return int(self._keys[place]) if place >= 0 else None

    def _seek(self, wanted: int) -> None:
        """Goes to where a frame can be decoded: key frame by key frame back, at last to the start.

        A file that is decoded from its start needs no seeking, which not every container can.
        """
        for back in (1, 2, 3):
            key = self._key(wanted, back)
            if key is None or key == self._keys[0]:
                break
            container, stream = self._cursor[1:] if self._cursor else self._open()
            self._cursor = container.decode(stream), container, stream
            container.seek(key, stream=stream)
            self._ahead = next(self._cursor[0], None)
            if self._ahead is not None and self._ahead.pts is not None:
                self._last = self._ahead.pts
                if self._ahead.pts <= wanted:
                    return
        self.close()
        container, stream = self._open()
        self._cursor, self._last = (container.decode(stream), container, stream), -(2**63)

    def _forward(self, wanted: int) -> av.VideoFrame | None:
        """Decodes up to a frame, or the first after it; at the end the last one; None for none."""
        assert self._cursor is not None
        frame = self._ahead
        while frame is None or frame.pts is None or frame.pts < wanted:
            frame = next(self._cursor[0], None)
            if frame is None:
                return self._ahead
            if frame.pts is not None:
                if frame.pts < self._last:
                    raise InputError(
                        f"{self.name} has frames out of order; convert it to MP4 first (for "
                        "instance `ffmpeg -i in.avi out.mp4`)."
                    )
                self._last, self._ahead = frame.pts, frame
        return frame


def _timeless(name: str) -> InputError:
    return InputError(
        f"{name} holds frames without times; put it into a container first (for instance "
        "`ffmpeg -r 30 -i in.h264 -c copy out.mp4`)."
    )


def _further(container: InputContainer, name: str) -> tuple[str, ...]:
    """Remarks about streams that are not read."""
    remarks = []
    films = [s for s in container.streams.video if "attached_pic" not in _marks(s)]
    if len(films) > 1:
        remarks.append(f"{name} has {len(films)} video streams, of which the first was read.")
    if container.streams.subtitles:
        remarks.append(f"{name} has subtitles, which are not kept.")
    return tuple(remarks)


def opened(path: str | os.PathLike[str]) -> InputContainer:
    """A file of a kind that is read; nothing else is opened, whatever it refers to.

    Args:
        path: the file.

    Raises:
        InputError: it is missing, no regular file, of a kind that is not read, or damaged.
    """
    name = os.fspath(path)
    opening.opened(name, "a video", MOST_BYTES).close()
    with guard_reading(name):
        try:
            return av.open(
                "file:" + os.path.abspath(name),
                options={"format_whitelist": _CONTAINERS},
                metadata_errors="replace",
            )
        except av.error.EOFError:
            raise InputError(f"{name} holds no frames; export it again.") from None
        except av.error.ArgumentError:
            raise InputError(
                f"{name} is of a kind that is not read; convert it to MP4 first (for instance "
                "`ffmpeg -i FILE out.mp4`)."
            ) from None


def _marks(stream: VideoStream) -> list[str]:
    """What a stream is meant for."""
    return [mark.name or "" for mark in stream.disposition]


def _check_declared(stream: VideoStream, name: str) -> None:
    """Refuses what a container declares before anything is decoded.

    Raises:
        InputError: too many pixels, or too many bytes.
    """
    height, width = stream.codec_context.height, stream.codec_context.width
    if height > 0 and width > 0:
        guard.check_size(height, width, name)
        guard.check_bytes(height * width * 3 * HELD, name)


@contextlib.contextmanager
def guard_reading(name: str, place: Callable[[], str] = str) -> Iterator[None]:
    """Turns what the library raises for a broken file into one sentence.

    Args:
        name: what messages call the file.
        place: where in it, asked for when something is wrong; empty where nobody knows.

    Raises:
        InputError: in place of what the library raised.
    """
    try:
        yield
    except av.FFmpegError as error:
        reason = (error.strerror or "not readable").lower()
        where = place()
        if where:
            sentence = f"{name} is damaged {where} ({reason})"
        else:
            sentence = f"{name} is no video that can be read ({reason}): it is damaged, cut short"
            sentence += ", or something else"
        raise InputError(f"{sentence}; export or download it again.") from None
