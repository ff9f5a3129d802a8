"""Signatures of the package are checked at each call while tests run: types, and shapes of arrays.

Children of tests are not checked: they are what users run.
"""

from collections.abc import Callable
from typing import Any, Self

import beartype
import jaxtyping

# An int will do for a float, as for static checkers.
_CHECK = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def install() -> None:
    """Before anything imports the package."""
    jaxtyping.install_import_hook("mgdn_jax", f"{__name__}.checked")


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`Self` is left to static checkers: methods are decorated one by one, without their class."""
    for name, hint in function.__annotations__.items():
        if hint in (Self, "Self"):
            function.__annotations__[name] = Any
    return _CHECK(function)
