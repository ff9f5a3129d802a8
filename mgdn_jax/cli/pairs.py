"""Which methods `mgdn eval` scores on which pairs: from arguments to `Pair`s and methods."""

from __future__ import annotations

import collections
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.evaluation import Method, Pair, Rule, Stored
from mgdn_jax.evaluation.album import SOURCES
from mgdn_jax.evaluation.baselines import (
    BASELINES,
    EXPOSURE_RULES,
    FOCUS_RULES,
    INFRARED_RULES,
)
from mgdn_jax.fusing.compile_cache import enable_compilation_cache
from mgdn_jax.io import files
from mgdn_jax.io.pairing import find_results, pair_folders
from mgdn_jax.weights import zoo


@dataclass
class Job:
    """Which methods to score on which pairs.

    Attributes:
        pairs: The pairs.
        methods: Name to method.
        baselines: Rules that are scored on the side.
        problems: Sentences about pictures without partners.
        rules: Sentences about how names that are not equal were matched.
        titles: What the sources are called.
        models: Names of the networks.
        has_sources: Whether the pairs have two sources or more, not ground truth alone.
        sources: How many they have.
        has_truth: Whether the pairs have ground truth.
        trust: As `mgdn_jax.load` takes it.
        groups: Name of a pair to its paths, where they are those of folders.
        warnings: What networks warned of, sentence to how many pairs it was said of.
    """

    pairs: Sequence[Pair]
    methods: dict[str, Method] = field(default_factory=dict)
    baselines: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    titles: tuple[str, ...] = ("A", "B")
    models: tuple[str, ...] = ()
    has_sources: bool = True
    sources: int = 2
    has_truth: bool = False
    trust: bool | str = False
    groups: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    warnings: collections.Counter[str] = field(default_factory=collections.Counter)
    _weights: dict[str, Path] = field(default_factory=dict)

    def choose_models(self, words: Sequence[str]) -> None:
        """Finds the weights of networks, each a bundled name, a file or NAME=FILE.

        Raises:
          InputError: no such network, or a name that is taken.
        """
        for word in words:
            title, place = _named(word)
            if title is None:
                title = Path(place).stem if Path(place).suffix else place
            if title in self.methods or title in self._weights or title in SOURCES:
                raise InputError(
                    f"a method would be called {title}, as another one or a source is; call it "
                    f"something else: NAME={place}."
                )
            self._weights[title] = zoo.resolve(place)
        self.models = tuple(self._weights)

    def load_models(self) -> None:
        """Loads the networks chosen; their rows stand in front of the rules."""
        if not self._weights:
            return
        logging.getLogger("jax").setLevel(logging.ERROR)
        import mgdn_jax

        enable_compilation_cache()
        sizes = _sizes(self.pairs)
        loaded: dict[str, Method] = {
            title: _Network(mgdn_jax.load(path, trust=self.trust).for_sizes(sizes), self.warnings)
            for title, path in self._weights.items()
        }
        rules = {k: v for k, v in self.methods.items() if isinstance(v, Rule)}
        others = {k: v for k, v in self.methods.items() if k not in rules}
        self.methods = others | loaded | rules


@dataclass(frozen=True)
class _Network:
    """A network as a method that is scored; what it warns of is counted.

    Attributes:
        fuser: The network.
        warnings: Sentence to how many pairs it was said of.
    """

    fuser: Any
    warnings: collections.Counter[str]

    def __call__(self, *pictures: np.ndarray) -> np.ndarray:
        fused = self.fuser.fuse(*pictures)
        self.warnings.update(fused.warnings)
        return fused.pixels


def plan(
    inputs: Sequence[str],
    *,
    models: Sequence[str] = (),
    data: Sequence[str] = (),
    truth: str | None = None,
    has_baselines: bool = True,
    trust: bool | str = False,
) -> Job:
    """Which methods `mgdn eval` scores on which pairs; loads no network yet.

    Args:
      inputs: places of fused pictures, each a path or NAME=PATH; the last two are the sources
        where `data` is empty and there is no `truth` alone.
      models: networks and rules.
      data: a set, or the places of the sources, two or more.
      truth: place of the ground truth.
      has_baselines: whether rules without learning are scored on the side.
      trust: as `mgdn_jax.load` takes it.

    Raises:
      InputError: missing or mixed places, unknown networks, pictures without partners throughout.
    """
    networks = [name for name in models if name not in BASELINES]
    rules = [name for name in models if name in BASELINES]
    stored, sources = _places(inputs, data, truth, needs_pictures=not models)
    if not (stored or models):
        raise InputError("there is nothing to score; name pictures, or a network with --model.")
    job = _pairs(sources, truth)
    job.methods = _stored(stored, job, single=not _is_folder(sources, truth))
    taken = [name for name in BASELINES if name in job.methods]
    if taken and (sources or rules):
        raise InputError(
            f"a folder or file is called {taken[0]}, as a rule that is scored too; give it "
            "another name: NAME=PATH."
        )
    if rules and job.sources > 2:
        raise InputError(
            f"{rules[0]} fuses two pictures, but --data names {len(data)}; leave it out."
        )
    job.methods |= {name: Rule(BASELINES[name]) for name in rules}
    if sources and has_baselines and job.sources == 2:
        job.baselines = tuple(n for n in _default_rules(sources, networks) if n not in rules)
        job.methods |= {name: Rule(BASELINES[name]) for name in job.baselines}
    job.trust = trust
    job.choose_models(networks)
    return job


