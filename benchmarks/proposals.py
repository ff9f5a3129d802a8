"""Which tasks `mgdn demo` proposes for pairs whose task is known.

    python benchmarks/proposals.py thermal=data/tno25/ir,data/tno25/vi focus=near,far ...

Folders are matched by file name. Printed are, for each pair of folders, the proposals and their
numbers; `open` counts the pairs for which the page would ask.
"""

from __future__ import annotations

import collections
import sys

from mgdn_jax.io import files
from mgdn_jax.io.pairing import pair_folders
from mgdn_jax.serving.demo.proposal import propose


def main(words: list[str]) -> None:
    """Prints a row for each word, TASK=DIR,DIR."""
    for word in words:
        task, _, folders = word.partition("=")
        counts: collections.Counter[str] = collections.Counter()
        for paths in pair_folders(folders.split(",")).groups.values():
            found = propose([files.read_picture(path) for path in paths])
            counts["open" if found is None else found.name] += 1
        rows = ", ".join(f"{name} {count}" for name, count in counts.most_common())
        print(f"{task:<10}{folders}: {rows}")


if __name__ == "__main__":
    main(sys.argv[1:])
