"""Times the spatially variant filter against PyTorch's unfold formulation of the same operator.

    python -m benchmarks.dynamic_filter
    python -m benchmarks.dynamic_filter --shapes 1x520x520x30 --rounds 7 --json out.json

Both sides run in one process on the same number of threads, turn and turn about, so that whatever
else the machine does meets both: read the ratios, not the milliseconds. "gradient" is forward and
backward, to the image and to the kernels. Temporaries are what XLA reserves beyond arguments and
results. PyTorch is optional; without it only our side is timed.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from mgdn_jax.layers.dynamic_filter import IMPLEMENTATIONS, dynamic_filter

SHAPES = ("1x520x520x30", "8x64x64x30", "8x96x96x30")
SIZE = 7


def ours(implementation: str) -> dict[str, Callable]:
    """Forward and gradient as functions of (x, kernels, cotangent)."""
    operator = partial(dynamic_filter, kernel_size=SIZE, implementation=implementation)

    def forward(x, kernels, cotangent):
        del cotangent
        return operator(x, kernels)

    def gradient(x, kernels, cotangent):
        out, pull = jax.vjp(operator, x, kernels)
        return out, pull(cotangent)

    return {"forward": forward, "gradient": gradient}


def compiled(
    function: Callable, arrays: list[np.ndarray]
) -> tuple[Callable[[], None], dict[str, float]]:
    """A blocking call of the function, with its compile seconds and temporary megabytes."""
    operands = [jax.device_put(a) for a in arrays]
    begin = time.perf_counter()
    executable = jax.jit(function).lower(*operands).compile()
    seconds = time.perf_counter() - begin
    memory = executable.memory_analysis()
    facts = {"compile_s": seconds}
    if memory is not None:
        facts["temporaries_mb"] = memory.temp_size_in_bytes / 1e6

    def call():
        jax.block_until_ready(executable(*operands))

    return call, facts


def torch_side(
    torch: Any, arrays: list[np.ndarray]
) -> tuple[dict[str, Callable[[], None]], np.ndarray]:
    """The plain formulation: unfold all patches, multiply, sum; and its result, channels last."""
    x, kernels, cotangent = (torch.from_numpy(a).permute(0, 3, 1, 2).contiguous() for a in arrays)

    def operator(x, kernels):
        n, c, h, w = x.shape
        padded = torch.nn.functional.pad(x, [SIZE // 2] * 4, mode="replicate")
        patches = torch.nn.functional.unfold(padded, SIZE).reshape(n, c, SIZE * SIZE, h, w)
        return (patches * kernels[:, None]).sum(2)

    def forward():
        with torch.no_grad():
            operator(x, kernels)

    def gradient():
        leaves = [x.clone().requires_grad_(), kernels.clone().requires_grad_()]
        torch.autograd.grad(operator(*leaves), leaves, cotangent)

    with torch.no_grad():
        result = operator(x, kernels).permute(0, 2, 3, 1).numpy()
    return {"forward": forward, "gradient": gradient}, result


def measure(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each call; the calls take turns, after one turn that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def compare(shape: str, implementation: str, torch: Any, rounds: int) -> list[dict[str, Any]]:
    """Rows of the table for one shape, `batch x height x width x channels`."""
    n, h, w, c = (int(side) for side in shape.split("x"))
    rng = np.random.default_rng(0)
    widths = (c, SIZE * SIZE, c)
    arrays = [rng.standard_normal((n, h, w, d)).astype(np.float32) for d in widths]
    theirs, difference = {}, None
    if torch is not None:
        theirs, result = torch_side(torch, arrays)
        result_here = dynamic_filter(*arrays[:2], kernel_size=SIZE, implementation=implementation)
        difference = float(np.abs(np.asarray(result_here) - result).max())
    rows = []
    for name, function in ours(implementation).items():
        call, facts = compiled(function, arrays)
        calls = {"ours": call} | ({"torch": theirs[name]} if theirs else {})
        medians = measure(calls, rounds)
        row = {"shape": shape, "pass": name, "ours_ms": 1e3 * medians["ours"], **facts}
        if theirs:
            row["torch_ms"] = 1e3 * medians["torch"]
            row["ratio"] = medians["torch"] / medians["ours"]
            row["max_difference"] = difference
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]], title: str) -> Table:
    """The rows for the terminal."""
    columns = {
        "ours_ms": ("ours, ms", "{:.1f}"),
        "torch_ms": ("torch, ms", "{:.0f}"),
        "ratio": ("ratio", "{:.1f}x"),
        "temporaries_mb": ("temporaries, MB", "{:.1f}"),
        "compile_s": ("compile, s", "{:.2f}"),
        "max_difference": ("max difference", "{:.1e}"),
    }
    out = Table(title=title)
    for heading in ("shape", "pass"):
        out.add_column(heading)
    for heading, _ in columns.values():
        out.add_column(heading, justify="right")
    for row in rows:
        cells = [form.format(row[key]) if key in row else "-" for key, (_, form) in columns.items()]
        out.add_row(row["shape"], row["pass"], *cells)
    return out


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Runs the comparison, prints the table, returns (and optionally stores) its rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="as 8x64x64x30 (n, h, w, c)")
    parser.add_argument("--rounds", type=int, default=5, help="timed turns per side")
    parser.add_argument("--implementation", default="auto", choices=["auto", *IMPLEMENTATIONS])
    parser.add_argument("--no-torch", action="store_true", help="time our side only")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    args = parser.parse_args(argv)

    console = Console()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch = None
    if not args.no_torch:
        try:
            import torch
        except ImportError:
            console.print("PyTorch is not installed: timing our side only (pip install torch).")
        else:
            torch.set_num_threads(cores or 1)
    device = jax.devices()[0]
    name = platform.processor() or platform.machine() if device.platform == "cpu" else ""
    facts = {
        "device": " ".join(filter(None, [device.device_kind, name])),
        "cores": cores,
        "jax": jax.__version__,
        "torch": None if torch is None else torch.__version__,
        "rounds": args.rounds,
        "implementation": args.implementation,
    }
    rows = []
    for shape in args.shapes:
        rows += compare(shape, args.implementation, torch, args.rounds)
    console.print(
        table(rows, f"dynamic filter {SIZE}x{SIZE}, float32, {facts['device']}, {cores} cores")
    )
    if args.json:
        args.json.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    return rows


if __name__ == "__main__":
    main()
