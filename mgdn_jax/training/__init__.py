"""Training: one loop for every system, on one CPU or many devices and processes."""

from mgdn_jax.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "loop": ("Result", "TrainingDivergedError", "TrainingFailedError", "fit"),
        "state": ("TrainState", "example_keys", "init_state"),
        "step": ("make_eval_step", "make_train_step"),
        "meta_step": ("make_meta_step",),
        "optimisers": ("make_optimiser", "make_schedule"),
        "checkpoints": ("Checkpoints", "Restored"),
    },
)
