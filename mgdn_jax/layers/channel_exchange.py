"""Channel exchanging: what a branch does not need, another branch fills.

Branches, one a modality, run the same convolutions and have normalisations of their own. Where the
scale of a branch's normalised channel is small, that channel carries nothing, and the branch goes
on with the channel of the other branches in its place (Wang et al., "Deep Multimodal Fusion by
Channel Exchanging", NeurIPS 2020). Which channels those are depends on parameters alone, not on the
pictures. Nothing is learned by the exchange itself; scales become small by an L1 penalty on a part
of the channels of each branch (`parts_of`, `sparsity`).

A channel that is replaced in one branch alone gets no gradient of the task for its scale and bias
there. Only the penalty moves them, so that it does not come back.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mgdn_jax.layers.mode import EVAL, Mode
from mgdn_jax.layers.norm import make_norm
from mgdn_jax.layers.padding import match_rank

PARTS = ("all", "own_half")
KINDS = ("batch", "instance")

Maps = Float[Array, "b h w c"]
Scale = Float[Array, " c"]


def parts_of(features: int, branches: int) -> list[slice]:
    """The channels of each branch that are penalised: equal parts in order, halves of two branches.

    Branch m of M has the channels from ``m C // M`` to ``(m + 1) C // M``.
    """
    bounds = [m * features // branches for m in range(branches + 1)]
    return [slice(*pair) for pair in itertools.pairwise(bounds)]


@dataclasses.dataclass(frozen=True)
class ChannelExchange:
    """The rule by which channels are replaced.

    Attributes:
        threshold: scales of a smaller magnitude are low. It is rounded to float32 first, and a
            scale that equals it is not low.
        parts: ``"all"`` replaces any low channel, as the published code does; ``"own_half"`` only
            those among the branch's own part of the channels (`parts_of`), as the paper has it.

    Raises:
        ValueError: a threshold that is negative or not finite, or an unknown word.
    """

    threshold: float
    parts: str = "all"

    def __post_init__(self):
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise ValueError(f"threshold is {self.threshold} and must be 0 or more, and finite")
        if self.parts not in PARTS:
            raise ValueError(f"parts is one of {', '.join(PARTS)}, got {self.parts!r}")

    def replaced(self, scales: Sequence[Scale]) -> list[Bool[Array, " c"]]:
        """Which channels of each branch are replaced, from the scales of all branches.

        Raises:
            ValueError: fewer than two branches, or scales of unequal length.
        """
        _check(scales)
        threshold = np.float32(self.threshold)
        low = [jnp.abs(scale) < threshold.astype(scale.dtype) for scale in scales]
        if self.parts == "all":
            return low
        channel = jnp.arange(scales[0].shape[0])
        parts = parts_of(scales[0].shape[0], len(scales))
        return [
            mask & (channel >= part.start) & (channel < part.stop)
            for mask, part in zip(low, parts, strict=True)
        ]

    def count(self, scales: Sequence[Scale]) -> Int[Array, " branches"]:
        """How many channels of each branch are replaced."""
        return jnp.stack([jnp.sum(mask) for mask in self.replaced(scales)])

    def __call__(self, maps: Sequence[Maps], scales: Sequence[Scale]) -> list[Maps]:
        """Replaces low channels, in all branches at once.

        Args:
            maps: normalised maps of each branch, (B, H, W, C), after scale and bias and before the
                activation.
            scales: those that the maps were multiplied by.

        Returns:
            Maps of each branch. A low channel is that of the other branch, or the mean of those of
            all others; all are taken from the maps as they were.

        Raises:
            ValueError: numbers of branches, shapes or channels that differ.
        """
        if len(maps) != len(scales):
            raise ValueError(f"{len(maps)} branches have {len(scales)} scales")
        if any(x.shape != maps[0].shape for x in maps) or maps[0].shape[-1] != scales[0].shape[0]:
            shapes = ", ".join(str(x.shape) for x in [*maps, *scales])
            raise ValueError(f"maps and scales do not belong together: {shapes}")
        masks = self.replaced(scales)
        return [
            jnp.where(match_rank(mask, x), _others(maps, m), x)
            for m, (mask, x) in enumerate(zip(masks, maps, strict=True))
        ]


def _others(maps: Sequence[Maps], branch: int) -> Maps:
    """The mean of all branches but one."""
    first, *rest = (x for m, x in enumerate(maps) if m != branch)
    return sum(rest, first) / (len(maps) - 1) if rest else first


def _check(scales: Sequence[Scale]) -> None:
    if len(scales) < 2:
        raise ValueError(f"two or more branches are needed to exchange, got {len(scales)}")
    if any(scale.shape != scales[0].shape for scale in scales):
        shapes = ", ".join(str(scale.shape) for scale in scales)
        raise ValueError(f"scales of branches have shapes that differ: {shapes}")


class PrivateNorm(nnx.Module):
    """A normalisation for each branch, after convolutions that all branches share.

    Args:
        features: channels.
        branches: how many.
        kind: of `KINDS`; take ``"instance"`` where a batch is one picture.

    Raises:
        ValueError: an unknown kind, or fewer than one branch.
    """

    def __init__(self, features: int, branches: int = 2, kind: str = "batch"):
        if kind not in KINDS:
            raise ValueError(f"the kind of a private norm is one of {', '.join(KINDS)}: {kind!r}")
        if branches < 1:
            raise ValueError(f"a private norm has one branch or more, got {branches}")
        self.norms = nnx.List([make_norm(kind, features) for _ in range(branches)])

    @property
    def scales(self) -> list[Scale]:
        """The scale of each branch."""
        return [norm.scale[...] for norm in self.norms]

    def __call__(
        self, maps: Sequence[Maps], mode: Mode = EVAL, exchange: ChannelExchange | None = None
    ) -> list[Maps]:
        """Normalises each branch, and exchanges channels if there is a rule.

        Statistics of a channel that is replaced go on following the branch's own maps.

        Raises:
            ValueError: another number of branches.
        """
        if len(maps) != len(self.norms):
            raise ValueError(f"{len(maps)} branches for {len(self.norms)} norms")
        normal = [norm(x, mode) for norm, x in zip(self.norms, maps, strict=True)]
        return normal if exchange is None else exchange(normal, self.scales)


def layers_of_scales(params: Mapping[str, Array], pattern: str) -> dict[str, list[Array]]:
    """Scales of private norms among flat parameters, by path of the layer; branches in order.

    Args:
        params: flat parameters.
        pattern: expression that the whole path of a layer matches.
    """
    found: dict[str, dict[int, Array]] = {}
    for path, value in params.items():
        match = re.fullmatch(rf"({pattern})/norms/(\d+)/scale", path)
        if match:
            found.setdefault(match[1], {})[int(match[match.lastindex or 0])] = value
    return {path: [scales[m] for m in sorted(scales)] for path, scales in found.items()}


def penalised(path: str, features: int, branches: int) -> Bool[np.ndarray, " c"]:
    """Which entries of one branch's scale the penalty acts on.

    Args:
        path: of the scale among flat parameters, ``.../norms/BRANCH/scale``.
        features: its length.
        branches: how many there are.

    Raises:
        ValueError: the path is not that of a private scale.
    """
    match = re.fullmatch(r".*norms/(\d+)/scale", path)
    if match is None or int(match[1]) >= branches:
        raise ValueError(f"{path!r} is no scale of a private norm of {branches} branches")
    mask = np.zeros(features, bool)
    mask[parts_of(features, branches)[int(match[1])]] = True
    return mask


def sparsity(layers: Sequence[Sequence[Scale]]) -> Float[Array, ""]:
    """L1 norm of every branch's own part of its scales, over layers; its derivative at 0 is 0.

    Args:
        layers: by layer, the scale of each branch.

    Raises:
        ValueError: no layer.
    """
    if not layers:
        raise ValueError("there is no layer whose scales could be penalised")
    own = [
        scale[part]
        for scales in layers
        for scale, part in zip(scales, parts_of(scales[0].shape[0], len(scales)), strict=True)
    ]
    values = jnp.concatenate(own)
    return jnp.sum(values * jnp.sign(lax.stop_gradient(values)))
