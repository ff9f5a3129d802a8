"""Does learning the loss help? ReFusion with P against the same run with all weights at 1/2.

    mgdn data prepare pairs --source DIR --name mif  # or DIR/ivf/train, ivf
    python benchmarks/learned_loss.py --workdir runs/learned_loss [--task mif] [--seeds 0 1 2]
        [--steps 1000] [--change recipe.even_start=True recipe.meta_after=0.25]

Pairs of runs of configs/refusion.py:mif_cpu or ivf_cpu, without jitter and with networks of half
the width and depth, equal in seed, initial F and R, and every batch; the control freezes the
weights. Judged by the outer loss, R's reconstruction of both sources, on up to 32 training pairs
held out from both; R's loss on the batches it trained on, over the last tenth of the run, is
printed beside it. Writes learned_loss_TASK.csv and .svg into docs/benchmarks. Goes on where it
was interrupted.
`--change` sets fields of the config in both runs of a pair; a task and each set of changes want a
workdir of their own.
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

from benchmarks.curves import drawing  # noqa: E402
from configs.refusion import JITTER, get_config  # noqa: E402
from mgdn_jax.training import fit  # noqa: E402

KINDS = ("learned", "frozen")
NAMES = {"learned": "learned loss", "frozen": "all weights 1/2"}
COLOURS = {"learned": "#0b6e4f", "frozen": "#b3541e"}


def changed(text: str) -> tuple[str, object]:
    """FIELD=VALUE, the value as Python writes it, or a plain word."""
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def curve(kind: str, seed: int, told: argparse.Namespace) -> tuple[list[tuple[int, float]], float]:
    """(step, held-out outer loss) of one run, and R's loss on its last training batches."""
    steps = told.steps
    config = get_config(f"{told.task}_cpu")
    config.data.train.jitter.update(JITTER)
    config.recipe.frozen_weights = kind == "frozen"
    config.model.update({"features": 8, "blocks": 1, "heads": 4})
    config.data.validation.limit = 32
    config.train.update({"steps": steps, "seed": seed, "keep": 1})
    config.train.update({"eval_every": max(1, steps // 8), "save_every": 50, "log_every": 50})
    config.update_from_flattened_dict(dict(told.change))
    folder = told.workdir / f"{kind}-{seed}"
    if fit(config, folder, command="python benchmarks/learned_loss.py").status == "stopped":
        sys.exit(f"{folder}: was stopped; the same command goes on")
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    points = [(row["step"], row["outer_loss"]) for row in rows if row["kind"] == "validation"]
    late = [row for row in rows if row["kind"] == "train" and row["step"] > 0.9 * steps]
    return points, statistics.mean(row["recon"] for row in late)


def main() -> None:
    """Runs what is missing, then writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--task", choices=("mif", "ivf"), default="mif")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--change", type=changed, nargs="+", default=[], metavar="FIELD=VALUE")
    told = parser.parse_args()
    # Seeds differ in values only: the second run of a kind finds its program compiled.
    jax.config.update("jax_compilation_cache_dir", str(told.workdir / "compiled"))
    runs = {(kind, seed): curve(kind, seed, told) for seed in told.seeds for kind in KINDS}
    curves = {key: points for key, (points, _) in runs.items()}
    page = ROOT / "docs" / "benchmarks" / f"learned_loss_{told.task}"
    with page.with_suffix(".csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["kind", "seed", "step", "outer_loss"])
        for (kind, seed), points in curves.items():
            table.writerows([kind, seed, step, f"{value:.6f}"] for step, value in points)
    lines = [(NAMES[kind], COLOURS[kind], 1.6, points) for (kind, _), points in curves.items()]
    picture = drawing(lines, "outer loss on held-out pairs, by step")
    page.with_suffix(".svg").write_text(picture)
    gains = []
    for seed in told.seeds:
        learned, frozen = (curves[kind, seed][-1][1] for kind in KINDS)
        gains.append(frozen / learned)
        print(f"seed {seed}: learned {learned:.5f}, frozen {frozen:.5f}", end="; ")
        learned, frozen = (runs[kind, seed][1] for kind in KINDS)
        print(f"on training batches {learned:.5f}, {frozen:.5f}")
    print(f"frozen over learned: {statistics.median(gains):.3f} (median of {len(gains)} seeds)")


if __name__ == "__main__":
    main()
