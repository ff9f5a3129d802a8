"""Whether fusing thousands of pictures stays within its memory, its threads and its files.

    python benchmarks/soak.py [--model refusion-ivf] [--pairs 3000] [--sizes 40] [--bad 30] [--json]

Makes two folders with that many small pairs in that many sizes; so many of them are bad, of five
kinds in turn: cut short, empty, noise, of two sizes, a pipe. They are fused twice, each time by a
process of its own: by `mgdn fuse` (`command`) and by `mgdn_jax.fuse_folders` (`python`), with an
empty cache of compiled programs. Resident memory, threads, open files and files of that cache are
read off the system (Linux) four times a second, beside the number of results.

The result holds where after the first 200 results memory never exceeds what it was then by more
than 5 per cent, and the last quarter of the samples has no more threads, open files and cached
programs than the first one after them: of open files, which come and go with every picture, the
median counts. Every good pair has its result, every bad one its sentence, and the process says by
its exit status 1 that some failed. The exit status of the soak is 1 where one does not hold.
"""

import argparse
import dataclasses
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mgdn_jax.io import codec

WARM, GROWTH = 200, 1.05
WAYS = ("command", "python")
BAD = ("short", "empty", "noise", "sizes", "pipe")
PYTHON = """
import sys, mgdn_jax
written = mgdn_jax.fuse_folders(sys.argv[1], sys.argv[2], output=sys.argv[3], model=sys.argv[4])
errors = {name: str(e) for name, e in written.items() if isinstance(e, mgdn_jax.InputError)}
for name, sentence in errors.items():
    print(f"{name}: {sentence}", file=sys.stderr)
sys.exit(1 if errors else 0)
"""


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a process takes: results so far, MiB of memory, threads, open files, cached programs."""

    results: int
    memory: float
    threads: int
    files: int
    programs: int


def make_pairs(folder: Path, pairs: int, sizes: int, bad: int) -> list[str]:
    """Writes `ir` and `vi` with smooth noise; returns the names of the bad ones."""
    rng = np.random.default_rng(0)
    for source in ("ir", "vi"):
        (folder / source).mkdir(parents=True)
    ruined = {round((i + 0.5) * pairs / bad): BAD[i % len(BAD)] for i in range(bad)}
    for number in range(pairs):
        height, width = 24 + number % sizes, 32 + 3 * (number % sizes) % 40
        picture = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        name = f"{number}.png"
        (folder / "ir" / name).write_bytes(codec.encode_png(picture[..., 0]))
        content = codec.encode_png(picture)
        kind = ruined.get(number)
        if kind == "pipe":
            os.mkfifo(folder / "vi" / name)
            continue
        if kind == "sizes":
            content = codec.encode_png(picture[: height // 2])
        changes = {"short": content[: len(content) // 2], "empty": b"", "noise": rng.bytes(500)}
        (folder / "vi" / name).write_bytes(changes.get(kind or "", content))
    return [str(number) for number in ruined]


def look(process: int, results: Path, cache: Path) -> Sample | None:
    """Reads a sample off the system; None where the process has ended."""
    place = Path("/proc", str(process))
    try:
        status = dict(
            line.split(":\t", 1)
            for line in (place / "status").read_text().splitlines()
            if ":" in line
        )
        files = len(os.listdir(place / "fd"))
        memory = int(status["VmRSS"].split()[0]) / 1024
    except (OSError, KeyError):
        return None
    programs = sum(1 for path in cache.rglob("*") if path.is_file()) if cache.exists() else 0
    done = sum(1 for _ in results.glob("*.png")) if results.exists() else 0
    return Sample(done, memory, int(status["Threads"]), files, programs)


def soak(way: str, folder: Path, model: str) -> tuple[list[Sample], int, str, float]:
    """Fuses the folders in a process; samples, exit status, messages and seconds of processor."""
    results, cache = folder / f"results_{way}", folder / f"cache_{way}"
    sources = [str(folder / source) for source in ("ir", "vi")]
    if way == "command":
        options = ["-o", str(results), "--model", model]
        command = [sys.executable, "-m", "mgdn_jax", "fuse", *sources, *options]
    else:
        command = [sys.executable, "-c", PYTHON, *sources, str(results), model]
    environment = os.environ | {"MGDN_CACHE_DIR": str(cache)}
    samples: list[Sample] = []
    with tempfile.TemporaryFile("w+") as said:
        started = os.times()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=said)
        while process.poll() is None:
            sample = look(process.pid, results, cache)
            if sample is not None:
                samples.append(sample)
            time.sleep(0.25)
        ended = os.times()
        said.seek(0)
        text = said.read()
    seconds = sum(ended[2:4]) - sum(started[2:4])
    return samples, process.returncode, text, seconds


def verdict(samples: Sequence[Sample]) -> dict[str, float | int | bool]:
    """What grew after the first results, and whether all of it is within bounds."""
    start = next((i for i, sample in enumerate(samples) if sample.results >= WARM), None)
    if start is None or start + 1 >= len(samples):
        raise SystemExit(f"fewer than {WARM} results were seen; give more pairs")
    first, rest = samples[start], samples[start + 1 :]
    quarter = max(1, len(rest) // 4)
    early, late = [first, *rest[:quarter]], rest[-quarter:]
    most = max(sample.memory for sample in rest)
    growth = most / first.memory
    figures: dict[str, float | int | bool] = {
        f"memory_at_{WARM}_mb": round(first.memory, 1),
        "memory_most_mb": round(most, 1),
        "memory_growth": round(growth, 4),
    }
    holds = growth <= GROWTH
    for field, middle in (("threads", max), ("files", statistics.median), ("programs", max)):
        before, after = (middle(getattr(s, field) for s in some) for some in (early, late))
        figures |= {f"{field}_early": before, f"{field}_late": after}
        holds = holds and after <= before
    return figures | {"holds": holds}


def main() -> None:
    """Prints the figures of both ways, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="refusion-ivf", help="name or .safetensors file")
    parser.add_argument("--pairs", type=int, default=3000)
    parser.add_argument("--sizes", type=int, default=40)
    parser.add_argument("--bad", type=int, default=30)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = {}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        ruined = make_pairs(folder, options.pairs, options.sizes, options.bad)
        for way in options.ways:
            samples, status, text, seconds = soak(way, folder, options.model)
            figures = verdict(samples)
            results = len(list((folder / f"results_{way}").glob("*.png")))
            named = sum(1 for name in ruined if re.search(rf"(?<!\d){name}(?!\d)", text))
            complete = (results, named, status) == (options.pairs - options.bad, options.bad, 1)
            figures |= {"results": results, "sentences": named, "exit": status}
            figures |= {"cpu_s": round(seconds, 1)}
            report[way] = figures | {"holds": bool(figures["holds"]) and complete}
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        for way, figures in report.items():
            print(way)
            for name, value in figures.items():
                print(f"  {name:<18}{value}")
    sys.exit(0 if all(figures["holds"] for figures in report.values()) else 1)


if __name__ == "__main__":
    main()
