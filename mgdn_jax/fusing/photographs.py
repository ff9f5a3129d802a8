"""Photographs coarse to fine: the network judges a reduced picture, evidence draws the line.

For networks that weigh their inputs per pixel (`Config.blends`). The network runs once for every
two pictures, whole, on pictures of about a third of a megapixel; its weights are the prior of the
evidence (`evidence`) at full size. Where the blur is wide the pictures are blended scale by scale.

Two pictures are held together. More are loaded twice, one after the other: the first time for the
prior and the sum of the evidence, the second time to be added up. What is held does not grow with
their number.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import tempfile
from collections.abc import Callable, Sequence
from typing import IO

import numpy as np

from mgdn_jax.fusing import evidence, pyramids, reduction, strips
from mgdn_jax.fusing.evidence import Evidence
from mgdn_jax.fusing.report import Report
from mgdn_jax.io.pixels import from_float

Weigh = Callable[[list[np.ndarray]], np.ndarray]
"""Reduced pictures of one scene, (h, w, C) float32 each -> (h, w, inputs), weights of each."""

WIDE = 8.0
"""Blur radius in pixels above which pictures are blended scale by scale.

A direct blend is better by 0.03 dB at radius 4, a pyramid by 0.2 at 12 and by 0.5 at 30."""
_DEPTH = 8
_SPOOL = 64 << 20


@dataclasses.dataclass(frozen=True)
class Scene:
    """Pictures of one scene, in order, and where they are not there.

    Attributes:
        count: of pictures.
        load: number -> (H, W, C), C 1 or 3, uint8, uint16 or floats in [0, 1]; all of one size.
        coverage: number -> (H, W) bool where the picture is there; None is everywhere.
    """

    count: int
    load: Callable[[int], np.ndarray]
    coverage: Callable[[int], np.ndarray | None] = lambda number: None


@dataclasses.dataclass(frozen=True)
class Result:
    """A fused picture, and how it came about.

    Attributes:
        picture: (H, W, C).
        depth: (H, W) uint16, the number of the picture with the largest weight; None unless asked.
        blend: ``"direct"``, ``"pyramid"`` (scale by scale), ``"network"`` where the network itself
            made the picture, ``"bracket"`` (`brackets`) or ``"set"`` (`sets`).
        size: height and width of what the network saw; zeros without a network.
        blur: estimated radius of the widest blur, in pixels; None where it was not measured.
    """

    picture: np.ndarray
    depth: np.ndarray | None
    blend: str
    size: tuple[int, int]
    blur: float | None = None

    def note(self, report: Report) -> None:
        """Puts into the report how the picture came about, where it is not the network's."""
        if self.blend == "network":
            return
        if self.blend == "bracket":
            report.note(
                "bracket",
                "the exposures, and what the network made of neighbours, were blended by scales.",
            )
            return
        height, width = self.size
        if self.blend == "set":
            report.note(
                "set",
                f"the network weighed all pictures at once, at {width}x{height}, and they were"
                " blended by its weights.",
                width=width,
                height=height,
            )
            return
        manner = {"direct": "directly", "pyramid": "scale by scale"}[self.blend]
        report.note(
            "scale",
            f"the network judged the pictures at {width}x{height}, and evidence at full size did"
            f" the rest: blur of about {self.blur:.0f} pixels, blended {manner}.",
            width=width,
            height=height,
            blur=round(self.blur or 0.0, 1),
            blend=self.blend,
        )


