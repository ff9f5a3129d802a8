"""The systems: one file each, with its configuration, its presets and its whole network.

`create` and `abstract` are the same for every system; a caller never needs an NNX class.
"""

import dataclasses
import difflib
import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
from flax import nnx

from mgdn_jax.errors import InputError
from mgdn_jax.layers import functional
from mgdn_jax.layers.functional import Flat

SYSTEMS = {
    "mgdn": "mgdn_jax.models.mgdn",
    "cddfuse": "mgdn_jax.models.cddfuse",
    "lkc_funet": "mgdn_jax.models.lkc_funet",
    "refusion": "mgdn_jax.models.refusion",
}


def get(system: str) -> ModuleType:
    """Module of a system: `Config`, `PRESETS`, `PUBLISHED`, `Network`.

    Raises:
        InputError: no system has that name.
    """
    if system not in SYSTEMS:
        raise InputError(
            f"there is no system {system!r}; choose one of: {', '.join(sorted(SYSTEMS))}"
        )
    return importlib.import_module(SYSTEMS[system])


def read_fields(config: type, system: str, fields: Mapping[str, Any]) -> Any:
    """A system's `Config` from a plain dictionary; lists become tuples.

    Raises:
        InputError: a field is unknown (a near one is named) or holds an impossible value.
    """
    known = [f.name for f in dataclasses.fields(config)]
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{system} config has no field {name!r}{hint}")
    return config(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


def preset(system: str, name: str, **overrides: Any) -> Any:
    """Configuration of a named preset, with fields replaced.

    Raises:
        InputError: unknown system, preset or field.
    """
    presets = get(system).PRESETS
    if name not in presets:
        near = difflib.get_close_matches(name, presets, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(
            f"{system} has no preset {name!r}{hint}; choose one of: {', '.join(presets)}"
        )
    return get(system).Config.from_dict({**presets[name].to_dict(), **overrides})


def create(
    system: str, preset_name: str, *, seed: int = 0, **overrides: Any
) -> tuple[Any, nnx.GraphDef, Flat, Flat]:
    """A freshly initialised network: ``(config, graphdef, params, stats)``.

    Args:
        system: e.g. ``"mgdn"``.
        preset_name: e.g. ``"mff"``.
        seed: initialisation is a function of it alone.
        **overrides: fields of the system's `Config` to replace.
    """
    config = preset(system, preset_name, **overrides)
    graphdef, params, stats = initialise(system, config, jax.random.key(seed))
    return config, graphdef, params, stats


_RUNS_ONCE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def initialise(
    system: str, config: Any, key: jax.Array, network: str = "Network"
) -> tuple[nnx.GraphDef, Flat, Flat]:
    """``(graphdef, params, stats)`` of a configuration, from a PRNG key.

    ``network`` names a class of the system's module: the one that fuses, or an auxiliary one.
    """
    build = getattr(get(system), network)
    graphdef = abstract(system, config, network)[0]

    def draw(key: jax.Array) -> tuple[Flat, Flat]:
        return functional.split(build(config, rngs=nnx.Rngs(key)))[1:]

    if isinstance(key, jax.core.Tracer):
        return (graphdef, *draw(key))
    # One compiled program instead of hundreds of small ones. It runs once: the less the compiler
    # thinks about it, the sooner it is done.
    return (graphdef, *jax.jit(draw, compiler_options=_RUNS_ONCE)(key))


def abstract(system: str, config: Any, network: str = "Network") -> tuple[nnx.GraphDef, Flat, Flat]:
    """``(graphdef, params, stats)`` with shapes for leaves; allocates nothing."""
    build = getattr(get(system), network)
    return functional.abstract(lambda: build(config, rngs=nnx.Rngs(0)))


def count_parameters(params: Flat) -> int:
    """Number of scalars in a flat dictionary of arrays or shapes."""
    return sum(int(leaf.size) for leaf in params.values())
