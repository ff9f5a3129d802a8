"""Data: TFDS builders, synthesis of multi-focus pairs, paired transforms, Grain loaders."""

from mgdn_jax.data.augment import augment
from mgdn_jax.data.builders import (
    SETS,
    FolderPairs,
    FolderPairsWithTarget,
    SegmentedNatural,
    data_root,
    find_pair_folders,
    is_prepared,
    open_set,
    prepare,
)
from mgdn_jax.data.loader import TASKS, EvalLoader, Loader, make_eval_loader, make_loader
from mgdn_jax.data.multifocus import Synthesis, synthesise_multifocus

__all__ = [
    "SETS",
    "TASKS",
    "EvalLoader",
    "FolderPairs",
    "FolderPairsWithTarget",
    "Loader",
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
    "synthesise_multifocus",
]
