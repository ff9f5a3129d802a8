"""A `Fuser` from a bundled name or from a weight file."""

import dataclasses
import os
from collections.abc import Collection

from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.systems import finding, registry
from mgdn_jax.weights import zoo
from mgdn_jax.weights.store import Weights, load_weights


def load(
    name_or_path: str | os.PathLike[str] = zoo.DEFAULT,
    *,
    system: str | None = None,
    trust: bool | str | Collection[str] = False,
) -> Fuser:
    """A bundled network by name, or the network in a weight file.

    Args:
        name_or_path: e.g. ``"mgdn-mff"`` (see `list_models`), or a ``.safetensors`` file that
            `convert` or a training run wrote.
        system: whose network it is, in place of the name in the file. Naming a module of another
            package means that its code may run.
        trust: where the file names a module outside mgdn_jax: True, or the names of modules, whose
            code may run. It must be installed or lie on the path; nothing is fetched.

    Raises:
        InputError: unknown name, missing, truncated or foreign file, a system outside mgdn_jax
            that is not trusted, or weights that do not fit the configuration stored with them.
    """
    return bind(read(name_or_path, system=system, trust=trust))


def read(
    name_or_path: str | os.PathLike[str] = zoo.DEFAULT,
    *,
    system: str | None = None,
    trust: bool | str | Collection[str] = False,
) -> Weights:
    """The weights of `load`, before they are bound to a network: no device is touched.

    Args:
        name_or_path: as in `load`.
        system: as in `load`.
        trust: as in `load`.

    Raises:
        InputError: as `load`.
    """
    path = zoo.resolve(name_or_path)
    weights = load_weights(path)
    if system is None:
        finding.check_trust(weights.system, trust, str(path))
        system = weights.system
    return dataclasses.replace(weights, system=finding.find(system).name)


def bind(weights: Weights) -> Fuser:
    """The network of weights that `read` returned, here or in another process.

    Args:
        weights: whose system is trusted.

    Raises:
        InputError: as `load`.
    """
    config = registry.network(weights.system).Config.from_dict(weights.config)
    return Fuser(weights.system, config, weights.params, weights.stats, weights.card)
