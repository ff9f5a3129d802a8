"""The page of an evaluation: one HTML file with its tables, plots and pictures inside.

The page asks nothing of a network: styles, script, scores and pictures are part of it, and its
security policy allows nothing else. What can be read without a script (means, notes, failures,
versions) is written here; `page/page.js` sorts, plots and shows pictures from the scores
that travel along as JSON. One input gives one file, byte for byte.
"""

from __future__ import annotations

import base64
import html
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgdn_jax import metrics as ruler
from mgdn_jax.errors import InputError
from mgdn_jax.evaluation import pages
from mgdn_jax.evaluation.album import SOURCES, Album, Picture
from mgdn_jax.evaluation.scores import Table
from mgdn_jax.evaluation.standing import RANK_DIGITS, Row, Standing, shown
from mgdn_jax.io.disk import make_folder, write_atomically

_MARKS = (
    '<strong class="best">Bold</strong> is the best of a column, <u class="second">underlined</u> '
    "the second best; values alike at the digits shown share a mark. "
)


@dataclass(frozen=True)
class _Column:
    """One metric: how it is shown, and the place of each row."""

    name: str
    arrow: str
    higher: bool
    group: str
    selects: bool
    digits: int
    places: tuple[int | None, ...]


def _columns(standing: Standing) -> list[_Column]:
    columns = []
    for name in standing.columns:
        metric = ruler.resolve(name)
        means = [row.means.get(name, math.nan) for row in standing.rows]
        largest = max((abs(value) for value in means if math.isfinite(value)), default=0.0)
        digits = 4 if largest < 10 else 3 if largest < 100 else 2 if largest < 1000 else 1
        columns.append(
            _Column(
                name,
                metric.arrow,
                metric.higher_is_better,
                metric.group,
                metric.selects,
                digits,
                tuple(standing.places(name, digits)),
            )
        )
    return columns


# ------------------------------------------------------------------------------------ page


def write_report(
    folder: str | os.PathLike[str],
    *,
    title: str,
    standing: Standing,
    album: Album,
    command: str,
    versions: Mapping[str, str],
    variant: str,
    source_titles: tuple[str, str] = ("source A", "source B"),
    remarks: Sequence[str] = (),
) -> Path:
    """Writes `folder/index.html`, whole or not at all.

    Names of methods and images may hold any character.

    Args:
        folder: Made if missing.
        title: Heading of the page.
        standing: The methods with their scores, ranks and marks; rows from elsewhere that average
            other images are left out.
        album: Pictures of the tables' images; it may be empty.
        command: The command line that made the report, as it was typed.
        versions: Package to version, shown in this order.
        variant: Of the evaluator, `standard` or `cddfuse`.
        source_titles: What the pictures `a` and `b` of the album are called.
        remarks: Sentences to show under the table of means.

    Returns:
        The path of the page.

    Raises:
        InputError: if there is no table, a name stands for a source, or the place cannot be
            written.
    """
    tables = standing.tables
    _check_names(tables)
    images = list(
        dict.fromkeys(
            [image for table in tables.values() for image in table.rows]
            + [image for table in tables.values() for image in table.failures]
        )
    )
    standing = standing.by_rank()
    columns = _columns(standing)

    script = pages.part("stage.js") + pages.part("page.js")
    content = {name: pages.part(file) for name, file in pages.STAGE.items()} | {
        "title": html.escape(title),
        "script_hash": pages.digest(script),
        "style": pages.part("page.css"),
        "summary": _summary(standing, images, variant),
        "marks": _MARKS if len(standing.rows) > 1 else "",
        "means": _means(standing, columns, len(images)),
        "notes": _list(_notes(standing, columns, len(images)) + list(remarks), "notes"),
        "legend": _legend(columns),
        "pictures_note": html.escape(album.note(len(images))),
        "failures": _failures(tables),
        "command": html.escape(command),
        "versions": "".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(version)}</dd></div>"
            for name, version in versions.items()
        ),
        "variant": html.escape(variant),
        "data": pages.json_text(_data(standing, columns, images, album, source_titles)),
        "script": script,
    }
    page = pages.composed(pages.part("page.html"), content)
    make_folder(folder)
    path = Path(folder) / "index.html"
    # File names that are no Unicode come with lone surrogates, which no file can hold.
    write_atomically(path, page.encode("utf-8", "replace"))
    return path


def _check_names(tables: Mapping[str, Table]) -> None:
    if not tables:
        raise InputError("a report needs at least one method with its table of scores.")
    for name in SOURCES:
        if name in tables:
            raise InputError(f"a method of a report cannot be called {name!r}: rename it.")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _summary(standing: Standing, images: Sequence[str], variant: str) -> str:
    tables = standing.tables
    chips = [
        _count(len(images), "image pair"),
        _count(len(tables), "method"),
        _count(len(standing.columns), "metric"),
        f"{variant} evaluator",
    ]
    elsewhere = sum(row.kind == "elsewhere" for row in standing.rows)
    if elsewhere:
        chips.insert(2, f"{_count(elsewhere, 'row')} from elsewhere")
    failed = {image for table in tables.values() for image in table.failures}
    if failed:
        chips.append(f'<a href="#failures">{_count(len(failed), "image")} with failures</a>')
    return "".join(f"<li>{chip if '<a' in chip else html.escape(chip)}</li>" for chip in chips)


