"""Measures guided depth super-resolution on four sets at three scales, beside published figures.

    python benchmarks/depth.py --data data/gdsr --csv docs/benchmarks/depth.csv
        --markdown docs/benchmarks/depth.md [--network mgdn-gdsr=FILE4,FILE8 ...]
        [--set lu6 ...] [--scales 4 8 16]

The folder holds `lu6/`, `middlebury30/` and `rgbdd_test/` with `rgb/` and `depth/` each, and NYU v2
in its own `rgb/` and `depth/`; or one set where `--set` names one. Networks are measured at the
scales that their cards state, the files of one NAME in one row. Published figures are read from
`depth_published.csv` and stand below ours, with their own number of pictures.

Where the Markdown file exists, what lies between its lines `<!-- tables -->` and
`<!-- end of tables -->` is replaced; else it is made of tables alone.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from mgdn_jax.errors import InputError  # noqa: E402
from mgdn_jax.evaluation.depth import (  # noqa: E402
    PROTOCOLS,
    evaluate_depth,
    find_depth_pairs,
    method_of,
)
from mgdn_jax.evaluation.upsampling import BASELINES, Upsample  # noqa: E402
from mgdn_jax.fusing.depth import DepthUpsampler  # noqa: E402
from mgdn_jax.io.disk import write_atomically  # noqa: E402

FOLDERS = {"lu6": "lu6", "middlebury30": "middlebury30", "nyu": ".", "rgbdd": "rgbdd_test"}
SCALES = (4, 8, 16)
PUBLISHED = ROOT / "docs" / "benchmarks" / "depth_published.csv"
START, END = "<!-- tables -->", "<!-- end of tables -->"
UNITS = {"255": "RMSE in stored levels (0 to 255)", "cm": "RMSE in centimetres"}


@dataclass
class Row:
    """One method on one set.

    Attributes:
        dataset: title of the set.
        n: pictures.
        metric: "RMSE_255" or "RMSE_cm".
        method: its name.
        values: scale to figure.
        trained_on: where known.
        source: where a figure was printed; empty for those measured here.
    """

    dataset: str
    n: int
    metric: str
    method: str
    values: dict[int, float] = field(default_factory=dict)
    trained_on: str = ""
    source: str = ""


def read_networks(entries: Sequence[str]) -> dict[int, dict[str, Upsample]]:
    """Scale to the networks for it, by the name of their row."""
    networks: dict[int, dict[str, Upsample]] = {}
    for entry in entries:
        name, sign, files = entry.partition("=")
        if not sign or name in BASELINES:
            raise InputError(f"--network {entry} must be NAME=FILE[,FILE...], NAME no rule's.")
        for file in files.split(","):
            upsampler = DepthUpsampler.load(file)
            at_scale = networks.setdefault(upsampler.preparation.scale, {})
            if name in at_scale:
                raise InputError(f"--network {name} names two files for one scale; drop one.")
            at_scale[name] = method_of(upsampler)
    return networks


def measure(args: argparse.Namespace) -> list[Row]:
    """A row a method and set; networks first."""
    networks = read_networks(args.network)
    rows: list[Row] = []
    for key in args.set:
        protocol = PROTOCOLS[key]
        place = args.data / FOLDERS[key]
        pairs = find_depth_pairs(place if place.is_dir() else args.data)
        names = dict.fromkeys(name for at_scale in networks.values() for name in at_scale)
        metric = protocol.columns[0]
        made = {
            name: Row(protocol.title, len(pairs), metric, name) for name in (*names, *BASELINES)
        }
        for scale in args.scales:
            methods = {**networks.get(scale, {}), **BASELINES}
            for name, table in evaluate_depth(methods, pairs, protocol, scale).items():
                made[name].values[scale] = table.mean()[metric]
            print(f"measured {protocol.title} at {scale}x", file=sys.stderr, flush=True)
        rows += [row for row in made.values() if row.values]
    return rows


def read_published(path: Path) -> list[Row]:
    """Figures that were printed elsewhere."""
    with path.open(encoding="utf-8") as text:
        return [
            Row(
                line["dataset"],
                int(line["n"]),
                line["metric"],
                line["method"],
                {scale: float(line[f"x{scale}"]) for scale in SCALES if line[f"x{scale}"]},
                line["trained_on"],
                line["source"],
            )
            for line in csv.DictReader(text)
        ]


def as_csv(rows: Sequence[Row], scales: Sequence[int]) -> str:
    """The measured rows with 4 decimals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["dataset", "n", "metric", "method", *(f"x{scale}" for scale in scales)])
    for row in rows:
        cells = [f"{row.values[s]:.4f}" if s in row.values else "" for s in scales]
        writer.writerow([row.dataset, row.n, row.metric, row.method, *cells])
    return text.getvalue()


def as_markdown(rows: Sequence[Row], published: Sequence[Row], scales: Sequence[int]) -> str:
    """A table a set: measured rows, the best of each scale bold, then published ones."""
    parts = []
    for title in dict.fromkeys(row.dataset for row in rows):
        ours = [row for row in rows if row.dataset == title]
        theirs = [row for row in published if row.dataset == title]
        best = {s: min(r.values[s] for r in ours if s in r.values) for s in scales}
        unit = UNITS[ours[0].metric.partition("_")[2]]
        lines = [f"**{title}**, {unit}, {ours[0].n} pictures:\n"]
        lines.append("| method | " + " | ".join(f"{s}x" for s in scales) + " | printed in |")
        lines.append("|---|" + "---|" * (len(scales) + 1))
        lines += [_line(row, scales, best) for row in ours]
        lines += [_line(row, scales, {}, ours[0].n) for row in theirs]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _line(row: Row, scales: Sequence[int], best: Mapping[int, float], usual: int = 0) -> str:
    cells = []
    for scale in scales:
        value = row.values.get(scale)
        text = "" if value is None else f"{value:.2f}"
        # What is equal when printed is equally good.
        is_best = value is not None and scale in best and text == f"{best[scale]:.2f}"
        cells.append(f"**{text}**" if is_best else text)
    name = f"{row.method} †" if row.source else f"`{row.method}`"
    source = row.source
    if row.source and row.n != usual:
        source += f", {row.n} pictures"
    return f"| {name} | " + " | ".join(cells) + f" | {source} |"


def write_markdown(path: Path, tables: str) -> None:
    """The tables into their place on a page, or alone into a file."""
    if not path.is_file():
        write_atomically(path, tables.encode())
        return
    page = path.read_text(encoding="utf-8")
    before, start, behind = page.partition(START)
    _, end, after = behind.partition(END)
    if not (start and end):
        raise InputError(f"{path} has no lines {START} and {END}; add them, or name another file.")
    write_atomically(path, f"{before}{START}\n\n{tables}\n{END}{after}".encode())


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", nargs="+", choices=tuple(FOLDERS), default=list(FOLDERS))
    parser.add_argument("--scales", nargs="+", type=int, choices=SCALES, default=list(SCALES))
    parser.add_argument("--network", action="append", default=[], metavar="NAME=FILE[,FILE]")
    parser.add_argument("--published", type=Path, default=PUBLISHED)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and writes; prints the tables where no file is named."""
    args = parse(argv)
    rows = measure(args)
    tables = as_markdown(rows, read_published(args.published), args.scales)
    if args.csv:
        write_atomically(args.csv, as_csv(rows, args.scales).encode())
    if args.markdown:
        write_markdown(args.markdown, tables)
    if not (args.csv or args.markdown):
        print(tables)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"depth.py: {error}")
