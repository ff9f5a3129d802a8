"""CEN for infrared and visible: branches that exchange channels, and the same network without.

    mgdn data prepare pairs --source DIR/ivf/train --folders ir vi --name ivf
    python train.py --config=configs/cen.py:ivf --workdir=runs/cen-ivf
    python train.py --config=configs/cen.py:ivf_plain --workdir=runs/cen-plain

ivf_plain differs in one line, ``model.exchange``. The scales of the norms have an optimiser of
their own, plain gradient descent with the proximal step of their penalty (docs/systems/cen.md says
how to choose ``recipe.sparsity``). There is no moving average: it lags, and a channel would be
exchanged in the weights that train, and not in those that are validated. smoke is ivf shrunk until
a step takes milliseconds, for tests.

ivf_cameras goes on from ivf, whose weights it finds in runs/cen-ivf, on pairs of eight cameras;
configs/refusion.py says how they are prepared.

Hours, machine and figures, on two CPU cores that did other work at the same time:

    ivf          0.53 hours, 136 RoadScene pairs. Held-out loss 0.926.
    ivf_plain    not run in full. Three seeds of 500 steps each, five minutes a run: held-out loss
                 1.021 to 1.022, and 0.956 to 0.985 with exchange (docs/systems/cen.md).
    ivf_cameras  0.28 hours from those weights, 245 pairs of eight cameras: `cen-ivf`. Held-out loss
                 of the mixture 0.846. Mean rank of seven rows on held-out pairs of all cameras 3.94
                 (Laplacian pyramid 4.42, hybrid rule 3.92).
"""

import ml_collections

PRESETS = ("ivf", "ivf_plain", "ivf_cameras", "smoke")
CAMERAS = {"ivf": 8, "msrs": 6, "m3fd": 6, "flir": 3, "kaist": 3, "llvip": 2, "pv": 2, "tno": 2}
"""Examples of each camera for 32 of all."""
JITTER = {
    **{"scale": 2.0, "gamma": 1.6, "noise": 0.02, "clip": 0.2},
    **{"exposure": 1.5, "contrast": 0.5, "polarity": 0.05},
}


def get_config(preset: str = "ivf") -> ml_collections.ConfigDict:
    """The config of a preset, one of `PRESETS`, or of one in bfloat16: NAME_bf16."""
    half, preset = preset.endswith("_bf16"), preset.removesuffix("_bf16")
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}; choose from {', '.join(PRESETS)}")
    config = ml_collections.ConfigDict(
        {
            "name": "cen-plain" if preset == "ivf_plain" else "cen-ivf",
            "recipe": {
                **{"name": "cen", "intensity": 4.0, "intensity_rule": "max"},
                **{"intensity_share": 0.0, "gradient": 2.0, "ssim": 1.0},
                **{"sparsity": 3e-4, "sparsity_step": "proximal"},
            },
            "model": {"preset": "ivf", "exchange": preset != "ivf_plain", "threshold": 0.02},
            "data": {
                "loader": "mgdn_jax.data",
                "dataset": "ivf",
                "mix": {},  # in its place weights by set: {"ivf": 1, "train2": 2}
                "task": "pairs",
                "channels": 1,
                "train": {"split": "train[:85%]", "crop": 64, "threads": 2, "jitter": JITTER},
                "validation": {"split": "train[85%:]", "crop": 128, "limit": 16},
            },
            "optimiser": {
                "name": "adam",
                "learning_rate": 1e-3,
                "schedule": "cosine",
                "warmup": 50,
                "end_factor": 0.01,
                "weight_decay": 0.0,
                "clip_norm": 1.0,
                "networks": {
                    "scales": {
                        **{"name": "sgd", "momentum": 0.0, "learning_rate": 2.0},
                        **{"schedule": "constant", "warmup": 50, "clip_norm": 0.0},
                    },
                },
            },
            "train": {
                "batch": 8,
                "steps": 3000,  # exactly one of steps, epochs, examples; the others 0
                "epochs": 0.0,
                "examples": 0,
                "accumulate": 1,
                "ema": 0.0,
                "seed": 0,
                "log_every": 20,
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
    if preset == "ivf_cameras":
        _cameras(config)
    if preset == "smoke":
        config.model.update({"encoder": (4, 4), "decoder": (4,)})
        config.data.train.update({"crop": 16, "threads": 1})
        config.data.validation.update({"crop": 16, "limit": 2})
        config.optimiser.warmup = 2
        config.optimiser.networks.scales.warmup = 2
        config.train.update({"batch": 4, "steps": 6})
        config.train.update({"log_every": 2, "eval_every": 4, "save_every": 3})
    if half:
        config.model.dtype = "bfloat16"
    return config


def _cameras(config: ml_collections.ConfigDict) -> None:
    """The mixture, from the weights that were trained on RoadScene alone."""
    config.data.update({"dataset": "", "mix": CAMERAS})
    config.data.train.jitter.update({"noise": 0.03, "contrast": 0.6, "polarity": 0.1})
    config.data.validation.limit = 6
    config.optimiser.learning_rate = 5e-4
    config.train.update({"steps": 2000, "init": "runs/cen-ivf/cen-ivf.safetensors"})
