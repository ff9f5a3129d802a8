"""Tutorial 2: train a small network on two folders of pictures, and fuse with it.

    python examples/train_on_two_folders.py IR_FOLDER VI_FOLDER --workdir runs/mine
    python examples/train_on_two_folders.py --workdir runs/toy      # on pairs made here

The folders hold pictures of one scene under one name: infrared and visible, CT and MRI, under- and
over-exposed. There is no target: the losses compare the result with both sources. About 1000 steps
give a network to look at; the same command goes on where it was stopped.
"""

import argparse
import os
from pathlib import Path

import numpy as np

import mgdn_jax
from mgdn_jax import data, training
from mgdn_jax.io.files import read_image, write_image
from mgdn_jax.io.pairing import list_images

HERE = Path(__file__).parent


def make_toy_pairs(folder: Path, count: int = 12, side: int = 96) -> tuple[Path, Path]:
    """Crops of the coffee pictures: dim with warm spots ("infrared"), and as they are."""
    picture = read_image(HERE / "coffee_near.jpg")
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    for i in range(count):
        top, left = (int(rng.integers(0, n - side)) for n in picture.shape[:2])
        visible = picture[top : top + side, left : left + side]
        warm = 0.5 * visible.mean(-1)
        for y, x in rng.integers(0, side, (6, 2)):
            warm = warm + 220 * (np.hypot(rows - y, columns - x) < 10)
        write_image(folder / "ir" / f"{i:02}.png", np.clip(warm, 0, 255).astype(np.uint8))
        write_image(folder / "vi" / f"{i:02}.png", visible)
    return folder / "ir", folder / "vi"


def config(name: str, steps: int, crop: int) -> dict:
    """A narrow MGDN on luminance: blocks of a config as `configs/*.py` have them."""
    split = {"train": {"split": "train[:80%]", "crop": crop, "threads": 2}}
    split["validation"] = {"split": "train[80%:]", "crop": crop, "limit": 8}
    return {
        "name": "mine",
        "recipe": {
            "name": "mgdn", "supervised": False, "l1": 0.0, "nmi": 0.0,
            "intensity": 1.0, "gradient": 10.0, "ssim": 0.5,
        },
        "model": {
            "preset": "mff", "features": 12, "depths": (1,), "heads": (3,),
            "in_channels": (1, 1), "out_channels": 1, "head": "blend",
        },
        "data": {
            "loader": "mgdn_jax.data", "dataset": name, "task": "pairs", "channels": 1, **split,
        },
        "optimiser": {"name": "adam", "learning_rate": 3e-3, "clip_norm": 1.0},
        "train": {"batch": 4, "steps": steps, "ema": 0.9, "log_every": 20, "save_every": 100},
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> Path:
    """Prepares, trains, fuses the first pair; returns the fused file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", help="two folders whose files are named alike")
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--crop", type=int, default=64)
    options = parser.parse_args(arguments)
    workdir = Path(options.workdir)
    first, second = options.folders or make_toy_pairs(workdir / "pictures")

    os.environ.setdefault("MGDN_DATA_DIR", str(workdir / "sets"))
    if not data.is_prepared(data.data_root() / "mine"):
        source, names = os.path.commonpath([os.path.abspath(first), os.path.abspath(second)]), []
        names = [os.path.relpath(folder, source) for folder in (first, second)]
        data.prepare("pairs", source, folders=names, name="mine")
    run = training.fit(config("mine", options.steps, options.crop), workdir / "run")
    if run.weights is None:
        raise SystemExit("stopped; run the same command again to go on")

    fuse = mgdn_jax.load(run.weights)
    a, b = (next(iter(list_images(folder).values())) for folder in (first, second))
    fused = write_image(workdir / "fused.png", fuse(a, b))
    print(f"fused {a} + {b} -> {fused}")
    return fused


if __name__ == "__main__":
    main()
