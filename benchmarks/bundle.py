"""Puts a run's weights into the package, with what was measured on them.

    python benchmarks/bundle.py runs/mff/mgdn-mff.safetensors --card
    python benchmarks/tables.py --data DATA --set Lytro20 --model runs/mff/mgdn-mff.safetensors \
        --csv ours.csv
    python benchmarks/bundle.py runs/mff/mgdn-mff.safetensors --figures ours.csv --anchors FOLDER
    python benchmarks/bundle.py runs/hdr/mgdn-hdr.safetensors --figures docs/benchmarks/hdr.csv

The tensors are copied bit for bit, or as float16 with ``--half`` (then every time). The card gains
task, inputs, data, what is done with pictures before and after, and the figures of the model's own
rows, beside those of other methods. Networks for depth and for radiance take the CSV of depth.py
and of hdr.py, in which their rows begin with their name, and printed figures beside it. With
``--card`` the weights get their card where they lie, so that they are measured as they will be
used. ``--again`` writes the words of notes.py anew onto bundled weights, whose tensors, figures and
tables stay. Nothing is chosen here: one run, one file.
"""

import argparse
import csv
import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.notes import NOTES  # noqa: E402
from mgdn_jax.evaluation.scores import MEAN  # noqa: E402
from mgdn_jax.evaluation.summaries import read_summaries  # noqa: E402
from mgdn_jax.weights.card import card_text  # noqa: E402
from mgdn_jax.weights.store import load_weights, save_weights  # noqa: E402

SHOWN = ("EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM_dr255")


def described(weights: Any, remarks: list[str]) -> dict[str, Any]:
    """The run's card with what `NOTES` says."""
    name = weights.card["name"]
    notes = dict(NOTES[name])
    notes["trained_on"] = notes["trained_on"].format(**weights.card["training"])
    card = {"name": name, **notes, **{k: v for k, v in weights.card.items() if k not in notes}}
    card.pop("figures", None)
    card["training"] = card["training"] | {"command": portable(card["training"]["command"])}
    if init := card.get("config", {}).get("train", {}).get("init"):
        started = {"train": card["config"]["train"] | {"init": portable(init)}}
        card["config"] = card["config"] | started
    if remarks:
        card["remarks"] = remarks
    return card


def portable(command: str) -> str:
    """A command whose paths are given from the repository's root, runs below `runs`.

    Where files lie on this machine is nobody's business.
    """

    def below_runs(found: re.Match[str]) -> str:
        path = Path(found[0])
        if path.name == "train.py":  # of another copy of the repository, which may be at work
            return path.name
        if path.parent.name == "configs":
            return f"configs/{path.name}"
        return "/".join(("runs", *path.parts[-2 if path.suffix else -1 :]))

    return re.sub(r"(?<![\w.])/\S+", below_runs, command.replace(f"{ROOT}/", ""))


def tabled(name: str, figures: Path, anchors: Path | None) -> tuple[dict[str, Any], str]:
    """(the model's own figures by set, a table for each set with the rows beside them)."""
    rows = read_summaries(figures)
    foreign = [] if anchors is None else [r for p in anchors.glob("*.csv") for r in _readable(p)]
    own, text = {}, ""
    for dataset in dict.fromkeys(row.dataset for row in rows if row.method == name):
        here = {row.method: row.values for row in rows if row.dataset == dataset}
        shown = [*SHOWN, *(k for k in ("MEF_SSIM",) if k in here[name])]
        own[dataset] = {key: round(here[name][key], 4) for key in shown}
        others = {
            row.method: row.values
            for row in foreign
            if row.dataset == dataset and row.method.startswith(("ReFusion_", "MGDN_"))
        }
        others |= {m: v for m, v in here.items() if m != name}  # measured beside it: they win
        others = {m: v for m, v in others.items() if "+jpeg" not in m}
        text += f"\n## {dataset}, lossless results, on luminance\n\n"
        text += "| | " + " | ".join(shown) + " |\n|---" + "|---" * len(shown) + "|\n"
        for method, scores in {name: here[name], **others}.items():
            text += f"| {method} | " + " | ".join(f"{scores[k]:.4f}" for k in shown) + " |\n"
    text += (
        "\nMade by benchmarks/tables.py; rows named ReFusion_ and MGDN_ are the published weights,"
        " from the same run where docs/benchmarks/quality.csv has them, else measured elsewhere.\n"
    )
    return own, text


def tabled_depth(
    name: str, scale: int, figures: Path, published: Path
) -> tuple[dict[str, Any], str]:
    """As `tabled`, of a network that enlarges depth by a scale."""
    rows = [row for row in _lines(figures) if row[f"x{scale}"]]
    printed = [row for row in _lines(published) if row[f"x{scale}"]]
    own, text = {}, ""
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        here = [row for row in rows if row["dataset"] == dataset]
        metric = here[0]["metric"]
        mine = next(row for row in here if name.startswith(row["method"]))
        own[dataset] = {metric: round(float(mine[f"x{scale}"]), 4)}
        text += f"\n## {dataset}, {scale}x, {metric} ({mine['n']} pictures)\n\n"
        text += "| | | |\n|---|---|---|\n"
        for row in [mine, *(row for row in here if row is not mine)]:
            text += f"| {row['method']} | {float(row[f'x{scale}']):.3f} | |\n"
        for row in (row for row in printed if row["dataset"] == dataset):
            cells = (row["method"], row[f"x{scale}"], f"printed, {row['n']}: {row['source']}")
            text += "| " + " | ".join(cells) + " |\n"
    return own, text + "\nMade by benchmarks/depth.py; the rules do not learn.\n"


