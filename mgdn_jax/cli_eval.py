"""`mgdn eval`: scores fused pictures, and networks on pairs of pictures."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from mgdn_jax import cli_compare, files, scores, zoo
from mgdn_jax import metrics as ruler
from mgdn_jax.baselines import BASELINES
from mgdn_jax.cli_fuse import enable_compilation_cache
from mgdn_jax.cli_output import console, emit_json, say
from mgdn_jax.errors import InputError
from mgdn_jax.evaluation import Method, Pair, Rule, Stored, evaluate_methods
from mgdn_jax.scores import ANCHOR_NAMES, Table

ELSEWHERE = " †"
"""Marks rows of means that were measured elsewhere (`--beside`)."""
_FOCUS_RULE = "base_focus_guided"
_PARALLEL_FROM = 3  # below that, starting processes takes longer than they save


def evaluate(arguments: argparse.Namespace) -> int:
    """Runs `mgdn eval`.

    Args:
      arguments: as `cli.build_parser` makes them.

    Returns:
      0, or 1 if a picture could not be scored or lacked its partner.

    Raises:
      InputError: nothing could be scored.
    """
    _check_outputs(arguments)
    if arguments.compare:
        return cli_compare.compare(arguments)
    columns = _columns(arguments)
    job = _job(arguments)
    beside = _beside(arguments)
    job.add_models(arguments.model)
    album = _album(arguments, job)
    with _progress(len(job.pairs), arguments.quiet) as advance:

        def done(name: str) -> None:
            if album:
                album.sources(name)
            advance()

        tables = evaluate_methods(
            job.methods,
            job.pairs,
            metrics=columns,
            variant=arguments.variant,
            on_result=album.fused if album else None,
            on_pair=done,
            workers=_workers(arguments.jobs, len(job.pairs)),
        )
    asked = [table for name, table in tables.items() if name not in job.baselines]
    if not any(table.rows for table in asked):
        raise InputError(next(s for table in asked for s in table.failures.values()))
    result = _Result(arguments, job, tables, beside)
    if album:
        result.report = album.write(result)
    result.write()
    result.say()
    return 1 if result.problems else 0


# ----------------------------------------------------------------------------- what to do


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Finds out before the work whether its results can be written."""
    for option, suffix in (("csv", ".csv"), ("json", ".json")):
        given = getattr(arguments, option)
        if given is None or (option == "json" and given == "-"):
            continue
        if Path(given).suffix.lower() != suffix:
            raise InputError(
                f"--{option} would write {given}, which does not end in {suffix}; "
                f"name a {suffix} file (and give --{option} after the pictures)."
            )
        if os.path.isdir(given):
            raise InputError(f"{given} is a folder where a file is to be written; name a file.")
        files.check_folder(Path(given).parent, given)
    if arguments.report is not None:
        if os.path.exists(arguments.report) and not os.path.isdir(arguments.report):
            raise InputError(f"{arguments.report} is a file; --report needs a folder.")
        files.check_folder(arguments.report)
        page = Path(arguments.report) / "index.html"
        if page.is_file() and b'content="mgdn eval"' not in page.read_bytes()[:2000]:
            raise InputError(f"{page} is there and is no report of ours; name another folder.")
    if arguments.jobs is not None and arguments.jobs < 0:
        raise InputError(f"--jobs is {arguments.jobs}, but must be 0 or more.")


