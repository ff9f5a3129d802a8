"""CDDFuse's recipe on a tiny network and `fake_recipe`'s pictures, in gray."""

import fake_recipe

Loader = fake_recipe.Loader


class Gray(Loader):
    def __next__(self):
        batch = super().__next__()
        return {k: v if k == "_index" else v[..., :1] for k, v in batch.items()}


def make_loader(*, batch_size, seed, process_index, process_count, delay=0.0):
    local = batch_size // process_count
    return Gray(seed, local, batch_size, process_index, 12, delay, 80)


def config(**train):
    """A whole config of six steps, three a phase; keyword arguments go to the `train` block."""
    made = fake_recipe.config(**{"steps": 6, "ema": 0.0} | train)
    made["recipe"] = {"name": "cddfuse", "first_phase": 0.5}
    made["model"] = {"features": 4, "heads": 2, "blocks": 1, "detail_nodes": 1}
    made["data"] = {"loader": "fake_cddfuse", "train": {"delay": 0.0}}
    made["optimiser"] = {
        "name": "adam",
        "learning_rate": 1e-3,
        "schedule": "multistep",
        "milestones": (0.4, 0.7),
        "clip_norm": 0.01,
        "clip_offset": 1e-6,
    }
    return made


def get_config():
    """What `train.py --config=tests/fake_cddfuse.py` reads."""
    import ml_collections

    return ml_collections.ConfigDict(config())
