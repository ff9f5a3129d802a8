"""Published checkpoints of the segmentation network: names and layouts.

The release holds a dictionary of the network and of two numbers. Take the network out of it first:
``torch.save(torch.load(file)["segmenter"], file)``. The fusion network is this project's own, so
that `RULES` has no table for it.
"""

from typing import Any

from mgdn_jax.systems.rules import Row, Rules

_SECOND = "_relu_varout_dimred"


def _normed(conv: str, norm: str, ours: str) -> list[Row]:
    """A shared convolution and the norms of its branches."""
    return [
        (rf"{conv}\.module", f"{ours}/conv", "conv"),
        (rf"{norm}\.bn_(?P<m>\d+)", rf"{ours}/norm/norms/\g<m>", "norm"),
    ]


def _stage(number: int) -> list[Row]:
    """Bottlenecks of a stage, which are counted from 0, the stage from 1."""
    block, ours = rf"layer{number}\.(?P<i>\d+)", rf"stages/{number - 1}/\g<i>"
    rows = _normed(rf"{block}\.downsample\.0", rf"{block}\.downsample\.1", f"{ours}/shortcut")
    for n, name in enumerate(("enter", "middle", "leave"), 1):
        rows += _normed(rf"{block}\.conv{n}", rf"{block}\.bn{n}", f"{ours}/{name}")
    return rows


def _level(number: int) -> list[Row]:
    """The decoder at a scale, counted from the deepest."""
    ours = f"decoder/{number - 1}"
    adapt, flow = rf"adapt_stage{number}_b", rf"mflow_conv_g{number}_b"
    rows: list[Row] = [
        (rf"p_ims1d2_outl{number}_dimred\.module", f"{ours}/reduce", "conv"),
        (rf"{adapt}2_joint_varout_dimred\.module", f"{ours}/join", "conv"),
        (rf"{flow}3_joint_varout_dimred\.module", f"{ours}/leave", "conv"),
    ]
    for k in range(4):
        pool = rf"mflow_conv_g{number}_pool\.0\.{k + 1}_outvar_dimred\.module"
        rows.append((pool, f"{ours}/pool/convs/{k}", "conv"))
        for theirs, name in ((adapt, "adapt"), (flow, "flow")):
            unit = rf"{theirs}\.0\.{k + 1}_conv"
            rows.append((rf"{unit}\.module", f"{ours}/{name}/first/{k}", "conv"))
            rows.append((rf"{unit}{_SECOND}\.module", f"{ours}/{name}/second/{k}", "conv"))
    return rows


RULES = {
    "Segmentation": Rules(
        modules=(
            *_normed("conv1", "bn1", "stem"),
            *(row for number in range(1, 5) for row in _stage(number)),
            *(row for number in range(1, 5) for row in _level(number)),
            (r"clf_conv\.module", "classifier", "conv"),
            ("alpha", "alpha", "array"),
        ),
        dead=(r".*\.num_batches_tracked",),
    )
}
PUBLISHED: dict[str, dict[str, Any]] = {}
