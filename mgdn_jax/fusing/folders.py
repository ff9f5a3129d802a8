"""Folders of pictures, matched by name, through one network into a folder."""

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from mgdn_jax import arguments
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import sequences, stream, timing
from mgdn_jax.fusing.fused import Fused
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.fusing.loading import load
from mgdn_jax.fusing.preparation import Prepared
from mgdn_jax.fusing.report import Report
from mgdn_jax.io import files, pairing
from mgdn_jax.weights import zoo


class Written(dict[str, Path | InputError]):
    """Results of a folder: for each name the file written, or what was wrong with it.

    Attributes:
        rule: the sentence about how names were matched; empty where they are equal.
        report: what holds for all pictures, and the warnings about any of them.
    """

    rule: str = ""
    report: Report


def fuse_folders(
    *folders: str | os.PathLike[str],
    output: str | os.PathLike[str],
    model: str | os.PathLike[str] | Fuser = zoo.DEFAULT,
    trust: bool | str | Collection[str] = False,
    batch: int | None = None,
    frames: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Written:
    """Fuses folders of pictures, matched by file name, into a folder of PNG files.

    Names that are not equal are matched by rule (`io.pairing.pair_folders`), and subfolders are
    mirrored: the result of ``ir/day/1_ir.png`` is ``day/1.png``, under the name ``day/1``. The
    frames of a sequence share one tone. Files are read and written in threads beside the network.
    A scene that cannot be fused leaves the others alone.

    Args:
        *folders: one for each input of the network, in its order.
        output: folder to write to; made if it is missing.
        model: as `load` takes it, or a loaded `Fuser`.
        trust: as `load` takes it.
        batch: pictures of one size that are fused at once; None is 1 on a CPU, 8 elsewhere.
        frames: ``"FIRST:END"``, the part of the pictures that is fused, in the order of their names
            and without the last one; what all share is still that of all. None is all.
        progress: called as (pictures done or failed, pictures in all) after each.
        **options: of a `Fuser` call, ``tile=512`` or ``stretch="minmax"`` for instance; without
            ``bucket``, pictures of many sizes are padded to few (`Fuser.for_sizes`).

    Returns:
        For each name the file written, or what was wrong with it (a partner that is missing, too);
        its `rule` says how names were matched that are not equal.

    Raises:
        InputError: folders without a common name, an unknown model, wrong options, or an output
            that cannot be written.
    """
    if len(folders) < 2:
        raise InputError("give two folders or more, one for each input of the network.")
    if batch is not None:
        batch = arguments.whole("batch", batch, least=1, most=stream.MOST_BATCH)
    files.check_folder(output)
    paired = pairing.pair_folders(folders)
    fuser = model if isinstance(model, Fuser) else load(model, trust=trust)
    choice = fuser.resolve(sequences.USUAL, **options)
    fuser.plan(1, 1, options=choice)
    if options.get("bucket") is None:
        sizes = files.read_sizes(sources[0] for sources in paired.groups.values())
        fuser = fuser.for_sizes(sizes, options=choice)
    targets = paired.targets(output)
    names = list(paired.groups)
    report = Report()
    groups = list(paired.groups.values())
    part = timing.stretch(frames, len(names))
    fuser, choice = sequences.settle(fuser, groups, choice, report)
    names = [names[number] for number in part]

    def read(number: int) -> Prepared:
        sources, target = paired.groups[names[number]], targets[names[number]]
        if target.exists() and any(source.samefile(target) for source in sources):
            raise InputError(f"{target} is one of the inputs; name another output.")
        return fuser.prepare(sources, options=choice)

    def write(number: int, prepared: Prepared, fused: Fused) -> Path:
        del prepared
        fused.save(targets[names[number]])
        report.warn(*fused.warnings)
        return targets[names[number]]

    results = Written(
        {name: InputError(pairing.no_partner(name, gap)) for name, gap in paired.gaps.items()}
    )
    results.rule, results.report = paired.rule, report
    at_once = batch or stream.default_batch()
    for number, result in stream.run(
        len(names),
        read,
        fuser.fuse_prepared,
        write,
        batch=at_once,
        same_program=fuser.same_program,
        size=lambda scene: scene.pixels,
    ):
        results[names[number]] = result
        if progress is not None:
            progress(number + 1, len(names))
    report.raise_warnings()
    return results
