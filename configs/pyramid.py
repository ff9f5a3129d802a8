"""Pyramid: learned gains on Laplacian details, for infrared and visible (ivf) and medical (mif).

    for camera in llvip kaist flir pv tno; do
        mgdn data prepare pairs --source DIR/ivf/train2 --name $camera --only "${camera}_*"
    done
    mgdn data prepare pairs --source DIR/ivf/train2 --name msrs --only "msrs_*" "mfnet_*"
    mgdn data prepare pairs --source DIR/ivf/train2 --name m3fd --only "m3fd*" "fmb_*"
    mgdn data prepare pairs --source DIR/ivf/train --name ivf
    for scanner in ct pet spect; do
        mgdn data prepare pairs --source DIR/mif/train/${scanner}_mri --name $scanner
    done
    python train.py --config=configs/pyramid.py:ivf --workdir=runs/fusion-ivf

It learns from luminance, without targets, from a mixture of cameras. The network is small enough
for a CPU as it is. smoke is ivf shrunk until a step takes milliseconds, for tests.

Hours, machine and figures, on two CPU cores that did other work at the same time:

    ivf          0.70 hours. Qabf 0.631, VIF 0.889, SSIM 1.386, SCD 1.710, MI 2.32.
    ivf_further  0.22 hours from there: `fusion-ivf`. Qabf 0.637, VIF 0.862, SSIM 1.394, SCD 1.724,
                 MI 2.28. Held-out pairs of eight cameras, eight rows: mean rank of the means over
                 all 3.00, of the ranks by camera 3.00 (`refusion-ivf` 2.38, 3.25).
    mif          0.23 hours: `fusion-mif`. Held-out slices: Qabf 0.713, VIF 0.835,
                 SSIM 1.457, SCD 1.771. Mean rank of seven rows 2.38, of the ranks by
                 scanner 2.42 (`refusion-mif` 2.38, 2.75).
"""

import ml_collections

TASKS = ("ivf", "mif")
PRESETS = (*TASKS, "ivf_further", "smoke")
CAMERAS = {"ivf": 8, "msrs": 6, "m3fd": 6, "flir": 3, "kaist": 3, "llvip": 2, "pv": 2, "tno": 2}
"""Examples of each camera for 32 of all."""

SCANNERS = {"ct": 1, "pet": 1, "spect": 1}


def get_config(preset: str = "ivf") -> ml_collections.ConfigDict:
    """The config of a preset, one of `PRESETS`, or of one in bfloat16: NAME_bf16."""
    half, preset = preset.endswith("_bf16"), preset.removesuffix("_bf16")
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}; choose from {', '.join(PRESETS)}")
    medical = preset == "mif"
    config = ml_collections.ConfigDict(
        {
            "name": "fusion-mif" if medical else "fusion-ivf",
            "recipe": {
                **{"name": "pyramid", "edges": 1.0, "fidelity": 0.3, "ssim": 0.8},
                **{"differences": 0.8, "information": 0.3, "contrast": 1.0, "stretch": 1.15},
                **{"tone": 0.5, "tone_rule": "screen", "tone_share": 0.0},
                **{"gradient": 1.0, "sharpness": 1.4, "range": 10.0},
            },
            "model": {"preset": "mif" if medical else "ivf"},
            "data": {
                "loader": "mgdn_jax.data",
                "dataset": "",
                "mix": dict(SCANNERS if medical else CAMERAS),
                "task": "pairs",
                "channels": 1,
                "train": {
                    "split": "train[:85%]",
                    "crop": 224,
                    "threads": 2,
                    "jitter": {
                        **{"scale": 2.0, "gamma": 1.6, "noise": 0.02, "clip": 0.2},
                        **{"exposure": 1.5, "contrast": 0.5, "polarity": 0.05},
                    },
                },
                "validation": {"split": "train[85%:]", "crop": 304, "limit": 6},
            },
            "optimiser": {
                "name": "muon",
                "learning_rate": 5e-3,
                "schedule": "cosine",
                "warmup": 20,
                "end_factor": 0.01,
                "milestones": (0.5, 0.8),
                "gamma": 0.5,
                "weight_decay": 0.0,
                "clip_norm": 1.0,
            },
            "train": {
                "batch": 2,
                "steps": 3000,  # exactly one of steps, epochs, examples; the others 0
                "epochs": 0.0,
                "examples": 0,
                "accumulate": 1,
                "ema": 0.995,
                "seed": 0,
                "log_every": 25,
                "eval_every": 250,
                "save_every": 250,
                "keep": 2,
                "best": "",  # a figure of validation; "": psnr, or else loss
                "devices": 0,
                "parallel": "pmap",  # or "mesh"
                "checkpoints": "",  # in place of WORKDIR/checkpoints: a folder, or gs://...
                "init": "",  # weights to start from: a bundled name or a file
            },
        }
    )
    if medical:
        _medical(config)
    if preset == "ivf_further":
        _further(config)
    if preset == "smoke":
        config.model.update({"features": 4, "convolutions": 1, "levels": 2})
        config.data.train.update({"crop": 48, "threads": 1})
        config.data.validation.update({"crop": 48, "limit": 2})
        config.optimiser.warmup = 2
        config.train.update({"batch": 2, "steps": 6, "ema": 0.9})
        config.train.update({"log_every": 2, "eval_every": 4, "save_every": 3})
    if half:
        config.model.dtype = "bfloat16"
    return config


def _medical(config: ml_collections.ConfigDict) -> None:
    """What slices ask for: half of one is black, and stays so."""
    config.recipe.update({"stretch": 1.05, "tone_rule": "max", "sharpness": 1.2})
    config.train.steps = 1200
    config.data.train.crop = 192
    config.data.validation.crop = 256
    config.data.train.jitter.update({"scale": 1.3, "noise": 0.0, "clip": 0.0})
    config.data.train.jitter.update({"exposure": 1.5, "contrast": 0.0, "polarity": 0.0})


def _further(config: ml_collections.ConfigDict) -> None:
    """Other weights of the terms, from what `ivf` made."""
    config.recipe.update({"edges": 1.6, "ssim": 1.3, "contrast": 0.5, "stretch": 1.08})
    config.recipe.update({"information": 0.25, "tone": 0.2, "gradient": 2.0})
    config.optimiser.learning_rate = 2e-3
    config.train.update({"steps": 900, "init": "runs/fusion-ivf/fusion-ivf.safetensors"})
