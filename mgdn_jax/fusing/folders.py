"""Folders of pictures, matched by name, through one network into a folder."""

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import stream
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.fusing.loading import load
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.io import files
from mgdn_jax.io.pairing import no_partner, pair_folders
from mgdn_jax.io.pixels import load_pictures
from mgdn_jax.weights import zoo


class Fused(dict[str, Path | InputError]):
    """Results of a folder: for each name the file written, or what was wrong with it.

    Attributes:
        rule: the sentence about how names were matched; empty where they are equal.
    """

    rule: str = ""


def fuse_folders(
    *folders: str | os.PathLike[str],
    output: str | os.PathLike[str],
    model: str | os.PathLike[str] | Fuser = zoo.DEFAULT,
    trust: bool | str | Collection[str] = False,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Fused:
    """Fuses folders of pictures, matched by file name, into a folder of PNG files.

    Names that are not equal are matched by rule (`io.pairing.pair_folders`), and subfolders are
    mirrored: the result of ``ir/day/1_ir.png`` is ``day/1.png``, under the name ``day/1``.
    Files are read and written in threads beside the network. A scene that cannot be fused leaves
    the others alone.

    Args:
        *folders: one for each input of the network, in its order.
        output: folder to write to; made if it is missing.
        model: as `load` takes it, or a loaded `Fuser`.
        trust: as `load` takes it.
        batch: pictures of one size that are fused at once; None is 1 on a CPU, 8 elsewhere.
        progress: called as (pictures done or failed, pictures in all) after each.
        **options: of a `Fuser` call, ``tile=512`` or ``stretch="minmax"`` for instance; ``bucket``
            is 64 unless given.

    Returns:
        For each name the file written, or what was wrong with it (a partner that is missing, too);
        its `rule` says how names were matched that are not equal.

    Raises:
        InputError: folders without a common name, an unknown model, wrong options, or an output
            that cannot be written.
    """
    if len(folders) < 2:
        raise InputError("give two folders or more, one for each input of the network.")
    if batch is not None and batch < 1:
        raise InputError(f"batch is {batch}, but must be at least 1.")
    files.check_folder(output)
    pairs = pair_folders(folders)
    groups, targets = pairs.groups, pairs.targets(output)
    fuser = model if isinstance(model, Fuser) else load(model, trust=trust)
    choice = fuser.resolve(FuseOptions(bucket=stream.BUCKET), **options)
    fuser.plan(1, 1, options=choice)
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

    results = Fused(
        {name: InputError(no_partner(name, lacking)) for name, lacking in pairs.gaps.items()}
    )
    results.rule = pairs.rule
    at_once = batch or stream.default_batch()
    for number, result in stream.run(
        len(names), read, fuse, write, batch=at_once, same_program=same_program
    ):
        results[names[number]] = result
        if progress is not None:
            progress(number + 1, len(names))
    return results
