"""Fuses photographs whose truth is known, at 6 and 24 megapixels, beside enfuse and simple rules.

    python benchmarks/photographs.py --natural data/natural/train --csv photographs.csv
    python benchmarks/photographs.py --natural ... --time 3      # and seconds and memory, in turns

A near layer with holes lies over a far one. Each picture has one layer in focus; the other is
blurred by a disk, the near one together with its matte, so that occlusion is exact. Layers are
collages of enlarged training photographs, with noise of 0.8 levels. No scene was used to choose
between metrics of sharpness: the figure is PSNR to the truth.

Methods: `ours` is a `Fuser` call with plain options; `trial` is the formula that it grew from,
literally (fixed prior, direct blend); `evidence` is that without a network; `enfuse` is the program
of that name, with the options for focus. On a part of the picture that needs no tiles, `crop` is
the network at full size, beside `ours` on the same part.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import fft, ndimage

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import memory  # noqa: E402
from mgdn_jax.evaluation import baselines  # noqa: E402
from mgdn_jax.fusing import evidence, reduction  # noqa: E402

SCENES = [(2000, 3000, radius) for radius in (4, 12, 30)]
SCENES += [(4000, 6000, radius) for radius in (4, 12, 24, 30)]
ENFUSE = ("--exposure-weight=0", "--saturation-weight=0", "--contrast-weight=1", "--hard-mask")
CELL, NOISE, CROP = 400, 0.003, 1200
Pair = tuple[np.ndarray, np.ndarray]


def collage(random: np.random.Generator, files: list[Path], height: int, width: int) -> np.ndarray:
    """Pieces of photographs, enlarged up to 2.5 times, side by side; (H, W, 3) in [0, 1]."""
    out = np.empty((height, width, 3), np.float32)
    for top in range(0, height, CELL):
        for left in range(0, width, CELL):
            picture = Image.open(files[random.integers(len(files))]).convert("RGB")
            grown = random.uniform(1.0, 2.5)
            sides = [max(CELL, round(n * grown)) for n in picture.size]
            x = np.asarray(picture.resize(sides, Image.Resampling.LANCZOS), np.float32) / 255
            x = x[:, ::-1] if random.random() < 0.5 else x
            rows, columns = min(CELL, height - top), min(CELL, width - left)
            first = [random.integers(n - m + 1) for n, m in zip(x.shape, (rows, columns),
                                                                strict=False)]  # fmt: skip
            piece = x[first[0] :, first[1] :][:rows, :columns]
            out[top : top + rows, left : left + columns] = piece
    return out


def matte(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Where the near layer is: smooth blobs and four bars, edges one pixel wide; (H, W)."""
    field = np.zeros((height, width))
    for cells, gain in (((7, 10), 1.0), ((28, 40), 0.35)):
        coarse = random.normal(size=cells)
        grown = ndimage.zoom(coarse, (height / cells[0], width / cells[1]), order=3)
        field += gain * grown[:height, :width]
    slope = np.hypot(*np.gradient(field)).clip(1e-6)
    alpha = np.clip(0.5 + (field - 0.1) / slope, 0, 1)
    rows, columns = np.mgrid[:height, :width]
    for _ in range(4):
        angle, offset = random.uniform(0, np.pi), random.uniform(-0.4, 0.4) * height
        across = (columns - width / 2) * np.cos(angle) + (rows - height / 2) * np.sin(angle)
        reach = random.uniform(4, 20) * height / 2000
        alpha = np.maximum(alpha, np.clip(reach - np.abs(across - offset) + 0.5, 0, 1))
    return alpha.astype(np.float32)


def disk(radius: float) -> np.ndarray:
    """A disk of sum one, its rim by area."""
    reach, fine = int(np.ceil(radius)) + 1, 8
    x = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - (reach + 0.5)
    inside = np.hypot(x[:, None], x[None]) <= radius
    kernel = inside.reshape(2 * reach + 1, fine, 2 * reach + 1, fine).mean((1, 3))
    return (kernel / kernel.sum()).astype(np.float32)


