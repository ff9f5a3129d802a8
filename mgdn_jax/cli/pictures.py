"""Collects the pictures of a report while they are scored."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from mgdn_jax.cli.outcome import Outcome, remarks_of_page
from mgdn_jax.cli.pairs import Job, SetPairs
from mgdn_jax.errors import InputError
from mgdn_jax.evaluation.album import Album
from mgdn_jax.evaluation.report import write_report
from mgdn_jax.io import files


class Pictures:
    """The album of a job's page."""

    def __init__(self, job: Job):
        """An empty album for the pairs and methods of a job."""
        self._job = job
        self._pairs = {} if isinstance(job.pairs, SetPairs) else {p.name: p for p in job.pairs}
        self._position = 0
        self._size: tuple[int, int] | None = None  # of the results of the pair at hand
        self._album = Album(len(job.pairs) * (2 + len(job.methods)))

    def fused(self, method: str, name: str, picture: np.ndarray, _: Any) -> None:
        """A method's picture was scored."""
        self._size = (picture.shape[0], picture.shape[1])
        self._album.add(name, method, picture)

    def sources(self, name: str) -> None:
        """A pair is done."""
        position, self._position = self._position, self._position + 1
        (height, width), self._size = self._size or (None, None), None
        if not self._album.shows(name):
            return
        pair = self._pairs[name] if self._pairs else self._job.pairs[position]
        # Without sources the truth takes the place that the page opens with.
        shown = {"a": pair.a, "b": pair.truth if pair.b is None else pair.b}
        for label, source in shown.items():
            with contextlib.suppress(InputError):  # it was said already: the pair has no scores
                if source is not None and not isinstance(source, Exception):
                    picture = source if isinstance(source, np.ndarray) else files.read_image(source)
                    # Results that were cut stand beside the same part of their sources.
                    self._album.add(name, label, picture[:height, :width])

    def write(self, folder: str | os.PathLike[str], outcome: Outcome) -> Path:
        """Writes the page, once all is scored."""
        return write_report(
            folder,
            title="Image fusion: " + ", ".join(outcome.wanted),
            standing=outcome.standing,
            album=self._album,
            command=outcome.command,
            versions=outcome.versions,
            variant=outcome.variant,
            source_titles=(self._job.titles[0], self._job.titles[1]),
            remarks=remarks_of_page(outcome),
        )
