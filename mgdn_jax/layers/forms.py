"""Which form of a network is traced: the quickest on this machine, or one that travels.

Layers take their forms by the sizes of maps and by the platform. A program for pictures of any size
has symbols in place of sizes, so that nothing may branch on them; and a converter to another format
knows neither JAX's choice by platform nor all of its operations. One switch says which it is:

    with forms.traced("symbolic"):
        jax.export.export(...)

It is a part of the key of every cache of traced functions, so that no program of one form is taken
for one of another.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax import lax

FORMS = ("quick", "compact", "symbolic", "plain")
"""How networks are traced.

- ``"quick"``: by sizes and by platform, as always but for an export.
- ``"compact"``: likewise, but what depends on sizes alone is worked out in the program, in place of
  constants that grow with the picture.
- ``"symbolic"``: sizes may be symbols; maps are taken whole, whatever their size. The platform
  still chooses where both forms take any size.
- ``"plain"``: sizes may be symbols, and nothing is chosen by platform: the forms of accelerators,
  in operations that converters to other formats know.

All but the first are compact.
"""

_form = jax.make_user_context("quick")


def traced(form: str) -> AbstractContextManager:
    """Everything that is traced in this context takes one form.

    Args:
        form: of `FORMS`.

    Raises:
        ValueError: there is no such form.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    return _form(form)


def are_whole() -> bool:
    """Whether maps are taken whole and their sizes may be symbols, on which nothing may branch."""
    return _form.value in ("symbolic", "plain")


def are_compact() -> bool:
    """Whether what depends on sizes alone is worked out in the program."""
    return _form.value != "quick"


def are_plain() -> bool:
    """Whether a converter to another format reads the program."""
    return _form.value == "plain"


def has_symbols(sizes: Sequence[Any]) -> bool:
    """Whether a size is no number, but a symbol of a program for any size."""
    return not all(isinstance(size, int) for size in sizes)


def by_platform(*operands: Any, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """What the form for the target platform makes of the operands; both must make the same.

    The target is known when the program is lowered, not when it is traced.

    Args:
        *operands: trees of arrays.
        cpu: the form of CPUs.
        default: the form of everything else, and of other formats than JAX's.
    """
    if are_plain():
        return default(*operands)
    return lax.platform_dependent(*operands, cpu=cpu, default=default)
