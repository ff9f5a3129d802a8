"""From pictures to scores: fusion methods over sets of image pairs, in parallel.

A method is a callable `fuse(a, b) -> picture`, a set of stored results, or a rule without
learning; this room knows no network. The metrics are those of `mgdn_jax.metrics`, on luminance.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from mgdn_jax import arguments
from mgdn_jax import metrics as ruler
from mgdn_jax.errors import FusionWarning, InputError
from mgdn_jax.evaluation.scores import Area, Scores, Table
from mgdn_jax.io import files
from mgdn_jax.io.pixels import to_float, without_alpha

Source: TypeAlias = np.ndarray | str | os.PathLike[str]
Fuse: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Pair:
    """Two pictures of one scene, or what a picture should have been, or both.

    Attributes:
        name: Title of the row, unique among the pairs.
        a: First source: `(H, W)` or `(H, W, C)` array, or the path of an image file; an exception
            where the picture is known to be lost; None where only `truth` is compared.
        b: Second source, likewise.
        truth: Ground truth, for the metrics that need one.
        more: Further sources, behind `b`, of a scene that has more than two.
    """

    name: str
    a: Source | Exception | None
    b: Source | Exception | None
    truth: Source | Exception | None = None
    more: tuple[Source | Exception, ...] = ()


@dataclass(frozen=True)
class Stored:
    """A method whose results lie in files.

    Attributes:
        pictures: Name of a pair to the path of its fused image.
    """

    pictures: Mapping[str, str | os.PathLike[str]]


@dataclass(frozen=True)
class Rule:
    """A method without a device, cheap enough to run where its result is scored.

    Attributes:
        fuse: Picklable callable, given the luminance of both sources as uint8.
    """

    fuse: Fuse


Method: TypeAlias = Fuse | Stored | Rule


class MethodError(RuntimeError):
    """A rule or a metric failed on a picture; the message names the exception and its words."""


@dataclass(frozen=True)
class _Order:
    """One pair with what is to be scored on it; all of it can be sent to another process.

    Attributes:
        pair: The pair; its sources as arrays where they were read already.
        made: Method to a picture, how to make it, or why there is none.
        metrics: Exact names.
        is_kept: Whether the pictures are to come back.
        is_unit: Whether floating-point pictures among `made` are in 0..1.
        is_cropped: Whether the area that all have is measured.
    """

    pair: Pair
    made: Mapping[str, Source | Rule | Exception]
    metrics: tuple[str, ...]
    is_kept: bool
    is_unit: bool = False
    is_cropped: bool = False


@dataclass(frozen=True)
class _Outcome:
    """What came out of an order.

    Attributes:
        name: Name of the pair.
        scores: Method to its scores.
        failures: Method to why it has none.
        pictures: Method to its picture, where pictures were to come back.
        area: What was measured, where that is a part.
        warnings: What reading the pictures warned of.
    """

    name: str
    scores: Mapping[str, Scores]
    failures: Mapping[str, Exception]
    pictures: Mapping[str, np.ndarray]
    area: Area | None = None
    warnings: tuple[str, ...] = ()


def evaluate_methods(
    methods: Mapping[str, Method],
    pairs: Iterable[Pair | tuple[str, Source, Source]],
    *,
    metrics: Sequence[str] = ruler.STANDARD,
    variant: str = "standard",
    on_result: Callable[[str, str, np.ndarray, Scores], None] | None = None,
    on_pair: Callable[[str], None] | None = None,
    workers: int = 0,
    crop: bool = False,
) -> dict[str, Table]:
    """Fuses every pair with every method and scores the results on luminance.

    Pairs are read a few at a time, and the sources' part of the metrics is computed once for all
    methods. Callables run in this process, one pair after the other.

    Args:
        methods: Name to method. A callable gets the pictures as they were read, all of them where
            there are more than two, and returns one of their height and width, gray or colour, in
            their dtype (or floating point in 0..255 if they are integers).
        pairs: `Pair`s or `(name, a, b)`.
        metrics: Names, see `mgdn_jax.metrics.METRICS`.
        variant: `standard` or `cddfuse`, see `mgdn_jax.metrics.resolve`.
        on_result: Called after each success as `on_result(method, pair name, fused, scores)`, in
            the order of the pairs, to save or collect pictures.
        on_pair: Called as `on_pair(pair name)` when a pair is done, failed or not: for progress.
        workers: Processes that read, measure and apply rules; 0 does it here. They start afresh
            (spawn), so a script that asks for them needs the usual `if __name__ == "__main__"`.
        crop: Results may be smaller than their sources, cut at the right and below: all methods are
            scored on the area that the results of the pair share, and the tables name it (`areas`).

    Returns:
        Name to table. An image that cannot be read, fused or measured is listed in the
        `failures` of the tables concerned; the others are not lost.

    Raises:
        InputError: on unknown metrics, on two pairs of one name, if there are no pairs, and if
            the system killed a worker.
        Exception: the first failure itself, if not one picture could be scored.
    """
    wanted = tuple(ruler.resolve(name, variant).name for name in metrics)
    workers, crop = arguments.whole("workers", workers), arguments.flag("crop", crop)
    tables = {method: Table(wanted) for method in methods}
    failures: list[Exception] = []
    seen: set[str] = set()

    def record(outcome: _Outcome) -> None:
        for sentence in outcome.warnings:
            warnings.warn(sentence, FusionWarning, stacklevel=2)
        for method, table in tables.items():
            if method in outcome.failures:
                failures.append(outcome.failures[method])
                table.failures[outcome.name] = _sentence(outcome.failures[method])
            else:
                scores = outcome.scores[method]
                table.rows[outcome.name] = dict(scores)
                if outcome.area is not None:
                    table.areas[outcome.name] = outcome.area
                if on_result:
                    on_result(method, outcome.name, outcome.pictures[method], scores)
        if on_pair:
            on_pair(outcome.name)

    is_kept = on_result is not None
    orders = (_order(pair, methods, wanted, is_kept, crop) for pair in _named(pairs, seen))
    if workers < 1:
        for order in orders:
            record(_measure(order))
    else:
        _spread(orders, workers, record)
    if not seen:
        raise InputError("there are no image pairs to evaluate: give at least one.")
    if failures and not any(table.rows for table in tables.values()):
        raise failures[0]
    return tables


def evaluate_pairs(
    fuse: Method,
    pairs: Iterable[Pair | tuple[str, Source, Source]],
    *,
    metrics: Sequence[str] = ruler.STANDARD,
    variant: str = "standard",
    on_result: Callable[[str, np.ndarray, Scores], None] | None = None,
    workers: int = 0,
    crop: bool = False,
) -> Table:
    """Fuses every pair with one method and scores the results on luminance.

    Args:
        fuse: See `evaluate_methods`.
        pairs: `Pair`s or `(name, a, b)`.
        metrics: Names.
        variant: `standard` or `cddfuse`.
        on_result: Called after each success as `on_result(pair name, fused, scores)`.
        workers: See `evaluate_methods`.
        crop: See `evaluate_methods`.

    Returns:
        The table, with failed pairs listed in it.

    Raises:
        InputError: as `evaluate_methods`.
        Exception: the first failure itself, if not one picture could be scored.
    """
    forward = None if on_result is None else (lambda _, *result: on_result(*result))
    tables = evaluate_methods(
        {"": fuse},
        pairs,
        metrics=metrics,
        variant=variant,
        on_result=forward,
        workers=workers,
        crop=crop,
    )
    return tables[""]


def _named(pairs: Iterable[Pair | tuple[str, Source, Source]], seen: set[str]) -> Iterable[Pair]:
    for entry in pairs:
        pair = entry if isinstance(entry, Pair) else Pair(*entry)
        if pair.name in seen:
            raise InputError(f"two image pairs are called {pair.name}: give each its own name.")
        seen.add(pair.name)
        yield pair


def _order(
    pair: Pair,
    methods: Mapping[str, Method],
    metrics: tuple[str, ...],
    is_kept: bool,
    is_cropped: bool = False,
) -> _Order:
    """The pair with what each method makes of it; runs the callables."""
    made: dict[str, Source | Rule | Exception] = {}
    sources: tuple[np.ndarray, ...] | Exception | None = None
    # A batch must survive whatever one picture does to a method, hence every Exception.
    for name, method in methods.items():
        try:
            if isinstance(method, Rule):
                made[name] = method
            elif isinstance(method, Stored):
                if pair.name not in method.pictures:
                    raise InputError(f"{name} has no picture called {pair.name}.")
                made[name] = method.pictures[pair.name]
            else:
                if sources is None:
                    sources = _all_of(pair)
                if isinstance(sources, Exception):
                    raise sources
                made[name] = np.asarray(method(*sources))
        except Exception as failure:
            made[name] = failure
    if not isinstance(sources, tuple):
        return _Order(pair, made, metrics, is_kept, is_cropped=is_cropped)
    # The sources were read already: the worker need not do it again.
    is_unit = not isinstance(pair.a, np.ndarray) and sources[0].dtype.kind == "f"
    a, b, *more = sources
    pair = dataclasses.replace(pair, a=a, b=b, more=tuple(more))
    return _Order(pair, made, metrics, is_kept, is_unit, is_cropped)


def _all_of(pair: Pair) -> tuple[np.ndarray, ...] | Exception:
    try:
        if pair.a is None or pair.b is None:
            raise InputError(f"{pair.name} has no two sources to fuse: give both.")
        return tuple(_read(source) for source in (pair.a, pair.b, *pair.more))
    except Exception as failure:
        return failure


def _read(source: Source | Exception) -> np.ndarray:
    if isinstance(source, Exception):
        raise source
    if isinstance(source, str | os.PathLike):
        return files.read_image(source)
    return arguments.array("a picture", source)


def _spread(orders: Iterable[_Order], workers: int, record: Callable[[_Outcome], None]) -> None:
    """Measures in other processes; records here, in order, a bounded number ahead."""
    # Spawned, not forked: this process may hold threads and devices of JAX.
    others = set(multiprocessing.active_children())
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _ignore_interrupts
    )
    waiting: collections.deque[concurrent.futures.Future[_Outcome]] = collections.deque()
    try:
        for order in orders:
            with _held_interrupts():
                waiting.append(pool.submit(_measure, order))
            if len(waiting) > 2 * workers:
                record(waiting.popleft().result())
        while waiting:
            record(waiting.popleft().result())
    except BrokenProcessPool:
        raise InputError(
            "a scoring process was ended by the system, which is usually short of memory then: "
            "use fewer processes (--jobs 1)."
        ) from None
    except BaseException:  # Ctrl-C above all: nobody waits for pictures that nobody wants
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _held_interrupts() -> Iterator[None]:
    """Ctrl-C waits; a process started meanwhile never hears it, not even while it imports."""
    if sys.platform == "win32":  # it has no masks
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer


def _measure(order: _Order) -> _Outcome:
    """Scores what every method made of one pair; what is warned of comes back with the scores."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FusionWarning)
        outcome = _measured(order)
    sentences = []
    for entry in caught:
        if issubclass(entry.category, FusionWarning):
            sentences.append(str(entry.message))
        else:
            warnings.warn_explicit(entry.message, entry.category, entry.filename, entry.lineno)
    return dataclasses.replace(outcome, warnings=tuple(dict.fromkeys(sentences)))


