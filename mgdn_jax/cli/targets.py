"""Where `mgdn eval` writes its results: checked before the work, written after it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mgdn_jax.cli.outcome import Outcome, content, notes
from mgdn_jax.cli.output import emit_json
from mgdn_jax.cli.pictures import Pictures
from mgdn_jax.errors import InputError
from mgdn_jax.evaluation import scores, typeset
from mgdn_jax.io import disk, files
from mgdn_jax.io.disk import write_atomically

_OURS = b'content="mgdn eval"'
_SUFFIXES = {"csv": ".csv", "latex": ".tex", "markdown": ".md", "json": ".json"}


@dataclass(frozen=True)
class Targets:
    """Files and the folder that results go to; None for those that nobody asked for.

    Attributes:
        csv: A row an image.
        latex: The table of means for a paper.
        markdown: The table of means for a page.
        json: All of it; "-" for stdout.
        report: Folder of the page to look at.
    """

    csv: str | None = None
    latex: str | None = None
    markdown: str | None = None
    json: str | None = None
    report: str | None = None

    @property
    def is_stdout_json(self) -> bool:
        """Whether stdout is for JSON alone."""
        return self.json == "-"

    def check(self) -> None:
        """Finds out before the work whether its results can be written.

        Raises:
            InputError: a wrong suffix, a folder for a file or a file for a folder, a place that
                is not writable, or a page of somebody else's.
        """
        places = {
            "csv": self.csv,
            "latex": self.latex,
            "markdown": self.markdown,
            "json": None if self.is_stdout_json else self.json,
        }
        for option, place in places.items():
            if place is not None:
                _check_file(option, place)
        if self.report is not None:
            _check_page(self.report)

    def write(self, outcome: Outcome, pictures: Pictures | None) -> list[str]:
        """Writes everything but what stdout is for.

        Args:
            outcome: What came out.
            pictures: Those of the page, where there is to be one.

        Returns:
            The places written.
        """
        standing = outcome.standing
        written: list[str] = []
        if self.csv:
            scores.write_tables(self.csv, outcome.wanted)
            written.append(self.csv)
        for place, typed in ((self.latex, typeset.latex), (self.markdown, typeset.markdown)):
            if place:
                text = typed(standing, notes(outcome))
                # File names that are no Unicode come with signs that no file can hold.
                write_atomically(place, text.encode("utf-8", "replace"))
                written.append(place)
        if self.json and not self.is_stdout_json:
            emit_json(content(outcome), self.json)
            written.append(self.json)
        if self.report and pictures:
            written.append(str(pictures.write(self.report, outcome)))
        return written


def _check_file(option: str, place: str) -> None:
    suffix = _SUFFIXES[option]
    if not place:
        raise InputError(f"--{option} names no file; give one that ends in {suffix}.")
    if Path(place).suffix.lower() != suffix:
        raise InputError(
            f"--{option} would write {place}, which does not end in {suffix}; "
            f"name a {suffix} file (and give --{option} after the pictures)."
        )
    if os.path.isdir(place):
        raise InputError(f"{place} is a folder where a file is to be written; name a file.")
    disk.check_links(place)
    files.check_folder(Path(place).parent, place)


def _check_page(folder: str) -> None:
    if not folder:
        raise InputError("--report names no folder; give one.")
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise InputError(f"{folder} is a file; --report needs a folder.")
    files.check_folder(folder)
    page = Path(folder) / "index.html"
    if page.is_file() and _OURS not in page.read_bytes()[:2000]:
        raise InputError(f"{page} is there and is no report of ours; name another folder.")
