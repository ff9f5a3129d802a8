"""What every system promises, whichever folders there are: a new one is tested by being there."""

import importlib
import inspect

import jax
import numpy as np
import pytest

from mgdn_jax.errors import InputError
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.systems import contract, finding, registry
from mgdn_jax.systems.config import SystemConfig
from mgdn_jax.systems.rules import KINDS

SYSTEMS = finding.builtin()
KEYWORDS = {contract.CONTEXT: {"context", "pixel_weights"}, contract.EXTENT: {"extent"}}


def small(system):
    """The network of the config's preset for tests, or the preset with the fewest parameters."""
    configs = importlib.import_module(f"configs.{system}")
    if "smoke" in configs.PRESETS:
        fields = configs.get_config("smoke").model.to_dict()
        fields.pop("system", None)
        name = fields.pop("preset", "") or registry.list_presets(system)[0]
        return registry.preset(system, name, **fields)
    presets = registry.network(system).PRESETS.values()
    usual = [c for c in presets if set(c.in_channels) <= {1, 3} and c.out_channels in (1, 3)]
    sizes = [registry.count_parameters(registry.abstract(system, config)[1]) for config in usual]
    return usual[int(np.argmin(sizes))]


@pytest.mark.parametrize("system", SYSTEMS)
def test_configurations_go_through_json(system):
    module = registry.network(system)
    assert issubclass(module.Config, SystemConfig)
    assert module.Config.system == system
    assert registry.list_presets(system) == tuple(module.PRESETS)
    for config in module.PRESETS.values():
        assert module.Config.from_dict(config.to_dict()) == config
        assert hash(config) == hash(module.Config.from_dict(config.to_dict()))
        assert config.grid >= 1
        assert type(config.for_use()) is type(config) is type(config.for_training(1e-3))
    with pytest.raises(InputError, match=f"{system} config has no field 'fieldz'"):
        module.Config.from_dict({"fieldz": 1})


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_network_takes_what_it_says(system):
    network = registry.network(system).Network
    assert isinstance(network.takes, frozenset)
    assert network.takes <= contract.ABILITIES.keys()
    parameters = inspect.signature(network.__call__).parameters
    for ability, keywords in KEYWORDS.items():
        assert (ability in network.takes) == (keywords <= set(parameters)), ability


@pytest.mark.parametrize("system", SYSTEMS)
def test_shapes_are_known_before_anything_is_drawn(system, monkeypatch):
    config = small(system)
    with monkeypatch.context() as patch:
        # JAX answers with the value's whole history: outlining would grow with its square.
        patch.setattr(jax.core.Tracer, "sharding", property(lambda self: pytest.fail("asked")))
        graphdef, shapes, moments = registry.abstract(system, config)
    drawn, params, stats = registry.initialise(system, config, jax.random.key(0))
    assert graphdef == drawn
    for wanted, made in ((shapes, params), (moments, stats)):
        assert {k: (v.shape, v.dtype) for k, v in wanted.items()} == {
            k: (v.shape, v.dtype) for k, v in made.items()
        }


@pytest.mark.parametrize("system", SYSTEMS)
def test_pictures_of_any_size_are_fused(system):
    config = small(system)
    _, params, stats = registry.initialise(system, config, jax.random.key(1))
    fuse = Fuser(system, config, params, stats)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (17, 22, 3), np.uint8) for _ in config.in_channels]
    fused = fuse(*pictures)
    assert (fused.shape, fused.dtype) == ((17, 22, 3), np.uint8)
    assert np.ptp(fused) > 0
    gray = fuse(*(x[..., 0] for x in pictures))
    assert gray.shape == (17, 22)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_recipe_keeps_the_contract(system):
    kind = registry.recipe(system)
    recipe = kind({})
    assert recipe.system == system
    assert isinstance(recipe.model_config, registry.network(system).Config)
    assert set(recipe.networks) >= {name for phase in recipe.phases for name in phase.trains}
    assert sum(phase.share for phase in recipe.phases) == pytest.approx(1.0)
    params, stats = jax.eval_shape(recipe.init, jax.random.key(0))
    assert params.keys() == stats.keys() == set(recipe.networks)
    # What ships is the system's network, and comes apart again.
    joined, moments = recipe.join(params, stats)
    _, wanted, wanted_moments = registry.abstract(system, recipe.model_config)
    assert {k: v.shape for k, v in joined.items()} == {k: v.shape for k, v in wanted.items()}
    assert moments.keys() == wanted_moments.keys()
    parts, _ = recipe.part(joined, moments)
    assert set(parts) <= set(recipe.networks)
    assert all(parts[name].keys() == params[name].keys() for name in parts)
    with pytest.raises(InputError, match=r"config has no field 'recipe\.fieldz'"):
        kind({}, fieldz=1)


@pytest.mark.parametrize("system", SYSTEMS)
def test_tables_of_names_are_readable(system):
    module = registry.conversion(system)
    assert set(module.PUBLISHED) <= set(registry.list_presets(system))
    for network, rules in module.RULES.items():
        assert network in vars(registry.network(system))
        assert all(kind in KINDS for _, _, kind in rules.modules)
