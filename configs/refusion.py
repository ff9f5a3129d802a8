"""ReFusion: fusion under a learned loss, for ivf, mif, mff and mef, and what it is compared with.

    mgdn data prepare pairs --source DIR/ivf/train --name ivf
    python train.py --config=configs/refusion.py:ivf --workdir=runs/refusion-ivf

ivf (infrared, visible), mif (CT/PET/SPECT, MRI: all in one folder a and one folder b) and mef
(under-, over-exposed) learn from stored pairs without targets. mff learns from synthetic pairs of
the set `natural`, and so does mef by data.dataset and data.task. All learn from luminance only.
Lengths are for a GPU, and rates are those of the nearest training code. NAME_cpu makes the most of
a quarter of an hour of one CPU core: F and R by Muon, small crops in one order, P in one step of
four, equal inner steps, and form T.

Variants of ivf_cpu are ivf_form_r (ReFusion's own losses, P slow and from weights of 1/2), ivf_mgdn
(MGDN's network), ivf_max_abs (P by the published rule) and ivf_frozen (no P, all weights 1/2).
ivf_supervised is mff_cpu with P judged by the target. smoke is ivf shrunk, for tests.

Hours, machine and figures, on one CPU core beside other work; ranks are means of eight rows, with
those of the published ReFusion weights in brackets:

    ivf_cpu  0.88 hours with --config.train.steps=3000, 152 RoadScene pairs: `refusion-ivf`. Held
             out: loss 0.0943, outer loss 0.0836. TNO25 3.00 (3.50), RoadScene50 2.50 (4.38).
    ivf_cameras  1.56 hours from `refusion-ivf` as it was: 245 pairs of eight cameras, which is
             shipped under the name since. Held out: loss 0.0941, outer loss 0.108. Mean rank of
             seven rows on held-out pairs of all cameras 2.38, without a stretch.
    mif_cpu  0.15 hours, 603 medical slices: `refusion-mif`. Held out: outer loss 0.239. CT 2.62
             (4.62), PET 2.88 (4.50), SPECT 2.62 (3.50).
    mff_cpu  0.21 hours with --config.train.steps=1200, 283 BSDS500 photographs: `refusion-mff`.
             Held out: PSNR 36.8 dB. Lytro20, of 47 rows: 19.00 (20.88).
    mef_cpu  0.19 hours by data.dataset=natural and data.task=mef, 283 BSDS500 photographs:
             `refusion-mef`. Held out: outer loss 0.0501. MEFB-test20: 2.22 (5.56).
    ivf_form_r, as it was, and ivf_frozen end level (docs/benchmarks/learned_loss.md).
    ivf, mif, mff, mef, ivf_mgdn, ivf_max_abs, ivf_supervised: not run in full.
"""

import ml_collections

TASKS = ("ivf", "mif", "mff", "mef")
VARIANTS = (
    *("ivf_cameras", "ivf_form_r", "ivf_mgdn", "ivf_supervised", "ivf_max_abs", "ivf_frozen"),
)
PRESETS = (*TASKS, *(f"{task}_cpu" for task in TASKS), *VARIANTS, "smoke")
DATASETS = {"ivf": "ivf", "mif": "mif", "mff": "natural", "mef": "mef"}
JITTER = {  # of stored pairs: off
    **{"scale": 1.0, "gamma": 1.0, "noise": 0.0, "clip": 0.0},
    **{"exposure": 1.0, "contrast": 0.0, "polarity": 0.0},
}

CAMERAS = {"ivf": 8, "msrs": 6, "m3fd": 6, "flir": 3, "kaist": 3, "llvip": 2, "pv": 2, "tno": 2}
"""Examples of each camera for 32 of all; configs/pyramid.py says how the sets are prepared."""