def blurred(x: np.ndarray, radius: float) -> np.ndarray:
    """(H, W, C) convolved with a disk; mirrored at the edge."""
    kernel = disk(radius)
    reach = len(kernel) // 2
    height, width = x.shape[:2]
    size = [fft.next_fast_len(n + 4 * reach, True) for n in (height, width)]
    spectrum = fft.rfft2(kernel, size, workers=-1)
    out = np.empty_like(x)
    for channel in range(x.shape[-1]):
        plane = np.pad(x[..., channel], reach, mode="symmetric")
        plane = fft.irfft2(fft.rfft2(plane, size, workers=-1) * spectrum, size, workers=-1)
        out[..., channel] = plane[2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width]
    return out


def scene(
    seed: int, files: list[Path], height: int, width: int, radius: float
) -> tuple[Pair, np.ndarray]:
    """The picture that is sharp near, the one that is sharp far, and the truth; uint8."""
    random = np.random.default_rng(seed)
    near, far = (collage(random, files, height, width) for _ in range(2))
    alpha = matte(random, height, width)[..., None]
    truth = alpha * near + (1 - alpha) * far
    first = alpha * near + (1 - alpha) * blurred(far, radius)
    second = blurred(alpha * near, radius) + (1 - blurred(alpha, radius)) * far

    def stored(x: np.ndarray, noise: float) -> np.ndarray:
        x = x + noise * random.standard_normal(x.shape, np.float32)
        return np.rint(255 * np.clip(x, 0, 1)).astype(np.uint8)

    return (stored(first, NOISE), stored(second, NOISE)), stored(truth, 0)


def psnr(picture: np.ndarray, truth: np.ndarray) -> float:
    """In dB, of uint8 pictures."""
    error = np.mean((picture.astype(np.float32) - truth) ** 2, dtype=np.float64)
    return float(10 * np.log10(255**2 / error))


