"""Does fusing help a machine? Patches of pictures, told apart by a small network of each input.

    python benchmarks/downstream.py --data ivf/labelled --csv docs/benchmarks/downstream.csv
        --markdown docs/benchmarks/downstream.md [--inputs visible both base_mean refusion-ivf ...]

The folder is described in `labelled.py`. An input is `visible`, `infrared`, `both` (six channels),
a rule, a network (a bundled name or a file), or NAME=FOLDER with fused pictures in `train/` and
`test/`. Pairs are fused once, in colour, as a user gets them. The same patches then train the same
network (`patch_network.py`) under the same schedule, `--seeds` times each.

`--choose` compares schedules instead: a quarter of the training pairs is left out at a time, and
the test pairs are not classified.

Where the Markdown file exists, what lies between its lines `<!-- tables -->` and
`<!-- end of tables -->` is replaced; else it is made of tables alone.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import csv
import dataclasses
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import mgdn_jax  # noqa: E402
from benchmarks import downstream_page as page  # noqa: E402
from benchmarks.labelled import (  # noqa: E402
    BACKGROUND,
    SPLITS,
    Place,
    Scene,
    cut,
    find_places,
    montage,
    read_labels,
    read_scenes,
)
from benchmarks.patch_network import Schedule, Trained, prepare, train  # noqa: E402
from mgdn_jax import image  # noqa: E402
from mgdn_jax.errors import InputError, nearest  # noqa: E402
from mgdn_jax.evaluation.baselines import BASELINES  # noqa: E402
from mgdn_jax.io import files  # noqa: E402
from mgdn_jax.io.disk import write_atomically  # noqa: E402
from mgdn_jax.io.pairing import list_images  # noqa: E402
from mgdn_jax.io.pixels import from_float, to_float, without_alpha  # noqa: E402
from mgdn_jax.weights import zoo  # noqa: E402

SOURCES = ("visible", "infrared", "both")
RULES = ("base_mean", "base_max", "base_laplacian")
FOLDS = 4
CANDIDATES = [
    Schedule(epochs=epochs, rate=rate)
    for epochs, rate in ((20, 1e-2), (40, 1e-2), (80, 1e-2), (40, 5e-3))
]


@dataclass(frozen=True)
class Split:
    """The pairs of a split and what is cut from them.

    Attributes:
        folder: with `ir/` and `vi/`.
        scenes: its pairs.
        places: patches, by scene.
        labels: number of the class of each place.
    """

    folder: Path
    scenes: list[Scene]
    places: list[Place]
    labels: np.ndarray

    def of_scenes(self) -> list[list[Place]]:
        """The places of each scene."""
        parts: list[list[Place]] = [[] for _ in self.scenes]
        for place in self.places:
            parts[place.scene].append(place)
        return parts

    @property
    def pictures(self) -> np.ndarray:
        """Number of the scene of each place."""
        return np.array([place.scene for place in self.places])

    @property
    def lights(self) -> np.ndarray:
        """Light of each place."""
        return np.array([self.scenes[place.scene].light for place in self.places])


def read_splits(data: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
    """The classes that both splits show, and the splits.

    Raises:
        InputError: as `read_labels` and `read_scenes`, or fewer than two classes are left.
    """
    if not data.is_dir():
        raise InputError(f"{data} does not exist; check the path of the labelled pairs.")
    known, light = read_labels(data)
    scenes = {split: read_scenes(data / split, known, light[split]) for split in SPLITS}
    places = {split: find_places(scenes[split], split) for split in SPLITS}
    shown = [{place.name for place in places[split]} for split in SPLITS]
    classes = tuple(name for name in (BACKGROUND, *known) if all(name in names for names in shown))
    for name in (BACKGROUND, *known):
        if name not in classes:
            print(f"{name} is left out: train/ or test/ has no patch of it.", file=sys.stderr)
    if len(classes) < 2:
        raise InputError(
            f"{data} has fewer than two classes of which both train/ and test/ have a patch; add "
            "labelled pairs."
        )
    splits = {}
    for split in SPLITS:
        kept = [place for place in places[split] if place.name in classes]
        labels = np.array([classes.index(place.name) for place in kept])
        splits[split] = Split(data / split, scenes[split], kept, labels)
    return classes, splits


# -------------------------------------------------------------------------------- the inputs


def colour(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 of a picture of any type, gray or colour; alpha is left out."""
    plain = without_alpha(from_float(to_float(picture), np.dtype(np.uint8)))
    return np.broadcast_to(plain, (*plain.shape[:2], 3))


