"""CDDFuse for infrared and visible (ivf) and medical pairs (mif).

    mgdn data prepare pairs --source DIR/ivf/train --name ivf
    python train.py --config=configs/cddfuse.py:ivf --workdir=runs/cddfuse-ivf

It learns from luminance, without targets. Losses, rates, clipping, phases and batch are the
released code's. Its patches are cut once, at fixed places. Here they are cut anew in every epoch,
at random places, and `steps` is about as many as its 120 epochs of up to 6498 patches. How the
published MIF weights were trained is unknown. mif differs from ivf in the skip and the data alone.
The lengths are for a GPU. NAME_cpu is the narrower network with ten times the rate, on smaller
crops, for a laptop. smoke is ivf shrunk until a step takes milliseconds, for tests.

Hours, machine and figures, on two CPU cores that did other work at the same time:

    ivf_cpu  0.93 hours with --config.train.steps=6000, 152 RoadScene pairs: `cddfuse-ivf`.
             Held-out loss 0.831 (1.04 after the preset's 1500 steps). Mean rank of eight rows 3.62
             on TNO25 (published ReFusion weights 3.50) and 3.62 on RoadScene50 (4.38).
    mif_cpu  0.80 hours, 603 medical slices: `cddfuse-mif`. Held-out loss 1.523. Mean rank of eight
             rows 4.38 on CT (published ReFusion weights 4.62), 4.62 on PET (4.50), 3.62 on SPECT
             (3.50).
    ivf, mif not run in full.
"""

import ml_collections

TASKS = ("ivf", "mif")
PRESETS = (*TASKS, *(f"{task}_cpu" for task in TASKS), "smoke")
DATASETS = {"ivf": "ivf", "mif": "mif"}
JITTER = {  # of stored pairs: off
    **{"scale": 1.0, "gamma": 1.0, "noise": 0.0, "clip": 0.0},
    **{"exposure": 1.0, "contrast": 0.0, "polarity": 0.0},
}


def get_config(preset: str = "ivf") -> ml_collections.ConfigDict:
    """The config of a preset, one of `PRESETS`, or of one in bfloat16: NAME_bf16."""
    half, preset = preset.endswith("_bf16"), preset.removesuffix("_bf16")
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}; choose from {', '.join(PRESETS)}")
    task = "mif" if preset.startswith("mif") else "ivf"
    # A network's milestones count its own updates: the fusion layers train in phase II alone, and
    # every 20 of 120 epochs are a quarter of their 80.
    quarters = {"milestones": (0.25, 0.5, 0.75)}
    config = ml_collections.ConfigDict(
        {
            "name": "cddfuse-" + preset.removesuffix("_cpu"),
            "recipe": {
                "name": "cddfuse",
                "form": "released",  # or "paper"
                "first_phase": 1 / 3,  # 40 of 120 epochs
            },
            "model": {"preset": task},
            "data": {
                "loader": "mgdn_jax.data",
                "dataset": DATASETS[task],
                "mix": {},  # in its place weights by set: {"ivf": 1, "train2": 2}
                "task": "pairs",
                "channels": 1,
                "train": {"split": "train[:95%]", "crop": 128, "threads": 4, "jitter": JITTER},
                "validation": {"split": "train[95%:]", "crop": 128, "limit": 32},
            },
            "optimiser": {
                "name": "adam",
                "learning_rate": 1e-4,
                "schedule": "multistep",
                "warmup": 0,
                "end_factor": 0.0,
                "milestones": (1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6),
                "gamma": 0.5,
                "weight_decay": 0.0,
                "clip_norm": 0.01,  # of each network by itself
                "clip_offset": 1e-6,
                "networks": {"base_fusion": dict(quarters), "detail_fusion": dict(quarters)},
            },
            "train": {
                "batch": 8,
                "steps": 97_000,  # exactly one of steps, epochs, examples; the others 0
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
    if preset.endswith("_cpu"):
        config.model.preset = f"{task}_small"
        config.data.train.update({"crop": 48, "threads": 2})
        config.data.validation.update({"crop": 64, "limit": 16})
        config.optimiser.update({"learning_rate": 1e-3, "schedule": "cosine", "warmup": 50})
        config.train.update({"batch": 4, "steps": 1500, "ema": 0.99, "save_every": 100})
        config.train.eval_every = 250
    if preset == "smoke":
        config.model.update({"features": 4, "blocks": 1, "heads": 2, "detail_nodes": 1})
        config.data.train.update({"crop": 16, "threads": 1})
        config.data.validation.update({"crop": 16, "limit": 4})
        config.train.update({"batch": 4, "steps": 6})
        config.train.update({"log_every": 2, "eval_every": 4, "save_every": 3})
    if half:
        config.model.dtype = "bfloat16"
    return config
