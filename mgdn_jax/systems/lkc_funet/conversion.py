"""Published LKC-FUNet checkpoints: names and layouts."""

from collections.abc import Iterable
from typing import Any

from mgdn_jax.systems.rules import Row, Rules


def _network() -> Rules:
    """Rules of LKC-FUNet; its encoder, bottleneck and decoder are flat lists as published."""

    def normed(theirs: str, ours: str) -> tuple[Row, ...]:
        return ((theirs + r"block\.0", ours + "/norm", "norm"),
                (theirs + r"block\.3", ours + "/conv", "conv"))  # fmt: skip

    def residual(theirs: str, ours: str) -> tuple[Row, ...]:
        theirs += r"\.res_block\."
        return (
            *normed(theirs + r"block1\.", ours + "/first"),
            *normed(theirs + r"block2\.", ours + "/second"),
            (theirs + "res_conv", ours + "/shortcut", "conv"),
        )

    def large(theirs: str, ours: str) -> tuple[Row, ...]:
        theirs += r"\.res_block\."
        return (
            (theirs + "prelkb_bn", ours + "/norm", "norm"),
            *(
                (f"{theirs}{name}\\.{leaf}", f"{ours}/{place}", kind)
                for name, path in (
                    ("pw1", "widen"),
                    (r"large_kernel\.lkb_origin", "large"),
                    (r"large_kernel\.small_conv", "small"),
                    ("pw2", "narrow"),
                )
                for leaf, place, kind in (("conv", path, "conv"), ("bn", path + "_norm", "norm"))
            ),
        )

    def fusion(theirs: str, ours: str) -> tuple[Row, ...]:
        rules = (
            (r"multi\.local\.ca\.0", "squeeze", "conv"),
            (r"multi\.local\.ca\.2", "excite", "conv"),
            (r"multi\.global_\.proj\.0", "spatial", "conv"),
            (r"multi\.global_\.proj\.1", "spatial_norm", "norm"),
            (r"multi\.bn", "joint_norm", "norm"),
            ("selection", "select", "conv"),
            ("proj", "gate", "conv"),
            ("bn", "gate_norm", "norm"),
            (r"conv_block\.0", "out", "conv"),
        )
        return tuple((f"{theirs}\\.{a}", f"{ours}/{b}", kind) for a, b, kind in rules)

    rules = [
        ("init_conv", "stem", "conv"),
        (r"IN_conv\.0", "enter/norm", "norm"),
        (r"IN_conv\.3", "enter/conv", "conv"),
        *normed(r"final_conv\.", "head"),
        *residual(r"ups\.13", "join"),
    ]
    for i in range(3):
        rules += residual(rf"downs\.{3 * i}", f"encoder/{i}/residual")
        rules += large(rf"downs\.{3 * i + 1}", f"encoder/{i}/large")
        rules += [(rf"downs\.{3 * i + 2}\.conv", f"encoder/{i}/down", "conv")]
        rules += fusion(rf"ups\.{5 * i}", f"decoder/{i}/fusion")
        rules += residual(rf"ups\.{5 * i + 1}", f"decoder/{i}/residual")
        for j in range(1 if i == 2 else 2):
            rules += large(rf"ups\.{5 * i + 2 + j}", f"decoder/{i}/large/{j}")
    for i in range(2):
        rules += [(rf"ups\.{5 * i + 4}\.conv", f"decoder/{i}/up", "conv")]
        rules += large(rf"mid\.{i}", f"middle/{i}")
    modules = tuple((rf"(?:model\.)?{theirs}", ours, kind) for theirs, ours, kind in rules)

    def seen(state: Iterable[str]) -> dict[str, Any]:
        """Norms by the presence of running statistics, whatever the entries are called."""
        running = [name for name in state if name.endswith("running_mean")]
        stem = any("IN_conv.0." in name for name in running)
        blocks = any("lkb_origin.bn." in name for name in running)
        return {"norm_in": "batch" if stem else "instance",
                "norm_lk": "batch" if blocks else "layer"}  # fmt: skip

    return Rules(modules=modules, dead=(r".*\.num_batches_tracked",), seen=seen)


RULES = {"Network": _network()}

PUBLISHED: dict[str, dict[str, Any]] = {
    name: {
        "inputs": inputs,
        "inference": {"padding": "network", "chroma": "centred", "stretch": "none"},
    }
    for name, inputs in {"ivf": "infrared, visible", "mif": "CT/PET/SPECT, MRI"}.items()
}
"""Card entries of the published weights, by preset."""
