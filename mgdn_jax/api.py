"""The public face: the few calls that join the rooms; `mgdn_jax` hands them on lazily."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from mgdn_jax import checkpoint, conversion, evaluation, files, models, stream, zoo
from mgdn_jax.conversion import Report
from mgdn_jax.errors import InputError
from mgdn_jax.fuser import Fuser
from mgdn_jax.layers.functional import Flat


def load(name_or_path: str | os.PathLike[str] = zoo.DEFAULT) -> Fuser:
    """A bundled network by name, or the network in a weight file.

    Args:
        name_or_path: e.g. ``"mgdn-mff"`` (see `list_models`), or a ``.safetensors`` file that
            `convert` or a training run wrote.

    Raises:
        InputError: unknown name, missing, truncated or foreign file, or weights that do not fit
            the configuration stored with them.
    """
    weights = checkpoint.load_weights(zoo.resolve(name_or_path))
    config = models.get(weights.system).Config.from_dict(weights.config)
    return Fuser(weights.system, config, weights.params, weights.stats, weights.card)


def fuse_folders(
    *folders: str | os.PathLike[str],
    output: str | os.PathLike[str],
    model: str | os.PathLike[str] | Fuser = zoo.DEFAULT,
    batch: int | None = None,
    **options: Any,
) -> dict[str, Path | InputError]:
    """Fuses folders of pictures, matched by file name, into a folder of PNG files.

    Files are read and written in threads beside the network. A scene that cannot be fused leaves
    the others alone.

    Args:
        *folders: one for each input of the network, in its order.
        output: folder to write to; made if it is missing.
        model: as `load` takes it, or a loaded `Fuser`.
        batch: pictures of one size that are fused at once; None is 1 on a CPU, 8 elsewhere.
        **options: of a `Fuser` call, ``tile=512`` or ``stretch="minmax"`` for instance; ``bucket``
            is 64 unless given.

    Returns:
        For each name the file written, or what was wrong with it (a partner that is missing, too).

    Raises:
        InputError: folders without a common name, an unknown model, wrong options, or an output
            that cannot be written.
    """
    if len(folders) < 2:
        raise InputError("give two folders or more, one for each input of the network.")
    if batch is not None and batch < 1:
        raise InputError(f"batch is {batch}, but must be at least 1.")
    files.check_folder(output)
    groups, missing = files.pair_folders(folders)
    fuser = model if isinstance(model, Fuser) else load(model)
    options = {"bucket": stream.BUCKET} | options
    sizing = ("tile", "overlap", "padding", "tile_context", "bucket")
    sizing_options = {k: options[k] for k in sizing if k in options}
    fuser.plan(1, 1, **sizing_options)
    targets = {name: Path(output) / f"{name}.png" for name in groups}
    names = list(groups)

    def read(number: int) -> list[np.ndarray]:
        sources, target = groups[names[number]], targets[names[number]]
        if target.exists() and any(source.samefile(target) for source in sources):
            raise InputError(f"{target} is one of the inputs; name another output.")
        return files.load_pictures(sources)

    def write(number: int, pictures: Any, fused: np.ndarray) -> Path:
        del pictures
        files.write_image(targets[names[number]], fused)
        return targets[names[number]]

    def kind(pictures: Any) -> Any:
        return fuser.kind(pictures, **sizing_options)

    def fuse(scenes: list[Any]) -> list[np.ndarray]:
        return fuser.batch(scenes, **options)

    found: dict[str, Path | InputError] = {
        sentence.split(" has no partner")[0]: InputError(sentence) for sentence in missing
    }
    at_once = batch or stream.default_batch()
    for number, result in stream.run(len(names), read, fuse, write, batch=at_once, kind=kind):
        found[names[number]] = result
    return found


def list_models() -> dict[str, dict[str, Any]]:
    """Bundled networks: name -> system, configuration, number of parameters, card."""
    return zoo.list_models()


def create(
    system: str, preset: str, *, seed: int = 0, **overrides: Any
) -> tuple[Any, nnx.GraphDef, Flat, Flat]:
    """A freshly initialised network as pure data: ``(config, graphdef, params, stats)``.

    `mgdn_jax.layers.functional.apply(graphdef, params, stats, *images)` calls it; wrap it in a
    `Fuser` with ``Fuser(system, config, params, stats)``.

    Args:
        system: e.g. ``"mgdn"``.
        preset: e.g. ``"mff"``.
        seed: initialisation is a function of it alone.
        **overrides: fields of the system's `Config` to replace, e.g. ``head="blend"``.

    Raises:
        InputError: unknown system, preset or field.
    """
    return models.create(system, preset, seed=seed, **overrides)


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    system: str,
    preset: str,
    **overrides: Any,
) -> Report:
    """Turn a published PyTorch checkpoint into a weight file of ours.

    Args:
        source: ``.pth`` file; nothing but plain tensors is ever unpickled.
        target: ``.safetensors`` file to write.
        system: e.g. ``"mgdn"``.
        preset: the configuration it was published for, e.g. ``"mff"``.
        **overrides: fields of the configuration to replace. What the names in the file give away
            (LKC-FUNet's kinds of norm) need not be told.

    Returns:
        What became of every entry; complete by construction.

    Raises:
        InputError: unreadable source, or one that does not hold this network in full.
    """
    if Path(target).suffix != ".safetensors":
        raise InputError(f"{os.fspath(target)}: the file to write must end in .safetensors")
    models.preset(system, preset, **overrides)  # complains before the file is read
    state = conversion.read_torch(source)
    fields = conversion.seen_fields(state, system) | overrides
    config = models.preset(system, preset, **fields)
    params, stats, report = conversion.convert_arrays(state, system=system, config=config)
    card = {
        "name": Path(target).stem,
        "task": preset,
        "trained_on": "published weights, converted",
        "source": Path(source).name,
        **models.get(system).PUBLISHED.get(preset, {}),
    }
    checkpoint.save_weights(
        target, system=system, config=config.to_dict(), params=params, stats=stats, card=card
    )
    return report


def evaluate(
    fuse: Callable[[np.ndarray, np.ndarray], np.ndarray],
    pairs: Sequence[evaluation.Pair],
    **options: Any,
) -> evaluation.Table:
    """Score a fusion function on pairs of pictures; see `mgdn_jax.evaluation.evaluate_pairs`."""
    return evaluation.evaluate_pairs(fuse, pairs, **options)
