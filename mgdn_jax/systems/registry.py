"""Systems by name: their modules, their configurations, and their networks as pure data.

`finding` says which systems there are. `create`, `initialise` and `abstract` are the same for every
one of them; a caller never needs an NNX class.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
from flax import nnx

from mgdn_jax.arguments import shown
from mgdn_jax.errors import InputError, nearest
from mgdn_jax.layers import functional
from mgdn_jax.layers.functional import Flat
from mgdn_jax.systems import contract, limits
from mgdn_jax.systems.finding import find


def network(system: str) -> ModuleType:
    """Module of a system that holds `Config`, `PRESETS` and `Network`.

    Raises:
        InputError: there is no such system, or it lacks one of the three.
    """
    return find(system).part("network", "Config", "PRESETS", "Network")


def conversion(system: str) -> ModuleType:
    """Module of a system that holds `RULES` and `PUBLISHED`.

    Raises:
        InputError: there is no such system, or it lacks one of the two.
    """
    return find(system).part("conversion", "RULES", "PUBLISHED")


def recipe(name: str) -> Callable[..., contract.Recipe]:
    """The class `Recipe` of a system, or of a module of yours.

    Raises:
        InputError: neither is found, or the class does not derive from `contract.Recipe`.
    """
    module = find(name, kind="recipe").part("recipe", "Recipe")
    kind = module.Recipe
    if contract.Recipe not in kind.__mro__:
        raise InputError(
            f"the class Recipe of {module.__name__} does not derive from"
            " mgdn_jax.systems.base.BaseRecipe; let it."
        )
    return kind


def named(path: str, field: str, known: tuple[str, ...]) -> Any:
    """What a dotted path names, ``package.module.attribute``.

    Args:
        path: the dotted path.
        field: of the config it comes from, for the message.
        known: names that need no path, for the message.

    Raises:
        InputError: nothing is there.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise InputError(
            f"{field} is {path!r}; choose one of {', '.join(known)} or give the dotted path of a"
            " callable that can be imported"
        ) from None


def list_presets(system: str) -> tuple[str, ...]:
    """Names of a system's presets.

    Raises:
        InputError: there is no such system.
    """
    return tuple(network(system).PRESETS)


def preset(system: str, name: str, **overrides: Any) -> Any:
    """Configuration of a named preset, with fields replaced.

    Raises:
        InputError: unknown system, preset or field.
    """
    module = network(system)
    if not isinstance(name, str) or name not in module.PRESETS:
        raise InputError(
            f"{system} has no preset {shown(name)}; {nearest(str(name)[:100], module.PRESETS)}"
        )
    return module.Config.from_dict({**module.PRESETS[name].to_dict(), **overrides})


def create(
    system: str, preset_name: str, *, seed: int = 0, **overrides: Any
) -> tuple[Any, nnx.GraphDef, Flat, Flat]:
    """A freshly initialised network as pure data: ``(config, graphdef, params, stats)``.

    `mgdn_jax.layers.functional.apply(graphdef, params, stats, *images)` calls it; wrap it in a
    `Fuser` with ``Fuser(system, config, params, stats)``.

    Args:
        system: e.g. ``"mgdn"``, or the dotted name of a system of yours.
        preset_name: e.g. ``"mff"``.
        seed: initialisation is a function of it alone.
        **overrides: fields of the system's `Config` to replace, e.g. ``head="blend"``.

    Raises:
        InputError: unknown system, preset or field.
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
    outline = graphdef(system, config, network)  # first, for it refuses what is too large
    build = _class(system, network)

    def draw(key: jax.Array) -> tuple[Flat, Flat]:
        return functional.split(build(config, rngs=functional.Rngs(key)))[1:]

    if isinstance(key, jax.core.Tracer):
        return (outline, *draw(key))
    # One compiled program instead of hundreds of small ones. It runs once: the less the compiler
    # thinks about it, the sooner it is done.
    values = jax.jit(draw, compiler_options=_RUNS_ONCE)(key)
    return (outline, *values)


class _CountedRngs(functional.Rngs):
    """Keys for a network that is only outlined: while it is built there are so many and no more."""

    def __init__(self, most: int, refusal: str):
        super().__init__(0)
        self._left: int | None = most
        self._refusal = refusal

    def __getattr__(self, name: str) -> Any:
        stream = super().__getattr__(name)
        if self._left == 0:
            raise InputError(self._refusal)
        if self._left is not None:
            self._left -= 1
        return stream

    def release(self) -> None:
        """Ends the count: a module may keep its keys."""
        self._left, self._refusal = None, ""


def abstract(
    system: str, config: Any, network: str = "Network", *, arrays: int | None = None
) -> tuple[nnx.GraphDef, Flat, Flat]:
    """``(graphdef, params, stats)`` with shapes for leaves; allocates nothing.

    Args:
        system: e.g. ``"mgdn"``.
        config: its `Config`.
        network: class of the system's module.
        arrays: number of weights that there are for the network, None where there are none yet.

    Raises:
        InputError: the network is larger than `limits` allow, or than its weights.
    """
    build = _class(system, network)
    what = f"the {system} network of this config"
    draws = limits.most("blocks") * limits.DRAWS_PER_BLOCK
    refusal = (
        f"{what} has more layers than are allowed; if that is meant, set the environment variable"
        f" {limits.variable('blocks')} to a number above {limits.most('blocks')}."
    )
    if arrays is not None and 2 * arrays + limits.DRAWS_PER_BLOCK < draws:
        draws = 2 * arrays + limits.DRAWS_PER_BLOCK
        refusal = f"{what} is larger than its {arrays} weights; convert or train them again."

    def outlined() -> nnx.Module:
        rngs = _CountedRngs(draws, refusal)
        module = build(config, rngs=rngs)
        rngs.release()
        return module

    outline = functional.abstract(outlined)
    limits.check(count_parameters(outline[1] | outline[2]), "parameters", what)
    return outline


@functools.lru_cache(maxsize=64)
def graphdef(system: str, config: Any, network: str = "Network") -> nnx.GraphDef:
    """The static half of a network, kept for configurations met before."""
    return abstract(system, config, network)[0]


def count_parameters(params: Flat) -> int:
    """Number of scalars in a flat dictionary of arrays or shapes."""
    return sum(int(leaf.size) for leaf in params.values())


def _class(system: str, name: str) -> Any:
    return getattr(network(system), name)
