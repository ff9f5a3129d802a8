"""Folders of pictures, matched by name, through one network into a folder."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mgdn_jax import arguments
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import buckets, sequences, stream, timing
from mgdn_jax.fusing.fused import Fused
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.fusing.loading import load
from mgdn_jax.fusing.options import FuseOptions
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


@dataclasses.dataclass(frozen=True)
class Common:
    """What the pictures of a folder have in common beside options; it travels between processes.

    Attributes:
        padded_sizes: as of a `Fuser`.
        steady: as of a `Fuser`.
    """

    padded_sizes: Mapping[buckets.Size, buckets.Size | None]
    steady: tuple[buckets.Size, dict[str, np.ndarray]] | None

    @classmethod
    def of(cls, fuser: Fuser) -> Common:
        """What `settle` gave a network."""
        steady = fuser.steady
        if steady is not None:
            steady = steady[0], {name: np.asarray(value) for name, value in steady[1].items()}
        return cls(dict(fuser.padded_sizes), steady)

    def on(self, fuser: Fuser) -> Fuser:
        """A network with it, which shares weights and programs."""
        fuser = copy.copy(fuser)
        fuser.padded_sizes, fuser.steady = self.padded_sizes, self.steady
        return fuser


@dataclasses.dataclass(frozen=True)
class Scene:
    """One result of a folder.

    Attributes:
        sources: files, in the order of the network's inputs.
        target: the file to write.
    """

    sources: tuple[Path, ...]
    target: Path


def check(folders: Sequence[str | os.PathLike[str]], batch: int | None) -> int | None:
    """Finds out whether there are folders to pair.

    Args:
        folders: one for each input of the network.
        batch: pictures of one size that are fused at once, or None.

    Returns:
        `batch`, a whole number or None.

    Raises:
        InputError: fewer than two folders, or no such number of pictures.
    """
    if len(folders) < 2:
        raise InputError("give two folders or more, one for each input of the network.")
    if batch is None:
        return None
    return arguments.whole("batch", batch, least=1, most=stream.MOST_BATCH)


def choose(fuser: Fuser, options: Mapping[str, Any]) -> FuseOptions:
    """The options of a call for folders, checked before work.

    Args:
        fuser: the network.
        options: of the call, by name.

    Raises:
        InputError: an option that does not exist, or does not fit.
    """
    choice = fuser.resolve(sequences.USUAL, **options)
    fuser.plan(1, 1, options=choice)
    return choice


def run(
    fuser: Fuser,
    scenes: Sequence[Scene],
    options: FuseOptions,
    *,
    batch: int | None = None,
    warn: Callable[[int, Sequence[str]], object] | None = None,
    fuse: Callable[[list[Prepared]], Sequence[Fused]] | None = None,
    workers: int = 2,
) -> Iterator[tuple[int, Path | InputError]]:
    """Reads, fuses and writes scenes; what goes wrong with one leaves the others alone.

    Args:
        fuser: the network.
        scenes: what to fuse into what.
        options: as `choose` and `sequences.settle` give them.
        batch: scenes of one size that are fused at once; None is what is usual.
        warn: takes the number of a scene and the warnings about it, in a thread.
        fuse: prepared pictures to results; None is the network's.
        workers: threads that read and write.

    Yields:
        For each scene, in order, its number and the file written, or what was wrong with it.
    """

    def read(number: int) -> Prepared:
        scene = scenes[number]
        if scene.target.exists() and any(x.samefile(scene.target) for x in scene.sources):
            raise InputError(f"{scene.target} is one of the inputs; name another output.")
        return fuser.prepare(scene.sources, options=options)

    def write(number: int, prepared: Prepared, fused: Fused) -> Path:
        del prepared
        fused.save(scenes[number].target)
        if warn is not None:
            warn(number, fused.warnings)
        return scenes[number].target

    return stream.run(
        len(scenes),
        read,
        fuse or fuser.fuse_prepared,
        write,
        batch=batch or stream.default_batch(),
        same_program=fuser.same_program,
        size=lambda scene: scene.pixels,
        workers=workers,
    )


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
    batch = check(folders, batch)
    files.check_folder(output)
    paired = pairing.pair_folders(folders)
    fuser = model if isinstance(model, Fuser) else load(model, trust=trust)
    choice = choose(fuser, options)
    if options.get("bucket") is None:
        sizes = files.read_sizes(sources[0] for sources in paired.groups.values())
        fuser = fuser.for_sizes(sizes, options=choice)
    targets = paired.targets(output)
    report = Report()
    part = timing.stretch(frames, len(targets))
    fuser, choice = sequences.settle(fuser, list(paired.groups.values()), choice, report)
    everything = list(targets)
    names = [everything[number] for number in part]
    scenes = [Scene(paired.groups[name], targets[name]) for name in names]
    results = Written(
        {name: InputError(pairing.no_partner(name, gap)) for name, gap in paired.gaps.items()}
    )
    results.rule, results.report = paired.rule, report

    def warn(number: int, sentences: Sequence[str]) -> None:
        del number
        report.warn(*sentences)

    for number, result in run(fuser, scenes, choice, batch=batch, warn=warn):
        results[names[number]] = result
        if progress is not None:
            progress(number + 1, len(names))
    report.raise_warnings()
    return results
