"""What `mgdn fuse` fuses into what: from the words of the command line to jobs."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.fusing.geometry import check_sizes
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.fusing.preparation import Prepared, Survey, survey
from mgdn_jax.fusing.sources import Sources
from mgdn_jax.io import files, medical, pairing


@dataclasses.dataclass(frozen=True)
class Job:
    """One result: its sources in order, and the file to write.

    Attributes:
      sources: files, or folders of slices; one alone holds the pages of a stack.
      target: the file to write, or the volume that the result is a slice of.
      page: slice of every source; None for what is no volume.
    """

    sources: tuple[Path, ...]
    target: Path
    page: int | None = None

    def check(self) -> None:
        """Finds out before the work whether the result can be written.

        Raises:
          InputError: the target is a source, or no place for a picture.
        """
        if self.page is not None:
            return  # the volume is checked once
        for source in self.sources:
            if self.target.exists() and source.exists() and self.target.samefile(source):
                raise InputError(f"{self.target} is one of the inputs; name another output.")
        files.check_output(self.target)

    def open(self, profile: str) -> Sources:
        """The sources, not read yet; a file of several pages alone is a stack."""
        if self.page is not None:
            slices = [
                functools.partial(files.read_picture, path, self.page) for path in self.sources
            ]
            return Sources(slices, [f"{path} slice {self.page + 1}" for path in self.sources])
        if len(self.sources) > 1:
            return Sources(self.sources, profile=profile)
        (path,) = self.sources
        pages = files.read_pages(path)
        if pages < 2:
            raise _alone(path)
        readers = [functools.partial(files.read_picture, path, page) for page in range(pages)]
        names = [f"{path} page {page + 1}" for page in range(pages)]
        return Sources(readers, names, profile)

    def look(self, options: FuseOptions) -> tuple[Sources, Survey]:
        """Reads every source once, before there is a network.

        Args:
          options: of the command.

        Raises:
          InputError: a target or a source that does not fit.
        """
        self.check()
        sources = self.open(options.profile or "keep")
        about = survey(sources)
        if not options.brings_together:
            check_sizes(about.names, about.sizes)
        return sources, about

    def prepare(
        self,
        fuser: Any,
        options: FuseOptions,
        looked: tuple[Sources, Survey] | None = None,
    ) -> Prepared:
        """The pictures, ready for the network, once what becomes of them can be written.

        Args:
          fuser: the network.
          options: of the command.
          looked: what `look` returned.

        Raises:
          InputError: anything about the pictures or the target that does not fit.
        """
        sources, about = looked or self.look(options)
        prepared = fuser.prepare(sources, about=about, options=options)
        if self.page is not None:
            return prepared
        channels = prepared.channels + int(all(prepared.survey.has_alpha))
        sample = np.zeros((1, 1, channels), prepared.target)
        files.check_pixels(self.target, sample)
        return prepared


@dataclasses.dataclass(frozen=True)
class Work:
    """All jobs of a command.

    Attributes:
      jobs: what to fuse into what.
      problems: sentences about pictures without partners.
      has_many: whether the output is a folder.
      rule: by which rule names were paired, a sentence, or empty.
      volume: the volume or the folder of slices that all results go to; None for files each.
    """

    jobs: list[Job]
    problems: list[str]
    has_many: bool
    rule: str = ""
    volume: Path | None = None


def _alone(path: str | Path) -> InputError:
    """The complaint about a single picture, with what was noticed of its pages."""
    cure = "give at least two pictures or a folder"
    noticed = " ".join(files.read_picture(path).remarks).rstrip(".")
    return InputError(f"{path} is alone; {cure}{f' ({noticed})' if noticed else ''}.")


def plan(inputs: Sequence[str], output: str) -> Work:
    """Finds the jobs.

    Args:
      inputs: files, or folders.
      output: a file, or with two or more folders a folder.

    Raises:
      InputError: missing, lonely or mixed inputs, or an output that cannot be written.
    """
    if len(inputs) > 1 and all(_is_volume(name) for name in inputs):
        return _volume(inputs, output)
    folders = [os.path.isdir(name) for name in inputs]
    if not any(folders):
        if len(inputs) < 2 and files.read_pages(inputs[0]) < 2:
            raise _alone(inputs[0])
        return Work([Job(tuple(map(Path, inputs)), Path(output))], [], False)
    if not all(folders):
        raise InputError("the inputs are files and folders mixed; give only files or only folders.")
    if len(inputs) == 1:
        stack = tuple(pairing.list_images(inputs[0]).values())
        if len(stack) == 1 and files.read_pages(stack[0]) < 2:
            raise InputError(f"{inputs[0]} holds a single image; a stack needs at least two.")
        return Work([Job(stack, Path(output))], [], False)
    if os.path.exists(output) and not os.path.isdir(output):
        raise InputError(f"{output} is a file where a folder is to be written; name a folder.")
    files.check_folder(output)
    paired = pairing.pair_folders(inputs)
    # Results are PNG whatever the inputs were: saving a fused JPEG as JPEG would lose twice.
    targets = paired.targets(output)
    jobs = [Job(sources, targets[name]) for name, sources in paired.groups.items()]
    return Work(jobs, paired.problems, True, paired.rule)


def _is_volume(name: str) -> bool:
    """Whether a file or folder holds slices that lie in a volume."""
    if os.path.isdir(name):
        return bool(medical.series_of(name))
    is_medical = name.lower().endswith((*medical.VOLUMES, *medical.SLICES))
    return is_medical and files.read_pages(name) > 1


def _volume(inputs: Sequence[str], output: str) -> Work:
    """Volumes of one shape, fused slice by slice."""
    counts = [files.read_pages(name) for name in inputs]
    for name, count in zip(inputs[1:], counts[1:], strict=True):
        if count != counts[0]:
            raise InputError(
                f"{name} has {count} slices but {inputs[0]} has {counts[0]}; resample one of them "
                "to the grid of the other first."
            )
    target = Path(output)
    if not output.lower().endswith(medical.VOLUMES):
        if target.suffix or (target.exists() and not target.is_dir()):
            raise InputError(
                f"{output} cannot hold {counts[0]} slices; name a .nii.gz file, or a folder for a "
                "DICOM series."
            )
        files.check_folder(output)
    elif target.is_dir():
        raise InputError(f"{output} is a folder where a volume is to be written; name a file.")
    else:
        files.check_folder(target.parent, output)
    sources = tuple(map(Path, inputs))
    if any(target.exists() and source.samefile(target) for source in sources):
        raise InputError(f"{output} is one of the inputs; name another output.")
    jobs = [Job(sources, target, page) for page in range(counts[0])]
    return Work(jobs, [], True, volume=target)
