"""How the training step scales over devices and processes, and what it will cost on many chips.

    python benchmarks/scaling.py                            # 1 and 2 devices, and 2 processes, here
    python benchmarks/scaling.py --config mgdn:mff --devices 1 2 4 8      # the GPUs of a machine
    srun python benchmarks/scaling.py --config mgdn:mff --distributed     # one row: all of a job
    python benchmarks/scaling.py --cost mgdn:mff pyramid:ivf              # operations and bytes

The share of each device stays the same, so that a step on n devices sees n times as many examples.
Efficiency is the throughput per device beside that of one device of one process. Every layout is a
process of its own (or several), which compiles, and then times steps of a batch that it holds: no
data are read. The layouts take turns; figures are medians over turns of medians over steps.

Where there is no accelerator, devices are parts of the CPU; more of them than cores share these.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import numpy as np  # noqa: E402

from mgdn_jax.training import clusters, partners, plan  # noqa: E402
from mgdn_jax.training import config as run_config  # noqa: E402
from mgdn_jax.training.meta_step import make_meta_step  # noqa: E402
from mgdn_jax.training.parallel import AXIS, WAYS  # noqa: E402
from mgdn_jax.training.setup import read_recipe  # noqa: E402
from mgdn_jax.training.state import Step, TrainState, init_state  # noqa: E402
from mgdn_jax.training.step import make_train_step  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Chip:
    """What the maker of an accelerator prints about it.

    Attributes:
        name: of the chip.
        peak: operations a second in bfloat16.
        near: bytes a second that a chip sends to its neighbours, in one direction.
        reach: chips that such links connect.
        far: bytes a second and chip between groups of so many chips.
        host: chips of one host.
    """

    name: str
    peak: float
    near: float
    reach: int
    far: float
    host: int


CHIPS = (
    # docs.cloud.google.com/tpu/docs/v5e: 400 GB/s both ways; 2 x 100 Gb/s for a host of 8 chips.
    Chip("TPU v5e", 197e12, 200e9, 256, 25e9 / 8, 8),
    # NVLink 4: 900 GB/s both ways in a machine of eight; one port of 400 Gb/s a GPU between them.
    Chip("H100 SXM", 989e12, 450e9, 8, 50e9, 8),
)
COUNTS = (8, 64, 512)
SHARES = (0.01, 0.1)
"""Of the peak: what small convolutions may reach; not measured."""
NEAR_HOP, FAR_HOP = 1e-6, 5e-6
"""Seconds that each hop of a ring takes besides, within a group and between groups; assumed."""


# ---- a step ------------------------------------------------------------------------------------


def read(name: str) -> dict[str, Any]:
    """The config of NAME:PRESET, as a plain dictionary."""
    file, _, preset = name.partition(":")
    spec = importlib.util.spec_from_file_location(file, ROOT / "configs" / f"{file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return (module.get_config(preset) if preset else module.get_config()).to_dict()


def build(config: dict[str, Any], axis: str | None) -> tuple[Step, Callable[[], TrainState], Any]:
    """The step of a config's longest phase, what makes its first state, and the recipe."""
    run = run_config.check(config)
    recipe = read_recipe(run)
    stretches = plan.stretches(recipe.phases, 1000)
    stretch = max(stretches, key=lambda s: s.stop - s.start)
    every = {} if recipe.meta is None else {recipe.meta.learns: recipe.meta.every}
    optimisers, schedules = plan.optimisers(
        run.optimiser, stretches, every=every, optional=recipe.optional_networks
    )
    options: dict[str, Any] = {"trains": stretch.trains, "ema_decay": run.train.ema}
    if stretch.kind == "meta":
        rate = schedules[recipe.meta.inner]
        step = make_meta_step(recipe, optimisers, rate=rate, total=1000, axis_name=axis, **options)
    else:
        step = make_train_step(
            recipe.loss, optimisers, seed=0, phase=stretch.phase, axis_name=axis, **options
        )

    def start() -> TrainState:
        return init_state(*recipe.init(jax.random.key(0)), optimisers, ema=run.train.ema > 0)

    return step, start, recipe