def trial(fuser, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The formula with a fixed share of the prior and a direct blend."""
    size = reduction.size(*first.shape[:2])
    small = [reduction.reduced(x, *size) for x in (first, second)]
    weights = fuser._weights(small, fuser.resolve())
    members = [evidence.Evidence(x) for x in (first, second)]
    for number, member in enumerate(members):
        member.add_prior(weights[..., number])
    every = slice(0, first.shape[0]), slice(0, first.shape[1])
    share = evidence.weights(members, *every)[0][..., None]
    return np.rint(share * first + (1 - share) * second).astype(np.uint8)


def enfuse(folder: Path, pair: Pair) -> np.ndarray:
    """What the program makes of the pair, through files."""
    names = _stored_pair(folder, pair)
    subprocess.run(
        ["enfuse", "-o", folder / "out.png", *ENFUSE, *names], check=True, capture_output=True
    )
    return np.asarray(Image.open(folder / "out.png").convert("RGB"))


def _stored_pair(folder: Path, pair: Pair) -> list[str]:
    names = [str(folder / f"{name}.png") for name in ("a", "b")]
    for name, picture in zip(names, pair, strict=True):
        Image.fromarray(picture).save(name, compress_level=1)
    return names


def methods(folder: Path, has_enfuse: bool) -> dict[str, Callable[[np.ndarray, np.ndarray],
                                                                  np.ndarray]]:  # fmt: skip
    """What is compared, by name."""
    import mgdn_jax

    fuser = mgdn_jax.load("mgdn-mff")
    rules = {
        "ours": fuser,
        "trial": lambda a, b: trial(fuser, a, b),
        "evidence": baselines.focus_evidence,
        "enfuse": lambda a, b: enfuse(folder, (a, b)),
        "ours on crop": lambda a, b: fuser(*(x[:CROP, :CROP] for x in (a, b)), scale=2),
        "crop": lambda a, b: fuser(*(x[:CROP, :CROP] for x in (a, b)), scale=1),
    }
    if not has_enfuse:
        del rules["enfuse"]
    return rules


def quality(
    arguments: argparse.Namespace, folder: Path, seeds: int, has_enfuse: bool
) -> list[dict[str, object]]:
    """Rows of PSNR, one for each scene."""
    files = sorted(Path(arguments.natural).glob("*.jpg"))
    rules, rows = methods(folder, has_enfuse), []
    for height, width, radius in SCENES:
        if arguments.megapixels and round(height * width / 1e6) not in arguments.megapixels:
            continue
        for seed in range(seeds):
            pair, truth = scene(seed, files, height, width, radius)
            row: dict[str, object] = {"size": f"{width}x{height}", "radius": radius, "seed": seed}
            for name, rule in rules.items():
                if "crop" in name and (height > 2000 or not arguments.crop):
                    continue
                result = rule(*pair)
                row[name] = round(psnr(result, truth[: len(result), : result.shape[1]]), 2)
            print(row, flush=True)
            rows.append(row)
    return rows


def child(arguments: argparse.Namespace) -> None:
    """Warm calls of a process of its own: says READY, then a time for every line it reads."""
    import mgdn_jax
    from mgdn_jax.io.files import read_image

    fuser = mgdn_jax.load("mgdn-mff")
    pair = [read_image(name) for name in arguments.child]
    fuser(*pair)
    print("READY", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        fuser(*pair)
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "peak": memory.peak_megabytes()}), flush=True)


def timing(arguments: argparse.Namespace, folder: Path) -> None:
    """Seconds and peak memory of a 24-megapixel pair, in turns with enfuse; medians."""
    # The scene is made elsewhere, so that this process stays small beside what it times.
    command = [sys.executable, __file__, "--natural", arguments.natural]
    subprocess.run([*command, "--make", folder], check=True)
    names = [str(folder / f"{name}.png") for name in ("a", "b")]
    command += ["--child", *names]
    ours, theirs, peaks = [], [], [0.0]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(arguments.time):
            process.stdin.write("\n")
            process.stdin.flush()
            said = json.loads(process.stdout.readline())
            ours.append(said["seconds"])
            out = str(folder / "out.tif")
            seconds, peak = memory.run(["enfuse", "-o", out, *ENFUSE, *names])
            theirs.append(seconds)
            peaks = [said["peak"], peak]
            print(f"ours {ours[-1]:.1f} s, enfuse {theirs[-1]:.1f} s", flush=True)
        process.stdin.close()
    print(f"median: ours {statistics.median(ours):.1f} s, enfuse {statistics.median(theirs):.1f} s")
    print(f"peak: ours {peaks[0]:.0f} MB, enfuse {peaks[1]:.0f} MB; load {os.getloadavg()[0]:.1f}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--natural", required=True, help="folder of JPEG photographs")
    parser.add_argument("--megapixels", type=int, nargs="*", help="6, 24 (both)")
    parser.add_argument("--seeds", type=int, default=1, help="scenes of each kind")
    parser.add_argument("--crop", action="store_true", help="and the network at full size")
    parser.add_argument("--csv", help="where the rows go")
    parser.add_argument("--time", type=int, default=0, help="turns of timing, instead of quality")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        files = sorted(Path(arguments.natural).glob("*.jpg"))
        _stored_pair(Path(arguments.make), scene(0, files, 4000, 6000, 24)[0])
        return
    if arguments.child:
        child(arguments)
        return
    with tempfile.TemporaryDirectory() as place:
        if arguments.time:
            timing(arguments, Path(place))
            return
        has_program = any(os.access(Path(p) / "enfuse", os.X_OK) for p in os.get_exec_path())
        rows = quality(arguments, Path(place), arguments.seeds, has_program)
    if arguments.csv:
        with open(arguments.csv, "w", newline="") as stream:
            writer = csv.DictWriter(stream, list(dict.fromkeys(k for row in rows for k in row)))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
