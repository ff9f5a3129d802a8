"""LKC-FUNet for infrared and visible (ivf) and medical pairs (mif).

    mgdn data prepare pairs --source DIR/ivf/train --name ivf
    python train.py --config=configs/lkc_funet.py:ivf --workdir=runs/lkc-funet-ivf

It learns from luminance, without targets. Losses, rate, crops, flips, batch and dropout are the
released code's. Its length is 1000 epochs of sets whose sizes are unknown. ivf and mif are for a
GPU. NAME_cpu makes the most of twenty minutes of two CPU cores. It takes the small network, Muon at
2e-2 on a cosine instead of Adam, smaller batches and no dropout. Its loss also asks for what the
darker source has (intensity_rule), with signed gradients and SSIM of [0, 1]. The released loss is
smaller for the pixelwise maximum than for what a small network learns by it
(docs/systems/lkc_funet.md). smoke is ivf shrunk until a step takes milliseconds, for tests.

Hours, machine and figures, with --config.train.steps=3600 --config.train.ema=0.995 on one CPU core
beside another run:

    ivf_cpu  1.06 hours, 152 RoadScene pairs: `lkc-funet-small-ivf`. Held-out loss 1.227. Mean rank
             of eight rows 3.62 on TNO25 (published ReFusion weights 3.50) and 3.62 on RoadScene50
             (4.38).
    mif_cpu  1.10 hours, 603 medical slices: `lkc-funet-small-mif`. Held-out loss 1.959. Mean rank
             of eight rows 3.25 on CT (published ReFusion weights 4.62), 3.00 on PET (4.50), 3.12 on
             SPECT (3.50).
    ivf_cameras  0.40 hours from `lkc-funet-small-ivf` as it was: 245 pairs of eight cameras, which
             is shipped under the name since. Held-out loss 1.125. Mean rank of seven rows on
             held-out pairs of all cameras 2.38 (3.12 before, both without a stretch).
    ivf, mif not run in full.
"""

import ml_collections

TASKS = ("ivf", "mif")
PRESETS = (*TASKS, *(f"{task}_cpu" for task in TASKS), "ivf_cameras", "smoke")
DATASETS = {"ivf": "ivf", "mif": "mif"}
JITTER = {  # of stored pairs: off
    **{"scale": 1.0, "gamma": 1.0, "noise": 0.0, "clip": 0.0},
    **{"exposure": 1.0, "contrast": 0.0, "polarity": 0.0},
}

CAMERAS = {"ivf": 8, "msrs": 6, "m3fd": 6, "flir": 3, "kaist": 3, "llvip": 2, "pv": 2, "tno": 2}
"""Examples of each camera for 32 of all; configs/pyramid.py says how the sets are prepared."""


def get_config(preset: str = "ivf") -> ml_collections.ConfigDict:
    """The config of a preset, one of `PRESETS`, or of one in bfloat16: NAME_bf16."""
    half, preset = preset.endswith("_bf16"), preset.removesuffix("_bf16")
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}; choose from {', '.join(PRESETS)}")
    task = "mif" if preset.startswith("mif") else "ivf"
    config = ml_collections.ConfigDict(
        {
            "name": f"lkc-funet-{preset}",
            "recipe": {
                "name": "lkc_funet",
                "intensity": 1.0,
                "intensity_rule": "max",  # or "mean", "sum", "screen"
                "intensity_share": 1.0,  # of the way there from the maximum
                "gradient": 1.0,
                "gradient_rule": "strength",  # or "signed"
                "ssim": 1.0,
                "ssim_range": "network",  # or "unit"
            },
            "model": {"preset": task, "dropout": 0.2, "drop_path": 0.2},
            "data": {
                "loader": "mgdn_jax.data",
                "dataset": DATASETS[task],
                "mix": {},  # in its place weights by set: {"ivf": 1, "train2": 2}
                "task": "pairs",
                "channels": 1,
                "train": {
                    "split": "train[:95%]",
                    "crop": 64,
                    "augment": "flips",
                    "jitter": JITTER,
                    "threads": 4,
                },
                "validation": {"split": "train[95%:]", "crop": 128, "limit": 32},
            },
            "optimiser": {
                "name": "adam",
                "learning_rate": 2e-4,
                "schedule": "constant",
                "warmup": 0,
                "end_factor": 0.0,
                "weight_decay": 0.0,
                "clip_norm": 0.0,
            },
            "train": {
                "batch": 32,
                "steps": 0,  # exactly one of steps, epochs, examples; the others 0
                "epochs": 1000.0,
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
    if preset.endswith(("_cpu", "_cameras")):
        _small(config, task)
    if preset == "ivf_cameras":
        _cameras(config)
    if preset == "smoke":
        _smoke(config)
    if half:
        config.model.dtype = "bfloat16"
    return config


def _small(config: ml_collections.ConfigDict, task: str) -> None:
    """A narrow network for two CPU cores, on a short schedule."""
    config.name = f"lkc-funet-small-{task}"
    config.model.update({"preset": f"{task}_small", "dropout": 0.0, "drop_path": 0.0})
    config.recipe.update({"intensity": 4.0, "gradient": 4.0, "ssim_range": "unit"})
    config.recipe.update({"gradient_rule": "signed", "intensity_share": 0.5})
    config.recipe.intensity_rule = "sum" if task == "ivf" else "screen"
    config.data.train.threads = 2
    if task == "ivf":  # RoadScene lacks detail, noise, bright scenes and empty black
        config.data.train.jitter.update(scale=2.5, gamma=1.6, noise=0.02, clip=0.4)
    config.data.validation.limit = 16
    config.optimiser.update({"name": "muon", "learning_rate": 2e-2, "schedule": "cosine"})
    config.optimiser.update({"warmup": 50, "clip_norm": 1.0})
    config.train.update({"batch": 4, "steps": 800, "epochs": 0.0, "ema": 0.99})
    config.train.update({"log_every": 20, "save_every": 100, "eval_every": 200})


def _cameras(config: ml_collections.ConfigDict) -> None:
    """The mixture, from the weights that were trained on RoadScene alone."""
    config.data.update({"dataset": "", "mix": CAMERAS})
    config.data.train.split = "train[:85%]"
    config.data.train.jitter.update(noise=0.03, clip=0.2, exposure=1.5)
    config.data.train.jitter.update(contrast=0.6, polarity=0.1)
    config.data.validation.update({"split": "train[85%:]", "crop": 128, "limit": 6})
    config.optimiser.learning_rate = 1e-2
    config.train.update({"steps": 700, "init": "lkc-funet-small-ivf"})


def _smoke(config: ml_collections.ConfigDict) -> None:
    """Shrunk until a step takes milliseconds."""
    config.model.update({"features": 4, "multiplier": 2, "norm_groups": 4})
    config.model.kernels = (5, 3, 3)
    config.data.train.update({"crop": 16, "threads": 1})
    config.data.validation.update({"crop": 16, "limit": 4})
    config.train.update({"batch": 4, "steps": 6, "epochs": 0.0, "ema": 0.9})
    config.train.update({"log_every": 2, "eval_every": 4, "save_every": 3})
