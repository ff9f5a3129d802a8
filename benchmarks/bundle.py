"""Puts a run's weights into the package, with what was measured on them.

    python benchmarks/tables.py --data DATA --set Lytro20 --model runs/mff/mgdn-mff.safetensors \
        --csv ours.csv
    python benchmarks/bundle.py runs/mff/mgdn-mff.safetensors --figures ours.csv --anchors CSV

The tensors are copied bit for bit; the card gains task, inputs, data, padding and the figures of
the model's own row, beside those of the anchors. Nothing is chosen here: one run, one file.
"""

import argparse
import dataclasses
from pathlib import Path

from mgdn_jax.checkpoint import load_weights, save_weights
from mgdn_jax.logs import card_text
from mgdn_jax.scores import read_summaries

SHOWN = ("EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM_dr255")
BESIDE = ("MGDN_MFF", "ReFusion_MFIF", "base_focus_guided", "base_laplacian", "base_max")
NOTES = {
    "mgdn-mff": {
        "task": "multi-focus photographs",
        "inputs": "two pictures of one scene, RGB, either in either place",
        "trained_on": "multi-focus pairs synthesised from {dataset_size} BSDS500 photographs",
        "inference": {"padding": "network"},
    }
}


def main() -> None:
    """Writes mgdn_jax/weights/NAME.safetensors and NAME.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--figures", type=Path, required=True, help="CSV of benchmarks/tables.py")
    parser.add_argument("--anchors", type=Path, help="CSV of rows measured elsewhere")
    parser.add_argument("--remark", action="append", default=[], help="a sentence for the card")
    arguments = parser.parse_args()
    weights = load_weights(arguments.weights)
    name = weights.card["name"]
    rows = {row.method: row.values for row in read_summaries(arguments.figures)}
    mine = next(scores for method, scores in rows.items() if method == arguments.weights.stem)
    figures = {key: round(mine[key], 4) for key in SHOWN}
    notes = dict(NOTES[name])
    notes["trained_on"] = notes["trained_on"].format(**weights.card["training"])
    card = {"name": name, **notes, **{k: v for k, v in weights.card.items() if k != "name"}}
    card["figures"] = {"Lytro-20": figures}
    if arguments.remark:
        card["remarks"] = arguments.remark
    folder = Path(__file__).parent.parent / "mgdn_jax" / "weights"
    save_weights(folder / f"{name}.safetensors", **dataclasses.asdict(weights) | {"card": card})
    text = card_text(name, {k: v for k, v in card.items() if k != "figures"})
    beside = {}
    if arguments.anchors:
        beside = {row.method: row.values for row in read_summaries(arguments.anchors)}
    text += "\n## Lytro-20, lossless results, on luminance\n\n"
    text += "| | " + " | ".join(SHOWN) + " |\n|---" * 1 + "|---" * len(SHOWN) + "|\n"
    for method, scores in {name: mine, **{k: beside[k] for k in BESIDE if k in beside}}.items():
        text += f"| {method} | " + " | ".join(f"{scores[k]:.4f}" for k in SHOWN) + " |\n"
    text += (
        "\nMade by benchmarks/tables.py; the other rows are anchors measured with the same ruler.\n"
    )
    (folder / f"{name}.md").write_text(text)
    print(f"bundled {folder / name}.safetensors")


if __name__ == "__main__":
    main()
