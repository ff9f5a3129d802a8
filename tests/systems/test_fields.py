"""Values of configs are of the declared kind and in range, and no network is too large."""

import dataclasses
import json
from typing import Any

import pytest

from mgdn_jax.arguments import shown
from mgdn_jax.errors import InputError
from mgdn_jax.systems import fields, finding, limits, registry
from mgdn_jax.systems.config import SystemConfig

HUGE = 10**400
STRANGE = (HUGE, -HUGE, float("inf"), float("nan"), {}, [], None, True, "8", b"8", [[3]], 10**9, -1)


@dataclasses.dataclass(frozen=True)
class Settings:
    whole: int = 1
    real: float = 1.0
    word: str = ""
    flag: bool = False
    sizes: tuple[int, ...] = ()
    pair: tuple[float, float] = (0, 1)
    either: int | None = None
    block: dict[str, Any] = dataclasses.field(default_factory=dict)
    anything: Any = None


GOOD = [
    *(("whole", 3), ("real", 3), ("real", 0.5), ("word", "a"), ("flag", True), ("sizes", [1, 2])),
    *(("pair", (0.5, 1)), ("either", None), ("either", 3), ("block", {}), ("anything", HUGE)),
]
BAD = [
    *(("whole", value) for value in (True, 3.0, "3", None, 2**31, -HUGE, [3], {})),
    *(("real", value) for value in (True, "3", float("nan"), float("-inf"), HUGE, 1e13, [])),
    *(("word", value) for value in (3, None, b"a", "x" * 5000)),
    *(("flag", value) for value in (0, 1, "yes")),
    *(("sizes", value) for value in (3, "12", [HUGE], [True], [1.0], [[1]], [1] * 5000)),
    *(("pair", value) for value in ([1], [1, 2, 3], ["a", 1])),
    *(("either", "3"), ("either", HUGE), ("block", [])),
]


@pytest.mark.parametrize(("name", "value"), GOOD, ids=str)
def test_declared_values_pass(name, value):
    assert not list(fields.faults(Settings, {name: value}))


@pytest.mark.parametrize(("name", "value"), BAD, ids=shown)
def test_other_values_are_named(name, value):
    ((field, clause),) = fields.faults(Settings, {name: value})
    assert field == name
    assert clause.startswith("is ")
    assert " and must be " in clause
    assert clause.isprintable()
    assert len(clause) < 300


def refusal(make):
    """What is said against it, "fine" where nothing is."""
    try:
        make()
    except InputError as error:
        return str(error)
    return "fine"


@pytest.mark.parametrize("system", finding.builtin())
def test_no_field_of_a_system_takes_what_it_does_not_declare(system):
    """As JSON, as weight files hold it, and in Python: an InputError or a config."""
    module = registry.network(system)
    start = next(iter(module.PRESETS.values()))
    for field in dataclasses.fields(start):
        for value in STRANGE:
            text = json.dumps({**start.to_dict(), field.name: value}, default=str)
            for make in (
                lambda text=text: module.Config.from_dict(json.loads(text)),
                lambda changes={field.name: value}: dataclasses.replace(start, **changes),
            ):
                sentence = refusal(make)
                assert sentence.isprintable(), field.name
                assert len(sentence) < 600, field.name


@pytest.mark.parametrize(
    ("system", "field", "value"),
    [
        ("mgdn", "depths", [100_000, 3]),
        ("mgdn", "depths", [40, 89]),
        ("cddfuse", "blocks", 100_000),
        ("cddfuse", "detail_nodes", 100_000),
        ("cddfuse", "fusion_nodes", 1000),
        ("refusion", "blocks", 43),
    ],
)
def test_blocks_are_counted_before_anything_is_built(system, field, value, monkeypatch):
    preset = registry.list_presets(system)[0]
    with pytest.raises(InputError, match=r"blocks, and at most 128 are allowed.*MGDN_MAX_BLOCKS"):
        registry.preset(system, preset, **{field: value})
    monkeypatch.setenv("MGDN_MAX_BLOCKS", "1000000")
    assert registry.preset(system, preset, **{field: value}).system == system


@pytest.mark.parametrize("network", ["Network", "ReconstructionNetwork"])
def test_parameters_are_counted_before_room_is_made(network):
    config = registry.preset("refusion", "ivf", features=800_000)
    for make in (registry.abstract, registry.graphdef):
        with pytest.raises(InputError, match=r"at most 250,000,000 .*MGDN_MAX_PARAMETERS"):
            make("refusion", config, network)


def test_a_network_is_not_built_beyond_its_weights():
    config = registry.preset("refusion", "ivf", blocks=42)
    with pytest.raises(InputError, match="is larger than its 4 weights"):
        registry.abstract("refusion", config, arrays=4)


def test_limits_come_from_the_environment(monkeypatch):
    limits.check(limits.MOST["blocks"], "blocks", "it")
    monkeypatch.setenv("MGDN_MAX_BLOCKS", "7")
    limits.check(7, "blocks", "it")
    with pytest.raises(InputError, match="it has 8 blocks, and at most 7 are allowed"):
        limits.check(8, "blocks", "it")
    for text in ("-1", "0", "1e9", "many", "9" * 40, "٣"):
        monkeypatch.setenv("MGDN_MAX_BLOCKS", text)
        with pytest.raises(InputError, match="set it to a positive whole number"):
            limits.most("blocks")


def test_configs_from_outside_are_checked_without_their_help():
    @dataclasses.dataclass(frozen=True)
    class Config(SystemConfig):
        width: int = 4

    @dataclasses.dataclass(frozen=True)
    class Careless(Config):
        def __post_init__(self):
            """Checks nothing."""

    for kind in (Config, Careless):
        for value in (HUGE, {}, True, 1.5):
            with pytest.raises(InputError, match="network config: width is "):
                kind.from_dict({"width": value})
    with pytest.raises(InputError, match=r"width is 1\.5 and must be a whole number"):
        Config(width=1.5)