def _measured(order: _Order) -> _Outcome:
    """The scores of one pair; leaves out the pictures nobody asked for."""
    name = order.pair.name
    try:
        judge = _Judge(order)
    except Exception as failure:
        return _Outcome(name, {}, dict.fromkeys(order.made, _portable(failure)), {})
    scores: dict[str, Scores] = {}
    failures: dict[str, Exception] = {}
    pictures: dict[str, np.ndarray] = {}
    results = judge.cut(order.made) if order.is_cropped else order.made
    for method, made in results.items():
        try:
            picture, scores[method] = judge.score(method, made)
        except Exception as failure:
            failures[method] = failure if failure is made else _portable(failure)
        else:
            # The way back to the parent is paid by the byte.
            if order.is_kept:
                pictures[method] = picture
    return _Outcome(name, scores, failures, pictures, judge.area)


def _portable(failure: Exception) -> Exception:
    """The failure in a form that surely survives the way to another process."""
    return failure if type(failure) is InputError else MethodError(_sentence(failure))


@dataclass(frozen=True)
class _Made:
    """A fused picture.

    Attributes:
        picture: As it was made.
        title: What to call it in a complaint.
        is_unit: Whether floating-point pixels are in 0..1.
    """

    picture: np.ndarray
    title: str
    is_unit: bool