def examples(config: dict[str, Any], recipe: Any, count: int) -> dict[str, np.ndarray]:
    """So many examples of noise, of the shapes that the loader gives."""
    rng = np.random.default_rng(0)
    side = config["data"]["train"]["crop"]
    channels = dict(zip("abc", recipe.model_config.in_channels, strict=False))
    channels["target"] = recipe.model_config.out_channels
    batch = {k: rng.random((count, side, side, c), np.float32) for k, c in channels.items()}
    return {**batch, "_index": np.arange(count, dtype=np.uint32)}


def measure(words: argparse.Namespace) -> dict[str, Any]:
    """Times the steps of this process's layout."""
    config = read(words.config)
    devices = jax.local_devices()[: words.count or None]
    share = words.share * len(devices)
    step, start, recipe = build(config, AXIS)
    parallel = WAYS[words.parallel](devices, is_part=0 < len(devices) < jax.local_device_count())
    update, state = parallel.train(step), parallel.replicate(jax.device_get(start()))
    batch, seconds = examples(config, recipe, share), []
    for number in range(words.steps + 2):
        before = time.perf_counter()
        state, metrics = update(state, parallel.split(batch))
        jax.block_until_ready(metrics)
        if number > 1:  # the first compiles, the second may find memory for the first time
            seconds.append(time.perf_counter() - before)
    return {
        "devices": len(devices) * jax.process_count(),
        "processes": jax.process_count(),
        "kind": devices[0].device_kind,
        "share": words.share,
        "seconds": statistics.median(seconds),
        "loss": float(metrics["loss"]),
    }


# ---- layouts, each in processes of its own -------------------------------------------------------


def measure_apart(words: argparse.Namespace, devices: int, processes: int, way: str) -> Any:
    """The same in new processes: so many, with so many devices each."""
    command = [sys.executable, __file__, "--child", "--config", words.config, "--parallel", way]
    command += ["--share", str(words.share), "--steps", str(words.steps), "--count", str(devices)]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    if jax.default_backend() == "cpu":
        environment["JAX_NUM_CPU_DEVICES"] = str(devices)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        place = f"localhost:{probe.getsockname()[1]}"
    children = [
        subprocess.Popen(
            [*command, *([] if processes == 1 else ["--member", place, str(processes), str(k)])],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for k in range(processes)
    ]
    said = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise SystemExit(f"{devices} devices in {processes} processes: a process has failed.")
    return json.loads(said[0].splitlines()[-1])


@contextlib.contextmanager
def together(words: argparse.Namespace) -> Iterator[None]:
    """This process among those of its layout."""
    if words.distributed:
        membership = dataclasses.asdict(clusters.detect())
    elif words.member:
        place, count, index = words.member
        membership = {"coordinator": place, "processes": int(count), "process": int(index)}
    else:
        yield
        return
    with partners.Partners(**membership, complain=print, advice=lambda: "start again."):
        yield


def compare(words: argparse.Namespace) -> None:
    """Prints the table of all layouts."""
    layouts = [(n, 1, way) for n in words.devices for way in WAYS]
    layouts += [(1, p, way) for p in words.processes if p > 1 for way in WAYS]
    rows: dict[Any, list[Any]] = {layout: [] for layout in layouts}
    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
        for _ in range(words.turns):
            for layout in layouts:
                rows[layout].append(measure_apart(words, *layout))
    print(f"{words.config}, {words.share} examples a device, {rows[layouts[0]][0]['kind']},")
    print(f"{os.cpu_count()} cores, {words.turns} turns of {words.steps} steps\n")
    print("| devices | processes | way | ms a step | steps/s | examples/s | efficiency |")
    print("|---|---|---|---|---|---|---|")
    one = statistics.median(row["seconds"] for row in rows[layouts[0]])
    for layout, measured in rows.items():
        seconds = statistics.median(row["seconds"] for row in measured)
        print_row(measured[0], seconds, one / seconds, layout[2])


def print_row(row: dict[str, Any], seconds: float, efficiency: float, way: str) -> None:
    """A row of the table."""
    rate = row["devices"] * row["share"] / seconds
    print(
        f"| {row['devices']} | {row['processes']} | {way} | {1000 * seconds:.1f} |"
        f" {1 / seconds:.2f} | {rate:.1f} | {efficiency:.2f} |"
    )


# ---- what a step costs, and a prediction ---------------------------------------------------------


def cost(name: str, share: int) -> dict[str, float]:
    """Operations, bytes of a collective and bytes of input of a step, counted and not timed."""
    config = read(name)
    step, start, recipe = build(config, None)
    state, batch = jax.eval_shape(start), examples(config, recipe, share)
    operations = jax.jit(step).lower(state, batch).cost_analysis()["flops"]
    run = run_config.check(config)
    stretches = plan.stretches(recipe.phases, 1000)
    trains = max(stretches, key=lambda s: s.stop - s.start).trains
    leaves = jax.tree.leaves(({n: state.params[n] for n in trains}, state.stats))
    inputs = sum(value.nbytes for key, value in batch.items() if key != "_index")
    return {
        "share": share,
        "operations": operations,
        "collective": float(sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)),
        "input": inputs / share,
        "batch": run.train.batch,
    }


