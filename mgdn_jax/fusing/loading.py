"""A `Fuser` from a bundled name or from a weight file."""

import os
from collections.abc import Collection

from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.systems import finding, registry
from mgdn_jax.weights import zoo
from mgdn_jax.weights.store import load_weights


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
    path = zoo.resolve(name_or_path)
    weights = load_weights(path)
    if system is None:
        finding.check_trust(weights.system, trust, str(path))
        system = weights.system
    system = finding.find(system).name
    config = registry.network(system).Config.from_dict(weights.config)
    return Fuser(system, config, weights.params, weights.stats, weights.card)
