"""`mgdn eval-depth`: scores networks and rules that enlarge depth maps."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from mgdn_jax.cli import progress
from mgdn_jax.cli.output import console, print_json, say
from mgdn_jax.cli.targets import Targets
from mgdn_jax.errors import InputError, printable
from mgdn_jax.evaluation import scores
from mgdn_jax.evaluation.depth import (
    PROTOCOLS,
    Protocol,
    evaluate_depth,
    find_depth_pairs,
    method_of,
)
from mgdn_jax.evaluation.standing import shown
from mgdn_jax.evaluation.upsampling import BASELINES, Upsample
from mgdn_jax.fusing.compile_cache import enable_compilation_cache

_SCALE = 4  # where no network says another


@dataclass(frozen=True)
class _Methods:
    """What is measured.

    Attributes:
        callables: name to method, those asked for first.
        scale: for which the first network is; None without a network.
    """

    callables: Mapping[str, Upsample]
    scale: int | None


def evaluate(arguments: argparse.Namespace) -> int:
    """Runs `mgdn eval-depth`.

    Args:
      arguments: as `cli.main.build_parser` parses them.

    Returns:
      0.

    Raises:
      InputError: a network, a rule, a file or a scale that cannot be used.
    """
    protocol = PROTOCOLS[arguments.set]
    pairs = find_depth_pairs(arguments.data, arguments.folders)
    if arguments.scale is not None and not 2 <= arguments.scale <= 64:
        raise InputError(f"--scale is {arguments.scale}; give a whole number from 2 to 64.")
    Targets(csv=arguments.csv).check()
    is_silent = arguments.quiet or arguments.json
    with progress.waiting("loading the networks", is_silent=is_silent):
        methods = _methods(arguments)
    scale = arguments.scale or methods.scale or _SCALE
    with progress.measuring(len(pairs), is_quiet=arguments.quiet, has_lines=not is_silent) as tick:
        tables = evaluate_depth(methods.callables, pairs, protocol, scale, lambda name: tick())
    if arguments.csv is not None:
        scores.write_tables(arguments.csv, tables)
    if arguments.json:
        print_json(_content(arguments, protocol, scale, tables))
    elif not arguments.quiet:
        say(console(), _shown(protocol, scale, tables))
        if arguments.csv is not None:
            say(console(), f"written {arguments.csv}")
    return 0


def _methods(arguments: argparse.Namespace) -> _Methods:
    wanted = dict.fromkeys(arguments.model)
    networks = [name for name in wanted if name not in BASELINES]
    callables: dict[str, Upsample] = {}
    scale = None
    if networks:
        logging.getLogger("jax").setLevel(logging.ERROR)
        from mgdn_jax.fusing.depth import DepthUpsampler

        enable_compilation_cache()
        for name in networks:
            upsampler = DepthUpsampler.load(
                name, system=arguments.system, trust=arguments.trust_system
            )
            scale = scale or upsampler.preparation.scale
            title = Path(name).stem if os.sep in name or Path(name).suffix else name
            if title in callables or title in BASELINES:
                title = name
            callables[title] = method_of(upsampler)
    rules = BASELINES if arguments.baselines or not wanted else wanted
    callables |= {name: BASELINES[name] for name in rules if name in BASELINES}
    return _Methods(callables, scale)


def _content(
    arguments: argparse.Namespace,
    protocol: Protocol,
    scale: int,
    tables: Mapping[str, scores.Table],
) -> dict[str, Any]:
    """All that is known, for `--json`."""
    return {
        "set": arguments.set,
        "title": protocol.title,
        "scale": scale,
        "unit": protocol.unit,
        "border": protocol.border,
        "images": len(next(iter(tables.values())).rows),
        "methods": {
            name: {"mean": table.mean(), "images": table.rows} for name, table in tables.items()
        },
        "output": arguments.csv,
    }


def _shown(protocol: Protocol, scale: int, tables: Mapping[str, scores.Table]) -> RichTable:
    """Means, the least ones bold."""
    count = len(next(iter(tables.values())).rows)
    unit = "stored levels" if protocol.unit == "255" else protocol.unit
    title = f"{protocol.title}, {count} {'map' if count == 1 else 'maps'}, {scale}x, {unit}"
    table = RichTable(title=title, title_justify="left")
    table.add_column("method", no_wrap=True)
    means = {name: each.mean() for name, each in tables.items()}
    best = {column: min(mean[column] for mean in means.values()) for column in protocol.columns}
    for column in protocol.columns:
        table.add_column(f"{column.partition('_')[0]} ↓", justify="right")
    for name, mean in means.items():
        cells = [
            Text(shown(mean[c]), style="bold" if mean[c] == best[c] else "")
            for c in protocol.columns
        ]
        table.add_row(Text(printable(name)), *cells)
    return table