class _Judge:
    """The sources and the truth of one pair, ready to measure any number of fused pictures.

    Attributes:
        area: What is measured, where that is a part.
    """

    def __init__(self, order: _Order):
        self.area: Area | None = None
        self._unit = order.is_unit
        self._name = order.pair.name
        self._metrics = [ruler.METRICS[name] for name in order.metrics]
        self._domain = _domain(self._metrics)
        needs = {role for metric in self._metrics for role in metric.needs}
        if any(isinstance(made, Rule) for made in order.made.values()):
            needs |= {"a", "b"}
        self._check_number(order)
        self._images: dict[str, ruler.Gray | np.ndarray] = {}
        self._titles: dict[str, str] = {}
        more = {f"source {number}": x for number, x in enumerate(order.pair.more, start=3)}
        self._more = tuple(more)
        sources = {"a": order.pair.a, "b": order.pair.b, **more, "truth": order.pair.truth}
        for role, source in sources.items():
            if source is None and role not in needs:
                continue
            if source is None:
                names = ", ".join(m.name for m in self._metrics if role in m.needs)
                kind = "ground truth" if role == "truth" else "two sources"
                raise InputError(f"{names} needs the {kind} of {self._name}: give them.")
            if isinstance(source, (str, os.PathLike)):
                self._titles[role], unit = os.fspath(source), True
            else:
                self._titles[role], unit = f"{role} of {self._name}", self._unit
            domain = self._domain if role == "truth" else "gray"
            self._images[role] = pixels_of(_read(source), self._titles[role], unit, domain)

    def _check_number(self, order: _Order) -> None:
        """Metrics and rules of two sources are refused where there are more."""
        count = 2 + len(order.pair.more)
        for metric in self._metrics:
            if count > 2 and "a" in metric.needs and not metric.takes_many:
                raise InputError(
                    f"{metric.name} compares with two sources, but {self._name} has {count}: leave "
                    "the metric out."
                )

    def cut(self, made: Mapping[str, Source | Rule | Exception]) -> dict[str, _Made | Exception]:
        """Makes the pictures, and cuts the sources to the area that all of these have."""
        results: dict[str, _Made | Exception] = {}
        for method, source in made.items():
            try:
                results[method] = self._picture(method, source)
            except Exception as failure:
                results[method] = failure if failure is source else _portable(failure)
        wholes = {image.shape[:2] for image in self._images.values()}
        sizes = [x.picture.shape[:2] for x in results.values() if isinstance(x, _Made)]
        if len(wholes) != 1 or not sizes:
            return results
        (whole,) = wholes
        # A picture that is larger than its sources anywhere is no cut one, and refused.
        sizes = [s for s in sizes if s[0] <= whole[0] and s[1] <= whole[1]]
        size = (min(s[0] for s in sizes), min(s[1] for s in sizes)) if sizes else whole
        if size != whole:
            self.area = Area(size, whole)
            self._images = {role: _cut(image, size) for role, image in self._images.items()}
            for method, result in results.items():
                if isinstance(result, _Made) and result.picture.shape[:2] in sizes:
                    picture = np.ascontiguousarray(result.picture[: size[0], : size[1]])
                    results[method] = dataclasses.replace(result, picture=picture)
        return results

    def _picture(self, method: str, made: Source | Rule | _Made | Exception) -> _Made:
        title = f"{method or 'the result'} of {self._name}"
        if isinstance(made, Exception):
            raise made
        if isinstance(made, _Made):
            return made
        if isinstance(made, Rule):
            if self._more:
                count = 2 + len(self._more)
                raise InputError(f"{method} fuses two pictures, not {count}: leave it out.")
            a, b = (np.asarray(self._images[r].pixels, np.uint8) for r in ("a", "b"))  # type: ignore[union-attr]
            self._compare_sizes({self._titles["a"]: a.shape, self._titles["b"]: b.shape})
            return _Made(made.fuse(a, b), title, self._unit)
        if isinstance(made, np.ndarray):
            return _Made(made, title, self._unit)
        return _Made(files.read_image(made), os.fspath(made), True)

    def score(
        self, method: str, made: Source | Rule | _Made | Exception
    ) -> tuple[np.ndarray, Scores]:
        """The fused picture and its scores."""
        result = self._picture(method, made)
        fused = pixels_of(result.picture, result.title, result.is_unit, self._domain)
        sizes = {self._titles[role]: image.shape for role, image in self._images.items()}
        self._compare_sizes({result.title: fused.shape, **sizes}, is_result=True)
        self._check_side(result.title, *fused.shape[:2])
        images = {"fused": fused, **self._images}
        scores = {
            m.name: float(
                m.fn(*(images[role] for role in (*m.needs, *(self._more * m.takes_many))))
            )
            for m in self._metrics
        }
        return result.picture, scores

    def _compare_sizes(
        self, sizes: Mapping[str, tuple[int, ...]], *, is_result: bool = False
    ) -> None:
        """Refuses other sizes than the first one's, which is that of a result or a source."""
        (first, size), *others = sizes.items()
        is_cut = is_result and len({other[:2] for _, other in others}) == 1
        is_cut &= all(size[0] <= other[0] and size[1] <= other[1] for _, other in others)
        for title, other in others:
            if other[:2] != size[:2]:
                cure = " (--crop scores the common area of a result that was cut)" if is_cut else ""
                raise InputError(
                    f"{first} is {size[1]}x{size[0]} but {title} is {other[1]}x{other[0]}; "
                    f"pictures to compare must have the same size{cure}."
                )

    def _check_side(self, title: str, height: int, width: int) -> None:
        small = [m for m in self._metrics if m.min_side > min(height, width)]
        if small:
            listed = ", ".join(f"{m.name} ({m.min_side})" for m in small)
            raise InputError(
                f"{title} is {width}x{height}, too small for {listed}: leave these metrics out "
                "(--metrics) or the picture."
            )


