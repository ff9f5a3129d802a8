"""Packs TIM's golden arrays from the full fixtures into this folder.

    python tests/goldens/pack_tim.py FIXTURES_FOLDER

`tim_primitives.npz` leaves out what no genotype has, and gradients of inputs. `tim_networks.npz`
holds the published widths with all names and shapes, from which the weights follow
(`tim_state` in tests/systems/tim/helpers_tim.py).
"""

import pathlib
import sys

import numpy as np

UNUSED = ("NonLocal", "EnhanceResidual", "UpSample2", "DownSample2/")


def main(folder: str) -> None:
    """Writes both files."""
    source, here = pathlib.Path(folder), pathlib.Path(__file__).parent
    with np.load(source / "primitives.npz") as file:
        kept = {
            key: value
            for key, value in file.items()
            if not key.startswith(("grad_in:", "scalar:"))
            and not key.split(":")[1].startswith(UNUSED)
            and not key.endswith(("filt", "num_batches_tracked"))
        }
    np.savez_compressed(here / "tim_primitives.npz", **kept)
    with np.load(source / "networks_c48_formula.npz") as file:
        kept = {
            key.removesuffix("/f64"): value.astype(np.float32) if "out:" in key else value
            for key, value in file.items()
            if not key.endswith("/f32") and not key.startswith("out:saved")
        }
    keys = (source / "keys_c48.csv").read_bytes()
    np.savez_compressed(here / "tim_networks.npz", keys=np.frombuffer(keys, np.uint8), **kept)
    with np.load(source / "search_step.npz") as file:
        kept = {
            key: value
            for key, value in file.items()
            if not key.endswith("/f32") and not key.startswith(("out:F_w/", "out:f_w/"))
        }
    np.savez_compressed(here / "tim_search.npz", **kept)
    with np.load(source / "meta_initialisation.npz") as file:
        np.savez_compressed(here / "tim_initialisation.npz", **dict(file))


if __name__ == "__main__":
    main(sys.argv[1])