def fuse(
    scene: Scene,
    weigh: Weigh | None,
    *,
    inputs: int = 2,
    factor: float = 0.0,
    dtype: np.dtype | None = None,
    has_depth: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> Result:
    """Fuses photographs of one scene.

    Args:
        scene: as many pictures as `inputs`, or any number from two up where that is two.
        weigh: the network; None is evidence alone.
        inputs: pictures that it takes.
        factor: what the sides are divided by for the network; 0 chooses.
        dtype: of the result; None is float32 in [0, 1], neither clipped nor rounded.
        has_depth: whether the number of the sharpest picture is wanted for every pixel.
        tick: called `ticks` times.
    """
    with tempfile.SpooledTemporaryFile(_SPOOL) as store:
        survey = _Survey(scene, weigh, inputs, factor, tick, store)
        survey.run()
        levels = _levels(survey.blur)
        fused = _Fused(survey, dtype, has_depth)
        if not survey.members:
            _add_up(survey, fused, levels, tick)
        elif levels:
            _blend_together(survey, fused, levels, tick)
        else:
            _mix_together(survey, fused, tick)
    blend = "pyramid" if levels else "direct"
    return Result(fused.picture, fused.depth, blend, survey.size, survey.blur)


def ticks(count: int, inputs: int = 2) -> int:
    """How often `fuse` calls its `tick`."""
    return 2 * count + (1 if count == inputs else count - 1)


def _levels(blur: float) -> int:
    return 3 if blur > WIDE else 0


class _Survey:
    """The first time that pictures are seen: reduced for the network, and measured."""

    def __init__(
        self,
        scene: Scene,
        weigh: Weigh | None,
        inputs: int,
        factor: float,
        tick: Callable[[], None],
        store: IO[bytes],
    ):
        self.scene = scene
        self.members: list[Evidence] = []
        self.reference: np.ndarray | None = None
        self.size = (0, 0)
        self.shape: tuple[int, ...] = ()
        self.scale = 1.0
        self._largest: list[np.ndarray] = []
        self._smallest: list[np.ndarray] = []
        self._weigh, self._inputs, self._factor, self._tick = weigh, inputs, factor, tick
        self._nodes: dict[tuple[int, int], int] = {}
        self._store = store

    def run(self) -> None:
        """Sees all pictures; what is held together has its prior afterwards."""
        count = self.scene.count
        if count > self._inputs and self._weigh is not None:
            self._branch(0, count)
            return
        if count != self._inputs:
            for number in range(count):
                self._sum(self._measure(*self._loaded(number)))
            return
        loaded = [self._loaded(number) for number in range(count)]
        weights = None
        if self._weigh is not None:  # before the evidence, which takes memory too
            weights = self._weighed([self._small(picture) for picture, _ in loaded])
        self.members = [self._measure(*sources) for sources in loaded]
        if weights is not None:
            share = evidence.prior_share(self.blur)
            for number, member in enumerate(self.members):
                member.add_prior(weights[..., number], share)

    @functools.cached_property
    def blur(self) -> float:
        """Radius of the widest blur; asked for when all pictures were seen."""
        return blur_radius(self._largest, self._smallest)

    def member(self, number: int) -> Evidence:
        """A picture's evidence, loaded again."""
        member = Evidence(*self._loaded(number))
        if self._weigh is not None:
            member.add_prior(self._prior(number), evidence.prior_share(self.blur))
        return member

    def _loaded(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        """A picture, its holes filled, and where it is there."""
        picture, coverage = self.scene.load(number), self.scene.coverage(number)
        if coverage is None or coverage.all():
            return picture, None
        return pyramids.filled(picture, coverage), coverage

    def _leaf(self, number: int) -> np.ndarray:
        """A picture of a stack: measured, and as the network sees it."""
        picture, coverage = self._loaded(number)
        self._sum(self._measure(picture, coverage))
        return self._small(picture)

    def _small(self, picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        self.size = reduction.size(height, width, self._factor)
        return reduction.reduced(picture, *self.size)

    def _measure(self, picture: np.ndarray, coverage: np.ndarray | None) -> Evidence:
        """A picture's evidence, after what the scene keeps of it."""
        self.shape = (*picture.shape[:2], max(picture.shape[-1], *self.shape[2:], 1))
        self.scale = float(np.iinfo(picture.dtype).max) if picture.dtype.kind == "u" else 1.0
        member = Evidence(picture, coverage, depth=_DEPTH)
        self._note(member)
        self._tick()
        return member

    def _note(self, member: Evidence) -> None:
        """Keeps the largest and the smallest energy of each scale."""
        maps, member.energies = member.energies, []
        if not self._largest:
            self._largest, self._smallest = maps, [x.copy() for x in maps]
            return
        for large, small, energy in zip(self._largest, self._smallest, maps, strict=True):
            np.maximum(large, energy, out=large)
            np.minimum(small, energy, out=small)

    def _sum(self, member: Evidence) -> None:
        """Adds the picture to the sum of the evidence, which knows no prior yet."""
        is_first = self.reference is None
        if is_first:
            self.reference = np.empty(self.shape[:2], np.float32)
        reference = self.reference
        assert reference is not None

        def work(rows: slice, columns: slice) -> None:
            score = evidence.covered_score(member, rows, columns)
            if not is_first:
                score = evidence.joined(reference[rows, columns], score)
            reference[rows, columns] = score

        strips.spread(work, *self.shape[:2])

    def _branch(self, first: int, last: int) -> np.ndarray:
        """What the network makes of reduced pictures from `first` to `last`, by halves."""
        if last - first == 1:
            return self._leaf(first)
        middle = _middle(first, last)
        halves = [self._branch(first, middle), self._branch(middle, last)]
        weights = self._weighed(halves)
        self._nodes[first, last] = self._store.tell()
        self._store.write(weights[..., 0].astype(np.float16).tobytes())
        return weights[..., :1] * halves[0] + weights[..., 1:] * halves[1]

    def _prior(self, number: int) -> np.ndarray:
        """The product of a picture's weights on its way through the tree."""
        prior = np.ones(self.size, np.float32)
        first, last = 0, self.scene.count
        while last - first > 1:
            self._store.seek(self._nodes[first, last])
            content = self._store.read(2 * prior.size)
            weight = np.frombuffer(content, np.float16).reshape(self.size).astype(np.float32)
            middle = _middle(first, last)
            if number < middle:
                prior *= weight
                last = middle
            else:
                prior *= 1 - weight
                first = middle
        return prior

    def _weighed(self, pictures: list[np.ndarray]) -> np.ndarray:
        assert self._weigh is not None
        channels = max(x.shape[-1] for x in pictures)
        pictures = [np.repeat(x, channels, -1) if x.shape[-1] < channels else x for x in pictures]
        weights = self._weigh(pictures)
        self._tick()
        return weights


def _middle(first: int, last: int) -> int:
    return first + (last - first + 1) // 2


class _Fused:
    """Where the result goes."""

    def __init__(self, survey: _Survey, dtype: np.dtype | None, has_depth: bool):
        height, width = survey.shape[:2]
        self.picture = np.empty(survey.shape, dtype or np.float32)
        self.depth = np.zeros((height, width), np.uint16) if has_depth else None
        self._dtype, self._scale = dtype, np.float32(survey.scale)

    def write(self, channel: int, rows: slice, columns: slice, values: np.ndarray) -> None:
        """Stores values in units of the sources."""
        target = self.picture[rows, columns, channel]
        if target.dtype.kind == "u" and np.iinfo(target.dtype).max == self._scale:
            np.rint(values, out=values)
            np.clip(values, 0, self._scale, out=values)
            target[...] = values
        else:
            target[...] = from_float(values / self._scale, self._dtype)


def _plane(picture: np.ndarray, channel: int) -> np.ndarray:
    """One channel, (H, W); gray serves for all."""
    return picture[..., min(channel, picture.shape[-1] - 1)]


def _mix_together(survey: _Survey, fused: _Fused, tick: Callable[[], None]) -> None:
    """The weighted sum of pictures that are held together, piece by piece."""
    members = survey.members

    def work(rows: slice, columns: slice) -> None:
        parts = evidence.weights(members, rows, columns)
        for channel in range(survey.shape[2]):
            total = 0.0
            for member, part in zip(members, parts, strict=True):
                total = total + part * _plane(member.picture[rows, columns], channel)
            fused.write(channel, rows, columns, np.asarray(total, np.float32))
        if fused.depth is not None:
            fused.depth[rows, columns] = np.argmax(parts, 0)

    strips.spread(work, *survey.shape[:2])
    for _ in members:
        tick()


def _blend_together(survey: _Survey, fused: _Fused, levels: int, tick: Callable[[], None]) -> None:
    """Pictures that are held together, scale by scale; one channel after the other."""
    height, width = survey.shape[:2]
    *members, base = survey.members
    maps = [np.empty((height, width), np.float32) for _ in members]

    def weigh(rows: slice, columns: slice) -> None:
        parts = evidence.weights(survey.members, rows, columns)
        for target, part in zip(maps, parts, strict=False):  # the last one is the remainder
            target[rows, columns] = part
        if fused.depth is not None:
            fused.depth[rows, columns] = np.argmax(parts, 0)

    strips.spread(weigh, height, width)
    shares = [pyramids.weight_pyramid(x, levels) for x in maps]
    for channel in range(survey.shape[2]):
        pyramids.blended(
            _plane(base.picture, channel),
            [_plane(member.picture, channel) for member in members],
            shares,
            functools.partial(fused.write, channel),
        )
    for _ in survey.members:
        tick()


def _add_up(survey: _Survey, fused: _Fused, levels: int, tick: Callable[[], None]) -> None:
    """Pictures one after the other, each loaded again."""
    height, width, channels = survey.shape
    blends = [pyramids.Blend(height, width, levels) for _ in range(channels)]
    totals = pyramids.weight_pyramid(np.zeros((height, width), np.float32), levels)
    weight = np.empty((height, width), np.float32)
    best = np.zeros((height, width), np.float32) if fused.depth is not None else None
    for number in range(survey.scene.count):
        member = survey.member(number)
        _weigh_alone(member, survey, weight)
        if best is not None and fused.depth is not None:
            _note_best(weight, best, fused.depth, number)
        shares = pyramids.weight_pyramid(weight, levels)
        for total, share in zip(totals, shares, strict=True):
            total += share
        for channel, blend in enumerate(blends):
            blend.add(_plane(member.picture, channel), shares)
        tick()
    for channel, blend in enumerate(blends):
        _store(fused, channel, blend.collapse(totals))


def _weigh_alone(member: Evidence, survey: _Survey, target: np.ndarray) -> None:
    reference = survey.reference
    assert reference is not None

    def work(rows: slice, columns: slice) -> None:
        level = strips.window(reference, rows, columns, evidence.REACH)
        target[rows, columns] = evidence.smoothed(member, level, rows, columns)

    strips.spread(work, *target.shape)


def _note_best(weight: np.ndarray, best: np.ndarray, depth: np.ndarray, number: int) -> None:
    def work(rows: slice, columns: slice) -> None:
        is_better = weight[rows, columns] > best[rows, columns]
        depth[rows, columns][is_better] = number
        np.maximum(best[rows, columns], weight[rows, columns], out=best[rows, columns])

    strips.spread(work, *weight.shape)


def _store(fused: _Fused, channel: int, plane: np.ndarray) -> None:
    def work(rows: slice, columns: slice) -> None:
        fused.write(channel, rows, columns, plane[rows, columns])

    strips.spread(work, *plane.shape)


def blur_radius(largest: Sequence[np.ndarray], smallest: Sequence[np.ndarray]) -> float:
    """Radius of the widest blur, in pixels, from energies at 1/4, 1/8, ... of the size.

    A disk of radius r leaves little of what is finer than r and all that is coarser. The scale is
    sought at which the energies of the sharpest and the most blurred picture differ e-fold.

    Args:
        largest: log energy of the sharpest picture, by scale.
        smallest: log energy of the most blurred picture, by scale.

    Returns:
        At least 4, below which it is not told apart, and 0 where no picture has any detail.
    """
    radius, before = 0.0, 0.0
    for level, (sharp, blurred) in enumerate(zip(largest, smallest, strict=True), 2):
        has_detail = sharp > 2 * math.log(2 * evidence.NOISE)
        if has_detail.mean() < 0.01:
            continue
        gap = float(np.median((sharp - blurred)[has_detail]))
        if gap <= 1.0:
            part = (before - 1.0) / (before - gap) if before else 1.0
            return 2.0 ** (level - 1 + part)
        radius, before = 2.0**level, gap
    return radius
