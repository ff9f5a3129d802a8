"""Published PyTorch checkpoints -> our weights and back: one engine over the systems' tables.

A row of a table (`systems.rules.Rules`) is a regular expression over the published keys, the path
it becomes, and a layout change. Every published entry must meet exactly one row or be listed as
dead, and every parameter of the network must be filled once with the right shape; all that does
not fit is reported together.
"""

import dataclasses
import os
import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mgdn_jax.arguments import shown
from mgdn_jax.errors import InputError, printable
from mgdn_jax.layers.functional import Flat
from mgdn_jax.systems import limits, registry
from mgdn_jax.systems.rules import Rules
from mgdn_jax.weights import pickles
from mgdn_jax.weights.header import check_finite
from mgdn_jax.weights.store import save_weights


class _Layout(NamedTuple):
    """How an array is laid out by PyTorch and here; `back` gets the published shape."""

    ours: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


_SAME = _Layout(lambda w: w, lambda w, _: w)
_FLAT = _Layout(lambda w: w.reshape(-1), lambda w, shape: w.reshape(shape))
_LINEAR = _Layout(lambda w: w.transpose(1, 0), lambda w, _: w.transpose(1, 0))
_CONV = _Layout(lambda w: w.transpose(2, 3, 1, 0), lambda w, _: w.transpose(3, 2, 0, 1))

_TRANSPOSED = _Layout(lambda w: w.transpose(2, 3, 0, 1), lambda w, _: w.transpose(2, 3, 0, 1))

_LEAVES: dict[str, dict[str, tuple[str, _Layout]]] = {
    "conv": {"weight": ("kernel", _CONV), "bias": ("bias", _SAME)},
    "transposed": {"weight": ("kernel", _TRANSPOSED), "bias": ("bias", _SAME)},
    "linear": {"weight": ("kernel", _LINEAR), "bias": ("bias", _SAME)},
    "norm": {
        "weight": ("scale", _SAME),
        "bias": ("bias", _SAME),
        "running_mean": ("mean", _SAME),
        "running_var": ("variance", _SAME),
    },
}
_LONE = {"array": _SAME, "vector": _FLAT}
"""Kinds of rows whose pattern is about a whole key; the others are about a module's path."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every entry of a state dictionary (the conversion raises unless complete).

    Attributes:
        converted: published key -> our path.
        skipped: published keys that are dead by the rules.
        unmatched: published keys no rule knows.
        unfilled: our parameters no published key filled.
        double: our paths, or published keys, with more than one partner.
        misshapen: published keys whose converted shape differs, with both shapes.
    """

    converted: dict[str, str]
    skipped: tuple[str, ...]
    unmatched: tuple[str, ...]
    unfilled: tuple[str, ...]
    double: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is left over on either side."""
        return not (self.unmatched or self.unfilled or self.double or self.misshapen)


def rules_of(system: str, network: str = "Network") -> Rules:
    """The table of a network.

    Raises:
        InputError: nothing is published for it.
    """
    tables = registry.conversion(system).RULES
    if network not in tables:
        raise InputError(
            f"no conversion is known for {network!r} of {system!r}; known:"
            f" {', '.join(tables) or '(none)'}"
        )
    return tables[network]


def seen_fields(state: Iterable[str], system: str) -> dict[str, Any]:
    """Fields of a system's `Config` that the names in a published state dictionary give away."""
    return rules_of(system).seen(state)


def convert_state_dict(
    state: Mapping[str, np.ndarray], *, system: str, config: Any, network: str = "Network"
) -> tuple[Flat, Report]:
    """Convert the arrays of a published network without running statistics.

    Like `convert_arrays`, whose statistics are left out.
    """
    params, _, report = convert_arrays(state, system=system, config=config, network=network)
    return params, report


