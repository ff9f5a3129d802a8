"""How a learned loss came about: one picture from the validation grids of a ReFusion run.

    python benchmarks/weight_maps.py runs/refusion-ivf --out docs/assets/learned_weights.png

Rows are the first, middle and last validation; columns the two sources, the fused image, and by
how much the loss weighs the first source (intensities and, in form R, gradients), white being all
of it. The example is the last of the grid, twice as large.
"""

import argparse
from pathlib import Path

import numpy as np

from mgdn_jax.io import codec
from mgdn_jax.io.disk import write_atomically


def main() -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a training run's folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--examples", type=int, default=4, help="rows of a grid")
    told = parser.parse_args()
    grids = sorted((told.run / "grids").glob("step_*.png"))
    chosen = (grids[0], grids[len(grids) // 2], grids[-1])
    rows = []
    for path in chosen:
        grid = codec.decode_image(path.read_bytes(), path.name)
        rows.append(grid[-(grid.shape[0] // told.examples) :])
    picture = np.concatenate(rows).repeat(2, 0).repeat(2, 1)
    write_atomically(told.out, codec.encode_png(picture))
    print(f"{told.out}: {', '.join(path.stem for path in chosen)}")


if __name__ == "__main__":
    main()