def by_rule(
    rule: Callable[..., np.ndarray], infrared: np.ndarray, visible: np.ndarray
) -> np.ndarray:
    """Fuses luminance by a rule and keeps the visible picture's chroma, as networks do."""
    ycbcr = image.rgb_to_ycbcr(to_float(colour(visible)))
    sources = (image.luminance(to_float(colour(infrared))), ycbcr[..., :1])
    planes = [from_float(plane[..., 0], np.dtype(np.uint8)) for plane in sources]
    ycbcr[..., 0] = to_float(rule(*planes))
    return from_float(image.ycbcr_to_rgb(ycbcr), np.dtype(np.uint8))


def check_inputs(entries: Sequence[str]) -> dict[str, str]:
    """Title of each input to what was written, the references first.

    Raises:
        InputError: there is no such input, two have one title, or a folder is missing.
    """
    titles: dict[str, str] = {}
    for entry in dict.fromkeys((*page.REFERENCES, *entries)):
        title, sign, folder = entry.partition("=")
        if sign:
            if not title or title in (*SOURCES, *BASELINES):
                raise InputError(f"--inputs {entry} must be NAME=FOLDER, NAME no other input's.")
            for split in SPLITS:
                list_images(Path(folder) / split)
        elif entry not in (*SOURCES, *BASELINES, *zoo.bundled()):
            if not os.path.exists(entry):
                names = (*SOURCES, *BASELINES, *zoo.bundled())
                raise InputError(f"there is no input {entry!r}; {nearest(entry, names)}.")
            title = zoo.resolve(entry).stem
        if title in titles:
            raise InputError(f"two inputs are called {title}; name one of them NAME=FOLDER.")
        titles[title] = entry
    return titles


def pictures_of(entry: str, split: Split, folder: Path) -> Iterator[np.ndarray]:
    """The pictures of an input, (H, W, 3 or 6) uint8, in the order of the scenes.

    Args:
        entry: as written.
        split: whose pairs.
        folder: where fused pictures of the split lie, if a network or somebody else made them.

    Raises:
        InputError: one is missing, or has another size than its sources.
    """
    fused = list_images(folder, nested=True) if folder.is_dir() else {}
    for scene in split.scenes:
        if entry in SOURCES or entry in BASELINES:
            infrared, visible = map(files.read_image, (scene.infrared, scene.visible))
            parts = {"visible": [visible], "infrared": [infrared], "both": [visible, infrared]}
            if entry in BASELINES:
                yield by_rule(BASELINES[entry], infrared, visible)
            else:
                yield np.concatenate([colour(part) for part in parts[entry]], -1)
            continue
        if scene.name not in fused:
            raise InputError(f"{folder} has no picture {scene.name}; fuse that pair, too.")
        picture = colour(files.read_image(fused[scene.name]))
        if picture.shape[:2] != scene.size:
            raise InputError(
                f"{fused[scene.name]} is {picture.shape[0]}x{picture.shape[1]}, its sources "
                f"{scene.size[0]}x{scene.size[1]}; give fused pictures of their size."
            )
        yield picture


def patches_of(
    title: str, entry: str, splits: dict[str, Split], pictures: Path
) -> dict[str, np.ndarray]:
    """The patches of an input: for each split (n, SIDE, SIDE, C) uint8.

    Args:
        title: of the input.
        entry: as written; networks fuse here.
        splits: the pairs.
        pictures: folder for networks' results, as TITLE/SPLIT/NAME.png.
    """
    is_network = entry not in (*SOURCES, *BASELINES) and "=" not in entry
    folder = Path(entry.partition("=")[2]) if "=" in entry else pictures / title
    fuser = mgdn_jax.load(entry) if is_network else None
    patches = {}
    for name, split in splits.items():
        if fuser is not None:
            # Every picture by itself, as a call fuses it: no tone of the whole folder.
            results = mgdn_jax.fuse_folders(
                *(split.folder / kind for kind in ("ir", "vi")),
                output=folder / name,
                model=fuser,
                tone="picture",
            )
            for result in results.values():
                if isinstance(result, InputError):
                    raise result
        scenes = pictures_of(entry, split, folder / name)
        parts = [cut(p, places) for p, places in zip(scenes, split.of_scenes(), strict=True)]
        patches[name] = np.concatenate(parts)
    return patches


# ---------------------------------------------------------------------------- the measurement


def trained(
    patches: np.ndarray, labels: np.ndarray, seeds: Sequence[int], schedule: Schedule
) -> list[Trained]:
    """A network a seed, as many at once as there are cores."""
    prepare(patches.shape[-1], int(labels.max()) + 1, schedule.width)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda seed: train(patches, labels, seed, schedule), seeds))