def convert_arrays(
    state: Mapping[str, np.ndarray], *, system: str, config: Any, network: str = "Network"
) -> tuple[Flat, Flat, Report]:
    """Convert the arrays of a published network.

    Args:
        state: published key -> array in PyTorch's layout; a ``module.`` prefix is stripped. Of
            files in several parts ``part.key`` (`read_torch` writes them so).
        system: e.g. ``"mgdn"``.
        config: the system's `Config` that describes the published network.
        network: class of the system's module that it becomes, e.g. ``"ProposalNetwork"``.

    Returns:
        Flat parameters and running statistics (float32 NumPy arrays), and the report.

    Raises:
        InputError: anything is unmatched, unfilled, filled twice or of the wrong shape, or a value
            is not finite.
    """
    report, params = sort_entries(state, system=system, config=config, network=network)
    if not report.complete:
        parts = [
            f"{len(names)} {what} ({_first(names)})"
            for what, names in (
                ("unknown entries", report.unmatched),
                ("parameters without a source", report.unfilled),
                ("entries with two partners", report.double),
                ("entries of the wrong shape", report.misshapen),
            )
            if names
        ]
        raise InputError(
            f"the checkpoint does not hold this {system} network: {'; '.join(parts)};"
            " check --system and --preset"
        )
    stats = registry.abstract(system, config, network)[2]
    return (
        {path: value for path, value in params.items() if path not in stats},
        {path: value for path, value in params.items() if path in stats},
        report,
    )


def _first(names: Sequence[str]) -> str:
    """The first of some names that come from a file, for a message."""
    short = [printable(name)[:100] for name in names[:3]]
    return ", ".join([*short, "..."] if len(names) > 3 else short)


def to_state_dict(
    params: Mapping[str, Any],
    stats: Mapping[str, Any],
    like: Mapping[str, Any],
    *,
    system: str,
    network: str = "Network",
) -> dict[str, np.ndarray]:
    """Our weights under published names and in PyTorch's layout: the inverse of `convert_arrays`.

    Args:
        params: flat parameters.
        stats: flat running statistics.
        like: a published state dictionary of the same network, of which keys and shapes count.
        system: e.g. ``"mgdn"``.
        network: class of the system's module.

    Returns:
        Entry for each key of `like` that the network reads; dead entries are as they are in `like`.

    Raises:
        InputError: a key that no row knows, a parameter that is missing, or another shape.
    """
    rules = rules_of(system, network)
    weights = {**params, **stats}
    state: dict[str, np.ndarray] = {}
    for name, published in like.items():
        key = _first_name(name.removeprefix("module."), rules)
        targets = [target for target in _targets(key, rules) if target[0] in weights]
        unread = _is_among(key, rules.dead) or rules.is_constant(key)
        if unread or (not targets and _is_among(key, rules.optional)):
            state[name] = np.asarray(published)
            continue
        if len(targets) != 1:
            raise InputError(f"{name} has no partner among the weights of this {system} network.")
        path, layout = targets[0]
        shape = tuple(np.shape(published))
        array = np.ascontiguousarray(layout.back(np.asarray(weights[path]), shape))
        if array.shape != shape:
            raise InputError(f"{name} has the shape {shape}, and {path} makes {array.shape}.")
        state[name] = array
    return state


class _Misshapen(NamedTuple):
    """A published entry whose converted shape is not the parameter's."""

    name: str
    path: str
    shape: tuple[int, ...]
    wanted: tuple[int, ...]


