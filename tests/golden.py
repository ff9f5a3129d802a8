"""Reads golden arrays: half-precision storage back to float32, NCHW to NHWC."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

FOLDER = pathlib.Path(__file__).parent / "goldens"


class Golden:
    """One golden file; see goldens/README.md for the key grammar."""

    def __init__(self, name: str, path: pathlib.Path | None = None):
        with np.load(path or FOLDER / f"{name}.npz") as file:
            self.arrays = {k: _widen(v) for k, v in file.items()}

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def nhwc(self, key: str) -> jax.Array:
        return jnp.asarray(np.moveaxis(self.arrays[key], 1, -1))

    def state(self, prefix: str = "") -> dict[str, np.ndarray]:
        """Published parameters, keys prefixed so that they sit where a whole network has them."""
        return {prefix + k[6:]: v for k, v in self.arrays.items() if k.startswith("param:")}

    def gradients(self, prefix: str = "") -> dict[str, np.ndarray]:
        return {
            prefix + k[5:]: v
            for k, v in self.arrays.items()
            if k.startswith("grad:") and not k.startswith("grad:in.")
        }


def _widen(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32) if value.dtype == np.float16 else value


def max_error(ours: jax.Array, wanted: np.ndarray) -> float:
    """Largest absolute difference; shapes must agree."""
    assert ours.shape == wanted.shape, (ours.shape, wanted.shape)
    return float(np.abs(np.asarray(ours, np.float64) - np.asarray(wanted, np.float64)).max())


def relative_error(ours: jax.Array, wanted: np.ndarray) -> float:
    """Largest absolute difference over the largest wanted entry."""
    return max_error(ours, wanted) / float(np.abs(wanted).max())