def measure(args: argparse.Namespace) -> page.Figures:
    """Trains on every input and classifies the test patches."""
    entries = check_inputs(args.inputs)
    classes, splits = read_splits(args.data)
    schedule = dataclasses.replace(Schedule(), epochs=args.epochs or Schedule.epochs)
    training, test = (splits[split] for split in SPLITS)
    figures = page.Figures(
        classes,
        {name: page.counts(classes, split.labels, split.lights) for name, split in splits.items()},
        {name: len(split.scenes) for name, split in splits.items()},
        test.labels,
        test.lights,
        test.pictures,
    )
    print(page.counts_text(figures), file=sys.stderr, flush=True)
    shown: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for title, entry in entries.items():
            patches = patches_of(title, entry, splits, args.pictures or Path(scratch))
            shown[title] = patches["test"]
            if args.montage:
                names = [place.name for place in test.places]
                files.write_image(args.montage, montage(shown, names))
            networks = trained(patches["train"], training.labels, range(args.seeds), schedule)
            hits = [net.classify(patches["test"]) == test.labels for net in networks]
            figures.hits[title] = np.array(hits)
            figures.parameters[title] = networks[0].parameters
            print(page.progress_text(figures, title), file=sys.stderr, flush=True)
    return figures


def choose(args: argparse.Namespace) -> str:
    """Balanced accuracy of each candidate on training pairs that were left out, as Markdown."""
    classes, splits = read_splits(args.data)
    split = splits["train"]
    inputs = {
        name: patches_of(name, name, {"train": split}, Path("-"))["train"] for name in SOURCES
    }
    lines = ["| epochs | rate | " + " | ".join(SOURCES) + " | mean |", "|---" * 6 + "|"]
    for schedule in CANDIDATES:
        means = []
        for patches in inputs.values():
            hits = np.zeros((args.seeds, len(split.labels)), bool)
            for fold in range(FOLDS):
                out = split.pictures % FOLDS == fold
                networks = trained(patches[~out], split.labels[~out], range(args.seeds), schedule)
                for seed, network in enumerate(networks):
                    hits[seed, out] = network.classify(patches[out]) == split.labels[out]
            means.append(page.balanced(hits, split.labels, len(classes)).mean())
        cells = [f"{mean:.3f}" for mean in (*means, np.mean(means))]
        lines.append(f"| {schedule.epochs} | {schedule.rate:g} | " + " | ".join(cells) + " |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines) + "\n"


# -------------------------------------------------------------------------------- the command


def as_csv(figures: page.Figures) -> str:
    """A row an input, seed and light, with 4 decimals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    recalls = [f"recall_{name}" for name in figures.classes]
    writer.writerow(["input", "seed", "light", "patches", "balanced_accuracy", *recalls])
    for title, hits in figures.hits.items():
        for seed, row in enumerate(hits):
            for light, mask in figures.masks().items():
                values = page.recalls(row[None, mask], figures.labels[mask], len(figures.classes))
                cells = ["" if np.isnan(value) else f"{value:.4f}" for value in values[0]]
                mean = f"{np.nanmean(values):.4f}"
                writer.writerow([title, seed, light, int(mask.sum()), mean, *cells])
    return text.getvalue()


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    networks = tuple(zoo.list_models(task="infrared"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--inputs", nargs="+", default=[*SOURCES, *RULES, *networks])
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each input")
    parser.add_argument("--epochs", type=int, default=0, help="fewer for large sets")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--pictures", type=Path, help="folder for the networks' fused pictures")
    parser.add_argument("--montage", type=Path, help="picture of test patches to look at")
    parser.add_argument("--choose", action="store_true", help="compare schedules instead")
    args = parser.parse_args(argv)
    if args.seeds < (1 if args.choose else 2) or args.epochs < 0:
        parser.error("--seeds must be 2 or more for a spread, and --epochs 0 or more")
    return args


def run(args: argparse.Namespace) -> None:
    """Measures and writes; prints the tables where no file is named."""
    if args.choose:
        print(choose(args))
        return
    figures = measure(args)
    tables = page.markdown(figures)
    if args.csv:
        write_atomically(args.csv, as_csv(figures).encode())
    if args.markdown:
        page.write(args.markdown, tables)
    if not (args.csv or args.markdown):
        print(tables)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    args = parse(argv)
    try:
        run(args)
    except InputError as error:
        print(f"downstream.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