def _columns(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Exact names of the metrics wanted, each once."""
    default = "truth" if _truth_alone(arguments) else "standard"
    names = ruler.names(arguments.metrics or default)
    return tuple(dict.fromkeys(ruler.resolve(n, arguments.variant).name for n in names))


def _truth_alone(arguments: argparse.Namespace) -> bool:
    return arguments.truth is not None and len(arguments.inputs) == 1 and not arguments.data


@dataclass
class _Job:
    """Which methods to score on which pairs."""

    pairs: Sequence[Pair]
    methods: dict[str, Method] = field(default_factory=dict)
    baselines: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)
    titles: tuple[str, str] = ("A", "B")
    models: tuple[str, ...] = ()

    def add_models(self, names: Sequence[str]) -> None:
        """Loads networks; their rows stand in front of the rules."""
        if not names:
            return
        logging.getLogger("jax").setLevel(logging.ERROR)
        import mgdn_jax

        paths = {}
        for name in names:
            title = Path(name).stem if Path(name).suffix else name
            if title in self.methods or title in paths:
                raise InputError(f"two methods are called {title}; rename a file or folder.")
            paths[title] = zoo.resolve(name)
        enable_compilation_cache()
        loaded: dict[str, Method] = {t: mgdn_jax.load(path) for t, path in paths.items()}
        self.models = tuple(loaded)
        rules = {k: v for k, v in self.methods.items() if isinstance(v, Rule)}
        others = {k: v for k, v in self.methods.items() if k not in rules}
        self.methods = others | loaded | rules


def _job(arguments: argparse.Namespace) -> _Job:
    inputs, truth = list(arguments.inputs), arguments.truth
    models = [name for name in arguments.model if name not in BASELINES]
    rules = [name for name in arguments.model if name in BASELINES]
    arguments.model = models
    if arguments.data:
        if len(arguments.data) > 2:
            raise InputError(
                f"--data names {len(arguments.data)} places; give one set, or the two folders "
                "(or pictures) A and B."
            )
        stored, sources = inputs, arguments.data
    elif _truth_alone(arguments):
        stored, sources = inputs, []
    else:
        stored, sources = inputs[:-2], inputs[-2:]
        if len(sources) < 2 or not (stored or models or rules):
            raise InputError(
                "give FUSED A B (files or folders), or --model NAME --data A B, or --compare "
                "CSV CSV; see mgdn eval --help."
            )
    if not (stored or models or rules):
        raise InputError("there is nothing to score; name pictures, or a network with --model.")
    job = _pairs(sources, truth)
    job.methods = _stored(stored, job, single=not _is_folder(sources, truth))
    job.methods |= {name: Rule(BASELINES[name]) for name in rules}
    if sources and not arguments.no_baselines:
        job.baselines = tuple(n for n in _default_rules(sources, models) if n not in job.methods)
        job.methods |= {name: Rule(BASELINES[name]) for name in job.baselines}
    return job


def _default_rules(sources: Sequence[str], models: Sequence[str]) -> list[str]:
    """The rules that every table carries; that for focus stacks where the task is one."""
    focus = {"near", "far"} <= {Path(s).name.lower() for s in sources}
    for name in models:
        if name in zoo.bundled():
            focus |= "focus" in str(zoo.describe(zoo.resolve(name))["card"].get("task", ""))
    return [name for name in BASELINES if focus or name != _FOCUS_RULE]


def _is_folder(sources: Sequence[str], truth: str | None) -> bool:
    return len(sources) == 1 or os.path.isdir(sources[0] if sources else str(truth))


def _pairs(sources: Sequence[str], truth: str | None) -> _Job:
    """The pairs of two pictures, two folders, a folder of two folders, or a prepared set."""
    places = [*sources, *([truth] if truth is not None else [])]
    if len(sources) == 1:
        inside = _inside(Path(sources[0]))
        if inside is None:
            return _prepared(sources[0])
        places = [*map(str, inside[:2]), *([truth] if truth else map(str, inside[2:]))]
    folders = [os.path.isdir(place) for place in places]
    titles = tuple(Path(place).name or place for place in places[:2])
    if any(folders) and not all(folders):
        stray = places[folders.index(False)]
        if not os.path.exists(stray):
            raise InputError(f"{stray} does not exist; check the path.")
        raise InputError("the inputs are files and folders mixed; give only files or only folders.")
    if not any(folders):
        for place in places:
            files.read_image(place)  # a single picture's mistake is told at once
        job = _Job([_pair(Path(places[0]).stem, places, bool(sources))])
    else:
        groups, missing = files.pair_folders(places)
        job = _Job([_pair(n, p, bool(sources)) for n, p in groups.items()], problems=missing)
    job.titles = titles if len(sources) else ("A", "B")  # type: ignore[assignment]
    return job


def _pair(name: str, places: Sequence[str | os.PathLike[str]], sources: bool) -> Pair:
    if not sources:
        return Pair(name, None, None, places[0])
    return Pair(name, places[0], places[1], places[2] if len(places) > 2 else None)


def _inside(folder: Path) -> list[Path] | None:
    """The subfolders a, b[, target] of a folder of pairs; None for a prepared set or its name."""
    from mgdn_jax import data

    if not folder.is_dir() or data.is_prepared(folder):
        return None
    return data.find_pair_folders(folder)


class _SetPairs(Sequence):
    """Pairs of a prepared data set, decoded when they are asked for."""

    def __init__(self, name: str):
        from mgdn_jax import data

        self._source, manifest = data.open_set(name, "train")
        if manifest["roles"][:2] != ["a", "b"]:
            raise InputError(
                f"the data set {name} holds {' and '.join(manifest['roles'])}, no image pairs; "
                "prepare one with mgdn data prepare pairs."
            )
        self._truth = "target" in manifest["roles"]

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: Any) -> Any:
        from mgdn_jax.codec import decode_image

        if not 0 <= index < len(self):
            raise IndexError(index)  # ends a loop
        example = self._source[index]
        name = example["name"]
        name = name.decode() if isinstance(name, bytes) else str(name)
        roles = ("a", "b", "target") if self._truth else ("a", "b")
        return Pair(name, *(decode_image(_bytes(example[r]), f"{r} of {name}") for r in roles))


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else bytes(np.asarray(value).item())


def _prepared(name: str) -> _Job:
    return _Job(_SetPairs(name))


def _stored(places: Sequence[str], job: _Job, *, single: bool) -> dict[str, Method]:
    """Methods whose pictures lie in files or folders."""
    methods: dict[str, Method] = {}
    known = [pair.name for pair in job.pairs] if places else []
    for place, title in zip(places, _titles(places), strict=True):
        if single:
            if os.path.isdir(place):
                raise InputError(
                    f"{place} is a folder, but its sources are files; give only one kind."
                )
            files.read_image(place)
            methods[title] = Stored({known[0]: place})
            continue
        found = files.list_images(place)
        strays = [name for name in found if name not in known]
        if len(strays) == len(found):
            raise InputError(
                f"no picture of {place} has the name of a pair (such as {known[0]}); "
                "name fused pictures as their sources."
            )
        job.problems += [f"{found[name]} has no sources called {name}." for name in strays]
        methods[title] = Stored({name: str(path) for name, path in found.items()})
    return methods


def _titles(places: Sequence[str]) -> list[str]:
    """What to call methods: the last parts of their paths, as many as tell them apart.

    Never `a` or `b`, which are the sources.
    """
    parts = [Path(os.path.realpath(place)).parts for place in places]
    parts = [
        (*p[:-1], Path(p[-1]).stem) if os.path.isfile(place) else p
        for p, place in zip(parts, places, strict=True)
    ]
    for count in range(1, max(map(len, parts), default=0) + 1):
        titles = ["/".join(p[-count:]) for p in parts]
        if len(set(titles)) == len(titles) and not {"a", "b"} & set(titles):
            return titles
    if places:
        raise InputError(f"{places[0]} is named twice; give each method once.")
    return []


def _beside(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Rows of means measured elsewhere, under the exact metric names."""
    if arguments.beside is None:
        if arguments.dataset is not None:
            raise InputError("--dataset chooses rows of --beside; give that too.")
        return {}
    rows = scores.read_summaries(arguments.beside)
    sets = list(dict.fromkeys(row.dataset for row in rows))
    chosen = arguments.dataset or (sets[0] if len(sets) == 1 else None)
    if chosen not in sets:
        raise InputError(
            f"{arguments.beside} holds the data sets {', '.join(sets)}; choose one with --dataset."
        )
    exact = {theirs: ours for ours, theirs in ANCHOR_NAMES.items()}
    return {
        row.method + ELSEWHERE: {exact.get(k, k): v for k, v in row.values.items()}
        for row in rows
        if row.dataset == chosen
    }


def _workers(asked: int | None, pairs: int) -> int:
    if asked is not None:
        return asked if pairs > 1 else 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, pairs) if pairs >= _PARALLEL_FROM else 0