def get_config(preset: str = "ivf") -> ml_collections.ConfigDict:
    """The config of a preset, one of `PRESETS`."""
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}; choose from {', '.join(PRESETS)}")
    task = {"ivf_supervised": "mff", "smoke": "ivf"}.get(preset, preset.split("_")[0])
    config = ml_collections.ConfigDict(
        {
            "name": "refusion-" + preset.removesuffix("_cpu").replace("_", "-"),
            "recipe": {
                "name": "refusion",
                "form": "R",  # or "T"
                "outer": "reconstruction",  # "mse", "supervised_l1", or my_module.my_outer_loss
                "intensity": 1.0,
                "gradient": 1.0,
                "ramp": True,
                "reconstruction_intensity": 1.0,
                "reconstruction_gradient": 1.0,
                "inner_steps": 1,
                "inner_rate": 0.0,  # 0: the current learning rate
                "inner_optimiser": "sgd",  # "normalised_sgd", "adam", or any optax.name
                "mode": "auto",
                "trainable": (),
                "meta_every": 1,
                "meta_after": 0.0,
                "even_start": False,
                "auxiliary_steps": 1,
                "auxiliary_optimiser": "sgd",
                "swap": True,
                "norm_floor": 1e-3,
                "black": 0.01,
                "frozen_weights": False,
                "auxiliary": {},
            },
            "model": {"system": "refusion", "preset": ""},  # mgdn trains MGDN; "": its first preset
            "data": {
                "loader": "mgdn_jax.data",
                "dataset": DATASETS[task],
                "mix": {},  # in its place weights by set: {"ivf": 1, "train2": 2}
                "task": "mff" if task == "mff" else "pairs",
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
                "milestones": (0.2, 0.4, 0.6, 0.8),
                "gamma": 0.1,
                "weight_decay": 0.0,
                "clip_norm": 0.0,
                "networks": {"proposal": {"name": "max_abs"}},
            },
            "train": {
                "batch": 8,  # half of it judges P; with the swap F sees twice as many
                "steps": 20_000,  # exactly one of steps, epochs, examples; the others 0
                **{"epochs": 0.0, "examples": 0, "accumulate": 1},
                "ema": 0.999,
                **{"seed": 0, "log_every": 50, "eval_every": 2000, "save_every": 1000, "keep": 2},
                "best": "",  # a figure of validation; "": psnr, or else loss
                "devices": 0,
                "parallel": "pmap",  # or "mesh"
                "checkpoints": "",  # in place of WORKDIR/checkpoints: a folder, or gs://...
                "init": "",
            },
        }
    )
    if preset.endswith("_cpu") or preset in VARIANTS:
        _small(config, task)
    if preset == "ivf_cameras":
        _cameras(config)
    if preset == "ivf_form_r":
        config.recipe.update(form="R", ramp=True, meta_every=1, meta_after=0.25, even_start=True)
        config.optimiser.networks.proposal.learning_rate = 2e-4
    config.model.system = "mgdn" if preset == "ivf_mgdn" else "refusion"
    config.recipe.outer = "supervised_l1" if preset == "ivf_supervised" else "reconstruction"
    if preset == "ivf_max_abs":
        config.optimiser.networks.proposal = {"name": "max_abs"}
    config.recipe.frozen_weights = preset == "ivf_frozen"
    if preset == "smoke":
        _smoke(config)
    return config


def _small(config: ml_collections.ConfigDict, task: str) -> None:
    """Small crops, few steps and form T, for two CPU cores."""
    config.recipe.update({"form": "T", "ramp": False, "swap": False, "meta_every": 4})
    config.recipe.update({"inner_optimiser": "normalised_sgd", "inner_rate": 1e-3})
    config.data.train.update({"crop": 32, "threads": 2})
    if task == "ivf":  # RoadScene lacks detail, noise, bright scenes and empty black
        config.data.train.jitter.update(scale=2.5, gamma=1.6, noise=0.02, clip=0.4)
    config.data.validation.update({"crop": 64, "limit": 16})
    config.optimiser.update(name="muon", learning_rate=1e-2, schedule="cosine", warmup=50)
    config.optimiser.networks.proposal = {"name": "adam", "learning_rate": 3e-4}
    config.train.update({"steps": 1000, "ema": 0.99, "save_every": 100, "eval_every": 100})


def _cameras(config: ml_collections.ConfigDict) -> None:
    """The mixture, from the weights that were trained on RoadScene alone."""
    config.update({"name": "refusion-ivf", "data": {"dataset": "", "mix": CAMERAS}})
    config.data.train.split, config.data.validation.split = "train[:85%]", "train[85%:]"
    config.data.train.jitter.update(noise=0.03, exposure=2.0, contrast=0.6, polarity=0.1)
    config.data.validation.update({"crop": 128, "limit": 6})
    config.optimiser.learning_rate = 6e-3
    config.train.update({"steps": 3000, "ema": 0.995, "eval_every": 250})
    config.train.init = "refusion-ivf"


def _smoke(config: ml_collections.ConfigDict) -> None:
    """Shrunk until a step takes milliseconds."""
    config.model.update({"features": 4, "blocks": 1, "heads": 2})
    config.data.train.update({"crop": 16, "threads": 1})
    config.data.validation.update({"crop": 16, "limit": 4})
    config.train.update({"batch": 4, "steps": 6, "ema": 0.9, "eval_every": 4, "save_every": 3})
