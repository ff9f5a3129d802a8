"""Packs the metrics' golden values into this folder.

    python tests/goldens/pack_metrics.py FIXTURES_FOLDER

Of each file the keys are kept that this project's definitions share: `f64/` (the CDDFuse
evaluator on float64 images), `def/` (a float64 implementation of the definitions) and those
`mefb/`, `vifb/`, `gem/` keys (published MATLAB code) that mean the same. Values go into one
matrix `values[case, key]`, with `present` saying which exist.
"""

import pathlib
import sys

import numpy as np

PUBLISHED = {
    "mefb": "Cross_entropy Edge_intensity NMI Qcb Qcv Qncie Qw TE VIF",
    "vifb": "Ssim",
    "gem": "FMI_dct FMI_gradient FMI_pixel MEF_MS_SSIM MEF_SSIM_l1 MEF_SSIM_l2 MEF_SSIM_l3 Nabf",
}
WANTED = {f"{code}/{name}" for code, listed in PUBLISHED.items() for name in listed.split()}
HERE = pathlib.Path(__file__).parent


def pack(source: pathlib.Path, target: pathlib.Path) -> None:
    pictures, values = {}, {}
    for key, value in np.load(source).items():
        kind, case, name = key.split(":")
        if kind == "in":
            pictures[f"{case}:{name}"] = value
        elif name.startswith(("f64/", "def/")) or name in WANTED:
            values[case, name] = float(value)
    cases = sorted({case for case, _ in values})
    keys = sorted({name for _, name in values})
    matrix = np.array([[values.get((case, key), 0.0) for key in keys] for case in cases])
    present = np.array([[(case, key) in values for key in keys] for case in cases])
    np.savez_compressed(target, cases=cases, keys=keys, values=matrix, present=present, **pictures)
    print(f"{target.name}: {present.sum()} values, {target.stat().st_size / 1e3:.0f} kB")


def main(folder: str) -> None:
    source = pathlib.Path(folder)
    for name in ("cases", "degenerate"):
        pack(source / f"{name}.npz", HERE / f"metrics_{name}.npz")
    target = HERE / "metrics_truth.npz"
    np.savez_compressed(target, **np.load(source / "reference_based.npz"))
    print(f"{target.name}: {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1])
