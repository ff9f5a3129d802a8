"""What a training run is asked to do: the config, checked field by field before anything starts.

Everything here is plain data in, frozen dataclasses out; every complaint is one sentence that
names the field and what to write instead.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any

from mgdn_jax.arguments import shown
from mgdn_jax.errors import InputError, nearest
from mgdn_jax.systems import fields
from mgdn_jax.training.optimisers import OPTIMISERS, SCHEDULES
from mgdn_jax.training.parallel import WAYS

BLOCKS = ("name", "recipe", "model", "data", "optimiser", "train")
DURATIONS = ("steps", "epochs", "examples")
PARTS = ("train", "validation")
# What may change between one start of a run and the next; all else is part of the result.
_INTERVALS = ("log_every", "eval_every", "save_every")
_MACHINERY = ("keep", "best", "devices", "parallel", "checkpoints")
FREE = frozenset(f"train.{name}" for name in (*DURATIONS, *_INTERVALS, *_MACHINERY))
FREE |= {f"data.{part}.{name}" for part in PARTS for name in ("threads", "prefetch")}


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """The `optimiser` block; see `optimisers.make_optimiser` and `optimisers.make_schedule`.

    `networks` holds, by network, the fields that differ for it: {"proposal": {"name": "max_abs"}}.
    """

    name: str
    learning_rate: float
    schedule: str = "constant"
    warmup: int = 0
    end_factor: float = 0.0
    milestones: tuple[float, ...] = ()
    gamma: float = 0.5
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    clip_offset: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    momentum: float = 0.9
    networks: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Train:
    """The `train` block.

    Attributes:
        batch: examples per update, over all devices and processes.
        steps: length of the run in updates; exactly one of `steps`, `epochs` and `examples` is
            set, the others are 0.
        epochs: length in passes over the training data.
        examples: length in training examples seen.
        accumulate: parts that each device's share of the batch is worked through in.
        ema: decay of the moving average of the parameters; 0 for none.
        seed: of everything random.
        log_every: updates between lines of the log.
        eval_every: updates between validations; 0 for one at the end only.
        save_every: updates between checkpoints; 0 for one at the end only.
        keep: newest checkpoints kept (the best one stays besides).
        best: the figure of validation that says which checkpoint is the best: "psnr", "loss" or one
            of the recipe's `judge`; names that end in "loss" count downwards. "" takes "psnr" where
            there is one, else "loss".
        eval_batch: examples per validation step over all devices; 0 for `batch`.
        devices: local devices to use; 0 for all.
        parallel: how a step is spread over devices, "pmap" or "mesh" (see `parallel`).
        checkpoints: a folder for them in place of WORKDIR/checkpoints, or an address that Orbax
            takes, as gs://BUCKET/RUN; "" for none.
        init: weights to start from, a bundled name or a file, in place of random ones; "" for none.
    """

    batch: int
    steps: int = 0
    epochs: float = 0.0
    examples: int = 0
    accumulate: int = 1
    ema: float = 0.999
    seed: int = 0
    log_every: int = 50
    eval_every: int = 1000
    save_every: int = 1000
    keep: int = 2
    best: str = ""
    eval_batch: int = 0
    devices: int = 0
    parallel: str = "pmap"
    checkpoints: str = ""
    init: str = ""


@dataclasses.dataclass(frozen=True)
class Run:
    """A checked config.

    Attributes:
        name: of the weights file the run ends with.
        recipe: the `recipe` block; "name" is a registered recipe or a dotted module path.
        model: the `model` block: "preset" and overrides of the model config's fields.
        data: the `data` block: "loader" is the dotted path of a module with `make_loader` and
            `make_eval_loader`; "train" and "validation" go to one of the two, the rest to both.
        optimiser: see `Optimiser`.
        train: see `Train`.
    """

    name: str
    recipe: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    optimiser: Optimiser
    train: Train


_MOST_EXAMPLES, _MOST_STEPS = 2**53, 2**31 - 1
"""Largest whole numbers: what JSON holds exactly, and what counts steps and seeds a loader."""


def _typed(field: str, value: Any, hint: Any) -> Any:
    """A value as its type hint wants it; 1e4 is a whole number here."""
    kind = typing.get_origin(hint) or hint
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    wanted = fields.fault(value, hint, most=_MOST_EXAMPLES)
    if wanted is not None:
        raise InputError(f"config field {field!r} is {shown(value)} and must be {wanted}.")
    if kind is tuple:
        return tuple(_typed(field, item, typing.get_args(hint)[0]) for item in value)
    return kind(value)


def block(kind: type, name: str, values: Mapping[str, Any]) -> Any:
    """One block of a config -> its dataclass.

    Args:
        kind: the dataclass.
        name: of the block, for messages.
        values: the block's fields; None stands for the default.

    Raises:
        InputError: an unknown, missing or mistyped field.
    """
    declared = {field.name: field for field in dataclasses.fields(kind)}
    for key in values:
        if key not in declared:
            raise InputError(f"config has no field '{name}.{key}'; {nearest(key, declared)}")
    entries = {key: value for key, value in values.items() if value is not None}
    for key, field in declared.items():
        if key not in entries and _is_needed(field):
            raise InputError(f"config field '{name}.{key}' is missing; add it.")
    hints = typing.get_type_hints(kind)
    return kind(**{key: _typed(f"{name}.{key}", v, hints[key]) for key, v in entries.items()})


def _is_needed(field: dataclasses.Field) -> bool:
    """Whether a field of a dataclass has no default."""
    return field.default is field.default_factory is dataclasses.MISSING


def _demand(good: bool, field: str, value: Any, wanted: str) -> None:
    if not good:
        raise InputError(f"config field {field!r} is {shown(value)} and must be {wanted}.")


def _optimiser(name: str, values: Mapping[str, Any]) -> Optimiser:
    """A checked `optimiser` block, called `name` in messages."""
    optimiser = block(Optimiser, name, values)
    for field, known in (("name", OPTIMISERS), ("schedule", SCHEDULES)):
        value = getattr(optimiser, field)
        if value not in known:
            raise InputError(f"config field '{name}.{field}' is {value!r}: {nearest(value, known)}")
    rate = optimiser.learning_rate
    _demand(rate > 0, f"{name}.learning_rate", rate, "above 0")
    for field in ("warmup", "weight_decay", "clip_norm", "clip_offset", "end_factor"):
        value = getattr(optimiser, field)
        _demand(value >= 0, f"{name}.{field}", value, "0 or more")
    momentum = optimiser.momentum
    _demand(0 <= momentum < 1, f"{name}.momentum", momentum, "in [0, 1)")
    stones = optimiser.milestones
    _demand(all(0 <= m <= 1 for m in stones), f"{name}.milestones", stones, "fractions 0 to 1")
    if optimiser.weight_decay and optimiser.name != "adamw":
        raise InputError(
            f"config field '{name}.weight_decay' needs '{name}.name' to be 'adamw'; set one of the"
            " two."
        )
    return optimiser


def optimiser_of(settings: Optimiser, network: str) -> Optimiser:
    """The `optimiser` block as it is for one network, whose entries replace the shared ones.

    Raises:
        InputError: its entry in `networks` is unknown, mistyped or contradictory.
    """
    entries = settings.networks.get(network, {})
    name = f"optimiser.networks.{network}"
    if not isinstance(entries, Mapping):
        raise InputError(f"config field '{name}' is {entries!r} and must be a block.")
    shared = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    del shared["networks"]
    if "networks" in entries:
        raise InputError(f"config field '{name}.networks' makes no sense; remove it.")
    return _optimiser(name, shared | dict(entries))


def check(config: Mapping[str, Any]) -> Run:
    """A whole config as nested plain dictionaries -> `Run`.

    Args:
        config: blocks `recipe`, `model`, `data`, `optimiser`, `train`, and a `name`.

    Raises:
        InputError: anything unknown, missing, mistyped or contradictory.
    """
    for key in config:
        if key not in BLOCKS:
            raise InputError(f"config has no field {key!r}; {nearest(key, BLOCKS)}")
    for key in BLOCKS:
        if key not in config:
            raise InputError(f"config field {key!r} is missing; add it.")
        if key != "name" and not isinstance(config[key], Mapping):
            raise InputError(f"config field {key!r} is {config[key]!r} and must be a block.")
    name = _typed("name", config["name"], str)
    fits = 0 < len(name.encode()) <= 200 and name.isprintable()
    _demand(fits and "/" not in name and name[0] != ".", "name", name, "a file name")
    for key, field in (("recipe", "name"), ("data", "loader")):
        if not isinstance(config[key].get(field), str):
            raise InputError(f"config field '{key}.{field}' is missing; add it.")
    for part, wanted in (("train", True), ("validation", False)):
        if not isinstance(config["data"].get(part, None if wanted else {}), Mapping):
            raise InputError(f"config field 'data.{part}' must be a block of loader arguments.")
    optimiser = _optimiser("optimiser", config["optimiser"])
    for network in optimiser.networks:
        optimiser_of(optimiser, network)
    train = block(Train, "train", config["train"])
    for field in ("batch", "accumulate", "log_every", "keep"):
        value = getattr(train, field)
        _demand(value >= 1, f"train.{field}", value, "1 or more")
    for field in (*DURATIONS, "seed", "eval_every", "save_every", "eval_batch", "devices"):
        value = getattr(train, field)
        _demand(value >= 0, f"train.{field}", value, "0 or more")
    _demand(train.seed <= _MOST_STEPS, "train.seed", train.seed, f"at most {_MOST_STEPS}")
    _demand(train.parallel in WAYS, "train.parallel", train.parallel, " or ".join(map(repr, WAYS)))
    _demand(0 <= train.ema < 1, "train.ema", train.ema, "in [0, 1)")
    duration(train.steps, train.epochs, train.examples, batch=train.batch, dataset=1)
    plain = {key: dict(config[key]) for key in ("recipe", "model", "data")}
    return Run(name, plain["recipe"], plain["model"], plain["data"], optimiser, train)


def duration(steps: int, epochs: float, examples: int, *, batch: int, dataset: int) -> int:
    """Length of a run in updates, from the one of three lengths that is set.

    Args:
        steps: updates, or 0.
        epochs: passes over the data, or 0.
        examples: examples seen, or 0.
        batch: examples per update.
        dataset: examples in one epoch.

    Returns:
        Updates, rounded up so that at least what was asked for is seen.

    Raises:
        InputError: none or more than one of the three is set.
    """
    lengths = zip(DURATIONS, (steps, epochs, examples), strict=True)
    entries = [f"train.{name}={value}" for name, value in lengths if value]
    if len(entries) != 1:
        raise InputError(
            "config must set exactly one of train.steps, train.epochs and train.examples, the"
            f" others to 0 (found {' and '.join(entries) or 'none'})."
        )
    # The tolerance keeps 0.1 epochs of 80 examples in batches of 8 at one step, not two.
    seen = examples or epochs * dataset
    total = steps or max(1, math.ceil(seen / batch - 1e-6))
    if total > _MOST_STEPS:
        raise InputError(f"config field {entries[0]!r} makes {total:,} updates; lower it.")
    return total


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries -> {"train.batch": 8}, tuples as lists."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


@dataclasses.dataclass(frozen=True)
class Defaults:
    """What a field stands for that a config leaves out; {} where nothing is known.

    Attributes:
        fields: by flattened name, of the blocks `recipe`, `optimiser` and `train`.
        data: of the loaders' arguments, by part of the `data` block.
    """

    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


def defaults(settings: type, makers: Mapping[str, Callable[..., Any]]) -> Defaults:
    """Defaults of every field that has one.

    Args:
        settings: dataclass of the `recipe` block.
        makers: what makes the loader of each part of `data`: {"train": make_loader, ...}. An
            argument whose type hint names a dataclass is a block of that dataclass's fields.
    """
    kinds = {"recipe": settings, "optimiser": Optimiser, "train": Train}
    fields = {name: _field_defaults(kind) for name, kind in kinds.items()}
    return Defaults(flatten(fields), {part: _argument_defaults(f) for part, f in makers.items()})


def _field_defaults(kind: Any) -> dict[str, Any]:
    """Defaults of a dataclass by field."""
    return {
        field.name: field.default
        if field.default_factory is dataclasses.MISSING
        else field.default_factory()
        for field in dataclasses.fields(kind)
        if not _is_needed(field)
    }


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Type hints of a function; none where a module of the user's has some that mean nothing."""
    try:
        return typing.get_type_hints(function)
    except (AttributeError, NameError, SyntaxError, TypeError):
        return {}


