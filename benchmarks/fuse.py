"""Measures whole `Fuser` calls and command-line starts, each in a fresh process.

    python benchmarks/fuse.py                     # 520x520: seconds, peak memory; CLI starts
    python benchmarks/fuse.py --flips             # and averaged over flips
    python benchmarks/fuse.py --large             # and 6000x4000 in tiles (minutes on a CPU)
    python benchmarks/fuse.py --model mff.safetensors --json
    python benchmarks/fuse.py --model refusion-ivf --beside fusion-ivf cddfuse-ivf   # ratios

Pictures are the example pair, mirrored to the size asked for. Memory is the peak resident set of
the process, imports and compilation included.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks import memory

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PAIR = [str(EXAMPLES / f"coffee_{name}.jpg") for name in ("near", "far")]


def measure_call(model: str, height: int, width: int, repeats: int, ensemble: str) -> dict:
    """One process's work: the first call (compiles), then `repeats` warm ones."""
    import mgdn_jax
    from mgdn_jax.fusing import tiling
    from mgdn_jax.io.files import read_image

    rows, columns = (
        tiling.extend(n, wanted, "symmetric") for n, wanted in ((400, height), (600, width))
    )
    pictures = [read_image(path)[rows[:, None], columns[None]] for path in PAIR]
    fuser = mgdn_jax.load(model)
    imported = memory.peak_megabytes()
    seconds, started = [], time.perf_counter()
    fused = fuser(*pictures, ensemble=ensemble)
    first = time.perf_counter() - started
    for _ in range(repeats):
        started = time.perf_counter()
        fuser(*pictures, ensemble=ensemble)
        seconds.append(time.perf_counter() - started)
    return {
        "size": f"{width}x{height}",
        "ensemble": ensemble,
        "tiles": fuser.plan(*fused.shape[:2]).tiles,
        "first_call_s": first,
        "warm_median_s": statistics.median(seconds) if seconds else None,
        "warm_fastest_s": min(seconds) if seconds else None,
        "peak_mb": memory.peak_megabytes(),
        "peak_before_first_call_mb": imported,
    }


def call_in_fresh_process(
    model: str, height: int, width: int, repeats: int, ensemble: str = "none"
) -> dict:
    """`measure_call` in a process of its own."""
    told = f"{height},{width},{repeats},{ensemble}"
    command = [sys.executable, __file__, "--model", model, "--child", told]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(ran.stdout)


def measure_starts(model: str) -> dict:
    """Wall time of the same command twice: compilation cache empty, then filled."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mgdn_jax", "fuse", *PAIR, "-o", f"{folder}/fused.png"]
        environment = os.environ | {"MGDN_CACHE_DIR": f"{folder}/cache"}
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            subprocess.run([*command, "--model", model, "--quiet"], check=True, env=environment)
            seconds.append(time.perf_counter() - started)
    return {"first_start_s": seconds[0], "second_start_s": seconds[1]}


def print_ratios(models: list[str], height: int, width: int, repeats: int) -> None:
    """Warm calls of several models in turn in this process; medians as ratios to the first.

    Processor time beside wall time, for a machine that does other work as well.
    """
    import numpy as np

    import mgdn_jax

    rng = np.random.default_rng(0)
    pair = [rng.integers(0, 256, (height, width), dtype=np.uint8) for _ in "ab"]
    fusers = {model: mgdn_jax.load(model) for model in models}
    seconds: dict[str, list[tuple[float, float]]] = {model: [] for model in models}
    for repeat in range(repeats + 1):
        for model, fuser in fusers.items():
            started, spent = time.perf_counter(), time.process_time()
            fuser(*pair)
            elapsed = time.perf_counter() - started, time.process_time() - spent
            if repeat:  # the first call compiles
                seconds[model].append(elapsed)
    medians = {model: np.median(rows, axis=0) for model, rows in seconds.items()}
    print(f"{width}x{height}, medians of {repeats} calls in turn, ratios to {models[0]}")
    print(f"{'model':>24} {'wall s':>8} {'ratio':>6} {'cpu s':>8} {'ratio':>6}")
    for model, (wall, cpu) in medians.items():
        first_wall, first_cpu = medians[models[0]]
        print(
            f"{model:>24} {wall:>8.2f} {wall / first_wall:>6.2f} "
            f"{cpu:>8.2f} {cpu / first_cpu:>6.2f}"
        )


def main() -> None:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mgdn-mff", help="name or .safetensors file")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--beside", nargs="+", default=[], help="models to compare with, 480x640")
    parser.add_argument("--large", action="store_true", help="also 6000x4000 in tiles")
    parser.add_argument("--flips", action="store_true", help="also averaged over flips")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        *sizes, ensemble = options.child.split(",")
        print(json.dumps(measure_call(options.model, *map(int, sizes), ensemble)))
        return
    if options.beside:
        print_ratios([options.model, *options.beside], 480, 640, options.repeats)
        return
    calls = [call_in_fresh_process(options.model, 520, 520, options.repeats)]
    if options.flips:
        calls.append(call_in_fresh_process(options.model, 520, 520, options.repeats, "flips"))
    if options.large:
        calls.append(call_in_fresh_process(options.model, 4000, 6000, 0))
    report = {
        "model": options.model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "load_before": os.getloadavg()[0],
        "calls": calls,
        "command_line": measure_starts(options.model),
    }
    if options.json:
        print(json.dumps(report))
        return
    print(f"{options.model}, {report['cores']} cores, load {report['load_before']:.1f} before")
    print(f"{'size':>10} {'tiles':>5} {'ensemble':>8} {'first s':>8} {'warm s':>8} {'peak MB':>8}")
    for call in calls:
        warm = "" if call["warm_median_s"] is None else f"{call['warm_median_s']:.2f}"
        print(
            f"{call['size']:>10} {call['tiles']:>5} {call['ensemble']:>8} "
            f"{call['first_call_s']:>8.2f} {warm:>8} {call['peak_mb']:>8.0f}"
        )
    starts = report["command_line"]
    print(f"mgdn fuse, 600x400, compilation cache empty: {starts['first_start_s']:.1f} s")
    print(f"mgdn fuse, 600x400, compilation cache filled: {starts['second_start_s']:.1f} s")


if __name__ == "__main__":
    main()
