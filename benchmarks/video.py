"""What becomes of a film: pairs, a patch that should not move, memory, and frames a second.

    python benchmarks/video.py [--models NAME ...] [--frames 120] [--size 320x256] [--json]
    python benchmarks/video.py --soak 1200 [--size 320x256] [--json]

Makes two films of one scene, stored without loss: a dull thermal one of 10 frames a second, and one
in colour of 30. In the second half something hot and bright walks through the upper left quarter;
the lower right one is still. Each frame bears its number. `mgdn fuse` makes a film of both with
each network, without loss, in a process of its own, whose resident memory is read off the system
(Linux) four times a second.

`pairs` counts the frames whose number can be read right in the result, of those where both cameras
have one. `moves` is by how many levels of 8 bits a value of the still quarter differs between two
frames at most; `coded` is that after the H.264 of `--quality 95`, `alone` where every frame has a
tone and statistics of its own (24 frames around the entrance). Rules without learning, which see
frame by frame by nature, stand beside.

With `--soak`, that many frames go through an untrained network of the system `pyramid`, and a sixth
of them: the most memory that each takes.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from mgdn_jax import image
from mgdn_jax.evaluation import baselines
from mgdn_jax.io import video_writing
from mgdn_jax.io.video import Facts, Video
from mgdn_jax.io.video_frames import Tags

MODELS = ("fusion-ivf", "refusion-ivf", "cddfuse-ivf", "lkc-funet-small-ivf")
RULES = ("base_mean", "base_max", "base_laplacian", "base_hybrid_multiscale")
BITS, SIDE = 8, 8
SOAK = """
import sys, mgdn_jax
config, _, params, stats = mgdn_jax.create("pyramid", "ivf", seed=0)
fuser = mgdn_jax.Fuser("pyramid", config, params, stats)
mgdn_jax.fuse_video(*sys.argv[1:3], output=sys.argv[3], model=fuser, checks=False)
"""


def frames(count: int, size: tuple[int, int], kind: str) -> Iterator[np.ndarray]:
    """Frames of one camera: "ir", gray, or "vi", in colour."""
    rng = np.random.default_rng(0)
    height, width = size
    noise = [ndimage.gaussian_filter(rng.normal(size=size), s) for s in (6, 2, 2, 2)]
    noise = [(n - n.min()) / np.ptp(n) for n in noise]
    for number in range(count):
        frame = 90 + 40 * noise[0] if kind == "ir" else 50 + 110 * np.stack(noise[1:], -1)
        if number >= count // 2:
            left = width // 10 + width // 3 * (number - count // 2) // count
            frame[height // 6 : height // 3, left : left + width // 12] = 250
        for bit in range(BITS):
            frame[:SIDE, bit * SIDE : (bit + 1) * SIDE] = (60, 220)[number >> bit & 1]
        yield frame.round().astype(np.uint8)


def number_of(picture: np.ndarray) -> int:
    """The number that a frame bears."""
    gray = picture.mean(-1) if picture.ndim == 3 else picture
    blocks = [gray[2:-2, 2:-2] for gray in np.split(gray[:SIDE, : BITS * SIDE], BITS, 1)]
    middle = (gray[:SIDE, : BITS * SIDE].max() + gray[:SIDE, : BITS * SIDE].min()) / 2
    return sum(int(block.mean() > middle) << bit for bit, block in enumerate(blocks))


def store(path: Path, pictures: Iterator[np.ndarray], rate: int, quality: int = 100) -> Path:
    """Writes a film."""
    first = next(pictures)
    is_gray = first.ndim == 2
    facts = Facts(
        first.shape[:2], Fraction(rate), Fraction(1, 1000), 8, Tags(), Fraction(1), "", {}
    )
    coding = video_writing.coder(path, quality=quality, is_gray=is_gray, bits=8)
    with video_writing.Writer(path, facts, facts.size, coding) as writer:
        picture, number = first, 0
        while picture is not None:
            start, end = (round(1000 * (number + i) / rate) for i in (0, 1))
            writer.write(picture, start, end - start)
            picture, number = next(pictures, None), number + 1
        return writer.finish()


def read(path: Path) -> np.ndarray:
    """All frames of a film."""
    with Video(path) as video:
        return np.stack([picture.pixels for picture in video.frames(range(len(video)))])


def movement(pictures: np.ndarray) -> int:
    """Levels by which a value of the lower right quarter differs between two frames at most."""
    height, width = pictures.shape[1:3]
    return int(np.ptp(pictures[:, height // 2 :, width // 2 :].astype(int), axis=0).max())


def watched(command: Sequence[str]) -> tuple[str, list[tuple[float, float]]]:
    """Runs a process; what it says on stdout, and seconds and MiB of resident memory."""
    samples = []
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            with contextlib.suppress(OSError, StopIteration, ProcessLookupError):
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                line = next(line for line in lines if line.startswith("VmRSS"))
                samples.append((time.perf_counter() - started, int(line.split()[1]) / 1024))
            time.sleep(0.25)
        said.seek(0)
        text = said.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return text, samples


def of_network(folder: Path, name: str, count: int) -> dict[str, Any]:
    """Figures of one network."""
    target, sources = folder / f"{name}.mkv", [str(folder / "ir.mkv"), str(folder / "vi.mkv")]
    command = [sys.executable, "-m", "mgdn_jax", "fuse", *sources, "--model", name, "--json"]
    command += ["--quality", "100"]
    text, samples = watched([*command, "-o", str(target)])
    result = json.loads(text)["results"][0]
    fused = read(target)
    both = range(0, count, 3)
    coded = store(folder / f"{name}.mp4", iter(fused), 30, 95)
    part = f"{max(0, count // 2 - 12)}:{count // 2 + 12}"
    alone = folder / "alone.mkv"
    watched([*command, "-o", str(alone), "--tone", "picture", "--frames", part])
    # The last frames have run when this many seconds are left.
    fusing = [mib for second, mib in samples if second > samples[-1][0] - result["seconds"]]
    eighth = max(1, len(fusing) // 8)
    return {
        "frames": len(fused),
        "pairs": f"{sum(number_of(fused[k]) == k for k in both)}/{len(both)}",
        "moves": movement(fused),
        "coded": movement(read(coded)),
        "alone": movement(read(alone)),
        "frames_per_second": result["frames_per_second"],
        "memory_early_mb": round(max(fusing[: 2 * eighth])),
        "memory_most_mb": round(max(fusing[2 * eighth :] or fusing)),
        "steps": [step["says"] for step in result["steps"]],
    }


def of_rule(folder: Path, name: str) -> dict[str, Any]:
    """Figures of a rule on luminance."""
    thermal, visible = read(folder / "ir.mkv"), read(folder / "vi.mkv")
    gray = [np.asarray(image.luminance(x.astype(float)))[..., 0].round() for x in visible]
    rule = baselines.BASELINES[name]
    fused = [
        rule(thermal[min(k // 3, len(thermal) - 1)], y.astype(np.uint8)) for k, y in enumerate(gray)
    ]
    return {"frames": len(fused), "moves": movement(np.stack(fused))}


def soak(folder: Path, count: int, size: tuple[int, int]) -> dict[str, Any]:
    """Memory that a film takes at most, beside that of a sixth of it."""
    figures: dict[str, Any] = {}
    for name, number in (("sixth", count // 6), ("whole", count)):
        for kind in ("ir", "vi"):
            store(folder / f"{kind}.mp4", frames(number, size, kind), 30, 90)
        names = [str(folder / name) for name in ("ir.mp4", "vi.mp4", "fused.mp4")]
        _, samples = watched([sys.executable, "-c", SOAK, *names])
        with Video(names[2]) as video:
            figures[f"frames_{name}"] = len(video)
        figures[f"memory_{name}_mb"] = round(max(mib for _, mib in samples), 1)
        figures[f"seconds_{name}"] = round(samples[-1][0], 1)
    return figures


def main() -> None:
    """Prints a block of figures for each network and rule, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--rules", nargs="*", default=list(RULES))
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--size", default="320x256", help="WIDTHxHEIGHT, even numbers")
    parser.add_argument("--soak", type=int, metavar="FRAMES")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    width, height = (int(word) for word in options.size.split("x"))
    size = (height, width)
    report = {}
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        if options.soak:
            report["soak"] = soak(folder, options.soak, size)
        else:
            thermal = (f for k, f in enumerate(frames(options.frames, size, "ir")) if k % 3 == 0)
            store(folder / "ir.mkv", thermal, 10)
            store(folder / "vi.mkv", frames(options.frames, size, "vi"), 30)
            for name in options.models:
                report[name] = of_network(folder, name, options.frames)
            for name in options.rules:
                report[name] = of_rule(folder, name)
    if options.json:
        print(json.dumps(report, indent=1))
        return
    for name, figures in report.items():
        print(name)
        for key, value in figures.items():
            print(f"  {key:<18}{value}")


if __name__ == "__main__":
    main()
