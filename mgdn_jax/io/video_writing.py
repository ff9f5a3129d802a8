"""Videos that appear whole or not at all: frames and the sound of another file in, one file out.

Needs PyAV (extra `video`). What is written grows under a hidden name beside the place it is for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream

from mgdn_jax.errors import InputError
from mgdn_jax.io import disk, files, video_frames
from mgdn_jax.io.pixels import from_float
from mgdn_jax.io.video import Facts, guard_reading, opened

LEAD = 0.25
"""Seconds of sound before the first frame that are kept: coders need some."""
LOSSLESS = 100
"""The quality at which Matroska files hold every value as it is."""

_CONTAINERS = {
    ".mp4": ("mp4", "libx264"),
    ".m4v": ("mp4", "libx264"),
    ".mov": ("mov", "libx264"),
    ".mkv": ("matroska", "libx264"),
    ".webm": ("webm", "libvpx-vp9"),
}
SUFFIXES = tuple(_CONTAINERS)
"""How the names of videos that are written end."""
_KEPT = ("creation_time", "title", "artist", "copyright", "date")


@dataclasses.dataclass(frozen=True)
class Coder:
    """How frames are coded.

    Attributes:
        container: name of the kind of file.
        name: of the encoder.
        format: of its pixels.
        options: of the encoder.
    """

    container: str
    name: str
    format: str
    options: dict[str, str]

    @property
    def is_lossless(self) -> bool:
        """Whether every value comes back as it was."""
        return self.name == "ffv1"

    @property
    def bits(self) -> int:
        """Of a value: 8, 10 or 16."""
        return 10 if "10" in self.format else 16 if "16" in self.format else 8


def container_of(path: str | os.PathLike[str]) -> str:
    """The kind of file that a name stands for.

    Raises:
        InputError: none that is written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _CONTAINERS:
        raise InputError(
            f"{os.fspath(path)} does not end in a kind of video that can be written; use one of "
            f"{', '.join(SUFFIXES)}."
        )
    return _CONTAINERS[suffix][0]


def coder(path: str | os.PathLike[str], *, quality: int, is_gray: bool, bits: int) -> Coder:
    """The coder for a file's name.

    Args:
        path: the file to be.
        quality: 1 to 100, where 100 in Matroska is lossless.
        is_gray: whether the pictures have no colour.
        bits: of the pictures' values that are worth keeping, 8 to 16.

    Raises:
        InputError: no kind of video that is written, or one whose encoder is missing.
    """
    name, container = os.fspath(path), container_of(path)
    encoder = _CONTAINERS[Path(name).suffix.lower()][1]
    is_deep = bits > 8
    if container == "matroska" and quality == LOSSLESS:
        formats = ("gray16le" if is_gray else "gbrp16le") if is_deep else None
        format = formats or ("gray" if is_gray else "bgr0")
        return Coder(container, "ffv1", format, {"level": "3", "slicecrc": "1"})
    if encoder not in av.codecs_available:
        raise InputError(
            f"{name} needs the encoder {encoder}, which this build of PyAV lacks; install av from "
            "PyPI, or name a .mkv file with quality 100."
        )
    # One quantiser for all frames: what is still is not coded anew, coarser or finer.
    step = round(51 - 0.41 * quality)
    options = {"qp": str(step + 12 if is_deep else step)}
    if encoder == "libvpx-vp9":
        step = round(step * 63 / 51)
        options = {"crf": str(step), "qmin": str(step), "qmax": str(step), "row-mt": "1"}
        options["cpu-used"] = "4"
        is_deep = False  # builds of the encoder rarely hold more bits
    return Coder(container, encoder, "yuv420p10le" if is_deep else "yuv420p", options)


def created(place: Path, container: str) -> OutputContainer:
    """A new file to write to, which begins with its index where its kind has one.

    Args:
        place: the file.
        container: name of the kind.
    """
    options = {}
    if container in ("mp4", "mov"):  # a fine clock: where sound begins is counted in its ticks
        options = {"movflags": "+faststart", "movie_timescale": "90000"}
    return av.open(f"file:{place}", "w", format=container, options=options)


