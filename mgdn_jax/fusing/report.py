"""What preparation and fusing did and noticed: for `--json`, for the terminal, and in Python."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

from mgdn_jax.errors import FusionWarning


@dataclasses.dataclass
class Report:
    """Facts and warnings of one result, in the order in which they came up.

    Attributes:
        steps: what was done; each a dictionary with ``"step"``, ``"says"`` (a sentence) and
            figures.
        warnings: sentences about what is not wrong but probably not meant.
    """

    steps: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)

    def note(self, step: str, sentence: str, **figures: Any) -> None:
        """Something was done.

        Args:
            step: which part of preparation, ``"range"`` for instance.
            sentence: what it did.
            **figures: JSON-safe values.
        """
        self.steps.append({"step": step, "says": sentence, **figures})

    def warn(self, *sentences: str) -> None:
        """Something is probably not meant; what was said before is not said again."""
        self.warnings += [s for s in sentences if s not in self.warnings]

    def join(self, other: Report) -> None:
        """What another report has comes after what this one has."""
        self.steps += other.steps
        self.warn(*other.warnings)

    def content(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"steps": list(self.steps), "warnings": list(self.warnings)}

    def raise_warnings(self, stacklevel: int = 3) -> None:
        """Hands the warnings on to Python's."""
        for sentence in self.warnings:
            warnings.warn(sentence, FusionWarning, stacklevel=stacklevel)
