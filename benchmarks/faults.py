"""Five faults that were seen in fused pictures: a figure for each, and a sheet to look at.

    python benchmarks/faults.py --data DATA --csv faults.csv --sheet faults.png
    python benchmarks/faults.py --data DATA --faults blobs sky still --list train \
        --weights ivf=runs/a/NAME.safetensors ivf=refusion-ivf:none
    python benchmarks/faults.py --data DATA --causes              # where each comes from

blobs: gray in a white sky beside a dark infrared; the lowest level, the share below 225, and how
far the lowest lies below the median.
sky: a sky of which one source is black; levels that the result lies below the mean of both.
shadows: a dark place that the longest exposure shows; levels that are missing (goal 30).
tone: low frequencies of a focus pair against the blend by sharpness, the mean (goal 3) and, where
it is known, the truth. still: a hot thing walks in; how far a patch far from it moves (goal 3).

Pictures of the list `test` are those of test sets in which the faults were seen: they are looked at
and reported, and nothing is chosen by them. Those of the list `train` are of the same kind.
Weights are TASK=NAME|FILE, after colons the stretch and the base if not the card's; they take the
place of the bundled networks of their task. Luminance of 8-bit results.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import fault_cases  # noqa: E402
from benchmarks.fault_cases import GOALS, LISTS, ROLES, Case  # noqa: E402
from mgdn_jax.errors import InputError  # noqa: E402
from mgdn_jax.evaluation import baselines  # noqa: E402
from mgdn_jax.fusing import compile_cache, stream  # noqa: E402
from mgdn_jax.io.disk import write_atomically  # noqa: E402
from mgdn_jax.metrics import luminance  # noqa: E402

FAULTS = {"blobs": "ivf", "sky": "ivf", "shadows": "mef", "tone": "mff", "still": "ivf"}
BUNDLED = (
    *(("ivf", f"{system}-ivf") for system in ("fusion", "refusion", "cddfuse", "lkc-funet-small")),
    *(("mef", "refusion-mef"), ("mef", "mgdn-mef"), ("mff", "refusion-mff"), ("mff", "mgdn-mff")),
)
RULES = {
    "ivf": ("base_mean", "base_max", "base_laplacian"),
    "mef": ("base_max", "base_laplacian", "base_mertens"),
    "mff": ("base_max", "base_laplacian", "base_focus_evidence"),
}
HEAD = ("fault", "list", "picture", "method", "figure", "value", "goal")
Method = Callable[[Sequence[np.ndarray]], np.ndarray]
_WIDE, _LINE = 208, 14


def networks(words: Sequence[str], faults: Sequence[str]) -> dict[str, dict[str, Method]]:
    """Fault -> name -> network; those of `still` stand there as their cards say, and unstretched.

    Args:
        words: TASK=NAME|FILE[:STRETCH[:BASE]] each.
        faults: of `FAULTS`.

    Raises:
        InputError: a word of another form, or weights that do not exist.
    """
    import mgdn_jax  # here, so that the rules alone need no JAX

    found: dict[str, dict[str, Method]] = {fault: {} for fault in faults}
    for task, rest in split(words):
        wanted = [fault for fault in faults if FAULTS[fault] == task]
        if not wanted:
            continue
        name, stretch, base = (*rest.split(":"), "", "")[:3]
        title = ":".join(w for w in (Path(name).stem, stretch, base) if w)
        options = {"stretch": stretch or None, "base": base or None, "bucket": stream.BUCKET}
        fuser = mgdn_jax.load(name)
        for fault in wanted:
            found[fault][title] = _method(fuser, options)
            if fault == "still" and not stretch:
                found[fault][f"{title}:none"] = _method(fuser, options | {"stretch": "none"})
    return found


def split(words: Sequence[str]) -> list[tuple[str, str]]:
    """(task, weights) of each word, then of the bundled networks for tasks that none names.

    Raises:
        InputError: a word of another form.
    """
    parts = [(task, rest) for task, _, rest in (word.partition("=") for word in words)]
    for word, (task, rest) in zip(words, parts, strict=True):
        if task not in ROLES or not rest:
            raise InputError(f"weights are {word!r}; write ivf=, mef= or mff= and a name or file.")
    named = {task for task, _ in parts}
    return parts + [(task, name) for task, name in BUNDLED if task not in named]


def _method(fuser: Any, options: dict[str, Any]) -> Method:
    return lambda pictures: fuser(*pictures, checks=False, **options)


def methods_of(case: Case, models: dict[str, dict[str, Method]]) -> Iterator[tuple[str, Method]]:
    """The sources, the rules and the networks that are shown beside a case."""
    for place, role in zip((0, -1), ROLES[case.task], strict=True):
        yield role, lambda pictures, k=place: pictures[k]
    for name in RULES[case.task]:
        rule = baselines.BASELINES[name]
        yield name, lambda pictures, f=rule: f(*_alike(pictures[0], pictures[-1]))
    yield from models[case.fault].items()


def _alike(first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
    """Two pictures of as many channels."""
    pictures = [first, second]
    channels = max(np.atleast_3d(x).shape[-1] for x in pictures)
    if channels == 1:
        return [luminance(x).astype(np.uint8) for x in pictures]
    return [np.broadcast_to(np.atleast_3d(x), (*x.shape[:2], channels)) for x in pictures]


def measured(
    case: Case, models: dict[str, dict[str, Method]]
) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """Figures of all methods on a case, and their last results, by name."""
    figures, pictures = {}, {}
    for name, method in methods_of(case, models):
        results = [method(scene) for scene in case.scenes]
        figures[name] = case.measure([luminance(x) for x in results])
        pictures[name] = results[-1]
    return figures, pictures


# ------------------------------------------------------------------------------------ the sheet


def row(
    case: Case, figures: dict[str, dict[str, float]], pictures: dict[str, np.ndarray]
) -> Image.Image:
    """A case as a strip of pictures with their names and first two figures."""
    height, width = case.region.shape
    tall = round(height * _WIDE / width)
    sheet = Image.new("RGB", (_WIDE * len(pictures), tall + 3 * _LINE), "white")
    draw = ImageDraw.Draw(sheet)
    shown = [k for k in next(iter(figures.values())) if k != "best exposure"][:2]
    for place, (name, picture) in enumerate(pictures.items()):
        image = Image.fromarray(np.ascontiguousarray(picture)).convert("RGB")
        small = np.array(image.resize((_WIDE - 4, tall), Image.Resampling.BOX))
        if place == 0:
            region = Image.fromarray(case.region).resize((_WIDE - 4, tall))
            small[_rim(np.asarray(region))] = (255, 0, 0)
        left = place * _WIDE
        sheet.paste(Image.fromarray(small), (left, 2 * _LINE))
        head = f"{case.fault} {case.listed}: {case.name}" if place == 0 else ""
        draw.text((left, 0), head, "black")
        draw.text((left, _LINE), name, "black")
        below = " / ".join(f"{figures[name][k]:.4g}" for k in shown)
        below = " / ".join(shown) if place == 0 else below
        draw.text((left, tall + 2 * _LINE), below, "black")
    return sheet


def _rim(region: np.ndarray) -> np.ndarray:
    """The outline of a region, inside it."""
    inner = region.copy()
    inner[1:] &= region[:-1]
    inner[:-1] &= region[1:]
    inner[:, 1:] &= region[:, :-1]
    inner[:, :-1] &= region[:, 1:]
    return region & ~inner


def sheet_of(rows: Sequence[Image.Image]) -> Image.Image:
    """All strips, one below the other."""
    width, height = max(x.width for x in rows), sum(x.height for x in rows)
    sheet = Image.new("RGB", (width, height), "white")
    tops = itertools.accumulate((x.height for x in rows), initial=0)
    for strip, top in zip(rows, tops, strict=False):
        sheet.paste(strip, (0, top))
    return sheet


# ----------------------------------------------------------------------------------- the causes


def causes(case: Case, names: Sequence[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """Figures of each network by way of running it.

    As the card says; unstretched; in tiles that have their own statistics; and where the region is
    cut out first, the rest of the result unstretched.

    Args:
        case: pictures of one scene, or two.
        names: weights of the case's task.
    """
    import mgdn_jax

    rows, columns = (np.flatnonzero(case.region.any(axis)) for axis in (1, 0))
    height, width = case.region.shape
    cut = tuple(
        slice(max(places[0] - 16, 0), min(places[-1] + 17, side))
        for places, side in ((rows, height), (columns, width))
    )
    for name in names:
        fuser = mgdn_jax.load(name)
        ways = {
            "card": {},
            "unstretched": {"stretch": "none"},
            "tiles of 64, each with its own statistics": {
                "stretch": "none", "tile": 64, "overlap": 16, "tile_context": "local",
            },
        }  # fmt: skip
        for way, options in ways.items():
            results = [fuser(*scene, checks=False, **options) for scene in case.scenes]
            yield f"{Path(name).stem}, {way}", case.measure([luminance(x) for x in results])
        pasted = []
        for scene in case.scenes:
            plane = luminance(fuser(*scene, checks=False, stretch="none"))
            part = [np.ascontiguousarray(x[cut]) for x in scene]
            plane[cut] = luminance(fuser(*part, checks=False, stretch="none"))
            pasted.append(plane)
        yield f"{Path(name).stem}, cut out, unstretched", case.measure(pasted)


# ------------------------------------------------------------------------------------- the door


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of all sets")
    parser.add_argument("--cases", type=Path, help="folder with bracket/ and sequence/")
    parser.add_argument("--weights", nargs="+", default=[], metavar="TASK=NAME|FILE")
    parser.add_argument("--faults", nargs="+", default=[*FAULTS], choices=FAULTS)
    parser.add_argument("--list", nargs="+", default=LISTS, choices=LISTS, dest="lists")
    parser.add_argument("--causes", action="store_true", help="figures by way of running")
    parser.add_argument("--csv", type=Path, help="where to write all figures")
    parser.add_argument("--sheet", type=Path, help="where to write a PNG of all results")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Prints a line a method and figure; writes CSV and PNG."""
    choice = _parser().parse_args(arguments)
    compile_cache.enable_compilation_cache()
    lines: list[list[str]] = []
    strips: list[Image.Image] = []
    models = {} if choice.causes else networks(choice.weights, choice.faults)
    cases: list[Iterator[Case]] = []
    if "test" in choice.lists:
        cases.append(fault_cases.seen(choice.data, choice.cases, choice.faults))
    if "train" in choice.lists:
        cases.append(fault_cases.alike(choice.data, choice.faults))
    for case in itertools.chain(*cases):
        if choice.causes:
            parts = split(choice.weights)
            names = [name.split(":")[0] for task, name in parts if task == case.task]
            figures = dict(causes(case, names))
        else:
            figures, pictures = measured(case, models)
            strips.append(row(case, figures, pictures))
        print(f"\n{case.fault} ({case.listed}): {case.name}")
        for method, values in figures.items():
            text = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
            print(f"  {method:<28} {text}", flush=True)
            for key, value in values.items():
                goal = f"{GOALS[key]:g}" if key in GOALS else ""
                about = (case.fault, case.listed, case.name, method)
                lines.append([*about, key, f"{value:.4f}", goal])
    if choice.csv is not None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([HEAD, *lines])
        write_atomically(choice.csv, text.getvalue().encode())
    if choice.sheet is not None and strips:
        choice.sheet.parent.mkdir(parents=True, exist_ok=True)
        sheet_of(strips).save(choice.sheet)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
