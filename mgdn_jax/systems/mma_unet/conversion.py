"""MMA-UNet checkpoints: names and layouts of the released code, whose weights were never released.

Its script reads three files, each ``{"model": state dictionary}``. They convert as one, under the
names of the three networks: ``torch.save({"vi": torch.load(first)["model"], "ir": ..., "fusion":
...}, both)``. The U-Nets' own decoders, which only their training needs, are left out then; the
tables of the single networks are for single files, and know them.
"""

from typing import Any

from mgdn_jax.systems.rules import Row, Rules

_UNREAD = (r".*\.num_batches_tracked", r"(?:.+\.)?sobelconv\.weight[xy]")
"""Counts of batches; and Sobel kernels, which a loss without a GPU would have stored."""

_DECODER = r"(?:up\d|outc)\..+"
_ENCODER = r"(?:inc|down\d|attention\d)\..+"
_ANY = r"(?:model\.)?"
"""Single files come with the name of what they wrap, or without."""


def _double(theirs: str, ours: str) -> tuple[Row, ...]:
    """Rules of a pair of convolutions."""
    return tuple(
        (rf"{theirs}\.double_conv\.{3 * i + j}", f"{ours}/{part}/{i}", kind)
        for i in range(2)
        for j, (part, kind) in enumerate((("convs", "conv"), ("norms", "norm")))
    )


def _encoder(theirs: str, ours: str, *, gates: bool) -> tuple[Row, ...]:
    """Rules of an encoder, whose levels below the first and whose gates are counted from 1."""
    rows = [*_double(theirs + "inc", ours + "levels/0")]
    for level in range(1, 5):
        rows += _double(rf"{theirs}down{level}\.maxpool_conv\.1", f"{ours}levels/{level}")
    for level in range(5 if gates else 0):
        for place, name in ((0, "squeeze"), (2, "expand")):
            published = rf"{theirs}attention{level + 1}\.fc\.{place}"
            rows.append((published, f"{ours}gates/{level}/{name}", "linear"))
    return tuple(rows)


def _decoder(theirs: str) -> tuple[Row, ...]:
    """Rules of a U-Net's own decoder."""
    rows: list[Row] = [(rf"{theirs}outc\.conv", "last", "conv")]
    for level in range(4):
        rows.append((rf"{theirs}up{level + 1}\.up", f"up/{level}/grow", "transposed"))
        rows += _double(rf"{theirs}up{level + 1}\.conv", f"up/{level}/double")
    return tuple(rows)


def _fusion(theirs: str, ours: str) -> tuple[Row, ...]:
    """Rules of the fusion and its decoder."""
    rows: list[Row] = []
    for level in range(4):
        down = rf"{theirs}fusion_encoder\.down{level + 1}\.maxpool_conv\.1"
        attention, join = rf"{theirs}fusion_encoder\.ca{level + 1}\.", f"{ours}joins/{level}/"
        rows += [
            (down, join + "project", "conv"),
            (attention + r"conv\.weight", join + "attention/taps", "vector"),
            (attention + r"cSE\.fc1", join + "attention/channels/squeeze", "linear"),
            (attention + r"cSE\.fc2", join + "attention/channels/expand", "linear"),
            (attention + r"sSE\.conv", join + "attention/pixels", "conv"),
        ]
    for level in range(3):
        up = rf"{theirs}decoder\.up{level + 1}\."
        rows.append((up + r"up\.body\.0", f"{ours}up/{level}/grow/conv", "conv"))
        rows += _double(up + "conv", f"{ours}up/{level}/double")
    rows.append((rf"{theirs}decoder\.up4\.body\.0", f"{ours}grow/conv", "conv"))
    head = rf"{theirs}decoder\.outc\.output\."
    rows += [(f"{head}{3 * i}", f"{ours}head/convs/{i}", "conv") for i in range(3)]
    rows += [(f"{head}{3 * i + 1}", f"{ours}head/norms/{i}", "norm") for i in range(2)]
    return tuple(rows)


RULES = {
    "Network": Rules(
        modules=(
            *_encoder(r"vi\.", "visible/", gates=False),
            *_encoder(r"ir\.", "infrared/", gates=True),
            *_fusion(r"fusion\.", "fusion/"),
        ),
        dead=(*_UNREAD, rf"(?:vi|ir)\.{_DECODER}"),
    ),
    "Encoder": Rules(_encoder(_ANY, "", gates=False), dead=(*_UNREAD, _ANY + _DECODER)),
    "GuidedEncoder": Rules(_encoder(_ANY, "", gates=True), dead=(*_UNREAD, _ANY + _DECODER)),
    "Decoder": Rules(_decoder(_ANY), dead=(*_UNREAD, _ANY + _ENCODER)),
    "Fusion": Rules(_fusion(_ANY, ""), dead=_UNREAD),
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "published": {
        "task": "infrared and visible",
        "inputs": "infrared, visible",
        "inference": {"padding": "network", "chroma": "centred", "stretch": "none"},
        # The released script spreads the three channels together over black to white.
        "published_inference": {"padding": "network", "chroma": "centred", "stretch": "minmax"},
    }
}
"""Card entries of weights in the released form, by preset."""
