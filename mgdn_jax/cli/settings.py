"""What `mgdn fuse` was asked for, as plain values."""

from __future__ import annotations

import argparse
import dataclasses

from mgdn_jax.arguments import whole
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import sequences, stream, tasks
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.io import kinds
from mgdn_jax.weights import zoo

USUAL = FuseOptions(range="auto", order="brightness")
"""What a stranger's files need and plain files do not notice."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The arguments of `mgdn fuse`.

    Attributes:
      inputs: files, or folders.
      output: file, or folder.
      model: a bundled name or a weight file.
      task: what is fused, which chooses the model and the preparation; None for neither.
      options: how pictures are fused, None where the command line says nothing.
      system: whose network a weight file holds, in place of the name in it.
      trust: whether a weight file's own module may run.
      batch: pictures of a folder that are fused at once; None for what is usual.
      frames: which part of videos or folders, or None.
      offset: when videos began, or None.
      quality: of JPEG, WebP and videos, 1 to 100.
      depth_map: file for the number of the sharpest picture at each pixel, or None.
      transforms: file for the transforms of an alignment, or None.
      cluster: address of a cluster that fuses folders, empty for what is usual; None for none.
      has_scores: whether quality figures of the result are said.
      is_json: whether stdout is for one JSON object alone.
      is_quiet: whether errors alone are said.
    """

    inputs: tuple[str, ...]
    output: str
    model: str
    task: str | None
    options: FuseOptions
    system: str | None
    trust: bool
    batch: int | None
    frames: str | None
    offset: str | None
    quality: int
    depth_map: str | None
    transforms: str | None
    cluster: str | None
    has_scores: bool
    is_json: bool
    is_quiet: bool

    @classmethod
    def read(cls, arguments: argparse.Namespace) -> Settings:
        """The plain values of what `cli.main.build_parser` parsed.

        Raises:
          InputError: a number out of range.
        """
        values = vars(arguments)
        if not 1 <= arguments.quality <= 100:
            raise InputError(f"--quality is {arguments.quality}, but must lie between 1 and 100.")
        if arguments.batch is not None:
            whole("--batch", arguments.batch, least=1, most=stream.MOST_BATCH)
        usual = zoo.DEFAULT
        if arguments.task:
            task = tasks.TASKS[arguments.task]
            has_videos = any(kinds.is_video(name) for name in arguments.inputs)
            usual = (has_videos and task.still) or task.model
        words = {name: values[name] for name in FuseOptions.names()}
        words = {k: ";".join(v) if isinstance(v, list) else v for k, v in words.items()}
        # A rule for one source leaves the others what is usual.
        if words["range"] and all(":" in part for part in words["range"].split(";")):
            words["range"] = f"{USUAL.range};{words['range']}"
        return cls(
            inputs=tuple(arguments.inputs),
            output=arguments.output,
            model=arguments.model or usual,
            task=arguments.task,
            options=FuseOptions(**words),
            system=arguments.system,
            trust=arguments.trust_system,
            batch=arguments.batch,
            frames=arguments.frames,
            offset=None if arguments.offset is None else ";".join(arguments.offset),
            quality=arguments.quality,
            depth_map=arguments.depth_map,
            transforms=arguments.save_transforms,
            cluster=arguments.cluster,
            has_scores=arguments.score,
            is_json=arguments.json,
            is_quiet=arguments.quiet,
        )

    def usual(self, has_many: bool) -> FuseOptions:
        """The options where the command line says nothing."""
        options = tasks.TASKS[self.task].options if self.task else FuseOptions()
        folder = sequences.USUAL if has_many else FuseOptions()
        return options.otherwise(folder).otherwise(USUAL)