def _places(
    inputs: Sequence[str], data: Sequence[str], truth: str | None, *, needs_pictures: bool
) -> tuple[Sequence[str], Sequence[str]]:
    """The places of fused pictures and those of their sources."""
    if data:
        return inputs, data
    if truth is not None and len(inputs) in (1, 2):
        return inputs, ()
    stored, sources = inputs[:-2], inputs[-2:]
    if len(sources) < 2 or (needs_pictures and not stored):
        raise InputError(
            "give FUSED A B (files or folders), or --model NAME --data A B, or --compare "
            "CSV CSV; see mgdn eval --help."
        )
    return stored, sources


def _default_rules(sources: Sequence[str], models: Sequence[str]) -> list[str]:
    """The rules that every table carries; those for one task where the task may be that."""
    inside = _inside(Path(sources[0])) if len(sources) == 1 else None
    folders = {Path(s).name.lower() for s in inside or sources}
    focus, exposures = {"near", "far"} <= folders, {"under", "over"} <= folders
    for name in (_named(word)[1] for word in models):
        if name in zoo.bundled():
            task = str(zoo.describe(zoo.resolve(name))["card"].get("task", ""))
            focus |= "focus" in task
            exposures |= "exposure" in task
    left_out = (() if focus else FOCUS_RULES) + (() if exposures else EXPOSURE_RULES)
    if focus or exposures:
        left_out += INFRARED_RULES
    return [name for name in BASELINES if name not in left_out]


def _is_folder(sources: Sequence[str], truth: str | None) -> bool:
    return len(sources) == 1 or os.path.isdir(sources[0] if sources else str(truth))


def _pairs(sources: Sequence[str], truth: str | None) -> Job:
    """The pairs of two pictures, two folders, a folder of two folders, or a prepared set."""
    places = [*sources, *([truth] if truth is not None else [])]
    if len(sources) == 1:
        inside = _inside(Path(sources[0]))
        if inside is None:
            pairs = SetPairs(sources[0])
            return Job(pairs, has_truth=pairs.has_truth)
        places = [*map(str, inside[:2]), *([truth] if truth else map(str, inside[2:]))]
    # A folder of pairs names its two sources itself.
    count = 2 if len(sources) == 1 else len(sources)
    folders = [os.path.isdir(place) for place in places]
    if any(folders) and not all(folders):
        stray = places[folders.index(False)]
        if not os.path.exists(stray):
            raise InputError(f"{stray} does not exist; check the path.")
        raise InputError("the inputs are files and folders mixed; give only files or only folders.")
    if not any(folders):
        for place in places:
            files.read_image(place)  # a single picture's mistake is said at once
        job = Job([_pair(Path(places[0]).stem, places, count)])
    else:
        found = pair_folders(places)
        listed = [_pair(name, paths, count) for name, paths in found.groups.items()]
        job = Job(listed, problems=found.problems, rules=[found.rule] * bool(found.rule))
        job.groups = found.groups
    job.has_sources, job.sources = bool(sources), count or 2
    job.has_truth = len(places) > count
    if sources:
        job.titles = tuple(_last_parts(places[:count]) or map(os.path.basename, places[:count]))
    else:
        job.titles = ("-", Path(places[0]).name)
    return job


def _pair(name: str, places: Sequence[str | os.PathLike[str]], sources: int) -> Pair:
    """Pictures of one scene: so many sources, and behind them the ground truth, if there is one."""
    truth = places[sources] if len(places) > sources else None
    if not sources:
        return Pair(name, None, None, truth)
    return Pair(name, places[0], places[1], truth, tuple(places[2:sources]))


