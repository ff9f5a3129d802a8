"""How much tiling changes a picture: tiles with global and with local statistics, against none.

python benchmarks/tiles.py near.jpg far.jpg [--model NAME|FILE] [--tile 256] [--overlap 64]
"""

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table

import mgdn_jax


def main() -> None:
    """Prints mean and largest difference in 8-bit levels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("--model", default="mgdn-mff")
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--overlap", type=int, default=64)
    arguments = parser.parse_args()
    fuse = mgdn_jax.load(arguments.model)
    whole = fuse(arguments.a, arguments.b, tile=0).astype(int)
    table = Table("statistics", "mean difference", "largest", "share of equal values")
    for context in ("global", "local"):
        tiled = fuse(
            arguments.a,
            arguments.b,
            tile=arguments.tile,
            overlap=arguments.overlap,
            tile_context=context,
        )
        difference = np.abs(tiled.astype(int) - whole)
        equal = float((difference == 0).mean())
        table.add_row(context, f"{difference.mean():.4f}", str(difference.max()), f"{equal:.4%}")
    Console().print(table)


if __name__ == "__main__":
    main()
