"""The page docs/benchmarks/quality.md: our rows beside those measured elsewhere.

    python benchmarks/tables.py --data DATA --anchors ANCHORS --csv CSV --markdown PAGE
    python benchmarks/tables.py --figures CSV --anchors ANCHORS --markdown PAGE

The first command fuses and measures the test sets under DATA with the rules without learning and
with every bundled network whose card names the task; the second writes the page again from
figures that were measured before, but for each network's weakest picture. ANCHORS holds the CSV
files of rows measured elsewhere. Everything is scored on luminance. Rows of the anchors carry a
mark: † measured elsewhere with an equal evaluator, ‡ printed in a paper or a README (two decimals,
taken as they are). The rules are measured here too: their differences from the anchors show that
both rulers agree.
"""

from __future__ import annotations

import argparse
import csv
import functools
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from mgdn_jax.errors import InputError
from mgdn_jax.evaluation import Fuse, Method, Pair, Rule, evaluate_methods
from mgdn_jax.evaluation.baselines import BASELINES, EXPOSURE_RULES, FOCUS_RULES, INFRARED_RULES
from mgdn_jax.evaluation.scores import Table, mean_ranks, write_tables
from mgdn_jax.evaluation.standing import Row, rank_rows
from mgdn_jax.evaluation.summaries import ANCHOR_NAMES, Summary, read_summaries, write_summaries
from mgdn_jax.evaluation.terminal import rich_table
from mgdn_jax.fusing import stream
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.io import codec, files
from mgdn_jax.io.disk import write_atomically
from mgdn_jax.io.pairing import pair_folders
from mgdn_jax.metrics import METRICS, luminance
from mgdn_jax.weights import zoo

MEASURED = (
    *("EN", "SD", "SF", "AG", "MI", "MSE", "CC", "PSNR_peakF", "SCD", "VIF", "Qabf"),
    *("SSIM_dr255", "SSIM_dr2", "NMI", "Q_Y", "Q_CB", "Q_CV", "Nabf", "MS_SSIM"),
)
RANKED = ("EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM_dr255")
CDDFUSE = (*RANKED[:-1], "SSIM_dr2")
JPEG, ELSEWHERE, PRINTED = "+jpeg75", " †", " ‡"


@dataclass(frozen=True)
class TestSet:
    """A test set: where its pictures lie, which networks and which foreign rows belong to it.

    Attributes:
        name: As the anchors call it.
        about: Words for the page.
        folders: Folders of the sources under the data folder; None where only others have them.
        task: What a network's card must say to be measured on it.
        anchors: Files of rows measured elsewhere.
        printed: Name in the published tables of the CDDFuse family, or None.
        jpeg: Whether the stored rows are JPEG files, so that ours are compressed alike too.
        extra: Metrics of this set beyond `MEASURED`, ranked too.
    """

    name: str
    about: str
    folders: tuple[str, str] | None
    task: str
    anchors: tuple[str, ...]
    printed: str | None = None
    jpeg: bool = False
    extra: tuple[str, ...] = ()

    @property
    def measured(self) -> tuple[str, ...]:
        """Exact names of the metrics."""
        return MEASURED + self.extra

    @property
    def ranked(self) -> tuple[str, ...]:
        """The columns of the page."""
        return RANKED + self.extra


