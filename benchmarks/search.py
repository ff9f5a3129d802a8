"""Does TIM's search do something? The cell that it finds against random ones of equal latency.

    mgdn data prepare pairs --source DIR/ivf/train --name ivf
    python benchmarks/search.py --workdir runs/search [--seeds 0 1 2] [--change recipe.latency=0.1]

A seed is a search (configs/tim.py:search_cpu, one cell of 8 channels), then eleven trainings from
scratch: of the cell found and of ten others, drawn from all whose latency by the table is within
15 % of its own; the band grows by 5 % until it holds ten. The eleven have one schedule, one draw of
first weights and the same batches, and share a program, in which a place applies the primitive of a
number. They are judged by the loss on training pairs held out from search and training. Latencies
are measured once and kept in the workdir. Writes search.csv and, of the first seed's shares,
search.svg into docs/benchmarks. Goes on where it was interrupted; other `--change`s, fields of the
search's config, want a workdir of their own.
"""

import argparse
import csv
import functools
import itertools
import json
import random
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import mgdn_jax  # noqa: E402
from benchmarks.curves import drawing  # noqa: E402
from benchmarks.learned_loss import changed  # noqa: E402
from configs.tim import get_config  # noqa: E402
from mgdn_jax import data  # noqa: E402
from mgdn_jax.layers import functional  # noqa: E402
from mgdn_jax.layers.mode import Mode  # noqa: E402
from mgdn_jax.systems.tim import latency  # noqa: E402
from mgdn_jax.systems.tim.blocks import Entrance, Head, Stem  # noqa: E402
from mgdn_jax.systems.tim.primitives import PRIMITIVES, primitive  # noqa: E402
from mgdn_jax.systems.tim.recipe import Recipe  # noqa: E402
from mgdn_jax.training import fit  # noqa: E402
from mgdn_jax.training.optimisers import make_optimiser, make_schedule  # noqa: E402
from mgdn_jax.training.state import init_state  # noqa: E402
from mgdn_jax.training.step import make_eval_step, make_train_step  # noqa: E402

Chain = tuple[str, ...]

CHOICES = tuple(name for name in PRIMITIVES if name.split("_")[1] == "3")
"""Without kernels of 5, whose programs take as long to compile as those of all others together."""
MODEL = {"features": 8, "chains": 1}
CROP, HELD_OUT_CROP, HELD_OUT, BATCH, RATE = 48, 128, 24, 8, 3e-3
COLUMNS = ("seed", "kind", "chain", "milliseconds", "band", "held_out_loss")
COLOURS = (
    *("#0b6e4f", "#b3541e", "#31538f", "#8f3164"),
    *("#8a7a00", "#1f9bb0", "#777777"),
)


def search(seed: int, table: dict[str, float], options: argparse.Namespace) -> Chain:
    """The cell that a search finds; goes on if it was interrupted."""
    config = get_config("search_cpu")
    config.model.update(MODEL)
    del config.data.train.jitter
    config.data.train.update({"crop": CROP, "threads": 1})
    config.data.validation.limit = HELD_OUT
    steps = options.search_steps
    config.optimiser.update({"learning_rate": RATE, "warmup": min(20, steps)})
    config.optimiser.networks.architecture.learning_rate = 2e-2
    config.recipe.update({"choices": CHOICES, "latencies": table})
    config.recipe.update({"latency": 0.02, "search_after": 0.4})
    config.train.update({"batch": BATCH, "steps": steps, "seed": seed, "keep": 1, "log_every": 10})
    config.train.update({"eval_every": steps, "save_every": 100})
    config.update_from_flattened_dict(dict(options.change))
    folder = options.workdir / f"search-{seed}"
    result = fit(config, folder, command="python benchmarks/search.py", quiet=True)
    if result.status == "stopped":
        sys.exit(f"{folder}: was stopped; the same command goes on")
    return mgdn_jax.load(result.weights).config.chain


