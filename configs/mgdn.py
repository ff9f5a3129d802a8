"""MGDN for its four tasks: multi-focus (mff), multi-exposure (mef), depth (gdsr), radiance (hdr).

    mgdn data prepare natural --source DIR
    python train.py --config=configs/mgdn.py:mff --workdir=runs/mff

    mff     photographs with segmentations, defocused on one side of a region's outline; the target
            is the photograph. mff_cpu is the same on smaller crops.
    mef     the same photographs, exposed three times; the target is the photograph.
            mef_tune_cpu starts from a rule, or from such weights (train.init), on brackets that a
            camera took and that have no target (`mgdn data prepare pairs --name mef`).
    gdsr4   depth maps reduced by 4, beside their photograph (`mgdn data prepare rgbd`); gdsr8 and
            gdsr16 by 8 and 16.
    hdr     brackets of scenes in which things move, synthesised from HDR pictures and photographs
            (`mgdn data prepare hdr`, and natural).
    smoke   mff shrunk until a step takes milliseconds, for tests.

These have the published sizes, for accelerators; mff and mef weigh their inputs. mef_cpu,
gdsr4_cpu, gdsr8_cpu and hdr_cpu are small networks that work at half the resolution. They start
from a rule for exposures, from the enlarged map and from a merge by rule, and take up to an hour of
a CPU core each; gdsr8_cpu goes on from the weights of gdsr4_cpu (train.init).

Hours, machine and figures of what was run: the weights' cards (`mgdn models`), docs/systems/mgdn.md

The authors of MGDN released no training code. Losses, schedule and length are this project's. Adam
without weight decay and the average's decay of 0.999 are read off their files.
"""

import ml_collections

PRESETS = (
    *("mff", "mff_cpu", "mef", "mef_cpu", "mef_tune_cpu"),
    *("gdsr4", "gdsr4_cpu", "gdsr8", "gdsr8_cpu", "gdsr16"),
    *("hdr", "hdr_cpu", "smoke"),
)
_SMALL = {"features": 24, "depths": (2, 2), "heads": (6, 6), "mlp_ratio": 2.0, "patch": 2}


def get_config(preset: str = "mff") -> ml_collections.ConfigDict:
    """The config of a preset, one of `PRESETS`, or of one in bfloat16: NAME_bf16."""
    half, preset = preset.endswith("_bf16"), preset.removesuffix("_bf16")
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}; choose from {', '.join(PRESETS)}")
    config = _multi_focus("bfloat16" if half else "float32")
    task, _, form = preset.partition("_")
    small = form.endswith("cpu")
    if task == "mef":
        _multi_exposure(config, small)
        if form == "tune_cpu":
            _real_exposures(config)
    elif task.startswith("gdsr"):
        _depth(config, int(task.removeprefix("gdsr")), small)
    elif task == "hdr":
        _radiance(config, small)
    elif preset == "mff_cpu":
        config.data.train.update({"crop": 64, "threads": 2})
        config.data.validation.limit = 16
        config.train.update({"steps": 3000, "log_every": 20, "eval_every": 600, "save_every": 200})
    elif preset == "smoke":
        config.name = "mgdn-smoke"
        config.model.update({"features": 12, "depths": (1,), "heads": (3,)})
        config.data.train.update({"crop": 16, "threads": 1})
        config.data.validation.update({"crop": 16, "limit": 4})
        config.optimiser.warmup = 2
        config.train.update(batch=4, steps=6, ema=0.9, log_every=2, eval_every=4, save_every=3)
    return config


def _multi_focus(dtype: str) -> ml_collections.ConfigDict:
    """Photographs defocused on one side of an outline; what the other tasks start from."""
    return ml_collections.ConfigDict(
        {
            "name": "mgdn-mff",
            "recipe": {
                "name": "mgdn",
                "supervised": True,
                "space": "plain",
                "l1": 1.0,
                "mse": 0.0,
                "light": 0.0,
                "edges": 0.0,
                "ssim": 0.0,
                "gradient": 0.0,
                "intensity": 0.0,
                "intensity_rule": "max",
                "focus": 0.05,
                "mef": 0.0,
                "nmi": 0.01,
            },
            "model": {
                "preset": "mff",
                "guidance": "mutual",
                "head": "blend",
                "patch": 1,
                "stem_gain": 15.0,
                "dtype": dtype,
            },
            "data": {
                "loader": "mgdn_jax.data",
                "dataset": "natural",
                "mix": {},  # in its place weights by set: {"ivf": 1, "train2": 2}
                "task": "mff",
                "train": {
                    "split": "train[:95%]",
                    "crop": 128,
                    "threads": 4,
                    "jitter": {  # of stored pairs
                        **{"scale": 1.0, "gamma": 1.0, "noise": 0.0, "clip": 0.0},
                        **{"exposure": 1.0, "contrast": 0.0, "polarity": 0.0},
                    },
                },
                "validation": {"split": "train[95%:]", "crop": 128, "limit": 32},
            },
            "optimiser": {
                "name": "adam",
                "learning_rate": 7e-4,
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
                "best": "",  # a figure of validation; "": the recipe's own, psnr, or else loss
                "eval_batch": 0,
                "devices": 0,
                "parallel": "pmap",  # or "mesh"
                "checkpoints": "",  # in place of WORKDIR/checkpoints: a folder, or gs://...
                "init": "",  # weights to start from: a bundled name or a file
            },
        }
    )


