"""Times the convolutions of `mgdn_jax.layers.conv` against XLA's own forms.

    python benchmarks/layers.py [--json FILE]

One process, the two forms in turn, medians; the ratio is XLA's time over ours. On CPUs ours are
the forms the networks use; elsewhere both columns should agree, because ours fall back to XLA.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from rich.console import Console
from rich.table import Table

from mgdn_jax.layers import conv

CASES = [(1, 520, 30), (8, 64, 30), (8, 96, 30)]


def xla(x: jax.Array, kernel: jax.Array, groups: int = 1) -> jax.Array:
    """3x3 convolution as XLA does it by itself."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def gradient(f: Callable[..., jax.Array]) -> Callable[..., Any]:
    """Gradient of the summed squares to both arguments."""
    return jax.grad(lambda x, k: jnp.sum(jnp.square(f(x, k))), (0, 1))


def main() -> None:
    """Prints the table; optionally writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="file to write the rows to")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    rows = []
    for batch, side, channels in CASES:
        key = jax.random.key(0)
        x = jax.random.normal(key, (batch, side, side, channels))
        dense = jax.random.normal(key, (3, 3, channels, channels))
        single = jax.random.normal(key, (3, 3, 1, channels))
        forms = {
            "dense": (conv.conv2d, xla, dense),
            "depthwise": (conv.depthwise, lambda x, k, c=channels: xla(x, k, c), single),
        }
        for name, (ours, theirs, kernel) in forms.items():
            for mode, wrap in (("forward", lambda f: f), ("gradient", gradient)):
                programs = [jax.jit(wrap(f)) for f in (ours, theirs)]
                times: list[list[float]] = [[], []]
                for program in programs:
                    jax.block_until_ready(program(x, kernel))
                for _ in range(arguments.rounds):
                    for program, spent in zip(programs, times, strict=True):
                        start = time.perf_counter()
                        jax.block_until_ready(program(x, kernel))
                        spent.append(time.perf_counter() - start)
                mine, xlas = (statistics.median(spent) for spent in times)
                shape = f"{batch}x{side}x{side}x{channels}"
                rows.append({"layer": name, "shape": shape, "mode": mode, "ratio": xlas / mine})
    table = Table("layer", "shape", "mode", "XLA / ours", title=str(jax.devices()[0].device_kind))
    for row in rows:
        table.add_row(row["layer"], row["shape"], row["mode"], f"{row['ratio']:.1f}")
    Console().print(table)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"device": jax.devices()[0].device_kind, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
