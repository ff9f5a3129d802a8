"""Draws the worst picture of every network: its sources, and what it made of them.

    python benchmarks/tables.py --data DATA --per-image SCORES
    python benchmarks/worst.py --data DATA --per-image SCORES --out worst

The worst picture is that of the lowest Qabf of all test sets of the network's task, as on
docs/benchmarks/summary.md. Each sheet is NAME.jpg. The sheets show pictures whose sources state no
licence, and are therefore drawn here and not shipped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.summary import KINDS, worst_of  # noqa: E402
from benchmarks.tables import SETS, models_of, pairs_of  # noqa: E402
from mgdn_jax.errors import InputError  # noqa: E402
from mgdn_jax.io import files  # noqa: E402
from mgdn_jax.io.disk import make_folder  # noqa: E402
from mgdn_jax.weights import zoo  # noqa: E402

_HIGH, _LINE, _GAP = 320, 16, 4


def sheet(pictures: Sequence[np.ndarray], words: str) -> Image.Image:
    """Pictures side by side at one height, above a line of words.

    Args:
        pictures: (H, W) or (H, W, 3) uint8.
        words: what is to be read.
    """
    shown = [Image.fromarray(picture).convert("RGB") for picture in pictures]
    shown = [picture.resize((picture.width * _HIGH // picture.height, _HIGH)) for picture in shown]
    width = sum(picture.width for picture in shown) + _GAP * (len(shown) - 1)
    page = Image.new("RGB", (width, _HIGH + _LINE), "white")
    left = 0
    for picture in shown:
        page.paste(picture, (left, 0))
        left += picture.width + _GAP
    ImageDraw.Draw(page).text((2, _HIGH + 2), words, fill="black")
    return page


def draw(name: str, data: Path, scores: Path, out: Path) -> str:
    """Writes the sheet of a bundled network; returns what it shows, "" where nothing is scored."""
    task = zoo.list_models()[Path(name).stem]["card"]["task"]
    kind = next((kind for kind in KINDS if kind in task), "")
    worst = worst_of(name, kind, scores) if kind else None
    if worst is None:
        return ""
    value, dataset, picture = worst
    test = SETS[dataset]
    pair = next(pair for pair in pairs_of(test, data) if pair.name == picture)
    sources = [files.read_image(path) for path in (pair.a, pair.b)]
    fused = models_of(test, [name])[name](*sources)
    words = f"{name}, {dataset} {picture}, Qabf {value:.2f}: both sources and the result"
    sheet([*sources, fused], words).save(out / f"{name}.jpg", quality=90)
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the sheets; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of all sets")
    parser.add_argument("--per-image", type=Path, required=True, help="scores from tables.py")
    parser.add_argument("--out", type=Path, required=True, help="folder of the sheets")
    parser.add_argument("--model", nargs="+", help="bundled networks; all, if none is named")
    arguments = parser.parse_args(argv)
    try:
        make_folder(arguments.out)
        for name in arguments.model or zoo.list_models():
            words = draw(name, arguments.data, arguments.per_image, arguments.out)
            print(words or f"{name}: no picture of it was scored")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