def _plain_start(config: ml_collections.ConfigDict) -> None:
    """What only choosing the sharper of two sources needs is off."""
    config.recipe.update({"focus": 0.0})
    config.model.update({"stem_gain": 0.0})


def _small(config: ml_collections.ConfigDict, steps: int, crop: int) -> None:
    """A network and a run for two CPU cores."""
    config.model.update({**_SMALL, "drop_path": 0.0})
    config.data.train.update({"crop": crop, "threads": 2})
    config.data.validation.update({"crop": crop, "limit": 32})
    config.optimiser.learning_rate = 5e-4
    config.train.update({"steps": steps, "log_every": 20, "eval_every": 500, "save_every": 100})


def _multi_exposure(config: ml_collections.ConfigDict, small: bool) -> None:
    """Brackets of two or three exposures, weighed as a set."""
    _plain_start(config)
    config.name = "mgdn-mef"
    config.recipe.update({"l1": 0.5, "mef": 1.0})
    config.model.update({"preset": "mef", "guidance": "set", "head": "pyramid"})
    config.data.update({"task": "mef", "synthesis": {"count": 3}})
    config.optimiser.learning_rate = 2e-4
    if small:
        _small(config, steps=800, crop=96)
        config.recipe.update({"l1": 0.05, "nmi": 0.0})
        config.model.window = 8
        config.optimiser.learning_rate = 1e-3
        config.train.update({"batch": 4, "ema": 0.995, "eval_every": 200})


def _real_exposures(config: ml_collections.ConfigDict) -> None:
    """From the rule, or weights of `_multi_exposure`: real brackets, compared with themselves."""
    config.recipe.update({"supervised": False, "l1": 0.0, "mef": 1.0, "nmi": 0.0})
    config.recipe.update({"gradient": 0.1, "intensity": 0.03, "intensity_rule": "mean"})
    config.data.update({"dataset": "mef", "task": "pairs"})
    del config.data.synthesis
    config.data.train.jitter.scale = 2.0
    config.data.train.split, config.data.validation.split = "train[:80%]", "train[80%:]"
    # Less of the picture than this hides what the coarse scales do.
    config.data.train.crop, config.data.validation.crop = 192, 256
    config.optimiser.update({"name": "muon", "learning_rate": 5e-3, "warmup": 20})
    config.train.update(batch=1, steps=400, ema=0.98, log_every=10, eval_every=100, save_every=50)


def _depth(config: ml_collections.ConfigDict, scale: int, small: bool) -> None:
    """Depth maps enlarged beside a photograph."""
    _plain_start(config)
    config.name = f"mgdn-gdsr{scale}"
    # Errors are a tenth of those of other tasks: stronger information terms drown them at first.
    config.recipe.update({"edges": 0.3, "nmi": 0.001})
    config.model.update({"preset": "gdsr16" if scale == 16 else "gdsr", "head": "direct"})
    config.data.update({"dataset": "rgbd", "task": "gdsr", "synthesis": {"scale": scale}})
    config.data.synthesis.update({"shrink": 1.0, "whole_share": 0.0})
    del config.data.train.jitter
    config.data.train.crop = 256
    config.data.train.split = "train[:90%]"
    config.data.validation.update({"split": "train[90%:]", "crop": 256})
    config.optimiser.update({"learning_rate": 1e-4, "schedule": "multistep"})
    config.optimiser.milestones = (1000 / 1200, 1100 / 1200)
    config.train.update({"batch": 4, "steps": 300_000})
    if small:
        _small(config, steps=6000, crop=96)
        config.recipe.update({"l1": 0.1, "mse": 100.0, "edges": 0.1})
        config.model.head = "residual"
        config.data.synthesis.update({"shrink": 2.0, "whole_share": 0.5})
        config.data.validation.crop = 384
        config.optimiser.update({"schedule": "cosine", "learning_rate": 1e-3})
        config.train.update({"batch": 4, "eval_batch": 2})
        if scale == 8:  # from the weights of gdsr4_cpu, by train.init
            config.optimiser.update({"name": "muon", "learning_rate": 5e-3, "warmup": 50})
            config.train.steps = 3000


def _radiance(config: ml_collections.ConfigDict, small: bool) -> None:
    """Three exposures of a scene in which things and the camera move."""
    _plain_start(config)
    config.name = "mgdn-hdr"
    config.recipe.update({"space": "mu", "nmi": 0.001})
    config.model.update({"preset": "hdr", "guidance": "reference", "head": "direct"})
    config.data.update({"dataset": "hdr", "task": "hdr", "synthesis": {"objects": "natural"}})
    config.data.train.split, config.data.validation.split = "train[:80%]", "train[80%:]"
    del config.data.train.jitter
    config.optimiser.update({"learning_rate": 1e-4, "schedule": "multistep"})
    config.optimiser.milestones = (0.16, 0.24)
    config.train.update({"batch": 4, "steps": 200_000})
    if small:
        _small(config, steps=3500, crop=96)
        config.recipe.update({"mse": 20.0, "light": 10.0})
        config.model.head = "merge"
        config.data.synthesis.update({"shift": 1.5, "shutter": 0.16})
        config.data.validation.crop = 192
        config.optimiser.update({"schedule": "cosine", "learning_rate": 7e-4})
        config.train.batch = 4
