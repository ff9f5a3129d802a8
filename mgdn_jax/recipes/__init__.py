"""How each system is trained: networks, phases, losses, and which network ships."""

import dataclasses
import importlib
from types import ModuleType

from mgdn_jax.errors import InputError

RECIPES = {"mgdn": "mgdn_jax.recipes.mgdn"}


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training.

    Attributes:
        name: passed to the recipe's ``loss``.
        trains: networks that are updated.
        share: part of the whole duration, the shares of all phases sum to 1.
    """

    name: str
    trains: tuple[str, ...]
    share: float = 1.0


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