_TESTS, _GIFNET = "cddfuse_testsets.csv", "gifnet.csv"
_MEDICAL = "mif/test_cddfuse/MRI_"
SETS = {
    s.name: s
    for s in (
        TestSet(
            "Lytro20",
            "multi-focus photographs; the stored results of 30 methods are JPEG files of quality "
            "75 (IFCNN: 95): compare them with the `+jpeg75` rows, whose gray result was encoded "
            "and decoded so too",
            ("mff/lytro20/near", "mff/lytro20/far"),
            "multi-focus",
            ("lytro_mfifb.csv", _GIFNET),
            jpeg=True,
        ),
        TestSet(
            "TNO25",
            "infrared and visible, the selection of the CDDFuse paper",
            ("ivf/tno25/ir", "ivf/tno25/vi"),
            "infrared",
            (_TESTS, _GIFNET),
            "TNO",
        ),
        TestSet(
            "RoadScene50",
            "infrared and visible, the selection of the CDDFuse paper",
            ("ivf/roadscene50/ir", "ivf/roadscene50/vi"),
            "infrared",
            (_TESTS, _GIFNET),
            "RoadScene",
        ),
        TestSet(
            "MSRS5",
            "infrared and visible, three by day and two by night; 00537D alone is of MSRS's test "
            "split, the other four are of its training split, from which no network here learned",
            ("ivf/msrs5/ir", "ivf/msrs5/vi"),
            "infrared",
            (),
        ),
        *(
            TestSet(
                f"MRI_{kind}",
                f"medical, {kind} and MRI, the selection of the CDDFuse paper",
                (f"{_MEDICAL}{kind}/{kind}", f"{_MEDICAL}{kind}/MRI"),
                "medical",
                (_TESTS, _GIFNET),
                f"MRI_{kind}",
            )
            for kind in ("CT", "PET", "SPECT")
        ),
        TestSet(
            "TNO42",
            "infrared and visible, the results stored in a collection of TNO pictures; the sources "
            "are not among our test sets, so every row is measured elsewhere",
            None,
            "infrared",
            ("tno_42.csv",),
        ),
        TestSet(
            "MEFB-test20",
            "multi-exposure photographs, 20 pairs drawn from MEFB",
            ("mef/test20/under", "mef/test20/over"),
            "multi-exposure",
            ("mef_test20.csv",),
            extra=("MEF_SSIM",),
        ),
    )
}


class _Once:
    """A method that remembers its last result: the lossless and the JPEG row share it."""

    def __init__(self, fuse: Fuse) -> None:
        self._fuse = fuse
        self._source: np.ndarray | None = None
        self._fused: np.ndarray | None = None

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if self._fused is None or self._source is not a:
            self._source, self._fused = None, None  # nothing stale if the method fails
            self._fused = self._fuse(a, b)
            self._source = a
        return self._fused


@dataclass(frozen=True)
class _Compressed:
    """A method whose gray result went through a JPEG file of quality 75."""

    fuse: Fuse

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        gray = luminance(self.fuse(a, b)).astype(np.uint8)
        return codec.decode_image(codec.encode_jpeg(gray, 75), "the JPEG result")


def methods_of(test: TestSet, models: Mapping[str, Fuse]) -> dict[str, Method]:
    """The rows of ours: networks first, then the rules; each as JPEG too where the set asks."""
    rows: dict[str, Method] = {}
    for name, fuse in models.items():
        shared = _Once(fuse) if test.jpeg else fuse
        rows[name] = shared
        if test.jpeg:
            rows[name + JPEG] = _Compressed(shared)
    for name, rule in BASELINES.items():
        if name in FOCUS_RULES and test.task != "multi-focus":
            continue
        if name in EXPOSURE_RULES and test.task != "multi-exposure":
            continue
        if name in INFRARED_RULES and test.task not in ("infrared", "medical"):
            continue
        rows[name] = Rule(rule)
        if test.jpeg:
            rows[name + JPEG] = Rule(_Compressed(rule))
    return rows


def pairs_of(test: TestSet, data: Path) -> list[Pair]:
    """The pairs of a test set under the data folder.

    Raises:
        InputError: if a folder or a partner is missing.
    """
    pairs = pair_folders([data / folder for folder in test.folders or ()])
    for sentence in pairs.problems:
        raise InputError(sentence)
    return [Pair(name, a, b) for name, (a, b) in pairs.groups.items()]


def measure(
    test: TestSet,
    models: Mapping[str, Fuse],
    pairs: Sequence[Pair],
    *,
    pictures: Path | None = None,
    workers: int = 0,
) -> dict[str, Table]:
    """Scores the networks and the rules on one test set.

    Args:
        test: The set.
        models: Name to callable, given the pictures as they were read.
        pairs: Its pairs.
        pictures: Folder for the networks' results as `<model>/<pair>.png`, or None.
        workers: Processes that measure.

    Returns:
        Row name to table.
    """
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(test.name, total=len(pairs))

        def keep(method: str, name: str, fused: np.ndarray, _: object) -> None:
            if pictures and method in models:
                files.write_image(pictures / method / f"{name}.png", fused)

        return evaluate_methods(
            methods_of(test, models),
            pairs,
            metrics=test.measured,
            on_result=keep if pictures else None,
            on_pair=lambda _: progress.advance(bar),
            workers=workers,
        )


