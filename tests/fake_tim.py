"""TIM's recipe on a tiny network and `fake_recipe`'s pictures, in gray; two sets in turn."""

import fake_recipe

SETS = ("ct", "ivf")


class Gray(fake_recipe.Loader):
    def __next__(self):
        batch = super().__next__()
        return {k: v if k == "_index" else v[..., :1] for k, v in batch.items()}


class Mixed(Gray):
    """Sets of one share each: example i is of set i modulo 2."""

    sets = SETS

    def __next__(self):
        batch = super().__next__()
        return {**batch, "_set": batch["_index"] % len(SETS)}

    def passes(self, batches):
        return dict.fromkeys(SETS, batches * self.batch / len(self.dataset))


def make_loader(
    *, batch_size, seed, process_index, process_count, mix=None, delay=0.0, size=12
):  # fmt: skip
    local = batch_size // process_count
    kind = Mixed if mix else Gray
    return kind(seed, local, batch_size, process_index, size, delay, 80)


def config(form, **train):
    """A whole config of six steps; keyword arguments go to the `train` block."""
    made = fake_recipe.config(**{"steps": 6, "ema": 0.0, "batch": 8} | train)
    made["model"] = {"preset": "small", "features": 4, "chains": 1}
    made["recipe"] = {"name": "tim", "form": form}
    made["data"] = {"loader": "fake_tim", "train": {}}
    made["optimiser"] |= {"learning_rate": 1e-3}  # steps at which no sign turns with the last digit
    if form == "search":
        made["recipe"] |= {"choices": ("SPAattention_3", "Denseblocks_3_1")}
        made["recipe"] |= {"entropy": 0.1, "search_after": 0.4}
        made["optimiser"] |= {"networks": {"architecture": {"learning_rate": 1e-2}}}
    if form == "tasks":
        made["recipe"] |= {"tasks": {"ct": "max", "ivf": "sum"}, "task_rate": 0.01}
        made["data"]["mix"] = dict.fromkeys(SETS, 1.0)
    return made


def get_config(form="search"):
    """What `train.py --config=tests/fake_tim.py:FORM` reads."""
    import ml_collections

    return ml_collections.ConfigDict(config(form))
