"""Does meta-initialisation do something? Starts of TIM's network, adapted to a task left out.

    for name in ct spect pet; do
        mgdn data prepare pairs --source DIR/mif/train/${name}_mri --name $name
    done
    mgdn data prepare pairs --source DIR/ivf/train --name ivf
    mgdn data prepare pairs --source DIR/mef/train30 --name mef
    mgdn data prepare natural --source DIR/natural
    python benchmarks/starts.py --workdir runs/starts [--seeds 0 1 2]

Starts are trained on infrared-visible pairs, CT, SPECT and multi-focus pairs (set `mff`, which is
synthesised from `natural` in the workdir and prepared beside it), each under its own rule of
intensities (configs/tim.py:tasks_cpu, one cell of 8 channels): by `exact`, `first_order` and
`reptile`, with 3 steps of adaptation, or `plain`, the descent on the tasks' mean loss. `plain` is
the same program with a step of adaptation so short that it moves nothing, and twice the batch, for
a half is all that it uses: so all starts see as many examples a step, in as many steps. `scratch`
has none.

Each is adapted to exposures, whose pairs and rule ("mean") no start has seen, by Adam at three
rates, on the same batches. A start's rate is the one that is best on PET after the last step for
the first seed; PET is no task of the starts either, and no exposures are looked at. Losses
are of held-out pairs, with running statistics. Writes starts.csv and starts.svg into
docs/benchmarks. Goes on where it was interrupted.
"""

import argparse
import csv
import functools
import itertools
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.curves import drawing  # noqa: E402
from configs.tim import get_config  # noqa: E402
from mgdn_jax import data  # noqa: E402
from mgdn_jax.systems.tim.recipe import Recipe  # noqa: E402
from mgdn_jax.training import fit  # noqa: E402
from mgdn_jax.training.start import initial_weights  # noqa: E402
from mgdn_jax.training.state import init_state  # noqa: E402
from mgdn_jax.training.step import make_eval_step, make_train_step  # noqa: E402

TASKS = {"ivf": "sum", "ct": "max", "spect": "max", "mff": "max"}
NEW = {"pet": "max", "mef": "mean"}
"""Tasks left out: rates are chosen on the first, the last is what counts."""
MODEL = {"preset": "small", "features": 8, "chains": 1}
KINDS = {
    "exact": {"task_mode": "exact"},
    "first_order": {"task_mode": "first_order"},
    "reptile": {"task_mode": "reptile"},
    "plain": {"task_mode": "first_order", "task_steps": 1, "task_rate": 1e-12},
}
STARTS = (*KINDS, "scratch")
RATES = (1e-3, 3e-3, 1e-2)
CROP, HELD_OUT_CROP, BATCH = 48, 96, 8
COLUMNS = ("set", "seed", "start", "rate", "step", "held_out_loss")
COLOURS = ("#8a6d00", "#0b6e4f", "#31538f", "#b3541e", "#777777")
Row = dict[str, Any]


def focus_pairs(workdir: Path, count: int) -> None:
    """Prepares the set `mff`: multi-focus pairs made from photographs."""
    folder = workdir / "mff"
    for side in ("near", "far"):
        (folder / side).mkdir(parents=True, exist_ok=True)
    if not (folder / "near" / f"{count - 1:03d}.png").exists():
        options = {"batch_size": 1, "crop": 160, "channels": 1, "threads": 1}
        with data.make_loader("natural", task="mff", augment=False, **options) as loader:
            for number, batch in zip(range(count), loader, strict=False):
                for side, image in (("far", batch["b"]), ("near", batch["a"])):
                    values = np.round(255 * image[0, ..., 0]).astype(np.uint8)
                    Image.fromarray(values).save(folder / side / f"{number:03d}.png")
    data.prepare("pairs", folder, name="mff")


def start(kind: str, seed: int, options: argparse.Namespace) -> str:
    """The weight file of a start; "" where there is none."""
    if kind not in KINDS:
        return ""
    config = get_config("tasks_cpu")
    config.recipe.tasks = TASKS
    config.data.mix = dict.fromkeys(TASKS, 1.0)
    config.recipe.update(KINDS[kind])
    config.model.update(MODEL)
    del config.data.train.jitter, config.data.validation
    config.data.train.update({"crop": CROP, "threads": 1})
    config.optimiser.update({"learning_rate": 3e-3, "warmup": min(20, options.steps)})
    size = 4 * len(TASKS) * (2 if kind == "plain" else 1)
    config.train.update({"batch": size, "steps": options.steps, "seed": seed, "keep": 1})
    config.train.update({"eval_every": 0, "save_every": 100, "log_every": 50})
    folder = options.workdir / f"{kind}-{seed}"
    result = fit(config, folder, command="python benchmarks/starts.py", quiet=True)
    if result.status == "stopped":
        sys.exit(f"{folder}: was stopped; the same command goes on")
    return str(result.weights)