def models_of(
    test: TestSet, asked: Sequence[str] | None, ensemble: str | None = None
) -> dict[str, Fuse]:
    """The networks to measure: those asked for, else the bundled ones made for the task.

    One converted from published weights is run as its authors ran it, where the card says how. With
    an ensemble that is not the card's, its name joins the row's.
    """
    if asked is None:
        names = [n for n, about in zoo.list_models().items() if test.task in about["card"]["task"]]
    else:
        names = list(asked)
    if not names:
        return {}
    import mgdn_jax  # here, so that the rules alone need no JAX

    found = {Path(n).stem if os.path.exists(n) else n: mgdn_jax.load(n) for n in names}
    for fuser in found.values():
        published = fuser.card.get("published_inference", {})
        fuser.options = FuseOptions.on_card({"inference": published}).otherwise(fuser.options)
    # Sizes that round up to the same bucket share a compiled program.
    return {
        name
        if ensemble in (None, fuser.options.ensemble)
        else f"{name}+{ensemble}": functools.partial(fuser, bucket=stream.BUCKET, ensemble=ensemble)
        for name, fuser in found.items()
    }


# ---------------------------------------------------------------------------------- the page


@dataclass
class Foreign:
    """Rows that others measured or printed, for one test set.

    Attributes:
        measured: Rows of the anchors' files with an equal evaluator.
        printed: Rows of published tables, `cddfuse` variant, two decimals.
    """

    measured: list[Summary] = field(default_factory=list)
    printed: dict[str, dict[str, float]] = field(default_factory=dict)


def foreign_of(test: TestSet, folder: Path) -> Foreign:
    """Reads a test set's rows from the folder of anchors."""
    found = Foreign()
    for name in test.anchors:
        found.measured += [r for r in read_summaries(folder / name) if r.dataset == test.name]
    if test.printed:
        path = folder / "published_cddfuse_tables.csv"
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["dataset"] == test.printed:
                    where = "README" if row["table"].startswith("readme") else "paper"
                    title = f"{row['method']} ({where})"
                    metric = "SSIM_dr2" if row["metric"] == "SSIM" else row["metric"]
                    found.printed.setdefault(title, {})[metric] = float(row["value"])
        for title, values in list(found.printed.items()):  # printed twice alike: one row
            twin = title.replace("(paper)", "(README)")
            if twin != title and found.printed.get(twin) == values:
                del found.printed[twin], found.printed[title]
                found.printed[title.replace("(paper)", "(paper, README)")] = values
    return found


def ranked_rows(
    ours: Sequence[Summary], anchors: Sequence[Summary], columns: Sequence[str]
) -> tuple[dict[str, Mapping[str, float]], dict[str, float]]:
    """All rows of a table in the order of their mean rank, and the ranks.

    A row of the anchors carries a dagger; of a rule that both have, only theirs enters.
    """
    known = {row.method for row in anchors}
    rows: dict[str, Mapping[str, float]] = {row.method + ELSEWHERE: row.values for row in anchors}
    rows |= {row.method: row.values for row in ours if row.method not in known}
    return _sorted(rows, columns)


def _sorted(
    rows: Mapping[str, Mapping[str, float]], columns: Sequence[str]
) -> tuple[dict[str, Mapping[str, float]], dict[str, float]]:
    whole = {name: row for name, row in rows.items() if all(c in row for c in columns)}
    ranks = mean_ranks(whole, columns)
    return {name: rows[name] for name in sorted(whole, key=ranks.__getitem__)}, ranks


def agreement(ours: Sequence[Summary], anchors: Sequence[Summary]) -> list[str]:
    """One line for each row that both have: the largest difference over the columns."""
    theirs = {row.method: row for row in anchors}
    lines = []
    for row in ours:
        if row.method not in theirs:
            continue
        there = theirs[row.method].values
        gaps = {
            name: abs(round(value, 5) - there[name])
            for name, value in row.values.items()
            if name in there
        }
        same = sum(gap < 5e-6 for gap in gaps.values())
        if not gaps:
            continue
        worst = max(gaps, key=gaps.__getitem__)
        line = f"{row.method}: {same} of {len(gaps)} columns equal to the 5 printed decimals"
        if same < len(gaps):
            line += f", largest difference {gaps[worst]:.5f} ({worst} {row.values[worst]:.5f})"
        lines.append(line)
    return lines


