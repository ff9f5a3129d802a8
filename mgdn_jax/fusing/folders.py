"""Folders of pictures, matched by name, through one network into a folder."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import stream
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.fusing.loading import load
from mgdn_jax.io import codec, files
from mgdn_jax.io.pixels import load_pictures
from mgdn_jax.weights import zoo


def fuse_folders(
    *folders: str | os.PathLike[str],
    output: str | os.PathLike[str],
    model: str | os.PathLike[str] | Fuser = zoo.DEFAULT,
    trust: bool | str | Collection[str] = False,
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
        trust: as `load` takes it.
        batch: pictures of one size that are fused at once; None is 1 on a CPU, 8 elsewhere.
        **options: of a `Fuser` call, ``tile=512`` or ``stretch="minmax"`` for instance; without
            ``bucket``, pictures of many sizes are padded to few (`Fuser.for_sizes`).

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
    groups, gaps = files.pair_folders(folders)
    fuser = model if isinstance(model, Fuser) else load(model, trust=trust)
    choice = fuser.resolve(**options)
    fuser.plan(1, 1, options=choice)
    if options.get("bucket") is None:
        sizes = codec.read_sizes(sources[0] for sources in groups.values())
        fuser = fuser.for_sizes(sizes, options=choice)
    targets = {name: Path(output) / f"{name}.png" for name in groups}
    names = list(groups)

    def read(number: int) -> list[np.ndarray]:
        sources, target = groups[names[number]], targets[names[number]]
        if target.exists() and any(source.samefile(target) for source in sources):
            raise InputError(f"{target} is one of the inputs; name another output.")
        return load_pictures(sources)

    def write(number: int, pictures: Any, fused: np.ndarray) -> Path:
        del pictures
        files.write_image(targets[names[number]], fused)
        return targets[names[number]]

    def same_program(pictures: Any) -> Any:
        return fuser.same_program(pictures, options=choice)

    def fuse(scenes: list[Any]) -> list[np.ndarray]:
        return fuser.batch(scenes, options=choice)

    results: dict[str, Path | InputError] = {
        stem: InputError(files.no_partner(stem, lacking)) for stem, lacking in gaps.items()
    }
    at_once = batch or stream.default_batch()
    for number, result in stream.run(
        len(names), read, fuse, write, batch=at_once, same_program=same_program
    ):
        results[names[number]] = result
    return results
