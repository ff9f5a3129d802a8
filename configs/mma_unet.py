"""MMA-UNet for infrared and visible pairs.

    mgdn data prepare pairs --source DIR/ivf/train --name ivf
    python train.py --config=configs/mma_unet.py:published --workdir=runs/mma-unet

It learns from luminance, without targets, in three phases: a U-Net of the visible picture, one of
the infrared picture, and the fusion of what both see. The loss of the third phase is the released
code's. All else of the training is ours, since none was released (docs/systems/mma_unet.md): the
loss of the U-Nets, Adam at 1e-4 on a cosine, batch, crops, lengths. The phases' shares are those of
the numbers in the released script's file names: 400, 400 and 100 epochs. published is for a GPU.
small has a quarter of the channels and ten times the rate, and gives the fusion two fifths of the
run, for two CPU cores. smoke is that shrunk until a step takes milliseconds, for tests.

Hours, machine and figures, on two CPU cores that did other work at the same time:

    small      0.29 hours with --config.train.steps=4000 --config.recipe.intensity_rule=max, 136
               RoadScene pairs. Mean rank 5.00 of seven rows on held-out pairs, Laplacian 3.88:
               not shipped (docs/systems/mma_unet.md).
    published  not run in full.
"""

import ml_collections

PRESETS = ("published", "small", "smoke")
JITTER = {  # of stored pairs: off
    **{"scale": 1.0, "gamma": 1.0, "noise": 0.0, "clip": 0.0},
    **{"exposure": 1.0, "contrast": 0.0, "polarity": 0.0},
}


def get_config(preset: str = "published") -> ml_collections.ConfigDict:
    """The config of a preset, one of `PRESETS`."""
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}; choose from {', '.join(PRESETS)}")
    config = ml_collections.ConfigDict(
        {
            "name": "mma-unet" if preset == "published" else f"mma-unet-{preset}",
            "recipe": {
                "name": "mma_unet",
                "visible_phase": 4 / 9,
                "infrared_phase": 4 / 9,
                "rebuilding_ssim": 0.5,
                "gradient": 10.0,
                "ssim": 0.5,
                "intensity": 1.0,
                "intensity_rule": "mean",  # or "max", "sum", "screen"
            },
            "model": {"preset": "published", "momentum": 0.9},
            "data": {
                "loader": "mgdn_jax.data",
                "dataset": "ivf",
                "mix": {},  # in its place weights by set: {"ivf": 1, "train2": 2}
                "task": "pairs",
                "channels": 1,
                "train": {"split": "train[:85%]", "crop": 128, "threads": 4, "jitter": JITTER},
                "validation": {"split": "train[85%:]", "crop": 128, "limit": 16},
            },
            "optimiser": {
                "name": "adam",
                "learning_rate": 1e-4,
                "schedule": "cosine",
                "warmup": 0,
                "end_factor": 0.0,
                "weight_decay": 0.0,
                "clip_norm": 0.0,
                "networks": {},
            },
            "train": {
                "batch": 8,
                "steps": 90_000,  # exactly one of steps, epochs, examples; the others 0
                "epochs": 0.0,
                "examples": 0,
                "accumulate": 1,
                "ema": 0.0,
                "seed": 0,
                "log_every": 50,
                "eval_every": 2000,
                "save_every": 1000,
                "keep": 2,
                "best": "",  # a figure of validation; "": psnr, or else loss
                "devices": 0,
                "parallel": "pmap",  # or "mesh"
                "checkpoints": "",  # in place of WORKDIR/checkpoints: a folder, or gs://...
                "init": "",  # weights to start from: a bundled name or a file
            },
        }
    )
    if preset != "published":
        _laptop(config)
    if preset == "smoke":
        _smoke(config)
    return config


def _laptop(config: ml_collections.ConfigDict) -> None:
    """What an hour of two CPU cores allows."""
    config.recipe.update({"visible_phase": 0.3, "infrared_phase": 0.3})
    config.model.update({"preset": "small", "momentum": 0.99})
    config.data.train.update({"crop": 64, "threads": 2})
    config.data.train.jitter.update(scale=2.5, gamma=1.6)
    config.optimiser.update({"learning_rate": 1e-3, "end_factor": 0.01})
    config.optimiser.update({"warmup": 50, "clip_norm": 1.0})
    config.train.update({"batch": 8, "steps": 8000, "eval_every": 400, "save_every": 200})


def _smoke(config: ml_collections.ConfigDict) -> None:
    """Shrunk until a step takes milliseconds."""
    config.model.features = 4
    config.data.train.update({"crop": 16, "threads": 1})
    config.data.validation.update({"crop": 16, "limit": 4})
    config.optimiser.warmup = 1
    config.train.update({"batch": 4, "steps": 6, "ema": 0.9})
    config.train.update({"log_every": 2, "eval_every": 4, "save_every": 3})
