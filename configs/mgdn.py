"""MGDN for multi-focus (mff) and multi-exposure (mef) fusion.

    mgdn data prepare natural --source DIR
    python train.py --config=configs/mgdn.py:mff --workdir=runs/mff

mff learns from photographs with segmentations, defocused on one side of a region's outline. The
target is the sharp photograph. mff_cpu is the same on smaller crops. mef learns from stored pairs
with a target (`mgdn data prepare pairs --name mef`), or from synthetic ones by
data.dataset=natural and data.task=mef. smoke is mff shrunk until a step takes milliseconds, for
tests.

Hours, machine and figures:

    mff_cpu  1.34 hours on two CPU cores beside other work, 283 BSDS500 photographs: `mgdn-mff`.
             Held out: loss 0.0210, PSNR 39.67 dB. Lytro20: mean rank 12.00, first of 47 rows.
    mff      not run in full; 20 times as many steps, on larger crops, for a GPU.
    mef      not run in full.

The authors of MGDN released no training code. Losses, schedule and length are this project's. Adam
without weight decay and the average's decay of 0.999 are read off their files.
"""

import ml_collections

PRESETS = ("mff", "mff_cpu", "mef", "smoke")


def get_config(preset: str = "mff") -> ml_collections.ConfigDict:
    """The config of a preset, one of `PRESETS`."""
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}; choose from {', '.join(PRESETS)}")
    mef = preset == "mef"
    config = ml_collections.ConfigDict(
        {
            "name": "mgdn-mef" if mef else "mgdn-mff",
            "recipe": {
                "name": "mgdn",
                "supervised": True,
                "l1": 1.0,
                "ssim": 0.1 if mef else 0.0,
                "gradient": 0.0,
                "intensity": 0.0,
                "intensity_rule": "mean" if mef else "max",
                "focus": 0.0 if mef else 0.05,
                "nmi": 0.01,
            },
            "model": {
                "preset": "mef" if mef else "mff",
                "head": "direct" if mef else "blend",
                "stem_gain": 0.0 if mef else 15.0,
                "dtype": "float32",  # or "bfloat16", for accelerators
            },
            "data": {
                "loader": "mgdn_jax.data",
                "dataset": "mef" if mef else "natural",
                "task": "pairs" if mef else "mff",
                "train": {
                    "split": "train[:95%]",
                    "crop": 128,
                    "threads": 4,
                    "jitter": {"scale": 1.0, "gamma": 1.0, "noise": 0.0, "clip": 0.0},
                },
                "validation": {"split": "train[95%:]", "crop": 128, "limit": 32},
            },
            "optimiser": {
                "name": "adam",
                "learning_rate": 2e-4 if mef else 7e-4,
                "schedule": "cosine",
                "warmup": 100,
                "end_factor": 0.01,
                "milestones": (0.5, 0.8, 0.9),  # for the schedule "multistep"
                "gamma": 0.5,
                "weight_decay": 0.0,
                "clip_norm": 1.0,
            },
            "train": {
                "batch": 8,
                "steps": 60_000,  # exactly one of steps, epochs, examples; the others 0
                "epochs": 0.0,
                "examples": 0,
                "accumulate": 1,
                "ema": 0.999,
                "seed": 0,
                "log_every": 50,
                "eval_every": 2000,
                "save_every": 1000,
                "keep": 2,
                "best": "",  # a figure of validation; "": psnr, or else loss
                "eval_batch": 0,
                "devices": 0,
                "init": "",  # weights to start from: a bundled name or a file
            },
        }
    )
    if preset == "mff_cpu":
        config.data.train.update({"crop": 64, "threads": 2})
        config.data.validation.limit = 16
        config.train.update({"steps": 3000, "log_every": 20, "eval_every": 600, "save_every": 200})
    if preset == "smoke":
        config.name = "mgdn-smoke"
        config.model.update({"features": 12, "depths": (1,), "heads": (3,)})
        config.data.train.update({"crop": 16, "threads": 1})
        config.data.validation.update({"crop": 16, "limit": 4})
        config.optimiser.warmup = 2
        config.train.update({"batch": 4, "steps": 6, "ema": 0.9})
        config.train.update({"log_every": 2, "eval_every": 4, "save_every": 3})
    return config