@contextlib.contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Callable[[], None]]:
    """A bar on stderr for people at a terminal."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("measuring"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or total < 2 or not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


# ----------------------------------------------------------------------------- what came out


class _Pictures:
    """Collects the pictures of a report while they are scored."""

    def __init__(self, folder: str, job: _Job):
        from mgdn_jax.report import Album

        self._folder, self._job = folder, job
        self._pairs = {} if isinstance(job.pairs, _SetPairs) else {p.name: p for p in job.pairs}
        self._position = 0
        self._album = Album(len(job.pairs) * (2 + len(job.methods)))

    def fused(self, method: str, name: str, picture: np.ndarray, _: Any) -> None:
        """A method's picture was scored."""
        self._album.add(name, method, picture)

    def sources(self, name: str) -> None:
        """A pair is done."""
        pair = self._pairs[name] if self._pairs else self._job.pairs[self._position]
        self._position += 1
        for label in ("a", "b"):
            source = getattr(pair, label)
            with contextlib.suppress(InputError):  # told already: the pair has no scores
                if source is not None:
                    picture = source if isinstance(source, np.ndarray) else files.read_image(source)
                    self._album.add(name, label, picture)

    def write(self, result: _Result) -> Path:
        """The page, once all is scored."""
        from mgdn_jax.report import write_report

        return write_report(
            self._folder,
            title="Image fusion: " + ", ".join(m for m in result.tables if m not in result.rules),
            tables=result.tables,
            album=self._album,
            command=result.command,
            versions=result.versions,
            variant=result.variant,
            source_titles=self._job.titles,
            baselines=result.rules,
            elsewhere={k.removesuffix(ELSEWHERE): v for k, v in result.beside.items()},
            remarks=[],
        )