def check_output(path: str | os.PathLike[str], size: tuple[int, int], coding: Coder) -> None:
    """Finds out before the work whether a video can be written.

    Args:
        path: the file to be.
        size: height and width of its pictures.
        coding: of the file.

    Raises:
        InputError: the path is a folder, a device or behind a broken link, the place is not
            writable, or the coder cannot hold the size.
    """
    name = os.fspath(path)
    disk.check_links(name)
    target = Path(os.path.realpath(name))
    if target.is_dir():
        raise InputError(f"{name} is a folder where a video is to be written; name a file.")
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        raise InputError(f"{name} is not a regular file; name another output.")
    files.check_folder(target.parent, name)
    if coding.name == "libx264" and (size[0] % 2 or size[1] % 2):
        raise InputError(
            f"{name} cannot hold pictures of {size[1]}x{size[0]}, an odd number of pixels; name a "
            ".webm file, or a .mkv file with quality 100."
        )


def kept_metadata(metadata: Mapping[str, str], keep: str) -> dict[str, str]:
    """What a result carries on of what a container says.

    Args:
        metadata: of the source.
        keep: of `fusing.options.METADATA`: "usual" leaves out places and devices.
    """
    if keep == "none":
        return {}
    return {k: v for k, v in metadata.items() if keep == "all" or k.lower() in _KEPT}


class Sound:
    """The sound of a file over a stretch of time, packet by packet, as it is.

    Attributes:
        lost: sentences about sound that the new file cannot hold.
    """

    def __init__(self, path: str, origin: Fraction, start: float, end: float):
        """Opens the file.

        Args:
            path: the file.
            origin: seconds by its own clock of what is 0 in the new file.
            start: seconds by its own clock from which on packets are taken.
            end: seconds up to which; a packet at this time is not taken any more.
        """
        self._name, self._origin, self._start, self._end = path, origin, start, end
        self.lost: list[str] = []
        self._container: InputContainer = opened(path)
        self._streams: dict[int, av.AudioStream] = {}
        self._packets: Iterator[av.Packet] = iter(())
        self._waiting: av.Packet | None = None

    def lay_out(self, output: OutputContainer, target: str) -> None:
        """Makes a stream of the new file for each of these.

        Args:
            output: the new file.
            target: what messages call it.
        """
        taken = []
        for stream in self._container.streams.audio:
            coding = stream.codec_context.codec.canonical_name
            if coding not in output.supported_codecs:
                self.lost.append(
                    f"the sound of {self._name} ({coding}) has no place in {target}, so it was "
                    "left out; a .mkv file holds it."
                )
                continue
            self._streams[stream.index] = output.add_stream_from_template(stream)
            taken.append(stream)
        if taken:
            self._packets = self._container.demux(taken)
            self._waiting = self._next()

    def until(self, limit: float) -> Iterator[av.Packet]:
        """Packets for the new file whose time there is below a limit.

        Args:
            limit: seconds.
        """
        while self._waiting is not None:
            packet = self._waiting
            assert packet.pts is not None
            time = float(packet.pts * packet.time_base)
            if time >= min(self._end, limit + float(self._origin)):
                return
            if time >= self._start:
                back = round(self._origin / packet.time_base)
                packet.stream = self._streams[packet.stream.index]
                packet.pts -= back
                packet.dts = packet.pts  # sound is stored in the order in which it is heard
                yield packet
            self._waiting = self._next()

    def _next(self) -> av.Packet | None:
        with guard_reading(self._name, lambda: "in its sound"):
            for packet in self._packets:
                if packet.size and packet.pts is not None:
                    return packet
        return None

    def close(self) -> None:
        """Ends reading."""
        self._container.close()