def _header(text: str, kind: str, first: str, *, sorted_by: bool = False) -> str:
    """A column head that sorts; `first` is the direction of its first click, best values first."""
    state = f' aria-sort="{first}"' if sorted_by else ""
    return (
        f'<th scope="col" class="{kind}" data-first="{first}"{state}>'
        f'<button type="button">{text}</button></th>'
    )


def _means(standing: Standing, columns: Sequence[_Column], images: int) -> str:
    """Head and body of the table of means."""
    head = [_header("method", "name", "ascending")]
    if standing.is_ranked:
        title = 'mean rank <span class="arrow">↓</span>'
        head.append(_header(title, "number", "ascending", sorted_by=True))
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
    body = []
    rank_places = standing.rank_places()
    for number, row in enumerate(standing.rows):
        tag = '<span class="tag">baseline</span>' if row.kind == "baseline" else ""
        is_foreign = row.kind == "elsewhere"
        dagger = '<abbr title="measured elsewhere">†</abbr>' if is_foreign else ""
        name = html.escape(row.name)
        cells = [f'<th scope="row" class="name" data-value="{name}">{name}{dagger}{tag}</th>']
        if standing.is_ranked:
            cells.append(_cell(row.rank, RANK_DIGITS, rank_places[number]))
        for column in columns:
            left_out = 0 if is_foreign else row.invalid.get(column.name, 0)
            value = row.means.get(column.name)
            cells.append(_cell(value, column.digits, column.places[number], left_out))
        if is_foreign:
            cells.append('<td class="number" data-value="">–</td>')
        else:
            few = ' class="number few"' if row.images < images else ' class="number"'
            cells.append(f'<td{few} data-value="{row.images}">{row.images}</td>')
        body.append(f'<tr class="{row.kind}">{"".join(cells)}</tr>')
    return f"<thead><tr>{''.join(head)}</tr></thead><tbody>{''.join(body)}</tbody>"


def _cell(value: float | None, digits: int, place: int | None, left_out: int = 0) -> str:
    if value is None:
        return '<td class="number" data-value="">–</td>'
    text = shown(value, digits)
    if place == 1:
        text = f'<strong class="best">{text}<span class="hidden"> (best)</span></strong>'
    elif place == 2:
        text = f'<u class="second">{text}<span class="hidden"> (second best)</span></u>'
    star = f'<abbr title="{left_out} left out">*</abbr>' if left_out else ""
    return f'<td class="number" data-value="{float(value)!r}">{text}{star}</td>'


def _notes(standing: Standing, columns: Sequence[_Column], images: int) -> list[str]:
    """Sentences under the table of means."""
    notes = []
    if standing.is_ranked:
        notes.append(
            "Mean rank: the mean over "
            + ", ".join(standing.ranked_by)
            + " of a row's rank among all rows that have them; 1 is best."
        )
    noisy = [column.name for column in columns if not column.selects]
    if noisy:
        verb, them = ("rewards", "it") if len(noisy) == 1 else ("reward", "them")
        notes.append(
            f"‡ {' and '.join([', '.join(noisy[:-1]), noisy[-1]] if noisy[:-1] else noisy)} "
            f"{verb} noise: a picture gains by being grainy, so the mean rank leaves {them} out."
        )
    here = [row for row in standing.rows if row.kind != "elsewhere"]
    if len(here) < len(standing.rows):
        notes.append(
            "† Means that were measured elsewhere, not by this command; no values per image."
        )
    notes += _gaps(here)
    common = len(standing.images)
    if 0 < common < images:
        notes.append(
            f"Means and ranks are over the {common} of {images} pairs that every "
            "method has (see the failures)."
        )
    for row in () if common else here:
        if row.images:
            notes.append(
                f"{row.name}: means over {row.images} of {images} pairs; the methods share none, "
                "so nothing is ranked or marked."
            )
    return notes


def _gaps(rows: Sequence[Row]) -> list[str]:
    """Sentences about means that leave values out."""
    return [
        f"* {row.name}: {count} of {row.images} values of {name} are NaN or infinite and "
        "left out of the mean."
        for row in rows
        for name, count in row.invalid.items()
    ]


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
        paragraphs = "".join(
            f"<p>{html.escape(sentence)} <span class='muted'>("
            f"{'all methods' if len(methods) == len(tables) else html.escape(', '.join(methods))}"
            ")</span></p>"
            for sentence, methods in sentences.items()
        )
        items.append(f"<div><dt>{html.escape(image)}</dt><dd>{paragraphs}</dd></div>")
    return (
        '<section id="failures" aria-labelledby="failures-title">'
        '<h2 id="failures-title">Failures</h2>'
        "<p>These pairs have no scores of the methods named.</p>"
        f'<dl class="failures">{"".join(items)}</dl></section>'
    )


# ------------------------------------------------------------------------------------ data


def _data(
    standing: Standing,
    columns: Sequence[_Column],
    images: Sequence[str],
    album: Album,
    source_titles: tuple[str, str],
) -> dict[str, Any]:
    """What the script shows; indices instead of names, so that no name is ever a key.

    Methods come in the order of the table of means. Pictures of an image are listed as source a,
    source b, then the methods.
    """
    here = [row for row in standing.rows if row.kind != "elsewhere"]
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
                "baseline": row.kind == "baseline",
                "means": _numbers(row.means, columns),
                "values": [_numbers(table.rows.get(image), columns) for image in images],
                "failures": [table.failures.get(image) for image in images],
            }
            for row, table in ((row, standing.tables[row.name]) for row in here)
        ],
        "elsewhere": [
            {"name": row.name, "means": _numbers(row.means, columns)}
            for row in standing.rows
            if row.kind == "elsewhere"
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
