"""Names of a package that are looked up on first use: importing it imports nothing heavy."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def attach(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    Args:
        package: its dotted name.
        homes: module below it to the names it defines; "" for modules that are names themselves.
            ``"name=other"`` hands on `other` as `name`.
    """
    places: dict[str, tuple[str, str]] = {}
    for home, names in homes.items():
        for entry in names:
            name, _, original = entry.partition("=")
            places[name] = (home, original or name)

    def lookup(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home, original = places[name]
        if not home:
            return importlib.import_module(f"{package}.{name}")
        return getattr(importlib.import_module(f"{package}.{home}"), original)

    def listing() -> list[str]:
        return sorted(places)

    return lookup, listing, sorted(places)
