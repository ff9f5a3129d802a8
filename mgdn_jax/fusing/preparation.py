"""The step before the network: sources of any kind become pictures that a network can take.

`prepare` looks at every source once and decides; `Prepared` then hands the pictures out one by
one, so that a long stack is never in memory. What was done and noticed is in its report.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import looks, masks, ranges, rendering, tasks
from mgdn_jax.fusing.geometry import Placing, check_sizes, place
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.fusing.report import Report
from mgdn_jax.fusing.sources import Sources
from mgdn_jax.fusing.transforms import Transform, write_transforms
from mgdn_jax.io import labels
from mgdn_jax.io.pictures import Labels
from mgdn_jax.io.pixels import to_float, without_alpha


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a first look at all sources found.

    Attributes:
        names: what messages call them.
        sizes: heights and widths.
        statistics: of their values.
        labels: what their files say beside pixels.
        channels: of each source without alpha, 1 or 3.
        has_alpha: whether each has alpha.
        is_flat: whether the first has no channel axis of its own.
        remarks: sentences about what was not read.
    """

    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    statistics: tuple[ranges.Statistics, ...]
    labels: tuple[Labels, ...]
    channels: tuple[int, ...]
    has_alpha: tuple[bool, ...]
    is_flat: bool
    remarks: tuple[str, ...]


def survey(sources: Sources) -> Survey:
    """Looks at every source once, one after the other.

    Raises:
        InputError: a source that cannot be read.
    """
    columns: list[tuple[Any, ...]] = []
    remarks: list[str] = []
    is_flat = False
    for index in range(len(sources)):
        picture = sources[index]
        pixels = picture.pixels
        has_alpha = pixels.ndim == 3 and pixels.shape[-1] in (2, 4)
        colour = without_alpha(pixels)
        about = ranges.of_picture(picture)
        row = (picture.name, pixels.shape[:2], about, picture.labels, colour.shape[-1], has_alpha)
        columns.append(row)
        remarks += picture.remarks
        if index == 0:
            is_flat = pixels.ndim == 2 or has_alpha
    names, sizes, statistics, marks, channels, alphas = zip(*columns, strict=True)
    return Survey(names, sizes, statistics, marks, channels, alphas, is_flat, tuple(remarks))


