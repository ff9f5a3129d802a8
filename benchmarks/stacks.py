"""Hand-held stacks and brackets, fused beside the programs that photographers use.

    python benchmarks/stacks.py --data data --scenes stacks/pcb stacks/step --repeats 3 --out DIR
    python benchmarks/stacks.py --many 20 --megapixels 12 --repeats 1 --out DIR

A scene is a folder of frames. Focus stacks go through `align_image_stack -m -a` and `enfuse` with
the options for focus, and through `mgdn fuse --task focus`; brackets through
`align_image_stack -a` and `enfuse` as it comes, and through `mgdn fuse --task exposure`. Whole
commands are timed, cold but for the cache of compiled programs, in turns; medians. Memory is the
largest that a command held. `--many` makes a stack of so many frames: a sweep of focus over a large
texture, shaken and breathing.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent

sys.path.insert(0, str(ROOT))
from benchmarks import memory  # noqa: E402

FOCUS = ("--exposure-weight=0", "--saturation-weight=0", "--contrast-weight=1", "--hard-mask")


def classic(frames: list[Path], out: Path, is_bracket: bool) -> tuple[float, float]:
    """align_image_stack, then enfuse: seconds together, megabytes of the larger."""
    prefix = out.with_suffix("").as_posix() + "_aligned_"
    for old in out.parent.glob(f"{out.stem}_aligned_*.tif"):
        old.unlink()
    options = [] if is_bracket else ["-m"]
    first = memory.run(["align_image_stack", *options, "-a", prefix, *map(str, frames)])
    aligned = sorted(out.parent.glob(f"{out.stem}_aligned_*.tif"))
    second = memory.run(
        ["enfuse", *([] if is_bracket else FOCUS), "-o", str(out), *map(str, aligned)]
    )
    return first[0] + second[0], max(first[1], second[1])


def ours(frames: list[Path], out: Path, is_bracket: bool) -> tuple[float, float]:
    """`mgdn fuse` with the task."""
    task = "exposure" if is_bracket else "focus"
    program = [sys.executable, "-m", "mgdn_jax", "fuse", *map(str, frames)]
    return memory.run([*program, "-o", str(out), "--task", task, "--quiet"])


def many(folder: Path, count: int, megapixels: float) -> list[Path]:
    """Frames of a sweep of focus from left to right; made once."""
    from scipy import ndimage

    height, width = (int(side * (megapixels / 12) ** 0.5) for side in (3000, 4000))
    folder.mkdir(parents=True, exist_ok=True)
    frames = [folder / f"{number:03d}.jpg" for number in range(count)]
    if all(frame.exists() for frame in frames):
        return frames
    random = np.random.default_rng(0)
    sharp = np.zeros((height, width, 3), np.float32)
    for cells in (8, 40, 200, 800):
        small = Image.fromarray(random.integers(0, 255, (cells, cells, 3), np.uint8))
        sharp += np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.float32) / 4
    levels = [ndimage.gaussian_filter(sharp, (s, s, 0)) for s in (0, 2, 5, 10)]
    place = np.arange(width) / width * count
    for number, frame in enumerate(frames):
        blur = np.clip((np.abs(place - number - 0.5) - 0.5) / count * 12, 0, 3)[None, :, None]
        x = sum(np.clip(1 - np.abs(blur - k), 0, 1) * level for k, level in enumerate(levels))
        angle, growth = random.normal(0, 0.1), 1 + 0.002 * number
        picture = Image.fromarray(np.clip(x, 0, 255).astype(np.uint8))
        dx, dy = random.normal(0, 6, 2)
        c, s = np.cos(np.deg2rad(angle)) / growth, np.sin(np.deg2rad(angle)) / growth
        matrix = (c, s, width / 2 * (1 - c) - height / 2 * s + dx,
                  -s, c, height / 2 * (1 - c) + width / 2 * s + dy)  # fmt: skip
        picture = picture.transform(
            picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
        )
        picture.save(frame, quality=92)
    return frames


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder that the scenes lie in")
    parser.add_argument("--scenes", nargs="*", default=[], help="folders of frames below it")
    parser.add_argument("--many", type=int, help="make a stack of so many frames")
    parser.add_argument("--megapixels", type=float, default=12, help="of a frame of --many")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    scenes = {name: sorted((arguments.data / name).glob("*.jpg")) for name in arguments.scenes}
    if arguments.many:
        name = f"{arguments.many} frames of {arguments.megapixels:g} megapixels"
        frames = many(out / f"many_{arguments.many}_{arguments.megapixels:g}", arguments.many,
                      arguments.megapixels)  # fmt: skip
        scenes[name] = frames
    os.environ["PYTHONPATH"] = str(ROOT)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("| scene | frames | classic s | ours s | ratio | classic MB | ours MB |")
    print("|---|---|---|---|---|---|---|")
    for name, frames in scenes.items():
        is_bracket = "bracket" in name
        stem = name.replace("/", "_").replace(" ", "_")
        measured: dict[str, list[tuple[float, float]]] = {"classic": [], "ours": []}
        for _ in range(arguments.repeats):
            measured["classic"].append(classic(frames, out / f"{stem}_enfuse.tif", is_bracket))
            measured["ours"].append(ours(frames, out / f"{stem}_mgdn.png", is_bracket))
        seconds = {k: statistics.median(s for s, _ in v) for k, v in measured.items()}
        memory = {k: max(m for _, m in v) for k, v in measured.items()}
        print(f"| {name} | {len(frames)} | {seconds['classic']:.1f} | {seconds['ours']:.1f} | "
              f"{seconds['ours'] / seconds['classic']:.2f} | {memory['classic']:.0f} | "
              f"{memory['ours']:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
