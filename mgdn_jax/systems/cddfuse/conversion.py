"""Published CDDFuse checkpoints: names and layouts."""

from typing import Any

from mgdn_jax.systems.rules import Row, Rules, restormer


def _base(theirs: str, ours: str) -> tuple[Row, ...]:
    """Rules of CDDFuse's base extractor."""
    rules = (
        (r"norm([12])\.body", r"/norm\1", "norm"),
        (r"attn\.scale", "/attention/temperature", "vector"),
        (r"attn\.qkv1", "/attention/qkv/project", "conv"),
        (r"attn\.qkv2", "/attention/qkv/local", "conv"),
        (r"attn\.proj", "/attention/project", "conv"),
        (r"mlp\.project_in", "/feed_forward/expand", "conv"),
        (r"mlp\.dwconv", "/feed_forward/local", "conv"),
        (r"mlp\.project_out", "/feed_forward/contract", "conv"),
    )
    return tuple((theirs + a, ours + b, kind) for a, b, kind in rules)


def _coupling(theirs: str, ours: str) -> tuple[Row, ...]:
    """Rules of CDDFuse's coupling nodes; the misspelt name is the published one."""
    block = theirs + r"net\.(\d+)\.theta_(phi|rho|eta)\.bottleneckBlock\."
    return (
        (theirs + r"net\.(\d+)\.shffleconv", ours + r"/nodes/\1/shuffle", "conv"),
        (block + "0", ours + r"/nodes/\1/\2/expand", "conv"),
        (block + "3", ours + r"/nodes/\1/\2/local", "conv"),
        (block + "5", ours + r"/nodes/\1/\2/contract", "conv"),
    )


_NETWORK = Rules(
    modules=(
        (r"DIDF_Encoder\.patch_embed\.proj", "encoder/stem", "conv"),
        *restormer(r"DIDF_Encoder\.encoder_level1()\.(\d+)\.", r"encoder/blocks/\2"),
        *_base(r"DIDF_Encoder\.baseFeature\.", "encoder/base"),
        *_coupling(r"DIDF_Encoder\.detailFeature\.", "encoder/detail"),
        *_base(r"BaseFuseLayer\.", "base_fusion"),
        *_coupling(r"DetailFuseLayer\.", "detail_fusion"),
        (r"DIDF_Decoder\.reduce_channel", "decoder/reduce", "conv"),
        *restormer(r"DIDF_Decoder\.encoder_level2()\.(\d+)\.", r"decoder/blocks/\2"),
        (r"DIDF_Decoder\.output\.0", "decoder/narrow", "conv"),
        (r"DIDF_Decoder\.output\.2", "decoder/last", "conv"),
    ),
)
RULES = {"Network": _NETWORK}

PUBLISHED: dict[str, dict[str, Any]] = {
    name: {
        "inputs": inputs,
        "inference": {"padding": "network", "chroma": "centred", "stretch": "none"},
        # What the published figures were made with.
        "published_inference": {"padding": "network", "chroma": "centred", "stretch": "minmax"},
    }
    for name, inputs in {
        "ivf": "infrared, visible",
        "mif": "CT/PET/SPECT, MRI",
        "mif_sum": "CT/PET/SPECT, MRI",
    }.items()
}
"""Card entries of the published weights, by preset."""
