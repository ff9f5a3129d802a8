"""Does exchanging channels help? CEN with and without, on one schedule, over several seeds.

    mgdn data prepare pairs --source DIR/ivf/train --folders ir vi --name ivf
    python benchmarks/exchange.py --workdir runs/exchange [--seeds 0 1 2] [--steps 600]
        [--dataset ivf] [--change recipe.sparsity=1e-4]

Runs of configs/cen.py:ivf and ivf_plain, equal in seed, first weights, and every batch. They are
judged by the loss of the fused picture on pairs held out from both. Writes exchange.csv and, of the
share of channels that are exchanged, exchange.svg into the workdir. The rate of the scales grows as
the run gets shorter, so that a scale that nothing holds gets as far in any number of steps. Goes on
where it was interrupted. `--change` sets fields of the config in all runs; each set of changes, and
each number of steps, wants a workdir of its own.
"""

import argparse
import ast
import csv
import json
import statistics
import sys
from pathlib import Path

import jax

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.curves import COLOURS, drawing  # noqa: E402
from configs.cen import get_config  # noqa: E402
from mgdn_jax.training import fit  # noqa: E402

PRESETS = {True: "ivf", False: "ivf_plain"}
SHARES = ("exchanging.0", "exchanging.1")
NAMES = ("infrared", "visible")
COLUMNS = ("seed", "exchange", "step", "held_out_loss", "share_infrared", "share_visible")


def changed(text: str) -> tuple[str, object]:
    """FIELD=VALUE, the value as Python writes it, or a plain word."""
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def run(exchange: bool, seed: int, told: argparse.Namespace) -> list[dict]:
    """The lines of the log of one run."""
    config = get_config(PRESETS[exchange])
    steps, scales = told.steps, config.optimiser.networks.scales
    scales.learning_rate *= config.train.steps / steps
    config.data.dataset = told.dataset
    config.optimiser.warmup = scales.warmup = min(scales.warmup, steps // 8)
    config.train.update({"steps": steps, "seed": seed, "keep": 1, "save_every": 50})
    config.train.update({"eval_every": max(1, steps // 8), "log_every": max(1, steps // 40)})
    config.update_from_flattened_dict(dict(told.change))
    folder = told.workdir / f"{PRESETS[exchange]}-{seed}"
    if fit(config, folder, command="python benchmarks/exchange.py").status == "stopped":
        sys.exit(f"{folder}: was stopped; the same command goes on")
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def table(runs: dict[tuple[bool, int], list[dict]]) -> list[list]:
    """Rows of `COLUMNS`, from what was held out."""
    return [
        [seed, exchange, row["step"], f"{row['loss']:.6f}", *(f"{row[s]:.4f}" for s in SHARES)]
        for (exchange, seed), rows in runs.items()
        for row in rows
        if row["kind"] == "validation"
    ]


def picture(runs: dict[tuple[bool, int], list[dict]]) -> str:
    """The share of channels that are exchanged, by step, a line for each branch and seed."""
    lines = []
    for (exchange, _), rows in runs.items():
        for share, name, colour in zip(SHARES, NAMES, COLOURS, strict=False):
            points = [(row["step"], row[share]) for row in rows if row["kind"] == "train"]
            if exchange:
                lines.append((f"{name} branch", colour, 1.6, points))
    return drawing(lines, "share of channels that are exchanged, by step")


def main() -> None:
    """Runs what is missing, then writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--dataset", default="ivf", help="a prepared set of pairs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--change", type=changed, nargs="+", default=[], metavar="FIELD=VALUE")
    told = parser.parse_args()
    if told.steps < 1:
        parser.error(f"--steps is {told.steps} and must be 1 or more")
    # Seeds differ in values only: the second run of a kind finds its program compiled.
    jax.config.update("jax_compilation_cache_dir", str(told.workdir / "compiled"))
    runs = {(kind, seed): run(kind, seed, told) for seed in told.seeds for kind in PRESETS}
    with (told.workdir / "exchange.csv").open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(COLUMNS)
        out.writerows(table(runs))
    (told.workdir / "exchange.svg").write_text(picture(runs), encoding="utf-8")
    last = {key: [r for r in rows if r["kind"] == "validation"][-1] for key, rows in runs.items()}
    gains = []
    for seed in told.seeds:
        mixed, plain = last[True, seed], last[False, seed]
        gains.append(plain["loss"] - mixed["loss"])
        shares = ", ".join(f"{mixed[s]:.1%}" for s in SHARES)
        print(f"seed {seed}: with {mixed['loss']:.5f}, without {plain['loss']:.5f}; {shares}")
    print(f"without less with: {statistics.mean(gains):.5f} (mean of {len(gains)} seeds)")


if __name__ == "__main__":
    main()
