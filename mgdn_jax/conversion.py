"""Published PyTorch checkpoints -> our weights: one table of rules a system, one engine.

A rule is a regular expression over the published keys, the path it becomes, and a layout change.
Every published entry must meet exactly one rule or be listed as dead, and every parameter of the
network must be filled once with the right shape; all that does not fit is reported together.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mgdn_jax import models
from mgdn_jax.errors import InputError
from mgdn_jax.layers.functional import Flat

Transform = Callable[[np.ndarray], np.ndarray]


def _conv(w: np.ndarray) -> np.ndarray:
    return w.transpose(2, 3, 1, 0)


def _linear(w: np.ndarray) -> np.ndarray:
    return w.transpose(1, 0)


def _same(w: np.ndarray) -> np.ndarray:
    return w


def _flat(w: np.ndarray) -> np.ndarray:
    return w.reshape(-1)


@dataclasses.dataclass(frozen=True)
class Rules:
    """Conversion of one system.

    Attributes:
        modules: (pattern of a module's published path, our path, kind); kind is ``conv``,
            ``linear``, ``norm`` or ``array`` (a lone parameter) and decides suffix and layout.
        dead: patterns of published entries that no network of the system reads.
        twin: (pattern, replacement) of second names under which entries are stored again; an
            entry may have either name or both, then with equal values.
        seen: fields of the system's `Config` that the published names give away.
    """

    modules: tuple[tuple[str, str, str], ...]
    dead: tuple[str, ...]
    twin: tuple[str, str] | None = None
    seen: Callable[[Iterable[str]], dict[str, Any]] = lambda names: {}


_SUFFIX: dict[str, dict[str, tuple[str, Transform]]] = {
    "conv": {"weight": ("kernel", _conv), "bias": ("bias", _same)},
    "linear": {"weight": ("kernel", _linear), "bias": ("bias", _same)},
    "norm": {
        "weight": ("scale", _same),
        "bias": ("bias", _same),
        "running_mean": ("mean", _same),
        "running_var": ("variance", _same),
    },
}

_BLOCK = r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\."
_MGDF = r"layers\.(\d+)\.MGF\."
_MGDN = Rules(
    modules=(
        (r"inconv1", "stems/0", "conv"),
        (r"inconv2", "stems/1", "conv"),
        (r"conv1", "stems/0", "conv"),
        (r"conv_after_body\.0", "body", "conv"),
        (r"conv_last\.0", "last", "conv"),
        (_MGDF + r"TCA\.temperature", r"layers/\1/mgdf/attention/temperature", "array"),
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
)


def _restormer(theirs: str, ours: str) -> tuple[tuple[str, str, str], ...]:
    """Rules of Restormer blocks whose published and own paths begin so."""
    return (
        (theirs + r"norm([12])\.body", ours + r"/norm\3", "norm"),
        (theirs + r"attn\.temperature", ours + "/attention/temperature", "array"),
        (theirs + r"attn\.qkv", ours + "/attention/qkv/project", "conv"),
        (theirs + r"attn\.qkv_dwconv", ours + "/attention/qkv/local", "conv"),
        (theirs + r"attn\.project_out", ours + "/attention/project", "conv"),
        (theirs + r"ffn\.project_in", ours + "/feed_forward/expand", "conv"),
        (theirs + r"ffn\.dwconv", ours + "/feed_forward/local", "conv"),
        (theirs + r"ffn\.project_out", ours + "/feed_forward/contract", "conv"),
    )


def _numbered(*rules: tuple[str, str, str]) -> tuple[tuple[str, str, str], ...]:
    """Rules with the published ``{n}`` (1, 2) and our ``{i}`` (0, 1) filled in."""
    return tuple(
        (theirs.replace("{n}", str(i + 1)), ours.replace("{i}", str(i)), kind)
        for theirs, ours, kind in rules
        for i in (0, 1)
    )


# An empty group where a path has one number only, so that `_restormer` counts alike everywhere.
_ENCODERS = _numbered(*_restormer(r"encoder{n}()\.(\d+)\.", r"encoders/{i}/\2"))
_TWIN = (r"(.+)\.conv\.weight", r"\1.weight")
_REFUSION = Rules(
    modules=(
        *_ENCODERS,
        *_restormer(r"decoder()\.(\d+)\.", r"decoder/\2"),
        *_numbered(
            (r"project_in_{n}", "stems/{i}", "conv"),
            (r"FM\.temperature{n}", "fusion/attentions/{i}/temperature", "array"),
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
    dead=(),
    twin=_TWIN,
)


def _proposal(theirs: str, ours: str) -> tuple[tuple[str, str, str], ...]:
    """Rules of one branch of ReFusion's proposal module."""
    rules = (
        *_ENCODERS,
        *_restormer(r"encoder3()\.(\d+)\.", r"joint/\2"),
        *_numbered((r"patch_embed{n}", "stems/{i}", "conv")),
        (r"out1", "reduce", "conv"),
        (r"out2\.weight", "slope", "array"),
        (r"out3", "last", "conv"),
    )
    return tuple((theirs + a, ours + b, kind) for a, b, kind in rules)


# A network of one branch is published without a prefix, two as LPN1 and LPN2.
_REFUSION_PROPOSAL = Rules(
    modules=(
        *_proposal("", "intensity/"),
        *_proposal(r"LPN1\.", "intensity/"),
        *_proposal(r"LPN2\.", "gradient/"),
    ),
    dead=(),
    twin=_TWIN,
)
_REFUSION_RECONSTRUCTION = Rules(
    modules=(
        *_ENCODERS,
        *_numbered(
            (r"patch_embed{n}", "stems/{i}", "conv"),
            (r"out{n}_1", "reduce/{i}", "conv"),
            (r"out{n}_3", "last/{i}", "conv"),
        ),
    ),
    dead=(),
    twin=_TWIN,
)


def _base(theirs: str, ours: str) -> tuple[tuple[str, str, str], ...]:
    """Rules of CDDFuse's base extractor."""
    rules = (
        (r"norm([12])\.body", r"/norm\1", "norm"),
        (r"attn\.scale", "/attention/temperature", "array"),
        (r"attn\.qkv1", "/attention/qkv/project", "conv"),
        (r"attn\.qkv2", "/attention/qkv/local", "conv"),
        (r"attn\.proj", "/attention/project", "conv"),
        (r"mlp\.project_in", "/feed_forward/expand", "conv"),
        (r"mlp\.dwconv", "/feed_forward/local", "conv"),
        (r"mlp\.project_out", "/feed_forward/contract", "conv"),
    )
    return tuple((theirs + a, ours + b, kind) for a, b, kind in rules)


def _coupling(theirs: str, ours: str) -> tuple[tuple[str, str, str], ...]:
    """Rules of CDDFuse's coupling nodes; the misspelt name is the published one."""
    block = theirs + r"net\.(\d+)\.theta_(phi|rho|eta)\.bottleneckBlock\."
    return (
        (theirs + r"net\.(\d+)\.shffleconv", ours + r"/nodes/\1/shuffle", "conv"),
        (block + "0", ours + r"/nodes/\1/\2/expand", "conv"),
        (block + "3", ours + r"/nodes/\1/\2/local", "conv"),
        (block + "5", ours + r"/nodes/\1/\2/contract", "conv"),
    )


_CDDFUSE = Rules(
    modules=(
        (r"DIDF_Encoder\.patch_embed\.proj", "encoder/stem", "conv"),
        *_restormer(r"DIDF_Encoder\.encoder_level1()\.(\d+)\.", r"encoder/blocks/\2"),
        *_base(r"DIDF_Encoder\.baseFeature\.", "encoder/base"),
        *_coupling(r"DIDF_Encoder\.detailFeature\.", "encoder/detail"),
        *_base(r"BaseFuseLayer\.", "base_fusion"),
        *_coupling(r"DetailFuseLayer\.", "detail_fusion"),
        (r"DIDF_Decoder\.reduce_channel", "decoder/reduce", "conv"),
        *_restormer(r"DIDF_Decoder\.encoder_level2()\.(\d+)\.", r"decoder/blocks/\2"),
        (r"DIDF_Decoder\.output\.0", "decoder/narrow", "conv"),
        (r"DIDF_Decoder\.output\.2", "decoder/last", "conv"),
    ),
    dead=(),
)


def _lkc_funet() -> Rules:
    """Rules of LKC-FUNet; its encoder, bottleneck and decoder are flat lists as published."""

    def normed(theirs: str, ours: str) -> tuple[tuple[str, str, str], ...]:
        return ((theirs + r"block\.0", ours + "/norm", "norm"),
                (theirs + r"block\.3", ours + "/conv", "conv"))  # fmt: skip

    def residual(theirs: str, ours: str) -> tuple[tuple[str, str, str], ...]:
        theirs += r"\.res_block\."
        return (
            *normed(theirs + r"block1\.", ours + "/first"),
            *normed(theirs + r"block2\.", ours + "/second"),
            (theirs + "res_conv", ours + "/shortcut", "conv"),
        )

    def large(theirs: str, ours: str) -> tuple[tuple[str, str, str], ...]:
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

    def fusion(theirs: str, ours: str) -> tuple[tuple[str, str, str], ...]:
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


# By system; networks other than the one that fuses as system/class.
RULES: dict[str, Rules] = {
    "mgdn": _MGDN,
    "cddfuse": _CDDFUSE,
    "lkc_funet": _lkc_funet(),
    "refusion": _REFUSION,
    "refusion/ProposalNetwork": _REFUSION_PROPOSAL,
    "refusion/ReconstructionNetwork": _REFUSION_RECONSTRUCTION,
}
# Only dead where the network has two branches; with three the entry is converted.
_DEAD_UNLESS_TARGETED = {"mgdn": (r"layers\.\d+\.adjust_channel_03\.(weight|bias)",)}


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every entry of a state dictionary (the conversion raises unless complete).

    Attributes:
        converted: published key -> our path.
        skipped: published keys that are dead by the rules.
        unmatched: published keys no rule knows.
        unfilled: our parameters no published key filled.
        double: our paths, or published keys, with more than one partner.
        misshapen: published keys whose converted shape differs, with both shapes.
    """

    converted: dict[str, str]
    skipped: tuple[str, ...]
    unmatched: tuple[str, ...]
    unfilled: tuple[str, ...]
    double: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is left over on either side."""
        return not (self.unmatched or self.unfilled or self.double or self.misshapen)


def seen_fields(state: Iterable[str], system: str) -> dict[str, Any]:
    """Fields of a system's `Config` that the names in a published state dictionary give away."""
    return RULES[system].seen(state) if system in RULES else {}


def convert_state_dict(
    state: Mapping[str, np.ndarray], *, system: str, config: Any, network: str = "Network"
) -> tuple[Flat, Report]:
    """Convert the arrays of a published network without running statistics.

    Like `convert_arrays`, whose statistics are left out.
    """
    params, _, report = convert_arrays(state, system=system, config=config, network=network)
    return params, report


def convert_arrays(
    state: Mapping[str, np.ndarray], *, system: str, config: Any, network: str = "Network"
) -> tuple[Flat, Flat, Report]:
    """Convert the arrays of a published network.

    Args:
        state: published key -> array in PyTorch's layout; a ``module.`` prefix is stripped. Of
            files in several parts ``part.key`` (`read_torch` writes them so).
        system: e.g. ``"mgdn"``.
        config: the system's `Config` that describes the published network.
        network: class of the system's module that it becomes, e.g. ``"ProposalNetwork"``.

    Returns:
        Flat parameters and running statistics (float32 NumPy arrays), and the report.

    Raises:
        InputError: anything is unmatched, unfilled, filled twice or of the wrong shape.
    """
    report, params = _convert(state, system, config, network)
    if not report.complete:
        parts = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in (
                ("unknown entries", report.unmatched),
                ("parameters without a source", report.unfilled),
                ("entries with two partners", report.double),
                ("entries of the wrong shape", report.misshapen),
            )
            if names
        ]
        raise InputError(
            f"the checkpoint does not hold this {system} network: {'; '.join(parts)};"
            " check --system and --preset"
        )
    stats = models.abstract(system, config, network)[2]
    return (
        {path: value for path, value in params.items() if path not in stats},
        {path: value for path, value in params.items() if path in stats},
        report,
    )


