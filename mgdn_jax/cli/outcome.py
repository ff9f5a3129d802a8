"""What came out of `mgdn eval`, computed once, and how it is put into words and JSON."""

from __future__ import annotations

import contextlib
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from mgdn_jax import metrics as ruler
from mgdn_jax.cli.output import console, say, width
from mgdn_jax.cli.pairs import Job
from mgdn_jax.evaluation import terminal
from mgdn_jax.evaluation.scores import Area, Table
from mgdn_jax.evaluation.standing import Row, Standing, rank_methods
from mgdn_jax.evaluation.summaries import Summary

_MOST_COLUMNS = 16  # more metrics than that go down the side
_MOST_NAMES = 6


@dataclass(frozen=True)
class Outcome:
    """All scores of a run.

    Attributes:
        standing: The table of means with its ranks and marks, and all scores.
        variant: Of the evaluator.
        command: The command line as it was typed.
        versions: Package to version.
        unpaired: Sentences about pictures without partners.
        failed: Sentences about pictures that have no scores.
        rules: Sentences about how names that are not equal were matched.
        warnings: Sentences about what is probably not meant.
        beside: Name of the file that rows from elsewhere come from.
        dataset: Which data set of that file.
    """

    standing: Standing
    variant: str
    command: str
    versions: Mapping[str, str]
    unpaired: tuple[str, ...]
    failed: tuple[str, ...]
    rules: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    beside: str = ""
    dataset: str = ""

    @property
    def wanted(self) -> dict[str, Table]:
        """The scores of the methods that were asked for: all but the rules on the side."""
        rules = {row.name for row in self.standing.rows if row.kind == "baseline"}
        return {k: table for k, table in self.standing.tables.items() if k not in rules}

    @property
    def problems(self) -> list[str]:
        """Everything that went wrong, each once."""
        return list(dict.fromkeys([*self.unpaired, *self.failed]))


def outcome_of(
    job: Job,
    tables: Mapping[str, Table],
    elsewhere: Sequence[Summary],
    *,
    variant: str,
    command: str,
    beside: str = "",
) -> Outcome:
    """Computes what is said, shown and written.

    Args:
        job: What was scored.
        tables: Method to its scores.
        elsewhere: Rows of means measured elsewhere, under the exact metric names.
        variant: Of the evaluator.
        command: The command line.
        beside: Name of the file of the rows from elsewhere.
    """
    # What was measured here as well is not shown twice.
    foreign = [row for row in elsewhere if row.method not in job.baselines]
    return Outcome(
        rank_methods(tables, baselines=job.baselines, elsewhere=foreign),
        variant,
        command,
        _versions(bool(job.models)),
        tuple(job.problems),
        tuple(_failures(job, tables)),
        tuple(job.rules),
        tuple(
            sentence if count == 1 else f"{sentence[:-1]} ({count} pairs)."
            for sentence, count in job.warnings.items()
        ),
        beside,
        foreign[0].dataset if foreign else "",
    )


# ----------------------------------------------------------------------------- in words


def show(outcome: Outcome) -> None:
    """The table of means and the remarks, on stdout."""
    out = console()
    table = terminal.rich_table(outcome.standing)
    down = terminal.rich_table(outcome.standing, metrics_down=True)
    needed = width(table, out)
    fits = needed <= out.width or needed <= width(down, out)
    say(out, table if fits and len(outcome.standing.columns) <= _MOST_COLUMNS else down)
    for note in notes(outcome):
        say(out, note)


def notes(outcome: Outcome) -> list[str]:
    """How the table was made, and what a reader of the means must know."""
    about = [*_about(outcome), *outcome.rules]
    return [*about, *_cut(outcome), *_unequal(outcome), *_beside(outcome), *_gaps(outcome)]


def remarks_of_page(outcome: Outcome) -> list[str]:
    """What the page does not know by itself."""
    return [*outcome.rules, *_cut(outcome), *outcome.unpaired, *_beside(outcome)]


def _about(outcome: Outcome) -> Iterator[str]:
    table = outcome.standing
    images = len(table.images)
    over = f"means over {images} pairs" if images != 1 else "one pair"
    if not images:
        over = "means over the pairs of each method, which share none: no ranks, no marks"
    yield f"{over}, on luminance; best bold, second underlined; variant {outcome.variant}"
    if table.is_ranked:
        yield f"mean rank over {' '.join(table.ranked_by)}"
    rules = [row.name for row in table.rows if row.kind == "baseline"]
    if rules:
        yield f"rules without learning: {', '.join(rules)}"


def _areas(outcome: Outcome) -> dict[str, Area]:
    """What was measured of the images of which that is a part."""
    tables = outcome.standing.tables.values()
    return {name: area for table in tables for name, area in table.areas.items()}


