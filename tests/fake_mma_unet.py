"""MMA-UNet's recipe on tiny networks and `fake_recipe`'s pictures, in gray."""

import fake_recipe
from fake_cddfuse import Gray


def make_loader(*, batch_size, seed, process_index, process_count, delay=0.0):
    local = batch_size // process_count
    return Gray(seed, local, batch_size, process_index, 16, delay, 80)


def make_eval_loader(*, batch_size, seed, process_index, process_count):
    batches = fake_recipe.make_eval_loader(
        batch_size=batch_size,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
        size=16,
    )
    return [
        {k: v if k in ("_index", "_mask") else v[..., :1] for k, v in batch.items()}
        for batch in batches
    ]


def config(**train):
    """A whole config of six steps, two a phase; keyword arguments go to the `train` block."""
    made = fake_recipe.config(**{"steps": 6, "ema": 0.9} | train)
    made["recipe"] = {"name": "mma_unet", "visible_phase": 1 / 3, "infrared_phase": 1 / 3}
    made["model"] = {"features": 4}
    made["data"] = {"loader": "fake_mma_unet", "train": {"delay": 0.0}}
    made["optimiser"] = {"name": "adam", "learning_rate": 1e-3}
    return made


def get_config():
    """What `train.py --config=tests/fake_mma_unet.py` reads."""
    import ml_collections

    return ml_collections.ConfigDict(config())
