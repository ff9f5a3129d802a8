"""What the pictures of a folder share: the ranges of its sources and, in a sequence, one tone.

A range or a tone of each picture's own makes a still wall flicker when something bright walks in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mgdn_jax import image
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import masks, preparation, ranges, tasks
from mgdn_jax.fusing.likeness import resemblance
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.fusing.report import Report
from mgdn_jax.fusing.sources import Sources, letter
from mgdn_jax.io.pixels import without_alpha

USUAL = FuseOptions(tone="auto")
"""What holds for folders where neither the call nor the card says otherwise."""
SAMPLE = 8
"""Scenes of a folder, evenly spread, that the common tone is taken from."""
LOOKED = 64
"""Scenes that the common range is taken from, where sources have more than 8 bits."""
ALIKE = 0.8
"""Rank correlation of small copies from which on neighbours count as frames of a sequence."""

TAIL = 0.01
"""Percent of a folder's values that its limits leave out: single pixels, not small hot things."""
MOST_GAIN = 3.0
"""Contrast that a common tone adds at most."""

_VALUES = 200_000


def settle(
    fuser: Any, groups: Sequence[Sequence[Any] | Sources], options: FuseOptions, report: Report
) -> tuple[Any, FuseOptions]:
    """What holds for a folder, in place of what each picture would have by itself.

    Args:
        fuser: the network, a `Fuser`.
        groups: sources of every scene, as `Fuser.fuse` takes them.
        options: as `Fuser.resolve` gives them.
        report: takes what was done.

    Returns:
        The network, in a sequence with one set of statistics for all frames; and options whose
        `range`, and in a sequence whose `tone`, hold for all scenes.
    """
    options = _with_ranges(groups, fuser.task, options, report)
    if options.tone not in ("folder", "auto"):
        return fuser, options
    if options.tone == "auto" and not is_sequence(groups):
        return fuser, options
    sample = _readable([_opened(groups[place]) for place in _spread(len(groups))])
    if len(sample) < 2:
        return fuser, options
    fuser = _steadied(fuser, sample, options, report)
    if options.stretch != "none":
        options = _with_tone(fuser, sample, options, report)
    return fuser, options


def _steadied(fuser: Any, sample: Sequence[Sources], options: FuseOptions, report: Report) -> Any:
    """The network with one set of statistics for all frames."""
    plain = FuseOptions(checks=False).otherwise(options)
    try:
        steady = fuser.steadied(sample, options=plain)
    except InputError:
        return fuser  # it is said when its turn comes
    if steady is not fuser:
        report.note("frames", "the network's statistics of whole pictures are those of all frames.")
    return steady


def is_sequence(groups: Sequence[Sequence[Any] | Sources]) -> bool:
    """Whether neighbouring scenes are frames of one film: alike in some source, and of one size."""
    places = [place for place in _spread(len(groups) - 1) if place + 1 < len(groups)]
    count = 0
    for place in places:
        pairs = _readable([_opened(groups[place]), _opened(groups[place + 1])])
        if len(pairs) < 2:
            continue
        first, second = pairs
        if first[0].pixels.shape[:2] != second[0].pixels.shape[:2]:
            return False
        alike = [resemblance(first[i].pixels, second[i].pixels) for i in range(len(first))]
        if max(alike) < ALIKE:
            return False
        count += 1
    return count > 0


def _opened(group: Sequence[Any] | Sources) -> Sources:
    return group if isinstance(group, Sources) else Sources(group)


def _spread(count: int, most: int = SAMPLE) -> list[int]:
    """Up to `most` of so many places, evenly spread, both ends included."""
    if count <= 0:
        return []
    return sorted({round(x) for x in np.linspace(0, count - 1, min(most, count))})


def _readable(scenes: Sequence[Sources]) -> list[Sources]:
    """Those that can be read; what is wrong with the others is said when they are fused."""
    good = []
    for scene in scenes:
        try:
            for index in range(len(scene)):
                scene[index]
        except InputError:
            continue
        good.append(scene)
    return good


_Facts = list[tuple[ranges.Statistics, tuple[float, float] | None]]


def _facts(group: Sequence[Any] | Sources, rules: Sequence[str]) -> _Facts | None:
    """Values of the sources of one scene, and the percentiles that rules ask for; None: unread."""
    scene = _opened(group)
    facts: _Facts = []
    try:
        for index, rule in enumerate(rules):
            picture, asked = scene[index], ranges.percentages(rule)
            colour, mask = without_alpha(picture.pixels), masks.of_alpha(picture.pixels)
            values = None if asked is None else ranges.percentiles(colour, mask, asked)
            facts.append((ranges.of_picture(picture), values))
    except InputError:
        return None  # it is said when its turn comes
    return facts