class _Sorter:
    """Takes the entries of one state dictionary, one after the other."""

    def __init__(self, rules: Rules, targets: Mapping[str, Any]):
        self._rules, self._targets = rules, targets
        self.params: Flat = {}
        self.converted: dict[str, str] = {}
        self.skipped: list[str] = []
        self.unmatched: list[str] = []
        self.double: list[str] = []
        self.misshapen: list[_Misshapen] = []

    def take(self, name: str, value: np.ndarray, state: Mapping[str, np.ndarray]) -> None:
        """Sorts one entry of `state` in."""
        own_key = name.removeprefix("module.")
        key = _first_name(own_key, self._rules)
        first = state.get(name.removesuffix(own_key) + key) if key != own_key else None
        if first is not None:
            # Stored twice: one tensor under two names, or not this network.
            (self.skipped if np.array_equal(value, first) else self.double).append(name)
            return
        matches = [row for row in _targets(key, self._rules) if row[0] in self._targets]
        if _is_among(key, self._rules.dead):
            self.skipped.append(name)
        elif self._rules.is_constant(key):
            is_right = self._rules.holds(key, np.asarray(value))
            (self.skipped if is_right else self.unmatched).append(name)
        elif not matches:
            is_optional = _is_among(key, self._rules.optional)
            (self.skipped if is_optional else self.unmatched).append(name)
        elif len(matches) > 1:
            self.double.append(name)
        else:
            self._fill(name, *matches[0], np.asarray(value))

    def _fill(self, name: str, path: str, layout: _Layout, value: np.ndarray) -> None:
        try:
            array = layout.ours(value)
        except ValueError:  # a transposition of the wrong rank
            array = value
        wanted = tuple(self._targets[path].shape)
        if path in self.params:
            self.double.append(path)
        elif array.shape != wanted:
            self.misshapen.append(_Misshapen(name, path, array.shape, wanted))
        else:
            check_finite(array, f"the checkpoint's entry {shown(name)}")
            self.params[path] = np.ascontiguousarray(array, np.float32)
            self.converted[name] = path

    def report(self) -> Report:
        """What became of all entries."""
        aimed = {entry.path for entry in self.misshapen}
        return Report(
            self.converted,
            tuple(self.skipped),
            tuple(self.unmatched),
            tuple(path for path in self._targets if path not in self.params and path not in aimed),
            tuple(self.double),
            tuple(f"{e.name}: {e.shape} where {e.wanted} is wanted" for e in self.misshapen),
        )


def sort_entries(
    state: Mapping[str, np.ndarray], *, system: str, config: Any, network: str = "Network"
) -> tuple[Report, Flat]:
    """What becomes of every entry, complete or not, and the arrays that found their place.

    Arguments as of `convert_arrays`.
    """
    _, params, stats = registry.abstract(system, config, network)
    sorter = _Sorter(rules_of(system, network), params | stats)
    for name, value in state.items():
        sorter.take(name, value, state)
    return sorter.report(), dict(sorted(sorter.params.items()))


def _is_among(key: str, patterns: Iterable[str]) -> bool:
    return any(re.fullmatch(pattern, key) for pattern in patterns)


def _first_name(key: str, rules: Rules) -> str:
    """The name that decides about an entry; the key itself unless it is a second name."""
    return re.sub(*rules.twin, key) if rules.twin and re.fullmatch(rules.twin[0], key) else key


def _targets(key: str, rules: Rules) -> list[tuple[str, _Layout]]:
    """Every (path, layout) that the rules give a published key."""
    targets: list[tuple[str, _Layout]] = []
    module, _, leaf = key.rpartition(".")
    for pattern, path, kind in rules.modules:
        if kind in _LONE:
            if match := re.fullmatch(pattern, key):
                targets.append((match.expand(path), _LONE[kind]))
        elif leaf in _LEAVES[kind] and (match := re.fullmatch(pattern, module)):
            name, layout = _LEAVES[kind][leaf]
            targets.append((f"{match.expand(path)}/{name}", layout))
    return targets


