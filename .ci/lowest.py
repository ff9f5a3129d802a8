"""Prints a pip constraint for the lowest version of each dependency that pyproject.toml allows.

`python .ci/lowest.py [EXTRA ...] > lowest.txt && pip install -r lowest.txt && pip install -e . --no-deps`
"""

import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).parent.parent


def lowest(requirement: str) -> str:
    """``name==bound`` of a requirement ``name>=bound[,<other]``."""
    found = re.fullmatch(r"([\w.-]+(?:\[[\w,-]+\])?)>=([\w.]+)(?:,\s*<[\w.]+)?", requirement.replace(" ", ""))
    if found is None:
        raise SystemExit(f"pyproject.toml: {requirement!r} has no lower bound; write name>=version.")
    return f"{found[1]}=={found[2]}"


def main(extras: list[str]) -> None:
    """Prints the lines for the project's own dependencies and those of the extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = list(project["dependencies"])
    for extra in extras:
        required += project["optional-dependencies"][extra]
    print("\n".join(map(lowest, required)))


if __name__ == "__main__":
    main(sys.argv[1:])
