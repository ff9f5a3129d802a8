"""The 20 Lytro pairs of multi-focus fusion: our models beside published methods.

    python benchmarks/lytro.py --data DIR --anchors lytro_mfifb.csv --model mgdn-mff

`DIR` holds `near/` and `far/` with files of the same names. Everything is scored on luminance.
Rows of the anchors' file (means of published methods) are measured elsewhere and marked so;
the stored results among them are JPEG files of quality 75, hence the `+jpeg75` row of every model
(gray result, encoded and decoded) for a fair comparison. The trivial baselines are computed
here too: their differences from the anchors show that both rulers agree.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from mgdn_jax import codec, files
from mgdn_jax.baselines import BASELINES
from mgdn_jax.disk import write_atomically
from mgdn_jax.errors import InputError
from mgdn_jax.evaluation import Fuse, Pair, evaluate_methods
from mgdn_jax.metrics import METRICS, luminance
from mgdn_jax.scores import (
    ANCHOR_NAMES,
    Summary,
    Table,
    mean_ranks,
    read_summaries,
    rich_table,
    write_summaries,
    write_tables,
)

MEASURED = (
    *("EN", "SD", "SF", "AG", "MI", "MSE", "CC", "PSNR_peakF", "SCD", "VIF", "Qabf"),
    *("SSIM_dr255", "SSIM_dr2", "NMI", "Q_Y", "Nabf", "MS_SSIM"),
)
COLUMNS = tuple(ANCHOR_NAMES.get(name, name) for name in MEASURED)
RANKED = ("EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM_dr255")
DATASET = "Lytro20"
JPEG = "+jpeg75"
ELSEWHERE = " †"


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


def _gray(image: np.ndarray) -> np.ndarray:
    return luminance(image).astype(np.uint8)


def _on_gray(rule: Callable[..., np.ndarray]) -> Fuse:
    return lambda a, b: rule(_gray(a), _gray(b))


def _compressed(fuse: Fuse) -> Fuse:
    def fused(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return codec.decode_image(codec.encode_jpeg(_gray(fuse(a, b)), 75), "the JPEG result")

    return fused


def _with_jpeg(methods: Mapping[str, Fuse]) -> dict[str, Fuse]:
    both: dict[str, Fuse] = {}
    for name, fuse in methods.items():
        shared = _Once(fuse)
        both[name] = shared
        both[name + JPEG] = _compressed(shared)
    return both


def lytro_pairs(data: Path) -> list[Pair]:
    """The pairs of a folder with `near/` and `far/`, sorted by name.

    Raises:
        InputError: if a folder or a partner is missing.
    """
    groups, missing = files.pair_folders([data / "near", data / "far"])
    if missing:
        raise InputError(missing[0])
    return [Pair(name, near, far) for name, (near, far) in groups.items()]


def measure(
    models: Mapping[str, Fuse], pairs: Sequence[Pair], pictures: Path | None = None
) -> dict[str, Table]:
    """Scores the models and the baselines, each lossless and as JPEG.

    Args:
        models: Name to callable, given colour pictures.
        pairs: Image pairs.
        pictures: Folder for the models' results as `<model>/<pair>.png`, or None.

    Returns:
        Row name to table with the columns `MEASURED`.
    """
    methods = _with_jpeg(models) | _with_jpeg(
        {name: _on_gray(rule) for name, rule in BASELINES.items()}
    )
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("fusing and measuring", total=len(pairs) * len(methods))

        def done(method: str, name: str, fused: np.ndarray, _: object) -> None:
            progress.advance(bar)
            if pictures and method in models:
                files.write_image(pictures / method / f"{name}.png", fused)

        return evaluate_methods(methods, pairs, metrics=MEASURED, on_result=done)


def ranked_rows(
    ours: Sequence[Summary], anchors: Sequence[Summary]
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """All rows of the table in the order of their mean rank, and the ranks.

    A row of the anchors carries a dagger; of a baseline that both have, only theirs enters.
    """
    known = {row.method for row in anchors}
    rows = {row.method + ELSEWHERE: row.values for row in anchors}
    rows |= {row.method: row.values for row in ours if row.method not in known}
    ranks = mean_ranks(rows, RANKED)
    ordered = sorted(rows, key=ranks.__getitem__)
    return {name: rows[name] for name in ordered}, ranks


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
        worst = max(gaps, key=gaps.__getitem__)
        line = f"{row.method}: {same} of {len(gaps)} columns equal to the 5 printed decimals"
        if same < len(gaps):
            line += f", largest difference {gaps[worst]:.5f} ({worst} {row.values[worst]:.5f})"
        lines.append(line)
    return lines


def standing(
    model: str, tables: Mapping[str, Table], rows: Mapping[str, object], ranks: Mapping[str, float]
) -> list[str]:
    """What the table says about one model, lossless and compressed, and its weakest picture."""
    order = list(rows)
    lines = []
    for name in (model, model + JPEG):
        mean = tables[name].mean()
        lines.append(
            f"{name}: Qabf {mean['Qabf']:.4f}, VIF {mean['VIF']:.4f}, mean rank "
            f"{ranks[name]:.2f}, place {order.index(name) + 1} of {len(order)}"
        )
    scores = {name: row["Qabf"] for name, row in tables[model].rows.items()}
    worst = min(scores, key=scores.__getitem__)
    lines.append(f"{model}: lowest Qabf {scores[worst]:.4f} on {worst}")
    return lines


def markdown(
    command: str,
    rows: Mapping[str, Mapping[str, float]],
    ranks: Mapping[str, float],
    notes: Sequence[str],
    n: int,
) -> str:
    """The page of `docs/`: the ranked table, best value bold, and how it was made."""
    best = {}
    for name in RANKED:
        values = [row[name] for row in rows.values()]
        best[name] = max(values) if METRICS[name].higher_is_better else min(values)
    head = [f"{name} {METRICS[name].arrow}" for name in RANKED]
    out = [
        "# Benchmarks",
        "",
        "## Multi-focus fusion, Lytro",
        "",
        f"Means over {n} pairs of the Lytro set, on luminance, sorted by mean rank over the",
        "columns shown. Rows with † are means measured elsewhere with an equal evaluator: the",
        "results of 30 methods stored in MFIFB, the published weights of MGDN and ReFusion, and",
        "trivial baselines. The stored results are JPEG files of quality 75 (IFCNN: 95); compare",
        "them with the `+jpeg75` rows, where the gray result was encoded so too. Made by",
        "",
        f"    {command}",
        "",
        "| | method | " + " | ".join(head) + " | mean rank |",
        "|---:|---|" + "---:|" * (len(RANKED) + 1),
    ]
    for place, (method, row) in enumerate(rows.items(), start=1):
        cells = [
            f"**{row[name]:.4f}**" if row[name] == best[name] else f"{row[name]:.4f}"
            for name in RANKED
        ]
        ours = not method.endswith(ELSEWHERE)
        title = f"**{method}**" if ours else method
        out.append(f"| {place} | {title} | {' | '.join(cells)} | {ranks[method]:.2f} |")
    out += ["", *(f"- {note}" for note in notes), ""]
    return "\n".join(out)


def _load(name: str) -> Fuse:
    import mgdn_jax  # here, so that the baselines alone need no JAX

    return mgdn_jax.load(name)


def _title(model: str) -> str:
    return Path(model).stem if os.path.exists(model) else model


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with near/ and far/")
    parser.add_argument("--anchors", type=Path, help="CSV of mean scores measured elsewhere")
    parser.add_argument(
        "--model", nargs="+", default=[], metavar="NAME|FILE", help="models of ours to measure"
    )
    parser.add_argument("--csv", type=Path, help="write our rows here, in the anchors' format")
    parser.add_argument("--per-image", type=Path, help="write a CSV per model into this folder")
    parser.add_argument("--markdown", type=Path, help="write the page of docs/ here")
    parser.add_argument("--pictures", type=Path, help="write the models' pictures here")
    return parser.parse_args(argv)


def _command(args: argparse.Namespace) -> str:
    # Folders of this machine are nobody's business: only the names of files.
    parts = ["python benchmarks/lytro.py --data DIR"]
    if args.anchors:
        parts.append(f"--anchors {args.anchors.name}")
    if args.model:
        parts.append("--model " + " ".join(Path(model).name for model in args.model))
    return " ".join([*parts, f"--markdown docs/{args.markdown.name}"])


def run(args: argparse.Namespace, models: Mapping[str, Fuse], console: Console) -> int:
    """Measures, prints and writes what was asked for.

    Returns:
        Exit code: 1 if a picture of any method failed, else 0.
    """
    pairs = lytro_pairs(args.data)
    anchors = read_summaries(args.anchors) if args.anchors else []
    tables = measure(models, pairs, args.pictures)
    scored = [name for name in tables if tables[name].rows]  # a method may have failed throughout
    ours = [Summary.of(DATASET, name, tables[name]) for name in scored]
    rows, ranks = ranked_rows(ours, anchors)
    notes = [line for m in models if m in scored for line in standing(m, tables, rows, ranks)]
    notes += agreement(ours, anchors)

    title = f"{DATASET}: means over {len(pairs)} pairs, sorted by mean rank († measured elsewhere)"
    console.print(rich_table(rows, RANKED, title=title, ranks=ranks))
    for note in notes:
        console.print(note, markup=False, highlight=False)
    if args.csv:
        write_summaries(args.csv, ours, COLUMNS)
    if args.per_image:
        for model in models:
            write_tables(args.per_image / f"{model}.csv", {model: tables[model]})
    if args.markdown:
        page = markdown(_command(args), rows, ranks, notes, len(pairs))
        write_atomically(args.markdown, page.encode())
    failures = {(pair, text) for table in tables.values() for pair, text in table.failures.items()}
    for pair, text in sorted(failures):
        print(f"{pair}: {text}", file=sys.stderr)
    return 1 if failures else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    args = _arguments(argv)
    try:
        models = {_title(model): _load(model) for model in args.model}
        # A pipe has no width of its own; 80 columns would cut the table.
        console = Console() if sys.stdout.isatty() else Console(width=150)
        return run(args, models, console)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