def read_torch(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Arrays of a PyTorch checkpoint file, unwrapped from ``params_ema``, ``params`` and the like.

    A file of several state dictionaries, one a part, gives keys ``part.key``, a ``module.`` before
    the inner key removed. Where a tensor repeats values (``expand``), so does the array: it is a
    view that takes no more room.

    Raises:
        InputError: PyTorch is not installed, or the file is missing, truncated, no checkpoint,
            declares more than `systems.limits` allow, holds tensors that are no plain real ones, or
            needs more than plain tensors to load (nothing else is ever unpickled).
    """
    path = Path(path)
    if not path.exists() or path.is_dir():
        raise InputError(f"{path}: no such checkpoint file; give the path of a .pth file")
    try:
        import torch
    except ImportError:
        raise InputError(
            "reading PyTorch checkpoints needs PyTorch: pip install 'mgdn-jax[convert]'"
        ) from None
    pickles.check(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a bad file
        if isinstance(error, pickle.UnpicklingError) and "Unsupported global" in str(error):
            raise InputError(
                f"{path}: cannot be read as a PyTorch checkpoint of plain tensors: it holds"
                " objects, such as a whole module; save its state_dict() instead."
            ) from None
        reason = printable(str(error).strip().split("\n")[0][:120])
        raise InputError(
            f"{path}: cannot be read as a PyTorch checkpoint of plain tensors ({reason})"
        ) from None
    for wrapper in ("params_ema", "params", "state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if isinstance(loaded, Mapping) and all(isinstance(part, Mapping) for part in loaded.values()):
        loaded = {
            f"{part}.{str(key).removeprefix('module.')}": value
            for part, entries in loaded.items()
            for key, value in entries.items()
        }
    if not isinstance(loaded, Mapping) or not all(
        isinstance(v, torch.Tensor) for v in loaded.values()
    ):
        raise InputError(f"{path}: holds no dictionary of tensors; is it a model's state_dict?")
    for key, tensor in loaded.items():
        kind = _unusual(tensor)
        if kind:
            raise InputError(
                f"{path}: {shown(str(key))} is {kind}; save plain dense tensors of real numbers."
            )
    if len({str(key) for key in loaded}) < len(loaded):
        raise InputError(f"{path}: holds two entries of one name; save the model's state_dict.")
    numbers = sum(tensor.numel() for tensor in loaded.values())
    limits.check(numbers, "parameters", str(path))
    return {str(key): _array(tensor) for key, tensor in loaded.items()}


def _unusual(tensor: Any) -> str:
    """What keeps a tensor from being an array of real numbers; "" where nothing does."""
    import torch

    if tensor.is_nested or tensor.layout is not torch.strided:
        return "a sparse or otherwise packed tensor"
    if tensor.is_quantized:
        return "a quantised tensor"
    if tensor.device.type != "cpu":
        return f"a tensor without values, of the device {tensor.device.type!r}"
    if tensor.dtype.is_complex:
        return "a tensor of complex numbers"
    return ""


def _array(tensor: Any) -> np.ndarray:
    """A tensor as float32, repeated values (strides of zero) only once in memory."""
    once = [slice(0, 1) if stride == 0 else slice(None) for stride in tensor.stride()]
    numbers = tensor.detach().resolve_neg()[tuple(once)].float().numpy()
    return np.broadcast_to(numbers, tuple(tensor.shape))


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    system: str,
    preset: str,
    **overrides: Any,
) -> Report:
    """Turn a published PyTorch checkpoint into a weight file of ours.

    Args:
        source: ``.pth`` file; nothing but plain tensors is ever unpickled.
        target: ``.safetensors`` file to write.
        system: e.g. ``"mgdn"``.
        preset: the configuration it was published for, e.g. ``"mff"``.
        **overrides: fields of the configuration to replace. What the names in the file give away
            (LKC-FUNet's kinds of norm) need not be told.

    Returns:
        What became of every entry; complete by construction.

    Raises:
        InputError: unreadable source, or one that does not hold this network in full.
    """
    if Path(target).suffix != ".safetensors":
        raise InputError(f"{os.fspath(target)}: the file to write must end in .safetensors")
    registry.preset(system, preset, **overrides)  # complains before the file is read
    state = read_torch(source)
    fields = seen_fields(state, system) | overrides
    config = registry.preset(system, preset, **fields)
    params, stats, report = convert_arrays(state, system=system, config=config)
    card = {
        "name": Path(target).stem,
        "task": preset,
        "trained_on": "published weights, converted",
        "source": Path(source).name,
        **registry.conversion(system).PUBLISHED.get(preset, {}),
    }
    save_weights(
        target, system=system, config=config.to_dict(), params=params, stats=stats, card=card
    )
    return report
