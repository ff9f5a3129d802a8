"""Measuring: fusion methods over sets of pairs, tables, comparisons, reports."""

from mgdn_jax.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "methods": (
            "Fuse",
            "Method",
            "MethodError",
            "Pair",
            "Rule",
            "Source",
            "Stored",
            "evaluate_methods",
            "evaluate_pairs",
            "pixels_of",
        ),
        "scores": (
            "Common",
            "Scores",
            "Table",
            "common",
            "mean_ranks",
            "read_tables",
            "write_tables",
        ),
        "summaries": ("Summary", "published", "read_summaries", "write_summaries"),
        "standing": ("Row", "Standing", "rank_methods", "rank_rows"),
        "comparison": ("compare", "compare_all"),
        "baselines": ("BASELINES",),
        "report": ("write_report",),
        "typeset": ("latex", "markdown"),
        "album": ("Album",),
    },
)