def _argument_defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Defaults of a function's arguments, flattened."""
    hints = _hints(function)
    values = {}
    for name, parameter in inspect.signature(function).parameters.items():
        choices = typing.get_args(hints.get(name)) or (hints.get(name),)
        blocks = [kind for kind in choices if dataclasses.is_dataclass(kind)]
        if blocks:
            values[name] = _field_defaults(blocks[0])
        elif parameter.default is not parameter.empty:
            values[name] = parameter.default
    return flatten(values)


def _complete(config: Mapping[str, Any], standard: Defaults) -> dict[str, Any]:
    """A flattened config, every field that it leaves out put in.

    What the `data` block holds for all loaders is an argument of each of them.
    """
    present = flatten({key: value for key, value in config.items() if key != "data"})
    for name in [name for name, value in present.items() if value is None]:
        if name.startswith(("optimiser.", "train.")):
            del present[name]  # the default, as in `block`
    data = config.get("data", {})
    shared = flatten({name: value for name, value in data.items() if name not in PARTS})
    for part in PARTS:
        if part in data:
            arguments = {**standard.data.get(part, {}), **shared, **flatten(data[part])}
            present |= {f"data.{part}.{name}": value for name, value in arguments.items()}
    return {**standard.fields, **present, **{f"data.{name}": v for name, v in shared.items()}}


