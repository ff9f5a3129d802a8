"""`mgdn eval --compare`: whether one method is better than another, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from mgdn_jax import metrics as ruler
from mgdn_jax.cli.output import console, emit_json, say
from mgdn_jax.errors import InputError, printable
from mgdn_jax.evaluation import comparison, scores


def compare(
    paths: Sequence[str],
    *,
    metrics: str | None,
    variant: str,
    json: str | None,
    is_quiet: bool,
) -> int:
    """Runs `mgdn eval --compare`: the first method against each other one.

    Args:
      paths: CSV files of scores.
      metrics: names as they were typed; None for all that the files share.
      variant: of the evaluator, for names that it resolves.
      json: a file, "-" for stdout, or None.
      is_quiet: prints no table.

    Returns:
      0.

    Raises:
      InputError: files that hold no scores, or share no image or metric.
    """
    tables: dict[str, scores.Table] = {}
    for path in paths:
        for method, table in scores.read_tables(path).items():
            folder = Path(path).parent.name
            title = f"{folder}/{method}" if method in tables and folder else method
            if title in tables:
                raise InputError(f"{path} holds {method}, which is there already; rename the file.")
            tables[title] = table
    if len(tables) < 2:
        raise InputError("a comparison needs two methods; give two CSV files of mgdn eval --csv.")
    wanted = None
    if metrics is not None:
        wanted = [ruler.resolve(name, variant).name for name in ruler.names(metrics)]
    first = next(iter(tables))
    results = comparison.compare_all(tables, first, wanted)
    shared = [c for c in tables[first].columns if all(c in t.columns for t in tables.values())]
    ranked = ruler.ranked(c for c in shared if wanted is None or c in wanted)
    ranks, images = comparison.image_ranks(tables, ranked) if ranked else ({}, 0)
    content = {
        "mean_rank": ranks,
        "ranked_by": list(ranked),
        "ranked_over": images,
        "alpha": comparison.ALPHA,
        "comparisons": [_content(result) for result in results],
    }
    emit_json(content, json)
    if json != "-" and not is_quiet:
        _say(results, ranks, ranked, images)
    return 0


def _content(result: comparison.Comparison) -> dict[str, Any]:
    return {
        "first": result.first,
        "second": result.second,
        "images": len(result.images),
        "only_first": list(result.only_first),
        "only_second": list(result.only_second),
        "metrics": {
            contest.metric: {
                **{k: v for k, v in contest.__dict__.items() if k != "metric"},
                "verdict": contest.verdict,
            }
            for contest in result.contests
        },
    }


def _say(
    results: Sequence[comparison.Comparison],
    ranks: Mapping[str, float],
    ranked: Sequence[str],
    images: int,
) -> None:
    out = console()
    for result in results:
        # Text, not markup: a method's name may hold brackets.
        pair = f"{result.first} against {result.second}"
        title = Text(printable(f"{pair}, {len(result.images)} images"))
        table = Table(title=title, title_justify="left")
        for head in ("metric", result.first, result.second):
            table.add_column(Text(printable(head)), justify="left" if head == "metric" else "right")
        for head in ("wins", "ties", "losses", "effect", "p", "p (Holm)"):
            table.add_column(head, justify="right")
        table.add_column("shown to be better")
        for contest in result.contests:
            verdict = {"first": result.first, "second": result.second}.get(
                contest.verdict, {"not shown": "-"}.get(contest.verdict, contest.verdict)
            )
            table.add_row(
                _head(contest),
                f"{contest.mean_a:.4f}",
                f"{contest.mean_b:.4f}",
                *(str(n) for n in (contest.wins, contest.ties, contest.losses)),
                f"{contest.effect:+.2f}",
                _p(contest.p),
                _p(contest.p_holm),
                Text(printable(verdict)),
            )
        say(out, table)
        for contest in result.contests:
            if contest.n < len(result.images):
                say(out, f"{contest.metric}: both have a number on {contest.n} images only")
        for name, only in ((result.first, result.only_first), (result.second, result.only_second)):
            if only:
                shown = ", ".join(only[:5]) + (", ..." if len(only) > 5 else "")
                say(out, f"left out, scored for {name} alone: {shown} ({len(only)})")
    if any(not ruler.METRICS[c.metric].selects for result in results for c in result.contests):
        say(out, "‡ rewards noise, or says little by itself: no reason to prefer a method")
    if ranks:
        listed = ", ".join(f"{n} {r:.2f}" for n, r in sorted(ranks.items(), key=lambda i: i[1]))
        say(out, f"mean rank on {images} images over {' '.join(ranked)}: {listed}")
    say(
        out,
        "Wilcoxon's signed rank test on the paired differences, two-sided, corrected for the "
        f"number of tests (Holm), level {comparison.ALPHA}; effect: rank-biserial, +1 if the "
        "first is better on every image",
    )


def _head(contest: comparison.Contest) -> str:
    metric = ruler.METRICS[contest.metric]
    return f"{metric.name} {metric.arrow}{'' if metric.selects else ' ‡'}"


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 1e-4 else f"{value:.0e}"