def reduce_seconds(size: float, count: int, chip: Chip) -> float:
    """Seconds of a ring all-reduce of so many bytes: in each group, then between the groups."""
    near = min(count, chip.reach)
    seconds = 2 * (near - 1) * (size / near / chip.near + NEAR_HOP)
    groups = count // near
    return seconds + 2 * (groups - 1) * (size / near / groups / chip.far + FAR_HOP)


def predict(name: str, figures: dict[str, float]) -> Iterator[str]:
    """Rows of a prediction."""
    for chip in CHIPS:
        for count in COUNTS:
            wire = reduce_seconds(figures["collective"], count, chip)
            cells = [name, chip.name, str(count), f"{1e6 * wire:.0f}"]
            for part in SHARES:
                seconds = figures["operations"] / (part * chip.peak) + wire
                rate = count * figures["share"] / seconds
                host = chip.host * figures["share"] / seconds * figures["input"]
                cells += [f"{1000 * seconds:.2f}", f"{rate:,.0f}", f"{host / 1e9:.1f}"]
            yield f"| {' | '.join(cells)} |"


def print_costs(words: argparse.Namespace) -> None:
    """Prints the costs of some configs, and what is predicted from them."""
    counted = {name: cost(name, words.share) for name in words.cost}
    print("| config | operations an example | collective, bytes a step | input, bytes an example |")
    print("|---|---|---|---|")
    for name, figures in counted.items():
        each = figures["operations"] / figures["share"]
        print(f"| {name} | {each:.3g} | {figures['collective']:,.0f} | {figures['input']:,.0f} |")
    heads = [f"ms a step, examples/s, GB/s a host at {part:.0%}" for part in SHARES]
    titles = [title for head in heads for title in head.split(", ")]
    print(f"\n| config | chip | chips | all-reduce, µs | {' | '.join(titles)} |")
    print("|" + "---|" * (4 + len(titles)))
    for name, figures in counted.items():
        print("\n".join(predict(name, figures)))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="pyramid:smoke", help="NAME:PRESET of configs/")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2], help="of one process")
    parser.add_argument("--processes", type=int, nargs="+", default=[2], help="of one device each")
    parser.add_argument("--share", type=int, default=2, help="examples a device")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--parallel", choices=sorted(WAYS), default="pmap")
    parser.add_argument("--distributed", action="store_true", help="one row, of a cluster's job")
    parser.add_argument("--cost", nargs="+", metavar="NAME:PRESET", help="counts, and predicts")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--member", nargs=3, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.cost:
        print_costs(words)
    elif words.child:
        with together(words):
            print(json.dumps(measure(words)))
    elif words.distributed:
        with together(words):
            row = measure(words)
            if jax.process_index() == 0:
                print_row(row, row["seconds"], float("nan"), words.parallel)
    else:
        compare(words)


if __name__ == "__main__":
    main()
