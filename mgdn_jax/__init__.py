"""Image fusion in JAX and Flax: train, evaluate, convert and run.

>>> import mgdn_jax
>>> fuse = mgdn_jax.load("mgdn-mff")            # doctest: +SKIP
>>> fused = fuse("near.jpg", "far.jpg")         # doctest: +SKIP

Importing this package imports nothing heavy; the names below are looked up on first use.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mgdn_jax import data, metrics, training
    from mgdn_jax.api import convert, create, evaluate, fuse_folders, list_models, load
    from mgdn_jax.errors import InputError
    from mgdn_jax.fuser import Fuser

__all__ = [
    "Fuser",
    "InputError",
    "convert",
    "create",
    "data",
    "evaluate",
    "fuse_folders",
    "list_models",
    "load",
    "metrics",
    "training",
]

_HOMES = {"Fuser": "fuser", "InputError": "errors"}
_ROOMS = ("data", "metrics", "training")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'mgdn_jax' has no attribute {name!r}")
    import importlib

    if name in _ROOMS:
        return importlib.import_module(f"mgdn_jax.{name}")
    return getattr(importlib.import_module(f"mgdn_jax.{_HOMES.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
