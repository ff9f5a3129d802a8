"""EMMA's U-Fuser, and the sensing networks that it is trained with (CVPR 2024).

Zhao et al., *Equivariant Multi-Modality Image Fusion* (arXiv 2305.11443). Two encoders of four
scales, one for each source, whose features are fused scale by scale, and a decoder:

    a -> infrared/0 -> down -> infrared/1 -> ...        fusion/s of both at scale s
    b -> visible/0  -> down -> visible/1  -> ...        decoder: coarse to fine, sigmoid

Every `Block` has a branch with attention across channels over the whole picture, a branch of
convolutions, and a convolution that joins them. Convolutions reflect the picture at its border,
but those of queries, keys and values and the transposed ones.

`SensingNetwork` is a plain U-Net with batch norm: it makes one of the sources of a fused picture.
It trains the U-Fuser (`recipe`) and is not shipped.

Attention gathers sums over the whole picture, so tiles of a large one can use common ones
(``aux["context"]``). A head of one channel attends to that channel alone and gathers none.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgdn_jax.layers import functional
from mgdn_jax.layers.attention import channel_sums
from mgdn_jax.layers.conv import (
    Conv2d,
    LayerNorm,
    conv2d,
    fan_in_uniform,
    pointwise,
    reflected_conv,
    reflected_conv2d,
)
from mgdn_jax.layers.mode import EVAL, Mode
from mgdn_jax.layers.padding import pad_to_multiple, reflected
from mgdn_jax.layers.restormer import (
    GatedFeedForward,
    TransposedAttention,
    bare_conv,
    gelu,
    mixed,
)
from mgdn_jax.layers.scales import DoubleConv, max_pool
from mgdn_jax.systems.config import SystemConfig

Maps = Float[Array, "b h w c"]
Sums = dict[str, Array]

REMATS = ("none", "block")


@dataclasses.dataclass(frozen=True)
class Config(SystemConfig):
    """What determines the U-Fuser.

    Attributes:
        features: channels of each scale, finest first; even, and divisible by ``heads``.
        heads: attention heads at every scale.
        norm_floor: smallest norm that a query or key is divided by, 1e-12 as published; about 1e-3
            keeps gradients bounded where a source is black.
        dtype: compute dtype; parameters stay float32.
        remat: ``"block"`` keeps only the inputs of every block for the gradient and computes the
            others again, ``"none"`` keeps everything. Results are the same.
        in_channels: channels of the two images, fixed: luminance.
        out_channels: channels of the result, fixed: luminance.
    """

    features: tuple[int, ...] = (8, 16, 32, 32)
    heads: int = 8
    norm_floor: float = 1e-12
    dtype: str = "float32"
    remat: str = "block"
    in_channels: tuple[int, ...] = (1, 1)
    out_channels: int = 1

    system: ClassVar[str] = "emma"

    def __post_init__(self):
        super().__post_init__()
        demand = self.demand
        self.demand_whole("heads")
        demand(len(self.features) >= 2, "features must have two scales or more")
        self.demand_blocks(4 * len(self.features))
        for n in self.features:
            demand(n > 0 and n % 2 == 0, "features must be even and positive")
            demand(n % self.heads == 0, "features must be divisible by heads")
        self.demand_positive("norm_floor")
        demand(self.norm_floor >= 1e-18, "norm_floor must be at least 1e-18 (its square is taken)")
        demand(self.remat in REMATS, f"remat is one of {', '.join(REMATS)}")
        self.demand_luminance()

    @property
    def grid(self) -> int:
        """Sides are padded to multiples of 8, for three halvings."""
        return 2 ** (len(self.features) - 1)

    def for_use(self) -> SystemConfig:
        """The same network; what is kept for gradients does not matter, for there are none."""
        return dataclasses.replace(self, remat="none")

    def for_training(self, norm_floor: float) -> SystemConfig:
        """The same network whose attention divides by no norm below the floor."""
        return dataclasses.replace(self, norm_floor=max(norm_floor, self.norm_floor))


# Published: one network for all tasks. The small one is this project's, for a laptop.
PRESETS: dict[str, Config] = {
    "ivf": Config(),
    "mif": Config(),
    "ivf_small": Config(features=(8, 8, 16, 16), remat="none"),
    "mif_small": Config(features=(8, 8, 16, 16), remat="none"),
}


class Residual(nnx.Module):
    """``x + second(relu(first(x)))``, two 3x3 convolutions with bias."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.first = Conv2d(features, features, 3, rngs=rngs)
        self.second = Conv2d(features, features, 3, rngs=rngs)

    def __call__(self, x: Maps) -> Maps:
        """Transform."""
        return x + reflected_conv(self.second, jax.nn.relu(reflected_conv(self.first, x)))