def _cut(outcome: Outcome) -> Iterator[str]:
    """Which images were scored in part, and whether they look reduced rather than cut."""
    areas = _areas(outcome)
    if not areas:
        return
    name, area = next(iter(areas.items()))
    count = len({name for table in outcome.standing.tables.values() for name in table.rows})
    yield (
        f"{len(areas)} of {count} scored on the upper left area that all results have "
        f"(--crop): {name} on {area}" + (", for instance" if len(areas) > 1 else "")
    )
    for name, area in areas.items():
        (height, width), (rows, columns) = area.size, area.whole
        if height < 0.9 * rows and abs(height * columns - width * rows) <= max(rows, columns):
            yield (
                f"{name} has the shape of its sources on {area}: if it was reduced and not cut, "
                "its figures say nothing"
            )
            return


def _unequal(outcome: Outcome) -> Iterator[str]:
    """Which methods have other pairs than the others."""
    images = len(outcome.standing.images)
    for name, table in outcome.standing.tables.items():
        if len(table.rows) > images > 0 or not table.rows:
            yield (
                f"{name} has scores of {len(table.rows)} pairs; means and ranks are over "
                "those that all methods have"
            )


def _foreign(table: Standing) -> list[Row]:
    return [row for row in table.rows if row.kind == "elsewhere"]


def _beside(outcome: Outcome) -> Iterator[str]:
    """Where rows measured elsewhere come from, and whether they can be compared."""
    rows = _foreign(outcome.standing)
    if not rows:
        return
    yield f"†: measured elsewhere ({outcome.beside}, {outcome.dataset})"
    sources: dict[str, list[str]] = {}
    for row in rows:
        sources.setdefault(row.source, []).append(row.name)
    for source, names in sources.items():
        if source:
            few = len(names) <= _MOST_NAMES
            yield f"† {', '.join(names) if few else f'{len(names)} rows'}: {source}"
    images = len(outcome.standing.images)
    others = sorted({row.images for row in rows} - {images})
    if others:
        n = " and ".join(map(str, others))
        yield f"† over {n} pairs, not {images}: not ranked, not marked, and not in the report"


def _gaps(outcome: Outcome) -> Iterator[str]:
    """Which means leave values out."""
    images = outcome.standing.images
    for row in outcome.standing.rows:
        if row.kind == "elsewhere" or row.images < 2:
            continue
        table = outcome.standing.tables[row.name]
        counted = images or tuple(table.rows)
        for column, count in row.invalid.items():
            values = {table.rows[image][column] for image in counted}
            odd = sorted({str(v).replace("inf", "∞") for v in values if not math.isfinite(v)})
            yield (
                f"{row.name}: {column} is {' or '.join(odd)} on {count} of {row.images} "
                "pairs, which its mean leaves out"
            )


def _failures(job: Job, tables: Mapping[str, Table]) -> Iterator[str]:
    """Everything that has no scores, each once."""
    lost = {image for m, t in tables.items() if m not in job.baselines for image in t.failures}
    for method, table in tables.items():
        for image, sentence in table.failures.items():
            # A picture that cannot be read fails for every method; the rules need not repeat it.
            if method not in job.baselines or image not in lost:
                yield f"{image}: {sentence}"


def _versions(has_networks: bool) -> dict[str, str]:
    names = ["mgdn-jax", "numpy", "scipy", "pillow", *(["jax", "flax"] if has_networks else [])]
    versions = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


# ----------------------------------------------------------------------------- as JSON


def content(outcome: Outcome) -> dict[str, Any]:
    """All of it, for JSON."""
    table = outcome.standing
    here = {row.name: row for row in table.rows if row.kind != "elsewhere"}
    return {
        "command": outcome.command,
        "versions": outcome.versions,
        "variant": outcome.variant,
        "metrics": {
            name: {
                "higher_is_better": ruler.METRICS[name].higher_is_better,
                "group": ruler.METRICS[name].group,
            }
            for name in table.columns
        },
        "methods": {
            name: {
                "baseline": here[name].kind == "baseline",
                "images": scores.rows,
                "mean": scores.mean(),
                "invalid": scores.invalid(),
                "failures": scores.failures,
                "mean_rank": here[name].rank,
            }
            for name, scores in table.tables.items()
        },
        "elsewhere": {
            row.name: {
                "dataset": outcome.dataset,
                "n": row.images,
                "mean": row.means,
                "mean_rank": row.rank,
                "source": row.source or None,
            }
            for row in _foreign(table)
        },
        "ranked_by": list(table.ranked_by),
        "ranked_over": list(table.images),
        "pairing": list(outcome.rules),
        "cropped": {
            name: {"height": area.size[0], "width": area.size[1]}
            for name, area in _areas(outcome).items()
        },
        "problems": outcome.problems,
        "warnings": list(outcome.warnings),
    }
