"""Whether a network keeps the contract, found out before a run is paid for: nothing is computed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mgdn_jax.errors import InputError, nearest, printable
from mgdn_jax.layers import functional
from mgdn_jax.systems import registry
from mgdn_jax.systems.contract import ABILITIES, CONTEXT, EXTENT

_BATCH, _SIDE = 3, 32  # no number of channels, so that an axis in the wrong place shows


def check_network(system: str, config: Any) -> None:
    """Traces the network on pictures of its own channels, and what it says that it takes.

    Args:
        system: name of the system.
        config: its `Config`.

    Raises:
        InputError: `Config` is not frozen or lacks its channels, `takes` names what there is not,
            the call returns something else than ``(fused, aux)``, a result of another shape, or
            no weights though the network blends.
    """
    fields = {entry.name for entry in dataclasses.fields(config)} if _is_frozen(config) else None
    if fields is None:
        raise InputError(f"the Config of {system!r} is no frozen dataclass; make it one.")
    for field in ("in_channels", "out_channels"):
        if field not in fields:
            raise InputError(f"the Config of {system!r} has no field {field}; add it.")
    _check_calls(system, config)


def _is_frozen(config: Any) -> bool:
    return dataclasses.is_dataclass(config) and type(config).__hash__ is not None


@functools.lru_cache(maxsize=64)
def _check_calls(system: str, config: Any) -> None:
    """What needs the network itself; once for a configuration, since it takes seconds."""
    takes = _takes(system)
    _check_result(system, config, _traced(system, config, {}))
    if CONTEXT in takes:
        weights = jnp.ones((_BATCH, _SIDE, _SIDE, 1), jnp.float32)
        _check_call(system, config, CONTEXT, {"pixel_weights": weights})
    if EXTENT in takes:
        extent = jnp.full((_BATCH, 2), _SIDE, jnp.int32)
        _check_call(system, config, EXTENT, {"extent": extent})


def _takes(system: str) -> frozenset[str]:
    network = registry.network(system).Network
    try:
        takes = network.takes
    except AttributeError:
        raise InputError(
            f"the Network of {system!r} does not say what it takes; add takes = frozenset()."
        ) from None
    if not isinstance(takes, frozenset):
        raise InputError(f"takes of the Network of {system!r} is {takes!r}; make it a frozenset.")
    for ability in sorted(takes - ABILITIES.keys()):
        raise InputError(
            f"the Network of {system!r} takes {ability!r}, which there is not;"
            f" {nearest(ability, ABILITIES)}"
        )
    return takes


def check_fit(weights: Mapping[str, Any], wanted: Mapping[str, Any], what: str) -> None:
    """Finds out whether weights are those of a network.

    Args:
        weights: arrays by name.
        wanted: arrays or shapes of the network, by name.
        what: what to call them.

    Raises:
        InputError: names that are missing or foreign, or shapes or kinds of numbers that differ.
    """
    both = wanted.keys() & weights.keys()
    faults = {
        "missing": sorted(wanted.keys() - weights.keys()),
        "foreign": sorted(weights.keys() - wanted.keys()),
        "misshapen": sorted(k for k in both if weights[k].shape != wanted[k].shape),
        "not of floating point": sorted(k for k in both if _is_whole(wanted[k], weights[k])),
    }
    said = [
        f"{len(names)} {word} ({printable(names[0])[:100]})"
        for word, names in faults.items()
        if names
    ]
    if said:
        raise InputError(
            f"the {what} do not fit the network: {', '.join(said)}; convert or train them again."
        )


def _is_whole(wanted: Any, weight: Any) -> bool:
    """Whether floating-point numbers are wanted and others are there."""
    real, actual = (jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in (wanted, weight))
    return real and not actual


def _traced(system: str, config: Any, keywords: dict[str, Any]) -> Any:
    """Shapes of what the network returns."""
    graphdef, params, stats = registry.abstract(system, config)
    images = [
        jax.ShapeDtypeStruct((_BATCH, _SIDE, _SIDE, channels), jnp.float32)
        for channels in config.in_channels
    ]

    def call(params: Any, stats: Any, images: Any) -> Any:
        return functional.apply(graphdef, params, stats, *images, **keywords)[0]

    return jax.eval_shape(call, params, stats, images)


def _check_call(system: str, config: Any, ability: str, keywords: dict[str, Any]) -> None:
    try:
        _traced(system, config, keywords)
    except TypeError as error:
        raise InputError(
            f"the Network of {system!r} says that it takes {ability!r}, and its call does not"
            f" ({error}); see systems.contract."
        ) from None


def _check_result(system: str, config: Any, result: Any) -> None:
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        raise InputError(
            f"the Network of {system!r} returns no (fused, aux); return the picture and a"
            " dictionary."
        )
    shape, wanted = jnp.shape(result[0]), (_BATCH, _SIDE, _SIDE, config.out_channels)
    if shape != wanted:
        raise InputError(
            f"the Network of {system!r} makes {shape} of pictures of {_BATCH} x {_SIDE} x {_SIDE},"
            f" and out_channels says {wanted}."
        )
    if config.blends:
        _check_weights(system, config, result[1])


def _check_weights(system: str, config: Any, aux: dict[str, Any]) -> None:
    """What a network that blends says of its inputs."""
    if {*config.in_channels} != {config.out_channels}:
        raise InputError(
            f"the Config of {system!r} says that it blends, which needs equal channels in all"
            f" inputs and the result, not {config.in_channels} and {config.out_channels}."
        )
    wanted = (_BATCH, _SIDE, _SIDE, len(config.in_channels))
    shape = jnp.shape(aux["weights"]) if "weights" in aux else None
    if shape != wanted:
        raise InputError(
            f"the Network of {system!r} blends, but aux['weights'] is"
            f" {'missing' if shape is None else shape}; return {wanted} for {_BATCH} pictures of"
            f" {_SIDE} x {_SIDE}."
        )