def _cut(image: ruler.Gray | np.ndarray, size: tuple[int, int]) -> ruler.Gray | np.ndarray:
    """The upper left part."""
    pixels = image.pixels if isinstance(image, ruler.Gray) else image
    part = pixels[: size[0], : size[1]]
    return ruler.Gray(part) if isinstance(image, ruler.Gray) else part


def _domain(metrics: Sequence[ruler.Metric]) -> str:
    """What kind of pixels all the metrics take."""
    by_domain = {metric.domain: metric.name for metric in metrics}
    if len(by_domain) > 1:
        raise InputError(
            f"{' and '.join(by_domain.values())} take different pixels "
            f"({' and '.join(by_domain)}): ask for them in separate calls."
        )
    return next(iter(by_domain), "gray")


def pixels_of(
    picture: np.ndarray, title: str, unit: bool = True, domain: str = "gray"
) -> ruler.Gray | np.ndarray:
    """Pixels of any dtype as the metrics of a domain take them.

    Args:
        picture: `(H, W)` or `(H, W, C)`, C in 1 to 4; alpha is left out.
        title: What to call it in a complaint.
        unit: Floating-point pixels are in 0..1, as those of image files; else in 0..255.
        domain: `gray` gives luminance in 0..255, `linear` floats in 0..1, `metres` the floats
            as they are.
    """
    pixels = without_alpha(np.asarray(picture))
    floating = pixels.dtype.kind == "f"
    if domain == "metres":
        if not floating:
            raise InputError(f"{title} is {pixels.dtype}; depth in metres needs float pixels.")
        return pixels[..., 0]
    if floating and (unit or domain == "linear"):
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= -1e-6 and high <= 1 + 1e-6):
            raise InputError(
                f"{title} has float pixels from {low:.4g} to {high:.4g}; scale them to [0, 1] "
                "first."
            )
    if domain == "linear":
        return to_float(pixels)
    return ruler.prepare(pixels.astype(np.float64) * 255.0 if floating and unit else pixels)


def _sentence(failure: Exception) -> str:
    text = str(failure) or "no message."
    is_plain = isinstance(failure, (InputError, MethodError))
    return text if is_plain else f"{type(failure).__name__}: {text}"
