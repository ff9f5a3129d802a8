"""The licences of everything that an installation brings along: a page of the site, and a command.

    python .ci/licences.py

Prints the page; `mkdocs build` puts it under "Licences". It is read off the metadata of what is
installed, so what is not installed here has no licence there.
"""

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PAGE = "licences.md"
STATED = {"jax2onnx": "Apache-2.0", "openexr": "BSD-3-Clause"}
"""Licences of packages whose metadata name none, read off the files that they install."""
STAYS = {
    "mkdocs-material": "ends in May 2027, with fixes until then; it builds the site and is no part"
    " of what is installed for use",
    "ml-collections": "seldom released; a `ConfigDict` is a plain container, and train.py's flags"
    " come from it",
    "tensorboardx": "seldom released; it writes event files without TensorFlow, and their format"
    " stands still",
}
"""Why a package stays that is seldom released, or no longer developed."""


class Row(NamedTuple):
    """A distribution: its name, version, licence, and what asks for it."""

    name: str
    version: str
    licence: str
    needed: str


def plain(name: str) -> str:
    """A distribution's name as all spellings of it are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def direct() -> dict[str, str]:
    """Names of direct dependencies to where pyproject.toml lists them: "always", or extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = {"always": project["dependencies"], **project["optional-dependencies"]}
    places: dict[str, list[str]] = {}
    for place, lines in lists.items():
        for line in lines:
            places.setdefault(plain(Requirement(line).name), []).append(place)
    return {name: ", ".join(dict.fromkeys(found)) for name, found in places.items()}


def required(name: str) -> list[str]:
    """What an installed distribution needs on this machine, without its extras."""
    needs = [Requirement(line) for line in metadata.requires(name) or []]
    fits = [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return [plain(need.name) for need in fits]


def licence(name: str) -> str:
    """The licence that a distribution's metadata state, "" where they state none."""
    about = metadata.metadata(name)
    kinds = [entry for entry in about.get_all("Classifier") or [] if entry.startswith("License ::")]
    lines = [line.strip() for line in str(about.get("License") or "").splitlines() if line.strip()]
    named = [line for line in lines[:1] if len(line) < 60]  # some put the whole text there
    expression = about.get("License-Expression")
    if expression:
        return str(expression)
    if kinds and kinds[0].count("::") > 1:
        return kinds[0].split("::")[-1].strip()
    return STATED.get(plain(name)) or "".join(named)


def rows() -> tuple[list[Row], list[Row]]:
    """Direct dependencies, and what these bring along."""
    places = direct()
    askers: dict[str, list[str]] = {name: [] for name in places}
    names = list(places)
    for name in names:  # grows while it is walked through
        try:
            needs = required(name)
        except metadata.PackageNotFoundError:
            continue
        for need in needs:
            if need not in askers:
                names.append(need)
            askers.setdefault(need, []).append(name)
    listed = []
    for name in sorted(askers):
        try:
            version, text = metadata.version(name), licence(name) or "not stated"
        except metadata.PackageNotFoundError:
            version, text = "", "not installed here"
        needed = places.get(name) or ", ".join(sorted(askers[name])[:3])
        listed.append(Row(name, version, text, needed))
    return (
        [row for row in listed if row.name in places],
        [row for row in listed if row.name not in places],
    )


def table(entries: list[Row], title: str) -> list[str]:
    """Lines of a Markdown table."""
    head = [f"| package | version | licence | {title} |", "|---|---|---|---|"]
    return head + [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in entries]


def page() -> str:
    """The whole page."""
    mine, theirs = rows()
    notes = [f"- **{name}**: {reason}." for name, reason in STAYS.items()]
    return "\n".join(
        [
            "# Licences",
            "",
            "`python .ci/licences.py` lists what an installation brings along, read off the"
            " metadata of what is installed. Nothing of it is copied into this package, whose own"
            " licence is Apache-2.0. Weights have theirs on their cards.",
            "",
            *table(mine, "needed"),
            "",
            "What is seldom released or no longer developed, and why it stays:",
            "",
            *notes,
            "",
            "## What these bring along",
            "",
            *table(theirs, "for"),
            "",
        ]
    )


def on_config(config):
    """Puts the page into the navigation of the site."""
    config.nav.append({"Licences": PAGE})


def on_files(files, config):
    """Makes the page."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, PAGE, content=page()))


if __name__ == "__main__":
    sys.stdout.write(page())
