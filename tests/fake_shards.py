"""A config of `fake_recipe` whose data are the prepared set "noise", whole or in shards."""

import fake_recipe
import ml_collections


def config(**train):
    """A whole config; keyword arguments go to the `train` block."""
    made = fake_recipe.config(**{"steps": 10, "save_every": 5, "eval_every": 5, **train})
    made["data"] = {
        "loader": "mgdn_jax.data",
        "dataset": "noise",
        "task": "pairs",
        "crop": 8,
        "train": {"split": "train[:80%]", "threads": 0},
        "validation": {"split": "train[80%:]"},
    }
    return made


def get_config():
    """What `train.py --config=tests/fake_shards.py` reads."""
    return ml_collections.ConfigDict(config())
