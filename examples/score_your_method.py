"""Tutorial 1: score your own method beside a shipped network and the rules without learning.

    python examples/score_your_method.py                      # the coffee pair of this folder
    python examples/score_your_method.py NEAR_FOLDER FAR_FOLDER --report report/

A method is a function of two pictures. It gets them as they were read, and returns one of their
size. Here it takes the sharper source at each pixel, by the local energy of the Laplacian.
"""

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from scipy import ndimage

from mgdn_jax.evaluation import BASELINES, Pair, Rule, evaluate_methods
from mgdn_jax.evaluation.album import Album
from mgdn_jax.evaluation.report import write_report
from mgdn_jax.evaluation.standing import rank_methods
from mgdn_jax.evaluation.terminal import rich_table
from mgdn_jax.io.pairing import pair_folders

HERE = Path(__file__).parent
METRICS = ("EN", "SF", "MI", "Qabf")


def sharper(near: np.ndarray, far: np.ndarray) -> np.ndarray:
    """The method: each pixel from the source that has more detail around it."""

    def energy(picture: np.ndarray) -> np.ndarray:
        gray = picture.mean(-1) if picture.ndim == 3 else picture.astype(np.float64)
        return ndimage.uniform_filter(np.abs(ndimage.laplace(gray)), 9)

    takes_near = energy(near) >= energy(far)
    return np.where(takes_near[..., None] if near.ndim == 3 else takes_near, near, far)


def read_pairs(folders: list[str]) -> list[Pair]:
    """Pairs of two folders by file name, or the coffee pair."""
    if not folders:
        return [Pair("coffee", HERE / "coffee_near.jpg", HERE / "coffee_far.jpg")]
    return [Pair(name, *paths) for name, paths in pair_folders(folders).groups.items()]


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Scores, prints a table, writes a report if asked; returns the means by method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", help="two folders whose files are named alike")
    parser.add_argument("--model", help="a shipped network to score beside it, mgdn-mff say")
    parser.add_argument("--report", help="folder for a page to look at")
    options = parser.parse_args(arguments)
    pairs = read_pairs(options.folders)
    rules = {name: Rule(rule) for name, rule in BASELINES.items()}
    methods = {"sharper": sharper} | rules
    if options.model:
        import mgdn_jax

        methods[options.model] = mgdn_jax.load(options.model)

    album = Album(len(pairs) * (2 + len(methods)))
    tables = evaluate_methods(
        methods,
        pairs,
        metrics=METRICS,
        on_result=lambda method, name, picture, scores: album.add(name, method, picture),
    )
    standing = rank_methods(tables, baselines=BASELINES)
    Console(width=120).print(rich_table(standing))
    if options.report:
        page = write_report(
            options.report,
            title="Tutorial: score your method",
            standing=standing,
            album=album,
            command="python examples/score_your_method.py",
            versions={"numpy": np.__version__},
            variant="standard",
        )
        print(f"written {page}")
    return {method: dict(table.mean()) for method, table in tables.items()}


if __name__ == "__main__":
    main()