class Adaptation:
    """Training on a new task, by programs that are compiled once.

    Args:
        name: of the set.
        steps: after which the held-out loss is taken, the first of them 0.
    """

    def __init__(self, name: str, steps: list[int]):
        self.name, self._steps = name, steps
        self._recipe = Recipe(dict(MODEL), intensity_rule=NEW[name])
        self._optimiser = {"fusion": optax.inject_hyperparams(optax.adam)(learning_rate=0.0)}
        self._train = jax.jit(
            make_train_step(
                self._recipe.loss, self._optimiser, seed=0, phase="fusion", trains=("fusion",)
            )
        )
        self._judge = jax.jit(make_eval_step(self._recipe, phase="fusion"))
        loader = data.make_eval_loader(
            name,
            task="pairs",
            batch_size=BATCH,
            crop=128,
            channels=1,
            split="train[80%:]",
            limit=24,
        )
        self._held_out = list(loader)

    @functools.cache  # noqa: B019 - there are two adaptations, and both live as long as the script
    def _batches(self, seed: int) -> list[Mapping[str, np.ndarray]]:
        """Training batches, which all starts and rates share."""
        with data.make_loader(
            self.name, task="pairs", batch_size=BATCH, crop=CROP, channels=1, split="train[:80%]",
            seed=seed, threads=1,
        ) as loader:  # fmt: skip
            return [next(loader) for _ in range(self._steps[-1])]

    def _loss(self, state: Any) -> float:
        sums = [self._judge(state.params, state.stats, batch)[0] for batch in self._held_out]
        return float(sum(s["loss"] for s in sums) / sum(s["count"] for s in sums))

    def run(self, init: str, seed: int, rate: float) -> list[tuple[int, float]]:
        """(step, held-out loss) from a weight file, or from fresh weights."""
        networks = self._recipe.init(jax.random.key(seed))
        if init:
            networks = initial_weights(self._recipe, init, *networks)
        state = init_state(*networks, self._optimiser, ema=False)
        state.opt["fusion"].hyperparams["learning_rate"] = jax.numpy.float32(rate)
        points = []
        for step in range(self._steps[-1] + 1):
            if step in self._steps:
                points.append((step, self._loss(state)))
            if step < self._steps[-1]:
                state, _ = self._train(state, self._batches(seed)[step])
        return points


def chosen(rows: list[Row], step: int) -> dict[str, str]:
    """The rate of each start: the best on the set of trials after a number of steps."""
    trials = [row for row in rows if row["set"] == "pet" and int(row["step"]) == step]

    def loss(name: str, rate: str) -> float:
        own = [row for row in trials if row["start"] == name and row["rate"] == rate]
        return statistics.mean(float(row["held_out_loss"]) for row in own)

    rates = sorted({row["rate"] for row in trials}, key=float)
    return {name: min(rates, key=functools.partial(loss, name)) for name in STARTS}


def report(rows: list[Row], steps: list[int]) -> None:
    """Prints the losses at the chosen rates, and who wins in how many seeds."""
    rates = chosen(rows, steps[-1])
    losses: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        if row["set"] == "mef" and row["rate"] == rates[row["start"]]:
            key = row["start"], int(row["step"])
            losses.setdefault(key, []).append(float(row["held_out_loss"]))
    for name in STARTS:
        print(f"{name:12} rate {rates[name]}", end="")
        for step in steps:
            values = losses[name, step]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            below = [sum(map(float.__lt__, values, losses[other, step])) for other in STARTS[-2:]]
            print(
                f"; step {step}: {statistics.mean(values):.4f} +- {spread:.4f}"
                f" (below plain {below[0]}, below scratch {below[1]} of {len(values)})",
                end="",
            )
        print()


def write(rows: list[Row], page: Path) -> None:
    """The rows so far."""
    with page.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def of_seed(seed: int, adaptations: list[Adaptation], options: argparse.Namespace) -> list[Row]:
    """All rows of a seed; those that are there are not made again."""
    page = options.workdir / f"rows-{seed}.csv"
    rows = read(page)
    for kind in STARTS:
        missing = []
        for adaptation, rate in itertools.product(adaptations, RATES):
            key = {"set": adaptation.name, "seed": str(seed), "start": kind, "rate": f"{rate:g}"}
            if not any(key.items() <= row.items() for row in rows):
                missing.append((adaptation, rate, key))
        weights = start(kind, seed, options) if missing else ""
        for adaptation, rate, key in missing:
            points = adaptation.run(weights, seed, rate)
            rows += [{**key, "step": str(n), "held_out_loss": f"{loss:.6f}"} for n, loss in points]
            write(rows, page)
            print(*key.values(), f"{points[0][1]:.4f} {points[-1][1]:.4f}", flush=True)
    return rows


def read(page: Path) -> list[Row]:
    """The rows that an interrupted call left."""
    if not page.exists():
        return []
    with page.open(newline="") as file:
        return list(csv.DictReader(file))


def picture(rows: list[Row], last: int) -> str:
    """Losses of the task left out at the chosen rates."""
    rates, lines = chosen(rows, last), []
    rows = [r for r in rows if r["set"] == "mef" and r["rate"] == rates[r["start"]]]
    for name, colour in zip(STARTS, COLOURS, strict=False):
        for seed in sorted({row["seed"] for row in rows}):
            own = [row for row in rows if row["start"] == name and row["seed"] == seed]
            points = [(int(row["step"]), float(row["held_out_loss"])) for row in own]
            lines.append((name.replace("_", " "), colour, 1.6, points))
    return drawing(lines, "held-out loss on exposures, by step", logarithmic=True)


def main(arguments: list[str] | None = None) -> None:
    """Runs what is missing, then writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300, help="of each start")
    parser.add_argument("--after", type=int, nargs="+", default=[0, 5, 10, 20, 40, 70, 100])
    parser.add_argument("--pairs", type=int, default=160, help="synthesised pairs")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    options = parser.parse_args(arguments)
    jax.config.update("jax_compilation_cache_dir", str(options.workdir / "compiled"))
    focus_pairs(options.workdir, options.pairs)
    adaptations, rows = [Adaptation(name, options.after) for name in NEW], []
    for number, seed in enumerate(options.seeds):
        rows += of_seed(seed, adaptations[1:] if number else adaptations, options)
        write(rows, options.out / "starts.csv")
    (options.out / "starts.svg").write_text(picture(rows, options.after[-1]))
    report(rows, [step for step in options.after if step in (0, 20, 100)] or options.after)


if __name__ == "__main__":
    main()
