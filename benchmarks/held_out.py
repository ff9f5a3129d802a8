"""Which of several weights is better, judged on pairs that no test set has?

    mgdn data prepare pairs --source DIR/ivf/train --name ivf
    python benchmarks/held_out.py runs/a/NAME.safetensors runs/b/NAME.safetensors:fill \
        --beside refusion-ivf cddfuse-ivf ReFusion_IVIF.safetensors:minmax

Weights are bundled names or files, after a colon the stretch and after another the ensemble if not
the card's. Centres of the held-out pairs, cut out smaller and enlarged again, stand for softer
pictures than the set's. Every candidate is ranked by itself among the rules without learning and
the rows beside, so that candidates, which are alike, do not push each other about; the mean over
the enlargements decides. Luminance, 8 bit.
"""

import argparse
import csv
import io
import statistics
import sys
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
from mgdn_jax.io.disk import write_atomically  # noqa: E402

RULES = {k: rule for k, rule in BASELINES.items() if k not in FOCUS_RULES + EXPOSURE_RULES}
Pairs = list[tuple[np.ndarray, np.ndarray]]
Row = dict[str, float]


def centre(picture: Image.Image, size: tuple[int, int], enlarged: float) -> np.ndarray:
    """Centre of a picture as luminance of (height, width) `size`, enlarged by bicubic weights.

    Raises:
        InputError: the picture is smaller than what is cut out of it.
    """
    height, width = (round(side / enlarged) for side in size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    if left < 0 or top < 0:
        raise InputError(
            f"a held-out picture is {picture.height}x{picture.width}, smaller than the"
            f" {height}x{width} cut out of it: give a smaller --size"
        )
    cut = picture.convert("L").crop((left, top, left + width, top + height))
    return np.asarray(cut.resize(size[::-1], Image.Resampling.BICUBIC))


def held_out(dataset: str, split: str, size: tuple[int, int], enlarged: float) -> Pairs:
    """The split's pairs, each two arrays of `size` in [0, 255]."""
    source, _ = open_set(dataset, split)
    pairs = []
    for i in range(len(source)):
        a, b = (Image.open(io.BytesIO(source[i][side])) for side in "ab")
        pairs.append((centre(a, size, enlarged), centre(b, size, enlarged)))
    return pairs


def scored(fuse, pairs: Pairs) -> Row:
    """Means of `COLUMNS` over pairs."""
    rows = [metrics.evaluate(fuse(a, b), a, b, COLUMNS) for a, b in pairs]
    return {name: statistics.mean(row[name] for row in rows) for name in COLUMNS}


def fuser(told: str):
    """A function of two pictures from NAME or FILE, or either with :STRETCH:ENSEMBLE."""
    weights, _, rules = told.partition(":")
    stretch, _, ensemble = rules.partition(":")
    network = mgdn_jax.load(weights)
    return lambda a, b: network(a, b, stretch=stretch or None, ensemble=ensemble or None)


def ranked(fixed: dict[str, Row], candidates: dict[str, Row]) -> dict[str, float]:
    """Mean rank of every candidate among the fixed rows and itself."""
    return {name: mean_ranks({**fixed, "": row}, COLUMNS)[""] for name, row in candidates.items()}


def main(arguments: list[str] | None = None) -> None:
    """Prints the rows of every enlargement, then the mean ranks, best first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", nargs="+", help="NAME or FILE, or with :STRETCH:ENSEMBLE")
    parser.add_argument("--beside", nargs="*", default=[], help="rows that all are ranked among")
    parser.add_argument("--data", default="ivf", help="a prepared set")
    parser.add_argument("--split", default="train[95%:]", help="held out by all candidates")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 400), metavar=("H", "W"))
    parser.add_argument("--enlarged", type=float, nargs="+", default=[1, 1.15, 1.3, 1.5, 1.7, 2])
    parser.add_argument("--csv", type=Path, help="where to write all rows")
    told = parser.parse_args(arguments)
    fusers = {name: fuser(name) for name in (*told.beside, *told.weights)}
    ranks: dict[str, list[float]] = {name: [] for name in told.weights}
    lines = []
    for enlarged in told.enlarged:
        pairs = held_out(told.data, told.split, tuple(told.size), enlarged)
        print(f"\n{len(pairs)} pairs, enlarged {enlarged:g}: {', '.join(COLUMNS)}, mean rank")
        rows = {name: scored(fuse, pairs) for name, fuse in {**fusers, **RULES}.items()}
        fixed = {name: row for name, row in rows.items() if name not in told.weights}
        own = ranked(fixed, {name: rows[name] for name in told.weights})
        for name, row in rows.items():
            rank = f"  {own[name]:.4f}" if name in own else ""
            print(f"{name}: " + " ".join(f"{row[k]:.3f}" for k in COLUMNS) + rank, flush=True)
            lines.append([enlarged, name, *(f"{row[k]:.5f}" for k in COLUMNS), rank.strip()])
        for name, rank in own.items():
            ranks[name].append(rank)
    print("\nmean rank over the enlargements")
    for name in sorted(ranks, key=lambda name: statistics.mean(ranks[name])):
        print(f"{statistics.mean(ranks[name]):.3f}  {name}")
    if told.csv is not None:
        text = io.StringIO()
        head = ["enlarged", "method", *COLUMNS, "mean_rank"]
        csv.writer(text, lineterminator="\n").writerows([head, *lines])
        write_atomically(told.csv, text.getvalue().encode())


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
