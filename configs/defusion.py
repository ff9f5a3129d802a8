"""DeFusion: one network for all tasks, learned from single photographs.

    mgdn data prepare natural --source DIR/natural --name natural
    python train.py --config=configs/defusion.py:small --workdir=runs/defusion

b is the published network with the published schedule, as near as it can be told; a, c and d are
its other published forms (docs/systems/defusion.md). They are for a GPU and many photographs. small
is a narrower and shallower network for two CPU cores, on a schedule a hundredth as long, with a
calmer start; small_further goes on from it. smoke is small shrunk until a step takes milliseconds,
for tests.

Hours, machine and figures, on two CPU cores that did other work at the same time:

    small          0.6 hours, 283 BSDS500 photographs. Held out: PSNR 18.9 dB, nearly gray.
    small_further  0.6 hours, from the weights of small. Held out: PSNR 26.6 dB, in colour. Below
                   every rule on three test sets (docs/systems/defusion.md): it is not shipped.
    a, b, c, d     not run in full.
"""

import ml_collections

PRESETS = ("b", "a", "c", "d", "small", "small_further", "smoke")

STEPS = 637_500
"""51 epochs of 12,500 batches of 4."""


def get_config(preset: str = "b") -> ml_collections.ConfigDict:
    """The config of a preset, one of `PRESETS`."""
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}; choose from {', '.join(PRESETS)}")
    model = {"small_further": "small", "smoke": "small"}.get(preset, preset)
    config = ml_collections.ConfigDict(
        {
            "name": "defusion",
            "recipe": {
                "name": "defusion",
                "scale": 4.0,
                "outside": 0.15,
                "outside_from": 3000,  # all counts are training steps
                "outside_full": 7000,
                "outside_relaxed": 40_000,
                "outside_rest": 0.1,
                "fusion_from": 17_000,
                "fusion_zero": 10_000,
                "fusion_full": 24_000,
                "start_gain": 1.0,
                "start_level": 0.0,
            },
            "model": {"preset": model},
            "data": {
                "loader": "mgdn_jax.data",
                "dataset": "natural",
                "mix": {},  # in its place weights by set: {"natural": 1, "mine": 2}
                "task": "mgdn_jax.systems.defusion.pretext",
                "synthesis": {
                    "factors": (0.1, 1.0),
                    "area": (0.08, 1.0),
                    "coarse": 13,
                    "fine": (26, 27),
                    "antialias": False,
                },
                "train": {"split": "train[:95%]", "crop": 256, "augment": False, "threads": 4},
                "validation": {"split": "train[95%:]", "crop": 256, "limit": 32},
            },
            "optimiser": {
                "name": "adam",
                "learning_rate": 1e-3,
                "schedule": "multistep",
                "warmup": 0,
                "end_factor": 0.0,
                "milestones": tuple(epoch / 51 for epoch in (10, 20, 30, 40)),
                "gamma": 0.5,
                "weight_decay": 0.0,
                "clip_norm": 0.0,
                "networks": {},
            },
            "train": {
                "batch": 4,
                "steps": STEPS,  # exactly one of steps, epochs, examples; the others 0
                **{"epochs": 0.0, "examples": 0, "accumulate": 1},
                "ema": 0.0,
                **{"seed": 1, "log_every": 50, "eval_every": 12_500, "save_every": 12_500},
                "keep": 2,
                "best": "",  # a figure of validation; "": psnr, or else loss
                "devices": 0,
                "parallel": "pmap",  # or "mesh"
                "checkpoints": "",  # in place of WORKDIR/checkpoints: a folder, or gs://...
                "init": "",
            },
        }
    )
    # The last convolution's own schedule begins with it; its milestones fall on the same steps in a
    # run of this length. For another one, set both.
    late = config.recipe.fusion_from
    stones = tuple((m * STEPS - late) / (STEPS - late) for m in config.optimiser.milestones)
    config.optimiser.networks = {"rule": {"milestones": stones}}
    if model == "small":
        _small(config)
    if preset == "small_further":
        _further(config)
    if preset == "smoke":
        _smoke(config)
    return config


def _small(config: ml_collections.ConfigDict) -> None:
    """What two CPU cores can do in an hour or two."""
    config.recipe.update({"outside_from": 100, "outside_full": 300, "outside_relaxed": 1200})
    config.recipe.update({"fusion_from": 400, "fusion_zero": 200, "fusion_full": 800})
    config.recipe.update({"start_gain": 0.25, "start_level": 0.3})
    config.data.train.update({"crop": 96, "augment": True, "threads": 1})
    config.data.synthesis.update({"coarse": 6, "fine": (12, 13)})  # squares as large in pixels
    config.data.validation.update({"crop": 128, "limit": 8})
    config.optimiser.update({"schedule": "cosine", "warmup": 50, "clip_norm": 1.0, "networks": {}})
    config.optimiser.learning_rate = 2e-3
    config.train.update({"steps": 2400, "ema": 0.995, "log_every": 25})
    config.train.update({"eval_every": 600, "save_every": 200})


def _further(config: ml_collections.ConfigDict) -> None:
    """On from what `small` made, under the weights that its loss ended with."""
    config.recipe.update({"outside_from": 0, "outside_full": 0, "outside_relaxed": 0})
    config.recipe.update({"fusion_from": 0, "fusion_zero": 0, "fusion_full": 1})
    config.data.synthesis.factors = (0.5, 1.0)  # the published ones leave little colour to learn
    config.optimiser.update({"name": "muon", "learning_rate": 5e-3})
    config.train.update({"steps": 4000, "seed": 2, "init": "runs/defusion/defusion.safetensors"})


def _smoke(config: ml_collections.ConfigDict) -> None:
    """A network and a run for tests."""
    config.model.update({"stem": 4, "encoder": (2, 2, 2, 2), "encoder_depths": (1, 1, 1, 1)})
    config.model.update({"code": 2, "code_depth": 1, "unique": (2, 2, 2, 2)})
    config.model.update({"unique_depths": (1, 1, 1, 1), "common": (2, 2, 2, 2)})
    config.model.update({"common_depths": (1, 1, 1, 1), "border": 2})
    config.recipe.update({"outside_from": 1, "outside_full": 2, "outside_relaxed": 4})
    config.recipe.update({"fusion_from": 3, "fusion_zero": 1, "fusion_full": 5})
    config.data.train.update({"crop": 16})
    config.data.validation.update({"crop": 16, "limit": 2})
    config.optimiser.warmup = 1
    config.train.update({"batch": 4, "steps": 6, "ema": 0.9, "log_every": 2})
    config.train.update({"eval_every": 4, "save_every": 2})