def _album(arguments: argparse.Namespace, job: _Job) -> _Pictures | None:
    return None if arguments.report is None else _Pictures(arguments.report, job)


class _Result:
    """All scores of a run, and how they are told."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        job: _Job,
        tables: Mapping[str, Table],
        beside: Mapping[str, Mapping[str, float]],
    ):
        self._arguments, self._pairs = arguments, len(job.pairs)
        self.variant = arguments.variant
        self.report: Path | None = None
        self.tables = dict(tables)
        self.rules = job.baselines
        columns = next(iter(tables.values())).columns
        self.columns = columns
        # What was measured here as well is not shown twice.
        self.beside = {
            name: {k: v for k, v in row.items() if k in columns}
            for name, row in beside.items()
            if name.removesuffix(ELSEWHERE) not in tables
        }
        self.command = shlex.join(["mgdn", *arguments.argv])
        self.versions = _versions(bool(job.models))
        failures = [
            (image, method, sentence)
            for method, table in tables.items()
            for image, sentence in table.failures.items()
        ]
        told: dict[str, None] = dict.fromkeys(job.problems)
        told |= dict.fromkeys(f"{image}: {sentence}" for image, _, sentence in failures)
        self.problems = list(told)
        self.ranked = tuple(c for c in columns if ruler.METRICS[c].selects)
        rows = self._rows()
        whole = {n: r for n, r in rows.items() if all(c in r for c in self.ranked)}
        many = len(whole) > 1 and self.ranked
        self.ranks = scores.mean_ranks(whole, self.ranked) if many else {}

    def _rows(self) -> dict[str, Mapping[str, float]]:
        return {**{n: t.mean() for n, t in self.tables.items() if t.rows}, **self.beside}

    def write(self) -> None:
        """The files asked for."""
        arguments = self._arguments
        asked = {n: t for n, t in self.tables.items() if n not in self.rules and t.rows}
        if arguments.csv and asked:
            scores.write_tables(arguments.csv, asked)
        if arguments.json not in (None, "-"):
            emit_json(self._content(), arguments.json)

    def _content(self) -> dict[str, Any]:
        return {
            "command": self.command,
            "versions": self.versions,
            "variant": self.variant,
            "metrics": {
                name: {
                    "higher_is_better": ruler.METRICS[name].higher_is_better,
                    "group": ruler.METRICS[name].group,
                }
                for name in self.columns
            },
            "methods": {
                name: {
                    "baseline": name in self.rules,
                    "images": table.rows,
                    "mean": table.mean(),
                    "invalid": table.invalid(),
                    "failures": table.failures,
                    "mean_rank": self.ranks.get(name),
                }
                for name, table in self.tables.items()
            },
            "elsewhere": self.beside,
            "problems": self.problems,
        }

    def say(self) -> None:
        """Table, remarks and places on stdout; what failed on stderr, last, where it is seen."""
        if self._arguments.json == "-":
            emit_json(self._content(), "-")
        elif not self._arguments.quiet:
            self._table()
        for problem in self.problems:
            print(f"mgdn: error: {problem}", file=sys.stderr)

    def _table(self) -> None:
        out = console()
        rows = self._rows()
        ranks = self.ranks or None
        table = scores.rich_table(rows, self.columns, ranks=ranks)
        if _too_wide(table, out):
            table = scores.rich_table(rows, self.columns, ranks=ranks, metrics_down=True)
        say(out, table)
        scored = max((len(t.rows) for t in self.tables.values()), default=0)
        remarks = [f"means over {scored} pairs" if scored != 1 else "one pair"]
        remarks[0] += f", on luminance; best bold, second underlined; variant {self.variant}"
        if self.ranks:
            remarks.append(f"mean rank over {' '.join(self.ranked)}")
        if self.rules:
            remarks.append(f"rules without learning: {', '.join(self.rules)}")
        if self.beside:
            remarks.append(f"†: means measured elsewhere ({Path(self._arguments.beside).name})")
        for name, t in self.tables.items():
            gaps = ", ".join(f"{c} on {n} of {len(t.rows)}" for c, n in t.invalid().items())
            if gaps and len(t.rows) > 1:
                remarks.append(f"{name}: no finite value of {gaps}, left out of the mean")
        for place in (self._arguments.csv, self._arguments.json, self.report):
            if place:
                remarks.append(f"written {place}")
        for remark in remarks:
            say(out, remark)


def _versions(networks: bool) -> dict[str, str]:
    names = ["mgdn-jax", "numpy", "scipy", "pillow", *(["jax", "flax"] if networks else [])]
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _too_wide(table: RichTable, out: Console) -> bool:
    return out.measure(table).minimum > out.width or len(table.columns) > 16
