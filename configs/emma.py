"""EMMA for infrared and visible (ivf) and medical pairs (mif).

Its sensing networks learn from pictures that other methods fused: ours, of `refusion-ivf` and
`cddfuse-ivf`. They are the third folder of a set, made once for each camera and method:

    mgdn fuse DIR/ivf/train/ir DIR/ivf/train/vi -o FUSED/refusion --model refusion-ivf
    cd DIR/ivf/train
    mgdn data prepare pairs --source . --folders ir vi FUSED/refusion --name ivf_refusion
    python train.py --config=configs/emma.py:ivf --workdir=runs/emma-ivf

Cameras are those of configs/refusion.py, here with _METHOD after their names (docs/systems/emma.md
has the loop); scanners of mif likewise, with `refusion-mif` and `cddfuse-mif`. In Python,
`mgdn_jax.fuse_folders` makes the folders.

Everything is about luminance. Losses, rates and views are the released code's; batch and crops of
ivf are those of its second phase. The lengths are for a GPU. NAME_cpu has narrower sensing
networks, fewer views a step and smaller crops, for a laptop; its U-Fuser is the published one.
NAME_small has a narrower U-Fuser as well. smoke is ivf shrunk until a step takes milliseconds.

Hours, machine and figures, on a CPU core that did other work at the same time:

    ivf_cpu  0.57 hours, 245 pairs of eight cameras, each fused twice. Held-out loss 0.206 and still
             falling. Mean rank of seven rows on held-out pairs of four cameras 5.62 (Laplacian
             pyramid 4.62): not shipped. docs/systems/emma.md has two other runs.
    ivf, mif, mif_cpu, ivf_small, mif_small: not run in full.
"""

import ml_collections

TASKS = ("ivf", "mif")
PRESETS = (
    *TASKS,
    *(f"{task}_cpu" for task in TASKS),
    *(f"{task}_small" for task in TASKS),
    "smoke",
)
METHODS = ("refusion", "cddfuse")
"""Whose fused pictures the sensing networks see."""

CAMERAS = {"ivf": 8, "msrs": 6, "m3fd": 6, "flir": 3, "kaist": 3, "llvip": 2, "pv": 2, "tno": 2}
"""Examples of each camera for 32 of all."""

SCANNERS = {"ct": 1, "pet": 1, "spect": 1}
JITTER = {  # tones and noise would part the sources from what was fused of them
    **{"scale": 1.0, "gamma": 1.0, "noise": 0.0, "clip": 0.0},
    **{"exposure": 1.0, "contrast": 0.0, "polarity": 0.0},
}


def get_config(preset: str = "ivf") -> ml_collections.ConfigDict:
    """The config of a preset, one of `PRESETS`."""
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}; choose from {', '.join(PRESETS)}")
    task = "mif" if preset.startswith("mif") else "ivf"
    sets = SCANNERS if task == "mif" else CAMERAS
    config = ml_collections.ConfigDict(
        {
            "name": f"emma-{task}",
            "recipe": {
                "name": "emma",
                "sensing": (64, 128, 256, 512, 1024),
                "first_phase": 0.2,
                "momentum": 0.9,
                "noise": 0.0,
                "equivariance": 0.1,
                "views": 10,
                "norm_floor": 1e-12,
            },
            "model": {"preset": task},
            "data": {
                "loader": "mgdn_jax.data",
                "dataset": "",
                "mix": {f"{name}_{m}": share for name, share in sets.items() for m in METHODS},
                "task": "pairs",
                "channels": 1,
                "train": {"split": "train[:85%]", "crop": 128, "threads": 4, "jitter": JITTER},
                "validation": {"split": "train[85%:]", "crop": 128, "limit": 3},
            },
            "optimiser": {
                "name": "adam",
                "learning_rate": 1e-4,
                "schedule": "multistep",
                "warmup": 0,
                "end_factor": 0.0,
                "milestones": (1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6),  # every 20 of 120 epochs
                "gamma": 0.5,
                "weight_decay": 0.0,
                "clip_norm": 0.0,
                "networks": {  # every 10 of 40 epochs
                    name: {"milestones": (0.25, 0.5, 0.75)} for name in ("sensing_a", "sensing_b")
                },
            },
            "train": {
                "batch": 4,
                "steps": 240_000,  # exactly one of steps, epochs, examples; the others 0
                "epochs": 0.0,
                "examples": 0,
                "accumulate": 1,
                "ema": 0.0,
                "seed": 0,
                "log_every": 50,
                "eval_every": 4000,
                "save_every": 1000,
                "keep": 2,
                "best": "loss",  # psnr would be the likeness to the other methods' pictures
                "devices": 0,
                "parallel": "pmap",  # or "mesh"
                "checkpoints": "",  # in place of WORKDIR/checkpoints: a folder, or gs://...
                "init": "",  # weights to start from: a bundled name or a file
            },
        }
    )
    if preset.endswith(("_cpu", "_small")):
        _laptop(config, narrow=preset.endswith("_small"))
    if preset == "smoke":
        config.recipe.sensing = (2, 4)
        config.model.update({"features": (4, 4), "heads": 2, "remat": "none"})
        config.data.mix = {}
        config.data.dataset = "ivf_refusion"
        config.data.train.update({"crop": 16, "threads": 1})
        config.data.validation.update({"crop": 16, "limit": 4})
        config.train.update({"batch": 4, "steps": 6, "ema": 0.9, "eval_every": 4, "save_every": 3})
        config.train.log_every = 2
    return config


def _laptop(config: ml_collections.ConfigDict, *, narrow: bool) -> None:
    """What an hour of a CPU core allows."""
    config.recipe.update({"sensing": (16, 32, 64, 128, 256), "first_phase": 0.6, "views": 3})
    config.recipe.update({"momentum": 0.99, "norm_floor": 1e-3})
    config.recipe.update({"noise": 0.1})
    config.model.remat = "none"
    if narrow:
        config.model.preset += "_small"
    config.data.train.update({"crop": 64, "threads": 2})
    config.data.train.jitter.scale = 2.5 if config.name == "emma-ivf" else 1.3
    config.data.validation.update({"crop": 64, "limit": 2})
    config.optimiser.update({"learning_rate": 3e-4, "schedule": "cosine"})
    config.optimiser.update({"warmup": 50, "end_factor": 0.01, "clip_norm": 1.0})
    for name in ("sensing_a", "sensing_b"):
        config.optimiser.networks[name] = {"learning_rate": 2e-3}
    config.train.update({"batch": 2, "steps": 4200, "ema": 0.99})
    config.train.update({"log_every": 50, "eval_every": 400, "save_every": 200})
