"""Published EMMA checkpoints: names and layouts."""

from typing import Any

from mgdn_jax.systems.rules import Row, Rules


def _block(theirs: str, ours: str) -> tuple[Row, ...]:
    """Rules of a block of the U-Fuser."""
    whole = theirs + r"\.GlobalFeature\."
    local = theirs + r"\.LocalFeature\.Extraction\.([01])"
    return (
        (theirs + r"\.embed", ours + "/embed", "conv"),
        (whole + r"norm([12])\.body", ours + r"/whole/norm\1", "norm"),
        (whole + r"attn\.scale", ours + "/whole/attention/temperature", "vector"),
        (whole + r"attn\.qkv1", ours + "/whole/attention/qkv/project", "conv"),
        (whole + r"attn\.qkv2", ours + "/whole/attention/qkv/local", "conv"),
        (whole + r"attn\.proj", ours + "/whole/attention/project", "conv"),
        (whole + r"mlp\.project_in", ours + "/whole/feed_forward/expand", "conv"),
        (whole + r"mlp\.dwconv", ours + "/whole/feed_forward/local", "conv"),
        (whole + r"mlp\.project_out", ours + "/whole/feed_forward/contract", "conv"),
        (local + r"\.conv\.0", ours + r"/local/\1/first", "conv"),
        (local + r"\.conv\.2", ours + r"/local/\1/second", "conv"),
        (theirs + r"\.FFN", ours + "/join", "conv"),
    )


def _network() -> Rules:
    """Rules of the U-Fuser, whose scales are counted from 1."""
    rows: list[Row] = [(r"last\.0", "last", "conv")]
    for scale in range(4):
        for letter, name in (("I", "infrared"), ("V", "visible")):
            rows += _block(rf"{letter}_en_{scale + 1}", f"{name}/blocks/{scale}")
            rows += [(rf"{letter}_down{scale + 1}", f"{name}/down/{scale}/conv", "conv")]
        rows += _block(rf"f_{scale + 1}", f"fusion/{scale}")
        rows += _block(rf"de_{scale + 1}", f"decoder/{3 - scale}")
        rows += [(rf"up{scale + 1}\.0", f"up/{3 - scale}", "conv")]
    return Rules(modules=tuple(rows))


def _sensing() -> Rules:
    """Rules of a sensing network, whose levels are counted from 1."""
    rows: list[Row] = [(r"last\.0", "last", "conv")]
    for level in range(5):
        places = [(rf"down{level + 1}", f"down/{level}")]
        places += [(rf"up{level + 1}", f"up/{3 - level}")] if level < 4 else []
        for theirs, ours in places:
            for i in range(2):
                rows += [
                    (rf"{theirs}\.conv\.{3 * i}", f"{ours}/convs/{i}", "conv"),
                    (rf"{theirs}\.conv\.{3 * i + 1}", f"{ours}/norms/{i}", "norm"),
                ]
        rows += [(rf"up_sample{level + 1}\.0", f"grow/{4 - level}", "conv")] if level else []
    return Rules(modules=tuple(rows), dead=(r".*\.num_batches_tracked",))


RULES = {"Network": _network(), "SensingNetwork": _sensing()}

PUBLISHED: dict[str, dict[str, Any]] = {
    name: {
        "inputs": inputs,
        "inference": {"padding": "network", "chroma": "centred", "stretch": "none"},
        # What the published figures were made with.
        "published_inference": {"padding": "network", "chroma": "centred", "stretch": "minmax"},
    }
    for name, inputs in {"ivf": "infrared, visible", "mif": "CT/PET/SPECT, MRI"}.items()
}
"""Card entries of the published weights, by preset."""
