"""Networks of DeFusion whose weights follow from their names, as those of the goldens do."""

import dataclasses
import zlib

import numpy as np

from mgdn_jax.systems import registry
from mgdn_jax.systems.defusion.network import PRESETS, Config
from mgdn_jax.weights import conversion

NARROW = {
    "stem": 8,
    "encoder": (2, 4, 8, 16),
    "code": 64,
    "unique": (24, 8, 4, 2),
    "common": (16, 4, 2, 2),
}
RULES = conversion.rules_of("defusion")
TINY = Config(
    stem=4,
    encoder=(2, 2, 2, 2),
    encoder_depths=(1, 1, 1, 1),
    code=2,
    code_depth=1,
    unique=(2, 2, 2, 2),
    unique_depths=(1, 1, 1, 1),
    common=(2, 2, 2, 2),
    common_depths=(1, 1, 1, 1),
    border=2,
)


def narrow(letter, **fields):
    """The published form of that letter at a quarter of its widths, without a border."""
    return dataclasses.replace(PRESETS[letter], **{**NARROW, "border": 0, **fields})


def _published(path):
    """The published name of a parameter of ours, its first one."""
    parts, leaf = path.rsplit("/", 1)
    leaf = {"kernel": "weight", "bias": "bias"}[leaf]
    if parts == "rule/project":
        return f"fusion_rule.0.{leaf}"
    if parts == "parts/encoder/stem":
        return f"encoder_upper.0.{leaf}"
    words = parts.split("/")[1:]
    if words[0] == "encoder":
        row, rest = int(words[2]), words[3:]
        head = f"upper_encoder_layer{row}" if row else "encoder_upper.2"
    elif words[0] == "ensembler":
        head, rest = "common_encoder.0", words[1:]
    else:
        side = {"unique": "decoder_upper", "common": "decoder_common"}[words[0]]
        if words[1] == "project":
            return f"{side}_projection_layer.0.{leaf}"
        row, rest = int(words[2]), words[3:]
        head = f"{side}_layer{row + 1}" + (".0" if row == 3 else "")
    shortcut = "downsample.1" if words[0] in ("encoder", "ensembler") else "downsample.0"
    inner = {
        "narrow": "conv1",
        "attention": "conv2.conv",
        "attention/squeeze": "conv2.fc1",
        "attention/excite": "conv2.fc2",
        "widen": "conv3",
        "shortcut": shortcut,
    }["/".join(rest[2:])]
    return f"{head}.layer.{rest[1]}.{inner}.{leaf}"


def state_of(config, salt=""):
    """A published state dictionary of a network: all names, second ones too, weights by rule."""
    state = {}
    for path, shape in registry.abstract("defusion", config)[1].items():
        sizes = shape.shape
        sizes = (sizes[3], sizes[2], sizes[0], sizes[1]) if len(sizes) == 4 else sizes
        name = _published(path)
        state[name] = by_rule(name, sizes, salt)
    if not config.own_projection:  # stored in every file, and never read
        width = 4 * config.unique[-1]
        for leaf, sizes in (("weight", (3, width, 3, 3)), ("bias", (3,))):
            name = f"decoder_common_projection_layer.0.{leaf}"
            state[name] = by_rule(name, sizes, salt)
    second = {}
    for name, value in state.items():
        if name.startswith(("encoder_upper", "decoder_upper", "upper_encoder")):
            second[name.replace("upper", "lower", 1)] = value
    return {**state, **second}


def by_rule(name, shape, salt):
    """The weights that a name stands for."""
    drawn = np.random.RandomState(zlib.crc32((salt + name).encode())).standard_normal(shape)
    value = np.round(np.clip(drawn, -4, 4) * 16) / 16
    last = "projection_layer.0." in name or "fusion_rule.0." in name
    if len(shape) == 1:
        # Lifted once for each name: the projection of what one picture shows alone has two.
        lift = 0.5 * last * (2 if name.startswith("decoder_upper") else 1)
        return (value / 16 + lift).astype(np.float32)
    gain = 4.0 if "fc2.weight" in name else 0.5 if last else 0.7
    scale = 2 ** np.round(np.log2(gain / np.sqrt(np.prod(shape[1:]))))
    return (value * scale).astype(np.float32)


def params_of(config, salt):
    """Our parameters by rule."""
    return conversion.convert_state_dict(state_of(config, salt), system="defusion", config=config)[
        0
    ]


def ours(entries, theirs="", prefix=""):
    """Published entries of a submodule by our paths, with our prefix removed."""
    found = {}
    for key, value in entries.items():
        name = conversion._first_name(theirs + key, RULES)
        for path, layout in conversion._targets(name, RULES):
            found[path.removeprefix(prefix)] = layout.ours(value)
    return found


def nhwc(array, dtype="float32"):
    """NCHW to NHWC."""
    return np.moveaxis(array, 1, -1).astype(dtype)