def _convert(
    state: Mapping[str, np.ndarray], system: str, config: Any, network: str = "Network"
) -> tuple[Report, Flat]:
    name = system if network == "Network" else f"{system}/{network}"
    if name not in RULES:
        raise InputError(f"no conversion is known for {name!r}; known: {', '.join(RULES)}")
    rules = RULES[name]
    _, wanted, stats = models.abstract(system, config, network)
    targets = wanted | stats
    converted: dict[str, str] = {}
    params: Flat = {}
    skipped: list[str] = []
    unmatched: list[str] = []
    double: list[str] = []
    misshapen: list[str] = []
    for name, value in state.items():
        key = name.removeprefix("module.")
        first = _first_name(key, rules)
        if first != key and (other := state.get(name.removesuffix(key) + first)) is not None:
            # Stored twice: one tensor under two names, or not this network.
            (skipped if np.array_equal(value, other) else double).append(name)
            continue
        key = first
        hits = _targets(key, rules)
        optional = any(re.fullmatch(p, key) for p in _DEAD_UNLESS_TARGETED.get(system, ()))
        aimless = all(path not in targets for path, _ in hits)
        if any(re.fullmatch(p, key) for p in rules.dead) or (optional and aimless):
            skipped.append(name)
        elif aimless:
            unmatched.append(name)
        elif len(hits) > 1:
            double.append(name)
        else:
            path, transform = hits[0]
            shape = targets[path].shape
            try:
                array = transform(np.asarray(value))
            except ValueError:  # a transposition of the wrong rank
                array = np.asarray(value)
            if path in params:
                double.append(path)
            elif array.shape != shape:
                misshapen.append(f"{name}: {array.shape} where {shape} is wanted")
            else:
                params[path] = np.ascontiguousarray(array, np.float32)
                converted[name] = path
    bad = {m.split(":")[0] for m in misshapen}
    keys = [_first_name(n.removeprefix("module."), rules) for n in bad]
    aimed = {path for key in keys for path, _ in _targets(key, rules)}
    unfilled = [path for path in targets if path not in params and path not in aimed]
    return Report(
        converted,
        tuple(skipped),
        tuple(unmatched),
        tuple(unfilled),
        tuple(double),
        tuple(misshapen),
    ), dict(sorted(params.items()))


