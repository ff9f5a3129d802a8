"""Prints the lowest version of each dependency that pyproject.toml allows, a line each for pip.

`python .ci/lowest.py [NAME ...]`: the project's own dependencies, and those of its extras that are
named.
"""

import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).parent.parent


def lowest(requirement: str) -> str:
    """``name==bound`` of a requirement ``name>=bound[,<other]``."""
    form = r"([\w.-]+(?:\[[\w,-]+\])?)>=([\w.]+)(?:,<[\w.]+)?"
    parts = re.fullmatch(form, requirement.replace(" ", ""))
    if parts is None:
        raise SystemExit(f"pyproject.toml: write {requirement!r} as name>=version.")
    return f"{parts[1]}=={parts[2]}"


def main(names: list[str]) -> None:
    """Prints the lines."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = [lowest(requirement) for requirement in project["dependencies"]]
    extras = {
        line.split("==")[0]: line
        for requirements in project["optional-dependencies"].values()
        for line in map(lowest, requirements)
    }
    for name in names:
        if name not in extras:
            raise SystemExit(f"{name} is in no extra of pyproject.toml.")
        pinned.append(extras[name])
    print("\n".join(pinned))


if __name__ == "__main__":
    main(sys.argv[1:])