def compare(
    before: Mapping[str, Any], now: Mapping[str, Any], where: str, standard: Defaults | None = None
) -> None:
    """Refuses to resume under a config that would make another result.

    Args:
        before: the config the run was started with, nested.
        now: the config it is to go on with, nested.
        where: the run's folder, for the message.
        standard: what fields stand for that one of the two leaves out: older runs lack those that
            came later, and did what their defaults do.

    Raises:
        InputError: a field other than durations, intervals and machinery differs.
    """
    old, new = (_complete(config, standard or Defaults()) for config in (before, now))
    for field in sorted((old.keys() | new.keys()) - FREE, key=lambda name: (name.count("."), name)):
        # Arguments of all loaders are compared loader by loader; here they only get their name.
        part = field.split(".")[1] if field.startswith("data.") else ""
        everywhere = bool(part) and part not in PARTS
        if everywhere and not (field in old and field in new):
            continue
        if old.get(field) != new.get(field):
            raise InputError(
                f"{where}: was started with {field}={old.get(field)!r} and the config now says"
                f" {new.get(field)!r}; use the old value or another workdir."
            )


def call(function: Callable[..., Any], field: str, values: Mapping[str, Any], **more: Any) -> Any:
    """Calls `function(**values, **more)`, turning misnamed config fields into clear errors.

    Args:
        function: a callable with explicit parameters (or `**kwargs`, then nothing is checked).
        field: name of the config block `values` come from.
        values: the block.
        more: arguments that are not the user's.

    Raises:
        InputError: `values` has an unknown field, lacks one that has no default, or holds what is
            not declared.
    """
    parameters = inspect.signature(function).parameters
    named = {
        name: p
        for name, p in parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and name not in more
    }
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in values:
            if key not in named:
                raise InputError(f"config has no field '{field}.{key}'; {nearest(key, named)}")
    hints = _hints(function)
    for key, parameter in named.items():
        if key not in values and parameter.default is parameter.empty:
            raise InputError(f"config field '{field}.{key}' is missing; add it.")
        wanted = fields.fault(values[key], hints[key]) if key in values and key in hints else None
        if wanted is not None:
            value = shown(values[key])
            raise InputError(f"config field '{field}.{key}' is {value} and must be {wanted}.")
    return function(**values, **more)
