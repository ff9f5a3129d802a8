"""Where systems are found: folders beside this file, installed packages, dotted names.

A system is a package with the modules ``network``, ``recipe`` and ``conversion`` (and whatever else
it needs), or one module that holds what those three hold:

- ``network``: `Config`, `PRESETS` (name to `Config`) and `Network`;
- ``recipe``: `Recipe`;
- ``conversion``: `RULES` (class of the network to `systems.rules.Rules`) and `PUBLISHED` (preset
  to card entries of published weights); ``{}`` where nothing is published.

Packages elsewhere name themselves by the entry-point group ``mgdn_jax.systems``, or are given by
their dotted name. Nothing of them is imported before their name is asked for. This module imports
nothing heavy.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pkgutil
from collections.abc import Collection
from importlib import metadata
from types import ModuleType

from mgdn_jax.arguments import shown
from mgdn_jax.errors import InputError, nearest

GROUP = "mgdn_jax.systems"
"""Entry-point group in which installed packages name their systems."""
_PACKAGE = "mgdn_jax.systems"


@dataclasses.dataclass(frozen=True)
class System:
    """A system that was found.

    Attributes:
        name: under which it is found again; weight files hold it.
        package: dotted name of its package or module.
        is_package: whether it is a package with a module for each part.
    """

    name: str
    package: str
    is_package: bool

    def part(self, part: str, *members: str) -> ModuleType:
        """The module ``network``, ``recipe`` or ``conversion``, imported.

        Raises:
            InputError: the module is missing, or lacks one of the members.
        """
        path = f"{self.package}.{part}" if self.is_package else self.package
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name != path:
                raise
            raise InputError(
                f"the system {self.name!r} has no module {part!r}; write {path}."
            ) from None
        for member in members:
            if member not in vars(module):
                raise InputError(f"the system {self.name!r} defines no {member}; add it to {path}.")
        return module


def builtin() -> tuple[str, ...]:
    """Names of the systems of this package, sorted."""
    folder = importlib.import_module(_PACKAGE).__path__
    return tuple(sorted(room.name for room in pkgutil.iter_modules(folder) if room.ispkg))


def installed() -> dict[str, str]:
    """Systems of other installed packages, by entry point: name to dotted name.

    A name of ours is not taken by another package's; its dotted name still finds it.
    """
    points = metadata.entry_points(group=GROUP)
    ours = builtin()
    return {point.name: point.value for point in sorted(points) if point.name not in ours}


def list_systems() -> dict[str, str]:
    """All systems that need no dotted name: name to the package that holds it.

    Imports none of them.
    """
    return {name: f"{_PACKAGE}.{name}" for name in builtin()} | installed()


def find(system: str, *, kind: str = "system") -> System:
    """The system of a name; of packages elsewhere the parents alone are imported.

    Args:
        system: a name of `list_systems`, or the dotted name of a package or module.
        kind: what the message calls it: "system" or "recipe".

    Raises:
        InputError: there is none; a near name or all of them are listed.
    """
    if system in builtin():
        return System(system, f"{_PACKAGE}.{system}", True)
    package = installed().get(system, system)
    short = package.removeprefix(f"{_PACKAGE}.")
    if short in builtin():
        return System(short, package, True)
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise InputError(
            f"there is no {kind} {shown(system)}; {nearest(system[:100], list_systems())}, or give"
            " the dotted name of a package that can be imported (its folder may have to be on"
            " PYTHONPATH)"
        )
    return System(package, package, spec.submodule_search_locations is not None)


def check_trust(system: str, trust: bool | str | Collection[str], source: str) -> None:
    """Refuses to run code of packages elsewhere that nobody asked for.

    Args:
        system: name that a file gives.
        trust: True, or the name or names that may be imported.
        source: the file, for the message.

    Raises:
        InputError: the system is not of this package, and not trusted.
    """
    if trust is True or system in builtin():
        return
    names = [trust] if isinstance(trust, str) else [] if trust is False else list(trust)
    if system in names or system in [installed().get(name) for name in names]:
        return
    raise InputError(
        f"{source}: its network is the code of {system!r}, which is no part of mgdn_jax; if you"
        f" trust that module, say so by --trust-system or --system {system} (in Python trust=True)."
    )