def markdown_table(
    rows: Mapping[str, Mapping[str, float]],
    ranks: Mapping[str, float],
    columns: Sequence[str],
    ours: frozenset[str],
) -> list[str]:
    """A ranked table: best of each column and our networks bold; printed rows as printed."""
    best = {}
    for name in columns:
        values = [row[name] for row in rows.values()]
        best[name] = max(values) if METRICS[name].higher_is_better else min(values)
    heads = [f"{name} {METRICS[name].arrow}" for name in columns]
    out = [
        "| | method | " + " | ".join(heads) + " | mean rank |",
        "|---:|---|" + "---:|" * (len(columns) + 1),
    ]
    for place, (method, row) in enumerate(rows.items(), start=1):
        digits = 2 if method.endswith(PRINTED) else 4
        cells = [
            f"**{row[n]:.{digits}f}**" if row[n] == best[n] else f"{row[n]:.{digits}f}"
            for n in columns
        ]
        title = f"**{method}**" if method in ours else method
        out.append(f"| {place} | {title} | {' | '.join(cells)} | {ranks[method]:.2f} |")
    return out


HEAD = """# Quality

These are figures of fused pictures: means over the pairs of each test set, on luminance. Rows are
sorted by the mean rank over the columns shown. SF is among them, as in the field's tables;
`mgdn eval` leaves it out of its mean rank. [Metrics](../measure/metrics.md) says what each column
measures, and which evaluators it equals. A single column proves nothing: rules
without learning (`base_*`) win many of them.

- Rows without a mark were measured by us. **Bold** names are our networks.
- Rows with † were measured elsewhere with an equal evaluator: results that other repositories
  store, published weights that somebody ran, and rules. The last lines of each section say how far
  our own figures of the same rules lie from theirs.
- Rows with ‡ are printed in the CDDFuse paper or its README, and are taken as they are. Each of
  those results was stretched to 0..255 before it was scored.

The page is made by

```bash
python benchmarks/tables.py --data DATA --anchors ANCHORS \\
    --csv docs/benchmarks/quality.csv --markdown docs/benchmarks/quality.md
```

[quality.csv](quality.csv) has our rows with all columns. Seconds and memory are under
[Speed](speed.md).
"""


def section(test: TestSet, ours: Sequence[Summary], foreign: Foreign) -> list[str]:
    """The lines of one test set."""
    n = ours[0].n if ours else foreign.measured[0].n
    networks = frozenset(row.method for row in ours if not row.method.startswith("base_"))
    rows, ranks = ranked_rows(ours, foreign.measured, test.ranked)
    out = ["", f"## {test.name}", "", *textwrap.wrap(f"{n} pairs: {test.about}.", 100), ""]
    out += markdown_table(rows, ranks, test.ranked, networks)
    order = list(rows)
    out.append("")
    out += [
        f"- {name}: mean rank {ranks[name]:.2f}, place {order.index(name) + 1} of {len(order)}"
        for name in order
        if name in networks
    ]
    for line in agreement(ours, foreign.measured):
        out += textwrap.wrap(f"- {line}", 100, subsequent_indent="  ", break_on_hyphens=False)
    if foreign.printed:
        known = {row.method for row in foreign.measured}
        family: dict[str, Mapping[str, float]] = {
            **{row.method: row.values for row in ours if row.method not in known},
            **{row.method + ELSEWHERE: row.values for row in foreign.measured},
            **{name + PRINTED: row for name, row in foreign.printed.items()},
        }
        ordered, ranks = _sorted(family, CDDFUSE)
        out += ["", f"### {test.name} beside the CDDFuse tables (variant `cddfuse`)", ""]
        out += markdown_table(ordered, ranks, CDDFUSE, networks)
    return out


def stored_medical(folder: Path) -> list[str]:
    """The section of LKC-FUNet's stored pictures, whose pairs are no test set of ours."""
    path = folder / "lkc_funet_results_means.csv"
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["subset"] == "matched"]
    out = ["", "## LKC-FUNet's stored pictures", ""]
    out += [
        "Means over those pictures of its repository whose sources could be found, measured",
        "elsewhere. The pairs differ from the test sets above: compare nothing across tables.",
        "",
        "| set | pairs | " + " | ".join(f"{n} {METRICS[n].arrow}" for n in RANKED) + " |",
        "|---|---:|" + "---:|" * len(RANKED),
    ]
    for row in rows:
        cells = " | ".join(f"{float(row[name]):.4f}" for name in RANKED)
        out.append(f"| {row['dataset']} † | {row['n']} | {cells} |")
    return out


