"""What holds for all of a call of a `Fuser`: the plan, the options, the progress."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from mgdn_jax.fusing import photographs, rendering, tiling
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.fusing.preparation import Prepared

Progress = Callable[[int, int], None]
"""Called as (tiles done, tiles in all)."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What holds for all of a call.

    Attributes:
      plan: how the pictures go through the network.
      options: of the call.
      ticks: progress.
      contrast: of the sources, which bounds a stretch.
    """

    plan: tiling.Plan
    options: FuseOptions
    ticks: Ticks
    contrast: rendering.Contrast = rendering.FULL

    def stretched(self, result: photographs.Result, dtype: np.dtype | None) -> photographs.Result:
        """A result of float32 spread over the range, in its type.

        Args:
          result: as computed.
          dtype: of the picture.
        """
        channels = result.picture.shape[-1]
        picture = rendering.picture(
            result.picture, None, self.options, dtype, channels, self.contrast
        )
        return dataclasses.replace(result, picture=picture)


class Ticks:
    """Counts finished tiles for the caller's progress function."""

    def __init__(self, progress: Progress | None, total: int):
        """Starts at none.

        Args:
          progress: called as (tiles done, tiles in all).
          total: tiles in all.
        """
        self._progress, self._total, self._done = progress, total, 0

    def tick(self) -> None:
        """One more tile is done."""
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def calls(count: int, inputs: int, plan: tiling.Plan, options: FuseOptions) -> int:
    """How often a call reports progress.

    Args:
      count: of pictures.
      inputs: pictures that the network takes.
      plan: of the call.
      options: of the call.
    """
    if plan.reduced:
        return photographs.ticks(count, inputs)
    scenes = count - 1 if count > inputs else 1
    passes = 2 if plan.streamed else 1
    return scenes * plan.tiles * len(rendering.views(options.ensemble)) * passes


def extent(plans: Sequence[tiling.Plan]) -> dict[str, np.ndarray]:
    """What of padded pictures the network is to see, (B, 2), as its keyword; {} if everything."""
    if not plans[0].bucketed:
        return {}
    return {"extent": np.array([plan.seen for plan in plans], np.int32)}


def is_one_program(scenes: Sequence[Prepared], plans: Sequence[tiling.Plan], inputs: int) -> bool:
    """Whether several scenes can go through the network at once.

    Args:
      scenes: prepared pictures.
      plans: of each.
      inputs: pictures that the network takes.
    """
    first = plans[0]
    return (
        len(scenes) > 1
        and all(len(scene) == inputs for scene in scenes)
        and all(scene.options == scenes[0].options for scene in scenes)
        and all(mask is None for scene in scenes for mask in scene.masks())
        and all(plan.tiles == 1 and plan.padded == first.padded for plan in plans)
        and not any(plan.reduced for plan in plans)
        # Without buckets the picture's own size is part of the program.
        and all(
            (plan.bucketed and first.bucketed)
            or (plan.height, plan.width) == (first.height, first.width)
            for plan in plans
        )
    )
