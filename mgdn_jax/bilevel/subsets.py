"""Subsets of a pytree's leaves: the parameters that train, and those that are frozen."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mgdn_jax.errors import InputError

PyTree = Any
Trainable = str | Sequence[str] | Callable[[str], bool] | PyTree | None


def partition(tree: PyTree, trainable: Trainable = None) -> tuple[PyTree, PyTree]:
    """Splits a pytree in two: the leaves that train and the frozen ones.

    Both parts have the structure of the whole, with None in place of the other part's leaves.

    Args:
        tree: parameters.
        trainable: regular expressions (a leaf trains when one of them matches somewhere in its
            path, the keys joined by "/"; one string is one expression), a predicate over such
            paths, or a pytree of booleans of the same structure. None takes every leaf. Leaves
            that are not floating-point never train.

    Returns:
        `(trained, frozen)`, which `combine` puts together again.

    Raises:
        InputError: nothing is selected, an expression matches no path, or the mask does not fit.
    """
    keyed, treedef = jax.tree_util.tree_flatten_with_path(tree)
    structure: Any = treedef
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in keyed]
    selected = _selected(paths, structure, trainable)
    chosen = [
        flag and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
        for flag, (_, leaf) in zip(selected, keyed, strict=True)
    ]
    if not any(chosen):
        raise InputError(f"trainable selects none of the inner parameters; {_examples(paths)}.")
    pairs = [(leaf, c) for (_, leaf), c in zip(keyed, chosen, strict=True)]
    trained = [leaf if c else None for leaf, c in pairs]
    frozen = [None if c else leaf for leaf, c in pairs]
    return structure.unflatten(trained), structure.unflatten(frozen)


def _examples(paths: list[str]) -> str:
    return "their paths look like " + ", ".join(map(repr, paths[:3]))


def _selected(paths: list[str], structure: Any, trainable: Trainable) -> list[bool]:
    """Whether `trainable` takes each leaf; `structure` is that of the whole tree."""
    if trainable is None:
        return [True] * len(paths)
    if callable(trainable):
        return [bool(trainable(path)) for path in paths]
    expressions = [trainable] if isinstance(trainable, str) else trainable
    if isinstance(expressions, list | tuple) and all(isinstance(e, str) for e in expressions):
        for expression in expressions:
            if not any(re.search(expression, path) for path in paths):
                missed = f"trainable: {expression!r} fits no inner parameter"
                raise InputError(f"{missed}; {_examples(paths)}.")
        return [any(re.search(e, path) for e in expressions) for path in paths]
    flags, mask_structure = jax.tree.flatten(trainable)
    if mask_structure != structure:
        raise InputError(
            "trainable must be regular expressions, a predicate over paths, or booleans in the "
            "structure of the inner parameters."
        )
    return [bool(flag) for flag in flags]


def combine(trained: PyTree, frozen: PyTree) -> PyTree:
    """Puts the two parts of `partition` together again."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, trained, frozen, is_leaf=lambda x: x is None
    )
