"""The page docs/benchmarks/summary.md: every network for a task in one row, from figures measured.

    python benchmarks/tables.py --data DATA --anchors ANCHORS --csv docs/benchmarks/quality.csv \
        --per-image SCORES
    python benchmarks/summary.py --figures docs/benchmarks/quality.csv --anchors ANCHORS \
        --per-image SCORES --markdown docs/benchmarks/summary.md

A network's place on a test set is that by mean rank among all rows of the set in
docs/benchmarks/quality.md: ours, those measured elsewhere and the rules without learning. Its worst
picture is that of the lowest Qabf on any set.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.tables import JPEG, SETS, TestSet, foreign_of, ranked_rows  # noqa: E402
from mgdn_jax.evaluation.scores import read_tables  # noqa: E402
from mgdn_jax.evaluation.summaries import Summary, read_summaries  # noqa: E402
from mgdn_jax.fusing.tasks import TASKS  # noqa: E402
from mgdn_jax.io.disk import write_atomically  # noqa: E402

KINDS = {
    "infrared": "Infrared and visible",
    "medical": "Medical",
    "multi-focus": "Multi-focus",
    "multi-exposure": "Multi-exposure",
}
HEAD = """# Summary

One row for each network and rule. **Places** are by mean rank among all rows of a set, in the order
of the sets: 2/10 is the second of ten. Rules without learning (`base_*`) are among the rows, and so
are methods measured elsewhere. *Worst picture* is that of the lowest Qabf of all sets; it is empty
where pictures were not scored one by one. A row in bold is what
`mgdn fuse --task` takes. [Quality](quality.md) has the figures, [Depth maps](depth.md) and
[Moving scenes](hdr.md) the other tasks.

The page is made by `python benchmarks/summary.py` (its first lines say how), after
`benchmarks/tables.py`.
"""


@dataclass(frozen=True)
class Standing:
    """How a method does on one test set.

    Attributes:
        dataset: name of the set.
        place: by mean rank, from 1.
        rows: number of rows.
        rank: mean rank.
    """

    dataset: str
    place: int
    rows: int
    rank: float

    def __str__(self) -> str:
        return f"{self.place}/{self.rows}"


def standings(
    kind: str, known: Sequence[Summary], anchors: Path | None
) -> dict[str, list[Standing]]:
    """Places of our rows on the sets of a kind of pictures, by method."""
    found: dict[str, list[Standing]] = {}
    for test in _sets(kind):
        ours = [row for row in known if row.dataset == test.name]
        if not ours:
            continue
        foreign = foreign_of(test, anchors).measured if anchors else []
        rows, ranks = ranked_rows(ours, foreign, test.ranked)
        order = list(rows)
        for row in ours:
            title = next(name for name in order if name.split(" ")[0] == row.method)
            standing = Standing(test.name, order.index(title) + 1, len(order), ranks[title])
            found.setdefault(row.method, []).append(standing)
    return {name: places for name, places in found.items() if not name.endswith(JPEG)}


def _sets(kind: str) -> list[TestSet]:
    return [test for test in SETS.values() if test.task == kind and test.folders]


def worst_of(method: str, kind: str, scores: Path | None) -> tuple[float, str, str] | None:
    """(lowest Qabf, set, picture) of a method; None where nothing was written down."""
    lowest: tuple[float, str, str] | None = None
    for test in _sets(kind) if scores else ():
        path = Path(scores or "") / test.name / f"{method}.csv"
        if not path.is_file():
            continue
        for name, row in read_tables(path)[method].rows.items():
            candidate = (row["Qabf"], test.name, name)
            lowest = min(lowest or candidate, candidate)
    return lowest


def worst_picture(method: str, kind: str, scores: Path | None) -> str:
    """The picture with the lowest Qabf, with its set; "" where nothing was written down."""
    lowest = worst_of(method, kind, scores)
    return "" if lowest is None else f"{lowest[1]} {lowest[2]} ({lowest[0]:.2f})"


def page(known: Sequence[Summary], anchors: Path | None, scores: Path | None) -> str:
    """The page as Markdown."""
    defaults = {task.model for task in TASKS.values()}
    lines = [HEAD.rstrip()]
    for kind, title in KINDS.items():
        table = standings(kind, known, anchors)
        if table:
            sets = ", ".join(test.name for test in _sets(kind))
            lines += ["", f"## {title}", "", f"Sets: {sets}.", ""]
            lines += section(table, defaults, kind, scores)
    return "\n".join(lines) + "\n"


def section(
    table: Mapping[str, Sequence[Standing]], defaults: set[str], kind: str, scores: Path | None
) -> list[str]:
    """The table of one kind of pictures, the lowest mean of mean ranks first."""
    lines = [
        "| | places | mean rank | worst set | worst picture (Qabf) |",
        "|---|---|---:|---|---|",
    ]
    means = {name: statistics.mean(s.rank for s in places) for name, places in table.items()}
    for name in sorted(table, key=means.__getitem__):
        places = table[name]
        worst = max(places, key=lambda standing: standing.place / standing.rows)
        title = f"**{name}**" if name in defaults else name
        cells = (
            ", ".join(map(str, places)),
            f"{means[name]:.2f}",
            f"{worst.dataset} ({worst})",
            worst_picture(name, kind, scores),
        )
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--figures", type=Path, default=ROOT / "docs/benchmarks/quality.csv")
    parser.add_argument("--anchors", type=Path, help="folder of rows measured elsewhere")
    parser.add_argument("--per-image", type=Path, help="folder that tables.py wrote scores into")
    parser.add_argument("--markdown", type=Path, help="write the page here, else print it")
    arguments = parser.parse_args(argv)
    text = page(read_summaries(arguments.figures), arguments.anchors, arguments.per_image)
    if arguments.markdown:
        write_atomically(arguments.markdown, text.encode())
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
