"""What commands that fuse say: results on stdout, warnings, progress and failures on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from mgdn_jax.cli import progress
from mgdn_jax.cli.output import MOST_WARNINGS, complain, print_json, tell, warn
from mgdn_jax.fusing.report import Report

COMPILING = "compiling (first time for this size)"


class Voice:
    """What a command that fuses says: results on stdout, progress and failures on stderr."""

    def __init__(
        self,
        fuser: Any,
        model: str,
        total: int,
        rule: str,
        *,
        is_json: bool,
        is_quiet: bool,
        things: str = "pictures",
    ):
        """Says which network it is.

        Args:
          fuser: the network.
          model: what the command line calls it.
          total: number of results.
          rule: how names were paired that are not equal, a sentence; or empty.
          is_json: whether stdout is for one JSON object alone.
          is_quiet: whether errors alone are said.
          things: what the results are.
        """
        self._json, self._quiet = is_json, is_quiet
        self._talks = not (is_json or is_quiet)
        self._is_single = total == 1
        self._warnings = self._early = 0
        self._shared: dict[str, Any] | None = None
        self._count = progress.Count("fused", total, things) if total > 1 else None
        self._sizes: set[Any] = set()  # those whose program is there
        self._compiles = False
        self._tiles, self._rule, self._stage = "", rule, ""
        self._started = time.perf_counter()
        self._model = {
            "name": model,
            "system": fuser.system,
            "parameters": sum(int(leaf.size) for leaf in fuser.params.values()),
        }
        if self._talks:
            tell(f"model   {model}: {fuser.system}, {self._model['parameters']:,} parameters")
            if rule:
                tell(f"names   {rule}")

    @contextlib.contextmanager
    def lines(self) -> Iterator[None]:
        """A line every few seconds where there is no terminal."""
        if not self._talks or sys.stderr.isatty():
            yield
            return
        with progress.lines(self._status):
            yield

    def _status(self) -> str | None:
        """What such a line says; a compilation is said once."""
        if self._compiles:
            self._compiles = False
            return COMPILING
        if self._stage:
            return f"{self._stage}, {time.perf_counter() - self._started:.0f} s so far"
        if self._count is not None:
            return str(self._count)
        return self._tiles or f"fusing, {time.perf_counter() - self._started:.0f} s so far"

    @contextlib.contextmanager
    def stage(self, words: str) -> Iterator[None]:
        """Says in such lines what comes before the first result."""
        self._stage = words
        try:
            yield
        finally:
            self._stage = ""

    def count(self) -> None:
        """One more picture is done, or has failed."""
        if self._count is not None:
            self._count.advance()

    @contextlib.contextmanager
    def fusing(
        self, scenes: int, sizes: set[tuple[int, int]]
    ) -> Iterator[Callable[[int, int], None]]:
        """Says that a program is compiled, and shows the tiles to people at a terminal.

        Args:
          scenes: pictures that are fused at once.
          sizes: of their tiles, or of the whole pictures with padding.

        Yields:
          What to call as (tiles done, tiles in all); at the end the terminal's line is wiped.
        """
        programs = {(scenes, size) for size in sizes}
        is_new = not programs <= self._sizes
        is_shown = not self._quiet and sys.stderr.isatty()
        self._compiles = is_new

        def show(text: str) -> None:
            if is_shown:
                sys.stderr.write(f"\r{text:<42}")
                sys.stderr.flush()

        def tick(done: int, total: int) -> None:
            self._compiles = False
            self._tiles = f"tile {done} of {total}" if total > 1 else ""
            show(f"  tile {done} of {total} ")

        if is_new:
            show(f"  {COMPILING} ")
        try:
            yield tick
        finally:
            self._compiles, self._tiles = False, ""
            show("")
            if is_shown:
                sys.stderr.write("\r")
        self._sizes |= programs

    def prepared(self, report: Report) -> None:
        """What holds for all pictures of a folder."""
        self._shared = report.content()
        self._tell(self._shared)

    def footage(self, report: Report) -> None:
        """What holds for all frames of a video."""
        self._early = len(report.warnings)
        self._tell(report.content())

    def film(self, result: dict[str, Any]) -> None:
        """A video is done."""
        self._tell({"steps": [], "warnings": result["warnings"][self._early :]})
        if not self._talks:
            return
        size = f"{result['width']}x{result['height']} {result['dtype']}"
        parts = "" if result["frames"] == result["total"] else f" of {result['total']}"
        tone = "" if result["stretch"] == "none" else f", stretched ({result['stretch']})"
        pace = f"{result['seconds']:.1f} s, {result['frames_per_second']:.3g} frames a second"
        inputs = " + ".join(result["inputs"])
        tell(f"fused   {inputs} ({size}, {result['frames']} frames{parts}{tone}, {pace})")
        tell(f"result  {result['output']}")

    def _tell(self, content: dict[str, Any]) -> None:
        if self._talks:
            for step in content["steps"]:
                tell(f"{step['step']:<7} {step['says']}")
        for sentence in content["warnings"]:
            self._warnings += 1
            if not self._quiet and (self._is_single or self._warnings <= MOST_WARNINGS):
                warn(sentence)

    def result(self, result: dict[str, Any]) -> None:
        """One picture is done."""
        content = {"steps": result["steps"], "warnings": result["warnings"]}
        self._tell(content if self._is_single else content | {"steps": []})
        if not self._talks:
            return
        size = f"{result['width']}x{result['height']} {result['dtype']}"
        tiles = f", {result['tiles']} tiles" if result["tiles"] > 1 else ""
        tone = "" if result["stretch"] == "none" else f", stretched ({result['stretch']})"
        mean = "" if result["ensemble"] == "none" else f", averaged ({result['ensemble']})"
        done = f"{size}{tiles}{mean}{tone}, {result['seconds']:.1f} s"
        tell(f"fused   {' + '.join(result['inputs'])} ({done})")
        tell(f"result  {result['output']}")
        if "scores" in result:
            tell("scores  " + "  ".join(f"{k} {v:.4g}" for k, v in result["scores"].items()))

    def end(self, done: list[dict[str, Any]], problems: list[str], seconds: float) -> None:
        """All pictures are done; failures are said last, where they are seen."""
        if self._json:
            content = {"model": self._model, "results": done, "failed": problems}
            content |= {"pairing": self._rule} if self._rule else {}
            if self._shared is not None:
                content["folder"] = self._shared
            print_json(content | {"seconds": round(seconds, 3)})
        elif self._talks and len(done) != 1:
            pace = f", {len(done) / seconds:.3g} a second" if done else ""
            tell(f"done    {len(done)} pictures in {seconds:.1f} s{pace}")
        left = self._warnings - MOST_WARNINGS
        if not self._is_single and left > 0 and not self._quiet:
            warn(f"{left} more warnings are in the output of --json.")
        for problem in problems:
            complain(problem)