class Writer:
    """A video that is being written.

    Attributes:
        frames: how many are written.
        lost: sentences about what the file cannot hold.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        facts: Facts,
        size: tuple[int, int],
        coding: Coder,
        *,
        sound: Sound | None = None,
        metadata: Mapping[str, str] | None = None,
    ):
        """Opens a hidden file beside the place.

        Args:
            path: the file to be.
            facts: of the video whose times, rate, colours and pixels' shape the new one has.
            size: height and width of the pictures.
            coding: how they are coded.
            sound: what is heard; it is closed with the file.
            metadata: of the container.

        Raises:
            WriteError: the place cannot be written.
        """
        self._path, self._coding, self._base = path, coding, facts.time_base
        self._tags = facts.tags.for_encoding(size[0])
        self._sound, self.frames = sound, 0
        self._durations: dict[int, int] = {}
        self._end = 0
        with self._guard():
            self._hidden = disk.hidden_beside(path)
        self._output: OutputContainer | None = None
        try:
            with self._guard():
                self._output = created(self._hidden, coding.container)
                self._stream = self._made(self._output, facts, size)
                self._output.metadata.update(metadata or {})
                if sound is not None:
                    sound.lay_out(self._output, os.fspath(path))
        except BaseException:
            self.discard()
            raise

    def _made(self, output: OutputContainer, facts: Facts, size: tuple[int, int]) -> VideoStream:
        """The stream of the pictures."""
        coding = self._coding
        stream: Any = output.add_stream(coding.name, rate=facts.rate, options=coding.options)
        stream.height, stream.width = size
        stream.pix_fmt = coding.format
        context = stream.codec_context
        context.time_base = stream.time_base = facts.time_base
        context.sample_aspect_ratio = facts.aspect
        context.max_b_frames = 0  # parts can be joined at any frame
        if coding.format.startswith("yuv"):
            context.colorspace, context.color_range = self._tags.matrix, self._tags.range
            context.color_primaries = self._tags.primaries
            context.color_trc = self._tags.transfer
        return stream

    @property
    def lost(self) -> list[str]:
        """Sentences about what the file cannot hold."""
        return [] if self._sound is None else self._sound.lost

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def write(self, pixels: np.ndarray, ticks: int, duration: int) -> None:
        """One frame more.

        Args:
            pixels: (H, W) or (H, W, C), uint8 or uint16.
            ticks: its time after the first one, in units of the time base.
            duration: how long it is shown, likewise.

        Raises:
            WriteError: the file cannot be written.
        """
        deep = np.dtype(np.uint16 if self._coding.bits > 8 else np.uint8)
        if pixels.dtype != deep:
            pixels = from_float(pixels / np.float32(np.iinfo(pixels.dtype).max), deep)
        frame = video_frames.encodable(pixels, self._coding.format, self._tags)
        frame.pts, frame.time_base, frame.duration = ticks, self._base, duration
        self._durations[ticks], self._end = duration, ticks + duration
        with self._guard():
            self._mux(self._stream.encode(frame))
        self.frames += 1

    def finish(self, place: str | os.PathLike[str] | None = None) -> Path:
        """All frames are written: the file appears.

        Args:
            place: for a part of what was meant to be written, another one in the same folder; its
                sound ends with its pictures.

        Returns:
            The path written, with symbolic links resolved.

        Raises:
            WriteError: the file cannot be written; nothing is left.
        """
        target = self._path if place is None else place
        assert self._output is not None
        try:
            with self._guard():
                self._mux(self._stream.encode())
                if self._sound is not None:
                    limit = float("inf") if place is None else float(self._end * self._base)
                    for packet in self._sound.until(limit):
                        self._output.mux(packet)
                self._output.close()
                self._output = None
                disk.publish(self._hidden, target)
        finally:
            self.discard()
        return Path(os.path.realpath(target))

    def discard(self) -> None:
        """Removes what is not finished."""
        if self._output is not None:
            with contextlib.suppress(av.FFmpegError, OSError):
                self._output.close()
            self._output = None
        if self._sound is not None:
            self._sound.close()
        self._hidden.unlink(missing_ok=True)

    def _mux(self, packets: Sequence[av.Packet]) -> None:
        assert self._output is not None
        for packet in packets:
            assert packet.pts is not None
            # Encoders think of the rate alone.
            packet.duration = self._durations.pop(packet.pts, packet.duration or 0)
            if self._sound is not None:
                for heard in self._sound.until(float(packet.pts * packet.time_base)):
                    self._output.mux(heard)
            self._output.mux(packet)

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Turns what the library and the disk raise into one sentence."""
        try:
            yield
        except av.error.ArgumentError as error:
            raise InputError(
                f"{os.fspath(self._path)} cannot be coded by {self._coding.name} "
                f"({disk.reason(error)}); name another kind of file, .mkv for instance."
            ) from error
        except (av.FFmpegError, OSError) as error:
            raise disk.WriteError(self._path, error) from error
