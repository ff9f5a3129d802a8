"""`mgdn eval-hdr`: scores networks and rules that merge exposures of moving scenes."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table as RichTable
from rich.text import Text

from mgdn_jax.cli import progress
from mgdn_jax.cli.output import console, print_json, say
from mgdn_jax.cli.targets import Targets
from mgdn_jax.errors import InputError, printable
from mgdn_jax.evaluation import scores
from mgdn_jax.evaluation.hdr import METRICS, evaluate_hdr, find_scenes
from mgdn_jax.evaluation.merges import MERGES, Merge
from mgdn_jax.evaluation.standing import shown
from mgdn_jax.fusing.compile_cache import enable_compilation_cache


def evaluate(arguments: argparse.Namespace) -> int:
    """Runs `mgdn eval-hdr`.

    Args:
      arguments: as `cli.main.build_parser` parses them.

    Returns:
      0.

    Raises:
      InputError: a network, a rule or a file that cannot be used.
    """
    scenes = find_scenes(arguments.data)
    Targets(csv=arguments.csv).check()
    if arguments.save is not None and Path(arguments.save).is_file():
        raise InputError(f"--save {arguments.save} is a file; name a folder.")
    is_silent = arguments.quiet or arguments.json
    with progress.waiting("loading the networks", is_silent=is_silent):
        methods = _methods(arguments)
    with progress.measuring(len(scenes), is_quiet=arguments.quiet, has_lines=not is_silent) as tick:
        tables = evaluate_hdr(methods, scenes, save=arguments.save, on_scene=lambda name: tick())
    if arguments.csv is not None:
        scores.write_tables(arguments.csv, tables)
    if arguments.json:
        print_json(
            {
                "scenes": len(scenes),
                "methods": {
                    name: {"mean": table.mean(), "scenes": table.rows}
                    for name, table in tables.items()
                },
                "output": arguments.csv,
                "saved": arguments.save,
            }
        )
    elif not arguments.quiet:
        say(console(), _shown(len(scenes), tables))
        for place in (arguments.csv, arguments.save):
            if place is not None:
                say(console(), f"written {place}")
    return 0


def _methods(arguments: argparse.Namespace) -> dict[str, Merge]:
    """Networks, then rules."""
    wanted = dict.fromkeys(arguments.model)
    networks = [name for name in wanted if name not in MERGES]
    methods: dict[str, Merge] = {}
    if networks:
        logging.getLogger("jax").setLevel(logging.ERROR)
        from mgdn_jax.fusing.deghosting import Deghoster

        enable_compilation_cache()
        for name in networks:
            deghoster = Deghoster(name, system=arguments.system, trust=arguments.trust_system)
            title = Path(name).stem if os.sep in name or Path(name).suffix else name
            title = name if title in methods or title in MERGES else title
            methods[title] = deghoster.in_use(arguments.align)
    rules = MERGES if arguments.baselines or not wanted else wanted
    return methods | {name: MERGES[name] for name in rules if name in MERGES}


def _shown(count: int, tables: Mapping[str, scores.Table]) -> RichTable:
    """Means, the largest ones bold."""
    title = f"{count} {'scene' if count == 1 else 'scenes'}"
    table = RichTable(title=title, title_justify="left")
    table.add_column("method", no_wrap=True)
    means = {name: each.mean() for name, each in tables.items()}
    best = {column: max(mean[column] for mean in means.values()) for column in METRICS}
    for column in METRICS:
        table.add_column(f"{column} ↑", justify="right")
    for name, mean in means.items():
        cells = [Text(shown(mean[c]), style="bold" if mean[c] == best[c] else "") for c in METRICS]
        table.add_row(Text(printable(name)), *cells)
    return table
