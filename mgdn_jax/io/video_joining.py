"""Parts of a video put together, packet by packet: nothing is coded again.

Needs PyAV (extra `video`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer, OutputContainer

from mgdn_jax.errors import InputError
from mgdn_jax.io import disk, video_writing
from mgdn_jax.io.video import guard_reading, opened


def join(parts: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]) -> Path:
    """Puts videos one behind the other that were written with the same settings.

    Args:
        parts: files in order, as `mgdn fuse --frames` writes them.
        output: the file to be, of the same kind; it appears whole or not at all.

    Returns:
        The path written, with symbolic links resolved.

    Raises:
        InputError: fewer than two parts, parts of several sizes, coders or settings, a part that
            cannot be read, or a place that cannot be written.
    """
    names = [os.fspath(part) for part in parts]
    if len(names) < 2:
        raise InputError("one video alone cannot be joined; give two parts or more.")
    container = video_writing.container_of(output)
    disk.check_links(output)
    for name in names:
        is_there = os.path.exists(name) and os.path.exists(output)
        if is_there and os.path.samefile(name, output):
            raise InputError(f"{name} is one of the parts; name another output.")
    try:
        hidden = disk.hidden_beside(output)
        try:
            with video_writing.created(hidden, container) as joined:
                _copy(names, joined)
            disk.publish(hidden, output)
        finally:
            hidden.unlink(missing_ok=True)
    except (av.FFmpegError, OSError) as error:
        raise disk.WriteError(output, error) from error
    return Path(os.path.realpath(output))


def _copy(names: Sequence[str], joined: OutputContainer) -> None:
    """All packets of all parts, each part behind the end of the pictures of the one before."""
    start, first = Fraction(0), None
    streams: list[av.stream.Stream] = []
    for name in names:
        with opened(name) as part:
            if first is None:
                first = _settings(part, name)
                streams = [joined.add_stream_from_template(s) for s in _kept(part)]
                joined.metadata.update(part.metadata)
            elif _settings(part, name) != first:
                raise InputError(
                    f"{name} was not made with the settings of {names[0]} (size, coder, quality, "
                    "or sound); only parts of one video can be joined."
                )
            start = _append(part, name, joined, streams, start)


def _kept(part: InputContainer) -> list[av.stream.Stream]:
    """The first video stream and all sound."""
    return [*part.streams.video[:1], *part.streams.audio]


def _settings(part: InputContainer, name: str) -> list[tuple[object, ...]]:
    """What must be equal."""
    if not part.streams.video:
        raise InputError(f"{name} holds no video stream; give a video.")
    settings = []
    for stream in _kept(part):
        context = stream.codec_context
        settings.append((context.name, stream.type, bytes(context.extradata or b"")))
    video = part.streams.video[0].codec_context
    return [*settings, (video.width, video.height, video.pix_fmt)]


def _append(
    part: InputContainer,
    name: str,
    joined: OutputContainer,
    streams: Sequence[av.stream.Stream],
    start: Fraction,
) -> Fraction:
    """Packets of one part; returns the end of its pictures in the new file."""
    kept = _kept(part)
    places = {stream.index: new for stream, new in zip(kept, streams, strict=True)}
    video = kept[0]
    origin = Fraction(video.start_time or 0) * (video.time_base or 1)
    end = start
    packets = part.demux(kept)
    while True:
        with guard_reading(name):
            packet = next(packets, None)
        if packet is None:
            return end
        if packet.size == 0 or packet.pts is None:
            continue
        shift = round((start - origin) / packet.time_base)
        is_video = packet.stream is video
        packet.pts += shift
        packet.dts = packet.pts if packet.dts is None else packet.dts + shift
        if is_video:
            end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
        packet.stream = places[packet.stream.index]
        joined.mux(packet)
