"""`mgdn models`, `mgdn convert` and `mgdn data prepare`."""

from __future__ import annotations

import argparse
from typing import Any

from mgdn_jax.cli.output import print_json
from mgdn_jax.weights import zoo


def models(arguments: argparse.Namespace) -> int:
    """Lists the bundled networks; returns 0."""
    import mgdn_jax

    found = zoo.list_models()
    if arguments.json:
        print_json(found)
        return 0
    if not found:
        print("no networks are bundled; make a weight file with mgdn convert or train.py")
    for name, about in found.items():
        card = about["card"]
        rows = {
            "task": card.get("task", ""),
            "system": f"{about['system']}, {about['parameters']:,} parameters",
            "inputs": _plain(card.get("inputs", about["config"].get("inputs", ""))),
            "trained on": _plain(card.get("trained_on", "")),
            "figures": _plain(card.get("figures", "")),
        }
        print(name)
        for title, text in rows.items():
            if text:
                print(f"  {title:<11}{text}")
    systems = mgdn_jax.list_systems()
    print("systems to train or to load weights of")
    for name, package in systems.items():
        print(f"  {name:<11}{package}")
    return 0


def _plain(value: Any) -> str:
    """A value of a card on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(entry) for entry in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def convert(arguments: argparse.Namespace) -> int:
    """Converts a published checkpoint; returns 0."""
    import mgdn_jax

    report = mgdn_jax.convert(
        arguments.source, arguments.target, system=arguments.system, preset=arguments.preset
    )
    converted, skipped = len(report.converted), len(report.skipped)
    if arguments.json:
        print_json({"output": arguments.target, "converted": converted, "skipped": skipped})
    else:
        print(f"converted {converted} tensors, skipped {skipped} that the network never reads")
        print(f"result  {arguments.target}")
    return 0


def prepare(arguments: argparse.Namespace) -> int:
    """Writes a data set; returns 0."""
    from mgdn_jax import data

    folder = data.prepare(
        arguments.set,
        arguments.source,
        arguments.out,
        folders=arguments.folders,
        name=arguments.name,
    )
    if arguments.json:
        print_json({"output": str(folder)})
    else:
        print(f"result  {folder}")
    return 0
