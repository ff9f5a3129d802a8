"""Trains every system for every task, one after the other: what a GPU machine is left alone with.

    python benchmarks/retrain.py --data DATA --out runs              # all; run it again to go on
    python benchmarks/retrain.py --data DATA --out runs --only cddfuse refusion:ivf
    python benchmarks/retrain.py --data DATA --out runs --cpu        # the presets for a CPU
    python benchmarks/retrain.py --data DATA --out runs --dry-run    # the commands alone

DATA holds a folder of training pictures for each data set that the configs name: natural/ (images),
ivf/, mif/ and mef/ (pairs in two subfolders); sets that are prepared already need none. Commands
are `mgdn data prepare` and `train.py` as documented; finished ones do nothing, interrupted ones go
on, and a failing one does not keep the others from running. What follows `--` goes to each run.
"""

import argparse
import importlib
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def runs(cpu: bool) -> list[tuple[str, str]]:
    """(system, preset) of all configs: those for a GPU, or those for a CPU where there are."""
    found = []
    for path in sorted((ROOT / "configs").glob("*.py")):
        if path.stem == "__init__":
            continue
        module = importlib.import_module(f"configs.{path.stem}")
        tasks = [p for p in module.PRESETS if f"{p}_cpu" in module.PRESETS]
        tasks += [p for p in getattr(module, "TASKS", ("mff", "mef")) if p in module.PRESETS]
        for task in dict.fromkeys(tasks):
            slow = f"{task}_cpu" in module.PRESETS
            if slow or not cpu:
                found.append((path.stem, f"{task}_cpu" if cpu else task))
    return found


def commands(data: Path, out: Path, chosen: list[str], cpu: bool, more: list[str]) -> list[list]:
    """The command lines, sets first.

    Raises:
        SystemExit: a name chosen is none of the runs.
    """
    every = runs(cpu)
    names = {f"{system}:{preset.removesuffix('_cpu')}" for system, preset in every}
    known = names | {system for system, _ in every}
    if unknown := sorted(set(chosen) - known):
        raise SystemExit(
            f"error: there is no run {unknown[0]}; choose from {', '.join(sorted(known))}"
        )
    kept = [
        (system, preset)
        for system, preset in every
        if not chosen or {system, f"{system}:{preset.removesuffix('_cpu')}"} & set(chosen)
    ]
    sets: dict[str, list] = {}
    trainings = []
    for system, preset in kept:
        config = importlib.import_module(f"configs.{system}").get_config(preset)
        for name in config.data.mix or [config.data.dataset]:
            kind = "pairs" if config.data.task == "pairs" else name
            source = data / name
            if source.is_dir():
                sets[name] = [sys.executable, "-m", "mgdn_jax", "data", "prepare", kind, "--source",
                              str(source), "--name", name]  # fmt: skip
        workdir = out / f"{system}-{preset.removesuffix('_cpu')}"
        trainings.append([sys.executable, str(ROOT / "train.py"),
                          f"--config={ROOT}/configs/{system}.py:{preset}",
                          f"--workdir={workdir}", *more])  # fmt: skip
    return [*sets.values(), *trainings]


def main() -> None:
    """Runs the commands; exits with 1 if any failed."""
    given = sys.argv[1:]
    more = given[given.index("--") + 1 :] if "--" in given else []
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of folders of pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for the workdirs")
    parser.add_argument("--only", nargs="+", default=[], metavar="SYSTEM[:TASK]")
    parser.add_argument("--cpu", action="store_true", help="presets NAME_cpu")
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    told = parser.parse_args(given[: given.index("--")] if "--" in given else given)
    failed = []
    for command in commands(told.data, told.out, told.only, told.cpu, more):
        print("$", shlex.join(command), flush=True)
        if not told.dry_run and subprocess.run(command).returncode:
            failed.append(command)
    for command in failed:
        print("failed:", shlex.join(command), file=sys.stderr)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
