"""EMMA's recipe on tiny networks and `fake_recipe`'s pictures, in gray."""

import fake_recipe
from fake_cddfuse import Gray


def make_loader(*, batch_size, seed, process_index, process_count, delay=0.0):
    local = batch_size // process_count
    return Gray(seed, local, batch_size, process_index, 8, delay, 80)


def make_eval_loader(*, batch_size, seed, process_index, process_count):
    batches = fake_recipe.make_eval_loader(
        batch_size=batch_size,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
        size=8,
    )
    return [
        {k: v if k in ("_index", "_mask") else v[..., :1] for k, v in batch.items()}
        for batch in batches
    ]


def config(**train):
    """A whole config of six steps, three a phase; keyword arguments go to the `train` block."""
    made = fake_recipe.config(**{"steps": 6, "ema": 0.9} | train)
    made["recipe"] = {"name": "emma", "first_phase": 0.5, "sensing": (2, 4)}
    made["model"] = {"features": (2, 4), "heads": 2, "remat": "none"}
    made["data"] = {"loader": "fake_emma", "train": {"delay": 0.0}}
    made["optimiser"] = {"name": "adam", "learning_rate": 1e-3}
    return made


def get_config():
    """What `train.py --config=tests/fake_emma.py` reads."""
    import ml_collections

    return ml_collections.ConfigDict(config())
