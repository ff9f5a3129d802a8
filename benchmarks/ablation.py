"""Trains LKC-FUNet with its parts exchanged, one at a time, and compares what comes out.

    python benchmarks/ablation.py --csv ablation.csv --markdown ablation.md [--steps 300]
        [--seeds 0 1 2] [--data-dir DIR] [--workdir runs/ablation] [--only norm_batch ...]

Every variant is the narrow network of `configs/lkc_funet.py:ivf_cpu` under one short schedule and
differs from the first row by what its name says. Scores are of pictures that were not trained on:
the centre crops of the last 5 % of the set. Differences within the spread over seeds mean nothing,
and a short schedule ranks by speed of learning as much as by what is reached in the end.

Rows that are in the CSV already are skipped, and a run that was cut short goes on from its last
checkpoint.
"""

import argparse
import csv
import io
import os
import pathlib
import statistics
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import mgdn_jax
from configs import lkc_funet
from mgdn_jax import data, metrics, training
from mgdn_jax.errors import InputError
from mgdn_jax.io.disk import write_atomically
from mgdn_jax.systems import registry

SITES = ("norm_in", "norm_res", "norm_lk", "norm_maf")
# Name of a variant -> fields of the model that it changes.
VARIANTS: dict[str, dict[str, Any]] = {
    "as_published": {},  # the mixture: instance, group, layer and batch norm, each at its site
    "norm_batch": dict.fromkeys(SITES, "batch"),
    "norm_instance": dict.fromkeys(SITES, "instance"),
    "norm_group": dict.fromkeys(SITES, "group"),
    "norm_mixed": dict.fromkeys(SITES, "mixed"),  # a learned mixture at every site
    "kernels_3": {"kernels": (3, 3, 3, 3)},
    "kernels_7": {"kernels": (7, 7, 7, 7)},
    "no_maf": {"fusion": "concat"},
}
SCORES = ("Qabf", "SSIM", "MI")
COLUMNS = ("variant", "seed", "steps", "parameters", "loss", *SCORES)


def train(variant: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One row: trains (or goes on training) a variant and scores it."""
    config = lkc_funet.get_config("ivf_cpu")
    # What docs/benchmarks/ablation.csv was made with; the preset has a wider network, another
    # loss, Muon and jitter since.
    config.model.update({"features": 4, "norm_groups": 4, **VARIANTS[variant]})
    config.recipe.update({"intensity": 1.0, "intensity_rule": "max", "gradient_rule": "strength"})
    config.data.dataset = args.dataset
    config.data.validation.update({"crop": args.crop, "limit": args.pictures})
    config.train.update({"steps": args.steps, "seed": seed, "eval_every": 0})
    config.data.train.jitter.update(lkc_funet.JITTER)
    config.optimiser.update({"name": "adam", "learning_rate": 1e-3})
    config.optimiser.warmup = min(config.optimiser.warmup, args.steps // 4)
    config.name = f"{variant}-{seed}"
    workdir = args.workdir / f"{variant}-{seed}-{args.steps}"
    result = training.fit(config, workdir)
    if result.status == "stopped" or result.weights is None:
        raise InputError(f"{workdir}: was stopped; start again to go on")
    fuser = mgdn_jax.load(result.weights)
    scores = score(fuser, args)
    # Two dozen runs' programs in one process use up the memory maps that Linux grants it.
    jax.clear_caches()
    return {
        "variant": variant,
        "seed": seed,
        "steps": args.steps,
        "parameters": registry.count_parameters(fuser.params),
        "loss": result.metrics["loss"],
        **scores,
    }


def score(fuser: Any, args: argparse.Namespace) -> dict[str, float]:
    """Means over the held-out crops, results rounded to 8 bits as files are."""
    loader = data.make_eval_loader(
        args.dataset, batch_size=1, task="pairs", channels=1, split="train[95%:]",
        crop=args.crop, limit=args.pictures,
    )  # fmt: skip
    rows = []
    for batch in loader:
        a, b = batch["a"], batch["b"]
        fused = np.clip(np.asarray(fuser.network(a, b)), 0, 1)
        levels = [np.rint(255.0 * x[0, ..., 0]) for x in (fused, a, b)]
        rows.append(metrics.evaluate(*levels, names=SCORES))
    return {name: statistics.fmean(row[name] for row in rows) for name in SCORES}


def read_rows(path: pathlib.Path) -> list[dict[str, str]]:
    """Finished rows; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if rows and tuple(rows[0]) != COLUMNS:
        raise InputError(f"{path}: has other columns than this program writes; name another file")
    return rows


def written(rows: Iterable[dict[str, Any]]) -> bytes:
    """The rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


PAGE_HEAD = """# Ablation

LKC-FUNet's parts are exchanged, one at a time. Every figure is the mean and the standard deviation
over the seeds, on held-out crops; [ablation.csv](ablation.csv) has every run. The page of
[LKC-FUNet](../systems/lkc_funet.md#ablation) says what follows from it.

"""


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """Mean and standard deviation over the seeds of every variant and number of steps."""
    shown = ("loss", *SCORES)
    arrows = {"loss": "loss ↓", **{name: f"{name} ↑" for name in SCORES}}
    out = [
        "| variant | steps | seeds | parameters | " + " | ".join(arrows[n] for n in shown) + " |",
        "|---" * (4 + len(shown)) + "|",
    ]
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["variant"], row["steps"]), []).append(row)
    for (variant, steps), members in groups.items():
        cells = []
        for name in shown:
            values = [float(row[name]) for row in members]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.4f}{spread}")
        head = f"| {variant} | {steps} | {len(members)} | {int(members[0]['parameters']):,} | "
        out.append(head + " | ".join(cells) + " |")
    return "\n".join(out) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Trains what is missing, row by row, and writes both files after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=pathlib.Path, required=True, help="rows, one a run")
    parser.add_argument("--markdown", type=pathlib.Path, help="table of means and spreads")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/ablation"))
    parser.add_argument("--data-dir", help="folder of prepared sets (MGDN_DATA_DIR)")
    parser.add_argument("--dataset", default="ivf")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--crop", type=int, default=128, help="side of the held-out crops")
    parser.add_argument("--pictures", type=int, default=16, help="held-out pictures")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, help="these variants")
    args = parser.parse_args(argv)
    if args.data_dir:
        os.environ["MGDN_DATA_DIR"] = args.data_dir
    try:
        rows: list[dict[str, Any]] = list(read_rows(args.csv))
        done = {(row["variant"], row["seed"], row["steps"]) for row in rows}
        for seed in args.seeds:  # every variant once before any twice
            for variant in args.only or VARIANTS:
                if (variant, str(seed), str(args.steps)) in done:
                    continue
                rows.append({k: str(v) for k, v in train(variant, seed, args).items()})
                write_atomically(args.csv, written(rows))
                if args.markdown:
                    write_atomically(args.markdown, (PAGE_HEAD + markdown(rows)).encode())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.markdown and rows:
        write_atomically(args.markdown, (PAGE_HEAD + markdown(rows)).encode())
    print(markdown(rows), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