def _sizes(pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    """Heights and widths of the pictures that are fused, where their headers tell them."""
    if isinstance(pairs, SetPairs):
        return pairs.sizes()
    return files.read_sizes(pair.a for pair in pairs if isinstance(pair.a, str | os.PathLike))


def _inside(folder: Path) -> list[Path] | None:
    """The subfolders a, b[, target] of a folder of pairs; None for a prepared set or its name."""
    from mgdn_jax import data

    if not folder.is_dir() or data.is_prepared(folder):
        return None
    return data.find_pair_folders(folder)


class SetPairs(Sequence):
    """Pairs of a prepared data set, decoded when they are asked for."""

    def __init__(self, name: str):
        from mgdn_jax import data

        self._name = name
        self._source, manifest = data.open_set(name, "train")
        if manifest["roles"][:2] != ["a", "b"]:
            raise InputError(
                f"the data set {name} holds {' and '.join(manifest['roles'])}, no image pairs; "
                "prepare one with mgdn data prepare pairs."
            )
        self.has_truth = "target" in manifest["roles"]

    def __len__(self) -> int:
        return len(self._source)

    def names(self) -> list[str]:
        """Names of the pairs; decodes nothing."""
        return [self._example(index)[0] for index in range(len(self))]

    def sizes(self) -> list[tuple[int, int]]:
        """Heights and widths of the first pictures; decodes nothing."""
        examples = (self._example(index)[1] for index in range(len(self)))
        return files.read_sizes(_bytes(x["a"]) for x in examples if not isinstance(x, Exception))

    def _example(self, index: int) -> tuple[str, dict[str, Any] | Exception]:
        try:
            example = self._source[index]
            name = example["name"]
            return (name.decode() if isinstance(name, bytes) else str(name)), example
        except Exception as error:  # damaged records raise whatever their library likes
            reason = " ".join(str(error).split())[:100]
            return f"#{index}", InputError(
                f"example {index} of {self._name} cannot be read ({reason}); prepare it again."
            )

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends a loop
        name, example = self._example(index)
        roles = ("a", "b", "target") if self.has_truth else ("a", "b")
        return Pair(name, *(_decoded(example, role, name) for role in roles))


def _decoded(example: dict[str, Any] | Exception, role: str, name: str) -> Any:
    """One picture of an example, or why there is none: the other pairs must not suffer."""
    from mgdn_jax.io.codec import decode_image

    if isinstance(example, Exception):
        return example
    try:
        return decode_image(_bytes(example[role]), f"{role} of {name}")
    except InputError as error:
        return error


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else bytes(np.asarray(value).item())


def _stored(words: Sequence[str], job: Job, *, single: bool) -> dict[str, Method]:
    """Methods whose pictures lie in files or folders."""
    methods: dict[str, Method] = {}
    pairs = job.pairs if words else []
    names = pairs.names() if isinstance(pairs, SetPairs) else [pair.name for pair in pairs]
    for title, place in _titled(words).items():
        if single:
            if os.path.isdir(place):
                raise InputError(
                    f"{place} is a folder, but its sources are files; give only one kind."
                )
            files.read_image(place)
            methods[title] = Stored({names[0]: place})
            continue
        results = find_results(place, job.groups or dict.fromkeys(names, ()))
        for path in results.strays:
            job.problems.append(f"{path} belongs to no pair called {path.stem}.")
        if results.rule:
            job.rules.append(results.rule)
        methods[title] = Stored({name: str(path) for name, path in results.pictures.items()})
    return methods


def _named(word: str) -> tuple[str | None, str]:
    """The parts of NAME=PATH; a path that exists, or has no such sign, has no name of its own.

    Raises:
      InputError: no name or no path beside the sign.
    """
    name, sign, place = word.partition("=")
    if not sign or os.path.exists(word):
        return None, word
    if not name or not place:
        raise InputError(f"{word} lacks a name or a path; write NAME=PATH.")
    return name, place


def _titled(words: Sequence[str]) -> dict[str, str]:
    """What to call methods, to their places: never `a` or `b`, which are the sources.

    Raises:
      InputError: a name that is taken, or a place without name that is there twice.
    """
    parts = [_named(word) for word in words]
    names = [name for name, _ in parts if name is not None]
    for number, name in enumerate(names):
        if name in SOURCES or name in names[:number]:
            raise InputError(
                f"a method would be called {name}, as another one or a source is; call it "
                "something else: NAME=PATH."
            )
    bare = [place for name, place in parts if name is None]
    titles = _last_parts([_without_suffix(p) for p in bare], taken=(*SOURCES, *names))
    if titles is None:
        raise InputError(f"{bare[0]} is named twice; give each method once.")
    remaining = iter(titles)
    return {next(remaining) if name is None else name: place for name, place in parts}


def _without_suffix(place: str) -> str:
    return os.path.splitext(place)[0] if os.path.isfile(place) else place


def _last_parts(places: Sequence[str], taken: Sequence[str] = ()) -> list[str] | None:
    """The last parts of paths, as many as tell them apart from each other and what is taken."""
    parts = [Path(os.path.abspath(place)).parts for place in places]
    for count in range(1, max(map(len, parts), default=0) + 1):
        titles = ["/".join(p[-count:]) for p in parts]
        if len(set(titles)) == len(titles) and not set(taken) & set(titles):
            return titles
    return None if places else []
