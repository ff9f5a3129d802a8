"""Published MGDN checkpoints: names and layouts."""

from typing import Any

from mgdn_jax.systems.rules import Rules

_BLOCK = r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\."
_MGDF = r"layers\.(\d+)\.MGF\."
_NETWORK = Rules(
    modules=(
        (r"inconv1", "stems/0", "conv"),
        (r"inconv2", "stems/1", "conv"),
        (r"conv1", "stems/0", "conv"),
        (r"conv_after_body\.0", "body", "conv"),
        (r"conv_last\.0", "last", "conv"),
        (_MGDF + r"TCA\.temperature", r"layers/\1/mgdf/attention/temperature", "vector"),
        (_MGDF + r"TCA\.q", r"layers/\1/mgdf/attention/query", "conv"),
        (_MGDF + r"TCA\.q_dwconv", r"layers/\1/mgdf/attention/query_local", "conv"),
        (_MGDF + r"TCA\.kv", r"layers/\1/mgdf/attention/key_value", "conv"),
        (_MGDF + r"TCA\.kv_dwconv", r"layers/\1/mgdf/attention/key_value_local", "conv"),
        (_MGDF + r"TCA\.project_out", r"layers/\1/mgdf/attention/project", "conv"),
        (
            _MGDF + r"kernel_predictor_(?:ref|under)\.([01])\.0",
            r"layers/\1/mgdf/predictors/0/convs/\2",
            "conv",
        ),
        (_MGDF + r"kernel_predictor_(?:ref|under)\.2", r"layers/\1/mgdf/predictors/0/out", "conv"),
        (
            _MGDF + r"kernel_predictor_(?:ext|over)\.([01])\.0",
            r"layers/\1/mgdf/predictors/1/convs/\2",
            "conv",
        ),
        (_MGDF + r"kernel_predictor_(?:ext|over)\.2", r"layers/\1/mgdf/predictors/1/out", "conv"),
        (_MGDF + r"conv_out_1\.0", r"layers/\1/mgdf/outs/0", "conv"),
        (_MGDF + r"conv_out_2\.0", r"layers/\1/mgdf/outs/1", "conv"),
        (_MGDF + r"conv_ref\.([01])\.0", r"layers/\1/mgdf/reference/\2", "conv"),
        (_BLOCK + r"norm([12])", r"layers/\1/blocks/\2/norm\3", "norm"),
        (_BLOCK + r"attn\.qkv", r"layers/\1/blocks/\2/attention/qkv", "linear"),
        (_BLOCK + r"attn\.proj", r"layers/\1/blocks/\2/attention/project", "linear"),
        (
            _BLOCK + r"attn\.relative_position_bias_table",
            r"layers/\1/blocks/\2/attention/position_bias",
            "array",
        ),
        (_BLOCK + r"mlp\.fc1", r"layers/\1/blocks/\2/expand", "linear"),
        (_BLOCK + r"mlp\.fc2", r"layers/\1/blocks/\2/contract", "linear"),
        (_BLOCK + r"lce\.conv\.([012])", r"layers/\1/blocks/\2/local/convs/\3", "conv"),
        (_BLOCK + r"lce\.fc\.0", r"layers/\1/blocks/\2/local/squeeze", "linear"),
        (_BLOCK + r"lce\.fc\.2", r"layers/\1/blocks/\2/local/excite", "linear"),
        (r"layers\.(\d+)\.dilated_conv", r"layers/\1/dilated", "conv"),
        (r"layers\.(\d+)\.adjust_channel", r"layers/\1/merge", "conv"),
        (r"layers\.(\d+)\.adjust_channel_01", r"layers/\1/branches/0", "conv"),
        (r"layers\.(\d+)\.adjust_channel_02", r"layers/\1/branches/1", "conv"),
        (r"layers\.(\d+)\.adjust_channel_03", r"layers/\1/branches/2", "conv"),
    ),
    dead=(
        r"patch_embed\.norm\.(weight|bias)",
        r"norm\.(weight|bias)",
        r".*\.attn\.relative_position_index",
        r".*\.attn_mask",
        r"attn_mask",
    ),
    # Only read where there are three branches.
    optional=(r"layers\.\d+\.adjust_channel_03\.(weight|bias)",),
)
RULES = {"Network": _NETWORK}

# The released MFF and MEF scripts always grow pictures by 1 to 8 mirrored rows and columns.
PUBLISHED: dict[str, dict[str, Any]] = {
    name: {"inference": {"padding": "script" if name in ("mff", "mef") else "network"}}
    for name in ("mff", "mef", "gdsr", "gdsr16", "hdr")
}
"""Card entries of the published weights, by preset."""
