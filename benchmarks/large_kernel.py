"""Large-kernel convolutions: every form of ours against XLA's own and PyTorch eager.

    python benchmarks/large_kernel.py grid [--minutes 10] [--csv docs/benchmarks/large_kernel.csv]
    python benchmarks/large_kernel.py base [--rounds 1] [--repeats 3] [--json FILE]
    python benchmarks/large_kernel.py network

"grid" goes through sizes, kernels and channels, dense and depthwise, value and gradient, in one
process ("taken" is what `method=None` does, which for gradients may mix the forms); a case whose
direct form would take too long is left out, and it ends when its minutes are over. "base" runs the
distinct large-kernel convolutions of LKC-FUNet's base network on a 480x640 pair, each side in a
process of its own per convolution, sides in turn, and adds them up as often as the network has
them. "network" fuses that pair with the whole network, freshly drawn, and prints the peak memory of
its process, Python and the compiler included.

Wall times are those of the machine as it is. Where other work shares it, the processor seconds of
the process are the steadier figure: both are given. Ratios are PyTorch's (or XLA's) time over ours.
"""

import argparse
import csv
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks import memory

# (how often, height, width, kernel, in, out, groups)
BASE = [
    (1, 480, 640, 15, 32, 128, 1),
    (4, 480, 640, 15, 128, 128, 1),
    (1, 480, 640, 15, 160, 128, 1),
    (1, 480, 640, 15, 256, 128, 1),
    (3, 240, 320, 11, 128, 128, 1),
    (1, 240, 320, 11, 256, 128, 1),
    (3, 120, 160, 5, 128, 128, 1),
    (1, 120, 160, 5, 256, 128, 1),
    (2, 480, 640, 15, 192, 192, 192),
    (3, 240, 320, 11, 192, 192, 192),
    (5, 120, 160, 5, 192, 192, 192),
]
SIZES = [(32, 32), (64, 64), (128, 128), (256, 256), (480, 640)]
KERNELS = [5, 7, 11, 15, 23, 31]
CHANNELS = [8, 32, 128]
MOST = 1.5e10  # multiply-adds of the direct form that a case of the grid may have
FIELDS = ("layer", "height", "width", "kernel", "channels", "mode", "form", "wall_s", "cpu_s")


def timed(call: Callable[[], Any], repeats: int, budget: float) -> tuple[list[float], list[float]]:
    """Wall and processor seconds of repeats, at least one, that fit the budget in seconds."""
    wall, cpu = [], []
    began = time.perf_counter()
    while len(wall) < repeats and (not wall or time.perf_counter() - began < budget):
        start, used = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
    return wall, cpu


