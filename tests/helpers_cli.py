"""The command line in this process, and what it works on."""

import os

import numpy as np
from fake_fusion import Config

from mgdn_jax.cli import main as cli
from mgdn_jax.io import files
from mgdn_jax.weights.store import save_weights


def mgdn(command):
    """Exit code; the fake network is a module outside the package, which has to be trusted."""
    words = command.split()
    return cli.main([*words, "--trust-system"] if "--model" in words else words)


def rows(text):
    """What was said, by the word that starts the line."""
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in text.splitlines()}


def save_model(path, **fields):
    """Weights of the fake system."""
    config = Config(**fields).to_dict()
    params = {"bias": np.zeros((), np.float32)}
    save_weights(path, system="fake_fusion", config=config, params=params)


def save_pictures(*paths, shape=(16, 20, 3), dtype=np.uint8):
    """Pictures of noise; the place in `paths` is the seed."""
    for seed, path in enumerate(paths):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
        files.write_image(path, pixels)


def everything():
    """Paths of all files below the working directory."""
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(".") for name in names)
