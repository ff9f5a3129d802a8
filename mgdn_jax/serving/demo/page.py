"""The page itself, put together once: template, style, script and what they need to know."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from mgdn_jax.evaluation import pages
from mgdn_jax.fusing.tasks import TASKS
from mgdn_jax.serving.demo import samples
from mgdn_jax.serving.demo.studio import Offer
from mgdn_jax.serving.demo.wire import MEDIA_TYPE, Limits

_HERE = "mgdn_jax.serving.demo"


@dataclasses.dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        content: its HTML, in UTF-8.
        policy: its security policy, as a header.
    """

    content: bytes
    policy: str


def page(networks: Sequence[Offer], limits: Limits, first: str = "") -> Page:
    """Writes the page.

    Args:
        networks: what it offers.
        limits: what it lets through.
        first: name of the network that is chosen at first; empty for the task's.
    """
    script = pages.part("stage.js") + pages.part("demo.js", _HERE)
    content = {name: pages.part(file) for name, file in pages.STAGE.items()} | {
        "style": pages.part("page.css") + pages.part("demo.css", _HERE),
        "script": script,
        "data": pages.json_text(_data(networks, limits, first)),
        "megabytes": f"{limits.bytes / 2**20:g}",
        "megapixels": f"{limits.pixels / 10**6:g}",
    }
    policy = (
        "default-src 'none'; connect-src 'self'; img-src blob: data:; style-src 'unsafe-inline'; "
        f"script-src '{pages.digest(script)}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    html = pages.composed(pages.part("demo.html", _HERE), content)
    return Page(html.encode("utf-8", "replace"), policy)


def _data(networks: Sequence[Offer], limits: Limits, first: str) -> dict[str, Any]:
    """What the script knows."""
    return {
        "tasks": [
            {"name": t.name, "sources": t.sources, "result": t.result, "model": t.model}
            for t in TASKS.values()
        ],
        "models": [{"name": offer.name, "task": offer.task} for offer in networks],
        "first": first,
        "samples": [
            {"title": title, "about": about, "task": task, "files": list(names)}
            for title, about, task, names in samples.PAIRS
        ],
        "limits": dataclasses.asdict(limits),
        "mediaType": MEDIA_TYPE,
    }