def arrays(h: int, w: int, k: int, i: int, o: int, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Random input (1, h, w, i) and kernel (k, k, i / groups, o)."""
    random = np.random.default_rng(0)
    x = random.standard_normal((1, h, w, i), dtype=np.float32)
    return x, random.standard_normal((k, k, i // groups, o), dtype=np.float32)


def ours(x: np.ndarray, kernel: np.ndarray, groups: int, method: str | None, gradient: bool):
    """A compiled call; the gradient is that of the sum of squares to both arguments."""
    import jax
    import jax.numpy as jnp

    from mgdn_jax.layers.large_kernel import large_kernel_conv

    def value(x, kernel):
        return large_kernel_conv(x, kernel, groups=groups, method=method)

    def loss(x, kernel):
        return jnp.sum(jnp.square(value(x, kernel)))

    program = jax.jit(jax.grad(loss, (0, 1)) if gradient else value)
    placed = jnp.asarray(x), jnp.asarray(kernel)
    compiled = program.lower(*placed).compile()
    return lambda: jax.block_until_ready(compiled(*placed))


def theirs(x: np.ndarray, kernel: np.ndarray, groups: int, gradient: bool):
    """The same in PyTorch eager."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    x = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous().requires_grad_(gradient)
    kernel = torch.from_numpy(kernel).permute(3, 2, 0, 1).contiguous().requires_grad_(gradient)

    def call():
        with torch.set_grad_enabled(gradient):
            y = torch.nn.functional.conv2d(x, kernel, padding=kernel.shape[2] // 2, groups=groups)
            if gradient:
                torch.autograd.grad(y.square().sum(), (x, kernel))

    return call


def one(side: str, case: list[int], repeats: int) -> dict[str, Any]:
    """One process's work for "base"."""
    _, h, w, k, i, o, groups = case
    x, kernel = arrays(h, w, k, i, o, groups)
    if side == "torch":
        call = theirs(x, kernel, groups, False)
    else:
        call = ours(x, kernel, groups, None, False)
    if side == "jax" or k * h < 5000:
        call()  # PyTorch has nothing to warm up that shows beside half a minute
    wall, cpu = timed(call, repeats, 60)
    return {"wall": wall, "cpu": cpu, "peak_mb": memory.peak_megabytes()}


def base(options: argparse.Namespace) -> None:
    """The convolutions of the network, each as often as it has it."""
    found = [{side: {"wall": [], "cpu": [], "peak_mb": 0.0} for side in ("jax", "torch")}
             for _ in BASE]  # fmt: skip
    for _, (case, rows) in itertools.product(range(options.rounds), zip(BASE, found, strict=True)):
        for side, row in rows.items():
            command = [sys.executable, __file__, "one", "--side", side, "--case", json.dumps(case)]
            command += ["--repeats", str(options.repeats if side == "jax" else 1)]
            ran = subprocess.run(command, check=True, capture_output=True, text=True)
            report = json.loads(ran.stdout)
            row["wall"] += report["wall"]
            row["cpu"] += report["cpu"]
            row["peak_mb"] = max(row["peak_mb"], report["peak_mb"])
        times, h, w, k, i, o, groups = case
        ratio = {key: statistics.median(rows["torch"][key]) / statistics.median(rows["jax"][key])
                 for key in ("wall", "cpu")}  # fmt: skip
        name = f"{times} x {k}x{k} {i}->{o}{' depthwise' if groups > 1 else ''} at {h}x{w}"
        ratios = f"PyTorch / ours {ratio['wall']:.1f} wall, {ratio['cpu']:.1f} processor"
        peaks = [f"{side} {row['peak_mb']:.0f} MB" for side, row in rows.items()]
        print(f"{name}: {ratios}; peak {', '.join(peaks)}", flush=True)
    for name, pick in (("medians", statistics.median), ("fastest", min)):
        for which, keep in (("dense", lambda g: g == 1), ("all", lambda g: True)):
            total = {
                (side, key): sum(
                    case[0] * pick(rows[side][key])
                    for case, rows in zip(BASE, found, strict=True)
                    if keep(case[-1])
                )
                for side in ("jax", "torch")
                for key in ("wall", "cpu")
            }
            wall, cpu = (total["torch", key] / total["jax", key] for key in ("wall", "cpu"))
            print(f"{which}, {name}: PyTorch / ours {wall:.1f} wall, {cpu:.1f} processor")
    if options.json:
        rows = [{"case": case, **row} for case, row in zip(BASE, found, strict=True)]
        Path(options.json).write_text(json.dumps(rows, indent=1))


def network(options: argparse.Namespace) -> None:
    """The whole base network in a process that does nothing else."""
    import mgdn_jax
    from mgdn_jax.systems import registry

    config, _, params, stats = registry.create("lkc_funet", "ivf")
    fuser = mgdn_jax.Fuser("lkc_funet", config, params, stats)
    random = np.random.default_rng(0)
    pair = [random.random((480, 640), dtype=np.float32) for _ in range(2)]
    fuser(*pair)
    wall, cpu = timed(lambda: fuser(*pair), options.repeats, 120)
    peak = memory.peak_megabytes()
    print(f"{statistics.median(wall):.1f} s wall, {statistics.median(cpu):.1f} s processor")
    print(f"peak memory of the process {peak:.0f} MB")


def grid(options: argparse.Namespace) -> None:
    """Every form at every size that fits the time."""
    from mgdn_jax.layers.large_kernel import METHODS

    cases = [
        (h, w, k, c, groups)
        for (h, w), k, c in itertools.product(SIZES, KERNELS, CHANNELS)
        for groups in (1, c)
        if h * w * k * k * c * c // groups <= MOST
    ]
    # Spread over the whole grid, however early it ends.
    np.random.default_rng(1).shuffle(cases)
    rows: list[dict[str, Any]] = []
    began = time.perf_counter()
    try:
        import torch  # noqa: F401

        forms = ["taken", *METHODS, "torch"]
    except ImportError:
        forms = ["taken", *METHODS]
    for h, w, k, c, groups in cases:
        if time.perf_counter() - began > 60 * options.minutes:
            break
        x, kernel = arrays(h, w, k, c, c, groups)
        for gradient in (False, True):
            if gradient and h * w * k * k * c * c // groups > MOST / 5:
                continue
            calls = {
                form: theirs(x, kernel, groups, gradient)
                if form == "torch"
                else ours(x, kernel, groups, None if form == "taken" else form, gradient)
                for form in forms
                if not (gradient and form == "direct" and groups > 1 and h * w * c * k * k > 3e7)
            }
            for call in calls.values():
                call()
            for form, call in calls.items():
                wall, cpu = timed(call, 5, 1.0)
                rows.append(dict(zip(FIELDS, (
                    "dense" if groups == 1 else "depthwise", h, w, k, c,
                    "gradient" if gradient else "value", form,
                    f"{statistics.median(wall):.5f}", f"{statistics.median(cpu):.5f}",
                ), strict=True)))  # fmt: skip
        with open(options.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(rows)
    print(f"{len(rows)} rows, {len(cases)} cases, {time.perf_counter() - began:.0f} s")
    summary(rows)


def summary(rows: list[dict[str, Any]]) -> None:
    """What is taken against the best of the pure forms, and PyTorch against what is taken."""
    cases: dict[tuple, dict[str, float]] = {}
    for row in rows:
        key = tuple(row[name] for name in FIELDS[:6])
        cases.setdefault(key, {})[row["form"]] = float(row["wall_s"])
    for layer, mode in itertools.product(("depthwise", "dense"), ("value", "gradient")):
        found = [times for key, times in cases.items() if key[0] == layer and key[5] == mode]
        if not found:
            continue
        off = [t["taken"] / min(v for k, v in t.items() if k not in ("taken", "torch"))
               for t in found]  # fmt: skip
        line = f"{layer} {mode}, {len(found)} cases: taken / best pure form "
        line += f"{statistics.median(off):.2f}, worst {max(off):.2f}"
        if "torch" in found[0]:
            ratios = [t["torch"] / t["taken"] for t in found]
            line += f"; PyTorch / taken {statistics.median(ratios):.2f}"
        print(line)


def main() -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("grid", "base", "network", "one"))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--csv", default="docs/benchmarks/large_kernel.csv")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json")
    parser.add_argument("--side", choices=("jax", "torch"), help=argparse.SUPPRESS)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == "one":
        print(json.dumps(one(options.side, options.case, options.repeats)))
    else:
        {"base": base, "grid": grid, "network": network}[options.what](options)


if __name__ == "__main__":
    main()
