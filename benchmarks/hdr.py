"""Measures merging of exposures with moving objects: rules, networks, and printed figures beside.

    python benchmarks/hdr.py --data data/hdr/test --csv docs/benchmarks/hdr.csv
        --markdown docs/benchmarks/hdr.md [--network mgdn-hdr=FILE ...] [--save FOLDER]

The folder holds a subfolder a scene: three exposures, `exposure.txt` and `HDRImg.hdr`. A network
has three rows: as `mgdn hdr` runs it, with its --align (extra align) and with --no-align. Printed
figures are read from `hdr_published.csv`; they are of other pictures and stand in a table of their
own. Where the Markdown file exists, what lies between its lines `<!-- tables -->` and
`<!-- end of tables -->` is replaced; else it is made of tables alone.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from mgdn_jax.errors import InputError  # noqa: E402
from mgdn_jax.evaluation.hdr import METRICS, evaluate_hdr, find_scenes  # noqa: E402
from mgdn_jax.evaluation.merges import MERGES, Merge  # noqa: E402
from mgdn_jax.evaluation.scores import Table, write_tables  # noqa: E402
from mgdn_jax.fusing.deghosting import Deghoster  # noqa: E402
from mgdn_jax.io.disk import write_atomically  # noqa: E402

PUBLISHED = ROOT / "docs" / "benchmarks" / "hdr_published.csv"
START, END = "<!-- tables -->", "<!-- end of tables -->"
_DIGITS = {"PSNR_mu": 2, "PSNR_L": 2, "SSIM_mu": 4, "SSIM_L": 4}


def read_networks(entries: Sequence[str]) -> dict[str, Merge]:
    """Title to network, of NAME=FILE: as `mgdn hdr` runs it, with --align and with --no-align."""
    networks: dict[str, Merge] = {}
    for entry in entries:
        name, sign, file = entry.partition("=")
        if not sign or name in MERGES or name in networks:
            raise InputError(f"--network {entry} must be NAME=FILE, NAME no rule's and new.")
        network = Deghoster(file)
        for title, align in ((name, "shift"), (f"{name} --align", True)):
            networks[title] = network.in_use(align)
        networks[f"{name} --no-align"] = network.predict
    return networks


def as_markdown(
    tables: Mapping[str, Table], networks: Sequence[str], published: Sequence[Mapping[str, str]]
) -> str:
    """The means, PSNR-mu scene by scene, and printed figures."""
    means = {name: table.mean() for name, table in tables.items()}
    count = len(next(iter(tables.values())).rows)
    best = {m: max(mean[m] for mean in means.values()) for m in METRICS}
    lines = [f"Means over {count} scenes:\n", _head("method", METRICS)]
    for name, mean in means.items():
        lines.append(_row(f"`{name}`", [_cell(mean[m], best[m], _DIGITS[m]) for m in METRICS]))
    lines += ["\nPSNR-mu, scene by scene:\n", _scenes(tables, networks), ""]
    lines += ["Printed figures, of Kalantari's 15 test scenes:\n"]
    lines.append(_head("method", (*METRICS, "printed in")))
    for line in published:
        lines.append(_row(line["method"], [line[m] for m in METRICS] + [line["source"]]))
    return "\n".join(lines) + "\n"


def _scenes(tables: Mapping[str, Table], networks: Sequence[str]) -> str:
    """A row a scene: the best rule and how far networks are above it."""
    lines = [_head("scene", (*(f"`{name}`" for name in networks), "best rule", ""))]
    above = dict.fromkeys(networks, 0)
    for scene in next(iter(tables.values())).rows:
        values = {name: table.rows[scene]["PSNR_mu"] for name, table in tables.items()}
        rule = max(MERGES, key=lambda name: values[name])
        for name in networks:
            above[name] += values[name] > values[rule]
        largest = max(values.values())
        cells = [_cell(values[name], largest, 2) for name in (*networks, rule)]
        lines.append(_row(scene, [*cells, f"`{rule}`"]))
    count = len(lines) - 1
    for name in networks:
        lines.append(f"\n`{name}` is above the best rule in {above[name]} of {count}.")
    return "\n".join(lines)


def _head(first: str, titles: Sequence[str] | Mapping[str, object]) -> str:
    return _row(first, list(titles)) + "\n|---|" + "---|" * len(titles)


def _row(first: str, cells: Sequence[str]) -> str:
    return f"| {first} | " + " | ".join(cells) + " |"


def _cell(value: float, best: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    # What is equal when printed is equally good.
    return f"**{text}**" if text == f"{best:.{digits}f}" else text


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
    parser.add_argument("--network", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--published", type=Path, default=PUBLISHED)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--save", type=Path, help="folder of the results, as .hdr and .png")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and writes; prints the tables where no file is named."""
    args = parse(argv)
    scenes = find_scenes(args.data)
    networks = read_networks(args.network)
    tables = evaluate_hdr(
        {**networks, **MERGES},
        scenes,
        save=args.save,
        on_scene=lambda name: print(f"measured {name}", file=sys.stderr, flush=True),
    )
    with args.published.open(encoding="utf-8") as text:
        published = list(csv.DictReader(text))
    page = as_markdown(tables, list(networks), published)
    if args.csv:
        write_tables(args.csv, tables)
    if args.markdown:
        write_markdown(args.markdown, page)
    if not (args.csv or args.markdown):
        print(page)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"hdr.py: {error}")