def tabled_radiance(name: str, figures: Path, published: Path) -> tuple[dict[str, Any], str]:
    """As `tabled`, of a network that merges exposures."""
    rows = _lines(figures)
    columns = [c for c in rows[0] if c not in ("method", "image")]
    means = {row["method"]: row for row in rows if row["image"] == MEAN}
    mine = [method for method in means if method.split(" ")[0] == name]
    own = {method: {c: round(float(means[method][c]), 4) for c in columns} for method in mine}
    text = "\n## hdr-test9, means\n\n| | " + " | ".join(columns) + " | |\n"
    text += "|---" * (len(columns) + 2) + "|\n"
    for method in [*mine, *(m for m in means if m not in mine)]:
        cells = [f"{float(means[method][c]):.4f}" for c in columns]
        text += f"| {method} | " + " | ".join(cells) + " | |\n"
    for row in _lines(published):
        cells = [row["method"], *(row[c] for c in columns), f"printed, 15 scenes: {row['source']}"]
        text += "| " + " | ".join(cells) + " |\n"
    values = {(row["method"], row["image"]): float(row["PSNR_mu"]) for row in rows}
    rules = [method for method in means if method not in mine]
    text += "\n## hdr-test9, PSNR-mu scene by scene\n\n"
    text += "| | " + " | ".join(mine) + " | best rule |\n" + "|---" * (len(mine) + 2) + "|\n"
    for scene in dict.fromkeys(row["image"] for row in rows if row["image"] != MEAN):
        cells = [f"{values[method, scene]:.2f}" for method in mine]
        best = max(values[method, scene] for method in rules)
        text += f"| {scene} | " + " | ".join([*cells, f"{best:.2f}"]) + " |\n"
    return own, text + "\nMade by benchmarks/hdr.py; the rules do not learn.\n"


def tables_of(text: str) -> str:
    """The tables of a card's text: from the first heading that names a set and what is shown."""
    found = re.search(r"\n## [^\n]*, ", text)
    return "" if found is None else text[found.start() :]


def _lines(path: Path) -> Sequence[Mapping[str, str]]:
    with path.open(encoding="utf-8") as text:
        return list(csv.DictReader(text))


def _readable(path: Path) -> list[Any]:
    try:
        return list(read_summaries(path))
    except Exception:  # a file of another kind beside them
        return []


def main() -> None:
    """Writes mgdn_jax/weights/NAME.safetensors and NAME.md, or the card in place."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--card", action="store_true", help="only describe them where they lie")
    parser.add_argument("--again", action="store_true", help="bundled weights: only their words")
    parser.add_argument("--figures", type=Path, help="CSV of tables.py, depth.py or hdr.py")
    parser.add_argument("--anchors", type=Path, help="folder of CSVs of rows measured elsewhere")
    parser.add_argument("--remark", action="append", default=[], help="a sentence for the card")
    parser.add_argument("--command", help="that gives the same config, in place of the run's")
    parser.add_argument("--half", action="store_true", help="store them as float16")
    arguments = parser.parse_args()
    weights = load_weights(arguments.weights)
    card = described(weights, arguments.remark)
    name = card["name"]
    if arguments.command:
        card["training"]["command"] = arguments.command
    if arguments.card:
        save_weights(
            arguments.weights, **dataclasses.asdict(weights) | {"card": card}, half=arguments.half
        )
        return
    if arguments.again:
        text = arguments.weights.with_suffix(".md")
        card["figures"] = weights.card["figures"]
        stored = dataclasses.asdict(weights) | {"card": card}
        save_weights(arguments.weights, **stored, half=arguments.half)
        shown = {key: value for key, value in card.items() if key != "figures"}
        text.write_text(card_text(name, shown) + tables_of(text.read_text()))
        return
    if arguments.figures is None:
        parser.error("--figures is needed, or --card, or --again")
    preparation = weights.card.get("preparation", {})
    printed = arguments.figures.with_name(f"{arguments.figures.stem}_published.csv")
    if preparation.get("quantity") == "depth":
        own, text = tabled_depth(name, preparation["scale"], arguments.figures, printed)
    elif preparation.get("quantity") == "radiance":
        own, text = tabled_radiance(name, arguments.figures, printed)
    else:
        own, text = tabled(name, arguments.figures, arguments.anchors)
    folder = ROOT / "mgdn_jax" / "weights" / "bundled"
    stored = dataclasses.asdict(weights) | {"card": card | {"figures": own}}
    save_weights(folder / f"{name}.safetensors", **stored, half=arguments.half)
    (folder / f"{name}.md").write_text(card_text(name, card) + text)
    print(f"bundled {folder / name}.safetensors")


if __name__ == "__main__":
    main()
