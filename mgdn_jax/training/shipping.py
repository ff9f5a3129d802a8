"""What a run ends with: the weights that travel, and their card."""

from __future__ import annotations

import pathlib
from typing import Any

import jax

from mgdn_jax.errors import InputError
from mgdn_jax.io.disk import write_atomically
from mgdn_jax.systems.contract import MixedLoader, PreparingLoader
from mgdn_jax.training.setup import Setup
from mgdn_jax.training.state import TrainState
from mgdn_jax.weights.card import card_text, versions
from mgdn_jax.weights.store import load_weights, save_weights


def weights_path(setup: Setup) -> pathlib.Path:
    """Where the weights go."""
    return setup.workdir / f"{setup.run.name}.safetensors"


def is_shipped(path: pathlib.Path, step: int) -> bool:
    """Whether the weights of a step and their card are written already."""
    try:
        training = load_weights(path).card.get("training", {})
    except InputError:
        return False
    return training.get("steps") == step and path.with_suffix(".md").exists()


def ship(
    setup: Setup,
    state: TrainState,
    *,
    command: str,
    hours: float,
    metrics: dict[str, float],
) -> pathlib.Path:
    """Writes the weights that travel and their card; for the first process only.

    Args:
        setup: of the run.
        state: at its end.
        command: how the run was started.
        hours: how long it took.
        metrics: of the last validation.

    Returns:
        The weights file.
    """
    recipe, train, path = setup.recipe, setup.run.train, weights_path(setup)
    step = int(state.step)
    loader = setup.loader
    preparation = dict(loader.preparation) if isinstance(loader, PreparingLoader) else {}
    passes = loader.passes(step) if isinstance(loader, MixedLoader) else {}
    card: dict[str, Any] = {
        "name": setup.run.name,
        "system": recipe.system,
        "training": {
            "command": command,
            "steps": step,
            "examples": step * train.batch,
            "hours": round(hours, 3),
            "device": f"{jax.device_count()} x {setup.devices[0].device_kind}",
            "weights": f"moving average, decay {train.ema}" if train.ema else "last step",
            "dataset_size": len(setup.loader.dataset),
            **({"passes": {k: round(v, 2) for k, v in passes.items()}} if passes else {}),
        },
        **({"preparation": preparation} if preparation else {}),
        "held_out": {key: round(value, 6) for key, value in metrics.items()},
        **recipe.card(),
        "config": setup.plain,
        "versions": versions(),
    }
    networks = jax.device_get((state.ema or state.params, state.stats))
    params, stats = recipe.join(*networks)
    write_atomically(path.with_suffix(".md"), card_text(setup.run.name, card).encode())
    save_weights(
        path,
        system=recipe.system,
        config=recipe.shipped(networks[0]).to_dict(),
        params=params,
        stats=stats,
        card=card,
    )
    return path
