"""Exposures of one scene, taken by a camera that moved a little, laid on each other.

Several movements are candidates: none, a shift, shift with turn and growth as the cells of the
picture vote (`votes`), and what Gauss-Newton steps make of that without the places that disagree
(`align`). The simplest that hardly any vote speaks against is taken. One that most of the picture
does not follow is not the camera's, and is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import align, votes
from mgdn_jax.fusing.align import Alignment
from mgdn_jax.fusing.transforms import Transform

Load = Callable[[int], np.ndarray]

_ENOUGH = 0.4  # share of votes; those that differ rarely agree with each other
_FEWEST = 5  # cells with a vote, below which nothing is concluded
_SEEN = 2.5  # pixels at a corner, as `shifts` has it
_WORTH = 0.05  # of what is compared, in pixels, by which a richer movement has to be better


@dataclasses.dataclass(frozen=True)
class _Exposure:
    """What is kept of an exposure while others are laid on it."""

    edges: votes.Edges
    prepared: align.Prepared


def align_exposures(
    load: Load, count: int, *, anchor: int = 0, model: str = "auto"
) -> list[Alignment]:
    """Lays exposures on one of them, each on its neighbour in brightness.

    Args:
        load: gives the picture of a number from 0, (H, W) or (H, W, C), all of one size.
        count: of pictures.
        anchor: number of the picture that stays.
        model: as of `align.align`.

    Returns:
        For each picture how it lies on the anchor. One that no movement of the camera lays there
        stays on its neighbour as it is, with a remark.

    Raises:
        InputError: the model is unknown, or OpenCV is not installed.
    """

    def prepared(number: int) -> _Exposure:
        pixels = load(number)
        return _Exposure(votes.edges(pixels), align.prepare(pixels))

    start = prepared(anchor)
    found = {anchor: Alignment(Transform.identity(), "identity", 1.0, 0.0)}
    for numbers in _outward(load, count, anchor):
        neighbour, last = start, anchor
        for number in numbers:
            moving = prepared(number)
            step = _aligned(neighbour, moving, model)
            whole = found[last].transform.compose(step.transform)
            shift = whole.corner_shift(moving.edges.size)
            found[number] = dataclasses.replace(step, transform=whole, shift=shift)
            neighbour, last = moving, number
    return [found[number] for number in range(count)]


def shifts_of(load: Load, count: int, *, anchor: int = 0) -> list[Transform | None]:
    """Finds the shifts alone, without OpenCV.

    Args:
        load: as of `align_exposures`.
        count: of pictures.
        anchor: number of the picture that stays.

    Returns:
        For each picture the shift onto the anchor; None where most of the picture follows none.
    """
    start = votes.edges(load(anchor))
    found: dict[int, Transform | None] = {anchor: Transform.identity()}
    for numbers in _outward(load, count, anchor):
        neighbour, last = start, anchor
        for number in numbers:
            moving = votes.edges(load(number))
            back, before = _shift(neighbour, moving), found[last]
            found[number] = None if back is None or before is None else before.compose(back)
            neighbour, last = moving, number
    return [found[number] for number in range(count)]


def lie_on_each_other(load: Load, count: int) -> bool:
    """Whether most of every exposure lies on the one before, whatever moves in the scene.

    Args:
        load: gives the picture of a number from 0, (H, W) or (H, W, C), all of one size.
        count: of pictures, from dark to bright.
    """
    before = votes.edges(load(0))
    for number in range(1, count):
        here = votes.edges(load(number))
        ballot = votes.ballot(before, here)
        left = votes.agreed_similarity(ballot)
        if not _is_supported(ballot, left) or left.corner_shift(before.size) >= _SEEN:
            return False
        before = here
    return True


def _outward(load: Load, count: int, anchor: int) -> list[list[int]]:
    """The darker pictures, and the brighter ones, each from the anchor on."""
    # A few thousand pixels tell what is brighter.
    means = []
    for number in range(count):
        pixels = load(number)
        step = max(1, max(pixels.shape[:2]) // 100)
        full = 1.0 if pixels.dtype.kind == "f" else float(np.iinfo(pixels.dtype).max)
        means.append(float(pixels[::step, ::step].mean()) / full)
    order = sorted(range(count), key=lambda number: (means[number], number))
    at = order.index(anchor)
    return [order[:at][::-1], order[at + 1 :]]


def _shift(reference: votes.Edges, moving: votes.Edges) -> Transform | None:
    """The shift of a moving exposure onto its reference."""
    ballot = votes.ballot(reference, moving)
    whole = votes.agreed_similarity(ballot)
    if not _is_supported(ballot, whole):
        return None
    return votes.middle_shift(whole, reference.size).inverse()


def _is_supported(ballot: votes.Ballot, transform: Transform) -> bool:
    return ballot.count >= _FEWEST and ballot.support(transform) >= _ENOUGH


def _aligned(reference: _Exposure, moving: _Exposure, model: str) -> Alignment:
    """How one exposure lies on its neighbour."""
    found = _start(reference, moving, model)
    if found is None:
        return Alignment(
            Transform.identity(), "identity", 0.0, 0.0,
            "no movement of the camera brings most of it onto its neighbour in brightness, so it "
            "is used as it lies; look at the result.",
        )  # fmt: skip
    start, ballot = found
    refined = align.refine(
        _restricted(reference, ballot, start), _restricted(moving), start.inverse(), model=model
    )
    size = reference.edges.size
    shift = votes.middle_shift(start, size)
    candidates = [("translation", shift), ("similarity", start)]
    if model == "translation":
        candidates = candidates[:1]
    elif model == "euclidean":
        candidates[1] = ("euclidean", start)
    candidates = [("identity", Transform.identity()), *candidates]
    if refined.score > 0:  # else too few details count
        candidates.append((refined.model, refined.transform.inverse()))
    name, best = _simplest(ballot, candidates)
    back = best.inverse()
    return Alignment(back, name, ballot.support(best), back.corner_shift(size))


def _start(
    reference: _Exposure, moving: _Exposure, model: str
) -> tuple[Transform, votes.Ballot] | None:
    """A movement that most of the picture follows, reference onto moving, and the votes."""
    edges = reference.edges, moving.edges
    ballot = votes.ballot(*edges)
    start = _voted(ballot, model)
    if _is_supported(ballot, start):
        return start, ballot
    # Where much is cut off, few cells are sure of their place unless it is nearly known.
    guess = _by_features(reference, moving, model)
    if guess is None:
        return None
    ballot = votes.ballot(*edges, guess)
    start = _voted(ballot, model)
    return (start, ballot) if _is_supported(ballot, start) else None


def _voted(ballot: votes.Ballot, model: str) -> Transform:
    if model == "translation":
        return votes.agreed_shift(ballot)
    return votes.agreed_similarity(ballot, grows=model != "euclidean")


def _simplest(
    ballot: votes.Ballot, candidates: Sequence[tuple[str, Transform]]
) -> tuple[str, Transform]:
    """The first candidate that is hardly worse than the best; the last if it is hardly worse."""
    worth = _WORTH * ballot.unit
    errors = [ballot.disagreement(transform) for _, transform in candidates]
    good = [error <= min(errors) + worth for error in errors]
    index = good.index(True)
    # Of movements of the same kind the refined one is the finer.
    if candidates[index][0] not in ("identity", "translation") and good[-1]:
        index = len(candidates) - 1
    return candidates[index]


def _by_features(reference: _Exposure, moving: _Exposure, model: str) -> Transform | None:
    """What a search by features finds, reference onto moving; None where it finds nothing."""
    try:
        return align.align_prepared(
            reference.prepared, moving.prepared, model=model
        ).transform.inverse()
    except InputError:
        return None


def _restricted(
    exposure: _Exposure, ballot: votes.Ballot | None = None, transform: Transform | None = None
) -> align.Prepared:
    """An exposure of which that alone counts that is neither cut off nor moves by itself.

    Args:
        exposure: to be compared.
        ballot: votes of its cells; None where they were not asked.
        transform: the movement that most of them follow.
    """
    edges, prepared = exposure.edges, exposure.prepared
    counts = np.abs(edges.fields[0]) > 0
    if ballot is not None and transform is not None:
        counts = counts & ~ballot.dissenting(transform, counts.shape, edges.units[0])
    levels = []
    for level in prepared.levels:
        rows, columns = (
            np.minimum(((np.arange(n) + 0.5) * level.unit / edges.units[0]).astype(int), limit - 1)
            for n, limit in zip(level.details.shape, counts.shape, strict=True)
        )
        mask = counts[rows[:, None], columns]
        levels.append(
            dataclasses.replace(level, mask=mask if level.mask is None else mask & level.mask)
        )
    return dataclasses.replace(prepared, levels=tuple(levels))
