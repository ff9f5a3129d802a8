"""Module paths of the release before this one, which go on working with a warning until the next.

`import mgdn_jax.files` and `from mgdn_jax import files` give a module that hands on the names from
where they live now.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

# Old module -> the modules that its names went to, below mgdn_jax.
HOMES: dict[str, tuple[str, ...]] = {
    "album": ("evaluation.album",),
    "api": (
        *("fusing.loading", "fusing.folders", "weights.zoo", "systems.registry"),
        *("weights.conversion", "evaluation.methods"),
    ),
    "baselines": ("evaluation.baselines",),
    "checkpoint": ("weights.store", "training.checkpoints"),
    "codec": ("io.codec",),
    "comparison": ("evaluation.comparison",),
    "conversion": ("weights.conversion", "systems.rules"),
    "disk": ("io.disk",),
    "files": ("io.files", "io.pairing", "io.pixels"),
    "fuser": ("fusing.fuser", "fusing.tiling", "fusing.options"),
    "logs": ("training.logs", "weights.card"),
    "models": ("systems.registry",),
    "models.cddfuse": ("systems.cddfuse.network",),
    "models.lkc_funet": ("systems.lkc_funet.network",),
    "models.mgdn": ("systems.mgdn.network",),
    "models.refusion": ("systems.refusion.network",),
    "optimisers": ("training.optimisers", "bilevel.transforms"),
    "processes": ("training.processes",),
    "recipes": ("systems.contract", "systems.registry"),
    "recipes.cddfuse": ("systems.cddfuse.recipe",),
    "recipes.lkc_funet": ("systems.lkc_funet.recipe",),
    "recipes.mgdn": ("systems.mgdn.recipe",),
    "recipes.refusion": ("systems.refusion.recipe", "systems.refusion.judges"),
    "rendering": ("fusing.rendering", "fusing.options"),
    "report": ("evaluation.report",),
    "runs": ("training.config", "training.plan"),
    "scores": ("evaluation.scores", "evaluation.summaries", "evaluation.terminal"),
    "steps": ("training.state", "training.step", "training.meta_step", "training.optimisers"),
    "stream": ("fusing.stream",),
    "subsets": ("bilevel.subsets",),
    "tiling": ("fusing.tiling",),
    "zoo": ("weights.zoo",),
}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes the old modules; asked last, after everything that exists."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, old = fullname.partition(".")
        if package != "mgdn_jax" or old not in HOMES:
            return None
        has_children = any(name.startswith(old + ".") for name in HOMES)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=has_children)

    def exec_module(self, module: ModuleType) -> None:
        homes = HOMES[module.__name__.removeprefix("mgdn_jax.")]
        warnings.warn(
            f"{module.__name__} is now {' and '.join(f'mgdn_jax.{home}' for home in homes)};"
            " the old name goes with the next release",
            DeprecationWarning,
            stacklevel=2,
        )

        def lookup(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            for home in homes:
                place = importlib.import_module(f"mgdn_jax.{home}")
                if name in vars(place):
                    return vars(place)[name]
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__getattr__ = lookup  # type: ignore[method-assign]


def install() -> None:
    """Lets Python find the old modules; does nothing the second time."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
