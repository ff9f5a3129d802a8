"""Does TIM's search do something? The cell that it finds against random ones of equal latency.

    mgdn data prepare pairs --source DIR/ivf/train --name ivf
    python benchmarks/search.py --workdir runs/search [--seeds 0 1 2] [--change recipe.latency=0.1]

A seed is a search (configs/tim.py:search_cpu, one cell of 8 channels), then eleven trainings from
scratch (ivf_cpu, as narrow): of the cell found and of ten others, drawn from all whose latency by
the table is within 15 % of its own; the band grows by 5 % until it holds ten. The eleven have one
schedule, one seed and the same batches. They are judged by the loss on training pairs held out from
search and training. Latencies are measured once and kept in the workdir. Writes search.csv and, of
the first seed's shares, search.svg into docs/benchmarks. Goes on where it was interrupted; other
`--change`s, fields of the search's config, want a workdir of their own.
"""

import argparse
import csv
import itertools
import json
import random
import statistics
import sys
from pathlib import Path
from typing import Any

import jax
import ml_collections

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import mgdn_jax  # noqa: E402
from benchmarks.curves import drawing  # noqa: E402
from benchmarks.learned_loss import changed  # noqa: E402
from configs.tim import get_config  # noqa: E402
from mgdn_jax.systems.tim import latency  # noqa: E402
from mgdn_jax.systems.tim.primitives import PRIMITIVES  # noqa: E402
from mgdn_jax.training import fit  # noqa: E402

Chain = tuple[str, ...]

CHOICES = tuple(name for name in PRIMITIVES if name.split("_")[1] == "3")
"""Without kernels of 5, whose programs take as long to compile as those of all others together."""
MODEL = {"features": 8, "chains": 1}
COLUMNS = ("seed", "kind", "chain", "milliseconds", "band", "held_out_loss")
COLOURS = (
    *("#0b6e4f", "#b3541e", "#31538f", "#8f3164"),
    *("#8a7a00", "#1f9bb0", "#777777"),
)
COMMAND = "python benchmarks/search.py"


def narrowed(preset: str, seed: int, steps: int) -> ml_collections.ConfigDict:
    """A config of configs/tim.py, cut down to minutes."""
    config = get_config(preset)
    config.model.update(MODEL)
    del config.data.train.jitter
    config.data.train.update({"crop": 48, "threads": 1})
    config.data.validation.limit = 24
    config.optimiser.update({"learning_rate": 3e-3, "warmup": min(20, steps)})
    config.train.update({"batch": 8, "steps": steps, "seed": seed, "keep": 1, "log_every": 10})
    config.train.update({"eval_every": steps, "save_every": 100})
    return config


def trained(config: ml_collections.ConfigDict, folder: Path) -> Any:
    """The result of a run, which goes on if it was interrupted."""
    result = fit(config, folder, command=COMMAND, quiet=True)
    if result.status == "stopped":
        sys.exit(f"{folder}: was stopped; the same command goes on")
    return result


def search(seed: int, table: dict[str, float], options: argparse.Namespace) -> Chain:
    """The cell that a search finds."""
    config = narrowed("search_cpu", seed, options.search_steps)
    config.recipe.update({"choices": CHOICES, "latencies": table})
    config.recipe.update({"latency": 0.02, "search_after": 0.4})
    config.optimiser.networks.architecture.learning_rate = 2e-2
    config.update_from_flattened_dict(dict(options.change))
    result = trained(config, options.workdir / f"search-{seed}")
    return mgdn_jax.load(result.weights).config.chain


def held_out(chain: Chain, seed: int, options: argparse.Namespace) -> float:
    """Loss of a cell that was trained from scratch."""
    config = narrowed("ivf_cpu", seed, options.steps)
    config.model.chain = chain
    return trained(config, options.workdir / f"{seed}-{'-'.join(chain)}").metrics["loss"]


