"""From hits on test patches to figures, comparisons and the page docs/benchmarks/downstream.md."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.io.disk import write_atomically

REFERENCES = ("visible", "infrared", "both")
START, END = "<!-- tables -->", "<!-- end of tables -->"
DRAWS = 4000
ALL = "all"


@dataclass
class Figures:
    """What was measured.

    Attributes:
        classes: their names.
        counts: split to light to patches of each class.
        pairs: split to its number of pairs.
        labels: class of each test patch.
        lights: light of each.
        pictures: number of the pair of each.
        hits: input to (seeds, patches), whether the class was right.
        parameters: input to the parameters of its network.
    """

    classes: tuple[str, ...]
    counts: dict[str, dict[str, list[int]]]
    pairs: dict[str, int]
    labels: np.ndarray
    lights: np.ndarray
    pictures: np.ndarray
    hits: dict[str, np.ndarray] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)

    def masks(self) -> dict[str, np.ndarray]:
        """All test patches, then those of each light where there are several."""
        lights = sorted(set(self.lights.tolist()))
        parts = {light: self.lights == light for light in lights} if len(lights) > 1 else {}
        return {ALL: np.ones(len(self.labels), bool), **parts}


@dataclass(frozen=True)
class Comparison:
    """An input less a reference, in balanced accuracy.

    Attributes:
        difference: of the means over the seeds.
        deviation: of both over the seeds, pooled.
        low, high: 95 % interval over redrawn pictures and seeds.
    """

    difference: float
    deviation: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Above or below where both the spread and the interval say so, else no claim is made."""
        if abs(self.difference) <= self.deviation or self.low <= 0 <= self.high:
            return "no claim"
        return "above" if self.difference > 0 else "below"


def recalls(hits: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Share of each class that was recognised: (seeds, classes), NaN where there is no patch."""
    columns = [hits[:, labels == k] for k in range(classes)]
    empty = np.full(len(hits), np.nan)
    return np.stack([c.mean(1) if c.shape[1] else empty for c in columns], 1)


def balanced(hits: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Mean recall over the classes that occur: (seeds,)."""
    return np.nanmean(recalls(hits, labels, classes), 1)


def compare(figures: Figures, title: str, reference: str) -> Comparison:
    """An input beside a reference on the same patches.

    Patches of one picture are alike, so that pictures are redrawn and not patches; seeds as well,
    since networks of one seed share their order of patches. Draws that lack a class are left out.
    """
    classes = len(figures.classes)
    names, numbers = np.unique(figures.pictures, return_inverse=True)
    share = np.zeros((len(names), classes, len(figures.labels)))
    share[numbers, figures.labels, np.arange(len(figures.labels))] = 1
    patches = share.sum(2)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS)
    seeds = len(figures.hits[title])
    chosen = rng.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS) / seeds
    scores = []
    for name in (title, reference):
        recognised = np.einsum("pkn,sn->spk", share, figures.hits[name].astype(float))
        totals = np.einsum("bp,bs,spk->bk", weights, chosen, recognised, optimize=True)
        with np.errstate(invalid="ignore"):
            scores.append((totals / (weights @ patches)).mean(1))
    differences = scores[0] - scores[1]
    low, high = np.nanpercentile(differences, [2.5, 97.5])
    first, second = (
        balanced(figures.hits[name], figures.labels, classes) for name in (title, reference)
    )
    deviation = float(np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2))
    return Comparison(float(first.mean() - second.mean()), deviation, float(low), float(high))


# ------------------------------------------------------------------------------------ the text


def counts(classes: Sequence[str], labels: np.ndarray, lights: np.ndarray) -> dict[str, list[int]]:
    """Patches of each class: all, and for each light."""
    table = {ALL: np.bincount(labels, minlength=len(classes)).tolist()}
    for light in sorted(set(lights.tolist())):
        table[light] = np.bincount(labels[lights == light], minlength=len(classes)).tolist()
    return table


def counts_text(figures: Figures) -> str:
    """Pairs and patches, a line a split."""
    return "\n".join(
        f"{split}: {figures.pairs[split]} pairs; patches: "
        + ", ".join(f"{n} {name}" for name, n in zip(figures.classes, table[ALL], strict=True))
        for split, table in figures.counts.items()
    )


def progress_text(figures: Figures, title: str) -> str:
    """The figure of an input."""
    values = balanced(figures.hits[title], figures.labels, len(figures.classes))
    return f"{title}: {_spread(values)}"


