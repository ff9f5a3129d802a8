"""Videos through one network into a video: frames paired by time, one preparation for all.

Every frame is fused by itself. What would flicker is settled once, over the whole of the videos:
ranges, the statistics of the network, tone (`sequences.settle`), where the videos lie on each
other, their order and curves. A part of the frames is fused just as it would be among all, so that
parts can be joined (`io.video_joining`).
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import os
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, overload

import numpy as np

from mgdn_jax import arguments
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import sequences, stream, timing
from mgdn_jax.fusing.fused import Fused
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.fusing.loading import load
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.fusing.preparation import Prepared
from mgdn_jax.fusing.report import Report
from mgdn_jax.fusing.sources import KEPT_BYTES, Sources, letter
from mgdn_jax.fusing.transforms import Transform
from mgdn_jax.io import guard
from mgdn_jax.io.pixels import from_float
from mgdn_jax.weights import zoo

USUAL = FuseOptions(tone="folder")
"""What holds for videos where neither the call nor the card says otherwise."""
PLACES = 3
"""Frames, evenly spread, of which the most usual placing counts for all."""
_MOST_KEPT = 32  # scenes that are looked at more than once

Fuse = Callable[[Sequence[Prepared]], Sequence[Fused]]


class Footage:
    """Videos of one scene, opened and paired.

    Attributes:
        videos: each an `io.video.Video`.
        names: their paths.
        pairing: which frames belong together.
        report: how they were paired, and what was noticed of the files.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], offset: str | float | None = None):
        """Opens the videos.

        Args:
            paths: two files or more; the second one is the clock.
            offset: as of `timing.offsets`.

        Raises:
            InputError: a file that cannot be read, the extra is missing, or there is no time that
                all show.
        """
        self.names = [os.fspath(path) for path in paths]
        if len(self.names) < 2:
            raise InputError(f"{self.names[0]} is alone; give at least two videos.")
        offsets = timing.offsets(offset, len(self.names))
        try:
            from mgdn_jax.io import video
        except ImportError as error:
            raise guard.extra(self.names[0], "a video", "video", error) from None
        self._open, self.report = contextlib.ExitStack(), Report()
        self._kept: collections.OrderedDict[int, Sources] = collections.OrderedDict()
        try:
            self.videos = [self._open.enter_context(video.Video(name)) for name in self.names]
            times, intervals = [v.times for v in self.videos], [v.interval for v in self.videos]
            self.pairing = timing.pair(times, intervals, offsets)
        except BaseException:
            self._open.close()
            raise
        timing.describe(
            self.pairing, self.names, [len(v) for v in self.videos], intervals, self.report
        )
        for one in self.videos:
            self.report.warn(*one.remarks)
        if offset is None:
            self._look_at_starts()

    def __enter__(self) -> Footage:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def __len__(self) -> int:
        return len(self.pairing)

    @property
    def clock(self) -> Any:
        """The video whose times the result has."""
        return self.videos[timing.CLOCK]

    def _look_at_starts(self) -> None:
        """Warns of files that say that they begin at other times."""
        start = self.clock.start
        for index, (name, one) in enumerate(zip(self.names, self.videos, strict=True)):
            if one.start is None or start is None or abs(one.start - start) <= timing.SAID:
                continue
            later = one.start - start
            self.report.warn(
                f"{name} says that it begins {later:+.2f} s from {self.clock.name}, but their "
                f"first frames were fused with each other; --offset {letter(index)}:{later:.2f} "
                "goes by what they say."
            )

    def scene(self, place: int) -> Sources:
        """The sources of one frame of the result, read when they are looked at.

        Args:
            place: of the frame, from 0.
        """
        if place not in self._kept:
            numbers = self.pairing.numbers[place]
            readers = [
                functools.partial(one.at, int(number))
                for one, number in zip(self.videos, numbers, strict=True)
            ]
            self._kept[place] = Sources(readers, self.names)
            size = sum(3 * one.facts.size[0] * one.facts.size[1] * 2 for one in self.videos)
            while len(self._kept) > max(2, min(_MOST_KEPT, KEPT_BYTES // size)):
                self._kept.popitem(last=False)
        self._kept.move_to_end(place)
        return self._kept[place]

    def forget(self) -> None:
        """Lets go of the scenes that were looked at."""
        self._kept.clear()

    def ticks(self, place: int) -> int:
        """Time of a frame of the result in units of the clock's time base.

        Args:
            place: of the frame; the number of frames stands for the end of the last one.
        """
        numbers, clock = self.pairing.numbers[:, timing.CLOCK], self.clock
        if place < len(numbers):
            return int(clock.ticks[numbers[place]])
        last = int(numbers[-1])
        if last + 1 < len(clock):
            return int(clock.ticks[last + 1])
        return int(clock.ticks[last]) + max(1, round(clock.interval / float(clock.facts.time_base)))


class _Scenes(Sequence[Sources]):
    """The scenes of all frames, as a sequence of pictures is taken."""

    def __init__(self, footage: Footage):
        self._footage = footage

    def __len__(self) -> int:
        return len(self._footage)

    @overload
    def __getitem__(self, place: int) -> Sources: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Sources]: ...
    def __getitem__(self, place: int | slice) -> Sources | Sequence[Sources]:
        if isinstance(place, slice):
            return [self._footage.scene(i) for i in range(*place.indices(len(self)))]
        return self._footage.scene(range(len(self))[place])


@dataclasses.dataclass(frozen=True)
class Film:
    """A fused video.

    Attributes:
        path: the file.
        first: number of its first frame among all that could be fused.
        frames: how many it has.
        total: how many could be fused.
        size: height and width.
        dtype: of its pictures before they were coded.
        coder: name of the encoder.
        stretch: how results were spread over the range, of `fusing.options.STRETCHES`.
        seconds: what fusing, reading and writing took, without what was settled before.
        report: what was done and noticed.
    """

    path: Path
    first: int
    frames: int
    total: int
    size: tuple[int, int]
    dtype: str
    coder: str
    stretch: str
    seconds: float
    report: Report

    @property
    def rate(self) -> float:
        """Frames fused a second."""
        return self.frames / max(self.seconds, 1e-9)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about what is probably not meant."""
        return tuple(self.report.warnings)


class Production:
    """One video that is to be made of others."""

    def __init__(
        self,
        footage: Footage,
        output: str | os.PathLike[str],
        *,
        frames: str | None = None,
        quality: int = 95,
    ):
        """Finds out before there is a network whether the video can be written.

        Args:
            footage: the sources.
            output: the file to be.
            frames: as of `timing.stretch`; None is all.
            quality: 1 to 100.

        Raises:
            InputError: no such frames, or a place or a kind of file that cannot be written.
        """
        self.footage, self.output, self.quality = footage, os.fspath(output), quality
        self.wanted = timing.stretch(frames, len(footage))
        for name in footage.names:
            if os.path.exists(self.output) and os.path.samefile(name, self.output):
                raise InputError(f"{self.output} is one of the inputs; name another output.")
        sizes = {one.facts.size for one in footage.videos}
        is_gray = all(one.is_gray for one in footage.videos)
        self._check(min(sizes) if len(sizes) == 1 else (2, 2), is_gray)
        self.report = Report()
        self.report.join(footage.report)

    def _check(self, size: tuple[int, int], is_gray: bool) -> Any:
        from mgdn_jax.io import video_writing

        bits = self.footage.clock.facts.bits
        coding = video_writing.coder(self.output, quality=self.quality, is_gray=is_gray, bits=bits)
        video_writing.check_output(self.output, size, coding)
        return coding

    def settle(self, fuser: Fuser, options: FuseOptions) -> None:
        """Decides what holds for all frames.

        Args:
            fuser: the network.
            options: as `Fuser.resolve` gives them.

        Raises:
            InputError: videos that do not go together, or a size that the file cannot hold.
        """
        scenes = _Scenes(self.footage)
        if options.tone == "auto":
            options = FuseOptions(tone="folder").otherwise(options)
        with tempfile.TemporaryDirectory() as folder:
            still = _still(scenes, fuser, options, os.path.join(folder, "placing"), self.report)
            self.fuser, settled = sequences.settle(fuser, scenes, still, self.report)
            self.template = self.fuser.prepare(scenes[len(scenes) // 2], options=settled)
        if still is not options:  # it has been said
            steps = self.template.report.steps
            steps[:] = [step for step in steps if step["step"] not in ("homography", "area")]
        self.report.join(self.template.report)
        self.coding = self._check(self.template.shape, self.template.channels == 1)
        for one in self.footage.videos:
            one.missing.clear()
        self.footage.forget()

    def run(
        self,
        tick: Callable[[], None] = lambda: None,
        *,
        fuse: Fuse | None = None,
        batch: int | None = None,
    ) -> Film:
        """Fuses and writes all frames that are wanted.

        Args:
            tick: called after each.
            fuse: prepared frames to results; None is the network's.
            batch: frames that are fused at once; None is what is usual.

        Returns:
            The video.

        Raises:
            InputError: a file that is damaged, or a place that cannot be written; nothing is left.
            KeyboardInterrupt: the user interrupts; what was done is a file of its own, which the
                message names.
        """
        started, first = time.perf_counter(), self.wanted[0]
        walks = [
            one.frames(self.footage.pairing.numbers[first : self.wanted[-1] + 1, i].tolist())
            for i, one in enumerate(self.footage.videos)
        ]

        def read(number: int) -> Prepared:
            del number  # frames are asked for in order
            return self.template.for_frame(Sources([next(walk) for walk in walks]))

        with self._writer() as writer:

            def write(number: int, prepared: Prepared, fused: Fused) -> None:
                del prepared
                start, end = (self.footage.ticks(first + number + i) for i in (0, 1))
                origin = self.footage.ticks(first)
                writer.write(self._levels(fused.pixels), start - origin, end - start)

            steps = stream.run(
                len(self.wanted),
                read,
                fuse or self.fuser.fuse_prepared,
                write,
                batch=batch or stream.default_batch(),
                same_program=lambda _: (),
                size=lambda scene: scene.pixels,
                workers=1,  # frames are read and written in order
            )
            try:
                with contextlib.closing(steps):
                    for _, result in steps:
                        if isinstance(result, InputError):
                            raise result
                        tick()
                path = writer.finish()
            except KeyboardInterrupt:
                raise KeyboardInterrupt(self._part(writer)) from None
            self.report.warn(*writer.lost)
        self._look_back()
        return Film(
            path=path,
            first=first,
            frames=writer.frames,
            total=len(self.footage),
            size=self.template.shape,
            dtype=str(self.template.target),
            coder=self.coding.name,
            stretch=str(self.template.options.stretch),
            seconds=time.perf_counter() - started,
            report=self.report,
        )

    def _writer(self) -> Any:
        from mgdn_jax.io import video_writing

        clock, first, end = self.footage.clock, self.wanted[0], self.wanted[-1] + 1
        base = clock.facts.time_base
        origin = Fraction(self.footage.ticks(first)) * base
        start, stop = float(origin), float(self.footage.ticks(end) * base)
        numbers = self.footage.pairing.numbers[:, timing.CLOCK]
        if numbers[first] == 0:
            start -= video_writing.LEAD
        if end == len(self.footage) and numbers[-1] == len(clock) - 1:
            stop = float("inf")
        return video_writing.Writer(
            self.output,
            clock.facts,
            self.template.shape,
            self.coding,
            sound=video_writing.Sound(clock.name, origin, start, stop),
            metadata=video_writing.kept_metadata(
                clock.facts.metadata, self.template.options.metadata or "usual"
            ),
        )

    def _levels(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels whose black and white are those of their type: a video has no other scale."""
        scale = self.template.scale
        if scale is None or self.coding.is_lossless:
            return pixels
        return from_float(scale.apply(pixels), pixels.dtype)

    def _part(self, writer: Any) -> str:
        """Keeps what is done under a name of its own, and says so."""
        if not writer.frames:
            return "interrupted."
        first, place = self.wanted[0], Path(self.output)
        end = first + writer.frames
        part = place.with_name(f"{place.stem}.{first}-{end}{place.suffix}")
        writer.finish(part)
        last = self.wanted[-1] + 1
        rest = f"{end}:" if last == len(self.footage) else f"{end}:{last}"
        return (
            f"interrupted; the {writer.frames} frames so far are in {part}: go on with --frames "
            f"{rest} into another file, and put both together with mgdn join."
        )

    def _look_back(self) -> None:
        """Warns of what was noticed on the way."""
        for one in self.footage.videos:
            if one.missing:
                self.report.warn(
                    f"{len(one.missing)} frames of {one.name} could not be decoded, the first of "
                    f"them number {min(one.missing)}; their neighbours took their places."
                )
            if one.coloured_at is not None:
                self.report.warn(
                    f"{one.name} looked gray, but has colour from {one.coloured_at:.2f} s on, "
                    "which was left out; cut the video where colour begins."
                )


def _still(
    scenes: Sequence[Sources], fuser: Fuser, options: FuseOptions, place: str, report: Report
) -> FuseOptions:
    """Options that lay every frame alike, where frames would be laid one by one.

    Args:
        scenes: of all frames.
        fuser: the network.
        options: of the call.
        place: a file to keep transforms in.
        report: takes what was done.

    Returns:
        The options as they came, or others that name the file.

    Raises:
        InputError: no frame of a few could be laid.
    """
    if not (options.align or options.register):
        return options
    found: list[Prepared] = []
    problem: InputError | None = None
    silent = FuseOptions(checks=False).otherwise(options)
    for number in range(PLACES):
        scene = scenes[(2 * number + 1) * len(scenes) // (2 * PLACES)]
        try:
            found.append(fuser.prepare(scene, options=silent))
        except InputError as error:
            problem = error
    if not found:
        assert problem is not None
        raise problem
    usual = min(found, key=lambda one: sum(_apart(one, other) for other in found))
    kept = [s for s in usual.report.steps if s["step"] not in ("range", "scale")]
    report.steps += kept
    report.warn(*usual.report.warnings)
    if len(found) > 1:
        most = max(_apart(usual, other) for other in found)
        report.note("placing", f"the frames are all laid alike; {len(found)} that were looked at "
                    f"agree within {most:.1f} px.", pixels=round(most, 3))  # fmt: skip
    placed = FuseOptions(align=False, register=False)
    if any(transform is not None for transform in usual.placing.transforms):
        usual.write_transforms(place)
        area = options.area or ("common" if options.align else "full")
        placed = dataclasses.replace(placed, homography=place, area=area)
    return placed.otherwise(options)


def _apart(one: Prepared, other: Prepared) -> float:
    """Pixels by which two placings differ at the corners, at most."""
    pairs = zip(one.placing.transforms, other.placing.transforms, strict=True)
    still = Transform.identity()
    moves = [(a or still).inverse().compose(b or still) for a, b in pairs]
    return max(
        Transform(move.matrix).corner_shift(size)
        for move, size in zip(moves, one.survey.sizes, strict=True)
    )


def fuse_video(
    *videos: str | os.PathLike[str],
    output: str | os.PathLike[str],
    model: str | os.PathLike[str] | Fuser = zoo.DEFAULT,
    trust: bool | str | Collection[str] = False,
    frames: str | None = None,
    offset: str | float | None = None,
    quality: int = 95,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Film:
    """Fuses videos of one scene, frame by frame, into a video (extra `video`).

    The second video is the clock: the result has the times of its frames, its sound, its shape of
    pixels and its matrix and range of colours. Each of its frames is fused with the frame of every
    other video that is nearest in time (`timing.pair`). Ranges, tone, the network's statistics and
    placing are the same for all frames. Turned videos come upright.

    Args:
        *videos: one for each input of the network, in its order.
        output: the file to be: ``.mp4``, ``.m4v``, ``.mov``, ``.mkv`` or ``.webm``; it appears
            whole or not at all.
        model: as `load` takes it, or a loaded `Fuser`.
        trust: as `load` takes it.
        frames: ``"FIRST:END"``, the part of the frames that is fused, without the last one; None is
            all. Parts can be joined (`io.video_joining.join`).
        offset: seconds by which the first video began later than the second; ``"A:0.4"``, with
            ``;`` between several, for each.
        quality: 1 to 100; 100 in ``.mkv`` is lossless.
        batch: frames that are fused at once; None is 1 on a CPU, 8 elsewhere.
        progress: called as (frames done, frames in all) after each.
        **options: of a `Fuser` call, ``register=True`` or ``stretch="minmax"`` for instance.

    Returns:
        The video that was written, with its report.

    Raises:
        InputError: files that cannot be read or do not go together, an unknown model, wrong
            options, or an output that cannot be written; nothing is left.
        KeyboardInterrupt: what was done is a file of its own, which the message names.
    """
    quality = arguments.whole("quality", quality, least=1, most=100)
    if batch is not None:
        batch = arguments.whole("batch", batch, least=1, most=stream.MOST_BATCH)
    if not videos:
        raise InputError("give at least two videos.")
    with Footage(videos, offset) as footage:
        production = Production(footage, output, frames=frames, quality=quality)
        fuser = model if isinstance(model, Fuser) else load(model, trust=trust)
        production.settle(fuser, fuser.resolve(USUAL, **options))
        count = 0

        def tick() -> None:
            nonlocal count
            count += 1
            if progress is not None:
                progress(count, len(production.wanted))

        film = production.run(tick, batch=batch)
    film.report.raise_warnings()
    return film
