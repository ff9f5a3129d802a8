"""The table of means as text for a paper or a page: LaTeX and Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from mgdn_jax.evaluation.standing import RANK_DIGITS, Standing, head, shown

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "∞": r"$\infty$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "†": r"$^{\dagger}$",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
}
_MARKDOWN = re.compile(r"[\\`*<>\[\]|]|(?<!\w)_|_(?!\w)")  # an underscore inside a word is safe


def latex(standing: Standing, notes: Sequence[str] = ()) -> str:
    r"""A `tabular` with the rules of booktabs, the best bold and the second underlined.

    Args:
        standing: The rows with their ranks and marks; rows of one kind stand together between
            rules.
        notes: Sentences for comments above the table.

    Returns:
        Text for `\input`, with `\usepackage{booktabs}` in the preamble.
    """
    marks = {1: r"\textbf{%s}", 2: r"\underline{%s}", None: "%s"}
    cells = _cells(standing, _in_latex, marks, gap="--")
    lines = [f"% {_one_line(note)}" for note in notes]
    lines += [
        r"\begin{tabular}{l" + "r" * (len(cells[0]) - 1) + "}",
        r"\toprule",
        " & ".join(_in_latex(title) for title in _heads(standing)) + r" \\",
    ]
    kind = None
    for row, texts in zip(standing.rows, cells, strict=True):
        if row.kind != kind:
            lines.append(r"\midrule")
        kind = row.kind
        lines.append(" & ".join(texts) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def markdown(standing: Standing, notes: Sequence[str] = ()) -> str:
    """A table in GitHub's Markdown, the best bold and the second underlined.

    Args:
        standing: The rows with their ranks and marks.
        notes: Sentences for a list below the table.

    Returns:
        The text.
    """
    marks = {1: "**%s**", 2: "<u>%s</u>", None: "%s"}
    cells = _cells(standing, _in_markdown, marks, gap="–")
    heads = [_in_markdown(title) for title in _heads(standing)]
    lines = [f"| {' | '.join(heads)} |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    lines += [f"| {' | '.join(texts)} |" for texts in cells]
    if notes:
        lines += ["", *(f"- {_in_markdown(_one_line(note))}" for note in notes)]
    return "\n".join([*lines, ""])


def _heads(standing: Standing) -> list[str]:
    """Titles of the columns."""
    titles = ["method"]
    if standing.counts_differ:
        titles.append("images")
    titles += [head(name) for name in standing.columns]
    return [*titles, "mean rank ↓"] if standing.is_ranked else titles


def _cells(
    standing: Standing, escape: Callable[[str], str], marks: dict[int | None, str], gap: str
) -> list[list[str]]:
    """The cells of every row, escaped and marked."""
    texts = [[escape(_one_line(row.title))] for row in standing.rows]
    if standing.counts_differ:
        for cells, row in zip(texts, standing.rows, strict=True):
            cells.append(str(row.images))
    for metric in standing.columns:
        places = standing.places(metric)
        for cells, row, place in zip(texts, standing.rows, places, strict=True):
            value = row.means.get(metric)
            cells.append(gap if value is None else marks[place] % escape(shown(value)))
    if standing.is_ranked:
        for cells, row, place in zip(texts, standing.rows, standing.rank_places(), strict=True):
            text = gap if row.rank is None else shown(row.rank, RANK_DIGITS)
            cells.append(marks[place] % text)
    return texts


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _in_markdown(text: str) -> str:
    return _MARKDOWN.sub(lambda match: "\\" + match[0], text)


def _one_line(text: str) -> str:
    """The text without line breaks and other control characters, which would end a row."""
    return "".join(c if c.isprintable() else " " for c in text)
