"""Draws the losses of training runs, from their logs, as an SVG picture.

    python benchmarks/curves.py runs/cddfuse-ivf [runs/...] --svg curve.svg [--term loss] [--log]

A line of training losses (means over the steps between two lines of the log) and a thicker one of
validation for each run. Losses of the two phases of CDDFuse are different ones: with `--boundary
1/3` neither line crosses the step at that part of the run.
"""

import argparse
import html
import json
import math
from fractions import Fraction
from pathlib import Path

Points = list[tuple[int, float]]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 70, 20, 24, 40
COLOURS = ("#0b6e4f", "#b3541e", "#31538f", "#8f3164")


def read(workdir: Path, term: str) -> dict[str, Points]:
    """(step, value) of a term in a run's log, by kind of line (train, validation)."""
    found: dict[str, Points] = {"train": [], "validation": []}
    for line in (workdir / "log.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row.get("kind") in found and term in row:
            found[row["kind"]].append((row["step"], row[term]))
    return {kind: points for kind, points in found.items() if points}


def positive(points: Points) -> Points:
    """What a logarithmic axis can show: a term that was off in some steps is 0 there."""
    return [(step, value) for step, value in points if value > 0]


def drawing(
    curves: list[tuple[str, str, float, Points]],
    title: str,
    *,
    logarithmic: bool = False,
    boundary: float = 0.0,
    labels_left: bool = False,
) -> str:
    """All curves in one SVG picture.

    Args:
        curves: label ("" for none of its own), colour, thickness and points of each.
        title: written above.
        logarithmic: of the vertical axis; values must be positive.
        boundary: part of the run at which lines are interrupted, 0 for nowhere.
        labels_left: in place of the right, for curves that end high.
    """
    last = max(step for *_, points in curves for step, _ in points)
    scale = math.log10 if logarithmic else float
    values = [scale(value) for *_, points in curves for _, value in points]
    low, high = min(values), max(values)
    high = high if high > low else low + 1.0

    def across(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / last

    def down(value: float) -> float:
        return TOP + (HEIGHT - BOTTOM - TOP) * (high - value) / (high - low)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for i in range(5):
        value, step = low + (high - low) * i / 4, round(last * i / 4)
        y, x = down(value), across(step)
        written = 10**value if logarithmic else value
        out.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{written:.3g}</text>')
        out.append(f'<text x="{x:.1f}" y="{HEIGHT - 18}" text-anchor="middle">{step}</text>')
    if boundary:
        x = across(boundary * last)
        out.append(
            f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#888" stroke-dasharray="4"/>'
        )
    for _, colour, thickness, points in curves:
        parts = [points]
        if boundary:
            parts = [[p for p in points if (p[0] > boundary * last) == late] for late in (0, 1)]
        for part in filter(None, parts):
            path = " ".join(f"{across(s):.1f},{down(scale(v)):.1f}" for s, v in part)
            out.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}"'
                f' stroke-width="{thickness}"/>'
            )
    labels = {label: colour for label, colour, *_ in curves if label}
    for i, (label, colour) in enumerate(labels.items()):
        x, anchor = (LEFT + 8, "start") if labels_left else (WIDTH - RIGHT - 8, "end")
        text = html.escape(label)
        out.append(
            f'<text x="{x}" y="{TOP + 18 * (i + 1)}" text-anchor="{anchor}" fill="{colour}">{text}'
            "</text>"
        )
    out.append(f'<text x="{LEFT}" y="14">{html.escape(title)}</text></svg>')
    return "\n".join(out) + "\n"


def main() -> None:
    """Draws the runs that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdirs", type=Path, nargs="+", help="folders of runs")
    parser.add_argument("--svg", type=Path, required=True, help="the picture")
    parser.add_argument("--term", default="loss", help="what of the log")
    parser.add_argument("--log", action="store_true", help="logarithmic axis")
    parser.add_argument("--boundary", type=Fraction, default=Fraction(0), help="such as 1/3")
    parser.add_argument("--title", default="", help="the term and 'by step' if left out")
    told = parser.parse_args()
    curves = []
    for i, workdir in enumerate(told.workdirs):
        colour = COLOURS[i % len(COLOURS)]
        for kind, points in read(workdir, told.term).items():
            thickness = 2.2 if kind == "validation" else 0.8
            points = positive(points) if told.log else points
            if points:
                curves.append((f"{workdir.name} (thick: held out)", colour, thickness, points))
    if not curves:
        parser.error(f"no run has {told.term!r} in its log.jsonl")
    title = told.title or f"{told.term}, by step"
    told.svg.write_text(
        drawing(curves, title, logarithmic=told.log, boundary=float(told.boundary)),
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
