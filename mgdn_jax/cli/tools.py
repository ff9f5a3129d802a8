"""`mgdn models`, `mgdn convert` and `mgdn data prepare`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from mgdn_jax.cli import progress
from mgdn_jax.cli.output import print_json, tell
from mgdn_jax.fusing.tasks import TASKS, of_card
from mgdn_jax.systems.finding import list_systems
from mgdn_jax.weights import zoo


def models(arguments: argparse.Namespace) -> int:
    """Lists the bundled networks and all systems, or describes some weight files; returns 0."""
    names = arguments.models
    if names:
        listing = {name: zoo.describe(zoo.resolve(name)) for name in names}
    else:
        listing = zoo.list_models()
        if arguments.task:
            listing = {
                name: entry
                for name, entry in listing.items()
                if of_card(entry["card"]) is TASKS[arguments.task]
            }
    if arguments.json:
        print_json(listing)
        return 0
    if not listing:
        tell("no networks are bundled; make a weight file with mgdn convert or train.py")
    for name, about in listing.items():
        tell(name)
        for title, text in _facts(about).items():
            if text:
                tell(f"  {title:<11}{text}")
    if not names and not arguments.task:
        tell("systems to train or to load weights of")
        for name, package in list_systems().items():
            tell(f"  {name:<11}{package}")
    return 0


def _facts(about: Mapping[str, Any]) -> dict[str, str]:
    """What there is to say about a weight file, by title."""
    card = about["card"]
    return {
        "task": _plain(card.get("task", "")),
        "system": f"{about['system']}, {about['parameters']:,} parameters",
        "inputs": _plain(card.get("inputs", about["config"].get("inputs", ""))),
        "trained on": _plain(card.get("trained_on", "")),
        "verdict": _plain(card.get("verdict", "")),
        "figures": _plain(card.get("figures", "")),
    }


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

    with progress.waiting("converting", is_silent=arguments.json):
        report = mgdn_jax.convert(
            arguments.source, arguments.target, system=arguments.system, preset=arguments.preset
        )
    converted, skipped = len(report.converted), len(report.skipped)
    if arguments.json:
        print_json({"output": arguments.target, "converted": converted, "skipped": skipped})
    else:
        tell(f"converted {converted} tensors, skipped {skipped} that the network never reads")
        tell(f"result  {arguments.target}")
    return 0


def prepare(arguments: argparse.Namespace) -> int:
    """Writes a data set; returns 0."""
    from mgdn_jax import data
    from mgdn_jax.data.builders import read_manifest
    from mgdn_jax.data.folders import shard_name

    shards, stage = arguments.shards, ["listing the folders"]

    def checked(done: int, total: int) -> None:
        is_last = done == total
        stage[0] = f"writing {total} examples" if is_last else f"checked {done} of {total} examples"

    with progress.waiting(lambda: stage[0], is_silent=arguments.json):
        folder = data.prepare(
            arguments.set,
            arguments.source,
            arguments.out,
            folders=arguments.folders,
            name=arguments.name,
            only=arguments.only,
            shards=shards,
            progress=checked,
        )
    folders = [folder.with_name(shard_name(folder.name, k, shards)) for k in range(shards)]
    manifest = read_manifest(folders[0] if shards else folder)
    count = sum(manifest["of"]) if shards else manifest["examples"]
    rule = manifest.get("rule", "")
    if arguments.json:
        parts = {"shards": [str(path) for path in folders]} if shards else {}
        print_json({"output": str(folder), "examples": count, "pairing": rule, **parts})
    else:
        things = {
            "a": "pairs",
            "rgb": "photographs with depth maps",
            "radiance": "radiance pictures",
            "short": "brackets",
        }
        tell(f"holds   {count} {things.get(manifest['roles'][0], 'pictures with labels')}")
        if rule:
            tell(f"names   {rule}")
        last = f" to {folders[-1].name}" if shards > 1 else ""
        tell(f"result  {folders[0] if shards else folder}{last}")
    return 0
