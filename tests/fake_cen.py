"""CEN's recipe on a tiny network and `fake_recipe`'s pictures, in gray."""

import fake_recipe
from fake_cddfuse import Gray


def make_loader(*, batch_size, seed, process_index, process_count, delay=0.0):
    local = batch_size // process_count
    return Gray(seed, local, batch_size, process_index, 12, delay, 80)


def make_eval_loader(*, batch_size, seed, process_index, process_count):
    batches = fake_recipe.make_eval_loader(
        batch_size=batch_size,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
        size=12,
        examples=3,
    )
    return [
        {k: v if k in ("_index", "_mask") else v[..., :1] for k, v in batch.items()}
        for batch in batches
    ]


def config(**train):
    """A whole config of six steps; keyword arguments go to the `train` block."""
    made = fake_recipe.config(**{"steps": 6, "ema": 0.0} | train)
    made["recipe"] = {"name": "cen", "sparsity": 0.02}
    # A threshold that scales reach within these steps.
    made["model"] = {"encoder": (4, 4), "decoder": (4,), "threshold": 0.95}
    made["data"] = {"loader": "fake_cen", "train": {"delay": 0.0}, "validation": {}}
    made["optimiser"] = {
        **{"name": "adam", "learning_rate": 1e-3},
        "networks": {"scales": {"name": "sgd", "momentum": 0.0, "learning_rate": 1.0}},
    }
    return made


def get_config():
    """What `train.py --config=tests/fake_cen.py` reads."""
    import ml_collections

    return ml_collections.ConfigDict(config())
