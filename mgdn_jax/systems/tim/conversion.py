"""Published TIM checkpoints: names and layouts.

The release has two files for a pair of networks. They convert as one, under the names of the two
parts: ``torch.save({"initial": torch.load(first), "enhancement": torch.load(second)}, both)``.
The blur kernels that it stores with every halving are constants here.
"""

from typing import Any

import numpy as np

from mgdn_jax.systems.rules import Row, Rules

_BINOMIAL = np.outer([1, 2, 1], [1, 2, 1]) / 16
_COUNTS = r".+\.num_batches_tracked"


def _below(theirs: str, ours: str, rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Rows of a part, whose names begin so; groups of ``theirs`` come first."""
    return tuple((theirs + a, ours + b, kind) for a, b, kind in rows)


# The names of one primitive; those of several kinds overlap, and a network has one at a place.
_PRIMITIVE: tuple[Row, ...] = (
    (r"op\.0\.conv", "local", "conv"),  # Residualblocks
    (r"op\.1", "wide", "conv"),
    (r"op\.2", "project", "conv"),
    (r"op\.3", "norm", "norm"),
    (r"op\.4\.weight", "act/slope", "array"),
    (r"op\.1\.conv", "local", "conv"),  # DilConv
    (r"op\.1", "locals/0", "conv"),  # SepConv
    (r"op\.2", "projects/0", "conv"),
    (r"op\.3", "norms/0", "norm"),
    (r"op\.5", "locals/1", "conv"),
    (r"op\.6", "projects/1", "conv"),
    (r"op\.7", "norms/1", "norm"),
    (r"conv1\.conv", "convs/0", "conv"),  # Denseblocks
    (r"conv2\.conv", "convs/1", "conv"),
    (r"conv3\.conv", "convs/2", "conv"),
    (r"lrelu\.weight", "act/slope", "array"),
    (r"se\.conv\.weight", "taps", "vector"),  # attentions
    (r"conv1", "conv", "conv"),
    (r"relu\.weight", "act/slope", "array"),
    (r"se\.spatial\.conv", "conv", "conv"),
)
_DOWN: tuple[Row, ...] = (
    (r"top\.0", "enter", "conv"),
    (r"top\.1\.weight", "enter_act/slope", "array"),
    (r"top\.2", "conv", "conv"),
    (r"top\.3\.weight", "act/slope", "array"),
    (r"top\.5", "leave", "conv"),
    (r"bot\.1", "plain", "conv"),
)
_UP: tuple[Row, ...] = (
    *_DOWN[:2],
    (r"top\.2", "conv", "transposed"),
    _DOWN[3],
    (r"top\.4", "leave", "conv"),
    _DOWN[5],
)
_STEM: tuple[Row, ...] = (
    (r"0\.conv2d", "wide", "conv"),
    (r"1\.weight", "wide_act/slope", "array"),
    (r"2\.conv2d", "narrow", "conv"),
    (r"3\.weight", "act/slope", "array"),
)
_NORMED_STEM: tuple[Row, ...] = (
    *_STEM[:3],
    (r"3", "norm", "norm"),
    (r"4\.weight", "act/slope", "array"),
)
_HEAD: tuple[Row, ...] = (
    (r"0\.conv2d", "first", "conv"),
    (r"1\.weight", "act/slope", "array"),
    (r"2\.conv2d", "second", "conv"),
    (r"3\.conv2d", "last", "conv"),
)
_TAIL: tuple[Row, ...] = (
    (r"0\.conv2d", "first", "conv"),
    (r"1\.conv2d", "second", "conv"),
    (r"2\.conv2d", "last", "conv"),
)
_CELL: tuple[Row, ...] = (
    (r"preprocess1\.op\.1", "entrance/project", "conv"),
    (r"preprocess1\.op\.2", "entrance/norm", "norm"),
    *_below(r"_ops\.(\d+)\._op\.", r"operations/\2/", _PRIMITIVE),
    *_below(r"_ops\.(\d+)\._op\.", r"scales/0/\2/", _PRIMITIVE),
    *_below(r"_ops_(\d)\.(\d+)\._op\.", r"scales/\2/\3/", _PRIMITIVE),
    *_below(r"down_2\.body\.(\d)\.", r"down2/\2/", _DOWN),
    *_below(r"down_4\.body\.(\d)\.", r"down4/\2/", _DOWN),
    *_below(r"upsample_2\.body\.(\d)\.", r"up2/\2/", _UP),
    *_below(r"upsample_4\.body\.(\d)\.", r"up4/\2/", _UP),
    (r"SKFF\.conv_du\.0", "select/squeeze", "conv"),
    (r"SKFF\.conv_du\.1\.weight", "select/act/slope", "array"),
    (r"SKFF\.fcs\.(\d)", r"select/gates/\2", "conv"),
)


def _branch(number: int, cells: int, ours: str) -> tuple[Row, ...]:
    """Rows of a branch of the second network; the release counts stems and cells crosswise."""
    return (
        *_below(rf"enhancement\.stem{number}\.", f"{ours}/stem/", _NORMED_STEM),
        *_below(rf"enhancement\.stem_out{number}\.", f"{ours}/head/", _HEAD),
        *_below(rf"enhancement\.cells{cells}\.(\d)\.", rf"{ours}/cells/\1/", _CELL),
    )


RULES = {
    "Network": Rules(
        modules=(
            *_below(r"initial\.stem\.", "initial/stem/", _STEM),
            *_below(r"initial\.stem_out\.", "initial/head/", _HEAD),
            *_below(r"initial\.cells\.(\d)\.", r"initial/cells/\1/", _CELL),
            *_branch(2, 3, "enhancement/first"),
            *_branch(3, 2, "enhancement/second"),
            *_below(r"enhancement\.stem_out4\.", "enhancement/tail/", _TAIL),
            (r"enhancement\.spa\.spatial\.conv", "enhancement/mask", "conv"),
        ),
        dead=(_COUNTS,),
        constants=((r".+\.(?:top\.4|bot\.0)\.filt", _BINOMIAL),),
    )
}

_CLIPPED = {"padding": "network", "chroma": "centred", "stretch": "none"}
PUBLISHED: dict[str, dict[str, Any]] = {
    name: {"inputs": inputs, "inference": _CLIPPED}
    for name, inputs in {
        "ivf": "infrared, visible",
        "light": "infrared, visible",
        "ct": "CT, MRI",
        "pet": "PET, MRI",
        "spect": "SPECT, MRI",
    }.items()
}
"""Card entries of the published weights, by preset."""
