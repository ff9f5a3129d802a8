"""Brackets of exposures: Mertens' method beside what `Fuser` makes of them, by MEF-SSIM over all.

`python benchmarks/brackets.py DATA [--model refusion-mef]` with DATA/brackets/NAME/*.jpg and
DATA/mef/train30/{under,over}. A network for sets takes each bracket at once, any other one goes
through `fuse_bracket`. Pictures above half a megapixel are halved first. The figures stand in
docs/use/exposure.md.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import mgdn_jax  # noqa: E402
from mgdn_jax.fusing import brackets  # noqa: E402
from mgdn_jax.fusing.compile_cache import enable_compilation_cache  # noqa: E402
from mgdn_jax.io import files  # noqa: E402
from mgdn_jax.metrics import exposure_similarity, luminance  # noqa: E402


def sets(data: Path) -> dict[str, list[np.ndarray]]:
    """Pictures by the name of their bracket."""
    found = {}
    for folder in sorted((data / "brackets").iterdir()):
        found[folder.name] = [halved(files.read_image(path)) for path in sorted(folder.iterdir())]
    pairs = data / "mef" / "train30"
    for path in sorted((pairs / "under").iterdir()):
        found[path.stem] = [
            files.read_image(p / path.name) for p in (pairs / "under", pairs / "over")
        ]
    return found


def halved(picture: np.ndarray) -> np.ndarray:
    """The picture at half its size where it is large."""
    if picture.shape[0] * picture.shape[1] <= 500_000:
        return picture
    return cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def score(fused: np.ndarray, pictures: list[np.ndarray]) -> float:
    """MEF-SSIM of a result in [0, 1], rounded as a file would be."""
    fused = np.rint(255 * np.clip(fused, 0, 1))
    return exposure_similarity(luminance(fused), *map(luminance, pictures))


def main() -> None:
    """Prints a row for each bracket and the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="refusion-mef")
    options = parser.parse_args()
    enable_compilation_cache()
    fuser = mgdn_jax.load(options.model)

    def pair(dark: np.ndarray, bright: np.ndarray) -> np.ndarray:
        floats = [np.float32(x / 255) for x in (dark, bright)]
        return fuser.fuse(*floats, checks=False).pixels

    def fuse(pictures: list[np.ndarray]) -> np.ndarray:
        if fuser.config.sets:
            return np.float32(fuser.fuse(*pictures, checks=False).pixels / 255)
        return brackets.fuse_bracket(pictures, pair)

    rows = []
    print("| bracket | exposures | Mertens | all |\n|---|---|---|---|")
    for name, pictures in sets(options.data).items():
        mertens = cv2.createMergeMertens(1, 1, 1).process(pictures)
        rows.append([score(x, pictures) for x in (mertens, fuse(pictures))])
        print(f"| {name} | {len(pictures)} | {rows[-1][0]:.4f} | {rows[-1][1]:.4f} |", flush=True)
    print("| mean | | " + " | ".join(f"{x:.4f}" for x in np.mean(rows, 0)) + " |")


if __name__ == "__main__":
    main()