def standing(model: str, table: Table) -> str:
    """The weakest picture of a network."""
    scores = {name: row["Qabf"] for name, row in table.rows.items()}
    worst = min(scores, key=scores.__getitem__)
    return f"{model}: lowest Qabf {scores[worst]:.4f} on {worst}"


# ---------------------------------------------------------------------------------- the command


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the test sets: measure them")
    parser.add_argument("--figures", type=Path, help="our rows, measured before: --csv of a run")
    parser.add_argument("--anchors", type=Path, help="folder of rows measured elsewhere")
    parser.add_argument("--set", nargs="+", choices=SETS, default=[*SETS], help="all if not given")
    parser.add_argument("--model", nargs="+", metavar="NAME|FILE", help="instead of the bundled")
    parser.add_argument("--ensemble", choices=("none", "flips"), help="instead of the cards'")
    parser.add_argument("--csv", type=Path, help="write our rows here, in the anchors' format")
    parser.add_argument("--per-image", type=Path, help="write a CSV per row into this folder")
    parser.add_argument("--pictures", type=Path, help="write the networks' pictures here")
    parser.add_argument(
        "--markdown", type=Path, help="write the page here (docs/benchmarks/quality.md)"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    return parser.parse_args(argv)


def run(
    args: argparse.Namespace, console: Console, models: Mapping[str, Fuse] | None = None
) -> int:
    """Measures, prints and writes what was asked for.

    Args:
        args: As `main` parses them.
        console: Where tables go.
        models: Networks of every set, instead of what `args.model` or the cards say.

    Returns:
        Exit code: 1 if a picture of any method failed, else 0.
    """
    if (args.data is None) == (args.figures is None):
        raise InputError("give either --data to measure or --figures to read figures again.")
    known = read_summaries(args.figures) if args.figures else []
    page, everything, failures = [HEAD.rstrip()], [], []
    for name in args.set:
        test = SETS[name]
        foreign = foreign_of(test, args.anchors) if args.anchors else Foreign()
        notes: list[str] = []
        if args.data and test.folders:
            chosen = models_of(test, args.model, args.ensemble) if models is None else models
            pairs = pairs_of(test, args.data)
            tables = measure(test, chosen, pairs, pictures=args.pictures, workers=args.jobs)
            failures += [
                f"{i}: {t}" for table in tables.values() for i, t in table.failures.items()
            ]
            tables = {row: table for row, table in tables.items() if table.rows}
            ours = [Summary.of(name, row, table) for row, table in tables.items()]
            notes = [standing(model, tables[model]) for model in chosen if model in tables]
            for row, table in tables.items():
                if args.per_image:
                    write_tables(args.per_image / name / f"{row}.csv", {row: table})
        else:
            ours = [row for row in known if row.dataset == name]
        if not ours and not foreign.measured:
            continue
        everything += ours
        lines = section(test, ours, foreign) + [f"- {note}" for note in notes]
        page += lines
        rows, _ = ranked_rows(ours, foreign.measured, test.ranked)
        shown = [Row(title, means, 0, comparable=means) for title, means in rows.items()]
        console.print(rich_table(rank_rows(shown, test.ranked, test.ranked), title=name))
        for line in lines:
            if line.startswith("- "):
                console.print(line, markup=False, highlight=False)
    if args.anchors and args.set == [*SETS]:
        page += stored_medical(args.anchors)
    if args.csv:
        columns = [ANCHOR_NAMES.get(c, c) for c in (*MEASURED, "MEF_SSIM")]
        write_summaries(args.csv, everything, columns)
    if args.markdown:
        write_atomically(args.markdown, ("\n".join(page) + "\n").encode())
    for text in sorted(set(failures)):
        print(text, file=sys.stderr)
    return 1 if failures else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    args = _arguments(argv)
    try:
        # A pipe has no width of its own; 80 columns would cut the table.
        return run(args, Console() if sys.stdout.isatty() else Console(width=150))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
