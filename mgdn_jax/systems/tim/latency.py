"""What each primitive costs on this machine, measured once and kept.

A search that is to find quick networks needs times, and published tables are of other machines.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from mgdn_jax.errors import InputError
from mgdn_jax.io.cache import cache_folder
from mgdn_jax.io.disk import write_atomically
from mgdn_jax.layers import functional
from mgdn_jax.layers.mode import Mode
from mgdn_jax.systems.tim.primitives import primitive

SIZE = 128
"""Side of the maps that are measured."""
_ROUNDS, _CALLS = 9, 4


def measure(names: Sequence[str], features: int) -> dict[str, float]:
    """Milliseconds of one application to a map of `SIZE` x `SIZE`, compiled, by primitive.

    The primitives take turns, so that what else the machine does strikes all of them. Other work
    only adds to a time, so the least of the calls counts: on a machine with six times the work that
    it has cores for, medians of rounds were of the other work.
    """
    x = jax.random.uniform(jax.random.key(0), (1, SIZE, SIZE, features))
    calls = {}
    for name in names:
        built = primitive(name, features, rngs=functional.Rngs(0))
        graphdef, params, stats = functional.split(built)

        def call(params, x, graphdef=graphdef, stats=stats):
            return functional.apply(graphdef, params, stats, x, Mode())[0]

        calls[name] = jax.jit(call), params
        jax.block_until_ready(calls[name][0](params, x))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(_ROUNDS):
        for name, (call, params) in calls.items():
            for _ in range(_CALLS):
                started = time.perf_counter()
                jax.block_until_ready(call(params, x))
                seconds[name].append(time.perf_counter() - started)
    return {name: 1e3 * min(values) for name, values in seconds.items()}


def latencies(names: Sequence[str], features: int) -> dict[str, float]:
    """`measure`, once for a machine, a width and a version of JAX; later from the disk.

    A search that is resumed sees the same numbers as long as the cache stays; with the cache
    switched off they are measured each time, and the resumed run is another one. Numbers in the
    config (`recipe.latencies`) are the safe way.
    """
    device = jax.devices()[0]
    key = {
        "device": f"{device.platform} {device.device_kind}",
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "features": features,
        "jax": jax.__version__,
        "names": list(names),
        "size": SIZE,
    }
    folder = cache_folder()
    place = None if folder is None else folder / "latencies.json"
    entries = [] if place is None else _entries(place)
    for entry in entries:
        if entry.get("key") == key:
            return dict(entry["milliseconds"])
    table = {name: round(value, 6) for name, value in measure(names, features).items()}
    if place is not None:
        entries.append({"key": key, "milliseconds": table})
        # A folder that cannot be written to costs the next search a second.
        with contextlib.suppress(OSError, InputError):
            write_atomically(place, json.dumps(entries, indent=1).encode())
    return table


def _processor() -> str:
    """The model of the CPU, which JAX calls "cpu" whatever it is; folders may be shared."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return f"{platform.machine()} {platform.processor()}"


def _entries(place: Path) -> list[dict[str, Any]]:
    """What was measured before; nothing where the file is missing or is not ours."""
    try:
        stored = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    if not isinstance(stored, list):
        return []
    return [
        entry
        for entry in stored
        if isinstance(entry, dict) and isinstance(entry.get("milliseconds"), dict)
    ]
