"""The page of an evaluation: one HTML file with its tables, plots and pictures inside.

The page asks nothing of a network: styles, script, scores and pictures are part of it, and its
security policy allows nothing else. What can be read without a script (means, notes, failures,
versions) is written here; `page/page.js` sorts, plots and shows pictures from the scores
that travel along as JSON. One input gives one file, byte for byte.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mgdn_jax import metrics as ruler
from mgdn_jax.errors import InputError
from mgdn_jax.evaluation.album import SOURCES, Album, Picture
from mgdn_jax.evaluation.scores import Common, Table, common, mean_ranks
from mgdn_jax.io.disk import make_folder, write_atomically

_MARKS = (
    '<strong class="best">Bold</strong> is the best of a column, <u class="second">underlined</u> '
    "the second best; values alike at the digits shown share a mark. "
)
_NONE: Mapping[str, Mapping[str, float]] = MappingProxyType({})


# ------------------------------------------------------------------------------------ rows


@dataclass
class _Row:
    """One line of the table of means."""

    name: str
    means: Mapping[str, float]
    pairs: int | None  # None: measured elsewhere
    invalid: Mapping[str, int] = field(default_factory=dict)
    baseline: bool = False
    rank: float | None = None


@dataclass(frozen=True)
class _Column:
    """One metric, with the decimals it is shown in and the shown values of places one and two."""

    name: str
    arrow: str
    higher: bool
    group: str
    selects: bool
    digits: int
    best: tuple[float, ...]


def _columns(names: Iterable[str], rows: Sequence[_Row], shared: Common) -> list[_Column]:
    columns = []
    for name in names:
        metric = ruler.resolve(name)
        finite = [row.means[name] for row in rows if math.isfinite(row.means.get(name, math.nan))]
        # The best is sought among means that leave out no image.
        fair = shared.marked(name) | {row.name for row in rows if row.pairs is None}
        eligible = [
            row.means[name]
            for row in rows
            if row.name in fair and not math.isnan(row.means.get(name, math.nan))
        ]
        largest = max((abs(value) for value in finite), default=0.0)
        digits = 4 if largest < 10 else 3 if largest < 100 else 2 if largest < 1000 else 1
        # Places are given to what the reader sees: values that look alike share one.
        shown = sorted({round(v, digits) for v in eligible}, reverse=metric.higher_is_better)
        columns.append(
            _Column(
                name,
                metric.arrow,
                metric.higher_is_better,
                metric.group,
                metric.selects,
                digits,
                tuple(shown[:2]) if len(rows) > 1 else (),
            )
        )
    return columns


def _rank(rows: Sequence[_Row], columns: Sequence[_Column], shared: Common) -> list[str]:
    """Fills in the mean ranks; returns the metrics they are over, none if there is no ranking."""
    over = list(ruler.ranked(column.name for column in columns))
    means = {**shared.means, **{row.name: row.means for row in rows if row.pairs is None}}
    complete = {n: values for n, values in means.items() if all(name in values for name in over)}
    if not over or len(complete) < 2:
        return []
    ranks = mean_ranks(complete, over)
    for row in rows:
        row.rank = ranks.get(row.name)
    return over


# ------------------------------------------------------------------------------------ page


def write_report(
    folder: str | os.PathLike[str],
    *,
    title: str,
    tables: Mapping[str, Table],
    album: Album,
    command: str,
    versions: Mapping[str, str],
    variant: str,
    source_titles: tuple[str, str] = ("source A", "source B"),
    baselines: Sequence[str] = (),
    elsewhere: Mapping[str, Mapping[str, float]] = _NONE,
    remarks: Sequence[str] = (),
) -> Path:
    """Writes `folder/index.html`, whole or not at all.

    Names of methods and images may hold any character.

    Args:
        folder: Made if missing.
        title: Heading of the page.
        tables: Method to its scores, in the order wanted where no ranking is possible.
        album: Pictures of the tables' images; it may be empty.
        command: The command line that made the report, as it was typed.
        versions: Package to version, shown in this order.
        variant: Of the evaluator, `standard` or `cddfuse`.
        source_titles: What the pictures `a` and `b` of the album are called.
        baselines: Methods among `tables` that are trivial rules, to be set apart.
        elsewhere: Rows of means that were measured elsewhere, name to `{metric: mean}`. Metrics
            that no table has are left out; a row that lacks a metric has no mean rank.
        remarks: Sentences to show under the table of means.

    Returns:
        The path of the page.

    Raises:
        InputError: if there is no table, a name is used twice or stands for a source, a baseline
            is not among the tables, or the place cannot be written.
    """
    _check_names(tables, baselines, elsewhere)
    names = list(dict.fromkeys(name for table in tables.values() for name in table.columns))
    images = list(
        dict.fromkeys(
            [image for table in tables.values() for image in table.rows]
            + [image for table in tables.values() for image in table.failures]
        )
    )
    shared = common(tables)
    rows = []
    for method in tables:
        table = shared.tables.get(method, tables[method])
        rows.append(
            _Row(method, table.mean(), len(table.rows), table.invalid(), method in baselines)
        )
    rows += [_Row(method, means, None) for method, means in elsewhere.items()]
    columns = _columns(names, rows, shared)
    ranked_over = _rank(rows, columns, shared)
    if ranked_over:
        rows.sort(key=lambda row: math.inf if row.rank is None else row.rank)

    parts = {name: _part(f"page.{name}") for name in ("html", "css", "js")}
    digest = base64.b64encode(hashlib.sha256(parts["js"].encode()).digest()).decode()
    content = {
        "title": html.escape(title),
        "script_hash": f"sha256-{digest}",
        "style": parts["css"],
        "summary": _summary(tables, elsewhere, images, columns, variant),
        "marks": _MARKS if len(rows) > 1 else "",
        "means": _means(rows, columns, len(images), bool(ranked_over)),
        "notes": _list(
            _notes(rows, columns, ranked_over, len(images), shared) + list(remarks), "notes"
        ),
        "legend": _legend(columns),
        "pictures_note": html.escape(album.note(len(images))),
        "failures": _failures(tables),
        "command": html.escape(command),
        "versions": "".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(version)}</dd></div>"
            for name, version in versions.items()
        ),
        "variant": html.escape(variant),
        "data": _json(_data(tables, rows, columns, images, album, source_titles)),
        "script": parts["js"],
    }
    # One pass, so that a name that looks like a placeholder stays a name.
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: content[match[1]], parts["html"])
    make_folder(folder)
    path = Path(folder) / "index.html"
    # File names that are no Unicode come with lone surrogates, which no file can hold.
    write_atomically(path, page.encode("utf-8", "replace"))
    return path


def _check_names(
    tables: Mapping[str, Table],
    baselines: Sequence[str],
    elsewhere: Mapping[str, Mapping[str, float]],
) -> None:
    if not tables:
        raise InputError("a report needs at least one method with its table of scores.")
    for name in SOURCES:
        if name in tables:
            raise InputError(f"a method of a report cannot be called {name!r}: rename it.")
    for name in elsewhere:
        if name in tables:
            raise InputError(f"{name} is both measured here and elsewhere: rename one of them.")
    for name in baselines:
        if name not in tables:
            raise InputError(f"the baseline {name} has no table of scores: leave it out.")


def _part(name: str) -> str:
    folder = importlib.resources.files("mgdn_jax.evaluation") / "page"
    return (folder / name).read_text(encoding="utf-8")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _summary(
    tables: Mapping[str, Table],
    elsewhere: Mapping[str, Mapping[str, float]],
    images: Sequence[str],
    columns: Sequence[_Column],
    variant: str,
) -> str:
    chips = [
        _count(len(images), "image pair"),
        _count(len(tables), "method"),
        _count(len(columns), "metric"),
        f"{variant} evaluator",
    ]
    if elsewhere:
        chips.insert(2, f"{_count(len(elsewhere), 'row')} from elsewhere")
    failed = {image for table in tables.values() for image in table.failures}
    if failed:
        chips.append(f'<a href="#failures">{_count(len(failed), "image")} with failures</a>')
    return "".join(f"<li>{chip if '<a' in chip else html.escape(chip)}</li>" for chip in chips)


def _shown(value: float, digits: int) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return "NaN" if math.isnan(value) else f"{value:.{digits}f}"


def _header(text: str, kind: str, first: str, *, sorted_by: bool = False) -> str:
    """A column head that sorts; `first` is the direction of its first click, best values first."""
    state = f' aria-sort="{first}"' if sorted_by else ""
    return (
        f'<th scope="col" class="{kind}" data-first="{first}"{state}>'
        f'<button type="button">{text}</button></th>'
    )


def _means(rows: Sequence[_Row], columns: Sequence[_Column], images: int, ranked: bool) -> str:
    """Head and body of the table of means."""
    head = [_header("method", "name", "ascending")]
    if ranked:
        head.append(_header('mean rank <span class="arrow">↓</span>', "number", "ascending",
                            sorted_by=True))  # fmt: skip
    for column in columns:
        noise = "" if column.selects else '<abbr title="rewards noise">‡</abbr>'
        head.append(
            _header(
                f'{html.escape(column.name)}{noise} <span class="arrow">{column.arrow}</span>',
                "number",
                "descending" if column.higher else "ascending",
            )
        )
    head.append(_header("pairs", "number", "descending"))
    ranks = sorted({round(row.rank, 2) for row in rows if row.rank is not None})[:2]
    body = []
    for row in rows:
        kind = "baseline" if row.baseline else "elsewhere" if row.pairs is None else "measured"
        tag = '<span class="tag">baseline</span>' if row.baseline else ""
        dagger = "" if row.pairs is not None else '<abbr title="measured elsewhere">†</abbr>'
        name = html.escape(row.name)
        cells = [f'<th scope="row" class="name" data-value="{name}">{name}{dagger}{tag}</th>']
        if ranked:
            cells.append(_cell(row.rank, 2, tuple(ranks)))
        for column in columns:
            left_out = row.invalid.get(column.name, 0)
            cells.append(_cell(row.means.get(column.name), column.digits, column.best, left_out))
        if row.pairs is None:
            cells.append('<td class="number" data-value="">–</td>')
        else:
            few = ' class="number few"' if row.pairs < images else ' class="number"'
            cells.append(f'<td{few} data-value="{row.pairs}">{row.pairs}</td>')
        body.append(f'<tr class="{kind}">{"".join(cells)}</tr>')
    return f"<thead><tr>{''.join(head)}</tr></thead><tbody>{''.join(body)}</tbody>"


def _cell(value: float | None, digits: int, best: tuple[float, ...], left_out: int = 0) -> str:
    if value is None:
        return '<td class="number" data-value="">–</td>'
    text = _shown(value, digits)
    seen = round(value, digits) if math.isfinite(value) else value
    place = best.index(seen) if seen in best else None
    if place == 0:
        text = f'<strong class="best">{text}<span class="hidden"> (best)</span></strong>'
    elif place == 1:
        text = f'<u class="second">{text}<span class="hidden"> (second best)</span></u>'
    star = f'<abbr title="{left_out} left out">*</abbr>' if left_out else ""
    return f'<td class="number" data-value="{float(value)!r}">{text}{star}</td>'


def _notes(
    rows: Sequence[_Row],
    columns: Sequence[_Column],
    ranked_over: Sequence[str],
    images: int,
    shared: Common,
) -> list[str]:
    """Sentences under the table of means."""
    notes = []
    if ranked_over:
        notes.append(
            "Mean rank: the mean over "
            + ", ".join(ranked_over)
            + " of a row's rank among all rows that have them; 1 is best."
        )
    noisy = [column.name for column in columns if not column.selects]
    if noisy:
        verb, them = ("rewards", "it") if len(noisy) == 1 else ("reward", "them")
        notes.append(
            f"‡ {' and '.join([', '.join(noisy[:-1]), noisy[-1]] if noisy[:-1] else noisy)} "
            f"{verb} noise: a picture gains by being grainy, so the mean rank leaves {them} out."
        )
    if any(row.pairs is None for row in rows):
        notes.append(
            "† Means that were measured elsewhere, not by this command; no values per image."
        )
    for row in rows:
        for name, count in row.invalid.items():
            notes.append(
                f"* {row.name}: {count} of {row.pairs} values of {name} are NaN or infinite and "
                "left out of the mean."
            )
    if 0 < len(shared.images) < images:
        notes.append(
            f"Means and ranks are over the {len(shared.images)} of {images} pairs that every "
            "method has (see the failures)."
        )
    for row in rows if not shared.images else ():
        if row.pairs:
            notes.append(
                f"{row.name}: means over {row.pairs} of {images} pairs; the methods share none, so "
                "nothing is ranked or marked."
            )
    return notes


def _list(sentences: Sequence[str], kind: str) -> str:
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def _legend(columns: Sequence[_Column]) -> str:
    groups: dict[str, list[str]] = {}
    for column in columns:
        text = f"<b>{html.escape(column.name)}</b> {column.arrow}"
        if not column.selects:
            text += " (rewards noise)"
        groups.setdefault(column.group, []).append(text)
    return "".join(
        f"<div><dt>{html.escape(group)}</dt><dd>{', '.join(names)}</dd></div>"
        for group, names in groups.items()
    )


def _failures(tables: Mapping[str, Table]) -> str:
    """The section of failures, by image; nothing if there are none."""
    by_image: dict[str, dict[str, list[str]]] = {}
    for method, table in tables.items():
        for image, sentence in table.failures.items():
            by_image.setdefault(image, {}).setdefault(sentence, []).append(method)
    if not by_image:
        return ""
    items = []
    for image, sentences in by_image.items():
        told = "".join(
            f"<p>{html.escape(sentence)} <span class='muted'>("
            f"{'all methods' if len(methods) == len(tables) else html.escape(', '.join(methods))}"
            ")</span></p>"
            for sentence, methods in sentences.items()
        )
        items.append(f"<div><dt>{html.escape(image)}</dt><dd>{told}</dd></div>")
    return (
        '<section id="failures" aria-labelledby="failures-title">'
        '<h2 id="failures-title">Failures</h2>'
        "<p>These pairs have no scores of the methods named.</p>"
        f'<dl class="failures">{"".join(items)}</dl></section>'
    )


# ------------------------------------------------------------------------------------ data


def _data(
    tables: Mapping[str, Table],
    rows: Sequence[_Row],
    columns: Sequence[_Column],
    images: Sequence[str],
    album: Album,
    source_titles: tuple[str, str],
) -> dict[str, Any]:
    """What the script shows; indices instead of names, so that no name is ever a key.

    Methods come in the order of the table of means. Pictures of an image are listed as source a,
    source b, then the methods.
    """
    here = [row for row in rows if row.pairs is not None]
    labels = [*SOURCES, *(row.name for row in here)]
    shelves = [album.pictures.get(image, {}) for image in images]
    return {
        "metrics": [
            {"name": c.name, "arrow": c.arrow, "higher": c.higher, "digits": c.digits}
            for c in columns
        ],
        "images": list(images),
        "sources": list(source_titles),
        "methods": [
            {
                "name": row.name,
                "baseline": row.baseline,
                "means": _numbers(row.means, columns),
                "values": [_numbers(tables[row.name].rows.get(i), columns) for i in images],
                "failures": [tables[row.name].failures.get(image) for image in images],
            }
            for row in here
        ],
        "elsewhere": [
            {"name": row.name, "means": _numbers(row.means, columns)}
            for row in rows
            if row.pairs is None
        ],
        "sizes": [next((p.size for p in shelf.values()), None) for shelf in shelves],
        "pictures": [[_entry(shelf.get(label)) for label in labels] for shelf in shelves],
    }


def _entry(picture: Picture | None) -> list[Any] | None:
    if picture is None:
        return None
    uri = "data:image/jpeg;base64," + base64.b64encode(picture.jpeg).decode()
    return [uri, picture.quality, round(picture.scale, 4)]


def _numbers(
    values: Mapping[str, float] | None, columns: Sequence[_Column]
) -> list[float | str | None] | None:
    """Seven digits of each; what JSON has no number for as the text that JavaScript reads."""
    if values is None:
        return None
    return [None if c.name not in values else _number(values[c.name]) for c in columns]


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return float(f"{value:.7g}")
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _json(data: dict[str, Any]) -> str:
    """JSON that no HTML parser can mistake for markup; pure ASCII, U+2028 and U+2029 included."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"})
