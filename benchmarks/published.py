"""The rows of means that come with the package, for `mgdn eval --beside published`.

    python benchmarks/published.py ANCHORS

Writes mgdn_jax/evaluation/published.csv from the CSV files of rows measured elsewhere. It holds
what the page of quality figures holds of two kinds: figures printed in a paper or a README (two
decimals, taken as they are), and figures of pictures that the authors published, measured with an
equal evaluator. Rules, and published weights that somebody ran again, are left out.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.tables import RANKED, SETS, foreign_of  # noqa: E402
from mgdn_jax.evaluation.summaries import Summary  # noqa: E402
from mgdn_jax.io.disk import write_atomically  # noqa: E402

TARGET = ROOT / "mgdn_jax" / "evaluation" / "published.csv"
COLUMNS = (
    *("EN", "SD", "SF", "AG", "MI", "MSE", "CC", "PSNR", "SCD", "VIF", "Qabf", "SSIM_dr255"),
    *("SSIM_dr2", "NMI", "Q_Y", "Q_CB", "Q_CV", "Nabf", "MS_SSIM"),
)
STORED = {
    "Lytro20": "measured on the pictures stored in xingchenzhang/MFIFB (JPEG of quality {jpeg})",
    "TNO42": "measured on the pictures stored in Linfeng-Tang/Image-Fusion",
}
PRINTED = "printed in the CDDFuse {where}; results were stretched to 0..255 before they were scored"
MATCHED = (
    "measured on the pictures stored in the repository of LKC-FUNet whose sources could be found"
)
EMMA = "read from a picture of EMMA's README (its paper's table 1); how many pairs is not stated"
DIFFERS = (
    "; CDDFuse's own paper prints 7.44, 54.67, 16.36 for its row: not the same pairs, so do not mix"
    " the two tables"
)
_OURS = ("base_", "ReFusion_", "MGDN_", "GIFNet")  # rules, and weights that were run again


def rows_of(anchors: Path) -> Iterator[Summary]:
    """The rows, by data set."""
    for test in SETS.values():
        foreign = foreign_of(test, anchors)
        if test.name in STORED:
            for row in foreign.measured:
                if not row.method.startswith(_OURS):
                    jpeg = 95 if row.method == "IFCNN" else 75
                    yield replace(row, source=STORED[test.name].format(jpeg=jpeg))
        for title, values in foreign.printed.items():
            count = foreign.measured[0].n
            where = title[title.index("(") + 1 : -1].replace(", README", " and its README")
            source = PRINTED.format(where=where)
            yield Summary(test.name, title, count, values, source=source)
    with open(anchors / "lkc_funet_results_means.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["subset"] == "matched":
                values = {name: float(row[name]) for name in RANKED}
                name = f"LKC-FUNet/{row['dataset']}"
                yield Summary(name, "LKC-FUNet", int(row["n"]), values, source=MATCHED)
    yield from _emma(anchors / "emma_defusion_published.csv")


def _emma(path: Path) -> Iterator[Summary]:
    """EMMA's table; the rows copied from CDDFuse's are among those above."""
    rows: dict[tuple[str, str], dict[str, float]] = {}
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["note"] == "read from the picture":
                cells = rows.setdefault((row["set"], row["method"]), {})
                cells[row["metric"]] = float(row["value"])
    for (name, method), values in rows.items():
        source = EMMA + (DIFFERS if name == "RoadScene" else "")
        yield Summary(f"EMMA/{name}", f"{method} (EMMA's paper)", 0, values, source=source)


def main() -> int:
    """Writes the file; returns 0."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["dataset", "method", "n", *COLUMNS, "invalid", "source"])
    for row in rows_of(Path(sys.argv[1])):
        cells = [row.values.get(name, "") for name in COLUMNS]
        invalid = " ".join(f"{name}={count}" for name, count in row.invalid.items())
        writer.writerow([row.dataset, row.method, row.n, *cells, invalid, row.source])
    write_atomically(TARGET, text.getvalue().encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