def milliseconds(chain: Chain, table: dict[str, float]) -> float:
    """Latency of a cell by the table."""
    return sum(table[name] for name in chain)


def rivals(
    found: Chain, table: dict[str, float], count: int, seed: int
) -> tuple[list[Chain], float]:
    """Random cells of about the latency of another one, and how far theirs may lie from its own.

    Args:
        found: the other one.
        table: milliseconds by primitive.
        count: how many.
        seed: of the draw.
    """
    wanted = milliseconds(found, table)
    others = [chain for chain in itertools.product(table, repeat=len(found)) if chain != found]
    for percent in itertools.count(15, 5):
        near = [c for c in others if abs(milliseconds(c, table) / wanted - 1) <= percent / 100]
        if len(near) >= count or len(near) == len(others):
            break
    return random.Random(seed).sample(near, min(count, len(near))), percent / 100


def latencies(options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds by primitive, measured when the workdir is new."""
    place = options.workdir / "latencies.json"
    if not place.exists():
        options.workdir.mkdir(parents=True, exist_ok=True)
        table = latency.measure(CHOICES, MODEL["features"])
        place.write_text(json.dumps({name: round(value, 4) for name, value in table.items()}))
    return json.loads(place.read_text())


def picture(workdir: Path, places: int) -> str:
    """The shares over the steps of a search, those of later places in thicker lines."""
    rows = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["kind"] == "train"]
    lines = []
    for place, (name, colour) in itertools.product(
        range(places), zip(CHOICES, COLOURS, strict=False)
    ):
        points = [(row["step"], row[f"share.{place}.{name}"]) for row in rows]
        lines.append((name, colour, 0.8 + 1.2 * place, points))
    return drawing(lines, "shares of the primitives, by step (thin: first place, thick: second)")


def write(rows: list[dict[str, Any]], page: Path) -> None:
    """The rows so far."""
    page.parent.mkdir(parents=True, exist_ok=True)
    with page.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def report(rows: list[dict[str, Any]]) -> None:
    """Prints a line a seed."""
    for seed in sorted({row["seed"] for row in rows}):
        own = [row for row in rows if row["seed"] == seed]
        found = next(row for row in own if row["kind"] == "found")
        values = [float(row["held_out_loss"]) for row in own if row["kind"] == "random"]
        value = float(found["held_out_loss"])
        print(
            f"seed {seed}: {found['chain']} ({found['milliseconds']} ms) {value:.4f};"
            f" {len(values)} random within {float(found['band']):.0%}:"
            f" {statistics.mean(values):.4f} +- {statistics.stdev(values):.4f},"
            f" {min(values):.4f} to {max(values):.4f};"
            f" rank {1 + sum(other < value for other in values)} of {len(own)}"
        )


def main(arguments: list[str] | None = None) -> None:
    """Runs what is missing, then writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--search-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=200, help="of each training from scratch")
    parser.add_argument("--random", type=int, default=10, help="cells beside the one found")
    parser.add_argument("--change", type=changed, nargs="+", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    options = parser.parse_args(arguments)
    # Seeds differ in values only: a program is compiled once.
    jax.config.update("jax_compilation_cache_dir", str(options.workdir / "compiled"))
    table, rows = latencies(options), []
    for seed in options.seeds:
        found = search(seed, table, options)
        others, band = rivals(found, table, options.random, seed)
        for chain in (found, *others):
            row = {
                "seed": seed,
                "kind": "found" if chain == found else "random",
                "chain": " ".join(chain),
                "milliseconds": f"{milliseconds(chain, table):.3f}",
                "band": band,
                "held_out_loss": f"{held_out(chain, seed, options):.6f}",
            }
            rows.append(row)
            write(rows, options.out / "search.csv")
            print(*row.values(), flush=True)
    shares = picture(options.workdir / f"search-{options.seeds[0]}", len(found))
    (options.out / "search.svg").write_text(shares)
    report(rows)


if __name__ == "__main__":
    main()
