"""Small videos made with PyAV, and what is in them."""

import itertools
from fractions import Fraction

import av
import numpy as np

BITS = 8  # of a number in a frame
SIDE = 8  # of its blocks


def numbered(count, shape=(48, 64), background=90, ink=(20, 235)):
    """Gray frames of which each bears its number, in blocks along the upper border."""
    for number in range(count):
        frame = np.full(shape, background, np.uint8)
        for bit in range(BITS):
            frame[:SIDE, bit * SIDE : (bit + 1) * SIDE] = ink[number >> bit & 1]
        yield frame


def number_of(picture):
    """The number that a frame bears, or a picture that was fused of two of equal numbers."""
    gray = picture if picture.ndim == 2 else picture.mean(-1)
    inner = [gray[2 : SIDE - 2, b * SIDE + 2 : (b + 1) * SIDE - 2].mean() for b in range(BITS)]
    return sum((value > 128) << bit for bit, value in enumerate(inner))


def write(
    path,
    frames,
    *,
    rate=30,
    ticks=None,
    base=None,
    codec="libx264",
    pixels="yuv420p",
    options=None,
    tags=None,
    rotation=0,
    sound=0.0,
    metadata=None,
):
    """Writes frames, gray or colour.

    Args:
        rate: frames a second.
        ticks: times in units of `base`; None is one after the other.
        base: of the times; None is a frame.
        pixels: format of the encoder.
        tags: matrix, range, primaries and transfer.
        rotation: degrees, against the clock, that a player turns the pictures by.
        sound: seconds of a tone.
    """
    base = base or 1 / Fraction(rate)
    frames = iter(frames)
    first = next(frames)
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata or {})
        settings = {"crf": "4", "preset": "ultrafast"} if codec == "libx264" else {}
        stream = container.add_stream(codec, rate=rate, options=settings | (options or {}))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt, stream.codec_context.time_base = pixels, base
        if rotation:
            stream.set_display_rotation(rotation)
        context = stream.codec_context
        if tags:
            context.colorspace, context.color_range = tags[:2]
            context.color_primaries, context.color_trc = tags[2:]
        heard = container.add_stream("aac", rate=48000) if sound else None
        for number, frame in enumerate(itertools.chain([first], frames)):
            is_deep = frame.dtype == np.uint16
            layout = ("gray16le" if is_deep else "gray") if frame.ndim == 2 else "rgb24"
            if frame.ndim == 2 and not pixels.startswith("gray"):
                layout, frame = (
                    "rgb48le" if is_deep else "rgb24",
                    np.repeat(frame[..., None], 3, -1),
                )
            made = av.VideoFrame.from_ndarray(frame, layout)
            if pixels != layout:
                colours = {}
                if tags:
                    library = {1: 1, 5: 5, 6: 5, 9: 9}[tags[0]]
                    colours = {"dst_colorspace": library, "dst_color_range": tags[1]}
                made = made.reformat(format=pixels, **colours)
            made.pts = number if ticks is None else ticks[number]
            made.time_base = base
            container.mux(stream.encode(made))
        container.mux(stream.encode())
        if heard is not None:
            for packet in tone(heard, sound):
                container.mux(packet)
    return path


def tone(stream, seconds):
    """Packets of sound."""
    for start in range(0, int(48000 * seconds), 1024):
        wave = 0.1 * np.sin(np.arange(start, start + 1024) / 10).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        yield from stream.encode(frame)
    yield from stream.encode()


def packets(path, kind):
    """Times, lengths and bytes of what is stored for one kind of stream, in seconds."""
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        return [
            (float(p.pts * p.time_base), float((p.duration or 0) * p.time_base), bytes(p))
            for p in container.demux(stream)
            if p.size
        ]


def streams(path):
    """Kinds of the streams of a file."""
    with av.open(str(path)) as container:
        return [stream.type for stream in container.streams]