def _looked_at(groups: Sequence[Sequence[Any] | Sources], rules: Sequence[str]) -> list[_Facts]:
    """Facts of a few scenes; of many, where their values decide: what is beyond is cut off."""
    few = _spread(len(groups))
    scenes = {place: _facts(groups[place], rules) for place in few}
    read = [facts for facts in scenes.values() if facts is not None]
    is_bytes = all(about.dtype == np.uint8 for facts in read for about, _ in facts)
    if not is_bytes or any(values is not None for facts in read for _, values in facts):
        for place in _spread(len(groups), LOOKED):
            if place not in scenes:
                scenes[place] = _facts(groups[place], rules)
    return [facts for _, facts in sorted(scenes.items()) if facts is not None]


def _with_ranges(
    groups: Sequence[Sequence[Any] | Sources],
    task: tasks.Task | None,
    options: FuseOptions,
    report: Report,
) -> FuseOptions:
    """Limits of each source over the whole folder, where they depend on its values."""
    rules = ranges.rules(options.range, len(groups[0]), "type")
    if not any(rule.startswith(("auto", "percentile")) for rule in rules):
        return options
    scenes = _looked_at(groups, rules)
    if len(scenes) < 2:
        return options
    columns = list(zip(*scenes, strict=True))
    parts = [ranges.pooled([about for about, _ in column]) for column in columns]
    levels = preparation.windows(options.window, parts)
    shared = preparation.of_one_camera(parts, rules, task)
    middle = None if shared is not None else preparation.contrast(parts, rules, levels)
    for index, (rule, column) in enumerate(zip(list(rules), columns, strict=True)):
        if levels[index] is not None or not rule.startswith(("auto", "percentile")):
            continue
        if len({about.dtype for about, _ in column}) > 1 or any(a.window for a, _ in column):
            continue
        asked = [values for _, values in column if values is not None]
        chosen, said, warning = ranges.choose(
            f"source {letter(index)}",
            shared or parts[index],
            rule,
            percentiles=(min(v[0] for v in asked), max(v[1] for v in asked)) if asked else None,
            contrast=middle,
        )
        if chosen.rule in ("percentile", "bits"):
            rules[index] = f"{chosen.low!r},{chosen.high!r}"
            report.note("range", f"{said[:-1]}, the same in all pictures.", source=letter(index),
                        low=chosen.low, high=chosen.high, rule=chosen.rule)  # fmt: skip
            report.warn(*([warning] if warning else []))
        elif chosen.rule == "type" and parts[index].dtype == np.uint16:
            rules[index] = "type"  # a dull frame among them has no range of its own
    words = ";".join(f"{letter(index)}:{rule}" for index, rule in enumerate(rules))
    return FuseOptions(range=words).otherwise(options)


def _with_tone(
    fuser: Any, sample: Sequence[Sources], options: FuseOptions, report: Report
) -> FuseOptions:
    """Robust limits of the network's values over the folder."""
    plain = FuseOptions(tone="picture", checks=False).otherwise(options)
    values = []
    contrast = 0.0
    for scene in sample:
        try:
            contrast = max(contrast, fuser.prepare(scene, options=plain).contrast.span)
            fused = fuser.values(scene, options=plain)
        except InputError:
            continue  # it is said when its turn comes
        flat = np.asarray(image.luminance(fused)).reshape(-1)
        values.append(flat[:: max(1, flat.size // _VALUES)])
    if not values:
        return options
    together = np.concatenate(values)
    if options.stretch == "fill":
        together = np.clip(together, 0.0, 1.0)
    low, high = (float(x) for x in np.percentile(together, (TAIL, 100 - TAIL)))
    # A network's statistics of the whole picture move a little with what walks in; spread over
    # the whole range, a dull scene would show it.
    middle, width = (low + high) / 2, max(high - low, 1 / MOST_GAIN)
    middle = min(max(middle, width / 2), max(1 - width / 2, width / 2))
    low, high = middle - width / 2, middle + width / 2
    if contrast == 0:  # flat pictures have no tone
        low, high = 0.0, 1.0
    tone = f"{float(low)!r},{float(high)!r}"
    report.note(
        "tone",
        f"the pictures are a sequence, so all share the limits {low:.3f} to {high:.3f}; "
        "--tone picture gives each its own.",
        low=float(low),
        high=float(high),
    )
    return FuseOptions(tone=tone).otherwise(options)