@dataclasses.dataclass
class Prepared:
    """Pictures of one scene, ready for the network.

    Attributes:
        sources: where they come from.
        survey: what they are.
        order: which source is first, second, ...
        ranges: what is black and white in each source.
        placing: where each lies.
        curves: what brings each to the tone of the first; None leaves it.
        dtype: of the pictures handed out; the result's, where nothing was spread.
        target: type of the result.
        scale: what the result's 0 and 1 are in `target`; None where it is written as it comes.
        options: of the call.
        report: what was done and noticed.
        labels: what the result carries on.
    """

    sources: Sources
    survey: Survey
    order: tuple[int, ...]
    ranges: tuple[ranges.Range, ...]
    placing: Placing
    curves: tuple[Any, ...]
    dtype: np.dtype
    target: np.dtype
    scale: ranges.Range | None
    options: FuseOptions
    report: Report
    labels: Labels = dataclasses.field(default_factory=Labels)
    _last: dict[int, tuple[np.ndarray, np.ndarray | None, np.ndarray | None]] = dataclasses.field(
        default_factory=dict
    )
    _first: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.order)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the result."""
        return self.placing.shape

    @property
    def pixels(self) -> int:
        """Number of pixels of the result."""
        return max(1, self.shape[0] * self.shape[1])

    @property
    def channels(self) -> int:
        """1 if all sources are gray, else 3."""
        return max(self.survey.channels)

    @property
    def contrast(self) -> rendering.Contrast:
        """What the values of the source span that spans most, and its colour where all have one."""
        parts = zip(self.ranges, self.survey.statistics, strict=True)
        span = max(limits.contrast(about) for limits, about in parts)
        if span:
            return rendering.Contrast(span)
        colours: list[np.ndarray] = []
        for position in range(len(self)):
            pixels, mask = self.picture(position), self.mask(position)
            visible = pixels[0, :1] if mask is None else pixels[mask][:1]
            colours += [np.broadcast_to(to_float(x), (self.channels,)) for x in visible]
        is_one = bool(colours) and all(np.array_equal(colours[0], x) for x in colours)
        return rendering.Contrast(0.0, colours[0] if is_one else None)

    @property
    def is_plain(self) -> bool:
        """Whether pictures are handed out as the files have them, everywhere there."""
        still = all(t is None for t in self.placing.transforms) and not self.placing.resizes
        return self.scale is None and still and not any(self.survey.has_alpha)

    def change(self, *, order: tuple[int, ...] | None = None, curves: tuple | None = None) -> None:
        """Another order or other curves."""
        self.order = order or self.order
        self.curves = curves or self.curves
        self._last.clear()

    def for_frame(self, sources: Sources) -> Prepared:
        """The same preparation for another frame of a sequence: one range, place, order and tone.

        Args:
            sources: of the sizes, types and channels of these.
        """
        about = [
            dataclasses.replace(statistics, span_of_channel=ranges.span_of(sources[i].pixels))
            for i, statistics in enumerate(self.survey.statistics)
        ]
        survey = dataclasses.replace(self.survey, statistics=tuple(about))
        return dataclasses.replace(
            self, sources=sources, survey=survey, report=Report(), _last={}, _first=None
        )

    def picture(self, position: int) -> np.ndarray:
        """(H, W, 1 or 3) in `dtype`, at a position of the order."""
        return self._take(position)[0]

    def mask(self, position: int) -> np.ndarray | None:
        """(H, W), True where the picture is there; None for everywhere."""
        return self._take(position)[1]

    def masks(self) -> list[np.ndarray | None]:
        """Those of all pictures; None where they are whole."""
        if self.is_plain:
            return [None] * len(self)
        return [self.mask(position) for position in range(len(self))]

    def _take(self, position: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        if position in self._last:
            return self._last[position]
        index = self.order[position]
        pixels = self.sources[index].pixels
        alpha_mask = masks.of_alpha(pixels)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        placed, lies = self.placing.place(index, pixels)
        alpha = placed[..., -1] if self.survey.has_alpha[index] else None
        colour = without_alpha(placed)
        if alpha_mask is not None:
            there, _ = self.placing.place(index, alpha_mask[..., None].astype(np.uint8) * 255)
            seen = there[..., 0] == 255
            lies = seen if lies is None else seen & lies
            lies = None if lies.all() else lies
        if self.scale is not None or self.dtype != colour.dtype:
            colour = self.ranges[index].apply(colour).astype(self.dtype, copy=False)
        if self.curves[index] is not None:
            # Highlights that this picture cuts off may be there in the one whose tone it takes.
            if self._first is None:
                self._first = self.picture(self.order.index(0))
            is_alike = self._first.shape == colour.shape
            colour = self.curves[index].apply(colour, self._first if is_alike else None)
        if len(self._last) >= 2:
            self._last.pop(next(iter(self._last)))
        self._last[position] = colour, lies, alpha
        return self._last[position]

    def write_transforms(self, path: str) -> None:
        """Stores where the sources were laid, to be applied again (`homography`).

        Raises:
            InputError: the place cannot be written.
        """
        size = self.placing.size
        write_transforms(
            path,
            {
                name: transform or Transform.identity()
                for name, transform in zip(self.survey.names, self.placing.transforms, strict=True)
            },
            {
                name: (own, size)
                for name, own in zip(self.survey.names, self.survey.sizes, strict=True)
            },
        )

    def finish(self, fused: np.ndarray) -> np.ndarray:
        """A result in the layout, type and scale of the sources.

        Args:
            fused: (H, W, 1 or 3) in `dtype`.

        Returns:
            (H, W) or (H, W, C) in `target`; with alpha, as opaque as the most opaque source at
            each pixel, if all sources have it.
        """
        if self.scale is not None:
            fused = self.scale.restore(fused, self.target)
        if all(self.survey.has_alpha):
            return np.concatenate([fused, self._alpha()[..., None].astype(fused.dtype)], -1)
        return fused[..., 0] if fused.shape[-1] == 1 and self.survey.is_flat else fused

    def _alpha(self) -> np.ndarray:
        total: np.ndarray | None = None
        for position in range(len(self)):
            _, lies, alpha = self._take(position)
            assert alpha is not None
            alpha = alpha if lies is None else np.where(lies, alpha, alpha.dtype.type(0))
            total = alpha if total is None else np.maximum(total, alpha)
        assert total is not None
        if total.dtype == self.target:
            return total
        low, high = ranges.type_range(total.dtype)
        return ranges.Range(*ranges.type_range(self.target)).restore(
            (total - low) / (high - low), self.target
        )


def prepare(
    sources: Sources,
    options: FuseOptions,
    *,
    task: tasks.Task | None = None,
    about: Survey | None = None,
) -> Prepared:
    """Looks at all sources and decides what the network gets.

    Args:
        sources: pictures of one scene.
        options: of the call, without None for what `fusing.options.USUAL` has.
        task: what the network was trained for.
        about: what `survey` found, where it was made already.

    Raises:
        InputError: a source that cannot be read, or sources that do not go together.
    """
    report = Report()
    about = about or survey(sources)
    report.warn(*about.remarks)
    if not options.brings_together:
        check_sizes(about.names, about.sizes)
    chosen = _ranges(sources, about, options, task, report)
    dtype, target, scale = _types(about, chosen, report)

    def load(index: int) -> np.ndarray:
        colour = without_alpha(sources[index].pixels)
        return colour if scale is None else chosen[index].apply(colour)

    is_bracket = task is not None and task.name == "exposure"
    placing = place(load, about.names, about.sizes, options, report, is_bracket=is_bracket)
    carried, sentences = labels.shared_labels(
        about.labels,
        keep=options.metadata or "usual",
        names=about.names,
        gray=[channels == 1 for channels in about.channels],
    )
    report.warn(*sentences)
    if carried.geometry is not None and (
        placing.shape != about.sizes[0] or placing.transforms[0] is not None
    ):
        carried = dataclasses.replace(carried, geometry=None)
        report.warn(
            f"the result lies on another grid than {about.names[0]}, so its place in the patient "
            "is not kept."
        )
    prepared = Prepared(
        sources=sources,
        survey=about,
        order=tuple(range(len(sources))),
        ranges=tuple(chosen),
        placing=placing,
        curves=(None,) * len(sources),
        dtype=dtype,
        target=target,
        scale=scale,
        options=options,
        report=report,
        labels=carried,
    )
    _look(prepared, task)
    return prepared


def _look(prepared: Prepared, task: tasks.Task | None) -> None:
    """Order, tone and checks, once the pictures lie where they belong."""
    options, report = prepared.options, prepared.report
    has_order = options.order == "brightness" and task is not None and task.name == "exposure"
    if not (has_order or options.match_exposure or options.checks):
        return

    names = prepared.survey.names
    if not (prepared.is_plain or options.align):
        _warn_of_nothing(prepared)
    if options.match_exposure:
        curves = looks.curves(prepared.picture, prepared.mask, names, report)
        prepared.change(curves=tuple(curves))
    if options.checks:
        looks.check(
            prepared.picture,
            prepared.mask,
            names,
            task,
            report,
            is_placed=any(t is not None for t in prepared.placing.transforms)
            or bool(options.align),
            is_matched=bool(options.match_exposure),
        )
    if has_order:
        order = looks.by_brightness(prepared.picture, prepared.mask, names, report)
        prepared.change(order=tuple(order))


def _warn_of_nothing(prepared: Prepared) -> None:
    """Names sources of which nothing is left."""
    for index, name in enumerate(prepared.survey.names):
        mask = prepared.mask(index)
        if mask is not None and not mask.any():
            prepared.report.warn(
                f"nothing of {name} is on the result: it is transparent everywhere, or lies "
                "outside of the others; leave it out, or mend its alpha or its transform."
            )


# ------------------------------------------------------------------------------------ values


def _ranges(
    sources: Sources,
    about: Survey,
    options: FuseOptions,
    task: tasks.Task | None,
    report: Report,
) -> list[ranges.Range]:
    """The range of every source, and what there is to say about it."""
    count = len(about.names)
    rules = ranges.rules(options.range, count, "type")
    levels = windows(options.window, about.statistics)
    rules = [
        "auto" if level is not None and rule == "type" else rule
        for level, rule in zip(levels, rules, strict=True)
    ]
    shared = of_one_camera(about.statistics, rules, task)
    middle = None if shared is not None else contrast(about.statistics, rules, levels)
    chosen = []
    for index, name in enumerate(about.names):
        statistics = shared if shared is not None else about.statistics[index]
        asked = ranges.percentages(rules[index])
        values = None
        if asked is not None:
            pixels = without_alpha(sources[index].pixels)
            values = ranges.percentiles(pixels, masks.of_alpha(sources[index].pixels), asked)
        range_, said, warning = ranges.choose(
            name,
            statistics,
            rules[index],
            window=levels[index],
            percentiles=values,
            contrast=middle,
        )
        if said:
            report.note("range", said, source=name, low=range_.low, high=range_.high,
                        rule=range_.rule)  # fmt: skip
        if warning:
            report.warn(warning)
        chosen.append(range_)
    return chosen


def windows(
    text: str | None, parts: Sequence[ranges.Statistics]
) -> list[tuple[float, float] | None]:
    """Level and width of the window of each source; None for sources without Hounsfield units.

    Args:
        text: as of `FuseOptions.window`.
        parts: values of every source.

    Raises:
        InputError: a window that does not exist, or one for no source.
    """
    levels = ranges.windows(text, len(parts))
    for index, about in enumerate(parts):
        is_hounsfield = about.unit == "HU" or about.low < 0
        if not (is_hounsfield or ranges.names_source(text, index)):
            levels[index] = None
    if text and not any(levels):
        raise InputError(
            f"window {text!r} is for Hounsfield units, but no source holds any; write "
            "--window A:WINDOW to use it on the first one all the same."
        )
    return levels


def contrast(
    parts: Sequence[ranges.Statistics],
    rules: Sequence[str],
    levels: Sequence[tuple[float, float] | None],
) -> tuple[float, float] | None:
    """Where in [0, 1] the values of those sources lie whose black and white are settled.

    A narrow source is spread over no more than that: with twice the contrast of the photograph
    beside it, it would be all that is left.

    Args:
        parts: values of every source.
        rules: of every source, as `ranges.rules` gives them.
        levels: as `windows` gives them.
    """
    ends = []
    for about, rule, level in zip(parts, rules, levels, strict=True):
        if level is None and rule == "type" and not about.is_plain:
            continue  # it is refused in a moment
        limits = ranges.choose("", about, rule, window=level)[0]
        is_whole = limits.rule == "type" and about.used >= ranges.NARROW
        if is_whole or limits.rule in ("declared", "bits", "window", "given"):
            scaled = [(x - limits.low) / (limits.high - limits.low) for x in about.robust]
            ends.append(np.clip(scaled, 0.0, 1.0))
    if not ends:
        return None
    low, high = float(np.min(ends)), float(np.max(ends))
    span = max(high - low, ranges.LEAST_CONTRAST)
    middle = float(np.clip((low + high) / 2, span / 2, 1 - span / 2))
    return middle - span / 2, middle + span / 2


def of_one_camera(
    parts: Sequence[ranges.Statistics], rules: Sequence[str], task: tasks.Task | None
) -> ranges.Statistics | None:
    """Statistics of all sources together, where one range must hold for all of them; else None.

    A dark exposure of a bracket is dark because it is: it must not be spread over the range.

    Args:
        parts: values of every source.
        rules: of every source, as `ranges.rules` gives them.
        task: what the network was trained for.
    """
    is_alike = len({(s.dtype, s.span, s.unit) for s in parts}) == 1
    if task is None or task.name not in ("focus", "exposure") or not is_alike:
        return None
    together = ranges.pooled(parts)
    narrow = [s.used < ranges.NARROW for s in parts]
    if task.name == "focus" and any(narrow) and not all(narrow):
        return None
    return together if len(set(rules)) == 1 else None


def _types(
    about: Survey, chosen: Sequence[ranges.Range], report: Report
) -> tuple[np.dtype, np.dtype, ranges.Range | None]:
    """Type of the pictures handed out, type of the result, and its scale."""
    dtypes = {s.dtype for s in about.statistics}
    first = about.statistics[0].dtype
    if len(dtypes) == 1 and {r.rule for r in chosen} == {"type"}:
        return first, first, None
    working = np.dtype(np.float32)
    if len(dtypes) == 1 and len({(r.low, r.high) for r in chosen}) == 1:
        if first.kind == "f":
            first = np.dtype(np.float32)
        report.note("scale", f"the result has the scale of the sources, {chosen[0]} ({first}).",
                    low=chosen[0].low, high=chosen[0].high, dtype=str(first))  # fmt: skip
        return working, first, chosen[0]
    name = "uint8" if dtypes == {np.dtype(np.uint8)} else "uint16"
    target = np.dtype("float32" if all(dtype.kind == "f" for dtype in dtypes) else name)
    full = ranges.Range(*ranges.type_range(target))
    report.note("scale", f"the result has a scale of its own, {full} ({target}).",
                low=full.low, high=full.high, dtype=str(target))  # fmt: skip
    return working, target, full
