"""Published ReFusion checkpoints: names and layouts."""

from typing import Any

from mgdn_jax.systems.rules import Row, Rules, numbered, restormer

# An empty group where a path has one number only, so that `restormer` counts alike everywhere.
_ENCODERS = numbered(*restormer(r"encoder{n}()\.(\d+)\.", r"encoders/{i}/\2"))
_TWIN = (r"(.+)\.conv\.weight", r"\1.weight")
_NETWORK = Rules(
    modules=(
        *_ENCODERS,
        *restormer(r"decoder()\.(\d+)\.", r"decoder/\2"),
        *numbered(
            (r"project_in_{n}", "stems/{i}", "conv"),
            (r"FM\.temperature{n}", "fusion/attentions/{i}/temperature", "vector"),
            (r"FM\.qkv{n}", "fusion/attentions/{i}/qkv/project", "conv"),
            (r"FM\.qkv{n}_dwconv", "fusion/attentions/{i}/qkv/local", "conv"),
            (r"FM\.project_mid{n}", "fusion/attentions/{i}/project", "conv"),
            (r"FM\.project_E{n}", "fusion/values/{i}", "conv"),
            (r"FM\.project_E{n}_d", "fusion/values_local/{i}", "conv"),
            (r"FM\.project_out{n}", "fusion/outs/{i}", "conv"),
        ),
        (r"FM\.project_E", "fusion/gates", "conv"),
        (r"FM\.project_E_d", "fusion/gates_local", "conv"),
        (r"project_out_0", "reduce", "conv"),
        (r"project_out_1", "last", "conv"),
    ),
    twin=_TWIN,
)


def _proposal(theirs: str, ours: str) -> tuple[Row, ...]:
    """Rules of one branch of ReFusion's proposal module."""
    rules = (
        *_ENCODERS,
        *restormer(r"encoder3()\.(\d+)\.", r"joint/\2"),
        *numbered((r"patch_embed{n}", "stems/{i}", "conv")),
        (r"out1", "reduce", "conv"),
        (r"out2\.weight", "slope", "array"),
        (r"out3", "last", "conv"),
    )
    return tuple((theirs + a, ours + b, kind) for a, b, kind in rules)


# A network of one branch is published without a prefix, two as LPN1 and LPN2.
_PROPOSAL = Rules(
    modules=(
        *_proposal("", "intensity/"),
        *_proposal(r"LPN1\.", "intensity/"),
        *_proposal(r"LPN2\.", "gradient/"),
    ),
    twin=_TWIN,
)
_RECONSTRUCTION = Rules(
    modules=(
        *_ENCODERS,
        *numbered(
            (r"patch_embed{n}", "stems/{i}", "conv"),
            (r"out{n}_1", "reduce/{i}", "conv"),
            (r"out{n}_3", "last/{i}", "conv"),
        ),
    ),
    twin=_TWIN,
)
RULES = {
    "Network": _NETWORK,
    "ProposalNetwork": _PROPOSAL,
    "ReconstructionNetwork": _RECONSTRUCTION,
}

_INPUTS = {
    "ivf": "infrared, visible",
    "mif": "CT/PET/SPECT, MRI",
    "mff": "near, far",
    "mef": "under-, over-exposed",
}
PUBLISHED: dict[str, dict[str, Any]] = {
    name: {
        "inputs": inputs,
        "inference": {"padding": "network", "chroma": "centred", "stretch": "none"},
        # What the published pictures and figures were made with.
        "published_inference": {"padding": "network", "chroma": "parity", "stretch": "minmax"},
    }
    for name, inputs in _INPUTS.items()
}
"""Card entries of the published weights, by preset."""