class GlobalBranch(nnx.Module):
    """``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``.

    The feed-forward part does not widen; its 3x3 convolution mixes channels by pairs and reflects.
    """

    def __init__(self, features: int, config: Config, *, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(features)
        self.attention = TransposedAttention(
            features, heads=config.heads, local="dense", floor=config.norm_floor, rngs=rngs
        )
        self.norm2 = LayerNorm(features)
        self.feed_forward = GatedFeedForward(features, hidden=features, group=2, rngs=rngs)

    def __call__(
        self, x: Maps, context: Sums | None, pixel_weights: Float[Array, "b h w 1"] | None
    ) -> tuple[Maps, Sums]:
        """Features, and the sums of the attention (none for heads of one channel)."""
        y, sums = self._attended(self.norm1(x), context, pixel_weights)
        x = x + y
        layer = self.feed_forward
        expand, pairs = layer.expand.kernel[...][0, 0], layer.local.kernel[...]
        # Both maps as one dense convolution: pointwise ones commute with the reflection, and on a
        # CPU this is quicker than a convolution of pairs, to run and far more to compile.
        both = expand.reshape(len(expand), -1, 2).repeat(2, axis=1)
        both = jnp.einsum("icj,yxjc->yxic", both, pairs)
        wide = reflected_conv2d(self.norm2(x), both)
        first, second = jnp.split(wide, 2, -1)
        return x + layer.contract(gelu(first) * second), sums

    def _attended(
        self, x: Maps, context: Sums | None, pixel_weights: Array | None
    ) -> tuple[Maps, Sums]:
        c, attention = x.shape[-1], self.attention
        project, dense = attention.qkv.project.kernel[...], attention.qkv.local.kernel[...]  # type: ignore[attr-defined]
        # Nothing lies between the two: they are one convolution.
        both = jnp.einsum("ij,yxjo->yxio", project[0, 0], dense)
        if len(attention.temperature[...]) == c:
            # The softmax of one entry is 1: values alone, projected by the same convolution.
            out = jnp.einsum(
                "yxio,op->yxip", both[..., 2 * c :], attention.project.kernel[...][0, 0]
            )
            return conv2d(x, out.astype(x.dtype)), {}
        q, k, v = jnp.split(conv2d(x, both.astype(x.dtype)), 3, -1)
        sums = channel_sums(q, k, pixel_weights)
        return mixed(
            v, attention.mixing(sums if context is None else context).astype(x.dtype)
        ), sums


class Block(nnx.Module):
    """What the U-Fuser is made of: an embedding, both branches of it, and their join.

    There is no residual around the whole.
    """

    def __init__(self, in_features: int, features: int, config: Config, *, rngs: nnx.Rngs):
        self.remat = config.remat
        self.embed = bare_conv(in_features, features, 3, rngs)
        self.whole = GlobalBranch(features, config, rngs=rngs)
        self.local = nnx.List([Residual(features, rngs=rngs) for _ in range(2)])
        self.join = bare_conv(2 * features, features, 3, rngs)

    def __call__(
        self,
        x: Maps,
        context: Sums | None = None,
        pixel_weights: Float[Array, "b h w 1"] | None = None,
    ) -> tuple[Float[Array, "b h w o"], Sums]:
        """Transform.

        Args:
            x: features.
            context: sums over pixels to use instead of those of this call.
            pixel_weights: weight of every pixel in the returned sums (default 1).

        Returns:
            Features, and the sums of the attention.
        """
        graphdef, state = nnx.split(self)

        def run(state: Any, x: Maps) -> tuple[Maps, Sums]:
            block = nnx.merge(graphdef, state)
            x = reflected_conv(block.embed, x)
            whole, sums = block.whole(x, context, pixel_weights)
            for residual in block.local:
                x = residual(x)
            return reflected_conv(block.join, jnp.concatenate([whole, x], -1)), sums

        return functional.rematerialised(run, self.remat)(state, x)


class Halving(nnx.Module):
    """3x3 convolution of stride 2 without bias, reflected border: floor((n - 1) / 2) + 1 pixels."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.conv = bare_conv(features, features, 3, rngs)

    def __call__(self, x: Maps) -> Float[Array, "b h2 w2 c"]:
        """Transform."""
        _, h, w, c = x.shape
        rows, columns = (h + 1) // 2, (w + 1) // 2
        framed = reflected(x)
        # One matrix product, whose gradients are products, too.
        taps = [
            framed[:, dy : dy + 2 * rows - 1 : 2, dx : dx + 2 * columns - 1 : 2]
            for dy, dx in itertools.product(range(3), repeat=2)
        ]
        kernel = self.conv.kernel[...].astype(x.dtype).reshape(9 * c, -1)
        return pointwise(jnp.concatenate(taps, -1), kernel)


class Doubling(nnx.Module):
    """Transposed 4x4 convolution of stride 2 without bias, then ReLU: exactly twice the size.

    Weights are (4, 4, out, in): ``y[2 r + i - 1, 2 s + j - 1] += x[r, s] W[i, j]``.
    """

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        shape = (4, 4, out_features, in_features)
        self.kernel = nnx.Param(fan_in_uniform(rngs, shape, 16 * out_features))

    def __call__(self, x: Maps) -> Float[Array, "b h2 w2 o"]:
        """Transform."""
        kernel = self.kernel[...].astype(x.dtype)
        b, h, w, _ = x.shape
        taps = pointwise(x, kernel.reshape(-1, kernel.shape[-1]).T)
        taps = taps.reshape(b, h, w, 4, 4, -1)
        columns = _woven([taps[..., j, :] for j in range(4)], 2)
        return jax.nn.relu(_woven([columns[:, :, :, i] for i in range(4)], 1))


def _woven(taps: Sequence[Array], axis: int) -> Array:
    """What four taps of stride 2 add up to along an axis, which becomes twice as long."""
    first, second, third, fourth = taps
    n = first.shape[axis]

    def moved(x: Array, by: int) -> Array:
        grow = [(0, 0)] * x.ndim
        grow[axis] = (1, 0) if by > 0 else (0, 1)
        start = 0 if by > 0 else 1
        return jax.lax.slice_in_dim(jnp.pad(x, grow), start, start + n, axis=axis)

    even, odd = second + moved(fourth, 1), third + moved(first, -1)
    both = jnp.stack([even, odd], axis + 1)
    return both.reshape(*first.shape[:axis], 2 * n, *first.shape[axis + 1 :])


class Encoder(nnx.Module):
    """Features of one source at every scale, finest first."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        widths = config.features
        self.blocks = nnx.List(
            [Block(i, o, config, rngs=rngs) for i, o in itertools.pairwise((1, *widths))]
        )
        self.down = nnx.List([Halving(n, rngs=rngs) for n in widths[:-1]])

    def __call__(
        self, x: Maps, context: "Context", weights: Sequence[Array | None], name: str
    ) -> list[Array]:
        """Transform; ``context`` hands out and gathers the sums of the blocks."""
        features = []
        for scale, block in enumerate(self.blocks):
            x = x if scale == 0 else self.down[scale - 1](x)
            x = context.run(block, f"{name}/{scale}", x, weights[scale])
            features.append(x)
        return features


class Context:
    """Sums that blocks are to use, if any, and those that they gathered, by block.

    Args:
        sums: of a whole picture, or None.
    """

    def __init__(self, sums: Sums | None):
        self._sums = sums
        self.gathered: Sums = {}

    def run(self, block: Block, name: str, x: Maps, pixel_weights: Array | None) -> Array:
        """The features that a block makes."""
        sums = functional.below(self._sums, name)
        y, own = block(x, sums, pixel_weights)
        self.gathered |= functional.above(name, own)
        return y


class Network(nnx.Module):
    """The U-Fuser. It is not symmetric: each encoder has weights of its own."""

    takes: ClassVar[frozenset[str]] = frozenset({"context"})

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        widths = config.features
        self.infrared = Encoder(config, rngs=rngs)
        self.visible = Encoder(config, rngs=rngs)
        self.fusion = nnx.List([Block(2 * n, n, config, rngs=rngs) for n in widths])
        # Coarsest first; all but that one see the features of their scale beside those from below.
        coarse = widths[::-1]
        self.decoder = nnx.List(
            [Block(n if s == 0 else 2 * n, n, config, rngs=rngs) for s, n in enumerate(coarse)]
        )
        self.up = nnx.List([Doubling(i, o, rngs=rngs) for i, o in itertools.pairwise(coarse)])
        self.last = Conv2d(widths[0], 1, 3, rngs=rngs)

    def __call__(
        self,
        a: Float[Array, "b h w 1"],
        b: Float[Array, "b h w 1"],
        *,
        context: Sums | None = None,
        pixel_weights: Float[Array, "b h w 1"] | None = None,
    ) -> tuple[Float[Array, "b h w 1"], dict[str, Any]]:
        """Fuse.

        Args:
            a: first source, luminance in [0, 1], any H and W: infrared, or CT, PET, SPECT.
            b: second source, of the same shape: visible, or MRI.
            context: sums over pixels of a whole picture (``aux["context"]``, added over its
                tiles), used in place of this call's own: how tiles agree with each other.
            pixel_weights: (B, H, W, 1) weight of every pixel in the sums returned.

        Returns:
            ``(fused, aux)``: fused (B, H, W, 1) float32 in (0, 1); aux has ``"fused_features"``
            and ``"decoded"``, of every scale at the padded size, finest first, and
            ``"context"``, the sums of all attentions.

        Raises:
            ValueError: shapes that differ or do not have one channel.
        """
        _check(a, b)
        h, w = a.shape[1:3]
        dtype, grid = jnp.dtype(self.config.dtype), self.config.grid
        a, b = (pad_to_multiple(x.astype(dtype), grid) for x in (a, b))
        weights: list[Array | None] = [None] * len(self.config.features)
        if pixel_weights is not None:
            whole = pad_to_multiple(pixel_weights, grid)
            weights = [whole[:, :: 2**s, :: 2**s] for s in range(len(weights))]
        sums = Context(context)
        sources = zip(
            self.infrared(a, sums, weights, "infrared"),
            self.visible(b, sums, weights, "visible"),
            strict=True,
        )
        fused = [
            sums.run(block, f"fusion/{s}", jnp.concatenate(pair, -1), weights[s])
            for s, (block, pair) in enumerate(zip(self.fusion, sources, strict=True))
        ]
        decoded: list[Array] = []
        for step, block in enumerate(self.decoder):
            scale = len(fused) - 1 - step
            x = fused[scale]
            if decoded:
                x = jnp.concatenate([self.up[step - 1](decoded[0]), x], -1)
            decoded.insert(0, sums.run(block, f"decoder/{step}", x, weights[scale]))
        y = reflected_conv(self.last, decoded[0])[:, :h, :w]
        y = y.astype(jnp.promote_types(y.dtype, jnp.float32))
        aux = {"fused_features": fused, "decoded": decoded, "context": sums.gathered}
        return jax.nn.sigmoid(y), aux


def _check(a: Array, b: Array) -> None:
    for x in (a, b):
        if x.ndim != 4 or x.shape[-1] != 1:
            raise ValueError(f"expected luminance (b, h, w, 1), got {x.shape}")
    if a.shape != b.shape:
        raise ValueError(f"sizes differ: {a.shape[:3]} and {b.shape[:3]}")


# ---- the sensing networks --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SensingConfig(SystemConfig):
    """What determines a sensing network.

    Attributes:
        features: channels of each level, finest first, each twice the one before.
        momentum: of the running statistics, ``running <- momentum running + (1 - momentum) batch``.
    """

    features: tuple[int, ...] = (64, 128, 256, 512, 1024)
    momentum: float = 0.9

    system: ClassVar[str] = "emma sensing"

    def __post_init__(self):
        super().__post_init__()
        self.demand(len(self.features) >= 2, "features must have two levels or more")
        self.demand(self.features[0] > 0, "features must be positive")
        doubles = all(o == 2 * i for i, o in itertools.pairwise(self.features))
        self.demand(doubles, "features must double from level to level")
        self.demand(0 <= self.momentum < 1, "momentum must be in [0, 1)")

    @property
    def grid(self) -> int:
        """Sides are multiples of this number of pixels."""
        return 2 ** (len(self.features) - 1)


class SensingNetwork(nnx.Module):
    """Pseudo-sensing: one of the sources of a fused picture, by a U-Net."""

    def __init__(self, config: SensingConfig, *, rngs: nnx.Rngs):
        self.config = config
        widths, coarse = config.features, config.features[::-1]
        momentum = config.momentum
        sizes = itertools.pairwise((1, *widths))
        self.down = nnx.List([DoubleConv(i, o, momentum=momentum, rngs=rngs) for i, o in sizes])
        self.grow = nnx.List([Doubling(i, o, rngs=rngs) for i, o in itertools.pairwise(coarse)])
        self.up = nnx.List([DoubleConv(2 * n, n, momentum=momentum, rngs=rngs) for n in coarse[1:]])
        self.last = Conv2d(widths[0], 1, 3, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w 1"], mode: Mode = EVAL) -> Float[Array, "b h w 1"]:
        """What a sensor would have seen.

        Args:
            x: fused luminance in [0, 1].
            mode: how to run.

        Raises:
            ValueError: sides that are no multiples of the grid.
        """
        if any(side % self.config.grid for side in x.shape[1:3]):
            raise ValueError(f"sides {x.shape[1:3]} must be multiples of {self.config.grid}")
        skips: list[Array] = []
        for level, double in enumerate(self.down):
            x = double(x if level == 0 else max_pool(x), mode)
            skips.append(x)
        for grow, double, skip in zip(self.grow, self.up, skips[-2::-1], strict=True):
            x = double(jnp.concatenate([grow(x), skip], -1), mode)
        return jax.nn.sigmoid(self.last(x))
