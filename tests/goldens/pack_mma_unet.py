"""Packs MMA-UNet's golden arrays from the full fixtures into this folder.

    PYTHONPATH=.:tests:tests/systems/mma_unet python tests/goldens/pack_mma_unet.py FIXTURES_FOLDER

`mma_unet_blocks.npz` and `mma_unet_losses.npz` are the original's. `mma_unet_narrow.npz` holds the
published names and shapes, and what our own network makes at a sixteenth of the width, with weights
by the formula: frozen when the published width agreed with the original
(tests/systems/mma_unet/test_whole_mma_unet.py).
"""

import pathlib
import sys

import jax
import numpy as np


def main(folder: str) -> None:
    """Writes the three files."""
    source, here = pathlib.Path(folder), pathlib.Path(__file__).parent
    with np.load(source / "blocks.npz") as file:
        kept = {k: v for k, v in file.items() if not k.startswith("scalar:")}
    np.savez_compressed(here / "mma_unet_blocks.npz", **kept)
    with np.load(source / "losses.npz") as file:
        kept = {
            k.removesuffix("/f64"): v[:, :1] if k in ("in:ir", "in:vis") else v
            for k, v in file.items()
            if not k.endswith("/f32") and not k.startswith(("out:sobel", "out:ssim_map"))
        }
    np.savez_compressed(here / "mma_unet_losses.npz", **kept)
    keys = np.frombuffer((source / "keys.csv").read_bytes(), np.uint8)
    narrow = here / "mma_unet_narrow.npz"
    np.savez_compressed(narrow, keys=keys)
    from helpers_mma_unet import narrow_results  # reads the keys

    with jax.enable_x64(True):
        results = narrow_results("float64")
    results = {f"out:{k}": np.asarray(v, np.float32) for k, v in results.items()}
    np.savez_compressed(narrow, keys=keys, **results)


if __name__ == "__main__":
    main(sys.argv[1])