def _first_name(key: str, rules: Rules) -> str:
    """The name that decides about an entry; the key itself unless it is a second name."""
    return re.sub(*rules.twin, key) if rules.twin and re.fullmatch(rules.twin[0], key) else key


def _targets(key: str, rules: Rules) -> list[tuple[str, Transform]]:
    """Every (path, transform) that the rules give a published key."""
    hits: list[tuple[str, Transform]] = []
    module, _, leaf = key.rpartition(".")
    for pattern, path, kind in rules.modules:
        if kind == "array":
            if match := re.fullmatch(pattern, key):
                flatten = _flat if re.search(r"(temperature\d?|attn\.scale)$", key) else _same
                hits.append((match.expand(path), flatten))
        elif leaf in _SUFFIX[kind] and (match := re.fullmatch(pattern, module)):
            ours, transform = _SUFFIX[kind][leaf]
            hits.append((f"{match.expand(path)}/{ours}", transform))
    return hits


def read_torch(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Arrays of a PyTorch checkpoint file, unwrapped from ``params_ema``, ``params`` and the like.

    A file of several state dictionaries, one a part, gives keys ``part.key``, a ``module.`` before
    the inner key removed.

    Raises:
        InputError: PyTorch is not installed, or the file is missing, truncated, no checkpoint, or
            needs more than plain tensors to load (nothing else is ever unpickled).
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file; give the path of a .pth file")
    try:
        import torch
    except ImportError:
        raise InputError(
            "reading PyTorch checkpoints needs PyTorch: pip install 'mgdn-jax[convert]'"
        ) from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a bad file
        reason = str(error).strip().split("\n")[0][:120]
        raise InputError(
            f"{path}: cannot be read as a PyTorch checkpoint of plain tensors ({reason})"
        ) from None
    for wrapper in ("params_ema", "params", "state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if isinstance(loaded, Mapping) and all(isinstance(part, Mapping) for part in loaded.values()):
        loaded = {
            f"{part}.{str(key).removeprefix('module.')}": value
            for part, entries in loaded.items()
            for key, value in entries.items()
        }
    if not isinstance(loaded, Mapping) or not all(
        isinstance(v, torch.Tensor) for v in loaded.values()
    ):
        raise InputError(f"{path}: holds no dictionary of tensors; is it a model's state_dict?")
    return {str(k): v.detach().float().numpy() for k, v in loaded.items()}
