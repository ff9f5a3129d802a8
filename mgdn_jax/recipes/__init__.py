"""How each system is trained: networks, phases, losses, and which network ships."""

import dataclasses
import importlib
from types import ModuleType

import optax

from mgdn_jax import bilevel
from mgdn_jax.errors import InputError

RECIPES = {
    "mgdn": "mgdn_jax.recipes.mgdn",
    "cddfuse": "mgdn_jax.recipes.cddfuse",
    "lkc_funet": "mgdn_jax.recipes.lkc_funet",
    "refusion": "mgdn_jax.recipes.refusion",
}
KINDS = ("plain", "meta")


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training.

    Attributes:
        name: passed to the recipe's ``loss``.
        trains: networks that are updated.
        share: part of the whole duration, the shares of all phases sum to 1.
        kind: ``"plain"`` descends the recipe's ``loss``; ``"meta"`` learns the loss as well
            (`mgdn_jax.steps.make_meta_step`), which asks more of the recipe.
    """

    name: str
    trains: tuple[str, ...]
    share: float = 1.0
    kind: str = "plain"


@dataclasses.dataclass(frozen=True)
class Meta:
    """How a loss is learned: attribute ``meta`` of a recipe with a phase of kind ``"meta"``.

    Attributes:
        inner: network the learned loss trains (theta).
        learns: network that makes the loss (phi), ``""`` if nothing is learned.
        auxiliary: network the outer loss needs fitted (psi), ``""`` for none.
        optimiser: inner optimiser at a learning rate of 1.
        rate: inner learning rate; 0 takes the current one of the inner network.
        steps: inner steps K.
        mode: one of `bilevel.MODES`.
        every: one meta-gradient in so many training steps.
        after: part of the run, in [0, 1), before which there is none.
        trainable: expressions for the inner parameters that the inner steps adapt; None for all.
        auxiliary_optimiser: of the temporary psi', at a learning rate of 1.
        auxiliary_steps: updates from psi to psi'.
        difference: of the mode ``"mixed_difference"``.
        solver: of the mode ``"implicit"``.
    """

    inner: str
    learns: str
    auxiliary: str
    optimiser: optax.GradientTransformation
    rate: float = 0.0
    steps: int = 1
    mode: str = "unrolled"
    every: int = 1
    after: float = 0.0
    trainable: tuple[str, ...] | None = None
    auxiliary_optimiser: optax.GradientTransformation = dataclasses.field(
        default_factory=lambda: optax.sgd(1.0)
    )
    auxiliary_steps: int = 1
    difference: float = 0.01
    solver: bilevel.Solver | None = None


def get(name: str) -> ModuleType:
    """Module with a `Recipe` class: a name of ours, or the dotted path of a module of yours.

    Raises:
        InputError: neither is found.
    """
    path = RECIPES.get(name, name)
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is not None and path.startswith(error.name):
            raise InputError(
                f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)} or give the"
                " dotted path of a module that can be imported"
            ) from None
        raise
    if not hasattr(module, "Recipe"):
        raise InputError(f"the recipe module {path!r} defines no class Recipe")
    return module


def load(path: str, field: str, known: tuple[str, ...]) -> object:
    """What a dotted path names, ``package.module.attribute``.

    Args:
        path: the dotted path.
        field: of the config it comes from, for the message.
        known: names that need no path, for the message.

    Raises:
        InputError: nothing is there.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise InputError(
            f"{field} is {path!r}; choose one of {', '.join(known)} or give the dotted path of a"
            " callable that can be imported"
        ) from None
