"""Exported networks against `Fuser.network`, run in an environment without this package.

    python benchmarks/exported.py --python ENV/bin/python --csv exported.csv

ENV has jax, flatbuffers, numpy, pillow and onnxruntime, and not mgdn_jax. Each network is exported
for any size and for one size; programs run by `examples/run_exported.py` on made pictures. Where a
network's weights of its inputs are 0 and 1, the result is a copy of an input whatever else is
wrong: there the logarithms of the weights count, down to 1e-30, over their size. Bounds: 1e-6 of
JAX, 1e-4 of ONNX; programs at most 1.3 times as large as the weight file.
"""

import argparse
import csv
import dataclasses
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

import mgdn_jax
from mgdn_jax.fusing.compile_cache import enable_compilation_cache
from mgdn_jax.serving import checks, programs
from mgdn_jax.weights import zoo

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
SIZES = ((1, 37, 53), (2, 64, 48), (1, 120, 168))
BOUNDS = {"jax": 1e-6, "onnx": 1e-4}
MOST_TIMES = 1.3
NO_ANY_SIZE = {"onnx": ("cddfuse", "cen", "lkc_funet", "mgdn", "pyramid", "tim")}
"""Systems that a format takes at one size alone."""
_CHILD = """
import importlib.util, sys, time
sys.path.insert(0, {examples!r})
assert importlib.util.find_spec("mgdn_jax") is None
import numpy as np
from run_exported import Network
network = Network({about!r})
for number in range({count}):
    with np.load(f"{folder}/in{{number}}.npz") as file:
        arrays = [file[name] for name in network.inputs]
    network(*arrays)
    started = time.perf_counter()
    results = network(*arrays)
    results["seconds"] = time.perf_counter() - started
    np.savez(f"{folder}/out{{number}}.npz", **results)
"""


@dataclasses.dataclass
class Row:
    """What one program did at one size.

    Attributes:
        network: its name.
        kind: of `programs.FORMATS`.
        made_for: the size of the program, or any.
        size: of the pictures.
        times: bytes of the program over those of the weight file.
        fused: largest difference of the result.
        weights: largest difference of the weights, if there are some.
        logits: largest difference of their logarithms, over the larger of those and 1.
        undecided: share of the weights between 0.001 and 0.999.
        seconds: of a call in the other environment, compiled already.
    """

    network: str
    kind: str
    made_for: str
    size: str
    times: float
    fused: float
    weights: float | str = ""
    logits: float | str = ""
    undecided: float | str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether differences and size are within the bounds."""
        is_decided = self.undecided != "" and self.undecided < 0.5
        worst = max(self.fused, self.logits) if is_decided else self.fused
        return worst <= BOUNDS[self.kind] and self.times <= MOST_TIMES


def rows_of(name: str, kind: str, size: programs.Size | None, python: str) -> list[Row]:
    """One program of a network, run at its size or at all `SIZES`."""
    fuser = mgdn_jax.load(name)
    expected = jax.jit(programs.network(fuser))
    names = programs.names(len(fuser.config.in_channels))
    sizes = SIZES if size is None else (size,)
    with tempfile.TemporaryDirectory() as folder:
        shape = {} if size is None else {"size": size[1:], "batch": size[0]}
        files = mgdn_jax.export(name, folder, format=kind, **shape)
        inputs = [checks.pictures(fuser, size) for size in sizes]
        for number, arrays in enumerate(inputs):
            np.savez(f"{folder}/in{number}.npz", **dict(zip(names, arrays, strict=True)))
        code = _CHILD.format(
            examples=str(EXAMPLES), about=str(files.about), count=len(sizes), folder=folder
        )
        subprocess.run([python, "-c", code], check=True, env={}, cwd=folder)
        times = files.artefact.stat().st_size / zoo.resolve(name).stat().st_size
        rows = []
        for number, arrays in enumerate(inputs):
            wanted = dict(
                zip(
                    programs.outputs(fuser),
                    expected(fuser.params, fuser.stats, *arrays),
                    strict=True,
                )
            )
            if number == 0:
                assert np.array_equal(fuser.network(*arrays), wanted["fused"])
            with np.load(f"{folder}/out{number}.npz") as got:
                gaps = {key: float(np.abs(got[key] - wanted[key]).max()) for key in wanted}
                row = Row(
                    name,
                    kind,
                    "x".join(map(str, size)) if size else "any",
                    "x".join(map(str, sizes[number])),
                    round(times, 3),
                    gaps["fused"],
                    seconds=round(float(got["seconds"]), 4),
                )
            if "weights" in wanted:
                row.weights, weights = gaps["weights"], np.asarray(wanted["weights"])
                with np.load(f"{folder}/out{number}.npz") as got:
                    row.logits = _logits(got["weights"], weights)
                row.undecided = round(float(((weights > 1e-3) & (weights < 1 - 1e-3)).mean()), 3)
            rows.append(row)
    return rows


def _logits(got: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference of the logarithms of weights, over the larger of those and 1."""
    there = np.minimum(got, wanted) > 1e-30
    logs = np.log(np.where(there, got, 1)), np.log(np.where(there, wanted, 1))
    gaps = np.abs(logs[0] - logs[1]) / np.maximum(np.abs(logs[1]), 1)
    return float(np.where((got <= 1e-30) == (wanted <= 1e-30), gaps, np.inf).max())


def main() -> int:
    """Runs all networks; 1 if any is beyond its bounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", required=True, help="of an environment without mgdn_jax")
    parser.add_argument("--models", nargs="+", default=[*mgdn_jax.list_models()])
    parser.add_argument("--formats", nargs="+", default=[*programs.FORMATS])
    parser.add_argument("--csv", help="write the rows there")
    arguments = parser.parse_args()
    enable_compilation_cache()
    rows: list[Row] = []
    for name in arguments.models:
        for kind in arguments.formats:
            system = zoo.describe(zoo.resolve(name))["system"]
            any_size = [] if system in NO_ANY_SIZE.get(kind, ()) else [None]
            for size in (*any_size, SIZES[1]):
                started = time.perf_counter()
                fresh = rows_of(name, kind, size, arguments.python)
                rows += fresh
                for row in fresh:
                    print("ok  " if row.passed else "FAIL", row, flush=True)
                print(f"     {time.perf_counter() - started:.0f} s", flush=True)
                if arguments.csv:
                    with open(arguments.csv, "w", newline="") as file:
                        writer = csv.DictWriter(file, [f.name for f in dataclasses.fields(Row)])
                        writer.writeheader()
                        writer.writerows(map(dataclasses.asdict, rows))
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