class Cells(Recipe):
    """Networks of one chain cell, all in one program: a place applies the primitive of a number.

    Weights are those of the network of all choices. In place of logits there are ``numbers``,
    (places,), of `CHOICES`.
    """

    def __init__(self) -> None:
        super().__init__({"preset": "small", **MODEL}, form="search", choices=CHOICES)
        c, rngs = self.model_config.features, nnx.Rngs(0)
        modules = {
            "stem": Stem(c, norm=False, rngs=rngs),
            "cells/0/entrance": Entrance(c, rngs=rngs),
            "head": Head(c, c, act=True, rngs=rngs),
            **{name: primitive(name, c, rngs=rngs) for name in CHOICES},
        }
        self._graphdefs = {name: functional.split(module)[0] for name, module in modules.items()}

    def init(self, key: jax.Array) -> Any:
        """Fresh networks, whose places have the first of the choices."""
        networks, stats = super().init(key)
        numbers = jnp.zeros(len(self.model_config.chain), jnp.int32)
        return {**networks, "architecture": {"numbers": numbers}}, stats

    def _fused(self, theta: Any, stats: Any, phi: Any, a: Any, b: Any, mode: Mode) -> Any:
        new = dict(stats)

        def applied(name: str, *inputs: Any) -> jax.Array:
            parts = (functional.below(flat, name) for flat in (theta, stats))
            y, part = functional.apply(self._graphdefs[name], *parts, *inputs)
            new.update(functional.above(name, part))
            return y

        def operated(number: int, prefix: str, x: jax.Array) -> Any:
            path = f"{prefix}/{number}"
            parts = (functional.below(flat, path) for flat in (theta, stats))
            y, part = functional.apply(self._graphdefs[CHOICES[number]], *parts, x, mode)
            own = {name: stats[name] for name in stats if name.startswith(prefix + "/")}
            return y, {**own, **functional.above(path, part)}

        x = applied("cells/0/entrance", applied("stem", a, b, mode), mode)
        for place in range(len(self.model_config.chain)):
            prefix = f"cells/0/mixed/{place}/operations"
            branches = [functools.partial(operated, n, prefix) for n in range(len(CHOICES))]
            x, after = jax.lax.switch(phi["numbers"][place], branches, x)
            new.update(after)
        return applied("head", x), new


class Trainings:
    """Cells trained from scratch.

    Args:
        steps: of each.
    """

    def __init__(self, steps: int):
        self._steps, self._recipe = steps, Cells()
        warmup = {"warmup_steps": min(20, steps), "end_factor": 0.01}
        schedule = make_schedule("cosine", learning_rate=RATE, total_steps=steps, **warmup)
        self._optimiser = {"supernet": make_optimiser("adam", schedule, clip_norm=1.0)}
        loss, trains = self._recipe.loss, ("supernet",)
        step = make_train_step(loss, self._optimiser, seed=0, phase="search", trains=trains)
        self._step = jax.jit(step)
        self._judge = jax.jit(make_eval_step(self._recipe, phase="search"))
        shared: dict[str, Any] = {"task": "pairs", "channels": 1, "batch_size": BATCH}
        self._held_out = list(
            data.make_eval_loader(
                "ivf", crop=HELD_OUT_CROP, split="train[85%:]", limit=HELD_OUT, **shared
            )
        )
        self._shared = shared | {"crop": CROP, "split": "train[:85%]", "threads": 1}

    @functools.cache  # noqa: B019 - there is one object, and it lives as long as the script
    def _batches(self, seed: int) -> list[Any]:
        with data.make_loader("ivf", seed=seed, **self._shared) as loader:
            return [next(loader) for _ in range(self._steps)]

    def held_out(self, chain: Chain, seed: int) -> float:
        """Loss of a cell on pairs that it was not trained on."""
        params, stats = self._recipe.init(jax.random.key(seed))
        numbers = jnp.asarray([CHOICES.index(name) for name in chain], jnp.int32)
        networks = {**params, "architecture": {"numbers": numbers}}
        state = init_state(networks, stats, self._optimiser, ema=False)
        for batch in self._batches(seed):
            state, _ = self._step(state, batch)
        sums = [self._judge(state.params, state.stats, batch)[0] for batch in self._held_out]
        return float(np.sum([s["loss"] for s in sums]) / np.sum([s["count"] for s in sums]))


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
    title = "shares of the primitives, by step (thin: first place, thick: second)"
    return drawing(lines, title, labels_left=True)


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


def compared(
    seed: int, found: Chain, table: dict[str, float], trainings: Trainings,
    options: argparse.Namespace,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The rows of a seed, of the cell found first; what was trained before is not trained again."""
    place = options.workdir / f"cells-{seed}.json"
    losses = json.loads(place.read_text()) if place.exists() else {}
    others, band = rivals(found, table, options.random, seed)
    for chain in (found, *others):
        name = " ".join(chain)
        if name not in losses:
            losses[name] = round(trainings.held_out(chain, seed), 6)
            place.write_text(json.dumps(losses, indent=1))
        yield {
            "seed": seed,
            "kind": "found" if chain == found else "random",
            "chain": name,
            "milliseconds": f"{milliseconds(chain, table):.3f}",
            "band": band,
            "held_out_loss": f"{losses[name]:.6f}",
        }


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
    trainings = Trainings(options.steps)
    for seed in options.seeds:
        found = search(seed, table, options)
        for row in compared(seed, found, table, trainings, options):
            rows.append(row)
            write(rows, options.out / "search.csv")
            print(*row.values(), flush=True)
    shares = picture(options.workdir / f"search-{options.seeds[0]}", len(found))
    (options.out / "search.svg").write_text(shares)
    report(rows)


if __name__ == "__main__":
    main()
