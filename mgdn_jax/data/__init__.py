"""Data: TFDS builders, synthesis of pairs, paired transforms, Grain loaders.

The names are looked up on first use: most of them bring TFDS and Grain, which take seconds.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mgdn_jax.data.augmentation import Jitter, augment
    from mgdn_jax.data.brackets import Brackets, synthesise_bracket
    from mgdn_jax.data.builders import (
        FolderPairs,
        FolderPairsWithTarget,
        PhotographsWithDepth,
        SegmentedNatural,
        open_set,
        prepare,
    )
    from mgdn_jax.data.examples import TASKS
    from mgdn_jax.data.folders import SETS, data_root, find_pair_folders, is_prepared
    from mgdn_jax.data.loader import EvalLoader, Loader, make_eval_loader, make_loader
    from mgdn_jax.data.multiexposure import Exposures, synthesise_multiexposure
    from mgdn_jax.data.multifocus import Synthesis, synthesise_multifocus

_HOMES = {
    "augmentation": ("Jitter", "augment"),
    "brackets": ("Brackets", "synthesise_bracket"),
    "builders": (
        *("FolderPairs", "FolderPairsWithTarget", "PhotographsWithDepth", "SegmentedNatural"),
        *("open_set", "prepare"),
    ),
    "examples": ("TASKS",),
    "folders": ("SETS", "data_root", "find_pair_folders", "is_prepared"),
    "loader": ("EvalLoader", "Loader", "make_eval_loader", "make_loader"),
    "multiexposure": ("Exposures", "synthesise_multiexposure"),
    "multifocus": ("Synthesis", "synthesise_multifocus"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "SETS",
    "TASKS",
    "Brackets",
    "EvalLoader",
    "Exposures",
    "FolderPairs",
    "FolderPairsWithTarget",
    "Jitter",
    "Loader",
    "PhotographsWithDepth",
    "SegmentedNatural",
    "Synthesis",
    "augment",
    "data_root",
    "find_pair_folders",
    "is_prepared",
    "make_eval_loader",
    "make_loader",
    "open_set",
    "prepare",
    "synthesise_bracket",
    "synthesise_multiexposure",
    "synthesise_multifocus",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mgdn_jax.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mgdn_jax.data.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
