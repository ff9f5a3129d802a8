"""Folders of pairs, weights and a call for what is fused by a cluster."""

import fake_fusion
import numpy as np

from mgdn_jax.io import files
from mgdn_jax.serving import ray as cluster
from mgdn_jax.weights.store import save_weights


def make(root, count, sizes=((16, 24),)):
    """Folders a/ and b/ with pairs, and the weights of a network of one parameter."""
    rng = np.random.default_rng(0)
    for number in range(count):
        height, width = sizes[number % len(sizes)]
        for side in "ab":
            picture = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
            files.write_image(root / side / f"{number}.png", picture)
    weights(root / "w.safetensors", "fake_fusion", 0.0)
    return root / "a", root / "b"


def weights(path, system, bias):
    config = fake_fusion.Config().to_dict()
    save_weights(path, system=system, config=config, params={"bias": np.float32(bias)})
    return path


def fuse(root, **words):
    words = {
        "model": root / "w.safetensors",
        "trust": "fake_fusion",
        "output": root / "out",
    } | words
    return cluster.fuse_folders(root / "a", root / "b", **words)
