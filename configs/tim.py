"""TIM for infrared and visible: train a network of primitives, search for them, learn a start.

    mgdn data prepare pairs --source DIR/ivf/train --name ivf
    python train.py --config=configs/tim.py:search_cpu --workdir=runs/search
    python train.py --config=configs/tim.py:ivf_cpu --workdir=runs/tim-ivf \
        --config.train.init=runs/search/tim-search.safetensors \
        --config.model.chain="('SepConv_3_1', 'DilConv_3_2')"

The release has no training: losses, lengths and rates are ours (docs/systems/tim.md). search_cpu
finds the two primitives of a chain cell and ships the network of them, with the weights that it had
in the search; the log holds all shares. tasks_cpu learns a start from which several tasks are
learned soon. ivf is the published width, for a GPU; NAME_cpu are narrow ones, for two CPU cores.
smoke, search_smoke and tasks_smoke are those shrunk until a step takes milliseconds, for tests.

ivf_cpu and ivf_cameras have the cell that a search found; ivf_cameras is trained on pairs of eight
cameras, which configs/refusion.py prepares.

Hours, machine and figures, on two CPU cores that did other work at the same time:

    ivf_cpu      0.31 hours, 136 RoadScene pairs. Held-out loss 1.276. Mean rank of seven rows on
                 held-out pairs of RoadScene 3.12, of all cameras 4.52 (Laplacian pyramid 4.38).
    ivf_cameras  0.53 hours, 245 pairs of eight cameras: `tim-ivf`. Held-out loss of the mixture
                 1.161. Mean ranks 3.12 and 3.83 (Laplacian pyramid 4.25 and 4.55).
    ivf, search_cpu, tasks_cpu: not run in full.
"""

import ml_collections

PRESETS = (
    *("ivf", "ivf_cpu", "ivf_cameras", "search_cpu", "tasks_cpu"),
    *("smoke", "search_smoke", "tasks_smoke"),
)
JITTER = {
    **{"scale": 2.0, "gamma": 1.6, "noise": 0.02, "clip": 0.2},
    **{"exposure": 1.5, "contrast": 0.5, "polarity": 0.05},
}
FOUND = ("ECAattention_3", "SPAattention_3")
"""The cell of the third search of docs/systems/tim.md, the one with the least held-out loss."""
CAMERAS = {"ivf": 8, "msrs": 6, "m3fd": 6, "flir": 3, "kaist": 3, "llvip": 2, "pv": 2, "tno": 2}
"""Examples of each camera for 32 of all."""
TASKS = {"ivf": "sum", "ct": "max", "pet": "max", "spect": "max"}
"""Sets of the start for several tasks, and what their intensities are compared with."""


def get_config(preset: str = "ivf") -> ml_collections.ConfigDict:
    """The config of a preset, one of `PRESETS`, or of one in bfloat16: NAME_bf16."""
    half, preset = preset.endswith("_bf16"), preset.removesuffix("_bf16")
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}; choose from {', '.join(PRESETS)}")
    config = ml_collections.ConfigDict(
        {
            "name": "tim-ivf",
            "recipe": {
                **{"name": "tim", "form": "train"},
                **{"intensity": 4.0, "intensity_rule": "sum", "gradient": 4.0, "ssim": 1.0},
            },
            "model": {"preset": "light", "chain": ("Residualblocks_3_1", "ECAattention_3")},
            "data": {
                "loader": "mgdn_jax.data",
                "dataset": "ivf",
                "mix": {},  # in its place weights by set: {"ivf": 1, "train2": 2}
                "task": "pairs",
                "channels": 1,
                "train": {"split": "train[:85%]", "crop": 96, "threads": 2, "jitter": JITTER},
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
                "networks": {},
            },
            "train": {
                "batch": 8,
                "steps": 20_000,  # exactly one of steps, epochs, examples; the others 0
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
    if preset != "ivf":
        config.model.preset = "small"
        config.train.steps = 1500
    if preset.startswith("ivf_"):
        config.model.chain = FOUND
    if preset == "ivf_cameras":
        _cameras(config)
    if preset.startswith("search"):
        _search(config)
    if preset.startswith("tasks"):
        _tasks(config)
    if preset.endswith("smoke"):
        _smoke(config)
    if half:
        config.model.dtype = "bfloat16"
    return config


def _cameras(config: ml_collections.ConfigDict) -> None:
    """All cameras, and pictures more different than those of one."""
    config.data.update({"dataset": "", "mix": CAMERAS})
    config.data.train.jitter.update({"noise": 0.03, "contrast": 0.6, "polarity": 0.1})
    config.data.validation.limit = 6
    config.train.steps = 4000


def _search(config: ml_collections.ConfigDict) -> None:
    """The logits by Adam, as the release steps them, after a part of the run without them."""
    config.name = "tim-search"
    config.recipe.update({"form": "search", "search_mode": "rank_one", "rank_one": "derived"})
    config.recipe.update({"search_after": 0.2, "latency": 0.1, "entropy": 0.0})
    config.optimiser.networks = {
        "architecture": {
            **{"learning_rate": 1e-2, "schedule": "constant", "warmup": 0},
            **{"b1": 0.5, "b2": 0.999, "clip_norm": 0.0},
        }
    }
    config.train.update({"steps": 600, "batch": 8})


def _tasks(config: ml_collections.ConfigDict) -> None:
    """Sets of one share each; a batch holds two halves of every one."""
    config.name = "tim-start"
    config.recipe.update({"form": "tasks", "tasks": TASKS, "task_mode": "first_order"})
    config.recipe.update({"task_steps": 3, "task_rate": 1e-2})
    config.data.update({"dataset": "", "mix": dict.fromkeys(TASKS, 1.0)})
    config.train.batch = 4 * len(TASKS)
    config.train.steps = 600


def _smoke(config: ml_collections.ConfigDict) -> None:
    config.model.update({"features": 4, "chains": 1})
    config.data.train.update({"crop": 16, "threads": 1})
    config.data.validation.update({"crop": 16, "limit": 2})
    config.optimiser.warmup = 2
    if config.recipe.form == "search":
        config.recipe.update({"choices": ("SepConv_3_1", "SPAattention_3"), "latency": 0.0})
    if config.recipe.form == "tasks":
        config.recipe.tasks = {"ivf": "sum", "ct": "max"}
        config.data.mix = {"ivf": 1.0, "ct": 1.0}
    config.train.update({"batch": 4, "steps": 6})
    config.train.update({"log_every": 2, "eval_every": 4, "save_every": 3})
