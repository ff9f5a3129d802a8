"""Networks and rules on pairs of cameras: those held out by picture, and a camera held out whole.

    python benchmarks/cameras.py --sets ivf msrs m3fd llvip kaist flir pv tno \
        --weights refusion-ivf lkc-funet-small-ivf:none runs/a/fusion-ivf.safetensors
    python benchmarks/cameras.py --sets msrs m3fd llvip --split train \
        --without msrs=runs/no-msrs/NAME.safetensors m3fd=... llvip=... --weights refusion-ivf

Sets are prepared ones (docs/train/data.md); the default split is what trainings on the mixture hold
out. Weights are bundled names or files, after a colon the stretch if not the card's. A row is the
mean over the pairs of a set, and ranked among all rows; "by camera" is the mean of these ranks, "of
the means" ranks the means over the sets. `--without` names for a
set the weights that were trained without it; they make one row, "without this camera".
Luminance, whole pictures, 8 bit.
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import mgdn_jax  # noqa: E402
from benchmarks.bundle import SHOWN as COLUMNS  # noqa: E402
from mgdn_jax import metrics  # noqa: E402
from mgdn_jax.data import open_set  # noqa: E402
from mgdn_jax.errors import InputError  # noqa: E402
from mgdn_jax.evaluation.baselines import BASELINES, EXPOSURE_RULES, FOCUS_RULES  # noqa: E402
from mgdn_jax.evaluation.scores import mean_ranks  # noqa: E402
from mgdn_jax.fusing import stream  # noqa: E402
from mgdn_jax.io.disk import write_atomically  # noqa: E402

RULES = [name for name in BASELINES if name not in FOCUS_RULES + EXPOSURE_RULES]
WITHOUT, MEAN = "without this camera", "mean"
Fuse = Callable[[np.ndarray, np.ndarray], np.ndarray]
Figures = dict[str, float]


def pairs_of(dataset: str, split: str, limit: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first pairs of a set's split as luminance, (H, W) uint8; all where limit is 0."""
    source, _ = open_set(dataset, split)
    count = min(len(source), limit or len(source))
    records = (source[i] for i in range(count))
    return [
        tuple(np.asarray(Image.open(io.BytesIO(record[side])).convert("L")) for side in "ab")
        for record in records
    ]


def network(word: str) -> Fuse:
    """A function of two pictures from NAME or FILE, or either with :STRETCH."""
    name, _, stretch = word.partition(":")
    fuser = mgdn_jax.load(name)
    return lambda a, b: fuser(a, b, stretch=stretch or None, bucket=stream.BUCKET)


def measure(
    methods: Mapping[str, Fuse], pairs: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[str, Figures]:
    """Means of `COLUMNS` over pairs, by method."""
    rows = {}
    for name, fuse in methods.items():
        scores = [metrics.evaluate(fuse(a, b), a, b, COLUMNS) for a, b in pairs]
        rows[name] = {key: statistics.mean(score[key] for score in scores) for key in COLUMNS}
    return rows


def averaged(sets: Mapping[str, Mapping[str, Figures]]) -> dict[str, Figures]:
    """Means over sets, by method."""
    methods = next(iter(sets.values()))
    return {
        name: {key: statistics.mean(rows[name][key] for rows in sets.values()) for key in COLUMNS}
        for name in methods
    }


def table(sets: Mapping[str, Mapping[str, Figures]]) -> str:
    """Mean ranks by set, the mean of these, and ranks of the means over sets, as Markdown."""
    every = {**sets, **({MEAN: averaged(sets)} if len(sets) > 1 else {})}
    ranks = {name: mean_ranks(dict(rows), COLUMNS) for name, rows in every.items()}
    last = ranks[list(every)[-1]]
    heads = [*sets, *(["by camera", "of the means"] if len(sets) > 1 else [])]
    lines = ["| mean rank | " + " | ".join(heads) + " |", "|---" + "|---:" * len(heads) + "|"]
    for method in sorted(last, key=last.__getitem__):
        cells = [ranks[name][method] for name in every]
        if len(sets) > 1:
            cells.insert(-1, statistics.mean(ranks[name][method] for name in sets))
        lines.append(f"| {method} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def rows_of(sets: Mapping[str, Mapping[str, Figures]]) -> bytes:
    """All figures as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["set", "method", *COLUMNS])
    for name, rows in {**sets, MEAN: averaged(sets)}.items():
        for method, row in rows.items():
            writer.writerow([name, method, *(f"{row[key]:.5f}" for key in COLUMNS)])
    return text.getvalue().encode()


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table, and writes all figures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sets", nargs="+", required=True, help="prepared sets")
    parser.add_argument("--split", default="train[85%:]", help="of each set")
    parser.add_argument("--limit", type=int, default=0, help="first pairs of each; 0 for all")
    parser.add_argument("--weights", nargs="*", default=[], help="NAME or FILE, or with :STRETCH")
    parser.add_argument("--without", nargs="*", default=[], metavar="SET=FILE")
    parser.add_argument("--csv", type=Path, help="where to write all figures")
    arguments = parser.parse_args(argv)
    try:
        without = dict(word.split("=", 1) for word in arguments.without)
        if without and set(without) != set(arguments.sets):
            raise InputError("--without names weights for every one of --sets, or for none")
        shared: dict[str, Fuse] = {name: BASELINES[name] for name in RULES}
        shared |= {word: network(word) for word in arguments.weights}
        sets = {}
        for name in arguments.sets:
            methods = {**shared, **({WITHOUT: network(without[name])} if without else {})}
            pairs = pairs_of(name, arguments.split, arguments.limit)
            sets[name] = measure(methods, pairs)
            print(f"{name}: {len(pairs)} pairs", flush=True)
        print("\n" + table(sets))
        if arguments.csv is not None:
            write_atomically(arguments.csv, rows_of(sets))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