def markdown(figures: Figures) -> str:
    """All tables, and what follows from them."""
    parts = [_counts_table(figures), _accuracy_table(figures), _recall_table(figures)]
    comparisons = {
        reference: {
            title: compare(figures, title, reference)
            for title in figures.hits
            if title != reference
        }
        for reference in REFERENCES
    }
    parts += [_comparison_table(comparisons), _conclusions(comparisons)]
    return "\n".join(parts)


def _counts_table(figures: Figures) -> str:
    lines = ["| patches | light | pairs | " + " | ".join(figures.classes) + " |"]
    lines.append("|---" * (3 + len(figures.classes)) + "|")
    for split, table in figures.counts.items():
        for light, row in table.items():
            pairs = figures.pairs[split] if light == ALL else ""
            lines.append(f"| {split} | {light} | {pairs} | " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines) + "\n"


def _accuracy_table(figures: Figures) -> str:
    """Balanced accuracy, all and by light; equal printed means are equally good."""
    masks, classes = figures.masks(), len(figures.classes)
    seeds = len(next(iter(figures.hits.values())))
    values = {
        title: {
            light: balanced(hits[:, mask], figures.labels[mask], classes)
            for light, mask in masks.items()
        }
        for title, hits in figures.hits.items()
    }
    heads = [f"{light} ({int(mask.sum())})" for light, mask in masks.items()]
    lines = [
        *_wrapped(
            f"**Balanced accuracy** in percent, mean ± standard deviation over {seeds} seeds; "
            f"guessing gives {100 / classes:.0f}. In brackets: test patches."
        ),
        "",
        "| input | parameters | " + " | ".join(heads) + " |",
        "|---" * (2 + len(heads)) + "|",
    ]
    for title, row in values.items():
        cells = " | ".join(_spread(row[light]) for light in masks)
        lines.append(f"| `{title}` | {figures.parameters[title]} | {cells} |")
    return "\n".join(lines) + "\n"


def _recall_table(figures: Figures) -> str:
    lines = ["**Recall** of each class in percent, likewise, all test patches:\n"]
    lines.append("| input | " + " | ".join(figures.classes) + " |")
    lines.append("|---" * (1 + len(figures.classes)) + "|")
    for title, hits in figures.hits.items():
        rows = recalls(hits, figures.labels, len(figures.classes))
        cells = [_spread(rows[:, k]) for k in range(len(figures.classes))]
        lines.append(f"| `{title}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _comparison_table(comparisons: dict[str, dict[str, Comparison]]) -> str:
    lines = _wrapped(
        "**Differences** in balanced accuracy, points. The spread is the pooled standard deviation "
        "over the seeds; the interval is over redrawn test pictures and seeds."
    )
    for reference, table in comparisons.items():
        lines += [
            "",
            f"| less `{reference}` | difference | spread | 95 % | verdict |",
            "|---" * 5 + "|",
        ]
        for title, item in table.items():
            interval = f"{100 * item.low:+.1f} to {100 * item.high:+.1f}"
            lines.append(
                f"| `{title}` | {100 * item.difference:+.1f} | {100 * item.deviation:.1f} | "
                f"{interval} | {item.verdict} |"
            )
    return "\n".join(lines) + "\n"


def _conclusions(comparisons: dict[str, dict[str, Comparison]]) -> str:
    """What may be said: a line a reference."""
    lines = []
    for reference, table in comparisons.items():
        parts = []
        for verdict in ("above", "below", "no claim"):
            titles = [f"`{title}`" for title, item in table.items() if item.verdict == verdict]
            parts.append(f"{verdict}: {', '.join(titles) or 'none'}")
        lines += _wrapped(f"- Beside `{reference}`, {'; '.join(parts)}.")
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        116,
        subsequent_indent="  " * text.startswith("- "),
        break_on_hyphens=False,
        break_long_words=False,
    )


def _spread(values: np.ndarray) -> str:
    return f"{100 * values.mean():.1f} ± {100 * values.std(ddof=1):.1f}"


def write(path: Path, tables: str) -> None:
    """The tables into their place on a page, or alone into a file.

    Raises:
        InputError: the page has no place for them.
    """
    if not path.is_file():
        write_atomically(path, tables.encode())
        return
    text = path.read_text(encoding="utf-8")
    before, start, behind = text.partition(START)
    _, end, after = behind.partition(END)
    if not (start and end):
        raise InputError(f"{path} has no lines {START} and {END}; add them, or name another file.")
    write_atomically(path, f"{before}{START}\n\n{tables}\n{END}{after}".encode())
