"""A network that does not keep the contract is told so before a run, in one sentence."""

import dataclasses
import sys
import types
from typing import ClassVar

import jax.numpy as jnp
import pytest
from flax import nnx

from mgdn_jax.errors import InputError
from mgdn_jax.systems import finding, registry
from mgdn_jax.systems.checks import check_network
from mgdn_jax.systems.config import SystemConfig


@dataclasses.dataclass(frozen=True)
class Config(SystemConfig):
    system: ClassVar[str] = "odd"

    in_channels: tuple[int, ...] = (1, 1)
    out_channels: int = 1


class Network(nnx.Module):
    takes = frozenset()

    def __init__(self, config, *, rngs):
        del config, rngs
        self.gain = nnx.Param(jnp.ones((1, 1, 1, 1)))

    def __call__(self, a, b):
        return self.gain[...] * (a + b) / 2, {}


@pytest.fixture
def odd(monkeypatch, request):
    """A module that is a system, with what a test changes of it."""

    def make(network=Network, config=Config):
        name = f"odd_{abs(hash(request.node.name))}"
        module = types.ModuleType(name)
        module.__spec__ = types.SimpleNamespace(submodule_search_locations=None)
        vars(module).update(Network=network, Config=config, PRESETS={"plain": config()})
        monkeypatch.setitem(sys.modules, name, module)
        check_network(name, config())

    return make


def variant(**members):
    return type("Network", (Network,), members)


def test_what_keeps_the_contract_passes(odd):
    odd()


@pytest.mark.parametrize("system", finding.builtin())
def test_the_systems_here_pass(system):
    check_network(system, next(iter(registry.network(system).PRESETS.values())))


BAD = {
    "picture alone": ({"__call__": lambda self, a, b: self.gain[...] * a}, r"no \(fused, aux\)"),
    "no dictionary": ({"__call__": lambda self, a, b: (a, b)}, r"no \(fused, aux\)"),
    "shape": ({"__call__": lambda self, a, b: (a[:, ::2], {})}, "out_channels says"),
    "unknown ability": ({"takes": frozenset({"extend"})}, "did you mean 'extent'"),
    "a list": ({"takes": ["extent"]}, "make it a frozenset"),
    "extent": ({"takes": frozenset({"extent"})}, "says that it takes 'extent', and its call"),
    "context": ({"takes": frozenset({"context"})}, "says that it takes 'context', and its call"),
}


@pytest.mark.parametrize("fault", BAD)
def test_faults_of_a_network(odd, fault):
    members, message = BAD[fault]
    with pytest.raises(InputError, match=message):
        odd(variant(**members))


def test_a_network_that_does_not_say_what_it_takes(odd):
    class Silent(nnx.Module):
        def __init__(self, config, *, rngs):
            self.gain = nnx.Param(jnp.ones(1))

        def __call__(self, a, b):
            return a, {}

    with pytest.raises(InputError, match=r"add takes = frozenset\(\)"):
        odd(Silent)


def test_faults_of_a_config(odd):
    @dataclasses.dataclass(frozen=True)
    class Blind(SystemConfig):
        features: int = 3

    with pytest.raises(InputError, match="has no field in_channels; add it"):
        odd(config=Blind)

    class Loose:
        in_channels, out_channels = (1, 1), 1

    with pytest.raises(InputError, match="no frozen dataclass"):
        odd(config=Loose)
