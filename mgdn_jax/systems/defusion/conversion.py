"""Published DeFusion checkpoints: names and layouts."""

from typing import Any

from mgdn_jax.systems.rules import Row, Rules


def _row(theirs: str, ours: str) -> tuple[Row, ...]:
    """Rules of a row of bottlenecks; the pattern has no group."""
    block, path = theirs + r"\.layer\.(\d+)\.", ours + r"/blocks/\1/"
    return (
        (block + "conv1", path + "narrow", "conv"),
        (block + r"conv2\.conv", path + "attention", "conv"),
        (block + r"conv2\.fc1", path + "attention/squeeze", "conv"),
        (block + r"conv2\.fc2", path + "attention/excite", "conv"),
        (block + "conv3", path + "widen", "conv"),
        (block + r"downsample\.[01]", path + "shortcut", "conv"),
    )


def _decoder(theirs: str, ours: str) -> tuple[Row, ...]:
    rows = (
        row
        for i in range(4)
        for row in _row(f"{theirs}_layer{i + 1}" + r"(?:\.0)?", f"{ours}/rows/{i}")
    )
    return (*rows, (f"{theirs}_projection_layer" + r"\.0", f"{ours}/project", "conv"))


RULES = {
    "Network": Rules(
        modules=(
            (r"encoder_upper\.0", "parts/encoder/stem", "conv"),
            *_row(r"encoder_upper\.2", "parts/encoder/rows/0"),
            *(
                row
                for i in (1, 2, 3)
                for row in _row(f"upper_encoder_layer{i}", f"parts/encoder/rows/{i}")
            ),
            *_row(r"common_encoder\.0", "parts/ensembler"),
            *_decoder("decoder_upper", "parts/unique"),
            *_decoder("decoder_common", "parts/common"),
            (r"fusion_rule\.0", "rule/project", "conv"),
        ),
        # Stored in every file, and read by one published class only.
        optional=(r"decoder_common_projection_layer\.0\.(?:weight|bias)",),
        # What both pictures go through is stored under the names of both.
        twin=(r"((?:en|de)coder_|)lower(_encoder_layer[123]\..+|_.+|\..+)", r"\1upper\2"),
    )
}

_ROLES = "infrared, visible; over-, under-exposed; near, far"
PUBLISHED: dict[str, dict[str, Any]] = {
    name: {
        "inputs": _ROLES,
        "inference": {"padding": "network", "stretch": "none"},
        "published_inference": {"padding": "network", "stretch": "none"},
    }
    for name in "abcd"
}
"""Card entries of the published weights, by preset."""
