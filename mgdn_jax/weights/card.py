"""A model card: what a weight file says about itself, as Markdown."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("mgdn-jax", "jax", "jaxlib", "flax", "optax", "grain", "numpy")
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def card_text(name: str, card: Mapping[str, Any]) -> str:
    """A model card as Markdown: one section per block of the card, one line per entry."""
    lines = [f"# {name}", ""]
    blocks = {key: value for key, value in card.items() if isinstance(value, Mapping)}
    lines += [f"- **{key}**: {_shown(v)}" for key, v in card.items() if key not in blocks]
    for title, entries in blocks.items():
        lines += ["", f"## {title.replace('_', ' ').capitalize()}", ""]
        lines += [f"- {key}: {_shown(value)}" for key, value in entries.items()]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return f"`{json.dumps(value)}`" if isinstance(value, Mapping | list | tuple) else str(value)
