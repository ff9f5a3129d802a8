"""What `mgdn eval` was asked for, as plain values."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass

from mgdn_jax.cli.targets import Targets
from mgdn_jax.errors import InputError


@dataclass(frozen=True)
class Request:
    """The arguments of `mgdn eval`.

    Attributes:
        inputs: Places of fused pictures, and of their sources where `data` is empty.
        models: Networks and rules to run.
        data: Places of the sources.
        truth: Place of the ground truth.
        metrics: Names as they were typed; None for what is usual.
        variant: Of the evaluator, `standard` or `cddfuse`.
        has_baselines: Whether rules without learning are scored on the side.
        beside: File of means measured elsewhere, or `published`.
        dataset: Which data set of `beside`.
        compare: Files of scores to compare with each other.
        is_cropped: Whether results that were cut are scored on the area that all have.
        jobs: Processes that measure; None for all cores.
        is_quiet: Whether errors alone are said.
        trust: Whether a weight file's own module may run, or the module's name.
        targets: Where results go.
        command: The command line as it was typed.
    """

    inputs: tuple[str, ...]
    models: tuple[str, ...]
    data: tuple[str, ...]
    truth: str | None
    metrics: str | None
    variant: str
    has_baselines: bool
    beside: str | None
    dataset: str | None
    compare: tuple[str, ...]
    is_cropped: bool
    jobs: int | None
    is_quiet: bool
    trust: bool | str
    targets: Targets
    command: str

    @classmethod
    def read(cls, arguments: argparse.Namespace) -> Request:
        """The plain values of what `cli.main.build_parser` parsed."""
        return cls(
            inputs=tuple(arguments.inputs),
            models=tuple(arguments.model),
            data=tuple(arguments.data or ()),
            truth=arguments.truth,
            metrics=arguments.metrics,
            variant=arguments.variant,
            has_baselines=not arguments.no_baselines,
            beside=arguments.beside,
            dataset=arguments.dataset,
            compare=tuple(arguments.compare or ()),
            is_cropped=arguments.crop,
            jobs=arguments.jobs,
            is_quiet=arguments.quiet,
            trust=arguments.trust_system or arguments.system or False,
            targets=Targets(
                csv=arguments.csv,
                latex=arguments.latex,
                markdown=arguments.markdown,
                json=arguments.json,
                report=arguments.report,
            ),
            command=shlex.join(["mgdn", *arguments.argv]),
        )

    def check(self) -> None:
        """Finds out before the work whether the request can be met.

        Raises:
            InputError: places that cannot be written, options that do not go together.
        """
        self.targets.check()
        if self.jobs is not None and self.jobs < 0:
            raise InputError(f"--jobs is {self.jobs}, but must be 0 or more.")
        if self.dataset is not None and self.beside is None:
            raise InputError("--dataset chooses rows of --beside; give that too.")
        if self.compare:
            self._check_comparison()

    def _check_comparison(self) -> None:
        if self.inputs or self.models or self.data or self.truth:
            raise InputError(
                "--compare reads CSV files of scores alone; give no pictures or networks."
            )
        foreign = {
            "beside": self.beside,
            "csv": self.targets.csv,
            "latex": self.targets.latex,
            "markdown": self.targets.markdown,
            "report": self.targets.report,
            "crop": self.is_cropped or None,
        }
        for option, value in foreign.items():
            if value is not None:
                raise InputError(f"--compare knows no --{option}; its result goes to --json.")
